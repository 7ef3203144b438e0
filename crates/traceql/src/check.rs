//! What a query that parses must also satisfy to mean something: types, `nil`, names that cannot stand where they do.
//!
//! Attributes have the types of their values, known only when the query runs: they match everything. Integers,
//! floats and durations compare with each other.

use crate::ast::*;
use crate::error::Fault;
use crate::pattern;
use std::fmt;

/// The most regular expressions of one query.
pub const PATTERNS_MAX: usize = 10;
/// The most attributes of a metrics query's `by(...)`.
pub const METRICS_BY_MAX: usize = 32;

type Result<T> = std::result::Result<T, Fault>;

/// What is known of a value before the query runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Of an attribute: whatever its value is.
    Any,
    Nil,
    Int,
    Float,
    Duration,
    /// Of arithmetic with attributes.
    Number,
    String,
    Bool,
    Status,
    Kind,
    /// Of `parent` alone, which can only be compared with `nil`.
    Parent,
}

impl Type {
    pub fn is_numeric(self) -> bool {
        matches!(self, Type::Int | Type::Float | Type::Duration | Type::Number)
    }

    fn may_be_numeric(self) -> bool {
        self.is_numeric() || self == Type::Any
    }

    fn may_be_bool(self) -> bool {
        matches!(self, Type::Bool | Type::Any)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Type::Any => "an attribute",
            Type::Nil => "nil",
            Type::Int => "an integer",
            Type::Float => "a float",
            Type::Duration => "a duration",
            Type::Number => "a number",
            Type::String => "a string",
            Type::Bool => "a boolean",
            Type::Status => "a status",
            Type::Kind => "a kind",
            Type::Parent => "the parent span",
        })
    }
}

impl Static {
    pub fn type_of(&self) -> Type {
        match self {
            Static::Nil => Type::Nil,
            Static::Int(_) => Type::Int,
            Static::Float(_) => Type::Float,
            Static::String(_) => Type::String,
            Static::Bool(_) => Type::Bool,
            Static::Duration(_) => Type::Duration,
            Static::Status(_) => Type::Status,
            Static::Kind(_) => Type::Kind,
        }
    }
}

impl Intrinsic {
    pub fn type_of(self) -> Type {
        match self {
            Intrinsic::Duration | Intrinsic::TraceDuration | Intrinsic::EventTimeSinceStart => Type::Duration,
            Intrinsic::ChildCount
            | Intrinsic::NestedSetLeft
            | Intrinsic::NestedSetRight
            | Intrinsic::NestedSetParent => Type::Int,
            Intrinsic::Status => Type::Status,
            Intrinsic::Kind => Type::Kind,
            Intrinsic::Parent => Type::Parent,
            Intrinsic::Name
            | Intrinsic::StatusMessage
            | Intrinsic::SpanId
            | Intrinsic::ParentId
            | Intrinsic::RootName
            | Intrinsic::RootServiceName
            | Intrinsic::TraceId
            | Intrinsic::EventName
            | Intrinsic::LinkTraceId
            | Intrinsic::LinkSpanId
            | Intrinsic::InstrumentationName
            | Intrinsic::InstrumentationVersion => Type::String,
        }
    }
}

impl Attribute {
    pub fn type_of(&self) -> Type {
        match &self.name {
            AttributeName::Key { .. } => Type::Any,
            AttributeName::Intrinsic(intrinsic) => intrinsic.type_of(),
        }
    }
}

/// The type of an expression that has passed the check.
pub fn type_of(expr: &FieldExpr) -> Type {
    match expr {
        FieldExpr::Static(value, _) => value.type_of(),
        FieldExpr::Attribute(attribute) => attribute.type_of(),
        FieldExpr::Compare { .. }
        | FieldExpr::And(..)
        | FieldExpr::Or(..)
        | FieldExpr::Not(_)
        | FieldExpr::Exists { .. }
        | FieldExpr::In { .. } => Type::Bool,
        FieldExpr::Negate(operand) => match type_of(operand) {
            Type::Any => Type::Number,
            other => other,
        },
        FieldExpr::Arithmetic { op, left, right, .. } => arithmetic_type(*op, type_of(left), type_of(right)),
    }
}

/// The type of what arithmetic gives: whole numbers stay whole, times stay times where that makes sense.
pub(crate) fn arithmetic_type(op: ArithmeticOp, left: Type, right: Type) -> Type {
    match (left, right) {
        (Type::Int, Type::Int) => Type::Int,
        (Type::Float, Type::Int | Type::Float | Type::Duration) | (Type::Int | Type::Duration, Type::Float) => Type::Float,
        (Type::Duration, Type::Int) if op == ArithmeticOp::Power => Type::Int,
        (Type::Duration, Type::Int) => Type::Duration,
        (Type::Int, Type::Duration) => match op {
            ArithmeticOp::Divide | ArithmeticOp::Power => Type::Int,
            _ => Type::Duration,
        },
        (Type::Duration, Type::Duration) => match op {
            ArithmeticOp::Add | ArithmeticOp::Subtract | ArithmeticOp::Modulo => Type::Duration,
            ArithmeticOp::Multiply | ArithmeticOp::Divide | ArithmeticOp::Power => Type::Int,
        },
        _ => Type::Number,
    }
}

/// The bytes of the query that an expression was read from.
pub fn span_of(expr: &FieldExpr) -> Span {
    match expr {
        FieldExpr::Static(_, span)
        | FieldExpr::Compare { span, .. }
        | FieldExpr::Arithmetic { span, .. }
        | FieldExpr::Exists { span, .. }
        | FieldExpr::In { span, .. } => *span,
        FieldExpr::Attribute(attribute) => attribute.span.0,
        FieldExpr::And(left, right) | FieldExpr::Or(left, right) => span_of(left).to(span_of(right)),
        FieldExpr::Not(operand) | FieldExpr::Negate(operand) => {
            let span = span_of(operand);
            Span { start: span.start.saturating_sub(1), end: span.end }
        }
    }
}

pub(crate) fn query(query: &Query) -> Result<()> {
    let mut check = Check { patterns: 0 };
    match &query.body {
        QueryBody::Search(pipeline) => check.pipeline(pipeline),
        QueryBody::Metrics(expr) => check.metrics(expr),
    }
}

/// The expression as that of a spanset filter.
pub(crate) fn filter(expr: &FieldExpr) -> Result<()> {
    Check { patterns: 0 }.filter(expr)
}

struct Check {
    patterns: usize,
}

impl Check {
    fn pipeline(&mut self, pipeline: &Pipeline) -> Result<()> {
        pipeline.stages.iter().try_for_each(|stage| match stage {
            Stage::Spansets(expr) => self.spansets(expr),
            Stage::ScalarFilter { left, right, span, .. } => {
                self.scalar(left)?;
                self.scalar(right)?;
                match has_aggregate(left) || has_aggregate(right) {
                    true => Ok(()),
                    false => Err(Fault::new(*span, "this comparison does not look at the spans")
                        .help("compare an aggregate, such as `count() > 2`")),
                }
            }
            Stage::GroupBy(expr) => {
                self.field(expr)?;
                not_parent(expr)?;
                match references_span(expr) {
                    true => Ok(()),
                    false => Err(Fault::new(span_of(expr), "the value to group by is the same for every span")
                        .help("group by an attribute, such as `by(resource.service.name)`")),
                }
            }
            Stage::Coalesce => Ok(()),
            Stage::Select(attributes) => attributes.iter().try_for_each(attribute_alone),
        })
    }

    fn spansets(&mut self, expr: &SpansetExpr) -> Result<()> {
        match expr {
            SpansetExpr::Filter(filter) => self.filter(filter),
            SpansetExpr::Binary { left, right, .. } => {
                self.spansets(left)?;
                self.spansets(right)
            }
            SpansetExpr::Pipeline(pipeline) => self.pipeline(pipeline),
        }
    }

    fn filter(&mut self, expr: &FieldExpr) -> Result<()> {
        let found = self.field(expr)?;
        match found.may_be_bool() {
            true => Ok(()),
            false => Err(Fault::new(span_of(expr), format!("a filter is true or false, but this is {found}"))
                .help("compare it with something")),
        }
    }

    fn scalar(&mut self, expr: &ScalarExpr) -> Result<()> {
        match expr {
            ScalarExpr::Aggregate(aggregate) => self.aggregate(aggregate),
            ScalarExpr::Static(value, span) => match value.type_of() {
                found if found.is_numeric() => Ok(()),
                found => Err(Fault::new(*span, format!("expected a number or a duration, found {found}"))),
            },
            ScalarExpr::Binary { left, right, .. } => {
                self.scalar(left)?;
                self.scalar(right)
            }
            ScalarExpr::Negate(operand) => self.scalar(operand),
            ScalarExpr::Pipeline(pipeline, scalar) => {
                self.pipeline(pipeline)?;
                self.scalar(scalar)?;
                match has_aggregate(scalar) {
                    true => Ok(()),
                    false => Err(Fault::new(scalar_span(scalar), "the value of this pipeline does not look at its spans")
                        .help("end the pipeline in an aggregate, such as `count()`")),
                }
            }
        }
    }

    fn aggregate(&mut self, aggregate: &Aggregate) -> Result<()> {
        let Some(argument) = &aggregate.argument else {
            return Ok(());
        };
        let word = aggregate.function.word();
        let found = self.field(argument)?;
        if !found.may_be_numeric() {
            return Err(Fault::new(span_of(argument), format!("`{word}` needs a number, but this is {found}")));
        }
        if !references_span(argument) {
            return Err(Fault::new(span_of(argument), format!("what `{word}` aggregates is the same for every span"))
                .help(format!("write for example `{word}(duration)`")));
        }
        Ok(())
    }

    fn metrics(&mut self, expr: &MetricsExpr) -> Result<()> {
        match expr {
            MetricsExpr::Number(_) => Ok(()),
            MetricsExpr::Binary { op, left, right } => {
                self.metrics(left)?;
                self.metrics(right)?;
                for side in [left, right] {
                    if let MetricsExpr::Query(query) = side.as_ref()
                        && matches!(query.function, MetricsFunction::Compare { .. })
                    {
                        return Err(Fault::new(query.span, "`compare(...)` cannot be part of arithmetic"));
                    }
                }
                match (op, right.as_ref()) {
                    (ArithmeticOp::Divide | ArithmeticOp::Modulo, MetricsExpr::Number(0.0)) => {
                        Err(Fault::new(metrics_span(left), "these series are divided by zero"))
                    }
                    _ => Ok(()),
                }
            }
            MetricsExpr::Query(query) => self.metrics_query(query),
        }
    }

    fn metrics_query(&mut self, query: &MetricsQuery) -> Result<()> {
        self.pipeline(&query.pipeline)?;
        match &query.function {
            MetricsFunction::Rate | MetricsFunction::CountOverTime => {}
            MetricsFunction::MinOverTime(attribute)
            | MetricsFunction::MaxOverTime(attribute)
            | MetricsFunction::SumOverTime(attribute)
            | MetricsFunction::AvgOverTime(attribute)
            | MetricsFunction::HistogramOverTime(attribute)
            | MetricsFunction::QuantileOverTime(attribute, _) => {
                // What is no number is not measured, as with attributes.
                attribute_alone(attribute)?;
            }
            MetricsFunction::Compare { selection, .. } => {
                self.filter(selection)?;
                if let Some(attribute) = query.by.first() {
                    return Err(Fault::new(attribute.span.0, "nothing can follow `compare(...)`"));
                }
            }
        }
        if let Some(attribute) = query.by.get(METRICS_BY_MAX) {
            return Err(Fault::new(attribute.span.0, format!("series are grouped by at most {METRICS_BY_MAX} attributes")));
        }
        query.by.iter().try_for_each(attribute_alone)
    }

    fn field(&mut self, expr: &FieldExpr) -> Result<Type> {
        match expr {
            FieldExpr::Static(..) => {}
            FieldExpr::Attribute(attribute) => parent_has(attribute)?,
            FieldExpr::Compare { op, left, right, span } => {
                let (left_type, right_type) = (self.field(left)?, self.field(right)?);
                if let ComparisonOp::Match | ComparisonOp::NotMatch = op {
                    self.pattern(*op, left_type, left, right)?;
                } else {
                    comparable(*op, (left_type, span_of(left)), (right_type, span_of(right)), *span)?;
                }
            }
            FieldExpr::Arithmetic { op, left, right, .. } => {
                for side in [left, right] {
                    let found = self.field(side)?;
                    if !found.may_be_numeric() {
                        return Err(Fault::new(span_of(side), format!("`{}` computes with numbers, but this is {found}", op.text())));
                    }
                }
            }
            FieldExpr::And(left, right) | FieldExpr::Or(left, right) => {
                for side in [left, right] {
                    let found = self.field(side)?;
                    if !found.may_be_bool() {
                        return Err(Fault::new(
                            span_of(side),
                            format!("`&&` and `||` join what is true or false, but this is {found}"),
                        ));
                    }
                }
            }
            FieldExpr::Not(operand) => {
                let found = self.field(operand)?;
                if !found.may_be_bool() {
                    return Err(Fault::new(span_of(operand), format!("`!` inverts what is true or false, but this is {found}")));
                }
            }
            FieldExpr::Negate(operand) => {
                let found = self.field(operand)?;
                if !found.may_be_numeric() {
                    return Err(Fault::new(span_of(operand), format!("a minus inverts a number, but this is {found}")));
                }
            }
            FieldExpr::Exists { exists, operand, span } => {
                self.field(operand)?;
                if !exists {
                    may_be_missing(operand, *span)?;
                }
            }
            FieldExpr::In { operand, values, span, .. } => {
                let found = self.field(operand)?;
                for value in values {
                    comparable(ComparisonOp::Equal, (found, span_of(operand)), (value.type_of(), *span), *span)?;
                }
            }
        }
        Ok(type_of(expr))
    }

    fn pattern(&mut self, op: ComparisonOp, left_type: Type, left: &FieldExpr, right: &FieldExpr) -> Result<()> {
        let sign = op.text();
        if !matches!(left_type, Type::String | Type::Any) {
            return Err(Fault::new(span_of(left), format!("`{sign}` matches strings, but this is {left_type}")));
        }
        let FieldExpr::Static(Static::String(text), span) = right else {
            return Err(Fault::new(span_of(right), format!("`{sign}` needs a regular expression as a string"))
                .help(format!("write for example `{sign} \"GET.*\"`")));
        };
        self.patterns += 1;
        if self.patterns > PATTERNS_MAX {
            return Err(Fault::new(*span, format!("the query has more than {PATTERNS_MAX} regular expressions"))
                .help("join several into one: `\"a|b\"`"));
        }
        match pattern::compile_regex(text) {
            Ok(_) => Ok(()),
            Err(error) => Err(Fault::new(*span, error.to_string())),
        }
    }
}

/// Whether values of these types can be compared by an operator other than a match.
fn comparable(op: ComparisonOp, left: (Type, Span), right: (Type, Span), span: Span) -> Result<()> {
    for (found, place) in [left, right] {
        if found == Type::Parent {
            return Err(Fault::new(place, "`parent` can only be compared with `nil`")
                .help("a value of the parent span is written `parent.span.http.method` or `parent.name`"));
        }
    }
    let (left, right) = (left.0, right.0);
    if left == Type::Nil || right == Type::Nil {
        return Err(Fault::new(span, format!("`nil` cannot be compared by `{}`", op.text()))
            .help("write `= nil` or `!= nil`"));
    }
    let fit = match (left, right) {
        (Type::Any, _) | (_, Type::Any) => true,
        _ => left == right || (left.is_numeric() && right.is_numeric()),
    };
    if !fit {
        return Err(Fault::new(span, format!("{left} cannot be compared with {right}")));
    }
    let only_equality = [left, right].into_iter().find(|found| matches!(found, Type::Bool | Type::Status | Type::Kind));
    match only_equality {
        Some(found) if !matches!(op, ComparisonOp::Equal | ComparisonOp::NotEqual) => {
            Err(Fault::new(span, format!("{found} cannot be compared by `{}`", op.text())).help("write `=` or `!=`"))
        }
        _ => Ok(()),
    }
}

/// `x = nil` asks for something that every span has.
fn may_be_missing(operand: &FieldExpr, span: Span) -> Result<()> {
    let FieldExpr::Attribute(attribute) = operand else {
        return Ok(());
    };
    let always_there = !attribute.of_parent
        && match &attribute.name {
            AttributeName::Intrinsic(intrinsic) => *intrinsic != Intrinsic::Parent,
            AttributeName::Key { scope, key } => *scope == Some(Scope::Resource) && key == "service.name",
        };
    match always_there {
        false => Ok(()),
        true => Err(Fault::new(span, format!("`{attribute} = nil` never holds")).help("only attributes can be missing")),
    }
}

/// Refuses `parent` where a value is needed.
fn attribute_alone(attribute: &Attribute) -> Result<()> {
    parent_has(attribute)?;
    if attribute.type_of() == Type::Parent {
        return Err(Fault::new(attribute.span.0, "`parent` is not a value")
            .help("a value of the parent span is written `parent.span.http.method` or `parent.name`"));
    }
    Ok(())
}

fn not_parent(expr: &FieldExpr) -> Result<()> {
    match expr {
        FieldExpr::Attribute(attribute) => attribute_alone(attribute),
        _ => Ok(()),
    }
}

/// `parent.` before what belongs to the trace, not to a span.
fn parent_has(attribute: &Attribute) -> Result<()> {
    let AttributeName::Intrinsic(intrinsic) = attribute.name else {
        return Ok(());
    };
    match intrinsic.scoped() {
        Some(scoped) if attribute.of_parent && scoped.starts_with("trace:") => {
            Err(Fault::new(attribute.span.0, format!("`{scoped}` belongs to the trace, not to the parent span"))
                .help(format!("write `{scoped}`: a span and its parent are in the same trace")))
        }
        _ => Ok(()),
    }
}

fn references_span(expr: &FieldExpr) -> bool {
    match expr {
        FieldExpr::Static(..) => false,
        FieldExpr::Attribute(_) => true,
        FieldExpr::Compare { left, right, .. }
        | FieldExpr::Arithmetic { left, right, .. }
        | FieldExpr::And(left, right)
        | FieldExpr::Or(left, right) => references_span(left) || references_span(right),
        FieldExpr::Not(operand)
        | FieldExpr::Negate(operand)
        | FieldExpr::Exists { operand, .. }
        | FieldExpr::In { operand, .. } => references_span(operand),
    }
}

fn has_aggregate(expr: &ScalarExpr) -> bool {
    match expr {
        ScalarExpr::Aggregate(_) | ScalarExpr::Pipeline(..) => true,
        ScalarExpr::Static(..) => false,
        ScalarExpr::Binary { left, right, .. } => has_aggregate(left) || has_aggregate(right),
        ScalarExpr::Negate(operand) => has_aggregate(operand),
    }
}

fn scalar_span(expr: &ScalarExpr) -> Span {
    match expr {
        ScalarExpr::Aggregate(aggregate) => aggregate.span,
        ScalarExpr::Static(_, span) | ScalarExpr::Binary { span, .. } => *span,
        ScalarExpr::Negate(operand) => scalar_span(operand),
        ScalarExpr::Pipeline(_, scalar) => scalar_span(scalar),
    }
}

fn metrics_span(expr: &MetricsExpr) -> Span {
    match expr {
        MetricsExpr::Query(query) => query.span,
        MetricsExpr::Binary { left, right, .. } => metrics_span(left).to(metrics_span(right)),
        MetricsExpr::Number(_) => Span::default(),
    }
}
