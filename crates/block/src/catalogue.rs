//! Which attributes a batch or a block holds, and where each one is.
//!
//! A query asks the catalogue before it touches a column: an attribute that is not in it has no value
//! on any row, and one that is only promoted needs no look into the key/value list.

use std::collections::{BTreeMap, HashMap};

use arrow::array::{Array, ArrayRef, AsArray, ListArray, RecordBatch};
use model::{AttributeScope, AttributeType};
use serde::{Deserialize, Serialize};

use crate::{error::BlockError, promotion::AttributeColumn, schema};

/// A column with more distinct values than this has no list of them.
pub const VALUES_MAX: usize = 100;
/// Nor has one whose distinct values have more bytes than this together.
pub const VALUES_BYTES_MAX: usize = 4096;

/// The attributes of a batch or block by scope and key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalogue {
    entries: BTreeMap<(AttributeScope, String), AttributeEntry>,
    /// By column name. See [`Catalogue::values`].
    values: BTreeMap<String, Vec<String>>,
}

/// What is known of one attribute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AttributeEntry {
    /// Columns of its own: the type and how many rows are set.
    pub promoted: Vec<(u8, u64)>,
    /// How many values are in the key/value list of its scope (for events and links: all of them).
    pub in_list: u64,
}

impl AttributeEntry {
    /// The types that have a column of their own.
    pub fn promoted_types(&self) -> impl Iterator<Item = AttributeType> + '_ {
        self.promoted.iter().filter_map(|(code, _)| AttributeType::ALL.get(usize::from(*code)).copied())
    }

    pub fn count(&self) -> u64 {
        self.in_list + self.promoted.iter().map(|(_, rows)| rows).sum::<u64>()
    }
}

impl Catalogue {
    pub fn get(&self, scope: AttributeScope, key: &str) -> Option<&AttributeEntry> {
        // BTreeMap cannot be asked with a borrowed half of a tuple key; the copy is a few bytes per query.
        self.entries.get(&(scope, key.to_owned()))
    }

    /// The distinct values of a string column, fixed or attribute, in order. `None` if there are too many to list
    /// ([`VALUES_MAX`], [`VALUES_BYTES_MAX`]) or they were not collected, as in batches that are not yet a block.
    /// Values of the attribute that are in a key/value list ([`AttributeEntry::in_list`]) are not among them.
    pub fn values(&self, column: &str) -> Option<&[String]> {
        self.values.get(column).map(Vec::as_slice)
    }

    /// Every column with a list of values.
    pub fn value_lists(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.values.iter().map(|(column, values)| (column.as_str(), values.as_slice()))
    }

    /// About how much memory it takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        let text = |text: &String| size_of::<String>() + text.len();
        let entry = |((_, key), entry): (&(AttributeScope, String), &AttributeEntry)| {
            text(key) + size_of::<AttributeEntry>() + size_of_val(&entry.promoted[..])
        };
        let values = |(column, values): (&String, &Vec<String>)| text(column) + values.iter().map(text).sum::<usize>();
        self.entries.iter().map(entry).sum::<usize>() + self.values.iter().map(values).sum::<usize>()
    }

    pub(crate) fn set(&mut self, scope: AttributeScope, key: String, entry: AttributeEntry) {
        self.entries.insert((scope, key), entry);
    }

    pub(crate) fn set_values(&mut self, values: BTreeMap<String, Vec<String>>) {
        self.values = values;
    }

    pub fn iter(&self) -> impl Iterator<Item = (AttributeScope, &str, &AttributeEntry)> {
        self.entries.iter().map(|((scope, key), entry)| (*scope, key.as_str(), entry))
    }

    /// Counts `rows` values that are in a column of their own.
    pub fn add_promoted(&mut self, scope: AttributeScope, key: &str, kind: AttributeType, rows: u64) {
        let entry = self.entries.entry((scope, key.to_owned())).or_default();
        match entry.promoted.binary_search_by_key(&(kind as u8), |(code, _)| *code) {
            Ok(at) => entry.promoted[at].1 += rows,
            Err(at) => entry.promoted.insert(at, (kind as u8, rows)),
        }
    }

    /// Counts `values` that are in a key/value list.
    pub fn add_in_list(&mut self, scope: AttributeScope, key: &str, values: u64) {
        self.entries.entry((scope, key.to_owned())).or_default().in_list += values;
    }

    /// Counts every attribute of `records` anew.
    pub fn of(records: &RecordBatch) -> Result<Self, BlockError> {
        let mut catalogue = Self::default();
        catalogue.count(records)?;
        Ok(catalogue)
    }

    /// Adds the attributes of `records`.
    pub(crate) fn count(&mut self, records: &RecordBatch) -> Result<(), BlockError> {
        for (field, column) in records.schema_ref().fields().iter().zip(records.columns()) {
            if let Some(attribute) = AttributeColumn::parse(field.name()) {
                let rows = set_rows(column);
                if rows > 0 {
                    self.add_promoted(attribute.scope, &attribute.key, attribute.kind, rows);
                }
            }
        }
        for scope in AttributeScope::ALL {
            let column = match scope {
                AttributeScope::Event => schema::EVENTS,
                AttributeScope::Link => schema::LINKS,
                _ => schema::kv_column(scope).expect("only events and links have no list of their own"),
            };
            let Some(array) = records.column_by_name(column) else { continue };
            let mismatch = || BlockError::column(column, "is not a list of structs");
            let list = array.as_list_opt::<i32>().ok_or_else(mismatch)?;
            let items = list.values().as_struct_opt().ok_or_else(mismatch)?;
            let mut counts: HashMap<&str, u64> = HashMap::new();
            if schema::kv_column(scope).is_some() {
                count_keys(list, 0..list.len(), &mut counts).ok_or_else(mismatch)?;
            } else {
                let nested = items.column_by_name(schema::NESTED_ATTRIBUTES).and_then(|a| a.as_list_opt::<i32>());
                let nested = nested.ok_or_else(mismatch)?;
                for row in (0..list.len()).filter(|row| list.is_valid(*row)) {
                    let offsets = list.value_offsets();
                    let range = offsets[row] as usize..offsets[row + 1] as usize;
                    count_keys(nested, range, &mut counts).ok_or_else(mismatch)?;
                }
            }
            for (key, values) in counts {
                self.add_in_list(scope, key, values);
            }
        }
        Ok(())
    }
}

/// How many rows have a value.
fn set_rows(column: &ArrayRef) -> u64 {
    let values_may_be_null = column.as_any_dictionary_opt().is_some_and(|array| array.values().null_count() > 0);
    // Logical nulls are found row by row: needed only where a dictionary holds a null.
    let nulls = if values_may_be_null { column.logical_null_count() } else { column.null_count() };
    (column.len() - nulls) as u64
}

/// Counts the keys in the lists of `rows`. `None` if the items are not key/value structs.
fn count_keys<'a>(list: &'a ListArray, rows: std::ops::Range<usize>, counts: &mut HashMap<&'a str, u64>) -> Option<()> {
    let offsets = list.value_offsets();
    if offsets[rows.start] == offsets[rows.end] {
        return Some(());
    }
    let keys = list.values().as_struct_opt()?.column_by_name(schema::KV_KEY)?.as_string_opt::<i32>()?;
    for row in rows.filter(|row| list.is_valid(*row)) {
        for entry in offsets[row] as usize..offsets[row + 1] as usize {
            *counts.entry(keys.value(entry)).or_default() += 1;
        }
    }
    Some(())
}
