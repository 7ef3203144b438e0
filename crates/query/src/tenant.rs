//! What the engine remembers of a tenant between queries, and how it follows the tenant's table.
//!
//! Everything here follows from the blocks that were opened, and is brought up to date by what changes. The work can be cut
//! short anywhere: what is done stays done, and the next query goes on.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use block::batch::SpanBatch;
use futures::{StreamExt, stream};
use model::TenantId;
use storage::{BlockEntry, Snapshot};
use ulid::Ulid;

use crate::{
    engine::Engine,
    live::LiveGeneration,
    reads::{BrokenBlock, Reads},
    request::QueryError,
    scan::unreadable,
    source::{LiveSources, Source, Sources},
    split::{BlockTraces, LiveTraces, TraceSet},
    together::Together,
};

/// Blocks opened at the same time when a query meets many new ones.
const BLOCKS_OPENING_MAX: usize = 16;

/// Bounded by the blocks and live batches that the tenant has.
#[derive(Default)]
pub struct Tenant {
    /// The version of the table that was looked at last.
    version: Option<i64>,
    /// In the order in which their spans were received.
    blocks: BTreeMap<Ulid, Arc<Source>>,
    /// Blocks of the table that are not open: new ones, and ones that could not be opened.
    closed: BTreeMap<Ulid, Arc<BlockEntry>>,
    /// Counts changes of `blocks`.
    changes: u64,
    traces: BlockTraces,
    together: Together,
    /// The count of changes after which `together` was brought up to date.
    together_at: u64,
    live: LiveSources,
    live_traces: LiveTraces,
}

impl Tenant {
    /// Everything the tenant has, by a snapshot of its table and live data taken before it. Blocks that are known to be
    /// broken are left out and go into `reads`.
    ///
    /// # Errors
    /// That of a block that cannot be opened names it. The others stay open for the next attempt.
    pub async fn sources(
        &mut self,
        engine: &Engine,
        tenant: &TenantId,
        snapshot: &Snapshot,
        live: &[LiveGeneration],
        reads: &Reads,
    ) -> Result<Sources, QueryError> {
        self.look_at(snapshot);
        let mut broken: HashMap<Ulid, BrokenBlock> = HashMap::new();
        for block in engine.broken_blocks().lately().into_iter().chain(reads.all_broken()) {
            if self.blocks.contains_key(&block.id) || self.closed.contains_key(&block.id) {
                reads.miss(tenant, block.clone());
                broken.insert(block.id, block);
            }
        }
        self.open(engine, tenant, &broken).await?;
        if self.together_at != self.changes {
            self.put_together(engine, tenant).await;
            self.together_at = self.changes;
        }
        let batches = live.iter().filter(|generation| !committed(generation, snapshot));
        let batches = self.live.of(batches.flat_map(|generation| &generation.batches));
        let live_split = self.live_traces.split(&batches, &self.traces, self.changes);
        let loose = TraceSet::of([self.together.waiting(), &live_split]);
        let blocks = self.blocks.iter().filter(|(id, _)| !broken.contains_key(id)).map(|(_, source)| Arc::clone(source));
        // Blocks first: merged rows of a trace keep the order in which they were received.
        let all = blocks.chain(batches).collect();
        // Some may lie in a single place, where the other is broken. They are looked at like the rest.
        let split = TraceSet::of([self.traces.split(), &live_split]);
        Ok(Sources::new(all, split, self.together.sources(&loose), loose))
    }

    /// Whether all blocks of the snapshot are open.
    pub fn knows(&self, snapshot: &Snapshot) -> bool {
        self.version == Some(snapshot.version) && self.closed.is_empty()
    }

    /// Forgets blocks that the table no longer has, and takes note of new ones.
    fn look_at(&mut self, snapshot: &Snapshot) {
        if self.version == Some(snapshot.version) {
            return;
        }
        let there: HashSet<Ulid> = snapshot.blocks.iter().map(|entry| entry.id).collect();
        let gone: Vec<Ulid> = self.blocks.keys().filter(|id| !there.contains(id)).copied().collect();
        for id in gone {
            self.blocks.remove(&id);
            let changed = self.traces.remove(id);
            self.together.change(&changed, self.traces.split());
            self.changes += 1;
        }
        let closed = snapshot.blocks.iter().filter(|entry| !self.blocks.contains_key(&entry.id));
        self.closed = closed.map(|entry| (entry.id, Arc::clone(entry))).collect();
        self.version = Some(snapshot.version);
    }

    /// Opens what is closed and not broken.
    async fn open(&mut self, engine: &Engine, tenant: &TenantId, broken: &HashMap<Ulid, BrokenBlock>) -> Result<(), QueryError> {
        let closed: Vec<_> = self.closed.values().filter(|entry| !broken.contains_key(&entry.id)).cloned().collect();
        let mut opening = stream::iter(closed)
            .map(|entry| async move {
                let block = engine.storage().open_block(tenant, &entry).await;
                let source = Source::block(block.map_err(|e| unreadable(entry.id, &e))?, engine.columns().clone())?;
                let ids = source.trace_ids().await?;
                Ok::<_, QueryError>((entry.id, source, ids))
            })
            .buffer_unordered(BLOCKS_OPENING_MAX);
        while let Some(opened) = opening.next().await {
            let (id, source, ids) = opened?;
            let changed = self.traces.add(id, &ids);
            self.together.change(&changed, self.traces.split());
            self.blocks.insert(id, source);
            self.closed.remove(&id);
            self.changes += 1;
        }
        Ok(())
    }

    /// Merges split traces that wait. Those that cannot be merged now stay with the queries that need them.
    async fn put_together(&mut self, engine: &Engine, tenant: &TenantId) {
        self.together.tidy();
        let reads = Arc::new(Reads::default());
        let mut broken: HashSet<Ulid> = HashSet::new();
        while let Some(ids) = self.together.next(|id| self.traces.blocks_of(id).all(|block| !broken.contains(&block))) {
            let places: HashSet<Ulid> = ids.iter().flat_map(|id| self.traces.blocks_of(id)).collect();
            let holders = self.blocks.iter().filter(|(id, _)| places.contains(id));
            let holders: Vec<Arc<Source>> = holders.map(|(_, source)| Arc::clone(source)).collect();
            match engine.merged_from(&holders, &ids, &reads).await {
                Ok(Some(merged)) => {
                    let rows = merged.records.num_rows();
                    let batch = SpanBatch { records: merged.records, catalogue: merged.layout.catalogue };
                    self.together.keep(ids, Source::memory(batch), rows);
                }
                Ok(None) => unreachable!("the blocks of a split trace hold it"),
                Err(error) => {
                    tracing::warn!(%tenant, %error, "traces that lie in several blocks are merged by each query for now");
                    // On with those that are not in this block.
                    if !error.block.is_some_and(|block| broken.insert(block)) {
                        return;
                    }
                }
            }
        }
    }
}

/// Whether the table has the generation.
pub(crate) fn committed(generation: &LiveGeneration, snapshot: &Snapshot) -> bool {
    match (generation.segment, snapshot.transactions.get(&generation.ingester)) {
        (Some(segment), Some(version)) => i64::try_from(segment).is_ok_and(|segment| segment <= *version),
        _ => false,
    }
}
