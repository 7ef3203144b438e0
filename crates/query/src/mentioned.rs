//! The names a search query mentions: what its result shows of each span.

use traceql::ast::{
    Attribute, AttributeName, ComparisonOp, FieldExpr, Intrinsic, Pipeline, Relation, ScalarExpr, SpansetExpr, SpansetOp, Stage,
};

use crate::{
    rowexpr::{literal_value, pattern_test},
    value::Test,
};

/// Each name once, in the order of the text.
pub fn names(pipeline: &Pipeline) -> Vec<Attribute> {
    let mut found = vec![];
    in_pipeline(pipeline, &mut found);
    found
}

/// Whether a span's own fields in the result already say it.
pub fn has_own_field(attribute: &Attribute) -> bool {
    !attribute.of_parent && matches!(
        attribute.name,
        AttributeName::Intrinsic(
            Intrinsic::Duration
                | Intrinsic::Name
                | Intrinsic::TraceDuration
                | Intrinsic::RootServiceName
                | Intrinsic::RootName
                | Intrinsic::TraceId
                | Intrinsic::SpanId
                | Intrinsic::Parent
        )
    )
}

/// The key under which a name's value is shown: without its scope, but for `parent.`.
pub fn shown_key(attribute: &Attribute) -> String {
    match &attribute.name {
        AttributeName::Key { key, .. } if attribute.of_parent => format!("parent.{key}"),
        AttributeName::Key { key, .. } => key.clone(),
        AttributeName::Intrinsic(_) => attribute.to_string(),
    }
}

fn in_pipeline(pipeline: &Pipeline, found: &mut Vec<Attribute>) {
    for stage in &pipeline.stages {
        match stage {
            Stage::Spansets(expr) => in_spansets(expr, found),
            Stage::ScalarFilter { left, right, .. } => {
                in_scalar(left, found);
                in_scalar(right, found);
            }
            Stage::GroupBy(expr) => in_field(expr, found),
            Stage::Coalesce => {}
            Stage::Select(names) => names.iter().for_each(|name| add(name, found)),
        }
    }
}

fn in_spansets(expr: &SpansetExpr, found: &mut Vec<Attribute>) {
    match expr {
        SpansetExpr::Filter(condition) => in_field(condition, found),
        SpansetExpr::Binary { left, right, .. } => {
            in_spansets(left, found);
            in_spansets(right, found);
        }
        SpansetExpr::Pipeline(pipeline) => in_pipeline(pipeline, found),
    }
}

fn in_scalar(expr: &ScalarExpr, found: &mut Vec<Attribute>) {
    match expr {
        ScalarExpr::Aggregate(aggregate) => aggregate.argument.iter().for_each(|e| in_field(e, found)),
        ScalarExpr::Static(..) => {}
        ScalarExpr::Binary { left, right, .. } => {
            in_scalar(left, found);
            in_scalar(right, found);
        }
        ScalarExpr::Negate(operand) => in_scalar(operand, found),
        ScalarExpr::Pipeline(pipeline, scalar) => {
            in_pipeline(pipeline, found);
            in_scalar(scalar, found);
        }
    }
}

/// Calls for every name in a field expression.
pub fn in_field(expr: &FieldExpr, found: &mut Vec<Attribute>) {
    match expr {
        FieldExpr::Static(..) => {}
        FieldExpr::Attribute(name) => add(name, found),
        FieldExpr::Compare { left, right, .. } | FieldExpr::Arithmetic { left, right, .. } => {
            in_field(left, found);
            in_field(right, found);
        }
        FieldExpr::And(left, right) | FieldExpr::Or(left, right) => {
            in_field(left, found);
            in_field(right, found);
        }
        FieldExpr::Not(operand) | FieldExpr::Negate(operand) => in_field(operand, found),
        FieldExpr::Exists { operand, .. } | FieldExpr::In { operand, .. } => in_field(operand, found),
    }
}

fn add(name: &Attribute, found: &mut Vec<Attribute>) {
    if !found.contains(name) {
        found.push(name.clone());
    }
}

/// What a query asks of a name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mention {
    /// Its comparisons with literals in filters and in `by(...)`.
    pub tests: Vec<Test>,
    /// It is mentioned in another way too, so that every value is of interest.
    pub always: bool,
    /// A filter or a `by(...)` asks whether it is missing.
    pub missing: bool,
}

impl Mention {
    pub fn join(&mut self, other: &Self) {
        self.tests.extend(other.tests.iter().cloned());
        self.always |= other.always;
        self.missing |= other.missing;
    }
}

/// What a pipeline asks of `name`.
pub fn mention_of(pipeline: &Pipeline, name: &Attribute) -> Mention {
    let mut mention = Mention::default();
    for stage in &pipeline.stages {
        match stage {
            Stage::Spansets(expr) => mention_in_spansets(expr, name, &mut mention),
            Stage::GroupBy(expr) => mention_in_field(expr, name, &mut mention),
            other => {
                let mut found = vec![];
                in_pipeline(&Pipeline { stages: vec![other.clone()] }, &mut found);
                mention.always |= found.contains(name);
            }
        }
    }
    mention
}

fn mention_in_spansets(expr: &SpansetExpr, name: &Attribute, mention: &mut Mention) {
    match expr {
        SpansetExpr::Filter(condition) => mention_in_field(condition, name, mention),
        SpansetExpr::Binary { left, right, op, .. } => {
            mention_in_spansets(left, name, mention);
            mention_in_spansets(right, name, mention);
            mention.always |= match op {
                SpansetOp::Structural { relation, .. } => relates_by(*relation, name),
                SpansetOp::And | SpansetOp::Or => false,
            };
        }
        SpansetExpr::Pipeline(pipeline) => mention.join(&mention_of(pipeline, name)),
    }
}

fn mention_in_field(expr: &FieldExpr, name: &Attribute, mention: &mut Mention) {
    match expr {
        FieldExpr::And(left, right) | FieldExpr::Or(left, right) => {
            mention_in_field(left, name, mention);
            mention_in_field(right, name, mention);
        }
        FieldExpr::Compare { op, left, right, .. } if compares(left, right, name) => {
            let test = match (op, &**right) {
                (ComparisonOp::Match | ComparisonOp::NotMatch, pattern) => pattern_test(*op, pattern).ok(),
                (_, FieldExpr::Static(literal, _)) => literal_value(name, *op, literal).map(|literal| Test { op: *op, literal, pattern: None }),
                _ => None,
            };
            mention.tests.extend(test);
        }
        FieldExpr::Exists { exists: false, operand, .. } if matches!(&**operand, FieldExpr::Attribute(asked) if asked == name) => {
            mention.missing = true;
        }
        other => {
            let mut found = vec![];
            in_field(other, &mut found);
            mention.always |= found.contains(name);
        }
    }
}

/// Whether a structural operator looks at this number of the structure: then it shows on every span.
fn relates_by(relation: Relation, name: &Attribute) -> bool {
    match name.name {
        AttributeName::Intrinsic(Intrinsic::NestedSetLeft) => relation != Relation::Sibling,
        AttributeName::Intrinsic(Intrinsic::NestedSetRight) => matches!(relation, Relation::Descendant | Relation::Ancestor),
        AttributeName::Intrinsic(Intrinsic::NestedSetParent) => {
            matches!(relation, Relation::Child | Relation::Parent | Relation::Sibling)
        }
        _ => false,
    }
}

/// Whether it is a comparison of `name` with a literal.
fn compares(left: &FieldExpr, right: &FieldExpr, name: &Attribute) -> bool {
    matches!((left, right), (FieldExpr::Attribute(compared), FieldExpr::Static(..)) if compared == name)
}
