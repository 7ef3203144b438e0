//! Clients that share no code with ours send a trace; each query API must show what was sent.
//!
//! What a client's own format loses before it leaves the client is not missed here.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    process::Command,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::server::{Server, Settings, skipped};

/// The interpreters that have the packages of `clients/requirements.txt` and `clients/requirements-jaeger.txt`.
const PYTHON: &str = "SOSTENUTO_CLIENTS_PYTHON";
const PYTHON_JAEGER: &str = "SOSTENUTO_CLIENTS_PYTHON_JAEGER";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/send_spans.py");

/// A span as every format can show it: values as texts, times in microseconds.
#[derive(Clone, Debug, Default, PartialEq)]
struct Shown {
    parent: String,
    name: String,
    kind: String,
    start: u64,
    duration: u64,
    status: String,
    message: String,
    service: String,
    attributes: BTreeMap<String, String>,
    events: Vec<(String, u64, BTreeMap<String, String>)>,
    links: Vec<(String, String)>,
}

type Trace = BTreeMap<String, Shown>;

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
        let [api, zipkin, jaeger] = ["api", "zipkin", "jaeger_query"].map(|listener| server.address(listener));
        for (name, url, read) in [
            ("Tempo", format!("http://{api}/api/v2/traces/{id}"), tempo as fn(&Value) -> Trace),
            ("Jaeger", format!("http://{api}/jaeger/api/traces/{id}"), jaeger_trace),
            ("Jaeger's port", format!("http://{jaeger}/api/traces/{id}"), jaeger_trace),
            ("Zipkin", format!("http://{api}/zipkin/api/v2/trace/{id}"), zipkin_trace),
            ("Zipkin's port", format!("http://{zipkin}/api/v2/trace/{id}"), zipkin_trace),
        ] {
            compare(&format!("{exporter} through {name}"), read(&get(&url).await), &expected, u64::from(*sender != Sender::Otlp));
        }
        found_by_search(&api, &id).await;
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

async fn get(url: &str) -> Value {
    let answer = reqwest::get(url).await.unwrap();
    let status = answer.status();
    let body = answer.text().await.unwrap();
    assert_eq!(status, 200, "{url}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// `rounding`: by how many microseconds times may differ.
fn compare(what: &str, found: Trace, expected: &Trace, rounding: u64) {
    let ids = |trace: &Trace| trace.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(ids(&found), ids(expected), "{what}");
    for (id, mut span) in found {
        let expected = &expected[&id];
        // Senders and formats add attributes of their own.
        span.attributes.retain(|key, _| expected.attributes.contains_key(key));
        // Some clients round to microseconds and some cut, and a duration may be the difference of two such times.
        let near = |found: &mut u64, expected: u64, most: u64| {
            assert!(found.abs_diff(expected) <= most, "{what}: {found} instead of {expected}");
            *found = expected;
        };
        near(&mut span.duration, expected.duration, 1);
        near(&mut span.start, expected.start, rounding);
        for (event, expected) in span.events.iter_mut().zip(&expected.events) {
            near(&mut event.1, expected.1, rounding);
        }
        assert_eq!(span, *expected, "{what}");
    }
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

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn texts(map: &Value) -> BTreeMap<String, String> {
    map.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), text(value))).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn number(value: &Value) -> u64 {
    text(value).parse().unwrap_or_default()
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
    }
}

fn tempo(answer: &Value) -> Trace {
    let hex = |value: &Value| {
        let bytes = STANDARD.decode(text(value)).unwrap();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let values = |attributes: &Value| -> BTreeMap<String, String> {
        let value = |value: &Value| value.as_object().and_then(|value| value.values().next()).map(text).unwrap_or_default();
        list(attributes).iter().map(|attribute| (text(&attribute["key"]), value(&attribute["value"]))).collect()
    };
    let mut trace = Trace::new();
    for resource in list(&answer["trace"]["resourceSpans"]) {
        let of_resource = values(&resource["resource"]["attributes"]);
        for span in list(&resource["scopeSpans"]).iter().flat_map(|scope| list(&scope["spans"])) {
            let mut attributes = of_resource.clone();
            let service = attributes.remove("service.name").unwrap_or_default();
            attributes.extend(values(&span["attributes"]));
            let event = |event: &Value| (text(&event["name"]), number(&event["timeUnixNano"]) / 1000, values(&event["attributes"]));
            let start = number(&span["startTimeUnixNano"]);
            let status = text(&span["status"]["code"]);
            let shown = Shown {
                parent: hex(&span["parentSpanId"]),
                name: text(&span["name"]),
                kind: text(&span["kind"]).trim_start_matches("SPAN_KIND_").to_owned(),
                start: start / 1000,
                duration: (number(&span["endTimeUnixNano"]) - start) / 1000,
                status: if status.is_empty() { "UNSET".to_owned() } else { status.trim_start_matches("STATUS_CODE_").to_owned() },
                message: text(&span["status"]["message"]),
                service,
                attributes,
                events: list(&span["events"]).iter().map(event).collect(),
                links: list(&span["links"]).iter().map(|link| (hex(&link["traceId"]), hex(&link["spanId"]))).collect(),
            };
            trace.insert(hex(&span["spanId"]), shown);
        }
    }
    trace
}

fn jaeger_trace(answer: &Value) -> Trace {
    let trace = &answer["data"][0];
    let tags = |tags: &Value| -> BTreeMap<String, String> {
        list(tags).iter().map(|tag| (text(&tag["key"]), text(&tag["value"]))).collect()
    };
    let read = |span: &Value| {
        let process = &trace["processes"][text(&span["processID"])];
        let mut attributes = tags(&process["tags"]);
        attributes.extend(tags(&span["tags"]));
        let mut take = |key: &str| attributes.remove(key).unwrap_or_default();
        let (kind, status, message) = (take("span.kind"), take("otel.status_code"), take("otel.status_description"));
        assert_eq!(take("error"), if status == "ERROR" { "true" } else { "" });
        let log = |log: &Value| {
            let mut fields = tags(&log["fields"]);
            (fields.remove("event").unwrap_or_default(), number(&log["timestamp"]), fields)
        };
        let reference = |r: &Value| (text(&r["refType"]), (text(&r["traceID"]), text(&r["spanID"])));
        let references: Vec<(String, (String, String))> = list(&span["references"]).iter().map(reference).collect();
        let parent = references.iter().find(|(kind, _)| kind == "CHILD_OF").map(|(_, (_, id))| id.clone());
        let shown = Shown {
            parent: parent.unwrap_or_default(),
            name: text(&span["operationName"]),
            kind: kind.to_uppercase(),
            start: number(&span["startTime"]),
            duration: number(&span["duration"]),
            status: if status.is_empty() { "UNSET".to_owned() } else { status },
            message,
            service: text(&process["serviceName"]),
            attributes,
            events: list(&span["logs"]).iter().map(log).collect(),
            links: references.into_iter().filter(|(kind, _)| kind == "FOLLOWS_FROM").map(|(_, link)| link).collect(),
        };
        (text(&span["spanID"]), shown)
    };
    list(&trace["spans"]).iter().map(read).collect()
}

fn zipkin_trace(answer: &Value) -> Trace {
    let read = |span: &Value| {
        let mut attributes = texts(&span["tags"]);
        let remote = text(&span["remoteEndpoint"]["serviceName"]);
        if !remote.is_empty() {
            attributes.insert("peer.service".to_owned(), remote);
        }
        let mut take = |key: &str| attributes.remove(key).unwrap_or_default();
        let (status, message, internal) = (take("otel.status_code"), take("error"), take("span.kind"));
        let link = take("otlp.link.0");
        let ids: Vec<&str> = link.split('|').take(2).collect();
        let event = |annotation: &Value| {
            let value = text(&annotation["value"]);
            // `"name": {attributes}` is the inside of an object.
            let (name, attributes) = match serde_json::from_str::<Value>(&format!("{{{value}}}")) {
                Ok(Value::Object(object)) if object.len() == 1 => object.into_iter().next().unwrap(),
                _ => (value, json!({})),
            };
            (name, number(&annotation["timestamp"]), texts(&attributes))
        };
        let shown = Shown {
            parent: text(&span["parentId"]),
            name: text(&span["name"]),
            kind: if internal == "internal" { "INTERNAL".to_owned() } else { text(&span["kind"]) },
            start: number(&span["timestamp"]),
            duration: number(&span["duration"]),
            status: if status.is_empty() { "UNSET".to_owned() } else { status },
            message,
            service: text(&span["localEndpoint"]["serviceName"]),
            attributes,
            events: list(&span["annotations"]).iter().map(event).collect(),
            links: if let [trace_id, span_id] = ids[..] { vec![(trace_id.to_owned(), span_id.to_owned())] } else { vec![] },
        };
        (text(&span["id"]), shown)
    };
    list(answer).iter().map(read).collect()
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
    for (path, status) in [("traces/ff", 404), ("traces/xyz", 400), ("traces", 400), ("metrics/calls", 501)] {
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
