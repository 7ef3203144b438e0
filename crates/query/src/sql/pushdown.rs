//! What a SQL filter says about stored rows: a time range and a TraceQL condition that hold on every row it passes.
//!
//! Both may hold on more rows: DataFusion filters again. What cannot be said is left to it.

use datafusion::{
    logical_expr::{Expr, Operator},
    scalar::ScalarValue,
};
use traceql::ast::{FieldExpr, QueryBody, Static};

use super::columns::{Column, Content};
use crate::{request::TimeRange, spansets::single_filter};

/// Numbers up to here are the same as integers and as floats.
const EXACT: f64 = 9_007_199_254_740_992.0;

#[derive(Debug)]
pub struct Wanted {
    pub started: Option<TimeRange>,
    pub condition: Option<FieldExpr>,
}

pub fn wanted(filters: &[Expr], columns: &[Column]) -> Wanted {
    let mut range = TimeRange { start: i64::MIN, end: i64::MAX };
    let mut conditions = vec![];
    for filter in filters {
        narrow(filter, columns, &mut range);
        conditions.extend(condition(filter, columns));
    }
    let started = (range.start != i64::MIN || range.end != i64::MAX).then_some(range);
    let condition = (!conditions.is_empty()).then(|| conditions.join(" && ")).and_then(|text| {
        // Beyond what TraceQL allows in one query, DataFusion filters alone.
        match traceql::parse(&format!("{{ {text} }}")).ok()?.body {
            QueryBody::Search(pipeline) => single_filter(&pipeline).cloned(),
            QueryBody::Metrics(_) => None,
        }
    });
    Wanted { started, condition }
}

/// A column, an operator and a literal.
fn comparison<'a>(filter: &'a Expr, columns: &'a [Column]) -> Option<(&'a Content, Operator, &'a ScalarValue)> {
    let Expr::BinaryExpr(binary) = filter else { return None };
    let (column, op, literal) = match (binary.left.as_ref(), binary.right.as_ref()) {
        (Expr::Column(column), Expr::Literal(literal, _)) => (column, binary.op, literal),
        (Expr::Literal(literal, _), Expr::Column(column)) => (column, binary.op.swap()?, literal),
        _ => return None,
    };
    let content = &columns.iter().find(|known| known.name == column.name)?.content;
    Some((content, op, literal))
}

fn narrow(filter: &Expr, columns: &[Column], range: &mut TimeRange) {
    if let Expr::BinaryExpr(binary) = filter
        && binary.op == Operator::And
    {
        narrow(&binary.left, columns, range);
        narrow(&binary.right, columns, range);
        return;
    }
    let Some((Content::Time(name), op, ScalarValue::TimestampNanosecond(Some(time), _))) = comparison(filter, columns) else {
        return;
    };
    if *name != block::schema::START_TIME {
        return;
    }
    if matches!(op, Operator::Eq | Operator::Gt | Operator::GtEq) {
        range.start = range.start.max(*time);
    }
    if matches!(op, Operator::Eq | Operator::Lt | Operator::LtEq) {
        range.end = range.end.min(*time);
    }
}

/// TraceQL text.
fn condition(filter: &Expr, columns: &[Column]) -> Option<String> {
    if let Expr::BinaryExpr(binary) = filter {
        let (left, right) = (binary.left.as_ref(), binary.right.as_ref());
        match binary.op {
            Operator::And => {
                let both: Vec<String> = [left, right].into_iter().filter_map(|side| condition(side, columns)).collect();
                return (!both.is_empty()).then(|| format!("({})", both.join(" && ")));
            }
            Operator::Or => return Some(format!("({} || {})", condition(left, columns)?, condition(right, columns)?)),
            _ => {}
        }
    }
    let (content, op, literal) = comparison(filter, columns)?;
    let word = match op {
        Operator::Eq => "=",
        Operator::Lt => "<",
        Operator::LtEq => "<=",
        Operator::Gt => ">",
        Operator::GtEq => ">=",
        _ => return None,
    };
    let quoted = |text: &str| Static::String(text.to_owned()).to_string();
    match (content, literal.try_as_str()) {
        (Content::Text(block::schema::NAME), Some(Some(text))) if word == "=" => Some(format!("name = {}", quoted(text))),
        (Content::Status, Some(Some(text @ ("ok" | "error" | "unset")))) if word == "=" => Some(format!("status = {text}")),
        (Content::Kind, Some(Some(text @ ("internal" | "server" | "client" | "producer" | "consumer")))) if word == "=" => {
            Some(format!("kind = {text}"))
        }
        (Content::Id(block::schema::TRACE_ID), Some(Some(text))) if word == "=" && text.len() == 32 => {
            Some(format!("trace:id = {}", quoted(text.trim_start_matches('0'))))
        }
        (Content::AttributeText(name), Some(Some(text))) if word == "=" && only_text(text) => {
            // Words are texts too, but for values of these kinds.
            matches!(name.name, traceql::ast::AttributeName::Key { .. }).then(|| format!("{name} = {}", quoted(text)))
        }
        (Content::Nanoseconds(block::schema::DURATION), _) => match literal {
            ScalarValue::Int64(Some(ns)) if *ns >= 0 => Some(format!("duration {word} {ns}ns")),
            _ => None,
        },
        (Content::Milliseconds(block::schema::DURATION), _) => {
            let ScalarValue::Float64(Some(ms)) = literal else { return None };
            let ns = ms * 1e6;
            if !(1.0..EXACT).contains(&ns) {
                return None;
            }
            // Rounding must not lose a row.
            let (low, high) = (ns.floor() as i64 - 1, ns.ceil() as i64 + 1);
            match word {
                "=" => Some(format!("(duration >= {low}ns && duration <= {high}ns)")),
                ">" | ">=" => Some(format!("duration >= {low}ns")),
                _ => Some(format!("duration <= {high}ns")),
            }
        }
        (Content::AttributeNumber(name), _) => match literal {
            ScalarValue::Float64(Some(number)) if (0.0..EXACT).contains(number) => Some(format!("{name} {word} {number:?}")),
            _ => None,
        },
        _ => None,
    }
}

/// Whether only a text can look like this: not a number, a truth value or a list.
fn only_text(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic()) && !matches!(text, "true" | "false" | "inf" | "NaN")
}
