//! The places a tenant's spans are in at one moment: blocks of a table snapshot and live batches.
//!
//! A trace that lies in more than one place is *split* ([`crate::split`]). What a query asks of each span alone is asked of its
//! rows where they lie, with what is known of the whole trace ([`crate::parts`]). For the rest it is left out wherever it
//! is found in part, and evaluated from all its rows merged, so that every answer is about whole traces.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use arrow::array::{Array, AsArray, RecordBatch};
use block::{batch::SpanBatch, schema};
use model::TraceId;
use parking_lot::Mutex;
use storage::OpenBlock;

use crate::{
    columns::ColumnCache,
    layout::Layout,
    parts::{BlockParts, PartRows, with_root_columns},
    reads::Reads,
    request::{QueryError, TimeRange},
    scan::{BlockReader, Rows, Scan, Worth, read_memory},
    split::TraceSet,
    trace_index::{TOLD, TraceIndex},
};

/// Names a source for as long as the process lives; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId(u64);

pub struct Source {
    pub id: SourceId,
    pub data: SourceData,
    /// The earliest start and the latest end of its spans, clamped to what a signed time can say.
    pub range: TimeRange,
    /// Of a batch in memory; those of blocks are kept with their columns.
    index: OnceLock<Arc<TraceIndex>>,
    /// Of a block: its rows of split traces.
    parts: Arc<BlockParts>,
    /// When the traces in it, each as a whole, begin and end.
    reach: TimeRange,
}

pub enum SourceData {
    Memory(SpanBatch, Layout),
    Block(Arc<BlockReader>, Layout),
}

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

impl Source {
    fn new(data: SourceData, range: TimeRange) -> Arc<Self> {
        let id = SourceId(NEXT_ID.fetch_add(1, Ordering::Relaxed));
        Arc::new(Self { id, data, range, index: OnceLock::new(), parts: Arc::default(), reach: range })
    }

    pub fn memory(batch: SpanBatch) -> Arc<Self> {
        let layout = Layout { schema: batch.records.schema(), catalogue: Arc::clone(&batch.catalogue) };
        let range = memory_range(&batch);
        Self::new(SourceData::Memory(batch, layout), range)
    }

    pub fn block(block: Arc<OpenBlock>, cache: ColumnCache) -> Result<Arc<Self>, QueryError> {
        let entry = block.entry();
        let range = TimeRange { start: entry.min_start_unix_nano, end: entry.max_end_unix_nano };
        let reader = BlockReader::new(block, cache)?;
        let layout = reader.layout.clone();
        Ok(Self::new(SourceData::Block(Arc::new(reader), layout), range))
    }

    /// The same block with what is now known of its rows of split traces.
    pub fn with_parts(&self, parts: BlockParts) -> Arc<Self> {
        let SourceData::Block(reader, _) = &self.data else { unreachable!("parts are those of blocks") };
        let mut layout = reader.layout.clone();
        if !parts.is_empty() {
            layout.schema = Arc::new(with_root_columns(&layout.schema));
        }
        let reach = parts.reach().map_or(self.range, |reach| TimeRange {
            start: reach.start.min(self.range.start),
            end: reach.end.max(self.range.end),
        });
        let data = SourceData::Block(Arc::clone(reader), layout);
        Arc::new(Self { id: self.id, data, range: self.range, index: OnceLock::new(), parts: Arc::new(parts), reach })
    }

    /// Whether it holds spans that an earlier block holds too, as far as that is known.
    pub fn has_copies(&self) -> bool {
        self.parts.has_copies()
    }

    pub fn layout(&self) -> &Layout {
        match &self.data {
            SourceData::Memory(_, layout) | SourceData::Block(_, layout) => layout,
        }
    }

    /// The size of its data file; `None` for live data.
    pub fn block_bytes(&self) -> Option<u64> {
        match &self.data {
            SourceData::Memory(..) => None,
            SourceData::Block(reader, _) => Some(reader.block.entry().size_bytes),
        }
    }

    pub fn overlaps(&self, range: Option<TimeRange>) -> bool {
        range.is_none_or(|range| self.range.start <= range.end && self.range.end >= range.start)
    }

    /// Whether a trace in it may overlap, with all its spans wherever they are. Not of traces whose values are not known.
    pub fn reaches(&self, range: Option<TimeRange>) -> bool {
        range.is_none_or(|range| self.reach.start <= range.end && self.reach.end >= range.start)
    }

    /// Whether every trace in it certainly overlaps `range`.
    pub fn within(&self, range: Option<TimeRange>) -> bool {
        range.is_none_or(|range| range.start <= self.range.start && self.range.end <= range.end)
    }

    /// The distinct ids of the traces in it, ascending. Reads a column of all rows.
    pub async fn trace_ids(self: &Arc<Self>) -> Result<Vec<TraceId>, QueryError> {
        let scan = Scan { columns: Some(vec![schema::TRACE_ID.into()]), ..Scan::default() };
        let reads = Arc::new(Reads::default());
        let mut ids = vec![];
        for unit in self.units(&scan, &reads)? {
            let batch = unit.read(&scan, &reads).await?;
            let column = batch.column(0).as_fixed_size_binary();
            ids.extend((0..column.len()).filter_map(|row| TraceId::from_slice(column.value(row))));
            ids.dedup();
        }
        Ok(ids)
    }

    /// Whether it may hold spans of a trace; never says no for one that is there.
    pub fn may_hold(&self, id: &TraceId) -> bool {
        match &self.data {
            SourceData::Memory(batch, _) => {
                let ids = batch.records.column(0).as_fixed_size_binary();
                let (mut low, mut high) = (0, ids.len());
                while low < high {
                    let middle = usize::midpoint(low, high);
                    match ids.value(middle).cmp(&id.0) {
                        std::cmp::Ordering::Less => low = middle + 1,
                        std::cmp::Ordering::Equal => return true,
                        std::cmp::Ordering::Greater => high = middle,
                    }
                }
                false
            }
            SourceData::Block(reader, _) => reader.block.sidecar().trace_filter.contains(id),
        }
    }

    /// The parts that can be read side by side, each with its traces whole.
    pub fn units(self: &Arc<Self>, scan: &Scan, reads: &Reads) -> Result<Vec<Unit>, QueryError> {
        let unit = |row_group, memory_bytes| Unit { source: Arc::clone(self), row_group, memory_bytes };
        Ok(match &self.data {
            SourceData::Memory(..) => vec![unit(None, 0)],
            SourceData::Block(reader, layout) => {
                reader.row_groups(scan, layout, &self.parts, reads)?.into_iter().map(|r| unit(Some(r), reader.memory_bytes(r, scan))).collect()
            }
        })
    }

    /// All rows of some traces as they lie, with some of their columns (`None`: all), for merging with other places' rows.
    pub async fn traces(
        self: &Arc<Self>,
        ids: &Arc<Vec<TraceId>>,
        columns: Option<Vec<String>>,
        reads: &Arc<Reads>,
    ) -> Result<Vec<SpanBatch>, QueryError> {
        let scan = Scan { traces: Some(Arc::clone(ids)), columns, ..Scan::default() };
        let mut found = vec![];
        for unit in self.units(&scan, reads)? {
            let records = unit.read_with(None, &scan, reads).await?;
            if records.num_rows() > 0 {
                found.push(SpanBatch { records, catalogue: Arc::clone(&self.layout().catalogue) });
            }
        }
        Ok(found)
    }
}

/// All rows of a unit, as they lie.
pub struct Whole {
    /// The columns that are looked at beside those that `traces` tell.
    pub rows: Rows,
    /// With the times of whole traces.
    pub traces: Arc<TraceIndex>,
    /// What else is not as it lies, if that concerns what is looked at.
    pub parts: Option<Arc<PartRows>>,
}

/// A part of a source that is read in one go.
#[derive(Clone)]
pub struct Unit {
    pub source: Arc<Source>,
    row_group: Option<usize>,
    /// About what it takes to read it.
    pub memory_bytes: u64,
}

impl Unit {
    pub async fn read(&self, scan: &Scan, reads: &Arc<Reads>) -> Result<RecordBatch, QueryError> {
        self.read_with(self.parts(), scan, reads).await
    }

    /// Without `parts` the rows are as they lie.
    async fn read_with(&self, parts: Option<&Arc<PartRows>>, scan: &Scan, reads: &Arc<Reads>) -> Result<RecordBatch, QueryError> {
        reads.go_on()?;
        let began = reads.trail.read_begins();
        let rows = match (&self.source.data, self.row_group) {
            (SourceData::Block(reader, _), Some(row_group)) => reader.read(row_group, scan, parts, reads).await?,
            (SourceData::Memory(batch, _), _) => read_memory(&batch.records, scan, reads)?,
            (SourceData::Block(..), None) => unreachable!("units of a block name their row group"),
        };
        if let Some(began) = began {
            let block = match &self.source.data {
                SourceData::Block(reader, _) => Some(reader.block.entry().id).zip(self.row_group),
                SourceData::Memory(..) => None,
            };
            reads.trail.read_ends(began, block, rows.num_rows() as u64);
        }
        reads.trail.units_read.fetch_add(1, Ordering::Relaxed);
        reads.trail.rows_kept.fetch_add(rows.num_rows() as u64, Ordering::Relaxed);
        Ok(rows)
    }

    /// All rows of what `scan` looks at and their traces, if they are at hand; without rows if all traces start before
    /// `oldest_wanted`. `scan` names no traces, and columns.
    pub async fn whole(&self, scan: &Scan, oldest_wanted: i64, reads: &Arc<Reads>) -> Result<Option<Whole>, QueryError> {
        reads.go_on()?;
        let found = match (&self.source.data, self.row_group) {
            (SourceData::Block(reader, _), Some(row_group)) => {
                let Some(traces) = reader.traces(row_group, reads).await? else { return Ok(None) };
                let parts = self.parts().filter(|parts| parts.concern(scan, &reader.layout.schema)).cloned();
                let traces = parts.as_ref().map_or_else(|| Arc::clone(&traces), |parts| parts.traces(&traces));
                let rows = match traces.latest_start() {
                    Some(start) if start >= oldest_wanted => reader.beside_traces(row_group, scan, reads).await?,
                    _ => Some(Rows::default()),
                };
                let Some(rows) = rows else { return Ok(None) };
                Whole { rows, traces, parts }
            }
            (SourceData::Memory(batch, _), _) => {
                let traces = match self.source.index.get() {
                    Some(index) => index,
                    None => {
                        let index = Arc::new(TraceIndex::of(&batch.records)?);
                        self.source.index.get_or_init(|| index)
                    }
                };
                let needed = scan.needed_of(&batch.records)?;
                let (schema, arrays, _) = needed.into_parts();
                let columns = schema.fields().iter().cloned().zip(arrays).filter(|(field, _)| !TOLD.contains(&field.name().as_str()));
                Whole { rows: Rows { columns: columns.collect() }, traces: Arc::clone(traces), parts: None }
            }
            (SourceData::Block(..), None) => unreachable!("units of a block name their row group"),
        };
        reads.trail.units_read.fetch_add(1, Ordering::Relaxed);
        Ok(Some(found))
    }

    /// The rows of the traces that `scan` names as they lie in a block, and their numbers in the row group, which comes first.
    pub async fn rows_of_traces(&self, scan: &Scan, reads: &Arc<Reads>) -> Result<Option<(usize, Vec<u32>, RecordBatch)>, QueryError> {
        let (SourceData::Block(reader, _), Some(row_group), Some(traces)) = (&self.source.data, self.row_group, &scan.traces) else {
            return Ok(None);
        };
        let (rows, records) = reader.rows_of_traces(row_group, traces, scan, Worth::Nothing, reads).await?;
        Ok(Some((row_group, rows, records)))
    }

    fn parts(&self) -> Option<&Arc<PartRows>> {
        self.source.parts.of(self.row_group?)
    }
}

fn memory_range(batch: &SpanBatch) -> TimeRange {
    use arrow::datatypes::Int64Type;
    let column = |name| batch.records.column_by_name(name).and_then(|c| c.as_primitive_opt::<Int64Type>());
    let (Some(starts), Some(durations)) = (column(schema::START_TIME), column(schema::DURATION)) else {
        return TimeRange { start: i64::MIN, end: i64::MAX };
    };
    let start = arrow::compute::min(starts).unwrap_or(0);
    let ends = starts.values().iter().zip(durations.values()).map(|(s, d)| s.saturating_add(*d));
    TimeRange { start, end: ends.max().unwrap_or(0) }
}

/// Live batches seen before, so that each has one source for as long as it lives.
///
/// Keyed by the address of the batch's catalogue and its number of rows. An entry owns the batch, so an address cannot be used
/// again while its entry is here. Bounded by what the caller retains: see [`LiveSources::of`].
#[derive(Default)]
pub struct LiveSources {
    known: Mutex<HashMap<(usize, usize), Arc<Source>>>,
}

impl LiveSources {
    /// The sources of a tenant's live batches; forgets all batches that are not among them.
    pub fn of<'a>(&self, batches: impl Iterator<Item = &'a SpanBatch>) -> Vec<Arc<Source>> {
        let mut known = self.known.lock();
        let mut current = HashMap::new();
        let mut sources = vec![];
        for batch in batches.filter(|b| b.records.num_rows() > 0) {
            let address = (Arc::as_ptr(&batch.catalogue).addr(), batch.records.num_rows());
            let source = known.remove(&address).unwrap_or_else(|| Source::memory(batch.clone()));
            current.insert(address, Arc::clone(&source));
            sources.push(source);
        }
        *known = current;
        sources
    }
}

/// Everything a query looks at.
pub struct Sources {
    /// Where spans lie, in the order in which they were received.
    pub all: Vec<Arc<Source>>,
    /// The traces that lie in several of them.
    pub split: TraceSet,
    /// Those of them whose rows cannot be looked at where they lie, as some may be copies.
    pub loose: TraceSet,
    /// `loose`, and those of which only the whole-trace values are not known where they lie.
    pub valueless: TraceSet,
    /// Whether it is known of all blocks which of their rows are copies.
    copies_known: bool,
    valueless_ids: OnceLock<Arc<Vec<TraceId>>>,
    /// When some of `valueless` start.
    starts: Arc<HashMap<TraceId, i64>>,
}

impl Sources {
    pub fn new(all: Vec<Arc<Source>>, split: TraceSet, loose: TraceSet, valueless: TraceSet, copies_known: bool) -> Self {
        Self { all, split, loose, valueless, copies_known, valueless_ids: OnceLock::new(), starts: Arc::default() }
    }

    /// With what is known of `valueless`: when they start.
    pub fn starting(self, starts: Arc<HashMap<TraceId, i64>>) -> Self {
        Self { starts, ..self }
    }

    /// When a trace of `valueless` starts at the latest, in Unix nanoseconds: a further part can only begin earlier.
    pub fn latest_start(&self, id: &TraceId) -> i64 {
        self.starts.get(id).copied().filter(|_| !self.loose.contains(id)).unwrap_or(i64::MAX)
    }

    /// Whether each row of the source counts, wherever else its trace lies: blocks come before live data, and of spans that
    /// lie twice the first counts.
    pub fn counts_all(&self, source: &Source) -> bool {
        let block = source.block_bytes().is_some();
        if block { self.copies_known && !source.has_copies() } else { self.loose.is_empty() }
    }

    /// The ids of `valueless`, ascending, each once. Sorted when first asked for.
    pub fn valueless_ids(&self) -> &Arc<Vec<TraceId>> {
        self.valueless_ids.get_or_init(|| Arc::new(self.valueless.ids()))
    }
}
