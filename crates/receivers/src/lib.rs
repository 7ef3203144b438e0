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
pub use serve::Protocol;
pub use udp::DatagramCounts;

/// Answers the requests of a port that are no deliveries of spans: other methods or paths than the protocol's own, and at
/// Zipkin's port, which takes spans on any path, what is not POST.
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

/// Serves one protocol until `shutdown` is cancelled and running requests are answered. What is no delivery of spans goes to
/// `elsewhere`, or is refused. Returns the number of connections that had to be cut because they took longer than the drain
/// timeout.
pub fn serve(
    port: impl Into<Port>,
    protocol: Protocol,
    distributor: Distributor,
    config: Config,
    elsewhere: Option<Elsewhere>,
    shutdown: CancellationToken,
) -> BoxFuture<'static, usize> {
    serve::serve(port.into(), Receiver { config, distributor, elsewhere }, protocol, shutdown)
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
    let receiver = Receiver { config, distributor, elsewhere: None };
    Box::pin(udp::serve(socket, receiver, protocol, counts, shutdown))
}
