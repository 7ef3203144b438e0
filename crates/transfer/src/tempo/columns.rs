//! Columns of a Parquet file by name, whatever exact type the writer chose for them.

use std::{borrow::Cow, ops::Range};

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, FixedSizeBinaryArray, Float64Array, Int32Array, Int64Array,
    LargeListArray, ListArray, StringArray, StructArray, UInt32Array, UInt64Array,
};

/// A group of columns.
#[derive(Clone)]
pub(super) struct Group<'a> {
    array: &'a StructArray,
    path: String,
}

impl<'a> Group<'a> {
    pub fn root(array: &'a StructArray) -> Self {
        Self { array, path: String::new() }
    }

    fn column(&self, name: &str) -> Option<&'a ArrayRef> {
        self.array.column_by_name(name)
    }

    fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn other(&self, name: &str, array: &ArrayRef) -> String {
        format!("the column {} has the type {}, which it should not", self.path(name), array.data_type())
    }

    /// The columns in this group.
    pub fn names(&self) -> Vec<String> {
        self.array.fields().iter().map(|field| field.name().clone()).collect()
    }

    pub fn missing(&self, name: &str) -> String {
        format!(
            "the column {} is missing; is this a Tempo block of the format that its meta.json names?",
            self.path(name)
        )
    }

    pub fn group(&self, name: &str) -> Result<Option<Self>, String> {
        let Some(array) = self.column(name) else { return Ok(None) };
        let array_of = array.as_struct_opt().ok_or_else(|| self.other(name, array))?;
        Ok(Some(Self { array: array_of, path: self.path(name) }))
    }

    pub fn list(&self, name: &str) -> Result<Option<List<'a>>, String> {
        let Some(array) = self.column(name) else { return Ok(None) };
        let offsets = if let Some(list) = array.as_any().downcast_ref::<ListArray>() {
            Offsets::Small(list)
        } else if let Some(list) = array.as_any().downcast_ref::<LargeListArray>() {
            Offsets::Large(list)
        } else {
            return Err(self.other(name, array));
        };
        Ok(Some(List { offsets, path: self.path(name) }))
    }

    pub fn texts(&self, name: &str) -> Result<Option<Texts<'a>>, String> {
        let Some(array) = self.column(name) else { return Ok(None) };
        Texts::of(array).map(Some).ok_or_else(|| self.other(name, array))
    }

    pub fn numbers(&self, name: &str) -> Result<Option<Numbers<'a>>, String> {
        let Some(array) = self.column(name) else { return Ok(None) };
        Numbers::of(array).map(Some).ok_or_else(|| self.other(name, array))
    }

    pub fn truths(&self, name: &str) -> Result<Option<&'a BooleanArray>, String> {
        let Some(array) = self.column(name) else { return Ok(None) };
        array.as_boolean_opt().map(Some).ok_or_else(|| self.other(name, array))
    }
}

/// Lists of values or of groups.
#[derive(Clone)]
pub(super) struct List<'a> {
    offsets: Offsets<'a>,
    path: String,
}

#[derive(Clone, Copy)]
enum Offsets<'a> {
    Small(&'a ListArray),
    Large(&'a LargeListArray),
}

impl<'a> List<'a> {
    /// Where the elements of a row stand among all elements.
    pub fn range(&self, row: usize) -> Range<usize> {
        let (begin, end) = match self.offsets {
            Offsets::Small(list) if list.is_null(row) => (0, 0),
            Offsets::Large(list) if list.is_null(row) => (0, 0),
            Offsets::Small(list) => (list.value_offsets()[row] as usize, list.value_offsets()[row + 1] as usize),
            Offsets::Large(list) => (list.value_offsets()[row] as usize, list.value_offsets()[row + 1] as usize),
        };
        begin..end
    }

    pub fn elements(&self) -> &'a ArrayRef {
        match self.offsets {
            Offsets::Small(list) => list.values(),
            Offsets::Large(list) => list.values(),
        }
    }

    pub fn groups(&self) -> Result<Group<'a>, String> {
        let elements = self.elements();
        let array = elements.as_struct_opt();
        let array = array
            .ok_or_else(|| format!("the column {} is no list of groups but of {}", self.path, elements.data_type()))?;
        Ok(Group { array, path: self.path.clone() })
    }
}

/// Texts or bytes.
#[derive(Clone, Copy)]
pub(super) enum Texts<'a> {
    Utf8(&'a StringArray),
    Binary(&'a BinaryArray),
    Fixed(&'a FixedSizeBinaryArray),
}

impl<'a> Texts<'a> {
    pub fn of(array: &'a ArrayRef) -> Option<Self> {
        let any = array.as_any();
        any.downcast_ref()
            .map(Self::Utf8)
            .or_else(|| any.downcast_ref().map(Self::Binary))
            .or_else(|| any.downcast_ref().map(Self::Fixed))
    }

    pub fn bytes(self, row: usize) -> Option<&'a [u8]> {
        match self {
            Self::Utf8(array) => array.is_valid(row).then(|| array.value(row).as_bytes()),
            Self::Binary(array) => array.is_valid(row).then(|| array.value(row)),
            Self::Fixed(array) => array.is_valid(row).then(|| array.value(row)),
        }
    }

    /// Bytes that are no UTF-8 are repaired.
    pub fn text(self, row: usize) -> Option<Cow<'a, str>> {
        self.bytes(row).map(String::from_utf8_lossy)
    }

    pub fn owned(self, row: usize) -> String {
        self.text(row).unwrap_or_default().into_owned()
    }
}

/// Whole numbers. Unsigned ones keep their bits.
#[derive(Clone, Copy)]
pub(super) enum Numbers<'a> {
    Int32(&'a Int32Array),
    Int64(&'a Int64Array),
    UInt32(&'a UInt32Array),
    UInt64(&'a UInt64Array),
}

impl<'a> Numbers<'a> {
    pub fn of(array: &'a ArrayRef) -> Option<Self> {
        let any = array.as_any();
        any.downcast_ref()
            .map(Self::Int64)
            .or_else(|| any.downcast_ref().map(Self::UInt64))
            .or_else(|| any.downcast_ref().map(Self::Int32))
            .or_else(|| any.downcast_ref().map(Self::UInt32))
    }

    pub fn get(self, row: usize) -> Option<i64> {
        match self {
            Self::Int32(array) => array.is_valid(row).then(|| i64::from(array.value(row))),
            Self::Int64(array) => array.is_valid(row).then(|| array.value(row)),
            Self::UInt32(array) => array.is_valid(row).then(|| i64::from(array.value(row))),
            Self::UInt64(array) => array.is_valid(row).then(|| array.value(row) as i64),
        }
    }
}

/// The numbers of a column that may be missing; 0 where it is.
pub(super) fn number(column: Option<Numbers<'_>>, row: usize) -> i64 {
    column.and_then(|column| column.get(row)).unwrap_or(0)
}

/// The texts of a column that may be missing; empty where it is.
pub(super) fn text(column: Option<Texts<'_>>, row: usize) -> String {
    column.map(|column| column.owned(row)).unwrap_or_default()
}

pub(super) fn doubles(array: &ArrayRef) -> Option<&Float64Array> {
    array.as_any().downcast_ref()
}
