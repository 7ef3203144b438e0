//! Tokens to a syntax tree, by precedence climbing.
//!
//! Precedence, loosest first: `|`; `&&` and `||` on one level; comparisons and structural operators on one level;
//! `+ -` and the unary minus; `!`; `* / %`; `^`, which alone is right-associative.
//!
//! The tree that comes out is neither checked nor folded. Its bounds are stated here; they hold for every text, so
//! that no recursion over a query can be deep.

mod field;
mod metrics;
mod pipeline;

use crate::ast::*;
use crate::error::Fault;
use crate::fold;
use crate::lexer::{self, Kind, Symbol, Token};

/// The longest query, in bytes.
pub const QUERY_BYTES_MAX: usize = 128 * 1024;
/// The most nodes of a tree: operators, operands, list elements.
pub const NODES_MAX: usize = 4096;
/// The greatest height of a tree.
pub const HEIGHT_MAX: usize = 64;
/// The deepest nesting of brackets and unary operators in the text. A printed tree has at most one of them for each
/// level, and a few more around its leaves: a negative constant has a sign and parentheses.
pub const NESTING_MAX: usize = HEIGHT_MAX + 8;

type Result<T> = std::result::Result<T, Fault>;

/// How tightly an operator binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Logical,
    Relational,
    Additive,
    Not,
    Multiplicative,
    Power,
    /// Tighter than any operator.
    Operand,
}

impl Level {
    fn tighter(self) -> Level {
        match self {
            Level::Logical => Level::Relational,
            Level::Relational => Level::Additive,
            Level::Additive => Level::Not,
            Level::Not => Level::Multiplicative,
            Level::Multiplicative => Level::Power,
            Level::Power | Level::Operand => Level::Operand,
        }
    }
}

fn comparison(symbol: Symbol) -> Option<ComparisonOp> {
    Some(match symbol {
        Symbol::Equal => ComparisonOp::Equal,
        Symbol::NotEqual => ComparisonOp::NotEqual,
        Symbol::Less => ComparisonOp::Less,
        Symbol::LessEqual => ComparisonOp::LessEqual,
        Symbol::Greater => ComparisonOp::Greater,
        Symbol::GreaterEqual => ComparisonOp::GreaterEqual,
        Symbol::Match => ComparisonOp::Match,
        Symbol::NotMatch => ComparisonOp::NotMatch,
        _ => return None,
    })
}

fn arithmetic(symbol: Symbol) -> Option<(ArithmeticOp, Level)> {
    Some(match symbol {
        Symbol::Plus => (ArithmeticOp::Add, Level::Additive),
        Symbol::Minus => (ArithmeticOp::Subtract, Level::Additive),
        Symbol::Star => (ArithmeticOp::Multiply, Level::Multiplicative),
        Symbol::Slash => (ArithmeticOp::Divide, Level::Multiplicative),
        Symbol::Percent => (ArithmeticOp::Modulo, Level::Multiplicative),
        Symbol::Caret => (ArithmeticOp::Power, Level::Power),
        _ => return None,
    })
}

pub(crate) fn query(text: &str) -> Result<Query> {
    if text.len() > QUERY_BYTES_MAX {
        return Err(Fault::new(
            Span::default(),
            format!("the query is {} bytes long; at most {QUERY_BYTES_MAX} are allowed", text.len()),
        ));
    }
    let tokens = lexer::lex(text)?;
    let mut parser = Parser::new(&tokens);
    if parser.peek() == &Kind::End {
        return Err(Fault::new(parser.span(), "the query is empty").help("`{ }` finds every span"));
    }
    let body = parser.body()?;
    let mut hints = Vec::new();
    while parser.eat_word("with") {
        parser.hints(&mut hints)?;
    }
    parser.end()?;
    Ok(Query { body, hints })
}

/// A single field expression of which these are all the tokens; the last is `End`.
pub(crate) fn lone_field(tokens: &[Token]) -> Result<FieldExpr> {
    let mut parser = Parser::new(tokens);
    let expr = parser.field()?;
    parser.end()?;
    Ok(expr)
}

struct Parser<'t> {
    tokens: &'t [Token],
    at: usize,
    nodes: usize,
    nesting: usize,
}

impl<'t> Parser<'t> {
    /// The last token is `End`.
    fn new(tokens: &'t [Token]) -> Self {
        Parser { tokens, at: 0, nodes: 0, nesting: 0 }
    }

    fn token(&self) -> &'t Token {
        &self.tokens[self.at]
    }

    fn peek(&self) -> &'t Kind {
        &self.token().kind
    }

    fn peek_symbol(&self) -> Option<Symbol> {
        match self.peek() {
            Kind::Symbol(symbol) => Some(*symbol),
            _ => None,
        }
    }

    fn peek_word(&self) -> Option<&'t str> {
        match self.peek() {
            Kind::Word(word) => Some(word),
            _ => None,
        }
    }

    /// Whether the token after the next is this symbol.
    fn second_is(&self, symbol: Symbol) -> bool {
        self.tokens.get(self.at + 1).is_some_and(|token| token.kind == Kind::Symbol(symbol))
    }

    fn span(&self) -> Span {
        self.token().span
    }

    /// From the start of a span to the end of the last token taken.
    fn since(&self, start: Span) -> Span {
        let end = self.at.checked_sub(1).map_or(start.end, |last| self.tokens[last].span.end);
        Span { start: start.start, end: end.max(start.start) }
    }

    /// Takes a token; the end is never taken.
    fn advance(&mut self) {
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
    }

    fn eat(&mut self, symbol: Symbol) -> bool {
        let found = self.peek_symbol() == Some(symbol);
        if found {
            self.advance();
        }
        found
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let found = self.peek_word() == Some(word);
        if found {
            self.advance();
        }
        found
    }

    fn expect(&mut self, symbol: Symbol, place: &str) -> Result<()> {
        if self.eat(symbol) {
            return Ok(());
        }
        Err(self.unexpected(format!("`{}` {place}", symbol.text())))
    }

    fn unexpected(&self, expected: impl std::fmt::Display) -> Fault {
        let fault = Fault::new(self.span(), format!("expected {expected}, found {}", describe(self.peek())));
        match (self.peek_symbol(), self.tokens[..self.at].last().map(|token| &token.kind)) {
            (Some(Symbol::Equal), Some(Kind::Symbol(Symbol::Equal))) => fault.help("equality is written with one `=`"),
            _ => fault,
        }
    }

    fn end(&self) -> Result<()> {
        match self.peek() {
            Kind::End => Ok(()),
            Kind::Symbol(Symbol::BraceOpen) => Err(Fault::new(self.span(), "two spansets stand side by side")
                .help("join them by an operator such as `&&`, `||`, `>>`, or `|`")),
            Kind::Symbol(symbol @ (Symbol::BraceClose | Symbol::ParenClose | Symbol::BracketClose)) => {
                Err(Fault::new(self.span(), format!("`{}` closes nothing", symbol.text())))
            }
            _ => Err(self.unexpected("an operator, `|`, or the end of the query")),
        }
    }

    /// Counts one node of the tree.
    fn node(&mut self) -> Result<()> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(Fault::new(self.span(), format!("the query has more than {NODES_MAX} parts"))
                .help("a long choice of values is shorter as `in [...]` or as one regular expression"));
        }
        Ok(())
    }

    /// Runs the parser of something that may contain itself.
    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.nesting >= NESTING_MAX {
            return Err(Fault::new(self.span(), format!("the query is nested more than {NESTING_MAX} levels deep")));
        }
        self.nesting += 1;
        let result = parse(self);
        self.nesting -= 1;
        result
    }

    fn bounded<T: Height>(&self, tree: T, span: Span) -> Result<T> {
        if tree.height() > HEIGHT_MAX {
            return Err(Fault::new(span, format!("the expression is more than {HEIGHT_MAX} levels high"))
                .help("only chains of `&&` and `||` inside of braces may be longer"));
        }
        Ok(tree)
    }

    /// `with (key=value, ...)`, after the word.
    fn hints(&mut self, hints: &mut Vec<Hint>) -> Result<()> {
        self.expect(Symbol::ParenOpen, "after `with`")?;
        loop {
            self.node()?;
            let Kind::Word(key) = self.peek() else {
                return Err(self.unexpected("the name of a hint, such as `with(most_recent=true)`"));
            };
            self.advance();
            self.expect(Symbol::Equal, "and a value after the name of a hint")?;
            hints.push(Hint { key: key.clone(), value: self.literal()? });
            if !self.eat(Symbol::Comma) {
                return self.expect(Symbol::ParenClose, "after the hints");
            }
        }
    }

    /// A literal, possibly with a minus.
    fn literal(&mut self) -> Result<Static> {
        let start = self.span();
        let minus = self.eat(Symbol::Minus);
        let value = match self.peek() {
            Kind::Int(value) => Static::Int(*value),
            Kind::Float(value) => Static::Float(*value),
            Kind::Duration(value) => Static::Duration(*value),
            Kind::String(value) if !minus => Static::String(value.clone()),
            Kind::Word(word) => match literal_word(word) {
                Some(value) if !minus || value == Static::Int(i64::MAX) => value,
                _ => return Err(self.unexpected("a literal value")),
            },
            _ => return Err(self.unexpected("a literal value")),
        };
        self.advance();
        if !minus {
            return Ok(value);
        }
        fold::negate(&value).map_err(|message| Fault::new(self.since(start), message))
    }

    /// A name: an attribute or an intrinsic.
    fn attribute(&mut self, place: &str) -> Result<Attribute> {
        let span = self.span();
        let attribute = match self.peek() {
            Kind::Attribute(attribute) => attribute.clone(),
            Kind::Word(word) => lexer::word_as_attribute(word, span)?,
            _ => return Err(self.unexpected(format!("an attribute {place}"))),
        };
        self.node()?;
        self.advance();
        Ok(attribute)
    }

    /// `( attribute, ... )`, at least one.
    fn attribute_list(&mut self, function: &str) -> Result<Vec<Attribute>> {
        self.expect(Symbol::ParenOpen, &format!("after `{function}`"))?;
        let mut list = Vec::new();
        loop {
            list.push(self.attribute(&format!("in `{function}(...)`"))?);
            if !self.eat(Symbol::Comma) {
                self.expect(Symbol::ParenClose, &format!("after the attributes of `{function}`"))?;
                return Ok(list);
            }
        }
    }
}

/// A word that is a value wherever it stands.
fn literal_word(word: &str) -> Option<Static> {
    match word {
        "true" => Some(Static::Bool(true)),
        "false" => Some(Static::Bool(false)),
        "nil" => Some(Static::Nil),
        "minInt" => Some(Static::Int(i64::MIN)),
        "maxInt" => Some(Static::Int(i64::MAX)),
        _ => Status::from_word(word)
            .map(Static::Status)
            .or_else(|| crate::ast::Kind::from_word(word).map(Static::Kind)),
    }
}

fn describe(kind: &Kind) -> String {
    match kind {
        Kind::Symbol(symbol) => format!("`{}`", symbol.text()),
        Kind::Int(value) => format!("the number {value}"),
        Kind::Float(value) => format!("the number {value}"),
        Kind::Duration(value) => format!("the duration {}", crate::go_duration(*value)),
        Kind::String(_) => "a string".to_owned(),
        Kind::Attribute(attribute) => format!("the attribute `{attribute}`"),
        Kind::Word(word) => format!("`{word}`"),
        Kind::End => "the end of the query".to_owned(),
    }
}

/// How many nodes lie on the longest way from the root to a leaf.
trait Height {
    fn height(&self) -> usize;
}

impl Height for FieldExpr {
    fn height(&self) -> usize {
        1 + match self {
            FieldExpr::Static(..) | FieldExpr::Attribute(_) => 0,
            FieldExpr::Compare { left, right, .. }
            | FieldExpr::Arithmetic { left, right, .. }
            | FieldExpr::And(left, right)
            | FieldExpr::Or(left, right) => left.height().max(right.height()),
            FieldExpr::Not(operand)
            | FieldExpr::Negate(operand)
            | FieldExpr::Exists { operand, .. }
            | FieldExpr::In { operand, .. } => operand.height(),
        }
    }
}

impl Height for Pipeline {
    fn height(&self) -> usize {
        1 + self.stages.iter().map(Height::height).max().unwrap_or(0)
    }
}

impl Height for Stage {
    fn height(&self) -> usize {
        1 + match self {
            Stage::Spansets(expr) => expr.height(),
            Stage::ScalarFilter { left, right, .. } => left.height().max(right.height()),
            Stage::GroupBy(expr) => expr.height(),
            Stage::Coalesce | Stage::Select(_) => 0,
        }
    }
}

impl Height for SpansetExpr {
    fn height(&self) -> usize {
        1 + match self {
            SpansetExpr::Filter(expr) => expr.height(),
            SpansetExpr::Binary { left, right, .. } => left.height().max(right.height()),
            SpansetExpr::Pipeline(pipeline) => pipeline.height(),
        }
    }
}

impl Height for ScalarExpr {
    fn height(&self) -> usize {
        1 + match self {
            ScalarExpr::Aggregate(aggregate) => aggregate.argument.as_ref().map_or(0, Height::height),
            ScalarExpr::Static(..) => 0,
            ScalarExpr::Binary { left, right, .. } => left.height().max(right.height()),
            ScalarExpr::Negate(operand) => operand.height(),
            ScalarExpr::Pipeline(pipeline, scalar) => pipeline.height().max(scalar.height()),
        }
    }
}

impl Height for MetricsExpr {
    fn height(&self) -> usize {
        1 + match self {
            MetricsExpr::Query(query) => query.pipeline.height(),
            MetricsExpr::Binary { left, right, .. } => left.height().max(right.height()),
            MetricsExpr::Number(_) => 0,
        }
    }
}
