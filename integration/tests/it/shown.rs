//! What the query APIs show of a trace, in one form that every format can show.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine, engine::general_purpose::STANDARD};
use proto::otlp::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value as Any},
    trace::v1::{span::SpanKind, status::StatusCode},
};
use serde_json::{Value, json};

use crate::server::Server;

/// A span as every format can show it: values as texts, times in microseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    pub parent: String,
    pub name: String,
    pub kind: String,
    pub start: u64,
    pub duration: u64,
    pub status: String,
    pub message: String,
    pub service: String,
    pub attributes: BTreeMap<String, String>,
    pub events: Vec<(String, u64, BTreeMap<String, String>)>,
    pub links: Vec<(String, String)>,
    /// Name and version; nothing where the sender's format has no place for it.
    pub scope: (String, String),
}

/// By span id.
pub type Trace = BTreeMap<String, Shown>;

pub async fn get(url: &str) -> Value {
    let answer = reqwest::get(url).await.unwrap();
    let status = answer.status();
    let body = answer.text().await.unwrap();
    assert_eq!(status, 200, "{url}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// `rounding`: by how many microseconds times may differ.
pub fn compare(what: &str, found: Trace, expected: &Trace, rounding: u64) {
    let ids = |trace: &Trace| trace.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(ids(&found), ids(expected), "{what}");
    for (id, mut span) in found {
        let expected = &expected[&id];
        // Senders and formats add attributes of their own.
        span.attributes.retain(|key, _| expected.attributes.contains_key(key));
        if expected.scope.0.is_empty() {
            span.scope = Default::default();
        }
        // Some clients round to microseconds and some cut, and a duration may be the difference of two such times.
        let near = |found: &mut u64, expected: u64, most: u64| {
            assert!(found.abs_diff(expected) <= most, "{what}: {found} instead of {expected}");
            *found = expected;
        };
        near(&mut span.duration, expected.duration, 1);
        near(&mut span.start, expected.start, rounding);
        for (event, expected) in span.events.iter_mut().zip(&expected.events) {
            near(&mut event.1, expected.1, rounding);
            event.2.retain(|key, _| expected.2.contains_key(key));
        }
        assert_eq!(span, *expected, "{what}");
    }
}

pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

pub fn texts(map: &Value) -> BTreeMap<String, String> {
    map.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), text(value))).collect()
}

pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub fn number(value: &Value) -> u64 {
    text(value).parse().unwrap_or_default()
}

/// A value of OTLP's JSON as plain JSON.
fn plain(value: &Value) -> Value {
    let Some((kind, value)) = value.as_object().and_then(|value| value.iter().next()) else { return Value::Null };
    match kind.as_str() {
        "intValue" => json!(text(value).parse::<i64>().unwrap()),
        "arrayValue" => list(&value["values"]).iter().map(plain).collect(),
        "kvlistValue" => list(&value["values"]).iter().map(|one| (text(&one["key"]), plain(&one["value"]))).collect(),
        _ => value.clone(),
    }
}

pub fn tempo(answer: &Value) -> Trace {
    let hex = |value: &Value| {
        let bytes = STANDARD.decode(text(value)).unwrap();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let values = |attributes: &Value| -> BTreeMap<String, String> {
        list(attributes).iter().map(|attribute| (text(&attribute["key"]), text(&plain(&attribute["value"])))).collect()
    };
    let mut trace = Trace::new();
    for resource in list(&answer["trace"]["resourceSpans"]) {
        let of_resource = values(&resource["resource"]["attributes"]);
        let scopes = list(&resource["scopeSpans"]).iter();
        for (scope, span) in scopes.flat_map(|scope| list(&scope["spans"]).iter().map(|span| (&scope["scope"], span))) {
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
                scope: (text(&scope["name"]), text(&scope["version"])),
            };
            trace.insert(hex(&span["spanId"]), shown);
        }
    }
    trace
}

pub fn jaeger_trace(answer: &Value) -> Trace {
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
        let scope = (take("otel.scope.name"), take("otel.scope.version"));
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
            scope,
        };
        (text(&span["spanID"]), shown)
    };
    list(&trace["spans"]).iter().map(read).collect()
}

pub fn zipkin_trace(answer: &Value) -> Trace {
    let read = |span: &Value| {
        let mut attributes = texts(&span["tags"]);
        let remote = text(&span["remoteEndpoint"]["serviceName"]);
        if !remote.is_empty() {
            attributes.insert("peer.service".to_owned(), remote);
        }
        let mut take = |key: &str| attributes.remove(key).unwrap_or_default();
        let (status, message, internal) = (take("otel.status_code"), take("error"), take("span.kind"));
        let scope = (take("otel.scope.name"), take("otel.scope.version"));
        let link = |at| Some(take(&format!("otlp.link.{at}"))).filter(|link| !link.is_empty());
        let links: Vec<String> = (0..).map_while(link).collect();
        let link = |link: &String| {
            let mut ids = link.split('|').map(str::to_owned);
            (ids.next().unwrap_or_default(), ids.next().unwrap_or_default())
        };
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
            links: links.iter().map(link).collect(),
            scope,
        };
        (text(&span["id"]), shown)
    };
    list(answer).iter().map(read).collect()
}

/// What requests of OTLP hold, by trace id.
pub fn sent(requests: &[ExportTraceServiceRequest]) -> BTreeMap<String, Trace> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let values = |attributes: &[KeyValue]| -> BTreeMap<String, String> {
        attributes.iter().map(|one| (one.key.clone(), text(&value(one.value.as_ref())))).collect()
    };
    let mut traces = BTreeMap::<String, Trace>::new();
    for resource in requests.iter().flat_map(|request| &request.resource_spans) {
        let mut of_resource = values(resource.resource.as_ref().map_or(&[], |resource| &resource.attributes));
        let service = of_resource.remove("service.name").unwrap_or_default();
        for scope in &resource.scope_spans {
            let scope_of_spans = scope.scope.as_ref().map(|scope| (scope.name.clone(), scope.version.clone())).unwrap_or_default();
            for span in &scope.spans {
                let status = span.status.clone().unwrap_or_default();
                let (kind, code) = (SpanKind::try_from(span.kind).unwrap(), StatusCode::try_from(status.code).unwrap());
                let mut attributes = of_resource.clone();
                attributes.extend(values(&span.attributes));
                let shown = Shown {
                    parent: hex(&span.parent_span_id),
                    name: span.name.clone(),
                    kind: kind.as_str_name().trim_start_matches("SPAN_KIND_").to_owned(),
                    start: span.start_time_unix_nano / 1000,
                    duration: (span.end_time_unix_nano - span.start_time_unix_nano) / 1000,
                    status: code.as_str_name().trim_start_matches("STATUS_CODE_").to_owned(),
                    message: status.message,
                    service: service.clone(),
                    attributes,
                    events: span.events.iter().map(|e| (e.name.clone(), e.time_unix_nano / 1000, values(&e.attributes))).collect(),
                    links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
                    scope: scope_of_spans.clone(),
                };
                traces.entry(hex(&span.trace_id)).or_default().insert(hex(&span.span_id), shown);
            }
        }
    }
    traces
}

fn value(value: Option<&AnyValue>) -> Value {
    match value.and_then(|value| value.value.as_ref()) {
        None => Value::Null,
        Some(Any::StringValue(text)) => json!(text),
        Some(Any::BoolValue(truth)) => json!(truth),
        Some(Any::IntValue(number)) => json!(number),
        Some(Any::DoubleValue(number)) => json!(number),
        Some(Any::BytesValue(bytes)) => json!(STANDARD.encode(bytes)),
        Some(Any::ArrayValue(array)) => array.values.iter().map(|one| self::value(Some(one))).collect(),
        Some(Any::KvlistValue(map)) => map.values.iter().map(|one| (one.key.clone(), self::value(one.value.as_ref()))).collect(),
    }
}

/// Asks every query API for a trace. `rounding`: by how many microseconds times may differ.
pub async fn every_api_shows(server: &Server, who: &str, id: &str, expected: &Trace, rounding: u64) {
    let [api, zipkin, jaeger] = ["api", "zipkin", "jaeger_query"].map(|listener| server.address(listener));
    for (name, url, read) in [
        ("Tempo", format!("http://{api}/api/v2/traces/{id}"), tempo as fn(&Value) -> Trace),
        ("Jaeger", format!("http://{api}/jaeger/api/traces/{id}"), jaeger_trace),
        ("Jaeger's port", format!("http://{jaeger}/api/traces/{id}"), jaeger_trace),
        ("Zipkin", format!("http://{api}/zipkin/api/v2/trace/{id}"), zipkin_trace),
        ("Zipkin's port", format!("http://{zipkin}/api/v2/trace/{id}"), zipkin_trace),
    ] {
        compare(&format!("{who} through {name}"), read(&get(&url).await), expected, rounding);
    }
}
