//! Looks at the traces of row groups whose columns are at hand, newest first.
//!
//! Traces lie by their ids, so the newest of a block are spread over all its row groups. All row groups go back in time side by
//! side, in steps: what one finds bounds how far the others have to go. A step copies the rows of its traces out of the columns;
//! who has to go far decides the condition on all rows instead.

use std::{
    cmp::Reverse,
    sync::{Arc, atomic::Ordering},
};

use arrow::{
    array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array},
    buffer::BooleanBuffer,
    compute::{and, filter_record_batch, take},
    datatypes::{Field, FieldRef, Schema},
};

use crate::{
    conditions::Conditions,
    narrow::widened,
    reads::Reads,
    request::QueryError,
    scan::{Scan, project},
    source::Whole,
    trace_index::{TOLD, TraceIndex},
};

/// Traces looked at in the first step by all row groups together, at least; by each of them at least [`STEP_TRACES_MIN`].
const FIRST_TRACES_MIN: usize = 32;
const STEP_TRACES_MIN: usize = 2;
/// A step over fewer traces costs hardly less, so the next one is this many times longer.
const SHORT_STEP_TRACES: usize = 32;
const SHORT_STEP_GROWTH: usize = 4;
/// How much more is looked at in each further step: what a step looks at too much is less than all before it.
const STEP_GROWTH: usize = 2;
/// Where the condition holds for fewer rows than one in so many, their traces are put in order instead of looking at all.
const ROWS_PER_FEW: usize = 64;
/// The condition is evaluated on the rows of each step, until they are one in so many of all: then it is evaluated on all rows,
/// column by column. Lists are slow to copy and quick to look through, as most are empty.
const DECIDED_SHARE: usize = 24;
const LISTS_DECIDED_SHARE: usize = 64;

/// How far one row group has got.
pub struct Walk {
    whole: Whole,
    /// All rows of the row group.
    rows: usize,
    /// The columns that the scan looks at and the traces tell.
    told: Vec<&'static str>,
    /// The traces with rows for which the condition holds, newest first, if these are few; else all are looked at.
    few: Option<Vec<u32>>,
    /// How many of the newest traces, or of the few, were looked at.
    seen: usize,
    step: usize,
    /// For which rows the condition holds.
    holds: Option<BooleanArray>,
    /// Rows on which the condition was evaluated before.
    evaluated: usize,
}

impl Walk {
    /// `whole` are all rows of a row group, one of `row_groups` that are looked at for `limit` results.
    pub fn new(whole: Whole, scan: &Scan, limit: usize, row_groups: usize) -> Self {
        let step = (limit.max(FIRST_TRACES_MIN) / row_groups.max(1)).max(STEP_TRACES_MIN);
        let needed = scan.needed();
        let told = TOLD.into_iter().filter(|name| needed.as_ref().is_none_or(|needed| needed.contains(name))).collect();
        let rows = whole.traces.rows_all();
        Self { whole, rows, told, few: None, seen: 0, step, holds: None, evaluated: 0 }
    }

    /// Whether no trace is left that starts at or after `oldest_wanted`, in Unix nanoseconds.
    pub fn over(&self, oldest_wanted: i64) -> bool {
        self.order().get(self.seen).is_none_or(|trace| self.whole.traces.start(*trace) < oldest_wanted)
    }

    /// Of the next traces that start at or after `oldest_wanted` and are wanted, the rows for which the condition holds, with the
    /// columns that the scan returns. `wanted` is asked by the number of the trace. `conditions` are those of the scan.
    pub fn step(
        &mut self,
        scan: &Scan,
        conditions: Option<&Conditions>,
        oldest_wanted: i64,
        wanted: impl Fn(u32) -> bool,
        reads: &Reads,
    ) -> Result<RecordBatch, QueryError> {
        reads.go_on()?;
        if let (Some(conditions), true) = (conditions, self.decides_all(scan)) {
            self.decide_all(scan, conditions, reads)?;
        }
        let traces = &self.whole.traces;
        let left = &self.order()[self.seen..];
        let next = &left[..self.step.min(left.len())];
        let next = &next[..next.partition_point(|trace| traces.start(*trace) >= oldest_wanted)];
        let seen = next.len();
        let mut next: Vec<u32> = next.iter().copied().filter(|trace| wanted(*trace)).collect();
        // As they lie.
        next.sort_unstable();
        let (mut numbers, mut taken): (Vec<u32>, Vec<(u32, u32)>) = (vec![], vec![]);
        // What is known of parts is known of all rows that a trace has here.
        let parts = self.whole.parts.as_ref();
        for trace in next {
            let before = numbers.len();
            let rows = traces.rows(trace);
            match &self.holds {
                Some(holds) => {
                    let mut holding = rows.clone().filter(|row| holds.value(*row as usize));
                    match parts {
                        Some(_) if holding.next().is_some() => numbers.extend(rows),
                        Some(_) => {}
                        None => numbers.extend(holding),
                    }
                }
                None => numbers.extend(rows),
            }
            if numbers.len() > before {
                taken.push((trace, (numbers.len() - before) as u32));
            }
        }
        let records = self.records(Some((numbers.as_slice(), taken.as_slice())), scan, |_| true)?;
        let mask = match (&self.holds, conditions) {
            (Some(holds), _) if parts.is_some() => Some(BooleanArray::new(BooleanBuffer::collect_bool(numbers.len(), |at| holds.value(numbers[at] as usize)), None)),
            (None, Some(conditions)) => Some(conditions.holding(&records, reads)?),
            _ => None,
        };
        let mask = match (mask, parts.and_then(|parts| parts.counting(Some(&numbers), numbers.len()))) {
            (Some(mask), Some(counting)) => Some(and(&mask, &counting).map_err(QueryError::internal)?),
            (mask, counting) => mask.or(counting),
        };
        if self.holds.is_none() {
            reads.spans.fetch_add(numbers.len() as u64, Ordering::Relaxed);
        }
        self.evaluated += numbers.len();
        self.seen += seen;
        self.step = self.step.saturating_mul(if self.step < SHORT_STEP_TRACES { SHORT_STEP_GROWTH } else { STEP_GROWTH });
        let records = match &scan.columns {
            Some(columns) => project(&records, columns.iter().map(String::as_str))?,
            None => records,
        };
        match mask {
            Some(mask) => filter_record_batch(&records, &mask).map_err(QueryError::internal),
            None => Ok(records),
        }
    }

    /// Whether it is time to evaluate the condition on all rows.
    fn decides_all(&self, scan: &Scan) -> bool {
        let share = if scan.predicate.as_ref().is_some_and(|p| p.reads_lists()) { LISTS_DECIDED_SHARE } else { DECIDED_SHARE };
        let next = self.step * self.rows / self.whole.traces.newest().len().max(1);
        self.holds.is_none() && (self.evaluated + next) * share > self.rows
    }

    fn decide_all(&mut self, scan: &Scan, conditions: &Conditions, reads: &Reads) -> Result<(), QueryError> {
        let asked = |name: &str| conditions.columns().any(|column| column == name);
        let holds = conditions.holding(&self.records(None, scan, asked)?, reads)?;
        if holds.true_count() * ROWS_PER_FEW < holds.len() {
            self.few = Some(self.traces_of(&holds));
            self.seen = 0;
        }
        self.holds = Some(holds);
        reads.spans.fetch_add(self.rows.saturating_sub(self.evaluated) as u64, Ordering::Relaxed);
        // The condition's own columns are of no more use.
        if let Some(columns) = &scan.columns {
            self.whole.rows.columns.retain(|(field, _)| columns.contains(field.name()));
            self.told.retain(|name| columns.iter().any(|column| column == name));
        }
        Ok(())
    }

    /// Columns with the values of whole traces, of some rows by their numbers and those of their traces, or of all rows.
    fn records(&self, some: Option<(&[u32], &[(u32, u32)])>, scan: &Scan, asked: impl Fn(&str) -> bool) -> Result<RecordBatch, QueryError> {
        let mut columns: Vec<(FieldRef, ArrayRef)> = vec![];
        let numbers = some.map(|(numbers, _)| UInt32Array::from(numbers.to_vec()));
        for (field, array) in self.whole.rows.columns.iter().filter(|(field, _)| asked(field.name())) {
            let array = match &numbers {
                Some(numbers) => take(array, numbers, None).map_err(QueryError::internal)?,
                None => Arc::clone(array),
            };
            columns.push((Arc::clone(field), widened(&array, field.data_type())?));
        }
        let count = numbers.as_ref().map_or(self.rows, |numbers| numbers.len());
        let mut records = batch(columns, count)?;
        if let Some(parts) = &self.whole.parts {
            let needed = scan.needed();
            let lacking = |name: &str| asked(name) && needed.as_ref().is_none_or(|needed| needed.contains(name));
            records = parts.with_values(&records, some.map(|(numbers, _)| numbers), lacking)?;
        }
        let (schema, arrays, _) = records.into_parts();
        let mut columns: Vec<(FieldRef, ArrayRef)> = schema.fields().iter().cloned().zip(arrays).collect();
        for name in self.told.iter().filter(|name| asked(name)) {
            let array = match some {
                Some((_, taken)) => self.whole.traces.told(name, taken.iter().copied(), count),
                None => self.whole.traces.told(name, self.whole.traces.all(), count),
            };
            columns.push((Arc::new(Field::new(*name, array.data_type().clone(), false)), array));
        }
        batch(columns, count)
    }

    fn order(&self) -> &[u32] {
        self.few.as_deref().unwrap_or(self.whole.traces.newest())
    }

    /// The traces of rows for which the condition holds, newest first, but for those that were looked at.
    fn traces_of(&self, holds: &BooleanArray) -> Vec<u32> {
        let index = &self.whole.traces;
        let mut traces: Vec<u32> = holds.values().set_indices().map(|row| index.of_row(row as u32)).collect();
        traces.dedup();
        let place = |trace: &u32| (Reverse(index.start(*trace)), *trace);
        if let Some(last) = self.seen.checked_sub(1).map(|last| place(&index.newest()[last])) {
            traces.retain(|trace| place(trace) > last);
        }
        traces.sort_unstable_by_key(place);
        traces
    }

    pub fn traces(&self) -> &Arc<TraceIndex> {
        &self.whole.traces
    }
}

fn batch(columns: Vec<(FieldRef, ArrayRef)>, rows: usize) -> Result<RecordBatch, QueryError> {
    let (fields, arrays): (Vec<FieldRef>, Vec<ArrayRef>) = columns.into_iter().unzip();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options).map_err(QueryError::internal)
}
