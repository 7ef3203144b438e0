//! A trace as JSON, in either flavour.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{Object, write_double, write_text};
use crate::otlp::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{ResourceSpans, ScopeSpans, Span, span, span::SpanKind, status::StatusCode},
};

/// The two ways to write a trace.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// Ids in base64, enums by name.
    Tempo,
    /// Ids in hex, enums by number.
    Otlp,
}

pub(crate) fn write_resource_spans(out: &mut Vec<u8>, message: &ResourceSpans, flavour: Flavour) {
    Object::write(out, |object| {
        if let Some(resource) = &message.resource {
            object.object("resource", |object| {
                object.list("attributes", &resource.attributes, write_key_value);
                object.number("droppedAttributesCount", resource.dropped_attributes_count);
            });
        }
        object.list("scopeSpans", &message.scope_spans, |out, scope| write_scope_spans(out, scope, flavour));
        object.text("schemaUrl", &message.schema_url);
    });
}

fn write_scope_spans(out: &mut Vec<u8>, message: &ScopeSpans, flavour: Flavour) {
    Object::write(out, |object| {
        if let Some(scope) = &message.scope {
            object.object("scope", |object| {
                object.text("name", &scope.name);
                object.text("version", &scope.version);
                object.list("attributes", &scope.attributes, write_key_value);
                object.number("droppedAttributesCount", scope.dropped_attributes_count);
            });
        }
        object.list("spans", &message.spans, |out, span| write_span(out, span, flavour));
        object.text("schemaUrl", &message.schema_url);
    });
}

fn write_span(out: &mut Vec<u8>, span: &Span, flavour: Flavour) {
    Object::write(out, |object| {
        write_id(object, "traceId", &span.trace_id, flavour);
        write_id(object, "spanId", &span.span_id, flavour);
        object.text("traceState", &span.trace_state);
        write_id(object, "parentSpanId", &span.parent_span_id, flavour);
        object.number("flags", span.flags);
        object.text("name", &span.name);
        let kind = SpanKind::try_from(span.kind).map(|kind| kind.as_str_name());
        write_enum(object, "kind", span.kind, kind.ok(), flavour);
        object.long("startTimeUnixNano", span.start_time_unix_nano);
        object.long("endTimeUnixNano", span.end_time_unix_nano);
        object.list("attributes", &span.attributes, write_key_value);
        object.number("droppedAttributesCount", span.dropped_attributes_count);
        object.list("events", &span.events, write_event);
        object.number("droppedEventsCount", span.dropped_events_count);
        object.list("links", &span.links, |out, link| write_link(out, link, flavour));
        object.number("droppedLinksCount", span.dropped_links_count);
        if let Some(status) = &span.status {
            object.object("status", |object| {
                object.text("message", &status.message);
                let code = StatusCode::try_from(status.code).map(|code| code.as_str_name());
                write_enum(object, "code", status.code, code.ok(), flavour);
            });
        }
    });
}

fn write_event(out: &mut Vec<u8>, event: &span::Event) {
    Object::write(out, |object| {
        object.long("timeUnixNano", event.time_unix_nano);
        object.text("name", &event.name);
        object.list("attributes", &event.attributes, write_key_value);
        object.number("droppedAttributesCount", event.dropped_attributes_count);
    });
}

fn write_link(out: &mut Vec<u8>, link: &span::Link, flavour: Flavour) {
    Object::write(out, |object| {
        write_id(object, "traceId", &link.trace_id, flavour);
        write_id(object, "spanId", &link.span_id, flavour);
        object.text("traceState", &link.trace_state);
        object.list("attributes", &link.attributes, write_key_value);
        object.number("droppedAttributesCount", link.dropped_attributes_count);
        object.number("flags", link.flags);
    });
}

fn write_id(object: &mut Object<'_>, key: &str, id: &[u8], flavour: Flavour) {
    match flavour {
        Flavour::Tempo => object.text(key, &STANDARD.encode(id)),
        Flavour::Otlp => object.text(key, &id.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    }
}

fn write_enum(object: &mut Object<'_>, key: &str, number: i32, name: Option<&str>, flavour: Flavour) {
    match name {
        _ if number == 0 => {}
        Some(name) if flavour == Flavour::Tempo => write_text(object.key(key), name),
        _ => object.key(key).extend_from_slice(number.to_string().as_bytes()),
    }
}

pub(crate) fn write_key_value(out: &mut Vec<u8>, key_value: &KeyValue) {
    Object::write(out, |object| {
        object.text("key", &key_value.key);
        if let Some(value) = &key_value.value {
            write_any_value(object.key("value"), value);
        }
    });
}

/// The recursion is as deep as the value; readers bound that to [`model::ATTRIBUTE_DEPTH_MAX`].
fn write_any_value(out: &mut Vec<u8>, value: &AnyValue) {
    Object::write(out, |object| match &value.value {
        None => {}
        Some(Value::StringValue(text)) => write_text(object.key("stringValue"), text),
        Some(Value::BoolValue(value)) => object.key("boolValue").extend_from_slice(value.to_string().as_bytes()),
        Some(Value::IntValue(value)) => object.always_long("intValue", value),
        Some(Value::DoubleValue(value)) => write_double(object.key("doubleValue"), *value),
        Some(Value::ArrayValue(array)) => object.object("arrayValue", |object| {
            object.list("values", &array.values, write_any_value);
        }),
        Some(Value::KvlistValue(map)) => object.object("kvlistValue", |object| {
            object.list("values", &map.values, write_key_value);
        }),
        Some(Value::BytesValue(bytes)) => write_text(object.key("bytesValue"), &STANDARD.encode(bytes)),
    });
}
