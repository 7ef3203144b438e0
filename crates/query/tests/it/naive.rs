//! What a query means, said as plainly as possible: over plain structs, one span at a time, with no thought of speed.
//!
//! Written from the specification of TraceQL and `docs/compatibility.md`, not from the engine. It knows traces only
//! as wholes.

mod compare;
pub mod metrics;
pub mod search;
pub mod tags;
mod trace;
mod value;

use std::{cell::RefCell, collections::HashMap};

use proto::otlp::common::v1::KeyValue;
use regex::Regex;
use traceql::ast::{Attribute, AttributeName, ComparisonOp, FieldExpr, Intrinsic, Scope, Static};

pub use trace::{Trace, traces};
pub use value::Value;

use trace::{Node, Place, hex, short_hex};

/// Patterns by their text, compiled once.
#[derive(Default)]
pub struct Patterns(RefCell<HashMap<String, Regex>>);

impl Patterns {
    fn matches(&self, pattern: &str, text: &str) -> bool {
        let mut known = self.0.borrow_mut();
        let regex = known
            .entry(pattern.to_owned())
            .or_insert_with(|| Regex::new(&format!("^(?s:{pattern})$")).expect("the parser accepted it"));
        regex.is_match(text)
    }
}

/// A trace to look at.
pub struct Eyes<'a> {
    pub trace: &'a Trace<'a>,
    pub patterns: &'a Patterns,
}

impl Eyes<'_> {
    /// Whether the expression, as a filter, takes the span.
    pub fn holds(&self, expr: &FieldExpr, span: usize) -> bool {
        match expr {
            FieldExpr::And(left, right) => self.holds(left, span) && self.holds(right, span),
            FieldExpr::Or(left, right) => self.holds(left, span) || self.holds(right, span),
            // `!name` asks for what is false, not for what is missing; `!(…)` is the complement.
            FieldExpr::Not(operand) => match &**operand {
                FieldExpr::Attribute(name) => self.is(name, span, false),
                operand => !self.holds(operand, span),
            },
            FieldExpr::Attribute(name) => self.is(name, span, true),
            FieldExpr::Compare { op, left, right, .. } => {
                let (left, right) = (self.operand(*op, left, right, span), self.operand(*op, right, left, span));
                left.iter().any(|l| right.iter().any(|r| self.compare(*op, l, r)))
            }
            FieldExpr::Exists { exists, operand, .. } => self.values(operand, span).is_empty() != *exists,
            FieldExpr::In { negated, operand, values, .. } => self.values(operand, span).iter().any(|value| {
                let mut listed = values.iter().filter_map(|literal| match literal {
                    Static::String(text) if is_trace_id(operand) => {
                        Some(Value::String(text.trim_start_matches('0').to_owned()))
                    }
                    literal => Value::of_literal(literal),
                });
                match negated {
                    false => listed.any(|other| self.compare(ComparisonOp::Equal, value, &other)),
                    true => listed.all(|other| self.compare(ComparisonOp::NotEqual, value, &other)),
                }
            }),
            FieldExpr::Static(literal, _) => *literal == Static::Bool(true),
            FieldExpr::Arithmetic { .. } | FieldExpr::Negate(_) => false,
        }
    }

    fn is(&self, name: &Attribute, span: usize, wanted: bool) -> bool {
        self.named(name, span).iter().any(|value| self.compare(ComparisonOp::Equal, value, &Value::Bool(wanted)))
    }

    /// The values of one side of a comparison. Trace ids are equal whether or not leading zeros are written.
    fn operand(&self, op: ComparisonOp, expr: &FieldExpr, other: &FieldExpr, span: usize) -> Vec<Value> {
        match expr {
            FieldExpr::Static(Static::String(text), _)
                if is_trace_id(other) && matches!(op, ComparisonOp::Equal | ComparisonOp::NotEqual) =>
            {
                vec![Value::String(text.trim_start_matches('0').to_owned())]
            }
            _ => self.values(expr, span),
        }
    }

    /// Everything the expression can be on the span; nothing for nil.
    pub fn values(&self, expr: &FieldExpr, span: usize) -> Vec<Value> {
        match expr {
            FieldExpr::Static(literal, _) => Value::of_literal(literal).into_iter().collect(),
            FieldExpr::Attribute(name) => self.named(name, span),
            FieldExpr::Arithmetic { op, left, right, .. } => {
                let (left, right) = (self.values(left, span), self.values(right, span));
                left.iter().flat_map(|l| right.iter().filter_map(|r| value::arithmetic(*op, l, r))).collect()
            }
            FieldExpr::Negate(operand) => self.values(operand, span).iter().filter_map(value::negate).collect(),
            condition => vec![Value::Bool(self.holds(condition, span))],
        }
    }

    /// Arrays are asked for any of their elements, or by `!=` and `!~` for all.
    fn compare(&self, op: ComparisonOp, left: &Value, right: &Value) -> bool {
        let all = matches!(op, ComparisonOp::NotEqual | ComparisonOp::NotMatch);
        match (left, right) {
            (Value::Array(_), Value::Array(_)) => false,
            (Value::Array(elements), _) if all => {
                !elements.is_empty() && elements.iter().all(|e| self.compare(op, e, right))
            }
            (Value::Array(elements), _) => elements.iter().any(|e| self.compare(op, e, right)),
            (_, Value::Array(elements)) if all => {
                !elements.is_empty() && elements.iter().all(|e| self.compare(op, left, e))
            }
            (_, Value::Array(elements)) => elements.iter().any(|e| self.compare(op, left, e)),
            (Value::String(text), Value::String(pattern)) if op == ComparisonOp::Match => {
                self.patterns.matches(pattern, text)
            }
            (Value::String(text), Value::String(pattern)) if op == ComparisonOp::NotMatch => {
                !self.patterns.matches(pattern, text)
            }
            _ => value::compare(op, left, right),
        }
    }

    /// The values of a name, in the order they were sent.
    pub fn named(&self, name: &Attribute, span: usize) -> Vec<Value> {
        let span = match (name.of_parent, self.trace.nodes[span].place) {
            (false, _) => span,
            (true, Place::Child(parent)) => parent,
            (true, Place::Root | Place::Unknown) => return vec![],
        };
        let node = &self.trace.nodes[span];
        let row = node.row;
        match &name.name {
            AttributeName::Intrinsic(intrinsic) => self.intrinsic(*intrinsic, node),
            AttributeName::Key { scope, key } => match scope {
                None => match of_key(&row.span.attributes, key) {
                    none if none.is_empty() => of_key(&row.resource.attributes, key),
                    found => found,
                },
                Some(Scope::Span) => of_key(&row.span.attributes, key),
                Some(Scope::Resource) => of_key(&row.resource.attributes, key),
                Some(Scope::Instrumentation) => of_key(&row.scope.attributes, key),
                Some(Scope::Event) => row.span.events.iter().flat_map(|e| of_key(&e.attributes, key)).collect(),
                Some(Scope::Link) => row.span.links.iter().flat_map(|l| of_key(&l.attributes, key)).collect(),
            },
        }
    }

    fn intrinsic(&self, intrinsic: Intrinsic, node: &Node<'_>) -> Vec<Value> {
        let (trace, row) = (self.trace, node.row);
        let text = |text: &str| Value::String(text.to_owned());
        vec![match intrinsic {
            Intrinsic::Duration => Value::Duration(node.duration),
            Intrinsic::Name => text(&row.span.name),
            Intrinsic::Status => Value::Status(node.status),
            Intrinsic::StatusMessage => text(row.span.status.as_ref().map_or("", |s| &s.message)),
            Intrinsic::Kind => Value::Kind(node.kind),
            Intrinsic::SpanId => Value::String(hex(&row.span.span_id)),
            Intrinsic::ParentId => Value::String(node.parent_id.map_or(String::new(), |id| hex(&id))),
            Intrinsic::ChildCount => Value::Int(node.children),
            Intrinsic::TraceDuration => Value::Duration(trace.duration),
            Intrinsic::RootName => text(trace.root.map_or("", |root| &trace.nodes[root].row.span.name)),
            Intrinsic::RootServiceName => text(&trace.root.map_or(String::new(), |root| trace.service(root))),
            Intrinsic::TraceId => Value::String(short_hex(&trace.id)),
            Intrinsic::InstrumentationName => text(&row.scope.name),
            Intrinsic::InstrumentationVersion => text(&row.scope.version),
            Intrinsic::NestedSetLeft => Value::Int(node.left),
            Intrinsic::NestedSetRight => Value::Int(node.right),
            Intrinsic::NestedSetParent => Value::Int(trace.nested_parent(node)),
            Intrinsic::EventName => return row.span.events.iter().map(|e| text(&e.name)).collect(),
            Intrinsic::EventTimeSinceStart => {
                let since = |time: u64| Value::Duration(time.wrapping_sub(row.span.start_time_unix_nano) as i64);
                return row.span.events.iter().map(|e| since(e.time_unix_nano)).collect();
            }
            Intrinsic::LinkTraceId => {
                return row.span.links.iter().map(|l| Value::String(short_hex(&l.trace_id))).collect();
            }
            Intrinsic::LinkSpanId => return row.span.links.iter().map(|l| Value::String(hex(&l.span_id))).collect(),
            Intrinsic::Parent if matches!(node.place, Place::Child(_)) => Value::Other,
            Intrinsic::Parent => return vec![],
        }]
    }
}

fn is_trace_id(expr: &FieldExpr) -> bool {
    let intrinsics = [Intrinsic::TraceId, Intrinsic::LinkTraceId].map(AttributeName::Intrinsic);
    matches!(expr, FieldExpr::Attribute(name) if intrinsics.contains(&name.name))
}

/// The values of a key that are not empty.
fn of_key(attributes: &[KeyValue], key: &str) -> Vec<Value> {
    attributes.iter().filter(|a| a.key == key).filter_map(|a| Value::of_any(a.value.as_ref()?)).collect()
}
