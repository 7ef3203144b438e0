//! `/api/mcp`: the Model Context Protocol over streamable HTTP, for agents that ask about traces.
//!
//! Stateless: every request is a POST of one JSON-RPC message and has one JSON answer; there are no sessions and no streams
//! from here. Tools ask the engine as the HTTP API does, through the same gate, of the same tenants, and their answers are
//! bounded. What a tool cannot do is told in its result, so that the agent can mend its question; what is no such
//! message is a JSON-RPC error.

mod tools;

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::state::Shared;

pub(crate) use tools::Calls;

/// Newest first. What they differ in is not used here.
const VERSIONS: [&str; 3] = ["2025-06-18", "2025-03-26", "2024-11-05"];

/// JSON-RPC's codes.
mod code {
    pub const PARSE: i32 = -32700;
    pub const INVALID_REQUEST: i32 = -32600;
    pub const NO_METHOD: i32 = -32601;
    pub const INVALID_PARAMS: i32 = -32602;
    pub const NO_RESOURCE: i32 = -32002;
}

#[derive(Deserialize)]
struct Message {
    jsonrpc: String,
    #[serde(default)]
    id: Option<Value>,
    method: Option<String>,
    #[serde(default)]
    params: Value,
}

struct Refused(i32, String);

pub(crate) async fn post(State(api): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    if !api.state.config.mcp {
        return (StatusCode::NOT_FOUND, "the MCP server is off: query_frontend.mcp_server.enabled\n").into_response();
    }
    if let Err(refused) = checked(&headers) {
        return refused;
    }
    let Ok(message) = serde_json::from_slice::<Value>(&body) else {
        return failed(StatusCode::BAD_REQUEST, &Value::Null, &Refused(code::PARSE, "the body is no JSON".to_owned()));
    };
    let id = message.get("id").cloned().unwrap_or(Value::Null);
    let invalid = |what: &str| failed(StatusCode::BAD_REQUEST, &id, &Refused(code::INVALID_REQUEST, what.to_owned()));
    let Ok(message) = serde_json::from_value::<Message>(message) else {
        return invalid("this is no JSON-RPC message, or a batch of them: send one");
    };
    if message.jsonrpc != "2.0" {
        return invalid("jsonrpc must be \"2.0\"");
    }
    // Notifications, and answers to questions that are never asked here.
    let (Some(_), Some(method)) = (&message.id, &message.method) else { return StatusCode::ACCEPTED.into_response() };
    match answer(&api, &headers, method, &message.params).await {
        Ok(result) => Json(json!({ "jsonrpc": "2.0", "id": id, "result": result })).into_response(),
        Err(refused) => failed(StatusCode::OK, &id, &refused),
    }
}

/// There is no stream from here, and no session to end.
pub(crate) async fn other(State(api): State<Arc<Shared>>) -> Response {
    match api.state.config.mcp {
        true => (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "POST")], "send messages with POST\n").into_response(),
        false => StatusCode::NOT_FOUND.into_response(),
    }
}

/// A page of another site must not ask through a browser that can reach this server.
fn checked(headers: &HeaderMap) -> Result<(), Response> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(origin) = text(header::ORIGIN.as_str()) {
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        if authority.is_none() || authority != text(header::HOST.as_str()) {
            return Err((StatusCode::FORBIDDEN, "pages of other origins may not ask here\n").into_response());
        }
    }
    match text("mcp-protocol-version") {
        Some(version) if !VERSIONS.contains(&version) => {
            let message = format!("MCP-Protocol-Version {version:?} is not spoken here; use one of {}\n", VERSIONS.join(", "));
            Err((StatusCode::BAD_REQUEST, message).into_response())
        }
        _ => Ok(()),
    }
}

fn failed(status: StatusCode, id: &Value, Refused(code, message): &Refused) -> Response {
    (status, Json(json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } }))).into_response()
}

async fn answer(api: &Shared, headers: &HeaderMap, method: &str, params: &Value) -> Result<Value, Refused> {
    match method {
        "initialize" => {
            let wanted = params["protocolVersion"].as_str().unwrap_or_default();
            let version = VERSIONS.into_iter().find(|version| *version == wanted).unwrap_or(VERSIONS[0]);
            Ok(json!({
                "protocolVersion": version,
                "capabilities": { "tools": {}, "resources": {} },
                "serverInfo": { "name": "sostenuto", "version": api.state.status.build.version },
                "instructions": "Distributed traces. Questions are TraceQL: read docs-traceql before the first. Begin with get-attribute-names.",
            }))
        }
        "ping" => Ok(json!({})),
        "tools/list" => Ok(json!({ "tools": tools::list() })),
        "tools/call" => {
            let name = params["name"].as_str().unwrap_or_default();
            tools::call(api, headers, name, &params["arguments"])
                .await
                .ok_or_else(|| Refused(code::INVALID_PARAMS, format!("there is no tool {name:?}; tools/list has them all")))
        }
        "resources/list" => Ok(json!({ "resources": tools::resources() })),
        "resources/templates/list" => Ok(json!({ "resourceTemplates": [] })),
        "resources/read" => {
            let uri = params["uri"].as_str().unwrap_or_default();
            let text = tools::resource(uri)
                .ok_or_else(|| Refused(code::NO_RESOURCE, format!("there is no resource {uri:?}; resources/list has them all")))?;
            Ok(json!({ "contents": [{ "uri": uri, "mimeType": "text/markdown", "text": text }] }))
        }
        other => Err(Refused(code::NO_METHOD, format!("there is no method {other:?} here"))),
    }
}
