//! What can go wrong with a push, a flush or a start.

use std::collections::BTreeMap;

use model::{ErrorKind, TenantId};
use proto::wire::WireError;
use wal::WalError;

use crate::memory::MemoryFull;

/// No span of the request was taken, or it is not certain that it was: an `Unavailable` one should be sent again.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error("the request is not an OTLP trace request")]
    Undecodable(#[from] WireError),
    /// Reason to number of spans.
    #[error("no span of the request is valid: {}", counts(.0))]
    NothingValid(BTreeMap<&'static str, u64>),
    #[error(transparent)]
    Memory(#[from] MemoryFull),
    #[error("the ingester is shutting down; send to another one, or again later")]
    ShuttingDown,
    #[error(transparent)]
    Wal(#[from] WalError),
}

impl PushError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Undecodable(_) | Self::NothingValid(_) => ErrorKind::Invalid,
            Self::Memory(MemoryFull::Ever { .. }) => ErrorKind::TooLarge,
            Self::Memory(MemoryFull::Now(_)) | Self::ShuttingDown => ErrorKind::Unavailable,
            Self::Wal(error) => error.kind(),
        }
    }
}

fn counts(rejected: &BTreeMap<&'static str, u64>) -> String {
    rejected.iter().map(|(reason, count)| format!("{count} {reason}")).collect::<Vec<_>>().join(", ")
}

/// Why a tenant's part of a generation is not in the table yet. It stays live and in the log.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FlushError {
    #[error("cannot make a block for tenant {tenant}: {detail}")]
    Encode { tenant: TenantId, detail: String },
    #[error("cannot store the spans of tenant {tenant}")]
    Store { tenant: TenantId, source: storage::StorageError },
    #[error("an earlier flush of tenant {tenant} has not succeeded yet")]
    Behind { tenant: TenantId },
    #[error("the write-ahead log")]
    Wal(#[from] WalError),
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the write-ahead log")]
    Wal(#[from] WalError),
    #[error("the log holds spans of tenant {tenant}, but after {waited_s} s it is still not known which of them its table has")]
    Table { tenant: TenantId, waited_s: u64, source: storage::StorageError },
    #[error("the log holds more than fits into memory, and after {waited_s} s it still cannot be flushed")]
    Flush { waited_s: u64, source: FlushError },
    #[error("replaying the log ended unexpectedly: {0}")]
    Replay(String),
}
