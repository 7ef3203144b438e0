//! An open block: its sidecar in memory, its rows a checked read away.

use std::{ops::Range, sync::Arc};

use block::sidecar::{Sidecar, rebuild_from};
use bytes::Bytes;
use futures::future::BoxFuture;
use object_store::{Error, ObjectStore, ObjectStoreExt};

use crate::{
    chunks::{ChunkCache, DataFile, crc32c},
    entry::BlockEntry,
    error::{Result, StorageError, chain},
    keys::TableKeys,
    metrics::StorageMetrics,
};

pub struct OpenBlock {
    entry: Arc<BlockEntry>,
    sidecar: Sidecar,
    file: Arc<DataFile>,
    chunks: Arc<ChunkCache>,
}

impl OpenBlock {
    pub(crate) fn new(entry: Arc<BlockEntry>, sidecar: Sidecar, file: Arc<DataFile>, chunks: Arc<ChunkCache>) -> Self {
        Self { entry, sidecar, file, chunks }
    }

    pub fn entry(&self) -> &Arc<BlockEntry> {
        &self.entry
    }

    pub fn sidecar(&self) -> &Sidecar {
        &self.sidecar
    }

    /// The bytes of `ranges` of the data file, in order, checked against the sidecar. The caller bounds how
    /// much it asks for: all of it is in memory at once.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] names the block and the chunk whose bytes are wrong even when read twice.
    pub fn read<'a>(&'a self, ranges: &'a [Range<u64>]) -> BoxFuture<'a, Result<Vec<Bytes>>> {
        Box::pin(self.chunks.read(&self.file, ranges))
    }

    /// As [`Self::read`], of one range and past the cache: for who reads the whole block once.
    pub async fn read_once(&self, range: Range<u64>) -> Result<Bytes> {
        self.chunks.read_once(&self.file, range).await
    }

    /// Takes the data file's bytes, which this process just made and stored, into the cache.
    pub(crate) fn keep(&self, data: &Bytes) {
        self.chunks.keep(&self.file, data);
    }

    /// Reads a block's sidecar; makes it again from the data file if it is lost or damaged.
    pub(crate) async fn load_sidecar(
        store: &dyn ObjectStore,
        keys: &TableKeys,
        entry: &BlockEntry,
        metrics: &StorageMetrics,
    ) -> Result<Sidecar> {
        let key = keys.sidecar(entry.id);
        let read = async { store.get(&key).await?.bytes().await };
        let damage = match read.await {
            Ok(bytes) => match parse(entry, &bytes) {
                Ok(sidecar) => return Ok(sidecar),
                Err(detail) => detail,
            },
            Err(Error::NotFound { .. }) => "it is not there".to_owned(),
            Err(e) => return Err(StorageError::store("read", &key, e)),
        };
        tracing::warn!(%key, damage, "a sidecar is made again from its data file");
        rebuild(store, keys, entry, metrics).await
    }
}

fn parse(entry: &BlockEntry, bytes: &Bytes) -> Result<Sidecar, String> {
    let sidecar = Sidecar::parse(bytes).map_err(|e| chain(&e))?;
    if chunks_crc32c(&sidecar.chunk_crcs) != entry.chunks_crc32c {
        return Err("it belongs to other data".to_owned());
    }
    Ok(sidecar)
}

/// Reads the whole data file. The entry's checksum over the chunk checksums, made when the block was
/// written, tells whether these are still the bytes that were committed.
async fn rebuild(
    store: &dyn ObjectStore,
    keys: &TableKeys,
    entry: &BlockEntry,
    metrics: &StorageMetrics,
) -> Result<Sidecar> {
    let data_key = keys.data(&entry.path);
    let read = async { store.get(&data_key).await?.bytes().await };
    let data = read.await.map_err(|e| StorageError::store("read", &data_key, e))?;
    let wrong = |detail: String| {
        StorageError::corrupt(&data_key, format!("the sidecar of block {} cannot be made again: {detail}", entry.id))
    };
    // Decoding a whole block takes long enough to be done off the threads that serve requests.
    let rebuilt = tokio::task::spawn_blocking(move || rebuild_from(&data)).await;
    let bytes = match rebuilt {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(e)) => return Err(wrong(chain(&e))),
        Err(e) => return Err(wrong(e.to_string())),
    };
    let sidecar = parse(entry, &bytes).map_err(wrong)?;
    metrics.sidecars_rebuilt.add(1);
    let key = keys.sidecar(entry.id);
    if let Err(error) = store.put(&key, bytes.into()).await {
        // A process with the right to read only still answers; the next one rebuilds again.
        tracing::warn!(%key, %error, "the sidecar could not be stored");
    }
    Ok(sidecar)
}

/// CRC32C over the chunk CRCs, each little-endian.
pub(crate) fn chunks_crc32c(crcs: &[u32]) -> u32 {
    let bytes: Vec<u8> = crcs.iter().flat_map(|crc| crc.to_le_bytes()).collect();
    crc32c(&bytes)
}
