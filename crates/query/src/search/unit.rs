//! The first pass of a search over one source: which of its traces match, and when they start.

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::{Arc, atomic::{AtomicI64, Ordering}},
};

use arrow::{
    array::{AsArray, FixedSizeBinaryArray, Int64Array, RecordBatch},
    datatypes::Int64Type,
};
use block::schema;
use model::TraceId;

use super::{
    hunt::{Hunt, UnitResult, Winner, keep_newest},
    plan::Plan,
};
use crate::{
    conditions::Conditions,
    layout::Layout,
    predicate::{Constant, compile},
    reads::Reads,
    request::{QueryError, TimeRange},
    scan::Scan,
    source::{Source, Unit},
    spansets::{BoundPipeline, Sides, trace_runs},
    split::TraceSet,
    traces::TraceRows,
    walk::Walk,
};

/// The first pass over one source.
pub(super) struct UnitWork {
    pub scan: Scan,
    /// The scan's predicate.
    conditions: Option<Conditions>,
    plan: Arc<Plan>,
    pipeline: Option<BoundPipeline>,
    layout: Layout,
    /// Split traces that are judged when they are merged.
    apart: TraceSet,
    /// Those of them whose times are not known here.
    valueless: TraceSet,
    range: Option<TimeRange>,
    limit: usize,
    oldest_wanted: Arc<AtomicI64>,
    reads: Arc<Reads>,
}

/// The first pass over one unit, as far as it got at once.
pub(super) enum Begun {
    Done(UnitResult),
    /// Its columns are at hand: it goes back in time together with the others.
    Walk(Box<Walk>),
}

/// Each thread reads so many units of a stretch at least: few of those that are not at hand wait for a stretch to end.
const UNITS_PER_THREAD_MIN: usize = 8;

/// Units in stretches whose columns fit into `bytes` together, or of as many as keep `threads` busy.
pub(super) fn at_hand_together(units: Vec<Unit>, bytes: u64, threads: usize) -> Vec<Vec<Unit>> {
    let mut stretches: Vec<Vec<Unit>> = vec![];
    let mut left = 0;
    for unit in units {
        match stretches.last_mut() {
            Some(stretch) if unit.memory_bytes <= left || stretch.len() < threads * UNITS_PER_THREAD_MIN => {
                left = left.saturating_sub(unit.memory_bytes);
                stretch.push(unit);
            }
            _ => {
                left = bytes.saturating_sub(unit.memory_bytes);
                stretches.push(vec![unit]);
            }
        }
    }
    stretches
}

impl UnitWork {
    /// `None` if the source cannot contribute.
    pub fn new(source: &Source, in_range: bool, hunt: &Hunt<'_>) -> Result<Option<Self>, QueryError> {
        let Hunt { sources, plan, request, reads, .. } = hunt;
        let layout = source.layout().clone();
        let predicate = plan.needed.as_ref().map(|needed| compile(needed, &layout)).transpose()?;
        let predicate = match predicate.as_ref().map(|p| p.constant()) {
            Some(Some(Constant::Never)) => return Ok(None),
            Some(Some(Constant::Always)) => None,
            _ => predicate,
        };
        let pipeline = match plan.single {
            true => None,
            false => Some(BoundPipeline::bind(&plan.pipeline, &layout)?),
        };
        // Outside the range only parts of split traces are of interest.
        let traces = (!in_range).then(|| Arc::clone(sources.valueless_ids()));
        Ok(Some(Self {
            conditions: predicate.as_ref().map(Conditions::new),
            scan: Scan { predicate, traces, columns: Some(Self::columns(plan, &layout)?.into_iter().collect()), passing: false },
            plan: Arc::clone(plan),
            pipeline,
            layout,
            apart: plan.asks().apart(sources).clone(),
            valueless: sources.valueless.clone(),
            oldest_wanted: Arc::clone(&hunt.oldest_wanted),
            range: if source.within(request.range) { None } else { request.range },
            limit: request.limit,
            reads: Arc::clone(reads),
        }))
    }

    /// What is read to decide.
    pub fn columns(plan: &Plan, layout: &Layout) -> Result<BTreeSet<String>, QueryError> {
        let mut columns: BTreeSet<String> = [schema::TRACE_ID, schema::TRACE_START, schema::TRACE_DURATION].map(String::from).into();
        columns.extend(BoundPipeline::bind(&plan.pipeline, layout)?.columns().into_iter().filter(|_| !plan.single));
        if let Some(tags) = &plan.legacy {
            columns.extend(tags.columns(layout));
        }
        Ok(columns)
    }

    /// Reads the unit and decides, unless its columns are at hand. `row_groups` are looked at side by side.
    pub async fn begin(&self, unit: Unit, row_groups: usize) -> Result<Begun, QueryError> {
        // Parts of traces outside the range are asked for by id.
        let oldest_wanted = self.oldest_wanted.load(Ordering::Relaxed);
        let whole = if self.scan.traces.is_none() { unit.whole(&self.scan, oldest_wanted, &self.reads).await? } else { None };
        if let Some(whole) = whole {
            return Ok(Begun::Walk(Box::new(Walk::new(whole, &self.scan, self.limit, row_groups))));
        }
        let mut result = UnitResult::default();
        self.decide(&unit.read(&self.scan, &self.reads).await?, &mut result)?;
        keep_newest(&mut result.winners, self.limit);
        Ok(Begun::Done(result))
    }

    /// Takes each row group a step further, and leaves out those in which nothing older can be among the newest that match.
    pub fn step(&self, walks: Vec<Walk>) -> Result<(Vec<Walk>, UnitResult), QueryError> {
        let mut result = UnitResult::default();
        let mut left = Vec::with_capacity(walks.len());
        for mut walk in walks {
            let oldest_wanted = self.oldest_wanted.load(Ordering::Relaxed);
            if self.limit == 0 || walk.over(oldest_wanted) {
                continue;
            }
            let traces = Arc::clone(walk.traces());
            let wanted = |trace: u32| {
                traces.overlaps(trace, self.range) || (!self.valueless.is_empty() && self.valueless.contains(&traces.id(trace)))
            };
            let records = walk.step(&self.scan, self.conditions.as_ref(), oldest_wanted, wanted, &self.reads)?;
            self.reads.trail.rows_kept.fetch_add(records.num_rows() as u64, Ordering::Relaxed);
            self.decide(&records, &mut result)?;
            left.push(walk);
        }
        Ok((left, result))
    }

    /// Decides which of the traces that have rows left match.
    fn decide(&self, records: &RecordBatch, result: &mut UnitResult) -> Result<(), QueryError> {
        if records.num_rows() == 0 {
            return Ok(());
        }
        let runs = trace_runs(records)?;
        result.traces += runs.len() as u32;
        let times = TraceTimes::of(records)?;
        let mut matched = |row: usize, sides: Sides| {
            let (start, id) = (times.start(row), times.id(row));
            let known = self.valueless.is_empty() || !self.valueless.contains(&id);
            if known && !(times.overlaps(row, self.range) && self.plan.wants(start, &id)) {
                return;
            }
            let winner = Winner { start, id };
            if known && !self.apart.contains(&id) { result.winners.push(winner) } else { result.touched.push((winner, sides)) }
        };
        match (&self.pipeline, &self.plan.legacy) {
            (None, _) => runs.iter().for_each(|run| matched(run.start, Sides::ALL)),
            (Some(pipeline), tags) => {
                // A part of a split trace cannot tell whether the whole matches, so every part counts.
                let apart = |run: &Range<usize>| !self.apart.is_empty() && self.apart.contains(&times.id(run.start));
                let (parts, whole): (Vec<_>, Vec<_>) = runs.into_iter().partition(apart);
                if let Some(tags) = tags {
                    parts.iter().for_each(|run| matched(run.start, Sides::ALL));
                    if !whole.is_empty() {
                        tags.matching(records, &self.layout, &whole, &mut |row| matched(row, Sides::ALL))?;
                    }
                    return Ok(());
                }
                let masks = pipeline.masks(records, &self.reads)?;
                parts.iter().for_each(|run| matched(run.start, pipeline.sides(&masks, run)));
                if !whole.is_empty() {
                    pipeline.evaluate_masked(records, &masks, &self.reads, |run, _| if !apart(&run) { matched(run.start, Sides::ALL) })?;
                }
            }
        }
        Ok(())
    }
}

/// The whole-trace times of rows.
pub(super) struct TraceTimes<'a> {
    ids: &'a FixedSizeBinaryArray,
    starts: &'a Int64Array,
    pub durations: &'a Int64Array,
}

impl<'a> TraceTimes<'a> {
    pub fn of(records: &'a RecordBatch) -> Result<Self, QueryError> {
        let column = |name: &str| {
            records.column_by_name(name).ok_or_else(|| QueryError::internal(format!("rows without column {name}")))
        };
        Ok(Self {
            ids: column(schema::TRACE_ID)?.as_fixed_size_binary(),
            starts: column(schema::TRACE_START)?.as_primitive::<Int64Type>(),
            durations: column(schema::TRACE_DURATION)?.as_primitive::<Int64Type>(),
        })
    }

    pub fn id(&self, row: usize) -> TraceId {
        TraceId::from_slice(self.ids.value(row)).unwrap_or_default()
    }

    pub fn start(&self, row: usize) -> i64 {
        self.starts.value(row)
    }

    pub fn overlaps(&self, row: usize, range: Option<TimeRange>) -> bool {
        range.is_none_or(|range| {
            let start = self.starts.value(row);
            start <= range.end && start.saturating_add(self.durations.value(row)) >= range.start
        })
    }
}

/// The first pass over merged rows.
pub(super) fn matching_traces(rows: &TraceRows, plan: &Plan, range: Option<TimeRange>, reads: &Reads) -> Result<Vec<Winner>, QueryError> {
    let times = TraceTimes::of(&rows.records)?;
    let mut winners = vec![];
    let mut matched = |row: usize| {
        if times.overlaps(row, range) && plan.wants(times.start(row), &times.id(row)) {
            winners.push(Winner { start: times.start(row), id: times.id(row) });
        }
    };
    match &plan.legacy {
        Some(tags) => tags.matching(&rows.records, &rows.layout, &trace_runs(&rows.records)?, &mut matched)?,
        None => BoundPipeline::bind(&plan.pipeline, &rows.layout)?.evaluate(&rows.records, reads, |run, _| matched(run.start))?,
    }
    Ok(winners)
}
