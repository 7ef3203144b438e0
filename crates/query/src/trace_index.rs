//! The traces of a batch of rows: where each lies, when it starts and ends, and which are the newest.

use std::{mem::size_of, ops::Range};

use arrow::{
    array::{Array, AsArray, FixedSizeBinaryArray, RecordBatch},
    datatypes::Int64Type,
};
use block::schema;

use crate::{request::{QueryError, TimeRange}, spansets::trace_runs};

/// One entry per trace, by position in the batch. Rows of the batch are sorted by trace id.
#[derive(Debug)]
pub struct TraceIndex {
    /// The first row of each trace, and the number of rows at the end.
    rows: Vec<u32>,
    starts: Vec<i64>,
    ends: Vec<i64>,
    /// The traces, newest first; of equally new ones the lower id first.
    newest: Vec<u32>,
}

impl TraceIndex {
    /// The index of a batch with the columns of ids and whole-trace times.
    pub fn of(batch: &RecordBatch) -> Result<Self, QueryError> {
        let times = |name: &str| {
            let column = batch.column_by_name(name).and_then(|c| c.as_primitive_opt::<Int64Type>());
            column.ok_or_else(|| QueryError::internal(format!("rows without column {name}")))
        };
        let (starts, durations) = (times(schema::TRACE_START)?, times(schema::TRACE_DURATION)?);
        let runs = trace_runs(batch)?;
        let mut index = Self {
            rows: Vec::with_capacity(runs.len() + 1),
            starts: Vec::with_capacity(runs.len()),
            ends: Vec::with_capacity(runs.len()),
            newest: (0..runs.len() as u32).collect(),
        };
        for run in &runs {
            let start = starts.value(run.start);
            index.rows.push(run.start as u32);
            index.starts.push(start);
            index.ends.push(start.saturating_add(durations.value(run.start)));
        }
        index.rows.push(batch.num_rows() as u32);
        // Positions ascend with ids, so a stable sort decides between equals.
        index.newest.sort_by_key(|trace| std::cmp::Reverse(index.starts[*trace as usize]));
        Ok(index)
    }

    /// The traces, newest first.
    pub fn newest(&self) -> &[u32] {
        &self.newest
    }

    pub fn rows(&self, trace: u32) -> Range<u32> {
        self.rows[trace as usize]..self.rows[trace as usize + 1]
    }

    pub fn of_row(&self, row: u32) -> u32 {
        self.rows.partition_point(|first| *first <= row).saturating_sub(1) as u32
    }

    /// Unix nanoseconds.
    pub fn start(&self, trace: u32) -> i64 {
        self.starts[trace as usize]
    }

    pub fn overlaps(&self, trace: u32, range: Option<TimeRange>) -> bool {
        range.is_none_or(|range| self.starts[trace as usize] <= range.end && self.ends[trace as usize] >= range.start)
    }

    /// About what it takes in memory.
    pub fn bytes(&self) -> usize {
        self.newest.len() * (2 * size_of::<u32>() + 2 * size_of::<i64>())
    }
}

/// The rows of the ascending `ids` in a column sorted by id, ascending.
pub fn rows_of(column: &FixedSizeBinaryArray, ids: &[model::TraceId]) -> Vec<u32> {
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
