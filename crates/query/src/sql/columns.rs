//! The columns of the SQL view, and how each is made from the rows of a batch or block.
//!
//! `docs/sql.md` describes them to users.

use std::{collections::BTreeSet, fmt::Write, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, Float64Builder, Int64Array, RecordBatch, RecordBatchOptions, StringArray, StringBuilder,
        TimestampNanosecondArray,
    },
    datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit},
};
use block::schema;
use traceql::ast::{Attribute, AttributeName, Scope, SpanOfName};

use crate::{
    layout::Layout,
    reader::{Reader, Strings},
    request::QueryError,
    traces::TraceRows,
    value::{Value, kind_of_code, kind_word, status_of_code, status_word},
};

#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub name: String,
    pub content: Content,
}

/// What a column shows. Names are those of `block::schema`.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Hexadecimal, as long as it is; null where it is not set.
    Id(&'static str),
    /// Null where it is not set.
    Text(&'static str),
    Kind,
    Status,
    Time(&'static str),
    EndTime,
    Nanoseconds(&'static str),
    Milliseconds(&'static str),
    /// Of a span's children.
    Count(&'static str),
    /// Of the entries of a list.
    Length(&'static str),
    AttributeText(Attribute),
    AttributeNumber(Attribute),
}

/// The columns that `SELECT *` shows.
pub fn fixed() -> Vec<Column> {
    use Content::{Count, EndTime, Id, Kind, Length, Milliseconds, Nanoseconds, Status, Text, Time};
    let columns = [
        ("trace_id", Id(schema::TRACE_ID)),
        ("span_id", Id(schema::SPAN_ID)),
        ("parent_span_id", Id(schema::PARENT_SPAN_ID)),
        ("service_name", Content::AttributeText(service_name())),
        ("name", Text(schema::NAME)),
        ("kind", Kind),
        ("status", Status),
        ("status_message", Text(schema::STATUS_MESSAGE)),
        ("start_time", Time(schema::START_TIME)),
        ("end_time", EndTime),
        ("duration_ns", Nanoseconds(schema::DURATION)),
        ("duration_ms", Milliseconds(schema::DURATION)),
        ("scope_name", Text(schema::SCOPE_NAME)),
        ("scope_version", Text(schema::SCOPE_VERSION)),
        ("trace_state", Text(schema::TRACE_STATE)),
        ("root_service_name", Text(schema::ROOT_SERVICE_NAME)),
        ("root_span_name", Text(schema::ROOT_SPAN_NAME)),
        ("trace_start_time", Time(schema::TRACE_START)),
        ("trace_duration_ns", Nanoseconds(schema::TRACE_DURATION)),
        ("child_count", Count(schema::CHILD_COUNT)),
        ("event_count", Length(schema::EVENTS)),
        ("link_count", Length(schema::LINKS)),
    ];
    columns.map(|(name, content)| Column { name: name.to_owned(), content }).into()
}

fn service_name() -> Attribute {
    let name = AttributeName::Key { scope: Some(Scope::Resource), key: "service.name".into() };
    Attribute { of_parent: false, name, span: SpanOfName::default() }
}

pub fn schema_of(columns: &[Column]) -> SchemaRef {
    let fields: Vec<Field> = columns.iter().map(|c| Field::new(&c.name, c.content.data_type(), true)).collect();
    Arc::new(Schema::new(fields))
}

/// The stored columns that some columns of the view are made of.
pub fn stored(columns: &[Column], layout: &Layout) -> Result<BTreeSet<String>, QueryError> {
    let mut names = BTreeSet::new();
    for column in columns {
        match &column.content {
            Content::Id(name)
            | Content::Text(name)
            | Content::Time(name)
            | Content::Nanoseconds(name)
            | Content::Milliseconds(name)
            | Content::Count(name)
            | Content::Length(name) => drop(names.insert((*name).to_owned())),
            Content::Kind => drop(names.insert(schema::KIND.to_owned())),
            Content::Status => drop(names.insert(schema::STATUS_CODE.to_owned())),
            Content::EndTime => names.extend([schema::START_TIME, schema::DURATION, schema::END_TIME].map(String::from)),
            Content::AttributeText(name) | Content::AttributeNumber(name) => {
                names.extend(layout.places(name).columns().map(str::to_owned));
            }
        }
    }
    Ok(names)
}

/// Rows as the view shows them.
pub fn shown(rows: &TraceRows, columns: &[Column], schema: &SchemaRef) -> Result<RecordBatch, QueryError> {
    let arrays = columns.iter().map(|column| column.content.array(rows)).collect::<Result<Vec<ArrayRef>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.records.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options).map_err(QueryError::internal)
}

impl Content {
    fn data_type(&self) -> DataType {
        match self {
            Self::Id(_) | Self::Text(_) | Self::Kind | Self::Status | Self::AttributeText(_) => DataType::Utf8,
            Self::Time(_) | Self::EndTime => DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
            Self::Nanoseconds(_) | Self::Count(_) | Self::Length(_) => DataType::Int64,
            Self::Milliseconds(_) | Self::AttributeNumber(_) => DataType::Float64,
        }
    }

    fn array(&self, rows: &TraceRows) -> Result<ArrayRef, QueryError> {
        let (records, count) = (&rows.records, rows.records.num_rows());
        // A column that is null everywhere may be left out of a block.
        let longs = |name: &str| records.column_by_name(name).and_then(|c| c.as_primitive_opt::<Int64Type>());
        let numbers = |name: &str| records.column_by_name(name).and_then(|c| c.as_primitive_opt::<Int32Type>());
        let needed = |name: &str| longs(name).ok_or_else(|| QueryError::internal(format!("rows without column {name}")));
        Ok(match self {
            Self::Id(name) => {
                let ids = records.column_by_name(name).and_then(|c| c.as_fixed_size_binary_opt());
                let mut text = String::new();
                let mut out = StringBuilder::new();
                for row in 0..count {
                    match ids.filter(|ids| ids.is_valid(row)) {
                        None => out.append_null(),
                        Some(ids) => {
                            text.clear();
                            for byte in ids.value(row) {
                                let _ = write!(text, "{byte:02x}");
                            }
                            out.append_value(&text);
                        }
                    }
                }
                Arc::new(out.finish())
            }
            Self::Text(name) => {
                let strings = records.column_by_name(name).and_then(Strings::new);
                let value = |row| strings.as_ref().and_then(|s| s.get(row));
                Arc::new((0..count).map(value).collect::<StringArray>())
            }
            Self::Kind => {
                let codes = numbers(schema::KIND);
                Arc::new((0..count).map(|row| codes.map(|c| kind_word(kind_of_code(c.value(row))))).collect::<StringArray>())
            }
            Self::Status => {
                let codes = numbers(schema::STATUS_CODE);
                Arc::new((0..count).map(|row| codes.map(|c| status_word(status_of_code(c.value(row))))).collect::<StringArray>())
            }
            Self::Time(name) => times(needed(name)?.clone()),
            Self::EndTime => {
                let (starts, durations, ends) = (needed(schema::START_TIME)?, needed(schema::DURATION)?, longs(schema::END_TIME));
                let end = |row: usize| match ends.filter(|ends| ends.is_valid(row)) {
                    Some(ends) => ends.value(row),
                    None => starts.value(row).wrapping_add(durations.value(row)),
                };
                times((0..count).map(end).collect())
            }
            Self::Nanoseconds(name) => Arc::new(needed(name)?.clone()),
            Self::Milliseconds(name) => {
                let mut out = Float64Builder::with_capacity(count);
                needed(name)?.values().iter().for_each(|ns| out.append_value(*ns as f64 / 1e6));
                Arc::new(out.finish())
            }
            Self::Count(name) => {
                let numbers = numbers(name);
                Arc::new((0..count).map(|row| numbers.map(|n| i64::from(n.value(row)))).collect::<Int64Array>())
            }
            Self::Length(name) => {
                let lists = records.column_by_name(name).and_then(|c| c.as_list_opt::<i32>());
                let length = |row| lists.filter(|l| l.is_valid(row)).map_or(0, |l| i64::from(l.value_length(row)));
                Arc::new((0..count).map(length).collect::<Int64Array>())
            }
            Self::AttributeText(name) => {
                let reader = Reader::new(&rows.layout.places(name), records);
                let mut out = StringBuilder::new();
                (0..count).for_each(|row| out.append_option(reader.first(row).and_then(|value| text_of(&value))));
                Arc::new(out.finish())
            }
            Self::AttributeNumber(name) => {
                let reader = Reader::new(&rows.layout.places(name), records);
                let mut out = Float64Builder::with_capacity(count);
                (0..count).for_each(|row| out.append_option(reader.first(row).and_then(|v| v.number()).map(|n| n.as_f64())));
                Arc::new(out.finish())
            }
        })
    }
}

fn times(unix_nano: Int64Array) -> ArrayRef {
    let (_, values, nulls) = unix_nano.into_parts();
    Arc::new(TimestampNanosecondArray::new(values, nulls).with_timezone("UTC"))
}

/// Any value as text; null for what has none. Durations are nanoseconds.
fn text_of(value: &Value) -> Option<String> {
    Some(match value {
        Value::String(v) => v.clone(),
        Value::Int(v) | Value::Duration(v) => v.to_string(),
        Value::Float(v) => format!("{v:?}"),
        Value::Bool(v) => v.to_string(),
        Value::Status(v) => status_word(*v).to_owned(),
        Value::Kind(v) => kind_word(*v).to_owned(),
        Value::Array(values) => {
            let texts: Vec<String> = values.iter().map(|v| text_of(v).unwrap_or_default()).collect();
            format!("[{}]", texts.join(", "))
        }
        Value::Opaque => return None,
    })
}
