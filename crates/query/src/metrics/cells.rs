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
    groups::{GroupKey, Groups, groups, key_bytes},
    intervals::Intervals,
    series::{Series, group_labels, number_label},
};
use crate::{
    layout::{Place, Reading},
    memory::{Held, PIECE_BYTES, entry_bytes},
    reader::Reader,
    request::QueryError,
    traces::TraceRows,
    value::{Number, Value},
};

#[derive(Clone)]
pub enum Cells {
    Counts(ByGroup<u64>),
    Sums(ByGroup<Sum>),
    Histograms { cells: ByGroup<Histogram>, seconds: bool },
    Comparison(Comparison),
}

/// A cell for each interval, by group.
type ByGroup<T> = HashMap<GroupKey, Vec<T>>;

/// Values by the power of two that bounds them from above.
type Histogram = BTreeMap<u8, u64>;

/// What is known of a group in an interval.
trait Cell {
    fn merge(&mut self, other: Self);

    /// Bytes beside itself.
    fn heap_bytes(&self) -> usize {
        0
    }
}

impl Cell for u64 {
    fn merge(&mut self, other: Self) {
        *self += other;
    }
}

impl Cell for Histogram {
    fn merge(&mut self, other: Self) {
        other.into_iter().for_each(|(power, count)| *self.entry(power).or_default() += count);
    }

    fn heap_bytes(&self) -> usize {
        self.len().div_ceil(HISTOGRAM_NODE_ENTRIES) * HISTOGRAM_NODE_BYTES
    }
}

/// A node of the tree has eleven places, and is half full or more.
const HISTOGRAM_NODE_ENTRIES: usize = 6;
const HISTOGRAM_NODE_BYTES: usize = 11 * size_of::<(u8, u64)>() + PIECE_BYTES;

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

    fn total(&self) -> f64 {
        self.sum + self.lost
    }
}

impl Cell for Sum {
    fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.accumulate(other.sum);
        self.lost += other.lost;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
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

    /// Groups times intervals.
    pub fn len(&self) -> usize {
        fn number<T>(cells: &ByGroup<T>) -> usize {
            cells.len() * cells.values().next().map_or(0, Vec::len)
        }
        match self {
            Self::Counts(cells) => number(cells),
            Self::Sums(cells) => number(cells),
            Self::Histograms { cells, .. } => number(cells),
            Self::Comparison(comparison) => comparison.len(),
        }
    }

    /// What they take.
    pub fn heap_bytes(&self) -> usize {
        fn bytes<T: Cell>(cells: &ByGroup<T>) -> usize {
            cells.iter().map(|(key, cells)| group_bytes(key, cells)).sum()
        }
        match self {
            Self::Counts(cells) => bytes(cells),
            Self::Sums(cells) => bytes(cells),
            Self::Histograms { cells, .. } => bytes(cells),
            Self::Comparison(comparison) => comparison.heap_bytes(),
        }
    }

    /// Returns how much less both take now.
    pub fn add(&mut self, other: Self) -> usize {
        match (self, other) {
            (Self::Counts(all), Self::Counts(part)) => add_cells(all, part),
            (Self::Sums(all), Self::Sums(part)) => add_cells(all, part),
            (Self::Histograms { cells: all, .. }, Self::Histograms { cells: part, .. }) => add_cells(all, part),
            (Self::Comparison(all), Self::Comparison(part)) => all.add(part),
            _ => unreachable!("parts of one query are of one kind"),
        }
    }

    /// The series, each with those of the exemplars that are of its group. `held` is what the cells take, and then what the
    /// series do.
    ///
    /// # Errors
    /// `BudgetExceeded` if the series take more memory than there is.
    pub fn into_series(
        self,
        query: &MetricsQuery,
        intervals: &Intervals,
        exemplars: &Exemplars,
        held: &mut Held,
    ) -> Result<Vec<Series>, QueryError> {
        let measured = measured(&query.function);
        let mut chosen: HashMap<GroupKey, Vec<(Option<Value>, Exemplar)>> = HashMap::new();
        // Labels, and with their series.
        held.grow(2 * exemplars.heap_bytes())?;
        for (group, value, exemplar) in exemplars.by_group(query, measured) {
            chosen.entry(group).or_default().push((value, exemplar));
        }
        let mut of_group = |key: &GroupKey| chosen.remove(key).unwrap_or_default().into_iter();
        match (self, &query.function) {
            (Self::Counts(cells), function) => {
                let per = if matches!(function, MetricsFunction::Rate) { intervals.step_seconds() } else { 1.0 };
                let value = |count: &u64| Some(if *count == 0 { 0.0 } else { *count as f64 / per });
                from_cells(cells, query, held, value, |key| of_group(key).map(|(_, exemplar)| exemplar).collect())
            }
            (Self::Sums(cells), function) => from_cells(cells, query, held, |sum: &Sum| {
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
                        all.push(Series::charged(labels, cells.len(), held, || cells.iter().map(|h| Some(quantile(h, *q, seconds))).collect())?);
                    }
                    // To the quantile that is nearest, of equally near ones the first.
                    for (number, exemplar) in of_group(&key).filter_map(counted) {
                        let value = number as f64 / if seconds { 1e9 } else { 1.0 };
                        let off = |series: &Series| series.values[exemplar.interval].map_or(f64::INFINITY, |sample| (sample - value).abs());
                        let nearest = all[first..].iter_mut().min_by(|a, b| off(a).total_cmp(&off(b)));
                        nearest.into_iter().for_each(|series| series.exemplars.push(Exemplar { value: Some(value), ..exemplar.clone() }));
                    }
                    held.shrink(group_bytes(&key, &cells));
                }
                Ok(all)
            }
            (Self::Histograms { cells, seconds }, _) => {
                let mut all = vec![];
                for (key, cells) in cells {
                    let mut met = [false; 256];
                    cells.iter().flat_map(BTreeMap::keys).for_each(|power| met[usize::from(*power)] = true);
                    let powers: Vec<u8> = (0..=u8::MAX).filter(|power| met[usize::from(*power)]).collect();
                    let first = all.len();
                    for power in &powers {
                        let mut labels = group_labels(query, &key, false);
                        labels.push(number_label("__bucket", bound(*power, seconds)));
                        let values = || cells.iter().map(|h| Some(h.get(power).copied().unwrap_or(0) as f64)).collect();
                        all.push(Series::charged(labels, cells.len(), held, values)?);
                    }
                    for (number, exemplar) in of_group(&key).filter_map(counted) {
                        let bucket = power_above(number).and_then(|power| powers.binary_search(&power).ok());
                        let value = number as f64 / if seconds { 1e9 } else { 1.0 };
                        bucket.into_iter().for_each(|at| all[first + at].exemplars.push(Exemplar { value: Some(value), ..exemplar.clone() }));
                    }
                    held.shrink(group_bytes(&key, &cells));
                }
                Ok(all)
            }
            (Self::Comparison(comparison), MetricsFunction::Compare { top_n, .. }) => {
                let top = top_n.and_then(|n| usize::try_from(n).ok()).unwrap_or(10);
                comparison.into_series(top, intervals.count, held)
            }
            (Self::Comparison(_), _) => unreachable!("only compare() compares"),
        }
    }
}

/// What a group takes in its table. Equal groups with equal cells take equally much.
fn group_bytes<T: Cell>(key: &GroupKey, cells: &[T]) -> usize {
    entry_bytes::<GroupKey, Vec<T>>() + key_bytes(key) + PIECE_BYTES + size_of_val(cells) + cells_bytes(cells)
}

fn cells_bytes<T: Cell>(cells: &[T]) -> usize {
    cells.iter().map(Cell::heap_bytes).sum()
}

/// Returns how much less both take now.
fn add_cells<T: Cell>(all: &mut ByGroup<T>, part: ByGroup<T>) -> usize {
    let mut freed = 0;
    for (key, cells) in part {
        match all.entry(key) {
            std::collections::hash_map::Entry::Occupied(mut known) => {
                freed += group_bytes(known.key(), &cells) + cells_bytes(known.get());
                known.get_mut().iter_mut().zip(cells).for_each(|(a, b)| a.merge(b));
                freed -= cells_bytes(known.get());
            }
            std::collections::hash_map::Entry::Vacant(new) => {
                new.insert(cells);
            }
        }
    }
    freed
}

fn from_cells<T: Cell>(
    cells: ByGroup<T>,
    query: &MetricsQuery,
    held: &mut Held,
    value: impl Fn(&T) -> Option<f64>,
    mut exemplars: impl FnMut(&GroupKey) -> Vec<Exemplar>,
) -> Result<Vec<Series>, QueryError> {
    let series = |(key, cells): (GroupKey, Vec<T>)| {
        let labels = group_labels(query, &key, true);
        let series = Series::charged(labels, cells.len(), held, || cells.iter().map(&value).collect())?;
        held.shrink(group_bytes(&key, &cells));
        Ok::<_, QueryError>(Series { exemplars: exemplars(&key), ..series })
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

/// Counts the rows (`selected` of them, or all) into the cells of their groups and intervals, and looks for exemplars. What
/// the cells take is charged to `held`.
///
/// # Errors
/// `BudgetExceeded` if they take more memory than there is.
pub fn fill(
    rows: &TraceRows,
    selected: Option<&[u32]>,
    (function, by): (&MetricsFunction, &[Attribute]),
    intervals: &Intervals,
    exemplars: &mut Exemplars,
    held: &mut Held,
) -> Result<Cells, QueryError> {
    let mut cells = Cells::new(function);
    let Some(starts) = rows.records.column_by_name(schema::START_TIME) else {
        return Ok(cells);
    };
    let mut working = held.beside();
    let groups = groups(rows, by, &mut working)?;
    exemplars.look(rows, selected, &groups, measured(function), intervals)?;
    let Groups { numbers, keys } = groups;
    let counted = Counted { starts: starts.as_primitive::<Int64Type>().values(), groups: &numbers, intervals, selected };
    let size = counted.groups_met(keys.len()).saturating_mul(intervals.count);
    few_cells(size)?;
    match (&mut cells, function) {
        (Cells::Counts(cells), _) => {
            let mut table = Table::<u64>::new(keys.len(), intervals.count, size, &mut working)?;
            counted.each(|_, group, interval| *table.cell(group, interval) += 1);
            *cells = table.by_key(keys);
        }
        (
            Cells::Sums(cells),
            MetricsFunction::MinOverTime(name)
            | MetricsFunction::MaxOverTime(name)
            | MetricsFunction::SumOverTime(name)
            | MetricsFunction::AvgOverTime(name),
        ) => {
            let scale = unit(name);
            let mut table = Table::<Sum>::new(keys.len(), intervals.count, size, &mut working)?;
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
            *cells = table.by_key(keys);
        }
        (Cells::Histograms { cells, .. }, MetricsFunction::QuantileOverTime(name, _) | MetricsFunction::HistogramOverTime(name)) => {
            let mut table = Table::<Powers>::new(keys.len(), intervals.count, size, &mut working)?;
            // The counts of cells with a value, and the trees that are made of them.
            let most = counted.rows().min(size);
            working.grow(most.saturating_mul(size_of::<[u32; 65]>() + PIECE_BYTES + HISTOGRAM_NODE_BYTES))?;
            working.grow(size.saturating_mul(size_of::<Histogram>()))?;
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
            let by_key = table.by_key(keys).into_iter();
            *cells = by_key.map(|(key, cells)| (key, cells.iter().map(Powers::counts).collect())).collect();
        }
        _ => unreachable!("cells are made for the function"),
    }
    drop(working);
    held.grow(cells.heap_bytes() + exemplars.heap_bytes())?;
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
    /// How many there are at most.
    fn rows(&self) -> usize {
        self.selected.map_or(self.starts.len(), <[u32]>::len)
    }

    /// How many of the groups have a row that counts: all, where every row does.
    fn groups_met(&self, groups: usize) -> usize {
        if self.selected.is_none() {
            return groups;
        }
        let mut met = vec![false; groups];
        self.each(|_, group, _| met[group] = true);
        met.into_iter().filter(|met| *met).count()
    }

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

/// Cells by group number and interval; a group has them once it is met.
struct Table<T> {
    groups: Vec<Vec<T>>,
    intervals: usize,
}

impl<T: Default + Clone> Table<T> {
    /// With `size` cells at most.
    fn new(groups: usize, intervals: usize, size: usize, held: &mut Held) -> Result<Self, QueryError> {
        let rows = groups.saturating_mul(entry_bytes::<GroupKey, Vec<T>>() + PIECE_BYTES);
        held.grow(size.saturating_mul(size_of::<T>()).saturating_add(rows))?;
        Ok(Self { groups: vec![vec![]; groups], intervals })
    }

    fn cell(&mut self, group: usize, interval: usize) -> &mut T {
        let cells = &mut self.groups[group];
        if cells.is_empty() {
            cells.resize(self.intervals, T::default());
        }
        &mut cells[interval]
    }

    fn by_key(self, keys: Vec<GroupKey>) -> ByGroup<T> {
        keys.into_iter().zip(self.groups).filter(|(_, cells)| !cells.is_empty()).collect()
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
