//! The engine: takes a question, finds the places to look, hands them to the operation.

use std::{collections::HashMap, num::NonZeroUsize, sync::Arc};

use block::batch::SpanBatch;
use futures::{StreamExt, TryStreamExt, future::BoxFuture, stream};
use model::{ErrorKind, TenantId, TraceId};
use parking_lot::Mutex;
use storage::Storage;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::task::AbortOnDropHandle;
use ulid::Ulid;

use crate::{
    despite::BrokenBlocks,
    live::{LiveData, LiveGeneration},
    reads::Reads,
    request::QueryError,
    scan::unreadable,
    source::{LiveSources, SharedTraces, Source, SourceId, Sources, Split, Unit},
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
    tenants: Mutex<HashMap<TenantId, Arc<TenantSources>>>,
    broken: BrokenBlocks,
    memory: UnitMemory,
}

#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Units of one query that are read and evaluated at the same time.
    pub parallelism: NonZeroUsize,
    /// About the most bytes that row groups take while they are decoded, over all queries. Units wait for each
    /// other above it.
    pub memory_bytes_max: u64,
}

impl Default for EngineConfig {
    /// One unit per core, in 1 GiB.
    fn default() -> Self {
        Self { parallelism: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN), memory_bytes_max: 1 << 30 }
    }
}

/// What the engine remembers of a tenant between queries. Bounded by the blocks and live batches it has.
#[derive(Default)]
struct TenantSources {
    blocks: Mutex<HashMap<Ulid, Arc<Source>>>,
    live: LiveSources,
    shared: SharedTraces,
    together: tokio::sync::Mutex<Option<Arc<Together>>>,
}

/// The traces that are split between these blocks.
struct Together {
    blocks: Vec<SourceId>,
    sources: Vec<Arc<Source>>,
    /// False if there were too many.
    complete: bool,
}

/// Spans of split traces that are kept in memory per tenant: about 1 GiB at the most, some hundred bytes each.
const TOGETHER_ROWS_MAX: usize = 2_000_000;

/// Blocks opened at the same time when a query meets many new ones.
const BLOCKS_OPENING_MAX: usize = 16;

impl Engine {
    pub fn new(storage: Storage, live: Arc<dyn LiveData>, config: EngineConfig) -> Self {
        let memory = UnitMemory::new(config.memory_bytes_max);
        let inner = Inner { storage, live, config, tenants: Mutex::default(), broken: BrokenBlocks::default(), memory };
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
        let live = self.inner.live.live(tenant);
        let known = Arc::clone(self.inner.tenants.lock().entry(tenant.clone()).or_default());
        let mut all = self.blocks_and_transactions(tenant, &known, &live, reads).await?;
        let batches = all.live.iter().flat_map(|generation| &generation.batches);
        // In the order in which spans were received: merged rows of a trace keep it.
        let mut sources = std::mem::take(&mut all.blocks);
        sources.extend(known.live.of(batches));
        let split = known.shared.split(&sources, &sources).await?;
        let together = self.together(&known, &sources, &split).await?;
        let loose = match &together {
            // Its traces are all split between blocks only.
            Some(_) => split.live,
            None => split.all.clone(),
        };
        Ok(Sources {
            all: sources,
            split: Arc::new(split.all),
            together: together.map_or(vec![], |together| together.sources.clone()),
            loose: Arc::new(loose),
        })
    }

    /// The traces that are split between blocks, put together. Made once for a set of blocks; `None` if there are
    /// none, or too many to keep.
    async fn together(&self, known: &TenantSources, sources: &[Arc<Source>], split: &Split) -> Result<Option<Arc<Together>>, QueryError> {
        if split.all.is_empty() {
            return Ok(None);
        }
        let blocks: Vec<Arc<Source>> = sources.iter().filter(|source| !source.is_live()).cloned().collect();
        let ids: Vec<SourceId> = blocks.iter().map(|source| source.id).collect();
        let mut kept = known.together.lock().await;
        if kept.as_ref().is_none_or(|together| together.blocks != ids) {
            let between_blocks = known.shared.split(&blocks, sources).await?.all;
            let reads = Arc::new(Reads::default());
            let mut made = vec![];
            let mut rows = 0;
            for chunk in merge_chunks(between_blocks.into_iter().collect()) {
                if let Some(merged) = self.merged_from(&blocks, &chunk, &reads).await? {
                    rows += merged.records.num_rows();
                    let batch = SpanBatch { records: merged.records, catalogue: merged.layout.catalogue };
                    made.push(Source::memory(batch));
                }
                if rows > TOGETHER_ROWS_MAX {
                    break;
                }
            }
            *kept = Some(Arc::new(Together { blocks: ids, sources: made, complete: rows <= TOGETHER_ROWS_MAX }));
        }
        Ok(kept.clone().filter(|together| together.complete))
    }

    async fn blocks_and_transactions(
        &self,
        tenant: &TenantId,
        known: &TenantSources,
        live: &[LiveGeneration],
        reads: &Reads,
    ) -> Result<Found, QueryError> {
        let failed = |e: storage::StorageError| QueryError::new(e.kind(), format!("cannot read the table of tenant {tenant}: {e}"));
        let table = self.inner.storage.table(tenant).await.map_err(failed)?;
        let snapshot = table.snapshot();
        let committed = |generation: &&LiveGeneration| match (generation.segment, snapshot.transactions.get(&generation.ingester)) {
            (Some(segment), Some(version)) => i64::try_from(segment).is_ok_and(|segment| segment <= *version),
            _ => false,
        };
        let live = live.iter().filter(|generation| !committed(generation)).cloned().collect();
        let remembered = known.blocks.lock().clone();
        let mut entries = snapshot.blocks.clone();
        entries.sort_by_key(|entry| entry.id);
        entries.retain(|entry| match reads.broken(entry.id).or_else(|| self.inner.broken.known(entry.id)) {
            Some(block) => {
                reads.miss(tenant, block);
                false
            }
            None => true,
        });
        let opened: Vec<(Ulid, Arc<Source>)> = stream::iter(entries)
            .map(|entry| {
                let remembered = remembered.get(&entry.id).cloned();
                async move {
                    if let Some(source) = remembered {
                        return Ok((entry.id, source));
                    }
                    let block = self.inner.storage.open_block(tenant, &entry).await;
                    Ok((entry.id, Source::block(block.map_err(|e| unreadable(entry.id, &e))?)?))
                }
            })
            .buffered(BLOCKS_OPENING_MAX)
            .try_collect()
            .await?;
        let blocks = opened.iter().map(|(_, source)| Arc::clone(source)).collect();
        *known.blocks.lock() = opened.into_iter().collect();
        Ok(Found { blocks, live })
    }

    /// A block of the tenant's table by its id, if it can be opened.
    pub(crate) async fn opened(&self, tenant: &TenantId, id: Ulid) -> Option<Arc<storage::OpenBlock>> {
        let snapshot = self.inner.storage.table(tenant).await.ok()?.snapshot();
        self.inner.storage.open_block(tenant, snapshot.block(id)?).await.ok()
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
                    task.await.unwrap_or_else(|e| Err(QueryError::new(ErrorKind::Internal, format!("a part of the query failed: {e}"))))
                }
            })
            .buffered(self.inner.config.parallelism.get());
        while let Some(result) = results.try_next().await? {
            take(result)?;
        }
        Ok(())
    }
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

struct Found {
    blocks: Vec<Arc<Source>>,
    live: Vec<LiveGeneration>,
}

/// Split traces merged at a time: bounds the memory of merging at some thousands of spans per trace.
pub(crate) const MERGE_TRACES_MAX: usize = 2048;

/// The ids in chunks that can be merged at once.
pub(crate) fn merge_chunks(mut ids: Vec<TraceId>) -> Vec<Arc<Vec<TraceId>>> {
    ids.sort_unstable();
    ids.dedup();
    ids.chunks(MERGE_TRACES_MAX).map(|chunk| Arc::new(chunk.to_vec())).collect()
}
