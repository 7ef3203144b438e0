//! Which attributes a batch or a block holds, and where each one is.
//!
//! A query asks the catalogue before it touches a column: an attribute that is not in it has no value
//! on any row, and one that is only promoted needs no look into the key/value list.

use std::collections::BTreeMap;

use model::{AttributeScope, AttributeType};
use serde::{Deserialize, Serialize};

/// The attributes of a batch or block by scope and key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalogue {
    entries: BTreeMap<(AttributeScope, String), AttributeEntry>,
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

    pub fn iter(&self) -> impl Iterator<Item = (AttributeScope, &str, &AttributeEntry)> {
        self.entries.iter().map(|((scope, key), entry)| (*scope, key.as_str(), entry))
    }

    /// Counts `rows` values that are in a column of their own.
    pub fn add_promoted(&mut self, scope: AttributeScope, key: &str, kind: AttributeType, rows: u64) {
        let entry = self.entries.entry((scope, key.to_owned())).or_default();
        match entry.promoted.iter_mut().find(|(code, _)| *code == kind as u8) {
            Some((_, count)) => *count += rows,
            None => entry.promoted.push((kind as u8, rows)),
        }
    }

    /// Counts `values` that are in a key/value list.
    pub fn add_in_list(&mut self, scope: AttributeScope, key: &str, values: u64) {
        self.entries.entry((scope, key.to_owned())).or_default().in_list += values;
    }
}
