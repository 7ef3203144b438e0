//! Field expressions: what stands in braces, in `by(...)` of a pipeline, and in aggregates.

use super::*;
use crate::chain::{self, LogicalOp};
use crate::check::span_of;

/// An operator between two operands.
enum Infix {
    Logical(LogicalOp),
    Compare(ComparisonOp),
    In { negated: bool },
    Arithmetic(ArithmeticOp, Level),
}

impl Infix {
    fn level(&self) -> Level {
        match self {
            Infix::Logical(_) => Level::Logical,
            Infix::Compare(_) | Infix::In { .. } => Level::Relational,
            Infix::Arithmetic(_, level) => *level,
        }
    }
}

impl Parser<'_> {
    pub(super) fn field(&mut self) -> Result<FieldExpr> {
        self.field_at(Level::Logical)
    }

    /// `{ expr }`, from its brace; `{ }` is `{ true }`.
    pub(super) fn braces(&mut self) -> Result<FieldExpr> {
        let open = self.span();
        self.expect(Symbol::BraceOpen, "before a filter")?;
        if self.eat(Symbol::BraceClose) {
            self.node()?;
            return Ok(FieldExpr::Static(Static::Bool(true), self.since(open)));
        }
        let expr = self.nested(Self::field)?;
        if self.eat(Symbol::BraceClose) {
            return Ok(expr);
        }
        let fault = self.unexpected("an operator or `}`");
        Err(match self.peek_symbol() {
            Some(Symbol::Pipe) => fault.help("inside of braces, \"or\" is written `||`"),
            _ => fault,
        })
    }

    /// An expression of operators that bind at least this tightly.
    fn field_at(&mut self, loosest: Level) -> Result<FieldExpr> {
        let mut left = self.operand()?;
        while let Some(infix) = self.infix().filter(|infix| infix.level() >= loosest) {
            left = match infix {
                Infix::Logical(op) => self.logical_chain(left, op)?,
                Infix::Compare(op) => self.compare(left, op)?,
                Infix::In { negated } => self.membership(left, negated)?,
                Infix::Arithmetic(op, level) => self.computation(left, op, level)?,
            };
        }
        Ok(left)
    }

    fn computation(&mut self, left: FieldExpr, op: ArithmeticOp, level: Level) -> Result<FieldExpr> {
        self.node()?;
        self.advance();
        let mut lefts = vec![left];
        let mut right = self.field_at(level.tighter())?;
        // `a ^ b ^ c` is `a ^ (b ^ c)`.
        while op == ArithmeticOp::Power && self.eat(Symbol::Caret) {
            self.node()?;
            lefts.push(right);
            right = self.field_at(level.tighter())?;
        }
        while let Some(left) = lefts.pop() {
            let span = span_of(&left).to(span_of(&right));
            let expr = FieldExpr::Arithmetic { op, left: Box::new(left), right: Box::new(right), span };
            right = self.bounded(expr, span)?;
        }
        Ok(right)
    }

    fn infix(&self) -> Option<Infix> {
        match self.peek() {
            Kind::Word(word) if word == "in" => Some(Infix::In { negated: false }),
            Kind::Word(word) if word == "not" => {
                let next = self.tokens.get(self.at + 1)?;
                matches!(&next.kind, Kind::Word(word) if word == "in").then_some(Infix::In { negated: true })
            }
            Kind::Symbol(Symbol::And) => Some(Infix::Logical(LogicalOp::And)),
            Kind::Symbol(Symbol::Or) => Some(Infix::Logical(LogicalOp::Or)),
            Kind::Symbol(symbol) => comparison(*symbol)
                .map(Infix::Compare)
                .or_else(|| arithmetic(*symbol).map(|(op, level)| Infix::Arithmetic(op, level))),
            _ => None,
        }
    }

    /// The run of one logical operator, up to the other one or the end of the level.
    fn logical_chain(&mut self, left: FieldExpr, op: LogicalOp) -> Result<FieldExpr> {
        let mut operands = vec![left];
        while matches!(self.infix(), Some(Infix::Logical(next)) if next == op) {
            self.node()?;
            self.advance();
            operands.push(self.field_at(Level::Relational)?);
        }
        let chain = chain::join(op, operands).ok_or_else(|| self.unexpected("an operand"))?;
        let span = span_of(&chain);
        self.bounded(chain, span)
    }

    fn compare(&mut self, left: FieldExpr, op: ComparisonOp) -> Result<FieldExpr> {
        self.node()?;
        self.advance();
        if self.peek_symbol() == Some(Symbol::BracketOpen) {
            return Err(Fault::new(self.span(), "a list cannot be compared")
                .help("write `in [...]` or `not in [...]`"));
        }
        let right = self.field_at(Level::Relational.tighter())?;
        let expr = comparison_of(op, left, right);
        let span = span_of(&expr);
        self.bounded(expr, span)
    }

    /// `in [a, b]`, from its first word.
    fn membership(&mut self, operand: FieldExpr, negated: bool) -> Result<FieldExpr> {
        self.node()?;
        self.advance();
        if negated {
            self.advance();
        }
        self.expect(Symbol::BracketOpen, "after `in`")?;
        let mut values = Vec::new();
        loop {
            self.node()?;
            let value_span = self.span();
            match self.literal()? {
                Static::Nil => {
                    return Err(Fault::new(value_span, "`nil` cannot be in a list").help("compare with `= nil` instead"));
                }
                value => values.push(value),
            }
            if !self.eat(Symbol::Comma) {
                self.expect(Symbol::BracketClose, "after the values of a list")?;
                break;
            }
        }
        let span = self.since(span_of(&operand));
        self.bounded(FieldExpr::In { negated, operand: Box::new(operand), values, span }, span)
    }

    fn operand(&mut self) -> Result<FieldExpr> {
        self.node()?;
        match self.peek_symbol() {
            Some(Symbol::Minus) => {
                let span = self.span();
                self.advance();
                // `-2 ^ 2` is `-(2 ^ 2)`, and `-a + b` is `(-a) + b`.
                let operand = Box::new(self.nested(|parser| parser.field_at(Level::Additive.tighter()))?);
                self.bounded(FieldExpr::Negate(operand), span)
            }
            Some(Symbol::Bang) => {
                let span = self.span();
                self.advance();
                let operand = Box::new(self.nested(|parser| parser.field_at(Level::Not.tighter()))?);
                self.bounded(FieldExpr::Not(operand), span)
            }
            Some(Symbol::ParenOpen) => {
                self.advance();
                let inner = self.nested(Self::field)?;
                self.expect(Symbol::ParenClose, "after an expression in parentheses")?;
                Ok(inner)
            }
            _ => self.leaf(),
        }
    }

    /// An attribute or a value.
    fn leaf(&mut self) -> Result<FieldExpr> {
        let span = self.span();
        let leaf = match self.peek() {
            Kind::Attribute(attribute) => FieldExpr::Attribute(attribute.clone()),
            Kind::Word(word) => match literal_word(word) {
                Some(value) => FieldExpr::Static(value, span),
                None => FieldExpr::Attribute(lexer::word_as_attribute(word, span)?),
            },
            Kind::Int(value) => FieldExpr::Static(Static::Int(*value), span),
            Kind::Float(value) => FieldExpr::Static(Static::Float(*value), span),
            Kind::Duration(value) => FieldExpr::Static(Static::Duration(*value), span),
            Kind::String(value) => FieldExpr::Static(Static::String(value.clone()), span),
            Kind::Symbol(_) | Kind::End => return Err(self.unexpected("an attribute or a value")),
        };
        self.advance();
        Ok(leaf)
    }
}

/// A comparison, or of `nil` the question whether the other side exists.
fn comparison_of(op: ComparisonOp, left: FieldExpr, right: FieldExpr) -> FieldExpr {
    let span = span_of(&left).to(span_of(&right));
    let nil = |expr: &FieldExpr| matches!(expr, FieldExpr::Static(Static::Nil, _));
    if let ComparisonOp::Equal | ComparisonOp::NotEqual = op
        && (nil(&left) || nil(&right))
    {
        let operand = Box::new(if nil(&right) { left } else { right });
        return FieldExpr::Exists { exists: op == ComparisonOp::NotEqual, operand, span };
    }
    FieldExpr::Compare { op, left: Box::new(left), right: Box::new(right), span }
}
