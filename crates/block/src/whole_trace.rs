//! Columns that say something of a whole trace, repeated on each of its rows, and a span's place in its trace.
//!
//! Computed over the rows at hand, which must be sorted by trace id, the spans of a trace in the order in which
//! they were received. Rules: of several spans without a parent id the last received is the root; without one the
//! names are null. Nested-set numbers run depth first from 1 over all roots, roots and children as received;
//! `nested_parent` is the parent's left number, -1 for a root, 0 where the parent is not among the rows.
//! Spans whose place is unknown (parent absent, cycle, and what hangs below) have zeros. If more than two
//! spans share an id, or two that are not the client and server side of one call, the whole trace has zeros.

mod structure;

use std::{collections::HashSet, sync::Arc};

use arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, FixedSizeBinaryArray, Int32Array, Int64Array, ListArray, RecordBatch,
    StringArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{Int32Type, Int64Type};

use crate::error::BlockError;
use crate::schema;
use structure::{NO_PARENT, Numbering, Numbers, Spans};

/// What the whole-trace columns are computed from. All of one length.
pub struct SpanRows<'a> {
    pub trace_ids: &'a FixedSizeBinaryArray,
    pub span_ids: &'a FixedSizeBinaryArray,
    /// Null (or zero) for a root.
    pub parent_span_ids: &'a FixedSizeBinaryArray,
    pub start_times: &'a Int64Array,
    pub durations: &'a Int64Array,
    pub kinds: &'a Int32Array,
    pub names: &'a DictionaryArray<Int32Type>,
    /// Column `resource.service.name`, if there is one.
    pub service_names: Option<&'a DictionaryArray<Int32Type>>,
    /// The resource's key/value list: asked for `service.name` where the column has none.
    pub resource_attributes: Option<&'a ListArray>,
}

/// The columns, in the order of the rows they were computed from.
pub struct WholeTrace {
    pub root_service_names: DictionaryArray<Int32Type>,
    pub root_span_names: DictionaryArray<Int32Type>,
    pub trace_starts: Int64Array,
    pub trace_durations: Int64Array,
    pub nested_left: Int32Array,
    pub nested_right: Int32Array,
    pub nested_parent: Int32Array,
    pub child_count: Int32Array,
}

/// The names of the columns.
pub const COLUMNS: [&str; 8] = [
    schema::ROOT_SERVICE_NAME,
    schema::ROOT_SPAN_NAME,
    schema::TRACE_START,
    schema::TRACE_DURATION,
    schema::NESTED_LEFT,
    schema::NESTED_RIGHT,
    schema::NESTED_PARENT,
    schema::CHILD_COUNT,
];

/// The columns they are computed from, beside those that name the services: the column of [`SERVICE_NAME`] and the resource's
/// key/value list, where rows have them.
pub const NEEDED: [&str; 7] = [
    schema::TRACE_ID,
    schema::SPAN_ID,
    schema::PARENT_SPAN_ID,
    schema::START_TIME,
    schema::DURATION,
    schema::KIND,
    schema::NAME,
];

pub const SERVICE_NAME: &str = "service.name";

/// The spans of one trace that were met, by start, span id and kind: tells re-deliveries.
#[derive(Default)]
pub struct Seen {
    few: Vec<(i64, [u8; 8], u8)>,
    many: HashSet<(i64, [u8; 8], u8)>,
}

impl Seen {
    /// Up to this many are compared one by one, which is faster than hashing.
    const FEW: usize = 24;

    pub fn next_trace(&mut self) {
        self.few.clear();
        self.many.clear();
    }

    /// Whether the span is met for the first time.
    pub fn first(&mut self, span: (i64, [u8; 8], u8)) -> bool {
        if self.many.is_empty() {
            if self.few.contains(&span) {
                return false;
            }
            if self.few.len() < Self::FEW {
                self.few.push(span);
                return true;
            }
            self.many.extend(self.few.drain(..));
        }
        self.many.insert(span)
    }
}

impl<'a> SpanRows<'a> {
    /// Finds the columns by name.
    pub fn of(records: &'a RecordBatch) -> Result<Self, BlockError> {
        fn column<'a, T>(
            records: &'a RecordBatch,
            name: &str,
            cast: impl Fn(&'a ArrayRef) -> Option<T>,
        ) -> Result<T, BlockError> {
            let array = records.column_by_name(name).ok_or_else(|| BlockError::column(name, "is missing"))?;
            cast(array).ok_or_else(|| BlockError::column(name, "has an unexpected type"))
        }
        let service =
            schema::attribute_column(model::AttributeScope::Resource, SERVICE_NAME, model::AttributeType::String);
        Ok(Self {
            trace_ids: column(records, schema::TRACE_ID, |a| a.as_fixed_size_binary_opt())?,
            span_ids: column(records, schema::SPAN_ID, |a| a.as_fixed_size_binary_opt())?,
            parent_span_ids: column(records, schema::PARENT_SPAN_ID, |a| a.as_fixed_size_binary_opt())?,
            start_times: column(records, schema::START_TIME, |a| a.as_primitive_opt::<Int64Type>())?,
            durations: column(records, schema::DURATION, |a| a.as_primitive_opt::<Int64Type>())?,
            kinds: column(records, schema::KIND, |a| a.as_primitive_opt::<Int32Type>())?,
            names: column(records, schema::NAME, |a| a.as_dictionary_opt::<Int32Type>())?,
            service_names: match records.column_by_name(&service) {
                None => None,
                Some(_) => Some(column(records, &service, |a| a.as_dictionary_opt::<Int32Type>())?),
            },
            resource_attributes: match records.column_by_name(schema::RESOURCE_ATTRIBUTES) {
                None => None,
                Some(_) => Some(column(records, schema::RESOURCE_ATTRIBUTES, |a| a.as_list_opt::<i32>())?),
            },
        })
    }

    fn len(&self) -> usize {
        self.trace_ids.len()
    }
}

/// Computes the columns for rows sorted by trace id, the spans of a trace as received.
pub fn compute(rows: &SpanRows<'_>) -> WholeTrace {
    let count = rows.len();
    let ids = be_u64s(rows.span_ids);
    let mut parents = be_u64s(rows.parent_span_ids);
    if let Some(nulls) = rows.parent_span_ids.nulls() {
        for (parent, valid) in parents.iter_mut().zip(nulls) {
            if !valid {
                *parent = NO_PARENT;
            }
        }
    }
    let kinds = rows.kinds.values();
    let starts = rows.start_times.values();
    let durations = rows.durations.values();

    let mut numbering = Numbering::default();
    let (mut left, mut right, mut parent, mut child_count) =
        (vec![0; count], vec![0; count], vec![0; count], vec![0; count]);
    let (mut trace_starts, mut trace_durations) = (vec![0; count], vec![0; count]);
    let mut root_rows: Vec<Option<u32>> = vec![None; count];
    for trace in trace_ranges(rows.trace_ids) {
        numbering.number(
            &Spans { ids: &ids[trace.clone()], parents: &parents[trace.clone()], kinds: &kinds[trace.clone()] },
            &mut Numbers {
                left: &mut left[trace.clone()],
                right: &mut right[trace.clone()],
                parent: &mut parent[trace.clone()],
                child_count: &mut child_count[trace.clone()],
            },
        );
        let start = trace.clone().map(|row| starts[row]).min().unwrap_or_default();
        let end = trace.clone().map(|row| starts[row].saturating_add(durations[row])).max().unwrap_or(start);
        trace_starts[trace.clone()].fill(start);
        trace_durations[trace.clone()].fill(end.saturating_sub(start));
        let root = trace.clone().rfind(|row| parents[*row] == NO_PARENT).map(|row| row as u32);
        root_rows[trace].fill(root);
    }

    WholeTrace {
        root_service_names: root_service_names(rows, &root_rows),
        root_span_names: pick(rows.names, &root_rows),
        trace_starts: trace_starts.into(),
        trace_durations: trace_durations.into(),
        nested_left: left.into(),
        nested_right: right.into(),
        nested_parent: parent.into(),
        child_count: child_count.into(),
    }
}

impl WholeTrace {
    /// The columns by name, in file order.
    pub fn into_columns(self) -> impl Iterator<Item = (&'static str, ArrayRef)> {
        let columns: [ArrayRef; 8] = [
            Arc::new(self.root_service_names),
            Arc::new(self.root_span_names),
            Arc::new(self.trace_starts),
            Arc::new(self.trace_durations),
            Arc::new(self.nested_left),
            Arc::new(self.nested_right),
            Arc::new(self.nested_parent),
            Arc::new(self.child_count),
        ];
        COLUMNS.into_iter().zip(columns)
    }
}

/// The row ranges of equal, consecutive trace ids.
pub fn trace_ranges(trace_ids: &FixedSizeBinaryArray) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
    let count = trace_ids.len();
    let mut begin = 0;
    std::iter::from_fn(move || {
        if begin == count {
            return None;
        }
        let id = trace_ids.value(begin);
        let end = (begin + 1..count).find(|row| trace_ids.value(*row) != id).unwrap_or(count);
        let range = begin..end;
        begin = end;
        Some(range)
    })
}

/// The ids as numbers. Nulls come out as whatever their slot holds.
fn be_u64s(ids: &FixedSizeBinaryArray) -> Vec<u64> {
    (0..ids.len()).map(|row| u64::from_be_bytes(ids.value(row).try_into().expect("span ids have 8 bytes"))).collect()
}

/// `names[root]` for every row; shares the dictionary of `names`.
fn pick(names: &DictionaryArray<Int32Type>, root_rows: &[Option<u32>]) -> DictionaryArray<Int32Type> {
    let keys = names.keys();
    let valid = |root: &Option<u32>| root.is_some_and(|row| keys.is_valid(row as usize));
    let picked = root_rows.iter().map(|root| root.map_or(0, |row| keys.value(row as usize)));
    let nulls = NullBuffer::from_iter(root_rows.iter().map(valid));
    // A null row may hold any key; zero is safe in an empty dictionary too, as nulls are not looked up.
    let picked: Vec<i32> = picked.zip(nulls.iter()).map(|(key, valid)| if valid { key } else { 0 }).collect();
    DictionaryArray::new(Int32Array::new(picked.into(), Some(nulls)), names.values().clone())
}

/// The first string that `service.name` of the root's resource has.
fn root_service_names(rows: &SpanRows<'_>, root_rows: &[Option<u32>]) -> DictionaryArray<Int32Type> {
    // Where another value stands before the first string, the string is in the list although there is a column.
    let lists = rows.resource_attributes.and_then(ServiceNames::new);
    let without_column = |row: &usize| rows.service_names.is_none_or(|names| names.is_null(*row));
    let listed = |root: Option<u32>| lists.as_ref()?.first(root.map(|row| row as usize).filter(without_column)?);
    let mut names: Vec<Option<&str>> = Vec::with_capacity(root_rows.len());
    for (row, root) in root_rows.iter().enumerate() {
        let known = row.checked_sub(1).filter(|last| root_rows[*last] == *root).map(|last| names[last]);
        names.push(known.unwrap_or_else(|| listed(*root)));
    }
    let Some(column) = rows.service_names else {
        return names.into_iter().collect();
    };
    if names.iter().all(Option::is_none) {
        return pick(column, root_rows);
    }
    let texts = column.values().as_string::<i32>();
    let in_column = |root: u32| column.key(root as usize).filter(|key| texts.is_valid(*key)).map(|key| texts.value(key));
    root_rows.iter().zip(names).map(|(root, listed)| root.and_then(in_column).or(listed)).collect()
}

/// The values of `service.name` that are in the resource's key/value list.
struct ServiceNames<'a> {
    lists: &'a ListArray,
    keys: &'a StringArray,
    strings: &'a StringArray,
}

impl<'a> ServiceNames<'a> {
    fn new(lists: &'a ListArray) -> Option<Self> {
        let entries = lists.values().as_struct();
        let text = |name: &str| entries.column_by_name(name)?.as_string_opt::<i32>();
        Some(Self { lists, keys: text(schema::KV_KEY)?, strings: text(schema::KV_STRING)? })
    }

    fn first(&self, row: usize) -> Option<&'a str> {
        let offsets = self.lists.value_offsets();
        let entries = if self.lists.is_valid(row) { offsets[row] as usize..offsets[row + 1] as usize } else { 0..0 };
        let found = entries.into_iter().find(|at| self.keys.value(*at) == SERVICE_NAME && self.strings.is_valid(*at));
        found.map(|at| self.strings.value(at))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::FixedSizeBinaryBuilder;
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    struct Row {
        trace: u8,
        id: u64,
        parent: u64,
        start: i64,
        duration: i64,
        kind: i32,
        name: &'static str,
        service: Option<&'static str>,
    }

    fn row(id: u64, parent: u64, start: i64) -> Row {
        Row { trace: 1, id, parent, start, duration: 10, kind: 1, name: "n", service: Some("s") }
    }

    fn run(rows: &[Row]) -> WholeTrace {
        let mut traces = FixedSizeBinaryBuilder::new(16);
        let mut ids = FixedSizeBinaryBuilder::new(8);
        let mut parents = FixedSizeBinaryBuilder::new(8);
        for row in rows {
            traces.append_value([row.trace; 16]).unwrap();
            ids.append_value(row.id.to_be_bytes()).unwrap();
            match row.parent {
                0 => parents.append_null(),
                parent => parents.append_value(parent.to_be_bytes()).unwrap(),
            }
        }
        let names: DictionaryArray<Int32Type> = rows.iter().map(|row| Some(row.name)).collect();
        let services: DictionaryArray<Int32Type> = rows.iter().map(|row| row.service).collect();
        compute(&SpanRows {
            trace_ids: &traces.finish(),
            span_ids: &ids.finish(),
            parent_span_ids: &parents.finish(),
            start_times: &rows.iter().map(|row| row.start).collect::<Vec<_>>().into(),
            durations: &rows.iter().map(|row| row.duration).collect::<Vec<_>>().into(),
            kinds: &rows.iter().map(|row| row.kind).collect::<Vec<_>>().into(),
            names: &names,
            service_names: Some(&services),
            resource_attributes: None,
        })
    }

    /// (left, right, parent, children) of every row.
    fn numbers(whole: &WholeTrace) -> Vec<(i32, i32, i32, i32)> {
        (0..whole.nested_left.len())
            .map(|at| {
                let value = |array: &Int32Array| array.value(at);
                (
                    value(&whole.nested_left),
                    value(&whole.nested_right),
                    value(&whole.nested_parent),
                    value(&whole.child_count),
                )
            })
            .collect()
    }

    fn check(rows: &[Row], expected: &[(i32, i32, i32, i32)]) {
        assert_eq!(numbers(&run(rows)), expected);
    }

    #[test]
    fn a_tree_is_numbered_depth_first() {
        check(
            &[row(1, 0, 0), row(3, 1, 1), row(2, 1, 2), row(4, 3, 3)],
            &[(1, 8, -1, 2), (2, 5, 1, 1), (6, 7, 1, 0), (3, 4, 2, 0)],
        );
    }

    #[test]
    fn several_roots_share_one_sequence() {
        check(&[row(1, 0, 0), row(2, 0, 1), row(3, 2, 2)], &[(1, 2, -1, 0), (3, 6, -1, 1), (4, 5, 3, 0)]);
    }

    #[test]
    fn spans_below_an_absent_parent_have_zeros_but_count_children() {
        check(&[row(1, 0, 0), row(2, 9, 1), row(3, 2, 2)], &[(1, 2, -1, 0), (0, 0, 0, 1), (0, 0, 0, 0)]);
        check(&[row(2, 9, 1)], &[(0, 0, 0, 0)]);
    }

    #[test]
    fn cycles_have_zeros() {
        check(&[row(1, 0, 0), row(2, 3, 1), row(3, 2, 2)], &[(1, 2, -1, 0), (0, 0, 0, 1), (0, 0, 0, 1)]);
        check(&[row(5, 5, 0)], &[(0, 0, 0, 1)]);
    }

    #[test]
    fn children_of_a_shared_id_are_below_the_server_side() {
        let client = Row { kind: 3, ..row(2, 1, 1) };
        let server = Row { kind: 2, ..row(2, 1, 2) };
        let rows = [row(1, 0, 0), client, server, row(3, 2, 3)];
        check(&rows, &[(1, 8, -1, 2), (2, 3, 1, 0), (4, 7, 1, 1), (5, 6, 4, 0)]);
    }

    #[test]
    fn other_shared_ids_make_the_structure_unknown() {
        let pair = [row(1, 0, 0), row(2, 1, 1), Row { kind: 2, ..row(2, 1, 2) }, row(3, 2, 3)];
        check(&pair, &[(0, 0, 0, 2), (0, 0, 0, 1), (0, 0, 0, 1), (0, 0, 0, 0)]);
        let kinds = [2, 3, 3].map(|kind| Row { kind, ..row(2, 0, 1) });
        check(&kinds, &[(0, 0, 0, 0); 3]);
    }

    #[test]
    fn names_and_times_come_from_the_trace() {
        let other = Row { trace: 2, name: "lost", ..row(1, 9, 5) };
        let root = Row { name: "root", service: Some("front"), duration: 3, ..row(2, 0, 11) };
        let late = Row { name: "late root", duration: 100, ..row(3, 0, 12) };
        let whole = run(&[row(1, 2, 10), root, late, other]);
        let texts = |array: &DictionaryArray<Int32Type>| -> Vec<Option<String>> {
            array.downcast_dict::<StringArray>().unwrap().into_iter().map(|text| text.map(str::to_owned)).collect()
        };
        let expect = |name: &str| -> Vec<Option<String>> {
            [Some(name), Some(name), Some(name), None].into_iter().map(|text| text.map(str::to_owned)).collect()
        };
        assert_eq!(texts(&whole.root_span_names), expect("late root"));
        assert_eq!(texts(&whole.root_service_names), expect("s"));
        assert_eq!(whole.trace_starts.values(), &[10, 10, 10, 5]);
        assert_eq!(whole.trace_durations.values(), &[102, 102, 102, 10]);
    }

    #[test]
    fn a_root_without_a_service_has_a_null_service() {
        let whole = run(&[Row { service: None, ..row(1, 0, 0) }]);
        assert!(whole.root_service_names.is_null(0));
        assert!(whole.root_span_names.is_valid(0));
    }

    #[test]
    fn extreme_shapes_need_no_stack_and_no_square_time() {
        const COUNT: u64 = 1_000_000;
        let chain: Vec<Row> = (1..=COUNT).map(|id| row(id, id - 1, id as i64)).collect();
        let whole = run(&chain);
        assert_eq!(whole.nested_left.value(999_999), COUNT as i32);
        assert_eq!(whole.nested_right.value(0), 2 * COUNT as i32);
        let fan: Vec<Row> = (1..=COUNT).map(|id| row(id, u64::from(id > 1), id as i64)).collect();
        let whole = run(&fan);
        assert_eq!(whole.child_count.value(0), COUNT as i32 - 1);
        assert_eq!(whole.nested_right.value(999_999), 2 * COUNT as i32 - 1);
        let same: Vec<Row> = (1..=COUNT).map(|start| row(7, 7, start as i64)).collect();
        assert_eq!(run(&same).child_count.value(5), COUNT as i32);
    }

    /// The same rules by following ids, for traces without shared ones.
    fn naive(rows: &[Row]) -> Vec<(i32, i32, i32, i32)> {
        fn visit(at: usize, rows: &[Row], number: &mut i32, parent: i32, out: &mut [(i32, i32, i32, i32)]) {
            *number += 1;
            let left = *number;
            out[at].0 = left;
            out[at].2 = parent;
            for child in (0..rows.len()).filter(|child| rows[*child].parent == rows[at].id) {
                visit(child, rows, number, left, out);
            }
            *number += 1;
            out[at].1 = *number;
        }
        let mut out = vec![(0, 0, 0, 0); rows.len()];
        for at in 0..rows.len() {
            out[at].3 = rows.iter().filter(|row| row.parent == rows[at].id).count() as i32;
        }
        let mut number = 0;
        for root in (0..rows.len()).filter(|row| rows[*row].parent == 0) {
            visit(root, rows, &mut number, -1, &mut out);
        }
        out
    }

    proptest! {
        #[test]
        fn agrees_with_a_naive_walk(spans in prop::collection::vec((1u64..40, 0u64..40, 0i64..20), 1..40)) {
            let mut met = HashSet::new();
            let spans = spans.into_iter().filter(|(id, _, _)| met.insert(*id));
            let rows: Vec<Row> = spans.map(|(id, parent, start)| row(id, parent, start)).collect();
            prop_assert_eq!(numbers(&run(&rows)), naive(&rows));
        }
    }
}
