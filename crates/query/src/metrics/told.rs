//! What a streamed metrics query tells before its answer, and what of that the answer takes back.
//!
//! A client keeps the newest sample of each series and time. What was told and is not in the answer is told once more, as
//! not-a-number, so that what the client has is the answer.

use std::{
    collections::{BTreeSet, HashMap},
    time::Instant,
};

use parking_lot::Mutex;
use proto::{otlp::common::v1::KeyValue, tempopb};
use traceql::ast::{MetricsFunction, MetricsQuery};

use super::{
    Asked, Part,
    exemplars::Exemplars,
    series::{LabelOrder, SeriesSet, label_order},
    worked,
};
use crate::{
    memory::Held,
    partial::{Partial, WAITING_MAX},
    request::QueryError,
};

/// A query with more samples does not tell them before it is over: making a message of them takes longer than it is worth.
const SAMPLES_TOLD_MAX: usize = 100_000;
/// Messages take no more than such a part of what the query may have.
const MEMORY_SHARE: u64 = 8;

/// A streamed query and its client.
pub struct Telling<'a> {
    partial: &'a Partial<tempopb::QueryRangeResponse>,
    told: Mutex<Told>,
    /// What messages that wait to be sent and what is known of those that were told take.
    held: Mutex<Held>,
}

/// The samples that a client may have, over all attempts at an answer.
#[derive(Default)]
pub struct Told(HashMap<Vec<LabelOrder>, ToldSeries>);

struct ToldSeries {
    labels: Vec<KeyValue>,
    /// Milliseconds.
    times: BTreeSet<i64>,
}

impl<'a> Telling<'a> {
    pub fn new(partial: &'a Partial<tempopb::QueryRangeResponse>, held: Held) -> Self {
        Self { partial, told: Mutex::default(), held: Mutex::new(held) }
    }

    /// Whether it is time for a message that someone hears.
    pub fn due(&self, last: Instant) -> bool {
        self.partial.due(last)
    }

    /// Tells the series as they are, without exemplars: those may still change. Says nothing where there is no memory for it.
    pub fn tell(&self, part: &Part, query: &MetricsQuery, asked: Asked<'_>, metrics: tempopb::SearchMetrics) {
        let of_cell = match &query.function {
            MetricsFunction::QuantileOverTime(_, quantiles) => quantiles.len(),
            _ => 1,
        };
        if part.cells.len().saturating_mul(of_cell) > SAMPLES_TOLD_MAX {
            return;
        }
        let Ok(set) = series(part, query, asked) else { return };
        // Which series a cut answer has is known in the end.
        if asked.request.series_max.is_some_and(|most| most > 0 && set.series.len() > most) {
            return;
        }
        // What is told, and as much again for what is known of it: often it was told before.
        let bytes = set.series.iter().map(|series| 2 * series.heap_bytes()).sum::<usize>();
        if !self.fits(bytes * (WAITING_MAX + 2)) {
            return;
        }
        let series = set.series.into_iter().map(|series| series.over_time(&asked.intervals));
        let series: Vec<_> = series.filter(|series| !series.samples.is_empty()).collect();
        let metrics = worked(metrics, asked.reads);
        let message = tempopb::QueryRangeResponse {
            series: series.clone(),
            // What is left counts as one part.
            metrics: Some(tempopb::SearchMetrics { total_jobs: metrics.total_jobs + 1, ..metrics }),
            ..Default::default()
        };
        if self.partial.tell(message) {
            self.told.lock().add(series);
        }
    }

    /// Whether there is so much memory for messages, or has been. They take no more than a share of the query's: the answer has
    /// to be had whether someone listens or not.
    fn fits(&self, bytes: usize) -> bool {
        let mut held = self.held.lock();
        let more = (bytes as u64).saturating_sub(held.bytes());
        bytes as u64 <= held.most() / MEMORY_SHARE && held.grow(more as usize).is_ok()
    }

    pub fn told(self) -> Told {
        self.told.into_inner()
    }
}

fn series(part: &Part, query: &MetricsQuery, asked: Asked<'_>) -> Result<SeriesSet, QueryError> {
    let mut held = part.held.beside();
    held.grow(part.cells.heap_bytes())?;
    let series = part.cells.clone().into_series(query, &asked.intervals, &Exemplars::new(0), &mut held)?;
    SeriesSet { series, held }.sorted()
}

/// Equal exactly for equal labels.
fn key(labels: &[KeyValue]) -> Vec<LabelOrder> {
    labels.iter().map(label_order).collect()
}

impl Told {
    fn add(&mut self, series: Vec<tempopb::TimeSeries>) {
        for tempopb::TimeSeries { labels, samples, .. } in series {
            let known = self.0.entry(key(&labels)).or_insert_with(|| ToldSeries { labels, times: BTreeSet::new() });
            known.times.extend(samples.iter().map(|sample| sample.timestamp_ms));
        }
    }

    /// What was told beyond an answer: each series with its samples that the answer has not, as not-a-number.
    pub fn without(mut self, answer: &[tempopb::TimeSeries]) -> Vec<tempopb::TimeSeries> {
        if self.0.is_empty() {
            return vec![];
        }
        for series in answer {
            if let Some(told) = self.0.get_mut(&key(&series.labels)) {
                for sample in &series.samples {
                    told.times.remove(&sample.timestamp_ms);
                }
            }
        }
        let mut beyond: Vec<_> = self.0.into_iter().filter(|(_, told)| !told.times.is_empty()).collect();
        beyond.sort_by(|(a, _), (b, _)| a.cmp(b));
        let nothing = |timestamp_ms| tempopb::Sample { value: f64::NAN, timestamp_ms };
        let series = |ToldSeries { labels, times }| tempopb::TimeSeries {
            labels,
            samples: times.into_iter().map(nothing).collect(),
            exemplars: vec![],
        };
        beyond.into_iter().map(|(_, told)| series(told)).collect()
    }
}
