//! One connection, from its first byte to its end.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::Watcher},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
};

use crate::{Bounds, Peer, Served, tls};

const HTTP2_STREAMS_MAX: u32 = 256;
/// A stream's and a connection's window: a request of usual size comes in one round trip.
const HTTP2_STREAM_WINDOW_BYTES: u32 = 1 << 20;
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(20);
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(20);
/// A TLS handshake is two round trips.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves one connection to its end.
pub(crate) async fn converse(
    stream: TcpStream,
    address: SocketAddr,
    _permit: OwnedSemaphorePermit,
    served: Arc<Served>,
    watcher: Watcher,
) {
    let _ = stream.set_nodelay(true);
    let Some(tls) = &served.tls else {
        return speak(stream, Peer { address, encrypted: false, certificate: None }, &served, watcher).await;
    };
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => {
            let certificate = tls::certificate(&stream);
            speak(stream, Peer { address, encrypted: true, certificate }, &served, watcher).await;
        }
        Ok(Err(error)) => tracing::debug!("{}: no TLS with {address}: {error}", served.bounds.name),
        Err(_) => tracing::debug!("{}: the handshake with {address} takes too long", served.bounds.name),
    }
}

async fn speak(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    served: &Served,
    watcher: Watcher,
) {
    let asked = AtomicBool::new(false);
    let service = service_fn(|mut request| {
        asked.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(peer.clone());
        let answer = (served.handler)(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let builder = builder(&served.bounds);
    let connection = watcher.watch(builder.serve_connection(TokioIo::new(stream), service));
    tokio::pin!(connection);
    // Telling the versions apart has no time limit of its own.
    let mut waiting = true;
    let first_request = tokio::time::sleep(served.bounds.head_timeout);
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

fn builder(bounds: &Bounds) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head_timeout)
        .max_buf_size(bounds.head_bytes_max as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_header_list_size(bounds.head_bytes_max)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(HTTP2_PING_TIMEOUT);
    builder
}
