//! Attributes that have no column of their own: kept as entries, written as `list<struct<key, string, …>>`.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BinaryArray, BooleanArray, Float64Array, Int64Array, ListArray, StringArray, StructArray},
    buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer},
    datatypes::{DataType, Fields},
};
use proto::wire::{Attribute, Value};

use super::sparse::Bits;
use crate::schema::{KV_FIELDS, kv_list};

/// A stretch of a byte arena. The builder is full long before an arena reaches 4 GiB.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    start: u32,
    len: u32,
}

#[derive(Default)]
pub(super) struct Arena(Vec<u8>);

impl Arena {
    pub fn push(&mut self, bytes: &[u8], heap: &mut usize) -> Stretch {
        let start = u32::try_from(self.0.len()).expect("a batch holds less than 4 GiB of bytes");
        let len = u32::try_from(bytes.len()).expect("a value is smaller than 4 GiB");
        self.0.extend_from_slice(bytes);
        *heap += bytes.len();
        Stretch { start, len }
    }

    pub fn get(&self, stretch: Stretch) -> &[u8] {
        &self.0[stretch.start as usize..][..stretch.len as usize]
    }
}

/// One attribute: the code of its key and its value, whose bytes are in an arena.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub key: u32,
    pub value: Kept,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Kept {
    String(Stretch),
    Long(i64),
    Double(f64),
    Boolean(bool),
    /// A whole `AnyValue` message: array, map, bytes; no bytes for the empty value.
    Other(Stretch),
}

/// A value on its way into a list.
#[derive(Clone, Copy, Debug)]
pub(super) enum Written<'a> {
    String(&'a [u8]),
    Long(i64),
    Double(f64),
    Boolean(bool),
    Other(&'a [u8]),
}

impl Kept {
    /// Keeps the value of an attribute whose strings were cut to length.
    pub fn keep(attribute: &Attribute<'_>, arena: &mut Arena, heap: &mut usize) -> Self {
        match &attribute.value {
            Value::String(text) => Self::String(arena.push(text.as_bytes(), heap)),
            Value::Int(n) => Self::Long(*n),
            Value::Double(x) => Self::Double(*x),
            Value::Bool(b) => Self::Boolean(*b),
            Value::Empty => Self::Other(arena.push(b"", heap)),
            Value::Bytes(_) | Value::Array(_) | Value::Map(_) => Self::Other(arena.push(attribute.raw, heap)),
        }
    }

    pub fn written<'a>(&self, arena: &'a Arena) -> Written<'a> {
        match *self {
            Self::String(stretch) => Written::String(arena.get(stretch)),
            Self::Long(n) => Written::Long(n),
            Self::Double(x) => Written::Double(x),
            Self::Boolean(b) => Written::Boolean(b),
            Self::Other(stretch) => Written::Other(arena.get(stretch)),
        }
    }

    /// Bytes this value takes in a list, about.
    pub fn list_bytes(&self) -> usize {
        match self {
            Self::String(stretch) | Self::Other(stretch) => stretch.len as usize + ITEM_BYTES,
            _ => ITEM_BYTES,
        }
    }
}

/// What an item of a list takes beside its key and text: three offsets, a long, a double, bits.
pub(super) const ITEM_BYTES: usize = 30;

/// Lengths of the lists of a column. A list without items is null.
pub(super) struct Lists {
    offsets: Vec<i32>,
    set: Bits,
}

impl Lists {
    pub fn new(lists: usize) -> Self {
        let mut offsets = Vec::with_capacity(lists + 1);
        offsets.push(0);
        Self { offsets, set: Bits::new(0) }
    }

    /// Ends a list after item number `items` of the whole column.
    pub fn end(&mut self, items: usize) {
        let end = i32::try_from(items).expect("a batch holds less than 2^31 list items");
        self.set.push(self.offsets.last().is_some_and(|&start| start < end));
        self.offsets.push(end);
    }

    /// The column: these lists over `items`, one per struct of `list` (a list type).
    pub fn finish(self, list: &DataType, columns: Vec<ArrayRef>) -> ArrayRef {
        let DataType::List(element) = list else { unreachable!("schema.rs makes lists only") };
        let DataType::Struct(fields) = element.data_type() else { unreachable!("schema.rs makes lists of structs only") };
        let items = structs(fields, columns);
        let offsets = OffsetBuffer::new(ScalarBuffer::from(self.offsets));
        Arc::new(ListArray::new(element.clone(), offsets, items, Some(self.set.nulls())))
    }
}

fn structs(fields: &Fields, columns: Vec<ArrayRef>) -> ArrayRef {
    Arc::new(StructArray::new(fields.clone(), columns, None))
}

/// A plain string or binary column that grows by one value at a time.
pub(super) struct Texts {
    bytes: Vec<u8>,
    offsets: Vec<i32>,
    set: Bits,
}

impl Default for Texts {
    fn default() -> Self {
        Self { bytes: Vec::new(), offsets: vec![0], set: Bits::new(0) }
    }
}

impl Texts {
    pub fn push(&mut self, value: Option<&[u8]>) {
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.offsets.push(i32::try_from(self.bytes.len()).expect("a batch holds less than 2 GiB of text"));
        self.set.push(value.is_some());
    }

    fn parts(self) -> (OffsetBuffer<i32>, Buffer, NullBuffer) {
        (OffsetBuffer::new(ScalarBuffer::from(self.offsets)), Buffer::from_vec(self.bytes), self.set.nulls())
    }

    pub fn strings(self) -> ArrayRef {
        let (offsets, bytes, nulls) = self.parts();
        Arc::new(StringArray::new(offsets, bytes, Some(nulls)))
    }

    pub fn binaries(self) -> ArrayRef {
        let (offsets, bytes, nulls) = self.parts();
        Arc::new(BinaryArray::new(offsets, bytes, Some(nulls)))
    }
}

/// Writes one key/value list column, list after list.
pub(super) struct KvLists {
    lists: Lists,
    items: usize,
    keys: Texts,
    strings: Texts,
    longs: Vec<i64>,
    long_set: Bits,
    doubles: Vec<f64>,
    double_set: Bits,
    booleans: Bits,
    boolean_set: Bits,
    others: Texts,
}

impl KvLists {
    pub fn new(lists: usize) -> Self {
        Self {
            lists: Lists::new(lists),
            items: 0,
            keys: Texts::default(),
            strings: Texts::default(),
            longs: Vec::new(),
            long_set: Bits::new(0),
            doubles: Vec::new(),
            double_set: Bits::new(0),
            booleans: Bits::new(0),
            boolean_set: Bits::new(0),
            others: Texts::default(),
        }
    }

    pub fn push(&mut self, key: &[u8], value: Written<'_>) {
        self.items += 1;
        self.keys.push(Some(key));
        self.strings.push(if let Written::String(text) = value { Some(text) } else { None });
        self.others.push(if let Written::Other(raw) = value { Some(raw) } else { None });
        let long = if let Written::Long(n) = value { Some(n) } else { None };
        self.longs.push(long.unwrap_or_default());
        self.long_set.push(long.is_some());
        let double = if let Written::Double(x) = value { Some(x) } else { None };
        self.doubles.push(double.unwrap_or_default());
        self.double_set.push(double.is_some());
        let boolean = if let Written::Boolean(b) = value { Some(b) } else { None };
        self.booleans.push(boolean.unwrap_or_default());
        self.boolean_set.push(boolean.is_some());
    }

    pub fn end_list(&mut self) {
        self.lists.end(self.items);
    }

    pub fn finish(self) -> ArrayRef {
        let columns: Vec<ArrayRef> = vec![
            self.keys.strings(),
            self.strings.strings(),
            Arc::new(Int64Array::new(self.longs.into(), Some(self.long_set.nulls()))),
            Arc::new(Float64Array::new(self.doubles.into(), Some(self.double_set.nulls()))),
            Arc::new(BooleanArray::new(self.booleans.buffer(), Some(self.boolean_set.nulls()))),
            self.others.binaries(),
        ];
        debug_assert_eq!(columns.len(), KV_FIELDS.len());
        self.lists.finish(&kv_list(), columns)
    }
}
