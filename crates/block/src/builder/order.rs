//! The order of rows in the finished batch, and who is left out of it.

use crate::whole_trace::Seen;

/// Where rows of the builder go. Every column is carried through this one mapping.
pub(super) struct Order {
    /// Builder row at each place of the batch.
    pub rows: Vec<u32>,
    /// Place of each builder row in the batch, or `GONE` for a re-delivery that was dropped.
    pub places: Vec<u32>,
}

pub(super) const GONE: u32 = u32::MAX;

/// What tells spans apart, by builder row.
pub(super) struct Identities<'a> {
    pub trace_id: &'a [[u8; 16]],
    pub span_id: &'a [[u8; 8]],
    pub start: &'a [i64],
    pub kind: &'a [u8],
}

impl Identities<'_> {
    /// Together with the trace id the identity of a span.
    fn within_trace(&self, row: u32) -> (i64, [u8; 8], u8) {
        let row = row as usize;
        (self.start[row], self.span_id[row], self.kind[row])
    }
}

impl Order {
    /// Sorts by trace id; the spans of a trace keep the order in which they came. Of rows equal in trace id, span
    /// id, kind and start only the first is kept.
    pub fn of(spans: &Identities<'_>) -> Self {
        let count = spans.trace_id.len();
        let sorted = sorted(spans.trace_id);
        let mut rows: Vec<u32> = Vec::with_capacity(count);
        let mut places = vec![GONE; count];
        let mut seen = Seen::default();
        for trace in sorted.chunk_by(|a, b| spans.trace_id[a.1 as usize] == spans.trace_id[b.1 as usize]) {
            seen.next_trace();
            for (_, row) in trace {
                if seen.first(spans.within_trace(*row)) {
                    places[*row as usize] = rows.len() as u32;
                    rows.push(*row);
                }
            }
        }
        Self { rows, places }
    }

    /// The place of a builder row, `None` if it was dropped.
    pub fn place(&self, row: u32) -> Option<usize> {
        let place = self.places[row as usize];
        (place != GONE).then_some(place as usize)
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }
}

/// Buckets by the first bits of the trace id; ids are random with nearly all senders.
const BUCKET_BITS: u32 = 12;

/// Rows by trace id and row number, each beside the first half of its trace id, which decides nearly every comparison
/// without a cache miss.
fn sorted(trace_ids: &[[u8; 16]]) -> Vec<(u64, u32)> {
    let half = |id: &[u8; 16]| u64::from_be_bytes(*id.first_chunk().expect("16 bytes"));
    let bucket = |half: u64| (half >> (u64::BITS - BUCKET_BITS)) as usize;
    let mut begins = vec![0u32; 1 << BUCKET_BITS];
    trace_ids.iter().for_each(|id| begins[bucket(half(id))] += 1);
    let mut begin = 0;
    for count in &mut begins {
        begin += std::mem::replace(count, begin);
    }
    // Each bucket's begin moves to its end as it fills, which is where the next one began.
    let mut sorted = vec![(0, 0); trace_ids.len()];
    for (row, id) in (0u32..).zip(trace_ids) {
        let half = half(id);
        let place = &mut begins[bucket(half)];
        sorted[*place as usize] = (half, row);
        *place += 1;
    }
    let mut begin = 0;
    for end in begins {
        sorted[begin..end as usize].sort_unstable_by(|a, b| {
            a.0.cmp(&b.0)
                .then_with(|| trace_ids[a.1 as usize].cmp(&trace_ids[b.1 as usize]))
                .then_with(|| a.1.cmp(&b.1))
        });
        begin = end as usize;
    }
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_by_trace_and_re_deliveries_dropped() {
        let trace_id = [[2; 16], [1; 16], [1; 16], [1; 16], [1; 16], [1; 16]];
        let span_id = [[1; 8], [5; 8], [4; 8], [5; 8], [5; 8], [5; 8]];
        let start = [0, 7, 7, 7, -1, 7];
        let kind = [0, 2, 2, 2, 2, 3];
        let order = Order::of(&Identities { trace_id: &trace_id, span_id: &span_id, start: &start, kind: &kind });
        assert_eq!(order.rows, [1, 2, 4, 5, 0]);
        assert_eq!(order.places, [4, 0, 1, GONE, 2, 3]);
        assert_eq!(order.place(3), None);
        assert_eq!(order.place(5), Some(3));
    }
}
