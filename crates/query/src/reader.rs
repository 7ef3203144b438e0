//! Reads the values of one name row by row.
//!
//! The general path: every place, every type. Comparisons that can run on whole columns do not come here.

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BinaryArray, BooleanArray, DictionaryArray, FixedSizeBinaryArray, Float64Array,
        Int32Array, Int64Array, ListArray, RecordBatch, StringArray, StructArray,
    },
    datatypes::{DataType, Float64Type, Int32Type, Int64Type},
};
use block::schema;
use model::{AttributeType, SpanId, TraceId};

use crate::{
    layout::{NestedField, Place, Places, Reading},
    parents::Parents,
    value::{Value, kind_of_code, status_of_code},
};

/// A string column in any of the forms a batch may hold it in.
#[derive(Clone)]
pub enum Strings {
    Plain(StringArray),
    View(arrow::array::StringViewArray),
    Dictionary(DictionaryArray<Int32Type>, StringArray),
}

impl Strings {
    pub fn new(array: &ArrayRef) -> Option<Self> {
        match array.data_type() {
            DataType::Utf8 => Some(Self::Plain(array.as_string().clone())),
            DataType::Utf8View => Some(Self::View(array.as_string_view().clone())),
            DataType::Dictionary(_, _) => {
                let dictionary = array.as_dictionary_opt::<Int32Type>()?;
                let values = dictionary.values().as_string_opt::<i32>()?.clone();
                Some(Self::Dictionary(dictionary.clone(), values))
            }
            _ => None,
        }
    }

    pub fn get(&self, row: usize) -> Option<&str> {
        match self {
            Self::Plain(a) => a.is_valid(row).then(|| a.value(row)),
            Self::View(a) => a.is_valid(row).then(|| a.value(row)),
            Self::Dictionary(a, values) => a.key(row).filter(|k| values.is_valid(*k)).map(|k| values.value(k)),
        }
    }
}

/// A key/value list column taken apart.
#[derive(Clone)]
pub struct KeyValues {
    list: ListArray,
    entries: KeyValueEntries,
}

#[derive(Clone)]
struct KeyValueEntries {
    key: StringArray,
    string: StringArray,
    long: Int64Array,
    double: Float64Array,
    boolean: BooleanArray,
    other: BinaryArray,
}

impl KeyValueEntries {
    fn new(values: &StructArray) -> Option<Self> {
        let column = |name: &str| values.column_by_name(name);
        Some(Self {
            key: column(schema::KV_KEY)?.as_string_opt()?.clone(),
            string: column(schema::KV_STRING)?.as_string_opt()?.clone(),
            long: column(schema::KV_LONG)?.as_primitive_opt::<Int64Type>()?.clone(),
            double: column(schema::KV_DOUBLE)?.as_primitive_opt::<Float64Type>()?.clone(),
            boolean: column(schema::KV_BOOLEAN)?.as_boolean_opt()?.clone(),
            other: column(schema::KV_OTHER)?.as_binary_opt()?.clone(),
        })
    }

    /// `None` for the empty value.
    fn value(&self, at: usize) -> Option<Value> {
        if self.string.is_valid(at) {
            Some(Value::String(self.string.value(at).to_owned()))
        } else if self.long.is_valid(at) {
            Some(Value::Int(self.long.value(at)))
        } else if self.double.is_valid(at) {
            Some(Value::Float(self.double.value(at)))
        } else if self.boolean.is_valid(at) {
            Some(Value::Bool(self.boolean.value(at)))
        } else if self.other.is_valid(at) {
            Value::of_any(&proto::wire::any_value(self.other.value(at)))
        } else {
            None
        }
    }
}

impl KeyValues {
    pub fn new(array: &ArrayRef) -> Option<Self> {
        let list = array.as_list_opt::<i32>()?.clone();
        let entries = KeyValueEntries::new(list.values().as_struct_opt()?)?;
        Some(Self { list, entries })
    }

    fn range(&self, row: usize) -> std::ops::Range<usize> {
        if self.list.is_null(row) {
            return 0..0;
        }
        let offsets = self.list.value_offsets();
        offsets[row] as usize..offsets[row + 1] as usize
    }

    /// Calls `each` with the values of `key` on `row`; stops when it returns true.
    pub fn any(&self, row: usize, key: &str, mut each: impl FnMut(Value) -> bool) -> bool {
        self.range(row).any(|at| {
            self.entries.key.value(at) == key && self.entries.value(at).is_some_and(&mut each)
        })
    }

    pub fn has_key(&self, row: usize, key: &str) -> bool {
        self.keys(row).any(|k| k == key)
    }

    /// The keys of a row, also those whose value is empty.
    pub fn keys(&self, row: usize) -> impl Iterator<Item = &str> {
        self.range(row).map(|at| self.entries.key.value(at))
    }

}

/// The events or links of every row.
#[derive(Clone)]
pub struct Nested {
    list: ListArray,
    field: NestedColumn,
}

#[derive(Clone)]
enum NestedColumn {
    Attribute(String, KeyValues),
    Name(StringArray),
    /// Event times, and the span's start by row.
    Time(Int64Array, Int64Array),
    TraceId(BinaryArray),
    SpanId(BinaryArray),
}

impl Nested {
    fn new(list: &ArrayRef, field: &NestedField, start: Option<&ArrayRef>) -> Option<Self> {
        let list = list.as_list_opt::<i32>()?.clone();
        let entries = list.values().as_struct_opt()?;
        let field = match field {
            NestedField::Attribute(key) => NestedColumn::Attribute(
                key.clone(),
                KeyValues::new(entries.column_by_name(schema::NESTED_ATTRIBUTES)?)?,
            ),
            NestedField::EventName => {
                NestedColumn::Name(entries.column_by_name(schema::EVENT_NAME)?.as_string_opt()?.clone())
            }
            NestedField::TimeSinceStart => NestedColumn::Time(
                entries.column_by_name(schema::EVENT_TIME)?.as_primitive_opt::<Int64Type>()?.clone(),
                start?.as_primitive_opt::<Int64Type>()?.clone(),
            ),
            NestedField::LinkTraceId => {
                NestedColumn::TraceId(entries.column_by_name(schema::LINK_TRACE_ID)?.as_binary_opt()?.clone())
            }
            NestedField::LinkSpanId => {
                NestedColumn::SpanId(entries.column_by_name(schema::LINK_SPAN_ID)?.as_binary_opt()?.clone())
            }
        };
        Some(Self { list, field })
    }

    fn any(&self, row: usize, mut each: impl FnMut(Value) -> bool) -> bool {
        if self.list.is_null(row) {
            return false;
        }
        let offsets = self.list.value_offsets();
        (offsets[row] as usize..offsets[row + 1] as usize).any(|at| match &self.field {
            NestedColumn::Attribute(key, attributes) => attributes.any(at, key, &mut each),
            NestedColumn::Name(names) => each(Value::String(names.value(at).to_owned())),
            NestedColumn::Time(times, start) => each(Value::Duration(times.value(at).wrapping_sub(start.value(row)))),
            NestedColumn::TraceId(ids) => each(Value::String(link_trace_id(ids.value(at)))),
            NestedColumn::SpanId(ids) => each(Value::String(hex(ids.value(at)))),
        })
    }
}

fn link_trace_id(bytes: &[u8]) -> String {
    TraceId::from_slice(bytes).map_or_else(|| hex(bytes), |id| id.short_hex())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

enum Source {
    Strings(Strings),
    /// Null is the empty string.
    Text(Strings),
    Long(Int64Array),
    Double(Float64Array),
    Boolean(BooleanArray),
    Duration(Int64Array),
    Int(Int32Array),
    Status(Int32Array),
    Kind(Int32Array),
    SpanId(FixedSizeBinaryArray),
    TraceId(FixedSizeBinaryArray),
    List(KeyValues, String),
    Nested(Nested),
    /// A fixed column that the block left out because it is null everywhere.
    AbsentText,
    /// The parent's number: nothing to compare with, but there or not.
    Parent(Int32Array),
}

impl Source {
    fn new(place: &Place, batch: &RecordBatch) -> Option<Self> {
        let column = |name: &str| batch.column_by_name(name);
        Some(match place {
            Place::Promoted { column: name, kind } => {
                let array = column(name)?;
                match kind {
                    AttributeType::String => Self::Strings(Strings::new(array)?),
                    AttributeType::Long => Self::Long(array.as_primitive_opt::<Int64Type>()?.clone()),
                    AttributeType::Double => Self::Double(array.as_primitive_opt::<Float64Type>()?.clone()),
                    AttributeType::Boolean => Self::Boolean(array.as_boolean_opt()?.clone()),
                }
            }
            Place::List { column: name, key } => Self::List(KeyValues::new(column(name)?)?, key.clone()),
            Place::Fixed { column: name, reading } => {
                let Some(array) = column(name) else {
                    return matches!(reading, Reading::String | Reading::SpanId).then_some(Self::AbsentText);
                };
                match reading {
                    Reading::String => Self::Text(Strings::new(array)?),
                    Reading::Int => Self::Int(array.as_primitive_opt::<Int32Type>()?.clone()),
                    Reading::Duration => Self::Duration(array.as_primitive_opt::<Int64Type>()?.clone()),
                    Reading::Status => Self::Status(array.as_primitive_opt::<Int32Type>()?.clone()),
                    Reading::Kind => Self::Kind(array.as_primitive_opt::<Int32Type>()?.clone()),
                    Reading::SpanId => Self::SpanId(array.as_fixed_size_binary_opt()?.clone()),
                    Reading::TraceId => Self::TraceId(array.as_fixed_size_binary_opt()?.clone()),
                    Reading::Parent => Self::Parent(array.as_primitive_opt::<Int32Type>()?.clone()),
                }
            }
            Place::Event(field) => {
                Self::Nested(Nested::new(column(schema::EVENTS)?, field, column(schema::START_TIME))?)
            }
            Place::Link(field) => Self::Nested(Nested::new(column(schema::LINKS)?, field, None)?),
        })
    }

    fn any(&self, row: usize, mut each: impl FnMut(Value) -> bool) -> bool {
        match self {
            Self::Strings(a) => a.get(row).is_some_and(|v| each(Value::String(v.to_owned()))),
            Self::Text(a) => each(Value::String(a.get(row).unwrap_or_default().to_owned())),
            Self::Long(a) => a.is_valid(row) && each(Value::Int(a.value(row))),
            Self::Double(a) => a.is_valid(row) && each(Value::Float(a.value(row))),
            Self::Boolean(a) => a.is_valid(row) && each(Value::Bool(a.value(row))),
            Self::Duration(a) => each(Value::Duration(a.value(row))),
            Self::Int(a) => each(Value::Int(i64::from(a.value(row)))),
            Self::Status(a) => each(Value::Status(status_of_code(a.value(row)))),
            Self::Kind(a) => each(Value::Kind(kind_of_code(a.value(row)))),
            Self::SpanId(a) => each(Value::String(match a.is_valid(row) {
                true => SpanId::from_slice(a.value(row)).unwrap_or_default().to_string(),
                false => String::new(),
            })),
            Self::TraceId(a) => {
                each(Value::String(TraceId::from_slice(a.value(row)).unwrap_or_default().short_hex()))
            }
            Self::List(lists, key) => lists.any(row, key, each),
            Self::Nested(nested) => nested.any(row, each),
            Self::AbsentText => each(Value::String(String::new())),
            Self::Parent(a) => a.value(row) > 0 && each(Value::Opaque),
        }
    }
}

/// The values of one name in one batch.
pub struct Reader {
    first: Vec<Source>,
    fallback: Vec<Source>,
    /// Where the values of a row are those of its parent.
    parents: Option<Parents>,
    /// What stands for a row's value where it has none and one is asked for.
    none: Option<Value>,
}

impl Reader {
    /// Places whose column the batch does not have hold nothing. Places of parents need a batch that holds its traces
    /// whole.
    pub fn new(places: &Places, batch: &RecordBatch) -> Self {
        let sources = |places: &[Place]| places.iter().filter_map(|p| Source::new(p, batch)).collect();
        let parents = places.of_parent.then(|| Parents::of(batch));
        let event_name = !places.of_parent && matches!(places.single(), Some(Place::Event(NestedField::EventName)));
        let none = event_name.then(|| Value::String(String::new()));
        Self { first: sources(&places.first), fallback: sources(&places.fallback), parents, none }
    }

    /// The lists that all values come from, if they come from one column of lists: a row whose list is empty has none.
    pub fn only_list(&self) -> Option<&ListArray> {
        match (self.first.as_slice(), self.fallback.as_slice()) {
            ([Source::List(lists, _)], []) => Some(&lists.list),
            ([Source::Nested(nested)], []) => Some(&nested.list),
            _ => None,
        }
    }

    /// Calls `each` with the values on `row` until it returns true; says whether it did.
    pub fn any(&self, row: usize, mut each: impl FnMut(Value) -> bool) -> bool {
        let row = match &self.parents {
            None => row,
            Some(parents) => match parents.row(row) {
                Some(parent) => parent,
                None => return false,
            },
        };
        let mut found = false;
        let mut stop = false;
        for source in &self.first {
            stop = source.any(row, |value| {
                found = true;
                each(value)
            });
            if stop {
                break;
            }
        }
        if !found {
            stop = self.fallback.iter().any(|source| source.any(row, &mut each));
        }
        stop
    }

    /// The first value on `row`, to show it or to group by it. Without events the name of an event is empty.
    pub fn first(&self, row: usize) -> Option<Value> {
        let mut result = None;
        self.any(row, |value| {
            result = Some(value);
            true
        });
        result.or_else(|| self.none.clone())
    }

    /// The last value on `row`, as [`Self::first`].
    pub fn last(&self, row: usize) -> Option<Value> {
        let mut result = None;
        self.any(row, |value| {
            result = Some(value);
            false
        });
        result.or_else(|| self.none.clone())
    }

    /// Whether a key of the name stands in a list on `row`, even with the empty value.
    pub fn present(&self, row: usize) -> bool {
        self.first.iter().any(|source| matches!(source, Source::List(lists, key) if lists.has_key(row, key)))
    }

    pub fn exists(&self, row: usize) -> bool {
        self.any(row, |_| true)
    }
}
