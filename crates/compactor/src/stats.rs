//! What the compactor counts. Monotonic, but for what stands aside.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

#[derive(Debug, Default)]
pub struct Stats {
    pub(crate) compactions: AtomicU64,
    pub(crate) blocks_in: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) spans: AtomicU64,
    pub(crate) redelivered: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) claimed_elsewhere: AtomicU64,
    pub(crate) expirations: AtomicU64,
    pub(crate) expired_spans: AtomicU64,
    pub(crate) expired_bytes: AtomicU64,
    pub(crate) indexes: AtomicU64,
    pub(crate) aside: AtomicU64,
    pub(crate) due: AtomicU64,
}

/// [`Stats`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactorStats {
    /// Commits that replaced blocks.
    pub compactions: u64,
    /// Blocks that were replaced, and the bytes of their data files.
    pub blocks_in: u64,
    pub bytes_in: u64,
    /// Bytes of the data files that replaced them.
    pub bytes_out: u64,
    /// Spans written.
    pub spans: u64,
    /// Spans that had been delivered more than once; one copy stayed.
    pub redelivered: u64,
    /// Jobs that failed, to be tried again.
    pub failures: u64,
    /// Jobs whose blocks another compactor replaced first.
    pub lost: u64,
    /// Jobs that were left to another compactor.
    pub claimed_elsewhere: u64,
    /// Commits of retention, the spans they deleted, and by how much the data files became smaller.
    pub expirations: u64,
    pub expired_spans: u64,
    pub expired_bytes: u64,
    /// Indexes of trace ids that were made.
    pub indexes: u64,
    /// Blocks set aside at this moment, because jobs with them failed twice.
    pub aside: u64,
    /// Blocks that waited to be merged at the last look.
    pub due: u64,
}

impl Stats {
    pub fn read(&self) -> CompactorStats {
        let of = |count: &AtomicU64| count.load(Relaxed);
        CompactorStats {
            compactions: of(&self.compactions),
            blocks_in: of(&self.blocks_in),
            bytes_in: of(&self.bytes_in),
            bytes_out: of(&self.bytes_out),
            spans: of(&self.spans),
            redelivered: of(&self.redelivered),
            failures: of(&self.failures),
            lost: of(&self.lost),
            claimed_elsewhere: of(&self.claimed_elsewhere),
            expirations: of(&self.expirations),
            expired_spans: of(&self.expired_spans),
            expired_bytes: of(&self.expired_bytes),
            indexes: of(&self.indexes),
            aside: of(&self.aside),
            due: of(&self.due),
        }
    }
}
