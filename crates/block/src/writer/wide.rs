//! Columns of a row group with values of eight bytes that hardly repeat: times, doubles, ids of parents.
//!
//! Times and doubles are split into streams, the first bytes of all values, then the second ones: the upper bytes repeat,
//! the lower ones are noise. Each stream is packed by itself.

use std::cmp::Ordering;

use arrow::array::{Array, ArrayRef, AsArray, BooleanBufferBuilder};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use parquet::basic::{Encoding, Type};
use parquet::file::metadata::ColumnIndexBuilder;
use parquet::file::properties::EnabledStatistics;
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::schema::types::ColumnDescPtr;

use super::chunk::{Chunk, ChunkWriter, Codec};
use crate::error::BlockError;

/// Bytes of a value.
const WIDTH: usize = 8;
type Value = [u8; WIDTH];

#[derive(Clone, Copy)]
pub(super) enum Wide {
    Long,
    Double,
    /// Without statistics.
    Id,
}

impl Wide {
    /// How values of this type are kept here, if they have eight bytes.
    pub fn of(kind: &DataType) -> Option<Self> {
        match kind {
            DataType::Int64 => Some(Self::Long),
            DataType::Float64 => Some(Self::Double),
            DataType::FixedSizeBinary(8) => Some(Self::Id),
            _ => None,
        }
    }

    fn physical(self) -> Type {
        match self {
            Self::Long => Type::INT64,
            Self::Double => Type::DOUBLE,
            Self::Id => Type::FIXED_LEN_BYTE_ARRAY,
        }
    }

    /// The least and the greatest of the values, but for those that are not numbers. A zero is a bound of both zeros.
    fn bounds(self, values: &[Value]) -> Option<(Value, Value)> {
        let doubles = matches!(self, Self::Double);
        let bounds = |order: fn(&Value, &Value) -> Ordering| {
            let numbers = || values.iter().filter(move |value| !(doubles && double(**value).is_nan()));
            Some((*numbers().min_by(|a, b| order(a, b))?, *numbers().max_by(|a, b| order(a, b))?))
        };
        match self {
            Self::Long => bounds(|a, b| i64::from_le_bytes(*a).cmp(&i64::from_le_bytes(*b))),
            Self::Double => bounds(|a, b| double(*a).total_cmp(&double(*b))).map(|(min, max)| {
                let zero = |value: Value, zero: f64| if double(value) == 0.0 { zero.to_le_bytes() } else { value };
                (zero(min, -0.0), zero(max, 0.0))
            }),
            Self::Id => None,
        }
    }
}

fn double(value: Value) -> f64 {
    f64::from_le_bytes(value)
}

pub(super) struct WideColumn {
    kind: Wide,
    statistics: EnabledStatistics,
    validity: BooleanBufferBuilder,
    /// Of set rows, as Parquet has them: little-endian.
    values: Vec<Value>,
}

impl WideColumn {
    pub fn new(kind: Wide, statistics: EnabledStatistics) -> Self {
        Self { kind, statistics, validity: BooleanBufferBuilder::new(0), values: Vec::new() }
    }

    /// About how many bytes it will have.
    pub fn estimated_bytes(&self) -> usize {
        self.values.len() * WIDTH / 2
    }

    pub fn push(&mut self, array: &ArrayRef) {
        let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
        match nulls {
            None => self.validity.append_n(array.len(), true),
            Some(nulls) => self.validity.append_buffer(nulls.inner()),
        }
        let set = (0..array.len()).filter(|row| nulls.is_none_or(|nulls| nulls.is_valid(*row)));
        match self.kind {
            Wide::Long => {
                let longs = array.as_primitive::<Int64Type>().values();
                self.values.extend(set.map(|row| longs[row].to_le_bytes()));
            }
            Wide::Double => {
                let doubles = array.as_primitive::<Float64Type>().values();
                self.values.extend(set.map(|row| doubles[row].to_le_bytes()));
            }
            Wide::Id => {
                let (ids, _) = array.as_fixed_size_binary().value_data().as_chunks::<WIDTH>();
                self.values.extend(set.map(|row| ids[row]));
            }
        }
    }

    /// The chunk of all rows.
    pub fn finish(mut self, column: ColumnDescPtr, codec: &mut Codec, page_rows: usize) -> Result<Chunk, BlockError> {
        let validity = self.validity.finish();
        let mut chunk = ChunkWriter::new(column, codec);
        // A page of values without bounds cannot be told from one that holds anything: then there is no index.
        let mut index = matches!(self.statistics, EnabledStatistics::Page).then(|| ColumnIndexBuilder::new(self.kind.physical()));
        let mut value = 0;
        let mut streams = Vec::new();
        for row in (0..validity.len()).step_by(page_rows) {
            let here = validity.slice(row, page_rows.min(validity.len() - row));
            let values = &self.values[value..value + here.count_set_bits()];
            match self.kind {
                Wide::Id => chunk.page(here.len(), Some(&here), Encoding::PLAIN, &[values.as_flattened()])?,
                Wide::Long | Wide::Double => {
                    streams.clear();
                    (0..WIDTH).for_each(|byte| streams.extend(values.iter().map(|value| value[byte])));
                    let streams: Vec<&[u8]> = streams.chunks(values.len().max(1)).collect();
                    chunk.page(here.len(), Some(&here), Encoding::BYTE_STREAM_SPLIT, &streams)?;
                }
            }
            index = match (index, self.kind.bounds(values)) {
                (Some(mut index), bounds) if bounds.is_some() || values.is_empty() => {
                    let (min, max) = bounds.map_or_else(Default::default, |(min, max)| (min.to_vec(), max.to_vec()));
                    index.append(values.is_empty(), min, max, (here.len() - values.len()) as i64);
                    Some(index)
                }
                _ => None,
            };
            value += values.len();
        }
        let index = index.map(|index| index.build()).transpose()?;
        chunk.finish(self.statistics(validity.len()), index)
    }

    fn statistics(&self, rows: usize) -> Option<Statistics> {
        let nulls = Some((rows - self.values.len()) as u64);
        let (min, max) = self.kind.bounds(&self.values).unzip();
        match self.kind {
            Wide::Long => {
                let (min, max) = (min.map(i64::from_le_bytes), max.map(i64::from_le_bytes));
                let statistics = ValueStatistics::new(min, max, None, nulls, false);
                Some(Statistics::Int64(statistics.with_backwards_compatible_min_max(true)))
            }
            Wide::Double => {
                let statistics = ValueStatistics::new(min.map(double), max.map(double), None, nulls, false);
                Some(Statistics::Double(statistics.with_backwards_compatible_min_max(true)))
            }
            Wide::Id => None,
        }
    }
}
