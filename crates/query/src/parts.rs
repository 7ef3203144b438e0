//! The rows of split traces in one block, and what is true of their whole traces.
//!
//! What a row says of its own span is right wherever it lies. Two things are not: the whole-trace columns
//! (`block::whole_trace`), which were computed over the rows of one block, and that the span counts: one that was delivered
//! twice may lie in two blocks. Both stand here, so that split traces are looked at where they lie, and merged only where
//! their spans are related to each other.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    mem::size_of,
    ops::Range,
    sync::{Arc, LazyLock, OnceLock},
};

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, BooleanBufferBuilder, DictionaryArray, Int32Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray, new_null_array},
    buffer::NullBuffer,
    compute::{cast, filter_record_batch},
    datatypes::{Field, FieldRef, Int32Type, Int64Type, Schema},
};
use block::{schema, whole_trace};
use model::TraceId;

use crate::{
    request::{QueryError, TimeRange},
    scan::Scan,
    trace_index::{BYTES_PER_TRACE, TraceIndex},
};

/// Columns that a block lacks if no part of a trace in it has a root.
const ROOT_COLUMNS: [&str; 2] = [schema::ROOT_SERVICE_NAME, schema::ROOT_SPAN_NAME];
/// No text.
const NONE: u32 = u32::MAX;

/// What is known of a block's rows of split traces, by row group.
#[derive(Clone, Debug, Default)]
pub struct BlockParts {
    row_groups: BTreeMap<usize, Arc<PartRows>>,
}

/// The rows of split traces in one row group.
#[derive(Clone, Debug, Default)]
pub struct PartRows {
    /// In the order of their rows, which is that of their ids.
    parts: Vec<TracePart>,
    /// Of the rows of `parts`, one after the other: left, right, parent, children.
    numbers: Vec<[i32; 4]>,
    texts: Vec<Arc<str>>,
    /// Rows of spans that lie in an earlier block too, and their traces; ascending.
    copies: Vec<(u32, TraceId)>,
    /// Of all traces of the row group, with the whole-trace times of the split ones. Made when first asked for.
    traces: OnceLock<Arc<TraceIndex>>,
    /// Where the numbers of each part begin. Made when first asked for.
    begins: OnceLock<Vec<u32>>,
}

/// The rows of one trace.
#[derive(Clone, Copy, Debug)]
struct TracePart {
    id: TraceId,
    first: u32,
    rows: u32,
    /// Of the whole trace, in Unix nanoseconds.
    start: i64,
    duration: i64,
    /// Among the texts.
    root_service: u32,
    root_name: u32,
}

/// What is the same on all rows of a trace.
#[derive(Clone, Copy, Debug)]
pub struct WholeValues<'a> {
    pub start: i64,
    pub duration: i64,
    pub root_service: Option<&'a str>,
    pub root_name: Option<&'a str>,
}

impl BlockParts {
    /// Whether a row group has rows of split traces.
    pub fn has(&self, row_group: usize) -> bool {
        self.row_groups.contains_key(&row_group)
    }

    /// Those of a row group; empty ones if it has none but another has some, `None` if no row group has.
    pub fn of(&self, row_group: usize) -> Option<&Arc<PartRows>> {
        static NO_ROWS: LazyLock<Arc<PartRows>> = LazyLock::new(Arc::default);
        (!self.is_empty()).then(|| self.row_groups.get(&row_group).unwrap_or(&NO_ROWS))
    }

    pub fn has_copies(&self) -> bool {
        self.row_groups.values().any(|rows| !rows.copies.is_empty())
    }

    pub fn is_empty(&self) -> bool {
        self.row_groups.is_empty()
    }

    /// From the earliest start of a trace that has a part here to the latest end.
    pub fn reach(&self) -> Option<TimeRange> {
        let parts = || self.row_groups.values().flat_map(|rows| &rows.parts);
        let start = parts().map(|part| part.start).min()?;
        Some(TimeRange { start, end: parts().map(|part| part.start.saturating_add(part.duration)).max().unwrap_or(start) })
    }

    /// Adds rows of traces that were not known here.
    pub fn add(&mut self, row_group: usize, rows: PartRows) {
        let known = self.row_groups.entry(row_group).or_default();
        Arc::make_mut(known).absorb(rows);
    }

    /// Forgets some traces; says whether it knew one of them.
    pub fn forget(&mut self, ids: &HashSet<TraceId>) -> bool {
        let mut knew = false;
        self.row_groups.retain(|_, rows| {
            let known = rows.parts.iter().any(|part| ids.contains(&part.id)) || rows.copies.iter().any(|(_, id)| ids.contains(id));
            if known {
                Arc::make_mut(rows).forget(ids);
                knew = true;
            }
            !rows.parts.is_empty() || !rows.copies.is_empty()
        });
        knew
    }

    /// About what it takes in memory.
    pub fn bytes(&self) -> u64 {
        self.row_groups.values().map(|rows| rows.bytes()).sum()
    }
}

/// The columns of a block whose parts are known: also those of roots, which may lie elsewhere.
pub fn with_root_columns(schema: &Schema) -> Schema {
    let missing = ROOT_COLUMNS.into_iter().filter(|name| schema.index_of(name).is_err());
    let missing = missing.map(|name| Arc::new(Field::new(name, schema::dictionary(), true)));
    Schema::new(schema.fields().iter().cloned().chain(missing).collect::<Vec<FieldRef>>())
}

impl PartRows {
    /// Adds the rows of a trace from row `first` on; rows ascend from call to call. Each has the numbers of its place in the trace.
    pub fn push(&mut self, id: TraceId, first: u32, numbers: &[[i32; 4]], whole: WholeValues<'_>, texts: &mut Texts) {
        let mut number = |text: Option<&str>| text.map_or(NONE, |text| texts.number(text, &mut self.texts));
        let (root_service, root_name) = (number(whole.root_service), number(whole.root_name));
        let rows = numbers.len() as u32;
        self.parts.push(TracePart { id, first, rows, start: whole.start, duration: whole.duration, root_service, root_name });
        self.numbers.extend_from_slice(numbers);
    }

    /// Notes that the span of a row lies in an earlier block too; rows ascend from call to call.
    pub fn push_copy(&mut self, row: u32, id: TraceId) {
        self.copies.push((row, id));
    }

    /// The traces, and when each starts.
    pub fn starts(&self) -> impl Iterator<Item = (TraceId, i64)> {
        self.parts.iter().map(|part| (part.id, part.start))
    }

    /// Forgets the whole-trace values and keeps the copies.
    pub fn without_values(self) -> Self {
        Self { copies: self.copies, ..Self::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.copies.is_empty()
    }

    /// About what it takes in memory, with an index of its traces.
    pub fn bytes(&self) -> u64 {
        let texts: usize = self.texts.iter().map(|text| text.len() + 32).sum();
        let rows = self.numbers.len() * size_of::<[i32; 4]>() + self.copies.len() * size_of::<(u32, TraceId)>();
        (self.parts.len() * (size_of::<TracePart>() + size_of::<u32>() + BYTES_PER_TRACE) + rows + texts) as u64
    }

    fn absorb(&mut self, other: Self) {
        (self.traces, self.begins) = (OnceLock::new(), OnceLock::new());
        let mut texts = Texts::of(&self.texts);
        let numbers: Vec<u32> = other.texts.iter().map(|text| texts.number(text, &mut self.texts)).collect();
        let number = |text: u32| if text == NONE { NONE } else { numbers[text as usize] };
        let follows = self.parts.last().zip(other.parts.first()).is_none_or(|(last, next)| last.first < next.first);
        self.parts.extend(other.parts.into_iter().map(|part| TracePart {
            root_service: number(part.root_service),
            root_name: number(part.root_name),
            ..part
        }));
        self.numbers.extend(other.numbers);
        if !follows {
            self.sort();
        }
        self.copies.extend(other.copies);
        self.copies.sort_unstable();
    }

    fn sort(&mut self) {
        let mut placed: Vec<(TracePart, usize)> = vec![];
        let mut at = 0;
        for part in &self.parts {
            placed.push((*part, at));
            at += part.rows as usize;
        }
        placed.sort_unstable_by_key(|(part, _)| part.first);
        self.numbers = placed.iter().flat_map(|(part, at)| &self.numbers[*at..*at + part.rows as usize]).copied().collect();
        self.parts = placed.into_iter().map(|(part, _)| part).collect();
    }

    fn forget(&mut self, ids: &HashSet<TraceId>) {
        (self.traces, self.begins) = (OnceLock::new(), OnceLock::new());
        let (mut parts, mut numbers, mut at) = (vec![], vec![], 0);
        for part in &self.parts {
            let rows = at..at + part.rows as usize;
            at = rows.end;
            if !ids.contains(&part.id) {
                parts.push(*part);
                numbers.extend_from_slice(&self.numbers[rows]);
            }
        }
        (self.parts, self.numbers) = (parts, numbers);
        self.copies.retain(|(_, id)| !ids.contains(id));
    }

    /// Whether a scan of a block that has the columns of `schema` would see something that is not so.
    pub fn concern(&self, scan: &Scan, schema: &Schema) -> bool {
        let asked = |name: &str| {
            let columns = scan.columns.as_ref().is_none_or(|columns| columns.iter().any(|column| column == name));
            columns || scan.predicate.as_ref().is_some_and(|predicate| predicate.columns.contains(name))
        };
        let values = || whole_trace::COLUMNS.into_iter().any(asked);
        let lacks = || ROOT_COLUMNS.into_iter().any(|name| asked(name) && schema.index_of(name).is_err());
        !self.copies.is_empty() || (!self.parts.is_empty() && values()) || lacks()
    }

    /// The rows as they are in whole traces, without copies. `rows` are their numbers, ascending, of each trace all; `None` if
    /// they are all of the row group.
    pub fn applied(&self, batch: &RecordBatch, rows: Option<&[u32]>, scan: &Scan) -> Result<RecordBatch, QueryError> {
        let needed = scan.needed();
        let whole = self.with_values(batch, rows, |name| needed.as_ref().is_none_or(|needed| needed.contains(name)))?;
        match self.counting(rows, whole.num_rows()) {
            Some(counting) => filter_record_batch(&whole, &counting).map_err(QueryError::internal),
            None => Ok(whole),
        }
    }

    /// The rows with the values of whole traces; copies are still there. `lacking` says of a column that the rows may lack whether
    /// it is wanted.
    pub fn with_values(&self, batch: &RecordBatch, rows: Option<&[u32]>, lacking: impl Fn(&str) -> bool) -> Result<RecordBatch, QueryError> {
        let (mut fields, mut columns) = (vec![], vec![]);
        for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            let column = self.column(field.name(), column, rows)?;
            fields.push(Arc::new(Field::new(field.name(), column.data_type().clone(), field.is_nullable())));
            columns.push(column);
        }
        for name in ROOT_COLUMNS {
            if batch.column_by_name(name).is_none() && lacking(name) {
                let nulls = new_null_array(&schema::dictionary(), batch.num_rows());
                columns.push(self.column(name, &nulls, rows)?);
                fields.push(Arc::new(Field::new(name, schema::dictionary(), true)));
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options).map_err(QueryError::internal)
    }

    /// Which of `count` rows are no copies of spans that lie in an earlier block; `None` if all are none. `rows` as above.
    pub fn counting(&self, rows: Option<&[u32]>, count: usize) -> Option<BooleanArray> {
        let position = |row: u32| match rows {
            None => Some(row as usize),
            Some(rows) => rows.binary_search(&row).ok(),
        };
        let mut copies = self.copies.iter().filter_map(|(row, _)| position(*row)).peekable();
        copies.peek()?;
        let mut keep = BooleanBufferBuilder::new(count);
        keep.append_n(count, true);
        copies.for_each(|position| keep.set_bit(position, false));
        Some(BooleanArray::new(keep.finish(), None))
    }

    /// The traces of the row group, of which `lying` says what its own block does.
    pub fn traces(&self, lying: &Arc<TraceIndex>) -> Arc<TraceIndex> {
        if self.parts.is_empty() {
            return Arc::clone(lying);
        }
        let times = || self.parts.iter().map(|part| (lying.of_row(part.first), part.start, part.duration));
        Arc::clone(self.traces.get_or_init(|| Arc::new(lying.with_times(times()))))
    }

    fn column(&self, name: &str, column: &ArrayRef, rows: Option<&[u32]>) -> Result<ArrayRef, QueryError> {
        let times = |of: fn(&TracePart) -> i64| -> ArrayRef {
            let mut values = column.as_primitive::<Int64Type>().values().to_vec();
            self.each(rows, |positions, part, _| values[positions].fill(of(part)));
            Arc::new(Int64Array::from(values))
        };
        let numbers = |which: usize| -> ArrayRef {
            let mut values = column.as_primitive::<Int32Type>().values().to_vec();
            self.each(rows, |positions, _, numbers| {
                values[positions].iter_mut().zip(numbers).for_each(|(value, numbers)| *value = numbers[which]);
            });
            Arc::new(Int32Array::from(values))
        };
        Ok(match name {
            schema::TRACE_START => times(|part| part.start),
            schema::TRACE_DURATION => times(|part| part.duration),
            schema::NESTED_LEFT => numbers(0),
            schema::NESTED_RIGHT => numbers(1),
            schema::NESTED_PARENT => numbers(2),
            schema::CHILD_COUNT => numbers(3),
            schema::ROOT_SERVICE_NAME => self.names(column, rows, |part| part.root_service)?,
            schema::ROOT_SPAN_NAME => self.names(column, rows, |part| part.root_name)?,
            _ => Arc::clone(column),
        })
    }

    /// A column of names with those of whole traces. Each text has one number.
    fn names(&self, column: &ArrayRef, rows: Option<&[u32]>, of: fn(&TracePart) -> u32) -> Result<ArrayRef, QueryError> {
        let column = cast(column, &schema::dictionary()).map_err(QueryError::internal)?;
        let dictionary = column.as_dictionary::<Int32Type>();
        let mut texts: Vec<Option<&str>> = dictionary.values().as_string::<i32>().iter().collect();
        let ours: HashMap<&str, usize> = self.texts.iter().enumerate().map(|(at, text)| (&**text, at)).collect();
        let mut codes: Vec<Option<i32>> = vec![None; self.texts.len()];
        for (code, text) in texts.iter().enumerate() {
            if let Some(at) = text.and_then(|text| ours.get(text)) {
                codes[*at].get_or_insert(code as i32);
            }
        }
        for (code, text) in codes.iter_mut().zip(&self.texts) {
            if code.is_none() {
                *code = Some(texts.len() as i32);
                texts.push(Some(text));
            }
        }
        let mut keys = dictionary.keys().values().to_vec();
        let mut valid = BooleanBufferBuilder::new(keys.len());
        match dictionary.keys().nulls() {
            Some(nulls) => valid.append_buffer(nulls.inner()),
            None => valid.append_n(keys.len(), true),
        }
        self.each(rows, |positions, part, _| {
            let code = codes.get(of(part) as usize).copied().flatten();
            for position in positions {
                keys[position] = code.unwrap_or(0);
                valid.set_bit(position, code.is_some());
            }
        });
        let keys = Int32Array::new(keys.into(), Some(NullBuffer::new(valid.finish())).filter(|nulls| nulls.null_count() > 0));
        let values = Arc::new(StringArray::from(texts));
        Ok(Arc::new(DictionaryArray::try_new(keys, values).map_err(QueryError::internal)?))
    }

    /// Calls `each` for every part with rows among `rows`: their positions, the part, and the numbers of these rows.
    fn each<'a>(&'a self, rows: Option<&[u32]>, mut each: impl FnMut(Range<usize>, &TracePart, &'a [[i32; 4]])) {
        let mut found = |part: usize, first: usize| {
            let begin = self.begins()[part] as usize;
            let part = &self.parts[part];
            let rows = part.rows as usize;
            each(first..first + rows, part, &self.numbers[begin..begin + rows]);
        };
        let Some(rows) = rows else {
            (0..self.parts.len()).for_each(|part| found(part, self.parts[part].first as usize));
            return;
        };
        // Some rows of many traces: each part is looked for among those behind the last.
        let (mut position, mut part) = (0, 0);
        while position < rows.len() {
            part += self.parts[part..].partition_point(|part| part.first < rows[position]);
            match self.parts.get(part) {
                Some(next) if next.first == rows[position] => {
                    found(part, position);
                    position += next.rows as usize;
                }
                Some(next) => position += rows[position..].partition_point(|row| *row < next.first),
                None => break,
            }
        }
    }

    /// Where the numbers of each part begin.
    fn begins(&self) -> &[u32] {
        self.begins.get_or_init(|| {
            let mut begin = 0;
            let begins = self.parts.iter().map(|part| {
                begin += part.rows;
                begin - part.rows
            });
            begins.collect()
        })
    }
}

/// Numbers of texts.
#[derive(Default)]
pub struct Texts(HashMap<Arc<str>, u32>);

impl Texts {
    fn of(texts: &[Arc<str>]) -> Self {
        Self(texts.iter().zip(0..).map(|(text, number)| (Arc::clone(text), number)).collect())
    }

    fn number(&mut self, text: &str, all: &mut Vec<Arc<str>>) -> u32 {
        if let Some(number) = self.0.get(text) {
            return *number;
        }
        let (number, text): (u32, Arc<str>) = (all.len() as u32, text.into());
        all.push(Arc::clone(&text));
        self.0.insert(text, number);
        number
    }
}
