//! Tests on one column: patterns on strings (each distinct string once), and floats by IEEE rules.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch},
    buffer::BooleanBuffer,
    datatypes::{DataType, Float64Type, Int32Type, Int64Type, Schema},
};
use datafusion::{
    common::Result,
    error::DataFusionError,
    logical_expr::ColumnarValue,
    physical_expr::PhysicalExpr,
};

use crate::value::{Number, Test};

/// Whether a column's value passes a test; null where the column is null.
///
/// Used where DataFusion's own comparison would differ: patterns, and floats (whose total order puts
/// not-a-number above everything and tells -0 from 0).
#[derive(Debug)]
pub struct ColumnTest {
    pub column: Arc<dyn PhysicalExpr>,
    pub test: Test,
}

impl PartialEq for ColumnTest {
    fn eq(&self, other: &Self) -> bool {
        self.column.eq(&other.column) && self.test == other.test
    }
}
impl Eq for ColumnTest {}
impl Hash for ColumnTest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.column.hash(state);
        format!("{:?}", self.test).hash(state);
    }
}
impl fmt::Display for ColumnTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "test({}, {:?}, {:?})", self.column, self.test.op, self.test.literal)
    }
}

impl PhysicalExpr for ColumnTest {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, _: &Schema) -> Result<bool> {
        Ok(true)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let array = self.column.evaluate(batch)?.into_array(batch.num_rows())?;
        Ok(ColumnarValue::Array(Arc::new(test_column(&self.test, &array)?)))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.column]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(Arc::new(Self { column: children.swap_remove(0), test: self.test.clone() }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

fn test_column(test: &Test, array: &ArrayRef) -> Result<BooleanArray> {
    let rows = 0..array.len();
    Ok(match array.data_type() {
        DataType::Utf8 => {
            let strings = array.as_string::<i32>();
            rows.map(|row| strings.is_valid(row).then(|| test.on_str(strings.value(row)))).collect()
        }
        DataType::Utf8View => {
            let strings = array.as_string_view();
            rows.map(|row| strings.is_valid(row).then(|| test.on_str(strings.value(row)))).collect()
        }
        DataType::Dictionary(_, _) => {
            let dictionary = array.as_dictionary::<Int32Type>();
            let keys = dictionary.keys();
            if let Some(words) = dictionary.values().as_string_opt::<i32>().filter(|words| words.len() > keys.len()) {
                // More words than rows: only those of the rows are tested.
                let verdict = |key: usize| words.is_valid(key).then(|| test.on_str(words.value(key)));
                return Ok(rows.map(|row| dictionary.key(row).and_then(verdict)).collect());
            }
            let verdicts = test_column(test, dictionary.values())?;
            if verdicts.null_count() > 0 {
                let verdict = |key: usize| verdicts.is_valid(key).then(|| verdicts.value(key));
                return Ok(rows.map(|row| dictionary.key(row).and_then(verdict)).collect());
            }
            let holds: Vec<bool> = verdicts.values().iter().collect();
            let numbers = keys.values();
            // The number of a null row can be anything.
            let bits = BooleanBuffer::collect_bool(keys.len(), |row| holds.get(numbers[row] as usize) == Some(&true));
            BooleanArray::new(bits, keys.nulls().cloned())
        }
        DataType::Float64 => {
            let floats = array.as_primitive::<Float64Type>();
            floats.iter().map(|v| v.map(|v| test.on_number(Number::Float(v)))).collect()
        }
        DataType::Int64 => {
            let longs = array.as_primitive::<Int64Type>();
            longs.iter().map(|v| v.map(|v| test.on_number(Number::Int(v)))).collect()
        }
        DataType::Int32 => {
            let ints = array.as_primitive::<Int32Type>();
            ints.iter().map(|v| v.map(|v| test.on_number(Number::Int(v.into())))).collect()
        }
        other => return Err(DataFusionError::Internal(format!("no test on a column of {other}"))),
    })
}
