//! The first station of a request: whose it is, whether it is within its tenant's limits, and what became of its
//! spans. Validation of each span and storage are the ingester's.
//!
//! - Every span that comes in is counted once as received, and if it is not stored, once as discarded with its reason.
//! - What is kept per tenant is bounded: beyond [`Config::tenants_max`] further tenants share one account.

mod counters;
mod error;
mod limit;
mod outcome;
mod tenants;

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use bytes::Bytes;
use governor::clock::MonotonicClock;
use ingester::Ingester;
use model::TenantId;
use proto::wire;

pub use counters::{OTHER_TENANTS, TenantCounts};
pub use error::PushError;
pub use outcome::{PushOutcome, Warning};

use counters::Reason;
use limit::Verdict;
use tenants::{Account, Tenants};

/// What holds for every tenant.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bytes of request, as protobuf and uncompressed, that a tenant may send each second. Precise to 1 %; more
    /// than 64 GB/s is no limit.
    pub rate_limit_bytes: NonZeroU64,
    /// The most bytes at once. A larger request can never pass, however long the client waits.
    pub burst_size_bytes: NonZeroU64,
    /// What a client that has to come again is told to wait, at least.
    pub retry_after: Duration,
    /// How many tenants have an account of their own: a rate, and lines in the metrics, about 300 bytes each.
    pub tenants_max: usize,
}

/// A handle; clones share everything.
#[derive(Clone)]
pub struct Distributor {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    tenants: Tenants<MonotonicClock>,
    ingester: Ingester,
}

impl Distributor {
    pub fn new(config: Config, ingester: Ingester) -> Self {
        let tenants = Tenants::new(&config, MonotonicClock);
        Self { inner: Arc::new(Inner { config, tenants, ingester }) }
    }

    /// Stores the spans of an `ExportTraceServiceRequest` message. `Ok` means: what it counts as accepted is durable,
    /// the rest is rejected for good. An error means that nothing of the request is known to be accepted.
    ///
    /// Dropping the future leaves open whether the spans are stored.
    pub async fn push(&self, tenant: &TenantId, request: Bytes) -> Result<PushOutcome, PushError> {
        let Inner { config, tenants, ingester } = &*self.inner;
        let account = tenants.account(tenant);
        account.counters.request(request.len());
        match account.limit.check(request.len() as u64) {
            Verdict::Admitted => {}
            Verdict::Never => return Err(account.refuse(PushError::over_burst(tenant, request.len(), config), &request)),
            Verdict::After(wait) => {
                return Err(account.refuse(PushError::over_rate(tenant, request.len(), config, wait), &request));
            }
        }
        match ingester.push(tenant, request.clone()).await {
            Ok(pushed) => {
                let outcome = PushOutcome::of(pushed);
                account.counters.outcome(&outcome);
                Ok(outcome)
            }
            Err(ingester::PushError::NothingValid(rejected)) => {
                let outcome = PushOutcome::nothing(rejected);
                account.counters.outcome(&outcome);
                Err(PushError::all_rejected(&outcome))
            }
            Err(error) => Err(account.refuse(PushError::of_ingester(&error, config.retry_after), &request)),
        }
    }

    /// What was counted so far, per tenant.
    pub fn counts(&self) -> Vec<TenantCounts> {
        self.inner.tenants.counts()
    }
}

impl Account<MonotonicClock> {
    /// Counts the spans of a request that is refused as a whole, as far as it can be read.
    fn refuse(&self, error: PushError, request: &[u8]) -> PushError {
        self.counters.refused(Reason::of(&error), count_spans(request));
        error
    }
}

/// How many span messages a request has before the first that cannot be read. Reads the frame only, not the spans.
fn count_spans(request: &[u8]) -> u64 {
    let resources = wire::resource_spans(request).map_while(Result::ok);
    let scopes = resources.flat_map(|resource| resource.scopes().map_while(Result::ok));
    scopes.map(|scope| scope.spans().map_while(Result::ok).count() as u64).sum()
}

#[cfg(test)]
mod tests;
