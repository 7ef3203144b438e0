//! Pipelines, spanset expressions and scalars.
//!
//! What an opening parenthesis begins (spansets, a pipeline, a scalar, a metrics query) shows only at its end, and
//! `>` means one thing between spansets and another between scalars. So one climber reads all of them and asks each
//! operator what its operands turned out to be.

use super::*;
use crate::names;

/// What an expression outside of braces turned out to be. Boxed, because pieces stand on the stack at each level of
/// nesting.
enum Piece {
    Spansets(Box<SpansetExpr>),
    Scalar(Box<ScalarExpr>),
    Comparison { op: ComparisonOp, left: Box<ScalarExpr>, right: Box<ScalarExpr> },
    Metrics(Box<MetricsExpr>),
}

impl Piece {
    fn describe(&self) -> &'static str {
        match self {
            Piece::Spansets(_) => "spansets",
            Piece::Scalar(_) => "a number",
            Piece::Comparison { .. } => "a comparison",
            Piece::Metrics(_) => "a metrics query",
        }
    }
}

/// What stages joined by `|` turned out to be.
enum Piped {
    Spansets(Pipeline),
    /// Ends in a scalar that is not compared; only of use in parentheses. The stages may be none.
    Scalar(Vec<Stage>, Box<ScalarExpr>, Span),
    Metrics(Box<MetricsExpr>),
}

/// An operator between two pieces, and where it stands.
#[derive(Clone, Copy)]
struct Joint {
    symbol: Symbol,
    at: Span,
    /// What is left of it.
    before: Span,
    /// It and its operands.
    span: Span,
}

/// The level of an operator between pieces.
fn infix_level(symbol: Symbol) -> Option<Level> {
    match symbol {
        Symbol::And | Symbol::Or => Some(Level::Logical),
        _ if let Some((_, level)) = arithmetic(symbol) => Some(level),
        _ if spanset_op(symbol).is_some() || comparison(symbol).is_some() => Some(Level::Relational),
        _ => None,
    }
}

fn spanset_op(symbol: Symbol) -> Option<SpansetOp> {
    use {Relation::*, StructuralForm::*};
    let (relation, form) = match symbol {
        Symbol::And => return Some(SpansetOp::And),
        Symbol::Or => return Some(SpansetOp::Or),
        Symbol::Greater => (Child, Plain),
        Symbol::Less => (Parent, Plain),
        Symbol::Descendant => (Descendant, Plain),
        Symbol::Ancestor => (Ancestor, Plain),
        Symbol::Tilde => (Sibling, Plain),
        Symbol::NotChild => (Child, Negated),
        Symbol::NotParent => (Parent, Negated),
        Symbol::NotDescendant => (Descendant, Negated),
        Symbol::NotAncestor => (Ancestor, Negated),
        Symbol::NotMatch => (Sibling, Negated),
        Symbol::UnionChild => (Child, Union),
        Symbol::UnionParent => (Parent, Union),
        Symbol::UnionDescendant => (Descendant, Union),
        Symbol::UnionAncestor => (Ancestor, Union),
        Symbol::UnionSibling => (Sibling, Union),
        _ => return None,
    };
    Some(SpansetOp::Structural { relation, form })
}

impl Parser<'_> {
    pub(super) fn body(&mut self) -> Result<QueryBody> {
        match self.pipeline()? {
            Piped::Spansets(pipeline) => Ok(QueryBody::Search(pipeline)),
            Piped::Metrics(expr) => Ok(QueryBody::Metrics(*expr)),
            Piped::Scalar(_, scalar, span) => Err(uncompared(&scalar, span)),
        }
    }

    /// Stages joined by `|`, up to something else.
    fn pipeline(&mut self) -> Result<Piped> {
        let start = self.span();
        let mut stages = Vec::new();
        loop {
            self.node()?;
            let stage_start = self.span();
            if let Some(stage) = self.function_stage(stages.is_empty())? {
                stages.push(stage);
            } else if self.peek_word().is_some_and(|word| names::METRICS_FUNCTIONS.contains(&word)) {
                return self.metrics_stage(stages, start);
            } else {
                match self.piece(Level::Logical)? {
                    Piece::Scalar(scalar) => return self.scalar_end(stages, scalar, stage_start),
                    Piece::Metrics(expr) if stages.is_empty() => return self.metrics_rest(expr, start),
                    piece => self.push_stage(&mut stages, piece, stage_start)?,
                }
            }
            if !self.eat(Symbol::Pipe) {
                return Ok(Piped::Spansets(Pipeline { stages }));
            }
        }
    }

    fn push_stage(&self, stages: &mut Vec<Stage>, piece: Piece, start: Span) -> Result<()> {
        match piece {
            Piece::Spansets(expr) => match *expr {
                // `a | (b | c)` is `a | b | c`.
                SpansetExpr::Pipeline(inner) => stages.extend(inner.stages),
                expr => stages.push(Stage::Spansets(expr)),
            },
            Piece::Comparison { op, left, right } => {
                stages.push(Stage::ScalarFilter { op, left: *left, right: *right, span: self.since(start) });
            }
            Piece::Scalar(_) | Piece::Metrics(_) => {
                return Err(Fault::new(self.since(start), format!("{} cannot stand inside of a pipeline", piece.describe())));
            }
        }
        Ok(())
    }

    /// A stage that begins with a word, if the next is one.
    fn function_stage(&mut self, first: bool) -> Result<Option<Stage>> {
        let stage = match self.peek_word() {
            Some("by") => self.group_by()?,
            Some("coalesce") => self.coalesce(first)?,
            Some("select") => {
                self.advance();
                Stage::Select(self.attribute_list("select")?)
            }
            Some(word @ ("topk" | "bottomk")) => {
                return Err(Fault::new(self.span(), format!("`{word}` selects among series, but there are none"))
                    .help(format!("put a metrics function before it, as in `{{ }} | rate() by (name) | {word}(5)`")));
            }
            _ => return Ok(None),
        };
        Ok(Some(stage))
    }

    fn metrics_stage(&mut self, stages: Vec<Stage>, start: Span) -> Result<Piped> {
        if stages.is_empty() {
            let word = self.peek_word().unwrap_or_default();
            return Err(Fault::new(self.span(), format!("`{word}` needs spans to measure"))
                .help(format!("put spansets before it, as in `{{ }} | {word}(...)`")));
        }
        let query = self.metrics_query(Pipeline { stages }, start)?;
        self.metrics_rest(Box::new(MetricsExpr::Query(query)), start)
    }

    fn scalar_end(&self, stages: Vec<Stage>, scalar: Box<ScalarExpr>, start: Span) -> Result<Piped> {
        let span = self.since(start);
        match self.peek_symbol() {
            Some(Symbol::Pipe) => Err(uncompared(&scalar, span)),
            _ => Ok(Piped::Scalar(stages, scalar, span)),
        }
    }

    /// After a metrics query: second stages and arithmetic.
    fn metrics_rest(&mut self, mut expr: Box<MetricsExpr>, start: Span) -> Result<Piped> {
        self.second_stages(&mut expr)?;
        if self.peek_symbol().and_then(arithmetic).is_some() {
            if matches!(&*expr, MetricsExpr::Query(query) if matches!(query.second.last(), Some(SecondStage::Compare(..)))) {
                return Err(Fault::new(self.span(), "arithmetic after a comparison is ambiguous")
                    .help("put the metrics query in parentheses"));
            }
            match self.climb(Piece::Metrics(expr), Level::Additive, start)? {
                Piece::Metrics(result) => expr = result,
                other => return Err(Fault::new(self.since(start), format!("expected a metrics query, found {}", other.describe()))),
            }
            self.second_stages(&mut expr)?;
        }
        Ok(Piped::Metrics(expr))
    }

    fn group_by(&mut self) -> Result<Stage> {
        self.advance();
        self.expect(Symbol::ParenOpen, "after `by`")?;
        if self.peek_symbol() == Some(Symbol::ParenClose) {
            return Err(self.unexpected("what to group by, as in `by(resource.service.name)`"));
        }
        let expr = self.nested(Self::field)?;
        if self.peek_symbol() == Some(Symbol::Comma) {
            return Err(Fault::new(self.span(), "a pipeline's `by` takes one expression")
                .help("write `| by(a) | by(b)`"));
        }
        self.expect(Symbol::ParenClose, "after what to group by")?;
        Ok(Stage::GroupBy(expr))
    }

    fn coalesce(&mut self, first: bool) -> Result<Stage> {
        let span = self.span();
        if first {
            return Err(Fault::new(span, "`coalesce()` cannot come first").help("it undoes a `by(...)` before it"));
        }
        self.advance();
        self.expect(Symbol::ParenOpen, "after `coalesce`")?;
        self.expect(Symbol::ParenClose, "at once: `coalesce()` takes nothing")?;
        Ok(Stage::Coalesce)
    }

    /// An expression of operators that bind at least this tightly.
    fn piece(&mut self, loosest: Level) -> Result<Piece> {
        let start = self.span();
        let left = self.piece_operand()?;
        self.climb(left, loosest, start)
    }

    fn climb(&mut self, mut left: Piece, loosest: Level, start: Span) -> Result<Piece> {
        while let Some(symbol) = self.peek_symbol() {
            let Some(level) = infix_level(symbol) else {
                break;
            };
            // A comparison with a metrics query is a second stage, and read as such.
            if level < loosest || (level == Level::Relational && matches!(left, Piece::Metrics(_))) {
                break;
            }
            let (at, before) = (self.span(), self.since(start));
            self.advance();
            let mut lefts = vec![left];
            let mut right = self.piece(level.tighter())?;
            // `a ^ b ^ c` is `a ^ (b ^ c)`.
            while symbol == Symbol::Caret && self.eat(Symbol::Caret) {
                lefts.push(right);
                right = self.piece(level.tighter())?;
            }
            while let Some(left) = lefts.pop() {
                self.node()?;
                right = self.join(left, right, Joint { symbol, at, before, span: self.since(start) })?;
            }
            left = right;
        }
        Ok(left)
    }

    fn join(&self, left: Piece, right: Piece, joint: Joint) -> Result<Piece> {
        match (left, right) {
            (Piece::Spansets(left), Piece::Spansets(right)) => self.join_spansets(left, right, joint),
            // Left of `&&` and `||` a comparison is unambiguous: a pipeline stage begins there.
            (Piece::Comparison { op, left, right }, Piece::Spansets(other))
                if let Symbol::And | Symbol::Or = joint.symbol =>
            {
                self.join_spansets(comparison_as_spansets(op, *left, *right, joint.before), other, joint)
            }
            (Piece::Scalar(left), Piece::Scalar(right)) => self.join_scalars(left, right, joint),
            (left @ (Piece::Metrics(_) | Piece::Scalar(_)), right @ (Piece::Metrics(_) | Piece::Scalar(_)))
                if let Some((op, _)) = arithmetic(joint.symbol) =>
            {
                let (left, right) = (metrics_operand(left, joint.span)?, metrics_operand(right, joint.span)?);
                let expr = self.bounded(MetricsExpr::Binary { op, left, right }, joint.span)?;
                Ok(Piece::Metrics(Box::new(expr)))
            }
            (left, right) => Err(misfit(&left, &right, joint)),
        }
    }

    fn join_spansets(&self, left: Box<SpansetExpr>, right: Box<SpansetExpr>, joint: Joint) -> Result<Piece> {
        let span = joint.span;
        match spanset_op(joint.symbol) {
            Some(op) => {
                let expr = self.bounded(SpansetExpr::Binary { op, left, right, span }, span)?;
                Ok(Piece::Spansets(Box::new(expr)))
            }
            None => Err(misfit(&Piece::Spansets(left), &Piece::Spansets(right), joint)),
        }
    }

    fn join_scalars(&self, left: Box<ScalarExpr>, right: Box<ScalarExpr>, joint: Joint) -> Result<Piece> {
        let span = joint.span;
        if let Some((op, _)) = arithmetic(joint.symbol) {
            let expr = self.bounded(ScalarExpr::Binary { op, left, right, span }, span)?;
            return Ok(Piece::Scalar(Box::new(expr)));
        }
        match comparison(joint.symbol) {
            Some(op) if !matches!(op, ComparisonOp::Match | ComparisonOp::NotMatch) => {
                Ok(Piece::Comparison { op, left, right })
            }
            Some(_) => Err(Fault::new(joint.at, format!("`{}` does not compare numbers", joint.symbol.text()))
                .help("numbers are compared by = != < <= > >=")),
            None => Err(misfit(&Piece::Scalar(left), &Piece::Scalar(right), joint)),
        }
    }

    fn piece_operand(&mut self) -> Result<Piece> {
        self.node()?;
        match self.peek_symbol() {
            Some(Symbol::ParenOpen) => self.group(),
            Some(Symbol::Minus) => self.negated(),
            Some(Symbol::BraceOpen) => {
                let open = self.span();
                let expr = SpansetExpr::Filter(self.braces()?);
                Ok(Piece::Spansets(Box::new(self.bounded(expr, open)?)))
            }
            _ => self.scalar_operand(),
        }
    }

    fn negated(&mut self) -> Result<Piece> {
        let span = self.span();
        self.advance();
        match self.nested(|parser| parser.piece(Level::Additive.tighter()))? {
            Piece::Scalar(scalar) => {
                Ok(Piece::Scalar(Box::new(self.bounded(ScalarExpr::Negate(scalar), span)?)))
            }
            other => Err(Fault::new(span, format!("a minus belongs before a number, not before {}", other.describe()))),
        }
    }

    fn scalar_operand(&mut self) -> Result<Piece> {
        let span = self.span();
        let literal = match self.peek() {
            Kind::Int(value) => Static::Int(*value),
            Kind::Float(value) => Static::Float(*value),
            Kind::Duration(value) => Static::Duration(*value),
            Kind::Word(word) => match AggregateFunction::from_word(word) {
                Some(function) => {
                    let aggregate = self.aggregate(function)?;
                    return Ok(Piece::Scalar(Box::new(ScalarExpr::Aggregate(aggregate))));
                }
                None => match literal_word(word) {
                    Some(value @ Static::Int(_)) => value,
                    _ => return Err(self.unknown_function(word)),
                },
            },
            Kind::String(_) => {
                return Err(Fault::new(span, "a string cannot stand here")
                    .help("aggregates are compared with numbers and durations; strings are compared inside of braces"));
            }
            Kind::Attribute(attribute) => {
                return Err(Fault::new(span, format!("the attribute `{attribute}` stands outside of braces"))
                    .help(format!("write `{{ {attribute} ... }}`")));
            }
            Kind::End | Kind::Symbol(_) => {
                return Err(self.unexpected("spansets, such as `{ status = error }`, or a function"));
            }
        };
        self.advance();
        Ok(Piece::Scalar(Box::new(ScalarExpr::Static(literal, span))))
    }

    /// `( ... )`, whatever is in it.
    fn group(&mut self) -> Result<Piece> {
        self.advance();
        let piped = self.nested(Self::pipeline)?;
        self.expect(Symbol::ParenClose, "after an expression in parentheses")?;
        self.piece_of(piped)
    }

    /// What an expression in parentheses is without them.
    fn piece_of(&self, piped: Piped) -> Result<Piece> {
        Ok(match piped {
            Piped::Spansets(mut pipeline) => match (pipeline.stages.len(), pipeline.stages.pop()) {
                (1, Some(Stage::Spansets(expr))) => Piece::Spansets(Box::new(expr)),
                (_, last) => {
                    pipeline.stages.extend(last);
                    Piece::Spansets(Box::new(SpansetExpr::Pipeline(Box::new(pipeline))))
                }
            },
            Piped::Scalar(stages, scalar, _) if stages.is_empty() => Piece::Scalar(scalar),
            Piped::Scalar(stages, scalar, span) => {
                let expr = ScalarExpr::Pipeline(Box::new(Pipeline { stages }), scalar);
                Piece::Scalar(Box::new(self.bounded(expr, span)?))
            }
            Piped::Metrics(expr) => Piece::Metrics(expr),
        })
    }

    fn aggregate(&mut self, function: AggregateFunction) -> Result<Aggregate> {
        let start = self.span();
        let word = function.word();
        if !self.second_is(Symbol::ParenOpen) {
            let call = if function == AggregateFunction::Count { "count()".to_owned() } else { format!("{word}(duration)") };
            return Err(Fault::new(start, format!("`{word}` is a function")).help(format!("write `{call}`")));
        }
        self.advance();
        self.advance();
        let argument = match (function, self.peek_symbol() == Some(Symbol::ParenClose)) {
            (AggregateFunction::Count, true) => None,
            (AggregateFunction::Count, false) => {
                return Err(self.unexpected("`)`: `count()` takes nothing"));
            }
            (_, true) => {
                return Err(Fault::new(self.span(), format!("`{word}` needs a number to aggregate"))
                    .help(format!("write for example `{word}(duration)`")));
            }
            (_, false) => Some(self.nested(Self::field)?),
        };
        self.expect(Symbol::ParenClose, &format!("after the argument of `{word}`"))?;
        Ok(Aggregate { function, argument, span: self.since(start) })
    }

    fn unknown_function(&self, word: &str) -> Fault {
        let fault = Fault::new(self.span(), format!("unknown function `{word}`"));
        if let Some(like) = names::like_function(word) {
            return fault.help(format!("did you mean `{like}`?"));
        }
        if Intrinsic::from_unscoped(word).is_some() {
            return fault.help(format!("conditions stand in braces: `{{ {word} ... }}`"));
        }
        fault.help("a query begins with spansets, such as `{ status = error }`")
    }
}

fn comparison_as_spansets(op: ComparisonOp, left: ScalarExpr, right: ScalarExpr, span: Span) -> Box<SpansetExpr> {
    let stage = Stage::ScalarFilter { op, left, right, span };
    Box::new(SpansetExpr::Pipeline(Box::new(Pipeline { stages: vec![stage] })))
}

fn metrics_operand(piece: Piece, span: Span) -> Result<Box<MetricsExpr>> {
    let scalar = match piece {
        Piece::Metrics(expr) => return Ok(expr),
        Piece::Scalar(scalar) => fold::scalar(*scalar)?,
        other => return Err(Fault::new(span, format!("{} cannot be part of arithmetic", other.describe()))),
    };
    match scalar {
        ScalarExpr::Static(value, _) if let Some(number) = metrics::number(&value) => {
            Ok(Box::new(MetricsExpr::Number(number)))
        }
        _ => Err(Fault::new(span, "an aggregate of spansets cannot be computed with a metrics query")
            .help("use a metrics function, such as `count_over_time()`")),
    }
}

fn uncompared(scalar: &ScalarExpr, span: Span) -> Fault {
    let example = match scalar {
        ScalarExpr::Aggregate(aggregate) => format!("`{aggregate} > 2`"),
        _ => "`count() > 2`".to_owned(),
    };
    Fault::new(span, "the value at the end of the pipeline is not compared with anything")
        .help(format!("write a comparison, such as {example}"))
}

/// An operator that does not fit its operands.
fn misfit(left: &Piece, right: &Piece, joint: Joint) -> Fault {
    let fault = Fault::new(
        joint.at,
        format!("`{}` cannot stand between {} and {}", joint.symbol.text(), left.describe(), right.describe()),
    );
    match (left, right) {
        (Piece::Spansets(_), Piece::Comparison { .. }) | (Piece::Comparison { .. }, _) => {
            fault.help("put each comparison in parentheses, or in a pipeline stage of its own: `{ ... } | count() > 2`")
        }
        (Piece::Spansets(_), Piece::Scalar(_)) => fault.help("count the spans of a spanset with `{ ... } | count() > 2`"),
        (Piece::Metrics(_), Piece::Spansets(_)) => fault
            .help("each metrics query of an arithmetic expression stands in parentheses: `({ ... } | rate()) / ({ ... } | rate())`"),
        _ if arithmetic(joint.symbol).is_some() => fault.help("arithmetic is between numbers or metrics queries"),
        _ => fault,
    }
}
