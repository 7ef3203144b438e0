//! Key/value lists: reading entries of any batch, writing a new list column.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, BooleanBufferBuilder, Float64Array, Int64Array, ListArray,
    StringArray, StructArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use model::AttributeType;

use super::gather::Texts;
use crate::error::BlockError;
use crate::schema;

/// One attribute value, borrowed from a column or a list.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    String(&'a str),
    Long(i64),
    Double(f64),
    Boolean(bool),
    /// An `AnyValue` message.
    Other(&'a [u8]),
}

impl Value<'_> {
    /// The type of column that can hold it.
    pub fn kind(&self) -> Option<AttributeType> {
        match self {
            Self::String(_) => Some(AttributeType::String),
            Self::Long(_) => Some(AttributeType::Long),
            Self::Double(_) => Some(AttributeType::Double),
            Self::Boolean(_) => Some(AttributeType::Boolean),
            Self::Other(_) => None,
        }
    }
}

/// A key/value list column.
pub(crate) struct KvView {
    list: ListArray,
    keys: StringArray,
    strings: StringArray,
    longs: Int64Array,
    doubles: Float64Array,
    booleans: BooleanArray,
    others: BinaryArray,
}

impl KvView {
    /// `None` if the array is not of type `schema::kv_list()`.
    pub fn new(array: &ArrayRef) -> Option<Self> {
        let list = array.as_list_opt::<i32>()?;
        let entries = list.values().as_struct_opt()?;
        let column = |name: &str| entries.column_by_name(name);
        Some(Self {
            list: list.clone(),
            keys: column(schema::KV_KEY)?.as_string_opt()?.clone(),
            strings: column(schema::KV_STRING)?.as_string_opt()?.clone(),
            longs: column(schema::KV_LONG)?.as_primitive_opt::<Int64Type>()?.clone(),
            doubles: column(schema::KV_DOUBLE)?.as_primitive_opt::<Float64Type>()?.clone(),
            booleans: column(schema::KV_BOOLEAN)?.as_boolean_opt()?.clone(),
            others: column(schema::KV_OTHER)?.as_binary_opt()?.clone(),
        })
    }

    /// The entries of a row.
    pub fn range(&self, row: usize) -> Range<usize> {
        if self.list.is_null(row) {
            return 0..0;
        }
        let offsets = self.list.value_offsets();
        offsets[row] as usize..offsets[row + 1] as usize
    }

    pub fn key(&self, entry: usize) -> &str {
        self.keys.value(entry)
    }

    pub fn value(&self, entry: usize) -> Value<'_> {
        if self.strings.is_valid(entry) {
            Value::String(self.strings.value(entry))
        } else if self.longs.is_valid(entry) {
            Value::Long(self.longs.value(entry))
        } else if self.doubles.is_valid(entry) {
            Value::Double(self.doubles.value(entry))
        } else if self.booleans.is_valid(entry) {
            Value::Boolean(self.booleans.value(entry))
        } else if self.others.is_valid(entry) {
            Value::Other(self.others.value(entry))
        } else {
            Value::Other(&[])
        }
    }
}

/// Writes a key/value list column, row after row. Rows without an entry are null.
pub(crate) struct KvWriter {
    offsets: Vec<i32>,
    rows: BooleanBufferBuilder,
    keys: Texts,
    strings: (Texts, BooleanBufferBuilder),
    longs: (Vec<i64>, BooleanBufferBuilder),
    doubles: (Vec<f64>, BooleanBufferBuilder),
    booleans: (BooleanBufferBuilder, BooleanBufferBuilder),
    others: (Texts, BooleanBufferBuilder),
}

impl KvWriter {
    pub fn new(rows: usize) -> Self {
        let bits = || BooleanBufferBuilder::new(0);
        Self {
            offsets: {
                let mut offsets = Vec::with_capacity(rows + 1);
                offsets.push(0);
                offsets
            },
            rows: BooleanBufferBuilder::new(rows),
            keys: Texts::default(),
            strings: (Texts::default(), bits()),
            longs: (Vec::new(), bits()),
            doubles: (Vec::new(), bits()),
            booleans: (bits(), bits()),
            others: (Texts::default(), bits()),
        }
    }

    pub fn push(&mut self, key: &str, value: Value<'_>) -> Result<(), BlockError> {
        self.keys.push(key.as_bytes())?;
        let (mut string, mut long, mut double, mut boolean, mut other) = (None, None, None, None, None);
        match value {
            Value::String(text) => string = Some(text.as_bytes()),
            Value::Long(number) => long = Some(number),
            Value::Double(number) => double = Some(number),
            Value::Boolean(truth) => boolean = Some(truth),
            Value::Other(message) => other = Some(message),
        }
        self.strings.0.push(string.unwrap_or_default())?;
        self.strings.1.append(string.is_some());
        self.longs.0.push(long.unwrap_or_default());
        self.longs.1.append(long.is_some());
        self.doubles.0.push(double.unwrap_or_default());
        self.doubles.1.append(double.is_some());
        self.booleans.0.append(boolean.unwrap_or_default());
        self.booleans.1.append(boolean.is_some());
        self.others.0.push(other.unwrap_or_default())?;
        self.others.1.append(other.is_some());
        Ok(())
    }

    pub fn end_row(&mut self) {
        // `keys` holds at least as many offsets as entries and is bounded by the same 31 bits.
        let end = self.keys.len() as i32;
        self.rows.append(self.offsets.last().is_some_and(|start| *start < end));
        self.offsets.push(end);
    }

    pub fn finish(mut self) -> Result<ArrayRef, BlockError> {
        let nulls = |mut bits: BooleanBufferBuilder| Some(NullBuffer::new(bits.finish()));
        let (key_offsets, key_bytes) = self.keys.into_buffers();
        let (string_offsets, string_bytes) = self.strings.0.into_buffers();
        let (other_offsets, other_bytes) = self.others.0.into_buffers();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::try_new(key_offsets, key_bytes, None)?),
            Arc::new(StringArray::try_new(string_offsets, string_bytes, nulls(self.strings.1))?),
            Arc::new(Int64Array::try_new(self.longs.0.into(), nulls(self.longs.1))?),
            Arc::new(Float64Array::try_new(self.doubles.0.into(), nulls(self.doubles.1))?),
            Arc::new(BooleanArray::new(self.booleans.0.finish(), nulls(self.booleans.1))),
            Arc::new(BinaryArray::try_new(other_offsets, other_bytes, nulls(self.others.1))?),
        ];
        let entries = StructArray::try_new(schema::KV_FIELDS.clone(), columns, None)?;
        let DataType::List(element) = schema::kv_list() else { unreachable!("kv_list is a list") };
        let offsets = OffsetBuffer::new(ScalarBuffer::from(self.offsets));
        Ok(Arc::new(ListArray::try_new(element, offsets, Arc::new(entries), nulls(self.rows))?))
    }
}
