//! Exemplars: spans that stand for the samples of a series, each with its trace.
//!
//! The time axis is cut into half as many slots as there may be exemplars. Of the spans that count and start in a slot, two of
//! different traces stand for it: those with the least digests of their start times. So which are chosen is as good as
//! random, and the same wherever the spans lie. A digest is made of what counting reads anyway: almost all spans are passed
//! over without a look at anything else.

use std::collections::HashSet;

use arrow::{array::AsArray, datatypes::Int64Type};
use block::schema;
use model::TraceId;
use proto::{otlp::common::v1::KeyValue, tempopb};
use traceql::ast::{Attribute, MetricsQuery};

use super::{
    groups::{GroupKey, Groups, key_bytes, value_bytes},
    intervals::Intervals,
    series::group_labels,
};
use crate::{reader::Reader, request::QueryError, shown::key_value, traces::TraceRows, value::Value};

/// Exemplars where neither the request nor a hint says how many.
pub const EXEMPLARS_DEFAULT: usize = 100;

/// Kept of each slot.
const PER_SLOT: usize = 2;

/// The best candidates so far, at most [`PER_SLOT`] a slot.
#[derive(Clone, Debug)]
pub struct Exemplars {
    most: usize,
    per_slot: usize,
    /// Ordered by digest, each of another trace.
    slots: Vec<Vec<Candidate>>,
    settled: Settled,
}

/// The longest run of slots that have all they may have: the first and the last start time known to lie in it, and the
/// greatest digest in it. A span that starts between the two and has a greater digest does not enter.
#[derive(Clone, Copy, Debug)]
struct Settled {
    first: i64,
    last: i64,
    digest: u64,
}

impl Settled {
    const NOTHING: Self = Self { first: i64::MAX, last: i64::MIN, digest: 0 };

    #[inline]
    fn passes_over(&self, start: i64, digest: u64) -> bool {
        digest > self.digest && self.first <= start && start <= self.last
    }
}

/// A span that counts.
#[derive(Clone, Debug)]
struct Candidate {
    /// Of the start. What decides, then the trace's id.
    digest: (u64, TraceId),
    /// Unix nanoseconds.
    start: i64,
    interval: usize,
    group: GroupKey,
    /// What is measured, as it was sent.
    measured: Option<Value>,
}

/// An exemplar of a series.
#[derive(Clone, Debug)]
pub struct Exemplar {
    pub interval: usize,
    pub labels: Vec<KeyValue>,
    /// Unix nanoseconds.
    pub start: i64,
    /// What is measured, in the unit of the samples; `None` where that is the sample itself.
    pub value: Option<f64>,
}

impl Exemplar {
    /// With the sample of its interval.
    pub fn shown(self, sample: f64) -> tempopb::Exemplar {
        tempopb::Exemplar { labels: self.labels, value: self.value.unwrap_or(sample), timestamp_ms: self.start.div_euclid(1_000_000) }
    }
}

impl Exemplars {
    pub fn new(most: usize) -> Self {
        Self { most, per_slot: most.min(PER_SLOT), slots: vec![vec![]; most.div_ceil(PER_SLOT)], settled: Settled::NOTHING }
    }

    /// Looks at the rows that count: `selected`, or all.
    pub fn look(
        &mut self,
        rows: &TraceRows,
        selected: Option<&[u32]>,
        groups: &Groups,
        measured: Option<&Attribute>,
        intervals: &Intervals,
    ) -> Result<(), QueryError> {
        let (Some(starts), Some(ids)) = (rows.records.column_by_name(schema::START_TIME), rows.records.column_by_name(schema::TRACE_ID)) else {
            return Ok(());
        };
        if self.slots.is_empty() {
            return Ok(());
        }
        let (starts, ids) = (starts.as_primitive::<Int64Type>().values(), ids.as_fixed_size_binary());
        let reader = measured.map(|name| Reader::new(&rows.layout.places(name), &rows.records));
        let mut settled = self.settled;
        let mut enter = |row: usize, start: i64, digest: u64| {
            let Some(interval) = intervals.of(start) else { return self.settled };
            let slot = self.slot(start, intervals);
            if self.slots[slot].get(self.per_slot - 1).is_some_and(|last| last.digest.0 < digest) {
                return self.settled;
            }
            let group = groups.keys[groups.numbers[row] as usize].clone();
            let measured = reader.as_ref().and_then(|reader| reader.first(row));
            let trace = TraceId::from_slice(ids.value(row)).unwrap_or_default();
            self.keep(slot, Candidate { digest: (digest, trace), start, interval, group, measured });
            self.settled
        };
        // All but a few spans need no more than stands in these loops themselves.
        match selected {
            None => {
                for (row, start) in starts.iter().enumerate() {
                    let digest = digest(*start);
                    if !settled.passes_over(*start, digest) {
                        settled = enter(row, *start, digest);
                    }
                }
            }
            Some(rows) => {
                for row in rows.iter().map(|row| *row as usize) {
                    let (start, digest) = (starts[row], digest(starts[row]));
                    if !settled.passes_over(start, digest) {
                        settled = enter(row, start, digest);
                    }
                }
            }
        }
        Ok(())
    }

    fn slot(&self, start: i64, intervals: &Intervals) -> usize {
        let covered = intervals.covered();
        let since = |time: i64| time.wrapping_sub(covered.start) as u64 as f64;
        // Rounded, but everywhere the same.
        let slot = since(start) / (since(covered.end) + 1.0) * self.slots.len() as f64;
        (slot as usize).min(self.slots.len() - 1)
    }

    fn keep(&mut self, slot: usize, candidate: Candidate) {
        let kept = &mut self.slots[slot];
        // Of one trace the least digest, and of equal ones the span that was received first.
        match kept.iter().position(|other| other.digest.1 == candidate.digest.1) {
            Some(same) if kept[same].digest <= candidate.digest => return,
            Some(same) => drop(kept.remove(same)),
            None => {}
        }
        let at = kept.partition_point(|other| other.digest < candidate.digest);
        if at == self.per_slot {
            return;
        }
        kept.insert(at, candidate);
        kept.truncate(self.per_slot);
        self.settle();
    }

    fn settle(&mut self) {
        let runs = self.slots.split(|slot| slot.len() < self.per_slot);
        let run = runs.max_by_key(|run| run.len()).unwrap_or_default();
        let starts = || run.iter().flatten().map(|candidate| candidate.start);
        self.settled = match (starts().min(), starts().max()) {
            (Some(first), Some(last)) => {
                Settled { first, last, digest: run.iter().flatten().map(|candidate| candidate.digest.0).max().unwrap_or(0) }
            }
            _ => Settled::NOTHING,
        };
    }

    pub fn add(&mut self, other: Self) {
        for (slot, candidates) in other.slots.into_iter().enumerate() {
            candidates.into_iter().for_each(|candidate| self.keep(slot, candidate));
        }
    }

    /// What the candidates take.
    pub fn heap_bytes(&self) -> usize {
        let bytes = |candidate: &Candidate| {
            size_of::<Candidate>() + key_bytes(&candidate.group) + candidate.measured.as_ref().map_or(0, value_bytes)
        };
        self.slots.iter().flatten().map(bytes).sum()
    }

    /// Each with the group it stands for, in the order of their times, a trace once. Their labels are those of the group, what is measured,
    /// and the trace.
    pub fn by_group(&self, query: &MetricsQuery, measured: Option<&Attribute>) -> Vec<(GroupKey, Option<Value>, Exemplar)> {
        let mut all: Vec<&Candidate> = self.slots.iter().flatten().collect();
        all.sort_by_key(|candidate| (candidate.start, candidate.digest));
        let mut traces = HashSet::new();
        all.retain(|candidate| traces.insert(candidate.digest.1));
        all.truncate(self.most);
        let exemplar = |candidate: &Candidate| {
            let mut labels = group_labels(query, &candidate.group, false);
            if let (Some(name), Some(value)) = (measured, &candidate.measured) {
                let key = name.to_string();
                if !labels.iter().any(|label| label.key == key) {
                    labels.push(key_value(&key, Some(value)));
                }
            }
            labels.push(key_value("trace:id", Some(&Value::String(candidate.digest.1.short_hex()))));
            let exemplar = Exemplar { interval: candidate.interval, labels, start: candidate.start, value: None };
            (candidate.group.clone(), candidate.measured.clone(), exemplar)
        };
        all.into_iter().map(exemplar).collect()
    }
}

/// Spreads times over all numbers. One multiplication, because it is done for every span that counts.
#[inline]
fn digest(time: i64) -> u64 {
    let mixed = (time as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.rotate_left(32) ^ mixed
}
