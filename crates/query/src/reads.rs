//! The account of one query: what it may use, what it has read, and what it could not read.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use model::{ErrorKind, TenantId};
use parking_lot::Mutex;
use ulid::Ulid;

use crate::{
    explain::{Explanation, Trail},
    memory::{Held, Memory},
    request::QueryError,
    time_limit::{TimeLimit, Waiting},
};

/// With more blocks than this that the store does not give, after its own retries, it counts as unreachable.
const UNAVAILABLE_BLOCKS_MAX: usize = 3;

/// Blocks that a message names; the others are counted.
const NAMED_BLOCKS_MAX: usize = 3;

/// What one query may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes asked of blocks, compressed, wherever they come from.
    pub read_bytes_max: u64,
    /// Bytes of rows and cells held for the answer at one time.
    pub memory_bytes_max: u64,
}

impl Budget {
    pub const UNLIMITED: Self = Self { read_bytes_max: u64::MAX, memory_bytes_max: u64::MAX };
}

impl Default for Budget {
    fn default() -> Self {
        Self::UNLIMITED
    }
}

/// Shared by all parts of a query.
#[derive(Debug)]
pub struct Reads {
    budget: Budget,
    time: TimeLimit,
    memory: Arc<Memory>,
    /// Of that, what stays until the attempt at an answer ends.
    kept: AtomicU64,
    /// Bytes asked of blocks, from the store or from a cache.
    pub bytes: AtomicU64,
    /// Rows of the row groups and live batches that were looked at.
    pub spans: AtomicU64,
    pub(crate) trail: Trail,
    /// Reads that brought what they should.
    pub succeeded: AtomicU64,
    blocks: Mutex<Blocks>,
}

impl Default for Reads {
    fn default() -> Self {
        Self::within(Budget::UNLIMITED)
    }
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
    pub fn within(budget: Budget) -> Self {
        Self {
            budget,
            time: TimeLimit::default(),
            memory: Arc::new(Memory::of(budget.memory_bytes_max)),
            kept: AtomicU64::default(),
            bytes: AtomicU64::default(),
            spans: AtomicU64::default(),
            trail: Trail::default(),
            succeeded: AtomicU64::default(),
            blocks: Mutex::default(),
        }
    }

    /// Ends the query this long after its beginning.
    #[must_use]
    pub fn at_most(self, time: Duration) -> Self {
        Self { time: TimeLimit::of(time), ..self }
    }

    /// Writes single reads down, too.
    #[must_use]
    pub fn watched(mut self) -> Self {
        self.trail.watched = Some(Mutex::default());
        self
    }

    /// Measures the query's time by another clock.
    #[must_use]
    pub fn by_clock(self, clock: Arc<dyn Fn() -> Instant + Send + Sync>) -> Self {
        Self { time: self.time.by(clock), ..self }
    }

    /// Asked between batches of work.
    ///
    /// # Errors
    /// `BudgetExceeded`: the query has worked as long as it may, or nobody waits for it any more.
    pub(crate) fn go_on(&self) -> Result<(), QueryError> {
        self.time.go_on()
    }

    pub(crate) fn waited_for(&self) -> Waiting<'_> {
        self.time.waited_for()
    }

    pub fn budget(&self) -> Budget {
        self.budget
    }

    /// # Errors
    /// `BudgetExceeded`: the query has read all it may.
    pub(crate) fn read(&self, bytes: u64) -> Result<(), QueryError> {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.budget.read_bytes_max {
            return Err(over_budget(format!(
                "the query reads more than {} bytes of blocks, the most that one query may (query_frontend.max_bytes_per_query): ask for a shorter time range or a narrower filter",
                self.budget.read_bytes_max
            )));
        }
        Ok(())
    }

    /// Bytes that stay in memory until the answer is made.
    pub(crate) fn hold(&self, bytes: usize) -> Result<(), QueryError> {
        self.memory.take(bytes as u64)?;
        self.kept.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Bytes that are in memory now, beside those that stay.
    pub(crate) fn fits(&self, bytes: usize) -> Result<(), QueryError> {
        self.memory.fits(bytes as u64)
    }

    /// A share of the query's memory, to be grown by who needs it.
    pub(crate) fn held(&self) -> Held {
        Held::nothing(&self.memory)
    }

    /// Bytes that the query holds at this moment: of rows, groups, cells and series.
    pub fn memory_bytes(&self) -> u64 {
        self.memory.held()
    }

    /// Gives back what an attempt kept.
    fn forget_kept(&self) {
        self.memory.give_back(self.kept.swap(0, Ordering::Relaxed));
    }

    /// Before each attempt at an answer: what earlier attempts looked at does not count, what they read does.
    pub(crate) fn begin(&self) {
        self.time.begin();
        self.spans.store(0, Ordering::Relaxed);
        self.trail.begin();
        self.forget_kept();
        self.blocks.lock().missing.clear();
    }

    /// After the last attempt.
    pub(crate) fn end(&self) {
        self.forget_kept();
    }

    /// From now on the query does without the block. `None` if it did so already.
    pub(crate) fn give_up(&self, id: Ulid, error: &QueryError) -> Option<BrokenBlock> {
        let block = BrokenBlock { id, kind: error.kind, message: error.message.clone() };
        let known = self.blocks.lock().broken.insert(id, block.clone());
        known.is_none().then_some(block)
    }

    /// What the query does without.
    pub(crate) fn all_broken(&self) -> Vec<BrokenBlock> {
        self.blocks.lock().broken.values().cloned().collect()
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

    /// How the answer was made; complete when it is there.
    pub fn explanation(&self) -> Explanation {
        let missing = self.blocks.lock().missing.len() as u64;
        self.trail.explanation(missing, self.bytes.load(Ordering::Relaxed), self.spans.load(Ordering::Relaxed))
    }

    /// Parts of the work that were done, and those that there were: a row group or live batch each, and each block
    /// that could not be read.
    pub(crate) fn jobs(&self) -> (u32, u32) {
        let done = u32::try_from(self.trail.units_read.load(Ordering::Relaxed)).unwrap_or(u32::MAX).max(1);
        (done, done.saturating_add(u32::try_from(self.blocks.lock().missing.len()).unwrap_or(u32::MAX)))
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

fn over_budget(message: String) -> QueryError {
    QueryError::new(ErrorKind::BudgetExceeded, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_used_up_by_all_attempts_together_but_memory_is_given_back() {
        let reads = Reads::within(Budget { read_bytes_max: 100, memory_bytes_max: 100 });
        assert!(reads.read(60).is_ok() && reads.hold(60).is_ok() && reads.fits(40).is_ok());
        reads.begin();
        assert!(reads.hold(60).is_ok());
        for refused in [reads.read(41), reads.hold(41), reads.fits(41)] {
            assert_eq!(refused.unwrap_err().kind, ErrorKind::BudgetExceeded);
        }
        assert!(reads.hold(usize::MAX).is_err() && reads.read(u64::MAX).is_err());
    }
}
