//! Protocols in: OTLP over gRPC and HTTP, Zipkin over HTTP, Jaeger over gRPC, HTTP and UDP.
//!
//! One file per thought: `serve` (ports), `grpc`, `http`, `zipkin`, `jaeger` and `udp` (one
//! transport each), and what they share: `body` (reading under a limit), `inflate`, `tenancy`, `foreign` (formats other than OTLP), and `refusal`, the one table of answers.
//!
//! - A request is handed on as OTLP's protobuf bytes. Those that come so are not decoded; the others are translated.
//! - Whatever a request holds costs that request, never the connection's other requests or the process.
//! - Size is bounded before and after decompression, and together over all requests and what becomes of them
//!   ([`distributor::Memory`]); every wait for a client has an end.
//! - What can pass later is answered so that a correct client comes again; what cannot, so that it does not.

mod body;
mod foreign;
mod grpc;
mod http;
mod inflate;
mod jaeger;
mod refusal;
mod serve;
mod tenancy;
mod udp;
mod zipkin;

use std::time::Duration;

use distributor::Distributor;
use futures::future::BoxFuture;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

pub use ::translate::jaeger::Protocol as AgentProtocol;
pub use listen::{Port, ResponseBody};
pub use udp::DatagramCounts;

use serve::Protocol;

/// Answers the requests of a port that are no deliveries of spans.
pub type Elsewhere = listen::Handler;

/// One receiver. The defaults suit a public port.
#[derive(Clone, Debug)]
pub struct Config {
    /// On: every request names its tenant in `X-Scope-OrgID`. Off: the header is ignored.
    pub multitenancy: bool,
    /// The largest request, before and after decompression.
    pub request_bytes_max: usize,
    pub connections_max: usize,
    /// From the connection to its first request, and over HTTP/1.1 to the end of the next request's head.
    pub head_timeout: Duration,
    /// From the end of the head to the end of the body.
    pub body_timeout: Duration,
    /// How long running requests may take at shutdown before their connections are cut.
    pub drain_timeout: Duration,
    /// What a client is told to wait when this receiver itself is overloaded.
    pub retry_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            multitenancy: false,
            // OTLP's recommendation.
            request_bytes_max: 64 << 20,
            connections_max: 4096,
            head_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(30),
            retry_after: Duration::from_secs(5),
        }
    }
}

/// What every request of a receiver needs.
struct Receiver {
    config: Config,
    distributor: Distributor,
    elsewhere: Option<Elsewhere>,
}

impl Receiver {
    fn new(config: Config, distributor: Distributor) -> Self {
        Self { config, distributor, elsewhere: None }
    }

    fn beside(self, elsewhere: Option<Elsewhere>) -> Self {
        Self { elsewhere, ..self }
    }
}

/// Serves OTLP/gRPC until `shutdown` is cancelled and running requests are answered. Returns the number of
/// connections that had to be cut because they took longer than the drain timeout.
pub fn serve_grpc(
    port: impl Into<Port>,
    distributor: Distributor,
    config: Config,
    shutdown: CancellationToken,
) -> BoxFuture<'static, usize> {
    serve::serve(port.into(), Receiver::new(config, distributor), Protocol::OtlpGrpc, shutdown)
}

/// Serves OTLP/HTTP, otherwise as [`serve_grpc`].
pub fn serve_http(
    port: impl Into<Port>,
    distributor: Distributor,
    config: Config,
    shutdown: CancellationToken,
) -> BoxFuture<'static, usize> {
    serve::serve(port.into(), Receiver::new(config, distributor), Protocol::OtlpHttp, shutdown)
}

/// Serves Zipkin's collector, otherwise as [`serve_grpc`]. What is not POST goes to `elsewhere`.
pub fn serve_zipkin(
    port: impl Into<Port>,
    distributor: Distributor,
    config: Config,
    elsewhere: Option<Elsewhere>,
    shutdown: CancellationToken,
) -> BoxFuture<'static, usize> {
    let receiver = Receiver::new(config, distributor).beside(elsewhere);
    serve::serve(port.into(), receiver, Protocol::Zipkin, shutdown)
}

/// Serves Jaeger's collector over gRPC, otherwise as [`serve_grpc`]. Other methods than its own go to `elsewhere`.
pub fn serve_jaeger_grpc(
    port: impl Into<Port>,
    distributor: Distributor,
    config: Config,
    elsewhere: Option<Elsewhere>,
    shutdown: CancellationToken,
) -> BoxFuture<'static, usize> {
    let receiver = Receiver::new(config, distributor).beside(elsewhere);
    serve::serve(port.into(), receiver, Protocol::JaegerGrpc, shutdown)
}

/// Serves Jaeger's collector over HTTP, otherwise as [`serve_grpc`]. Other paths than its own go to `elsewhere`.
pub fn serve_jaeger_thrift(
    port: impl Into<Port>,
    distributor: Distributor,
    config: Config,
    elsewhere: Option<Elsewhere>,
    shutdown: CancellationToken,
) -> BoxFuture<'static, usize> {
    let receiver = Receiver::new(config, distributor).beside(elsewhere);
    serve::serve(port.into(), receiver, Protocol::JaegerThrift, shutdown)
}

/// Serves one protocol of Jaeger's agent until `shutdown` is cancelled. All spans are those of the single tenant, so
/// this is not for where there are several.
pub fn serve_jaeger_agent(
    socket: UdpSocket,
    protocol: AgentProtocol,
    distributor: Distributor,
    config: Config,
    counts: DatagramCounts,
    shutdown: CancellationToken,
) -> BoxFuture<'static, ()> {
    Box::pin(udp::serve(socket, Receiver::new(config, distributor), protocol, counts, shutdown))
}
