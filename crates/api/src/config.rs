//! The settings of the API.

use crate::moment::duration_text;
use query::Budget;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The most bytes of one TraceQL text.
pub const QUERY_BYTES_MAX: usize = 128 * 1024;

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiConfig {
    /// A path that stands before `/api/...` (not before `/ready`, `/metrics` and `/status`), such as `/tempo`.
    pub http_api_prefix: String,
    /// A query that takes longer is stopped and answered with 503.
    #[serde(with = "duration_text")]
    pub query_timeout: Duration,
    /// Queries that may run at the same time. One more is answered with 429.
    pub queries_max: usize,
    /// Those of them that may be one tenant's.
    pub tenant_queries_max: usize,
    /// What one query may use.
    #[serde(skip)]
    pub budget: Budget,
    /// Connections that may be open at the same time. Later ones wait in the listen queue.
    pub connections_max: usize,
    /// The most bytes of a request's body.
    pub request_bytes_max: usize,
    /// How long shutdown waits for running requests.
    #[serde(with = "duration_text")]
    pub drain_timeout: Duration,
    /// How often a streamed search says at most what it is certain of.
    #[serde(with = "duration_text")]
    pub streaming_interval: Duration,
    /// Whether agents may ask at `/api/mcp`.
    pub mcp: bool,
    pub query: QueryLimits,
}

/// Defaults and bounds of what a query may ask for.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueryLimits {
    /// The time range, back from now, of a search, tag or metrics request that names none.
    #[serde(with = "duration_text")]
    pub default_range: Duration,
    pub traces_default: u32,
    pub traces_max: u32,
    pub spans_per_spanset_default: u32,
    pub spans_per_spanset_max: u32,
    /// The most steps of a metrics range query.
    pub steps_max: u64,
    pub exemplars_max: u32,
    /// The most tenants that one request may read (`X-Scope-OrgID: a|b|c`).
    pub tenants_max: usize,
    /// The most rows that a SQL query may return.
    pub sql_rows_max: u64,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            http_api_prefix: String::new(),
            query_timeout: Duration::from_secs(60),
            queries_max: 64,
            tenant_queries_max: 32,
            budget: Budget { read_bytes_max: 256 << 30, memory_bytes_max: 1 << 30 },
            connections_max: 4096,
            request_bytes_max: 4 << 20,
            drain_timeout: Duration::from_secs(30),
            streaming_interval: Duration::from_millis(500),
            mcp: false,
            query: QueryLimits::default(),
        }
    }
}

impl Default for QueryLimits {
    fn default() -> Self {
        Self {
            default_range: Duration::from_secs(3600),
            traces_default: 20,
            traces_max: 262_144,
            spans_per_spanset_default: 3,
            spans_per_spanset_max: 100,
            steps_max: 10_000,
            exemplars_max: 100,
            tenants_max: 100,
            sql_rows_max: 1_000_000,
        }
    }
}
