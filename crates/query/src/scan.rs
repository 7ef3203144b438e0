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
    array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array},
    compute::{concat_batches, filter_record_batch, take, take_record_batch},
    datatypes::{FieldRef, Schema, SchemaRef},
    error::ArrowError,
};
use block::{schema, whole_trace};
use bytes::Bytes;
use futures::{FutureExt, TryStreamExt, future::BoxFuture};
use model::TraceId;
use parquet::{
    arrow::{
        ParquetRecordBatchStreamBuilder, ProjectionMask,
        arrow_reader::{
            ArrowPredicate, ArrowPredicateFn, ArrowReaderMetadata, ArrowReaderOptions, RowFilter,
        },
        async_reader::{AsyncFileReader, ParquetRecordBatchStream},
    },
    errors::ParquetError,
    file::{metadata::{ColumnChunkMetaData, ParquetMetaData}, page_index::column_index::ColumnIndexMetaData},
};
use storage::OpenBlock;
use tokio_util::task::AbortOnDropHandle;
use ulid::Ulid;

use crate::{
    columns::{ColumnCache, ColumnKey},
    conditions::{evaluate, matching},
    layout::Layout,
    narrow::{narrow, widened},
    pages::Pages,
    parts::{BlockParts, PartRows},
    predicate::Predicate,
    prune,
    reads::Reads,
    request::QueryError,
    trace_index::{BYTES_PER_TRACE, TOLD, TraceIndex, rows_of},
};

/// Rows decoded at a time. Large enough that per-batch work vanishes, small enough to stay in cache.
const BATCH_ROWS: usize = 16_384;

/// Fewer bytes than this, compressed, are not worth another thread.
const BYTES_PER_THREAD_MIN: u64 = 128 << 10;
/// The most threads that decode the rows of one row group.
const THREADS_MAX: usize = 4;

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
    /// It looks at much more than can be kept decoded: what is not kept yet is not going to be.
    pub passing: bool,
}

/// What makes columns that are not kept yet worth being decoded whole, and kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    Nothing,
    /// They were asked for before.
    AskedAgain,
    /// They were, and nothing has to make room for them.
    AskedAgainAndRoom,
    /// Either of these.
    AskedAgainOrRoom,
}

/// All rows of some columns, which may be narrow: see [`crate::narrow`].
#[derive(Default)]
pub struct Rows {
    pub columns: Vec<(FieldRef, ArrayRef)>,
}

impl Scan {
    /// The columns it looks at; `None` if it returns all.
    pub fn needed(&self) -> Option<BTreeSet<&str>> {
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

    /// The row groups that can hold rows for `scan`, in file order. `parts` are those of the block, `layout` its own with them.
    pub fn row_groups(&self, scan: &Scan, layout: &Layout, parts: &BlockParts, reads: &Reads) -> Result<Vec<usize>, QueryError> {
        let all = self.metadata.metadata().num_row_groups();
        let mut keep = vec![true; all];
        let of_whole = |predicate: &Predicate| whole_trace::COLUMNS.iter().any(|name| predicate.columns.contains(*name));
        match &scan.predicate {
            // Statistics say nothing of the whole traces that have a part here.
            Some(predicate) if !parts.is_empty() && of_whole(predicate) => {
                for predicate in predicate.conjuncts() {
                    let kept = prune::row_groups(&predicate, &layout.schema, self.metadata.metadata())?;
                    for (row_group, kept) in kept.into_iter().enumerate() {
                        keep[row_group] &= kept || (of_whole(&predicate) && parts.has(row_group));
                    }
                }
            }
            Some(predicate) => keep = prune::row_groups(predicate, &layout.schema, self.metadata.metadata())?,
            None => {}
        }
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
    pub async fn read(
        &self,
        row_group: usize,
        scan: &Scan,
        parts: Option<&Arc<PartRows>>,
        reads: &Arc<Reads>,
    ) -> Result<RecordBatch, QueryError> {
        let parts = parts.filter(|parts| parts.concern(scan, &self.layout.schema));
        let as_whole = |rows: RecordBatch, numbers: Option<&[u32]>| match parts {
            Some(parts) => parts.applied(&rows, numbers, scan),
            None => Ok(rows),
        };
        if let Some(traces) = &scan.traces {
            // Some traces are a few pages: reading whole columns for them must not push out others.
            let (numbers, rows) = self.rows_of_traces(row_group, traces, scan, Worth::AskedAgainAndRoom, reads).await?;
            reads.spans.fetch_add(self.rows(row_group), Ordering::Relaxed);
            return narrowed(as_whole(rows, Some(&numbers))?, scan, reads);
        }
        if let Some(whole) = self.whole(row_group, scan, reads).await? {
            return read_memory(&as_whole(whole, None)?, scan, reads);
        }
        reads.go_on()?;
        if parts.is_some() {
            let whole = self.decode(row_group, &self.indices(scan), None, reads).await?;
            return read_memory(&as_whole(whole, None)?, scan, reads);
        }
        let mut conjuncts: Vec<Box<dyn ArrowPredicate>> = vec![];
        let file = BlockFile { block: Arc::clone(&self.block), footer: Arc::clone(self.metadata.metadata()), reads: Arc::clone(reads) };
        let builder = ParquetRecordBatchStreamBuilder::new_with_metadata(file, self.metadata.clone())
            .with_row_groups(vec![row_group])
            .with_batch_size(BATCH_ROWS);
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

    /// The positions of the columns that `scan` looks at, ascending.
    fn indices(&self, scan: &Scan) -> Vec<usize> {
        let fields = self.layout.schema.fields();
        match scan.needed() {
            Some(needed) => (0..fields.len()).filter(|index| needed.contains(fields[*index].name().as_str())).collect(),
            None => (0..fields.len()).collect(),
        }
    }

    async fn collect(&self, mut stream: ParquetRecordBatchStream<BlockFile>, reads: &Reads) -> Result<Vec<RecordBatch>, QueryError> {
        let mut batches = vec![];
        while let Some(batch) = stream.try_next().await.map_err(|e| self.failed(e))? {
            reads.go_on()?;
            batches.push(batch);
        }
        Ok(batches)
    }

    /// All rows of the columns that `scan` looks at, if they are kept or worth keeping. It names no traces.
    async fn whole(&self, row_group: usize, scan: &Scan, reads: &Arc<Reads>) -> Result<Option<RecordBatch>, QueryError> {
        if scan.columns.is_none() {
            return Ok(None);
        }
        let indices = self.indices(scan);
        let worth = if scan.passing { Worth::Nothing } else { Worth::AskedAgain };
        let Some(arrays) = self.columns(row_group, &indices, worth, reads).await? else { return Ok(None) };
        let schema = Arc::new(self.layout.schema.project(&indices).map_err(QueryError::internal)?);
        let arrays = arrays.iter().zip(schema.fields()).map(|(array, field)| widened(array, field.data_type()));
        let arrays = arrays.collect::<Result<_, QueryError>>()?;
        let rows = usize::try_from(self.rows(row_group)).map_err(QueryError::internal)?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(schema, arrays, &options).map(Some).map_err(QueryError::internal)
    }

    /// All rows of the columns that `scan` looks at beside those of [`TOLD`], if they are kept or worth keeping.
    pub async fn beside_traces(&self, row_group: usize, scan: &Scan, reads: &Arc<Reads>) -> Result<Option<Rows>, QueryError> {
        let fields = self.layout.schema.fields();
        let beside = |index: &usize| !TOLD.contains(&fields[*index].name().as_str());
        let indices: Vec<usize> = self.indices(scan).into_iter().filter(beside).collect();
        let arrays = self.columns(row_group, &indices, Worth::AskedAgainOrRoom, reads).await?;
        Ok(arrays.map(|arrays| Rows { columns: indices.iter().map(|index| Arc::clone(&fields[*index])).zip(arrays).collect() }))
    }

    /// All rows of some columns as they are kept, if they are kept or now worth keeping.
    async fn columns(&self, row_group: usize, indices: &[usize], worth: Worth, reads: &Arc<Reads>) -> Result<Option<Vec<ArrayRef>>, QueryError> {
        let mut arrays: Vec<Option<ArrayRef>> = Vec::with_capacity(indices.len());
        for index in indices {
            arrays.push(self.cache.column(&self.key(row_group, *index)).await);
        }
        let (mut kept, mut missing) = (vec![], vec![]);
        for (index, array) in indices.iter().zip(&arrays) {
            if array.is_some() { kept.push(*index) } else { missing.push(*index) }
        }
        if worth == Worth::Nothing && !missing.is_empty() {
            return Ok(None);
        }
        if !missing.is_empty() {
            let mut again = true;
            for index in &missing {
                again &= self.cache.asked(self.key(row_group, *index)).await;
            }
            if !self.is_worth(worth, again, self.decoded_bytes(row_group, &missing)) {
                return Ok(None);
            }
            let (_, decoded, _) = self.decode(row_group, &missing, None, reads).await?.into_parts();
            for (index, array) in missing.iter().zip(decoded) {
                let mut narrow = narrow(&array);
                drop(array);
                // Decoding grows buffers by doubling.
                if let Some(array) = Arc::get_mut(&mut narrow) {
                    array.shrink_to_fit();
                }
                self.cache.keep_column(self.key(row_group, *index), Arc::clone(&narrow)).await;
                if let Ok(at) = indices.binary_search(index) {
                    arrays[at] = Some(narrow);
                }
            }
        }
        self.counts_as_read(row_group, &kept, reads)?;
        Ok(Some(arrays.into_iter().flatten().collect()))
    }

    fn is_worth(&self, worth: Worth, again: bool, bytes: u64) -> bool {
        match worth {
            Worth::Nothing => false,
            Worth::AskedAgain => again && self.cache.can_hold(bytes),
            Worth::AskedAgainAndRoom => again && self.cache.has_room(bytes),
            Worth::AskedAgainOrRoom => self.cache.has_room(bytes) || (again && self.cache.can_hold(bytes)),
        }
    }

    /// Columns that are at hand take from a query's budget as if they were read.
    fn counts_as_read(&self, row_group: usize, kept: &[usize], reads: &Reads) -> Result<(), QueryError> {
        if !kept.is_empty() {
            reads.read(self.stored_bytes(row_group, kept))?;
            reads.succeeded.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The traces of a row group, with what this block says of them, if they are kept or worth keeping.
    pub async fn traces(&self, row_group: usize, reads: &Arc<Reads>) -> Result<Option<Arc<TraceIndex>>, QueryError> {
        let key = self.key(row_group, self.trace_id_column());
        let schema = &self.layout.schema;
        let mut told: Vec<usize> = TOLD.iter().filter_map(|name| schema.index_of(name).ok()).collect();
        told.sort_unstable();
        if let Some(index) = self.cache.traces(&key).await {
            self.counts_as_read(row_group, &told, reads)?;
            return Ok(Some(index));
        }
        let stats = &self.block.sidecar().stats;
        let traces = self.rows(row_group) * stats.traces / stats.rows.max(1) + 1;
        let again = self.cache.traces_asked(&key).await;
        if !self.is_worth(Worth::AskedAgainOrRoom, again, traces * BYTES_PER_TRACE as u64) {
            return Ok(None);
        }
        let index = Arc::new(TraceIndex::of(&self.decode(row_group, &told, None, reads).await?)?);
        self.cache.keep_traces(&key, Arc::clone(&index)).await;
        Ok(Some(index))
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

    /// The columns that `scan` looks at, of the rows of some traces: from columns that are kept, and from no more pages of the
    /// others than hold such rows. `worth` says when columns are kept from now on. The rows' numbers come first.
    pub async fn rows_of_traces(
        &self,
        row_group: usize,
        traces: &[TraceId],
        scan: &Scan,
        worth: Worth,
        reads: &Arc<Reads>,
    ) -> Result<(Vec<u32>, RecordBatch), QueryError> {
        reads.go_on()?;
        let rows = self.ranges_of_traces(row_group, traces, reads).await?;
        let schema = &self.layout.schema;
        let indices = self.indices(scan);
        if rows.is_empty() {
            let schema = Arc::new(schema.project(&indices).map_err(QueryError::internal)?);
            return Ok((vec![], RecordBatch::new_empty(schema)));
        }
        let at_hand = match scan.columns {
            Some(_) => self.columns(row_group, &indices, worth, reads).await?,
            None => None,
        };
        let schema = Arc::new(schema.project(&indices).map_err(QueryError::internal)?);
        let numbers = UInt32Array::from_iter_values(rows.iter().flat_map(|range| range.start as u32..range.end as u32));
        let taken = |at: usize, whole: &ArrayRef| {
            widened(&take(whole, &numbers, None).map_err(QueryError::internal)?, schema.field(at).data_type())
        };
        let arrays: Vec<ArrayRef> = match at_hand {
            Some(whole) => whole.iter().enumerate().map(|(at, whole)| taken(at, whole)).collect::<Result<_, QueryError>>()?,
            None => {
                let mut arrays: Vec<Option<ArrayRef>> = Vec::with_capacity(indices.len());
                for (at, index) in indices.iter().enumerate() {
                    let whole = self.cache.column(&self.key(row_group, *index)).await;
                    arrays.push(whole.map(|whole| taken(at, &whole)).transpose()?);
                }
                let (mut kept, mut missing) = (vec![], vec![]);
                for (index, array) in indices.iter().zip(&arrays) {
                    if array.is_some() { kept.push(*index) } else { missing.push(*index) }
                }
                self.counts_as_read(row_group, &kept, reads)?;
                let decoded = self.decode(row_group, &missing, Some(&rows), reads).await?;
                let mut decoded = decoded.columns().iter().cloned();
                arrays.into_iter().filter_map(|array| array.or_else(|| decoded.next())).collect()
            }
        };
        let options = RecordBatchOptions::new().with_row_count(Some(numbers.len()));
        let rows = RecordBatch::try_new_with_options(schema, arrays, &options).map_err(QueryError::internal)?;
        Ok((numbers.values().to_vec(), rows))
    }

    /// The rows of some traces in a row group, ascending.
    async fn ranges_of_traces(&self, row_group: usize, traces: &[TraceId], reads: &Arc<Reads>) -> Result<Vec<Range<usize>>, QueryError> {
        let column = self.trace_id_column();
        if let Some(index) = self.cache.traces(&self.key(row_group, column)).await {
            return Ok(index.rows_of(traces));
        }
        let pages = self.pages_of(row_group, traces);
        let (ids, pages) = match self.cache.column(&self.key(row_group, column)).await {
            Some(ids) => (ids, None),
            None => {
                let decoded = self.decode(row_group, &[column], pages.as_deref(), reads).await?;
                (Arc::clone(decoded.column(0)), pages)
            }
        };
        let mut found = rows_of(ids.as_fixed_size_binary(), traces).into_iter().map(|row| row as usize).peekable();
        let mut ranges: Vec<Range<usize>> = vec![];
        // Positions among the rows of the pages, which lie one after another.
        let mut passed = 0;
        for page in pages.unwrap_or_else(|| vec![0..ids.len()]) {
            while let Some(row) = found.next_if(|row| *row < passed + page.len()) {
                let row = page.start + row - passed;
                match ranges.last_mut() {
                    Some(last) if last.end == row => last.end += 1,
                    _ => ranges.push(row..row + 1),
                }
            }
            passed += page.len();
        }
        Ok(ranges)
    }

    /// Some columns of a row group in file order: all rows, or some by ranges that ascend.
    async fn decode(&self, row_group: usize, columns: &[usize], rows: Option<&[Range<usize>]>, reads: &Arc<Reads>) -> Result<RecordBatch, QueryError> {
        if columns.is_empty() || rows.is_some_and(<[_]>::is_empty) {
            let schema = Arc::new(self.layout.schema.project(columns).map_err(QueryError::internal)?);
            return Ok(RecordBatch::new_empty(schema));
        }
        reads.go_on()?;
        let mut file = BlockFile { block: Arc::clone(&self.block), footer: Arc::clone(self.metadata.metadata()), reads: Arc::clone(reads) };
        let pages = Pages::new(Arc::clone(self.metadata.metadata()), row_group, columns, rows.map(<[_]>::to_vec));
        // A trace has few rows in many columns: so many pages are worth more than one thread.
        let threads = if rows.is_some() { THREADS_MAX } else { 1 };
        let shares: Vec<(Vec<Range<u64>>, Pages)> =
            pages.shares(threads, BYTES_PER_THREAD_MIN).into_iter().map(|pages| (pages.ranges(), pages)).collect();
        let ranges = shares.iter().flat_map(|(ranges, _)| ranges.iter().cloned()).collect();
        let mut bytes = file.get_byte_ranges(ranges).await.map_err(|e| self.failed(e))?.into_iter();
        let mut decoding = vec![];
        for (ranges, pages) in shares {
            let (bytes, fields) = (bytes.by_ref().take(ranges.len()).collect(), self.layout.schema.fields().clone());
            decoding.push(move || pages.decode(bytes, &fields).map(|decoded| (pages.columns().to_vec(), decoded)));
        }
        let here = decoding.pop();
        let elsewhere: Vec<_> = decoding.into_iter().map(|decode| AbortOnDropHandle::new(tokio::spawn(async move { decode() }))).collect();
        let last = here.map(|decode| decode()).transpose().map_err(|e| self.failed(e))?;
        let mut decoded = vec![];
        for share in elsewhere {
            decoded.push(share.await.map_err(QueryError::internal)?.map_err(|e| self.failed(e))?);
        }
        decoded.extend(last);
        if let [(_, only)] = decoded.as_slice() {
            return Ok(only.clone());
        }
        let schema = Arc::new(self.layout.schema.project(columns).map_err(QueryError::internal)?);
        let arrays = decoded.iter().flat_map(|(columns, share)| columns.iter().copied().zip(share.columns().iter().cloned()));
        let mut arrays: Vec<(usize, ArrayRef)> = arrays.collect();
        arrays.sort_unstable_by_key(|(column, _)| *column);
        RecordBatch::try_new(schema, arrays.into_iter().map(|(_, array)| array).collect()).map_err(QueryError::internal)
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

    /// The rows of those pages of a row group that can hold one of `traces`, by the page index of the trace id column.
    fn pages_of(&self, row_group: usize, traces: &[TraceId]) -> Option<Vec<Range<usize>>> {
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
        Some(ranges)
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
    narrowed(rows, scan, reads)
}

/// Of rows of the traces that `scan` names, those for which its predicate holds, with the columns that it returns.
fn narrowed(rows: RecordBatch, scan: &Scan, reads: &Reads) -> Result<RecordBatch, QueryError> {
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
