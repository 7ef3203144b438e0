//! The order of the merged rows, as runs of rows of the inputs.
//!
//! Nearly every trace is in one input, and inputs are sorted: whole stretches move at once, and only the
//! rows of traces that several inputs hold are compared one by one. Re-deliveries are left out.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use arrow::array::{Array, FixedSizeBinaryArray, RecordBatch};
use model::TraceId;

use crate::error::BlockError;
use crate::whole_trace::SpanRows;

/// `len` consecutive rows of input `batch`, from row `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub batch: usize,
    pub start: usize,
    pub len: usize,
}

/// Runs that together are the rows of `batches`, sorted by (trace id, start, span id, kind), without
/// re-deliveries: of rows equal in all four the first of the first batch is kept.
pub(super) fn merged(batches: &[RecordBatch]) -> Result<Vec<Run>, BlockError> {
    let inputs: Vec<SpanRows<'_>> = batches.iter().map(SpanRows::of).collect::<Result<_, _>>()?;
    let id = |batch: usize, row: usize| trace_id(inputs[batch].trace_ids, row);
    let mut next = vec![0; inputs.len()];
    let mut heap: BinaryHeap<Reverse<(TraceId, usize)>> = (0..inputs.len())
        .filter(|batch| !inputs[*batch].trace_ids.is_empty())
        .map(|batch| Reverse((id(batch, 0), batch)))
        .collect();
    let mut runs = Runs::default();
    let mut parts: Vec<Run> = Vec::new();
    while let Some(Reverse((trace, first))) = heap.pop() {
        parts.clear();
        let mut batch = first;
        loop {
            let ids = inputs[batch].trace_ids;
            let start = next[batch];
            let end = (start + 1..ids.len()).find(|row| ids.value(*row) != trace.0).unwrap_or(ids.len());
            parts.push(Run { batch, start, len: end - start });
            next[batch] = end;
            if end < ids.len() {
                let following = id(batch, end);
                if following <= trace {
                    return Err(BlockError::Order(following));
                }
                heap.push(Reverse((following, batch)));
            }
            match heap.peek() {
                Some(Reverse((other, _))) if *other == trace => batch = heap.pop().expect("peeked").0.1,
                _ => break,
            }
        }
        match parts.as_slice() {
            [whole] => runs.push(*whole),
            _ => merge_trace(&inputs, &parts, &mut runs),
        }
    }
    Ok(runs.0)
}

/// One trace whose rows are in several inputs.
fn merge_trace(inputs: &[SpanRows<'_>], parts: &[Run], runs: &mut Runs) {
    let mut rows: Vec<(i64, &[u8], i32, usize, usize)> = parts
        .iter()
        .flat_map(|part| {
            let input = &inputs[part.batch];
            (part.start..part.start + part.len).map(|row| {
                (input.start_times.value(row), input.span_ids.value(row), input.kinds.value(row), part.batch, row)
            })
        })
        .collect();
    rows.sort_unstable();
    rows.dedup_by_key(|(start, span_id, kind, _, _)| (*start, *span_id, *kind));
    for (_, _, _, batch, start) in rows {
        runs.push(Run { batch, start, len: 1 });
    }
}

/// Joins runs that touch.
#[derive(Default)]
struct Runs(Vec<Run>);

impl Runs {
    fn push(&mut self, run: Run) {
        match self.0.last_mut() {
            Some(last) if last.batch == run.batch && last.start + last.len == run.start => last.len += run.len,
            _ => self.0.push(run),
        }
    }
}

fn trace_id(ids: &FixedSizeBinaryArray, row: usize) -> TraceId {
    TraceId::from_slice(ids.value(row)).expect("trace ids have 16 bytes")
}
