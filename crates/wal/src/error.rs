//! What can go wrong with the log, and what the caller can do about it.

use std::{io, path::PathBuf, sync::Arc};

use model::ErrorKind;

/// Cloneable, because one failed write fails every append that waited for it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WalError {
    #[error("the write-ahead log is busy: {queued_bytes} bytes wait for the disk, at most {queue_bytes_max} may; send again later")]
    Overloaded { queued_bytes: usize, queue_bytes_max: usize },
    #[error("the write-ahead log's disk is full: {used_bytes} of {disk_bytes_max} bytes used, {free_bytes} bytes free on the file system (at least {disk_free_bytes_min} must stay free); send again later, or make room")]
    DiskFull { used_bytes: u64, disk_bytes_max: u64, free_bytes: u64, disk_free_bytes_min: u64 },
    #[error("a record of {bytes} bytes is larger than the log takes ({bytes_max}); send smaller requests")]
    TooLarge { bytes: usize, bytes_max: usize },
    #[error("the write-ahead log could not {action} {path}")]
    Io { action: &'static str, path: PathBuf, source: Arc<io::Error> },
    #[error("the write-ahead log is closed")]
    Closed,
    #[error("the write-ahead log in {dir} is in use by another process; give each ingester a directory of its own")]
    Locked { dir: PathBuf },
    #[error("{path} has format version {found}; this program reads up to version {known}. Start the newer program and let it flush first")]
    Version { path: PathBuf, found: u32, known: u32 },
    #[error("{dir} holds segments of two ingesters ({first} and {second}); move the segments of one of them elsewhere")]
    TwoIngesters { dir: PathBuf, first: String, second: String },
}

impl WalError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { action, path: path.into(), source: Arc::new(source) }
    }

    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Overloaded { .. } | Self::DiskFull { .. } | Self::Io { .. } | Self::Closed => ErrorKind::Unavailable,
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::Locked { .. } | Self::Version { .. } | Self::TwoIngesters { .. } => ErrorKind::Invalid,
        }
    }

    pub fn is_retryable(&self) -> bool {
        self.kind() == ErrorKind::Unavailable
    }
}
