//! Exemplars: traces that stand for the samples of a series.
//!
//! The time axis is cut into half as many slots as there may be exemplars. Of the traces whose first span that counts lies
//! in a slot, two stand for it: those with the least digests of their ids. So which are chosen is as good as random,
//! and the same wherever the spans lie.

use arrow::{array::AsArray, datatypes::Int64Type};
use block::schema;
use model::TraceId;
use proto::{otlp::common::v1::KeyValue, tempopb};
use traceql::ast::{Attribute, MetricsQuery};

use super::{
    groups::{GroupKey, Groups},
    intervals::Intervals,
    series::group_labels,
};
use crate::{reader::Reader, request::QueryError, shown::key_value, spansets::trace_runs, traces::TraceRows, value::Value};

/// Exemplars where neither the request nor a hint says how many.
pub const EXEMPLARS_DEFAULT: usize = 100;

/// Kept of each slot.
const PER_SLOT: usize = 2;

/// The best candidates so far, at most [`PER_SLOT`] a slot.
#[derive(Clone, Debug)]
pub struct Exemplars {
    most: usize,
    per_slot: usize,
    slots: Vec<Vec<Candidate>>,
}

/// The first span of a trace that counts.
#[derive(Clone, Debug)]
struct Candidate {
    /// What decides, then the id itself.
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
        Self { most, per_slot: most.min(PER_SLOT), slots: vec![vec![]; most.div_ceil(PER_SLOT)] }
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
        let (starts, ids) = (starts.as_primitive::<Int64Type>(), ids.as_fixed_size_binary());
        let reader = measured.map(|name| Reader::new(&rows.layout.places(name), &rows.records));
        let mut selected = selected.map(|rows| rows.iter().copied().peekable());
        for run in trace_runs(&rows.records)? {
            let counts = |row: &usize| intervals.of(starts.value(*row)).is_some();
            let first = match &mut selected {
                None => run.clone().find(counts),
                Some(selected) => {
                    let mut first = None;
                    while let Some(row) = selected.next_if(|row| (*row as usize) < run.end) {
                        first = first.or(Some(row as usize).filter(counts));
                    }
                    first
                }
            };
            let Some(row) = first else { continue };
            let (start, id) = (starts.value(row), TraceId::from_slice(ids.value(row)).unwrap_or_default());
            let (digest, slot) = ((digest(&id), id), self.slot(start, intervals));
            if self.slots[slot].get(self.per_slot - 1).is_some_and(|last| last.digest <= digest) {
                continue;
            }
            let candidate = Candidate {
                digest,
                start,
                interval: intervals.of(start).unwrap_or_default(),
                group: groups.keys[groups.numbers[row] as usize].clone(),
                measured: reader.as_ref().and_then(|reader| reader.first(row)),
            };
            self.keep(slot, candidate);
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
        let at = kept.partition_point(|other| other.digest < candidate.digest);
        kept.insert(at, candidate);
        kept.truncate(self.per_slot);
    }

    pub fn add(&mut self, other: Self) {
        for (slot, candidates) in other.slots.into_iter().enumerate() {
            candidates.into_iter().for_each(|candidate| self.keep(slot, candidate));
        }
    }

    /// Each with the group it stands for, in the order of their times. Their labels are those of the group, what is measured,
    /// and the trace.
    pub fn by_group(&self, query: &MetricsQuery, measured: Option<&Attribute>) -> Vec<(GroupKey, Option<Value>, Exemplar)> {
        let mut all: Vec<&Candidate> = self.slots.iter().flatten().collect();
        all.sort_by_key(|candidate| (candidate.start, candidate.digest));
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

/// Spreads ids evenly, whatever they have in common. SplitMix64's last step.
fn digest(id: &TraceId) -> u64 {
    let number = u128::from_be_bytes(id.0);
    let mut mixed = (number >> 64) as u64 ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
