//! Delta's type language, and how the columns of a block are said in it.
//!
//! Every column is nullable: blocks differ in their columns, and a null constraint would need a check by
//! every writer. Names are never renamed and types never changed; a column that is new in a block is
//! appended.

use arrow::datatypes::{DataType as ArrowType, Field as ArrowField, Schema as ArrowSchema};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "struct")]
pub(crate) struct StructType {
    pub fields: Vec<StructField>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StructField {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: DataType,
    pub nullable: bool,
    #[serde(default)]
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum DataType {
    Primitive(String),
    Nested(Box<Nested>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum Nested {
    Struct { fields: Vec<StructField> },
    #[serde(rename_all = "camelCase")]
    Array { element_type: DataType, contains_null: bool },
    #[serde(rename_all = "camelCase")]
    Map { key_type: DataType, value_type: DataType, value_contains_null: bool },
}

impl StructType {
    pub fn empty() -> Self {
        Self { fields: Vec::new() }
    }

    /// Appends what `block` has and this has not. Whether anything was new.
    ///
    /// Delta forbids names that differ in case only, and attributes do not: the later of two such columns
    /// stays out of the table's schema. It is in the block all the same, where our own engine finds it.
    ///
    /// # Errors
    /// A column of a type that Delta has no word for, or whose type differs from the table's.
    pub fn extend(&mut self, block: &ArrowSchema) -> Result<bool, String> {
        let mut changed = false;
        for column in block.fields() {
            let new = field(column)?;
            match self.fields.iter().find(|known| known.name.eq_ignore_ascii_case(&new.name)) {
                Some(known) if known.name != new.name => {
                    tracing::debug!(column = new.name, known = known.name, "not added to the table: the names differ in case only");
                }
                Some(known) if known.kind == new.kind => {}
                Some(known) => {
                    return Err(format!("column {:?} is {} in the block and {} in the table", new.name, new.kind, known.kind));
                }
                None => {
                    self.fields.push(new);
                    changed = true;
                }
            }
        }
        Ok(changed)
    }
}

impl std::fmt::Display for DataType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Primitive(name) => f.write_str(name),
            Self::Nested(nested) => match **nested {
                Nested::Struct { .. } => f.write_str("struct"),
                Nested::Array { .. } => f.write_str("array"),
                Nested::Map { .. } => f.write_str("map"),
            },
        }
    }
}

fn field(column: &ArrowField) -> Result<StructField, String> {
    Ok(StructField { name: column.name().clone(), kind: kind(column)?, nullable: true, metadata: Default::default() })
}

fn kind(column: &ArrowField) -> Result<DataType, String> {
    let primitive = |name: &str| Ok(DataType::Primitive(name.to_owned()));
    match column.data_type() {
        ArrowType::Boolean => primitive("boolean"),
        ArrowType::Int8 => primitive("byte"),
        ArrowType::Int16 => primitive("short"),
        ArrowType::Int32 => primitive("integer"),
        ArrowType::Int64 => primitive("long"),
        ArrowType::Float32 => primitive("float"),
        ArrowType::Float64 => primitive("double"),
        ArrowType::Utf8 | ArrowType::LargeUtf8 | ArrowType::Utf8View => primitive("string"),
        ArrowType::Binary | ArrowType::LargeBinary | ArrowType::BinaryView | ArrowType::FixedSizeBinary(_) => {
            primitive("binary")
        }
        ArrowType::Dictionary(_, value) => kind(&ArrowField::new(column.name(), value.as_ref().clone(), true)),
        ArrowType::Struct(fields) => {
            let fields = fields.iter().map(|f| field(f)).collect::<Result<_, _>>()?;
            Ok(DataType::Nested(Box::new(Nested::Struct { fields })))
        }
        ArrowType::List(element) | ArrowType::LargeList(element) => {
            Ok(DataType::Nested(Box::new(Nested::Array { element_type: kind(element)?, contains_null: true })))
        }
        other => Err(format!("column {:?} has type {other}, which Delta has no word for", column.name())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn block(names: &[(&str, ArrowType)]) -> ArrowSchema {
        ArrowSchema::new(names.iter().map(|(n, t)| ArrowField::new(*n, t.clone(), false)).collect::<Vec<_>>())
    }

    #[test]
    fn the_columns_of_a_block_have_words_in_delta() {
        let mut table = StructType::empty();
        let fields: Vec<_> = block::schema::FIXED_FIELDS.iter().cloned().collect();
        assert!(table.extend(&ArrowSchema::new(fields)).unwrap());
        let text = serde_json::to_string(&table).unwrap();
        assert_eq!(serde_json::from_str::<StructType>(&text).unwrap(), table);
        assert!(text.starts_with(r#"{"type":"struct","fields":[{"name":"trace_id","type":"binary","nullable":true,"metadata":{}}"#), "{text}");
        assert!(text.contains(r#""type":{"type":"array","elementType":{"type":"struct","fields":["#), "{text}");
    }

    #[test]
    fn new_columns_are_appended_and_old_ones_stay() {
        let mut table = StructType::empty();
        assert!(table.extend(&block(&[("a", ArrowType::Int64)])).unwrap());
        assert!(!table.extend(&block(&[("a", ArrowType::Int64)])).unwrap());
        assert!(table.extend(&block(&[("b", ArrowType::Utf8), ("a", ArrowType::Int64)])).unwrap());
        assert_eq!(table.fields.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn a_column_that_changes_its_type_is_refused() {
        let mut table = StructType::empty();
        table.extend(&block(&[("a", ArrowType::Int64)])).unwrap();
        assert!(table.extend(&block(&[("a", ArrowType::Utf8)])).unwrap_err().contains("long in the table"));
        assert!(table.extend(&block(&[("b", ArrowType::UInt64)])).is_err());
    }

    #[test]
    fn names_that_differ_in_case_only_do_not_stop_a_commit() {
        let mut table = StructType::empty();
        table.extend(&block(&[("span.userId", ArrowType::Utf8)])).unwrap();
        assert!(!table.extend(&block(&[("span.userid", ArrowType::Utf8)])).unwrap());
        assert_eq!(table.fields.len(), 1);
    }

    #[test]
    fn a_list_keeps_what_its_element_is() {
        let list = ArrowType::List(Arc::new(ArrowField::new("element", ArrowType::Int64, false)));
        let mut table = StructType::empty();
        table.extend(&block(&[("l", list)])).unwrap();
        let text = serde_json::to_string(&table).unwrap();
        assert!(text.contains(r#"{"type":"array","elementType":"long","containsNull":true}"#), "{text}");
    }
}
