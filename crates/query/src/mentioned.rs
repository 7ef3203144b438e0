//! The names a search query mentions: what its result shows of each span.

use traceql::ast::{Attribute, AttributeName, ComparisonOp, FieldExpr, Intrinsic, Pipeline, ScalarExpr, SpansetExpr, Stage};

use crate::{
    rowexpr::pattern_test,
    value::{Test, Value},
};

/// Each name once, in the order of the text.
pub fn names(pipeline: &Pipeline) -> Vec<Attribute> {
    let mut found = vec![];
    in_pipeline(pipeline, &mut found);
    found
}

/// Whether a span's own fields in the result already say it.
pub fn has_own_field(attribute: &Attribute) -> bool {
    matches!(
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

/// The key under which a name's value is shown: without its scope.
pub fn shown_key(attribute: &Attribute) -> String {
    match &attribute.name {
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

/// The comparisons of `name` with literals anywhere in a pipeline's filters.
pub fn tests_of(pipeline: &Pipeline, name: &Attribute) -> Vec<Test> {
    let mut tests = vec![];
    for stage in &pipeline.stages {
        if let Stage::Spansets(expr) = stage {
            tests_in_spansets(expr, name, &mut tests);
        }
    }
    tests
}

fn tests_in_spansets(expr: &SpansetExpr, name: &Attribute, tests: &mut Vec<Test>) {
    match expr {
        SpansetExpr::Filter(condition) => tests_in_field(condition, name, tests),
        SpansetExpr::Binary { left, right, .. } => {
            tests_in_spansets(left, name, tests);
            tests_in_spansets(right, name, tests);
        }
        SpansetExpr::Pipeline(pipeline) => tests.extend(tests_of(pipeline, name)),
    }
}

fn tests_in_field(expr: &FieldExpr, name: &Attribute, tests: &mut Vec<Test>) {
    match expr {
        FieldExpr::And(left, right) | FieldExpr::Or(left, right) => {
            tests_in_field(left, name, tests);
            tests_in_field(right, name, tests);
        }
        FieldExpr::Compare { op, left, right, .. } => {
            if let (FieldExpr::Attribute(compared), FieldExpr::Static(literal, _)) = (&**left, &**right) {
                if compared == name {
                    tests.extend(match op {
                        ComparisonOp::Match | ComparisonOp::NotMatch => pattern_test(*op, right).ok(),
                        _ => Value::of_static(literal).map(|literal| Test { op: *op, literal, pattern: None }),
                    });
                }
            }
        }
        _ => {}
    }
}
