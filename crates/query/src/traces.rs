//! Whole traces by their ids: the rows, wherever they are.

use std::{collections::BTreeSet, sync::Arc};

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::Int64Type,
};
use block::{
    merge::{merge, merge_narrow},
    promotion::PromotionPolicy,
    schema, whole_trace,
};
use futures::{StreamExt, stream};
use model::{TenantId, TraceId};
use proto::{otlp::trace::v1::TracesData, tempopb};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    engine::{Answer, Engine, MERGE_TRACES_MAX, merge_chunks},
    joins,
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
    /// The rows of `ids`. A split trace comes merged; the others as they lie.
    pub(crate) async fn whole_traces(
        &self,
        sources: &Sources,
        ids: &[TraceId],
        columns: Columns<'_>,
        reads: &Arc<Reads>,
    ) -> Result<Vec<TraceRows>, QueryError> {
        let (split, lying): (Vec<TraceId>, Vec<TraceId>) = ids.iter().copied().partition(|id| sources.split.contains(id));
        let mut found = vec![];
        for source in &sources.all {
            let mut here: Vec<TraceId> = lying.iter().copied().filter(|id| source.may_hold(id)).collect();
            if here.is_empty() {
                continue;
            }
            here.sort_unstable();
            let columns = columns(source.layout())?.map(|names| names.into_iter().collect());
            let scan = Scan { traces: Some(Arc::new(here)), columns, ..Scan::default() };
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
        for chunk in merge_chunks(split, MERGE_TRACES_MAX) {
            let merged = self.merged(sources, &chunk, columns, reads).await?;
            reads.hold(merged.iter().map(|rows| rows.records.get_array_memory_size()).sum())?;
            found.extend(merged);
        }
        Ok(found)
    }

    /// The rows of split traces, merged from all places, with the columns that are asked for and those that tell what the traces
    /// are as a whole. `ids` ascending.
    pub(crate) async fn merged(
        &self,
        sources: &Sources,
        ids: &Arc<Vec<TraceId>>,
        columns: Columns<'_>,
        reads: &Arc<Reads>,
    ) -> Result<Option<TraceRows>, QueryError> {
        let holders: Vec<&Arc<Source>> = sources.all.iter().filter(|source| ids.iter().any(|id| source.may_hold(id))).collect();
        // What one place is asked for all are: merged rows have the same columns.
        let mut wanted: Option<BTreeSet<String>> = Some(BTreeSet::new());
        for source in &holders {
            wanted = match (wanted, columns(source.layout())?) {
                (Some(mut wanted), Some(names)) => {
                    wanted.extend(names);
                    wanted.extend(joins::columns(source.layout()));
                    Some(wanted)
                }
                _ => None,
            };
        }
        let narrow = wanted.is_some();
        let wanted: Option<Vec<String>> =
            wanted.map(|names| names.into_iter().filter(|name| !whole_trace::COLUMNS.contains(&name.as_str())).collect());
        let reading = holders.into_iter().map(|source| {
            let (source, ids, columns, reads) = (Arc::clone(source), Arc::clone(ids), wanted.clone(), Arc::clone(reads));
            async move { source.traces(&ids, columns, &reads).await }
        });
        let reading: Vec<_> = reading.collect();
        let mut reading = stream::iter(reading)
            .map(|reading| {
                let reading = AbortOnDropHandle::new(tokio::spawn(reading));
                async move { reading.await.unwrap_or_else(|e| Err(QueryError::internal(e))) }
            })
            .buffered(self.parallelism().get());
        let (mut parts, mut held) = (vec![], reads.held());
        while let Some(read) = reading.next().await {
            for part in read? {
                held.grow(part.records.get_array_memory_size())?;
                parts.push(part);
            }
        }
        if parts.is_empty() {
            return Ok(None);
        }
        let merge = if narrow { merge_narrow } else { merge };
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
            sources.all.iter().filter(|source| !source.may_hold(&request.id)).for_each(|_| reads.trail.prune(Pruned::Traces));
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
