//! Reads rows of one source: a batch in memory, or a block.
//!
//! A block is read a row group at a time. The writer never lets a trace cross a row group, so every unit
//! holds its traces whole, and units can be read and evaluated side by side.

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, BooleanBufferBuilder, RecordBatch, RecordBatchOptions, UInt32Array},
    buffer::BooleanBuffer,
    compute::{concat_batches, filter_record_batch, take_record_batch},
    datatypes::{Schema, SchemaRef},
    error::ArrowError,
};
use block::schema;
use bytes::Bytes;
use datafusion::physical_expr::PhysicalExpr;
use futures::{FutureExt, TryStreamExt, future::BoxFuture};
use model::TraceId;
use parquet::{
    arrow::{
        ParquetRecordBatchStreamBuilder, ProjectionMask,
        arrow_reader::{
            ArrowPredicate, ArrowPredicateFn, ArrowReaderMetadata, ArrowReaderOptions, RowFilter, RowSelection,
        },
        async_reader::{AsyncFileReader, ParquetRecordBatchStream},
    },
    errors::ParquetError,
    file::{metadata::{ColumnChunkMetaData, ParquetMetaData}, page_index::column_index::ColumnIndexMetaData},
};
use storage::OpenBlock;
use ulid::Ulid;

use crate::{
    columns::{ColumnCache, ColumnKey},
    layout::Layout,
    predicate::Predicate,
    prune,
    reads::Reads,
    request::QueryError,
    time_limit::ROWS_UNCHECKED_MAX,
    trace_index::{TraceIndex, rows_of},
};

/// Rows decoded at a time. Large enough that per-batch work vanishes, small enough to stay in cache.
const BATCH_ROWS: usize = 16_384;

/// A block opened for reading rows.
pub struct BlockReader {
    pub block: Arc<OpenBlock>,
    metadata: ArrowReaderMetadata,
    pub layout: Layout,
    cache: ColumnCache,
}

/// What to read.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// Only rows for which this holds.
    pub predicate: Option<Predicate>,
    /// Only rows of these traces, ascending.
    pub traces: Option<Arc<Vec<TraceId>>>,
    /// Columns to return; those a source does not have are left out. `None` returns all.
    pub columns: Option<Vec<String>>,
}

impl Scan {
    /// The columns it looks at; `None` if it returns all.
    fn needed(&self) -> Option<BTreeSet<&str>> {
        let mut needed: BTreeSet<&str> = self.columns.as_ref()?.iter().map(String::as_str).collect();
        needed.extend(self.predicate.iter().flat_map(|p| p.columns.iter().map(String::as_str)));
        if self.traces.is_some() {
            needed.insert(schema::TRACE_ID);
        }
        Some(needed)
    }

    /// The columns of a batch that it looks at.
    pub fn needed_of(&self, records: &RecordBatch) -> Result<RecordBatch, QueryError> {
        match self.needed() {
            Some(names) => project(records, names.into_iter()),
            None => Ok(records.clone()),
        }
    }
}

impl BlockReader {
    pub fn new(block: Arc<OpenBlock>, cache: ColumnCache) -> Result<Self, QueryError> {
        let footer = Arc::clone(&block.sidecar().footer);
        let id = block.entry().id;
        let metadata = ArrowReaderMetadata::try_new(footer, ArrowReaderOptions::new())
            .map_err(|e| QueryError::new(model::ErrorKind::Corrupt, format!("block {id} cannot be read: {e}")).of_block(id))?;
        let layout = Layout { schema: Arc::clone(metadata.schema()), catalogue: Arc::clone(&block.sidecar().catalogue) };
        Ok(Self { block, metadata, layout, cache })
    }

    /// The row groups that can hold rows for `scan`, in file order.
    pub fn row_groups(&self, scan: &Scan, reads: &Reads) -> Result<Vec<usize>, QueryError> {
        let all = self.metadata.metadata().num_row_groups();
        let mut keep = match &scan.predicate {
            Some(predicate) => prune::row_groups(predicate, &self.layout.schema, self.metadata.metadata())?,
            None => vec![true; all],
        };
        if let Some(traces) = &scan.traces {
            let ranges = prune::trace_ranges(self.metadata.metadata(), self.trace_id_column());
            for (kept, range) in keep.iter_mut().zip(ranges) {
                *kept &= range.is_none_or(|(low, high)| any_within(traces, &low, &high));
            }
        }
        reads.trail.row_groups.fetch_add(all as u64, Ordering::Relaxed);
        reads.trail.row_groups_pruned.fetch_add(keep.iter().filter(|k| !**k).count() as u64, Ordering::Relaxed);
        Ok((0..all).filter(|i| keep[*i]).collect())
    }

    pub fn rows(&self, row_group: usize) -> u64 {
        self.metadata.metadata().row_group(row_group).num_rows() as u64
    }

    /// About what it takes to read a row group: the columns that `scan` looks at, decoded.
    pub fn memory_bytes(&self, row_group: usize, scan: &Scan) -> u64 {
        let wanted = |name: &str| {
            let filtered = scan.predicate.as_ref().is_some_and(|p| p.columns.contains(name));
            filtered || scan.columns.as_ref().is_none_or(|columns| columns.iter().any(|c| c == name))
        };
        let row_group = self.metadata.metadata().row_group(row_group);
        let sizes = row_group.columns().iter().filter(|chunk| chunk.column_path().parts().first().is_some_and(|root| wanted(root)));
        sizes.map(|chunk| u64::try_from(chunk.uncompressed_size()).unwrap_or(0)).sum()
    }

    /// The rows of one row group, in order.
    pub async fn read(&self, row_group: usize, scan: &Scan, reads: &Arc<Reads>) -> Result<RecordBatch, QueryError> {
        if let Some(whole) = self.whole(row_group, scan, reads).await? {
            return read_memory(&whole, scan, reads);
        }
        reads.go_on()?;
        let mut conjuncts: Vec<Box<dyn ArrowPredicate>> = vec![];
        let file = BlockFile { block: Arc::clone(&self.block), footer: Arc::clone(self.metadata.metadata()), reads: Arc::clone(reads) };
        let mut builder = ParquetRecordBatchStreamBuilder::new_with_metadata(file, self.metadata.clone())
            .with_row_groups(vec![row_group])
            .with_batch_size(BATCH_ROWS);
        if let Some(traces) = &scan.traces {
            if let Some(selection) = self.pages_of(row_group, traces) {
                builder = builder.with_row_selection(selection);
            }
            conjuncts.push(self.trace_filter(Arc::clone(traces)));
        }
        if let Some(predicate) = &scan.predicate {
            for conjunct in predicate.conjuncts() {
                conjuncts.push(self.row_filter(&conjunct, reads)?);
            }
        }
        let projection = match &scan.columns {
            Some(columns) => self.mask(columns.iter().map(String::as_str)),
            None => ProjectionMask::all(),
        };
        let stream = builder
            .with_projection(projection)
            .with_row_filter(RowFilter::new(conjuncts))
            .build()
            .map_err(|e| self.failed(e))?;
        let schema = Arc::clone(stream.schema());
        let batches = self.collect(stream, reads).await?;
        reads.spans.fetch_add(self.rows(row_group), Ordering::Relaxed);
        concat_batches(&schema, &batches).map_err(QueryError::internal)
    }

    async fn collect(&self, mut stream: ParquetRecordBatchStream<BlockFile>, reads: &Reads) -> Result<Vec<RecordBatch>, QueryError> {
        let mut batches = vec![];
        while let Some(batch) = stream.try_next().await.map_err(|e| self.failed(e))? {
            reads.go_on()?;
            batches.push(batch);
        }
        Ok(batches)
    }

    /// All rows of the columns that `scan` looks at, if they are kept or worth keeping.
    pub async fn whole(&self, row_group: usize, scan: &Scan, reads: &Arc<Reads>) -> Result<Option<RecordBatch>, QueryError> {
        let Some(needed) = scan.needed() else { return Ok(None) };
        let mut indices: Vec<usize> = needed.iter().filter_map(|name| self.layout.schema.index_of(name).ok()).collect();
        indices.sort_unstable();
        let mut arrays: Vec<Option<ArrayRef>> = Vec::with_capacity(indices.len());
        let mut missing = vec![];
        for index in &indices {
            let array = self.cache.column(&self.key(row_group, *index)).await;
            if array.is_none() {
                missing.push(*index);
            }
            arrays.push(array);
        }
        let kept = indices.iter().copied().filter(|index| !missing.contains(index)).collect::<Vec<_>>();
        if !missing.is_empty() {
            let mut asked = true;
            for index in &missing {
                asked &= self.cache.asked(self.key(row_group, *index)).await;
            }
            let bytes = self.decoded_bytes(row_group, &missing);
            // Some traces are a few pages: reading whole columns for them must not push out others.
            let pays = if scan.traces.is_some() { self.cache.has_room(bytes) } else { self.cache.can_hold(bytes) };
            if !asked || !pays {
                return Ok(None);
            }
            let (_, decoded, _) = self.decode(row_group, &missing, reads).await?.into_parts();
            for (index, mut array) in missing.iter().zip(decoded) {
                // Decoding grows buffers by doubling.
                if let Some(array) = Arc::get_mut(&mut array) {
                    array.shrink_to_fit();
                }
                self.cache.keep_column(self.key(row_group, *index), Arc::clone(&array)).await;
                if let Ok(at) = indices.binary_search(index) {
                    arrays[at] = Some(array);
                }
            }
        }
        if !kept.is_empty() {
            reads.read(self.stored_bytes(row_group, &kept))?;
            reads.succeeded.fetch_add(1, Ordering::Relaxed);
        }
        let schema = Arc::new(self.layout.schema.project(&indices).map_err(QueryError::internal)?);
        let rows = usize::try_from(self.rows(row_group)).map_err(QueryError::internal)?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let arrays = arrays.into_iter().flatten().collect();
        RecordBatch::try_new_with_options(schema, arrays, &options).map(Some).map_err(QueryError::internal)
    }

    /// The traces of a row group of which `whole` holds all rows, with the columns of ids and whole-trace times.
    pub async fn traces(&self, row_group: usize, whole: &RecordBatch) -> Result<Arc<TraceIndex>, QueryError> {
        let key = self.key(row_group, self.trace_id_column());
        if let Some(index) = self.cache.traces(&key).await {
            return Ok(index);
        }
        let index = Arc::new(TraceIndex::of(whole)?);
        self.cache.keep_traces(&key, Arc::clone(&index)).await;
        Ok(index)
    }

    fn key(&self, row_group: usize, column: usize) -> ColumnKey {
        ColumnKey { block: self.block.entry().id, row_group: row_group as u32, column: column as u32 }
    }

    /// About what some columns of a row group take when decoded. Dictionary numbers take four bytes a row.
    fn decoded_bytes(&self, row_group: usize, columns: &[usize]) -> u64 {
        let rows = self.rows(row_group);
        self.chunks(row_group, columns).map(|chunk| chunk.uncompressed_size().max(0) as u64 + 4 * rows).sum()
    }

    /// What some columns of a row group take in the file.
    fn stored_bytes(&self, row_group: usize, columns: &[usize]) -> u64 {
        self.chunks(row_group, columns).map(|chunk| chunk.compressed_size().max(0) as u64).sum()
    }

    fn chunks(&self, row_group: usize, columns: &[usize]) -> impl Iterator<Item = &ColumnChunkMetaData> {
        let leaves = self.metadata.parquet_schema();
        let chunks = self.metadata.metadata().row_group(row_group).columns().iter().enumerate();
        chunks.filter(|(leaf, _)| columns.contains(&leaves.get_column_root_idx(*leaf))).map(|(_, chunk)| chunk)
    }

    /// Some columns of a row group, all rows, in file order.
    async fn decode(&self, row_group: usize, columns: &[usize], reads: &Arc<Reads>) -> Result<RecordBatch, QueryError> {
        reads.go_on()?;
        let rows = usize::try_from(self.rows(row_group)).map_err(QueryError::internal)?;
        let file = BlockFile { block: Arc::clone(&self.block), footer: Arc::clone(self.metadata.metadata()), reads: Arc::clone(reads) };
        let stream = ParquetRecordBatchStreamBuilder::new_with_metadata(file, self.metadata.clone())
            .with_row_groups(vec![row_group])
            .with_batch_size(rows.max(1))
            .with_projection(ProjectionMask::roots(self.metadata.parquet_schema(), columns.iter().copied()))
            .build()
            .map_err(|e| self.failed(e))?;
        let schema = Arc::clone(stream.schema());
        let batches = self.collect(stream, reads).await?;
        match batches.as_slice() {
            [batch] => Ok(batch.clone()),
            batches => concat_batches(&schema, batches).map_err(QueryError::internal),
        }
    }

    fn failed(&self, error: ParquetError) -> QueryError {
        let id = self.block.entry().id;
        // What the store said passes through Parquet's reader and Arrow's filters.
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<QueryError>() {
                return error.clone();
            }
            if let Some(error) = error.downcast_ref::<storage::StorageError>() {
                return unreadable(id, error);
            }
            cause = error.source();
        }
        QueryError::new(model::ErrorKind::Corrupt, format!("block {id} cannot be read: {error}")).of_block(id)
    }

    fn trace_id_column(&self) -> usize {
        self.layout.schema.index_of(schema::TRACE_ID).unwrap_or(0)
    }

    fn mask<'a>(&self, columns: impl Iterator<Item = &'a str>) -> ProjectionMask {
        let roots = columns.filter_map(|name| self.layout.schema.index_of(name).ok());
        ProjectionMask::roots(self.metadata.parquet_schema(), roots)
    }

    fn row_filter(&self, predicate: &Predicate, reads: &Arc<Reads>) -> Result<Box<dyn ArrowPredicate>, QueryError> {
        assert!(!predicate.asks_parents, "a scan does not see traces whole");
        let mask = self.mask(predicate.columns.iter().map(String::as_str));
        // The filter is handed its columns in file order.
        let mut indices: Vec<usize> =
            predicate.columns.iter().filter_map(|name| self.layout.schema.index_of(name).ok()).collect();
        indices.sort_unstable();
        let narrow = self.layout.schema.project(&indices).map_err(QueryError::internal)?;
        let expr = predicate.evaluator(&narrow)?;
        let reads = Arc::clone(reads);
        Ok(Box::new(ArrowPredicateFn::new(mask, move |batch| {
            reads.go_on().map_err(|e| ArrowError::ExternalError(Box::new(e)))?;
            evaluate(&expr, &batch)
        })))
    }

    fn trace_filter(&self, traces: Arc<Vec<TraceId>>) -> Box<dyn ArrowPredicate> {
        let mask = self.mask([schema::TRACE_ID].into_iter());
        Box::new(ArrowPredicateFn::new(mask, move |batch| {
            let ids = batch.column(0).as_fixed_size_binary();
            let wanted = |row| TraceId::from_slice(ids.value(row)).is_some_and(|id| traces.binary_search(&id).is_ok());
            Ok((0..ids.len()).map(|row| Some(wanted(row))).collect())
        }))
    }

    /// The pages of a row group that can hold one of `traces`, by the page index of the trace id column.
    fn pages_of(&self, row_group: usize, traces: &[TraceId]) -> Option<RowSelection> {
        let column = self.trace_id_column();
        let metadata = self.metadata.metadata();
        let ColumnIndexMetaData::FIXED_LEN_BYTE_ARRAY(index) = metadata.column_index()?.get(row_group)?.get(column)? else {
            return None;
        };
        let pages = metadata.offset_index()?.get(row_group)?.get(column)?.page_locations();
        let end = usize::try_from(metadata.row_group(row_group).num_rows()).ok()?;
        let row = |page: usize| pages.get(page).map_or(end, |p| usize::try_from(p.first_row_index).unwrap_or(end));
        let mut ranges: Vec<Range<usize>> = vec![];
        for page in 0..pages.len() {
            let bounds = (
                index.min_value(page).and_then(TraceId::from_slice),
                index.max_value(page).and_then(TraceId::from_slice),
            );
            let wanted = match bounds {
                (Some(low), Some(high)) => any_within(traces, &low, &high),
                _ => true,
            };
            if wanted {
                ranges.push(row(page)..row(page + 1));
            }
        }
        Some(RowSelection::from_consecutive_ranges(ranges.into_iter(), end))
    }
}

/// What storage says of a block.
pub fn unreadable(id: Ulid, error: &storage::StorageError) -> QueryError {
    let mut text = format!("block {id} cannot be read: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    QueryError::new(error.kind(), text).of_block(id)
}

/// Whether any of the ascending `ids` lies within the bounds.
fn any_within(ids: &[TraceId], low: &TraceId, high: &TraceId) -> bool {
    let first = ids.partition_point(|id| id < low);
    ids.get(first).is_some_and(|id| id <= high)
}

/// The rows of a batch in memory, in order.
pub fn read_memory(records: &RecordBatch, scan: &Scan, reads: &Reads) -> Result<RecordBatch, QueryError> {
    reads.spans.fetch_add(records.num_rows() as u64, Ordering::Relaxed);
    let rows = match &scan.traces {
        Some(traces) => {
            let rows = scan.needed_of(records)?;
            let ids = records.column_by_name(schema::TRACE_ID).ok_or_else(|| QueryError::internal("a batch without trace ids"))?;
            let wanted = UInt32Array::from(rows_of(ids.as_fixed_size_binary(), traces));
            take_record_batch(&rows, &wanted).map_err(QueryError::internal)?
        }
        None => records.clone(),
    };
    let mask = scan.predicate.as_ref().map(|predicate| matching(predicate, &rows, reads)).transpose()?;
    let rows = match &scan.columns {
        Some(columns) => project(&rows, columns.iter().map(String::as_str))?,
        None => rows,
    };
    match mask {
        Some(mask) => filter_record_batch(&rows, &mask).map_err(QueryError::internal),
        None => Ok(rows),
    }
}

/// A condition is evaluated on the rows that are left, not on all, once they are fewer than one in this many.
const FEW_LEFT: usize = 8;

/// The rows for which a predicate holds: condition by condition, the later ones where the earlier ones hold.
pub fn matching(predicate: &Predicate, rows: &RecordBatch, reads: &Reads) -> Result<BooleanArray, QueryError> {
    let count = rows.num_rows();
    let mut left: Option<BooleanArray> = None;
    for part in predicate.conjuncts() {
        left = Some(match left {
            None => holds_on(&part, rows, reads)?,
            Some(left) if part.asks_parents || left.true_count() * FEW_LEFT > count => {
                arrow::compute::and(&left, &holds_on(&part, rows, reads)?).map_err(QueryError::internal)?
            }
            Some(left) if left.true_count() == 0 => return Ok(left),
            Some(left) => {
                let narrow = project(rows, part.columns.iter().map(String::as_str))?;
                let few = filter_record_batch(&narrow, &left).map_err(QueryError::internal)?;
                let verdicts = holds_on(&part, &few, reads)?;
                let mut bits = BooleanBufferBuilder::new(count);
                bits.append_n(count, false);
                left.values().set_indices().zip(verdicts.values()).for_each(|(row, holds)| bits.set_bit(row, holds));
                BooleanArray::new(bits.finish(), None)
            }
        });
    }
    Ok(left.unwrap_or_else(|| BooleanArray::new(BooleanBuffer::new_set(count), None)))
}

/// What is decided row by row is decided in stretches, with a look at the time between them.
fn holds_on(predicate: &Predicate, rows: &RecordBatch, reads: &Reads) -> Result<BooleanArray, QueryError> {
    reads.go_on()?;
    let expr = predicate.evaluator(&rows.schema())?;
    if !predicate.by_row || predicate.asks_parents || rows.num_rows() <= ROWS_UNCHECKED_MAX {
        return evaluate(&expr, rows).map_err(QueryError::internal);
    }
    let mut verdicts = BooleanBufferBuilder::new(rows.num_rows());
    for start in (0..rows.num_rows()).step_by(ROWS_UNCHECKED_MAX) {
        let stretch = rows.slice(start, ROWS_UNCHECKED_MAX.min(rows.num_rows() - start));
        verdicts.append_buffer(evaluate(&expr, &stretch).map_err(QueryError::internal)?.values());
        reads.go_on()?;
    }
    Ok(BooleanArray::new(verdicts.finish(), None))
}

/// The named columns that the batch has, in its order.
pub fn project<'a>(batch: &RecordBatch, columns: impl Iterator<Item = &'a str>) -> Result<RecordBatch, QueryError> {
    let schema = batch.schema();
    let mut indices: Vec<usize> = columns.filter_map(|name| schema.index_of(name).ok()).collect();
    indices.sort_unstable();
    indices.dedup();
    let fields: Vec<_> = indices.iter().map(|i| Arc::clone(&schema.fields()[*i])).collect();
    let arrays: Vec<ArrayRef> = indices.iter().map(|i| Arc::clone(batch.column(*i))).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    RecordBatch::try_new_with_options(schema, arrays, &options).map_err(QueryError::internal)
}

/// A condition on every row; null counts as false.
pub fn evaluate(expr: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<BooleanArray, arrow::error::ArrowError> {
    let external = |e: datafusion::error::DataFusionError| arrow::error::ArrowError::ExternalError(Box::new(e));
    let array = expr.evaluate(batch).map_err(external)?.into_array(batch.num_rows()).map_err(external)?;
    let verdicts = array.as_boolean();
    Ok(match verdicts.null_count() {
        0 => verdicts.clone(),
        _ => arrow::compute::prep_null_mask_filter(verdicts),
    })
}

/// Parquet's view of an open block: checked, cached bytes and a footer already in memory.
struct BlockFile {
    block: Arc<OpenBlock>,
    footer: Arc<ParquetMetaData>,
    reads: Arc<Reads>,
}

impl AsyncFileReader for BlockFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move {
            let mut parts = self.get_byte_ranges(vec![range]).await?;
            parts.pop().ok_or_else(|| ParquetError::General("a read returned nothing".into()))
        }
        .boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move {
            let bytes: u64 = ranges.iter().map(|r| r.end - r.start).sum();
            self.reads.read(bytes).map_err(|e| ParquetError::External(Box::new(e)))?;
            let read = self.block.read(&ranges).await.map_err(|e| ParquetError::External(Box::new(e)))?;
            self.reads.succeeded.fetch_add(1, Ordering::Relaxed);
            Ok(read)
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        let footer = Arc::clone(&self.footer);
        async move { Ok(footer) }.boxed()
    }
}
