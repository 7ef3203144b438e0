//! The traces of a batch of rows: where each lies, when it starts and ends, and which are the newest.

use std::{iter::repeat_n, mem::size_of, ops::Range, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, FixedSizeBinaryArray, Int64Array, RecordBatch},
    datatypes::Int64Type,
};
use block::schema;
use model::TraceId;

use crate::{request::{QueryError, TimeRange}, spansets::trace_runs};

/// One entry per trace, by position in the batch. Rows of the batch are sorted by trace id.
#[derive(Clone, Debug)]
pub struct TraceIndex {
    ids: Vec<TraceId>,
    /// The first row of each trace, and the number of rows at the end.
    rows: Vec<u32>,
    starts: Vec<i64>,
    durations: Vec<i64>,
    /// The traces, newest first; of equally new ones the lower id first.
    newest: Vec<u32>,
}

/// The columns that an index can tell of every row.
pub const TOLD: [&str; 3] = [schema::TRACE_ID, schema::TRACE_START, schema::TRACE_DURATION];
/// What an index takes in memory for each trace.
pub const BYTES_PER_TRACE: usize = size_of::<TraceId>() + 2 * size_of::<u32>() + 2 * size_of::<i64>();

impl TraceIndex {
    /// The index of a batch with the columns of [`TOLD`].
    pub fn of(batch: &RecordBatch) -> Result<Self, QueryError> {
        let missing = |name: &str| QueryError::internal(format!("rows without column {name}"));
        let times = |name: &str| {
            let column = batch.column_by_name(name).and_then(|c| c.as_primitive_opt::<Int64Type>());
            column.ok_or_else(|| missing(name))
        };
        let (starts, durations) = (times(schema::TRACE_START)?, times(schema::TRACE_DURATION)?);
        let ids = batch.column_by_name(schema::TRACE_ID).ok_or_else(|| missing(schema::TRACE_ID))?.as_fixed_size_binary();
        let runs = trace_runs(batch)?;
        let mut index = Self {
            ids: Vec::with_capacity(runs.len()),
            rows: Vec::with_capacity(runs.len() + 1),
            starts: Vec::with_capacity(runs.len()),
            durations: Vec::with_capacity(runs.len()),
            newest: vec![],
        };
        for run in &runs {
            index.ids.push(TraceId::from_slice(ids.value(run.start)).unwrap_or_default());
            index.rows.push(run.start as u32);
            index.starts.push(starts.value(run.start));
            index.durations.push(durations.value(run.start));
        }
        index.rows.push(batch.num_rows() as u32);
        index.sort();
        Ok(index)
    }

    /// The same traces, some of them with other times: the trace's number, its start and its duration.
    pub fn with_times(&self, times: impl Iterator<Item = (u32, i64, i64)>) -> Self {
        let mut index = self.clone();
        for (trace, start, duration) in times {
            index.starts[trace as usize] = start;
            index.durations[trace as usize] = duration;
        }
        index.sort();
        index
    }

    fn sort(&mut self) {
        self.newest = (0..self.starts.len() as u32).collect();
        // Positions ascend with ids.
        self.newest.sort_unstable_by_key(|trace| (std::cmp::Reverse(self.starts[*trace as usize]), *trace));
    }

    /// The traces, newest first.
    pub fn newest(&self) -> &[u32] {
        &self.newest
    }

    pub fn id(&self, trace: u32) -> TraceId {
        self.ids[trace as usize]
    }

    pub fn rows(&self, trace: u32) -> Range<u32> {
        self.rows[trace as usize]..self.rows[trace as usize + 1]
    }

    /// The number of rows of all traces.
    pub fn rows_all(&self) -> usize {
        self.rows.last().map_or(0, |rows| *rows as usize)
    }

    /// Of the newest trace, in Unix nanoseconds.
    pub fn latest_start(&self) -> Option<i64> {
        self.newest.first().map(|trace| self.start(*trace))
    }

    /// The rows of the ascending `ids`, in ranges that ascend.
    pub fn rows_of(&self, ids: &[TraceId]) -> Vec<Range<usize>> {
        let mut ranges: Vec<Range<usize>> = vec![];
        let mut from = 0;
        for id in ids {
            // Ids ascend, so what lies before the last find need not be looked at again.
            from += self.ids[from..].partition_point(|other| other < id);
            if self.ids.get(from) == Some(id) {
                let rows = self.rows(from as u32);
                match ranges.last_mut() {
                    Some(last) if last.end == rows.start as usize => last.end = rows.end as usize,
                    _ => ranges.push(rows.start as usize..rows.end as usize),
                }
            }
        }
        ranges
    }

    pub fn of_row(&self, row: u32) -> u32 {
        self.rows.partition_point(|first| *first <= row).saturating_sub(1) as u32
    }

    /// Unix nanoseconds.
    pub fn start(&self, trace: u32) -> i64 {
        self.starts[trace as usize]
    }

    pub fn overlaps(&self, trace: u32, range: Option<TimeRange>) -> bool {
        let (start, duration) = (self.starts[trace as usize], self.durations[trace as usize]);
        range.is_none_or(|range| start <= range.end && start.saturating_add(duration) >= range.start)
    }

    /// Each trace with the number of its rows.
    pub fn all(&self) -> impl Iterator<Item = (u32, u32)> {
        self.rows.windows(2).zip(0..).map(|(rows, trace)| (trace, rows[1] - rows[0]))
    }

    /// A column of [`TOLD`] for some rows of some traces: the traces, and how many rows of each, `count` rows together.
    pub fn told(&self, name: &str, traces: impl Iterator<Item = (u32, u32)>, count: usize) -> ArrayRef {
        let of = match name {
            schema::TRACE_START => &self.starts,
            schema::TRACE_DURATION => &self.durations,
            schema::TRACE_ID => {
                let mut values: Vec<u8> = Vec::with_capacity(count * size_of::<TraceId>());
                traces.for_each(|(trace, rows)| repeat_n(self.ids[trace as usize], rows as usize).for_each(|id| values.extend_from_slice(&id.0)));
                return Arc::new(FixedSizeBinaryArray::new(size_of::<TraceId>() as i32, values.into(), None));
            }
            _ => unreachable!("an index does not tell the column {name}"),
        };
        let mut values: Vec<i64> = Vec::with_capacity(count);
        traces.for_each(|(trace, rows)| values.extend(repeat_n(of[trace as usize], rows as usize)));
        Arc::new(Int64Array::from(values))
    }

    /// About what it takes in memory.
    pub fn bytes(&self) -> usize {
        self.newest.len() * BYTES_PER_TRACE
    }
}

/// The rows of the ascending `ids` in a column sorted by id, ascending.
pub fn rows_of(column: &FixedSizeBinaryArray, ids: &[TraceId]) -> Vec<u32> {
    let mut rows = vec![];
    let mut from = 0;
    for id in ids {
        // Ids ascend, so what lies before the last find need not be looked at again.
        let (mut low, mut high) = (from, column.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if column.value(middle) < id.0.as_slice() { low = middle + 1 } else { high = middle }
        }
        while low < column.len() && column.value(low) == id.0.as_slice() {
            rows.push(low as u32);
            low += 1;
        }
        from = low;
    }
    rows
}
