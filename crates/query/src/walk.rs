//! Looks at the traces of row groups whose columns are at hand, newest first.
//!
//! Traces lie by their ids, so the newest of a block are spread over all its row groups. All row groups go back in time side by
//! side, in steps: what one finds bounds how far the others have to go.

use std::{
    cmp::Reverse,
    sync::{Arc, atomic::Ordering},
};

use arrow::{
    array::{AsArray, BooleanArray, RecordBatch, UInt32Array},
    compute::take_record_batch,
};
use block::schema;
use model::TraceId;

use crate::{
    reads::Reads,
    request::QueryError,
    scan::{Scan, matching, project, read_memory},
    trace_index::TraceIndex,
};

/// Traces looked at in the first step by all row groups together, at least; by each of them at least [`STEP_TRACES_MIN`].
const FIRST_TRACES_MIN: usize = 32;
const STEP_TRACES_MIN: usize = 4;
/// How much more is looked at in each further step: what a step looks at too much is less than all before it.
const STEP_GROWTH: usize = 2;
/// Where the condition holds for fewer rows than one in so many, their traces are put in order instead of looking at all.
const ROWS_PER_FEW: usize = 64;
/// Steps that evaluate the condition on the rows they look at; then it is evaluated on all rows, column by column.
const STEPS_UNDECIDED: usize = 3;

/// How far one row group has got.
pub struct Walk {
    rows: RecordBatch,
    traces: Arc<TraceIndex>,
    /// The traces with rows for which the condition holds, newest first, if these are few; else all are looked at.
    few: Option<Vec<u32>>,
    /// How many of the newest traces, or of the few, were looked at.
    seen: usize,
    steps: usize,
    step: usize,
    /// For which rows the condition holds.
    holds: Option<BooleanArray>,
    /// Rows on which the condition was evaluated before.
    evaluated: usize,
}

impl Walk {
    /// `rows` are all of a row group, one of `row_groups` that are looked at for `limit` results.
    pub fn new(rows: &RecordBatch, traces: Arc<TraceIndex>, scan: &Scan, limit: usize, row_groups: usize) -> Result<Self, QueryError> {
        let rows = scan.needed_of(rows)?;
        let step = (limit.max(FIRST_TRACES_MIN) / row_groups.max(1)).max(STEP_TRACES_MIN);
        // Lists are slow to copy and quick to look through: most are empty.
        let steps = if scan.predicate.as_ref().is_some_and(|p| p.reads_lists()) { STEPS_UNDECIDED } else { 0 };
        Ok(Self { rows, traces, few: None, seen: 0, steps, step, holds: None, evaluated: 0 })
    }

    /// Whether no trace is left that starts at or after `oldest_wanted`, in Unix nanoseconds.
    pub fn over(&self, oldest_wanted: i64) -> bool {
        self.order().get(self.seen).is_none_or(|trace| self.traces.start(*trace) < oldest_wanted)
    }

    /// Of the next traces that start at or after `oldest_wanted` and are wanted, the rows for which the condition holds, with the
    /// columns that the scan returns. `wanted` is asked by the number of the trace and its id.
    pub fn step(
        &mut self,
        scan: &Scan,
        oldest_wanted: i64,
        wanted: impl Fn(u32, &dyn Fn() -> TraceId) -> bool,
        reads: &Reads,
    ) -> Result<RecordBatch, QueryError> {
        reads.go_on()?;
        if let (true, None, Some(predicate)) = (self.steps >= STEPS_UNDECIDED, &self.holds, &scan.predicate) {
            let holds = matching(predicate, &self.rows, reads)?;
            if holds.true_count() * ROWS_PER_FEW < holds.len() {
                self.few = Some(self.traces_of(&holds));
                self.seen = 0;
            }
            self.holds = Some(holds);
            reads.spans.fetch_add((self.rows.num_rows() - self.evaluated) as u64, Ordering::Relaxed);
            // The condition's own columns are of no more use.
            if let Some(columns) = &scan.columns {
                self.rows = project(&self.rows, columns.iter().map(String::as_str))?;
            }
        }
        let ids = self.rows.column_by_name(schema::TRACE_ID).ok_or_else(|| QueryError::internal("rows without trace ids"))?;
        let ids = ids.as_fixed_size_binary();
        let left = &self.order()[self.seen..];
        let next = &left[..self.step.min(left.len())];
        let next = &next[..next.partition_point(|trace| self.traces.start(*trace) >= oldest_wanted)];
        let mut numbers: Vec<u32> = vec![];
        for trace in next.iter().copied() {
            let rows = self.traces.rows(trace);
            let id = || TraceId::from_slice(ids.value(rows.start as usize)).unwrap_or_default();
            let before = numbers.len();
            match &self.holds {
                Some(holds) => numbers.extend(rows.clone().filter(|row| holds.values().value(*row as usize))),
                None => numbers.extend(rows.clone()),
            }
            if numbers.len() > before && !wanted(trace, &id) {
                numbers.truncate(before);
            }
        }
        let taken = take_record_batch(&self.rows, &UInt32Array::from(numbers)).map_err(QueryError::internal)?;
        self.seen += next.len();
        self.steps += 1;
        self.step = self.step.saturating_mul(STEP_GROWTH);
        if self.holds.is_some() {
            return Ok(taken);
        }
        self.evaluated += taken.num_rows();
        read_memory(&taken, scan, reads)
    }

    fn order(&self) -> &[u32] {
        self.few.as_deref().unwrap_or(self.traces.newest())
    }

    /// The traces of rows for which the condition holds, newest first, but for those that were looked at.
    fn traces_of(&self, holds: &BooleanArray) -> Vec<u32> {
        let mut traces: Vec<u32> = holds.values().set_indices().map(|row| self.traces.of_row(row as u32)).collect();
        traces.dedup();
        let place = |trace: &u32| (Reverse(self.traces.start(*trace)), *trace);
        if let Some(last) = self.seen.checked_sub(1).map(|last| place(&self.traces.newest()[last])) {
            traces.retain(|trace| place(trace) > last);
        }
        traces.sort_unstable_by_key(place);
        traces
    }

    pub fn traces(&self) -> &Arc<TraceIndex> {
        &self.traces
    }
}
