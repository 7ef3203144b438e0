//! What can go wrong with a batch or a block, and whose fault it is.

use arrow::error::ArrowError;
use model::ErrorKind;
use parquet::errors::ParquetError;

#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// Rows that do not have the columns or types of `schema`.
    #[error("column {column:?} {problem}")]
    Column { column: String, problem: &'static str },
    /// Rows in another order than a block's.
    #[error("the spans of trace {0} come after those of a later trace: write batches in trace order, each trace whole")]
    Order(model::TraceId),
    /// More bytes of one column than one batch can address.
    #[error("too many spans to merge at once ({0}): merge fewer batches or shorter time windows")]
    TooLarge(String),
    /// A block that has no row has no file.
    #[error("a block needs at least one span")]
    Empty,
    #[error("damaged sidecar: {0}; rebuild it from the block's data file")]
    Sidecar(&'static str),
    #[error("the sidecar has format version {found}, this program reads up to {known}: upgrade it")]
    SidecarVersion { found: u32, known: u32 },
    /// A data file without what only our writer puts into it.
    #[error("not a block of ours: {0}")]
    Foreign(&'static str),
    #[error("block data")]
    Parquet(#[from] ParquetError),
    #[error("span rows")]
    Arrow(#[from] ArrowError),
    #[error("sidecar contents")]
    Json(#[from] serde_json::Error),
}

impl BlockError {
    pub(crate) fn column(column: &str, problem: &'static str) -> Self {
        Self::Column { column: column.to_owned(), problem }
    }

    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Sidecar(_) | Self::Foreign(_) | Self::Parquet(_) | Self::Json(_) => ErrorKind::Corrupt,
            Self::SidecarVersion { .. } => ErrorKind::Unavailable,
            Self::TooLarge(_) => ErrorKind::TooLarge,
            Self::Column { .. } | Self::Order(_) | Self::Empty | Self::Arrow(_) => ErrorKind::Internal,
        }
    }
}
