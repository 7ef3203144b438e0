//! From OTLP to Jaeger.

use prost_types::{Duration, Timestamp};
use proto::otlp::{
    common::v1::{self as common, InstrumentationScope, any_value::Value},
    resource::v1::Resource,
    trace::v1::{self as otlp, TracesData, status::StatusCode},
};

use super::{
    Batch, KeyValue, Log, Process, RefType, Span, SpanRef, ValueType,
    to_otlp::{CHILD_OF, EVENT, FLAGS, FOLLOWS_FROM, MESSAGE, REF_TYPE, SAMPLED, WARNINGS},
};
use crate::{
    NO_SERVICE_NAME,
    attributes::{as_text, kind_word, to_text, value},
    names,
};

/// One batch for each resource that has spans, in the order of the trace.
pub fn batches(trace: &TracesData) -> Vec<Batch> {
    let batch = |spans: &otlp::ResourceSpans| Batch {
        process: Some(process(&spans.resource.clone().unwrap_or_default())),
        spans: spans
            .scope_spans
            .iter()
            .flat_map(|scope_spans| {
                let scope = scope_spans.scope.clone().unwrap_or_default();
                scope_spans.spans.iter().map(move |span| convert(&scope, span))
            })
            .collect(),
    };
    trace.resource_spans.iter().map(batch).filter(|batch| !batch.spans.is_empty()).collect()
}

fn process(resource: &Resource) -> Process {
    let (names, others): (Vec<_>, Vec<_>) = resource.attributes.iter().partition(|a| a.key == names::SERVICE_NAME);
    let service_name = names.first().map(|name| to_text(value(name))).unwrap_or_default();
    let mut out = Process { service_name, tags: others.into_iter().map(tag).collect() };
    if out.service_name.is_empty() {
        out.service_name = NO_SERVICE_NAME.to_owned();
    }
    add_count(&mut out.tags, names::DROPPED_ATTRIBUTES, resource.dropped_attributes_count);
    out
}

fn convert(scope: &InstrumentationScope, span: &otlp::Span) -> Span {
    let mut out = Span {
        trace_id: span.trace_id.clone(),
        span_id: span.span_id.clone(),
        operation_name: span.name.clone(),
        references: references(span),
        flags: span.flags & SAMPLED,
        start_time: Some(timestamp(span.start_time_unix_nano)),
        duration: Some(duration(span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano))),
        logs: span.events.iter().map(log).collect(),
        ..Span::default()
    };
    out.tags = scope_tags(scope);
    for attribute in &span.attributes {
        match (attribute.key.as_str(), value(attribute)) {
            (FLAGS, Some(Value::IntValue(flags))) if u32::try_from(*flags).is_ok() => out.flags = *flags as u32,
            (WARNINGS, Some(Value::ArrayValue(list))) => {
                out.warnings = list.values.iter().map(|warning| to_text(warning.value.as_ref())).collect();
            }
            _ => out.tags.push(tag(attribute)),
        }
    }
    if let Some(word) = kind_word(span.kind()) {
        out.tags.push(KeyValue::text(names::SPAN_KIND, word));
    }
    add_status(&mut out.tags, span);
    if !span.trace_state.is_empty() {
        out.tags.push(KeyValue::text(names::TRACE_STATE, &span.trace_state));
    }
    add_count(&mut out.tags, names::DROPPED_ATTRIBUTES, span.dropped_attributes_count);
    add_count(&mut out.tags, names::DROPPED_EVENTS, span.dropped_events_count);
    add_count(&mut out.tags, names::DROPPED_LINKS, span.dropped_links_count);
    out
}

fn scope_tags(scope: &InstrumentationScope) -> Vec<KeyValue> {
    let named = [(names::SCOPE_NAME, &scope.name), (names::SCOPE_VERSION, &scope.version)];
    let named = named.into_iter().filter(|(_, text)| !text.is_empty()).map(|(key, text)| KeyValue::text(key, text));
    let attributes = scope.attributes.iter().map(|attribute| {
        let KeyValue { key, .. } = tag(attribute);
        KeyValue { key: format!("{}{key}", names::SCOPE), ..tag(attribute) }
    });
    named.chain(attributes).collect()
}

fn add_status(tags: &mut Vec<KeyValue>, span: &otlp::Span) {
    let Some(status) = &span.status else { return add_unset(tags, span) };
    match status.code() {
        StatusCode::Unset => add_unset(tags, span),
        StatusCode::Ok => tags.insert(0, KeyValue::text(names::STATUS_CODE, "OK")),
        StatusCode::Error => {
            tags.insert(0, KeyValue::text(names::STATUS_CODE, "ERROR"));
            tags.push(KeyValue::boolean(names::ERROR, true));
        }
    }
    if !status.message.is_empty() {
        tags.push(KeyValue::text(names::STATUS_DESCRIPTION, &status.message));
    }
}

/// Says that an attribute `error` is not a status.
fn add_unset(tags: &mut Vec<KeyValue>, span: &otlp::Span) {
    if span.attributes.iter().any(|attribute| attribute.key == names::ERROR) {
        tags.insert(0, KeyValue::text(names::STATUS_CODE, "UNSET"));
    }
}

fn add_count(tags: &mut Vec<KeyValue>, name: &str, count: u32) {
    if count > 0 {
        tags.push(KeyValue::integer(name, count.into()));
    }
}

/// The parent first. Links are "follows from", unless an attribute says otherwise.
fn references(span: &otlp::Span) -> Vec<SpanRef> {
    let was = |link: &otlp::span::Link, kind| link.attributes.iter().any(|a| a.key == REF_TYPE && as_text(a) == Some(kind));
    let is_child = |link: &otlp::span::Link| was(link, CHILD_OF);
    // Jaeger's sender said of the parent only that the span follows from it. A reader takes the first such reference for it.
    let mut in_trace = span.links.iter().filter(|link| link.trace_id == span.trace_id);
    let follows_parent = in_trace.clone().all(|link| !is_child(link))
        && in_trace.next().is_some_and(|link| link.span_id == span.parent_span_id && was(link, FOLLOWS_FROM));
    let parent = (!span.parent_span_id.is_empty() && !follows_parent).then(|| SpanRef {
        trace_id: span.trace_id.clone(),
        span_id: span.parent_span_id.clone(),
        ref_type: RefType::ChildOf.into(),
    });
    let links = span.links.iter().map(|link| {
        let ref_type = if is_child(link) { RefType::ChildOf } else { RefType::FollowsFrom };
        SpanRef { trace_id: link.trace_id.clone(), span_id: link.span_id.clone(), ref_type: ref_type.into() }
    });
    parent.into_iter().chain(links).collect()
}

fn log(event: &otlp::span::Event) -> Log {
    let mut fields = vec![];
    // An attribute of such a name must not be taken for the event's.
    if !event.name.is_empty() || event.attributes.iter().any(|a| a.key == EVENT || a.key == MESSAGE) {
        fields.push(KeyValue::text(EVENT, &event.name));
    }
    fields.extend(event.attributes.iter().map(tag));
    add_count(&mut fields, names::DROPPED_ATTRIBUTES, event.dropped_attributes_count);
    Log { timestamp: Some(timestamp(event.time_unix_nano)), fields }
}

fn tag(attribute: &common::KeyValue) -> KeyValue {
    let mut out = KeyValue { key: attribute.key.clone(), ..KeyValue::default() };
    let kind = match value(attribute) {
        Some(Value::BoolValue(value)) => {
            out.v_bool = *value;
            ValueType::Bool
        }
        Some(Value::IntValue(value)) => {
            out.v_int64 = *value;
            ValueType::Int64
        }
        Some(Value::DoubleValue(value)) => {
            out.v_float64 = *value;
            ValueType::Float64
        }
        Some(Value::BytesValue(value)) => {
            out.v_binary.clone_from(value);
            ValueType::Binary
        }
        other => {
            out.v_str = to_text(other);
            ValueType::String
        }
    };
    out.v_type = kind.into();
    out
}

fn timestamp(nanos: u64) -> Timestamp {
    Timestamp { seconds: (nanos / 1_000_000_000) as i64, nanos: (nanos % 1_000_000_000) as i32 }
}

fn duration(nanos: u64) -> Duration {
    Duration { seconds: (nanos / 1_000_000_000) as i64, nanos: (nanos % 1_000_000_000) as i32 }
}
