//! Which rows a condition holds for: part by part, the later parts where the earlier ones hold.
//!
//! A search asks the same condition of many small batches with the same columns. What follows from the columns alone is found
//! once.

use std::sync::{Arc, OnceLock};

use arrow::{
    array::{Array, AsArray, BooleanArray, BooleanBufferBuilder, RecordBatch},
    buffer::BooleanBuffer,
    compute::filter_record_batch,
    datatypes::SchemaRef,
    error::ArrowError,
};
use block::whole_trace;
use datafusion::physical_expr::PhysicalExpr;

use crate::{predicate::Predicate, reads::Reads, request::QueryError, time_limit::ROWS_UNCHECKED_MAX};

/// A part is evaluated on the rows that are left, not on all, once they are fewer than one in this many.
const FEW_LEFT: usize = 8;

/// A condition, taken apart.
pub struct Conditions {
    parts: Vec<Predicate>,
    /// Over the columns that were met first; others are bound for each batch.
    bound: OnceLock<Bound>,
}

struct Bound {
    schema: SchemaRef,
    parts: Vec<BoundPart>,
}

struct BoundPart {
    over_all: Arc<dyn PhysicalExpr>,
    /// The columns it reads, and the part over these alone.
    columns: Vec<usize>,
    over_few: Arc<dyn PhysicalExpr>,
}

impl Bound {
    fn new(parts: &[Predicate], schema: &SchemaRef) -> Result<Self, QueryError> {
        let bind = |part: &Predicate| {
            let columns: Vec<usize> =
                (0..schema.fields().len()).filter(|at| part.columns.contains(schema.field(*at).name())).collect();
            let narrow = schema.project(&columns).map_err(QueryError::internal)?;
            Ok(BoundPart { over_all: part.evaluator(schema)?, over_few: part.evaluator(&narrow)?, columns })
        };
        Ok(Self { schema: Arc::clone(schema), parts: parts.iter().map(bind).collect::<Result<_, QueryError>>()? })
    }
}

impl Conditions {
    pub fn new(predicate: &Predicate) -> Self {
        Self { parts: predicate.conjuncts(), bound: OnceLock::new() }
    }

    /// The names of the columns that are read.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().flat_map(|part| part.columns.iter().map(String::as_str))
    }

    /// Whether a part of a trace cannot answer it.
    pub fn asks_whole_traces(&self) -> bool {
        self.parts.iter().any(|part| part.asks_parents || whole_trace::COLUMNS.iter().any(|name| part.columns.contains(*name)))
    }

    /// For which rows it holds. Never null.
    pub fn holding(&self, rows: &RecordBatch, reads: &Reads) -> Result<BooleanArray, QueryError> {
        let known = match self.bound.get() {
            Some(bound) => bound,
            None => {
                let bound = Bound::new(&self.parts, rows.schema_ref())?;
                self.bound.get_or_init(|| bound)
            }
        };
        let other;
        let bound = match Arc::ptr_eq(&known.schema, rows.schema_ref()) || known.schema == *rows.schema_ref() {
            true => known,
            false => {
                other = Bound::new(&self.parts, rows.schema_ref())?;
                &other
            }
        };
        let count = rows.num_rows();
        let mut left: Option<BooleanArray> = None;
        for (part, bound) in self.parts.iter().zip(&bound.parts) {
            left = Some(match left {
                None => holds_on(part, &bound.over_all, rows, reads)?,
                Some(left) if part.asks_parents || left.true_count() * FEW_LEFT > count => {
                    arrow::compute::and(&left, &holds_on(part, &bound.over_all, rows, reads)?).map_err(QueryError::internal)?
                }
                Some(left) if left.true_count() == 0 => return Ok(left),
                Some(left) => {
                    let narrow = rows.project(&bound.columns).map_err(QueryError::internal)?;
                    let few = filter_record_batch(&narrow, &left).map_err(QueryError::internal)?;
                    let verdicts = holds_on(part, &bound.over_few, &few, reads)?;
                    let mut bits = BooleanBufferBuilder::new(count);
                    bits.append_n(count, false);
                    left.values().set_indices().zip(verdicts.values()).for_each(|(row, holds)| bits.set_bit(row, holds));
                    BooleanArray::new(bits.finish(), None)
                }
            });
        }
        Ok(left.unwrap_or_else(|| BooleanArray::new(BooleanBuffer::new_set(count), None)))
    }
}

/// The rows for which a predicate holds.
pub fn matching(predicate: &Predicate, rows: &RecordBatch, reads: &Reads) -> Result<BooleanArray, QueryError> {
    Conditions::new(predicate).holding(rows, reads)
}

/// What is decided row by row is decided in stretches, with a look at the time between them.
fn holds_on(predicate: &Predicate, expr: &Arc<dyn PhysicalExpr>, rows: &RecordBatch, reads: &Reads) -> Result<BooleanArray, QueryError> {
    reads.go_on()?;
    if !predicate.by_row || predicate.asks_parents || rows.num_rows() <= ROWS_UNCHECKED_MAX {
        return evaluate(expr, rows).map_err(QueryError::internal);
    }
    let mut verdicts = BooleanBufferBuilder::new(rows.num_rows());
    for start in (0..rows.num_rows()).step_by(ROWS_UNCHECKED_MAX) {
        let stretch = rows.slice(start, ROWS_UNCHECKED_MAX.min(rows.num_rows() - start));
        verdicts.append_buffer(evaluate(expr, &stretch).map_err(QueryError::internal)?.values());
        reads.go_on()?;
    }
    Ok(BooleanArray::new(verdicts.finish(), None))
}

/// A condition on every row; null counts as false.
pub fn evaluate(expr: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<BooleanArray, ArrowError> {
    let external = |e: datafusion::error::DataFusionError| ArrowError::ExternalError(Box::new(e));
    let array = expr.evaluate(batch).map_err(external)?.into_array(batch.num_rows()).map_err(external)?;
    let verdicts = array.as_boolean();
    Ok(match verdicts.null_count() {
        0 => verdicts.clone(),
        _ => arrow::compute::prep_null_mask_filter(verdicts),
    })
}
