//! One tenant's live spans of one generation: a batch under construction and finished ones, the runs.
//!
//! A run is sealed when the batch is full or when somebody wants to read. Many small runs would make queries slow, so
//! neighbouring runs of like size are merged, eight at a time.

use std::sync::Arc;

use block::{
    batch::SpanBatch,
    builder::{AttributeLimits, SpanBatchBuilder},
    merge,
    promotion::PromotionPolicy,
};
use parking_lot::Mutex;

use crate::{
    memory::Memory,
    sealing::{Run, Sealer},
};

/// A full run. Two of them are worth two units of parallel work to a query, and take about 10 MiB.
pub const RUN_ROWS_MAX: usize = 16_384;
/// A run of large spans is full at this part of the memory: making it takes as much again, for a moment.
const RUN_SHARE: usize = 8;
/// ... but not below this.
const RUN_BYTES_MIN: usize = 1 << 20;
/// Runs of one size that are merged into one, which is then of the next size.
const MERGE_RUNS: usize = 8;

pub struct Runs {
    builder: SpanBatchBuilder,
    sealed: Vec<Arc<Run>>,
    next_number: u64,
    merging: bool,
    /// What this tenant and generation are charged.
    accounted: usize,
    memory: Memory,
    sealer: Sealer,
    released: bool,
}

impl Runs {
    pub fn new(limits: AttributeLimits, memory: Memory, sealer: Sealer) -> Self {
        Self {
            builder: SpanBatchBuilder::new(limits).with_bytes_max((memory.bytes_max() / RUN_SHARE).max(RUN_BYTES_MIN)),
            sealed: Vec::new(),
            next_number: 0,
            merging: false,
            accounted: 0,
            memory,
            sealer,
            released: false,
        }
    }

    pub fn builder(&mut self) -> &mut SpanBatchBuilder {
        &mut self.builder
    }

    pub fn builder_is_full(&self) -> bool {
        self.builder.rows() >= RUN_ROWS_MAX || self.builder.is_full()
    }

    /// Begins a new run behind what the builder holds, which is made a batch soon.
    pub fn seal(&mut self) {
        if let Some(run) = self.close() {
            self.sealer.seal(run);
        }
        self.account();
    }

    /// The builder's spans as a run that is not made yet.
    fn close(&mut self) -> Option<Arc<Run>> {
        if self.builder.rows() == 0 {
            return None;
        }
        let run = Arc::new(Run::new(self.next_number, self.builder.take()));
        self.next_number += 1;
        self.sealed.push(run.clone());
        Some(run)
    }

    #[cfg(test)]
    pub fn push_sealed(&mut self, batch: SpanBatch) {
        self.sealed.push(Arc::new(Run::made(self.next_number, batch)));
        self.next_number += 1;
    }

    /// Brings the charge up to date.
    pub fn account(&mut self) {
        if self.released {
            return;
        }
        let now = self.builder.bytes() + self.sealed.iter().map(|run| run.bytes()).sum::<usize>();
        self.memory.change_live(self.accounted, now);
        self.accounted = now;
    }

    /// Everything so far, immutable: later pushes go to other runs. Some may have to be made: ask for their batches without
    /// the lock.
    pub fn all(&mut self) -> Vec<Arc<Run>> {
        self.close();
        self.account();
        self.sealed.clone()
    }

    /// The data is in the table and will be dropped: it no longer counts.
    pub fn release(&mut self) {
        self.memory.change_live(self.accounted, 0);
        (self.accounted, self.released) = (0, true);
        self.sealed.clear();
    }

    /// Runs that should become one, if there are any and nobody is at it.
    fn start_merge(&mut self) -> Option<Vec<Arc<Run>>> {
        if self.merging || self.released {
            return None;
        }
        // `None` for what is large, or not made yet.
        let small = |run: &Run| run.is_made() && run.rows() * 2 <= RUN_ROWS_MAX;
        let size = |run: &Run| small(run).then(|| run.rows().max(1).ilog(MERGE_RUNS));
        // Neighbours only, so that the spans of a trace stay in the order in which they came.
        let alike = self.sealed.chunk_by(|a, b| size(a).is_some() && size(a) == size(b));
        let chosen = alike.filter(|runs| runs.len() >= MERGE_RUNS).map(|runs| runs[..MERGE_RUNS].to_vec()).next()?;
        self.merging = true;
        Some(chosen)
    }

    fn finish_merge(&mut self, merged: Vec<Arc<Run>>, batch: Option<SpanBatch>) {
        self.merging = false;
        let Some(batch) = batch.filter(|_| !self.released) else { return };
        // In the place of the first: nothing was put between them meanwhile.
        let Some(place) = self.sealed.iter().position(|run| run.number == merged[0].number) else { return };
        let run = Arc::new(Run::made(self.next_number, batch));
        self.sealed.splice(place..place + merged.len(), [run]);
        self.next_number += 1;
        self.account();
    }
}

/// Merges small runs until none are left to merge. Takes the lock only to choose and to replace.
pub fn merge_small(runs: &Mutex<Runs>) {
    loop {
        let Some(chosen) = runs.lock().start_merge() else { return };
        let batches: Vec<SpanBatch> = chosen.iter().map(|run| run.batch().clone()).collect();
        match merge::merge(&batches, &PromotionPolicy::default()) {
            Ok(batch) => runs.lock().finish_merge(chosen, Some(batch)),
            Err(error) => {
                // The runs stay as they are: more of them to read, nothing lost.
                tracing::error!(error = &error as &dyn std::error::Error, "could not merge small live runs");
                runs.lock().finish_merge(chosen, None);
                return;
            }
        }
    }
}

/// Whether `merge_small` would do something.
pub fn wants_merge(runs: &Runs) -> bool {
    !runs.merging && runs.sealed.len() >= MERGE_RUNS
}
