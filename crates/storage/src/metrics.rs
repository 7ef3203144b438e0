//! Counts of what the store was asked for and what was found wrong. Monotonic; read by whoever exports them.

use std::sync::atomic::{AtomicU64, Ordering};

/// A monotonic count.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
pub struct StorageMetrics {
    /// 1 MiB pieces of data files found in memory.
    pub chunk_hits_memory: Counter,
    /// Pieces found in the disk cache, with the right checksum.
    pub chunk_hits_disk: Counter,
    /// Pieces that had to come from the store.
    pub chunk_misses: Counter,
    /// Pieces that had to leave memory to make room. They go to the disk, if there is one.
    pub chunk_evictions: Counter,
    /// Blocks that were open when they were asked for, and those whose sidecar had to be read.
    pub sidecar_hits: Counter,
    pub sidecar_misses: Counter,
    /// Open blocks that had to be closed to make room.
    pub sidecar_evictions: Counter,
    /// Requests for pieces to the store, and the bytes they brought.
    pub fetches: Counter,
    pub fetched_bytes: Counter,
    /// Pieces whose bytes did not have the checksum of the sidecar, from the store or the disk cache.
    pub chunk_checksum_failures: Counter,
    /// Blocks whose sidecar was lost or damaged and was made again from the data file.
    pub sidecars_rebuilt: Counter,
    pub blocks_written: Counter,
    pub blocks_written_bytes: Counter,
    /// Files of blocks that no table had any more, or never had, and that were deleted.
    pub files_swept: Counter,
    pub files_swept_bytes: Counter,
    /// Files of logs that a checkpoint had summed up long before, and that were deleted.
    pub log_files_cleaned: Counter,
    /// Claims of processes that did not come back, and that were deleted.
    pub claims_cleaned: Counter,
    /// Ranges of indexes of traces that were read, indexes that could not be, and those that were written.
    pub trace_index_reads: Counter,
    pub trace_index_failures: Counter,
    pub trace_indexes_written: Counter,
    pub trace_indexes_written_bytes: Counter,
    /// Requests to the store by kind. Each part of a large object is a put, each page of a listing a list, each range a
    /// get; repeats by the client after an error are not seen.
    pub puts: Counter,
    pub gets: Counter,
    pub heads: Counter,
    pub lists: Counter,
    pub deletes: Counter,
    /// Bytes of bodies.
    pub sent_bytes: Counter,
    pub received_bytes: Counter,
    /// Reads that were sent once more because the answer took long, and how many of these were answered first.
    pub hedges: Counter,
    pub hedges_won: Counter,
}
