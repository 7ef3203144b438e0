//! Chains of one logical operator.
//!
//! `a && b && c` may be long: Grafana writes one operand for each chosen value. So that the height of the tree,
//! and with it every recursion over it, stays bounded, chains have one shape: parentheses inside a chain of the
//! same operator do not count, up to eight operands lean left, and longer chains are balanced. `&&` and `||` are
//! associative: the shape has no meaning. Printing and reading keep it, because both go through here.

use crate::ast::FieldExpr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogicalOp {
    And,
    Or,
}

impl LogicalOp {
    pub fn text(self) -> &'static str {
        match self {
            LogicalOp::And => "&&",
            LogicalOp::Or => "||",
        }
    }

    fn build(self, left: FieldExpr, right: FieldExpr) -> FieldExpr {
        match self {
            LogicalOp::And => FieldExpr::And(Box::new(left), Box::new(right)),
            LogicalOp::Or => FieldExpr::Or(Box::new(left), Box::new(right)),
        }
    }

    /// The operator of the expression's root, if it is one of these.
    pub fn of(expr: &FieldExpr) -> Option<LogicalOp> {
        match expr {
            FieldExpr::And(..) => Some(LogicalOp::And),
            FieldExpr::Or(..) => Some(LogicalOp::Or),
            _ => None,
        }
    }
}

const LEFT_LEANING_MAX: usize = 8;

/// The operands of the chain of `op` at the expression's root, left to right; the expression itself if there is none.
pub fn operands(op: LogicalOp, expr: FieldExpr) -> Vec<FieldExpr> {
    let mut found = Vec::new();
    let mut pending = vec![expr];
    while let Some(expr) = pending.pop() {
        match (op, expr) {
            (LogicalOp::And, FieldExpr::And(left, right)) | (LogicalOp::Or, FieldExpr::Or(left, right)) => {
                pending.push(*right);
                pending.push(*left);
            }
            (_, operand) => found.push(operand),
        }
    }
    found
}

/// As `operands`, borrowing.
pub fn operands_ref(op: LogicalOp, expr: &FieldExpr) -> Vec<&FieldExpr> {
    let mut found = Vec::new();
    let mut pending = vec![expr];
    while let Some(expr) = pending.pop() {
        match (op, expr) {
            (LogicalOp::And, FieldExpr::And(left, right)) | (LogicalOp::Or, FieldExpr::Or(left, right)) => {
                pending.push(right);
                pending.push(left);
            }
            (_, operand) => found.push(operand),
        }
    }
    found
}

/// The chain of these operands in its one shape; `None` of no operands.
pub fn join(op: LogicalOp, operands: impl IntoIterator<Item = FieldExpr>) -> Option<FieldExpr> {
    let flat: Vec<FieldExpr> = operands.into_iter().flat_map(|operand| self::operands(op, operand)).collect();
    shape(op, flat)
}

fn shape(op: LogicalOp, mut operands: Vec<FieldExpr>) -> Option<FieldExpr> {
    if operands.len() <= LEFT_LEANING_MAX {
        return operands.into_iter().reduce(|left, right| op.build(left, right));
    }
    let right = operands.split_off(operands.len().div_ceil(2));
    Some(op.build(shape(op, operands)?, shape(op, right)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ast::{Span, Static};

    fn leaf(n: i64) -> FieldExpr {
        FieldExpr::Static(Static::Int(n), Span::default())
    }

    fn height(expr: &FieldExpr) -> usize {
        match expr {
            FieldExpr::And(left, right) | FieldExpr::Or(left, right) => 1 + height(left).max(height(right)),
            _ => 1,
        }
    }

    #[test]
    fn short_chains_lean_left() {
        let expected = FieldExpr::And(
            Box::new(FieldExpr::And(Box::new(leaf(1)), Box::new(leaf(2)))),
            Box::new(leaf(3)),
        );
        assert_eq!(join(LogicalOp::And, [leaf(1), leaf(2), leaf(3)]), Some(expected));
        assert_eq!(join(LogicalOp::And, []), None);
    }

    #[test]
    fn long_chains_are_flat_and_keep_their_order() {
        let chain = join(LogicalOp::Or, (0..4096).map(leaf)).unwrap();
        assert!(height(&chain) < 20, "{}", height(&chain));
        let expected: Vec<FieldExpr> = (0..4096).map(leaf).collect();
        assert_eq!(operands(LogicalOp::Or, chain.clone()), expected);
        assert_eq!(join(LogicalOp::Or, [chain.clone()]), Some(chain));
    }

    #[test]
    fn parentheses_in_a_chain_do_not_count() {
        let right = join(LogicalOp::And, [leaf(2), leaf(3)]).unwrap();
        assert_eq!(join(LogicalOp::And, [leaf(1), right]), join(LogicalOp::And, [leaf(1), leaf(2), leaf(3)]));
        let other = join(LogicalOp::Or, [leaf(2), leaf(3)]).unwrap();
        assert_eq!(operands(LogicalOp::And, other.clone()), [other]);
    }
}
