//! Settings of the compactor. Plain values.

use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompactorConfig {
    /// Pause between two looks at the tables. Each look costs a LIST, and a GET per tenant.
    pub interval: Duration,
    /// Blocks grow up to this size of their data files together. Larger blocks mean fewer files per query, and more
    /// memory and work per compaction.
    pub block_bytes_max: u64,
    /// The most blocks merged at once.
    pub inputs_max: usize,
    /// In a window that still gets blocks, so many neighbours of similar size are merged. Smaller means fewer blocks, and
    /// each span is written more often: about log(window / flush) / log(inputs_min) times.
    pub inputs_min: usize,
    /// A window without a new block for so long is settled: any two neighbours are merged, if that is not mostly
    /// copying one of them.
    pub settled_after: Duration,
    /// Memory of one job for what it reads and merges; beside it, the new block is in memory until it is stored.
    pub job_bytes_max: u64,
    /// Jobs at the same time.
    pub jobs_max: usize,
    /// Zstandard level of merged blocks that will be merged again, 1 to 22.
    pub zstd_level: i32,
    /// The level of those that will hardly be: large ones, and what is merged in windows that have settled.
    pub last_zstd_level: i32,
    /// An index of trace ids is made of so many settled blocks that none covers. Fewer are asked one by one for a trace: a
    /// read each. 0: no index is ever made.
    pub index_blocks_min: usize,
    /// How long a claim keeps other compactors away from a window: longer than a job takes.
    pub claim_lasts: Duration,
    /// The files of a removed block stay this long for readers of older snapshots: longer than the longest query plus
    /// the time by which another process may be behind.
    pub removed_kept: Duration,
    /// Files that no commit names stay this long: longer than any writer takes from its upload to its commit.
    pub orphans_kept: Duration,
    /// Pause between two looks for files to delete. Each lists all files of all tables.
    pub sweep_interval: Duration,
}

impl Default for CompactorConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            block_bytes_max: 128 << 20,
            inputs_max: 32,
            inputs_min: 4,
            settled_after: Duration::from_secs(600),
            job_bytes_max: 256 << 20,
            jobs_max: 1,
            zstd_level: 6,
            last_zstd_level: 15,
            index_blocks_min: 16,
            claim_lasts: Duration::from_secs(300),
            removed_kept: Duration::from_secs(900),
            orphans_kept: Duration::from_secs(86_400),
            sweep_interval: Duration::from_secs(1800),
        }
    }
}
