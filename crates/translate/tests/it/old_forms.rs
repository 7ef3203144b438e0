//! Writes what this program only reads, as clients do: Jaeger's batches in thrift, and Zipkin's spans of version 1 in thrift and
//! in JSON.

use serde_json::{Value, json};
use translate::{
    jaeger::{self, ValueType},
    zipkin::{Endpoint, Kind, Span},
};

use crate::thrift_writer::V;

fn bytes(text: &str) -> V {
    V::Bytes(text.as_bytes().to_vec())
}

fn half(id: &[u8]) -> V {
    V::I64(i64::from_be_bytes(id.try_into().expect("half a trace id, or a span id")))
}

/// A batch, whose times are microseconds from here on.
pub fn jaeger(batch: &jaeger::Batch) -> V {
    let process = batch.process.as_ref().expect("ours name their process");
    let process = vec![(1, bytes(&process.service_name)), (2, tags(&process.tags))];
    V::Struct(vec![(1, V::Struct(process)), (2, V::List(batch.spans.iter().map(jaeger_span).collect()))])
}

fn jaeger_span(span: &jaeger::Span) -> V {
    let micros = |seconds: i64, nanos: i32| V::I64(seconds * 1_000_000 + i64::from(nanos) / 1000);
    let (start, duration) = (span.start_time.unwrap(), span.duration.unwrap());
    let reference = |reference: &jaeger::SpanRef| {
        let (high, low) = reference.trace_id.split_at(8);
        V::Struct(vec![(1, V::I32(reference.ref_type)), (2, half(low)), (3, half(high)), (4, half(&reference.span_id))])
    };
    let log = |log: &jaeger::Log| {
        let time = log.timestamp.unwrap();
        V::Struct(vec![(1, micros(time.seconds, time.nanos)), (2, tags(&log.fields))])
    };
    let (high, low) = span.trace_id.split_at(8);
    V::Struct(vec![
        (1, half(low)),
        (2, half(high)),
        (3, half(&span.span_id)),
        (4, V::I64(0)),
        (5, bytes(&span.operation_name)),
        (6, V::List(span.references.iter().map(reference).collect())),
        (7, V::I32(span.flags as i32)),
        (8, micros(start.seconds, start.nanos)),
        (9, micros(duration.seconds, duration.nanos)),
        (10, tags(&span.tags)),
        (11, V::List(span.logs.iter().map(log).collect())),
    ])
}

fn tags(tags: &[jaeger::KeyValue]) -> V {
    let tag = |tag: &jaeger::KeyValue| {
        let (kind, value) = match tag.v_type() {
            ValueType::String => (0, (3, bytes(&tag.v_str))),
            ValueType::Float64 => (1, (4, V::Double(tag.v_float64))),
            ValueType::Bool => (2, (5, V::Bool(tag.v_bool))),
            ValueType::Int64 => (3, (6, V::I64(tag.v_int64))),
            ValueType::Binary => (4, (7, V::Bytes(tag.v_binary.clone()))),
        };
        V::Struct(vec![(1, bytes(&tag.key)), (2, V::I32(kind)), value])
    };
    V::List(tags.iter().map(tag).collect())
}

/// The annotations of a span of version 1: time, value.
fn moments(span: &Span) -> Vec<(u64, String)> {
    let end = span.timestamp + span.duration;
    let of_the_call: &[(u64, &str)] = match span.kind {
        Some(Kind::Client) => &[(span.timestamp, "cs"), (end, "cr")],
        Some(Kind::Server) => &[(span.timestamp, "sr"), (end, "ss")],
        Some(Kind::Producer) => &[(span.timestamp, "ms")],
        Some(Kind::Consumer) => &[(span.timestamp, "mr")],
        None => &[],
    };
    let own = span.annotations.iter().map(|annotation| (annotation.timestamp, annotation.value.clone()));
    of_the_call.iter().map(|(time, value)| (*time, (*value).to_owned())).chain(own).collect()
}

/// The address of the other side, if there is one.
fn other_side(span: &Span) -> Option<&'static str> {
    (!span.remote_endpoint.is_empty()).then(|| match span.kind {
        Some(Kind::Server) => "ca",
        Some(Kind::Producer | Kind::Consumer) => "ma",
        _ => "sa",
    })
}

pub fn zipkin_json(spans: &[Span]) -> Vec<u8> {
    let endpoint = |endpoint: &Endpoint| json!({ "serviceName": endpoint.service_name });
    let one = |span: &Span| {
        let local = endpoint(&span.local_endpoint);
        let annotation = |(time, value): (u64, String)| json!({ "timestamp": time, "value": value, "endpoint": local });
        let tags = span.tags.iter().map(|(key, value)| json!({ "key": key, "value": value, "endpoint": local }));
        let local_only = json!({ "key": "lc", "value": "", "endpoint": local });
        let remote = other_side(span).map(|key| json!({ "key": key, "value": true, "endpoint": endpoint(&span.remote_endpoint) }));
        let mut json = json!({
            "traceId": span.trace_id.to_string(), "id": span.id.to_string(), "name": span.name,
            "timestamp": span.timestamp, "duration": span.duration,
            "annotations": moments(span).into_iter().map(annotation).collect::<Vec<_>>(),
            "binaryAnnotations": tags.chain([local_only]).chain(remote).collect::<Vec<_>>(),
        });
        if let Some(parent) = &span.parent_id {
            json["parentId"] = parent.to_string().into();
        }
        json
    };
    spans.iter().map(one).collect::<Value>().to_string().into_bytes()
}

pub fn zipkin_thrift(spans: &[Span]) -> V {
    let endpoint = |endpoint: &Endpoint| V::Struct(vec![(3, bytes(&endpoint.service_name))]);
    let one = |span: &Span| {
        let local = || endpoint(&span.local_endpoint);
        let annotation = |(time, value): (u64, String)| V::Struct(vec![(1, V::I64(time as i64)), (2, bytes(&value)), (3, local())]);
        let tag = |key: &str, value: &str| V::Struct(vec![(1, bytes(key)), (2, bytes(value)), (3, V::I32(6)), (4, local())]);
        let tags = span.tags.iter().map(|(key, value)| tag(key, value));
        let remote = other_side(span).map(|key| {
            V::Struct(vec![(1, bytes(key)), (2, V::Bytes(vec![1])), (3, V::I32(0)), (4, endpoint(&span.remote_endpoint))])
        });
        let (high, low) = span.trace_id.0.split_at(8);
        let mut fields = vec![
            (1, half(low)),
            (3, bytes(&span.name)),
            (4, half(&span.id.0)),
            (6, V::List(moments(span).into_iter().map(annotation).collect())),
            (8, V::List(tags.chain([tag("lc", "")]).chain(remote).collect())),
            (10, V::I64(span.timestamp as i64)),
            (11, V::I64(span.duration as i64)),
            (12, half(high)),
        ];
        if let Some(parent) = &span.parent_id {
            fields.push((5, half(&parent.0)));
        }
        V::Struct(fields)
    };
    V::List(spans.iter().map(one).collect())
}
