//! The engine: takes a question, finds the places to look, hands them to the operation.

use std::{collections::HashMap, num::NonZeroUsize, sync::Arc, time::Duration};

use futures::{StreamExt, TryStreamExt, future::BoxFuture, stream};
use model::{ErrorKind, TenantId, TraceId};
use parking_lot::Mutex;
use storage::{Snapshot, Storage};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::task::AbortOnDropHandle;
use ulid::Ulid;

use crate::{
    columns::ColumnCache,
    despite::BrokenBlocks,
    joins::ValuesMemory,
    live::{LiveData, LiveGeneration},
    lookup::Filters,
    reads::Reads,
    request::QueryError,
    source::{Sources, Unit},
    tenant::Tenant,
};

/// An answer under way; dropping it stops the work. Boxed where it is made, so that the engine's code is compiled
/// in this crate and not again in each that waits for an answer.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, QueryError>>;

/// A handle; clones share everything.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
    /// Where this handle's query is accounted for.
    reads: Option<Arc<Reads>>,
}

struct Inner {
    storage: Storage,
    live: Arc<dyn LiveData>,
    config: EngineConfig,
    tenants: Mutex<HashMap<TenantId, Arc<tokio::sync::Mutex<Tenant>>>>,
    broken: BrokenBlocks,
    memory: UnitMemory,
    columns: ColumnCache,
    split_values: Arc<ValuesMemory>,
    filters: Filters,
}

#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Units of one query that are read and evaluated at the same time.
    pub parallelism: NonZeroUsize,
    /// About the most bytes that row groups take while they are decoded, over all queries. Units wait for each
    /// other above it.
    pub memory_bytes_max: u64,
    /// How far the table may be behind what other processes committed. Each query that finds it older costs a GET.
    pub table_age_max: Duration,
    /// The most memory for decoded columns of blocks that are kept between queries; 0 keeps none.
    pub columns_memory_bytes: u64,
    /// The most memory for what traces that lie in several blocks are as a whole, over all tenants: about 30 bytes for each of
    /// their spans. Those for which there is none are merged by each query that needs to know.
    pub split_traces_memory_bytes: u64,
}

impl Default for EngineConfig {
    /// One unit per core, in 1 GiB; a table that is at most 5 seconds behind; 256 MiB of columns, which is what searches look
    /// at of some two million spans; 256 MiB for split traces, which is enough for some eight million of their spans.
    fn default() -> Self {
        let parallelism = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let table_age_max = Duration::from_secs(5);
        Self { parallelism, memory_bytes_max: 1 << 30, table_age_max, columns_memory_bytes: 256 << 20, split_traces_memory_bytes: 256 << 20 }
    }
}

impl Engine {
    pub fn new(storage: Storage, live: Arc<dyn LiveData>, config: EngineConfig) -> Self {
        let memory = UnitMemory::new(config.memory_bytes_max);
        let columns = ColumnCache::new(config.columns_memory_bytes);
        let broken = BrokenBlocks::default();
        let split_values = ValuesMemory::new(config.split_traces_memory_bytes);
        let (tenants, filters) = (Mutex::default(), Filters::default());
        let inner = Inner { storage, live, config, tenants, broken, memory, columns, split_values, filters };
        Self { inner: Arc::new(inner), reads: None }
    }

    /// The same engine, for one query that is accounted for in `reads`: there stands also what its answer lacks.
    #[must_use]
    pub fn accounting(&self, reads: &Arc<Reads>) -> Self {
        Self { inner: Arc::clone(&self.inner), reads: Some(Arc::clone(reads)) }
    }

    pub(crate) fn reads(&self) -> Arc<Reads> {
        self.reads.clone().unwrap_or_default()
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.inner.storage
    }

    pub(crate) fn columns(&self) -> &ColumnCache {
        &self.inner.columns
    }

    pub(crate) fn filters(&self) -> &Filters {
        &self.inner.filters
    }

    pub(crate) fn broken_blocks(&self) -> &BrokenBlocks {
        &self.inner.broken
    }

    /// How often a block was found unreadable, by reason.
    pub fn blocks_broken(&self) -> [(&'static str, u64); 4] {
        self.inner.broken.counts()
    }

    /// Everything a tenant has at this moment, but for blocks that cannot be read: those go into `reads`.
    pub(crate) async fn sources(&self, tenant: &TenantId, reads: &Reads) -> Result<Sources, QueryError> {
        // Live data first, then the table: a generation committed in between is in both, and is left out by
        // its transaction. The other way round it could be in neither.
        let _stage = reads.trail.stage("find blocks and split traces");
        let live = self.inner.live.live(tenant);
        let table = self.inner.storage.table(tenant).await;
        let table = table.map_err(|e| QueryError::new(e.kind(), format!("cannot read the table of tenant {tenant}: {e}")))?;
        // Others' commits are read before our turn: who waits for the store holds nobody up.
        table.snapshot_within(self.inner.config.table_age_max).await;
        let known = self.tenant(tenant);
        let mut known = known.lock().await;
        // Not before it is our turn: versions only grow from one query to the next.
        let sources = known.sources(self, tenant, &table.snapshot(), &live, reads).await?;
        reads.trail.found(&sources);
        Ok(sources)
    }

    fn tenant(&self, tenant: &TenantId) -> Arc<tokio::sync::Mutex<Tenant>> {
        let new = || Arc::new(tokio::sync::Mutex::new(Tenant::new(Arc::clone(&self.inner.split_values))));
        Arc::clone(self.inner.tenants.lock().entry(tenant.clone()).or_insert_with(new))
    }

    /// Live data and, after it, a snapshot of the table, if not all of its blocks are known: see [`Self::sources`].
    pub(crate) async fn unknown_blocks(
        &self,
        tenant: &TenantId,
    ) -> Result<Option<(Vec<LiveGeneration>, Arc<Snapshot>)>, QueryError> {
        let live = self.inner.live.live(tenant);
        let table = self.inner.storage.table(tenant).await;
        let table = table.map_err(|e| QueryError::new(e.kind(), format!("cannot read the table of tenant {tenant}: {e}")))?;
        let snapshot = table.snapshot_within(self.inner.config.table_age_max).await;
        let known = self.tenant(tenant);
        // Who opens blocks at this moment does not know all of them yet.
        let all_known = known.try_lock().is_ok_and(|known| known.knows(&snapshot));
        Ok((!all_known).then_some((live, snapshot)))
    }

    /// Memory in use for what split traces are as a whole, in bytes.
    pub fn split_traces_bytes(&self) -> u64 {
        self.inner.split_values.used()
    }

    /// Waits for the memory to decode a unit.
    pub(crate) async fn reserve(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        self.inner.memory.reserve(bytes).await
    }

    pub(crate) fn parallelism(&self) -> NonZeroUsize {
        self.inner.config.parallelism
    }

    /// A block of the tenant's table by its id, if it can be opened.
    pub(crate) async fn opened(&self, tenant: &TenantId, id: Ulid) -> Option<Arc<storage::OpenBlock>> {
        let snapshot = self.inner.storage.table(tenant).await.ok()?.snapshot();
        self.inner.storage.open_block(tenant, snapshot.block(id)?).await.ok()
    }

    /// Does a few pieces of work, each in a task of its own. Dropping the future stops those not yet begun.
    pub(crate) async fn side_by_side<T: Send + 'static>(
        &self,
        work: impl Iterator<Item = impl Future<Output = T> + Send + 'static>,
    ) -> Result<Vec<T>, QueryError> {
        let begun: Vec<_> = work.map(|piece| AbortOnDropHandle::new(tokio::spawn(piece))).collect();
        let mut done = Vec::with_capacity(begun.len());
        for piece in begun {
            done.push(piece.await.map_err(failed)?);
        }
        Ok(done)
    }

    /// Works on every unit, and returns what each brings.
    pub(crate) async fn each_unit<T, W, F>(&self, units: Vec<Unit>, work: W) -> Result<Vec<T>, QueryError>
    where
        T: Send + 'static,
        W: Fn(Unit) -> F + Send,
        F: Future<Output = Result<T, QueryError>> + Send + 'static,
    {
        let mut results = vec![];
        self.from_each_unit(units, work, |result| {
            results.push(result);
            Ok(())
        })
        .await?;
        Ok(results)
    }

    /// Works on every unit, as many at a time as configured and as there is memory for, and hands the results to
    /// `take` in the order of the units. Dropping the future stops the work.
    pub(crate) async fn from_each_unit<T, W, F>(
        &self,
        units: Vec<Unit>,
        work: W,
        mut take: impl FnMut(T) -> Result<(), QueryError> + Send,
    ) -> Result<(), QueryError>
    where
        T: Send + 'static,
        W: Fn(Unit) -> F + Send,
        F: Future<Output = Result<T, QueryError>> + Send + 'static,
    {
        if units.len() == 1 {
            for unit in units {
                let _memory = self.inner.memory.reserve(unit.memory_bytes).await;
                take(work(unit).await?)?;
            }
            return Ok(());
        }
        let mut results = stream::iter(units)
            .map(|unit| {
                let (inner, bytes) = (Arc::clone(&self.inner), unit.memory_bytes);
                let work = work(unit);
                let task = AbortOnDropHandle::new(tokio::spawn(async move {
                    let _memory = inner.memory.reserve(bytes).await;
                    work.await
                }));
                async move {
                    task.await.unwrap_or_else(|e| Err(failed(e)))
                }
            })
            .buffered(self.inner.config.parallelism.get());
        while let Some(result) = results.try_next().await? {
            take(result)?;
        }
        Ok(())
    }
}

fn failed(error: tokio::task::JoinError) -> QueryError {
    QueryError::new(ErrorKind::Internal, format!("a part of the query failed: {error}"))
}

/// Memory for units under way, in KiB.
struct UnitMemory {
    free: Semaphore,
    all: u32,
}

impl UnitMemory {
    fn new(bytes: u64) -> Self {
        let all = u32::try_from(bytes >> 10).unwrap_or(u32::MAX).clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize) as u32);
        Self { free: Semaphore::new(all as usize), all }
    }

    /// Waits for the memory of one unit. One that takes more than there is gets all of it.
    async fn reserve(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        let share = u32::try_from(bytes >> 10).unwrap_or(u32::MAX).min(self.all);
        // The semaphore is never closed.
        self.free.acquire_many(share).await.ok()
    }
}

/// Split traces merged at a time with all their columns: bounds the memory of merging at some thousands of spans per trace.
pub(crate) const MERGE_TRACES_MAX: usize = 2048;
/// And with those columns only that a query needs.
pub(crate) const MERGE_NARROW_TRACES_MAX: usize = 8192;

/// The ids in chunks that can be merged at once, ascending over all, so that each takes few pages.
pub(crate) fn merge_chunks(mut ids: Vec<TraceId>, most: usize) -> Vec<Arc<Vec<TraceId>>> {
    ids.sort_unstable();
    ids.dedup();
    ids.chunks(most).map(|chunk| Arc::new(chunk.to_vec())).collect()
}
