//! Requests of spans whose ids and contents follow from numbers, so that what comes back can be judged.

use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;
use proto::otlp::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};

/// Whole seconds of unix time; spans lie within.
#[derive(Clone, Copy, Debug)]
pub struct TimeRange {
    pub start_s: u64,
    pub end_s: u64,
}

impl TimeRange {
    /// A minute that ended a minute ago.
    pub fn lately() -> Self {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        Self { start_s: now_s - 120, end_s: now_s - 60 }
    }
}

/// The id of trace `number` of one test run.
pub fn trace_id(run: u64, number: u64) -> Vec<u8> {
    [run.to_be_bytes(), number.to_be_bytes()].concat()
}

/// Of span `index` in trace `number`; below 65,536 spans in a trace.
pub fn span_id(number: u64, index: u64) -> Vec<u8> {
    ((number + 1) << 16 | index).to_be_bytes().to_vec()
}

/// Spans `indexes` of trace `number`: the first is the root, the others are its children.
pub fn trace_spans(run: u64, number: u64, indexes: std::ops::Range<u64>, range: TimeRange) -> Vec<Span> {
    let seconds = range.end_s - range.start_s - 1;
    let start = (range.start_s + number % seconds) * 1_000_000_000 + number % 1_000;
    indexes
        .map(|index| Span {
            trace_id: trace_id(run, number),
            span_id: span_id(number, index),
            parent_span_id: if index == 0 { Vec::new() } else { span_id(number, 0) },
            name: if index == 0 { "GET /cart".into() } else { format!("step {}", index % 5) },
            kind: if index == 0 { 2 } else { 1 },
            start_time_unix_nano: start + index * 1_000,
            end_time_unix_nano: start + index * 1_000 + 500_000,
            attributes: vec![attribute("http.route", format!("/cart/{}", number % 7)), number_attribute("step", index)],
            ..Span::default()
        })
        .collect()
}

/// One request of one service.
pub fn request(service: &str, spans: Vec<Span>) -> Vec<u8> {
    let resource = Resource { attributes: vec![attribute("service.name", service.into())], ..Resource::default() };
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { resource: Some(resource), scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

pub fn attribute(key: &str, value: String) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(Value::StringValue(value)) }), ..KeyValue::default() }
}

fn number_attribute(key: &str, value: u64) -> KeyValue {
    let value = Value::IntValue(value.try_into().unwrap());
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
