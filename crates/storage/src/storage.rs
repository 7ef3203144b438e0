//! The storage of all tenants: tables, blocks, and the caches in front of them.

use std::{collections::HashSet, sync::Arc};

use block::writer::EncodedBlock;
use futures::{StreamExt, TryStreamExt, future::BoxFuture, stream};
use model::TenantId;
use object_store::ObjectStore;
use parking_lot::Mutex;
use ulid::Ulid;

use crate::{
    chunks::{ChunkCache, DataFile},
    claim::{self, ClaimOutcome},
    config::{Backend, StorageConfig},
    delta::log::Log,
    entry::BlockEntry,
    error::{Result, StorageError},
    keys::{Keys, TableKeys},
    metrics::StorageMetrics,
    open_block::OpenBlock,
    store,
    table::Table,
    upload,
};

/// Tables kept open. One that falls out is opened again by its next use: a GET, a LIST and the commits
/// since its checkpoint.
const TABLES_MAX: u64 = 10_000;
/// Folders looked into at once for whether they hold a table.
const PARALLEL_LISTS: usize = 16;

/// Where all blocks of all tenants are. A handle; clones share everything.
#[derive(Clone)]
pub struct Storage {
    store: Arc<dyn ObjectStore>,
    keys: Keys,
    chunks: Arc<ChunkCache>,
    open_blocks: moka::future::Cache<Ulid, Arc<OpenBlock>>,
    tables: moka::future::Cache<TenantId, Arc<Table>>,
    /// Folders that were seen to hold a table. Tables are never dropped.
    known_tenants: Arc<Mutex<HashSet<TenantId>>>,
    checkpoint_commits: u32,
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
        let storage = Self::over(store, config).await?;
        storage.probe().await?;
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
        let chunks = ChunkCache::open(store.clone(), local, &config.cache, metrics.clone()).await?;
        let open_blocks = moka::future::Cache::builder()
            .max_capacity(config.cache.sidecars_memory.as_u64())
            .weigher(|_, block: &Arc<OpenBlock>| u32::try_from(block.sidecar().memory_bytes()).unwrap_or(u32::MAX))
            .build();
        Ok(Self {
            store,
            keys,
            chunks: Arc::new(chunks),
            open_blocks,
            tables: moka::future::Cache::new(TABLES_MAX),
            known_tenants: Arc::default(),
            checkpoint_commits: config.table.checkpoint_commits,
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
            let log = Log::new(self.store.clone(), self.keys.table(tenant));
            Table::open(log, self.checkpoint_commits).await.map(Arc::new)
        };
        self.tables.try_get_with_by_ref(tenant, open).await.map_err(|e| StorageError::clone(&e))
    }

    /// Stores a block's two files. Nobody sees it until a commit adds the returned entry to the table;
    /// the same block can be stored again.
    pub fn put_block<'a>(&'a self, tenant: &'a TenantId, block: &'a EncodedBlock) -> BoxFuture<'a, Result<BlockEntry>> {
        Box::pin(self.upload(tenant, block))
    }

    async fn upload(&self, tenant: &TenantId, block: &EncodedBlock) -> Result<BlockEntry> {
        let entry = upload::put_block(&self.store, &self.keys.table(tenant), block).await?;
        self.metrics.blocks_written.add(1);
        self.metrics.blocks_written_bytes.add(entry.size_bytes + entry.sidecar_bytes);
        Ok(entry)
    }

    /// Opens a block: one GET for its sidecar, none if it was open lately. Callers that meet share one.
    pub fn open_block<'a>(&'a self, tenant: &'a TenantId, entry: &'a Arc<BlockEntry>) -> BoxFuture<'a, Result<Arc<OpenBlock>>> {
        Box::pin(self.open_once(tenant, entry))
    }

    async fn open_once(&self, tenant: &TenantId, entry: &Arc<BlockEntry>) -> Result<Arc<OpenBlock>> {
        let open = async {
            let keys = self.keys.table(tenant);
            let sidecar = OpenBlock::load_sidecar(&*self.store, &keys, entry, &self.metrics).await?;
            let file = DataFile {
                block: entry.id,
                key: keys.data(&entry.path),
                size_bytes: entry.size_bytes,
                crcs: sidecar.chunk_crcs.clone(),
            };
            Ok(Arc::new(OpenBlock::new(entry.clone(), sidecar, Arc::new(file), self.chunks.clone())))
        };
        self.open_blocks.try_get_with(entry.id, open).await.map_err(|e: Arc<StorageError>| StorageError::clone(&e))
    }

    /// Claims a window of a tenant for `work` until `expires_unix_ms`: see [`crate::Claim`].
    pub async fn claim(
        &self,
        tenant: &TenantId,
        window: &str,
        work: &str,
        now_unix_ms: u64,
        expires_unix_ms: u64,
    ) -> Result<ClaimOutcome> {
        claim::claim(&self.store, &self.keys, tenant, window, work, now_unix_ms, expires_unix_ms).await
    }

    pub(crate) fn table_keys(&self, tenant: &TenantId) -> TableKeys {
        self.keys.table(tenant)
    }

    /// Lets the disk cache finish. Nothing durable depends on it.
    pub fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.chunks.close())
    }
}
