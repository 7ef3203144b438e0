//! What the API is built from, and what every request shares.

use crate::{
    ApiConfig, CurrentReadLimits, CurrentStrategies, Failure, Flush, Metrics, Overrides, account::Account, config::QueryLimits, gate::Gate, mcp,
    query_string::Parameters, status::StatusPages, tenancy,
};
use http::{HeaderMap, Uri};
use model::TenantId;
use query::Engine;
use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::sync::watch;

/// The API's neighbours and settings.
#[derive(Clone)]
pub struct ApiState {
    pub config: ApiConfig,
    /// Whether `X-Scope-OrgID` chooses tenants.
    pub multitenancy: bool,
    pub engine: Engine,
    pub readiness: Readiness,
    pub metrics: Metrics,
    pub status: StatusPages,
    /// `None` where no spans come in.
    pub flush: Option<Flush>,
    pub read_limits: CurrentReadLimits,
    /// Limits that tenants set; `None` is off.
    pub overrides: Option<Overrides>,
    /// Jaeger's remote sampling; `None` is off.
    pub sampling: Option<CurrentStrategies>,
}

/// Whether the program can serve. Starts as `Starting`; the program sets it.
#[derive(Clone)]
pub struct Readiness(watch::Sender<ReadyState>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadyState {
    Starting,
    Ready,
    Stopping,
}

impl Default for Readiness {
    fn default() -> Self {
        Self(watch::Sender::new(ReadyState::Starting))
    }
}

impl Readiness {
    pub fn set(&self, state: ReadyState) {
        self.0.send_replace(state);
    }

    pub fn get(&self) -> ReadyState {
        *self.0.borrow()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<ReadyState> {
        self.0.subscribe()
    }
}

/// What handlers share: the state and the gate that every query passes.
pub(crate) struct Shared {
    pub state: ApiState,
    pub gate: Gate,
    /// Held by the flush that runs.
    pub flushing: tokio::sync::Mutex<()>,
    pub mcp_calls: Arc<mcp::Calls>,
}

/// One query request: who asks and with which parameters.
pub(crate) struct Call {
    pub tenants: Vec<TenantId>,
    pub parameters: Parameters,
    pub account: Account,
}

impl Shared {
    pub fn new(state: ApiState) -> Arc<Self> {
        let gate = Gate::new(state.config.queries_max, state.config.tenant_queries_max, state.config.query_timeout)
            .limited(state.read_limits.clone());
        let mcp_calls = Arc::new(mcp::Calls::default());
        if state.config.mcp {
            let calls = Arc::clone(&mcp_calls);
            state.metrics.counters("sostenuto_mcp_calls", "Calls of tools by agents", "tool", move || calls.counts());
        }
        Arc::new(Self { state, gate, flushing: tokio::sync::Mutex::default(), mcp_calls })
    }

    pub fn call(&self, headers: &HeaderMap, uri: &Uri) -> Result<Call, Failure> {
        let parameters = Parameters::parse(uri.query())?;
        let explain = parameters.get("explain").is_some_and(|word| word != "false");
        let tenants = self.tenants(headers)?;
        let account = self.account(explain, &tenants);
        Ok(Call { tenants, parameters, account })
    }

    pub fn tenants(&self, headers: &HeaderMap) -> Result<Vec<TenantId>, Failure> {
        tenancy::readable(headers, self.state.multitenancy, self.limits().tenants_max)
    }

    pub fn limits(&self) -> &QueryLimits {
        &self.state.config.query
    }

    pub fn account(&self, explain: bool, tenants: &[TenantId]) -> Account {
        let config = &self.state.config;
        let budget = self.state.read_limits.budget(tenants, config.budget);
        Account::open(&self.state.engine, budget, config.query_timeout, explain)
    }
}

/// Unix nanoseconds.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
