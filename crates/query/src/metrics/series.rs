//! Series: labels and a value per interval.

use std::{cmp::Ordering, collections::HashMap};

use proto::{otlp::common::v1::{AnyValue, KeyValue, any_value}, tempopb};
use traceql::ast::{ArithmeticOp, ComparisonOp, MetricsFunction, MetricsQuery, SecondStage};

use super::{exemplars::Exemplar, groups::GroupKey, intervals::Intervals};
use crate::{shown::key_value, value::{Number, Value, holds}};

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

    pub fn constant(value: f64, intervals: &Intervals) -> Self {
        Self::new(vec![], vec![Some(value); intervals.count])
    }

    pub fn over_time(self, intervals: &Intervals) -> tempopb::TimeSeries {
        let sample = |interval: usize| self.values[interval].filter(|value| !value.is_nan());
        let stamped = |interval| Some(tempopb::Sample { value: sample(interval)?, timestamp_ms: intervals.timestamp_ms(interval) });
        let samples = (0..self.values.len()).filter_map(stamped).collect();
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

pub fn number_label(key: &str, value: f64) -> KeyValue {
    key_value(key, Some(&Value::Float(value)))
}

/// The labels of a group: those of its values that are not nil; the first as the word `nil` if all are.
/// Without grouping, the name of the function (`named`).
pub fn group_labels(query: &MetricsQuery, key: &GroupKey, named: bool) -> Vec<KeyValue> {
    if query.by.is_empty() {
        let name = Value::String(function_name(&query.function).to_owned());
        return if named { vec![key_value("__name__", Some(&name))] } else { vec![] };
    }
    let labels: Vec<KeyValue> = query
        .by
        .iter()
        .zip(key)
        .filter_map(|(name, value)| Some(key_value(&name.to_string(), Some(value.0.as_ref()?))))
        .collect();
    match (labels.is_empty(), query.by.first()) {
        (true, Some(name)) => vec![key_value(&name.to_string(), None)],
        _ => labels,
    }
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
type LabelOrder = (String, u8, String);

fn label_order(label: &KeyValue) -> LabelOrder {
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

/// By number of labels, then keys and values. Series can have equal labels, as a value can be the word `nil`: these go
/// by their samples, so that the answer is always the same.
pub fn sorted(mut series: Vec<Series>) -> Vec<Series> {
    series.sort_by(by_samples);
    series.sort_by_cached_key(series_order);
    series
}

/// At most `most` series; a cut answer is marked partial, with the reason.
pub fn limited(mut series: Vec<Series>, most: Option<usize>, lacking: Option<String>) -> (Vec<Series>, i32, String) {
    let mut lacks: Vec<String> = lacking.into_iter().collect();
    if let Some(most) = most.filter(|most| *most > 0 && series.len() > *most) {
        lacks.push(format!("the query has {} series, more than the limit of {most}; values may be inaccurate", series.len()));
        series.truncate(most);
    }
    let status = if lacks.is_empty() { tempopb::PartialStatus::Complete } else { tempopb::PartialStatus::Partial };
    (series, status.into(), lacks.join("; "))
}

pub fn second_stage(series: Vec<Series>, stage: &SecondStage) -> Vec<Series> {
    match stage {
        SecondStage::TopK(k) => select(series, usize::try_from(*k).unwrap_or(0), false),
        SecondStage::BottomK(k) => select(series, usize::try_from(*k).unwrap_or(0), true),
        SecondStage::Compare(op, bound) => {
            let mut series = series;
            for value in series.iter_mut().flat_map(|s| &mut s.values) {
                *value = value.filter(|v| sample_passes(*op, *v, *bound));
            }
            series
        }
    }
}

fn sample_passes(op: ComparisonOp, value: f64, bound: f64) -> bool {
    holds(op, Number::Float(value).compare(Number::Float(bound)))
}

/// Keeps `k` samples of every interval: the greatest, those equal in the order of their labels; from the bottom the
/// last of the same order.
fn select(series: Vec<Series>, k: usize, bottom: bool) -> Vec<Series> {
    let mut series = sorted(series);
    if series.len() <= k {
        return series;
    }
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
    series
}

/// Arithmetic between series: those with equal labels meet (the function's name does not count); a series
/// without labels meets every other.
pub fn combine(op: ArithmeticOp, left: Vec<Series>, right: Vec<Series>) -> Vec<Series> {
    let bare = |s: &Series| s.labels.iter().filter(|l| l.key != "__name__").map(label_order).collect::<Vec<_>>();
    let apply = |a: &Series, b: &Series, labels: Vec<KeyValue>| {
        let values = a.values.iter().zip(&b.values).map(|(a, b)| Some(arithmetic(op, (*a)?, (*b)?)));
        Series::new(labels, values.map(|v| v.filter(|v| v.is_finite())).collect())
    };
    let without_name = |s: &Series| s.labels.iter().filter(|l| l.key != "__name__").cloned().collect::<Vec<_>>();
    if let [one] = right.as_slice() {
        if bare(one).is_empty() {
            return left.iter().map(|s| apply(s, one, without_name(s))).collect();
        }
    }
    if let [one] = left.as_slice() {
        if bare(one).is_empty() {
            return right.iter().map(|s| apply(one, s, without_name(s))).collect();
        }
    }
    let right = sorted(right);
    let by_labels: HashMap<_, _> = right.iter().map(|s| (bare(s), s)).collect();
    left.iter().filter_map(|s| Some(apply(s, by_labels.get(&bare(s))?, without_name(s)))).collect()
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
