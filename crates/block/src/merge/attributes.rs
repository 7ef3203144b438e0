//! Moves attribute values between columns and key/value lists.
//!
//! Inputs may have promoted different attributes. Of a key that a row has several times, only the first value, of
//! whichever type, can be in a column; the others follow in the list. So it comes in, and so it goes out: values of
//! one key keep their order.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::{Float64Type, Int32Type, Int64Type};
use model::{AttributeScope, AttributeType};

use super::gather::{Dictionary, gather};
use super::kv::{KvView, KvWriter, Value};
use super::order::Run;
use crate::error::BlockError;
use crate::promotion::{AttributeColumn, Promotion};
use crate::schema;

/// The scopes whose attributes can have columns.
const SCOPES: [AttributeScope; 3] = [AttributeScope::Resource, AttributeScope::Span, AttributeScope::Instrumentation];

/// One slot per type a column can have.
type ByType<T> = [T; AttributeType::ALL.len()];

/// The attributes of the rows to merge, counted.
pub(super) struct Attributes<'a> {
    scopes: Vec<ScopeAttributes<'a>>,
}

struct ScopeAttributes<'a> {
    scope: AttributeScope,
    keys: Keys,
    /// On how many rows each (key, type) is set.
    counts: Vec<ByType<u64>>,
    inputs: Vec<Input<'a>>,
}

/// One scope of one input.
struct Input<'a> {
    rows: usize,
    /// The column of each (key, type) that has one and is set on a row to merge.
    columns: Vec<ByType<Option<Column<'a>>>>,
    list: Option<KvView>,
    list_array: Option<&'a ArrayRef>,
    /// First entry of the list column that a row of it refers to, and the keys from there on.
    first_entry: usize,
    entry_keys: Vec<u32>,
}

/// Keys by number.
#[derive(Default)]
struct Keys {
    numbers: HashMap<String, u32>,
    names: Vec<String>,
}

impl Keys {
    fn number(&mut self, key: &str) -> u32 {
        if let Some(number) = self.numbers.get(key) {
            return *number;
        }
        let number = self.names.len() as u32;
        self.numbers.insert(key.to_owned(), number);
        self.names.push(key.to_owned());
        number
    }
}

#[derive(Clone, Copy)]
struct Column<'a> {
    array: &'a ArrayRef,
    kind: AttributeType,
}

impl<'a> Column<'a> {
    fn value(&self, row: usize) -> Option<Value<'a>> {
        if self.array.is_null(row) {
            return None;
        }
        Some(match self.kind {
            AttributeType::String => {
                let dictionary = self.array.as_dictionary::<Int32Type>();
                let key = dictionary.keys().value(row) as usize;
                Value::String(dictionary.values().as_string::<i32>().value(key))
            }
            AttributeType::Long => Value::Long(self.array.as_primitive::<Int64Type>().value(row)),
            AttributeType::Double => Value::Double(self.array.as_primitive::<Float64Type>().value(row)),
            AttributeType::Boolean => Value::Boolean(self.array.as_boolean().value(row)),
        })
    }
}

impl<'a> Attributes<'a> {
    /// Counts the attributes on the rows of `runs`. Columns have the types of `schema`.
    pub fn scan(inputs: &'a [RecordBatch], runs: &[Run]) -> Result<Self, BlockError> {
        let mut columns: HashMap<AttributeScope, Vec<(usize, AttributeColumn, &ArrayRef)>> = HashMap::new();
        for (number, input) in inputs.iter().enumerate() {
            for (field, array) in input.schema_ref().fields().iter().zip(input.columns()) {
                if let Some(attribute) = AttributeColumn::parse(field.name()) {
                    columns.entry(attribute.scope).or_default().push((number, attribute, array));
                }
            }
        }
        let scopes = SCOPES
            .into_iter()
            .map(|scope| ScopeAttributes::scan(scope, inputs, &columns.remove(&scope).unwrap_or_default(), runs));
        Ok(Self { scopes: scopes.collect::<Result<_, _>>()? })
    }

    /// On how many rows each possible column would be set.
    pub fn counts(&self) -> impl Iterator<Item = (AttributeColumn, u64)> + '_ {
        self.scopes.iter().flat_map(|scope| {
            scope.counts.iter().zip(&scope.keys.names).flat_map(move |(counts, key)| {
                AttributeType::ALL
                    .into_iter()
                    .zip(counts)
                    .filter(|(_, count)| **count > 0)
                    .map(move |(kind, count)| (AttributeColumn { scope: scope.scope, key: key.clone(), kind }, *count))
            })
        })
    }

    /// The columns that inputs have and that are set on a row to merge.
    pub fn present(&self) -> Promotion {
        Promotion::new(self.scopes.iter().flat_map(|scope| {
            let set = scope.inputs.iter().flat_map(|input| input.columns.iter().zip(&scope.keys.names));
            set.flat_map(move |(by_type, key)| {
                by_type.iter().flatten().map(move |column| AttributeColumn {
                    scope: scope.scope,
                    key: key.clone(),
                    kind: column.kind,
                })
            })
        }))
    }

    /// The attribute columns in column order, and the key/value list of each scope.
    pub fn build(&self, runs: &[Run], promotion: &Promotion) -> Result<Built, BlockError> {
        let mut columns: HashMap<&AttributeColumn, ArrayRef> = HashMap::new();
        let mut lists = Vec::new();
        for scope in &self.scopes {
            lists.push((scope.scope, scope.build(runs, promotion, &mut columns)?));
        }
        let columns = promotion.iter().map(|(name, column)| {
            let array = columns.remove(column).expect("every scope that can have columns is built");
            (name.to_owned(), array)
        });
        Ok(Built { columns: columns.collect(), lists })
    }
}

pub(super) struct Built {
    pub columns: Vec<(String, ArrayRef)>,
    pub lists: Vec<(AttributeScope, ArrayRef)>,
}

impl<'a> ScopeAttributes<'a> {
    fn scan(
        scope: AttributeScope,
        inputs: &'a [RecordBatch],
        columns: &[(usize, AttributeColumn, &'a ArrayRef)],
        runs: &[Run],
    ) -> Result<Self, BlockError> {
        let mut keys = Keys::default();
        let mut scanned = Vec::with_capacity(inputs.len());
        for input in inputs {
            scanned.push(Input::scan(scope, input, &mut keys)?);
        }
        for (_, attribute, _) in columns {
            keys.number(&attribute.key);
        }
        let mut this = Self { scope, counts: vec![[0; 4]; keys.names.len()], keys, inputs: scanned };
        for input in &mut this.inputs {
            input.columns = vec![[None; 4]; this.keys.names.len()];
        }
        let mut merged = vec![0; inputs.len()];
        runs.iter().for_each(|run| merged[run.batch] += run.len);
        for (number, attribute, array) in columns {
            let rows = valid_rows(array, *number, merged[*number], runs);
            if rows > 0 {
                let key = this.keys.number(&attribute.key) as usize;
                this.counts[key][attribute.kind as usize] += rows;
                this.inputs[*number].columns[key][attribute.kind as usize] =
                    Some(Column { array, kind: attribute.kind });
            }
        }
        this.count_lists(runs);
        Ok(this)
    }

    fn count_lists(&mut self, runs: &[Run]) {
        if self.inputs.iter().all(|input| input.entry_keys.is_empty()) {
            return;
        }
        let mut firsts = Firsts::new(self.counts.len());
        for run in runs {
            let input = &self.inputs[run.batch];
            for row in run.start..run.start + run.len {
                for (_, key, kind) in input.candidates(row, &mut firsts) {
                    self.counts[key as usize][kind as usize] += 1;
                }
            }
        }
    }

    fn build<'p>(
        &self,
        runs: &[Run],
        promotion: &'p Promotion,
        out: &mut HashMap<&'p AttributeColumn, ArrayRef>,
    ) -> Result<ArrayRef, BlockError> {
        let mut promoted: Vec<ByType<bool>> = vec![[false; 4]; self.counts.len()];
        for (_, column) in promotion.iter().filter(|(_, column)| column.scope == self.scope) {
            if let Some(key) = self.keys.numbers.get(&column.key) {
                promoted[*key as usize][column.kind as usize] = true;
            }
        }
        let mut firsts = Firsts::new(self.counts.len());
        let taken: Vec<Taken> = self.inputs.iter().map(|input| input.take(&promoted, &mut firsts)).collect();
        for (_, column) in promotion.iter().filter(|(_, column)| column.scope == self.scope) {
            let key = self.keys.numbers.get(&column.key).map(|key| *key as usize);
            let mut sources = Vec::with_capacity(self.inputs.len());
            for (input, taken) in self.inputs.iter().zip(&taken) {
                let own = key.and_then(|key| input.columns[key][column.kind as usize]);
                let picked = key.and_then(|key| taken.picked.get(&(key as u32, column.kind)));
                sources.push(match (own, picked) {
                    (Some(own), _) => Some(own.array.clone()),
                    (None, Some(picked)) => Some(input.dense(picked, column.kind)?),
                    (None, None) => None,
                });
            }
            out.insert(column, gather(&sources, runs, &schema::attribute_type(column.kind))?);
        }
        self.build_list(runs, &promoted, &taken)
    }

    fn build_list(&self, runs: &[Run], promoted: &[ByType<bool>], taken: &[Taken]) -> Result<ArrayRef, BlockError> {
        // Columns that the result does not have.
        let demoted: Vec<Vec<(&str, Column<'_>)>> = self
            .inputs
            .iter()
            .map(|input| {
                let columns = input.columns.iter().zip(promoted).zip(&self.keys.names);
                columns
                    .flat_map(|((columns, promoted), key)| {
                        columns.iter().flatten().filter(|c| !promoted[c.kind as usize]).map(move |c| (key.as_str(), *c))
                    })
                    .collect()
            })
            .collect();
        if demoted.iter().all(Vec::is_empty) && taken.iter().all(|taken| taken.picked.is_empty()) {
            let sources: Vec<_> = self.inputs.iter().map(|input| input.list_array.cloned()).collect();
            return gather(&sources, runs, &schema::kv_list());
        }
        let mut list = KvWriter::new(runs.iter().map(|run| run.len).sum());
        for run in runs {
            let (input, taken, demoted) = (&self.inputs[run.batch], &taken[run.batch], &demoted[run.batch]);
            for row in run.start..run.start + run.len {
                for (key, column) in demoted {
                    if let Some(value) = column.value(row) {
                        list.push(key, value)?;
                    }
                }
                if let Some(view) = &input.list {
                    for entry in view.range(row) {
                        if !taken.moved.get(entry - input.first_entry).is_some_and(|moved| *moved) {
                            list.push(view.key(entry), view.value(entry))?;
                        }
                    }
                }
                list.end_row();
            }
        }
        list.finish()
    }
}

/// Which entries of a list go into columns: (row, entry) by (key, type), rows ascending.
#[derive(Default)]
struct Taken {
    picked: HashMap<(u32, AttributeType), Vec<(usize, usize)>>,
    /// By entry from the first on; empty if none moves.
    moved: Vec<bool>,
}

/// Tells the first value of each key in a row from those that follow.
struct Firsts {
    /// Number of the row at hand, counted from 1 over all rows that were asked for.
    row: usize,
    /// By key: the last row that had it.
    seen: Vec<usize>,
}

impl Firsts {
    fn new(keys: usize) -> Self {
        Self { row: 0, seen: vec![0; keys] }
    }

    fn is_first(&mut self, key: u32) -> bool {
        std::mem::replace(&mut self.seen[key as usize], self.row) != self.row
    }
}

impl<'a> Input<'a> {
    fn scan(scope: AttributeScope, records: &'a RecordBatch, keys: &mut Keys) -> Result<Self, BlockError> {
        let name = schema::kv_column(scope).expect("the scopes with columns have a list");
        let list_array = records.column_by_name(name);
        let list = match list_array {
            None => None,
            Some(array) => Some(KvView::new(array).ok_or_else(|| BlockError::column(name, "is not a key/value list"))?),
        };
        let mut this = Self {
            rows: records.num_rows(),
            columns: Vec::new(),
            list,
            list_array,
            first_entry: 0,
            entry_keys: Vec::new(),
        };
        if let Some(array) = list_array.filter(|array| !array.is_empty()) {
            let offsets = array.as_list::<i32>().value_offsets();
            this.first_entry = offsets[0] as usize;
            let entries = this.first_entry..offsets[offsets.len() - 1] as usize;
            let view = this.list.as_ref().expect("set with the array");
            this.entry_keys = entries.map(|entry| keys.number(view.key(entry))).collect();
        }
        Ok(this)
    }

    /// The list entries of a row that could be in a column this input does not have: (entry, key, type).
    fn candidates<'s>(
        &'s self,
        row: usize,
        firsts: &'s mut Firsts,
    ) -> impl Iterator<Item = (usize, u32, AttributeType)> + 's {
        firsts.row += 1;
        let list = self.list.as_ref().filter(|_| !self.entry_keys.is_empty());
        list.into_iter().flat_map(move |list| list.range(row).map(move |entry| (list, entry))).filter_map(
            move |(list, entry)| {
                let key = self.entry_keys[entry - self.first_entry];
                let kind = list.value(entry).kind();
                if !firsts.is_first(key) {
                    return None;
                }
                let columns = &self.columns[key as usize];
                let later = columns.iter().flatten().any(|column| column.array.is_valid(row));
                kind.filter(|kind| !later && columns[*kind as usize].is_none()).map(|kind| (entry, key, kind))
            },
        )
    }

    /// Picks the list entries that belong into columns this input does not have.
    fn take(&self, promoted: &[ByType<bool>], firsts: &mut Firsts) -> Taken {
        let mut taken = Taken::default();
        if self.entry_keys.is_empty() {
            return taken;
        }
        for row in 0..self.rows {
            for (entry, key, kind) in self.candidates(row, firsts) {
                if promoted[key as usize][kind as usize] {
                    taken.picked.entry((key, kind)).or_default().push((row, entry));
                    taken.moved.resize(self.entry_keys.len(), false);
                    taken.moved[entry - self.first_entry] = true;
                }
            }
        }
        taken
    }

    /// A column of this input's rows with the picked entries.
    fn dense(&self, picked: &[(usize, usize)], kind: AttributeType) -> Result<ArrayRef, BlockError> {
        let list = self.list.as_ref().expect("entries were picked from it");
        let mut values: Vec<Option<Value<'_>>> = vec![None; self.rows];
        for (row, entry) in picked {
            values[*row] = Some(list.value(*entry));
        }
        Ok(match kind {
            AttributeType::String => {
                let mut dictionary = Dictionary::default();
                let codes = values.iter().map(|value| match value {
                    Some(Value::String(text)) => dictionary.code(text),
                    _ => Ok(-1),
                });
                let codes = codes.collect::<Result<_, _>>()?;
                dictionary.finish(codes)?
            }
            AttributeType::Long => Arc::new(Int64Array::from_iter(values.iter().map(|value| match value {
                Some(Value::Long(number)) => Some(*number),
                _ => None,
            }))),
            AttributeType::Double => Arc::new(Float64Array::from_iter(values.iter().map(|value| match value {
                Some(Value::Double(number)) => Some(*number),
                _ => None,
            }))),
            AttributeType::Boolean => Arc::new(BooleanArray::from_iter(values.iter().map(|value| match value {
                Some(Value::Boolean(truth)) => Some(*truth),
                _ => None,
            }))),
        })
    }
}

/// How many rows of `runs` that are in input `number`, `merged` in all, are set in its column `array`.
fn valid_rows(array: &ArrayRef, number: usize, merged: usize, runs: &[Run]) -> u64 {
    let own = || runs.iter().filter(|run| run.batch == number);
    let valid = match array.nulls() {
        None => merged,
        Some(nulls) if merged == array.len() => array.len() - nulls.null_count(),
        Some(nulls) => own().map(|run| run.len - nulls.slice(run.start, run.len).null_count()).sum(),
    };
    valid as u64
}
