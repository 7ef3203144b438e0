//! Which blocks to merge.
//!
//! Only blocks of one window, because a block belongs to one; only neighbours in the order of their ids, because that is
//! the order in which spans were received, and a trace keeps it. Newest windows first: they are asked for most.
//!
//! While a window still gets blocks, neighbours are merged when no one of them is larger than the others together: as in a
//! row of tiers, each span is copied into a block at least twice as large, so about log2(window / flush) times at worst.
//! In a settled window any neighbours are merged, unless that would mostly copy one large block for the sake of a few
//! bytes.

use std::{collections::BTreeMap, sync::Arc};

use storage::BlockEntry;
use ulid::Ulid;

use crate::config::CompactorConfig;

/// In a settled window, the largest block may be so many times as large as the others together.
const SETTLED_RATIO_MAX: u64 = 16;
/// Rows of a row group of a block at the most: what a merge holds of each input.
const ROW_GROUP_ROWS: u64 = 100_000;

/// Blocks to merge into one.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub window: String,
    /// In the order in which their spans were received.
    pub inputs: Vec<Arc<BlockEntry>>,
}

/// What the compactor has learnt about blocks.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// Not to be touched.
    pub aside: &'a dyn Fn(Ulid) -> bool,
    /// Whether blocks on both sides of this one, which is of another window, must stay apart: see [`crate::order`].
    pub barrier: &'a dyn Fn(&str, Ulid) -> bool,
}

/// The jobs that `blocks`, a whole table, call for. No block is in two of them.
pub fn plan(blocks: &[Arc<BlockEntry>], known: Known<'_>, config: &CompactorConfig, now_unix_ms: u64) -> Vec<Job> {
    let mut ordered: Vec<&Arc<BlockEntry>> = blocks.iter().collect();
    ordered.sort_by_key(|block| block.id);
    let mut windows: BTreeMap<&str, Vec<&Arc<BlockEntry>>> = BTreeMap::new();
    for block in &ordered {
        windows.entry(block.window()).or_default().push(block);
    }
    let settled_before = now_unix_ms.saturating_sub(config.settled_after.as_millis() as u64) as i64;
    let mut jobs = Vec::new();
    for (window, blocks) in windows.into_iter().rev() {
        let settled = blocks.iter().all(|block| block.modified_unix_ms < settled_before);
        let apart = |a: &BlockEntry, b: &BlockEntry| {
            let from = ordered.partition_point(|block| block.id <= a.id);
            let between = ordered[from..].iter().take_while(|block| block.id < b.id);
            between.into_iter().any(|block| (known.barrier)(window, block.id))
        };
        // Stretches that may be merged at all.
        let mut stretches: Vec<Vec<&Arc<BlockEntry>>> = vec![vec![]];
        for block in blocks {
            let last = stretches.last_mut().expect("never empty");
            if (known.aside)(block.id) {
                stretches.push(vec![]);
            } else if last.last().is_some_and(|before| apart(before, block)) {
                stretches.push(vec![block]);
            } else {
                last.push(block);
            }
        }
        for stretch in stretches {
            jobs.extend(runs(&stretch, settled, config).into_iter().map(|run| Job {
                window: window.to_owned(),
                inputs: run.iter().map(|block| Arc::clone(block)).collect(),
            }));
        }
    }
    jobs
}

/// Runs of neighbours that are worth merging.
fn runs<'a, 'b>(blocks: &'b [&'a Arc<BlockEntry>], settled: bool, config: &CompactorConfig) -> Vec<&'b [&'a Arc<BlockEntry>]> {
    let mut runs = Vec::new();
    let mut start = 0;
    while start < blocks.len() {
        let longest = longest_run(&blocks[start..], config);
        // The longest run that is worth it; if none is, the block at its start stays as it is.
        match (2..=longest).rev().find(|len| worth(&blocks[start..start + len], settled, config)) {
            Some(len) => {
                runs.push(&blocks[start..start + len]);
                start += len;
            }
            None => start += 1,
        }
    }
    runs
}

/// How many blocks from the first on fit into one job.
fn longest_run(blocks: &[&Arc<BlockEntry>], config: &CompactorConfig) -> usize {
    let (mut bytes, mut memory) = (0u64, 0u64);
    let fits = blocks.iter().take(config.inputs_max).take_while(|block| {
        bytes = bytes.saturating_add(block.size_bytes);
        memory = memory.saturating_add(memory_of(block));
        // Half for the inputs as they are stored, the rest for their decoded rows.
        bytes <= config.block_bytes_max && memory <= config.job_bytes_max / 2
    });
    fits.count()
}

/// Bytes of a block that a merge holds at a time: about one row group.
fn memory_of(block: &BlockEntry) -> u64 {
    let rows = block.rows.max(1);
    match rows <= ROW_GROUP_ROWS {
        true => block.size_bytes,
        false => (u128::from(block.size_bytes) * u128::from(ROW_GROUP_ROWS) / u128::from(rows)) as u64,
    }
}

fn worth(run: &[&Arc<BlockEntry>], settled: bool, config: &CompactorConfig) -> bool {
    let bytes: u64 = run.iter().map(|block| block.size_bytes).sum();
    let largest = run.iter().map(|block| block.size_bytes).max().unwrap_or(0);
    let others = bytes - largest;
    match settled {
        true => largest <= others.saturating_mul(SETTLED_RATIO_MAX),
        false => run.len() >= config.inputs_min.max(2) && largest <= others,
    }
}
