//! TraceQL metrics: series over time, computed from the matching spans.
//!
//! Each part of the data yields a partial table of (group, interval) cells; cells of all parts are added up
//! exactly, so the answer does not depend on how the data is cut into blocks. Series are made of the cells
//! at the end.

mod cells;
mod compare;
mod exemplars;
pub(crate) mod groups;
mod intervals;
mod series;
mod told;

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use block::schema;
use model::TenantId;
use proto::tempopb;
use traceql::ast::{Attribute, FieldExpr, MetricsExpr, MetricsFunction, MetricsQuery, Query, QueryBody, Static};

use crate::{
    engine::{Answer, Engine},
    layout::Layout,
    matching::{Asks, Matching},
    memory::Held,
    parents,
    explain::Trail,
    partial::Partial,
    reads::Reads,
    request::{MetricsRequest, QueryError},
    search::asks_whole_trace,
    spansets::{BoundPipeline, rows_needed, single_filter},
    traces::TraceRows,
};

use self::{
    cells::Cells,
    exemplars::{EXEMPLARS_DEFAULT, Exemplars},
    intervals::Intervals,
    series::{Series, SeriesSet},
    told::Telling,
};

pub(crate) use self::cells::measured;
pub use self::cells::duration_quantile;
pub use self::intervals::{INTERVALS_MAX, default_step};

/// Cells one query may fill, whatever memory it may have: groups times intervals.
const CELLS_MAX: usize = 20_000_000;

/// What is asked of every part of an expression.
#[derive(Clone, Copy)]
struct Asked<'a> {
    tenants: &'a [TenantId],
    request: &'a MetricsRequest,
    intervals: Intervals,
    reads: &'a Arc<Reads>,
    telling: Option<&'a Telling<'a>>,
    exemplars: usize,
}

/// The answer to a streamed range query.
pub struct RangeAnswer {
    /// Samples that were told before and that the answer has not, each as not-a-number: to be sent before the answer, as a
    /// client keeps the newest sample of each series and time.
    pub taken_back: Vec<tempopb::TimeSeries>,
    pub answer: tempopb::QueryRangeResponse,
}

impl Engine {
    pub fn query_range<'a>(&'a self, tenants: &'a [TenantId], request: MetricsRequest) -> Answer<'a, tempopb::QueryRangeResponse> {
        Box::pin(async move { Ok(self.over_range(tenants, request, None).await?.answer) })
    }

    /// A query that tells its series before it is over, with the samples as they are so far. What is told again or stands in
    /// the answer takes the place of what was told; what the answer has not is taken back before it: of a block that turned out
    /// to be damaged after its spans were told, and of series beyond the most. Of stages that may drop samples again (`topk`,
    /// comparisons), of `compare()` and of arithmetic nothing is told.
    pub fn query_range_telling<'a>(
        &'a self,
        tenants: &'a [TenantId],
        request: MetricsRequest,
        partial: &'a Partial<tempopb::QueryRangeResponse>,
    ) -> Answer<'a, RangeAnswer> {
        Box::pin(self.over_range(tenants, request, Some(partial)))
    }

    async fn over_range(
        &self,
        tenants: &[TenantId],
        request: MetricsRequest,
        partial: Option<&Partial<tempopb::QueryRangeResponse>>,
    ) -> Result<RangeAnswer, QueryError> {
        let intervals = Intervals::range(request.start, request.end, request.step)?;
        let reads = self.reads();
        let telling = partial.map(|partial| Telling::new(partial, reads.held()));
        let asked = Asked { tenants, request: &request, intervals, reads: &reads, telling: telling.as_ref(), exemplars: request.exemplars_max };
        let (mut set, metrics) = self.despite_broken_blocks(&reads, || self.series(asked)).await?;
        let told = telling.map(Telling::told).unwrap_or_default();
        let (status, message) = series::limited(&mut set.series, request.series_max, reads.partial());
        set.charge_answer()?;
        let series = set.series.into_iter().map(|s| s.over_time(&intervals)).filter(|s| !s.samples.is_empty()).collect();
        let answer = tempopb::QueryRangeResponse { series, metrics: Some(metrics), status, message };
        Ok(RangeAnswer { taken_back: told.without(&answer.series), answer })
    }

    pub fn query_instant<'a>(&'a self, tenants: &'a [TenantId], request: MetricsRequest) -> Answer<'a, tempopb::QueryInstantResponse> {
        Box::pin(self.at_instant(tenants, request))
    }

    async fn at_instant(&self, tenants: &[TenantId], request: MetricsRequest) -> Result<tempopb::QueryInstantResponse, QueryError> {
        let intervals = Intervals::instant(request.start, request.end)?;
        let reads = self.reads();
        let asked = Asked { tenants, request: &request, intervals, reads: &reads, telling: None, exemplars: 0 };
        let (mut set, metrics) = self.despite_broken_blocks(&reads, || self.series(asked)).await?;
        let (status, message) = series::limited(&mut set.series, request.series_max, reads.partial());
        set.charge_answer()?;
        Ok(tempopb::QueryInstantResponse {
            series: set.series.into_iter().filter_map(Series::at_once).collect(),
            metrics: Some(metrics),
            status,
            message,
        })
    }

    async fn series(&self, asked: Asked<'_>) -> Result<(SeriesSet, tempopb::SearchMetrics), QueryError> {
        let stage = asked.reads.trail.stage("parse and plan");
        let query = traceql::parse(&asked.request.query).map_err(|e| QueryError::invalid(format!("invalid TraceQL query: {e}")))?;
        drop(stage);
        let asked = Asked { exemplars: exemplars_wanted(&query, asked.request).min(asked.exemplars), ..asked };
        let QueryBody::Metrics(expr) = query.body else {
            return Err(QueryError::invalid(
                "invalid TraceQL query: this is a search, not a metrics query; add a function such as `| rate()`, or send it to /api/search",
            ));
        };
        // Of arithmetic no part is told.
        let asked = Asked { telling: asked.telling.filter(|_| matches!(expr, MetricsExpr::Query(_))), ..asked };
        let mut metrics = tempopb::SearchMetrics::default();
        let series = self.expr(&expr, asked, &mut metrics).await?;
        Ok((series.sorted()?, worked(metrics, asked.reads)))
    }

    /// Boxed, because arithmetic nests. The parser bounds how deep.
    fn expr<'a>(
        &'a self,
        expr: &'a MetricsExpr,
        asked: Asked<'a>,
        metrics: &'a mut tempopb::SearchMetrics,
    ) -> futures::future::BoxFuture<'a, Result<SeriesSet, QueryError>> {
        Box::pin(async move {
            Ok(match expr {
                MetricsExpr::Number(number) => SeriesSet::constant(*number, &asked.intervals, asked.reads.held())?,
                MetricsExpr::Query(query) => self.one_query(query, asked, metrics).await?,
                MetricsExpr::Binary { op, left, right } => {
                    let left = self.expr(left, asked, metrics).await?;
                    let right = self.expr(right, asked, metrics).await?;
                    series::combine(*op, left, right)?
                }
            })
        })
    }

    async fn one_query(
        &self,
        query: &MetricsQuery,
        asked: Asked<'_>,
        metrics: &mut tempopb::SearchMetrics,
    ) -> Result<SeriesSet, QueryError> {
        let Asked { intervals, reads, .. } = asked;
        let work = Arc::new(Work::new(query.clone(), intervals, asked.exemplars));
        work.explain(&reads.trail);
        let mut total = Part { cells: Cells::new(&query.function), exemplars: Exemplars::new(asked.exemplars), held: reads.held() };
        let may_drop = !query.second.is_empty() || matches!(query.function, MetricsFunction::Compare { .. });
        let telling = asked.telling.filter(|_| !may_drop);
        let mut told = Instant::now();
        for tenant in asked.tenants {
            let sources = self.sources(tenant, reads).await?;
            sources.count_blocks(Some(intervals.covered()), metrics);
            let columns = |layout: &Layout| work.columns(layout);
            let matching = Matching {
                condition: work.condition.as_ref(),
                started: work.single.then_some(intervals.covered()),
                sources: Some(intervals.covered()),
                left_out: &BTreeSet::new(),
                columns: &columns,
                asks: work.asks(),
            };
            let (counting, time) = (Arc::clone(&work), Arc::clone(reads));
            let add = |part: Part| {
                total.add(part);
                few_cells(total.cells.len())?;
                if let Some(telling) = telling.filter(|telling| telling.due(told)) {
                    telling.tell(&total, query, asked, *metrics);
                    told = Instant::now();
                }
                Ok(())
            };
            self.each_match(&sources, &matching, reads, move |rows| counting.part(&rows, &time), add).await?;
        }
        let Part { cells, exemplars, mut held } = total;
        let series = cells.into_series(query, &intervals, &exemplars, &mut held)?;
        let mut set = SeriesSet { series, held };
        for stage in &query.second {
            set = series::second_stage(set, stage)?;
        }
        Ok(set)
    }
}

/// With what was read up to now.
fn worked(mut metrics: tempopb::SearchMetrics, reads: &Reads) -> tempopb::SearchMetrics {
    metrics.inspected_bytes = reads.bytes.load(Ordering::Relaxed);
    metrics.inspected_spans = reads.spans.load(Ordering::Relaxed);
    (metrics.completed_jobs, metrics.total_jobs) = reads.jobs();
    metrics
}

/// `with(exemplars=false)` wants none; a number says how many.
fn exemplars_wanted(query: &Query, request: &MetricsRequest) -> usize {
    match query.hint("exemplars") {
        Some(Static::Bool(false)) => 0,
        Some(Static::Int(number)) => usize::try_from(*number).unwrap_or(0),
        _ => request.exemplars.unwrap_or(EXEMPLARS_DEFAULT),
    }
}

/// # Errors
/// `BudgetExceeded` if there are more than [`CELLS_MAX`].
fn few_cells(cells: usize) -> Result<(), QueryError> {
    if cells > CELLS_MAX {
        return Err(QueryError::new(
            model::ErrorKind::BudgetExceeded,
            format!("the query has more than {CELLS_MAX} groups times intervals: group by fewer or less diverse attributes, or ask for a shorter range or a larger step"),
        ));
    }
    Ok(())
}

/// What a part of the data says, and the memory that it takes.
struct Part {
    cells: Cells,
    exemplars: Exemplars,
    held: Held,
}

impl Part {
    fn add(&mut self, other: Self) {
        self.held.absorb(other.held);
        let exemplars = self.exemplars.heap_bytes() + other.exemplars.heap_bytes();
        self.exemplars.add(other.exemplars);
        let freed = exemplars - self.exemplars.heap_bytes() + self.cells.add(other.cells);
        self.held.shrink(freed);
    }
}

/// One metrics query, ready for any part of the data.
struct Work {
    query: MetricsQuery,
    intervals: Intervals,
    /// The most.
    exemplars: usize,
    /// Holds on every row the pipeline looks at.
    condition: Option<FieldExpr>,
    /// The pipeline is one filter: every matching row counts.
    single: bool,
}

impl Work {
    fn new(query: MetricsQuery, intervals: Intervals, exemplars: usize) -> Self {
        let parents = parents::asked_by_metrics(&query);
        Self {
            condition: if parents { None } else { rows_needed(&query.pipeline) },
            single: !parents && single_filter(&query.pipeline).is_some(),
            intervals,
            exemplars,
            query,
        }
    }

    fn explain(&self, trail: &Trail) {
        trail.plan(format!("query: {}", self.query));
        trail.plan(format!("intervals: {} of {} s", self.intervals.count, self.intervals.step_seconds()));
        match &self.condition {
            Some(condition) => trail.plan(format!("rows read: {{ {condition} }}")),
            None => trail.plan("rows read: all, because the pipeline looks at all"),
        }
        trail.plan(if self.single { "every row that is read is counted" } else { "evaluated trace by trace" });
    }

    /// The names whose values the function or the grouping reads.
    fn names(&self) -> Vec<&Attribute> {
        let mut names: Vec<&Attribute> = self.query.by.iter().collect();
        names.extend(measured(&self.query.function));
        names
    }

    /// What it takes beside the condition to be known of a span's trace.
    fn asks(&self) -> Asks {
        let compares = matches!(self.query.function, MetricsFunction::Compare { .. });
        if !self.single {
            Asks::Trace
        } else if compares || self.names().into_iter().any(asks_whole_trace) {
            Asks::Values
        } else {
            Asks::Span
        }
    }

    fn columns(&self, layout: &Layout) -> Result<Option<BTreeSet<String>>, QueryError> {
        if let MetricsFunction::Compare { selection, .. } = &self.query.function {
            let mut columns = compare::columns(layout, selection)?;
            columns.extend(BoundPipeline::bind(&self.query.pipeline, layout)?.columns());
            return Ok(Some(columns));
        }
        let mut columns: BTreeSet<String> = [schema::START_TIME.to_owned()].into();
        for name in self.names() {
            columns.extend(layout.places(name).columns().map(str::to_owned));
        }
        if !self.single {
            columns.extend(BoundPipeline::bind(&self.query.pipeline, layout)?.columns());
        }
        Ok(Some(columns))
    }

    fn part(&self, rows: &TraceRows, reads: &Reads) -> Result<Part, QueryError> {
        let mut held = reads.held();
        let mut exemplars = Exemplars::new(self.exemplars);
        let mut selected: Option<Vec<u32>> = None;
        if !self.single {
            let mut found = vec![];
            let pipeline = BoundPipeline::bind(&self.query.pipeline, &rows.layout)?;
            pipeline.evaluate(&rows.records, reads, |_, sets| found.extend(sets.into_iter().flat_map(|set| set.rows)))?;
            found.sort_unstable();
            found.dedup();
            selected = Some(found);
        }
        let cells = match &self.query.function {
            MetricsFunction::Compare { selection, range, .. } => {
                compare::count(rows, selected.as_deref(), (selection, *range), &self.intervals, reads, &mut held)?
            }
            function => {
                cells::fill(rows, selected.as_deref(), (function, self.query.by.as_slice()), &self.intervals, &mut exemplars, &mut held)?
            }
        };
        Ok(Part { cells, exemplars, held })
    }
}
