//! Sockets and connections: plain-text HTTP/1.1 and HTTP/2, told apart by their first bytes.
//!
//! Every wait has an end: for the first request of a connection, for a request's head and body, for an HTTP/2 peer's
//! sign of life, and for running requests at shutdown.

use std::{
    convert::Infallible,
    error::Error,
    fmt,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Receiver,
    foreign::refused_text,
    grpc::{self, refused_grpc},
    http::refused_http,
    refusal::Refusal,
};

const HEAD_BYTES_MAX: u32 = 64 << 10;
const HTTP2_STREAMS_MAX: u32 = 256;
/// A stream's and a connection's window: a request of usual size comes in one round trip.
const HTTP2_STREAM_WINDOW_BYTES: u32 = 1 << 20;
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(20);
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(20);
/// After the system refused a connection, for want of file handles say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub type ResponseBody = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// A body that is there as a whole.
pub(crate) fn full(bytes: Vec<u8>) -> ResponseBody {
    ResponseBody::new(Full::from(bytes).map_err(|never| match never {}))
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Protocol {
    OtlpGrpc,
    OtlpHttp,
    Zipkin,
    JaegerGrpc,
    JaegerThrift,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtlpGrpc => "OTLP/gRPC",
            Self::OtlpHttp => "OTLP/HTTP",
            Self::Zipkin => "Zipkin",
            Self::JaegerGrpc => "Jaeger/gRPC",
            Self::JaegerThrift => "Jaeger/thrift",
        })
    }
}

pub(crate) async fn serve(
    listener: TcpListener,
    receiver: Receiver,
    protocol: Protocol,
    shutdown: CancellationToken,
) -> usize {
    let permits = Arc::new(Semaphore::new(receiver.config.connections_max));
    let drain_timeout = receiver.config.drain_timeout;
    let receiver = Arc::new(receiver);
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    while let Some((stream, permit)) = accept(&listener, &permits, &mut connections, &shutdown).await {
        connections.spawn(converse(stream, permit, receiver.clone(), protocol, graceful.watcher()));
    }
    drop(listener);
    if tokio::time::timeout(drain_timeout, graceful.shutdown()).await.is_err() {
        tracing::warn!("{protocol}: requests still run after {drain_timeout:?}: closing their connections");
    }
    // What has finished but was not collected yet does not count as cut.
    while connections.try_join_next().is_some() {}
    let cut = connections.len();
    connections.shutdown().await;
    cut
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
    _permit: OwnedSemaphorePermit,
    receiver: Arc<Receiver>,
    protocol: Protocol,
    watcher: Watcher,
) {
    let _ = stream.set_nodelay(true);
    let head_timeout = receiver.config.head_timeout;
    let asked = AtomicBool::new(false);
    let service = service_fn(|request| {
        asked.store(true, Ordering::Relaxed);
        let receiver = receiver.clone();
        async move { Ok::<_, Infallible>(receiver.answer(request, protocol).await) }
    });
    let builder = builder(head_timeout);
    let connection = watcher.watch(builder.serve_connection(TokioIo::new(stream), service));
    tokio::pin!(connection);
    // Telling the versions apart has no time limit of its own.
    let mut waiting = true;
    let first_request = tokio::time::sleep(head_timeout);
    tokio::pin!(first_request);
    loop {
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!("connection ended: {error}");
                }
                return;
            }
            () = &mut first_request, if waiting => {
                if !asked.load(Ordering::Relaxed) {
                    return;
                }
                waiting = false;
            }
        }
    }
}

fn builder(head_timeout: Duration) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(head_timeout).max_buf_size(HEAD_BYTES_MAX as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(HTTP2_PING_TIMEOUT);
    builder
}

impl Receiver {
    /// A panic is our bug, and not the client's: it is told to come again.
    async fn answer(&self, request: Request<Incoming>, protocol: Protocol) -> Response<ResponseBody> {
        let answer = async {
            match protocol {
                Protocol::OtlpGrpc => self.answer_grpc(request, &grpc::EXPORT).await,
                Protocol::JaegerGrpc => self.answer_grpc(request, &grpc::POST_SPANS).await,
                Protocol::OtlpHttp => self.answer_http(request).await,
                Protocol::Zipkin => self.answer_zipkin(request).await,
                Protocol::JaegerThrift => self.answer_jaeger_thrift(request).await,
            }
        };
        AssertUnwindSafe(answer).catch_unwind().await.unwrap_or_else(|_| {
            tracing::error!("a panic while a request of {protocol} was handled");
            let refusal = Refusal::unavailable("an internal error; send again later", self.config.retry_after);
            match protocol {
                Protocol::OtlpGrpc | Protocol::JaegerGrpc => refused_grpc(&refusal),
                Protocol::OtlpHttp => refused_http(&refusal),
                Protocol::Zipkin | Protocol::JaegerThrift => refused_text(&refusal),
            }
        })
    }
}
