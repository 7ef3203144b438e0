//! A broken block costs that block, not the query.
//!
//! Where a read fails and the error names a block, the whole attempt is given up and made again without the block:
//! an answer is never made of half a block, and which traces are split is decided over the same blocks that are
//! read. Every further attempt leaves out at least one more block, so there are at most as many as blocks. Dropping the
//! future ends the work, also that which does not pause (`time_limit`).

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use model::ErrorKind;
use parking_lot::Mutex;
use ulid::Ulid;

use crate::{
    engine::Engine,
    reads::{BrokenBlock, Reads},
    request::QueryError,
};

/// How long a damaged block is left out before it is looked at again.
const REMEMBERED: Duration = Duration::from_secs(30);
/// Damaged blocks that are remembered; further ones are found again by every query.
const REMEMBERED_MAX: usize = 10_000;

/// Blocks that were found damaged lately, and how often blocks were found to be unreadable.
#[derive(Default)]
pub(crate) struct BrokenBlocks {
    lately: Mutex<HashMap<Ulid, (Instant, BrokenBlock)>>,
    corrupt: AtomicU64,
    missing: AtomicU64,
    unavailable: AtomicU64,
    other: AtomicU64,
}

impl BrokenBlocks {
    /// Those to leave out without another look.
    pub fn lately(&self) -> Vec<BrokenBlock> {
        let lately = self.lately.lock();
        lately.values().filter(|(since, _)| since.elapsed() < REMEMBERED).map(|(_, block)| block.clone()).collect()
    }

    fn found(&self, block: &BrokenBlock) {
        let count = match block.kind {
            ErrorKind::Corrupt => &self.corrupt,
            ErrorKind::NotFound => &self.missing,
            ErrorKind::Unavailable => &self.unavailable,
            _ => &self.other,
        };
        count.fetch_add(1, Ordering::Relaxed);
        tracing::error!(block = %block.id, reason = %block.kind, "a query leaves out a block: {}", block.message);
        if block.kind == ErrorKind::Unavailable {
            return;
        }
        let mut lately = self.lately.lock();
        lately.retain(|_, (since, _)| since.elapsed() < REMEMBERED);
        if lately.len() < REMEMBERED_MAX {
            lately.insert(block.id, (Instant::now(), block.clone()));
        }
    }

    /// How often a block was found unreadable, by reason.
    pub fn counts(&self) -> [(&'static str, u64); 4] {
        let counts = [
            ("corrupt", &self.corrupt),
            ("missing", &self.missing),
            ("unavailable", &self.unavailable),
            ("other", &self.other),
        ];
        counts.map(|(reason, count)| (reason, count.load(Ordering::Relaxed)))
    }
}

impl Engine {
    /// Makes attempts until one meets no broken block. What is left out stands in `reads`.
    ///
    /// # Errors
    /// What an attempt says of anything but a block; `Unavailable` if no block can be had because of the store.
    pub(crate) async fn despite_broken_blocks<T, F>(&self, reads: &Arc<Reads>, attempt: impl Fn() -> F + Send) -> Result<T, QueryError>
    where
        F: Future<Output = Result<T, QueryError>> + Send,
    {
        let waiting = reads.waited_for();
        let outcome = loop {
            reads.begin();
            match attempt().await {
                Ok(answer) => break reads.reachable(true).map(|()| answer),
                Err(error) => {
                    let Some(block) = error.block.and_then(|id| reads.give_up(id, &error)) else { break Err(error) };
                    self.broken_blocks().found(&block);
                    if let Err(error) = reads.reachable(false) {
                        break Err(error);
                    }
                }
            }
        };
        reads.end();
        waiting.done();
        outcome
    }
}
