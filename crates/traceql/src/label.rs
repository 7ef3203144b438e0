//! The text that names the value of an expression in an answer, as clients of Tempo know it.
//!
//! It is not the canonical text: an operation that stands in another is always in parentheses, strings have backquotes, and
//! attributes are written as labels.

use crate::ast::*;
use crate::chain::{self, LogicalOp};

/// What names the value of `expr`: `(span.a + 1) > 2`.
pub fn label(expr: &FieldExpr) -> String {
    match expr {
        FieldExpr::Static(Static::String(text), _) if !text.contains('`') => format!("`{text}`"),
        FieldExpr::Static(value, _) => value.to_string(),
        FieldExpr::Attribute(attribute) => attribute.to_string(),
        FieldExpr::Compare { op, left, right, .. } => format!("{} {} {}", operand(left), op.text(), operand(right)),
        FieldExpr::Arithmetic { op, left, right, .. } => format!("{} {} {}", operand(left), op.text(), operand(right)),
        FieldExpr::And(..) => logical(LogicalOp::And, expr),
        FieldExpr::Or(..) => logical(LogicalOp::Or, expr),
        FieldExpr::Not(inner) => format!("!{}", operand(inner)),
        FieldExpr::Negate(inner) => format!("-{}", operand(inner)),
        FieldExpr::Exists { exists, operand: inner, .. } => format!("{} {} nil", operand(inner), if *exists { "!=" } else { "=" }),
        FieldExpr::In { .. } => expr.to_string(),
    }
}

fn operand(expr: &FieldExpr) -> String {
    match expr {
        FieldExpr::Static(..) | FieldExpr::Attribute(_) => label(expr),
        _ => format!("({})", label(expr)),
    }
}

fn logical(op: LogicalOp, expr: &FieldExpr) -> String {
    let mut operands = chain::operands_ref(op, expr).into_iter().map(operand);
    let first = operands.next().unwrap_or_default();
    let pairs = operands.enumerate();
    pairs.fold(first, |all, (n, next)| match n {
        0 => format!("{all} {} {next}", op.text()),
        _ => format!("({all}) {} {next}", op.text()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_within_others_are_in_parentheses() {
        let table = [
            ("span:duration", "duration"),
            (".a.b", ".a.b"),
            ("span.\"with space\"", "span.\"with space\""),
            ("span.a > 400", "span.a > 400"),
            ("span.a + 1 > 2", "(span.a + 1) > 2"),
            ("-span.a > 5", "(-span.a) > 5"),
            ("name = \"GET /cart\"", "name = `GET /cart`"),
            ("span.a != nil", "span.a != nil"),
            ("span.a = 1 && !span.b && duration > 1500ms", "((span.a = 1) && (!span.b)) && (duration > 1.5s)"),
            ("span.a || 2 * 3 = span.b", "span.a || (6 = span.b)"),
        ];
        for (text, expected) in table {
            let query = crate::parse(&format!("{{ }} | by({text})")).expect(text);
            let QueryBody::Search(pipeline) = query.body else { panic!("{text} is searched for") };
            let Some(Stage::GroupBy(expr)) = pipeline.stages.last() else { panic!("{text} groups") };
            assert_eq!(label(expr), expected, "{text}");
        }
    }
}
