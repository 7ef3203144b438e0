//! Answers for language models (`Accept: application/vnd.grafana.llm`): ids in hex, attributes as plain objects.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
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
    let trace = match first {
        None => json!({}),
        Some(span) => json!({
            "traceId": hex(&span.trace_id),
            "services": batches.iter().map(service).collect::<Vec<_>>(),
        }),
    };
    let inspected = response.metrics.as_ref().map_or(0, |metrics| metrics.inspected_bytes);
    let mut body = json!({ "trace": trace, "metrics": inspected_bytes(inspected) });
    if response.status != 0 {
        body["status"] = json!(response.status().as_str_name());
        body["message"] = json!(response.message);
    }
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
    if bytes == 0 { json!({}) } else { json!({ "inspectedBytes": bytes.to_string() }) }
}

fn service(batch: &ResourceSpans) -> Value {
    let resource = batch.resource.as_ref().map_or(&[][..], |resource| &resource.attributes);
    let name = resource.iter().find(|attribute| attribute.key == "service.name").map(|a| plain(a.value.as_ref()));
    let scopes: Vec<Value> = batch
        .scope_spans
        .iter()
        .map(|scope| {
            let (name, version) = scope.scope.as_ref().map_or(("", ""), |s| (&s.name, &s.version));
            json!({ "name": name, "version": version, "spans": scope.spans.iter().map(span).collect::<Vec<_>>() })
        })
        .collect();
    json!({ "serviceName": name.unwrap_or_else(|| json!("")), "resource": attributes(resource), "scopes": scopes })
}

fn span(span: &Span) -> Value {
    let events: Vec<Value> = span
        .events
        .iter()
        .map(|e| json!({ "name": e.name, "timeUnixNano": e.time_unix_nano.to_string(), "attributes": attributes(&e.attributes) }))
        .collect();
    let links: Vec<Value> = span
        .links
        .iter()
        .map(|l| json!({ "traceId": hex(&l.trace_id), "spanId": hex(&l.span_id), "attributes": attributes(&l.attributes) }))
        .collect();
    let duration_ns = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano);
    let status = span.status.clone().unwrap_or_default();
    json!({
        "spanId": hex(&span.span_id),
        "parentSpanId": hex(&span.parent_span_id),
        "name": span.name,
        "kind": SpanKind::try_from(span.kind).unwrap_or_default().as_str_name(),
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
    })
}

fn attributes(list: &[KeyValue]) -> Value {
    list.iter().map(|attribute| (attribute.key.clone(), plain(attribute.value.as_ref()))).collect::<Map<_, _>>().into()
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
        Some(Any::BytesValue(bytes)) => json!(BASE64.encode(bytes)),
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
        tempopb::TagValue,
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
            ],
            ..Default::default()
        };
        let body = read(trace(&TraceByIdResponse {
            trace: Some(TracesData {
                resource_spans: vec![ResourceSpans {
                    resource: Some(Resource { attributes: vec![attribute("service.name", string("shop"))], ..Default::default() }),
                    scope_spans: vec![ScopeSpans { spans: vec![span], ..Default::default() }],
                    ..Default::default()
                }],
            }),
            ..Default::default()
        }));
        assert_eq!(body["trace"]["traceId"], "ab".repeat(16));
        let service = &body["trace"]["services"][0];
        assert_eq!(service["serviceName"], "shop");
        assert_eq!(service["resource"], json!({ "service.name": "shop" }));
        let span = &service["scopes"][0]["spans"][0];
        assert_eq!(span["spanId"], "0101010101010101");
        assert_eq!(span["kind"], "SPAN_KIND_SERVER");
        assert_eq!(span["durationMs"], 1.5);
        assert_eq!(span["attributes"], json!({ "n": 7, "x": "NaN" }));
        assert_eq!(read(trace(&TraceByIdResponse::default())), json!({ "trace": {}, "metrics": {} }));
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
