//! What a sidecar says of the rows, collected while they pass.
//!
//! The same from the writer's batches as from a reader's, however the rows are cut into batches.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{Int32Type, Int64Type};

use super::trace_filter;
use crate::catalogue::{Catalogue, VALUES_BYTES_MAX, VALUES_MAX};
use crate::error::BlockError;
use crate::schema;

#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub rows: u64,
    /// Hashes of the trace ids, in order.
    pub traces: Vec<u64>,
    last_trace: Option<[u8; 16]>,
    /// Earliest start and latest end.
    pub times: Option<(i64, i64)>,
    catalogue: Catalogue,
    values: BTreeMap<String, Values>,
}

/// The distinct values of a column, until they are too many.
#[derive(Debug, Default)]
struct Values {
    distinct: BTreeSet<String>,
    bytes: usize,
    too_many: bool,
}

impl Contents {
    /// Adds rows. Their columns have the names and types of `schema`.
    pub fn add(&mut self, records: &RecordBatch) -> Result<(), BlockError> {
        let times = |name: &str| {
            let column = records.column_by_name(name).and_then(|array| array.as_primitive_opt::<Int64Type>());
            column.ok_or_else(|| BlockError::column(name, "is missing or not of type long"))
        };
        let starts = times(schema::START_TIME)?.values();
        let durations = times(schema::DURATION)?.values();
        let trace_ids = records
            .column_by_name(schema::TRACE_ID)
            .and_then(|array| array.as_fixed_size_binary_opt())
            .filter(|ids| ids.value_length() == 16)
            .ok_or_else(|| BlockError::column(schema::TRACE_ID, "is missing or not of 16 bytes"))?;

        self.rows += records.num_rows() as u64;
        for row in 0..trace_ids.len() {
            let id = trace_ids.value(row);
            if self.last_trace.as_ref().is_none_or(|last| last != id) {
                self.traces.push(trace_filter::hash(id));
                self.last_trace = id.try_into().ok();
            }
        }
        for (start, duration) in starts.iter().zip(durations) {
            let end = start.saturating_add(*duration);
            let (earliest, latest) = self.times.get_or_insert((*start, end));
            *earliest = (*earliest).min(*start);
            *latest = (*latest).max(end);
        }
        self.catalogue.count(records)?;
        for (field, array) in records.schema_ref().fields().iter().zip(records.columns()) {
            if *field.data_type() == schema::dictionary() {
                if !self.values.contains_key(field.name()) {
                    self.values.insert(field.name().clone(), Values::default());
                }
                self.values.get_mut(field.name()).expect("inserted").add(array);
            }
        }
        Ok(())
    }

    /// The catalogue with the value lists of columns that have any value, and not too many.
    pub fn into_catalogue(self) -> Catalogue {
        let mut catalogue = self.catalogue;
        let listed = self.values.into_iter().filter(|(_, values)| !values.too_many && !values.distinct.is_empty());
        catalogue.set_values(listed.map(|(column, values)| (column, values.distinct.into_iter().collect())).collect());
        catalogue
    }
}

impl Values {
    fn add(&mut self, array: &ArrayRef) {
        if self.too_many {
            return;
        }
        let dictionary = array.as_dictionary::<Int32Type>();
        let texts = dictionary.values().as_string::<i32>();
        let mut known = vec![false; texts.len()];
        let keys = dictionary.keys();
        match keys.nulls().filter(|nulls| nulls.null_count() > 0) {
            None => self.add_keys(keys.values().iter().copied(), texts, &mut known),
            Some(nulls) => self.add_keys(nulls.valid_indices().map(|row| keys.values()[row]), texts, &mut known),
        }
    }

    fn add_keys(&mut self, keys: impl Iterator<Item = i32>, texts: &StringArray, known: &mut [bool]) {
        for key in keys {
            let key = key as usize;
            if known[key] {
                continue;
            }
            known[key] = true;
            if texts.is_null(key) {
                continue;
            }
            let text = texts.value(key);
            if !self.distinct.contains(text) {
                self.bytes += text.len();
                self.distinct.insert(text.to_owned());
            }
            if self.distinct.len() > VALUES_MAX || self.bytes > VALUES_BYTES_MAX {
                self.too_many = true;
                self.distinct.clear();
                return;
            }
        }
    }
}
