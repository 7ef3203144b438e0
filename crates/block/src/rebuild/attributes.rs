//! The attributes of a row as OTLP key/values: columns and list together.

use arrow::array::{Array, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type};
use model::{AttributeScope, AttributeType};
use proto::otlp::common::v1::{AnyValue, KeyValue, any_value};

use super::columns::{Columns, Strings};
use crate::error::BlockError;
use crate::merge::kv::{KvView, Value};
use crate::promotion::AttributeColumn;
use crate::schema;

/// All attributes of one scope (resource, span or instrumentation) of a batch.
pub struct AttributeRows<'a> {
    columns: Vec<(String, Column<'a>)>,
    list: Option<KvView>,
}

enum Column<'a> {
    Strings(Strings<'a>),
    Longs(&'a Int64Array),
    Doubles(&'a Float64Array),
    Booleans(&'a BooleanArray),
}

impl<'a> AttributeRows<'a> {
    /// Events and links have no attributes of their own on a row: they give nothing here.
    pub fn new(records: &'a RecordBatch, scope: AttributeScope) -> Result<Self, BlockError> {
        let all = Columns(records);
        let mut columns = Vec::new();
        for field in records.schema_ref().fields() {
            let Some(attribute) = AttributeColumn::parse(field.name()).filter(|column| column.scope == scope) else {
                continue;
            };
            let column = match attribute.kind {
                AttributeType::String => all.strings(field.name())?.map(Column::Strings),
                AttributeType::Long => {
                    all.typed(field.name(), |array| array.as_primitive_opt::<Int64Type>())?.map(Column::Longs)
                }
                AttributeType::Double => {
                    all.typed(field.name(), |array| array.as_primitive_opt::<Float64Type>())?.map(Column::Doubles)
                }
                AttributeType::Boolean => {
                    all.typed(field.name(), |array| array.as_boolean_opt())?.map(Column::Booleans)
                }
            };
            columns.extend(column.map(|column| (attribute.key, column)));
        }
        let list = match schema::kv_column(scope) {
            None => None,
            Some(name) => all.list(name, &schema::kv_list(), KvView::new)?,
        };
        Ok(Self { columns, list })
    }

    /// The attributes of a row, sorted by key. Values of one key keep the order in which they were sent.
    pub fn at(&self, row: usize) -> Vec<KeyValue> {
        let mut found: Vec<(&str, Value<'_>)> = Vec::new();
        for (key, column) in &self.columns {
            found.extend(column.value(row).map(|value| (key.as_str(), value)));
        }
        if let Some(view) = &self.list {
            found.extend(view.range(row).map(|entry| (view.key(entry), view.value(entry))));
        }
        key_values(found)
    }

    /// Bytes that are equal for two rows of this batch only if the rows have equal attributes.
    pub(super) fn fingerprint(&self, row: usize, out: &mut Vec<u8>) {
        for (_, column) in &self.columns {
            match column {
                Column::Strings(Strings::Dictionary(dictionary, _)) => {
                    out.extend(dictionary.key(row).map_or(u64::MAX, |key| key as u64).to_le_bytes());
                }
                _ => write_value(column.value(row), out),
            }
        }
        if let Some(view) = &self.list {
            out.extend((view.range(row).len() as u64).to_le_bytes());
            for entry in view.range(row) {
                write_text(view.key(entry).as_bytes(), out);
                write_value(Some(view.value(entry)), out);
            }
        }
    }
}

impl<'a> Column<'a> {
    fn value(&self, row: usize) -> Option<Value<'a>> {
        match self {
            Self::Strings(strings) => strings.value(row).map(Value::String),
            Self::Longs(array) => array.is_valid(row).then(|| Value::Long(array.value(row))),
            Self::Doubles(array) => array.is_valid(row).then(|| Value::Double(array.value(row))),
            Self::Booleans(array) => array.is_valid(row).then(|| Value::Boolean(array.value(row))),
        }
    }
}

/// The entries of one list, as [`AttributeRows::at`] gives them.
pub(super) fn list_at(list: &KvView, row: usize) -> Vec<KeyValue> {
    key_values(list.range(row).map(|entry| (list.key(entry), list.value(entry))).collect())
}

fn key_values(mut found: Vec<(&str, Value<'_>)>) -> Vec<KeyValue> {
    // Stable: a column holds the first value of its key, the list the others in the order they were sent.
    found.sort_by_key(|(key, _)| *key);
    found.into_iter().map(|(key, value)| KeyValue { key: key.to_owned(), value: Some(any_value(value)) }).collect()
}

fn any_value(value: Value<'_>) -> AnyValue {
    use any_value::Value as Any;
    let value = match value {
        Value::String(text) => Any::StringValue(text.to_owned()),
        Value::Long(number) => Any::IntValue(number),
        Value::Double(number) => Any::DoubleValue(number),
        Value::Boolean(truth) => Any::BoolValue(truth),
        Value::Other(message) => return proto::wire::any_value(message),
    };
    AnyValue { value: Some(value) }
}

fn write_value(value: Option<Value<'_>>, out: &mut Vec<u8>) {
    match value {
        None => out.push(0),
        Some(Value::String(text)) => {
            out.push(1);
            write_text(text.as_bytes(), out);
        }
        Some(Value::Long(number)) => {
            out.push(2);
            out.extend(number.to_le_bytes());
        }
        Some(Value::Double(number)) => {
            out.push(3);
            out.extend(number.to_bits().to_le_bytes());
        }
        Some(Value::Boolean(truth)) => out.push(4 + u8::from(truth)),
        Some(Value::Other(message)) => {
            out.push(6);
            write_text(message, out);
        }
    }
}

pub(super) fn write_text(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}
