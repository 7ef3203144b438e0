//! Filters of tag queries, which arrive while they are being typed: `{ status = error && .db.system = }`.
//!
//! What is incomplete is no condition: it holds for every span. So dropping it can only widen the answer.

use crate::ast::{FieldExpr, Static};
use crate::chain::{self, LogicalOp};
use crate::lexer::{Kind, Symbol, Token};
use crate::{check, fold, lexer, parser};

/// The filter of a query that is a single spanset filter, without its incomplete conditions.
///
/// `None` means that nothing is filtered: the text is no such query, or no usable condition remains.
pub fn lenient_filter(query: &str) -> Option<FieldExpr> {
    if query.len() > parser::QUERY_BYTES_MAX {
        return None;
    }
    let tokens = lexer::lex(query).ok()?;
    let [open, inner @ .., close, end] = tokens.as_slice() else {
        return None;
    };
    let braces = is(open, Symbol::BraceOpen) && is(close, Symbol::BraceClose);
    let nested = inner.iter().any(|token| is(token, Symbol::BraceOpen) || is(token, Symbol::BraceClose));
    if !braces || nested {
        return None;
    }
    let expr = match conditions(inner, end, 0)? {
        Condition::Always => return None,
        Condition::If(expr) => expr,
    };
    check::filter(&expr).ok()?;
    let expr = fold::field(expr).ok()?;
    (!matches!(expr, FieldExpr::Static(Static::Bool(true), _))).then_some(expr)
}

enum Condition {
    /// Incomplete: holds for every span.
    Always,
    If(FieldExpr),
}

fn is(token: &Token, symbol: Symbol) -> bool {
    token.kind == Kind::Symbol(symbol)
}

/// Operands joined by `&&` and `||`, which bind equally, from the left. `None` is what cannot be understood.
fn conditions(tokens: &[Token], end: &Token, nesting: usize) -> Option<Condition> {
    if nesting > parser::NESTING_MAX {
        return None;
    }
    let mut joined: Option<(LogicalOp, Vec<Condition>)> = None;
    let mut rest = tokens;
    loop {
        let (operand, next) = split_at_operator(rest)?;
        let operand = condition(operand, end, nesting)?;
        let Some((op, after)) = next else {
            return Some(match joined {
                None => operand,
                Some((op, mut operands)) => {
                    operands.push(operand);
                    join(op, operands)
                }
            });
        };
        joined = Some(match joined {
            Some((previous, mut operands)) if previous == op => {
                operands.push(operand);
                (op, operands)
            }
            Some((previous, mut operands)) => {
                operands.push(operand);
                (op, vec![join(previous, operands)])
            }
            None => (op, vec![operand]),
        });
        rest = after;
    }
}

fn join(op: LogicalOp, operands: Vec<Condition>) -> Condition {
    let count = operands.len();
    let usable: Vec<FieldExpr> = operands
        .into_iter()
        .filter_map(|operand| match operand {
            Condition::Always => None,
            Condition::If(expr) => Some(expr),
        })
        .collect();
    if op == LogicalOp::Or && usable.len() < count {
        return Condition::Always;
    }
    chain::join(op, usable).map_or(Condition::Always, Condition::If)
}

type Operator<'t> = (LogicalOp, &'t [Token]);

/// Up to the first logical operator outside of parentheses, and what follows it. `None` if a parenthesis has no partner.
fn split_at_operator(tokens: &[Token]) -> Option<(&[Token], Option<Operator<'_>>)> {
    let mut depth = 0_usize;
    for (n, token) in tokens.iter().enumerate() {
        match &token.kind {
            Kind::Symbol(Symbol::ParenOpen) => depth += 1,
            Kind::Symbol(Symbol::ParenClose) => depth = depth.checked_sub(1)?,
            Kind::Symbol(Symbol::And) if depth == 0 => return Some((&tokens[..n], Some((LogicalOp::And, &tokens[n + 1..])))),
            Kind::Symbol(Symbol::Or) if depth == 0 => return Some((&tokens[..n], Some((LogicalOp::Or, &tokens[n + 1..])))),
            _ => {}
        }
    }
    (depth == 0).then_some((tokens, None))
}

fn condition(tokens: &[Token], end: &Token, nesting: usize) -> Option<Condition> {
    if let [open, inner @ .., close] = tokens
        && is(open, Symbol::ParenOpen)
        && is(close, Symbol::ParenClose)
        // Not `(a) = (b)`.
        && balanced(inner)
    {
        return conditions(inner, end, nesting + 1);
    }
    if incomplete(tokens) {
        return Some(Condition::Always);
    }
    let mut text = tokens.to_vec();
    text.push(end.clone());
    let expr = parser::lone_field(&text).ok()?;
    // Understood but senseless, such as a duration compared with a half-typed string: no condition either.
    Some(match check::filter(&expr) {
        Ok(()) => Condition::If(expr),
        Err(_) => Condition::Always,
    })
}

fn balanced(tokens: &[Token]) -> bool {
    let mut depth = 0_usize;
    for token in tokens {
        if is(token, Symbol::ParenOpen) {
            depth += 1;
        } else if is(token, Symbol::ParenClose) {
            match depth.checked_sub(1) {
                Some(less) => depth = less,
                None => return false,
            }
        }
    }
    depth == 0
}

/// Nothing, a name without a value, or a value without a name.
fn incomplete(tokens: &[Token]) -> bool {
    let name = |token: &Token| match &token.kind {
        Kind::Attribute(_) => true,
        Kind::Word(word) => lexer::word_as_attribute(word, token.span).is_ok(),
        _ => false,
    };
    let operator = |token: &Token| {
        matches!(
            token.kind,
            Kind::Symbol(
                Symbol::Equal
                    | Symbol::NotEqual
                    | Symbol::Less
                    | Symbol::LessEqual
                    | Symbol::Greater
                    | Symbol::GreaterEqual
                    | Symbol::Match
                    | Symbol::NotMatch
            )
        )
    };
    match tokens {
        [] => true,
        [single] => operator(single),
        [left, right] => (name(left) && operator(right)) || (operator(left) && !operator(right)),
        _ => false,
    }
}

/// How many groups of conditions the filter has when its `||` are moved to the outside.
pub fn condition_groups(expr: &FieldExpr) -> usize {
    groups(expr, false)
}

fn groups(expr: &FieldExpr, negated: bool) -> usize {
    match expr {
        FieldExpr::Not(operand) => groups(operand, !negated),
        FieldExpr::And(left, right) | FieldExpr::Or(left, right) => {
            let (left, right) = (groups(left, negated), groups(right, negated));
            match matches!(expr, FieldExpr::Or(..)) != negated {
                true => left.saturating_add(right),
                false => left.saturating_mul(right),
            }
        }
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_usable() {
        let table: &[(&str, Option<&str>)] = &[
            ("{ resource.service.name = \"orders\" }", Some("resource.service.name = \"orders\"")),
            ("{ .x = }", None),
            ("{resource.cluster=}", None),
            ("{ status = error && .db.system = }", Some("status = error")),
            ("{ .db.system = && status = error }", Some("status = error")),
            ("{ status = error && }", Some("status = error")),
            ("{ && status = error }", Some("status = error")),
            ("{ status = error && = \"x\" }", Some("status = error")),
            ("{ status = error || .db.system = }", None),
            ("{ (status = error || .a = ) && kind = server }", Some("kind = server")),
            ("{ (status = error || .a = 1) && .b = }", Some("status = error || .a = 1")),
            ("{ .a = 1 || .b = 2 && .c = }", Some(".a = 1 || .b = 2")),
            ("{ .a = || .b = 2 && .c = 3 }", Some(".c = 3")),
            ("{ duration > 100ms || status = error }", Some("duration > 100ms || status = error")),
            ("{ duration > \"x\" && status = error }", Some("status = error")),
            ("{ !(.a = 1) && .b =~ }", Some("!(.a = 1)")),
            ("{ (.a) = (1) }", Some(".a = 1")),
            ("{ kind = server } >> { }", None),
            ("{ kind = server } | count() > 1", None),
            ("{ kind = server } && { status = error }", None),
            ("{ }", None),
            ("{ true }", None),
            ("{ true && status = error }", Some("true && status = error")),
            ("{ foo = 1 }", None),
            ("{ status = error && foo bar }", None),
            ("{ status = error", None),
            ("status = error", None),
            ("{ (status = error }", None),
            ("{ ) && ( }", None),
            ("{ .a = \"unterminated }", None),
            ("{ .a =~ \"(\" && .b = 1 }", Some(".b = 1")),
            ("", None),
        ];
        for (query, expected) in table {
            let filter = lenient_filter(query).map(|filter| filter.to_string());
            assert_eq!(filter.as_deref(), *expected, "{query}");
        }
    }

    #[test]
    fn survives_deep_nesting() {
        assert_eq!(lenient_filter(&format!("{{ {}.a = 1{} }}", "(".repeat(50_000), ")".repeat(50_000))), None);
        assert_eq!(lenient_filter(&format!("{{ {} }}", "!".repeat(100_000))), None);
        assert!(lenient_filter(&format!("{{ {}.a = 1{} }}", "(".repeat(20), ")".repeat(20))).is_some());
    }

    #[test]
    fn counts_groups() {
        let groups = |query: &str| condition_groups(&lenient_filter(query).unwrap());
        assert_eq!(groups("{ .a = 1 && .b = 2 }"), 1);
        assert_eq!(groups("{ (.a = 1 || .b = 2) && (.c = 1 || .d = 2 || .e = 3) }"), 6);
        assert_eq!(groups("{ !(.a = 1 && .b = 2) }"), 2);
    }
}
