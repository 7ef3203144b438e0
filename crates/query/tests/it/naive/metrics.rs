//! Metrics: series over time, from the starts of the spans that a pipeline leaves.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use traceql::ast::{
    ArithmeticOp, Attribute, AttributeName, ComparisonOp, Intrinsic, MetricsExpr, MetricsFunction, MetricsQuery,
    SecondStage,
};

use super::{
    Eyes, Patterns, Trace,
    compare::{Comparison, compare},
    value::Value,
};

const NANOS: f64 = 1e9;

/// The time axis.
#[derive(Clone, Copy, Debug)]
pub enum Axis {
    /// Bucket i holds `(start + i·step, start + (i+1)·step]` and is stamped with its end. Nanoseconds.
    Steps { start: i64, step: i64, count: usize },
    /// One bucket with both ends.
    Instant { start: i64, end: i64 },
}

impl Axis {
    /// The start is floored and the end ceiled to a multiple of the step; then the start moves one step back.
    pub fn range(start: i64, end: i64, step: i64) -> Self {
        if end - start == step {
            return Axis::Instant { start, end };
        }
        let first = start.div_euclid(step) * step - step;
        let last = -((-end).div_euclid(step)) * step;
        Axis::Steps { start: first, step, count: ((last - first) / step) as usize }
    }

    pub fn bucket(self, time: i64) -> Option<usize> {
        match self {
            Axis::Instant { start, end } => (start..=end).contains(&time).then_some(0),
            Axis::Steps { start, step, count } => {
                (0..count).find(|i| start + *i as i64 * step < time && time <= start + (*i as i64 + 1) * step)
            }
        }
    }

    pub fn stamps(self) -> Vec<i64> {
        match self {
            Axis::Instant { end, .. } => vec![end / 1_000_000],
            Axis::Steps { start, step, count } => (1..=count as i64).map(|i| (start + i * step) / 1_000_000).collect(),
        }
    }

    fn seconds(self) -> f64 {
        match self {
            Axis::Instant { start, end } => (end - start) as f64 / NANOS,
            Axis::Steps { step, .. } => step as f64 / NANOS,
        }
    }
}

/// A sample, and how far rounding may take it.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub value: f64,
    pub slack: f64,
}

#[derive(Clone, Debug)]
pub struct Series {
    pub labels: Vec<(String, String)>,
    /// By bucket.
    pub samples: Vec<Option<Sample>>,
}

impl Series {
    pub fn is_empty(&self) -> bool {
        self.samples.iter().all(Option::is_none)
    }
}

/// The series of an expression before its `topk` or `bottomk`, and the stages from there.
pub struct Answer {
    pub series: Vec<Series>,
    pub rest: Vec<SecondStage>,
    /// There is more than one right answer. Operands of arithmetic have series with equal labels (a value may be the
    /// word `nil`), or `compare()` cuts between equally frequent values.
    pub ambiguous: bool,
}

pub fn evaluate(traces: &[Trace<'_>], expr: &MetricsExpr, axis: Axis, patterns: &Patterns) -> Answer {
    let MetricsExpr::Query(query) = expr else {
        let mut ambiguous = false;
        let series = combined(traces, expr, axis, patterns, &mut ambiguous);
        return Answer { series, rest: vec![], ambiguous };
    };
    if let MetricsFunction::Compare { selection, top_n, range } = &query.function {
        let of_trace = |trace| {
            let sets = Eyes { trace, patterns }.spansets(&query.pipeline);
            sets.into_iter().flat_map(|set| set.spans).collect::<BTreeSet<usize>>().into_iter().map(move |span| (trace, span))
        };
        let top = top_n.map_or(10, |n| usize::try_from(n).expect("at least 1"));
        let comparison = Comparison { selection, top, range: *range };
        let (series, ambiguous) = compare(traces.iter().flat_map(of_trace), &comparison, axis, patterns);
        return Answer { series, rest: vec![], ambiguous };
    }
    let selects = |stage: &SecondStage| !matches!(stage, SecondStage::Compare(..));
    // One selection is told apart by the values that it leaves, whichever of equal ones it takes.
    let cut = match query.second.iter().filter(|stage| selects(stage)).count() {
        1 => query.second.iter().position(selects).expect("there is one"),
        _ => query.second.len(),
    };
    let mut ambiguous = false;
    let series = staged(series(traces, query, axis, patterns), &query.second[..cut], &mut ambiguous);
    Answer { series, rest: query.second[cut..].to_vec(), ambiguous }
}

fn staged(mut series: Vec<Series>, stages: &[SecondStage], ambiguous: &mut bool) -> Vec<Series> {
    for stage in stages {
        match stage {
            SecondStage::Compare(op, bound) => {
                for sample in series.iter_mut().flat_map(|s| &mut s.samples) {
                    *sample = sample.filter(|sample| passes(*op, sample.value, *bound));
                }
            }
            SecondStage::TopK(k) => select(&mut series, *k, |a, b| b.total_cmp(&a), ambiguous),
            SecondStage::BottomK(k) => select(&mut series, *k, |a, b| a.total_cmp(&b), ambiguous),
        }
    }
    series
}

/// Keeps the first `k` samples of every bucket. Which of equal ones are kept is not known here.
fn select(series: &mut [Series], k: i64, order: impl Fn(f64, f64) -> Ordering, ambiguous: &mut bool) {
    let k = usize::try_from(k).expect("at least 1");
    for bucket in 0..series.first().map_or(0, |s| s.samples.len()) {
        let mut present: Vec<(usize, Sample)> =
            series.iter().enumerate().filter_map(|(at, s)| Some((at, s.samples[bucket]?))).collect();
        present.sort_by(|(_, a), (_, b)| order(a.value, b.value));
        if let (Some((_, last)), Some((_, next))) = (present.get(k - 1), present.get(k)) {
            *ambiguous |= last.value == next.value || (last.value - next.value).abs() <= last.slack + next.slack;
        }
        for (at, _) in present.into_iter().skip(k) {
            series[at].samples[bucket] = None;
        }
    }
}

pub fn passes(op: ComparisonOp, value: f64, bound: f64) -> bool {
    match op {
        ComparisonOp::Equal => value == bound,
        ComparisonOp::NotEqual => value != bound,
        ComparisonOp::Less => value < bound,
        ComparisonOp::LessEqual => value <= bound,
        ComparisonOp::Greater => value > bound,
        ComparisonOp::GreaterEqual => value >= bound,
        ComparisonOp::Match | ComparisonOp::NotMatch => panic!("the parser refuses patterns here"),
    }
}

/// Arithmetic: series with equal labels meet, the function's name not counted; one series without labels meets all.
fn combined(
    traces: &[Trace<'_>],
    expr: &MetricsExpr,
    axis: Axis,
    patterns: &Patterns,
    ambiguous: &mut bool,
) -> Vec<Series> {
    let (op, left, right) = match expr {
        MetricsExpr::Number(value) => {
            let sample = Some(Sample { value: *value, slack: 0.0 });
            return vec![Series { labels: vec![], samples: vec![sample; axis.stamps().len()] }];
        }
        MetricsExpr::Query(query) => {
            return staged(series(traces, query, axis, patterns), &query.second, ambiguous);
        }
        MetricsExpr::Binary { op, left, right } => {
            let left = combined(traces, left, axis, patterns, ambiguous);
            (*op, left, combined(traces, right, axis, patterns, ambiguous))
        }
    };
    for side in [&left, &right] {
        let different: BTreeSet<_> = side.iter().map(|s| &s.labels).collect();
        *ambiguous |= different.len() < side.len();
    }
    let bare = |s: &Series| s.labels.iter().filter(|(key, _)| key != "__name__").cloned().collect::<Vec<_>>();
    let plain = |all: &[Series]| all.len() == 1 && bare(&all[0]).is_empty();
    let mut result = vec![];
    for l in &left {
        for r in &right {
            let labels = if plain(&right) { bare(l) } else { bare(r) };
            if plain(&right) || plain(&left) || bare(l) == bare(r) {
                let samples = l.samples.iter().zip(&r.samples).map(|(l, r)| computed(op, (*l)?, (*r)?)).collect();
                result.push(Series { labels, samples });
            }
        }
    }
    result
}

fn computed(op: ArithmeticOp, left: Sample, right: Sample) -> Option<Sample> {
    let (l, r) = (left.value, right.value);
    let value = match op {
        ArithmeticOp::Add => l + r,
        ArithmeticOp::Subtract => l - r,
        ArithmeticOp::Multiply => l * r,
        ArithmeticOp::Divide => l / r,
        ArithmeticOp::Modulo => l % r,
        ArithmeticOp::Power => l.powf(r),
    };
    let slack = match op {
        ArithmeticOp::Add | ArithmeticOp::Subtract => left.slack + right.slack,
        ArithmeticOp::Multiply => left.slack * r.abs() + right.slack * l.abs(),
        // What does not hold its place under rounding is asked of exact samples only.
        _ => 0.0,
    };
    value.is_finite().then_some(Sample { value, slack: value.abs() * 1e-9 + slack })
}

/// The spans that count, by group and bucket.
type Cells<'a> = BTreeMap<Vec<String>, (Vec<Option<Value>>, Vec<Vec<(&'a Trace<'a>, usize)>>)>;

fn cells<'a>(traces: &'a [Trace<'a>], query: &MetricsQuery, axis: Axis, patterns: &Patterns) -> Cells<'a> {
    let mut cells = Cells::new();
    for trace in traces {
        let eyes = Eyes { trace, patterns };
        let spans: BTreeSet<usize> = eyes.spansets(&query.pipeline).into_iter().flat_map(|set| set.spans).collect();
        for span in spans {
            let Some(bucket) = axis.bucket(trace.nodes[span].start) else { continue };
            let mut values: Vec<Option<Value>> = query.by.iter().map(|name| eyes.labelled(name, span)).collect();
            if let (true, Some(first)) = (values.iter().all(Option::is_none), values.first_mut()) {
                *first = Some(Value::Other);
            }
            let key = values.iter().map(|v| v.as_ref().map_or("nil".into(), Value::group)).collect();
            let empty = || (values.clone(), vec![vec![]; axis.stamps().len()]);
            cells.entry(key).or_insert_with(empty).1[bucket].push((trace, span));
        }
    }
    cells
}

/// Missing values have no label.
fn labels(query: &MetricsQuery, values: &[Option<Value>]) -> Vec<(String, String)> {
    let named = query.by.iter().zip(values);
    named.filter_map(|(name, value)| Some((name.to_string(), value.as_ref()?.shown()))).collect()
}

fn series(traces: &[Trace<'_>], query: &MetricsQuery, axis: Axis, patterns: &Patterns) -> Vec<Series> {
    let first = |name: &Attribute, (trace, span): (&Trace<'_>, usize)| {
        Eyes { trace, patterns }.named(name, span).into_iter().next()
    };
    let mut all = vec![];
    for (values, buckets) in cells(traces, query, axis, patterns).into_values() {
        let mut labels = labels(query, &values);
        let function = &query.function;
        if query.by.is_empty() && !is_histogram(function) {
            labels.push(("__name__".into(), format!("string {:?}", function.word())));
        }
        let exact = |value: f64| Some(Sample { value, slack: value.abs() * 1e-12 });
        match function {
            MetricsFunction::Rate => {
                let samples = buckets.iter().map(|spans| exact(if spans.is_empty() { 0.0 } else { spans.len() as f64 / axis.seconds() }));
                all.push(Series { labels, samples: samples.collect() });
            }
            MetricsFunction::CountOverTime => {
                all.push(Series { labels, samples: buckets.iter().map(|spans| exact(spans.len() as f64)).collect() });
            }
            MetricsFunction::MinOverTime(name)
            | MetricsFunction::MaxOverTime(name)
            | MetricsFunction::SumOverTime(name)
            | MetricsFunction::AvgOverTime(name) => {
                // Only a span's own duration is in seconds.
                let unit = if name.name == AttributeName::Intrinsic(Intrinsic::Duration) { NANOS } else { 1.0 };
                let numbers = |spans: &[(&Trace<'_>, usize)]| -> Vec<f64> {
                    spans.iter().filter_map(|span| Some(first(name, *span)?.number()? / unit)).collect()
                };
                let samples = buckets.iter().map(|spans| aggregate(function, &numbers(spans))).collect();
                all.push(Series { labels, samples });
            }
            MetricsFunction::QuantileOverTime(name, quantiles) => {
                let histograms: Vec<_> = buckets.iter().map(|spans| histogram(spans, name, first)).collect();
                for q in quantiles.iter().filter(|_| histograms.iter().any(|h| !h.is_empty())) {
                    let mut labels = labels.clone();
                    labels.push(("p".into(), Value::Float(*q).shown()));
                    let samples = histograms.iter().map(|h| {
                        let value = quantile(h, *q) / bucket_unit(name);
                        Some(Sample { value, slack: value * 1e-9 })
                    });
                    all.push(Series { labels, samples: samples.collect() });
                }
            }
            MetricsFunction::HistogramOverTime(name) => {
                let histograms: Vec<_> = buckets.iter().map(|spans| histogram(spans, name, first)).collect();
                let bounds: BTreeSet<u128> = histograms.iter().flat_map(|h| h.keys().copied()).collect();
                for bound in bounds {
                    let mut labels = labels.clone();
                    labels.push(("__bucket".into(), Value::Float(bound as f64 / bucket_unit(name)).shown()));
                    let samples = histograms.iter().map(|h| exact(h.get(&bound).copied().unwrap_or(0) as f64));
                    all.push(Series { labels, samples: samples.collect() });
                }
            }
            MetricsFunction::Compare { .. } => panic!("the parser lets it stand alone only"),
        }
    }
    all
}

fn is_histogram(function: &MetricsFunction) -> bool {
    matches!(function, MetricsFunction::QuantileOverTime(..) | MetricsFunction::HistogramOverTime(_))
}

/// No sample where there is no number, or where the result is none.
fn aggregate(function: &MetricsFunction, numbers: &[f64]) -> Option<Sample> {
    if numbers.is_empty() {
        return None;
    }
    let proper = || numbers.iter().copied().filter(|v| !v.is_nan());
    let sum: f64 = numbers.iter().sum();
    let size: f64 = numbers.iter().map(|v| v.abs()).filter(|v| v.is_finite()).sum();
    let value = match function {
        MetricsFunction::MinOverTime(_) => proper().reduce(f64::min)?,
        MetricsFunction::MaxOverTime(_) => proper().reduce(f64::max)?,
        MetricsFunction::AvgOverTime(_) => sum / numbers.len() as f64,
        _ => sum,
    };
    (!value.is_nan()).then_some(Sample { value, slack: size * 1e-12 })
}

/// Spans by the least power of two that is not below the value; only whole values of at least 2.
fn histogram(
    spans: &[(&Trace<'_>, usize)],
    name: &Attribute,
    first: impl Fn(&Attribute, (&Trace<'_>, usize)) -> Option<Value>,
) -> BTreeMap<u128, u64> {
    let mut histogram = BTreeMap::new();
    for value in spans.iter().filter_map(|span| first(name, *span)?.whole()).filter(|value| *value >= 2) {
        *histogram.entry((value as u128).next_power_of_two()).or_default() += 1;
    }
    histogram
}

/// Durations come out in seconds.
fn bucket_unit(name: &Attribute) -> f64 {
    match name.name {
        AttributeName::Intrinsic(Intrinsic::Duration | Intrinsic::TraceDuration | Intrinsic::EventTimeSinceStart) => NANOS,
        _ => 1.0,
    }
}

/// The bound of the bucket that the rank ends; within a bucket, exponentially between its bounds.
fn quantile(histogram: &BTreeMap<u128, u64>, q: f64) -> f64 {
    let total: u64 = histogram.values().sum();
    if total == 0 {
        return 0.0;
    }
    let rank = ((q * total as f64).ceil() as u64).max(1);
    let mut below = 0;
    let mut lower = None;
    for (bound, count) in histogram {
        let upper = *bound as f64;
        if below + count == rank {
            return upper;
        }
        if below + count > rank {
            let lower: f64 = lower.unwrap_or(upper / 2.0);
            let share = (rank - below) as f64 / *count as f64;
            return (lower.log2() + share * (upper.log2() - lower.log2())).exp2();
        }
        below += count;
        lower = Some(upper);
    }
    panic!("a rank is at most the total");
}
