//! Settings of the log.

use std::{path::PathBuf, time::Duration};

#[derive(Clone, Debug)]
pub struct WalConfig {
    /// The directory of the log. It belongs to one process at a time and should not share its disk with anything that
    /// could fill it.
    pub dir: PathBuf,
    /// A segment that would grow past this closes and the next begins. Smaller segments give space back in smaller
    /// steps after a flush; each costs one more file.
    pub segment_bytes_max: u64,
    /// The longest a commit waits for company, and only while appends come from several clients at once. Longer means
    /// fewer fsyncs and later answers; zero never waits.
    pub group_commit_delay_max: Duration,
    /// Bytes of records in memory that are not durable yet. Over it, appends answer `Overloaded`.
    pub queue_bytes_max: usize,
    /// Bytes of segments on disk. Over it, appends answer `DiskFull` until flushes remove segments.
    pub disk_bytes_max: u64,
    /// Bytes to leave free on the file system. Below it, appends answer `DiskFull`.
    pub disk_free_bytes_min: u64,
    /// Bytes of damaged records kept for an operator in `quarantine/`. Over it, damage is reported but not kept.
    pub quarantine_bytes_max: u64,
    /// After a failed write, appends are refused for a fortieth of this, doubled with every further failure up to this.
    pub failure_pause_max: Duration,
    /// Whether a commit waits for the disk. Without it a power loss loses acknowledged records; a killed process does not.
    pub fsync: bool,
}

impl WalConfig {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            segment_bytes_max: 128 << 20,
            group_commit_delay_max: Duration::from_millis(2),
            queue_bytes_max: 64 << 20,
            disk_bytes_max: 8 << 30,
            disk_free_bytes_min: 512 << 20,
            quarantine_bytes_max: 1 << 30,
            failure_pause_max: Duration::from_secs(2),
            fsync: true,
        }
    }
}
