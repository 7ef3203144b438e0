//! Short names for attribute values.

use proto::otlp::common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value};

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

pub fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

pub fn whole(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

pub fn number(key: &str, value: f64) -> KeyValue {
    attribute(key, Value::DoubleValue(value))
}

pub fn flag(key: &str, value: bool) -> KeyValue {
    attribute(key, Value::BoolValue(value))
}

pub fn texts(key: &str, values: &[impl AsRef<str>]) -> KeyValue {
    let values =
        values.iter().map(|value| AnyValue { value: Some(Value::StringValue(value.as_ref().to_owned())) }).collect();
    attribute(key, Value::ArrayValue(ArrayValue { values }))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
