//! The account of one query: what it has read, and what it could not read.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
};

use model::{ErrorKind, TenantId};
use parking_lot::Mutex;
use ulid::Ulid;

use crate::request::QueryError;

/// With more blocks than this that the store does not give, after its own retries, it counts as unreachable.
const UNAVAILABLE_BLOCKS_MAX: usize = 3;

/// Blocks that a message names; the others are counted.
const NAMED_BLOCKS_MAX: usize = 3;

/// Shared by all parts of a query.
#[derive(Debug, Default)]
pub struct Reads {
    /// Bytes asked of blocks, from the store or from a cache.
    pub bytes: AtomicU64,
    /// Rows of the row groups and live batches that were looked at.
    pub spans: AtomicU64,
    pub row_groups_pruned: AtomicU64,
    /// Reads that brought what they should.
    pub succeeded: AtomicU64,
    blocks: Mutex<Blocks>,
}

#[derive(Debug, Default)]
struct Blocks {
    /// Not to be read again by this query.
    broken: BTreeMap<Ulid, BrokenBlock>,
    /// Those of them that the answer would have needed.
    missing: BTreeMap<Ulid, (TenantId, BrokenBlock)>,
}

/// A block that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenBlock {
    pub id: Ulid,
    /// `Corrupt`, `NotFound` or `Unavailable`; others are bugs or data that this version does not know.
    pub kind: ErrorKind,
    pub message: String,
}

impl Reads {
    /// Before each attempt at an answer: what earlier attempts looked at does not count, what they read does.
    pub(crate) fn begin(&self) {
        self.spans.store(0, Ordering::Relaxed);
        self.row_groups_pruned.store(0, Ordering::Relaxed);
        self.blocks.lock().missing.clear();
    }

    /// From now on the query does without the block. `None` if it did so already.
    pub(crate) fn give_up(&self, id: Ulid, error: &QueryError) -> Option<BrokenBlock> {
        let block = BrokenBlock { id, kind: error.kind, message: error.message.clone() };
        let known = self.blocks.lock().broken.insert(id, block.clone());
        known.is_none().then_some(block)
    }

    pub(crate) fn broken(&self, id: Ulid) -> Option<BrokenBlock> {
        self.blocks.lock().broken.get(&id).cloned()
    }

    /// The answer is made without a block that it needs.
    pub(crate) fn miss(&self, tenant: &TenantId, block: BrokenBlock) {
        self.blocks.lock().missing.insert(block.id, (tenant.clone(), block));
    }

    /// The answer did not need the block after all.
    pub(crate) fn excuse(&self, id: Ulid) {
        self.blocks.lock().missing.remove(&id);
    }

    /// The blocks that the answer should have been made of and was not.
    pub fn missing(&self) -> Vec<(TenantId, BrokenBlock)> {
        self.blocks.lock().missing.values().cloned().collect()
    }

    /// What the answer lacks, in one line; `None` if it is whole.
    pub fn partial(&self) -> Option<String> {
        let blocks = self.blocks.lock();
        let missing = &blocks.missing;
        if missing.is_empty() {
            return None;
        }
        let mut text = match missing.len() {
            1 => "the answer is partial: 1 block cannot be read".to_owned(),
            many => format!("the answer is partial: {many} blocks cannot be read"),
        };
        for (at, (_, block)) in missing.values().take(NAMED_BLOCKS_MAX).enumerate() {
            let _ = write!(text, "{} {}", if at == 0 { ":" } else { ";" }, block.message);
        }
        if missing.len() > NAMED_BLOCKS_MAX {
            text.push_str("; ...");
        }
        Some(text)
    }

    /// # Errors
    /// [`ErrorKind::Unavailable`] if blocks fail because the store cannot be reached, and not only these blocks.
    pub(crate) fn reachable(&self, done: bool) -> Result<(), QueryError> {
        let blocks = self.blocks.lock();
        let mut unavailable = blocks.broken.values().filter(|block| block.kind == ErrorKind::Unavailable).peekable();
        let Some(first) = unavailable.peek().map(|block| block.message.clone()) else { return Ok(()) };
        let all = done && self.succeeded.load(Ordering::Relaxed) == 0;
        if all || unavailable.count() > UNAVAILABLE_BLOCKS_MAX {
            return Err(QueryError::new(ErrorKind::Unavailable, format!("the object store cannot be reached; try again later: {first}")));
        }
        Ok(())
    }
}
