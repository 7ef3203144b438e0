//! The places a tenant's spans are in at one moment: blocks of a table snapshot and live batches.
//!
//! A trace that lies in more than one place is *split* ([`crate::split`]). It is left out wherever it is found in
//! part, and evaluated from all its rows merged, so that every answer is about whole traces.

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
    reads::Reads,
    request::{QueryError, TimeRange},
    scan::{BlockReader, Scan, read_memory},
    split::TraceSet,
    trace_index::TraceIndex,
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
}

pub enum SourceData {
    Memory(SpanBatch, Layout),
    Block(BlockReader),
}

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

impl Source {
    fn new(data: SourceData, range: TimeRange) -> Arc<Self> {
        let id = SourceId(NEXT_ID.fetch_add(1, Ordering::Relaxed));
        Arc::new(Self { id, data, range, index: OnceLock::new() })
    }

    pub fn memory(batch: SpanBatch) -> Arc<Self> {
        let layout = Layout { schema: batch.records.schema(), catalogue: Arc::clone(&batch.catalogue) };
        let range = memory_range(&batch);
        Self::new(SourceData::Memory(batch, layout), range)
    }

    pub fn block(block: Arc<OpenBlock>, cache: ColumnCache) -> Result<Arc<Self>, QueryError> {
        let entry = block.entry();
        let range = TimeRange { start: entry.min_start_unix_nano, end: entry.max_end_unix_nano };
        Ok(Self::new(SourceData::Block(BlockReader::new(block, cache)?), range))
    }

    pub fn layout(&self) -> &Layout {
        match &self.data {
            SourceData::Memory(_, layout) => layout,
            SourceData::Block(reader) => &reader.layout,
        }
    }

    /// The size of its data file; `None` for live data.
    pub fn block_bytes(&self) -> Option<u64> {
        match &self.data {
            SourceData::Memory(..) => None,
            SourceData::Block(reader) => Some(reader.block.entry().size_bytes),
        }
    }

    pub fn overlaps(&self, range: Option<TimeRange>) -> bool {
        range.is_none_or(|range| self.range.start <= range.end && self.range.end >= range.start)
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
            SourceData::Block(reader) => reader.block.sidecar().trace_filter.contains(id),
        }
    }

    /// The parts that can be read side by side, each with its traces whole.
    pub fn units(self: &Arc<Self>, scan: &Scan, reads: &Reads) -> Result<Vec<Unit>, QueryError> {
        let unit = |row_group, memory_bytes| Unit { source: Arc::clone(self), row_group, memory_bytes };
        Ok(match &self.data {
            SourceData::Memory(..) => vec![unit(None, 0)],
            SourceData::Block(reader) => {
                reader.row_groups(scan, reads)?.into_iter().map(|r| unit(Some(r), reader.memory_bytes(r, scan))).collect()
            }
        })
    }

    /// All rows of some traces with all their columns, for merging with other places' rows.
    pub async fn traces(self: &Arc<Self>, ids: &Arc<Vec<TraceId>>, reads: &Arc<Reads>) -> Result<Vec<SpanBatch>, QueryError> {
        let scan = Scan { traces: Some(Arc::clone(ids)), ..Scan::default() };
        let mut found = vec![];
        for unit in self.units(&scan, reads)? {
            let records = unit.read(&scan, reads).await?;
            if records.num_rows() > 0 {
                found.push(SpanBatch { records, catalogue: Arc::clone(&self.layout().catalogue) });
            }
        }
        Ok(found)
    }
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
        reads.go_on()?;
        let began = reads.trail.read_begins();
        let rows = match (&self.source.data, self.row_group) {
            (SourceData::Block(reader), Some(row_group)) => reader.read(row_group, scan, reads).await?,
            (SourceData::Memory(batch, _), _) => read_memory(&batch.records, scan, reads)?,
            (SourceData::Block(_), None) => unreachable!("units of a block name their row group"),
        };
        if let Some(began) = began {
            let block = match &self.source.data {
                SourceData::Block(reader) => Some(reader.block.entry().id).zip(self.row_group),
                SourceData::Memory(..) => None,
            };
            reads.trail.read_ends(began, block, rows.num_rows() as u64);
        }
        reads.trail.units_read.fetch_add(1, Ordering::Relaxed);
        reads.trail.rows_kept.fetch_add(rows.num_rows() as u64, Ordering::Relaxed);
        Ok(rows)
    }

    /// All rows of what `scan` looks at and their traces, if they are at hand. `scan` has the columns of ids and
    /// whole-trace times and names no traces.
    pub async fn whole(&self, scan: &Scan, reads: &Arc<Reads>) -> Result<Option<(RecordBatch, Arc<TraceIndex>)>, QueryError> {
        reads.go_on()?;
        let found = match (&self.source.data, self.row_group) {
            (SourceData::Block(reader), Some(row_group)) => {
                let Some(whole) = reader.whole(row_group, scan, reads).await? else { return Ok(None) };
                let index = reader.traces(row_group, &whole).await?;
                (whole, index)
            }
            (SourceData::Memory(batch, _), _) => {
                let index = match self.source.index.get() {
                    Some(index) => index,
                    None => {
                        let index = Arc::new(TraceIndex::of(&batch.records)?);
                        self.source.index.get_or_init(|| index)
                    }
                };
                (batch.records.clone(), Arc::clone(index))
            }
            (SourceData::Block(_), None) => unreachable!("units of a block name their row group"),
        };
        reads.trail.units_read.fetch_add(1, Ordering::Relaxed);
        Ok(Some(found))
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
    /// The traces that lie in several of them: left out where they are found in part.
    pub split: TraceSet,
    /// Split traces put together before, and which of those in each are out of date or loose.
    pub together: Vec<(Arc<Source>, TraceSet)>,
    /// Split traces that `together` has not, or that have a part in live data: to be merged for each query.
    pub loose: TraceSet,
    loose_ids: OnceLock<Arc<Vec<TraceId>>>,
}

impl Sources {
    pub fn new(all: Vec<Arc<Source>>, split: TraceSet, together: Vec<(Arc<Source>, TraceSet)>, loose: TraceSet) -> Self {
        Self { all, split, together, loose, loose_ids: OnceLock::new() }
    }

    /// The ids of `loose`, ascending, each once. Sorted when first asked for.
    pub fn loose_ids(&self) -> &Arc<Vec<TraceId>> {
        self.loose_ids.get_or_init(|| {
            let mut ids: Vec<TraceId> = self.loose.iter().copied().collect();
            ids.sort_unstable();
            ids.dedup();
            Arc::new(ids)
        })
    }

    /// Each source, and the traces to leave out of it.
    pub fn parts(&self) -> impl Iterator<Item = (&Arc<Source>, &TraceSet)> {
        let lying = self.all.iter().map(|source| (source, &self.split));
        lying.chain(self.together.iter().map(|(source, left_out)| (source, left_out)))
    }
}
