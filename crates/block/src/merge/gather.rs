//! Copies rows of several inputs into one column, run by run.

use std::hash::BuildHasher;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, Int32Array, MutableArrayData, StringArray, make_array, new_empty_array,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Int32Type};
use hashbrown::{DefaultHashBuilder, HashTable};

use super::order::Run;
use crate::error::BlockError;
use crate::schema;

/// The rows of `runs` out of `sources`, one source per input. An input without the column gives nulls.
/// All sources have type `data_type`; dictionaries hold only what their rows use, each value once.
pub(super) fn gather(sources: &[Option<ArrayRef>], runs: &[Run], data_type: &DataType) -> Result<ArrayRef, BlockError> {
    if *data_type == schema::dictionary() {
        return gather_dictionary(sources, runs);
    }
    let empty = new_empty_array(data_type).to_data();
    let data: Vec<_> =
        sources.iter().map(|source| source.as_ref().map_or(empty.clone(), |array| array.to_data())).collect();
    let rows = runs.iter().map(|run| run.len).sum();
    let any_missing = sources.iter().any(Option::is_none);
    let mut out = MutableArrayData::new(data.iter().collect(), any_missing, rows);
    for run in runs {
        let copied = match sources[run.batch] {
            Some(_) => out.try_extend(run.batch, run.start, run.start + run.len),
            None => out.try_extend_nulls(run.len),
        };
        copied.map_err(|error| BlockError::TooLarge(error.to_string()))?;
    }
    Ok(make_array(out.freeze()))
}

fn gather_dictionary(sources: &[Option<ArrayRef>], runs: &[Run]) -> Result<ArrayRef, BlockError> {
    const UNKNOWN: i32 = -1;
    struct Source<'a> {
        keys: &'a Int32Array,
        values: &'a StringArray,
        /// Code in the merged dictionary by key here.
        codes: Vec<i32>,
    }
    let mut sources: Vec<Option<Source<'_>>> = sources
        .iter()
        .map(|source| {
            let dictionary = source.as_ref()?.as_dictionary::<Int32Type>();
            let values = dictionary.values().as_string::<i32>();
            Some(Source { keys: dictionary.keys(), values, codes: vec![UNKNOWN; values.len()] })
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
        let range = run.start..run.start + run.len;
        let nulls = source.keys.nulls().filter(|nulls| nulls.null_count() > 0);
        for row in range {
            if nulls.is_some_and(|nulls| nulls.is_null(row)) {
                keys.push(UNKNOWN);
                continue;
            }
            let key = source.keys.value(row) as usize;
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
        let nulls =
            codes.iter().any(|code| *code < 0).then(|| NullBuffer::from_iter(codes.iter().map(|code| *code >= 0)));
        codes.iter_mut().for_each(|code| *code = (*code).max(0));
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
