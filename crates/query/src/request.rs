//! What can be asked of the engine, and how a question can fail. Answers are Tempo's messages.

use model::{ErrorKind, TraceId};
use ulid::Ulid;

/// Unix nanoseconds. A trace belongs to a range if the time from its first start to its last end overlaps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeRange {
    pub start: i64,
    pub end: i64,
}

#[derive(Clone, Debug)]
pub struct SearchRequest {
    pub filter: SearchFilter,
    /// `None` searches everything that is stored.
    pub range: Option<TimeRange>,
    /// The most traces to return.
    pub limit: usize,
    /// The most spans to return of a spanset; 0 returns all.
    pub spans_per_spanset: usize,
}

/// The last trace of a page of search results; the next page begins behind it. Results come by their start, the newest
/// first, then by id: what is found at any time stands at the same place, whatever arrives or is compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Unix nanoseconds.
    pub start: i64,
    pub id: TraceId,
}

impl Cursor {
    /// Whether a trace comes after it.
    pub fn precedes(&self, start: i64, id: &TraceId) -> bool {
        start < self.start || (start == self.start && *id > self.id)
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.start, self.id)
    }
}

impl std::str::FromStr for Cursor {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self, QueryError> {
        let parts = text.rsplit_once('-').and_then(|(start, id)| Some((start.parse().ok()?, TraceId::parse(id).ok()?)));
        let (start, id) = parts.ok_or_else(|| QueryError::invalid(format!("{text:?} is no cursor: send the header sostenuto-next of the page before as it was")))?;
        Ok(Self { start, id })
    }
}

#[derive(Clone, Debug)]
pub enum SearchFilter {
    TraceQl(String),
    /// Tempo's old tag search: every tag matches somewhere in the trace.
    Tags { tags: Vec<(String, String)>, duration_min_ns: Option<i64>, duration_max_ns: Option<i64> },
}

#[derive(Clone, Debug)]
pub struct TraceRequest {
    pub id: TraceId,
    pub range: Option<TimeRange>,
}

/// Which scope's attribute names to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagScope {
    All,
    Only(model::AttributeScope),
    Intrinsic,
}

#[derive(Clone, Debug)]
pub struct TagNamesRequest {
    pub scope: TagScope,
    /// A TraceQL filter, read leniently: what cannot be used is ignored.
    pub query: String,
    pub range: Option<TimeRange>,
    /// The most names per scope; 0 is no limit.
    pub limit: usize,
}

#[derive(Clone, Debug)]
pub struct TagValuesRequest {
    /// A TraceQL name (`span.foo`, `name`), or for the old endpoint a bare key (`service.name`).
    pub name: String,
    pub query: String,
    pub range: Option<TimeRange>,
    /// The most values; 0 is no limit.
    pub limit: usize,
}

#[derive(Clone, Debug)]
pub struct MetricsRequest {
    pub query: String,
    /// Unix nanoseconds.
    pub start: i64,
    pub end: i64,
    /// Nanoseconds. `None` chooses Tempo's default for the range. Not used by instant queries.
    pub step: Option<i64>,
    /// How many to show at most; `None` takes the default. The hint `exemplars` counts more.
    pub exemplars: Option<usize>,
    /// The most, whoever asks.
    pub exemplars_max: usize,
    pub series_max: Option<usize>,
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct QueryError {
    pub kind: ErrorKind,
    pub message: String,
    /// The block that could not be read, where it is the cause.
    pub block: Option<Ulid>,
}

impl QueryError {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), block: None }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    pub fn internal(error: impl std::fmt::Display) -> Self {
        Self::new(ErrorKind::Internal, error.to_string())
    }

    /// The same error, caused by a block.
    #[must_use]
    pub fn of_block(self, id: Ulid) -> Self {
        Self { block: Some(id), ..self }
    }
}
