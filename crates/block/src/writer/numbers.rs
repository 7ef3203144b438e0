//! Integer columns of a row group whose values repeat: kinds, status codes, places in the trace, long attributes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use arrow::array::{Array, ArrayRef, AsArray, BooleanBufferBuilder, Int32Array, Int64Array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type};
use parquet::arrow::arrow_writer::{ArrowColumnWriter, compute_leaves};
use parquet::basic::{Encoding, Type};
use parquet::file::metadata::ColumnIndexBuilder;
use parquet::file::properties::EnabledStatistics;
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::file::writer::SerializedRowGroupWriter;
use parquet::schema::types::ColumnDescPtr;

use super::chunk::{ChunkWriter, Codec, pack};
use crate::error::BlockError;

/// A dictionary of more values is not made: their codes would have more than two bytes.
const DISTINCT_MAX: usize = 1 << 16;
/// So many values from the smallest to the largest are told apart by a table, more by hashing.
const SPREAD_MAX: u64 = 1 << 16;
const UNKNOWN: u32 = u32::MAX;

pub(super) struct NumberColumn {
    wide: bool,
    statistics: EnabledStatistics,
    validity: BooleanBufferBuilder,
    /// Of set rows.
    values: Vec<i64>,
    /// Takes the values if a dictionary does not pay.
    otherwise: ArrowColumnWriter,
}

impl NumberColumn {
    pub fn new(kind: &DataType, statistics: EnabledStatistics, otherwise: ArrowColumnWriter) -> Self {
        let wide = *kind == DataType::Int64;
        Self { wide, statistics, validity: BooleanBufferBuilder::new(0), values: Vec::new(), otherwise }
    }

    /// About how many bytes it will have.
    pub fn estimated_bytes(&self) -> usize {
        self.values.len()
    }

    pub fn push(&mut self, array: &ArrayRef) {
        match array.nulls().filter(|nulls| nulls.null_count() > 0) {
            None => self.validity.append_n(array.len(), true),
            Some(nulls) => self.validity.append_buffer(nulls.inner()),
        }
        if self.wide {
            set_values(array.as_primitive::<Int64Type>().values(), array.nulls(), |n| n, &mut self.values);
        } else {
            set_values(array.as_primitive::<Int32Type>().values(), array.nulls(), i64::from, &mut self.values);
        }
    }

    /// Writes the chunk of all rows.
    pub fn finish(
        mut self,
        field: &Field,
        column: ColumnDescPtr,
        codec: &mut Codec,
        page_rows: usize,
        row_group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    ) -> Result<(), BlockError> {
        let validity = self.validity.finish();
        let Some(Coded { codes, distinct }) = Coded::of(&self.values) else {
            let array = self.array(NullBuffer::new(validity));
            for leaf in compute_leaves(field, &array)? {
                self.otherwise.write(&leaf)?;
            }
            return Ok(self.otherwise.close()?.append_to_row_group(row_group)?);
        };
        let mut chunk = ChunkWriter::new(column, codec);
        let plain = distinct.iter().flat_map(|n| n.to_le_bytes().into_iter().take(self.value_bytes())).collect();
        chunk.dictionary(plain, distinct.len())?;
        let kind = if self.wide { Type::INT64 } else { Type::INT32 };
        let mut index = ColumnIndexBuilder::new(kind);
        let (mut value, mut page) = (0, Vec::new());
        for row in (0..validity.len()).step_by(page_rows) {
            let here = validity.slice(row, page_rows.min(validity.len() - row));
            let set = value..value + here.count_set_bits();
            page.clear();
            pack(&codes[set.clone()], distinct.len(), &mut page);
            chunk.page(here.len(), Some(&here), Encoding::RLE_DICTIONARY, &[&page])?;
            let values = &self.values[set.clone()];
            let bytes = |bound: Option<&i64>| bound.map_or(Vec::new(), |n| n.to_le_bytes()[..self.value_bytes()].to_vec());
            let nulls = (here.len() - set.len()) as i64;
            index.append(set.is_empty(), bytes(values.iter().min()), bytes(values.iter().max()), nulls);
            value = set.end;
        }
        let statistics = (self.statistics != EnabledStatistics::None).then(|| self.statistics(validity.len()));
        let index = (self.statistics == EnabledStatistics::Page).then(|| index.build()).transpose()?;
        chunk.finish(statistics, index)?.append_to(row_group)
    }

    fn value_bytes(&self) -> usize {
        if self.wide { 8 } else { 4 }
    }

    fn statistics(&self, rows: usize) -> Statistics {
        let (min, max) = (self.values.iter().min().copied(), self.values.iter().max().copied());
        let nulls = Some((rows - self.values.len()) as u64);
        match self.wide {
            true => {
                let statistics = ValueStatistics::new(min, max, None, nulls, false);
                Statistics::Int64(statistics.with_backwards_compatible_min_max(true))
            }
            false => {
                let narrow = |n: Option<i64>| n.map(|n| n as i32);
                let statistics = ValueStatistics::new(narrow(min), narrow(max), None, nulls, false);
                Statistics::Int32(statistics.with_backwards_compatible_min_max(true))
            }
        }
    }

    fn array(&self, nulls: NullBuffer) -> ArrayRef {
        let mut dense = vec![0; nulls.len()];
        nulls.valid_indices().zip(&self.values).for_each(|(row, value)| dense[row] = *value);
        match self.wide {
            true => std::sync::Arc::new(Int64Array::new(dense.into(), Some(nulls))),
            false => {
                let dense: Vec<i32> = dense.into_iter().map(|n| n as i32).collect();
                std::sync::Arc::new(Int32Array::new(dense.into(), Some(nulls)))
            }
        }
    }
}

fn set_values<T: Copy>(all: &[T], nulls: Option<&NullBuffer>, widen: impl Fn(T) -> i64, out: &mut Vec<i64>) {
    match nulls.filter(|nulls| nulls.null_count() > 0) {
        None => out.extend(all.iter().map(|n| widen(*n))),
        Some(nulls) => out.extend(nulls.valid_indices().map(|row| widen(all[row]))),
    }
}

/// Values as numbers of their distinct ones, which are numbered in order of first appearance.
struct Coded {
    codes: Vec<u32>,
    distinct: Vec<i64>,
}

impl Coded {
    /// `None` if there are too many, or more than half as many as values.
    fn of(values: &[i64]) -> Option<Self> {
        let (min, max) = (*values.iter().min()?, *values.iter().max()?);
        let distinct_max = DISTINCT_MAX.min(values.len() / 2).max(64);
        let mut coded = Self { codes: Vec::with_capacity(values.len()), distinct: Vec::new() };
        let spread = max.wrapping_sub(min) as u64;
        if spread < SPREAD_MAX {
            let mut table = vec![UNKNOWN; spread as usize + 1];
            for value in values {
                let code = &mut table[value.wrapping_sub(min) as usize];
                if *code == UNKNOWN {
                    *code = coded.distinct.len() as u32;
                    coded.distinct.push(*value);
                }
                coded.codes.push(*code);
            }
        } else {
            let mut table: HashMap<i64, u32, hashbrown::DefaultHashBuilder> = HashMap::default();
            for value in values {
                let code = match table.entry(*value) {
                    Entry::Occupied(known) => *known.get(),
                    Entry::Vacant(new) => {
                        coded.distinct.push(*value);
                        *new.insert(coded.distinct.len() as u32 - 1)
                    }
                };
                if coded.distinct.len() > distinct_max {
                    return None;
                }
                coded.codes.push(code);
            }
        }
        (coded.distinct.len() <= distinct_max).then_some(coded)
    }
}
