//! The values an expression of TraceQL can have, and how they compare.
//!
//! One value has one type. Numbers (int, float, duration) compare with each other as numbers; every other
//! pair of different types compares as false, whatever the operator. A comparison with nothing is false.

use std::cmp::Ordering;

use proto::otlp::common::v1::{AnyValue, any_value};
use regex::Regex;
use traceql::ast::{ArithmeticOp, ComparisonOp, Kind, Static, Status};

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Int(i64),
    Float(f64),
    String(String),
    Bool(bool),
    /// Nanoseconds.
    Duration(i64),
    Status(Status),
    Kind(Kind),
    /// An array of several strings, integers, floats or truth values. Compared element by element.
    Array(Vec<Value>),
    /// Bytes, maps, arrays of nothing or of different types, and whatever else is stored but cannot be asked about. It is there, and its
    /// value is nil.
    Opaque,
}

impl Value {
    /// `None` for `nil`.
    pub fn of_static(literal: &Static) -> Option<Self> {
        Some(match literal {
            Static::Nil => return None,
            Static::Int(v) => Self::Int(*v),
            Static::Float(v) => Self::Float(*v),
            Static::String(v) => Self::String(v.clone()),
            Static::Bool(v) => Self::Bool(*v),
            Static::Duration(v) => Self::Duration(*v),
            Static::Status(v) => Self::Status(*v),
            Static::Kind(v) => Self::Kind(*v),
        })
    }

    /// `None` for the empty value. An array of one element is that element.
    pub fn of_any(value: &AnyValue) -> Option<Self> {
        Some(match value.value.as_ref()? {
            any_value::Value::StringValue(v) => Self::String(v.clone()),
            any_value::Value::BoolValue(v) => Self::Bool(*v),
            any_value::Value::IntValue(v) => Self::Int(*v),
            any_value::Value::DoubleValue(v) => Self::Float(*v),
            any_value::Value::ArrayValue(v) => Self::of_elements(&v.values),
            any_value::Value::KvlistValue(_) | any_value::Value::BytesValue(_) => Self::Opaque,
            #[allow(unreachable_patterns)]
            _ => Self::Opaque,
        })
    }

    fn of_elements(elements: &[AnyValue]) -> Self {
        let mut values: Vec<Self> = elements.iter().map(|element| Self::of_any(element).unwrap_or(Self::Opaque)).collect();
        let nested = elements.iter().any(|element| matches!(element.value, Some(any_value::Value::ArrayValue(_))));
        let mixed = values.windows(2).any(|pair| std::mem::discriminant(&pair[0]) != std::mem::discriminant(&pair[1]));
        if values.is_empty() || nested || mixed || values.contains(&Self::Opaque) {
            Self::Opaque
        } else if values.len() == 1 {
            values.remove(0)
        } else {
            Self::Array(values)
        }
    }

    /// The value as it stands in search results and metric labels.
    pub fn to_any(&self) -> AnyValue {
        use any_value::Value as Any;
        let value = match self {
            Self::Int(v) => Any::IntValue(*v),
            Self::Float(v) => Any::DoubleValue(*v),
            Self::String(v) => Any::StringValue(v.clone()),
            Self::Bool(v) => Any::BoolValue(*v),
            Self::Duration(v) => Any::StringValue(traceql::go_duration(*v)),
            Self::Status(v) => Any::StringValue(status_word(*v).into()),
            Self::Kind(v) => Any::StringValue(kind_word(*v).into()),
            Self::Array(v) => Any::ArrayValue(proto::otlp::common::v1::ArrayValue {
                values: v.iter().map(Self::to_any).collect(),
            }),
            Self::Opaque => Any::StringValue("nil".into()),
        };
        AnyValue { value: Some(value) }
    }

    /// The value to group by: nil where there is none that can be told from others.
    pub fn grouped(self) -> Option<Self> {
        if self == Self::Opaque { None } else { Some(self) }
    }

    /// The value to group series by: an array is labelled nil, and what cannot be told from others is missing.
    pub fn label(self) -> Option<Self> {
        match self {
            Self::Opaque => None,
            Self::Array(_) => Some(Self::Opaque),
            value => Some(value),
        }
    }

    /// Whether both are one group: of one type and equal, floats bit by bit.
    pub fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Float(a), Self::Float(b)) => a.to_bits() == b.to_bits(),
            (Self::Array(a), Self::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b)),
            (a, b) => a == b,
        }
    }

    /// An integer or a duration.
    fn whole(&self) -> Option<Static> {
        match self {
            Self::Int(v) => Some(Static::Int(*v)),
            Self::Duration(v) => Some(Static::Duration(*v)),
            _ => None,
        }
    }

    pub fn number(&self) -> Option<Number> {
        match self {
            Self::Int(v) | Self::Duration(v) => Some(Number::Int(*v)),
            Self::Float(v) => Some(Number::Float(*v)),
            _ => None,
        }
    }
}

pub fn status_word(status: Status) -> &'static str {
    match status {
        Status::Unset => "unset",
        Status::Ok => "ok",
        Status::Error => "error",
    }
}

pub fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Unspecified => "unspecified",
        Kind::Internal => "internal",
        Kind::Server => "server",
        Kind::Client => "client",
        Kind::Producer => "producer",
        Kind::Consumer => "consumer",
    }
}

/// OTLP's number of a status.
pub fn status_code(status: Status) -> i32 {
    match status {
        Status::Unset => 0,
        Status::Ok => 1,
        Status::Error => 2,
    }
}

pub fn status_of_code(code: i32) -> Status {
    match code {
        1 => Status::Ok,
        2 => Status::Error,
        _ => Status::Unset,
    }
}

/// OTLP's number of a kind.
pub fn kind_code(kind: Kind) -> i32 {
    match kind {
        Kind::Unspecified => 0,
        Kind::Internal => 1,
        Kind::Server => 2,
        Kind::Client => 3,
        Kind::Producer => 4,
        Kind::Consumer => 5,
    }
}

pub fn kind_of_code(code: i32) -> Kind {
    match code {
        1 => Kind::Internal,
        2 => Kind::Server,
        3 => Kind::Client,
        4 => Kind::Producer,
        5 => Kind::Consumer,
        _ => Kind::Unspecified,
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Number {
    Int(i64),
    Float(f64),
}

impl Number {
    pub fn as_f64(self) -> f64 {
        match self {
            Self::Int(v) => v as f64,
            Self::Float(v) => v,
        }
    }

    /// By exact value, also an int with a float; NaN with nothing.
    pub fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(&b)),
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(&b),
            (Self::Int(a), Self::Float(b)) => traceql::order_int_float(a, b),
            (Self::Float(a), Self::Int(b)) => traceql::order_int_float(b, a).map(Ordering::reverse),
        }
    }
}

/// Whether `left op right` holds for two orderable values.
pub fn holds(op: ComparisonOp, order: Option<Ordering>) -> bool {
    match op {
        ComparisonOp::Equal => order == Some(Ordering::Equal),
        // Not-a-number differs from everything, itself included.
        ComparisonOp::NotEqual => order != Some(Ordering::Equal),
        ComparisonOp::Less => order == Some(Ordering::Less),
        ComparisonOp::LessEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        ComparisonOp::Greater => order == Some(Ordering::Greater),
        ComparisonOp::GreaterEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        ComparisonOp::Match | ComparisonOp::NotMatch => false,
    }
}

/// Whether an array asks all of its elements (`!=`, `!~`) rather than any.
fn asks_all(op: ComparisonOp) -> bool {
    matches!(op, ComparisonOp::NotEqual | ComparisonOp::NotMatch)
}

/// Compares two values. Patterns are matched by [`Test`], not here.
pub fn compare(op: ComparisonOp, left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Array(_), Value::Array(_)) => false,
        (Value::Array(elements), other) => over_elements(op, elements, |e| compare(op, e, other)),
        (other, Value::Array(elements)) => over_elements(op, elements, |e| compare(op, other, e)),
        (Value::String(a), Value::String(b)) => holds(op, Some(a.as_bytes().cmp(b.as_bytes()))),
        (Value::Bool(a), Value::Bool(b)) => equality(op, a == b),
        (Value::Status(a), Value::Status(b)) => equality(op, a == b),
        (Value::Kind(a), Value::Kind(b)) => equality(op, a == b),
        (Value::Status(a), Value::Int(b)) | (Value::Int(b), Value::Status(a)) => {
            equality(op, i64::from(status_code(*a)) == *b)
        }
        (Value::Kind(a), Value::Int(b)) | (Value::Int(b), Value::Kind(a)) => {
            equality(op, i64::from(kind_code(*a)) == *b)
        }
        _ => match (left.number(), right.number()) {
            (Some(a), Some(b)) => holds(op, a.compare(b)),
            _ => false,
        },
    }
}

fn over_elements(op: ComparisonOp, elements: &[Value], test: impl Fn(&Value) -> bool) -> bool {
    if asks_all(op) { !elements.is_empty() && elements.iter().all(test) } else { elements.iter().any(test) }
}

fn equality(op: ComparisonOp, equal: bool) -> bool {
    match op {
        ComparisonOp::Equal => equal,
        ComparisonOp::NotEqual => !equal,
        _ => false,
    }
}

/// A comparison with a literal, ready to be applied to many values.
#[derive(Clone, Debug)]
pub struct Test {
    pub op: ComparisonOp,
    pub literal: Value,
    /// The literal as a pattern, for `=~` and `!~`.
    pub pattern: Option<Regex>,
}

impl Test {
    pub fn on(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => self.on_str(text),
            Value::Array(elements) => over_elements(self.op, elements, |e| self.on(e)),
            other => self.pattern.is_none() && compare(self.op, other, &self.literal),
        }
    }

    pub fn on_str(&self, text: &str) -> bool {
        match (&self.pattern, &self.literal) {
            (Some(pattern), _) => pattern.is_match(text) == (self.op == ComparisonOp::Match),
            (None, Value::String(literal)) => holds(self.op, Some(text.as_bytes().cmp(literal.as_bytes()))),
            _ => false,
        }
    }

    pub fn on_number(&self, number: Number) -> bool {
        self.pattern.is_none() && self.literal.number().is_some_and(|literal| holds(self.op, number.compare(literal)))
    }
}

impl PartialEq for Test {
    fn eq(&self, other: &Self) -> bool {
        self.op == other.op && self.literal == other.literal
    }
}

/// Arithmetic on two values. `None` where a side is not a number, where an integer is divided by zero, and
/// where there is no result. Integers stay integers while the result fits 64 bits and become floats beyond.
pub fn arithmetic(op: ArithmeticOp, left: &Value, right: &Value) -> Option<Value> {
    let (a, b) = (left.number()?, right.number()?);
    if let (Some(x), Some(y)) = (left.whole(), right.whole()) {
        match traceql::arithmetic(op, &x, &y) {
            Ok(result) => return Value::of_static(&result),
            Err(_) if divides_by_zero(op, a, b) => return None,
            // Too large.
            Err(_) => {}
        }
    }
    let (x, y) = (a.as_f64(), b.as_f64());
    Some(Value::Float(match op {
        ArithmeticOp::Add => x + y,
        ArithmeticOp::Subtract => x - y,
        ArithmeticOp::Multiply => x * y,
        ArithmeticOp::Divide => x / y,
        ArithmeticOp::Modulo => x % y,
        ArithmeticOp::Power => x.powf(y),
    }))
}

fn divides_by_zero(op: ArithmeticOp, left: Number, right: Number) -> bool {
    match (op, left, right) {
        (ArithmeticOp::Divide | ArithmeticOp::Modulo, _, Number::Int(0)) => true,
        (ArithmeticOp::Power, Number::Int(0), Number::Int(exponent)) => exponent < 0,
        _ => false,
    }
}

/// `-x`; `None` where `x` is not a number.
pub fn negate(value: &Value) -> Option<Value> {
    match value {
        Value::Float(v) => Some(Value::Float(-v)),
        value => arithmetic(ArithmeticOp::Subtract, &Value::Int(0), value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_ask_any_or_all() {
        let labels = Value::Array(vec![Value::String("a".into()), Value::String("b".into())]);
        let test = |op, text: &str| compare(op, &labels, &Value::String(text.into()));
        assert!(test(ComparisonOp::Equal, "a"));
        assert!(!test(ComparisonOp::NotEqual, "a"));
        assert!(test(ComparisonOp::NotEqual, "c"));
    }

    #[test]
    fn numbers_compare_across_types_and_nan_with_nothing() {
        assert!(compare(ComparisonOp::Greater, &Value::Int(404), &Value::Float(403.5)));
        assert!(compare(ComparisonOp::Equal, &Value::Duration(5), &Value::Int(5)));
        assert!(!compare(ComparisonOp::Greater, &Value::Float(f64::NAN), &Value::Int(0)));
        assert!(compare(ComparisonOp::NotEqual, &Value::Float(f64::NAN), &Value::Int(0)));
        assert!(compare(ComparisonOp::Less, &Value::Int(i64::MAX), &Value::Float(9_223_372_036_854_775_808.0)));
        assert!(!compare(ComparisonOp::NotEqual, &Value::String("7".into()), &Value::Int(7)));
    }

    #[test]
    fn arithmetic_has_no_traps() {
        let two = Value::Int(2);
        assert_eq!(arithmetic(ArithmeticOp::Power, &two, &Value::Int(3)), Some(Value::Int(8)));
        assert_eq!(arithmetic(ArithmeticOp::Divide, &two, &Value::Int(0)), None);
        assert_eq!(arithmetic(ArithmeticOp::Modulo, &Value::Int(i64::MIN), &Value::Int(-1)), Some(Value::Int(0)));
        assert!(matches!(arithmetic(ArithmeticOp::Add, &Value::Int(i64::MAX), &two), Some(Value::Float(_))));
        assert_eq!(arithmetic(ArithmeticOp::Power, &two, &Value::Int(-1)), Some(Value::Int(0)));
        assert_eq!(arithmetic(ArithmeticOp::Power, &Value::Int(0), &Value::Int(-1)), None);
        let second = Value::Duration(1_000_000_000);
        assert_eq!(arithmetic(ArithmeticOp::Divide, &second, &second), Some(Value::Int(1)));
        assert_eq!(arithmetic(ArithmeticOp::Divide, &second, &two), Some(Value::Duration(500_000_000)));
    }
}
