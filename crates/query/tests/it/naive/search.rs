//! Search: which traces, in which order, with which spansets.

use std::collections::{BTreeMap, BTreeSet};

use traceql::ast::{
    Aggregate, AggregateFunction, ArithmeticOp, Attribute, AttributeName, ComparisonOp, FieldExpr, Intrinsic, Pipeline,
    Relation, ScalarExpr, Scope, SpansetExpr, SpansetOp, Stage, Static, StructuralForm,
};

use super::{
    Eyes, Patterns, Trace,
    compare::EXPECTED,
    trace::{Place, hex, short_hex},
    value::{self, Value},
};

/// What a search answers of one trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub trace: String,
    pub root_service: String,
    pub root_name: String,
    pub start: u64,
    pub duration_ms: u32,
    /// Spans and errors by service.
    pub services: BTreeMap<String, (u32, u32)>,
    pub spansets: Vec<FoundSet>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FoundSet {
    pub matched: u32,
    pub attributes: Vec<(String, String)>,
    pub spans: Vec<FoundSpan>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FoundSpan {
    pub id: String,
    pub name: String,
    pub start: u64,
    pub duration: u64,
    /// Sorted.
    pub attributes: Vec<(String, String)>,
}

/// How much of the answer is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Unix nanoseconds, both included: the trace overlaps.
    pub range: Option<(i64, i64)>,
    pub limit: usize,
    /// 0 for all.
    pub spans_per_spanset: usize,
}

#[derive(Clone, Debug)]
pub struct Spanset {
    pub spans: BTreeSet<usize>,
    attributes: Vec<(String, Option<Value>)>,
}

/// Newest first; of equal starts the lower id first.
pub fn search(traces: &[Trace<'_>], pipeline: &Pipeline, bounds: Bounds, patterns: &Patterns) -> Vec<Found> {
    let overlaps = |trace: &&Trace<'_>| {
        bounds.range.is_none_or(|(start, end)| trace.start <= end && trace.start.saturating_add(trace.duration) >= start)
    };
    let mut newest: Vec<&Trace<'_>> = traces.iter().filter(overlaps).collect();
    newest.sort_by_key(|trace| (std::cmp::Reverse(trace.start), trace.id));
    let found = newest.into_iter().filter_map(|trace| {
        let eyes = Eyes { trace, patterns };
        let sets = eyes.spansets(pipeline);
        (!sets.is_empty()).then(|| eyes.shown(pipeline, &sets, bounds.spans_per_spanset))
    });
    found.take(bounds.limit).collect()
}

impl Eyes<'_> {
    /// The spansets that a pipeline leaves of the trace.
    pub fn spansets(&self, pipeline: &Pipeline) -> Vec<Spanset> {
        self.pipeline(pipeline, &(0..self.trace.nodes.len()).collect())
    }

    fn pipeline(&self, pipeline: &Pipeline, given: &BTreeSet<usize>) -> Vec<Spanset> {
        let mut sets = vec![Spanset { spans: given.clone(), attributes: vec![] }];
        for stage in &pipeline.stages {
            sets = match stage {
                Stage::Spansets(expr) => {
                    sets.into_iter().map(|set| Spanset { spans: self.select(expr, &set.spans), ..set }).collect()
                }
                Stage::ScalarFilter { op, left, right, .. } => {
                    sets.into_iter().filter_map(|set| self.scalar_filter(*op, left, right, set, given)).collect()
                }
                Stage::GroupBy(expr) => sets.into_iter().flat_map(|set| self.group(expr, set)).collect(),
                Stage::Coalesce => {
                    let spans = sets.into_iter().flat_map(|set| set.spans).collect();
                    vec![Spanset { spans, attributes: vec![] }]
                }
                Stage::Select(_) => sets,
            };
            sets.retain(|set| !set.spans.is_empty());
        }
        sets
    }

    fn select(&self, expr: &SpansetExpr, given: &BTreeSet<usize>) -> BTreeSet<usize> {
        match expr {
            SpansetExpr::Filter(filter) => given.iter().copied().filter(|span| self.holds(filter, *span)).collect(),
            SpansetExpr::Pipeline(pipeline) => {
                self.pipeline(pipeline, given).into_iter().flat_map(|set| set.spans).collect()
            }
            SpansetExpr::Binary { op, left, right, .. } => {
                let (left, right) = (self.select(left, given), self.select(right, given));
                match op {
                    SpansetOp::And if left.is_empty() || right.is_empty() => BTreeSet::new(),
                    SpansetOp::And | SpansetOp::Or => &left | &right,
                    SpansetOp::Structural { relation, form } => {
                        let related = |a: usize, b: usize| self.related(*relation, a, b);
                        let hit = |b: &usize| left.iter().any(|a| related(*a, *b));
                        match form {
                            StructuralForm::Plain => right.iter().copied().filter(|b| hit(b)).collect(),
                            StructuralForm::Negated => right.iter().copied().filter(|b| !hit(b)).collect(),
                            StructuralForm::Union if *relation == Relation::Descendant => self.descent(&left, &right, false),
                            StructuralForm::Union if *relation == Relation::Ancestor => self.descent(&right, &left, true),
                            StructuralForm::Union => {
                                let pairs = left.iter().flat_map(|a| right.iter().map(move |b| (*a, *b)));
                                pairs.filter(|(a, b)| related(*a, *b)).flat_map(|(a, b)| [a, b]).collect()
                            }
                        }
                    }
                }
            }
        }
    }

    /// The union of ancestors and descendants, without what Tempo leaves out.
    fn descent(&self, above: &BTreeSet<usize>, below: &BTreeSet<usize>, unplaced_first: bool) -> BTreeSet<usize> {
        let holds = |a: usize, b: usize| self.related(Relation::Descendant, a, b);
        let node = |span: usize| &self.trace.nodes[span];
        let first = above.iter().copied().filter(|a| unplaced_first || node(*a).left > 0).min_by_key(|a| node(*a).left);
        let mut found = BTreeSet::new();
        for outermost in above.iter().copied().filter(|a| !above.iter().any(|other| holds(*other, *a))) {
            let held: Vec<usize> = below.iter().copied().filter(|b| holds(outermost, *b)).collect();
            let Some(last) = held.iter().copied().max_by_key(|b| node(*b).left) else { continue };
            found.extend(above.iter().copied().filter(|a| holds(*a, last)));
            let ended = |b: &usize| {
                let begins_late = first.is_some_and(|first| node(*b).left >= node(first).left);
                node(*b).left > 0 && begins_late && node(*b).right < node(outermost).left
            };
            if first == Some(outermost) || below.iter().any(ended) {
                found.extend(held);
            }
        }
        found
    }

    /// Whether `b` is, for example, a child of `a`.
    fn related(&self, relation: Relation, a: usize, b: usize) -> bool {
        let place = |span: usize| self.trace.nodes[span].place;
        match relation {
            Relation::Child => place(b) == Place::Child(a),
            Relation::Parent => place(a) == Place::Child(b),
            Relation::Descendant => {
                let mut up = b;
                while let Place::Child(parent) = place(up) {
                    if parent == a {
                        return true;
                    }
                    up = parent;
                }
                false
            }
            Relation::Ancestor => self.related(Relation::Descendant, b, a),
            Relation::Sibling => a != b && place(a) == place(b) && place(a) != Place::Unknown,
        }
    }

    fn group(&self, expr: &FieldExpr, set: Spanset) -> Vec<Spanset> {
        let mut groups: Vec<(String, Spanset)> = vec![];
        for span in set.spans {
            let value = match expr {
                FieldExpr::Attribute(name) => self.grouped(name, span),
                expr => self.values(expr, span).into_iter().next(),
            };
            let key = value.as_ref().map_or("nil".to_owned(), Value::group);
            if let Some((_, group)) = groups.iter_mut().find(|(other, _)| *other == key) {
                group.spans.insert(span);
                continue;
            }
            let mut attributes = set.attributes.clone();
            attributes.push((format!("by({})", traceql::label(expr)), value));
            groups.push((key, Spanset { spans: [span].into(), attributes }));
        }
        groups.into_iter().map(|(_, group)| group).collect()
    }

    /// The value that labels a series: an array is labelled nil, and so is what Tempo keeps in a column of its own where it is missing.
    pub fn labelled(&self, name: &Attribute, span: usize) -> Option<Value> {
        let of_column = |scope: &Option<Scope>, key: &str| EXPECTED.iter().any(|(of, keys)| scope.is_none_or(|scope| scope == *of) && keys.contains(&key));
        match (self.grouped(name, span), &name.name) {
            (Some(Value::Array(_)), _) => Some(Value::Other),
            (None, AttributeName::Key { scope, key }) if !name.of_parent => of_column(scope, key).then_some(Value::Other),
            (value, _) => value,
        }
    }

    /// The value to group by: the first, if it can be told from others. Without events the name of an event is empty.
    pub fn grouped(&self, name: &Attribute, span: usize) -> Option<Value> {
        match self.named(name, span).into_iter().next() {
            Some(Value::Other) => None,
            None if !name.of_parent && name.name == AttributeName::Intrinsic(Intrinsic::EventName) => Some(Value::String(String::new())),
            first => first,
        }
    }

    fn scalar_filter(
        &self,
        op: ComparisonOp,
        left: &ScalarExpr,
        right: &ScalarExpr,
        mut set: Spanset,
        given: &BTreeSet<usize>,
    ) -> Option<Spanset> {
        let left = self.scalar(left, &mut set, given)?;
        let right = self.scalar(right, &mut set, given)?;
        value::compare(op, &left, &right).then_some(set)
    }

    /// What is computed of a spanset is attached to it. A pipeline in the middle looks at all that was given.
    fn scalar(&self, scalar: &ScalarExpr, set: &mut Spanset, given: &BTreeSet<usize>) -> Option<Value> {
        match scalar {
            ScalarExpr::Static(literal, _) => Value::of_literal(literal),
            ScalarExpr::Aggregate(aggregate) => {
                let value = self.aggregate(aggregate, &set.spans)?;
                let argument = aggregate.argument.as_ref().map_or(String::new(), traceql::label);
                set.attributes.push((format!("{}({argument})", aggregate.function.word()), Some(value.clone())));
                Some(value)
            }
            ScalarExpr::Binary { op, left, right, .. } => {
                let left = self.scalar(left, set, given)?;
                let right = self.scalar(right, set, given)?;
                value::arithmetic(*op, &left, &right)
            }
            ScalarExpr::Negate(operand) => value::negate(&self.scalar(operand, set, given)?),
            ScalarExpr::Pipeline(pipeline, inner) => {
                let spans = self.pipeline(pipeline, given).into_iter().flat_map(|set| set.spans).collect();
                self.scalar(inner, &mut Spanset { spans, attributes: vec![] }, given)
            }
        }
    }

    /// Of the numbers among the first values; `None` if there are none. Not-a-number is neither least nor greatest.
    fn aggregate(&self, aggregate: &Aggregate, spans: &BTreeSet<usize>) -> Option<Value> {
        let Some(argument) = &aggregate.argument else { return Some(Value::Int(spans.len() as i64)) };
        let firsts = spans.iter().filter_map(|span| self.values(argument, *span).into_iter().next());
        let numbers: Vec<Value> = firsts.filter(|value| value.number().is_some()).collect();
        let extreme = |op| {
            let proper = numbers.iter().filter(|v| !v.number().is_some_and(f64::is_nan));
            let best = proper.reduce(|best, value| if value::compare(op, value, best) { value } else { best });
            best.or(numbers.first()).cloned()
        };
        let sum = || numbers.iter().cloned().reduce(|sum, value| value::arithmetic(ArithmeticOp::Add, &sum, &value).unwrap_or(sum));
        match aggregate.function {
            AggregateFunction::Count => panic!("count() has no argument"),
            AggregateFunction::Min => extreme(ComparisonOp::Less),
            AggregateFunction::Max => extreme(ComparisonOp::Greater),
            AggregateFunction::Sum => sum(),
            AggregateFunction::Avg => Some(match sum()? {
                Value::Duration(sum) => Value::Duration(sum / numbers.len() as i64),
                sum => Value::Float(sum.number()? / numbers.len() as f64),
            }),
        }
    }

    fn shown(&self, pipeline: &Pipeline, sets: &[Spanset], spans_max: usize) -> Found {
        let trace = self.trace;
        let mut services: BTreeMap<String, (u32, u32)> = BTreeMap::new();
        for span in 0..trace.nodes.len() {
            let (spans, errors) = services.entry(trace.service(span)).or_default();
            *spans += 1;
            *errors += u32::from(trace.nodes[span].status == traceql::ast::Status::Error);
        }
        let asked = asked_of(pipeline);
        let asks_name = asked.iter().any(|(name, _)| !name.of_parent && name.name == AttributeName::Intrinsic(Intrinsic::Name));
        let spansets = sets.iter().map(|set| FoundSet {
            matched: set.spans.len() as u32,
            attributes: set.attributes.iter().map(|(key, value)| (key.clone(), shown(value.as_ref()))).collect(),
            spans: set
                .spans
                .iter()
                .take(if spans_max == 0 { usize::MAX } else { spans_max })
                .map(|span| self.shown_span(*span, &asked, asks_name))
                .collect(),
        });
        Found {
            trace: short_hex(&trace.id),
            root_service: match trace.root {
                Some(root) if !trace.service(root).is_empty() => trace.service(root),
                _ => "<root span not yet received>".to_owned(),
            },
            root_name: trace.root.map_or(String::new(), |root| trace.nodes[root].row.span.name.clone()),
            start: trace.start as u64,
            duration_ms: u32::try_from(trace.duration / 1_000_000).unwrap_or(u32::MAX),
            services,
            spansets: spansets.collect(),
        }
    }

    /// A name that is only compared with literals, in filters or in `by`, shows the first value that a comparison holds for, on
    /// any span. A name mentioned in any other way shows its first value otherwise, but no map, bytes or mixed array. Of events
    /// and links it is the last. Where a name is
    /// missing that is compared with `= nil`, nil shows. Of the elements
    /// of an array those that a comparison holds for are shown; one alone stands for itself.
    fn shown_span(&self, span: usize, names: &[(Attribute, Asked)], asks_name: bool) -> FoundSpan {
        let node = &self.trace.nodes[span];
        let mut attributes = vec![];
        for (name, asked) in names {
            let key = match &name.name {
                AttributeName::Key { key, .. } if name.of_parent => format!("parent.{key}"),
                AttributeName::Intrinsic(Intrinsic::Parent) => continue,
                AttributeName::Intrinsic(_) if name.of_parent => name.to_string(),
                AttributeName::Key { key, .. } => key.clone(),
                AttributeName::Intrinsic(
                    Intrinsic::Name
                    | Intrinsic::Duration
                    | Intrinsic::TraceDuration
                    | Intrinsic::RootServiceName
                    | Intrinsic::RootName
                    | Intrinsic::TraceId
                    | Intrinsic::SpanId,
                ) => continue,
                AttributeName::Intrinsic(_) => name.to_string(),
            };
            let mut values = self.named(name, span);
            if matches!(
                name.name,
                AttributeName::Key { scope: Some(Scope::Event | Scope::Link), .. }
                    | AttributeName::Intrinsic(
                        Intrinsic::EventName | Intrinsic::EventTimeSinceStart | Intrinsic::LinkTraceId | Intrinsic::LinkSpanId
                    )
            ) {
                values.reverse();
            }
            if asked.missing && values.is_empty() && !name.of_parent {
                attributes.push((key, shown(None)));
                continue;
            }
            let wanted = |value: &&Value| asked.tests.iter().any(|(op, literal)| self.compare(*op, value, literal));
            let value = match values.iter().find(wanted) {
                Some(Value::Array(elements)) => match elements.iter().filter(wanted).collect::<Vec<_>>().as_slice() {
                    [] => Value::Array(elements.clone()),
                    [one] => (*one).clone(),
                    several => Value::Array(several.iter().copied().cloned().collect()),
                },
                Some(value) => value.clone(),
                None if !asked.otherwise => continue,
                None => {
                    match (values.into_iter().next(), &name.name) {
                        (Some(first), _) => first,
                        (None, _) if name.of_parent => continue,
                        (None, AttributeName::Intrinsic(Intrinsic::EventName)) => Value::String(String::new()),
                        (None, AttributeName::Key { scope: Some(scope), key })
                            if EXPECTED.iter().any(|(of, keys)| of == scope && keys.contains(&key.as_str())) =>
                        {
                            Value::String("nil".into())
                        }
                        (None, _) => continue,
                    }
                }
            };
            if matches!(value, Value::Other) {
                continue;
            }
            attributes.push((key, value.shown()));
        }
        attributes.sort();
        FoundSpan {
            id: hex(&node.row.span.span_id),
            name: if asks_name { node.row.span.name.clone() } else { String::new() },
            start: node.start as u64,
            duration: node.duration as u64,
            attributes,
        }
    }
}

fn shown(value: Option<&Value>) -> String {
    value.map_or("string \"nil\"".to_owned(), Value::shown)
}

/// What a query asks of a name.
#[derive(Clone, Debug, Default)]
struct Asked {
    /// The comparisons with a literal in its filters and `by`.
    tests: Vec<(ComparisonOp, Value)>,
    /// It is mentioned otherwise too.
    otherwise: bool,
    /// A filter asks whether it is missing.
    missing: bool,
}

/// What a query asks of each name; a name without a scope is asked of the span and of the resource.
fn asked_of(pipeline: &Pipeline) -> Vec<(Attribute, Asked)> {
    let (mut compared, mut others) = (vec![], vec![]);
    mentioned(pipeline, &mut compared, &mut others);
    let mut all: Vec<(Attribute, Asked)> = vec![];
    let mut add = |name: &Attribute, asked: Asked| {
        let scopes = match &name.name {
            AttributeName::Key { scope: None, .. } => vec![Some(Scope::Span), Some(Scope::Resource)],
            _ => vec![None],
        };
        for scope in scopes {
            let mut name = name.clone();
            if let (Some(scope), AttributeName::Key { scope: of_name, .. }) = (scope, &mut name.name) {
                *of_name = Some(scope);
            }
            match all.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => {
                    known.tests.extend(asked.tests.clone());
                    known.otherwise |= asked.otherwise;
                    known.missing |= asked.missing;
                }
                None => all.push((name, asked.clone())),
            }
        }
    };
    for (name, op, literal) in compared {
        let structure = match name.name {
            AttributeName::Intrinsic(Intrinsic::NestedSetLeft) => related(pipeline, &[">", "<", ">>", "<<"]),
            AttributeName::Intrinsic(Intrinsic::NestedSetRight) => related(pipeline, &[">>", "<<"]),
            AttributeName::Intrinsic(Intrinsic::NestedSetParent) => related(pipeline, &[">", "<", "~"]),
            _ => false,
        };
        let missing = literal.is_none();
        add(&name, Asked { tests: literal.map(|literal| (op, literal)).into_iter().collect(), otherwise: structure, missing });
    }
    others.iter().for_each(|name| add(name, Asked { tests: vec![], otherwise: true, missing: false }));
    all
}

/// Whether a pipeline has an operator of these relations, in any form.
fn related(pipeline: &Pipeline, relations: &[&str]) -> bool {
    fn inside(expr: &SpansetExpr, relations: &[&str]) -> bool {
        match expr {
            SpansetExpr::Filter(_) => false,
            SpansetExpr::Pipeline(pipeline) => related(pipeline, relations),
            SpansetExpr::Binary { op, left, right, .. } => {
                let relation = match op {
                    SpansetOp::And | SpansetOp::Or => "",
                    SpansetOp::Structural { relation, .. } => match relation {
                        Relation::Child => ">",
                        Relation::Parent => "<",
                        Relation::Descendant => ">>",
                        Relation::Ancestor => "<<",
                        Relation::Sibling => "~",
                    },
                };
                relations.contains(&relation) || inside(left, relations) || inside(right, relations)
            }
        }
    }
    pipeline.stages.iter().any(|stage| matches!(stage, Stage::Spansets(expr) if inside(expr, relations)))
}

/// Names with what they are compared with; `None` is nil, and the operator `=`.
type Compared = Vec<(Attribute, ComparisonOp, Option<Value>)>;

fn mentioned(pipeline: &Pipeline, compared: &mut Compared, others: &mut Vec<Attribute>) {
    for stage in &pipeline.stages {
        match stage {
            Stage::Spansets(expr) => in_spansets(expr, compared, others),
            Stage::ScalarFilter { left, right, .. } => [left, right].into_iter().for_each(|s| in_scalar(s, others)),
            Stage::GroupBy(expr) => in_filter(expr, compared, others),
            Stage::Coalesce => {}
            Stage::Select(selected) => selected.iter().for_each(|name| add(name, others)),
        }
    }
}

fn in_spansets(expr: &SpansetExpr, compared: &mut Compared, others: &mut Vec<Attribute>) {
    match expr {
        SpansetExpr::Filter(filter) => in_filter(filter, compared, others),
        SpansetExpr::Pipeline(pipeline) => mentioned(pipeline, compared, others),
        SpansetExpr::Binary { left, right, .. } => {
            [left, right].into_iter().for_each(|side| in_spansets(side, compared, others));
        }
    }
}

fn in_filter(expr: &FieldExpr, compared: &mut Compared, others: &mut Vec<Attribute>) {
    match expr {
        FieldExpr::And(left, right) | FieldExpr::Or(left, right) => {
            [left, right].into_iter().for_each(|side| in_filter(side, compared, others));
        }
        FieldExpr::Compare { op, left, right, .. } => match (&**left, &**right) {
            (FieldExpr::Attribute(name), FieldExpr::Static(literal, _)) => {
                let unpadded = name.name == AttributeName::Intrinsic(Intrinsic::LinkTraceId)
                    && matches!(op, ComparisonOp::Equal | ComparisonOp::NotEqual);
                let value = match literal {
                    Static::String(text) if unpadded => Some(Value::String(text.trim_start_matches('0').to_owned())),
                    literal => Value::of_literal(literal),
                };
                compared.push((name.clone(), *op, value));
            }
            _ => in_field(expr, others),
        },
        FieldExpr::Exists { exists: false, operand, .. } => match &**operand {
            FieldExpr::Attribute(name) => compared.push((name.clone(), ComparisonOp::Equal, None)),
            operand => in_field(operand, others),
        },
        _ => in_field(expr, others),
    }
}

fn in_scalar(expr: &ScalarExpr, names: &mut Vec<Attribute>) {
    match expr {
        ScalarExpr::Static(..) => {}
        ScalarExpr::Aggregate(aggregate) => aggregate.argument.iter().for_each(|argument| in_field(argument, names)),
        ScalarExpr::Binary { left, right, .. } => [left, right].into_iter().for_each(|side| in_scalar(side, names)),
        ScalarExpr::Negate(operand) => in_scalar(operand, names),
        ScalarExpr::Pipeline(pipeline, inner) => {
            let mut compared = vec![];
            mentioned(pipeline, &mut compared, names);
            names.extend(compared.into_iter().map(|(name, ..)| name));
            in_scalar(inner, names);
        }
    }
}

fn in_field(expr: &FieldExpr, names: &mut Vec<Attribute>) {
    match expr {
        FieldExpr::Static(..) => {}
        FieldExpr::Attribute(name) => add(name, names),
        FieldExpr::Compare { left, right, .. }
        | FieldExpr::Arithmetic { left, right, .. }
        | FieldExpr::And(left, right)
        | FieldExpr::Or(left, right) => [left, right].into_iter().for_each(|side| in_field(side, names)),
        FieldExpr::Not(operand)
        | FieldExpr::Negate(operand)
        | FieldExpr::Exists { operand, .. }
        | FieldExpr::In { operand, .. } => in_field(operand, names),
    }
}

fn add(name: &Attribute, names: &mut Vec<Attribute>) {
    if !names.contains(name) {
        names.push(name.clone());
    }
}
