//! Which blocks hold a trace, without asking each: indexes over many blocks.
//!
//! An index is an object that the compactor makes of the trace ids of blocks, and that is never changed. It only saves
//! requests: blocks that no index covers are asked by their own filters, blocks that are gone are passed over, and an index
//! that is damaged or missing costs time and a line in the log, never an answer. Of two that cover a block the newer counts.
//!
//! Heads of indexes are read when a tenant's table is opened, and kept; a lookup then reads one range of each index.

mod format;
mod needless;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::BoxFuture, stream};
use model::{TenantId, TraceId};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use ulid::Ulid;

pub use format::{IndexBuilder, IndexHead, IndexedBlock};
use format::Beginning;
pub(crate) use needless::needless;

use crate::{
    entry::BlockEntry,
    error::{Result, StorageError},
    keys::TableKeys,
    storage::Storage,
    upload,
};

/// Indexes of a tenant that are looked at, the newest. There are a few for every hundred million spans.
const INDEXES_MAX: usize = 1024;
/// Heads and ranges under way at the same time.
const PARALLEL_READS: usize = 32;
/// A head is asked for with so many bytes: those of 2,000 blocks and 2,000 ranges. A longer one takes a second read.
const HEAD_BYTES: u64 = 64 << 10;
/// An index that covers fewer of the blocks in question is not asked: their own filters take no more requests.
const BLOCKS_ASKED_MIN: usize = 4;
/// With so many blocks in question that no known index covers, there may be new indexes.
const UNCOVERED_MAX: usize = 16;
/// But not sooner than so long after the last look.
const LOOK_PAUSE: Duration = Duration::from_secs(60);

/// The indexes of a tenant, as they were at one moment.
#[derive(Debug)]
pub struct TraceIndexes {
    heads: Vec<Arc<IndexHead>>,
    /// Block → index, number in it.
    places: HashMap<Ulid, (usize, u16)>,
    looked: Instant,
}

impl TraceIndexes {
    fn new(mut heads: Vec<Arc<IndexHead>>) -> Self {
        heads.sort_unstable_by_key(|head| head.id);
        let mut places = HashMap::new();
        for (at, head) in heads.iter().enumerate() {
            places.extend(head.blocks.iter().zip(0..).map(|(block, number)| (block.id, (at, number))));
        }
        Self { heads, places, looked: Instant::now() }
    }

    /// Oldest first.
    pub fn heads(&self) -> &[Arc<IndexHead>] {
        &self.heads
    }

    /// The newest index that covers the block.
    pub fn of(&self, block: &BlockEntry) -> Option<&Arc<IndexHead>> {
        self.place(block).map(|(at, _)| &self.heads[at])
    }

    fn place(&self, block: &BlockEntry) -> Option<(usize, u16)> {
        let (at, number) = *self.places.get(&block.id)?;
        (self.heads[at].blocks[usize::from(number)].chunks_crc32c == block.chunks_crc32c).then_some((at, number))
    }

    fn with(&self, head: Arc<IndexHead>) -> Self {
        Self { looked: self.looked, ..Self::new(self.heads.iter().cloned().chain([head]).collect()) }
    }

    fn without(&self, id: Ulid) -> Self {
        Self { looked: self.looked, ..Self::new(self.heads.iter().filter(|head| head.id != id).cloned().collect()) }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let heads: usize = self.heads.iter().map(|head| head.memory_bytes()).sum();
        heads + self.places.len() * 2 * size_of::<(Ulid, (usize, u16))>()
    }
}

impl Storage {
    /// The indexes of a tenant as far as they are known. Read once, and again by [`Self::look_for_trace_indexes`].
    pub fn trace_indexes<'a>(&'a self, tenant: &'a TenantId) -> BoxFuture<'a, Arc<TraceIndexes>> {
        Box::pin(self.indexes().get_with_by_ref(tenant, self.read_heads(tenant, None)))
    }

    /// Reads what indexes there are now: a LIST, and a GET for each that is new.
    pub fn look_for_trace_indexes<'a>(&'a self, tenant: &'a TenantId) -> BoxFuture<'a, Arc<TraceIndexes>> {
        Box::pin(async move {
            let known = self.indexes().get(tenant).await;
            let found = self.read_heads(tenant, known).await;
            self.indexes().insert(tenant.clone(), found.clone()).await;
            found
        })
    }

    async fn read_heads(&self, tenant: &TenantId, known: Option<Arc<TraceIndexes>>) -> Arc<TraceIndexes> {
        let keys = self.table_keys(tenant);
        let folder = keys.trace_indexes();
        let mut listed: Vec<(Ulid, ObjectMeta)> = vec![];
        let mut listing = self.object_store().list(Some(&folder));
        loop {
            match listing.try_next().await {
                Ok(Some(object)) => listed.extend(keys.trace_index_of(&object.location).map(|id| (id, object))),
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%tenant, %error, "indexes of traces cannot be listed; blocks are asked one by one");
                    return known.unwrap_or_else(|| Arc::new(TraceIndexes::new(vec![])));
                }
            }
        }
        listed.sort_unstable_by_key(|(id, _)| std::cmp::Reverse(*id));
        listed.dedup_by_key(|(id, _)| *id);
        listed.truncate(INDEXES_MAX);
        let known: HashMap<Ulid, Arc<IndexHead>> =
            known.iter().flat_map(|known| known.heads.iter().map(|head| (head.id, head.clone()))).collect();
        let reading = listed.into_iter().map(|(id, object)| {
            let (known, keys) = (known.get(&id).cloned(), &keys);
            async move {
                if known.is_some() {
                    return known;
                }
                match read_head(&*self.object_store(), keys, id, object.size).await {
                    Ok(head) => Some(Arc::new(head)),
                    Err(error) => {
                        self.index_failed(tenant, &error);
                        None
                    }
                }
            }
        });
        let heads = stream::iter(reading.collect::<Vec<_>>()).buffer_unordered(PARALLEL_READS).filter_map(|head| async { head });
        Arc::new(TraceIndexes::new(heads.collect().await))
    }

    /// Which of `blocks` do not hold the trace, by indexes that cover them: one read from each index. Blocks that are open are
    /// not asked about: what they say costs nothing. The same trace in few other blocks is all that is missed.
    pub fn blocks_without<'a>(
        &'a self,
        tenant: &'a TenantId,
        id: &'a TraceId,
        blocks: &'a [Arc<BlockEntry>],
    ) -> BoxFuture<'a, HashSet<Ulid>> {
        Box::pin(self.ask_indexes(tenant, id, blocks))
    }

    async fn ask_indexes(&self, tenant: &TenantId, id: &TraceId, blocks: &[Arc<BlockEntry>]) -> HashSet<Ulid> {
        let closed: Vec<&Arc<BlockEntry>> = blocks.iter().filter(|block| !self.is_open(block.id)).collect();
        if closed.len() < BLOCKS_ASKED_MIN {
            return HashSet::new();
        }
        let mut indexes = self.trace_indexes(tenant).await;
        let uncovered = closed.iter().filter(|block| indexes.of(block).is_none()).count();
        if uncovered >= UNCOVERED_MAX && indexes.looked.elapsed() >= LOOK_PAUSE {
            indexes = self.look_for_trace_indexes(tenant).await;
        }
        let mut asked: BTreeMap<usize, Vec<(u16, Ulid)>> = BTreeMap::new();
        for block in closed {
            if let Some((at, number)) = indexes.place(block) {
                asked.entry(at).or_default().push((number, block.id));
            }
        }
        asked.retain(|_, blocks| blocks.len() >= BLOCKS_ASKED_MIN);
        let hash = format::hash(id);
        let asking = asked.into_iter().map(|(at, blocks)| {
            let head = &indexes.heads[at];
            async move {
                let holders = match self.holders(tenant, head, hash).await {
                    Ok(holders) => holders,
                    Err(error) => {
                        self.give_up_index(tenant, head.id, &error).await;
                        return vec![];
                    }
                };
                let without = blocks.into_iter().filter(|(number, _)| !holders.contains(number));
                without.map(|(_, block)| block).collect::<Vec<_>>()
            }
        });
        let asking = stream::iter(asking.collect::<Vec<_>>()).buffer_unordered(PARALLEL_READS);
        asking.map(stream::iter).flatten().collect().await
    }

    /// The numbers of the index's blocks that have a trace of this hash.
    async fn holders(&self, tenant: &TenantId, head: &IndexHead, hash: u64) -> Result<HashSet<u16>> {
        let range = head.range_of(hash);
        let key = self.table_keys(tenant).trace_index(head.id);
        let read = async {
            self.metrics().trace_index_reads.add(1);
            let bytes = self.object_store().get_range(&key, head.stretch(range)).await;
            let bytes = bytes.map_err(|e| StorageError::store("read", &key, e))?;
            if !head.is_intact(range, &bytes) {
                return Err(StorageError::corrupt(&key, format!("the checksum of range {range} is wrong")));
            }
            Ok(bytes)
        };
        let bytes: Result<Bytes, Arc<StorageError>> = self.index_ranges().try_get_with((head.id, range as u32), read).await;
        let bytes = bytes.map_err(|e| StorageError::clone(&e))?;
        let entries = head.decode(range, &bytes).ok_or_else(|| StorageError::corrupt(&key, format!("range {range} is not well formed")))?;
        let first = entries.partition_point(|(other, _)| *other < hash);
        Ok(entries[first..].iter().take_while(|(other, _)| *other == hash).map(|(_, number)| *number).collect())
    }

    /// Shows every entry of an index to `visit`: the hash, and the number of the block. Reads the whole object, which is then
    /// in memory.
    pub(crate) async fn each_entry(&self, tenant: &TenantId, head: &IndexHead, mut visit: impl FnMut(u64, u16)) -> Result<()> {
        let key = self.table_keys(tenant).trace_index(head.id);
        let read = async { self.object_store().get(&key).await?.bytes().await };
        let bytes = read.await.map_err(|e| StorageError::store("read", &key, e))?;
        for range in 0..head.ranges() {
            let stretch = head.stretch(range);
            let stretch = bytes.get(stretch.start as usize..stretch.end as usize).filter(|bytes| head.is_intact(range, bytes));
            let entries = stretch.and_then(|bytes| head.decode(range, bytes));
            let entries = entries.ok_or_else(|| StorageError::corrupt(&key, format!("range {range} is not as it was written")))?;
            entries.into_iter().for_each(|(hash, number)| visit(hash, number));
        }
        Ok(())
    }

    /// Adds what an index says of those of its blocks that `wanted` names.
    ///
    /// # Errors
    /// The index is not as it was written, or gone, or the store does not answer. Then nothing was added.
    pub async fn copy_trace_index(
        &self,
        tenant: &TenantId,
        head: &IndexHead,
        wanted: &[Arc<BlockEntry>],
        builder: &mut IndexBuilder,
    ) -> Result<()> {
        let wanted: HashMap<Ulid, &Arc<BlockEntry>> = wanted.iter().map(|block| (block.id, block)).collect();
        let before = builder.mark();
        let numbers = head.blocks.iter().map(|block| wanted.get(&block.id).map(|entry| builder.block(entry)));
        let numbers: Vec<Option<u16>> = numbers.collect();
        let copied = self.each_entry(tenant, head, |hash, number| {
            if let Some(number) = numbers[usize::from(number)] {
                builder.entry(number, hash);
            }
        });
        let copied = copied.await;
        if copied.is_err() {
            builder.back_to(before);
        }
        copied
    }

    /// Stores a new index; from now on it is asked.
    pub async fn put_trace_index(&self, tenant: &TenantId, builder: IndexBuilder) -> Result<Arc<IndexHead>> {
        let known = self.trace_indexes(tenant).await;
        // Newer than any that it may take the place of, also of the same millisecond.
        let last = known.heads.last().map_or(0, |head| head.id.0);
        let id = Ulid(Ulid::new().0.max(last + 1));
        let key = self.table_keys(tenant).trace_index(id);
        let encoded = tokio::task::spawn_blocking(move || builder.encode()).await;
        let bytes = encoded.map_err(|e| StorageError::corrupt(&key, e))?;
        let Ok(Beginning::Head(head)) = IndexHead::parse(id, &bytes) else { unreachable!("it was just made") };
        let head = Arc::new(head);
        upload::put(&self.object_store(), &key, &bytes).await?;
        self.metrics().trace_indexes_written.add(1);
        self.metrics().trace_indexes_written_bytes.add(bytes.len() as u64);
        let known = self.trace_indexes(tenant).await;
        self.indexes().insert(tenant.clone(), Arc::new(known.with(head.clone()))).await;
        Ok(head)
    }

    /// An index that cannot be read is not asked again until the next look, unless the store just did not answer.
    pub(crate) async fn give_up_index(&self, tenant: &TenantId, id: Ulid, error: &StorageError) {
        self.index_failed(tenant, error);
        if error.kind() == model::ErrorKind::Unavailable {
            return;
        }
        if let Some(known) = self.indexes().get(tenant).await {
            self.indexes().insert(tenant.clone(), Arc::new(known.without(id))).await;
        }
    }

    fn index_failed(&self, tenant: &TenantId, error: &StorageError) {
        self.metrics().trace_index_failures.add(1);
        tracing::warn!(%tenant, error = error as &dyn std::error::Error, "an index of traces is not used; its blocks are asked one by one");
    }
}

/// Reads the head of an index of `size` bytes.
pub(crate) async fn read_head(store: &dyn ObjectStore, keys: &TableKeys, id: Ulid, size: u64) -> Result<IndexHead> {
    let key = keys.trace_index(id);
    let mut bytes = HEAD_BYTES;
    for _ in 0..2 {
        let beginning = store.get_range(&key, 0..bytes.min(size)).await.map_err(|e| StorageError::store("read", &key, e))?;
        match IndexHead::parse(id, &beginning).map_err(|detail| StorageError::corrupt(&key, detail))? {
            Beginning::Head(head) if head.size_bytes() == size => return Ok(head),
            Beginning::Head(_) => break,
            Beginning::Longer(wanted) if wanted <= size && bytes == HEAD_BYTES => bytes = wanted,
            Beginning::Longer(_) => break,
        }
    }
    Err(StorageError::corrupt(&key, "it is cut short, or goes on behind its end"))
}
