//! What a person can set: one YAML file, every default in this module and nowhere else.
//!
//! Key names are Tempo's where the meaning is the same. Unknown keys are refused. A value of these types is
//! only a setting; `serve` turns settings into components.

mod compactor;
mod components;
mod duration;
mod expand;
mod invalid;
mod kafka;
mod load;
mod overrides;
mod receivers;
mod retention;
mod security;
mod self_tracing;
mod size;
mod storage;

use std::{net::SocketAddr, path::PathBuf};

use api::ApiConfig;
use ingester::IngesterConfig;
use query::EngineConfig;
use serde::{Deserialize, Serialize};

pub use compactor::Compactor;
pub use duration::{DurationError, GoDuration};
pub use invalid::Invalid;
pub use kafka::{InitialOffset, Kafka, KafkaEncoding, KafkaSasl, KafkaTls, OnError, SaslMechanism};
pub use load::{LoadError, environment};
pub use receivers::{Receivers, keys};
pub use overrides::{
    Effective, FILE_BYTES_MAX as OVERRIDES_BYTES_MAX, Limits, Overrides, TenantIngestion, TenantOverrides, TenantRead,
    UserConfigurable,
};
pub use retention::{RetentionRule, RetentionRules};
pub use security::{Authentication, AuditLog, AuditTo, Jwt, MinVersion, Shown, TlsFiles};
pub use self_tracing::SelfTracing;
pub use size::{Size, SizeError};
pub use storage::{Local, Storage, Wal, directory};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub target: Target,
    /// On: every request names its tenant in `X-Scope-OrgID`. Off: all requests share one tenant.
    pub multitenancy_enabled: bool,
    /// A path that stands before `/api`, such as `/tempo`.
    pub http_api_prefix: String,
    pub server: Server,
    pub authentication: Authentication,
    pub audit: AuditLog,
    pub distributor: Distributor,
    pub ingester: Ingester,
    pub compactor: Compactor,
    pub storage: Storage,
    pub query_frontend: QueryFrontend,
    pub overrides: Overrides,
    pub self_tracing: SelfTracing,
    pub log: Log,
}

/// Which roles this process plays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    #[default]
    All,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// A host or an address. Without authentication everybody may ask, so the default is this machine only.
    pub http_listen_address: String,
    /// HTTP and gRPC on one port.
    pub http_listen_port: u16,
    /// A port beside it for gRPC alone, as Tempo has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_listen_port: Option<u16>,
    /// `host:port` of Jaeger's query API alone. Without it, port 16686 beside the API where a Jaeger receiver is on;
    /// empty is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jaeger_query_endpoint: Option<String>,
    /// `host:port` of its methods of gRPC alone. Without it, port 16685 where the other has its port by default; empty is
    /// off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jaeger_query_grpc_endpoint: Option<String>,
    /// TLS of every port that has none of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsFiles>,
    /// Connections that may be open at the same time on each port.
    pub http_server_conn_limit: usize,
    /// How long running requests may take at shutdown before their connections are cut.
    pub graceful_shutdown_timeout: GoDuration,
}

impl Default for Server {
    fn default() -> Self {
        let api = ApiConfig::default();
        Self {
            http_listen_address: "127.0.0.1".to_owned(),
            http_listen_port: 3200,
            grpc_listen_port: None,
            jaeger_query_endpoint: None,
            jaeger_query_grpc_endpoint: None,
            tls: None,
            http_server_conn_limit: api.connections_max,
            graceful_shutdown_timeout: GoDuration(api.drain_timeout),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Distributor {
    pub receivers: Receivers,
    pub sampling: Sampling,
    pub redaction: Redaction,
    /// How long a client that was refused for its rate is told to wait.
    pub retry_after_on_resource_exhausted: GoDuration,
    /// Longer attribute keys and string values are cut; 0 keeps all.
    pub max_attribute_bytes: Size,
    /// Further attributes of a span, resource, scope, event or link are dropped and counted.
    pub max_attributes_per_span: usize,
    pub max_events_per_span: usize,
    pub max_links_per_span: usize,
}

impl Default for Distributor {
    fn default() -> Self {
        let ingester = IngesterConfig::default();
        Self {
            receivers: Receivers::default(),
            sampling: Sampling::default(),
            redaction: Redaction::default(),
            retry_after_on_resource_exhausted: GoDuration(::receivers::Config::default().retry_after),
            max_attribute_bytes: Size(ingester.attribute_value_bytes_max as u64),
            max_attributes_per_span: ingester.attributes_per_span_max,
            max_events_per_span: ingester.events_per_span_max,
            max_links_per_span: ingester.links_per_span_max,
        }
    }
}

/// Jaeger's remote sampling.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// Strategies in Jaeger's format, read again when they change. Without, it is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategies_file: Option<PathBuf>,
    /// `host:port` as of Jaeger's agent; empty is none.
    pub endpoint: String,
    pub reload_interval: GoDuration,
}

impl Default for Sampling {
    fn default() -> Self {
        let reload_interval = GoDuration::from_millis(10_000);
        Self { strategies_file: None, endpoint: "127.0.0.1:5778".to_owned(), reload_interval }
    }
}

/// What is taken out of spans before they are stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Redaction {
    /// Keys the hashes of rules that hash. Read again when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub salt_file: Option<PathBuf>,
    pub rules: Vec<redact::RuleSettings>,
    /// A list of further rules, which run after these. Read again when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules_file: Option<PathBuf>,
    /// How often these files are looked at for changes.
    pub reload_interval: GoDuration,
}

impl Default for Redaction {
    fn default() -> Self {
        Self { salt_file: None, rules: vec![], rules_file: None, reload_interval: GoDuration::from_millis(10_000) }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ingester {
    /// Live spans become blocks when the oldest has been here this long. Shorter means more and smaller blocks
    /// (two objects and one commit per tenant each time); longer means more to replay after a crash.
    pub max_block_duration: GoDuration,
    /// ... or when this many bytes of requests have come.
    pub max_block_bytes: Size,
    /// Memory for spans on their way into blocks, of all tenants: requests in work, live spans, and a quarter for making
    /// blocks. When it is used up, requests get a retryable refusal. The process takes up to a quarter more.
    pub max_memory: Size,
    /// Tenants whose blocks are made at the same time.
    pub concurrent_flushes: usize,
}

impl Default for Ingester {
    fn default() -> Self {
        let ingester = IngesterConfig::default();
        Self {
            max_block_duration: GoDuration::from_millis(ingester.live_age_max_ms),
            max_block_bytes: Size(ingester.cut_bytes.as_u64()),
            max_memory: Size(ingester.memory_max.as_u64()),
            concurrent_flushes: ingester.flush_parallelism,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueryFrontend {
    pub search: Search,
    pub metrics: Metrics,
    pub sql: Sql,
    pub mcp_server: McpServer,
    /// The time range, back from now, of a request that names none.
    pub default_range: GoDuration,
    /// A query that takes longer is stopped.
    pub api_timeout: GoDuration,
    /// Queries that may run at the same time; one more is told to come again.
    pub max_concurrent_queries: usize,
    /// Those of them that may be one tenant's.
    pub max_concurrent_queries_per_tenant: usize,
    /// The most bytes of blocks that one query may read, compressed, from the store or a cache; 0 is no limit.
    pub max_bytes_per_query: Size,
    /// The most memory that rows and cells of one query may take; 0 is no limit.
    pub max_memory_per_query: Size,
    /// About the most memory for decoding row groups, over all queries; they wait for each other above it.
    pub decoding_memory: Size,
    /// The most memory for columns of blocks that are kept decoded between queries; 0 keeps none.
    pub columns_memory: Size,
    /// The most memory for what traces that lie in several blocks are as a whole; those beyond are merged by each query that
    /// needs to know.
    pub split_traces_memory: Size,
    /// The most tenants one read may name, as `a|b|c`; 1 switches that off.
    pub max_tenants_per_query: usize,
}

impl Default for QueryFrontend {
    fn default() -> Self {
        let api = ApiConfig::default();
        Self {
            search: Search::default(),
            metrics: Metrics::default(),
            sql: Sql::default(),
            mcp_server: McpServer::default(),
            default_range: GoDuration(api.query.default_range),
            api_timeout: GoDuration(api.query_timeout),
            max_concurrent_queries: api.queries_max,
            max_concurrent_queries_per_tenant: api.tenant_queries_max,
            max_bytes_per_query: Size(api.budget.read_bytes_max),
            max_memory_per_query: Size(api.budget.memory_bytes_max),
            decoding_memory: Size(EngineConfig::default().memory_bytes_max),
            columns_memory: Size(EngineConfig::default().columns_memory_bytes),
            split_traces_memory: Size(EngineConfig::default().split_traces_memory_bytes),
            max_tenants_per_query: api.query.tenants_max,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Search {
    pub default_result_limit: u32,
    pub max_result_limit: u32,
    pub default_spans_per_span_set: u32,
    pub max_spans_per_span_set: u32,
}

impl Default for Search {
    fn default() -> Self {
        let query = ApiConfig::default().query;
        Self {
            default_result_limit: query.traces_default,
            max_result_limit: query.traces_max,
            default_spans_per_span_set: query.spans_per_spanset_default,
            max_spans_per_span_set: query.spans_per_spanset_max,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    pub max_exemplars: u32,
    /// The most points of a series.
    pub max_intervals: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        let query = ApiConfig::default().query;
        Self { max_exemplars: query.exemplars_max, max_intervals: query.steps_max }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sql {
    /// A query with more rows fails.
    pub max_rows: u64,
}

/// The Model Context Protocol at `/api/mcp`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct McpServer {
    pub enabled: bool,
}

impl Default for Sql {
    fn default() -> Self {
        Self { max_rows: ApiConfig::default().query.sql_rows_max }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IngestionLimits {
    /// Bytes of request a tenant may send each second.
    pub rate_limit_bytes: Size,
    /// The most at once. A larger request can never pass.
    pub burst_size_bytes: Size,
    /// 0 takes `distributor.max_attribute_bytes`.
    pub max_attribute_bytes: Size,
}

impl Default for IngestionLimits {
    fn default() -> Self {
        Self { rate_limit_bytes: Size(30_000_000), burst_size_bytes: Size::mib(64), max_attribute_bytes: Size(0) }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    pub level: LogLevel,
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: LogLevel::Info, format: LogFormat::Text }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    Text,
    Json,
}

impl Config {
    /// The configuration in effect as YAML, secrets as `<secret>`.
    pub fn effective_yaml(&self) -> String {
        serde_saphyr::to_string(self).expect("a tree of plain values serializes")
    }

    /// Makes every listener listen on `host`, keeping its port.
    pub fn listen_on(&mut self, host: &str) {
        self.server.http_listen_address = host.to_owned();
        let queries = [&mut self.server.jaeger_query_endpoint, &mut self.server.jaeger_query_grpc_endpoint];
        for endpoint in queries.into_iter().flatten().filter(|endpoint| !endpoint.is_empty()) {
            *endpoint = with_host(host, endpoint);
        }
        if !self.distributor.sampling.endpoint.is_empty() {
            self.distributor.sampling.endpoint = with_host(host, &self.distributor.sampling.endpoint);
        }
        self.distributor.receivers.listen_on(host);
    }

    /// `host:port` of Jaeger's query API, where it has a port of its own.
    pub fn jaeger_query_endpoint(&self) -> Option<String> {
        self.jaeger_endpoint(&self.server.jaeger_query_endpoint, !self.distributor.receivers.jaeger.is_off(), "16686")
    }

    /// `host:port` of the methods of Jaeger's query API, where they have a port of their own. Who moved the other port
    /// says where this one is.
    pub fn jaeger_query_grpc_endpoint(&self) -> Option<String> {
        let on = !self.distributor.receivers.jaeger.is_off() && self.server.jaeger_query_endpoint.is_none();
        self.jaeger_endpoint(&self.server.jaeger_query_grpc_endpoint, on, "16685")
    }

    fn jaeger_endpoint(&self, named: &Option<String>, on_unless_named: bool, port: &str) -> Option<String> {
        match named {
            Some(endpoint) => Some(endpoint.clone()).filter(|endpoint| !endpoint.is_empty()),
            None => on_unless_named.then(|| host_and_port(&self.server.http_listen_address, port)),
        }
    }

    /// `host:port` of Jaeger's remote sampling, where it has a port of its own.
    pub fn sampling_endpoint(&self) -> Option<&str> {
        let Sampling { strategies_file, endpoint, .. } = &self.distributor.sampling;
        (strategies_file.is_some() && !endpoint.is_empty()).then_some(endpoint)
    }

    /// `host:port` of gRPC, where it has a port of its own.
    pub fn grpc_endpoint(&self) -> Option<String> {
        self.server.grpc_listen_port.map(|port| host_and_port(&self.server.http_listen_address, &port.to_string()))
    }

    /// `host:port` of the API.
    pub fn api_endpoint(&self) -> String {
        host_and_port(&self.server.http_listen_address, &self.server.http_listen_port.to_string())
    }
}

/// An endpoint on another host, with its port.
fn with_host(host: &str, endpoint: &str) -> String {
    let port = endpoint.rsplit_once(':').map_or("", |(_, port)| port);
    host_and_port(host, port)
}

fn host_and_port(host: &str, port: &str) -> String {
    match host.contains(':') && !host.starts_with('[') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

/// How a client on this machine reaches a listener: an unspecified address is reached by loopback.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip().is_unspecified() {
        true if address.is_ipv4() => SocketAddr::from(([127, 0, 0, 1], address.port())),
        true => SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, address.port())),
        false => address,
    }
}
