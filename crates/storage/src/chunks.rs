//! Checked pieces of data files: a cache in memory, and on disk if there is one, in front of the store.
//!
//! - The unit is a chunk of 1 MiB of a data file (the last one shorter). Data files never change, so
//!   neither does a chunk: the key is (block, number), and nothing is ever invalidated. Those of files that this
//!   process deletes are dropped; those of files that others deleted are not asked for any more, and make room first.
//! - No byte leaves here unchecked: a chunk from the store or the disk has the CRC32C of its sidecar, or
//!   it is read once more from the store, or the read fails. What is in memory has been checked.
//! - A chunk is fetched by one request at a time, however many ask. Neighbouring chunks come in one GET of
//!   up to 8 MiB. All GETs together hold at most `fetch_memory`.
//! - A cache that fails is a cache that missed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io::{Read, Write},
    ops::Range,
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use crc_fast::CrcAlgorithm;
use foyer::{
    BlockEngineConfig, Code, DeviceBuilder, Event, EventListener, FsDeviceBuilder, HybridCache, HybridCacheBuilder, HybridCachePolicy,
    PsyncIoEngineConfig, RecoverMode, S3FifoConfig,
};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared, join_all},
};
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use ulid::Ulid;

use crate::{
    config::CacheConfig,
    error::{Result, StorageError},
    metrics::StorageMetrics,
};

/// The piece of a data file that has a checksum in the sidecar.
pub(crate) const CHUNK_BYTES: u64 = 1 << 20;
/// The most chunks in one GET: long enough that the latency of a request does not matter, short enough
/// that four of them fit the smallest sensible `fetch_memory`.
const RUN_CHUNKS_MAX: usize = 8;

/// A new file may take this part of the memory.
const KEPT_SHARE: usize = 4;

/// A data file, and what its bytes must be.
#[derive(Debug)]
pub(crate) struct DataFile {
    pub block: Ulid,
    pub key: Path,
    pub size_bytes: u64,
    /// One per chunk.
    pub crcs: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ChunkKey {
    block: u128,
    chunk: u32,
}

impl Code for ChunkKey {
    fn encode(&self, writer: &mut impl Write) -> foyer::Result<()> {
        self.block.encode(writer)?;
        self.chunk.encode(writer)
    }

    fn decode(reader: &mut impl Read) -> foyer::Result<Self> {
        Ok(Self { block: u128::decode(reader)?, chunk: u32::decode(reader)? })
    }

    fn estimated_size(&self) -> usize {
        16 + 4
    }
}

/// Counts what has to make room.
struct Leaving(Arc<StorageMetrics>);

impl EventListener for Leaving {
    type Key = ChunkKey;
    type Value = Bytes;

    fn on_leave(&self, reason: Event, _: &ChunkKey, _: &Bytes) {
        if reason == Event::Evict {
            self.0.chunk_evictions.add(1);
        }
    }
}

/// A GET under way: the chunks of one run, in order.
type Flight = Shared<BoxFuture<'static, Arc<Vec<Result<Bytes>>>>>;

pub(crate) struct ChunkCache {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn ObjectStore>,
    /// The store reads from this machine's page cache: many small reads cost nothing, and each fills a
    /// buffer of its own.
    local: bool,
    cache: HybridCache<ChunkKey, Bytes>,
    flights: Mutex<HashMap<ChunkKey, (Flight, usize)>>,
    /// In chunks.
    fetch_budget: Semaphore,
    metrics: Arc<StorageMetrics>,
}

impl ChunkCache {
    pub async fn open(
        store: Arc<dyn ObjectStore>,
        local: bool,
        config: &CacheConfig,
        metrics: Arc<StorageMetrics>,
    ) -> Result<Self> {
        let unusable = |e: &dyn std::fmt::Display| StorageError::Config(format!("the chunk cache cannot be made: {e}"));
        let unusable_path = |path: &std::path::Path, e: &dyn std::fmt::Display| {
            StorageError::Config(format!("cache.disk_path {:?} cannot be used: {e}", path.display()))
        };
        let memory = HybridCacheBuilder::new()
            .with_name("chunks")
            .with_policy(HybridCachePolicy::WriteOnEviction)
            .with_flush_on_close(false)
            .with_event_listener(Arc::new(Leaving(metrics.clone())))
            .memory(usize::try_from(config.chunks_memory.as_u64()).map_err(|e| unusable(&e))?)
            // A shard must have room for several chunks.
            .with_shards(usize::try_from(config.chunks_memory.as_u64() / (32 * CHUNK_BYTES)).unwrap_or(1).clamp(1, 16))
            .with_eviction_config(S3FifoConfig::default())
            .with_weighter(|_: &ChunkKey, chunk: &Bytes| 64 + chunk.len());
        let builder = match config.disk_path.as_ref().filter(|_| !local) {
            None => memory.storage(),
            Some(path) => {
                let capacity = usize::try_from(config.disk_capacity.as_u64()).map_err(|e| unusable(&e))?;
                // The builder makes the folder too, and panics if it cannot.
                std::fs::create_dir_all(path).map_err(|e| unusable_path(path, &e))?;
                let device = FsDeviceBuilder::new(path).with_capacity(capacity).build();
                let device = device.map_err(|e| unusable_path(path, &e))?;
                memory
                    .storage()
                    .with_io_engine_config(PsyncIoEngineConfig::new())
                    .with_engine_config(
                        BlockEngineConfig::new(device)
                            .with_block_size(16 << 20)
                            .with_flushers(2)
                            .with_buffer_pool_size(64 << 20)
                            .with_submit_queue_size_threshold(128 << 20),
                    )
                    .with_recover_mode(RecoverMode::Quiet)
            }
        };
        let cache = builder.build().await.map_err(|e| match &config.disk_path {
            Some(path) if !local => unusable_path(path, &e),
            _ => unusable(&e),
        })?;
        let fetch_chunks = usize::try_from(config.fetch_memory.as_u64() / CHUNK_BYTES).unwrap_or(usize::MAX);
        let inner = Inner {
            store,
            local,
            cache,
            flights: Mutex::default(),
            fetch_budget: Semaphore::new(fetch_chunks.clamp(RUN_CHUNKS_MAX, Semaphore::MAX_PERMITS)),
            metrics,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The bytes of `ranges`, checked. A range inside one chunk is not copied.
    pub async fn read(&self, file: &Arc<DataFile>, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let mut wanted = BTreeSet::new();
        for range in ranges {
            if range.start > range.end || range.end > file.size_bytes {
                return Err(StorageError::corrupt(
                    &file.key,
                    format!("bytes {}..{} were asked for, and it has {}", range.start, range.end, file.size_bytes),
                ));
            }
            wanted.extend(chunks_of(range));
        }
        let chunks = self.chunks(file, wanted).await?;
        Ok(ranges.iter().map(|range| cut(&chunks, range)).collect())
    }

    /// The bytes of one range, checked, past the cache: what is read once must not push out what is read often.
    /// At most `fetch_memory` is under way, and the range is in memory at once.
    pub async fn read_once(&self, file: &DataFile, range: Range<u64>) -> Result<Bytes> {
        if range.start > range.end || range.end > file.size_bytes {
            let detail = format!("bytes {}..{} were asked for, and it has {}", range.start, range.end, file.size_bytes);
            return Err(StorageError::corrupt(&file.key, detail));
        }
        let numbers: Vec<u32> = chunks_of(&range).collect();
        let mut chunks = BTreeMap::new();
        for run in numbers.chunks(RUN_CHUNKS_MAX) {
            for (chunk, bytes) in run.iter().copied().zip(self.inner.fetch(file, run).await) {
                chunks.insert(chunk, bytes?);
            }
        }
        Ok(cut(&chunks, &range))
    }

    /// Takes a whole file that this process just made. One that would fill the cache is not taken; nor is any where the
    /// page cache has it already.
    pub fn keep(&self, file: &DataFile, data: &Bytes) {
        let inner = &self.inner;
        if inner.local || data.len() > inner.cache.memory().capacity() / KEPT_SHARE || data.len() as u64 != file.size_bytes {
            return;
        }
        for chunk in chunks_of(&(0..file.size_bytes)) {
            let range = file.chunk_range(chunk);
            // A slice would keep the whole file alive for as long as one chunk of it is cached.
            let bytes = Bytes::copy_from_slice(&data[range.start as usize..range.end as usize]);
            inner.cache.insert(file.chunk_key(chunk), bytes);
        }
    }

    /// Makes room: the file was deleted, and nobody will ask for it any more.
    pub fn forget(&self, block: Ulid, size_bytes: u64) {
        for chunk in chunks_of(&(0..size_bytes)) {
            self.inner.cache.remove(&ChunkKey { block: block.0, chunk });
        }
    }

    async fn chunks(&self, file: &Arc<DataFile>, wanted: BTreeSet<u32>) -> Result<BTreeMap<u32, Bytes>> {
        let inner = &self.inner;
        let mut found = BTreeMap::new();
        let mut missing = BTreeSet::new();
        for chunk in wanted {
            match inner.cache.memory().get(&file.chunk_key(chunk)) {
                Some(entry) => drop(found.insert(chunk, entry.value().clone())),
                None => drop(missing.insert(chunk)),
            }
        }
        inner.metrics.chunk_hits_memory.add(found.len() as u64);
        if inner.cache.is_hybrid() && !missing.is_empty() {
            let on_disk = join_all(missing.iter().map(|chunk| inner.from_disk(file, *chunk))).await;
            for (chunk, bytes) in missing.clone().into_iter().zip(on_disk) {
                if let Some(bytes) = bytes {
                    missing.remove(&chunk);
                    found.insert(chunk, bytes);
                }
            }
        }
        let flights = inner.board(file, &missing, &mut found);
        let runs = join_all(flights.iter().map(|(_, flight, _)| flight.clone())).await;
        for ((chunk, _, position), run) in flights.iter().zip(runs) {
            found.insert(*chunk, run[*position].clone()?);
        }
        Ok(found)
    }

    /// Bytes of pieces in memory at this moment, and how many of them there may be.
    pub fn memory_bytes(&self) -> (u64, u64) {
        let memory = self.inner.cache.memory();
        (memory.usage() as u64, memory.capacity() as u64)
    }

    /// Bytes written to the disk cache and read from it.
    pub fn disk_bytes(&self) -> (u64, u64) {
        let disk = self.inner.cache.statistics();
        (disk.disk_write_bytes() as u64, disk.disk_read_bytes() as u64)
    }

    /// Waits for what is on its way to the disk cache.
    pub async fn close(&self) {
        if let Err(error) = self.inner.cache.close().await {
            tracing::warn!(%error, "the chunk cache was not closed; its content may be lost");
        }
    }
}

impl DataFile {
    fn chunk_key(&self, chunk: u32) -> ChunkKey {
        ChunkKey { block: self.block.0, chunk }
    }

    fn chunk_range(&self, chunk: u32) -> Range<u64> {
        let start = u64::from(chunk) * CHUNK_BYTES;
        start..(start + CHUNK_BYTES).min(self.size_bytes)
    }

    /// # Errors
    /// Says which chunk is wrong and how.
    fn check(&self, chunk: u32, bytes: &[u8]) -> Result<()> {
        let range = self.chunk_range(chunk);
        let wrong = |detail: String| {
            StorageError::corrupt(
                &self.key,
                format!("chunk {chunk} (bytes {}..{}) of block {} {detail}", range.start, range.end, self.block),
            )
        };
        if bytes.len() as u64 != range.end - range.start {
            return Err(wrong(format!("came with {} bytes", bytes.len())));
        }
        let Some(expected) = self.crcs.get(chunk as usize) else {
            return Err(wrong("has no checksum in the sidecar".into()));
        };
        let actual = crc32c(bytes);
        if actual != *expected {
            return Err(wrong(format!("has CRC32C {actual:08x}; its sidecar says {expected:08x}")));
        }
        Ok(())
    }
}

pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

fn chunks_of(range: &Range<u64>) -> Range<u32> {
    if range.is_empty() {
        return 0..0;
    }
    let first = range.start / CHUNK_BYTES;
    let last = (range.end - 1) / CHUNK_BYTES;
    // 2^32 chunks are 4 PiB.
    first as u32..last as u32 + 1
}

/// The bytes of `range`, all of whose chunks are there.
fn cut(chunks: &BTreeMap<u32, Bytes>, range: &Range<u64>) -> Bytes {
    let touched = chunks_of(range);
    let within = |chunk: u32| {
        let start = u64::from(chunk) * CHUNK_BYTES;
        let from = range.start.saturating_sub(start) as usize;
        let to = (range.end - start).min(CHUNK_BYTES) as usize;
        chunks[&chunk].slice(from..to)
    };
    match touched.len() {
        0 => Bytes::new(),
        1 => within(touched.start),
        _ => {
            let mut whole = BytesMut::with_capacity((range.end - range.start) as usize);
            for chunk in touched {
                whole.extend_from_slice(&within(chunk));
            }
            whole.freeze()
        }
    }
}

impl Inner {
    async fn from_disk(&self, file: &DataFile, chunk: u32) -> Option<Bytes> {
        let key = file.chunk_key(chunk);
        let bytes = self.cache.get(&key).await.ok()??.value().clone();
        if file.check(chunk, &bytes).is_err() {
            self.metrics.chunk_checksum_failures.add(1);
            self.cache.remove(&key);
            return None;
        }
        self.metrics.chunk_hits_disk.add(1);
        Some(bytes)
    }

    /// For each missing chunk the flight that brings it and its place there; starts the flights that are
    /// not under way. A chunk that landed since it was missed goes to `found`.
    fn board(
        self: &Arc<Self>,
        file: &Arc<DataFile>,
        missing: &BTreeSet<u32>,
        found: &mut BTreeMap<u32, Bytes>,
    ) -> Vec<(u32, Flight, usize)> {
        let mut boarded = Vec::with_capacity(missing.len());
        let mut flights = self.flights.lock();
        let mut run: Vec<u32> = Vec::new();
        for chunk in missing.iter().copied() {
            if let Some((flight, position)) = flights.get(&file.chunk_key(chunk)) {
                boarded.push((chunk, flight.clone(), *position));
                continue;
            }
            // A flight leaves its chunks in the cache before it goes.
            if let Some(entry) = self.cache.memory().get(&file.chunk_key(chunk)) {
                found.insert(chunk, entry.value().clone());
                continue;
            }
            if run.last().is_some_and(|last| last + 1 != chunk) || run.len() == RUN_CHUNKS_MAX {
                self.depart(&mut flights, file, std::mem::take(&mut run), &mut boarded);
            }
            run.push(chunk);
        }
        if !run.is_empty() {
            self.depart(&mut flights, file, run, &mut boarded);
        }
        boarded
    }

    /// Starts the GET of one run. It goes on to its end even if nobody waits any more.
    fn depart(
        self: &Arc<Self>,
        flights: &mut HashMap<ChunkKey, (Flight, usize)>,
        file: &Arc<DataFile>,
        run: Vec<u32>,
        boarded: &mut Vec<(u32, Flight, usize)>,
    ) {
        self.metrics.chunk_misses.add(run.len() as u64);
        let landing = Landing { inner: self.clone(), file: file.clone(), run: run.clone() };
        let task = tokio::spawn(async move { landing.inner.fetch_cached(&landing.file, &landing.run).await });
        let length = run.len();
        let flight: Flight = task
            .map(move |result| {
                Arc::new(result.unwrap_or_else(|e| {
                    let source = object_store::Error::JoinError { source: e };
                    vec![Err(StorageError::store("read", &"a data file", source)); length]
                }))
            })
            .boxed()
            .shared();
        for (position, chunk) in run.into_iter().enumerate() {
            flights.insert(file.chunk_key(chunk), (flight.clone(), position));
            boarded.push((chunk, flight.clone(), position));
        }
    }

    /// As [`Self::fetch`], and puts the good ones into the cache.
    async fn fetch_cached(&self, file: &DataFile, run: &[u32]) -> Vec<Result<Bytes>> {
        let fetched = self.fetch(file, run).await;
        for (chunk, bytes) in run.iter().zip(&fetched) {
            if let Ok(bytes) = bytes {
                self.cache.insert(file.chunk_key(*chunk), bytes.clone());
            }
        }
        fetched
    }

    /// Fetches a run of neighbouring chunks and checks each.
    async fn fetch(&self, file: &DataFile, run: &[u32]) -> Vec<Result<Bytes>> {
        let _budget = self.fetch_budget.acquire_many(run.len() as u32).await;
        let fetched = match self.get(file, run).await {
            Ok(fetched) => fetched,
            Err(e) => return vec![Err(StorageError::store("read", &file.key, e)); run.len()],
        };
        let mut checked = Vec::with_capacity(run.len());
        for (chunk, bytes) in run.iter().copied().zip(fetched) {
            let result = match file.check(chunk, &bytes) {
                Ok(()) => Ok(bytes),
                Err(first) => {
                    tracing::warn!(error = %first, "reading it once more");
                    self.metrics.chunk_checksum_failures.add(1);
                    self.fetch_again(file, chunk).await
                }
            };
            checked.push(result);
        }
        checked
    }

    async fn fetch_again(&self, file: &DataFile, chunk: u32) -> Result<Bytes> {
        let read = self.get(file, &[chunk]).await.map_err(|e| StorageError::store("read", &file.key, e))?;
        let bytes = read.into_iter().next().unwrap_or_default();
        file.check(chunk, &bytes)?;
        Ok(bytes)
    }

    /// The unchecked bytes of neighbouring chunks, each in a buffer of its own.
    async fn get(&self, file: &DataFile, run: &[u32]) -> object_store::Result<Vec<Bytes>> {
        self.metrics.fetches.add(1);
        let ranges: Vec<_> = run.iter().map(|chunk| file.chunk_range(*chunk)).collect();
        let fetched = if self.local {
            self.store.get_ranges(&file.key, &ranges).await?
        } else {
            let start = ranges.first().map_or(0, |r| r.start);
            let end = ranges.last().map_or(0, |r| r.end);
            let body = self.store.get_range(&file.key, start..end).await?;
            let slice = |range: &Range<u64>| {
                let from = (range.start - start).min(body.len() as u64) as usize;
                let to = (range.end - start).min(body.len() as u64) as usize;
                // A slice would keep the whole body alive for as long as one chunk of it is cached.
                if ranges.len() == 1 { body.slice(from..to) } else { Bytes::copy_from_slice(&body[from..to]) }
            };
            ranges.iter().map(slice).collect()
        };
        self.metrics.fetched_bytes.add(fetched.iter().map(|b| b.len() as u64).sum());
        Ok(fetched)
    }
}

/// Clears the flights of a run when its task ends, however it ends.
struct Landing {
    inner: Arc<Inner>,
    file: Arc<DataFile>,
    run: Vec<u32>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut flights = self.inner.flights.lock();
        for chunk in &self.run {
            flights.remove(&self.file.chunk_key(*chunk));
        }
    }
}
