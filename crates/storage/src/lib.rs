//! Blocks and tables in an object store. The only crate that builds object keys.
//!
//! - [`Storage`] opens the store, proves that it can be built on, and hands out tables and blocks.
//! - [`Table`] is a tenant's Delta table: commits are atomic, snapshots never change.
//! - [`OpenBlock`] reads a block's rows; no byte leaves it that does not have the checksum it was written with.
//!
//! Invariants: a block is visible exactly from the commit that adds it to the commit that removes it; its
//! two files are stored before that commit, and never change; a commit that was reported as done is on disk.

mod chunks;
mod claim;
mod config;
mod delta;
mod entry;
mod error;
mod keys;
mod local;
mod metered;
mod metrics;
mod open_block;
mod overrides;
mod storage;
mod store;
mod sweep;
mod table;
mod trace_index;
mod upload;

pub use claim::{Claim, ClaimOutcome};
pub use config::{
    AzureConfig, Backend, BucketLookup, CacheConfig, ClientConfig, GcsConfig, LocalConfig, S3Config, SseConfig,
    SseKind, StorageConfig, TableConfig,
};
pub use entry::{BlockEntry, ColumnRange};
pub use error::{Result, StorageError};
pub use keys::window_start_unix_ms;
pub use metrics::{Counter, StorageMetrics};
pub use open_block::OpenBlock;
pub use overrides::TenantDocument;
pub use storage::{Cached, Storage};
pub use sweep::{SweepAges, Swept};
pub use table::{Commit, Committed, Outcome, Snapshot, Table};
pub use trace_index::{IndexBuilder, IndexHead, IndexedBlock, TraceIndexes};
