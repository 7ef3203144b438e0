//! Tests on the values of one name wherever they are: key/value lists, events, links, ids as text.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::{
    array::{BooleanArray, RecordBatch},
    buffer::BooleanBuffer,
    datatypes::{DataType, Field, Schema},
};
use datafusion::{common::Result, logical_expr::ColumnarValue, physical_expr::PhysicalExpr};

use crate::{layout::Places, reader::Reader, value::Test};

/// What is asked of a name's values on a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// Is there any value?
    Exists,
    /// Is there a value that passes?
    Any(Test),
}

/// A question about the values of one name, answered row by row. Never null.
#[derive(Debug)]
pub struct PlacesTest {
    pub places: Places,
    pub question: Question,
    /// The columns the places lie in.
    pub columns: Vec<Arc<dyn PhysicalExpr>>,
}

impl PartialEq for PlacesTest {
    fn eq(&self, other: &Self) -> bool {
        self.places == other.places && self.question == other.question && self.columns.eq(&other.columns)
    }
}
impl Eq for PlacesTest {}
impl Hash for PlacesTest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.places.hash(state);
        format!("{:?}", self.question).hash(state);
        self.columns.hash(state);
    }
}
impl fmt::Display for PlacesTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.question {
            Question::Exists => write!(f, "exists({:?})", self.places.first),
            Question::Any(test) => write!(f, "any({:?}, {:?}, {:?})", self.places.first, test.op, test.literal),
        }
    }
}

impl PhysicalExpr for PlacesTest {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, _: &Schema) -> Result<bool> {
        Ok(false)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let reader = Reader::new(&self.places, &select(batch, &self.columns)?);
        let answer = |row| match &self.question {
            Question::Exists => reader.exists(row),
            Question::Any(test) => reader.any(row, |value| test.on(&value)),
        };
        let rows = batch.num_rows();
        let answers = match reader.only_list() {
            // Most rows have no events, and few have other attributes: they need not be asked.
            Some(list) => {
                let offsets = list.value_offsets();
                BooleanBuffer::collect_bool(rows, |row| offsets[row] < offsets[row + 1] && answer(row))
            }
            None => BooleanBuffer::collect_bool(rows, answer),
        };
        Ok(ColumnarValue::Array(Arc::new(BooleanArray::new(answers, None))))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.columns.iter().collect()
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(Arc::new(Self { places: self.places.clone(), question: self.question.clone(), columns: children }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The batch of just these column references, under the names they refer to.
pub fn select(batch: &RecordBatch, columns: &[Arc<dyn PhysicalExpr>]) -> Result<RecordBatch> {
    let mut fields = Vec::with_capacity(columns.len());
    let mut arrays = Vec::with_capacity(columns.len());
    for column in columns {
        let array = column.evaluate(batch)?.into_array(batch.num_rows())?;
        let name = column
            .downcast_ref::<datafusion::physical_expr::expressions::Column>()
            .map_or_else(|| column.to_string(), |c| c.name().to_owned());
        fields.push(Field::new(name, array.data_type().clone(), true));
        arrays.push(array);
    }
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)?)
}
