//! The storage of all tenants: tables, blocks, and the caches in front of them.

use std::{collections::HashSet, sync::Arc};

use block::{sidecar::Sidecar, writer::EncodedBlock};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::BoxFuture, stream};
use model::TenantId;
use moka::notification::RemovalCause;
use object_store::ObjectStore;
use parking_lot::Mutex;
use ulid::Ulid;

use crate::{
    chunks::{ChunkCache, DataFile},
    claim::{self, ClaimOutcome},
    config::{Backend, DAY_MS, StorageConfig, TableConfig},
    delta::log::Log,
    entry::BlockEntry,
    error::{Result, StorageError},
    keys::{Keys, TableKeys},
    metered::Metered,
    metrics::StorageMetrics,
    open_block::OpenBlock,
    store,
    table::Table,
    trace_index::TraceIndexes,
    upload,
};

/// Tables kept open. One that falls out is opened again by its next use: a GET, a LIST and the commits
/// since its checkpoint.
const TABLES_MAX: u64 = 10_000;
/// Memory of the heads of indexes of traces: of some 400,000 blocks.
const INDEX_HEADS_BYTES: u64 = 32 << 20;
/// Memory of ranges of such indexes: of the last 200.
const INDEX_RANGES_BYTES: u64 = 32 << 20;
/// Folders looked into at once for whether they hold a table.
const PARALLEL_LISTS: usize = 16;

/// What the caches hold, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cached {
    /// Checked pieces of data files in memory.
    pub memory_bytes: u64,
    pub memory_bytes_max: u64,
    /// What was written to the disk cache since the start, and what was read from it.
    pub disk_written_bytes: u64,
    pub disk_read_bytes: u64,
    /// Parsed sidecars of open blocks.
    pub sidecars_bytes: u64,
    pub sidecars_bytes_max: u64,
}

/// Where all blocks of all tenants are. A handle; clones share everything.
#[derive(Clone)]
pub struct Storage {
    store: Arc<dyn ObjectStore>,
    keys: Keys,
    chunks: Arc<ChunkCache>,
    open_blocks: moka::future::Cache<Ulid, Arc<OpenBlock>>,
    sidecars_bytes_max: u64,
    tables: moka::future::Cache<TenantId, Arc<Table>>,
    indexes: moka::future::Cache<TenantId, Arc<TraceIndexes>>,
    /// By index and number.
    index_ranges: moka::future::Cache<(Ulid, u32), Bytes>,
    /// Folders that were seen to hold a table. Tables are never dropped.
    known_tenants: Arc<Mutex<HashSet<TenantId>>>,
    table_config: TableConfig,
    metrics: Arc<StorageMetrics>,
}

impl Storage {
    /// Opens the configured store and proves that it can be built on: a few requests on one small object.
    ///
    /// # Errors
    /// [`StorageError::Config`] or [`StorageError::Unfit`], with what to change.
    pub fn open(config: &StorageConfig) -> BoxFuture<'_, Result<Self>> {
        Box::pin(Self::open_and_probe(config))
    }

    async fn open_and_probe(config: &StorageConfig) -> Result<Self> {
        let store = store::build(config)?;
        if (1..DAY_MS).contains(&config.table.log_kept_ms) {
            let kept = config.table.log_kept_ms;
            return Err(StorageError::Config(format!("table.log_kept_ms is {kept}: set 0, for ever, or at least {DAY_MS}, a day")));
        }
        let storage = Self::over(store, config).await?;
        match config.skip_probe {
            true => tracing::warn!("the object store is not probed: that it refuses a second create of one key is taken on trust"),
            false => storage.probe().await?,
        }
        Ok(storage)
    }

    /// What [`Self::open`] proves: create-once holds, and the bucket can be written, read and listed.
    pub async fn probe(&self) -> Result<()> {
        store::probe(&*self.store, &self.keys).await
    }

    /// Over a store that the caller made: in memory, or wrapped, for tests. Makes no request.
    pub fn with_store(store: Arc<dyn ObjectStore>, config: &StorageConfig) -> BoxFuture<'_, Result<Self>> {
        Box::pin(Self::over(store, config))
    }

    async fn over(store: Arc<dyn ObjectStore>, config: &StorageConfig) -> Result<Self> {
        let keys = Keys::new(store::prefix(config))?;
        let metrics = Arc::new(StorageMetrics::default());
        let local = config.backend == Backend::Local;
        let hedges_percent = if local { 0 } else { config.client.hedge_percent_max };
        let store: Arc<dyn ObjectStore> = Arc::new(Metered::new(store, metrics.clone(), hedges_percent));
        let chunks = ChunkCache::open(store.clone(), local, &config.cache, metrics.clone()).await?;
        let leaving = metrics.clone();
        let open_blocks = moka::future::Cache::builder()
            .max_capacity(config.cache.sidecars_memory.as_u64())
            .eviction_listener(move |_, _, cause: RemovalCause| {
                if cause == RemovalCause::Size {
                    leaving.sidecar_evictions.add(1);
                }
            })
            .weigher(|_, block: &Arc<OpenBlock>| u32::try_from(block.sidecar().memory_bytes()).unwrap_or(u32::MAX))
            .build();
        let indexes = moka::future::Cache::builder()
            .max_capacity(INDEX_HEADS_BYTES)
            .weigher(|_, indexes: &Arc<TraceIndexes>| u32::try_from(indexes.memory_bytes()).unwrap_or(u32::MAX))
            .build();
        let index_ranges = moka::future::Cache::builder()
            .max_capacity(INDEX_RANGES_BYTES)
            .weigher(|_, range: &Bytes| u32::try_from(range.len()).unwrap_or(u32::MAX))
            .build();
        Ok(Self {
            store,
            keys,
            chunks: Arc::new(chunks),
            open_blocks,
            tables: moka::future::Cache::new(TABLES_MAX),
            indexes,
            index_ranges,
            known_tenants: Arc::default(),
            sidecars_bytes_max: config.cache.sidecars_memory.as_u64(),
            table_config: config.table.clone(),
            metrics,
        })
    }

    /// The store itself, for readers with a format of their own. Keys are this crate's business.
    pub fn object_store(&self) -> Arc<dyn ObjectStore> {
        self.store.clone()
    }

    pub fn metrics(&self) -> &Arc<StorageMetrics> {
        &self.metrics
    }

    /// The tenants that have a table, by name. One LIST, and one more for each folder not seen before.
    pub fn tenants(&self) -> BoxFuture<'_, Result<Vec<TenantId>>> {
        Box::pin(self.list_tenants())
    }

    async fn list_tenants(&self) -> Result<Vec<TenantId>> {
        let prefix = Some(self.keys.prefix()).filter(|p| !p.as_ref().is_empty());
        let root = self.store.list_with_delimiter(prefix).await;
        let folders = root.map_err(|e| StorageError::store("list", self.keys.prefix(), e))?.common_prefixes;
        let named: Vec<TenantId> = folders.iter().filter_map(|folder| self.keys.tenant(folder)).collect();
        let mut tenants: Vec<TenantId> = stream::iter(named)
            .map(|tenant| async move { Ok::<_, StorageError>(self.has_table(&tenant).await?.then_some(tenant)) })
            .buffer_unordered(PARALLEL_LISTS)
            .try_filter_map(|tenant| async move { Ok(tenant) })
            .try_collect()
            .await?;
        tenants.sort();
        Ok(tenants)
    }

    async fn has_table(&self, tenant: &TenantId) -> Result<bool> {
        if self.known_tenants.lock().contains(tenant) {
            return Ok(true);
        }
        let log = self.keys.table(tenant).log();
        let first = self.store.list(Some(&log)).try_next().await.map_err(|e| StorageError::store("list", &log, e))?;
        if first.is_some() {
            self.known_tenants.lock().insert(tenant.clone());
        }
        Ok(first.is_some())
    }

    /// The tenant's table. One that does not exist yet is empty, at version −1; the first commit creates it.
    pub fn table<'a>(&'a self, tenant: &'a TenantId) -> BoxFuture<'a, Result<Arc<Table>>> {
        Box::pin(self.open_table(tenant))
    }

    async fn open_table(&self, tenant: &TenantId) -> Result<Arc<Table>> {
        let open = async {
            // Beside each other: a lookup that comes next need not wait for heads.
            let (table, _) = futures::join!(Table::open(self.log_of(tenant), &self.table_config), self.trace_indexes(tenant));
            table.map(Arc::new)
        };
        self.tables.try_get_with_by_ref(tenant, open).await.map_err(|e| StorageError::clone(&e))
    }

    /// Stores a block's two files. Nobody sees it until a commit adds the returned entry to the table;
    /// the same block can be stored again. It is then open, and its rows are in the cache: what is new is asked for most,
    /// and can be read while the store is away.
    pub fn put_block<'a>(&'a self, tenant: &'a TenantId, block: &'a EncodedBlock) -> BoxFuture<'a, Result<BlockEntry>> {
        Box::pin(async {
            let open = self.upload(tenant, block).await?;
            open.keep(&block.data);
            Ok(BlockEntry::clone(open.entry()))
        })
    }

    /// As [`Self::put_block`], for blocks made of others: its rows do not push what is asked for out of the cache.
    pub fn put_merged_block<'a>(&'a self, tenant: &'a TenantId, block: &'a EncodedBlock) -> BoxFuture<'a, Result<BlockEntry>> {
        Box::pin(async { Ok(BlockEntry::clone(self.upload(tenant, block).await?.entry())) })
    }

    async fn upload(&self, tenant: &TenantId, block: &EncodedBlock) -> Result<Arc<OpenBlock>> {
        let (entry, sidecar) = upload::put_block(&self.store, &self.keys.table(tenant), block).await?;
        self.metrics.blocks_written.add(1);
        self.metrics.blocks_written_bytes.add(entry.size_bytes + entry.sidecar_bytes);
        let open = self.opened(tenant, &Arc::new(entry), sidecar);
        self.open_blocks.insert(open.entry().id, open.clone()).await;
        Ok(open)
    }

    fn opened(&self, tenant: &TenantId, entry: &Arc<BlockEntry>, sidecar: Sidecar) -> Arc<OpenBlock> {
        let file = DataFile {
            block: entry.id,
            key: self.keys.table(tenant).data(&entry.path),
            size_bytes: entry.size_bytes,
            crcs: sidecar.chunk_crcs.clone(),
        };
        Arc::new(OpenBlock::new(entry.clone(), sidecar, Arc::new(file), self.chunks.clone()))
    }

    /// Opens a block: one GET for its sidecar, none if it was open lately. Callers that meet share one.
    pub fn open_block<'a>(&'a self, tenant: &'a TenantId, entry: &'a Arc<BlockEntry>) -> BoxFuture<'a, Result<Arc<OpenBlock>>> {
        Box::pin(self.open_once(tenant, entry))
    }

    async fn open_once(&self, tenant: &TenantId, entry: &Arc<BlockEntry>) -> Result<Arc<OpenBlock>> {
        if let Some(open) = self.open_blocks.get(&entry.id).await {
            self.metrics.sidecar_hits.add(1);
            return Ok(open);
        }
        self.metrics.sidecar_misses.add(1);
        let open = async {
            let keys = self.keys.table(tenant);
            let sidecar = OpenBlock::load_sidecar(&*self.store, &keys, entry, &self.metrics).await?;
            Ok(self.opened(tenant, entry, sidecar))
        };
        self.open_blocks.try_get_with(entry.id, open).await.map_err(|e: Arc<StorageError>| StorageError::clone(&e))
    }

    /// Claims a window of a tenant until `expires_unix_ms` for the work that `choose` names, given what the claims were
    /// for that ended without release, newest first; for none if it names none: see [`crate::Claim`].
    pub async fn claim(
        &self,
        tenant: &TenantId,
        window: &str,
        choose: impl FnOnce(&[String]) -> Option<String> + Send,
        now_unix_ms: u64,
        expires_unix_ms: u64,
    ) -> Result<ClaimOutcome> {
        claim::claim(&self.store, &self.keys.table(tenant), window, choose, now_unix_ms, expires_unix_ms).await
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Whether the block's sidecar is in memory.
    pub(crate) fn is_open(&self, block: Ulid) -> bool {
        self.open_blocks.contains_key(&block)
    }

    pub(crate) fn indexes(&self) -> &moka::future::Cache<TenantId, Arc<TraceIndexes>> {
        &self.indexes
    }

    pub(crate) fn index_ranges(&self) -> &moka::future::Cache<(Ulid, u32), Bytes> {
        &self.index_ranges
    }

    pub(crate) fn log_of(&self, tenant: &TenantId) -> Log {
        Log::new(self.store.clone(), self.keys.table(tenant))
    }

    /// For how long files of a log are kept; `None`: for ever.
    pub(crate) fn log_kept_ms(&self) -> Option<u64> {
        Some(self.table_config.log_kept_ms).filter(|kept| *kept > 0)
    }

    pub(crate) fn table_keys(&self, tenant: &TenantId) -> TableKeys {
        self.keys.table(tenant)
    }

    /// Drops what the caches have of a file of this length that was deleted, of a block that no table has.
    pub(crate) async fn forget(&self, block: Ulid, size_bytes: u64) {
        self.chunks.forget(block, size_bytes);
        self.open_blocks.invalidate(&block).await;
    }

    /// What the caches hold at this moment.
    pub fn cached(&self) -> Cached {
        let (memory_bytes, memory_bytes_max) = self.chunks.memory_bytes();
        let (disk_written_bytes, disk_read_bytes) = self.chunks.disk_bytes();
        let sidecars_bytes = self.open_blocks.weighted_size();
        let sidecars_bytes_max = self.sidecars_bytes_max;
        Cached { memory_bytes, memory_bytes_max, disk_written_bytes, disk_read_bytes, sidecars_bytes, sidecars_bytes_max }
    }

    /// Lets the disk cache finish. Nothing durable depends on it.
    pub fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.chunks.close())
    }
}
