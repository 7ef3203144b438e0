//! What a store was asked for.

use object_store::path::Path;

/// The kinds of requests, as a bill would count them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Put,
    /// One range is one request.
    Get,
    Head,
    List,
    /// One key is one request.
    Delete,
}

impl Kind {
    /// Whether the request changes what is stored.
    pub fn writes(self) -> bool {
        matches!(self, Self::Put | Self::Delete)
    }
}

/// A request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Requests before it since the rule was made.
    pub number: usize,
    /// Requests before it that change what is stored, since the rule was made.
    pub writes_before: usize,
    pub kind: Kind,
    /// Of a listing: its prefix, perhaps empty.
    pub key: Path,
    /// Bytes sent, or bytes that the answer brought.
    pub bytes: u64,
}

impl Asked {
    pub fn ends_with(&self, end: &str) -> bool {
        self.key.as_ref().ends_with(end)
    }

    pub fn is_commit(&self) -> bool {
        crate::is_commit(self.key.as_ref())
    }
}
