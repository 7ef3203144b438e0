//! Copies rows of several inputs into one column, run by run.

use std::hash::BuildHasher;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, DictionaryArray, FixedSizeBinaryArray, Int32Array, MutableArrayData,
    PrimitiveArray, StringArray, make_array, new_empty_array, new_null_array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type};
use hashbrown::{DefaultHashBuilder, HashTable};

use super::order::Run;
use crate::error::BlockError;
use crate::schema;

/// The rows of `runs` out of `sources`, one source per input. An input without the column gives nulls.
/// All sources have type `data_type`; dictionaries hold only what their rows use, each value once.
///
/// Rows of a trace come from several inputs, so runs are a few rows long, and there are many: each kind of column has a loop
/// of its own, and columns without a value are not looked at.
pub(super) fn gather(sources: &[Option<ArrayRef>], runs: &[Run], data_type: &DataType) -> Result<ArrayRef, BlockError> {
    if *data_type == schema::dictionary() {
        return gather_dictionary(sources, runs);
    }
    let rows = runs.iter().map(|run| run.len).sum();
    if sources.iter().flatten().all(|source| source.null_count() == source.len()) {
        return Ok(new_null_array(data_type, rows));
    }
    Ok(match data_type {
        DataType::Int32 => primitive::<Int32Type>(sources, runs, rows),
        DataType::Int64 => primitive::<Int64Type>(sources, runs, rows),
        DataType::Float64 => primitive::<Float64Type>(sources, runs, rows),
        DataType::FixedSizeBinary(width) => fixed_size(sources, runs, rows, *width),
        _ => return gather_any(sources, runs, rows, data_type),
    })
}

fn primitive<T: ArrowPrimitiveType>(sources: &[Option<ArrayRef>], runs: &[Run], rows: usize) -> ArrayRef {
    let values: Vec<Option<&[T::Native]>> =
        sources.iter().map(|source| Some(&source.as_ref()?.as_primitive::<T>().values()[..])).collect();
    let mut out: Vec<T::Native> = Vec::with_capacity(rows);
    for run in runs {
        match values[run.batch] {
            Some(values) => out.extend_from_slice(&values[run.start..run.start + run.len]),
            None => out.resize(out.len() + run.len, T::Native::default()),
        }
    }
    Arc::new(PrimitiveArray::<T>::new(out.into(), validity(sources, runs, rows)))
}

fn fixed_size(sources: &[Option<ArrayRef>], runs: &[Run], rows: usize, width: i32) -> ArrayRef {
    let values: Vec<Option<&[u8]>> =
        sources.iter().map(|source| Some(source.as_ref()?.as_fixed_size_binary().value_data())).collect();
    let bytes = width as usize;
    let mut out: Vec<u8> = Vec::with_capacity(rows * bytes);
    for run in runs {
        match values[run.batch] {
            Some(values) => out.extend_from_slice(&values[run.start * bytes..(run.start + run.len) * bytes]),
            None => out.resize(out.len() + run.len * bytes, 0),
        }
    }
    Arc::new(FixedSizeBinaryArray::new(width, Buffer::from_vec(out), validity(sources, runs, rows)))
}

/// Which rows are set. `None`: all.
fn validity(sources: &[Option<ArrayRef>], runs: &[Run], rows: usize) -> Option<NullBuffer> {
    if sources.iter().all(|source| source.as_ref().is_some_and(|array| array.null_count() == 0)) {
        return None;
    }
    let mut set = vec![0u8; rows.div_ceil(8)];
    let mut at = 0;
    for run in runs {
        match sources[run.batch].as_ref().map(|array| array.nulls()) {
            None => {}
            Some(nulls) => {
                for row in 0..run.len {
                    let valid = nulls.is_none_or(|nulls| nulls.is_valid(run.start + row));
                    set[(at + row) / 8] |= u8::from(valid) << ((at + row) % 8);
                }
            }
        }
        at += run.len;
    }
    Some(NullBuffer::new(BooleanBuffer::new(set.into(), 0, rows)))
}

/// Columns of any type. Rows that are not set, which most are in a column that comes here, are not copied one by one.
fn gather_any(
    sources: &[Option<ArrayRef>],
    runs: &[Run],
    rows: usize,
    data_type: &DataType,
) -> Result<ArrayRef, BlockError> {
    let empty = new_empty_array(data_type).to_data();
    let data: Vec<_> =
        sources.iter().map(|source| source.as_ref().map_or(empty.clone(), |array| array.to_data())).collect();
    let may_be_null = sources.iter().any(|source| source.as_ref().is_none_or(|array| array.null_count() > 0));
    let mut out = MutableArrayData::new(data.iter().collect(), may_be_null, rows);
    let too_large = |error: arrow::error::ArrowError| BlockError::TooLarge(error.to_string());
    let mut nulls = 0;
    for run in runs {
        let Some(source) = &sources[run.batch] else {
            nulls += run.len;
            continue;
        };
        let end = run.start + run.len;
        let mut row = run.start;
        while row < end {
            if source.is_null(row) {
                nulls += 1;
                row += 1;
                continue;
            }
            let set = (row..end).take_while(|row| source.is_valid(*row)).count();
            if nulls > 0 {
                out.try_extend_nulls(std::mem::take(&mut nulls)).map_err(too_large)?;
            }
            out.try_extend(run.batch, row, row + set).map_err(too_large)?;
            row += set;
        }
    }
    if nulls > 0 {
        out.try_extend_nulls(nulls).map_err(too_large)?;
    }
    Ok(make_array(out.freeze()))
}

fn gather_dictionary(sources: &[Option<ArrayRef>], runs: &[Run]) -> Result<ArrayRef, BlockError> {
    const UNKNOWN: i32 = -1;
    struct Source<'a> {
        keys: &'a [i32],
        nulls: Option<&'a NullBuffer>,
        values: &'a StringArray,
        /// Code in the merged dictionary by key here.
        codes: Vec<i32>,
    }
    let mut sources: Vec<Option<Source<'_>>> = sources
        .iter()
        .map(|source| {
            let dictionary = source.as_ref()?.as_dictionary::<Int32Type>();
            let values = dictionary.values().as_string::<i32>();
            let keys = dictionary.keys();
            let nulls = keys.nulls().filter(|nulls| nulls.null_count() > 0);
            // A column without a value has nothing to give.
            (keys.null_count() < keys.len())
                .then(|| Source { keys: keys.values(), nulls, values, codes: vec![UNKNOWN; values.len()] })
        })
        .collect();
    let rows = runs.iter().map(|run| run.len).sum();
    let mut keys: Vec<i32> = Vec::with_capacity(rows);
    let mut dictionary = Dictionary::default();
    for run in runs {
        let Some(source) = &mut sources[run.batch] else {
            keys.resize(keys.len() + run.len, UNKNOWN);
            continue;
        };
        for row in run.start..run.start + run.len {
            if source.nulls.is_some_and(|nulls| nulls.is_null(row)) {
                keys.push(UNKNOWN);
                continue;
            }
            let key = source.keys[row] as usize;
            if source.codes[key] == UNKNOWN {
                source.codes[key] = dictionary.code(source.values.value(key))?;
            }
            keys.push(source.codes[key]);
        }
    }
    dictionary.finish(keys)
}

/// Distinct texts, numbered in order of first appearance.
#[derive(Default)]
pub(super) struct Dictionary {
    texts: Texts,
    table: HashTable<(u64, i32)>,
    hasher: DefaultHashBuilder,
}

impl Dictionary {
    pub fn code(&mut self, text: &str) -> Result<i32, BlockError> {
        let hash = self.hasher.hash_one(text);
        let texts = &self.texts;
        if let Some((_, code)) =
            self.table.find(hash, |(other, code)| *other == hash && texts.get(*code as usize) == text.as_bytes())
        {
            return Ok(*code);
        }
        let code = self.texts.len() as i32;
        self.texts.push(text.as_bytes())?;
        self.table.insert_unique(hash, (hash, code), |(hash, _)| *hash);
        Ok(code)
    }

    /// The column with these codes; negative ones are null.
    pub fn finish(self, mut codes: Vec<i32>) -> Result<ArrayRef, BlockError> {
        let mut any_null = false;
        let mut set = vec![0u8; codes.len().div_ceil(8)];
        for (codes, set) in codes.chunks_mut(8).zip(&mut set) {
            for (at, code) in codes.iter_mut().enumerate() {
                *set |= u8::from(*code >= 0) << at;
                any_null |= *code < 0;
                *code = (*code).max(0);
            }
        }
        let nulls = any_null.then(|| NullBuffer::new(BooleanBuffer::new(set.into(), 0, codes.len())));
        let (offsets, bytes) = self.texts.into_buffers();
        let values = StringArray::new(offsets, bytes, None);
        Ok(Arc::new(DictionaryArray::try_new(Int32Array::new(codes.into(), nulls), Arc::new(values))?))
    }
}

/// Variable-length values end to end, at most 2 GiB.
pub(super) struct Texts {
    bytes: Vec<u8>,
    offsets: Vec<i32>,
}

impl Default for Texts {
    fn default() -> Self {
        Self { bytes: Vec::new(), offsets: vec![0] }
    }
}

impl Texts {
    pub fn push(&mut self, value: &[u8]) -> Result<(), BlockError> {
        self.bytes.extend_from_slice(value);
        let end = i32::try_from(self.bytes.len())
            .map_err(|_| BlockError::TooLarge("over 2 GiB of text in one column".into()))?;
        self.offsets.push(end);
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    fn get(&self, at: usize) -> &[u8] {
        &self.bytes[self.offsets[at] as usize..self.offsets[at + 1] as usize]
    }

    pub fn into_buffers(self) -> (OffsetBuffer<i32>, Buffer) {
        (OffsetBuffer::new(ScalarBuffer::from(self.offsets)), Buffer::from_vec(self.bytes))
    }
}
