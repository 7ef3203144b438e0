//! Jaeger's agent: batches of spans in datagrams, thrift's compact protocol on one port, its binary protocol on another.
//!
//! Nothing is answered, so a sender never learns of a loss, and none of its spans counts as acknowledged. What this
//! program drops is counted; what the system drops before, because datagrams come faster than they are taken, is not.
//! A datagram names no tenant: there is no agent where there are several.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use model::TenantId;
use tokio::{net::UdpSocket, sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;
use translate::jaeger::{self, Protocol};

use crate::{Receiver, foreign::now};

/// The largest datagram there is.
const DATAGRAM_BYTES_MAX: usize = 64 << 10;
/// Datagrams that wait for the log at the same time. Above it, they wait in the socket.
const DATAGRAMS_MAX: usize = 256;
/// Datagrams that are still taken from the socket at shutdown.
const DRAINED_MAX: usize = 10_000;
/// After the system refused to hand over a datagram.
const RECEIVE_PAUSE: Duration = Duration::from_millis(100);

/// What came in over UDP. Clones share the numbers, which only grow.
#[derive(Clone, Default)]
pub struct DatagramCounts(Arc<Counters>);

#[derive(Default)]
struct Counters {
    received: AtomicU64,
    malformed: AtomicU64,
    refused: AtomicU64,
}

impl DatagramCounts {
    pub fn received(&self) -> u64 {
        self.0.received.load(Relaxed)
    }

    /// Dropped, by reason: `malformed` for good, `refused` by a limit or for want of room.
    pub fn dropped(&self) -> [(&'static str, u64); 2] {
        [("malformed", self.0.malformed.load(Relaxed)), ("refused", self.0.refused.load(Relaxed))]
    }
}

/// Takes datagrams until `shutdown` is cancelled, and then what has arrived by then.
pub(crate) fn serve(
    socket: UdpSocket,
    receiver: Receiver,
    protocol: Protocol,
    counts: DatagramCounts,
    shutdown: CancellationToken,
) -> impl Future<Output = ()> {
    let server = Server { receiver: Arc::new(receiver), protocol, counts, permits: Arc::new(Semaphore::new(DATAGRAMS_MAX)) };
    server.run(socket, shutdown)
}

struct Server {
    receiver: Arc<Receiver>,
    protocol: Protocol,
    counts: DatagramCounts,
    permits: Arc<Semaphore>,
}

impl Server {
    async fn run(self, socket: UdpSocket, shutdown: CancellationToken) {
        let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
        let mut storing = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(_) = storing.join_next() => {}
                received = socket.recv(&mut datagram) => match received {
                    Ok(length) => self.take(Bytes::copy_from_slice(&datagram[..length]), &mut storing).await,
                    Err(error) => {
                        tracing::warn!("cannot receive a datagram: {error}");
                        tokio::time::sleep(RECEIVE_PAUSE).await;
                    }
                },
            }
        }
        // It stays non-blocking. The runtime may not know yet what has arrived; the system does.
        if let Ok(socket) = socket.into_std() {
            for _ in 0..DRAINED_MAX {
                let Ok(length) = socket.recv(&mut datagram) else { break };
                self.take(Bytes::copy_from_slice(&datagram[..length]), &mut storing).await;
            }
        }
        let drain_timeout = self.receiver.config.drain_timeout;
        let drained = tokio::time::timeout(drain_timeout, async { while storing.join_next().await.is_some() {} });
        if drained.await.is_err() {
            tracing::warn!("datagrams are still being stored after {drain_timeout:?}: leaving them");
        }
    }

    /// Waits while too many are in work.
    async fn take(&self, datagram: Bytes, storing: &mut JoinSet<()>) {
        self.counts.0.received.fetch_add(1, Relaxed);
        let permit = self.permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (receiver, counts, protocol) = (Arc::clone(&self.receiver), self.counts.clone(), self.protocol);
        storing.spawn(async move {
            let _permit = permit;
            receiver.take_datagram(datagram, protocol, &counts).await;
        });
    }
}

impl Receiver {
    async fn take_datagram(&self, datagram: Bytes, protocol: Protocol, counts: &DatagramCounts) {
        let received = now();
        let translate = move |datagram: Bytes| jaeger::request_of_agent(protocol, &datagram, received);
        let outcome = match self.lease() {
            Ok(lease) => self.push_translated(&TenantId::single(), datagram, lease, translate).await,
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = outcome {
            let invalid = refusal.http == http::StatusCode::BAD_REQUEST;
            let counter = if invalid { &counts.0.malformed } else { &counts.0.refused };
            counter.fetch_add(1, Relaxed);
            tracing::debug!("a datagram was dropped: {}", refusal.message);
        }
    }
}
