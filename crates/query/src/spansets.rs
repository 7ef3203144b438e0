//! The per-trace operator: evaluates a search pipeline on the rows of whole traces.
//!
//! Filters run once over a batch and leave a mask each; everything that relates the spans of one trace then
//! works on row numbers. Rows of a batch are sorted by trace id.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
};

use arrow::{
    array::{Array, AsArray, BooleanArray, RecordBatch},
    datatypes::Int32Type,
};
use block::schema;
use traceql::ast::{
    Aggregate, AggregateFunction, ArithmeticOp, ComparisonOp, FieldExpr, Pipeline, ScalarExpr, SpansetExpr, SpansetOp, Stage,
    Static, StructuralForm,
};

use crate::{
    conditions::Conditions,
    layout::Layout,
    metrics::groups::GroupValue,
    parents,
    predicate::compile,
    reads::Reads,
    request::QueryError,
    rowexpr::{BoundRows, RowExpr},
    structure::{Tree, relate},
    time_limit::ROWS_UNCHECKED_MAX,
    value::{Number, Value, arithmetic, compare, negate},
};

/// A spanset of a trace: rows of the batch, ascending, and what stages attached to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Spanset {
    pub rows: Vec<u32>,
    /// `by(...)` values and aggregates, in the order they were computed. `None` is nil.
    pub attributes: Vec<(String, Option<Value>)>,
}

/// Which filters of a pipeline some rows of a trace pass, bit by bit; those behind the 64th always do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sides(u64);

impl Sides {
    pub const ALL: Self = Self(u64::MAX);

    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A pipeline bound to one layout.
pub struct BoundPipeline {
    stages: Vec<BoundStage>,
    filters: Vec<Conditions>,
    exprs: Vec<RowExpr>,
    structural: bool,
}

enum BoundStage {
    Spansets(BoundSpansets),
    ScalarFilter { op: ComparisonOp, left: BoundScalar, right: BoundScalar },
    GroupBy { expr: usize, label: String },
    Coalesce,
}

enum BoundSpansets {
    Filter(usize),
    Binary(SpansetOp, Box<BoundSpansets>, Box<BoundSpansets>),
    Pipeline(Vec<BoundStage>),
}

enum BoundScalar {
    Literal(Option<Value>),
    Aggregate { function: AggregateFunction, expr: Option<usize>, label: String },
    Binary(ArithmeticOp, Box<BoundScalar>, Box<BoundScalar>),
    Negate(Box<BoundScalar>),
    Pipeline(Vec<BoundStage>, Box<BoundScalar>),
}

impl BoundScalar {
    /// Whether it looks at all that its pipeline was given.
    fn asks_all(&self) -> bool {
        match self {
            Self::Literal(_) | Self::Aggregate { .. } => false,
            Self::Binary(_, left, right) => left.asks_all() || right.asks_all(),
            Self::Negate(operand) => operand.asks_all(),
            Self::Pipeline(..) => true,
        }
    }
}

impl BoundPipeline {
    pub fn bind(pipeline: &Pipeline, layout: &Layout) -> Result<Self, QueryError> {
        let mut binder = Binder { layout, filters: vec![], exprs: vec![], structural: false };
        let stages = binder.stages(&pipeline.stages)?;
        Ok(Self { stages, filters: binder.filters, exprs: binder.exprs, structural: binder.structural })
    }

    /// The columns evaluation reads.
    pub fn columns(&self) -> BTreeSet<String> {
        let mut columns: BTreeSet<String> = self.filters.iter().flat_map(|f| f.columns().map(str::to_owned)).collect();
        columns.extend(self.exprs.iter().flat_map(|e| e.columns().map(str::to_owned)));
        columns.insert(schema::TRACE_ID.into());
        if self.structural {
            columns.extend([schema::NESTED_LEFT, schema::NESTED_RIGHT, schema::NESTED_PARENT].map(String::from));
        }
        columns
    }

    /// For each filter the rows of a batch that pass.
    pub fn masks(&self, batch: &RecordBatch, reads: &Reads) -> Result<Vec<BooleanArray>, QueryError> {
        self.filters.iter().map(|filter| filter.holding(batch, reads)).collect()
    }

    /// Which filters some rows of a trace pass, by the batch's masks. What cannot be known of a part of a trace counts as passed.
    pub fn sides(&self, masks: &[BooleanArray], rows: &Range<usize>) -> Sides {
        let passed = |(filter, mask): (&Conditions, &BooleanArray)| filter.asks_whole_traces() || rows.clone().any(|row| mask.value(row));
        let sides = self.filters.iter().zip(masks).map(passed).zip(0..u64::BITS);
        Sides(sides.fold(0, |sides, (passed, filter)| sides | u64::from(passed) << filter))
    }

    /// Whether a trace of which all parts together pass these filters may have spansets.
    pub fn may_match(&self, sides: Sides) -> bool {
        may_match(&self.stages, &|filter| filter >= u64::BITS as usize || sides.0 >> filter & 1 == 1)
    }

    /// Evaluates over a batch: for each trace in it, its rows and the spansets it has, if any.
    pub fn evaluate(&self, batch: &RecordBatch, reads: &Reads, each: impl FnMut(Range<usize>, Vec<Spanset>)) -> Result<(), QueryError> {
        self.evaluate_masked(batch, &self.masks(batch, reads)?, reads, each)
    }

    /// As [`Self::evaluate`], with the batch's masks.
    pub fn evaluate_masked(
        &self,
        batch: &RecordBatch,
        masks: &[BooleanArray],
        reads: &Reads,
        mut each: impl FnMut(Range<usize>, Vec<Spanset>),
    ) -> Result<(), QueryError> {
        let numbers = |name| batch.column_by_name(name).map(|c| c.as_primitive::<Int32Type>().values().to_vec());
        let structure = [schema::NESTED_LEFT, schema::NESTED_RIGHT, schema::NESTED_PARENT].map(|name| {
            if self.structural { numbers(name).unwrap_or_default() } else { vec![] }
        });
        let rows = Rows {
            masks,
            exprs: self.exprs.iter().map(|e| e.over(batch)).collect(),
            tree: Tree { left: &structure[0], right: &structure[1], parent: &structure[2] },
        };
        let mut unchecked = 0;
        for range in trace_runs(batch)? {
            unchecked += range.len();
            if unchecked > ROWS_UNCHECKED_MAX {
                reads.go_on()?;
                unchecked = 0;
            }
            // Most traces lack what is asked for first.
            if !may_match(&self.stages, &|filter| range.clone().any(|row| masks[filter].value(row))) {
                continue;
            }
            let everything = Spanset { rows: (range.start as u32..range.end as u32).collect(), attributes: vec![] };
            let spansets = rows.stages(&self.stages, vec![everything]);
            if !spansets.is_empty() {
                each(range, spansets);
            }
        }
        Ok(())
    }
}

/// The stretches of equal trace ids.
pub fn trace_runs(batch: &RecordBatch) -> Result<Vec<Range<usize>>, QueryError> {
    let ids = batch.column_by_name(schema::TRACE_ID).ok_or_else(|| QueryError::internal("rows without trace ids"))?;
    let ids = ids.as_fixed_size_binary();
    // A trace id is 16 bytes; a sliced array starts at its offset.
    let (ids, _) = ids.value_data()[ids.offset() * 16..(ids.offset() + ids.len()) * 16].as_chunks::<16>();
    let mut runs = vec![];
    let mut start = 0;
    for row in 1..=ids.len() {
        if row == ids.len() || ids[row] != ids[start] {
            runs.push(start..row);
            start = row;
        }
    }
    Ok(runs)
}

struct Binder<'a> {
    layout: &'a Layout,
    filters: Vec<Conditions>,
    exprs: Vec<RowExpr>,
    structural: bool,
}

impl Binder<'_> {
    fn stages(&mut self, stages: &[Stage]) -> Result<Vec<BoundStage>, QueryError> {
        let mut bound = vec![];
        for stage in stages {
            bound.push(match stage {
                Stage::Spansets(expr) => BoundStage::Spansets(self.spansets(expr)?),
                Stage::ScalarFilter { op, left, right, .. } => {
                    BoundStage::ScalarFilter { op: *op, left: self.scalar(left)?, right: self.scalar(right)? }
                }
                Stage::GroupBy(expr) => BoundStage::GroupBy { expr: self.expr(expr)?, label: format!("by({})", traceql::label(expr)) },
                Stage::Coalesce => BoundStage::Coalesce,
                Stage::Select(_) => continue,
            });
        }
        Ok(bound)
    }

    fn spansets(&mut self, expr: &SpansetExpr) -> Result<BoundSpansets, QueryError> {
        Ok(match expr {
            SpansetExpr::Filter(condition) => {
                self.filters.push(Conditions::new(&compile(condition, self.layout)?));
                BoundSpansets::Filter(self.filters.len() - 1)
            }
            SpansetExpr::Binary { op, left, right, .. } => {
                self.structural |= matches!(op, SpansetOp::Structural { .. });
                BoundSpansets::Binary(*op, Box::new(self.spansets(left)?), Box::new(self.spansets(right)?))
            }
            SpansetExpr::Pipeline(pipeline) => BoundSpansets::Pipeline(self.stages(&pipeline.stages)?),
        })
    }

    fn scalar(&mut self, expr: &ScalarExpr) -> Result<BoundScalar, QueryError> {
        Ok(match expr {
            ScalarExpr::Static(literal, _) => BoundScalar::Literal(Value::of_static(literal)),
            ScalarExpr::Aggregate(aggregate) => BoundScalar::Aggregate {
                function: aggregate.function,
                expr: aggregate.argument.as_ref().map(|e| self.expr(e)).transpose()?,
                label: aggregate_label(aggregate),
            },
            ScalarExpr::Binary { op, left, right, .. } => {
                BoundScalar::Binary(*op, Box::new(self.scalar(left)?), Box::new(self.scalar(right)?))
            }
            ScalarExpr::Negate(operand) => BoundScalar::Negate(Box::new(self.scalar(operand)?)),
            ScalarExpr::Pipeline(pipeline, scalar) => {
                BoundScalar::Pipeline(self.stages(&pipeline.stages)?, Box::new(self.scalar(scalar)?))
            }
        })
    }

    fn expr(&mut self, expr: &FieldExpr) -> Result<usize, QueryError> {
        self.exprs.push(RowExpr::bind(expr, self.layout)?);
        Ok(self.exprs.len() - 1)
    }
}

fn aggregate_label(aggregate: &Aggregate) -> String {
    let name = match aggregate.function {
        AggregateFunction::Count => "count",
        AggregateFunction::Min => "min",
        AggregateFunction::Max => "max",
        AggregateFunction::Avg => "avg",
        AggregateFunction::Sum => "sum",
    };
    match &aggregate.argument {
        Some(argument) => format!("{name}({})", traceql::label(argument)),
        None => format!("{name}()"),
    }
}

/// False if no spanset can come of rows of which some pass the filters that `passed` names.
fn may_match(stages: &[BoundStage], passed: &impl Fn(usize) -> bool) -> bool {
    match stages.first() {
        Some(BoundStage::Spansets(expr)) => may_hold(expr, passed),
        _ => true,
    }
}

fn may_hold(expr: &BoundSpansets, passed: &impl Fn(usize) -> bool) -> bool {
    match expr {
        BoundSpansets::Filter(filter) => passed(*filter),
        BoundSpansets::Binary(op, left, right) => {
            let right = || may_hold(right, passed);
            match op {
                SpansetOp::And | SpansetOp::Structural { form: StructuralForm::Plain, .. } => right() && may_hold(left, passed),
                SpansetOp::Structural { form: StructuralForm::Negated, .. } => right(),
                _ => right() || may_hold(left, passed),
            }
        }
        BoundSpansets::Pipeline(stages) => may_match(stages, passed),
    }
}

struct Rows<'a> {
    masks: &'a [BooleanArray],
    exprs: Vec<BoundRows<'a>>,
    tree: Tree<'a>,
}

impl Rows<'_> {
    fn stages(&self, stages: &[BoundStage], mut state: Vec<Spanset>) -> Vec<Spanset> {
        // What a scalar pipeline looks at: all that the pipeline was given.
        let asked = stages.iter().any(|stage| matches!(stage, BoundStage::ScalarFilter { left, right, .. } if left.asks_all() || right.asks_all()));
        let universe: Vec<u32> = if asked { state.iter().flat_map(|s| s.rows.iter().copied()).collect() } else { vec![] };
        for stage in stages {
            state = match stage {
                BoundStage::Spansets(expr) => state
                    .into_iter()
                    .map(|set| Spanset { rows: self.spansets(expr, &set.rows), attributes: set.attributes })
                    .filter(|set| !set.rows.is_empty())
                    .collect(),
                BoundStage::ScalarFilter { op, left, right } => state
                    .into_iter()
                    .filter_map(|mut set| {
                        let left = self.scalar(left, &mut set, &universe)?;
                        let right = self.scalar(right, &mut set, &universe)?;
                        compare(*op, &left, &right).then_some(set)
                    })
                    .collect(),
                BoundStage::GroupBy { expr, label } => {
                    state.into_iter().flat_map(|set| self.group(*expr, label, set)).collect()
                }
                BoundStage::Coalesce => coalesce(state),
            };
            if state.is_empty() {
                break;
            }
        }
        state
    }

    fn spansets(&self, expr: &BoundSpansets, rows: &[u32]) -> Vec<u32> {
        match expr {
            BoundSpansets::Filter(filter) => {
                let mask = self.masks[*filter].values();
                rows.iter().copied().filter(|row| mask.value(*row as usize)).collect()
            }
            BoundSpansets::Binary(op, left, right) => {
                // Most traces lack one of the sides: then the other need not be looked for.
                let right = self.spansets(right, rows);
                let needs_right = matches!(
                    op,
                    SpansetOp::And | SpansetOp::Structural { form: StructuralForm::Plain | StructuralForm::Negated, .. }
                );
                if needs_right && right.is_empty() {
                    return vec![];
                }
                let left = self.spansets(left, rows);
                match op {
                    SpansetOp::Structural { form: StructuralForm::Plain, .. } if left.is_empty() => vec![],
                    SpansetOp::And if left.is_empty() || right.is_empty() => vec![],
                    SpansetOp::And | SpansetOp::Or => union(left, right),
                    SpansetOp::Structural { relation, form } => relate(self.tree, *relation, *form, &left, &right),
                }
            }
            BoundSpansets::Pipeline(stages) => {
                let all = Spanset { rows: rows.to_vec(), attributes: vec![] };
                coalesce(self.stages(stages, vec![all])).pop().map_or(vec![], |set| set.rows)
            }
        }
    }

    fn group(&self, expr: usize, label: &str, set: Spanset) -> Vec<Spanset> {
        let mut groups: Vec<(Option<Value>, Vec<u32>)> = vec![];
        let mut known: HashMap<GroupValue, usize> = HashMap::new();
        for row in set.rows {
            let group = *known.entry(GroupValue(self.exprs[expr].value(row as usize).and_then(Value::grouped))).or_insert_with_key(|value| {
                groups.push((value.0.clone(), vec![]));
                groups.len() - 1
            });
            groups[group].1.push(row);
        }
        let with = |value| {
            let mut attributes = set.attributes.clone();
            attributes.push((label.to_owned(), value));
            attributes
        };
        groups.into_iter().map(|(value, rows)| Spanset { rows, attributes: with(value) }).collect()
    }

    fn scalar(&self, scalar: &BoundScalar, set: &mut Spanset, universe: &[u32]) -> Option<Value> {
        match scalar {
            BoundScalar::Literal(value) => value.clone(),
            BoundScalar::Aggregate { function, expr, label } => {
                let value = self.aggregate(*function, *expr, &set.rows)?;
                set.attributes.push((label.clone(), Some(value.clone())));
                Some(value)
            }
            BoundScalar::Binary(op, left, right) => {
                let left = self.scalar(left, set, universe)?;
                let right = self.scalar(right, set, universe)?;
                arithmetic(*op, &left, &right)
            }
            BoundScalar::Negate(operand) => negate(&self.scalar(operand, set, universe)?),
            BoundScalar::Pipeline(stages, scalar) => {
                let all = Spanset { rows: universe.to_vec(), attributes: vec![] };
                let mut inner = coalesce(self.stages(stages, vec![all]))
                    .pop()
                    .unwrap_or(Spanset { rows: vec![], attributes: vec![] });
                self.scalar(scalar, &mut inner, universe)
            }
        }
    }

    /// `None` where no row has a number.
    fn aggregate(&self, function: AggregateFunction, expr: Option<usize>, rows: &[u32]) -> Option<Value> {
        let Some(expr) = expr else {
            return Some(Value::Int(rows.len() as i64));
        };
        let mut values = rows.iter().filter_map(|row| self.exprs[expr].value(*row as usize)).filter(|v| v.number().is_some());
        let first = values.next()?;
        let mut count = 1_i64;
        let total = values.fold(first, |total, value| {
            count += 1;
            // Not-a-number is neither least nor greatest.
            let nothing = total.number().is_some_and(|n| n.as_f64().is_nan());
            match function {
                AggregateFunction::Min | AggregateFunction::Max if nothing => value,
                AggregateFunction::Min if compare(ComparisonOp::Less, &value, &total) => value,
                AggregateFunction::Max if compare(ComparisonOp::Greater, &value, &total) => value,
                AggregateFunction::Min | AggregateFunction::Max => total,
                _ => arithmetic(ArithmeticOp::Add, &total, &value).unwrap_or(total),
            }
        });
        match (function, &total) {
            (AggregateFunction::Avg, Value::Duration(sum)) => Some(Value::Duration(sum / count)),
            (AggregateFunction::Avg, _) => Some(Value::Float(total.number().map_or(0.0, Number::as_f64) / count as f64)),
            _ => Some(total),
        }
    }
}

/// One spanset of all rows, without attributes.
fn coalesce(sets: Vec<Spanset>) -> Vec<Spanset> {
    let mut rows: Vec<u32> = sets.into_iter().flat_map(|set| set.rows).collect();
    rows.sort_unstable();
    rows.dedup();
    if rows.is_empty() { vec![] } else { vec![Spanset { rows, attributes: vec![] }] }
}

fn union(mut left: Vec<u32>, right: Vec<u32>) -> Vec<u32> {
    left.extend(right);
    left.sort_unstable();
    left.dedup();
    left
}

/// A condition that holds on every row a pipeline can look at; `None` if it can look at all of them, as it can at any
/// span's parent.
pub fn rows_needed(pipeline: &Pipeline) -> Option<FieldExpr> {
    if parents::asked_by_pipeline(pipeline) { None } else { stages_need(pipeline) }
}

fn stages_need(pipeline: &Pipeline) -> Option<FieldExpr> {
    let mut all = match pipeline.stages.first()? {
        Stage::Spansets(expr) => spansets_need(expr)?,
        _ => return None,
    };
    for stage in &pipeline.stages {
        if let Stage::ScalarFilter { left, right, .. } = stage {
            for scalar in [left, right] {
                if let Some(need) = scalar_needs(scalar)? {
                    all = FieldExpr::Or(Box::new(all), Box::new(need));
                }
            }
        }
    }
    Some(all)
}

fn spansets_need(expr: &SpansetExpr) -> Option<FieldExpr> {
    match expr {
        SpansetExpr::Filter(condition) => Some(condition.clone()),
        SpansetExpr::Binary { left, right, .. } => {
            Some(FieldExpr::Or(Box::new(spansets_need(left)?), Box::new(spansets_need(right)?)))
        }
        SpansetExpr::Pipeline(pipeline) => stages_need(pipeline),
    }
}

/// Outer `None`: all rows. Inner `None`: no rows of its own.
fn scalar_needs(scalar: &ScalarExpr) -> Option<Option<FieldExpr>> {
    let either = |a: Option<FieldExpr>, b: Option<FieldExpr>| match (a, b) {
        (Some(a), Some(b)) => Some(FieldExpr::Or(Box::new(a), Box::new(b))),
        (a, b) => a.or(b),
    };
    Some(match scalar {
        ScalarExpr::Static(..) | ScalarExpr::Aggregate(_) => None,
        ScalarExpr::Binary { left, right, .. } => either(scalar_needs(left)?, scalar_needs(right)?),
        ScalarExpr::Negate(operand) => scalar_needs(operand)?,
        ScalarExpr::Pipeline(pipeline, inner) => either(Some(stages_need(pipeline)?), scalar_needs(inner)?),
    })
}

/// `Some` if the pipeline is one filter, perhaps with `select`: then every matching row is in its spanset.
pub fn single_filter(pipeline: &Pipeline) -> Option<&FieldExpr> {
    let mut stages = pipeline.stages.iter().filter(|s| !matches!(s, Stage::Select(_)));
    match (stages.next(), stages.next()) {
        (Some(Stage::Spansets(SpansetExpr::Filter(condition))), None) => Some(condition),
        _ => None,
    }
}

/// `{ true }`.
pub fn everything() -> Pipeline {
    let condition = FieldExpr::Static(Static::Bool(true), traceql::ast::Span::default());
    Pipeline { stages: vec![Stage::Spansets(SpansetExpr::Filter(condition))] }
}

