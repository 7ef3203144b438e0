//! Decoded columns of blocks, kept between queries.
//!
//! The unit is one column of one row group, decoded whole. Blocks never change, so nothing kept is ever stale. What is asked
//! for once is read as a selection of rows (`scan`); what is asked for again, or by a search while there is room, is decoded
//! whole and kept, in as few bytes as its values need ([`crate::narrow`]). Bounded in bytes; columns that are asked for more
//! often push out others.

use std::{sync::Arc, time::Duration};

use arrow::array::{Array, ArrayRef};
use moka::future::Cache;
use ulid::Ulid;

use crate::trace_index::TraceIndex;

/// What is not asked for this long is dropped.
const IDLE: Duration = Duration::from_secs(600);
/// Columns of which it is remembered that they were asked for: about 100 bytes each.
const ASKED_MAX: u64 = 65_536;

/// A column of a row group of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ColumnKey {
    pub block: Ulid,
    pub row_group: u32,
    /// The position in the file's schema.
    pub column: u32,
}

/// A handle; clones share everything.
#[derive(Clone, Debug)]
pub struct ColumnCache {
    columns: Cache<ColumnKey, Kept>,
    asked: Cache<ColumnKey, ()>,
    capacity: u64,
}

#[derive(Clone, Debug)]
enum Kept {
    Column(ArrayRef),
    Traces(Arc<TraceIndex>),
}

impl ColumnCache {
    /// Keeps columns of at most `capacity` bytes together; with 0 nothing is kept.
    pub fn new(capacity: u64) -> Self {
        let weigh = |_: &ColumnKey, kept: &Kept| {
            let bytes = match kept {
                Kept::Column(array) => array.get_array_memory_size(),
                Kept::Traces(index) => index.bytes(),
            };
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        Self {
            columns: Cache::builder().max_capacity(capacity).weigher(weigh).time_to_idle(IDLE).build(),
            asked: Cache::builder().max_capacity(ASKED_MAX).build(),
            capacity,
        }
    }

    /// A column as it is kept: see [`crate::narrow::widened`].
    pub async fn column(&self, key: &ColumnKey) -> Option<ArrayRef> {
        match self.columns.get(key).await? {
            Kept::Column(array) => Some(array),
            Kept::Traces(_) => None,
        }
    }

    /// Keeps a column that was made narrow, if others are not asked for more.
    pub async fn keep_column(&self, key: ColumnKey, array: ArrayRef) {
        self.columns.insert(key, Kept::Column(array)).await;
    }

    /// The index of the row group that `trace_id` is the trace id column of.
    pub async fn traces(&self, trace_id: &ColumnKey) -> Option<Arc<TraceIndex>> {
        match self.columns.get(&index_key(trace_id)).await? {
            Kept::Traces(index) => Some(index),
            Kept::Column(_) => None,
        }
    }

    pub async fn keep_traces(&self, trace_id: &ColumnKey, index: Arc<TraceIndex>) {
        self.columns.insert(index_key(trace_id), Kept::Traces(index)).await;
    }

    /// As [`Self::asked`], of the index.
    pub async fn traces_asked(&self, trace_id: &ColumnKey) -> bool {
        self.asked(index_key(trace_id)).await
    }

    /// Notes that a column was asked for; says whether it had been before.
    pub async fn asked(&self, key: ColumnKey) -> bool {
        let before = self.asked.get(&key).await.is_some();
        if !before && self.capacity > 0 {
            self.asked.insert(key, ()).await;
        }
        before
    }

    /// The most bytes that are kept.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Whether this many bytes fit without pushing anything out.
    pub fn has_room(&self, bytes: u64) -> bool {
        self.columns.weighted_size().saturating_add(bytes) <= self.capacity
    }

    /// Whether what a query looks at is so much more than fits that keeping it would only push out what others look at.
    pub fn is_far_exceeded_by(&self, bytes: u64) -> bool {
        bytes / 2 > self.capacity
    }

    /// Whether this many bytes could be kept at all.
    pub fn can_hold(&self, bytes: u64) -> bool {
        bytes <= self.capacity / 2
    }
}

fn index_key(trace_id: &ColumnKey) -> ColumnKey {
    ColumnKey { column: u32::MAX, ..*trace_id }
}
