//! Writes a block: the Parquet file and its sidecar.
//!
//! Invariants: rows are sorted by trace id; a trace never spans two row groups; the columns
//! of all batches are the same. Bytes out, no I/O: the block is built in memory, a few tens of bytes per span.

mod chunk;
mod columns;
mod numbers;
mod row_group;
mod text;
mod wide;

use arrow::array::{Array, AsArray, RecordBatch, new_null_array};
use arrow::datatypes::{Int64Type, SchemaRef};
use bytes::Bytes;
use model::TraceId;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowRowGroupWriterFactory, ArrowWriterOptions};
use parquet::file::metadata::KeyValue;
use parquet::file::writer::SerializedFileWriter;
use ulid::Ulid;

use crate::batch::SpanBatch;
use crate::error::BlockError;
use crate::schema;
use crate::sidecar::{self, Contents};
use crate::stats::BlockStats;
use crate::whole_trace;
use chunk::Codec;
use row_group::RowGroup;

/// The version of the data file, in its footer. Raised when older programs would misread a file.
const VERSION: &str = "1";

/// How blocks are written. The defaults are measured; see `docs/block-format.md`.
#[derive(Clone, Debug, PartialEq)]
pub struct WriterOptions {
    /// 1 to 22; 0 leaves the pages as they are. Level 6 saves 5 % over 1 at twice the CPU, 15 saves 8 % at nine times.
    pub zstd_level: i32,
    /// A row group is closed before the trace that would take it past this many rows.
    pub row_group_rows: usize,
    /// The most rows of a page of ids and times, which hardly pack: the least that is decoded for one trace.
    pub page_rows: usize,
    /// The most rows of a page of everything else, which packs the better the more there is of it.
    pub packed_page_rows: usize,
    /// Length of the time windows that blocks belong to.
    pub window_nano: i64,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self { zstd_level: 1, row_group_rows: 100_000, page_rows: 7_500, packed_page_rows: 50_000, window_nano: 3_600_000_000_000 }
    }
}

/// A finished block, ready to be stored.
#[derive(Clone, Debug)]
pub struct EncodedBlock {
    pub id: Ulid,
    /// The Parquet file.
    pub data: Bytes,
    pub sidecar: Bytes,
    pub stats: BlockStats,
}

/// Writes one batch as a block with a new id, without columns that hold nothing.
pub fn encode(batch: &SpanBatch, options: &WriterOptions) -> Result<EncodedBlock, BlockError> {
    let set: Vec<usize> = (0..batch.records.num_columns())
        .filter(|at| {
            let field = batch.records.schema_ref().field(*at);
            !field.is_nullable() || batch.records.column(*at).null_count() < batch.records.num_rows()
        })
        .collect();
    let records = batch.records.project(&set)?;
    let mut writer = BlockWriter::new(Ulid::new(), records.schema(), options.clone());
    writer.write(&records)?;
    writer.finish()
}

/// The data file under construction.
struct File {
    writer: SerializedFileWriter<Vec<u8>>,
    factory: ArrowRowGroupWriterFactory,
    codec: Codec,
    row_group: Option<RowGroup>,
}

impl File {
    fn write(&mut self, records: &RecordBatch) -> Result<(), BlockError> {
        let row_group = match &mut self.row_group {
            Some(row_group) => row_group,
            none => none.insert(RowGroup::new(&self.writer, &self.factory, records.schema())?),
        };
        row_group.write(records)
    }

    /// Ends the row group.
    fn flush(&mut self, options: &WriterOptions) -> Result<(), BlockError> {
        match self.row_group.take() {
            Some(row_group) => row_group.finish(&mut self.writer, &mut self.codec, options),
            None => Ok(()),
        }
    }
}

/// Writes a block in several steps.
pub struct BlockWriter {
    id: Ulid,
    schema: SchemaRef,
    options: WriterOptions,
    /// Made with the first batch, which tells the window.
    file: Option<File>,
    rows_in_group: usize,
    last_trace: Option<TraceId>,
    contents: Contents,
}

impl BlockWriter {
    /// A writer of batches with this schema: `schema::FIXED_FIELDS`, of which nullable ones may be left out, and
    /// attribute columns.
    pub fn new(id: Ulid, schema: SchemaRef, options: WriterOptions) -> Self {
        Self { id, schema, options, file: None, rows_in_group: 0, last_trace: None, contents: Contents::default() }
    }

    /// Adds whole traces, all of them after those already written. Columns that the block does not have are left
    /// out: they must be empty.
    pub fn write(&mut self, records: &RecordBatch) -> Result<(), BlockError> {
        if records.num_rows() == 0 {
            return Ok(());
        }
        let records = self.conform(records)?;
        let trace_ids = records
            .column_by_name(schema::TRACE_ID)
            .and_then(|array| array.as_fixed_size_binary_opt())
            .ok_or_else(|| BlockError::column(schema::TRACE_ID, "is missing or not of 16 bytes"))?;
        self.contents.add(&records)?;
        let mut begin = 0;
        for trace in whole_trace::trace_ranges(trace_ids) {
            let id = TraceId::from_slice(trace_ids.value(trace.start)).expect("checked by Contents: 16 bytes");
            if self.last_trace.is_some_and(|last| last >= id) {
                return Err(BlockError::Order(id));
            }
            self.last_trace = Some(id);
            if self.rows_in_group > 0 && self.rows_in_group + trace.len() > self.options.row_group_rows {
                self.write_rows(&records, begin, trace.start)?;
                let options = self.options.clone();
                self.file(&records)?.flush(&options)?;
                begin = trace.start;
                self.rows_in_group = 0;
            }
            self.rows_in_group += trace.len();
        }
        self.write_rows(&records, begin, records.num_rows())
    }

    /// Bytes of the file so far, about.
    pub fn size_bytes(&self) -> usize {
        self.file.as_ref().map_or(0, |file| {
            file.writer.bytes_written() + file.row_group.as_ref().map_or(0, RowGroup::estimated_bytes)
        })
    }

    /// Ends the block. An error if nothing was written.
    pub fn finish(self) -> Result<EncodedBlock, BlockError> {
        let mut file = self.file.ok_or(BlockError::Empty)?;
        file.flush(&self.options)?;
        let data = Bytes::from(file.writer.into_inner()?);
        let (sidecar, stats) = sidecar::encode(&data, self.contents)?;
        Ok(EncodedBlock { id: self.id, data, sidecar, stats })
    }

    /// The batch with the block's columns in the block's order.
    fn conform(&self, records: &RecordBatch) -> Result<RecordBatch, BlockError> {
        for (field, array) in records.schema_ref().fields().iter().zip(records.columns()) {
            if self.schema.column_with_name(field.name()).is_none() && array.null_count() < array.len() {
                return Err(BlockError::column(field.name(), "has values, but the block has no such column"));
            }
        }
        let columns = self.schema.fields().iter().map(|field| match records.column_by_name(field.name()) {
            Some(array) => Ok(array.clone()),
            None if field.is_nullable() => Ok(new_null_array(field.data_type(), records.num_rows())),
            None => Err(BlockError::column(field.name(), "is missing in the batch")),
        });
        Ok(RecordBatch::try_new(self.schema.clone(), columns.collect::<Result<_, BlockError>>()?)?)
    }

    fn write_rows(&mut self, records: &RecordBatch, begin: usize, end: usize) -> Result<(), BlockError> {
        if begin < end {
            self.file(records)?.write(&records.slice(begin, end - begin))?;
        }
        Ok(())
    }

    fn file(&mut self, first: &RecordBatch) -> Result<&mut File, BlockError> {
        if self.file.is_none() {
            let window = self.window_start(first)?;
            let mark = |key: &str, value: String| KeyValue { key: key.into(), value: Some(value) };
            let properties = columns::properties(first.schema_ref(), &self.options)?
                .set_key_value_metadata(Some(vec![
                    mark(sidecar::KEY_VERSION, VERSION.into()),
                    mark(sidecar::KEY_BLOCK_ID, self.id.to_string()),
                    mark(sidecar::KEY_WINDOW_START, window.to_string()),
                ]))
                .build();
            let options = ArrowWriterOptions::new().with_properties(properties);
            let arrow = ArrowWriter::try_new_with_options(Vec::new(), self.schema.clone(), options)?;
            let (writer, factory) = arrow.into_serialized_writer()?;
            let codec = Codec::new(self.options.zstd_level)?;
            self.file = Some(File { writer, factory, codec, row_group: None });
        }
        Ok(self.file.as_mut().expect("made above"))
    }

    /// The window of the earliest trace of the first batch; all traces of a block share it.
    fn window_start(&self, first: &RecordBatch) -> Result<i64, BlockError> {
        let starts = first.column_by_name(schema::TRACE_START).and_then(|a| a.as_primitive_opt::<Int64Type>());
        let starts = starts.ok_or_else(|| BlockError::column(schema::TRACE_START, "is missing or not of type long"))?;
        let earliest = starts.values().iter().min().copied().unwrap_or_default();
        let window = self.options.window_nano.max(1);
        Ok(earliest.div_euclid(window).saturating_mul(window))
    }
}
