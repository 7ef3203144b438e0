//! Gives every row the number of its group.

use std::{collections::HashMap, hash::{Hash, Hasher}};

use arrow::{array::{Array, AsArray}, datatypes::{DataType, Int32Type}};
use traceql::ast::Attribute;

use crate::{
    layout::{Place, Reading},
    reader::Reader,
    request::QueryError,
    traces::TraceRows,
    value::{Value, kind_of_code, status_of_code},
};

/// The values of `by(...)` on a row; `None` is nil.
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
            Some(Value::Int(v)) => (1_u8, v).hash(state),
            Some(Value::Float(v)) => (2_u8, v.to_bits()).hash(state),
            Some(Value::String(v)) => (3_u8, v).hash(state),
            Some(Value::Bool(v)) => (4_u8, v).hash(state),
            Some(Value::Duration(v)) => (5_u8, v).hash(state),
            Some(Value::Status(v)) => (6_u8, *v as u8).hash(state),
            Some(Value::Kind(v)) => (7_u8, *v as u8).hash(state),
            Some(Value::Array(v)) => (8_u8, v.len()).hash(state),
            Some(Value::Opaque) => 9_u8.hash(state),
        }
    }
}

/// Rows by group: `numbers[row]` indexes `keys`.
pub struct Groups {
    pub numbers: Vec<u32>,
    pub keys: Vec<GroupKey>,
}

pub fn groups(rows: &TraceRows, by: &[Attribute]) -> Result<Groups, QueryError> {
    let count = rows.records.num_rows();
    let mut all = Groups { numbers: vec![0; count], keys: vec![vec![]] };
    for name in by {
        let (codes, values) = codes(rows, name)?;
        // Group and value together are a new group.
        let mut numbers: HashMap<(u32, u32), u32> = HashMap::new();
        let mut keys: Vec<GroupKey> = vec![];
        for (group, code) in all.numbers.iter_mut().zip(codes) {
            *group = *numbers.entry((*group, code)).or_insert_with(|| {
                let mut key = all.keys[*group as usize].clone();
                key.push(values[code as usize].clone());
                keys.push(key);
                keys.len() as u32 - 1
            });
        }
        all.keys = keys;
    }
    Ok(all)
}

/// A number for each row's value of one name, and the values by number.
fn codes(rows: &TraceRows, name: &Attribute) -> Result<(Vec<u32>, Vec<GroupValue>), QueryError> {
    let places = rows.layout.places(name)?;
    if let ([place], []) = (places.first.as_slice(), places.fallback.as_slice()) {
        if let Some(codes) = column_codes(rows, place) {
            return Ok(codes);
        }
    }
    let reader = Reader::new(&places, &rows.records);
    let mut known: HashMap<GroupValue, u32> = HashMap::new();
    let mut values = vec![];
    let codes = (0..rows.records.num_rows())
        .map(|row| {
            let value = GroupValue(reader.first(row));
            *known.entry(value).or_insert_with_key(|value| {
                values.push(value.clone());
                values.len() as u32 - 1
            })
        })
        .collect();
    Ok((codes, values))
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
            let dictionary = array.as_dictionary_opt::<Int32Type>()?;
            let words = dictionary.values().as_string_opt::<i32>()?;
            let absent = reading.map(|_| Value::String(String::new()));
            // Equal words may stand twice in a dictionary.
            let mut known: HashMap<Option<&str>, u32> = HashMap::new();
            let mut values = vec![];
            let mut number = |word: Option<&str>| -> u32 {
                let value = word.map(|w| Value::String(w.to_owned())).or_else(|| absent.clone());
                values.push(GroupValue(value));
                values.len() as u32 - 1
            };
            let mut of_word = vec![];
            for at in 0..words.len() {
                let word = words.is_valid(at).then(|| words.value(at));
                of_word.push(match known.get(&word) {
                    Some(code) => *code,
                    None => {
                        let code = number(word);
                        known.insert(word, code);
                        code
                    }
                });
            }
            let of_null = match known.get(&None) {
                Some(code) => *code,
                None if dictionary.keys().null_count() > 0 => match (reading, known.get(&Some(""))) {
                    (Some(_), Some(code)) => *code,
                    _ => number(None),
                },
                None => 0,
            };
            let codes = dictionary.keys().iter().map(|key| key.map_or(of_null, |key| of_word[key as usize])).collect();
            Some((codes, values))
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
