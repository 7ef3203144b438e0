//! Rows of spans in memory.
//!
//! Invariants: the first columns are `schema::FIXED_FIELDS` in that order, attribute columns follow sorted by
//! name; rows are sorted by trace id, the spans of a trace as received, and no two have the same trace id, span id, kind and start; the whole-trace
//! columns are right for these rows; the catalogue counts exactly what the columns hold.

use std::sync::Arc;

use arrow::array::RecordBatch;

use crate::{catalogue::Catalogue, schema::FIXED_FIELDS};

#[derive(Clone, Debug)]
pub struct SpanBatch {
    pub records: RecordBatch,
    pub catalogue: Arc<Catalogue>,
}

/// The columns are not those of a span batch.
#[derive(Debug, thiserror::Error)]
#[error("column {position} of a span batch is `{expected}`; this one is {found}: build batches with SpanBatchBuilder or merge")]
pub struct NotSpans {
    position: usize,
    expected: String,
    found: String,
}

impl SpanBatch {
    /// Checks the names and types of the fixed columns only; the caller answers for the rows.
    pub fn try_new(records: RecordBatch, catalogue: Arc<Catalogue>) -> Result<Self, NotSpans> {
        let schema = records.schema();
        for (position, expected) in FIXED_FIELDS.iter().enumerate() {
            let found = schema.fields().get(position);
            if !found.is_some_and(|f| f.name() == expected.name() && f.data_type() == expected.data_type()) {
                let found = found.map_or("missing".to_owned(), |f| format!("`{}` of type {}", f.name(), f.data_type()));
                return Err(NotSpans { position, expected: expected.name().clone(), found });
            }
        }
        Ok(Self { records, catalogue })
    }

    pub fn rows(&self) -> usize {
        self.records.num_rows()
    }
}
