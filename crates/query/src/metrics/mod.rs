//! TraceQL metrics: series over time, computed from the matching spans.
//!
//! Each part of the data yields a partial table of (group, interval) cells; cells of all parts are added up
//! exactly, so the answer does not depend on how the data is cut into blocks. Series are made of the cells
//! at the end.

mod cells;
mod compare;
pub(crate) mod groups;
mod intervals;
mod series;

use std::{collections::BTreeSet, sync::Arc};

use block::schema;
use model::TenantId;
use proto::tempopb;
use traceql::ast::{Attribute, FieldExpr, MetricsExpr, MetricsFunction, MetricsQuery, QueryBody};

use crate::{
    engine::{Answer, Engine},
    layout::Layout,
    matching::Matching,
    parents,
    explain::Trail,
    reads::Reads,
    request::{MetricsRequest, QueryError},
    spansets::{BoundPipeline, rows_needed, single_filter},
    traces::TraceRows,
};

use self::{cells::Cells, intervals::Intervals, series::Series};

pub use self::intervals::{INTERVALS_MAX, default_step};

/// Cells one query may fill: groups times intervals. At 8 to 40 bytes each this bounds its memory.
const CELLS_MAX: usize = 20_000_000;

impl Engine {
    pub fn query_range<'a>(&'a self, tenants: &'a [TenantId], request: MetricsRequest) -> Answer<'a, tempopb::QueryRangeResponse> {
        Box::pin(self.over_range(tenants, request))
    }

    async fn over_range(&self, tenants: &[TenantId], request: MetricsRequest) -> Result<tempopb::QueryRangeResponse, QueryError> {
        let intervals = Intervals::range(request.start, request.end, request.step)?;
        let reads = self.reads();
        let (series, metrics) = self.despite_broken_blocks(&reads, || self.series(tenants, &request, intervals, &reads)).await?;
        let (series, status, message) = series::limited(series, request.series_max, reads.partial());
        Ok(tempopb::QueryRangeResponse {
            series: series.into_iter().map(|s| s.over_time(&intervals)).filter(|s| !s.samples.is_empty()).collect(),
            metrics: Some(metrics),
            status,
            message,
        })
    }

    pub fn query_instant<'a>(&'a self, tenants: &'a [TenantId], request: MetricsRequest) -> Answer<'a, tempopb::QueryInstantResponse> {
        Box::pin(self.at_instant(tenants, request))
    }

    async fn at_instant(&self, tenants: &[TenantId], request: MetricsRequest) -> Result<tempopb::QueryInstantResponse, QueryError> {
        let intervals = Intervals::instant(request.start, request.end)?;
        let reads = self.reads();
        let (series, metrics) = self.despite_broken_blocks(&reads, || self.series(tenants, &request, intervals, &reads)).await?;
        let (series, status, message) = series::limited(series, request.series_max, reads.partial());
        Ok(tempopb::QueryInstantResponse {
            series: series.into_iter().filter_map(Series::at_once).collect(),
            metrics: Some(metrics),
            status,
            message,
        })
    }

    async fn series(
        &self,
        tenants: &[TenantId],
        request: &MetricsRequest,
        intervals: Intervals,
        reads: &Arc<Reads>,
    ) -> Result<(Vec<Series>, tempopb::SearchMetrics), QueryError> {
        use std::sync::atomic::Ordering;
        let query = traceql::parse(&request.query).map_err(|e| QueryError::invalid(format!("invalid TraceQL query: {e}")))?;
        let QueryBody::Metrics(expr) = query.body else {
            return Err(QueryError::invalid(
                "invalid TraceQL query: this is a search, not a metrics query; add a function such as `| rate()`, or send it to /api/search",
            ));
        };
        let mut metrics = tempopb::SearchMetrics::default();
        let series = self.expr(tenants, &expr, intervals, reads, &mut metrics).await?;
        metrics.inspected_bytes = reads.bytes.load(Ordering::Relaxed);
        metrics.inspected_spans = reads.spans.load(Ordering::Relaxed);
        (metrics.completed_jobs, metrics.total_jobs) = reads.jobs();
        Ok((series::sorted(series), metrics))
    }

    /// Boxed, because arithmetic nests. The parser bounds how deep.
    fn expr<'a>(
        &'a self,
        tenants: &'a [TenantId],
        expr: &'a MetricsExpr,
        intervals: Intervals,
        reads: &'a Arc<Reads>,
        metrics: &'a mut tempopb::SearchMetrics,
    ) -> futures::future::BoxFuture<'a, Result<Vec<Series>, QueryError>> {
        Box::pin(async move {
            Ok(match expr {
                MetricsExpr::Number(number) => vec![Series::constant(*number, &intervals)],
                MetricsExpr::Query(query) => self.one_query(tenants, query, intervals, reads, metrics).await?,
                MetricsExpr::Binary { op, left, right } => {
                    let left = self.expr(tenants, left, intervals, reads, metrics).await?;
                    let right = self.expr(tenants, right, intervals, reads, metrics).await?;
                    series::combine(*op, left, right)
                }
            })
        })
    }

    async fn one_query(
        &self,
        tenants: &[TenantId],
        query: &MetricsQuery,
        intervals: Intervals,
        reads: &Arc<Reads>,
        metrics: &mut tempopb::SearchMetrics,
    ) -> Result<Vec<Series>, QueryError> {
        let work = Arc::new(Work::new(query.clone(), intervals));
        work.explain(&reads.trail);
        let mut total = Cells::new(&query.function);
        for tenant in tenants {
            let sources = self.sources(tenant, reads).await?;
            sources.count_blocks(Some(intervals.covered()), metrics);
            let columns = |layout: &Layout| work.columns(layout);
            let matching = Matching {
                condition: work.condition.as_ref(),
                started: work.single.then_some(intervals.covered()),
                sources: Some(intervals.covered()),
                columns: &columns,
            };
            let counting = Arc::clone(&work);
            let add = |part| {
                total.add(part);
                few_cells(total.len())
            };
            self.each_match(&sources, &matching, reads, move |rows| counting.part(&rows), add).await?;
        }
        let mut series = total.into_series(query, &intervals);
        for stage in &query.second {
            series = series::second_stage(series, stage);
        }
        Ok(series)
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

/// One metrics query, ready for any part of the data.
struct Work {
    query: MetricsQuery,
    intervals: Intervals,
    /// Holds on every row the pipeline looks at.
    condition: Option<FieldExpr>,
    /// The pipeline is one filter: every matching row counts.
    single: bool,
}

impl Work {
    fn new(query: MetricsQuery, intervals: Intervals) -> Self {
        let parents = parents::asked_by_metrics(&query);
        Self {
            condition: if parents { None } else { rows_needed(&query.pipeline) },
            single: !parents && single_filter(&query.pipeline).is_some(),
            intervals,
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
        match &self.query.function {
            MetricsFunction::Rate | MetricsFunction::CountOverTime | MetricsFunction::Compare { .. } => {}
            MetricsFunction::MinOverTime(name)
            | MetricsFunction::MaxOverTime(name)
            | MetricsFunction::SumOverTime(name)
            | MetricsFunction::AvgOverTime(name)
            | MetricsFunction::QuantileOverTime(name, _)
            | MetricsFunction::HistogramOverTime(name) => names.push(name),
        }
        names
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

    fn part(&self, rows: &TraceRows) -> Result<Cells, QueryError> {
        let mut selected: Option<Vec<u32>> = None;
        if !self.single {
            let mut found = vec![];
            let pipeline = BoundPipeline::bind(&self.query.pipeline, &rows.layout)?;
            pipeline.evaluate(&rows.records, |_, sets| found.extend(sets.into_iter().flat_map(|set| set.rows)))?;
            found.sort_unstable();
            found.dedup();
            selected = Some(found);
        }
        match &self.query.function {
            MetricsFunction::Compare { selection, range, .. } => {
                compare::count(rows, selected.as_deref(), selection, *range, &self.intervals)
            }
            function => cells::fill(rows, selected.as_deref(), function, &self.query.by, &self.intervals),
        }
    }
}
