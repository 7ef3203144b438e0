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

use std::{collections::BTreeMap, num::NonZeroU64, sync::Arc, time::Duration};

use bytes::Bytes;
use governor::clock::MonotonicClock;
use ingester::Ingester;
use model::TenantId;
use proto::wire;
use redact::Redactor;

pub use counters::{OTHER_TENANTS, TenantCounts};
pub use error::PushError;
pub use ingester::{Lease, Memory, MemoryFull};
pub use outcome::{PushOutcome, Warning};

use counters::Reason;
use limit::Verdict;
use tenants::{Account, Tenants};

/// What holds for every tenant.
#[derive(Clone, Debug)]
pub struct Config {
    pub rates: Rates,
    /// What a client that has to come again is told to wait, at least.
    pub retry_after: Duration,
    /// How many tenants have an account of their own: a rate, and lines in the metrics, about 300 bytes each.
    pub tenants_max: usize,
}

/// What a tenant may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Bytes of request, as protobuf and uncompressed, each second. Precise to 1 %; more than 64 GB/s is no limit.
    pub limit_bytes: NonZeroU64,
    /// The most bytes at once. A larger request can never pass, however long the client waits.
    pub burst_bytes: NonZeroU64,
}

/// Of all tenants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rates {
    pub default: Rate,
    /// Instead of the default.
    pub tenants: BTreeMap<TenantId, Rate>,
}

impl Rates {
    pub fn all(default: Rate) -> Self {
        Self { default, tenants: BTreeMap::new() }
    }

    fn of(&self, tenant: &TenantId) -> Rate {
        self.tenants.get(tenant).copied().unwrap_or(self.default)
    }
}

/// Says what rules are in force now.
pub type CurrentRedactor = Arc<dyn Fn() -> Arc<Redactor> + Send + Sync>;

/// A handle; clones share everything.
#[derive(Clone)]
pub struct Distributor {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    tenants: Tenants<MonotonicClock>,
    ingester: Ingester,
    /// `None` costs nothing.
    redactor: Option<CurrentRedactor>,
}

impl Distributor {
    pub fn new(config: Config, ingester: Ingester) -> Self {
        Self::redacting(config, ingester, None)
    }

    /// One that takes out of every request what the rules of `redactor` say, before anything of it is stored.
    pub fn redacting(config: Config, ingester: Ingester, redactor: Option<CurrentRedactor>) -> Self {
        let tenants = Tenants::new(&config, MonotonicClock);
        Self { inner: Arc::new(Inner { config, tenants, ingester, redactor }) }
    }

    /// The budget to which whoever receives requests charges them, before they are pushed.
    pub fn memory(&self) -> &Memory {
        self.inner.ingester.memory()
    }

    /// Other rates, from now on.
    pub fn set_rates(&self, rates: Rates) {
        self.inner.tenants.set_rates(rates);
    }

    /// Stores the spans of an `ExportTraceServiceRequest` message. `Ok` means: what it counts as accepted is durable,
    /// the rest is rejected for good. An error means that nothing of the request is known to be accepted.
    ///
    /// Dropping the future leaves open whether the spans are stored.
    pub async fn push(&self, tenant: &TenantId, request: Bytes) -> Result<PushOutcome, PushError> {
        let Inner { config, tenants, ingester, redactor } = &*self.inner;
        let account = tenants.account(tenant);
        account.counters.request(request.len());
        let limit = account.limit();
        match limit.check(request.len() as u64) {
            Verdict::Admitted => {}
            Verdict::Never => return Err(account.refuse(PushError::over_burst(tenant, request.len(), limit.rate), &request)),
            Verdict::After(wait) => {
                let wait = wait.max(config.retry_after);
                return Err(account.refuse(PushError::over_rate(tenant, request.len(), limit.rate, wait), &request));
            }
        }
        let request = match redactor {
            Some(current) => redacted(current(), request).await,
            None => request,
        };
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

/// Requests up to this size are looked through at once; more goes to a thread that may block.
const INLINE_BYTES_MAX: usize = 64 << 10;

async fn redacted(redactor: Arc<Redactor>, request: Bytes) -> Bytes {
    if request.len() <= INLINE_BYTES_MAX {
        return redactor.redact(request);
    }
    match tokio::task::spawn_blocking(move || redactor.redact(request)).await {
        Ok(request) => request,
        // Never store what was not looked through: the panic is ours, and the receiver tells the client to come again.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
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
