//! Foreign protocols in: OTLP over gRPC and HTTP.
//!
//! One file per thought: `serve` (sockets, connections, drain), `grpc` and `http` (one protocol each), and what both
//! share: `body` (reading under a limit), `inflate`, `tenancy`, `budget` (memory of all requests together), and
//! `refusal`, the one table of answers.
//!
//! - A request is handed on as its protobuf bytes; nothing here decodes spans, except OTLP/JSON into protobuf.
//! - Whatever a request holds costs that request, never the connection's other requests or the process.
//! - Size is bounded before and after decompression, and together over all requests of a receiver; every wait for a
//!   client has an end.
//! - What can pass later is answered so that a correct client comes again; what cannot, so that it does not.

mod body;
mod budget;
mod grpc;
mod http;
mod inflate;
mod refusal;
mod serve;
mod tenancy;

use std::time::Duration;

use distributor::Distributor;
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use budget::Budget;
use serve::Protocol;

/// One receiver. The defaults suit a public port.
#[derive(Clone, Debug)]
pub struct Config {
    /// On: every request names its tenant in `X-Scope-OrgID`. Off: the header is ignored.
    pub multitenancy: bool,
    /// The largest request, before and after decompression.
    pub request_bytes_max: usize,
    /// Memory for all requests that are being received or stored; above it a retryable refusal.
    pub requests_bytes_max: usize,
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
            requests_bytes_max: 512 << 20,
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
    budget: Budget,
}

impl Receiver {
    fn new(config: Config, distributor: Distributor) -> Self {
        Self { budget: Budget::new(config.requests_bytes_max), config, distributor }
    }
}

/// Serves OTLP/gRPC until `shutdown` is cancelled and running requests are answered. Returns the number of
/// connections that had to be cut because they took longer than the drain timeout.
pub fn serve_grpc(
    listener: TcpListener,
    distributor: Distributor,
    config: Config,
    shutdown: CancellationToken,
) -> BoxFuture<'static, usize> {
    Box::pin(serve::serve(listener, Receiver::new(config, distributor), Protocol::Grpc, shutdown))
}

/// Serves OTLP/HTTP, otherwise as [`serve_grpc`].
pub fn serve_http(
    listener: TcpListener,
    distributor: Distributor,
    config: Config,
    shutdown: CancellationToken,
) -> BoxFuture<'static, usize> {
    Box::pin(serve::serve(listener, Receiver::new(config, distributor), Protocol::Http, shutdown))
}
