//! Search: the newest traces that have spansets, and their first spans.
//!
//! Two passes. The first reads only what decides: which traces match, and when they start. The second
//! fetches whole traces for the few winners and evaluates the query on them again, for what is shown.

mod entries;
mod hunt;
mod plan;
mod unit;

use std::sync::{Arc, atomic::Ordering};

use model::{ErrorKind, TenantId, TraceId};
use proto::tempopb;

use self::{
    entries::{show_traces, shown_columns},
    hunt::{Hunt, JUDGED_FIRST, PENDING_BYTES, Pending, Winner, certain},
    unit::{Begun, UnitWork, at_hand_together, matching_traces},
};
pub(crate) use self::plan::{Plan, asks_whole_trace, mentions_whole_trace};
use crate::{
    engine::{Answer, Engine, MERGE_NARROW_TRACES_MAX, MERGE_TRACES_MAX, merge_chunks},
    explain::Pruned,
    layout::Layout,
    partial::{Partial, Progress},
    reads::Reads,
    request::{Cursor, QueryError, SearchFilter, SearchRequest, TimeRange},
    source::{Source, Sources, Unit},
    spansets::{BoundPipeline, Sides},
};

/// So many are judged newest first, as the newest may be all that is wanted; then the rest, in the order of their ids, which takes
/// few pages for each.
const JUDGED_NEWEST: usize = 8192;
/// Split traces that wait to be judged before a search that has not enough judges them; each time so many times more.
const JUDGED_GROWTH: usize = 4;

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
