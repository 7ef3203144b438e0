//! The syntax tree of a TraceQL query.
//!
//! Trees are compared by meaning: source spans do not take part in equality, so that
//! `parse(print(tree)) == tree`.

use std::fmt;

/// A byte range of the query text.
#[derive(Clone, Copy, Default)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

impl Span {
    /// From the start of this to the end of the other.
    pub fn to(self, other: Span) -> Span {
        Span { start: self.start, end: other.end.max(self.start) }
    }
}

impl PartialEq for Span {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

/// A whole query: what to find, what to compute of it, and hints.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    pub body: QueryBody,
    pub hints: Vec<Hint>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum QueryBody {
    /// Finds spansets.
    Search(Pipeline),
    /// Computes series.
    Metrics(MetricsExpr),
}

#[derive(Clone, Debug, PartialEq)]
pub enum MetricsExpr {
    Query(MetricsQuery),
    /// Arithmetic between metrics queries (an extension).
    Binary { op: ArithmeticOp, left: Box<MetricsExpr>, right: Box<MetricsExpr> },
    Number(f64),
}

#[derive(Clone, Debug, PartialEq)]
pub struct MetricsQuery {
    pub pipeline: Pipeline,
    pub function: MetricsFunction,
    pub by: Vec<Attribute>,
    /// `topk`, `bottomk` and comparisons, in the order written.
    pub second: Vec<SecondStage>,
    pub span: Span,
}

/// `with(key=value)`. The last of equal keys wins; unknown keys are ignored by whoever reads them.
#[derive(Clone, Debug, PartialEq)]
pub struct Hint {
    pub key: String,
    pub value: Static,
}

/// Stages joined by `|`. The first is never `Coalesce`.
#[derive(Clone, Debug, PartialEq)]
pub struct Pipeline {
    pub stages: Vec<Stage>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    Spansets(SpansetExpr),
    /// `| count() > 3`: keeps the spansets for which the comparison holds.
    ScalarFilter { op: ComparisonOp, left: ScalarExpr, right: ScalarExpr, span: Span },
    /// `by(expr)`: one spanset for each value.
    GroupBy(FieldExpr),
    Coalesce,
    Select(Vec<Attribute>),
}

#[derive(Clone, Debug, PartialEq)]
pub enum SpansetExpr {
    /// `{ expr }`; `{ }` is `{ true }`.
    Filter(FieldExpr),
    Binary { op: SpansetOp, left: Box<SpansetExpr>, right: Box<SpansetExpr>, span: Span },
    /// `( pipeline )` as an operand.
    Pipeline(Box<Pipeline>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpansetOp {
    And,
    Or,
    Structural { relation: Relation, form: StructuralForm },
}

/// How a right-hand span stands to a left-hand one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// `>`: the right span's parent is on the left.
    Child,
    /// `<`: the right span is the parent of one on the left.
    Parent,
    /// `>>`
    Descendant,
    /// `<<`
    Ancestor,
    /// `~`
    Sibling,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StructuralForm {
    /// `>`: the right spans for which the relation holds.
    Plain,
    /// `!>`: the right spans for which it does not.
    Negated,
    /// `&>`: the spans of both sides that take part in it.
    Union,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ScalarExpr {
    Aggregate(Aggregate),
    Static(Static, Span),
    Binary { op: ArithmeticOp, left: Box<ScalarExpr>, right: Box<ScalarExpr>, span: Span },
    Negate(Box<ScalarExpr>),
    /// `({ } | count())`: a pipeline that ends in a scalar.
    Pipeline(Box<Pipeline>, Box<ScalarExpr>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    pub function: AggregateFunction,
    /// `None` for `count()` only.
    pub argument: Option<FieldExpr>,
    pub span: Span,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AggregateFunction {
    Count,
    Min,
    Max,
    Avg,
    Sum,
}

/// An expression over one span.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldExpr {
    Static(Static, Span),
    Attribute(Attribute),
    /// Comparison with `nil` is not here: see `Exists`.
    Compare { op: ComparisonOp, left: Box<FieldExpr>, right: Box<FieldExpr>, span: Span },
    Arithmetic { op: ArithmeticOp, left: Box<FieldExpr>, right: Box<FieldExpr>, span: Span },
    /// A chain of more than eight operands is a balanced tree: see `chain`.
    And(Box<FieldExpr>, Box<FieldExpr>),
    Or(Box<FieldExpr>, Box<FieldExpr>),
    Not(Box<FieldExpr>),
    Negate(Box<FieldExpr>),
    /// `x != nil` (`exists`) or `x = nil` (not).
    Exists { exists: bool, operand: Box<FieldExpr>, span: Span },
    /// `x in [a, b]` or, negated, `x not in [a, b]` (an extension). Never empty.
    In { negated: bool, operand: Box<FieldExpr>, values: Vec<Static>, span: Span },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComparisonOp {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    /// The right side is a string literal that is a valid pattern.
    Match,
    NotMatch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArithmeticOp {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Power,
}

/// What a name refers to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attribute {
    /// `parent.`: of the span's parent instead (an extension).
    pub of_parent: bool,
    pub name: AttributeName,
    pub span: SpanOfName,
}

/// A source span that takes part neither in equality nor in hashing.
#[derive(Clone, Copy, Default)]
pub struct SpanOfName(pub Span);

impl PartialEq for SpanOfName {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl Eq for SpanOfName {}
impl std::hash::Hash for SpanOfName {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}
impl fmt::Debug for SpanOfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AttributeName {
    /// `.key` (no scope: the span's value, or else the resource's) or `<scope>.key`.
    Key { scope: Option<Scope>, key: String },
    Intrinsic(Intrinsic),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    Resource,
    Span,
    Event,
    Link,
    Instrumentation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Intrinsic {
    Duration,
    Name,
    Status,
    StatusMessage,
    Kind,
    SpanId,
    ParentId,
    ChildCount,
    TraceDuration,
    RootName,
    RootServiceName,
    TraceId,
    EventName,
    EventTimeSinceStart,
    LinkTraceId,
    LinkSpanId,
    InstrumentationName,
    InstrumentationVersion,
    NestedSetLeft,
    NestedSetRight,
    NestedSetParent,
    /// `parent` alone: only of use as `parent = nil` (an extension: the span has no parent in the trace).
    Parent,
}

/// A literal.
#[derive(Clone, Debug, PartialEq)]
pub enum Static {
    Nil,
    Int(i64),
    Float(f64),
    String(String),
    Bool(bool),
    /// Nanoseconds.
    Duration(i64),
    Status(Status),
    Kind(Kind),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Unset,
    Ok,
    Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Unspecified,
    Internal,
    Server,
    Client,
    Producer,
    Consumer,
}

#[derive(Clone, Debug, PartialEq)]
pub enum MetricsFunction {
    Rate,
    CountOverTime,
    MinOverTime(Attribute),
    MaxOverTime(Attribute),
    SumOverTime(Attribute),
    AvgOverTime(Attribute),
    /// Each quantile is within 0..=1; there is at least one.
    QuantileOverTime(Attribute, Vec<f64>),
    HistogramOverTime(Attribute),
    /// `compare({selection}, top_n, start, end)`. Times are Unix nanoseconds.
    Compare { selection: FieldExpr, top_n: Option<i64>, range: Option<(i64, i64)> },
}

#[derive(Clone, Debug, PartialEq)]
pub enum SecondStage {
    TopK(i64),
    BottomK(i64),
    /// Keeps the samples for which `sample op value` holds. A duration is in seconds here.
    Compare(ComparisonOp, f64),
}
