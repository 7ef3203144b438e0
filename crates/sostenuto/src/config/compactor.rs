//! How blocks are merged and deleted.

use compactor::CompactorConfig;
use serde::{Deserialize, Serialize};

use super::{GoDuration, Size};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Compactor {
    /// Pause between two looks at the tables: a LIST, and a GET per tenant.
    pub interval: GoDuration,
    /// Blocks of a window are merged into blocks of at most this size.
    pub max_block_bytes: Size,
    /// The most blocks merged at once.
    pub max_input_blocks: usize,
    /// In a window that still gets blocks, so many of similar size are merged at least. Smaller means fewer blocks for
    /// queries, and each span written more often.
    pub min_input_blocks: usize,
    /// A window that got no block for so long is put together as far as it goes.
    pub settled_after: GoDuration,
    /// Memory of one merge, beside the block that it makes.
    pub max_job_bytes: Size,
    /// Merges at the same time.
    pub concurrent_jobs: usize,
    /// 1 to 22. Higher is smaller and slower.
    pub zstd_level: i32,
    /// The same for blocks that will hardly be merged again: large ones, and those of settled windows.
    pub last_zstd_level: i32,
    /// From so many settled blocks an index of trace ids is made, that spares lookups a read for each. 0: never.
    pub min_indexed_blocks: usize,
    /// How long one process keeps others away from the window it works on.
    pub claim_duration: GoDuration,
    /// The files of merged and expired blocks stay this long, for queries that began before.
    pub removed_block_grace: GoDuration,
    /// Files that no commit names stay this long, for writers that are about to.
    pub orphan_grace: GoDuration,
    /// Pause between two looks for files to delete: a LIST per 1,000 files.
    pub sweep_interval: GoDuration,
    /// The shortest `keep` that a retention rule may have.
    pub min_keep: GoDuration,
}

/// A guard against slips of the unit, `7m` for `7d`: what is deleted does not come back. A time to keep counts from the end
/// of an hour, so that less than one is hardly ever meant.
const KEEP_MIN: GoDuration = GoDuration::from_secs(3600);

impl Default for Compactor {
    fn default() -> Self {
        let config = CompactorConfig::default();
        Self {
            interval: GoDuration(config.interval),
            max_block_bytes: Size(config.block_bytes_max),
            max_input_blocks: config.inputs_max,
            min_input_blocks: config.inputs_min,
            settled_after: GoDuration(config.settled_after),
            max_job_bytes: Size(config.job_bytes_max),
            concurrent_jobs: config.jobs_max,
            zstd_level: config.zstd_level,
            last_zstd_level: config.last_zstd_level,
            min_indexed_blocks: config.index_blocks_min,
            claim_duration: GoDuration(config.claim_lasts),
            removed_block_grace: GoDuration(config.removed_kept),
            orphan_grace: GoDuration(config.orphans_kept),
            sweep_interval: GoDuration(config.sweep_interval),
            min_keep: KEEP_MIN,
        }
    }
}

impl Compactor {
    pub fn config(&self) -> CompactorConfig {
        CompactorConfig {
            interval: self.interval.0,
            block_bytes_max: self.max_block_bytes.0,
            inputs_max: self.max_input_blocks,
            inputs_min: self.min_input_blocks,
            settled_after: self.settled_after.0,
            job_bytes_max: self.max_job_bytes.0,
            jobs_max: self.concurrent_jobs,
            zstd_level: self.zstd_level,
            last_zstd_level: self.last_zstd_level,
            index_blocks_min: self.min_indexed_blocks,
            claim_lasts: self.claim_duration.0,
            removed_kept: self.removed_block_grace.0,
            orphans_kept: self.orphan_grace.0,
            sweep_interval: self.sweep_interval.0,
        }
    }
}
