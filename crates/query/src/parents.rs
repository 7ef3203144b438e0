//! The parents of spans: what `parent.` asks about.
//!
//! A span's parent is the span that it is a child of in the structure of its trace. Spans without a place in it, and
//! roots, have none. Rows must hold their traces whole: a condition that asks about parents is never part of a scan.

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::Int32Type,
};
use block::schema;
use traceql::ast::{FieldExpr, MetricsFunction, MetricsQuery, Pipeline};

use crate::{
    mentioned::{in_field, names},
    metrics::measured,
    spansets::trace_runs,
};

/// What it takes to find parents.
pub const COLUMNS: [&str; 3] = [schema::TRACE_ID, schema::NESTED_LEFT, schema::NESTED_PARENT];

const NONE: u32 = u32::MAX;

/// For each row of a batch the row of its parent.
pub struct Parents(Vec<u32>);

impl Parents {
    /// Rows have no parents where the batch lacks one of [`COLUMNS`].
    pub fn of(batch: &RecordBatch) -> Self {
        let numbers = |name| batch.column_by_name(name).and_then(|c| c.as_primitive_opt::<Int32Type>());
        let mut parents = vec![NONE; batch.num_rows()];
        if let (Some(left), Some(parent), Ok(runs)) = (numbers(schema::NESTED_LEFT), numbers(schema::NESTED_PARENT), trace_runs(batch)) {
            let mut by_left: Vec<(i32, u32)> = vec![];
            for run in runs {
                by_left.clear();
                by_left.extend(run.clone().map(|row| (left.value(row), row as u32)));
                by_left.sort_unstable();
                for row in run.filter(|row| parent.value(*row) > 0) {
                    if let Ok(at) = by_left.binary_search_by_key(&parent.value(row), |(left, _)| *left) {
                        parents[row] = by_left[at].1;
                    }
                }
            }
        }
        Self(parents)
    }

    pub fn row(&self, row: usize) -> Option<usize> {
        Some(self.0[row]).filter(|parent| *parent != NONE).map(|parent| parent as usize)
    }
}

/// Whether an expression asks about parents' values.
pub fn asked_by(expr: &FieldExpr) -> bool {
    let mut found = vec![];
    in_field(expr, &mut found);
    found.iter().any(|name| name.of_parent)
}

pub fn asked_by_pipeline(pipeline: &Pipeline) -> bool {
    names(pipeline).iter().any(|name| name.of_parent)
}

pub fn asked_by_metrics(query: &MetricsQuery) -> bool {
    let by_function = match &query.function {
        MetricsFunction::Compare { selection, .. } => asked_by(selection),
        function => measured(function).is_some_and(|name| name.of_parent),
    };
    by_function || query.by.iter().any(|name| name.of_parent) || asked_by_pipeline(&query.pipeline)
}
