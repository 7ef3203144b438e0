//! Columns as a reader of blocks may deliver them: any string type, or missing.

use arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, FixedSizeBinaryArray, Int32Array, Int64Array, RecordBatch, StringArray,
    StringViewArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int32Type, Int64Type};

use crate::error::BlockError;

/// A string column in any of the types a block's strings are read as.
#[derive(Clone, Copy)]
pub(super) enum Strings<'a> {
    Dictionary(&'a DictionaryArray<Int32Type>, &'a StringArray),
    Plain(&'a StringArray),
    View(&'a StringViewArray),
}

impl<'a> Strings<'a> {
    pub fn new(array: &'a ArrayRef) -> Option<Self> {
        if let Some(dictionary) = array.as_dictionary_opt::<Int32Type>() {
            return Some(Self::Dictionary(dictionary, dictionary.values().as_string_opt()?));
        }
        array.as_string_opt().map(Self::Plain).or_else(|| array.as_string_view_opt().map(Self::View))
    }

    pub fn value(&self, row: usize) -> Option<&'a str> {
        match self {
            Self::Dictionary(dictionary, texts) => {
                let key = dictionary.key(row)?;
                texts.is_valid(key).then(|| texts.value(key))
            }
            Self::Plain(texts) => texts.is_valid(row).then(|| texts.value(row)),
            Self::View(texts) => texts.is_valid(row).then(|| texts.value(row)),
        }
    }
}

/// Typed access to the columns of one batch. A missing column is `None`; one of a wrong type is an error.
#[derive(Clone, Copy)]
pub(super) struct Columns<'a>(pub &'a RecordBatch);

impl<'a> Columns<'a> {
    pub fn strings(&self, name: &str) -> Result<Option<Strings<'a>>, BlockError> {
        self.typed(name, Strings::new)
    }

    pub fn longs(&self, name: &str) -> Result<Option<&'a Int64Array>, BlockError> {
        self.typed(name, |array| array.as_primitive_opt::<Int64Type>())
    }

    pub fn integers(&self, name: &str) -> Result<Option<&'a Int32Array>, BlockError> {
        self.typed(name, |array| array.as_primitive_opt::<Int32Type>())
    }

    pub fn ids(&self, name: &str) -> Result<Option<&'a FixedSizeBinaryArray>, BlockError> {
        self.typed(name, |array| array.as_fixed_size_binary_opt())
    }

    /// A view of a list column, which is converted to `data_type` first if its strings have another type.
    pub fn list<T>(
        &self,
        name: &str,
        data_type: &DataType,
        view: impl Fn(&ArrayRef) -> Option<T>,
    ) -> Result<Option<T>, BlockError> {
        let viewed = match self.0.column_by_name(name) {
            None => return Ok(None),
            Some(array) if array.data_type() == data_type => view(array),
            Some(array) => view(&cast(array, data_type)?),
        };
        viewed.map(Some).ok_or_else(|| BlockError::column(name, "has an unexpected type"))
    }

    pub fn typed<T>(&self, name: &str, typed: impl Fn(&'a ArrayRef) -> Option<T>) -> Result<Option<T>, BlockError> {
        match self.0.column_by_name(name) {
            None => Ok(None),
            Some(array) => match typed(array) {
                Some(typed) => Ok(Some(typed)),
                None => Err(BlockError::column(name, "has an unexpected type")),
            },
        }
    }
}
