//! The columns of a span row, in memory and in a block.
//!
//! Fixed columns carry the words of OTLP and TraceQL. An attribute column is named
//! `<scope>.<key>` when it holds strings and `<scope>.<key>:<type>` when it holds anything else, so that
//! a name has one type in every block of a table whatever order the blocks were written in.
//! Attributes without a column of their own live in one key/value list per scope.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use model::{AttributeScope, AttributeType};

pub const TRACE_ID: &str = "trace_id";
pub const SPAN_ID: &str = "span_id";
pub const PARENT_SPAN_ID: &str = "parent_span_id";
/// Unsigned nanoseconds of OTLP, kept bit for bit in a signed column.
pub const START_TIME: &str = "start_time_unix_nano";
/// End minus start, never negative: 0 for a span that ends before it starts.
pub const DURATION: &str = "duration_nano";
/// Set only where the end is not `start + duration`, so that the sent value is never lost.
pub const END_TIME: &str = "end_time_unix_nano";
pub const NAME: &str = "name";
/// OTLP's number: 0 unspecified, 1 internal, 2 server, 3 client, 4 producer, 5 consumer.
pub const KIND: &str = "kind";
/// OTLP's number: 0 unset, 1 ok, 2 error.
pub const STATUS_CODE: &str = "status_code";
pub const STATUS_MESSAGE: &str = "status_message";
pub const TRACE_STATE: &str = "trace_state";
pub const FLAGS: &str = "flags";
pub const DROPPED_ATTRIBUTES: &str = "dropped_attributes_count";
pub const DROPPED_EVENTS: &str = "dropped_events_count";
pub const DROPPED_LINKS: &str = "dropped_links_count";
pub const SCOPE_NAME: &str = "scope.name";
pub const SCOPE_VERSION: &str = "scope.version";
pub const SCOPE_SCHEMA_URL: &str = "scope.schema_url";
pub const SCOPE_DROPPED_ATTRIBUTES: &str = "scope.dropped_attributes_count";
pub const RESOURCE_SCHEMA_URL: &str = "resource_schema_url";
pub const RESOURCE_DROPPED_ATTRIBUTES: &str = "resource_dropped_attributes_count";
// Whole-trace columns: the same on every row of a trace, computed over the rows of one batch or block.
pub const ROOT_SERVICE_NAME: &str = "root_service_name";
pub const ROOT_SPAN_NAME: &str = "root_span_name";
pub const TRACE_START: &str = "trace_start_unix_nano";
pub const TRACE_DURATION: &str = "trace_duration_nano";
// Structure: nested-set numbers of the span in its trace. See `whole_trace`.
pub const NESTED_LEFT: &str = "nested_left";
pub const NESTED_RIGHT: &str = "nested_right";
pub const NESTED_PARENT: &str = "nested_parent";
pub const CHILD_COUNT: &str = "child_count";
// Everything without a column of its own.
pub const RESOURCE_ATTRIBUTES: &str = "resource_attributes";
pub const SPAN_ATTRIBUTES: &str = "span_attributes";
pub const SCOPE_ATTRIBUTES: &str = "scope_attributes";
pub const EVENTS: &str = "events";
pub const LINKS: &str = "links";

/// Fields of the key/value struct. Exactly one of the five values is set.
pub const KV_KEY: &str = "key";
pub const KV_STRING: &str = "string";
pub const KV_LONG: &str = "long";
pub const KV_DOUBLE: &str = "double";
pub const KV_BOOLEAN: &str = "boolean";
/// An OTLP `AnyValue` message: arrays, maps, bytes, and the empty value (no bytes).
pub const KV_OTHER: &str = "other";

pub const EVENT_TIME: &str = "time_unix_nano";
pub const EVENT_NAME: &str = "name";
pub const LINK_TRACE_ID: &str = "trace_id";
pub const LINK_SPAN_ID: &str = "span_id";
pub const LINK_TRACE_STATE: &str = "trace_state";
pub const LINK_FLAGS: &str = "flags";
/// Attributes and their dropped count inside an event or a link.
pub const NESTED_ATTRIBUTES: &str = "attributes";

/// The type of every repeating string: dictionary-encoded in memory, plain strings to other readers.
pub fn dictionary() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

/// `struct<key, string, long, double, boolean, other>`.
pub static KV_FIELDS: LazyLock<Fields> = LazyLock::new(|| {
    Fields::from(vec![
        Field::new(KV_KEY, DataType::Utf8, false),
        Field::new(KV_STRING, DataType::Utf8, true),
        Field::new(KV_LONG, DataType::Int64, true),
        Field::new(KV_DOUBLE, DataType::Float64, true),
        Field::new(KV_BOOLEAN, DataType::Boolean, true),
        Field::new(KV_OTHER, DataType::Binary, true),
    ])
});

/// The item field of every list. Named `element`, as Parquet's own specification does.
fn list_of(fields: &Fields) -> DataType {
    DataType::List(Arc::new(Field::new("element", DataType::Struct(fields.clone()), false)))
}

pub fn kv_list() -> DataType {
    list_of(&KV_FIELDS)
}

pub static EVENT_FIELDS: LazyLock<Fields> = LazyLock::new(|| {
    Fields::from(vec![
        Field::new(EVENT_TIME, DataType::Int64, false),
        Field::new(EVENT_NAME, DataType::Utf8, false),
        Field::new(DROPPED_ATTRIBUTES, DataType::Int32, true),
        Field::new(NESTED_ATTRIBUTES, kv_list(), true),
    ])
});

pub static LINK_FIELDS: LazyLock<Fields> = LazyLock::new(|| {
    Fields::from(vec![
        Field::new(LINK_TRACE_ID, DataType::Binary, false),
        Field::new(LINK_SPAN_ID, DataType::Binary, false),
        Field::new(LINK_TRACE_STATE, DataType::Utf8, true),
        Field::new(LINK_FLAGS, DataType::Int32, true),
        Field::new(DROPPED_ATTRIBUTES, DataType::Int32, true),
        Field::new(NESTED_ATTRIBUTES, kv_list(), true),
    ])
});

pub fn events() -> DataType {
    list_of(&EVENT_FIELDS)
}

pub fn links() -> DataType {
    list_of(&LINK_FIELDS)
}

/// The columns every batch and block has, in file order. Attribute columns follow them, sorted by name.
/// Nullable integer columns are null where OTLP's value is the default, so that they cost nothing.
pub static FIXED_FIELDS: LazyLock<Vec<FieldRef>> = LazyLock::new(|| {
    let field = |name: &str, kind: DataType, nullable: bool| Arc::new(Field::new(name, kind, nullable));
    vec![
        field(TRACE_ID, DataType::FixedSizeBinary(16), false),
        field(SPAN_ID, DataType::FixedSizeBinary(8), false),
        field(PARENT_SPAN_ID, DataType::FixedSizeBinary(8), true),
        field(START_TIME, DataType::Int64, false),
        field(DURATION, DataType::Int64, false),
        field(END_TIME, DataType::Int64, true),
        field(NAME, dictionary(), false),
        field(KIND, DataType::Int32, false),
        field(STATUS_CODE, DataType::Int32, false),
        field(STATUS_MESSAGE, dictionary(), true),
        field(TRACE_STATE, dictionary(), true),
        field(FLAGS, DataType::Int32, true),
        field(DROPPED_ATTRIBUTES, DataType::Int32, true),
        field(DROPPED_EVENTS, DataType::Int32, true),
        field(DROPPED_LINKS, DataType::Int32, true),
        field(SCOPE_NAME, dictionary(), true),
        field(SCOPE_VERSION, dictionary(), true),
        field(SCOPE_SCHEMA_URL, dictionary(), true),
        field(SCOPE_DROPPED_ATTRIBUTES, DataType::Int32, true),
        field(RESOURCE_SCHEMA_URL, dictionary(), true),
        field(RESOURCE_DROPPED_ATTRIBUTES, DataType::Int32, true),
        field(ROOT_SERVICE_NAME, dictionary(), true),
        field(ROOT_SPAN_NAME, dictionary(), true),
        field(TRACE_START, DataType::Int64, false),
        field(TRACE_DURATION, DataType::Int64, false),
        field(NESTED_LEFT, DataType::Int32, false),
        field(NESTED_RIGHT, DataType::Int32, false),
        field(NESTED_PARENT, DataType::Int32, false),
        field(CHILD_COUNT, DataType::Int32, false),
        field(RESOURCE_ATTRIBUTES, kv_list(), true),
        field(SPAN_ATTRIBUTES, kv_list(), true),
        field(SCOPE_ATTRIBUTES, kv_list(), true),
        field(EVENTS, events(), true),
        field(LINKS, links(), true),
    ]
});

/// The key/value list column that takes a scope's unpromoted attributes. `None` for events and links,
/// whose attributes are inside their structs.
pub fn kv_column(scope: AttributeScope) -> Option<&'static str> {
    match scope {
        AttributeScope::Resource => Some(RESOURCE_ATTRIBUTES),
        AttributeScope::Span => Some(SPAN_ATTRIBUTES),
        AttributeScope::Instrumentation => Some(SCOPE_ATTRIBUTES),
        AttributeScope::Event | AttributeScope::Link => None,
    }
}

/// The name of the column that holds attribute `key` of `scope` where its value has type `kind`.
pub fn attribute_column(scope: AttributeScope, key: &str, kind: AttributeType) -> String {
    match kind {
        AttributeType::String => format!("{}.{key}", scope.as_str()),
        _ => format!("{}.{key}:{}", scope.as_str(), kind.as_str()),
    }
}

/// The Arrow type of a promoted attribute column.
pub fn attribute_type(kind: AttributeType) -> DataType {
    match kind {
        AttributeType::String => dictionary(),
        AttributeType::Long => DataType::Int64,
        AttributeType::Double => DataType::Float64,
        AttributeType::Boolean => DataType::Boolean,
    }
}

/// Whether `key` can be part of a column name: Delta forbids ` ,;{}()\n\t=` in names, and a colon would
/// be taken for the type suffix. Other keys stay in the key/value list.
pub fn promotable(key: &str) -> bool {
    !key.is_empty()
        && key.len() <= 128
        && !key.contains([' ', ',', ';', '{', '}', '(', ')', '\n', '\t', '=', ':', '"', '`', '\\', '/', '\0'])
        && !key.chars().any(char::is_control)
}
