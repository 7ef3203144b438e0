//! Clients that share no code with ours send a trace; each query API must show what was sent.
//!
//! What a client's own format loses before it leaves the client is not missed here.

use std::{env, process::Command};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    server::{Server, Settings, skipped},
    shown::{Shown, Trace, every_api_shows, get, list, number, tempo, text, texts},
};

/// The interpreters that have the packages of `clients/requirements.txt` and `clients/requirements-jaeger.txt`.
const PYTHON: &str = "SOSTENUTO_CLIENTS_PYTHON";
const PYTHON_JAEGER: &str = "SOSTENUTO_CLIENTS_PYTHON_JAEGER";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/send_spans.py");

#[derive(Clone, Copy, PartialEq)]
enum Sender {
    Otlp,
    ZipkinV1,
    ZipkinV2,
    Jaeger,
}

#[tokio::test]
async fn what_opentelemetry_sends_is_what_every_api_shows() {
    check(PYTHON, &[
        ("otlp-grpc", "otlp_grpc", Sender::Otlp),
        ("otlp-http", "otlp_http", Sender::Otlp),
        ("zipkin-v1", "zipkin", Sender::ZipkinV1),
        ("zipkin-v2", "zipkin", Sender::ZipkinV2),
    ])
    .await;
}

#[tokio::test]
async fn what_jaegers_clients_send_is_what_every_api_shows() {
    check(PYTHON_JAEGER, &[
        ("jaeger-thrift", "jaeger_thrift_http", Sender::Jaeger),
        ("jaeger-agent", "jaeger_thrift_compact", Sender::Jaeger),
    ])
    .await;
}

async fn check(python: &str, senders: &[(&str, &str, Sender)]) {
    let Some(python) = env::var_os(python) else {
        skipped(format_args!("clients.rs: {python} names no interpreter"));
        return;
    };
    let folder = TempDir::new().unwrap();
    let free = || json!({ "endpoint": "127.0.0.1:0" });
    let settings = Settings::new(folder.path())
        .with("distributor.receivers.zipkin", free())
        .with("distributor.receivers.jaeger.protocols.thrift_http", free())
        .with("distributor.receivers.jaeger.protocols.thrift_compact", free())
        .with("server.jaeger_query_endpoint", "127.0.0.1:0");
    let server = Server::start(&settings).await;
    for (exporter, listener, sender) in senders {
        let address = server.address(listener);
        let endpoint = if *exporter == "jaeger-agent" { address.clone() } else { format!("http://{address}") };
        let output = Command::new(&python).args([SCRIPT, exporter, &endpoint]).output().expect("the interpreter runs");
        assert!(output.status.success(), "{exporter}: {}", String::from_utf8_lossy(&output.stderr));
        let sent: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let id = sent[0]["traceId"].as_str().unwrap().to_owned();
        let expected: Trace = sent.iter().map(|span| (text(&span["spanId"]), expected(span, *sender))).collect();
        if *exporter == "jaeger-agent" {
            arrived(&server, &id, expected.len()).await;
        }
        every_api_shows(&server, exporter, &id, &expected, u64::from(*sender != Sender::Otlp)).await;
        found_by_search(&server.address("api"), &id).await;
    }
}

/// Datagrams are not acknowledged.
async fn arrived(server: &Server, id: &str, spans: usize) {
    let url = format!("http://{}/api/v2/traces/{id}", server.address("api"));
    let wait = async {
        while tempo(&get(&url).await).len() < spans {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), wait).await.expect("the datagram arrives");
}

/// Each of these asks for something of the server's span.
async fn found_by_search(api: &str, id: &str) {
    let short = id.trim_start_matches('0');
    let jaeger = "service=shop&operation=GET%20/cart&tags=%7B%22http.response.status_code%22%3A%22500%22%7D&limit=1000";
    let answer = get(&format!("http://{api}/jaeger/api/traces?{jaeger}")).await;
    let found: Vec<&str> = answer["data"].as_array().unwrap().iter().map(|trace| trace["traceID"].as_str().unwrap()).collect();
    assert!(found.iter().any(|found| found.trim_start_matches('0') == short), "{id} in {found:?}");
    let zipkin = "serviceName=SHOP&annotationQuery=http.request.method%3DGET%20and%20retry&limit=1000";
    let answer = get(&format!("http://{api}/zipkin/api/v2/traces?{zipkin}")).await;
    let found: Vec<&str> = answer.as_array().unwrap().iter().map(|trace| trace[0]["traceId"].as_str().unwrap()).collect();
    assert!(found.iter().any(|found| found.trim_start_matches('0') == short), "{id} in {found:?}");
}

/// What was sent, as far as the sender's format holds it.
fn expected(span: &Value, sender: Sender) -> Shown {
    let mut attributes = texts(&span["attributes"]);
    attributes.extend(texts(&span["resource"]).into_iter().filter(|(key, _)| key != "service.name"));
    let event = |event: &Value| (text(&event["name"]), number(&event["time"]) / 1000, texts(&event["attributes"]));
    let link = |link: &Value| (text(&link["traceId"]), text(&link["spanId"]));
    let kind = text(&span["kind"]);
    Shown {
        parent: text(&span["parentSpanId"]),
        name: text(&span["name"]),
        kind: match (sender, kind.as_str()) {
            // The exporter says nothing of it.
            (Sender::ZipkinV1, _) | (Sender::ZipkinV2, "INTERNAL") => String::new(),
            _ => kind,
        },
        start: number(&span["start"]) / 1000,
        duration: (number(&span["end"]) - number(&span["start"])) / 1000,
        status: text(&span["status"]),
        message: text(&span["message"]),
        service: text(&span["resource"]["service.name"]),
        attributes,
        events: list(&span["events"]).iter().map(event).collect(),
        links: match sender {
            Sender::ZipkinV1 | Sender::ZipkinV2 => vec![],
            Sender::Otlp | Sender::Jaeger => list(&span["links"]).iter().map(link).collect(),
        },
        scope: match sender {
            Sender::Otlp => (text(&span["scope"][0]), text(&span["scope"][1])),
            Sender::ZipkinV1 | Sender::ZipkinV2 | Sender::Jaeger => Default::default(),
        },
    }
}

/// A call from `Front` to `Back` under one span id, as Zipkin's clients send it, and the error of the called side.
fn a_call(trace: &str, micros: u64) -> Value {
    json!([
        {
            "traceId": trace, "id": "000000000000000a", "kind": "CLIENT", "name": "Get", "timestamp": micros, "duration": 5000,
            "localEndpoint": { "serviceName": "Front" }, "remoteEndpoint": { "serviceName": "Back" },
            "tags": { "http.path": "/x\"} || {" }
        },
        {
            "traceId": trace, "id": "000000000000000a", "kind": "SERVER", "name": "get", "timestamp": micros + 1000, "duration": 2000,
            "localEndpoint": { "serviceName": "Back" }, "tags": { "error": "no", "otel.status_code": "ERROR" }, "shared": true
        }
    ])
}

#[tokio::test]
async fn names_searches_and_dependencies_are_answered_as_their_servers_do() {
    let folder = TempDir::new().unwrap();
    let settings =
        Settings::new(folder.path()).with("distributor.receivers.zipkin", json!({ "endpoint": "127.0.0.1:0" }));
    let server = Server::start(&settings).await;
    let (api, port) = (server.address("api"), server.address("zipkin"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let micros = u64::try_from(now.as_micros()).unwrap() - 1_000_000;
    let call = a_call("463ac35c9f6413ad", micros);
    for spans in [&call, &a_call("463ac35c9f6413ad463ac35c9f6413ae", micros - 60_000_000)] {
        let sent = reqwest::Client::new().post(format!("http://{port}/api/v2/spans")).body(spans.to_string());
        assert_eq!(sent.send().await.unwrap().status(), 202);
    }

    let zipkin = |path: &str| format!("http://{port}/api/v2/{path}");
    assert_eq!(get(&zipkin("services")).await, json!(["Back", "Front"]));
    assert_eq!(get(&zipkin("spans?serviceName=front")).await, json!(["Get"]));
    assert_eq!(get(&zipkin("remoteServices?serviceName=FRONT")).await, json!(["Back"]));
    assert_eq!(get(&zipkin("trace/463ac35c9f6413ad")).await, call);
    assert_eq!(get(&zipkin("autocompleteValues?key=http.path")).await, json!(["/x\"} || {"]));
    // The newest first; what is typed is a value, whatever it looks like.
    let found = get(&zipkin("traces?serviceName=front&annotationQuery=http.path=/x%22%7D%20%7C%7C%20%7B&limit=1")).await;
    assert_eq!(found, json!([call]));
    assert_eq!(list(&get(&zipkin("traces?serviceName=back&annotationQuery=error%3Dno")).await).len(), 2);
    assert_eq!(get(&zipkin("traces?serviceName=front&annotationQuery=error")).await, json!([]));
    assert_eq!(get(&zipkin("traces?minDuration=5001")).await, json!([]));
    let both = get(&zipkin("traceMany?traceIds=463ac35c9f6413ad,463ac35c9f6413ad463ac35c9f6413ae")).await;
    assert_eq!(list(&both).len(), 2);
    let end = micros / 1000 + 10_000;
    let link = json!([{ "parent": "Front", "child": "Back", "callCount": 2, "errorCount": 2 }]);
    assert_eq!(get(&zipkin(&format!("dependencies?endTs={end}"))).await, link);
    for (path, status) in [
        ("trace/463ac35c9f6413ff", 404),
        ("trace/xyz", 400),
        ("spans", 400),
        ("traceMany?traceIds=463ac35c9f6413ad", 400),
        ("dependencies", 400),
        ("traces?limit=0", 400),
        ("traces?maxDuration=5", 400),
    ] {
        assert_eq!(reqwest::get(zipkin(path)).await.unwrap().status(), status, "{path}");
    }

    let jaeger = |path: &str| format!("http://{api}/jaeger/api/{path}");
    let data = async |path: &str| get(&jaeger(path)).await["data"].clone();
    assert_eq!(data("services").await, json!(["Back", "Front"]));
    assert_eq!(data("services/Front/operations").await, json!(["Get"]));
    assert_eq!(data("operations?service=Back").await, json!([{ "name": "get", "spanKind": "server" }]));
    assert_eq!(list(&data("traces?service=Back&tags=%7B%22error%22%3A%22true%22%7D").await).len(), 2);
    assert_eq!(data("traces?service=Front&tag=error:true").await, json!([]));
    assert_eq!(data("dependencies").await, json!([{ "parent": "Front", "child": "Back", "callCount": 2 }]));
    let trace = &data("traces/463ac35c9f6413ad").await[0];
    let server_span = &trace["spans"][1];
    assert_eq!(server_span["references"][0]["spanID"], "000000000000000a", "the called side is below the calling one");
    assert_ne!(server_span["spanID"], "000000000000000a");
    for (path, status) in [("traces/ff", 404), ("traces/xyz", 400), ("traces", 400), ("metrics/calls", 400), ("archive/ff", 501)] {
        let answer = reqwest::get(jaeger(path)).await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
        let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        assert_eq!((&body["data"], &body["errors"][0]["code"]), (&Value::Null, &json!(status)), "{path}");
    }
    assert_eq!(get(&jaeger("v3/services")).await, json!({ "services": ["Back", "Front"] }));
    let trace = get(&jaeger("v3/traces/463ac35c9f6413ad")).await;
    assert_eq!(list(&trace["result"]["resourceSpans"]).len(), 2);
    let missing = reqwest::get(jaeger("v3/traces/ff")).await.unwrap();
    assert_eq!(missing.status(), 404);
    let body: Value = serde_json::from_str(&missing.text().await.unwrap()).unwrap();
    assert_eq!(body["error"]["httpCode"], 404);
}
