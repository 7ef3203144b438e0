//! The write-ahead log of one ingester: a request is durable here before it is acknowledged.
//!
//! Invariants:
//! - A record whose `Pending::durable` answered `Ok` is on disk and is handed out by the next [`Recovery`], until
//!   `remove_through` its segment.
//! - The segment of a record is decided when [`Wal::append`] is called, so [`Wal::rotate`] is an exact boundary.
//! - A file that failed a write or an fsync is never written again, and no later fsync of it is believed.
//! - A segment number is never used twice under one ingester id: a durable segment with a higher number stands in the
//!   directory before any segment is removed, and a directory without segments gets a new id.
//! - Opening never fails because of what the segments hold, except when a newer version wrote them.
//!
//! `docs/wal-format.md` is the normative description of the files.

mod attempt;
mod config;
mod directory;
mod disk;
mod error;
mod format;
mod log;
mod quarantine;
mod queue;
mod recovery;
mod scan;
mod writer;

pub use config::WalConfig;
pub use disk::{Disk, LocalDisk, SegmentFile};
pub use error::WalError;
pub use format::PAYLOAD_BYTES_MAX;
pub use log::{Pending, Wal, WalStats};
pub use recovery::{Cut, Damage, Recovery, RecoveryReport, Replayed};
