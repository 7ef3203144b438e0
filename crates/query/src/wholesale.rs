//! Many whole traces, for who takes them away: first the ids of all that match, then the traces, some at a time.
//!
//! Blocks are sorted by trace id, so whoever asks for ids in their order reads each page of a block about once.

use std::sync::Arc;

use model::{TenantId, TraceId};
use proto::otlp::trace::v1::TracesData;

use crate::{
    engine::{Answer, Engine},
    request::{QueryError, TimeRange},
    search::Plan,
};

impl Engine {
    /// The ids of all whole traces that overlap `range` and have spansets for `query`, a TraceQL search, ascending. All of
    /// them are in memory at once, 24 bytes each.
    pub fn ids_matching<'a>(&'a self, tenant: &'a TenantId, query: &'a str, range: TimeRange) -> Answer<'a, Vec<TraceId>> {
        Box::pin(async move {
            let plan = Arc::new(Plan::of_text(query)?);
            let reads = self.reads();
            plan.explain(&reads.trail);
            let mut ids = self.despite_broken_blocks(&reads, || self.all_winners(tenant, &plan, range, &reads)).await?;
            ids.sort_unstable();
            Ok(ids)
        })
    }

    /// These traces, as they were received. What there is no longer is left out.
    pub fn traces_as_received<'a>(&'a self, tenant: &'a TenantId, ids: &'a [TraceId]) -> Answer<'a, TracesData> {
        Box::pin(async move {
            let reads = self.reads();
            let rows = self.despite_broken_blocks(&reads, || async {
                let sources = self.sources(tenant, &reads).await?;
                let _stage = reads.trail.stage("read the traces");
                self.whole_traces(&sources, ids, &|_| Ok(None), &reads).await
            });
            let batches: Vec<_> = rows.await?.into_iter().map(|rows| rows.records).collect();
            block::rebuild::traces(&batches).map_err(QueryError::internal)
        })
    }
}
