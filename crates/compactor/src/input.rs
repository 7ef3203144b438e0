//! One block as a sorted stream of rows, a row group's bytes at a time. No I/O: who holds it brings the bytes.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use arrow::array::{Array, AsArray, FixedSizeBinaryArray, RecordBatch};
use block::{BlockError, schema};
use bytes::{Buf, Bytes, buf::Reader};
use model::TraceId;
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
    },
    errors::ParquetError,
    file::{
        metadata::ParquetMetaData,
        reader::{ChunkReader, Length},
    },
};

/// The fewest and most rows decoded at a time.
const BATCH_ROWS_MIN: u64 = 64;
const BATCH_ROWS_MAX: u64 = 8192;

/// A stretch of a row group that has to be brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub row_group: usize,
    /// Of the data file, in order.
    pub ranges: Vec<Range<u64>>,
}

/// A block that is read from its first row to its last.
pub struct Input {
    metadata: ArrowReaderMetadata,
    projection: ProjectionMask,
    batch_rows: usize,
    next_row_group: usize,
    reader: Option<ParquetRecordBatchReader>,
    /// Decoded and not yet taken.
    rows: VecDeque<RecordBatch>,
}

impl Input {
    /// `batch_bytes` is about what a decoded batch may take. `columns` chooses columns of the file; `None` takes all.
    pub fn new(
        footer: &Arc<ParquetMetaData>,
        columns: Option<&dyn Fn(&str) -> bool>,
        batch_bytes: u64,
    ) -> Result<Self, BlockError> {
        let metadata = ArrowReaderMetadata::try_new(Arc::clone(footer), ArrowReaderOptions::new())?;
        let projection = match columns {
            None => ProjectionMask::all(),
            Some(chosen) => {
                let roots = metadata.schema().fields().iter().enumerate().filter(|(_, field)| chosen(field.name()));
                ProjectionMask::roots(metadata.parquet_schema(), roots.map(|(at, _)| at))
            }
        };
        let groups = footer.row_groups();
        let rows: i64 = groups.iter().map(|group| group.num_rows()).sum();
        let bytes: i64 = groups.iter().map(|group| group.total_byte_size()).sum();
        // What a file holds as repetitions of a dictionary is a number per row and column in memory.
        let row_bytes = (bytes / rows.max(1)) as u64 + 8 * footer.file_metadata().schema_descr().num_columns() as u64;
        let batch_rows = (batch_bytes / row_bytes.max(1)).clamp(BATCH_ROWS_MIN, BATCH_ROWS_MAX) as usize;
        Ok(Self { metadata, projection, batch_rows, next_row_group: 0, reader: None, rows: VecDeque::new() })
    }

    pub fn arrow_schema(&self) -> &arrow::datatypes::SchemaRef {
        self.metadata.schema()
    }

    /// What has to be brought before more rows can be decoded. `None`: nothing, or all rows are decoded.
    pub fn wanted(&self) -> Option<Wanted> {
        let group = self.metadata.metadata().row_groups().get(self.next_row_group).filter(|_| self.reader.is_none())?;
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (_, column) in group.columns().iter().enumerate().filter(|(leaf, _)| self.projection.leaf_included(*leaf)) {
            let (start, length) = column.byte_range();
            match ranges.last_mut() {
                Some(last) if last.end == start => last.end += length,
                _ => ranges.push(start..start + length),
            }
        }
        Some(Wanted { row_group: self.next_row_group, ranges })
    }

    /// Takes the bytes of what was wanted, range by range.
    pub fn bring(&mut self, wanted: &Wanted, bytes: Vec<Bytes>) -> Result<(), BlockError> {
        assert_eq!(wanted.row_group, self.next_row_group, "row groups are brought in order");
        let parts = wanted.ranges.iter().map(|range| range.start).zip(bytes).collect();
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(Parts(parts), self.metadata.clone())
            .with_row_groups(vec![wanted.row_group])
            .with_projection(self.projection.clone())
            .with_batch_size(self.batch_rows)
            .build()?;
        self.reader = Some(reader);
        self.next_row_group += 1;
        Ok(())
    }

    /// Decodes one more batch. False if there is none in what was brought.
    pub fn decode(&mut self) -> Result<bool, BlockError> {
        let Some(reader) = &mut self.reader else { return Ok(false) };
        match reader.next() {
            Some(batch) => {
                let batch = batch?;
                if batch.num_rows() > 0 {
                    self.rows.push_back(batch);
                }
                Ok(true)
            }
            None => {
                self.reader = None;
                Ok(false)
            }
        }
    }

    /// Whether every row was decoded.
    pub fn ended(&self) -> bool {
        self.reader.is_none() && self.next_row_group >= self.metadata.metadata().num_row_groups()
    }

    pub fn has_rows(&self) -> bool {
        !self.rows.is_empty()
    }

    pub fn last_trace(&self) -> Result<Option<TraceId>, BlockError> {
        self.rows.back().map(|batch| trace_at(trace_ids(batch)?, batch.num_rows() - 1)).transpose()
    }

    /// Takes the decoded rows, in order.
    pub fn take_all(&mut self) -> Vec<RecordBatch> {
        self.rows.drain(..).collect()
    }

    /// Takes the decoded rows of traces below `bound`, in order.
    pub fn take_below(&mut self, bound: &TraceId) -> Result<Vec<RecordBatch>, BlockError> {
        let mut taken = Vec::new();
        while let Some(batch) = self.rows.pop_front() {
            let ids = trace_ids(&batch)?;
            let below = partition_point(ids, bound);
            if below < batch.num_rows() {
                if below > 0 {
                    taken.push(batch.slice(0, below));
                }
                self.rows.push_front(batch.slice(below, batch.num_rows() - below));
                break;
            }
            taken.push(batch);
        }
        Ok(taken)
    }
}

pub(crate) fn trace_ids(batch: &RecordBatch) -> Result<&FixedSizeBinaryArray, BlockError> {
    let ids = batch.column_by_name(schema::TRACE_ID).and_then(|array| array.as_fixed_size_binary_opt());
    ids.filter(|ids| ids.value_length() == 16).ok_or(BlockError::Foreign("it has no trace ids of 16 bytes"))
}

fn trace_at(ids: &FixedSizeBinaryArray, row: usize) -> Result<TraceId, BlockError> {
    TraceId::from_slice(ids.value(row)).ok_or(BlockError::Foreign("it has no trace ids of 16 bytes"))
}

/// How many of the ascending `ids` are below `bound`.
fn partition_point(ids: &FixedSizeBinaryArray, bound: &TraceId) -> usize {
    let (mut low, mut high) = (0, ids.len());
    while low < high {
        let middle = low + (high - low) / 2;
        match ids.value(middle) < &bound.0[..] {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    low
}

/// The brought bytes, by where they begin in the file.
struct Parts(Vec<(u64, Bytes)>);

impl Parts {
    fn from(&self, start: u64) -> Result<Bytes, ParquetError> {
        let found = self.0.iter().find(|(begin, bytes)| (*begin..begin + bytes.len() as u64).contains(&start));
        match found {
            Some((begin, bytes)) => Ok(bytes.slice((start - begin) as usize..)),
            None => Err(ParquetError::General(format!("byte {start} is outside of the row group's columns"))),
        }
    }
}

impl Length for Parts {
    fn len(&self) -> u64 {
        self.0.last().map_or(0, |(begin, bytes)| begin + bytes.len() as u64)
    }
}

impl ChunkReader for Parts {
    type T = Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let bytes = self.from(start)?;
        match length <= bytes.len() {
            true => Ok(bytes.slice(..length)),
            false => Err(ParquetError::General(format!("{length} bytes from byte {start} on reach past the row group"))),
        }
    }
}
