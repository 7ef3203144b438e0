//! Partial results: what a part of the data says about each group and interval.

use std::collections::{BTreeMap, HashMap};

use arrow::{array::{Array, AsArray}, datatypes::Int64Type};
use block::schema;
use model::AttributeType;
use traceql::ast::{Attribute, AttributeName, Intrinsic, MetricsFunction, MetricsQuery};

use super::{
    compare::Comparison,
    exemplars::{Exemplar, Exemplars},
    few_cells,
    groups::{GroupKey, groups},
    intervals::Intervals,
    series::{Series, group_labels, number_label},
};
use crate::{
    layout::{Place, Reading},
    reader::Reader,
    request::QueryError,
    traces::TraceRows,
    value::{Number, Value},
};

#[derive(Clone)]
pub enum Cells {
    Counts(HashMap<GroupKey, Vec<u64>>),
    Sums(HashMap<GroupKey, Vec<Sum>>),
    /// By the power of two that bounds the value from above.
    Histograms { cells: HashMap<GroupKey, Vec<BTreeMap<u8, u64>>>, seconds: bool },
    Comparison(Comparison),
}

/// Exact parts of min, max, sum and avg.
#[derive(Clone, Copy, Debug)]
pub struct Sum {
    count: u64,
    sum: f64,
    /// What the sum lost to rounding.
    lost: f64,
    min: f64,
    max: f64,
}

impl Default for Sum {
    fn default() -> Self {
        Self { count: 0, sum: 0.0, lost: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY }
    }
}

impl Sum {
    fn add(&mut self, value: f64) {
        self.count += 1;
        self.accumulate(value);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// Kahan's summation with Neumaier's correction: the order of parts does not show in the result.
    fn accumulate(&mut self, value: f64) {
        let total = self.sum + value;
        if total.is_finite() {
            self.lost += if self.sum.abs() >= value.abs() { (self.sum - total) + value } else { (value - total) + self.sum };
        }
        self.sum = total;
    }

    fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.accumulate(other.sum);
        self.lost += other.lost;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    fn total(&self) -> f64 {
        self.sum + self.lost
    }
}

impl Cells {
    pub fn new(function: &MetricsFunction) -> Self {
        match function {
            MetricsFunction::Rate | MetricsFunction::CountOverTime => Self::Counts(HashMap::new()),
            MetricsFunction::MinOverTime(_)
            | MetricsFunction::MaxOverTime(_)
            | MetricsFunction::SumOverTime(_)
            | MetricsFunction::AvgOverTime(_) => Self::Sums(HashMap::new()),
            MetricsFunction::QuantileOverTime(name, _) | MetricsFunction::HistogramOverTime(name) => {
                Self::Histograms { cells: HashMap::new(), seconds: is_duration(name) }
            }
            MetricsFunction::Compare { .. } => Self::Comparison(Comparison::default()),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Counts(cells) => cells.values().map(Vec::len).sum(),
            Self::Sums(cells) => cells.values().map(Vec::len).sum(),
            Self::Histograms { cells, .. } => cells.values().flatten().map(|h| h.len().max(1)).sum(),
            Self::Comparison(comparison) => comparison.len(),
        }
    }

    pub fn add(&mut self, other: Self) {
        match (self, other) {
            (Self::Counts(all), Self::Counts(part)) => add_cells(all, part, |a, b| *a += b),
            (Self::Sums(all), Self::Sums(part)) => add_cells(all, part, |a, b| a.merge(&b)),
            (Self::Histograms { cells: all, .. }, Self::Histograms { cells: part, .. }) => {
                add_cells(all, part, |a, b| b.into_iter().for_each(|(power, count)| *a.entry(power).or_default() += count));
            }
            (Self::Comparison(all), Self::Comparison(part)) => all.add(part),
            _ => unreachable!("parts of one query are of one kind"),
        }
    }

    /// The series, each with those of the exemplars that are of its group.
    pub fn into_series(self, query: &MetricsQuery, intervals: &Intervals, exemplars: &Exemplars) -> Vec<Series> {
        let measured = measured(&query.function);
        let mut chosen: HashMap<GroupKey, Vec<(Option<Value>, Exemplar)>> = HashMap::new();
        for (group, value, exemplar) in exemplars.by_group(query, measured) {
            chosen.entry(group).or_default().push((value, exemplar));
        }
        let mut of_group = |key: &GroupKey| chosen.remove(key).unwrap_or_default().into_iter();
        match (self, &query.function) {
            (Self::Counts(cells), function) => {
                let per = if matches!(function, MetricsFunction::Rate) { intervals.step_seconds() } else { 1.0 };
                let value = |count: &u64| Some(if *count == 0 { 0.0 } else { *count as f64 / per });
                from_cells(cells, query, value, |key| of_group(key).map(|(_, exemplar)| exemplar).collect())
            }
            (Self::Sums(cells), function) => from_cells(cells, query, |sum: &Sum| {
                let value = match function {
                    // Not-a-number is neither least nor greatest.
                    MetricsFunction::MinOverTime(_) | MetricsFunction::MaxOverTime(_) if sum.min > sum.max => None,
                    MetricsFunction::MinOverTime(_) => Some(sum.min),
                    MetricsFunction::MaxOverTime(_) => Some(sum.max),
                    MetricsFunction::AvgOverTime(_) => Some(sum.total() / sum.count as f64),
                    _ => Some(sum.total()),
                };
                value.filter(|v| sum.count > 0 && !v.is_nan())
            }, |key| {
                let unit = measured.map_or(1.0, unit);
                let shown = |(value, exemplar): (Option<Value>, Exemplar)| {
                    Some(Exemplar { value: Some(value?.number()?.as_f64() / unit), ..exemplar })
                };
                of_group(key).filter_map(shown).collect()
            }),
            (Self::Histograms { cells, seconds }, MetricsFunction::QuantileOverTime(_, quantiles)) => {
                let mut all = vec![];
                for (key, cells) in cells {
                    let first = all.len();
                    for q in quantiles {
                        let mut labels = group_labels(query, &key, false);
                        labels.push(number_label("p", *q));
                        all.push(Series::new(labels, cells.iter().map(|h| Some(quantile(h, *q, seconds))).collect()));
                    }
                    // To the quantile that is nearest, of equally near ones the first.
                    for (number, exemplar) in of_group(&key).filter_map(counted) {
                        let value = number as f64 / if seconds { 1e9 } else { 1.0 };
                        let off = |series: &Series| series.values[exemplar.interval].map_or(f64::INFINITY, |sample| (sample - value).abs());
                        let nearest = all[first..].iter_mut().min_by(|a, b| off(a).total_cmp(&off(b)));
                        nearest.into_iter().for_each(|series| series.exemplars.push(Exemplar { value: Some(value), ..exemplar.clone() }));
                    }
                }
                all
            }
            (Self::Histograms { cells, seconds }, _) => {
                let mut all = vec![];
                for (key, cells) in cells {
                    let mut powers: Vec<u8> = cells.iter().flat_map(|h| h.keys().copied()).collect();
                    powers.sort_unstable();
                    powers.dedup();
                    let first = all.len();
                    for power in &powers {
                        let mut labels = group_labels(query, &key, false);
                        labels.push(number_label("__bucket", bound(*power, seconds)));
                        let values = cells.iter().map(|h| Some(h.get(power).copied().unwrap_or(0) as f64)).collect();
                        all.push(Series::new(labels, values));
                    }
                    for (number, exemplar) in of_group(&key).filter_map(counted) {
                        let bucket = power_above(number).and_then(|power| powers.binary_search(&power).ok());
                        let value = number as f64 / if seconds { 1e9 } else { 1.0 };
                        bucket.into_iter().for_each(|at| all[first + at].exemplars.push(Exemplar { value: Some(value), ..exemplar.clone() }));
                    }
                }
                all
            }
            (Self::Comparison(comparison), MetricsFunction::Compare { top_n, .. }) => {
                let top = top_n.and_then(|n| usize::try_from(n).ok()).unwrap_or(10);
                comparison.into_series(top, intervals.count)
            }
            (Self::Comparison(_), _) => unreachable!("only compare() compares"),
        }
    }
}

fn add_cells<T: Default + Clone>(all: &mut HashMap<GroupKey, Vec<T>>, part: HashMap<GroupKey, Vec<T>>, add: impl Fn(&mut T, T)) {
    for (key, cells) in part {
        match all.entry(key) {
            std::collections::hash_map::Entry::Occupied(mut known) => {
                known.get_mut().iter_mut().zip(cells).for_each(|(a, b)| add(a, b));
            }
            std::collections::hash_map::Entry::Vacant(new) => {
                new.insert(cells);
            }
        }
    }
}

fn from_cells<T>(
    cells: HashMap<GroupKey, Vec<T>>,
    query: &MetricsQuery,
    value: impl Fn(&T) -> Option<f64>,
    mut exemplars: impl FnMut(&GroupKey) -> Vec<Exemplar>,
) -> Vec<Series> {
    let series = |(key, cells): (GroupKey, Vec<T>)| Series {
        labels: group_labels(query, &key, true),
        values: cells.iter().map(&value).collect(),
        exemplars: exemplars(&key),
    };
    cells.into_iter().map(series).collect()
}

/// What a histogram counts.
fn counted((value, exemplar): (Option<Value>, Exemplar)) -> Option<(i64, Exemplar)> {
    match value?.number()? {
        Number::Int(number) => Some((number, exemplar)),
        Number::Float(_) => None,
    }
}

/// The name whose values are measured.
pub fn measured(function: &MetricsFunction) -> Option<&Attribute> {
    match function {
        MetricsFunction::Rate | MetricsFunction::CountOverTime | MetricsFunction::Compare { .. } => None,
        MetricsFunction::MinOverTime(name)
        | MetricsFunction::MaxOverTime(name)
        | MetricsFunction::SumOverTime(name)
        | MetricsFunction::AvgOverTime(name)
        | MetricsFunction::QuantileOverTime(name, _)
        | MetricsFunction::HistogramOverTime(name) => Some(name),
    }
}

/// Only a span's own duration is in seconds; other durations stay nanoseconds.
fn unit(name: &Attribute) -> f64 {
    if matches!(name.name, AttributeName::Intrinsic(Intrinsic::Duration)) { 1e9 } else { 1.0 }
}

fn is_duration(name: &Attribute) -> bool {
    matches!(
        name.name,
        AttributeName::Intrinsic(Intrinsic::Duration | Intrinsic::TraceDuration | Intrinsic::EventTimeSinceStart)
    )
}

/// Counts the rows (`selected` of them, or all) into the cells of their groups and intervals, and looks for exemplars.
pub fn fill(
    rows: &TraceRows,
    selected: Option<&[u32]>,
    function: &MetricsFunction,
    by: &[Attribute],
    intervals: &Intervals,
    exemplars: &mut Exemplars,
) -> Result<Cells, QueryError> {
    let mut cells = Cells::new(function);
    let Some(starts) = rows.records.column_by_name(schema::START_TIME) else {
        return Ok(cells);
    };
    let groups = groups(rows, by);
    few_cells(groups.keys.len().saturating_mul(intervals.count))?;
    exemplars.look(rows, selected, &groups, measured(function), intervals)?;
    let counted = Counted { starts: starts.as_primitive::<Int64Type>().values(), groups: &groups.numbers, intervals, selected };
    match (&mut cells, function) {
        (Cells::Counts(cells), _) => {
            let mut table = Table::<u64>::new(groups.keys.len(), intervals.count);
            counted.each(|_, group, interval| *table.cell(group, interval) += 1);
            *cells = table.by_key(&groups.keys);
        }
        (
            Cells::Sums(cells),
            MetricsFunction::MinOverTime(name)
            | MetricsFunction::MaxOverTime(name)
            | MetricsFunction::SumOverTime(name)
            | MetricsFunction::AvgOverTime(name),
        ) => {
            let scale = unit(name);
            let mut table = Table::<Sum>::new(groups.keys.len(), intervals.count);
            match Numbers::of(rows, name) {
                Numbers::Whole(numbers) => {
                    counted.each(|row, group, interval| table.cell(group, interval).add(numbers[row] as f64 / scale));
                }
                Numbers::Any(reader) => counted.each(|row, group, interval| {
                    if let Some(number) = reader.first(row).and_then(|v| v.number()) {
                        table.cell(group, interval).add(number.as_f64() / scale);
                    }
                }),
            }
            *cells = table.by_key(&groups.keys);
        }
        (Cells::Histograms { cells, .. }, MetricsFunction::QuantileOverTime(name, _) | MetricsFunction::HistogramOverTime(name)) => {
            let mut table = Table::<Powers>::new(groups.keys.len(), intervals.count);
            match Numbers::of(rows, name) {
                Numbers::Whole(numbers) => counted.each(|row, group, interval| {
                    if let Some(power) = power_above(numbers[row]) {
                        table.cell(group, interval).count(power);
                    }
                }),
                Numbers::Any(reader) => counted.each(|row, group, interval| {
                    if let Some(Number::Int(number)) = reader.first(row).and_then(|v| v.number())
                        && let Some(power) = power_above(number)
                    {
                        table.cell(group, interval).count(power);
                    }
                }),
            }
            let by_key = table.by_key(&groups.keys).into_iter();
            *cells = by_key.map(|(key, cells)| (key, cells.iter().map(Powers::counts).collect())).collect();
        }
        _ => unreachable!("cells are made for the function"),
    }
    Ok(cells)
}

/// The rows that count.
struct Counted<'a> {
    starts: &'a [i64],
    groups: &'a [u32],
    intervals: &'a Intervals,
    /// `None`: all.
    selected: Option<&'a [u32]>,
}

impl Counted<'_> {
    /// Calls `work` with row, group and interval of each.
    fn each(&self, mut work: impl FnMut(usize, usize, usize)) {
        let mut count = |row: usize| {
            if let Some(interval) = self.intervals.of(self.starts[row]) {
                work(row, self.groups[row] as usize, interval);
            }
        };
        match self.selected {
            Some(selected) => selected.iter().for_each(|row| count(*row as usize)),
            None => (0..self.starts.len()).for_each(count),
        }
    }
}

/// The values of one name, as numbers.
enum Numbers<'a> {
    /// One on every row.
    Whole(&'a [i64]),
    Any(Reader),
}

impl<'a> Numbers<'a> {
    fn of(rows: &'a TraceRows, name: &Attribute) -> Self {
        let places = rows.layout.places(name);
        let column = match places.single() {
            Some(Place::Fixed { column, reading: Reading::Duration }) => rows.records.column_by_name(column),
            Some(Place::Promoted { column, kind: AttributeType::Long }) => rows.records.column_by_name(column),
            _ => None,
        };
        match column.and_then(|c| c.as_primitive_opt::<Int64Type>()).filter(|numbers| numbers.null_count() == 0) {
            Some(numbers) => Self::Whole(numbers.values()),
            None => Self::Any(Reader::new(&places, &rows.records)),
        }
    }
}

/// Values by the power of two that bounds them from above. Made with the first value: most cells have none.
#[derive(Clone, Default)]
struct Powers(Option<Box<[u32; 65]>>);

impl Powers {
    fn count(&mut self, power: u8) {
        self.0.get_or_insert_with(|| Box::new([0; 65]))[usize::from(power)] += 1;
    }

    fn counts(&self) -> BTreeMap<u8, u64> {
        let counts = self.0.iter().flat_map(|counts| counts.iter().zip(0_u8..));
        counts.filter(|(count, _)| **count > 0).map(|(count, power)| (power, u64::from(*count))).collect()
    }
}

/// Cells by group number and interval, and which groups were met.
struct Table<T> {
    cells: Vec<T>,
    met: Vec<bool>,
    intervals: usize,
}

impl<T: Default + Clone> Table<T> {
    fn new(groups: usize, intervals: usize) -> Self {
        Self { cells: vec![T::default(); groups * intervals], met: vec![false; groups], intervals }
    }

    fn cell(&mut self, group: usize, interval: usize) -> &mut T {
        self.met[group] = true;
        &mut self.cells[group * self.intervals + interval]
    }

    fn by_key(self, keys: &[GroupKey]) -> HashMap<GroupKey, Vec<T>> {
        let rows = self.cells.chunks(self.intervals.max(1));
        let met = self.met;
        keys.iter().zip(rows).zip(met).filter(|(_, met)| *met).map(|((key, cells), _)| (key.clone(), cells.to_vec())).collect()
    }
}

/// The exponent of the smallest power of two that is not below a value of at least 2; others have none.
fn power_above(value: i64) -> Option<u8> {
    (value >= 2).then(|| (64 - (value as u64 - 1).leading_zeros()) as u8)
}

/// The upper bound of a histogram bucket; nanoseconds are shown as seconds.
fn bound(power: u8, seconds: bool) -> f64 {
    2_f64.powi(i32::from(power)) / if seconds { 1e9 } else { 1.0 }
}

/// The duration below which a share of `q` lies, in seconds. Buckets are powers of two of nanoseconds: the exponent of
/// their upper bound, and how many there are in it.
pub fn duration_quantile(histogram: &BTreeMap<u8, u64>, q: f64) -> f64 {
    quantile(histogram, q, true)
}

/// The value below which a share of `q` lies, interpolated exponentially within its bucket.
fn quantile(histogram: &BTreeMap<u8, u64>, q: f64, seconds: bool) -> f64 {
    let total: u64 = histogram.values().sum();
    if total == 0 {
        return 0.0;
    }
    let rank = ((q * total as f64).ceil() as u64).max(1);
    let mut below = 0;
    let mut previous: Option<f64> = None;
    for (power, count) in histogram {
        let upper = bound(*power, seconds);
        if below + count >= rank {
            if below + count == rank {
                return upper;
            }
            let lower = previous.unwrap_or(upper / 2.0);
            let share = (rank - below) as f64 / *count as f64;
            return lower * (share * (upper / lower).log2()).exp2();
        }
        below += count;
        previous = Some(upper);
    }
    previous.unwrap_or(0.0)
}
