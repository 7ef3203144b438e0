//! The Model Context Protocol: what an agent sees, and that it sees no more than its tenant.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Key, every_port, path, write_keys};
use crate::{
    client::Access,
    server::Server,
    spans::{TimeRange, request, trace_spans},
};

struct Agent {
    client: reqwest::Client,
    url: String,
    token: String,
}

impl Agent {
    fn of(server: &Server, token: &str) -> Self {
        let client = Access::default().builder().build().unwrap();
        Self { client, url: format!("http://{}/api/mcp", server.address("api")), token: token.to_owned() }
    }

    fn post(&self, body: &Value) -> reqwest::RequestBuilder {
        let post = self.client.post(&self.url).bearer_auth(&self.token);
        post.header("content-type", "application/json").header("accept", "application/json, text/event-stream").body(body.to_string())
    }

    async fn ask(&self, method: &str, params: Value) -> Value {
        let answer = self.post(&json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params })).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{method}");
        assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("application/json"));
        let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        assert_eq!((&answer["jsonrpc"], &answer["id"]), (&"2.0".into(), &7.into()), "{answer}");
        answer
    }

    /// The text of a tool's result, and whether it tells of an error.
    async fn call(&self, tool: &str, arguments: Value) -> (String, bool) {
        let answer = self.ask("tools/call", json!({ "name": tool, "arguments": arguments })).await;
        let result = &answer["result"];
        let text = result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
        (text, result["isError"] == true)
    }

    async fn json(&self, tool: &str, arguments: Value) -> Value {
        let (text, failed) = self.call(tool, arguments).await;
        assert!(!failed, "{tool}: {text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{tool}: {error}: {text}"))
    }
}

#[tokio::test]
async fn agents_ask_with_tools_about_their_own_tenant() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("keys.yaml");
    let writer = Key::create(&["--role", "write", "--tenant", "*"]);
    let (mine, theirs) = (Key::create(&["--role", "read", "--tenant", "mine"]), Key::create(&["--role", "read", "--tenant", "theirs"]));
    write_keys(&file, &[&writer, &mine, &theirs]);
    let log = folder.path().join("audit.log");
    let settings = every_port(folder.path())
        .with("multitenancy_enabled", true)
        .with("authentication.keys_file", path(&file))
        .with("audit", json!({ "output": "file", "path": path(&log) }))
        .with("query_frontend.mcp_server.enabled", true);
    let server = Server::start(&settings).await;
    let spans = trace_spans(69, 1, 0..3, TimeRange::lately());
    server.client.showing(&writer.key).of("mine").push(request("shop", spans)).await;
    let agent = Agent::of(&server, &mine.key);

    let hello = agent.ask("initialize", json!({ "protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } })).await;
    assert_eq!(hello["result"]["protocolVersion"], "2025-03-26");
    assert!(hello["result"]["capabilities"]["tools"].is_object());
    let ready = agent.post(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).send().await.unwrap();
    assert_eq!((ready.status().as_u16(), ready.text().await.unwrap().as_str()), (202, ""));
    assert_eq!(agent.ask("ping", json!({})).await["result"], json!({}));

    let tools = agent.ask("tools/list", json!({})).await;
    let names: Vec<&str> = tools["result"]["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    let expected = ["traceql-search", "traceql-metrics-instant", "traceql-metrics-range", "get-trace", "get-attribute-names", "get-attribute-values", "docs-traceql", "docs-config"];
    assert_eq!(names, expected);
    assert!(tools["result"]["tools"].as_array().unwrap().iter().all(|tool| tool["inputSchema"]["type"] == "object"));

    let query = json!({ "query": "{ resource.service.name = \"shop\" }" });
    let found = agent.json("traceql-search", query.clone()).await;
    let id = found["traces"][0]["traceID"].as_str().unwrap().to_owned();
    assert_eq!(found["traces"][0]["rootServiceName"], "shop");
    let trace = agent.json("get-trace", json!({ "trace_id": id })).await;
    assert_eq!(trace["trace"]["services"][0]["serviceName"], "shop");
    assert_eq!(trace["trace"]["services"][0]["scopes"][0]["spans"].as_array().unwrap().len(), 3);
    let count = agent.json("traceql-metrics-instant", json!({ "query": "{ } | count_over_time()" })).await;
    assert_eq!(count["series"][0]["value"], 3.0);
    let series = agent.json("traceql-metrics-range", json!({ "query": "{ } | rate()" })).await;
    assert_eq!(series["series"].as_array().unwrap().len(), 1);
    let names = agent.json("get-attribute-names", json!({ "scope": "resource" })).await;
    assert!(names.to_string().contains("service.name"), "{names}");
    let values = agent.json("get-attribute-values", json!({ "name": "resource.service.name" })).await;
    assert_eq!(values["tagValues"]["string"], json!(["shop"]));
    for page in ["basic", "aggregates", "structural", "metrics"] {
        let (text, failed) = agent.call("docs-traceql", json!({ "name": page })).await;
        assert!(!failed && text.contains("# TraceQL"), "{page}: {text}");
    }
    assert!(agent.call("docs-config", json!({ "name": "reference" })).await.0.contains("query_frontend:"));

    // Another tenant sees nothing of it, by whatever tool.
    let other = Agent::of(&server, &theirs.key);
    assert_eq!(other.json("traceql-search", query).await["traces"], json!([]));
    let (text, failed) = other.call("get-trace", json!({ "trace_id": id })).await;
    assert!(failed && text.contains("there is no trace"), "{text}");

    // Mistakes are told so that they can be mended.
    for (tool, arguments, says) in [
        ("traceql-search", json!({ "query": "{ name = }" }), "col 10"),
        ("traceql-search", json!({}), "\"query\" is missing"),
        ("traceql-search", json!({ "query": "{ }", "start": "yesterday" }), "start"),
        ("get-trace", json!({ "trace_id": "xyz" }), "trace"),
        ("docs-traceql", json!({ "name": "advanced" }), "no page"),
    ] {
        let (text, failed) = agent.call(tool, arguments).await;
        assert!(failed && text.contains(says), "{tool}: {text}");
    }
    let code = async |method: &str, params: Value| agent.ask(method, params).await["error"]["code"].clone();
    assert_eq!(code("tools/call", json!({ "name": "rm" })).await, -32602);
    assert_eq!(code("no/method", json!({})).await, -32601);
    for (body, status) in [("{", 400), ("[]", 400), ("{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"ping\"}", 400)] {
        let answer = agent.post(&Value::Null).body(body).send().await.unwrap();
        assert_eq!(answer.status(), status, "{body}");
    }
    // A page of another site cannot ask through a browser.
    let ping = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" });
    assert_eq!(agent.post(&ping).header("origin", "https://evil.example").send().await.unwrap().status(), 403);
    let own = format!("http://{}", server.address("api"));
    assert_eq!(agent.post(&ping).header("origin", own).send().await.unwrap().status(), 200);
    assert_eq!(agent.client.get(&agent.url).bearer_auth(&agent.token).send().await.unwrap().status(), 405);

    assert!(server.stop().await.success());
    let log = fs::read_to_string(&log).unwrap();
    assert!(log.contains("{ resource.service.name = \\\"shop\\\" }") && log.contains(&id), "{log}");
}

#[tokio::test]
async fn agents_find_nothing_where_it_is_off() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(&every_port(folder.path())).await;
    let agent = Agent::of(&server, "none");
    assert_eq!(agent.post(&json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" })).send().await.unwrap().status(), 404);
    assert_eq!(agent.client.get(&agent.url).send().await.unwrap().status(), 404);
}
