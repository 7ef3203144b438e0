//! What can go wrong between us and the store, and what a caller can do about it.

use std::sync::Arc;

use model::ErrorKind;

pub type Result<T, E = StorageError> = std::result::Result<T, E>;

/// An error of the store, of an object in it, or of two writers meeting. Cheap to clone: one failed read
/// answers everyone who waited for it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StorageError {
    /// The configuration cannot work.
    #[error("storage configuration: {0}")]
    Config(String),
    /// The store answered with an error, after the retries the configuration allows.
    #[error("could not {operation} {key}")]
    Store {
        operation: &'static str,
        key: String,
        #[source]
        source: Arc<object_store::Error>,
    },
    /// The start-up probe found that the store does not keep a promise we build on.
    #[error("the object store cannot be used: {0}")]
    Unfit(String),
    /// Bytes at rest are not what was written.
    #[error("{object} is damaged: {detail}")]
    Corrupt { object: String, detail: String },
    /// The table needs a feature of the Delta protocol that this version does not have.
    #[error("table {table} cannot be read: {detail}")]
    Unsupported { table: String, detail: String },
    /// Another commit removed what this one wanted to replace, or added what it wanted to add.
    /// Look at the new snapshot and decide again; the same commit can never succeed.
    #[error("commit to {table} conflicts with another: {detail}")]
    Conflict { table: String, detail: String },
    /// Other writers won every attempt. The same commit may pass later.
    #[error("commit to {table} lost against other writers {attempts} times; try again later")]
    Contention { table: String, attempts: usize },
}

impl StorageError {
    pub(crate) fn store(operation: &'static str, key: &impl ToString, source: object_store::Error) -> Self {
        Self::Store { operation, key: key.to_string(), source: Arc::new(source) }
    }

    pub(crate) fn corrupt(object: &impl ToString, detail: impl ToString) -> Self {
        Self::Corrupt { object: object.to_string(), detail: detail.to_string() }
    }

    pub(crate) fn damaged(object: &impl ToString, error: &dyn std::error::Error) -> Self {
        Self::corrupt(object, chain(error))
    }

    /// Whether the store said that the object is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Store { source, .. } if matches!(**source, object_store::Error::NotFound { .. }))
    }

    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Config(_) | Self::Unfit(_) => ErrorKind::Invalid,
            Self::Store { .. } if self.is_not_found() => ErrorKind::NotFound,
            // Also refused credentials: they are the operator's to mend, and the client's data is good.
            Self::Store { .. } | Self::Contention { .. } | Self::Conflict { .. } => ErrorKind::Unavailable,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Unsupported { .. } => ErrorKind::Internal,
        }
    }
}

/// An error with its sources in one line, where it becomes part of another's text.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
