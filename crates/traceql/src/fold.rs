//! Constants are computed when the query is read: `duration > 2 * 100ms` compares with `200ms`.
//!
//! Integers and durations are computed exactly in 64 bits; an overflow, a division by zero and a result that is no
//! number are errors of the query. Division of integers truncates. A chain of `&&` or `||` is folded only if all of
//! its operands are constants, so that a folded tree prints and reads back as itself.

use crate::ast::*;
use crate::chain::{self, LogicalOp};
use crate::check::{Type, arithmetic_type, span_of};
use crate::error::Fault;
use crate::pattern;
use std::cmp::Ordering;

type Result<T> = std::result::Result<T, Fault>;

pub(crate) fn query(query: Query) -> Result<Query> {
    let body = match query.body {
        QueryBody::Search(pipeline) => QueryBody::Search(self::pipeline(pipeline)?),
        QueryBody::Metrics(expr) => QueryBody::Metrics(metrics(expr)?),
    };
    Ok(Query { body, hints: query.hints })
}

fn metrics(expr: MetricsExpr) -> Result<MetricsExpr> {
    Ok(match expr {
        MetricsExpr::Query(query) => MetricsExpr::Query(MetricsQuery {
            pipeline: pipeline(query.pipeline)?,
            function: match query.function {
                MetricsFunction::Compare { selection, top_n, range } => {
                    MetricsFunction::Compare { selection: field(selection)?, top_n, range }
                }
                other => other,
            },
            ..query
        }),
        MetricsExpr::Binary { op, left, right } => {
            MetricsExpr::Binary { op, left: Box::new(metrics(*left)?), right: Box::new(metrics(*right)?) }
        }
        MetricsExpr::Number(value) => MetricsExpr::Number(value),
    })
}

fn pipeline(pipeline: Pipeline) -> Result<Pipeline> {
    let stages = pipeline.stages.into_iter().map(|stage| {
        Ok(match stage {
            Stage::Spansets(expr) => Stage::Spansets(spansets(expr)?),
            Stage::ScalarFilter { op, left, right, span } => {
                Stage::ScalarFilter { op, left: scalar(left)?, right: scalar(right)?, span }
            }
            Stage::GroupBy(expr) => Stage::GroupBy(field(expr)?),
            stage @ (Stage::Coalesce | Stage::Select(_)) => stage,
        })
    });
    Ok(Pipeline { stages: stages.collect::<Result<_>>()? })
}

fn spansets(expr: SpansetExpr) -> Result<SpansetExpr> {
    Ok(match expr {
        SpansetExpr::Filter(filter) => SpansetExpr::Filter(field(filter)?),
        SpansetExpr::Binary { op, left, right, span } => {
            SpansetExpr::Binary { op, left: Box::new(spansets(*left)?), right: Box::new(spansets(*right)?), span }
        }
        SpansetExpr::Pipeline(inner) => SpansetExpr::Pipeline(Box::new(pipeline(*inner)?)),
    })
}

pub(crate) fn scalar(expr: ScalarExpr) -> Result<ScalarExpr> {
    Ok(match expr {
        ScalarExpr::Aggregate(Aggregate { function, argument, span }) => {
            ScalarExpr::Aggregate(Aggregate { function, argument: argument.map(field).transpose()?, span })
        }
        ScalarExpr::Static(value, span) => ScalarExpr::Static(value, span),
        ScalarExpr::Binary { op, left, right, span } => match (scalar(*left)?, scalar(*right)?) {
            (ScalarExpr::Static(left, _), ScalarExpr::Static(right, _)) => {
                let value = arithmetic(op, &left, &right).map_err(|message| Fault::new(span, message))?;
                ScalarExpr::Static(value, span)
            }
            (_, ScalarExpr::Static(right, _)) if divides_by_zero(op, &right) => {
                return Err(Fault::new(span, division_by_zero()));
            }
            (left, right) => ScalarExpr::Binary { op, left: Box::new(left), right: Box::new(right), span },
        },
        ScalarExpr::Negate(operand) => match scalar(*operand)? {
            ScalarExpr::Static(value, span) => {
                ScalarExpr::Static(negate(&value).map_err(|message| Fault::new(span, message))?, span)
            }
            other => ScalarExpr::Negate(Box::new(other)),
        },
        ScalarExpr::Pipeline(stages, value) => {
            ScalarExpr::Pipeline(Box::new(pipeline(*stages)?), Box::new(scalar(*value)?))
        }
    })
}

/// The expression has passed the check.
pub(crate) fn field(expr: FieldExpr) -> Result<FieldExpr> {
    let whole = span_of(&expr);
    Ok(match expr {
        FieldExpr::Static(..) | FieldExpr::Attribute(_) => expr,
        FieldExpr::Compare { op, left, right, span } => match (field(*left)?, field(*right)?) {
            (FieldExpr::Static(left, _), FieldExpr::Static(right, _)) => {
                let holds = compare(op, &left, &right).map_err(|message| Fault::new(span, message))?;
                FieldExpr::Static(Static::Bool(holds), span)
            }
            (left, right) => FieldExpr::Compare { op, left: Box::new(left), right: Box::new(right), span },
        },
        FieldExpr::Arithmetic { op, left, right, span } => match (field(*left)?, field(*right)?) {
            (FieldExpr::Static(left, _), FieldExpr::Static(right, _)) => {
                let value = arithmetic(op, &left, &right).map_err(|message| Fault::new(span, message))?;
                FieldExpr::Static(value, span)
            }
            (_, FieldExpr::Static(right, _)) if divides_by_zero(op, &right) => {
                return Err(Fault::new(span, division_by_zero()));
            }
            (left, right) => FieldExpr::Arithmetic { op, left: Box::new(left), right: Box::new(right), span },
        },
        FieldExpr::And(..) => chain_of(LogicalOp::And, expr, whole)?,
        FieldExpr::Or(..) => chain_of(LogicalOp::Or, expr, whole)?,
        FieldExpr::Not(operand) => match field(*operand)? {
            FieldExpr::Static(value, _) => FieldExpr::Static(Static::Bool(value != Static::Bool(true)), whole),
            other => FieldExpr::Not(Box::new(other)),
        },
        FieldExpr::Negate(operand) => match field(*operand)? {
            FieldExpr::Static(value, _) => {
                FieldExpr::Static(negate(&value).map_err(|message| Fault::new(whole, message))?, whole)
            }
            other => FieldExpr::Negate(Box::new(other)),
        },
        FieldExpr::Exists { exists, operand, span } => match field(*operand)? {
            // `nil` compared with `nil` is false either way.
            FieldExpr::Static(Static::Nil, _) => FieldExpr::Static(Static::Bool(false), span),
            FieldExpr::Static(..) => FieldExpr::Static(Static::Bool(exists), span),
            other => FieldExpr::Exists { exists, operand: Box::new(other), span },
        },
        FieldExpr::In { negated, operand, values, span } => match field(*operand)? {
            FieldExpr::Static(value, _) => {
                let found = values.iter().any(|other| compare(ComparisonOp::Equal, &value, other) == Ok(true));
                FieldExpr::Static(Static::Bool(found != negated), span)
            }
            other => FieldExpr::In { negated, operand: Box::new(other), values, span },
        },
    })
}

fn chain_of(op: LogicalOp, expr: FieldExpr, span: Span) -> Result<FieldExpr> {
    let operands: Vec<FieldExpr> = chain::operands(op, expr).into_iter().map(field).collect::<Result<_>>()?;
    let constant = |operand: &FieldExpr| match operand {
        FieldExpr::Static(value, _) => Some(*value == Static::Bool(true)),
        _ => None,
    };
    if let Some(values) = operands.iter().map(constant).collect::<Option<Vec<bool>>>() {
        let holds = match op {
            LogicalOp::And => values.into_iter().all(|value| value),
            LogicalOp::Or => values.into_iter().any(|value| value),
        };
        return Ok(FieldExpr::Static(Static::Bool(holds), span));
    }
    chain::join(op, operands).ok_or_else(|| Fault::new(span, "an operand is missing"))
}

/// Compares two values. Numbers compare by value whatever their types, exactly. Values of types that do not
/// compare, and `nil`, compare as false.
///
/// An error is a pattern that is not valid.
pub fn compare(op: ComparisonOp, left: &Static, right: &Static) -> std::result::Result<bool, String> {
    if let ComparisonOp::Match | ComparisonOp::NotMatch = op {
        let (Static::String(text), Static::String(pattern)) = (left, right) else {
            return Ok(false);
        };
        let regex = pattern::compile_regex(pattern).map_err(|error| error.to_string())?;
        return Ok(regex.is_match(text) == (op == ComparisonOp::Match));
    }
    let Some(order) = order(left, right) else {
        return Ok(false);
    };
    Ok(match op {
        ComparisonOp::Equal => order == Ordering::Equal,
        ComparisonOp::NotEqual => order != Ordering::Equal,
        ComparisonOp::Less => order == Ordering::Less,
        ComparisonOp::LessEqual => order != Ordering::Greater,
        ComparisonOp::Greater => order == Ordering::Greater,
        ComparisonOp::GreaterEqual => order != Ordering::Less,
        ComparisonOp::Match | ComparisonOp::NotMatch => false,
    })
}

/// How two values stand to each other, if they compare at all.
pub fn order(left: &Static, right: &Static) -> Option<Ordering> {
    match (left, right) {
        (Static::String(left), Static::String(right)) => Some(left.as_bytes().cmp(right.as_bytes())),
        (Static::Bool(left), Static::Bool(right)) => Some(left.cmp(right)),
        (Static::Float(left), Static::Float(right)) => left.partial_cmp(right),
        (Static::Float(left), right) => order_int_float(right.as_int()?, *left).map(Ordering::reverse),
        (left, Static::Float(right)) => order_int_float(left.as_int()?, *right),
        // A kind is not a status, even if their numbers are equal.
        (Static::Status(_), Static::Kind(_)) | (Static::Kind(_), Static::Status(_)) => None,
        (left, right) => Some(left.as_int()?.cmp(&right.as_int()?)),
    }
}

impl Static {
    /// Integers, nanoseconds of durations, OTLP's numbers of statuses and kinds.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Static::Int(value) | Static::Duration(value) => Some(*value),
            Static::Status(status) => Some(status.code()),
            Static::Kind(kind) => Some(kind.code()),
            Static::Nil | Static::Float(_) | Static::String(_) | Static::Bool(_) => None,
        }
    }

    fn as_float(&self) -> Option<f64> {
        match self {
            Static::Float(value) => Some(*value),
            Static::Int(value) | Static::Duration(value) => Some(*value as f64),
            _ => None,
        }
    }
}

/// Exact, also where the integer has more digits than a float can hold. `None` for NaN.
pub fn order_int_float(int: i64, float: f64) -> Option<Ordering> {
    const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;
    if float.is_nan() {
        return None;
    }
    if float >= TWO_TO_63 {
        return Some(Ordering::Less);
    }
    if float < -TWO_TO_63 {
        return Some(Ordering::Greater);
    }
    let whole = float.trunc();
    let by_whole = int.cmp(&(whole as i64));
    let by_fraction = 0.0.partial_cmp(&(float - whole))?;
    Some(by_whole.then(by_fraction))
}

/// Computes with two numbers. An error names what went wrong.
pub fn arithmetic(op: ArithmeticOp, left: &Static, right: &Static) -> std::result::Result<Static, String> {
    let wrap = |value: i64| match arithmetic_type(op, left.type_of(), right.type_of()) {
        Type::Duration if value == i64::MIN => Err(overflow()),
        Type::Duration => Ok(Static::Duration(value)),
        _ => Ok(Static::Int(value)),
    };
    match (left, right) {
        (Static::Int(a) | Static::Duration(a), Static::Int(b) | Static::Duration(b)) => wrap(integers(op, *a, *b)?),
        _ => match (left.as_float(), right.as_float()) {
            (Some(a), Some(b)) => floats(op, a, b).map(Static::Float),
            _ => Err(format!("`{}` computes with numbers", op.text())),
        },
    }
}

fn overflow() -> String {
    "the result does not fit into 64 bits".to_owned()
}

fn divides_by_zero(op: ArithmeticOp, divisor: &Static) -> bool {
    let zero = match divisor {
        Static::Int(value) | Static::Duration(value) => *value == 0,
        Static::Float(value) => *value == 0.0,
        _ => false,
    };
    zero && matches!(op, ArithmeticOp::Divide | ArithmeticOp::Modulo)
}

fn division_by_zero() -> String {
    "division by zero".to_owned()
}

fn integers(op: ArithmeticOp, a: i64, b: i64) -> std::result::Result<i64, String> {
    if b == 0 && matches!(op, ArithmeticOp::Divide | ArithmeticOp::Modulo) {
        return Err(division_by_zero());
    }
    match op {
        ArithmeticOp::Add => a.checked_add(b),
        ArithmeticOp::Subtract => a.checked_sub(b),
        ArithmeticOp::Multiply => a.checked_mul(b),
        ArithmeticOp::Divide => a.checked_div(b),
        // Only the least integer modulo -1 does not fit, and that is 0.
        ArithmeticOp::Modulo => Some(a.checked_rem(b).unwrap_or(0)),
        ArithmeticOp::Power => return integer_power(a, b),
    }
    .ok_or_else(overflow)
}

/// A negative exponent gives the whole part of the fraction, as division does.
fn integer_power(base: i64, exponent: i64) -> std::result::Result<i64, String> {
    match (base, exponent) {
        (0, ..=-1) => Err(division_by_zero()),
        (0 | 1, 1..) | (1, _) => Ok(base),
        (-1, _) => Ok(if exponent % 2 == 0 { 1 } else { -1 }),
        (_, ..=-1) => Ok(0),
        _ => u32::try_from(exponent).ok().and_then(|exponent| base.checked_pow(exponent)).ok_or_else(overflow),
    }
}

fn floats(op: ArithmeticOp, a: f64, b: f64) -> std::result::Result<f64, String> {
    if b == 0.0 && matches!(op, ArithmeticOp::Divide | ArithmeticOp::Modulo) {
        return Err(division_by_zero());
    }
    let value = match op {
        ArithmeticOp::Add => a + b,
        ArithmeticOp::Subtract => a - b,
        ArithmeticOp::Multiply => a * b,
        ArithmeticOp::Divide => a / b,
        ArithmeticOp::Modulo => a % b,
        ArithmeticOp::Power => a.powf(b),
    };
    match value.is_finite() {
        true => Ok(value),
        false => Err("the result is not a number that can be written".to_owned()),
    }
}

/// The negative of a number.
pub fn negate(value: &Static) -> std::result::Result<Static, String> {
    match value {
        Static::Int(value) => value.checked_neg().map(Static::Int).ok_or_else(overflow),
        Static::Duration(value) => value.checked_neg().map(Static::Duration).ok_or_else(overflow),
        Static::Float(value) => Ok(Static::Float(-value)),
        other => Err(format!("a minus inverts a number, but this is {}", other.type_of())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn int(value: i64) -> Static {
        Static::Int(value)
    }

    #[test]
    fn computes() {
        use ArithmeticOp::*;
        let second = Static::Duration(1_000_000_000);
        let table: &[(Static, ArithmeticOp, Static, Static)] = &[
            (int(1), Add, int(1), int(2)),
            (int(7), Divide, int(2), int(3)),
            (int(-7), Divide, int(2), int(-3)),
            (int(-7), Modulo, int(2), int(-1)),
            (int(i64::MIN), Modulo, int(-1), int(0)),
            (int(2), Power, int(3), int(8)),
            (int(3), Power, int(2), int(9)),
            (int(0), Power, int(0), int(1)),
            (int(2), Power, int(-1), int(0)),
            (int(-1), Power, int(i64::MIN), int(1)),
            (int(1), Power, int(i64::MAX), int(1)),
            (Static::Float(2.0), Power, int(3), Static::Float(8.0)),
            (int(1), Add, Static::Float(0.5), Static::Float(1.5)),
            (int(2), Multiply, second.clone(), Static::Duration(2_000_000_000)),
            (second.clone(), Divide, int(4), Static::Duration(250_000_000)),
            (second.clone(), Divide, second.clone(), int(1)),
            (second.clone(), Subtract, second.clone(), Static::Duration(0)),
        ];
        for (left, op, right, result) in table {
            assert_eq!(arithmetic(*op, left, right).as_ref(), Ok(result), "{left} {} {right}", op.text());
        }
    }

    #[test]
    fn refuses_what_has_no_result() {
        use ArithmeticOp::*;
        let table: &[(Static, ArithmeticOp, Static)] = &[
            (int(i64::MAX), Add, int(1)),
            (int(i64::MIN), Subtract, int(1)),
            (int(i64::MIN), Divide, int(-1)),
            (int(i64::MAX), Multiply, int(2)),
            (int(2), Power, int(63)),
            (int(2), Power, int(i64::MAX)),
            (int(0), Power, int(-1)),
            (int(1), Divide, int(0)),
            (int(1), Modulo, int(0)),
            (Static::Float(1.0), Divide, Static::Float(0.0)),
            (Static::Float(1e308), Multiply, int(10)),
            (Static::Float(-1.0), Power, Static::Float(0.5)),
            (Static::Duration(i64::MAX), Add, Static::Duration(1)),
            (Static::Bool(true), Add, int(1)),
        ];
        for (left, op, right) in table {
            assert!(arithmetic(*op, left, right).is_err(), "{left} {} {right}", op.text());
        }
        assert!(negate(&int(i64::MIN)).is_err());
    }

    #[test]
    fn compares_numbers_exactly() {
        assert_eq!(order_int_float(9_007_199_254_740_993, 9_007_199_254_740_992.0), Some(Ordering::Greater));
        assert_eq!(order_int_float(i64::MAX, 9_223_372_036_854_775_807.0), Some(Ordering::Less));
        assert_eq!(order_int_float(i64::MIN, -9_223_372_036_854_775_808.0), Some(Ordering::Equal));
        assert_eq!(order_int_float(-3, -3.5), Some(Ordering::Greater));
        assert_eq!(order_int_float(3, 3.5), Some(Ordering::Less));
        assert_eq!(order_int_float(0, f64::NAN), None);
        assert_eq!(order_int_float(0, f64::NEG_INFINITY), Some(Ordering::Greater));
        assert_eq!(compare(ComparisonOp::Equal, &int(1), &Static::Float(1.0)), Ok(true));
        assert_eq!(compare(ComparisonOp::Equal, &int(1_000), &Static::Duration(1_000)), Ok(true));
        assert_eq!(compare(ComparisonOp::NotEqual, &int(1), &Static::String("1".into())), Ok(false));
        assert_eq!(compare(ComparisonOp::Equal, &Static::Nil, &Static::Nil), Ok(false));
        assert_eq!(compare(ComparisonOp::NotEqual, &Static::Nil, &Static::Nil), Ok(false));
        assert_eq!(compare(ComparisonOp::NotMatch, &Static::String("a".into()), &Static::String("b".into())), Ok(true));
    }
}
