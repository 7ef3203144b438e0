//! What the engine remembers of a tenant between queries, and how it follows the tenant's table.
//!
//! Everything here follows from the blocks that were opened, and is brought up to date by what changes. The work can be cut
//! short anywhere: what is done stays done, and the next query goes on.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use futures::{StreamExt, stream};
use model::TenantId;
use storage::{BlockEntry, Snapshot};
use tokio_util::task::AbortOnDropHandle;
use ulid::Ulid;

use crate::{
    engine::Engine,
    joins::{Joins, ValuesMemory, join},
    live::LiveGeneration,
    reads::{BrokenBlock, Reads},
    request::QueryError,
    scan::unreadable,
    source::{LiveSources, Source, Sources},
    split::{BlockTraces, LiveTraces, TraceSet},
};

/// Blocks opened at the same time when a query meets many new ones.
const BLOCKS_OPENING_MAX: usize = 16;
/// Lots of split traces that are looked at at the same time: see [`crate::joins`] for what each takes.
const LOTS_AT_ONCE_MAX: usize = 4;

/// Bounded by the blocks and live batches that the tenant has.
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
    joins: Joins,
    /// The count of changes after which `joins` was brought up to date.
    joins_at: u64,
    live: LiveSources,
    live_traces: LiveTraces,
}

impl Tenant {
    /// One of which nothing is known yet. `memory` is for the values of its split traces.
    pub fn new(memory: Arc<ValuesMemory>) -> Self {
        Self {
            version: None,
            blocks: BTreeMap::new(),
            closed: BTreeMap::new(),
            changes: 0,
            traces: BlockTraces::default(),
            joins: Joins::new(memory),
            joins_at: 0,
            live: LiveSources::default(),
            live_traces: LiveTraces::default(),
        }
    }

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
        if self.joins_at != self.changes {
            self.join(engine, tenant).await;
            self.joins_at = self.changes;
        }
        let batches = live.iter().filter(|generation| !committed(generation, snapshot));
        let batches = self.live.of(batches.flat_map(|generation| &generation.batches));
        let live_split = self.live_traces.split(&batches, &self.traces, self.changes);
        // What is known of their parts elsewhere was found with the rows that are missing now.
        let missing = self.traces.split_in(broken.keys().copied());
        let loose = TraceSet::of([self.joins.waiting(), &live_split, &missing]);
        let valueless = loose.clone().and(self.joins.valueless());
        let blocks = self.blocks.iter().filter(|(id, _)| !broken.contains_key(id)).map(|(_, source)| Arc::clone(source));
        // Blocks first: merged rows of a trace keep the order in which they were received.
        let all = blocks.chain(batches).collect();
        // Some may lie in a single place, where the other is broken. They are looked at like the rest.
        let split = TraceSet::of([self.traces.split(), &live_split]);
        let copies_known = self.joins.waiting().is_empty() && missing.is_empty();
        Ok(Sources::new(all, split, loose, valueless, copies_known).starting(Arc::clone(self.joins.starts())))
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
            self.joins.forget(id);
            let changed = self.traces.remove(id);
            self.joins.change(&changed, self.traces.split());
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
            self.joins.change(&changed, self.traces.split());
            self.blocks.insert(id, source);
            self.closed.remove(&id);
            self.changes += 1;
        }
        Ok(())
    }

    /// Finds what split traces that wait are as a whole. Those of which it cannot be found now stay with the queries that need them.
    async fn join(&mut self, engine: &Engine, tenant: &TenantId) {
        self.joins.tidy();
        let mut broken: HashSet<Ulid> = HashSet::new();
        let at_once = engine.parallelism().get().min(LOTS_AT_ONCE_MAX);
        loop {
            let lots = self.joins.lots(|id| self.traces.blocks_of(id).all(|block| !broken.contains(&block)));
            let (traces, blocks) = (&self.traces, &self.blocks);
            let mut joining = stream::iter(lots)
                .map(|ids| {
                    let places: HashSet<Ulid> = ids.iter().flat_map(|id| traces.blocks_of(id)).collect();
                    let holders = blocks.iter().filter(|(id, _)| places.contains(id));
                    let holders = holders.map(|(id, source)| (*id, Arc::clone(source))).collect();
                    let joining = AbortOnDropHandle::new(tokio::spawn(join(holders, Arc::clone(&ids))));
                    async move { (ids, joining.await) }
                })
                .buffered(at_once);
            let mut again = false;
            while let Some((ids, joined)) = joining.next().await {
                let error = match joined {
                    Ok(Ok(found)) => {
                        self.joins.keep(&ids, found);
                        continue;
                    }
                    Ok(Err(error)) => error,
                    Err(error) => QueryError::internal(error),
                };
                tracing::warn!(%tenant, %error, "traces that lie in several blocks are merged by each query for now");
                // On with those that are not in this block.
                again |= error.block.is_some_and(|block| broken.insert(block));
            }
            drop(joining);
            if !again {
                break;
            }
        }
        for (id, parts) in self.joins.changed() {
            if let Some(source) = self.blocks.get_mut(&id) {
                *source = source.with_parts(parts);
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
