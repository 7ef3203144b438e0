//! A server on free ports, and spans to send.

use std::{net::SocketAddr, num::NonZeroU64, sync::Arc, time::Duration};

use distributor::{Distributor, Rate, Rates};
use ingester::{Ingester, IngesterConfig};
use proto::otlp::{
    collector::trace::v1::ExportTraceServiceRequest,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use http_body_util::BodyExt;
use receivers::{AgentProtocol, Config, DatagramCounts, Elsewhere, Protocol, ResponseBody};
use storage::{Storage, StorageConfig};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, UdpSocket},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

pub struct Server {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    pub zipkin: SocketAddr,
    pub jaeger_grpc: SocketAddr,
    pub jaeger_thrift: SocketAddr,
    pub agent: SocketAddr,
    pub datagrams: DatagramCounts,
    pub ingester: Ingester,
    pub storage: Storage,
    pub shutdown: CancellationToken,
    /// The number of connections that were cut, over gRPC and HTTP.
    pub ended: (JoinHandle<usize>, JoinHandle<usize>),
    /// Ends when the datagrams that had arrived at shutdown are stored.
    pub agent_ended: JoinHandle<()>,
    _dir: TempDir,
}

/// A small limit, so that going over it is cheap.
pub const REQUEST_BYTES_MAX: usize = 1 << 20;
pub const RETRY_AFTER: Duration = Duration::from_secs(7);

pub fn config() -> Config {
    Config { request_bytes_max: REQUEST_BYTES_MAX, retry_after: RETRY_AFTER, ..Config::default() }
}

impl Server {
    pub async fn start(config: Config) -> Self {
        Self::with(config, 100 << 20, 100 << 20, IngesterConfig::default()).await
    }

    /// With so many bytes of memory for spans.
    pub async fn with_memory(config: Config, bytes: u64) -> Self {
        let memory_max = bytesize::ByteSize::b(bytes);
        Self::with(config, 100 << 20, 100 << 20, IngesterConfig { memory_max, ..IngesterConfig::default() }).await
    }

    /// Rate and burst of a tenant in bytes.
    pub async fn with_rate(config: Config, rate: u64, burst: u64) -> Self {
        Self::with(config, rate, burst, IngesterConfig::default()).await
    }

    async fn with(config: Config, rate: u64, burst: u64, ingester: IngesterConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut storage = StorageConfig::default();
        storage.local.path = dir.path().join("blocks");
        let ingester = IngesterConfig { wal_dir: dir.path().join("wal"), ..ingester };
        let storage = Storage::open(&storage).await.unwrap();
        let ingester = Ingester::open(ingester, storage.clone()).await.unwrap();
        let limits = distributor::Config {
            rates: Rates::all(Rate {
                limit_bytes: NonZeroU64::new(rate).unwrap(),
                burst_bytes: NonZeroU64::new(burst).unwrap(),
            }),
            retry_after: RETRY_AFTER,
            tenants_max: 10,
        };
        let distributor = Distributor::new(limits, ingester.clone());
        let shutdown = CancellationToken::new();
        let (grpc, http) = (free_port().await, free_port().await);
        let addresses = (grpc.local_addr().unwrap(), http.local_addr().unwrap());
        let (zipkin, jaeger_grpc, jaeger_thrift) = (free_port().await, free_port().await, free_port().await);
        let address = |socket: &TcpListener| socket.local_addr().unwrap();
        let foreign = (address(&zipkin), address(&jaeger_grpc), address(&jaeger_thrift));
        let (parts, stop) = (|| (distributor.clone(), config.clone()), || shutdown.clone());
        let elsewhere: Elsewhere = Arc::new(|request| {
            Box::pin(async move {
                let text = format!("elsewhere {}", request.uri());
                ::http::Response::new(ResponseBody::new(http_body_util::Full::from(text).map_err(|never| match never {})))
            })
        });
        let (spans, settings) = parts();
        let serve = |port, protocol, elsewhere| {
            let (spans, settings) = parts();
            tokio::spawn(receivers::serve(port, protocol, spans, settings, elsewhere, stop()))
        };
        serve(zipkin, Protocol::Zipkin, Some(elsewhere));
        serve(jaeger_grpc, Protocol::JaegerGrpc, None);
        serve(jaeger_thrift, Protocol::JaegerThrift, None);
        let ended = (serve(grpc, Protocol::OtlpGrpc, None), serve(http, Protocol::OtlpHttp, None));
        let agent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (agent_address, datagrams) = (agent.local_addr().unwrap(), DatagramCounts::default());
        let agent = receivers::serve_jaeger_agent(agent, AgentProtocol::Compact, spans, settings, datagrams.clone(), stop());
        Self {
            zipkin: foreign.0,
            jaeger_grpc: foreign.1,
            jaeger_thrift: foreign.2,
            agent: agent_address,
            datagrams,
            agent_ended: tokio::spawn(agent),
            grpc: addresses.0,
            http: addresses.1,
            ingester,
            storage,
            ended,
            shutdown,
            _dir: dir,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}/v1/traces", self.http)
    }

    /// Spans that are durable so far.
    pub fn stored(&self) -> u64 {
        self.ingester.stats().accepted_spans
    }
}

async fn free_port() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

pub fn span(number: u8) -> Span {
    Span { trace_id: vec![number; 16], span_id: vec![number; 8], name: "work".into(), ..Span::default() }
}

/// A span with an invalid trace id.
pub fn bad_span() -> Span {
    Span { trace_id: vec![1; 8], ..span(1) }
}

pub fn request(spans: Vec<Span>) -> ExportTraceServiceRequest {
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }] }
}

/// A request that is larger than [`REQUEST_BYTES_MAX`] and compresses well.
pub fn large_request() -> ExportTraceServiceRequest {
    request(vec![Span { name: "x".repeat(REQUEST_BYTES_MAX), ..span(1) }])
}
