//! Gives every row the number of its group.

use std::hash::{Hash, Hasher};

use arrow::{
    array::{Array, AsArray, DictionaryArray},
    datatypes::{DataType, Int32Type, Int64Type},
};
use hashbrown::HashMap;
use traceql::ast::Attribute;

use crate::{
    expected::is_labelled_nil,
    layout::{Place, Reading},
    memory::{Held, PIECE_BYTES, entry_bytes, text_bytes},
    reader::Reader,
    request::QueryError,
    traces::TraceRows,
    value::{Value, kind_of_code, status_of_code},
};

/// The values of `by(...)` on a row. `None` is missing, and gets no label; `Opaque` is labelled nil. Not all are missing.
pub type GroupKey = Vec<GroupValue>;

/// A value that can be a key: floats are compared bit for bit.
#[derive(Clone, Debug)]
pub struct GroupValue(pub Option<Value>);

impl PartialEq for GroupValue {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(a), Some(b)) => a.same(b),
            (a, b) => a.is_none() && b.is_none(),
        }
    }
}
impl Eq for GroupValue {}
impl Hash for GroupValue {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match &self.0 {
            None => 0_u8.hash(state),
            Some(value) => hash(value, state),
        }
    }
}

fn hash<H: Hasher>(value: &Value, state: &mut H) {
    match value {
        Value::Int(v) => (1_u8, v).hash(state),
        Value::Float(v) => (2_u8, v.to_bits()).hash(state),
        Value::String(v) => (3_u8, v).hash(state),
        Value::Bool(v) => (4_u8, v).hash(state),
        Value::Duration(v) => (5_u8, v).hash(state),
        Value::Status(v) => (6_u8, *v as u8).hash(state),
        Value::Kind(v) => (7_u8, *v as u8).hash(state),
        Value::Array(v) => {
            (8_u8, v.len()).hash(state);
            v.iter().for_each(|element| hash(element, state));
        }
        Value::Opaque => 9_u8.hash(state),
    }
}

impl GroupValue {
    /// Bytes beside itself.
    pub fn heap_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, value_bytes)
    }
}

/// Bytes of a value beside itself.
pub fn value_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text_bytes(text),
        Value::Array(values) => PIECE_BYTES + values.iter().map(|value| size_of::<Value>() + value_bytes(value)).sum::<usize>(),
        _ => 0,
    }
}

/// Bytes of a key beside itself.
pub fn key_bytes(key: &[GroupValue]) -> usize {
    PIECE_BYTES + key.iter().map(|value| size_of::<GroupValue>() + value.heap_bytes()).sum::<usize>()
}

/// Rows by group: `numbers[row]` indexes `keys`.
pub struct Groups {
    pub numbers: Vec<u32>,
    pub keys: Vec<GroupKey>,
}

/// What it takes is charged to `held`.
///
/// # Errors
/// `BudgetExceeded` if the groups take more memory than there is.
pub fn groups(rows: &TraceRows, by: &[Attribute], held: &mut Held) -> Result<Groups, QueryError> {
    let count = rows.records.num_rows();
    held.grow(count * size_of::<u32>())?;
    let mut all = Groups { numbers: vec![0; count], keys: vec![vec![]] };
    let mut all_bytes = 0;
    for name in by {
        let (codes, values) = codes(rows, name);
        let mut of_name = held.beside();
        let values_bytes = |value: &GroupValue| 2 * (size_of::<GroupValue>() + value.heap_bytes());
        of_name.grow(codes.len() * size_of::<u32>() + values.iter().map(values_bytes).sum::<usize>())?;
        // Group and value together are a new group.
        let mut numbers = Pairs::new(all.keys.len(), values.len());
        let mut keys: Vec<GroupKey> = vec![];
        let mut keys_bytes = 0;
        for (group, code) in all.numbers.iter_mut().zip(codes) {
            let known = keys.len();
            *group = numbers.number(*group, code, || {
                let of_group = &all.keys[*group as usize];
                let mut key = Vec::with_capacity(of_group.len() + 1);
                key.extend_from_slice(of_group);
                key.push(values[code as usize].clone());
                keys.push(key);
                keys.len() as u32 - 1
            });
            if let Some(new) = keys.get(known) {
                let bytes = entry_bytes::<(u32, u32), u32>() + size_of::<GroupKey>() + key_bytes(new);
                held.grow(bytes)?;
                keys_bytes += bytes;
            }
        }
        all.keys = keys;
        held.shrink(std::mem::replace(&mut all_bytes, keys_bytes));
    }
    name_the_missing(&mut all);
    Ok(all)
}

/// Where all values are missing, the first is labelled nil: that may be a group already.
fn name_the_missing(all: &mut Groups) {
    let missing = |key: &GroupKey| !key.is_empty() && key.iter().all(|value| value.0.is_none());
    let Some(bare) = all.keys.iter().position(missing) else { return };
    let mut named = all.keys[bare].clone();
    named[0] = GroupValue(Some(Value::Opaque));
    match all.keys.iter().position(|key| *key == named) {
        None => all.keys[bare] = named,
        Some(same) => {
            for number in all.numbers.iter_mut().filter(|number| **number == bare as u32) {
                *number = same as u32;
            }
        }
    }
}

/// The numbers given to pairs of a group and a value: in a table where that is small, else by hash.
enum Pairs {
    Table(Vec<u32>, usize),
    Hashed(HashMap<(u32, u32), u32>),
}

/// Four bytes each.
const PAIRS_TABLE_MAX: usize = 1 << 20;
const NO_NUMBER: u32 = u32::MAX;

impl Pairs {
    fn new(groups: usize, values: usize) -> Self {
        match groups.checked_mul(values) {
            Some(pairs) if pairs <= PAIRS_TABLE_MAX => Self::Table(vec![NO_NUMBER; pairs], values),
            _ => Self::Hashed(HashMap::new()),
        }
    }

    fn number(&mut self, group: u32, value: u32, new: impl FnOnce() -> u32) -> u32 {
        match self {
            Self::Table(numbers, values) => {
                let number = &mut numbers[group as usize * *values + value as usize];
                if *number == NO_NUMBER {
                    *number = new();
                }
                *number
            }
            Self::Hashed(numbers) => *numbers.entry((group, value)).or_insert_with(new),
        }
    }
}

/// A number for each row's value of one name, and the values by number.
fn codes(rows: &TraceRows, name: &Attribute) -> (Vec<u32>, Vec<GroupValue>) {
    let places = rows.layout.places(name);
    let labelled = |value: Option<Value>| match value {
        None if is_labelled_nil(name) => Some(Value::Opaque),
        value => value,
    };
    if let Some((codes, values)) = places.single().and_then(|place| column_codes(rows, place)) {
        return (codes, values.into_iter().map(|value| GroupValue(labelled(value.0))).collect());
    }
    let reader = Reader::new(&places, &rows.records);
    let mut known: HashMap<GroupValue, u32> = HashMap::new();
    let mut values = vec![];
    let codes = (0..rows.records.num_rows())
        .map(|row| {
            let value = GroupValue(labelled(reader.first(row).and_then(Value::label)));
            *known.entry(value).or_insert_with_key(|value| {
                values.push(value.clone());
                values.len() as u32 - 1
            })
        })
        .collect();
    (codes, values)
}

/// The fast way: a column that is numbered already.
pub fn column_codes(rows: &TraceRows, place: &Place) -> Option<(Vec<u32>, Vec<GroupValue>)> {
    let (name, reading) = match place {
        Place::Promoted { column, .. } => (column.as_str(), None),
        Place::Fixed { column, reading } => (*column, Some(*reading)),
        _ => return None,
    };
    let array = rows.records.column_by_name(name)?;
    match (array.data_type(), reading) {
        (DataType::Dictionary(_, _), None | Some(Reading::String)) => {
            word_codes(array.as_dictionary_opt::<Int32Type>()?, reading.is_some())
        }
        (DataType::Int64, reading @ (None | Some(Reading::Duration))) => {
            let numbers = array.as_primitive_opt::<Int64Type>()?;
            let mut known: HashMap<Option<i64>, u32> = HashMap::new();
            let mut values = vec![];
            let codes = numbers.iter().map(|number| {
                *known.entry(number).or_insert_with(|| {
                    values.push(GroupValue(number.map(if reading.is_some() { Value::Duration } else { Value::Int })));
                    values.len() as u32 - 1
                })
            });
            Some((codes.collect(), values))
        }
        (DataType::Int32, Some(reading @ (Reading::Status | Reading::Kind))) => {
            let numbers = array.as_primitive_opt::<Int32Type>()?;
            let values = (0..6).map(|code| {
                GroupValue(Some(match reading {
                    Reading::Status => Value::Status(status_of_code(code)),
                    _ => Value::Kind(kind_of_code(code)),
                }))
            });
            let known = |code: i32| u32::try_from(code).ok().filter(|c| *c < if reading == Reading::Status { 3 } else { 6 });
            Some((numbers.values().iter().map(|code| known(*code).unwrap_or(0)).collect(), values.collect()))
        }
        _ => None,
    }
}

/// The codes of a column of numbered words. Only words that some row has get one.
fn word_codes(column: &DictionaryArray<Int32Type>, null_is_empty: bool) -> Option<(Vec<u32>, Vec<GroupValue>)> {
    let words = column.values().as_string_opt::<i32>()?;
    // Equal words may stand twice in a dictionary.
    let mut known: HashMap<Option<&str>, u32> = HashMap::new();
    let mut values = vec![];
    let mut code = |word: Option<&'_ str>| {
        let word = if null_is_empty { Some(word.unwrap_or_default()) } else { word };
        values.push(GroupValue(word.map(|word| Value::String(word.to_owned()))));
        values.len() as u32 - 1
    };
    let mut of_word = vec![NO_NUMBER; words.len()];
    let mut of_null = NO_NUMBER;
    let codes = column
        .keys()
        .iter()
        .map(|key| {
            let of_key = match key {
                Some(key) => &mut of_word[key as usize],
                None => &mut of_null,
            };
            if *of_key == NO_NUMBER {
                let word = key.map(|key| key as usize).filter(|key| words.is_valid(*key)).map(|key| words.value(key));
                let same = if null_is_empty { Some(word.unwrap_or_default()) } else { word };
                *of_key = *known.entry(same).or_insert_with(|| code(word));
            }
            *of_key
        })
        .collect();
    Some((codes, values))
}
