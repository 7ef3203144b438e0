//! Evaluates any field expression row by row: the general path for what columns cannot say, and for
//! `by(...)`, aggregates and arithmetic.

use arrow::array::RecordBatch;
use traceql::ast::{Attribute, AttributeName, ComparisonOp, FieldExpr, Intrinsic, Static};

use crate::{
    layout::{Layout, Places},
    reader::Reader,
    request::QueryError,
    value::{Test, Value, arithmetic, compare, negate},
};

/// An expression whose names are bound to the places of one layout.
#[derive(Clone, Debug)]
pub struct RowExpr {
    root: Node,
    /// By the order in which names were met; nodes refer to it.
    places: Vec<Places>,
}

#[derive(Clone, Debug)]
enum Node {
    Literal(Option<Value>),
    Name(usize),
    /// The pattern is set for `=~` and `!~` with a literal on the right.
    Compare(ComparisonOp, Box<Node>, Box<Node>),
    Test(Box<Node>, Test),
    Arithmetic(traceql::ast::ArithmeticOp, Box<Node>, Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    /// The complement of a condition.
    Not(Box<Node>),
    /// `!name`: true where the name is false.
    IsFalse(Box<Node>),
    Negate(Box<Node>),
    Exists(bool, Box<Node>),
    In(bool, Box<Node>, Vec<Value>),
}

impl RowExpr {
    pub fn bind(expr: &FieldExpr, layout: &Layout) -> Result<Self, QueryError> {
        let mut places = vec![];
        let root = bind(expr, layout, &mut places)?;
        Ok(Self { root, places })
    }

    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.places.iter().flat_map(Places::columns)
    }

    /// Whether it has to see traces whole.
    pub fn asks_parents(&self) -> bool {
        self.places.iter().any(|places| places.of_parent)
    }

    pub fn over(&self, batch: &RecordBatch) -> BoundRows<'_> {
        BoundRows { root: &self.root, readers: self.places.iter().map(|p| Reader::new(p, batch)).collect() }
    }
}

fn bind(expr: &FieldExpr, layout: &Layout, places: &mut Vec<Places>) -> Result<Node, QueryError> {
    let mut sub = |e: &FieldExpr| bind(e, layout, places).map(Box::new);
    Ok(match expr {
        FieldExpr::Static(literal, _) => Node::Literal(Value::of_static(literal)),
        FieldExpr::Attribute(attribute) => bind_name(attribute, layout, places),
        FieldExpr::Compare { op: op @ (ComparisonOp::Match | ComparisonOp::NotMatch), left, right, .. } => {
            Node::Test(sub(left)?, pattern_test(*op, right)?)
        }
        FieldExpr::Compare { op: op @ (ComparisonOp::Equal | ComparisonOp::NotEqual), left, right, .. } => {
            let left_node = if is_trace_id(right) { trace_id_literal(left) } else { None };
            let right_node = if is_trace_id(left) { trace_id_literal(right) } else { None };
            let left = match left_node { Some(node) => Box::new(node), None => sub(left)? };
            let right = match right_node { Some(node) => Box::new(node), None => sub(right)? };
            Node::Compare(*op, left, right)
        }
        FieldExpr::Compare { op, left, right, .. } => Node::Compare(*op, sub(left)?, sub(right)?),
        FieldExpr::Arithmetic { op, left, right, .. } => Node::Arithmetic(*op, sub(left)?, sub(right)?),
        FieldExpr::And(left, right) => Node::And(sub(left)?, sub(right)?),
        FieldExpr::Or(left, right) => Node::Or(sub(left)?, sub(right)?),
        FieldExpr::Not(operand) if matches!(**operand, FieldExpr::Attribute(_)) => Node::IsFalse(sub(operand)?),
        FieldExpr::Not(operand) => Node::Not(sub(operand)?),
        FieldExpr::Negate(operand) => Node::Negate(sub(operand)?),
        FieldExpr::Exists { exists, operand, .. } => Node::Exists(*exists, sub(operand)?),
        FieldExpr::In { negated, operand, values, .. } => {
            let values = values.iter().filter_map(|literal| match literal {
                Static::String(text) if is_trace_id(operand) => Some(Value::String(short_trace_id(text))),
                literal => Value::of_static(literal),
            });
            Node::In(*negated, sub(operand)?, values.collect())
        }
    })
}

fn is_trace_id(expr: &FieldExpr) -> bool {
    let FieldExpr::Attribute(Attribute { name: AttributeName::Intrinsic(intrinsic), .. }) = expr else { return false };
    matches!(intrinsic, Intrinsic::TraceId | Intrinsic::LinkTraceId)
}

/// The literal that values of `name` are compared with by `op`: values of links' trace ids have no leading zeros.
pub fn literal_value(name: &Attribute, op: ComparisonOp, literal: &Static) -> Option<Value> {
    match (&name.name, literal) {
        (AttributeName::Intrinsic(Intrinsic::LinkTraceId), Static::String(text))
            if matches!(op, ComparisonOp::Equal | ComparisonOp::NotEqual) =>
        {
            Some(Value::String(short_trace_id(text)))
        }
        (_, literal) => Value::of_static(literal),
    }
}

/// Trace ids are equal whether or not their leading zeros are written.
fn trace_id_literal(expr: &FieldExpr) -> Option<Node> {
    match expr {
        FieldExpr::Static(Static::String(text), _) => Some(Node::Literal(Some(Value::String(short_trace_id(text))))),
        _ => None,
    }
}

fn short_trace_id(text: &str) -> String {
    text.trim_start_matches('0').to_owned()
}

fn bind_name(attribute: &Attribute, layout: &Layout, places: &mut Vec<Places>) -> Node {
    let found = layout.places(attribute);
    let index = places.iter().position(|p| *p == found).unwrap_or_else(|| {
        places.push(found);
        places.len() - 1
    });
    Node::Name(index)
}

/// The test that a comparison with a pattern stands for.
pub fn pattern_test(op: ComparisonOp, right: &FieldExpr) -> Result<Test, QueryError> {
    let FieldExpr::Static(Static::String(text), _) = right else {
        return Err(QueryError::invalid("the right side of =~ and !~ must be a string literal"));
    };
    let pattern = traceql::compile_regex(text).map_err(|e| QueryError::invalid(e.to_string()))?;
    Ok(Test { op, literal: Value::String(text.clone()), pattern: Some(pattern) })
}

/// An expression bound to the rows of one batch.
pub struct BoundRows<'a> {
    root: &'a Node,
    readers: Vec<Reader>,
}

impl BoundRows<'_> {
    /// Whether the expression, taken as a condition, holds on `row`.
    pub fn holds(&self, row: usize) -> bool {
        self.condition(self.root, row)
    }

    /// The first value of the expression on `row`; `None` for nil.
    pub fn value(&self, row: usize) -> Option<Value> {
        if let Node::Name(index) = self.root {
            return self.readers[*index].first(row);
        }
        let mut first = None;
        self.any(self.root, row, &mut |value| {
            first = Some(value);
            true
        });
        first
    }

    fn condition(&self, node: &Node, row: usize) -> bool {
        self.any(node, row, &mut |value| compare(ComparisonOp::Equal, &value, &Value::Bool(true)))
    }

    /// Calls `each` with every value of `node` on `row` until it returns true. A name can have several values
    /// (events, links, repeated keys); a comparison holds if it holds for any of them.
    fn any(&self, node: &Node, row: usize, each: &mut dyn FnMut(Value) -> bool) -> bool {
        match node {
            Node::Literal(value) => value.clone().is_some_and(each),
            Node::Name(index) => self.readers[*index].any(row, each),
            Node::Compare(op, left, right) => {
                let found = self.any(left, row, &mut |l| self.any(right, row, &mut |r| compare(*op, &l, &r)));
                each(Value::Bool(found))
            }
            Node::Test(operand, test) => {
                let found = self.any(operand, row, &mut |value| test.on(&value));
                each(Value::Bool(found))
            }
            Node::Arithmetic(op, left, right) => self.any(left, row, &mut |l| {
                self.any(right, row, &mut |r| arithmetic(*op, &l, &r).is_some_and(&mut *each))
            }),
            Node::And(left, right) => each(Value::Bool(self.condition(left, row) && self.condition(right, row))),
            Node::Or(left, right) => each(Value::Bool(self.condition(left, row) || self.condition(right, row))),
            Node::Not(operand) => each(Value::Bool(!self.condition(operand, row))),
            Node::IsFalse(operand) => {
                let found = self.any(operand, row, &mut |value| compare(ComparisonOp::Equal, &value, &Value::Bool(false)));
                each(Value::Bool(found))
            }
            Node::Negate(operand) => self.any(operand, row, &mut |value| negate(&value).is_some_and(&mut *each)),
            Node::Exists(exists, operand) => each(Value::Bool(self.any(operand, row, &mut |_| true) == *exists)),
            Node::In(negated, operand, values) => {
                let found = self.any(operand, row, &mut |value| match negated {
                    false => values.iter().any(|v| compare(ComparisonOp::Equal, &value, v)),
                    true => values.iter().all(|v| compare(ComparisonOp::NotEqual, &value, v)),
                });
                each(Value::Bool(found))
            }
        }
    }
}
