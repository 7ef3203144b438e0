//! Answers for language models (`Accept: application/vnd.grafana.llm`): ids and bytes in hex, attributes as plain objects, nothing
//! of what is empty.

use proto::{
    otlp::{
        common::v1::{AnyValue, KeyValue, any_value::Value as Any},
        trace::v1::{ResourceSpans, Span, span::SpanKind, status::StatusCode},
    },
    tempopb::{MetadataMetrics, SearchTagValuesV2Response, TraceByIdResponse},
};
use serde_json::{Map, Value, json};
use std::fmt::Write;

pub fn trace(response: &TraceByIdResponse) -> Vec<u8> {
    let batches = response.trace.as_ref().map_or(&[][..], |trace| &trace.resource_spans);
    let first = batches.iter().flat_map(|batch| &batch.scope_spans).flat_map(|scope| &scope.spans).next();
    // Nothing at all is said of a trace that is not there, unless something is missing.
    if first.is_none() && response.status == 0 {
        return b"{}".to_vec();
    }
    let trace = first.map(|span| {
        json!({ "traceId": hex(&span.trace_id), "services": batches.iter().map(service).collect::<Vec<_>>() })
    });
    let status = response.status().as_str_name();
    let mut body = without_empty(json!({ "trace": trace, "status": status, "message": response.message }));
    body["metrics"] = inspected_bytes(response.metrics.as_ref().map_or(0, |metrics| metrics.inspected_bytes));
    body.to_string().into_bytes()
}

pub fn tag_values(response: &SearchTagValuesV2Response) -> Vec<u8> {
    let mut by_type = Map::new();
    for value in &response.tag_values {
        let list = by_type.entry(value.r#type.clone()).or_insert_with(|| json!([]));
        if let Value::Array(list) = list {
            list.push(json!(value.value));
        }
    }
    let metrics: Option<&MetadataMetrics> = response.metrics.as_ref();
    json!({ "tagValues": by_type, "metrics": inspected_bytes(metrics.map_or(0, |m| m.inspected_bytes)) }).to_string().into_bytes()
}

fn inspected_bytes(bytes: u64) -> Value {
    without_empty(json!({ "inspectedBytes": bytes }))
}

/// What is empty or 0 is left out, as Tempo does it; not for attributes, which are data.
fn without_empty(mut fields: Value) -> Value {
    if let Value::Object(fields) = &mut fields {
        fields.retain(|_, value| match value {
            Value::Null => false,
            Value::String(text) => !text.is_empty(),
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::Array(list) => !list.is_empty(),
            Value::Object(members) => !members.is_empty(),
            Value::Bool(_) => true,
        });
    }
    fields
}

fn service(batch: &ResourceSpans) -> Value {
    let resource = batch.resource.as_ref().map_or(&[][..], |resource| &resource.attributes);
    // A name that is no text stays with the other attributes.
    let named = |attribute: &&KeyValue| attribute.key == "service.name" && plain(attribute.value.as_ref()).is_string();
    let name = resource.iter().find(named).map(|attribute| plain(attribute.value.as_ref()));
    let others = attributes(resource.iter().filter(|attribute| !named(attribute)));
    let scopes: Vec<Value> = batch
        .scope_spans
        .iter()
        .map(|scope| {
            let (name, version) = scope.scope.as_ref().map_or(("", ""), |s| (&s.name, &s.version));
            without_empty(json!({ "name": name, "version": version, "spans": scope.spans.iter().map(span).collect::<Vec<_>>() }))
        })
        .collect();
    without_empty(json!({ "serviceName": name, "resource": others, "scopes": scopes }))
}

fn span(span: &Span) -> Value {
    let events: Vec<Value> = span
        .events
        .iter()
        .map(|e| json!({ "name": e.name, "timeUnixNano": e.time_unix_nano.to_string(), "attributes": attributes(&e.attributes) }))
        .map(without_empty)
        .collect();
    let links: Vec<Value> = span
        .links
        .iter()
        .map(|l| json!({ "traceId": hex(&l.trace_id), "spanId": hex(&l.span_id), "attributes": attributes(&l.attributes) }))
        .map(without_empty)
        .collect();
    let duration_ns = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano);
    let status = span.status.clone().unwrap_or_default();
    let kind = SpanKind::try_from(span.kind).ok().filter(|kind| *kind != SpanKind::Unspecified);
    without_empty(json!({
        "spanId": hex(&span.span_id),
        "parentSpanId": hex(&span.parent_span_id),
        "name": span.name,
        "kind": kind.map(|kind| kind.as_str_name()),
        "startTimeUnixNano": span.start_time_unix_nano.to_string(),
        "endTimeUnixNano": span.end_time_unix_nano.to_string(),
        "durationMs": duration_ns as f64 / 1e6,
        "attributes": attributes(&span.attributes),
        "events": events,
        "links": links,
        "status": {
            "code": StatusCode::try_from(status.code).unwrap_or_default().as_str_name(),
            "message": status.message,
        },
    }))
}

fn attributes<'a>(list: impl IntoIterator<Item = &'a KeyValue>) -> Value {
    list.into_iter().map(|attribute| (attribute.key.clone(), plain(attribute.value.as_ref()))).collect::<Map<_, _>>().into()
}

/// Values nest at most `model::ATTRIBUTE_DEPTH_MAX` levels, checked when they were received.
fn plain(value: Option<&AnyValue>) -> Value {
    match value.and_then(|value| value.value.as_ref()) {
        None => Value::Null,
        Some(Any::StringValue(text)) => json!(text),
        Some(Any::BoolValue(bool)) => json!(bool),
        Some(Any::IntValue(int)) => json!(int),
        Some(Any::DoubleValue(double)) if double.is_finite() => json!(double),
        Some(Any::DoubleValue(double)) => json!(double.to_string()),
        Some(Any::BytesValue(bytes)) => json!(hex(bytes)),
        Some(Any::ArrayValue(array)) => array.values.iter().map(|value| plain(Some(value))).collect(),
        Some(Any::KvlistValue(map)) => attributes(&map.values),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{
        otlp::{resource::v1::Resource, trace::v1::{ScopeSpans, TracesData}},
        tempopb::{TagValue, TraceByIdMetrics},
    };

    fn read(body: Vec<u8>) -> Value {
        serde_json::from_slice(&body).unwrap()
    }

    #[test]
    fn a_trace_becomes_plain_json() {
        let string = |text: &str| Some(AnyValue { value: Some(Any::StringValue(text.to_owned())) });
        let attribute = |key: &str, value: Option<AnyValue>| KeyValue { key: key.to_owned(), value };
        let span = Span {
            trace_id: vec![0xab; 16],
            span_id: vec![1; 8],
            name: "GET /".to_owned(),
            kind: 2,
            start_time_unix_nano: 1_000_000,
            end_time_unix_nano: 2_500_000,
            attributes: vec![
                attribute("n", Some(AnyValue { value: Some(Any::IntValue(7)) })),
                attribute("x", Some(AnyValue { value: Some(Any::DoubleValue(f64::NAN)) })),
                attribute("empty", string("")),
                attribute("bytes", Some(AnyValue { value: Some(Any::BytesValue(vec![0, 255])) })),
            ],
            ..Default::default()
        };
        let body = read(trace(&TraceByIdResponse {
            trace: Some(TracesData {
                resource_spans: vec![ResourceSpans {
                    resource: Some(Resource {
                        attributes: vec![attribute("service.name", string("shop")), attribute("pod", string("a"))],
                        ..Default::default()
                    }),
                    scope_spans: vec![ScopeSpans { spans: vec![span, Span { span_id: vec![2; 8], ..Span::default() }], ..Default::default() }],
                    ..Default::default()
                }],
            }),
            metrics: Some(TraceByIdMetrics { inspected_bytes: 9 }),
            ..Default::default()
        }));
        assert_eq!((&body["status"], &body["metrics"]), (&json!("COMPLETE"), &json!({ "inspectedBytes": 9 })));
        assert_eq!(body["trace"]["traceId"], "ab".repeat(16));
        let service = &body["trace"]["services"][0];
        assert_eq!(service["serviceName"], "shop");
        assert_eq!(service["resource"], json!({ "pod": "a" }));
        let span = &service["scopes"][0]["spans"][0];
        assert_eq!(span["spanId"], "0101010101010101");
        assert_eq!(span["kind"], "SPAN_KIND_SERVER");
        assert_eq!(span["durationMs"], 1.5);
        assert_eq!(span["attributes"], json!({ "n": 7, "x": "NaN", "empty": "", "bytes": "00ff" }));
        let bare = json!({
            "spanId": "02".repeat(8), "startTimeUnixNano": "0", "endTimeUnixNano": "0",
            "status": { "code": "STATUS_CODE_UNSET", "message": "" },
        });
        assert_eq!(service["scopes"], json!([{ "spans": [span, bare] }]));
        assert_eq!(read(trace(&TraceByIdResponse::default())), json!({}));
    }

    #[test]
    fn tag_values_are_grouped_by_type() {
        let value = |kind: &str, value: &str| TagValue { r#type: kind.to_owned(), value: value.to_owned() };
        let response = SearchTagValuesV2Response {
            tag_values: vec![value("string", "a"), value("int", "1"), value("string", "b")],
            ..Default::default()
        };
        assert_eq!(read(tag_values(&response)), json!({ "tagValues": { "string": ["a", "b"], "int": ["1"] }, "metrics": {} }));
    }
}
