//! Search: the newest traces that have spansets, and their first spans.
//!
//! Two passes. The first reads only what decides: which traces match, and when they start. The second
//! fetches whole traces for the few winners and evaluates the query on them again, for what is shown.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Range,
    sync::{Arc, atomic::{AtomicI64, Ordering}},
};

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::Int64Type,
};
use block::schema;
use model::{ErrorKind, TenantId, TraceId};
use proto::tempopb;
use traceql::ast::{Attribute, AttributeName, FieldExpr, Intrinsic, Pipeline, QueryBody, Scope, SpanOfName};

use crate::{
    conditions::Conditions,
    engine::{Answer, Engine, MERGE_NARROW_TRACES_MAX, MERGE_TRACES_MAX, merge_chunks},
    layout::Layout,
    explain::{Pruned, Trail},
    legacy,
    matching::Asks,
    mentioned::{in_field, names},
    partial::{Partial, Progress},
    predicate::{Constant, compile},
    reader::{Reader, Strings},
    reads::Reads,
    request::{Cursor, QueryError, SearchFilter, SearchRequest, TimeRange},
    scan::Scan,
    shown::SpanWriter,
    source::{Source, Sources, Unit},
    spansets::{BoundPipeline, Sides, everything, rows_needed, single_filter, trace_runs},
    split::TraceSet,
    traces::TraceRows,
    value::Value,
    walk::Walk,
};

/// What is shown for a trace whose root span is not there, or has no service.
const ROOT_MISSING: &str = "<root span not yet received>";

/// A search, ready to run on any layout.
pub(crate) struct Plan {
    pub pipeline: Pipeline,
    /// Holds on every row the pipeline looks at.
    pub needed: Option<FieldExpr>,
    /// Every matching row is a result: no evaluation per trace is needed to decide.
    pub single: bool,
    /// The filter asks about the trace as a whole, so that a part of a trace cannot answer it.
    pub asks_whole_trace: bool,
    pub shown: Vec<Attribute>,
    /// Tempo's old search answers without spans.
    pub legacy: Option<legacy::Tags>,
    /// Only traces behind it.
    pub after: Option<Cursor>,
}

impl Plan {
    fn new(filter: &SearchFilter) -> Result<Self, QueryError> {
        match filter {
            SearchFilter::TraceQl(text) if text.trim().is_empty() => Ok(Self::of(everything())),
            SearchFilter::TraceQl(text) => {
                let query = traceql::parse(text).map_err(|e| QueryError::invalid(format!("invalid TraceQL query: {e}")))?;
                match query.body {
                    QueryBody::Search(pipeline) => Ok(Self::of(pipeline)),
                    QueryBody::Metrics(_) => Err(QueryError::invalid(
                        "invalid TraceQL query: this is a metrics query; send it to /api/metrics/query_range, or leave out the metrics function to search",
                    )),
                }
            }
            SearchFilter::Tags { tags, duration_min_ns, duration_max_ns } => {
                let tags = legacy::Tags::new(tags, *duration_min_ns, *duration_max_ns);
                Ok(Self { legacy: Some(tags), single: false, asks_whole_trace: true, ..Self::of(everything()) })
            }
        }
    }

    /// Of a TraceQL search.
    pub fn of_text(text: &str) -> Result<Self, QueryError> {
        Self::new(&SearchFilter::TraceQl(text.to_owned()))
    }

    pub fn of(pipeline: Pipeline) -> Self {
        let needed = rows_needed(&pipeline);
        let shown = names(&pipeline);
        Self {
            single: needed.is_some() && single_filter(&pipeline).is_some(),
            asks_whole_trace: shown.iter().any(asks_whole_trace) || needed.as_ref().is_none_or(mentions_whole_trace),
            needed,
            shown,
            pipeline,
            legacy: None,
            after: None,
        }
    }
}

impl Plan {
    fn wants(&self, start: i64, id: &TraceId) -> bool {
        self.after.is_none_or(|after| after.precedes(start, id))
    }

    /// What it takes to decide whether a trace matches.
    fn asks(&self) -> Asks {
        if self.single { Asks::Values } else { Asks::Trace }
    }

    pub(crate) fn explain(&self, trail: &Trail) {
        if self.legacy.is_some() {
            trail.plan("every tag somewhere in the trace, evaluated trace by trace");
            return;
        }
        trail.plan(format!("query: {}", self.pipeline));
        match &self.needed {
            Some(needed) => trail.plan(format!("rows read: {{ {needed} }}")),
            None => trail.plan("rows read: all, because the pipeline looks at all"),
        }
        trail.plan(match self.single {
            true => "every row that is read belongs to a result",
            false => "evaluated trace by trace",
        });
        if self.asks() == Asks::Trace {
            trail.plan("relates the spans of a trace: split traces with rows that are read are merged");
        }
    }
}

pub(crate) fn mentions_whole_trace(expr: &FieldExpr) -> bool {
    let mut found = vec![];
    in_field(expr, &mut found);
    found.iter().any(asks_whole_trace)
}

/// Whether a name's value depends on other spans of the trace.
pub(crate) fn asks_whole_trace(attribute: &Attribute) -> bool {
    attribute.of_parent
        || matches!(
            attribute.name,
            AttributeName::Intrinsic(
                Intrinsic::TraceDuration
                    | Intrinsic::RootName
                    | Intrinsic::RootServiceName
                    | Intrinsic::ChildCount
                    | Intrinsic::NestedSetLeft
                    | Intrinsic::NestedSetRight
                    | Intrinsic::NestedSetParent
                    | Intrinsic::Parent
            )
        )
}

/// A trace that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Winner {
    start: i64,
    id: TraceId,
}

/// What one unit brings.
#[derive(Default)]
struct UnitResult {
    winners: Vec<Winner>,
    /// Split traces with rows that match, to be evaluated whole, when they start at the latest, and what these rows pass.
    touched: Vec<(Winner, Sides)>,
    traces: u32,
}

/// Traces that are merged and judged, in the first lot; each further one is twice as large.
const JUDGED_FIRST: usize = 64;
/// So many are judged newest first, as the newest may be all that is wanted; then the rest, in the order of their ids, which takes
/// few pages for each.
const JUDGED_NEWEST: usize = 8192;
/// Split traces that wait to be judged before a search that has not enough judges them; each time so many times more.
const JUDGED_GROWTH: usize = 4;

/// What is known of a split trace that may match.
#[derive(Clone, Copy)]
struct Pending {
    /// When it starts at the latest.
    latest: i64,
    sides: Sides,
}

/// What each takes in memory, about.
const PENDING_BYTES: usize = 64;

/// How far a search has got in one tenant.
struct Hunt<'a> {
    sources: &'a Sources,
    plan: &'a Arc<Plan>,
    request: &'a SearchRequest,
    reads: &'a Arc<Reads>,
    /// The newest that match, newest first.
    winners: Vec<Winner>,
    /// Split traces that may match, as far as their parts were found.
    pending: HashMap<TraceId, Pending>,
    /// So many of them have parts that pass all that it takes.
    ready: usize,
    /// Says so; `None` if one part is enough.
    pipeline: Option<BoundPipeline>,
    judged: HashSet<TraceId>,
    /// So many pending ones are judged at once.
    due: usize,
    /// No trace that starts before can be among the newest: a full list of later ones is known.
    oldest_wanted: Arc<AtomicI64>,
    inspected: u32,
}

impl<'a> Hunt<'a> {
    fn new(sources: &'a Sources, plan: &'a Arc<Plan>, request: &'a SearchRequest, reads: &'a Arc<Reads>) -> Result<Self, QueryError> {
        // Filters have the same numbers in all layouts.
        let layout = sources.all.first().map(|source| source.layout()).filter(|_| !plan.single && plan.legacy.is_none());
        let pipeline = layout.map(|layout| BoundPipeline::bind(&plan.pipeline, layout)).transpose()?;
        let oldest_wanted = Arc::new(AtomicI64::new(i64::MIN));
        let due = request.limit.max(JUDGED_FIRST);
        let (winners, pending, judged) = (vec![], HashMap::new(), HashSet::new());
        Ok(Self { sources, plan, request, reads, winners, pending, ready: 0, pipeline, judged, due, oldest_wanted, inspected: 0 })
    }

    fn take(&mut self, result: UnitResult) {
        self.inspected += result.traces;
        for (Winner { start, id }, sides) in result.touched {
            if !self.judged.contains(&id) {
                let before = self.pending.get(&id).copied();
                let known = before.map_or(Pending { latest: start, sides }, |known| Pending { latest: start.min(known.latest), sides: known.sides.and(sides) });
                self.ready += usize::from(self.is_ready(&known) && !before.is_some_and(|before| self.is_ready(&before)));
                self.pending.insert(id, known);
            }
        }
        self.won(result.winners);
    }

    fn is_ready(&self, known: &Pending) -> bool {
        self.pipeline.as_ref().is_none_or(|pipeline| pipeline.may_match(known.sides))
    }

    /// Takes those that may match by what is known of them now. Others may have parts that were not looked at yet.
    fn take_ready(&mut self) -> Vec<Winner> {
        let pending = std::mem::take(&mut self.pending);
        let (ready, rest): (Vec<_>, Vec<_>) = pending.into_iter().partition(|(_, known)| self.is_ready(known));
        self.pending = rest.into_iter().collect();
        self.ready = 0;
        ready.into_iter().map(|(id, known)| Winner { start: known.latest, id }).collect()
    }

    fn won(&mut self, winners: Vec<Winner>) {
        self.winners.extend(winners);
        keep_newest(&mut self.winners, self.request.limit);
        if let Some(last) = self.winners.get(self.request.limit.wrapping_sub(1)) {
            self.oldest_wanted.fetch_max(last.start, Ordering::Relaxed);
        }
    }

    fn wants(&self, start: i64) -> bool {
        start >= self.oldest_wanted.load(Ordering::Relaxed)
    }
}

impl Engine {
    pub fn search<'a>(&'a self, tenants: &'a [TenantId], request: SearchRequest) -> Answer<'a, tempopb::SearchResponse> {
        self.search_telling(tenants, request, None)
    }

    /// A search that tells what it is certain of before it is over. The answer has those traces too. A search in
    /// several tenants tells nothing: what the next one has may be newer.
    pub fn search_telling<'a>(
        &'a self,
        tenants: &'a [TenantId],
        request: SearchRequest,
        partial: Option<&'a Partial<tempopb::SearchResponse>>,
    ) -> Answer<'a, tempopb::SearchResponse> {
        Box::pin(self.newest(tenants, request, None, partial.filter(|_| tenants.len() == 1)))
    }

    /// The page of a search behind a cursor, or the first; and the cursor for the next one if there may be more.
    pub fn search_page<'a>(
        &'a self,
        tenants: &'a [TenantId],
        request: SearchRequest,
        after: Option<Cursor>,
    ) -> Answer<'a, (tempopb::SearchResponse, Option<Cursor>)> {
        Box::pin(async move {
            let limit = request.limit;
            let page = self.newest(tenants, request, after, None).await?;
            let last = page.traces.last().filter(|_| page.traces.len() == limit);
            let cursor = last.and_then(|trace| {
                Some(Cursor { start: trace.start_time_unix_nano as i64, id: TraceId::parse(&trace.trace_id).ok()? })
            });
            Ok((page, cursor))
        })
    }

    async fn newest(
        &self,
        tenants: &[TenantId],
        request: SearchRequest,
        after: Option<Cursor>,
        partial: Option<&Partial<tempopb::SearchResponse>>,
    ) -> Result<tempopb::SearchResponse, QueryError> {
        let reads = self.reads();
        let plan = {
            let _stage = reads.trail.stage("parse and plan");
            Arc::new(Plan { after, ..Plan::new(&request.filter)? })
        };
        plan.explain(&reads.trail);
        self.despite_broken_blocks(&reads, || self.searched(tenants, &plan, &request, &reads, partial)).await
    }

    async fn searched(
        &self,
        tenants: &[TenantId],
        plan: &Arc<Plan>,
        request: &SearchRequest,
        reads: &Arc<Reads>,
        partial: Option<&Partial<tempopb::SearchResponse>>,
    ) -> Result<tempopb::SearchResponse, QueryError> {
        let mut traces = vec![];
        let mut metrics = tempopb::SearchMetrics::default();
        for tenant in tenants {
            let sources = self.sources(tenant, reads).await?;
            let mut progress = Progress::new(partial);
            let (mut winners, inspected) = self.winners(&sources, plan, request, reads, &mut progress).await?;
            metrics.inspected_traces += inspected;
            sources.count_blocks(request.range, &mut metrics);
            progress.leave_out_told(&mut winners, |winner| winner.id);
            traces.append(&mut progress.told);
            // What is shown was looked at before.
            let looked_at = reads.spans.load(Ordering::Relaxed);
            traces.extend(self.show(&sources, plan, request, &winners, reads).await?);
            reads.spans.store(looked_at, Ordering::Relaxed);
        }
        // Newest first; ids decide between equals so that the same data gives the same answer.
        traces.sort_by(|a: &tempopb::TraceSearchMetadata, b| {
            let key = |t: &tempopb::TraceSearchMetadata| (std::cmp::Reverse(t.start_time_unix_nano as i64), t.trace_id.len());
            key(a).cmp(&key(b)).then_with(|| a.trace_id.cmp(&b.trace_id))
        });
        traces.truncate(request.limit);
        metrics.inspected_bytes = reads.bytes.load(Ordering::Relaxed);
        metrics.inspected_spans = reads.spans.load(Ordering::Relaxed);
        (metrics.completed_jobs, metrics.total_jobs) = reads.jobs();
        Ok(tempopb::SearchResponse { traces, metrics: Some(metrics) })
    }

    /// The ids of all whole traces that overlap `range` and have spansets for `query`, a TraceQL search. All of them are
    /// in memory at once.
    ///
    /// # Errors
    /// Also if a block cannot be read: who deletes what does not match must have seen everything.
    pub fn traces_matching<'a>(&'a self, tenant: &'a TenantId, query: &'a str, range: TimeRange) -> Answer<'a, Vec<TraceId>> {
        Box::pin(async move {
            let plan = Arc::new(Plan::of_text(query)?);
            let reads = self.reads();
            let ids = self.all_winners(tenant, &plan, range, &reads).await?;
            match reads.partial() {
                Some(lacks) => Err(QueryError::new(ErrorKind::Unavailable, lacks)),
                None => Ok(ids),
            }
        })
    }

    /// All that match, in any order.
    pub(crate) async fn all_winners(
        &self,
        tenant: &TenantId,
        plan: &Arc<Plan>,
        range: TimeRange,
        reads: &Arc<Reads>,
    ) -> Result<Vec<TraceId>, QueryError> {
        let filter = SearchFilter::TraceQl(String::new());
        let request = SearchRequest { filter, range: Some(range), limit: usize::MAX, spans_per_spanset: 0 };
        let sources = self.sources(tenant, reads).await?;
        let (winners, _) = self.winners(&sources, plan, &request, reads, &mut Progress::new(None)).await?;
        Ok(winners.into_iter().map(|winner| winner.id).collect())
    }

    /// The newest traces that match, at most `limit`.
    async fn winners(
        &self,
        sources: &Sources,
        plan: &Arc<Plan>,
        request: &SearchRequest,
        reads: &Arc<Reads>,
        progress: &mut Progress<'_>,
    ) -> Result<(Vec<Winner>, u32), QueryError> {
        let mut hunt = Hunt::new(sources, plan, request, reads)?;
        let mut order: Vec<&Arc<Source>> = sources.all.iter().collect();
        order.sort_by_key(|source| std::cmp::Reverse(source.range.end));
        progress.all = order.len() as u32;
        let stage = reads.trail.stage("find the newest traces");
        let mut order = order.into_iter();
        while let Some(source) = order.next() {
            progress.done = progress.all - 1 - order.len() as u32;
            if progress.due() {
                let others = hunt.pending.len().saturating_add(sources.valueless.len_max());
                let certain = certain(&hunt.winners, source.range.end, others, request.limit);
                progress.inspected = hunt.inspected;
                self.tell(sources, plan, request, certain, reads, progress).await?;
            }
            let in_range = source.reaches(request.range);
            if !in_range && sources.valueless.is_empty() {
                reads.trail.prune(Pruned::Time);
                continue;
            }
            // Nothing in an older source can start after the oldest winner of a full list. Split traces are
            // found from their newest part, so those of older parts only are older still.
            if !hunt.wants(source.range.end) {
                std::iter::once(source).chain(order).for_each(|_| reads.trail.prune(Pruned::Older));
                break;
            }
            let Some(work) = UnitWork::new(source, in_range, &hunt)? else {
                reads.trail.prune(Pruned::Values);
                continue;
            };
            let units = source.units(&work.scan, reads)?;
            let work = Arc::new(work);
            for units in at_hand_together(units, self.columns().capacity(), self.parallelism().get()) {
                self.found(&work, units, &mut hunt).await?;
            }
        }
        drop(stage);
        if plan.asks_whole_trace {
            let wanted = sources.valueless_ids().iter().map(|id| (*id, sources.latest_start(id)));
            let wanted: Vec<(TraceId, i64)> = wanted.filter(|(id, latest)| hunt.wants(*latest) && !hunt.judged.contains(id)).collect();
            hunt.pending.extend(wanted.into_iter().map(|(id, latest)| (id, Pending { latest, sides: Sides::ALL })));
        }
        // Who is not ready now never is: a part that was not looked at begins before anything that is wanted, and so does the trace.
        self.judge(&mut hunt).await?;
        Ok((hunt.winners, hunt.inspected))
    }

    /// The first pass over some units of one source.
    async fn found(&self, work: &Arc<UnitWork>, units: Vec<Unit>, hunt: &mut Hunt<'_>) -> Result<(), QueryError> {
        let row_groups = units.len();
        let begun = self
            .each_unit(units, |unit| {
                let work = Arc::clone(work);
                async move { work.begin(unit, row_groups).await }
            })
            .await?;
        let mut walks = vec![];
        for begun in begun {
            match begun {
                Begun::Walk(walk) => walks.push(*walk),
                Begun::Done(result) => hunt.take(result),
            }
        }
        while !walks.is_empty() {
            hunt.reads.fits(hunt.pending.len() * PENDING_BYTES)?;
            if hunt.ready >= hunt.due {
                hunt.due = hunt.due.saturating_mul(JUDGED_GROWTH);
                self.judge(hunt).await?;
            }
            let share = walks.len().div_ceil(self.parallelism().get());
            let mut shares = vec![];
            while !walks.is_empty() {
                shares.push(walks.split_off(walks.len().saturating_sub(share)));
            }
            let stepped = shares.into_iter().map(|walks| {
                let work = Arc::clone(work);
                async move { work.step(walks) }
            });
            for stepped in self.side_by_side(stepped).await? {
                let (left, result) = stepped?;
                walks.extend(left);
                hunt.take(result);
            }
        }
        Ok(())
    }

    /// Merges the split traces that may match, as long as they can be among the newest, and decides.
    async fn judge(&self, hunt: &mut Hunt<'_>) -> Result<(), QueryError> {
        let mut newest = hunt.take_ready();
        if newest.is_empty() {
            return Ok(());
        }
        let _stage = hunt.reads.trail.stage("merge split traces and evaluate");
        newest.sort_unstable_by_key(|winner| (std::cmp::Reverse(winner.start), winner.id));
        let mut rest = newest.split_off(newest.len().min(JUDGED_NEWEST));
        let (mut newest, mut lot) = (newest.as_slice(), JUDGED_FIRST);
        while !newest.is_empty() && hunt.wants(newest[0].start) {
            let (now, later) = newest.split_at(newest.len().min(lot));
            self.judge_all(now.iter().map(|winner| winner.id).collect(), hunt).await?;
            (newest, lot) = (later, lot * 2);
        }
        rest.retain(|winner| hunt.wants(winner.start));
        self.judge_all(rest.iter().map(|winner| winner.id).collect(), hunt).await
    }

    async fn judge_all(&self, ids: Vec<TraceId>, hunt: &mut Hunt<'_>) -> Result<(), QueryError> {
        let columns = |layout: &Layout| {
            let mut columns = UnitWork::columns(hunt.plan, layout)?;
            columns.extend(BoundPipeline::bind(&hunt.plan.pipeline, layout)?.columns());
            Ok(Some(columns))
        };
        let most = if hunt.plan.legacy.is_some() { MERGE_TRACES_MAX } else { MERGE_NARROW_TRACES_MAX };
        for chunk in merge_chunks(ids, most) {
            let merged = self.merged(hunt.sources, &chunk, &columns, hunt.reads).await?;
            hunt.inspected += chunk.len() as u32;
            hunt.judged.extend(chunk.iter());
            if let Some(rows) = merged {
                let winners = matching_traces(&rows, hunt.plan, hunt.request.range, hunt.reads)?;
                hunt.won(winners);
            }
        }
        Ok(())
    }

    /// Tells those of the certain winners that are not told yet.
    async fn tell(
        &self,
        sources: &Sources,
        plan: &Plan,
        request: &SearchRequest,
        certain: &[Winner],
        reads: &Arc<Reads>,
        progress: &mut Progress<'_>,
    ) -> Result<(), QueryError> {
        let mut new = certain.to_vec();
        progress.leave_out_told(&mut new, |winner| winner.id);
        // What is shown was looked at before.
        let looked_at = reads.spans.load(Ordering::Relaxed);
        let traces = if new.is_empty() { vec![] } else { self.show(sources, plan, request, &new, reads).await? };
        reads.spans.store(looked_at, Ordering::Relaxed);
        let mut metrics = tempopb::SearchMetrics {
            inspected_traces: progress.inspected,
            inspected_bytes: reads.bytes.load(Ordering::Relaxed),
            inspected_spans: looked_at,
            ..Default::default()
        };
        sources.count_blocks(request.range, &mut metrics);
        progress.tell(traces, metrics);
        Ok(())
    }

    /// The result entries of the winners.
    async fn show(
        &self,
        sources: &Sources,
        plan: &Plan,
        request: &SearchRequest,
        winners: &[Winner],
        reads: &Arc<Reads>,
    ) -> Result<Vec<tempopb::TraceSearchMetadata>, QueryError> {
        let _stage = reads.trail.stage("fetch and show the traces found");
        let ids: Vec<TraceId> = winners.iter().map(|w| w.id).collect();
        let columns = |layout: &Layout| Ok(Some(shown_columns(plan, layout)?));
        let mut shown = vec![];
        for rows in self.whole_traces(sources, &ids, &columns, reads).await? {
            show_traces(&rows, plan, request, reads, &mut shown)?;
        }
        Ok(shown)
    }
}

impl Sources {
    /// Adds the blocks in a time range.
    pub(crate) fn count_blocks(&self, range: Option<TimeRange>, metrics: &mut tempopb::SearchMetrics) {
        for bytes in self.all.iter().filter(|s| s.overlaps(range)).filter_map(|s| s.block_bytes()) {
            metrics.total_blocks += 1;
            metrics.total_block_bytes += bytes;
        }
    }
}

/// The winners that stay, whatever is still found: those that start after `end`, when the newest span of any source not
/// yet read ends, and that `others` traces, judged later, cannot push out of the answer.
fn certain(winners: &[Winner], end: i64, others: usize, limit: usize) -> &[Winner] {
    let newer = winners.partition_point(|winner| winner.start > end);
    &winners[..newer.min(limit.saturating_sub(others))]
}

fn keep_newest(winners: &mut Vec<Winner>, limit: usize) {
    winners.sort_unstable_by_key(|w| (std::cmp::Reverse(w.start), w.id));
    winners.dedup();
    winners.truncate(limit);
}

/// The first pass over one source.
struct UnitWork {
    scan: Scan,
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
enum Begun {
    Done(UnitResult),
    /// Its columns are at hand: it goes back in time together with the others.
    Walk(Box<Walk>),
}

/// Each thread reads so many units of a stretch at least: few of those that are not at hand wait for a stretch to end.
const UNITS_PER_THREAD_MIN: usize = 8;

/// Units in stretches whose columns fit into `bytes` together, or of as many as keep `threads` busy.
fn at_hand_together(units: Vec<Unit>, bytes: u64, threads: usize) -> Vec<Vec<Unit>> {
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
    fn new(source: &Source, in_range: bool, hunt: &Hunt<'_>) -> Result<Option<Self>, QueryError> {
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
    fn columns(plan: &Plan, layout: &Layout) -> Result<BTreeSet<String>, QueryError> {
        let mut columns: BTreeSet<String> = [schema::TRACE_ID, schema::TRACE_START, schema::TRACE_DURATION].map(String::from).into();
        columns.extend(BoundPipeline::bind(&plan.pipeline, layout)?.columns().into_iter().filter(|_| !plan.single));
        if let Some(tags) = &plan.legacy {
            columns.extend(tags.columns(layout));
        }
        Ok(columns)
    }

    /// Reads the unit and decides, unless its columns are at hand. `row_groups` are looked at side by side.
    async fn begin(&self, unit: Unit, row_groups: usize) -> Result<Begun, QueryError> {
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
    fn step(&self, walks: Vec<Walk>) -> Result<(Vec<Walk>, UnitResult), QueryError> {
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
struct TraceTimes<'a> {
    ids: &'a arrow::array::FixedSizeBinaryArray,
    starts: &'a arrow::array::Int64Array,
    durations: &'a arrow::array::Int64Array,
}

impl<'a> TraceTimes<'a> {
    fn of(records: &'a arrow::array::RecordBatch) -> Result<Self, QueryError> {
        let column = |name: &str| {
            records.column_by_name(name).ok_or_else(|| QueryError::internal(format!("rows without column {name}")))
        };
        Ok(Self {
            ids: column(schema::TRACE_ID)?.as_fixed_size_binary(),
            starts: column(schema::TRACE_START)?.as_primitive::<Int64Type>(),
            durations: column(schema::TRACE_DURATION)?.as_primitive::<Int64Type>(),
        })
    }

    fn id(&self, row: usize) -> TraceId {
        TraceId::from_slice(self.ids.value(row)).unwrap_or_default()
    }

    fn start(&self, row: usize) -> i64 {
        self.starts.value(row)
    }

    fn overlaps(&self, row: usize, range: Option<TimeRange>) -> bool {
        range.is_none_or(|range| {
            let start = self.starts.value(row);
            start <= range.end && start.saturating_add(self.durations.value(row)) >= range.start
        })
    }
}

/// The first pass over merged rows.
fn matching_traces(rows: &TraceRows, plan: &Plan, range: Option<TimeRange>, reads: &Reads) -> Result<Vec<Winner>, QueryError> {
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

fn service_name() -> Attribute {
    Attribute {
        of_parent: false,
        name: AttributeName::Key { scope: Some(Scope::Resource), key: "service.name".into() },
        span: SpanOfName::default(),
    }
}

fn shown_columns(plan: &Plan, layout: &Layout) -> Result<BTreeSet<String>, QueryError> {
    let mut columns = BoundPipeline::bind(&plan.pipeline, layout)?.columns();
    columns.extend(
        [
            schema::SPAN_ID,
            schema::START_TIME,
            schema::DURATION,
            schema::STATUS_CODE,
            schema::ROOT_SERVICE_NAME,
            schema::ROOT_SPAN_NAME,
            schema::TRACE_START,
            schema::TRACE_DURATION,
        ]
        .map(String::from),
    );
    for name in plan.shown.iter().chain([&service_name()]) {
        columns.extend(layout.places(name).columns().map(str::to_owned));
    }
    Ok(columns)
}

fn show_traces(
    rows: &TraceRows,
    plan: &Plan,
    request: &SearchRequest,
    reads: &Reads,
    shown: &mut Vec<tempopb::TraceSearchMetadata>,
) -> Result<(), QueryError> {
    let pipeline = BoundPipeline::bind(&plan.pipeline, &rows.layout)?;
    let records = &rows.records;
    let times = TraceTimes::of(records)?;
    let text = |name: &str| records.column_by_name(name).and_then(Strings::new);
    let (root_service, root_name) = (text(schema::ROOT_SERVICE_NAME), text(schema::ROOT_SPAN_NAME));
    let service = Reader::new(&rows.layout.places(&service_name()), records);
    let status = records.column_by_name(schema::STATUS_CODE).map(|c| c.as_primitive::<arrow::datatypes::Int32Type>());
    let spans = SpanWriter::new(rows, &plan.pipeline, &plan.shown)?;
    pipeline.evaluate(records, reads, |run, spansets| {
        let row = run.start;
        let mut service_stats: BTreeMap<String, tempopb::ServiceStats> = BTreeMap::new();
        if plan.legacy.is_none() {
            for row in run {
                let mut name = String::new();
                service.any(row, |value| match value {
                    Value::String(first) => {
                        name = first;
                        true
                    }
                    _ => false,
                });
                let stats = service_stats.entry(name).or_default();
                stats.span_count += 1;
                stats.error_count += u32::from(status.is_some_and(|s| s.value(row) == 2));
            }
        }
        let root = |text: &Option<Strings>| text.as_ref().and_then(|t| t.get(row)).map(str::to_owned);
        let span_sets: Vec<tempopb::SpanSet> = match plan.legacy {
            Some(_) => vec![],
            None => spansets.iter().map(|set| spans.spanset(set, request.spans_per_spanset)).collect(),
        };
        shown.push(tempopb::TraceSearchMetadata {
            trace_id: times.id(row).short_hex(),
            root_service_name: root(&root_service).filter(|service| !service.is_empty()).unwrap_or_else(|| ROOT_MISSING.into()),
            root_trace_name: root(&root_name).unwrap_or_default(),
            start_time_unix_nano: times.start(row) as u64,
            duration_ms: u32::try_from(times.durations.value(row) / 1_000_000).unwrap_or(u32::MAX),
            // Clients that know it show it alone.
            span_set: span_sets.first().filter(|_| span_sets.len() == 1).cloned(),
            span_sets,
            service_stats,
        });
    })
}
