//! Series: labels and a value per interval. What they take is charged to the query's memory before they are made.

use std::{cmp::Ordering, collections::HashMap};

use proto::{otlp::common::v1::{AnyValue, KeyValue, any_value}, tempopb};
use traceql::ast::{ArithmeticOp, ComparisonOp, MetricsFunction, MetricsQuery, SecondStage};

use super::{exemplars::Exemplar, groups::GroupKey, intervals::Intervals};
use crate::{
    memory::{Held, PIECE_BYTES, text_bytes},
    request::QueryError,
    shown::key_value,
    value::{Number, Value, holds},
};

/// A sample in an answer: its value and time, and both as text.
const SAMPLE_ANSWERED_BYTES: usize = size_of::<tempopb::Sample>() + 64;
/// The words around a label or a series in an answer's text.
const WORDS_ANSWERED_BYTES: usize = 64;

#[derive(Clone, Debug)]
pub struct Series {
    pub labels: Vec<KeyValue>,
    /// By interval; `None` where there is no sample.
    pub values: Vec<Option<f64>>,
    /// Each stands while its interval has a sample.
    pub exemplars: Vec<Exemplar>,
}

impl Series {
    pub fn new(labels: Vec<KeyValue>, values: Vec<Option<f64>>) -> Self {
        Self { labels, values, exemplars: vec![] }
    }

    /// A series of so many values, if there is memory for it.
    pub fn charged(
        labels: Vec<KeyValue>,
        values: usize,
        held: &mut Held,
        make: impl FnOnce() -> Vec<Option<f64>>,
    ) -> Result<Self, QueryError> {
        held.grow(series_bytes(&labels, values))?;
        Ok(Self::new(labels, make()))
    }

    /// What it takes, but for exemplars.
    pub fn heap_bytes(&self) -> usize {
        series_bytes(&self.labels, self.values.len())
    }

    pub fn over_time(self, intervals: &Intervals) -> tempopb::TimeSeries {
        let sample = |interval: usize| self.values[interval].filter(|value| !value.is_nan());
        let stamped = |interval| Some(tempopb::Sample { value: sample(interval)?, timestamp_ms: intervals.timestamp_ms(interval) });
        let mut samples = Vec::with_capacity(self.values.iter().flatten().count());
        samples.extend((0..self.values.len()).filter_map(stamped));
        let exemplars = self.exemplars.into_iter().filter_map(|exemplar| Some((sample(exemplar.interval)?, exemplar)));
        let exemplars = exemplars.map(|(sample, exemplar)| exemplar.shown(sample)).filter(|exemplar| exemplar.value.is_finite()).collect();
        tempopb::TimeSeries { samples, labels: self.labels, exemplars }
    }

    /// The one value of an instant query.
    pub fn at_once(self) -> Option<tempopb::InstantSeries> {
        let value = self.values.into_iter().flatten().find(|v| !v.is_nan())?;
        Some(tempopb::InstantSeries { labels: self.labels, value })
    }
}

/// Series, and the share of the query's memory that they have.
pub struct SeriesSet {
    pub series: Vec<Series>,
    pub held: Held,
}

impl SeriesSet {
    /// # Errors
    /// `BudgetExceeded` if there is no memory for it.
    pub fn constant(value: f64, intervals: &Intervals, mut held: Held) -> Result<Self, QueryError> {
        let series = vec![Series::charged(vec![], intervals.count, &mut held, || vec![Some(value); intervals.count])?];
        Ok(Self { series, held })
    }

    /// By number of labels, then keys and values. Series can have equal labels, as a value can be the word `nil`: these go
    /// by their samples, so that the answer is always the same.
    ///
    /// # Errors
    /// `BudgetExceeded` if there is no memory for what orders them.
    pub fn sorted(mut self) -> Result<Self, QueryError> {
        let mut ordering = self.held.beside();
        ordering.grow(self.series.iter().map(order_bytes).sum())?;
        self.series.sort_by(by_samples);
        self.series.sort_by_cached_key(series_order);
        Ok(self)
    }

    /// Charges what the answer takes that is made of them.
    ///
    /// # Errors
    /// `BudgetExceeded` if there is no memory for it.
    pub fn charge_answer(&mut self) -> Result<(), QueryError> {
        let of_labels = |labels: &[KeyValue]| labels_bytes(labels) + (1 + labels.len()) * WORDS_ANSWERED_BYTES;
        let of_series = |series: &Series| {
            let exemplars = series.exemplars.iter().map(|exemplar| of_labels(&exemplar.labels) + SAMPLE_ANSWERED_BYTES).sum::<usize>();
            of_labels(&series.labels) + series.values.iter().flatten().count() * SAMPLE_ANSWERED_BYTES + exemplars
        };
        self.held.grow(self.series.iter().map(of_series).sum())
    }
}

fn series_bytes(labels: &[KeyValue], values: usize) -> usize {
    size_of::<Series>() + labels_bytes(labels) + values * size_of::<Option<f64>>() + PIECE_BYTES
}

fn labels_bytes(labels: &[KeyValue]) -> usize {
    let value = |label: &KeyValue| match label.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text_bytes(text),
        Some(any_value::Value::ArrayValue(array)) => prost::Message::encoded_len(array) * ARRAY_DECODED,
        _ => 0,
    };
    labels.iter().map(|label| size_of::<KeyValue>() + text_bytes(&label.key) + value(label)).sum()
}

/// How much more an array takes than its shortest encoding, of small elements.
const ARRAY_DECODED: usize = 10;

/// What orders a series, while all are sorted.
fn order_bytes(series: &Series) -> usize {
    2 * size_of::<Series>() + series.labels.len() * size_of::<LabelOrder>() + 2 * labels_bytes(&series.labels)
}

pub fn number_label(key: &str, value: f64) -> KeyValue {
    key_value(key, Some(&Value::Float(value)))
}

/// The labels of a group: those of its values that are not missing.
/// Without grouping, the name of the function (`named`).
pub fn group_labels(query: &MetricsQuery, key: &GroupKey, named: bool) -> Vec<KeyValue> {
    if query.by.is_empty() {
        let name = Value::String(function_name(&query.function).to_owned());
        return if named { vec![key_value("__name__", Some(&name))] } else { vec![] };
    }
    let labels = query.by.iter().zip(key);
    labels.filter_map(|(name, value)| Some(key_value(&name.to_string(), Some(value.0.as_ref()?)))).collect()
}

fn function_name(function: &MetricsFunction) -> &'static str {
    match function {
        MetricsFunction::Rate => "rate",
        MetricsFunction::CountOverTime => "count_over_time",
        MetricsFunction::MinOverTime(_) => "min_over_time",
        MetricsFunction::MaxOverTime(_) => "max_over_time",
        MetricsFunction::SumOverTime(_) => "sum_over_time",
        MetricsFunction::AvgOverTime(_) => "avg_over_time",
        MetricsFunction::QuantileOverTime(..) => "quantile_over_time",
        MetricsFunction::HistogramOverTime(_) => "histogram_over_time",
        MetricsFunction::Compare { .. } => "compare",
    }
}

/// Key, type and a text that orders the values of a type; equal exactly for equal labels.
pub type LabelOrder = (String, u8, String);

pub fn label_order(label: &KeyValue) -> LabelOrder {
    let (rank, value) = match label.value.as_ref().and_then(|v| v.value.as_ref()) {
        None => (0, String::new()),
        Some(any_value::Value::IntValue(v)) => (1, format!("{v:020}")),
        Some(any_value::Value::DoubleValue(v)) => (2, format!("{v:?} {}", v.to_bits())),
        Some(any_value::Value::StringValue(v)) => (3, v.clone()),
        Some(other) => (4, format!("{other:?}")),
    };
    (label.key.clone(), rank, value)
}

fn series_order(series: &Series) -> (usize, Vec<LabelOrder>) {
    (series.labels.len(), series.labels.iter().map(label_order).collect())
}

fn by_samples(a: &Series, b: &Series) -> Ordering {
    let order = |(a, b): (&Option<f64>, &Option<f64>)| match (a, b) {
        (Some(a), Some(b)) => a.total_cmp(b),
        (a, b) => a.is_some().cmp(&b.is_some()),
    };
    a.values.iter().zip(&b.values).map(order).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

/// At most `most` series; a cut answer is marked partial, with the reason.
pub fn limited(series: &mut Vec<Series>, most: Option<usize>, lacking: Option<String>) -> (i32, String) {
    let mut lacks: Vec<String> = lacking.into_iter().collect();
    if let Some(most) = most.filter(|most| *most > 0 && series.len() > *most) {
        lacks.push(format!("the query has {} series, more than the limit of {most}; values may be inaccurate", series.len()));
        series.truncate(most);
    }
    let status = if lacks.is_empty() { tempopb::PartialStatus::Complete } else { tempopb::PartialStatus::Partial };
    (status.into(), lacks.join("; "))
}

/// # Errors
/// `BudgetExceeded` if there is no memory for the work.
pub fn second_stage(mut set: SeriesSet, stage: &SecondStage) -> Result<SeriesSet, QueryError> {
    match stage {
        SecondStage::TopK(k) => select(set, usize::try_from(*k).unwrap_or(0), false),
        SecondStage::BottomK(k) => select(set, usize::try_from(*k).unwrap_or(0), true),
        SecondStage::Compare(op, bound) => {
            for value in set.series.iter_mut().flat_map(|s| &mut s.values) {
                *value = value.filter(|v| sample_passes(*op, *v, *bound));
            }
            Ok(set)
        }
    }
}

fn sample_passes(op: ComparisonOp, value: f64, bound: f64) -> bool {
    holds(op, Number::Float(value).compare(Number::Float(bound)))
}

/// Keeps `k` samples of every interval: the greatest, those equal in the order of their labels; from the bottom the
/// last of the same order.
fn select(set: SeriesSet, k: usize, bottom: bool) -> Result<SeriesSet, QueryError> {
    let SeriesSet { mut series, held } = set.sorted()?;
    if series.len() <= k {
        return Ok(SeriesSet { series, held });
    }
    let mut ordering = held.beside();
    ordering.grow(series.len() * 2 * size_of::<(usize, f64)>())?;
    let intervals = series.first().map_or(0, |s| s.values.len());
    for interval in 0..intervals {
        let mut present: Vec<(usize, f64)> =
            series.iter().enumerate().filter_map(|(i, s)| Some((i, s.values[interval]?))).collect();
        present.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if bottom {
            present.reverse();
        }
        for (i, _) in present.into_iter().skip(k) {
            series[i].values[interval] = None;
        }
    }
    Ok(SeriesSet { series, held })
}

/// Arithmetic between series: those with equal labels meet (the function's name does not count); a series
/// without labels meets every other.
///
/// # Errors
/// `BudgetExceeded` if there is no memory for the result beside both.
pub fn combine(op: ArithmeticOp, left: SeriesSet, right: SeriesSet) -> Result<SeriesSet, QueryError> {
    let mut held = left.held.beside();
    let bare = |s: &Series| s.labels.iter().filter(|l| l.key != "__name__").map(label_order).collect::<Vec<_>>();
    let mut apply = |a: &Series, b: &Series, labels: Vec<KeyValue>| {
        let values = || a.values.iter().zip(&b.values).map(|(a, b)| Some(arithmetic(op, (*a)?, (*b)?)).filter(|v| v.is_finite())).collect();
        Series::charged(labels, a.values.len(), &mut held, values)
    };
    let without_name = |s: &Series| s.labels.iter().filter(|l| l.key != "__name__").cloned().collect::<Vec<_>>();
    let alone = |set: &SeriesSet| set.series.len() == 1 && bare(&set.series[0]).is_empty();
    let series: Result<Vec<Series>, QueryError> = if alone(&right) {
        left.series.iter().map(|s| apply(s, &right.series[0], without_name(s))).collect()
    } else if alone(&left) {
        right.series.iter().map(|s| apply(&left.series[0], s, without_name(s))).collect()
    } else {
        let right = right.sorted()?;
        let mut ordering = right.held.beside();
        ordering.grow(right.series.iter().map(order_bytes).sum())?;
        let by_labels: HashMap<_, _> = right.series.iter().map(|s| (bare(s), s)).collect();
        let meeting = left.series.iter().filter_map(|s| Some((s, *by_labels.get(&bare(s))?)));
        meeting.map(|(s, other)| apply(s, other, without_name(s))).collect()
    };
    Ok(SeriesSet { series: series?, held })
}

fn arithmetic(op: ArithmeticOp, a: f64, b: f64) -> f64 {
    match op {
        ArithmeticOp::Add => a + b,
        ArithmeticOp::Subtract => a - b,
        ArithmeticOp::Multiply => a * b,
        ArithmeticOp::Divide => a / b,
        ArithmeticOp::Modulo => a % b,
        ArithmeticOp::Power => a.powf(b),
    }
}

/// A label that holds a word.
pub fn word_label(key: &str, word: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(any_value::Value::StringValue(word.to_owned())) }),
        ..Default::default()
    }
}
