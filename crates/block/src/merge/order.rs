//! The order of the merged rows, as runs of rows of the inputs.
//!
//! Nearly every trace is in one input, and inputs are sorted: whole stretches move at once, and only the
//! rows of traces that several inputs hold are looked at one by one. Re-deliveries are left out.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use arrow::array::{Array, FixedSizeBinaryArray, RecordBatch};
use model::TraceId;

use crate::error::BlockError;
use crate::whole_trace::{Seen, SpanRows};

/// `len` consecutive rows of input `batch`, from row `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub batch: usize,
    pub start: usize,
    pub len: usize,
}

/// Runs that together are the rows of `batches`, sorted by trace id, without re-deliveries. The rows of a trace
/// come in the order of the batches, and of rows with equal span id, kind and start the first is kept.
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
    let mut seen = Seen::default();
    for part in parts {
        let input = &inputs[part.batch];
        for row in part.start..part.start + part.len {
            let id = input.span_ids.value(row).try_into().expect("span ids have 8 bytes");
            let kind = u8::try_from(input.kinds.value(row)).unwrap_or_default();
            if seen.first((input.start_times.value(row), id, kind)) {
                runs.push(Run { batch: part.batch, start: row, len: 1 });
            }
        }
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
