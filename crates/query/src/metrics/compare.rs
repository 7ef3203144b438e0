//! `compare()`: how the values of every attribute differ between selected spans and the rest.

use std::collections::{BTreeMap, HashMap, hash_map::Entry};

use arrow::{array::AsArray, datatypes::Int64Type};
use block::schema;
use model::AttributeScope;
use traceql::ast::{Attribute, AttributeName, FieldExpr, Intrinsic, Scope, SpanOfName};

use super::{
    cells::Cells,
    few_cells,
    groups::{GroupValue, column_codes},
    intervals::Intervals,
    series::{Series, word_label},
};
use crate::{
    conditions::matching,
    expected::EXPECTED,
    layout::Layout,
    memory::{Held, PIECE_BYTES, entry_bytes, text_bytes},
    predicate::compile,
    reader::Reader,
    reads::Reads,
    request::QueryError,
    shown::key_value,
    traces::TraceRows,
    value::Value,
};

const INTRINSICS: [Intrinsic; 9] = [
    Intrinsic::Name,
    Intrinsic::Kind,
    Intrinsic::Status,
    Intrinsic::StatusMessage,
    Intrinsic::RootName,
    Intrinsic::RootServiceName,
    Intrinsic::ChildCount,
    Intrinsic::InstrumentationName,
    Intrinsic::InstrumentationVersion,
];

/// Which side of the comparison.
const SIDES: [(&str, &str); 2] = [("baseline", "baseline_total"), ("selection", "selection_total")];

/// Spans by value and interval.
type ByValue = HashMap<GroupValue, Vec<u64>>;

/// Spans by side, attribute, value and interval.
#[derive(Clone, Default)]
pub struct Comparison {
    sides: [BTreeMap<String, ByValue>; 2],
}

/// A span that counts.
struct Counted {
    row: usize,
    side: usize,
    interval: usize,
}

impl Comparison {
    /// Values times intervals.
    pub fn len(&self) -> usize {
        let of_name = |values: &ByValue| values.len() * values.values().next().map_or(0, Vec::len);
        self.sides.iter().flat_map(BTreeMap::values).map(of_name).sum()
    }

    /// What the counts take.
    pub fn heap_bytes(&self) -> usize {
        let names = self.sides.iter().flatten();
        names.map(|(name, values)| name_bytes(name) + values.iter().map(|(value, counts)| counts_bytes(value, counts.len())).sum::<usize>()).sum()
    }

    fn insert(&mut self, name: &str, counts: [ByValue; 2]) {
        for (side, counts) in self.sides.iter_mut().zip(counts).filter(|(_, counts)| !counts.is_empty()) {
            side.insert(name.to_owned(), counts);
        }
    }

    /// Returns how much less both take now.
    pub fn add(&mut self, other: Self) -> usize {
        let mut freed = 0;
        for (all, part) in self.sides.iter_mut().zip(other.sides) {
            for (name, values) in part {
                let Some(known) = all.get_mut(&name) else {
                    all.insert(name, values);
                    continue;
                };
                freed += name_bytes(&name);
                for (value, counts) in values {
                    match known.get_mut(&value) {
                        Some(known) => {
                            freed += counts_bytes(&value, counts.len());
                            known.iter_mut().zip(counts).for_each(|(a, b)| *a += b);
                        }
                        None => {
                            known.insert(value, counts);
                        }
                    }
                }
            }
        }
        freed
    }

    /// The `top` most frequent values of each attribute, and the totals. `held` is what the counts take, and then what the
    /// series do.
    ///
    /// # Errors
    /// `BudgetExceeded` if the series take more memory than there is.
    pub fn into_series(self, top: usize, intervals: usize, held: &mut Held) -> Result<Vec<Series>, QueryError> {
        let mut all = vec![];
        for ((side, total_side), names) in SIDES.into_iter().zip(self.sides) {
            for (name, values) in names {
                let mut total = vec![0_u64; intervals];
                for counts in values.values() {
                    total.iter_mut().zip(counts).for_each(|(a, b)| *a += b);
                }
                // Values in their order, with what orders them.
                let mut ordering = held.beside();
                let order_bytes = |value: &GroupValue| size_of::<(GroupValue, Vec<u64>, u64, String)>() + 2 * (value.heap_bytes() + PIECE_BYTES);
                ordering.grow(values.keys().map(order_bytes).sum())?;
                let freed = name_bytes(&name) + values.iter().map(|(value, counts)| counts_bytes(value, counts.len())).sum::<usize>();
                let mut values: Vec<(GroupValue, Vec<u64>)> = values.into_iter().collect();
                values.sort_by_cached_key(|(value, counts)| {
                    (std::cmp::Reverse(counts.iter().sum::<u64>()), format!("{:?}", value.0))
                });
                for (value, counts) in values.into_iter().take(top) {
                    let labels = vec![word_label("__meta_type", side), key_value(&name, value.0.as_ref())];
                    all.push(series(labels, &counts, held)?);
                }
                all.push(series(vec![word_label("__meta_type", total_side), key_value(&name, None)], &total, held)?);
                held.shrink(freed);
            }
        }
        Ok(all)
    }
}

fn series(labels: Vec<proto::otlp::common::v1::KeyValue>, counts: &[u64], held: &mut Held) -> Result<Series, QueryError> {
    Series::charged(labels, counts.len(), held, || counts.iter().map(|c| Some(*c as f64)).collect())
}

/// What a name takes, beside its values.
fn name_bytes(name: &str) -> usize {
    text_bytes(name) + entry_bytes::<String, ByValue>()
}

/// What the counts of a value take.
fn counts_bytes(value: &GroupValue, intervals: usize) -> usize {
    entry_bytes::<GroupValue, Vec<u64>>() + value.heap_bytes() + PIECE_BYTES + intervals * size_of::<u64>()
}

/// The columns that [`count`] reads: all but those of ids, events and links, and what `selection` asks for.
pub fn columns(layout: &Layout, selection: &FieldExpr) -> Result<std::collections::BTreeSet<String>, QueryError> {
    const LEFT_OUT: [&str; 5] = [schema::SPAN_ID, schema::PARENT_SPAN_ID, schema::EVENTS, schema::LINKS, schema::TRACE_STATE];
    let all = layout.schema.fields().iter().map(|f| f.name().clone());
    let mut columns: std::collections::BTreeSet<String> = all.filter(|name| !LEFT_OUT.contains(&name.as_str())).collect();
    columns.extend(compile(selection, layout)?.columns);
    Ok(columns)
}

/// What the counts take is charged to `held`.
///
/// # Errors
/// `BudgetExceeded` if they take more memory than there is.
pub fn count(
    rows: &TraceRows,
    selected: Option<&[u32]>,
    (selection, range): (&FieldExpr, Option<(i64, i64)>),
    intervals: &Intervals,
    reads: &Reads,
    held: &mut Held,
) -> Result<Cells, QueryError> {
    let mut comparison = Comparison::default();
    let Some(starts) = rows.records.column_by_name(schema::START_TIME) else {
        return Ok(Cells::Comparison(comparison));
    };
    let starts = starts.as_primitive::<Int64Type>();
    let chosen = matching(&compile(selection, &rows.layout)?, &rows.records, reads)?;
    let in_range = |start: i64| range.is_none_or(|(after, until)| after < start && start <= until);
    let all: Vec<u32>;
    let selected = match selected {
        Some(selected) => selected,
        None => {
            all = (0..rows.records.num_rows() as u32).collect();
            &all
        }
    };
    let mut working = held.beside();
    working.grow(selected.len() * size_of::<Counted>())?;
    // The side and interval of each row that counts.
    let counted: Vec<Counted> = selected
        .iter()
        .filter_map(|row| {
            let row = *row as usize;
            let start = starts.value(row);
            Some(Counted { row, side: usize::from(chosen.value(row) && in_range(start)), interval: intervals.of(start)? })
        })
        .collect();
    let mut made = Made { cells: 0, intervals: intervals.count, held: &mut working };
    for (name, expected) in names(rows) {
        reads.go_on()?;
        let places = rows.layout.places(&name);
        let counts = match places.single().and_then(|place| column_codes(rows, place)) {
            Some((codes, values)) => by_code(&codes, &values, expected, &counted, &mut made)?,
            None => by_row(&Reader::new(&places, &rows.records), expected, &counted, &mut made)?,
        };
        comparison.insert(&name.to_string(), counts);
    }
    drop(working);
    held.grow(comparison.heap_bytes())?;
    Ok(Cells::Comparison(comparison))
}

/// Counts all cells that are made.
struct Made<'a> {
    cells: usize,
    intervals: usize,
    held: &'a mut Held,
}

impl Made<'_> {
    /// Counts of a further value, all nothing.
    fn counts(&mut self, value: &GroupValue) -> Result<Vec<u64>, QueryError> {
        self.cells += self.intervals;
        few_cells(self.cells)?;
        self.held.grow(counts_bytes(value, self.intervals))?;
        Ok(vec![0; self.intervals])
    }
}

fn by_row(reader: &Reader, expected: bool, counted: &[Counted], made: &mut Made) -> Result<[ByValue; 2], QueryError> {
    let mut sides: [ByValue; 2] = Default::default();
    for Counted { row, side, interval } in counted {
        let value = match reader.first(*row) {
            Some(value) => GroupValue(plain(value)),
            None if expected || reader.present(*row) => GroupValue(None),
            None => continue,
        };
        let counts = match sides[*side].entry(value) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let counts = made.counts(new.key())?;
                new.insert(counts)
            }
        };
        counts[*interval] += 1;
    }
    Ok(sides)
}

/// The counts of a name with numbered values, each row of which has one.
fn by_code(
    codes: &[u32],
    values: &[GroupValue],
    expected: bool,
    counted: &[Counted],
    made: &mut Made,
) -> Result<[ByValue; 2], QueryError> {
    let mut numbered = made.held.beside();
    let value_bytes = |value: &GroupValue| size_of::<GroupValue>() + value.heap_bytes() + 2 * size_of::<Vec<u64>>();
    numbered.grow(size_of_val(codes) + values.iter().map(value_bytes).sum::<usize>())?;
    let mut sides = [vec![vec![]; values.len()], vec![vec![]; values.len()]];
    for Counted { row, side, interval } in counted {
        let code = codes[*row] as usize;
        let counts: &mut Vec<u64> = &mut sides[*side][code];
        if counts.is_empty() {
            *counts = made.counts(&values[code])?;
        }
        counts[*interval] += 1;
    }
    Ok(sides.map(|counts| {
        let met = values.iter().zip(counts).filter(|(value, counts)| !counts.is_empty() && (expected || value.0.is_some()));
        met.map(|(value, counts)| (value.clone(), counts)).collect()
    }))
}

/// Nothing for what cannot be told as one value: arrays of several elements, maps, bytes.
fn plain(value: Value) -> Option<Value> {
    Some(value).filter(|value| !matches!(value, Value::Array(_) | Value::Opaque))
}

/// Every name to compare, and whether its absence counts.
fn names(rows: &TraceRows) -> Vec<(Attribute, bool)> {
    let attribute = |name| Attribute { of_parent: false, name, span: SpanOfName::default() };
    let mut names: Vec<(Attribute, bool)> =
        INTRINSICS.map(|i| (attribute(AttributeName::Intrinsic(i)), false)).to_vec();
    for (scope, key, _) in rows.layout.catalogue.iter() {
        let scope = match scope {
            AttributeScope::Resource => Scope::Resource,
            AttributeScope::Span => Scope::Span,
            AttributeScope::Instrumentation => Scope::Instrumentation,
            AttributeScope::Event | AttributeScope::Link => continue,
        };
        if !EXPECTED.contains(&(scope, key)) {
            names.push((attribute(AttributeName::Key { scope: Some(scope), key: key.to_owned() }), false));
        }
    }
    names.extend(EXPECTED.map(|(scope, key)| (attribute(AttributeName::Key { scope: Some(scope), key: key.to_owned() }), true)));
    names
}
