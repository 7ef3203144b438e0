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
/// A block of this part of the largest size is merged once or twice more, if at all.
const LARGE: u64 = 4;
/// Rows of a row group of a block at the most: what a merge holds of each input.
const ROW_GROUP_ROWS: u64 = 100_000;

/// Blocks to merge into one.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub window: String,
    /// In the order in which their spans were received.
    pub inputs: Vec<Arc<BlockEntry>>,
    /// What it makes will hardly be merged again.
    pub last: bool,
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
                last: settled || run.iter().map(|block| block.size_bytes).sum::<u64>() >= config.block_bytes_max / LARGE,
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW_UNIX_MS: u64 = 1_000_000_000_000;

    fn entry(window: u32, number: u128, size_bytes: u64, rows: u64, age_ms: u64) -> Arc<BlockEntry> {
        let id = Ulid(number << 80);
        Arc::new(BlockEntry {
            id,
            path: format!("2026-11-21T{window:02}/{id}.parquet"),
            size_bytes,
            sidecar_bytes: 1,
            chunks_crc32c: 0,
            rows,
            traces: rows,
            min_start_unix_nano: 0,
            max_end_unix_nano: 1,
            modified_unix_ms: (NOW_UNIX_MS - age_ms) as i64,
            columns: Vec::new(),
            schema: None,
        })
    }

    /// Blocks of these sizes in one window, of which the last was written `age_ms` ago.
    fn sizes(sizes: &[u64], age_ms: u64) -> Vec<Arc<BlockEntry>> {
        sizes.iter().zip(1..).map(|(size, number)| entry(7, number, *size, 1, age_ms)).collect()
    }

    /// The sizes of the inputs of each job.
    fn planned(blocks: &[Arc<BlockEntry>], config: &CompactorConfig) -> Vec<Vec<u64>> {
        let known = Known { aside: &|_| false, barrier: &|_, _| false };
        let jobs = plan(blocks, known, config, NOW_UNIX_MS);
        jobs.iter().map(|job| job.inputs.iter().map(|input| input.size_bytes).collect()).collect()
    }

    fn config() -> CompactorConfig {
        CompactorConfig { block_bytes_max: 1000, inputs_max: 8, ..CompactorConfig::default() }
    }

    const SETTLED: u64 = 3_600_000;

    #[test]
    fn a_busy_window_is_merged_in_tiers() {
        let planned = |of: &[u64]| planned(&sizes(of, 0), &config());
        assert_eq!(planned(&[1, 1, 1]), [[0; 0]; 0]);
        assert_eq!(planned(&[1, 1, 1, 1]), [[1, 1, 1, 1]]);
        // What is large already is not copied for a few small ones.
        assert_eq!(planned(&[60, 1, 1, 1, 1]), [[1, 1, 1, 1]]);
        assert_eq!(planned(&[4, 1, 1, 1, 1]), [[4, 1, 1, 1, 1]]);
        assert_eq!(planned(&[400, 300, 200, 90, 100]), [[400, 300, 200, 90]]);
    }

    #[test]
    fn a_settled_window_is_put_together() {
        let planned = |of: &[u64]| planned(&sizes(of, SETTLED), &config());
        assert_eq!(planned(&[1, 1]), [[1, 1]]);
        assert_eq!(planned(&[90, 1, 20]), [[90, 1, 20]]);
        // Seventeen times as large.
        assert_eq!(planned(&[170, 10]), [[0; 0]; 0]);
        assert_eq!(planned(&[600, 500]), [[0; 0]; 0]);
        assert_eq!(planned(&[1000, 1]), [[0; 0]; 0]);
    }

    #[test]
    fn memory_bounds_the_inputs_of_a_job() {
        // A row group of each input has to be held: of blocks with few, large rows all of it.
        let few = CompactorConfig { block_bytes_max: u64::MAX, job_bytes_max: 400, inputs_max: 8, ..config() };
        assert_eq!(planned(&sizes(&[100, 100, 100], SETTLED), &few), [[100, 100]]);
        let many_rows: Vec<_> = (1..=3).map(|n| entry(7, n, 1000, 2_000_000, SETTLED)).collect();
        assert_eq!(planned(&many_rows, &few), [[1000, 1000, 1000]]);
    }

    #[test]
    fn the_newest_window_comes_first_and_windows_stay_apart() {
        let blocks = [entry(6, 1, 1, 1, SETTLED), entry(7, 2, 2, 1, SETTLED), entry(6, 3, 1, 1, SETTLED), entry(7, 4, 2, 1, SETTLED)];
        assert_eq!(planned(&blocks, &config()), [[2, 2], [1, 1]]);
    }

    #[test]
    fn nothing_is_merged_across_a_barrier_or_a_block_set_aside() {
        let blocks = [
            entry(7, 1, 1, 1, SETTLED),
            entry(7, 2, 2, 1, SETTLED),
            entry(8, 3, 9, 1, SETTLED),
            entry(7, 4, 3, 1, SETTLED),
            entry(7, 5, 4, 1, SETTLED),
        ];
        let of_hour = "2026-11-21T07";
        let jobs = |aside: &dyn Fn(Ulid) -> bool, barrier: &dyn Fn(&str, Ulid) -> bool| {
            plan(&blocks, Known { aside, barrier }, &config(), NOW_UNIX_MS).len()
        };
        assert_eq!(jobs(&|_| false, &|_, _| false), 1);
        assert_eq!(jobs(&|_| false, &|window, id| window == of_hour && id == blocks[2].id), 2);
        assert_eq!(jobs(&|id| id == blocks[1].id, &|_, _| false), 1);
        assert_eq!(jobs(&|id| id == blocks[1].id || id == blocks[3].id, &|_, _| false), 0);
    }

    proptest! {
        /// A merge follows every plan, as if a window got blocks for ever: few blocks are left at any moment, and no byte is
        /// written much more often than the tiers say.
        #[test]
        fn tiers_bound_blocks_and_copies(flushes in prop::collection::vec(1u64..50, 1..400)) {
            let config = CompactorConfig { block_bytes_max: 1 << 20, ..CompactorConfig::default() };
            let (mut blocks, mut copied, mut flushed) = (Vec::<u64>::new(), 0, 0);
            for flush in flushes {
                flushed += flush;
                blocks.push(flush);
                for job in planned(&sizes(&blocks, 0), &config) {
                    let at = blocks.windows(job.len()).position(|run| run == job.as_slice()).unwrap();
                    copied += job.iter().sum::<u64>();
                    blocks.splice(at..at + job.len(), [job.iter().sum()]);
                }
            }
            let tiers = 2.0 + (flushed as f64).log2();
            prop_assert!(blocks.len() as f64 <= 4.0 * tiers, "{blocks:?}");
            prop_assert!(copied as f64 <= flushed as f64 * tiers, "{copied} copied of {flushed}");
        }
    }
}
