//! One trace by its id, where the tenant's blocks are not all known.
//!
//! Other questions need every block: which traces lie in several places follows from the ids in all of them. For one trace
//! indexes over many blocks say where it is, and the filters of blocks that no index covers, or that are known, where it may
//! be. Sidecars of such blocks are opened, and rows are read of those whose filter does not rule it out.
//!
//! A time that the caller names says where to look first. If the trace reaches beyond it, so does the search; and then the
//! other blocks are asked, as far as that is cheap: through indexes, through filters that are known, and, if they are few,
//! the blocks that neither tells of.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::Int64Type,
};
use block::{merge::merge, promotion::PromotionPolicy, schema, sidecar::TraceFilter};
use futures::{StreamExt, stream};
use model::{TenantId, TraceId};
use parking_lot::Mutex;
use storage::{BlockEntry, Snapshot};
use ulid::Ulid;

use crate::{
    engine::Engine,
    explain::Pruned,
    live::LiveGeneration,
    reads::{BrokenBlock, Reads},
    request::{QueryError, TimeRange},
    scan::unreadable,
    source::{Source, Sources},
    split::TraceSet,
    tenant::committed,
};

/// Sidecars under way at the same time.
const SIDECARS_OPENING_MAX: usize = 64;
/// Blocks outside of the time that the caller names whose sidecars are opened, where only these tell: no more than go beside
/// each other. With more of them none is.
const SIDECARS_BESIDE_MAX: usize = SIDECARS_OPENING_MAX;
/// Blocks whose rows are read at the same time.
const BLOCKS_READING_MAX: usize = 16;

/// The filters of blocks that a lookup met before: a little more than a byte for each trace of each block. Bounded by the
/// blocks of the tenants' tables.
#[derive(Default)]
pub(crate) struct Filters(Mutex<HashMap<TenantId, Known>>);

#[derive(Default)]
struct Known {
    /// The table's version when blocks that it no longer has were forgotten.
    version: i64,
    filters: HashMap<Ulid, Arc<TraceFilter>>,
}

impl Filters {
    /// Whether the filter lets the trace be in the block; `None` if the filter is not known.
    fn may_hold(&self, tenant: &TenantId, block: Ulid, id: &TraceId) -> Option<bool> {
        Some(self.0.lock().get(tenant)?.filters.get(&block)?.contains(id))
    }

    fn learn(&self, tenant: &TenantId, block: Ulid, filter: &TraceFilter) {
        let mut known = self.0.lock();
        known.entry(tenant.clone()).or_default().filters.entry(block).or_insert_with(|| Arc::new(filter.clone()));
    }

    /// Forgets blocks that are gone.
    fn retain(&self, tenant: &TenantId, snapshot: &Snapshot) {
        let mut known = self.0.lock();
        let Some(known) = known.get_mut(tenant).filter(|known| known.version != snapshot.version) else { return };
        let there: HashSet<Ulid> = snapshot.blocks.iter().map(|entry| entry.id).collect();
        known.filters.retain(|id, _| there.contains(id));
        known.version = snapshot.version;
    }
}

impl Engine {
    /// All rows of a trace that begins or ends in `range` or reaches into it, from blocks of `snapshot` and live data taken
    /// before it. Blocks that cannot be read go into `reads`.
    pub(crate) async fn rows_by_filters(
        &self,
        tenant: &TenantId,
        snapshot: &Snapshot,
        live: &[LiveGeneration],
        (id, range): (TraceId, Option<TimeRange>),
        reads: &Arc<Reads>,
    ) -> Result<Vec<RecordBatch>, QueryError> {
        let stage = reads.trail.stage("find blocks by their filters");
        let broken = self.broken_blocks().lately().into_iter().chain(reads.all_broken());
        let broken: HashMap<Ulid, BrokenBlock> = broken.map(|block| (block.id, block)).collect();
        let batches = live.iter().filter(|generation| !committed(generation, snapshot)).flat_map(|generation| &generation.batches);
        let batches: Vec<Arc<Source>> =
            batches.filter(|batch| batch.records.num_rows() > 0).map(|batch| Source::memory(batch.clone())).collect();
        let filters = self.filters();
        filters.retain(tenant, snapshot);
        let mut range = range;
        // Whether blocks outside of the range are looked at, too.
        let mut beside = false;
        let mut looked_at: HashSet<Ulid> = HashSet::new();
        let mut holders: BTreeMap<Ulid, Arc<Source>> = BTreeMap::new();
        let mut rows: Option<RecordBatch> = None;
        loop {
            let due = snapshot.blocks.iter().filter(|entry| !looked_at.contains(&entry.id) && (beside || overlaps(entry, range)));
            let mut due: Vec<Arc<BlockEntry>> = due.cloned().collect();
            if beside {
                self.leave_out_untold(tenant, (id, range), &mut due).await;
            }
            looked_at.extend(due.iter().map(|entry| entry.id));
            due.retain(|entry| match broken.get(&entry.id) {
                Some(block) => {
                    reads.miss(tenant, block.clone());
                    false
                }
                None if filters.may_hold(tenant, entry.id, &id) == Some(false) => {
                    reads.trail.prune(Pruned::Traces);
                    false
                }
                None => true,
            });
            let unknown: Vec<Arc<BlockEntry>> =
                due.iter().filter(|entry| filters.may_hold(tenant, entry.id, &id).is_none()).cloned().collect();
            let without = self.storage().blocks_without(tenant, &id, &unknown).await;
            due.retain(|entry| !without.contains(&entry.id));
            without.iter().for_each(|_| reads.trail.prune(Pruned::Traces));
            let held = holders.len();
            let mut opening = stream::iter(due)
                .map(|entry| async move {
                    let block = self.storage().open_block(tenant, &entry).await.map_err(|e| unreadable(entry.id, &e))?;
                    filters.learn(tenant, entry.id, &block.sidecar().trace_filter);
                    let holds = block.sidecar().trace_filter.contains(&id);
                    Ok::<_, QueryError>((entry.id, if holds { Some(Source::block(block, self.columns().clone())?) } else { None }))
                })
                .buffer_unordered(SIDECARS_OPENING_MAX);
            while let Some(opened) = opening.next().await {
                match opened? {
                    (id, Some(source)) => drop(holders.insert(id, source)),
                    (_, None) => reads.trail.prune(Pruned::Traces),
                }
            }
            drop(opening);
            if rows.is_none() || holders.len() > held {
                // Blocks first: merged rows of a trace keep the order in which they were received.
                let all: Vec<Arc<Source>> = holders.values().chain(&batches).cloned().collect();
                rows = merged(&all, id, reads).await?;
            }
            // Without a time all was looked at.
            let Some(wanted) = range else { break };
            let wider = rows.as_ref().map_or(wanted, |found| around(wanted, found));
            if wider != wanted {
                range = Some(wider);
            } else if !beside {
                beside = true;
            } else {
                break;
            }
        }
        drop(stage);
        let left_out = snapshot.blocks.iter().filter(|entry| !looked_at.contains(&entry.id));
        left_out.for_each(|_| reads.trail.prune(Pruned::Time));
        let all = holders.into_values().chain(batches).collect();
        reads.trail.found(&Sources::new(all, TraceSet::default(), TraceSet::default(), TraceSet::default(), true));
        Ok(rows.into_iter().filter(|rows| rows.num_rows() > 0).collect())
    }

    /// Leaves out blocks outside of the range of which neither an index nor a known filter tells, if they are many.
    async fn leave_out_untold(&self, tenant: &TenantId, (id, range): (TraceId, Option<TimeRange>), due: &mut Vec<Arc<BlockEntry>>) {
        let indexes = self.storage().trace_indexes(tenant).await;
        let untold = |entry: &BlockEntry| {
            !overlaps(entry, range) && indexes.of(entry).is_none() && self.filters().may_hold(tenant, entry.id, &id).is_none()
        };
        if due.iter().filter(|entry| untold(entry)).count() > SIDECARS_BESIDE_MAX {
            due.retain(|entry| !untold(entry));
        }
    }
}

/// The rows of the trace, from blocks beside each other: some only look as if they held it.
async fn merged(sources: &[Arc<Source>], id: TraceId, reads: &Arc<Reads>) -> Result<Option<RecordBatch>, QueryError> {
    let ids = Arc::new(vec![id]);
    let holders: Vec<Arc<Source>> = sources.iter().filter(|source| source.may_hold(&id)).cloned().collect();
    let mut reading = stream::iter(holders)
        .map(|source| {
            let (ids, reads) = (Arc::clone(&ids), Arc::clone(reads));
            async move { source.traces(&ids, None, &reads).await }
        })
        .buffered(BLOCKS_READING_MAX);
    let mut parts = vec![];
    while let Some(found) = reading.next().await {
        parts.extend(found?);
        reads.fits(parts.iter().map(|part| part.records.get_array_memory_size()).sum())?;
    }
    if parts.is_empty() {
        return Ok(None);
    }
    let merged = merge(&parts, &PromotionPolicy::default()).map_err(QueryError::internal)?;
    Ok(Some(merged.records))
}

fn overlaps(entry: &BlockEntry, range: Option<TimeRange>) -> bool {
    range.is_none_or(|range| entry.min_start_unix_nano <= range.end && entry.max_end_unix_nano >= range.start)
}

/// `range`, and as far as the rows reach.
fn around(range: TimeRange, rows: &RecordBatch) -> TimeRange {
    let column = |name: &str| rows.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int64Type>());
    let (Some(starts), Some(durations)) = (column(schema::START_TIME), column(schema::DURATION)) else { return range };
    let ends = starts.values().iter().zip(durations.values()).map(|(start, duration)| start.saturating_add(*duration));
    TimeRange {
        start: starts.values().iter().copied().min().map_or(range.start, |start| start.min(range.start)),
        end: ends.max().map_or(range.end, |end| end.max(range.end)),
    }
}
