//! Values and what can be done with two of them.

use std::cmp::Ordering;

use proto::otlp::common::v1::{AnyValue, any_value::Value as Any};
use traceql::ast::{ArithmeticOp, ComparisonOp, Kind, Static, Status};

#[derive(Clone, Debug)]
pub enum Value {
    Int(i64),
    Float(f64),
    String(String),
    Bool(bool),
    /// Nanoseconds.
    Duration(i64),
    Status(Status),
    Kind(Kind),
    Array(Vec<Value>),
    /// Bytes, maps, arrays of nothing or of different types: there, but equal to nothing.
    Other,
}

impl Value {
    pub fn of_literal(literal: &Static) -> Option<Self> {
        Some(match literal.clone() {
            Static::Nil => return None,
            Static::Int(v) => Self::Int(v),
            Static::Float(v) => Self::Float(v),
            Static::String(v) => Self::String(v),
            Static::Bool(v) => Self::Bool(v),
            Static::Duration(v) => Self::Duration(v),
            Static::Status(v) => Self::Status(v),
            Static::Kind(v) => Self::Kind(v),
        })
    }

    /// An empty value is nil; an array of one element is the element.
    pub fn of_any(value: &AnyValue) -> Option<Self> {
        Some(match value.value.clone()? {
            Any::StringValue(v) => Self::String(v),
            Any::BoolValue(v) => Self::Bool(v),
            Any::IntValue(v) => Self::Int(v),
            Any::DoubleValue(v) => Self::Float(v),
            Any::ArrayValue(v) => {
                let elements: Vec<Self> = v.values.iter().map(|v| Self::of_any(v).unwrap_or(Self::Other)).collect();
                let like_first = |e: &Self| std::mem::discriminant(e) == std::mem::discriminant(&elements[0]);
                let nested = v.values.iter().any(|e| matches!(e.value, Some(Any::ArrayValue(_))));
                let mixed = nested || !elements.iter().all(|e| like_first(e) && !matches!(e, Self::Other));
                match elements.as_slice() {
                    [] => Self::Other,
                    _ if mixed => Self::Other,
                    [one] => one.clone(),
                    _ => Self::Array(elements),
                }
            }
            _ => Self::Other,
        })
    }

    /// How an answer shows it: the type that goes over the wire, and the value.
    pub fn shown(&self) -> String {
        match self {
            Self::Int(v) => format!("int {v}"),
            Self::Float(v) => format!("double {v:?}"),
            Self::String(v) => format!("string {v:?}"),
            Self::Bool(v) => format!("bool {v}"),
            Self::Duration(v) => format!("string {:?}", traceql::go_duration(*v)),
            Self::Status(v) => format!("string {:?}", v.word()),
            Self::Kind(v) => format!("string {:?}", v.word()),
            Self::Array(v) => format!("[{}]", v.iter().map(Self::shown).collect::<Vec<_>>().join(", ")),
            Self::Other => "string \"nil\"".to_owned(),
        }
    }

    /// Equal for values of one group: type and value, floats bit by bit.
    pub fn group(&self) -> String {
        match self {
            Self::Float(v) => format!("Float({:x})", v.to_bits()),
            Self::Array(v) => format!("Array({})", v.iter().map(Self::group).collect::<Vec<_>>().join(",")),
            other => format!("{other:?}"),
        }
    }

    pub fn whole(&self) -> Option<i64> {
        match self {
            Self::Int(v) | Self::Duration(v) => Some(*v),
            _ => None,
        }
    }

    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Float(v) => Some(*v),
            other => other.whole().map(|v| v as f64),
        }
    }
}

/// Everything but patterns and arrays.
pub fn compare(op: ComparisonOp, left: &Value, right: &Value) -> bool {
    let equality = |equal: bool| match op {
        ComparisonOp::Equal => equal,
        ComparisonOp::NotEqual => !equal,
        _ => false,
    };
    let order = match (left, right) {
        (Value::String(a), Value::String(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
        (Value::Bool(a), Value::Bool(b)) => return equality(a == b),
        (Value::Status(a), Value::Status(b)) => return equality(a == b),
        (Value::Kind(a), Value::Kind(b)) => return equality(a == b),
        // The numbers of OTLP.
        (Value::Status(a), Value::Int(b)) | (Value::Int(b), Value::Status(a)) => return equality(a.code() == *b),
        (Value::Kind(a), Value::Int(b)) | (Value::Int(b), Value::Kind(a)) => return equality(a.code() == *b),
        _ => match (left.number(), right.number()) {
            (Some(_), Some(_)) => numbers(left, right),
            // Of different types: never, whatever the operator.
            _ => return false,
        },
    };
    match op {
        ComparisonOp::Equal => order == Some(Ordering::Equal),
        // Not-a-number differs from everything.
        ComparisonOp::NotEqual => order != Some(Ordering::Equal),
        ComparisonOp::Less => order == Some(Ordering::Less),
        ComparisonOp::LessEqual => order.is_some_and(Ordering::is_le),
        ComparisonOp::Greater => order == Some(Ordering::Greater),
        ComparisonOp::GreaterEqual => order.is_some_and(Ordering::is_ge),
        ComparisonOp::Match | ComparisonOp::NotMatch => false,
    }
}

/// By exact value: no integer is rounded to be compared with a float.
fn numbers(left: &Value, right: &Value) -> Option<Ordering> {
    match (left.whole(), right.whole()) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        (None, None) => left.number()?.partial_cmp(&right.number()?),
        (None, Some(_)) => numbers(right, left).map(Ordering::reverse),
        (Some(int), None) => {
            let float = right.number()?;
            // A float this large is whole, and so is its 128-bit integer; beyond that range only its sign matters.
            if float.is_nan() {
                None
            } else if float.abs() >= 1e30 {
                0.0.partial_cmp(&float)
            } else {
                let floor = i128::from(int).cmp(&(float.floor() as i128));
                Some(if floor == Ordering::Equal && float.fract() != 0.0 { Ordering::Less } else { floor })
            }
        }
    }
}

/// `None` where there is no result: no number, or a division of integers by zero. What does not fit 64 bits goes on
/// as a float.
pub fn arithmetic(op: ArithmeticOp, left: &Value, right: &Value) -> Option<Value> {
    let (x, y) = (left.number()?, right.number()?);
    let float = || {
        Value::Float(match op {
            ArithmeticOp::Add => x + y,
            ArithmeticOp::Subtract => x - y,
            ArithmeticOp::Multiply => x * y,
            ArithmeticOp::Divide => x / y,
            ArithmeticOp::Modulo => x % y,
            ArithmeticOp::Power => x.powf(y),
        })
    };
    let (Some(a), Some(b)) = (left.whole(), right.whole()) else { return Some(float()) };
    let (a, b) = (i128::from(a), i128::from(b));
    let exact = match op {
        ArithmeticOp::Add => a + b,
        ArithmeticOp::Subtract => a - b,
        ArithmeticOp::Multiply => a * b,
        ArithmeticOp::Divide | ArithmeticOp::Modulo if b == 0 => return None,
        ArithmeticOp::Divide => a / b,
        ArithmeticOp::Modulo => a % b,
        ArithmeticOp::Power => match power(a, b) {
            Power::Exact(value) => value,
            Power::Beyond => i128::MAX,
            Power::DividesByZero => return None,
        },
    };
    let Ok(exact) = i64::try_from(exact) else { return Some(float()) };
    Some(if is_duration(op, left, right) { Value::Duration(exact) } else { Value::Int(exact) })
}

enum Power {
    Exact(i128),
    Beyond,
    DividesByZero,
}

/// Whole numbers stay whole: a negative exponent gives the whole part of the fraction.
fn power(base: i128, exponent: i128) -> Power {
    if exponent < 0 {
        return match base {
            0 => Power::DividesByZero,
            1 => Power::Exact(1),
            -1 => Power::Exact(if exponent % 2 == 0 { 1 } else { -1 }),
            _ => Power::Exact(0),
        };
    }
    match base {
        0 => Power::Exact(i128::from(exponent == 0)),
        1 => Power::Exact(1),
        -1 => Power::Exact(if exponent % 2 == 0 { 1 } else { -1 }),
        _ => {
            let mut value: i128 = 1;
            for _ in 0..exponent.min(128) {
                value = match value.checked_mul(base) {
                    Some(value) => value,
                    None => return Power::Beyond,
                };
            }
            Power::Exact(value)
        }
    }
}

/// Times stay times where that makes sense.
fn is_duration(op: ArithmeticOp, left: &Value, right: &Value) -> bool {
    use ArithmeticOp::{Add, Divide, Modulo, Multiply, Power, Subtract};
    match (matches!(left, Value::Duration(_)), matches!(right, Value::Duration(_))) {
        (false, false) => false,
        (true, true) => matches!(op, Add | Subtract | Modulo),
        (true, false) => op != Power,
        (false, true) => matches!(op, Add | Subtract | Multiply | Modulo) && !matches!(op, Divide),
    }
}

pub fn negate(value: &Value) -> Option<Value> {
    Some(match value {
        Value::Float(v) => Value::Float(-v),
        Value::Int(v) => v.checked_neg().map_or(Value::Float(-(*v as f64)), Value::Int),
        Value::Duration(v) => v.checked_neg().map_or(Value::Float(-(*v as f64)), Value::Duration),
        _ => return None,
    })
}
