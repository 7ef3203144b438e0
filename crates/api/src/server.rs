//! Serves the API on a socket: HTTP/1.1 and HTTP/2 in plain text, told apart by their first bytes.
//!
//! Every wait has an end: for the first request of a connection, for a request's head, for an HTTP/2 peer's sign
//! of life, and for running requests at shutdown.

use crate::{ApiState, grpc, routes, state::Shared};
use axum::{Router, extract::Request};
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower::Service;

/// From the connection to its first request. A peer that says less than that is cut off.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// From one request to the end of the next one's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// A URL has at most 64 KiB; the headers come beside it.
const HEAD_BYTES_MAX: u32 = 256 << 10;
const HTTP2_STREAMS_MAX: u32 = 256;
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(20);
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(20);
/// After the system refused a connection, for want of file handles say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The query APIs over one engine, which share their bounds whatever port they are asked on.
#[derive(Clone)]
pub struct Api(Arc<Shared>);

impl Api {
    pub fn new(state: ApiState) -> Self {
        Self(Shared::new(state))
    }

    /// Serves everything until `shutdown` is cancelled, then takes no new connection and waits for running requests as
    /// long as `drain_timeout` says. Returns the number of connections that had to be cut.
    pub fn serve(&self, listener: TcpListener, shutdown: CancellationToken) -> BoxFuture<'static, io::Result<usize>> {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let (reporter, _) = tonic_health::server::health_reporter();
            let health = grpc::Health::new(tonic_health::server::HealthService::from_health_reporter(reporter.clone()));
            let mut health_follower = JoinSet::new();
            health_follower.spawn(routes::follow(shared.state.readiness.clone(), reporter));
            run(listener, routes::router(Arc::clone(&shared), health), &shared, shutdown).await
        })
    }

    /// Serves Jaeger's query API alone, otherwise as [`Api::serve`].
    pub fn serve_jaeger(&self, listener: TcpListener, shutdown: CancellationToken) -> BoxFuture<'static, io::Result<usize>> {
        let shared = Arc::clone(&self.0);
        Box::pin(async move { run(listener, routes::jaeger_router(&shared), &shared, shutdown).await })
    }

    /// Zipkin's query API alone, for a port that is served elsewhere.
    pub fn zipkin(&self) -> Router {
        routes::zipkin_router(&self.0)
    }
}

/// Serves everything on one port: see [`Api::serve`].
pub fn serve(listener: TcpListener, state: ApiState, shutdown: CancellationToken) -> BoxFuture<'static, io::Result<usize>> {
    Api::new(state).serve(listener, shutdown)
}

async fn run(listener: TcpListener, router: Router, shared: &Shared, shutdown: CancellationToken) -> io::Result<usize> {
    let drain_timeout = shared.state.config.drain_timeout;
    let permits = Arc::new(Semaphore::new(shared.state.config.connections_max));

    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();

    while let Some((stream, permit)) = accept(&listener, &permits, &mut connections, &shutdown).await {
        connections.spawn(converse(stream, permit, router.clone(), graceful.watcher()));
    }
    drop(listener);
    tracing::debug!(connections = connections.len(), "the API takes no more connections");

    if tokio::time::timeout(drain_timeout, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests still run after {drain_timeout:?}: closing their connections");
    }
    // What has finished but was not collected yet does not count as cut.
    while connections.try_join_next().is_some() {}
    let cut = connections.len();
    connections.shutdown().await;
    Ok(cut)
}

/// The next connection, or `None` at shutdown. Collects finished connections meanwhile.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
    connections: &mut JoinSet<()>,
    shutdown: &CancellationToken,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let next = async {
        let permit = permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return (stream, permit),
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

/// Serves one connection to its end.
async fn converse(
    stream: TcpStream,
    permit: OwnedSemaphorePermit,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
) {
    let _permit = permit;
    let _ = stream.set_nodelay(true);
    let asked = Arc::new(AtomicBool::new(false));
    let service = TowerToHyperService::new(Noting { asked: asked.clone(), router });
    let builder = builder();
    let connection = watcher.watch(builder.serve_connection(TokioIo::new(stream), service));
    tokio::pin!(connection);
    let mut first_request = Some(Box::pin(tokio::time::sleep(FIRST_REQUEST_TIMEOUT)));
    loop {
        tokio::select! {
            outcome = &mut connection => {
                if let Err(error) = outcome {
                    tracing::debug!("connection ended: {error}");
                }
                return;
            }
            () = wait(&mut first_request) => {
                if !asked.load(Ordering::Relaxed) {
                    return;
                }
                first_request = None;
            }
        }
    }
}

/// Never ends if there is no timer.
async fn wait(timer: &mut Option<Pin<Box<tokio::time::Sleep>>>) {
    match timer {
        Some(timer) => timer.await,
        None => std::future::pending().await,
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES_MAX as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(HTTP2_PING_TIMEOUT)
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX);
    builder
}

/// Notes that the connection has carried a request.
#[derive(Clone)]
struct Noting {
    asked: Arc<AtomicBool>,
    router: Router,
}

impl Service<Request<Incoming>> for Noting {
    type Response = axum::response::Response;
    type Error = Infallible;
    type Future = <Router as Service<Request<Incoming>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        <Router as Service<Request<Incoming>>>::poll_ready(&mut self.router, context)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        self.asked.store(true, Ordering::Relaxed);
        self.router.call(request)
    }
}
