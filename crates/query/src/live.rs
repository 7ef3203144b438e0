//! How live data reaches the engine.

use block::batch::SpanBatch;
use model::TenantId;

/// The spans of a tenant that are not in its table yet.
pub trait LiveData: Send + Sync + 'static {
    /// Everything acknowledged before the call and not yet known to be in the table, oldest generation
    /// first. A generation may stay listed for a moment after its commit; the engine leaves it out by its
    /// segment.
    fn live(&self, tenant: &TenantId) -> Vec<LiveGeneration>;
}

/// The spans of one stretch of an ingester's log: they reach the table in one commit.
#[derive(Clone, Debug)]
pub struct LiveGeneration {
    /// The ingester's id: the `appId` of its transactions in the table.
    pub ingester: String,
    /// The first log segment of the stretch. It is in the table exactly when the table knows this or a higher version of
    /// the ingester's transactions: the commit names the last segment, and earlier stretches name lower ones. Known from
    /// the beginning, so that a commit between two looks does not show a growing stretch twice. `None`: never committed.
    pub segment: Option<u64>,
    /// Each sorted by trace and immutable. A trace's spans may lie in several.
    pub batches: Vec<SpanBatch>,
}

/// No live data: an engine over a table alone.
pub struct NoLiveData;

impl LiveData for NoLiveData {
    fn live(&self, _: &TenantId) -> Vec<LiveGeneration> {
        vec![]
    }
}
