//! Attribute values: made, compared, and written as the text and the JSON that formats with fewer types hold.

use base64::{Engine, engine::general_purpose::STANDARD};
use proto::otlp::{
    common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList, any_value::Value},
    trace::v1::span::SpanKind,
};
use serde_json::{Map, Number};

use crate::NESTING_MAX;

pub(crate) fn text(key: impl Into<String>, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

pub(crate) fn attribute(key: impl Into<String>, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }) }
}

pub(crate) fn value(attribute: &KeyValue) -> Option<&Value> {
    attribute.value.as_ref()?.value.as_ref()
}

pub(crate) fn as_text(attribute: &KeyValue) -> Option<&str> {
    match value(attribute)? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

/// A value in the form in which a text-only format holds it; arrays and maps as JSON, bytes as base64, nothing as the
/// empty text.
pub(crate) fn to_text(value: Option<&Value>) -> String {
    match value {
        None => String::new(),
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::BoolValue(value)) => value.to_string(),
        Some(Value::IntValue(value)) => value.to_string(),
        Some(Value::DoubleValue(value)) => double_text(*value),
        Some(Value::BytesValue(bytes)) => STANDARD.encode(bytes),
        Some(value @ (Value::ArrayValue(_) | Value::KvlistValue(_))) => to_json(Some(value), NESTING_MAX).to_string(),
    }
}

fn double_text(value: f64) -> String {
    if value.is_finite() { value.to_string() } else { non_finite(value).to_owned() }
}

fn non_finite(value: f64) -> &'static str {
    match value {
        value if value.is_nan() => "NaN",
        value if value > 0.0 => "Infinity",
        _ => "-Infinity",
    }
}

/// `levels`: how many arrays and maps may still be entered; what is deeper is left out.
pub(crate) fn to_json(value: Option<&Value>, levels: usize) -> serde_json::Value {
    use serde_json::Value as Json;
    let inner = |value: &AnyValue| to_json(value.value.as_ref(), levels.saturating_sub(1));
    match value {
        None => Json::Null,
        Some(Value::StringValue(text)) => Json::String(text.clone()),
        Some(Value::BoolValue(value)) => Json::Bool(*value),
        Some(Value::IntValue(value)) => Json::from(*value),
        Some(Value::DoubleValue(value)) => {
            Number::from_f64(*value).map_or_else(|| non_finite(*value).into(), Json::Number)
        }
        Some(Value::BytesValue(bytes)) => Json::String(STANDARD.encode(bytes)),
        Some(Value::ArrayValue(_) | Value::KvlistValue(_)) if levels == 0 => Json::Null,
        Some(Value::ArrayValue(array)) => array.values.iter().map(inner).collect(),
        Some(Value::KvlistValue(list)) => map_json(&list.values, levels),
    }
}

/// Attributes as a JSON object; of equal keys the last counts.
pub(crate) fn map_json(attributes: &[KeyValue], levels: usize) -> serde_json::Value {
    let entries = attributes.iter().map(|a| (a.key.clone(), to_json(value(a), levels.saturating_sub(1))));
    serde_json::Value::Object(Map::from_iter(entries))
}

/// What [`to_json`] wrote. The JSON is as deep as its reader allowed.
pub(crate) fn from_json(json: serde_json::Value) -> Option<Value> {
    use serde_json::Value as Json;
    let inner = |json| AnyValue { value: from_json(json) };
    Some(match json {
        Json::Null => return None,
        Json::Bool(value) => Value::BoolValue(value),
        Json::Number(number) => match number.as_i64() {
            Some(value) => Value::IntValue(value),
            None => Value::DoubleValue(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::StringValue(text),
        Json::Array(values) => Value::ArrayValue(ArrayValue { values: values.into_iter().map(inner).collect() }),
        Json::Object(map) => Value::KvlistValue(KeyValueList { values: from_json_map(map) }),
    })
}

pub(crate) fn from_json_map(map: Map<String, serde_json::Value>) -> Vec<KeyValue> {
    map.into_iter().map(|(key, json)| KeyValue { key, value: Some(AnyValue { value: from_json(json) }) }).collect()
}

/// OpenTracing's words for kinds.
pub(crate) fn kind_word(kind: SpanKind) -> Option<&'static str> {
    Some(match kind {
        SpanKind::Unspecified => return None,
        SpanKind::Internal => "internal",
        SpanKind::Server => "server",
        SpanKind::Client => "client",
        SpanKind::Producer => "producer",
        SpanKind::Consumer => "consumer",
    })
}

pub(crate) fn kind_of_word(word: &str) -> Option<SpanKind> {
    let kinds = [SpanKind::Internal, SpanKind::Server, SpanKind::Client, SpanKind::Producer, SpanKind::Consumer];
    kinds.into_iter().find(|kind| kind_word(*kind) == Some(word))
}
