//! Ports: connections are accepted, encrypted or not, told apart (HTTP/1.1 or HTTP/2), and drained at shutdown.
//!
//! What is served is a [`Handler`], whatever the protocol; a [`Layer`] stands in front of one. Every wait has an end: for
//! the handshake, for the first request of a connection, for a request's head, for an HTTP/2 peer's sign of life, and for
//! running requests at shutdown.

mod connection;
mod tls;

use std::{error::Error, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

pub use tls::{ClientCertificates, Tls, TlsSettings, TlsVersion};

pub type ResponseBody = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// Answers the requests of a port. Each carries a [`Peer`] in its extensions.
pub type Handler = Arc<dyn Fn(Request<Incoming>) -> BoxFuture<'static, Response<ResponseBody>> + Send + Sync>;

/// Stands in front of a handler.
pub type Layer = Arc<dyn Fn(Handler) -> Handler + Send + Sync>;

/// After the system refused a connection, for want of file handles say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound socket, and what stands between it and the handler.
pub struct Port {
    pub socket: TcpListener,
    /// `None` is plain text.
    pub tls: Option<Tls>,
    pub layer: Option<Layer>,
}

impl From<TcpListener> for Port {
    fn from(socket: TcpListener) -> Self {
        Self { socket, tls: None, layer: None }
    }
}

/// The bounds of a port.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// What is served, for the log.
    pub name: &'static str,
    /// Connections that may be open at the same time. Later ones wait in the listen queue.
    pub connections_max: usize,
    /// From the connection to its first request, and over HTTP/1.1 to the end of the next request's head.
    pub head_timeout: Duration,
    /// Of a request's line and headers.
    pub head_bytes_max: u32,
    /// How long running requests may take at shutdown before their connections are cut.
    pub drain_timeout: Duration,
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub address: SocketAddr,
    pub encrypted: bool,
    /// The one that the client showed, if its chain was found good: X.509, DER.
    pub certificate: Option<Arc<[u8]>>,
}

/// A body that is there as a whole.
pub fn full(bytes: impl Into<Bytes>) -> ResponseBody {
    ResponseBody::new(Full::new(bytes.into()).map_err(|never| match never {}))
}

/// Serves until `shutdown` is cancelled, then takes no new connection and waits for running requests as long as the
/// bounds say. Returns the number of connections that had to be cut.
pub fn serve(port: Port, bounds: Bounds, handler: Handler, shutdown: CancellationToken) -> BoxFuture<'static, usize> {
    let Port { socket, tls, layer } = port;
    let handler = match layer {
        Some(layer) => layer(handler),
        None => handler,
    };
    Box::pin(run(socket, Arc::new(Served { bounds, tls, handler }), shutdown))
}

/// What every connection of a port needs.
struct Served {
    bounds: Bounds,
    tls: Option<Tls>,
    handler: Handler,
}

async fn run(socket: TcpListener, served: Arc<Served>, shutdown: CancellationToken) -> usize {
    let Bounds { name, connections_max, drain_timeout, .. } = served.bounds;
    let permits = Arc::new(Semaphore::new(connections_max));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    while let Some((stream, address, permit)) = accept(&socket, &permits, &mut connections, &shutdown).await {
        connections.spawn(connection::converse(stream, address, permit, served.clone(), graceful.watcher()));
    }
    drop(socket);
    tracing::debug!(connections = connections.len(), "{name} takes no more connections");
    if tokio::time::timeout(drain_timeout, graceful.shutdown()).await.is_err() {
        tracing::warn!("{name}: requests still run after {drain_timeout:?}: closing their connections");
    }
    // What has finished but was not collected yet does not count as cut.
    while connections.try_join_next().is_some() {}
    let cut = connections.len();
    connections.shutdown().await;
    cut
}

/// The next connection, or `None` at shutdown. Collects finished connections meanwhile.
async fn accept(
    socket: &TcpListener,
    permits: &Arc<Semaphore>,
    connections: &mut JoinSet<()>,
    shutdown: &CancellationToken,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let next = async {
        let permit = permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        loop {
            match socket.accept().await {
                Ok((stream, address)) => return (stream, address, permit),
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::pin!(next);
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return None,
            Some(_) = connections.join_next() => {}
            accepted = &mut next => return Some(accepted),
        }
    }
}
