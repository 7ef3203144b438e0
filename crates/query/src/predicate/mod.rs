//! From a TraceQL field expression to a DataFusion expression over the columns of one layout.
//!
//! A comparison of a name with a literal becomes a plain comparison of columns wherever the values have a
//! column of their own, so that statistics can prune and the scan can filter before it decodes the rest.
//! What columns cannot say (key/value lists, events, links, arithmetic, name against name) becomes one of
//! our own expressions, with the same meaning. An expression that is null or false does not match.

mod compile;
mod nested;
mod pattern;
mod rowwise;

use std::{collections::BTreeSet, sync::Arc};

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::{
    common::tree_node::{Transformed, TreeNode},
    logical_expr::Operator,
    physical_expr::{
        PhysicalExpr,
        expressions::{BinaryExpr, Column, Literal},
        utils::{collect_columns, reassign_expr_columns},
    },
    scalar::ScalarValue,
};
use traceql::ast::ComparisonOp;

pub use compile::compile;

use self::{nested::PlacesTest, pattern::ColumnTest, rowwise::RowTest};
use crate::{
    request::QueryError,
    value::{Test, Value},
};

/// A compiled predicate and the columns it reads.
#[derive(Clone, Debug)]
pub struct Predicate {
    pub expr: Arc<dyn PhysicalExpr>,
    pub columns: BTreeSet<String>,
    /// Whether it has to see traces whole: then it is no part of a scan.
    pub asks_parents: bool,
    /// Whether a part of it is decided row by row.
    pub by_row: bool,
}

/// What a predicate says without looking at rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Constant {
    Always,
    Never,
}

impl Predicate {
    pub fn new(expr: Arc<dyn PhysicalExpr>) -> Self {
        let columns = collect_columns(&expr).iter().map(|c| c.name().to_owned()).collect();
        let asks = |expr: &Arc<dyn PhysicalExpr>| Ok(expr.downcast_ref::<RowTest>().is_some_and(|test| test.expr.asks_parents()));
        // The questions themselves never fail.
        let asks_parents = expr.exists(asks).unwrap_or(true);
        let by_row = expr.exists(|expr| Ok(expr.downcast_ref::<RowTest>().is_some() || expr.downcast_ref::<PlacesTest>().is_some())).unwrap_or(true);
        Self { expr, columns, asks_parents, by_row }
    }

    pub fn constant(&self) -> Option<Constant> {
        match self.expr.downcast_ref::<Literal>()?.value() {
            ScalarValue::Boolean(Some(true)) => Some(Constant::Always),
            ScalarValue::Boolean(_) => Some(Constant::Never),
            _ => None,
        }
    }

    /// Whether it reads columns of lists: events, links, attributes without a column of their own.
    pub fn reads_lists(&self) -> bool {
        self.columns.iter().any(|column| is_nested(column))
    }

    /// The same predicate over a schema that holds at least its columns, perhaps at other positions.
    pub fn over(&self, schema: &Schema) -> Result<Arc<dyn PhysicalExpr>, QueryError> {
        reassign_expr_columns(Arc::clone(&self.expr), schema).map_err(QueryError::internal)
    }

    /// As [`Self::over`], for evaluation: strings with numbered values are tested once per distinct value. Statistics
    /// cannot be pruned by it.
    pub fn evaluator(&self, schema: &Schema) -> Result<Arc<dyn PhysicalExpr>, QueryError> {
        let by_value = self.over(schema)?.transform(|expr| {
            Ok(match string_comparison(&expr, schema) {
                Some(test) => Transformed::yes(Arc::new(test) as Arc<dyn PhysicalExpr>),
                None => Transformed::no(expr),
            })
        });
        by_value.map(|transformed| transformed.data).map_err(QueryError::internal)
    }

    /// The parts that all have to hold, those that read plain columns only first.
    pub fn conjuncts(&self) -> Vec<Predicate> {
        let mut parts = vec![];
        split(&self.expr, &mut parts);
        let mut parts: Vec<_> = parts.into_iter().map(Predicate::new).collect();
        parts.sort_by_key(Predicate::reads_lists);
        parts
    }
}

/// The test that a comparison of a string column with a literal is.
fn string_comparison(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Option<ColumnTest> {
    let binary = expr.downcast_ref::<BinaryExpr>()?;
    let name = binary.left().downcast_ref::<Column>()?.name();
    let DataType::Dictionary(_, _) = schema.field_with_name(name).ok()?.data_type() else { return None };
    let ScalarValue::Utf8(Some(text)) = binary.right().downcast_ref::<Literal>()?.value() else { return None };
    let op = match binary.op() {
        Operator::Eq => ComparisonOp::Equal,
        Operator::NotEq => ComparisonOp::NotEqual,
        Operator::Lt => ComparisonOp::Less,
        Operator::LtEq => ComparisonOp::LessEqual,
        Operator::Gt => ComparisonOp::Greater,
        Operator::GtEq => ComparisonOp::GreaterEqual,
        _ => return None,
    };
    let test = Test { op, literal: Value::String(text.clone()), pattern: None };
    Some(ColumnTest { column: Arc::clone(binary.left()), test })
}

fn split(expr: &Arc<dyn PhysicalExpr>, parts: &mut Vec<Arc<dyn PhysicalExpr>>) {
    match expr.downcast_ref::<BinaryExpr>() {
        Some(binary) if *binary.op() == Operator::And => {
            split(binary.left(), parts);
            split(binary.right(), parts);
        }
        _ => parts.push(Arc::clone(expr)),
    }
}

fn is_nested(column: &str) -> bool {
    use block::schema::{EVENTS, LINKS, RESOURCE_ATTRIBUTES, SCOPE_ATTRIBUTES, SPAN_ATTRIBUTES};
    [EVENTS, LINKS, RESOURCE_ATTRIBUTES, SCOPE_ATTRIBUTES, SPAN_ATTRIBUTES].contains(&column)
}

/// A reference to a column of `schema`; `None` if it has none of that name.
fn column(schema: &SchemaRef, name: &str) -> Option<Arc<dyn PhysicalExpr>> {
    let (index, _) = schema.column_with_name(name)?;
    Some(Arc::new(Column::new(name, index)))
}
