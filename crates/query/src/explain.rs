//! How an answer was made: what was looked at, what was left out and why, and what took how long.
//!
//! Counted for every query, and shown to whoever asks. Times of stages are wall times; stages of several tenants add up.
//! Of a query that is watched, single reads are written down too, up to a bound.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use ulid::Ulid;

use crate::source::Sources;

/// Lines of the plan that are kept.
const PLAN_LINES_MAX: usize = 64;
/// Reads of one query that are written down; the first ones.
const READS_KEPT_MAX: usize = 64;

/// Why a block or live batch was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pruned {
    /// It does not overlap the time range.
    Time,
    /// It holds no value that could match.
    Values,
    /// All that is asked for was found in newer ones.
    Older,
    /// Its filter says that the traces are not in it.
    Traces,
}

/// What the parts of a query write down.
#[derive(Debug, Default)]
pub(crate) struct Trail {
    plan: Mutex<Vec<String>>,
    stages: Mutex<Vec<StageTime>>,
    /// `None` if the query is not watched.
    pub(crate) watched: Option<Mutex<Vec<UnitRead>>>,
    pub blocks: AtomicU64,
    pub live_batches: AtomicU64,
    pub traces_split: AtomicU64,
    pruned: [AtomicU64; 4],
    pub row_groups: AtomicU64,
    pub row_groups_pruned: AtomicU64,
    pub units_read: AtomicU64,
    pub rows_kept: AtomicU64,
}

/// How an answer was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The query as it was understood, and how it is evaluated.
    pub plan: Vec<String>,
    /// Blocks of the tenants' tables, without those that cannot be read.
    pub blocks: u64,
    pub blocks_missing: u64,
    pub live_batches: u64,
    /// Blocks and live batches that were left out, by reason. A whole one each.
    pub pruned: [(&'static str, u64); 4],
    /// Traces whose spans lie in several places.
    pub traces_split: u64,
    /// Row groups of the blocks that were not left out.
    pub row_groups: u64,
    /// Those of them that statistics left out.
    pub row_groups_pruned: u64,
    /// Row groups and live batches that were read; one that was read twice counts twice.
    pub units_read: u64,
    /// Bytes asked of blocks, compressed.
    pub bytes: u64,
    /// Rows of what was read to decide.
    pub rows: u64,
    /// Rows that passed the filters.
    pub rows_kept: u64,
    /// Stages in the order in which they first began.
    pub stages: Vec<StageTime>,
    /// The first reads of a query that is watched.
    pub reads: Vec<UnitRead>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageTime {
    pub name: &'static str,
    /// For the first time.
    pub began: SystemTime,
    /// All times together.
    pub took: Duration,
}

/// A row group or a live batch that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitRead {
    /// With the number of the row group; `None` is a live batch.
    pub block: Option<(Ulid, usize)>,
    pub began: SystemTime,
    pub took: Duration,
    /// Rows that passed the filters.
    pub rows: u64,
}

impl Trail {
    /// Before each attempt at an answer. Times go on.
    pub fn begin(&self) {
        let counts = [
            &self.blocks,
            &self.live_batches,
            &self.traces_split,
            &self.row_groups,
            &self.row_groups_pruned,
            &self.units_read,
            &self.rows_kept,
        ];
        counts.into_iter().chain(&self.pruned).for_each(|count| count.store(0, Ordering::Relaxed));
    }

    pub fn found(&self, sources: &Sources) {
        let live = sources.all.iter().filter(|source| source.block_bytes().is_none()).count();
        self.live_batches.fetch_add(live as u64, Ordering::Relaxed);
        self.blocks.fetch_add((sources.all.len() - live) as u64, Ordering::Relaxed);
        self.traces_split.fetch_add(sources.split.len_max() as u64, Ordering::Relaxed);
    }

    pub fn plan(&self, line: impl Into<String>) {
        let (line, mut plan) = (line.into(), self.plan.lock());
        if plan.len() < PLAN_LINES_MAX && !plan.contains(&line) {
            plan.push(line);
        }
    }

    pub fn prune(&self, why: Pruned) {
        self.pruned[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Measures until the result is dropped.
    pub fn stage(&self, name: &'static str) -> Stage<'_> {
        let mut stages = self.stages.lock();
        if !stages.iter().any(|stage| stage.name == name) {
            stages.push(StageTime { name, began: SystemTime::now(), took: Duration::ZERO });
        }
        Stage { trail: self, name, began: Instant::now() }
    }

    /// When a read begins, if it is to be written down.
    pub fn read_begins(&self) -> Option<(SystemTime, Instant)> {
        let watched = self.watched.as_ref()?;
        (watched.lock().len() < READS_KEPT_MAX).then(|| (SystemTime::now(), Instant::now()))
    }

    pub fn read_ends(&self, (began, since): (SystemTime, Instant), block: Option<(Ulid, usize)>, rows: u64) {
        let Some(mut reads) = self.watched.as_ref().map(Mutex::lock) else { return };
        if reads.len() < READS_KEPT_MAX {
            reads.push(UnitRead { block, began, took: since.elapsed(), rows });
        }
    }

    pub fn explanation(&self, blocks_missing: u64, bytes: u64, rows: u64) -> Explanation {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let reasons = ["outside the time range", "no value can match", "older than what was found", "trace filter"];
        let mut pruned = reasons.map(|reason| (reason, 0));
        pruned.iter_mut().zip(&self.pruned).for_each(|(reason, count)| reason.1 = read(count));
        Explanation {
            plan: self.plan.lock().clone(),
            blocks: read(&self.blocks),
            blocks_missing,
            live_batches: read(&self.live_batches),
            pruned,
            traces_split: read(&self.traces_split),
            row_groups: read(&self.row_groups),
            row_groups_pruned: read(&self.row_groups_pruned),
            units_read: read(&self.units_read),
            bytes,
            rows,
            rows_kept: read(&self.rows_kept),
            stages: self.stages.lock().clone(),
            reads: self.watched.as_ref().map(|reads| reads.lock().clone()).unwrap_or_default(),
        }
    }
}

pub(crate) struct Stage<'a> {
    trail: &'a Trail,
    name: &'static str,
    began: Instant,
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        if let Some(stage) = self.trail.stages.lock().iter_mut().find(|stage| stage.name == self.name) {
            stage.took += took;
        }
    }
}
