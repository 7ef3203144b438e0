//! Trees to canonical text, such that parsing the text gives the tree again.
//!
//! The text of an attribute comes in two forms. `Display` of an attribute is its label: what names a series or an
//! answer's attribute. There a key with special characters has quotes around it, and quotes inside are left as they
//! are, as clients of Tempo know it. In a query's text such quotes are escaped.

use crate::ast::*;
use crate::chain::{self, LogicalOp};
use crate::duration::go_duration;
use crate::lexer::ends_key;
use std::fmt::{self, Display, Formatter, Write};

impl Display for Query {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.body {
            QueryBody::Search(pipeline) => pipeline.fmt(f)?,
            QueryBody::Metrics(expr) => expr.fmt(f)?,
        }
        if !self.hints.is_empty() {
            f.write_str(" with(")?;
            list(f, &self.hints, |f, hint| write!(f, "{}={}", hint.key, hint.value))?;
            f.write_char(')')?;
        }
        Ok(())
    }
}

fn list<T>(f: &mut Formatter<'_>, items: &[T], mut item: impl FnMut(&mut Formatter<'_>, &T) -> fmt::Result) -> fmt::Result {
    for (n, each) in items.iter().enumerate() {
        if n > 0 {
            f.write_str(", ")?;
        }
        item(f, each)?;
    }
    Ok(())
}

fn attributes(f: &mut Formatter<'_>, attributes: &[Attribute]) -> fmt::Result {
    list(f, attributes, |f, attribute| InQuery(attribute).fmt(f))
}

/// Something in parentheses, or not.
fn enclosed(f: &mut Formatter<'_>, parentheses: bool, inner: &impl Display) -> fmt::Result {
    if parentheses { write!(f, "({inner})") } else { inner.fmt(f) }
}

impl Display for MetricsExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            MetricsExpr::Query(query) => query.fmt(f),
            MetricsExpr::Number(value) => number(f, *value),
            MetricsExpr::Binary { op, left, right } => {
                enclosed(f, !matches!(**left, MetricsExpr::Number(0.0..)), left)?;
                write!(f, " {} ", op.text())?;
                enclosed(f, !matches!(**right, MetricsExpr::Number(0.0..)), right)
            }
        }
    }
}

/// A number that need not keep a type: `5`, `0.25`, `1e300`.
fn number(f: &mut Formatter<'_>, value: f64) -> fmt::Result {
    if value.abs() < 1e15 { write!(f, "{value}") } else { write!(f, "{value:?}") }
}

impl Display for MetricsQuery {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} | {}", self.pipeline, self.function)?;
        if !self.by.is_empty() {
            f.write_str(" by(")?;
            attributes(f, &self.by)?;
            f.write_char(')')?;
        }
        for stage in &self.second {
            match stage {
                SecondStage::TopK(count) => write!(f, " | topk({count})")?,
                SecondStage::BottomK(count) => write!(f, " | bottomk({count})")?,
                SecondStage::Compare(op, value) => {
                    write!(f, " {} ", op.text())?;
                    number(f, *value)?;
                }
            }
        }
        Ok(())
    }
}

impl MetricsFunction {
    /// The function's word: the value of the label `__name__` of a series without other labels.
    pub fn word(&self) -> &'static str {
        match self {
            MetricsFunction::Rate => "rate",
            MetricsFunction::CountOverTime => "count_over_time",
            MetricsFunction::MinOverTime(_) => "min_over_time",
            MetricsFunction::MaxOverTime(_) => "max_over_time",
            MetricsFunction::SumOverTime(_) => "sum_over_time",
            MetricsFunction::AvgOverTime(_) => "avg_over_time",
            MetricsFunction::QuantileOverTime(..) => "quantile_over_time",
            MetricsFunction::HistogramOverTime(_) => "histogram_over_time",
            MetricsFunction::Compare { .. } => "compare",
        }
    }
}

impl Display for MetricsFunction {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.word())?;
        match self {
            MetricsFunction::Rate | MetricsFunction::CountOverTime => {}
            MetricsFunction::MinOverTime(attribute)
            | MetricsFunction::MaxOverTime(attribute)
            | MetricsFunction::SumOverTime(attribute)
            | MetricsFunction::AvgOverTime(attribute)
            | MetricsFunction::HistogramOverTime(attribute) => InQuery(attribute).fmt(f)?,
            MetricsFunction::QuantileOverTime(attribute, quantiles) => {
                InQuery(attribute).fmt(f)?;
                quantiles.iter().try_for_each(|quantile| write!(f, ", {quantile}"))?;
            }
            MetricsFunction::Compare { selection, top_n, range } => {
                write!(f, "{{ {selection} }}")?;
                if let Some(top_n) = top_n {
                    write!(f, ", {top_n}")?;
                }
                if let Some((start, end)) = range {
                    write!(f, ", {start}, {end}")?;
                }
            }
        }
        f.write_char(')')
    }
}

impl Display for Pipeline {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (n, stage) in self.stages.iter().enumerate() {
            if n > 0 {
                f.write_str(" | ")?;
            }
            stage.fmt(f)?;
        }
        Ok(())
    }
}

impl Display for Stage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Stage::Spansets(expr) => expr.fmt(f),
            Stage::ScalarFilter { op, left, right, .. } => write!(f, "{left} {} {right}", op.text()),
            Stage::GroupBy(expr) => write!(f, "by({expr})"),
            Stage::Coalesce => f.write_str("coalesce()"),
            Stage::Select(selected) => {
                f.write_str("select(")?;
                attributes(f, selected)?;
                f.write_char(')')
            }
        }
    }
}

impl SpansetOp {
    pub fn text(self) -> &'static str {
        use {Relation::*, StructuralForm::*};
        match self {
            SpansetOp::And => "&&",
            SpansetOp::Or => "||",
            SpansetOp::Structural { relation, form } => match (relation, form) {
                (Child, Plain) => ">",
                (Parent, Plain) => "<",
                (Descendant, Plain) => ">>",
                (Ancestor, Plain) => "<<",
                (Sibling, Plain) => "~",
                (Child, Negated) => "!>",
                (Parent, Negated) => "!<",
                (Descendant, Negated) => "!>>",
                (Ancestor, Negated) => "!<<",
                (Sibling, Negated) => "!~",
                (Child, Union) => "&>",
                (Parent, Union) => "&<",
                (Descendant, Union) => "&>>",
                (Ancestor, Union) => "&<<",
                (Sibling, Union) => "&~",
            },
        }
    }

    fn is_structural(self) -> bool {
        matches!(self, SpansetOp::Structural { .. })
    }
}

impl Display for SpansetExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            SpansetExpr::Filter(FieldExpr::Static(Static::Bool(true), _)) => f.write_str("{ }"),
            SpansetExpr::Filter(expr) => write!(f, "{{ {expr} }}"),
            SpansetExpr::Pipeline(pipeline) => pipeline.fmt(f),
            SpansetExpr::Binary { op, left, right, .. } => {
                let binds_looser = match left.as_ref() {
                    SpansetExpr::Filter(_) => false,
                    SpansetExpr::Pipeline(_) => true,
                    // A chain leans left without parentheses; `&&` beside `||` gets them to be clear.
                    SpansetExpr::Binary { op: inner, .. } => inner != op && !(inner.is_structural() && op.is_structural()),
                };
                enclosed(f, binds_looser, left)?;
                write!(f, " {} ", op.text())?;
                enclosed(f, !matches!(**right, SpansetExpr::Filter(_)), right)
            }
        }
    }
}

impl Display for ScalarExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            ScalarExpr::Aggregate(aggregate) => aggregate.fmt(f),
            ScalarExpr::Static(value, _) => value.fmt(f),
            ScalarExpr::Pipeline(pipeline, value) => write!(f, "({pipeline} | {value})"),
            ScalarExpr::Negate(operand) => {
                f.write_char('-')?;
                enclosed(f, operand.binding() <= ADDITIVE && !matches!(**operand, ScalarExpr::Negate(_)), operand)
            }
            ScalarExpr::Binary { op, left, right, .. } => {
                let (left_parentheses, right_parentheses) = op.parentheses(left.binding(), right.binding());
                enclosed(f, left_parentheses, left)?;
                write!(f, " {} ", op.text())?;
                enclosed(f, right_parentheses, right)
            }
        }
    }
}

impl Display for Aggregate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.function.word())?;
        if let Some(argument) = &self.argument {
            argument.fmt(f)?;
        }
        f.write_char(')')
    }
}

impl ComparisonOp {
    pub fn text(self) -> &'static str {
        match self {
            ComparisonOp::Equal => "=",
            ComparisonOp::NotEqual => "!=",
            ComparisonOp::Less => "<",
            ComparisonOp::LessEqual => "<=",
            ComparisonOp::Greater => ">",
            ComparisonOp::GreaterEqual => ">=",
            ComparisonOp::Match => "=~",
            ComparisonOp::NotMatch => "!~",
        }
    }
}

impl ArithmeticOp {
    pub fn text(self) -> &'static str {
        match self {
            ArithmeticOp::Add => "+",
            ArithmeticOp::Subtract => "-",
            ArithmeticOp::Multiply => "*",
            ArithmeticOp::Divide => "/",
            ArithmeticOp::Modulo => "%",
            ArithmeticOp::Power => "^",
        }
    }

    fn binding(self) -> u8 {
        match self {
            ArithmeticOp::Add | ArithmeticOp::Subtract => ADDITIVE,
            ArithmeticOp::Multiply | ArithmeticOp::Divide | ArithmeticOp::Modulo => MULTIPLICATIVE,
            ArithmeticOp::Power => POWER,
        }
    }

    /// Whether operands that bind this tightly need parentheses, left and right.
    fn parentheses(self, left: u8, right: u8) -> (bool, bool) {
        let own = self.binding();
        match self {
            ArithmeticOp::Power => (left <= own, right < own),
            _ => (left < own, right <= own),
        }
    }
}

// How tightly the root of an expression binds; the levels are those of the parser.
const LOGICAL: u8 = 1;
const RELATIONAL: u8 = 2;
const ADDITIVE: u8 = 3;
const NOT: u8 = 4;
const MULTIPLICATIVE: u8 = 5;
const POWER: u8 = 6;
const OPERAND: u8 = 7;

impl Static {
    /// A negative number is a minus and a number.
    fn binding(&self) -> u8 {
        match self {
            Static::Int(i64::MIN) => OPERAND,
            Static::Int(..0) | Static::Duration(..0) => ADDITIVE,
            Static::Float(value) if value.is_sign_negative() => ADDITIVE,
            _ => OPERAND,
        }
    }
}

impl ScalarExpr {
    fn binding(&self) -> u8 {
        match self {
            ScalarExpr::Aggregate(_) | ScalarExpr::Pipeline(..) => OPERAND,
            ScalarExpr::Static(value, _) => value.binding(),
            ScalarExpr::Negate(_) => ADDITIVE,
            ScalarExpr::Binary { op, .. } => op.binding(),
        }
    }
}

impl FieldExpr {
    fn binding(&self) -> u8 {
        match self {
            FieldExpr::Static(value, _) => value.binding(),
            FieldExpr::Attribute(_) => OPERAND,
            FieldExpr::Compare { .. } | FieldExpr::Exists { .. } | FieldExpr::In { .. } => RELATIONAL,
            FieldExpr::Arithmetic { op, .. } => op.binding(),
            FieldExpr::And(..) | FieldExpr::Or(..) => LOGICAL,
            FieldExpr::Not(_) => NOT,
            FieldExpr::Negate(_) => ADDITIVE,
        }
    }
}

impl Display for FieldExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            FieldExpr::Static(value, _) => value.fmt(f),
            FieldExpr::Attribute(attribute) => InQuery(attribute).fmt(f),
            FieldExpr::Compare { op, left, right, .. } => {
                enclosed(f, left.binding() < RELATIONAL, left)?;
                write!(f, " {} ", op.text())?;
                enclosed(f, right.binding() <= RELATIONAL, right)
            }
            FieldExpr::Arithmetic { op, left, right, .. } => {
                let (left_parentheses, right_parentheses) = op.parentheses(left.binding(), right.binding());
                enclosed(f, left_parentheses, left)?;
                write!(f, " {} ", op.text())?;
                enclosed(f, right_parentheses, right)
            }
            FieldExpr::And(..) => logical_chain(f, LogicalOp::And, self),
            FieldExpr::Or(..) => logical_chain(f, LogicalOp::Or, self),
            FieldExpr::Not(operand) => {
                f.write_char('!')?;
                enclosed(f, operand.binding() < NOT, operand)
            }
            FieldExpr::Negate(operand) => {
                f.write_char('-')?;
                enclosed(f, operand.binding() <= ADDITIVE && !matches!(**operand, FieldExpr::Negate(_)), operand)
            }
            FieldExpr::Exists { exists, operand, .. } => {
                enclosed(f, operand.binding() < RELATIONAL, operand)?;
                f.write_str(if *exists { " != nil" } else { " = nil" })
            }
            FieldExpr::In { negated, operand, values, .. } => {
                enclosed(f, operand.binding() < RELATIONAL, operand)?;
                f.write_str(if *negated { " not in [" } else { " in [" })?;
                list(f, values, |f, value| value.fmt(f))?;
                f.write_char(']')
            }
        }
    }
}

fn logical_chain(f: &mut Formatter<'_>, op: LogicalOp, expr: &FieldExpr) -> fmt::Result {
    for (n, operand) in chain::operands_ref(op, expr).into_iter().enumerate() {
        if n > 0 {
            write!(f, " {} ", op.text())?;
        }
        enclosed(f, operand.binding() <= LOGICAL, operand)?;
    }
    Ok(())
}

impl Display for Attribute {
    /// The label: see the head of the module.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.write(f, |f, key| match key.contains(ends_key) {
            true => write!(f, "\"{key}\""),
            false => f.write_str(key),
        })
    }
}

/// An attribute in the text of a query.
struct InQuery<'a>(&'a Attribute);

impl Display for InQuery<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.write(f, |f, key| {
            if !self.0.needs_quotes(key) {
                return f.write_str(key);
            }
            f.write_char('"')?;
            for c in key.chars() {
                if let '"' | '\\' = c {
                    f.write_char('\\')?;
                }
                f.write_char(c)?;
            }
            f.write_char('"')
        })
    }
}

impl Attribute {
    fn write(
        &self,
        f: &mut Formatter<'_>,
        write_key: impl FnOnce(&mut Formatter<'_>, &str) -> fmt::Result,
    ) -> fmt::Result {
        if self.of_parent {
            f.write_str("parent.")?;
        }
        match &self.name {
            AttributeName::Intrinsic(intrinsic) => f.write_str(intrinsic.canonical()),
            AttributeName::Key { scope, key } => {
                match scope {
                    Some(scope) => write!(f, "{}.", scope.word())?,
                    None if self.of_parent => {}
                    None => f.write_char('.')?,
                }
                write_key(f, key)
            }
        }
    }

    /// Whether the key, unquoted, would be read as something else.
    fn needs_quotes(&self, key: &str) -> bool {
        let scoped = matches!(self.name, AttributeName::Key { scope: Some(_), .. });
        key.contains(|c| ends_key(c) || c == '"')
            // `.5` is a number.
            || (!scoped && !self.of_parent && key.starts_with(|c: char| c.is_ascii_digit()))
            // `parent.span.x` has a scope, and `parent.name` is an intrinsic.
            || (!scoped && self.of_parent && reads_otherwise_of_parent(key))
    }
}

fn reads_otherwise_of_parent(key: &str) -> bool {
    let scope = key.split_once('.').and_then(|(word, _)| Scope::from_word(word));
    scope.is_some() || Intrinsic::of_parent_from(key).is_some()
}

impl Display for Static {
    /// As in a query: durations in Go's notation, strings in quotes.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Static::Nil => f.write_str("nil"),
            Static::Int(i64::MIN) => f.write_str("minInt"),
            Static::Int(value) => value.fmt(f),
            // With a point or an exponent, so that it stays a float.
            Static::Float(value) => write!(f, "{value:?}"),
            Static::String(value) => string(f, value),
            Static::Bool(value) => value.fmt(f),
            Static::Duration(nanoseconds) => f.write_str(&go_duration(*nanoseconds)),
            Static::Status(status) => f.write_str(status.word()),
            Static::Kind(kind) => f.write_str(kind.word()),
        }
    }
}

fn string(f: &mut Formatter<'_>, value: &str) -> fmt::Result {
    f.write_char('"')?;
    for c in value.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            c if c.is_control() => write!(f, "\\u{:04x}", c as u32)?,
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}
