//! The general path inside a predicate: any condition, row by row.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::{
    array::{BooleanArray, RecordBatch},
    datatypes::{DataType, Schema},
};
use datafusion::{common::Result, logical_expr::ColumnarValue, physical_expr::PhysicalExpr};

use super::nested::select;
use crate::rowexpr::RowExpr;

/// A condition evaluated row by row. Never null.
#[derive(Debug)]
pub struct RowTest {
    /// The condition as written; two tests of one layout with equal text are equal.
    pub text: String,
    pub expr: RowExpr,
    pub columns: Vec<Arc<dyn PhysicalExpr>>,
}

impl PartialEq for RowTest {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.columns.eq(&other.columns)
    }
}
impl Eq for RowTest {}
impl Hash for RowTest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}
impl fmt::Display for RowTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rowwise({})", self.text)
    }
}

impl PhysicalExpr for RowTest {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, _: &Schema) -> Result<bool> {
        Ok(false)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let batch = select(batch, &self.columns)?;
        let rows = self.expr.over(&batch);
        let answers: BooleanArray = (0..batch.num_rows()).map(|row| Some(rows.holds(row))).collect();
        Ok(ColumnarValue::Array(Arc::new(answers)))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.columns.iter().collect()
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(Arc::new(Self { text: self.text.clone(), expr: self.expr.clone(), columns: children }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
