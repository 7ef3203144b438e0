//! Why a job came to nothing, and whether a block is to blame.

use block::BlockError;
use model::ErrorKind;
use storage::StorageError;
use ulid::Ulid;

#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// A block could not be read or decoded.
    #[error("block {block}")]
    Input {
        block: Ulid,
        #[source]
        source: Box<Cause>,
    },
    /// The blocks could not be merged, and it is not known which of them is to blame.
    #[error("merging blocks")]
    Merge(#[source] Box<Cause>),
    /// The engine could not say which traces a retention rule matches.
    #[error("a retention rule")]
    Rule(#[from] query::QueryError),
    /// The new block could not be stored or committed, or the table not read.
    #[error(transparent)]
    Store(#[from] StorageError),
}

#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error(transparent)]
    Store(#[from] StorageError),
    #[error(transparent)]
    Block(#[from] BlockError),
    #[error("the merge ended unexpectedly")]
    Ended(#[from] background::Failed),
}

impl JobError {
    pub(crate) fn input(block: Ulid, cause: impl Into<Cause>) -> Self {
        Self::Input { block, source: Box::new(cause.into()) }
    }

    pub(crate) fn merge(cause: impl Into<Cause>) -> Self {
        Self::Merge(Box::new(cause.into()))
    }

    /// The blocks of `inputs` that this speaks against: trying again would end the same way.
    pub(crate) fn speaks_against(&self, inputs: impl Iterator<Item = Ulid>) -> Vec<Ulid> {
        let lasting = |cause: &Cause| match cause {
            Cause::Store(error) => error.kind() != ErrorKind::Unavailable,
            Cause::Ended(background::Failed::Start(_)) => false,
            Cause::Block(_) | Cause::Ended(background::Failed::Panicked(_)) => true,
        };
        match self {
            Self::Input { block, source } if lasting(source) => vec![*block],
            Self::Merge(cause) if lasting(cause) => inputs.collect(),
            _ => vec![],
        }
    }
}
