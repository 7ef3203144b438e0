//! Whole traces by their ids: the rows, wherever they are.

use std::{collections::BTreeSet, sync::Arc};

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::Int64Type,
};
use block::{merge::merge, promotion::PromotionPolicy, schema};
use model::{TenantId, TraceId};
use proto::{otlp::trace::v1::TracesData, tempopb};

use crate::{
    engine::{Answer, Engine, merge_chunks},
    layout::Layout,
    explain::Pruned,
    reads::Reads,
    request::{QueryError, TimeRange, TraceRequest},
    scan::Scan,
    shared_ids,
    source::{Source, Sources},
};

/// Rows of whole traces, sorted by trace id, in one layout.
pub struct TraceRows {
    pub records: RecordBatch,
    pub layout: Layout,
}

/// The columns an operation needs of a layout; `None` for all.
pub type Columns<'a> = &'a (dyn Fn(&Layout) -> Result<Option<BTreeSet<String>>, QueryError> + Sync);

impl Engine {
    /// The rows of `ids`. A split trace comes merged, with all columns; the others as they lie.
    pub(crate) async fn whole_traces(
        &self,
        sources: &Sources,
        ids: &[TraceId],
        columns: Columns<'_>,
        reads: &Arc<Reads>,
    ) -> Result<Vec<TraceRows>, QueryError> {
        let loose: Vec<TraceId> = ids.iter().copied().filter(|id| sources.loose.contains(id)).collect();
        let mut found = vec![];
        for (source, left_out) in sources.parts() {
            let mut here: Vec<TraceId> =
                ids.iter().copied().filter(|id| !left_out.contains(id) && source.may_hold(id)).collect();
            if here.is_empty() {
                continue;
            }
            here.sort_unstable();
            let columns = columns(source.layout())?.map(|names| names.into_iter().collect());
            let scan = Scan { traces: Some(Arc::new(here)), columns, predicate: None };
            let layout = source.layout().clone();
            let units = source.units(&scan, reads)?;
            let batches = self
                .each_unit(units, |unit| {
                    let (scan, reads) = (scan.clone(), Arc::clone(reads));
                    async move { unit.read(&scan, &reads).await }
                })
                .await?;
            reads.hold(batches.iter().map(RecordBatch::get_array_memory_size).sum())?;
            found.extend(batches.into_iter().filter(|b| b.num_rows() > 0).map(|records| {
                let layout = Layout { schema: records.schema(), catalogue: Arc::clone(&layout.catalogue) };
                TraceRows { records, layout }
            }));
        }
        for chunk in merge_chunks(loose) {
            let merged = self.merged(sources, &chunk, reads).await?;
            reads.hold(merged.iter().map(|rows| rows.records.get_array_memory_size()).sum())?;
            found.extend(merged);
        }
        Ok(found)
    }

    /// The rows of split traces, merged from all places. `ids` ascending.
    pub(crate) async fn merged(
        &self,
        sources: &Sources,
        ids: &Arc<Vec<TraceId>>,
        reads: &Arc<Reads>,
    ) -> Result<Option<TraceRows>, QueryError> {
        self.merged_from(&sources.all, ids, reads).await
    }

    pub(crate) async fn merged_from(
        &self,
        sources: &[Arc<Source>],
        ids: &Arc<Vec<TraceId>>,
        reads: &Arc<Reads>,
    ) -> Result<Option<TraceRows>, QueryError> {
        let mut parts = vec![];
        for source in sources.iter().filter(|source| ids.iter().any(|id| source.may_hold(id))) {
            parts.extend(source.traces(ids, reads).await?);
            reads.fits(parts.iter().map(|part| part.records.get_array_memory_size()).sum())?;
        }
        if parts.is_empty() {
            return Ok(None);
        }
        let merged = merge(&parts, &PromotionPolicy::default()).map_err(QueryError::internal)?;
        let layout = Layout { schema: merged.records.schema(), catalogue: merged.catalogue };
        Ok(Some(TraceRows { records: merged.records, layout }))
    }

    /// The whole trace, from wherever its spans are; an empty one if there is none.
    pub fn trace_by_id<'a>(&'a self, tenants: &'a [TenantId], request: TraceRequest) -> Answer<'a, tempopb::TraceByIdResponse> {
        Box::pin(self.whole_trace(tenants, request, shared_ids::separate))
    }

    /// As [`Engine::trace_by_id`], but the two sides of a call that share an id keep it.
    pub fn trace_as_received<'a>(&'a self, tenants: &'a [TenantId], request: TraceRequest) -> Answer<'a, tempopb::TraceByIdResponse> {
        Box::pin(self.whole_trace(tenants, request, |_| ()))
    }

    async fn whole_trace(
        &self,
        tenants: &[TenantId],
        request: TraceRequest,
        finish: fn(&mut TracesData),
    ) -> Result<tempopb::TraceByIdResponse, QueryError> {
        let reads = self.reads();
        let batches = self.despite_broken_blocks(&reads, || self.rows_of_trace(tenants, &request, &reads)).await?;
        let trace = match batches.is_empty() {
            true => TracesData::default(),
            false => {
                let mut trace = block::rebuild::traces(&batches).map_err(QueryError::internal)?;
                finish(&mut trace);
                trace
            }
        };
        let inspected_bytes = reads.bytes.load(std::sync::atomic::Ordering::Relaxed);
        let partial = reads.partial();
        Ok(tempopb::TraceByIdResponse {
            trace: Some(trace),
            metrics: Some(tempopb::TraceByIdMetrics { inspected_bytes }),
            status: partial.as_ref().map_or(tempopb::PartialStatus::Complete, |_| tempopb::PartialStatus::Partial).into(),
            message: partial.unwrap_or_default(),
        })
    }

    async fn rows_of_trace(&self, tenants: &[TenantId], request: &TraceRequest, reads: &Arc<Reads>) -> Result<Vec<RecordBatch>, QueryError> {
        let mut batches = vec![];
        for tenant in tenants {
            if let Some((live, snapshot)) = self.unknown_blocks(tenant).await? {
                let rows = self.rows_by_filters(tenant, &snapshot, &live, (request.id, request.range), reads).await?;
                batches.extend(rows.into_iter().filter(|records| overlaps(records, request.range)));
                continue;
            }
            let sources = self.sources(tenant, reads).await?;
            let _stage = reads.trail.stage("read the trace");
            for (source, left_out) in sources.parts() {
                if left_out.contains(&request.id) || !source.may_hold(&request.id) {
                    reads.trail.prune(Pruned::Traces);
                }
            }
            let rows = self.whole_traces(&sources, &[request.id], &|_| Ok(None), reads).await?;
            batches.extend(rows.into_iter().map(|r| r.records).filter(|records| overlaps(records, request.range)));
        }
        self.excuse_without(&request.id, reads).await;
        Ok(batches)
    }

    /// A broken block whose sidecar can be read, and says that the trace is not in it, is not missed.
    async fn excuse_without(&self, id: &TraceId, reads: &Reads) {
        for (tenant, block) in reads.missing() {
            if let Some(open) = self.opened(&tenant, block.id).await {
                if !open.sidecar().trace_filter.contains(id) {
                    reads.excuse(block.id);
                }
            }
        }
    }
}

/// Whether the one trace of `records` overlaps the range.
fn overlaps(records: &RecordBatch, range: Option<TimeRange>) -> bool {
    let Some(range) = range else { return true };
    let first = |name: &str| {
        let column = records.column_by_name(name).and_then(|c| c.as_primitive_opt::<Int64Type>());
        column.and_then(|c| c.values().first().copied()).unwrap_or_default()
    };
    let start = first(schema::TRACE_START);
    start <= range.end && start.saturating_add(first(schema::TRACE_DURATION)) >= range.start
}
