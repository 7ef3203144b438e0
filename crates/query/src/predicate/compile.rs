//! The compiler.

use std::sync::Arc;

use datafusion::{
    logical_expr::Operator,
    physical_expr::{
        PhysicalExpr,
        expressions::{BinaryExpr, IsNotNullExpr, IsNullExpr, Literal, NotExpr},
    },
    scalar::ScalarValue,
};
use model::{AttributeType, TraceId};
use traceql::ast::{Attribute, ComparisonOp, FieldExpr, Static};

use super::{
    Predicate, column,
    nested::{PlacesTest, Question},
    pattern::ColumnTest,
    rowwise::RowTest,
};
use crate::{
    layout::{Layout, Place, Places, Reading},
    parents,
    request::QueryError,
    rowexpr::{RowExpr, literal_value, pattern_test},
    value::{Test, Value, kind_code, status_code},
};

type Expr = Arc<dyn PhysicalExpr>;

/// Compiles a checked field expression, taken as a condition, for one layout.
pub fn compile(expr: &FieldExpr, layout: &Layout) -> Result<Predicate, QueryError> {
    Compiler { layout }.condition(expr).map(Predicate::new)
}

struct Compiler<'a> {
    layout: &'a Layout,
}

impl Compiler<'_> {
    fn condition(&self, expr: &FieldExpr) -> Result<Expr, QueryError> {
        Ok(match expr {
            // Columns cannot say which row is another's parent; and one part of an operation may be asked only about the rows
            // that the other leaves open, where a parent is missing. What all has to hold is taken apart and asked about all rows.
            FieldExpr::And(left, right) => and(self.condition(left)?, self.condition(right)?),
            _ if parents::asked_by(expr) => self.by_row(expr)?,
            FieldExpr::Static(Static::Bool(value), _) => constant(*value),
            FieldExpr::Static(..) => constant(false),
            FieldExpr::Or(left, right) => or(self.condition(left)?, self.condition(right)?),
            FieldExpr::Attribute(attribute) => self.compare_bool(attribute, true),
            FieldExpr::Not(operand) => match &**operand {
                FieldExpr::Attribute(attribute) => self.compare_bool(attribute, false),
                operand => complement(self.condition(operand)?),
            },
            FieldExpr::Compare { op, left, right, .. } => match (&**left, &**right) {
                (FieldExpr::Attribute(attribute), FieldExpr::Static(literal, _)) => {
                    let test = match op {
                        ComparisonOp::Match | ComparisonOp::NotMatch => pattern_test(*op, right)?,
                        _ => literal_test(attribute, *op, literal),
                    };
                    self.compare(attribute, &test)
                }
                (FieldExpr::Static(literal, _), FieldExpr::Attribute(attribute)) => {
                    self.compare(attribute, &literal_test(attribute, mirrored(*op), literal))
                }
                _ => self.by_row(expr)?,
            },
            FieldExpr::Exists { exists, operand, .. } => match &**operand {
                FieldExpr::Attribute(attribute) => {
                    let places = self.layout.places(attribute);
                    let found = or(self.exists(&places.first), self.exists(&places.fallback));
                    if *exists { found } else { not(found) }
                }
                _ => self.by_row(expr)?,
            },
            FieldExpr::In { negated, operand, values, .. } => match &**operand {
                FieldExpr::Attribute(attribute) if self.single_valued(attribute) => {
                    let op = if *negated { ComparisonOp::NotEqual } else { ComparisonOp::Equal };
                    let join = if *negated { and } else { or };
                    let parts = values.iter().map(|v| self.compare(attribute, &literal_test(attribute, op, v)));
                    parts.reduce(join).unwrap_or_else(|| constant(*negated))
                }
                _ => self.by_row(expr)?,
            },
            FieldExpr::Arithmetic { .. } | FieldExpr::Negate(_) => self.by_row(expr)?,
        })
    }

    fn by_row(&self, expr: &FieldExpr) -> Result<Expr, QueryError> {
        let bound = RowExpr::bind(expr, self.layout)?;
        let mut names: Vec<&str> = bound.columns().collect();
        names.sort_unstable();
        names.dedup();
        let columns = names.into_iter().filter_map(|name| self.column(name)).collect();
        Ok(Arc::new(RowTest { text: expr.to_string(), expr: bound, columns }))
    }

    fn compare_bool(&self, attribute: &Attribute, value: bool) -> Expr {
        self.compare(attribute, &literal_test(attribute, ComparisonOp::Equal, &Static::Bool(value)))
    }

    fn single_valued(&self, attribute: &Attribute) -> bool {
        let places = self.layout.places(attribute);
        let mut all = places.first.iter().chain(&places.fallback);
        all.all(|place| matches!(place, Place::Promoted { .. } | Place::Fixed { .. }))
    }

    fn compare(&self, attribute: &Attribute, test: &Test) -> Expr {
        let places = self.layout.places(attribute);
        assert!(!places.of_parent, "conditions on parents are evaluated by row");
        let first = self.any_of(&places.first, test);
        if places.fallback.is_empty() {
            return first;
        }
        let fallback = and(not(self.exists(&places.first)), self.any_of(&places.fallback, test));
        or(first, fallback)
    }

    fn any_of(&self, places: &[Place], test: &Test) -> Expr {
        places.iter().map(|place| self.place_test(place, test)).fold(constant(false), or)
    }

    fn exists(&self, places: &[Place]) -> Expr {
        places
            .iter()
            .map(|place| match place {
                Place::Promoted { column, .. } => match self.column(column) {
                    Some(column) => Arc::new(IsNotNullExpr::new(column)) as Expr,
                    None => constant(false),
                },
                Place::Fixed { reading: Reading::Parent, column } => match self.column(column) {
                    Some(column) => binary(column, ComparisonOp::Greater, ScalarValue::Int32(Some(0))),
                    None => constant(false),
                },
                Place::Fixed { .. } => constant(true),
                _ => self.question(place, Question::Exists),
            })
            .fold(constant(false), or)
    }

    fn question(&self, place: &Place, question: Question) -> Expr {
        let places = Places { first: vec![place.clone()], ..Places::default() };
        let columns: Vec<Expr> = places.columns().filter_map(|name| self.column(name)).collect();
        Arc::new(PlacesTest { columns, places, question })
    }

    fn column(&self, name: &str) -> Option<Expr> {
        column(&self.layout.schema, name)
    }

    fn place_test(&self, place: &Place, test: &Test) -> Expr {
        match place {
            Place::Promoted { column, kind } => match self.column(column) {
                Some(column) => promoted_test(column, *kind, test),
                None => constant(false),
            },
            Place::Fixed { column, reading } => match self.column(column) {
                Some(expr) => self.fixed_test(place, expr, *reading, test),
                None => constant(matches!(reading, Reading::String | Reading::SpanId) && test.on_str("")),
            },
            Place::List { .. } | Place::Event(_) | Place::Link(_) => self.question(place, Question::Any(test.clone())),
        }
    }

    fn fixed_test(&self, place: &Place, column: Expr, reading: Reading, test: &Test) -> Expr {
        match (reading, &test.literal) {
            (Reading::String, Value::String(_)) => {
                let found = string_test(Arc::clone(&column), test);
                if test.on_str("") { or(found, Arc::new(IsNullExpr::new(column))) } else { found }
            }
            (Reading::Int, Value::Int(v)) if i32::try_from(*v).is_ok() => {
                binary(column, test.op, ScalarValue::Int32(i32::try_from(*v).ok()))
            }
            (Reading::Int | Reading::Duration, Value::Float(_) | Value::Int(_) | Value::Duration(_)) => {
                number_test(column, reading == Reading::Duration, test)
            }
            (Reading::Status, Value::Status(v)) => equality(column, test.op, status_code(*v)),
            (Reading::Kind, Value::Kind(v)) => equality(column, test.op, kind_code(*v)),
            (Reading::Status | Reading::Kind, Value::Int(v)) => match i32::try_from(*v) {
                Ok(v) => equality(column, test.op, v),
                Err(_) => constant(test.op == ComparisonOp::NotEqual),
            },
            (Reading::SpanId, Value::String(text)) if is_equality(test.op) => span_id_test(column, test.op, text),
            (Reading::TraceId, Value::String(text)) if is_equality(test.op) => {
                match TraceId::parse(text) {
                    Ok(id) if !text.bytes().any(|b| b.is_ascii_uppercase()) => {
                        binary(column, test.op, ScalarValue::FixedSizeBinary(16, Some(id.0.to_vec())))
                    }
                    _ => constant(test.op == ComparisonOp::NotEqual),
                }
            }
            (Reading::SpanId | Reading::TraceId, Value::String(_)) => {
                self.question(place, Question::Any(test.clone()))
            }
            _ => constant(false),
        }
    }
}

fn literal_test(attribute: &Attribute, op: ComparisonOp, literal: &Static) -> Test {
    // A comparison with nil never holds; `Opaque` compares with nothing.
    Test { op, literal: literal_value(attribute, op, literal).unwrap_or(Value::Opaque), pattern: None }
}

fn promoted_test(column: Expr, kind: AttributeType, test: &Test) -> Expr {
    match (kind, &test.literal) {
        (AttributeType::String, Value::String(_)) => string_test(column, test),
        (AttributeType::Long, Value::Int(_) | Value::Duration(_) | Value::Float(_)) => number_test(column, true, test),
        (AttributeType::Long, Value::Status(v)) => whole_equality(column, test.op, i64::from(status_code(*v))),
        (AttributeType::Long, Value::Kind(v)) => whole_equality(column, test.op, i64::from(kind_code(*v))),
        (AttributeType::Double, Value::Int(_) | Value::Duration(_) | Value::Float(_)) => {
            Arc::new(ColumnTest { column, test: test.clone() })
        }
        (AttributeType::Boolean, Value::Bool(v)) if is_equality(test.op) => {
            binary(column, test.op, ScalarValue::Boolean(Some(*v)))
        }
        _ => constant(false),
    }
}

fn whole_equality(column: Expr, op: ComparisonOp, code: i64) -> Expr {
    if is_equality(op) { binary(column, op, ScalarValue::Int64(Some(code))) } else { constant(false) }
}

fn string_test(column: Expr, test: &Test) -> Expr {
    match (&test.pattern, &test.literal) {
        (None, Value::String(text)) => binary(column, test.op, ScalarValue::Utf8(Some(text.clone()))),
        _ => Arc::new(ColumnTest { column, test: test.clone() }),
    }
}

/// `long` says whether the column has 64 bits.
fn number_test(column: Expr, long: bool, test: &Test) -> Expr {
    match &test.literal {
        Value::Int(v) | Value::Duration(v) if long => binary(column, test.op, ScalarValue::Int64(Some(*v))),
        _ => Arc::new(ColumnTest { column, test: test.clone() }),
    }
}

/// Ids are 16 lower-case hex digits; an absent id is the empty string.
fn span_id_test(column: Expr, op: ComparisonOp, text: &str) -> Expr {
    let equal = op == ComparisonOp::Equal;
    let absent: Expr = Arc::new(IsNullExpr::new(Arc::clone(&column)));
    if text.is_empty() {
        return if equal { absent } else { not(absent) };
    }
    let lower_hex = text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    match u64::from_str_radix(text, 16) {
        Ok(id) if lower_hex => {
            let found = binary(column, op, ScalarValue::FixedSizeBinary(8, Some(id.to_be_bytes().to_vec())));
            if equal { found } else { or(found, absent) }
        }
        _ => constant(!equal),
    }
}

fn is_equality(op: ComparisonOp) -> bool {
    matches!(op, ComparisonOp::Equal | ComparisonOp::NotEqual)
}

fn equality(column: Expr, op: ComparisonOp, code: i32) -> Expr {
    if is_equality(op) { binary(column, op, ScalarValue::Int32(Some(code))) } else { constant(false) }
}

fn binary(column: Expr, op: ComparisonOp, literal: ScalarValue) -> Expr {
    let operator = match op {
        ComparisonOp::Equal => Operator::Eq,
        ComparisonOp::NotEqual => Operator::NotEq,
        ComparisonOp::Less => Operator::Lt,
        ComparisonOp::LessEqual => Operator::LtEq,
        ComparisonOp::Greater => Operator::Gt,
        ComparisonOp::GreaterEqual => Operator::GtEq,
        ComparisonOp::Match | ComparisonOp::NotMatch => unreachable!("patterns are tested by ColumnTest"),
    };
    Arc::new(BinaryExpr::new(column, operator, Arc::new(Literal::new(literal))))
}

/// `literal op name` as `name op literal`.
fn mirrored(op: ComparisonOp) -> ComparisonOp {
    match op {
        ComparisonOp::Less => ComparisonOp::Greater,
        ComparisonOp::LessEqual => ComparisonOp::GreaterEqual,
        ComparisonOp::Greater => ComparisonOp::Less,
        ComparisonOp::GreaterEqual => ComparisonOp::LessEqual,
        same => same,
    }
}

fn constant(value: bool) -> Expr {
    Arc::new(Literal::new(ScalarValue::Boolean(Some(value))))
}

fn as_constant(expr: &Expr) -> Option<bool> {
    match expr.downcast_ref::<Literal>()?.value() {
        ScalarValue::Boolean(value) => *value,
        _ => None,
    }
}

fn and(left: Expr, right: Expr) -> Expr {
    match (as_constant(&left), as_constant(&right)) {
        (Some(false), _) | (_, Some(true)) => left,
        (Some(true), _) | (_, Some(false)) => right,
        _ => Arc::new(BinaryExpr::new(left, Operator::And, right)),
    }
}

pub(super) fn or(left: Expr, right: Expr) -> Expr {
    match (as_constant(&left), as_constant(&right)) {
        (Some(true), _) | (_, Some(false)) => left,
        (Some(false), _) | (_, Some(true)) => right,
        _ => Arc::new(BinaryExpr::new(left, Operator::Or, right)),
    }
}

/// Negation of something that is never null.
fn not(expr: Expr) -> Expr {
    match as_constant(&expr) {
        Some(value) => constant(!value),
        None => Arc::new(NotExpr::new(expr)),
    }
}

/// True wherever `expr` is false or null.
fn complement(expr: Expr) -> Expr {
    match as_constant(&expr) {
        Some(value) => constant(!value),
        None => Arc::new(BinaryExpr::new(expr, Operator::IsDistinctFrom, constant(true))),
    }
}
