//! Reads a request's body under a limit of size and time.

use std::fmt::Display;

use bytes::{Bytes, BytesMut};
use distributor::{Lease, MemoryFull};
use http_body_util::BodyExt;
use hyper::body::Body;

use crate::{
    Receiver,
    inflate::Encoding,
    refusal::Refusal,
};

/// A declared length is only believed so far when memory is reserved.
const RESERVE_BYTES_MAX: u64 = 1 << 20;

/// Compressed data up to this size is decompressed at once; more goes to a thread that may block.
const INLINE_BYTES_MAX: usize = 4 << 10;

impl Receiver {
    /// A share of the memory for all requests.
    pub(crate) fn lease(&self) -> Result<Lease, Refusal> {
        self.distributor.memory().lease().map_err(|full| self.full(full))
    }

    pub(crate) fn full(&self, full: MemoryFull) -> Refusal {
        match full {
            MemoryFull::Now(_) => Refusal::unavailable(full, self.config.retry_after),
            MemoryFull::Ever { .. } => Refusal::too_large(full),
        }
    }

    /// Reads the whole body, at most `bytes_max`.
    pub(crate) async fn read_body<B>(&self, body: B, bytes_max: usize, lease: &mut Lease) -> Result<Bytes, Refusal>
    where
        B: Body<Data = Bytes, Error: Display> + Unpin,
    {
        let timeout = self.config.body_timeout;
        let read = tokio::time::timeout(timeout, self.read(body, bytes_max, lease));
        read.await.unwrap_or_else(|_| Err(Refusal::too_slow(format!("the body took longer than {timeout:?}"))))
    }

    /// Takes in the body of a request that is refused already.
    pub(crate) async fn forget_body<B: Body<Data = Bytes> + Unpin>(&self, body: B) {
        let _ = tokio::time::timeout(self.config.body_timeout, forget(body, self.config.request_bytes_max)).await;
    }

    async fn read<B>(&self, mut body: B, bytes_max: usize, lease: &mut Lease) -> Result<Bytes, Refusal>
    where
        B: Body<Data = Bytes, Error: Display> + Unpin,
    {
        let declared = body.size_hint().lower();
        // One frame is kept as it is; several are copied together.
        let (mut first, mut all) = (Bytes::new(), BytesMut::new());
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Refusal::invalid(format!("the body did not arrive whole: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            length += data.len();
            let refusal = if length > bytes_max {
                Some(Refusal::too_large(format!("the request has more than {bytes_max} bytes; send smaller batches")))
            } else {
                lease.grow(data.len()).map_err(|full| self.full(full)).err()
            };
            if let Some(refusal) = refusal {
                drop((data, first, all));
                forget(body, bytes_max).await;
                return Err(refusal);
            }
            if first.is_empty() && all.is_empty() {
                first = data;
                continue;
            }
            if all.is_empty() {
                all.reserve((declared.min(RESERVE_BYTES_MAX) as usize).max(length));
                all.extend_from_slice(&std::mem::take(&mut first));
            }
            all.extend_from_slice(&data);
        }
        Ok(if all.is_empty() { first } else { all.freeze() })
    }

    /// Undoes the compression.
    pub(crate) async fn inflate(
        &self,
        body: Bytes,
        encoding: Encoding,
        lease: Lease,
    ) -> Result<(Bytes, Lease), Refusal> {
        if encoding == Encoding::Identity {
            return Ok((body, lease));
        }
        let bytes_max = self.config.request_bytes_max;
        let blocking = body.len() > INLINE_BYTES_MAX;
        let work = move || {
            let mut lease = lease;
            encoding.inflate(&body, bytes_max, &mut lease).map(|content| (Bytes::from(content), lease))
        };
        let inflated = if blocking { self.on_blocking_thread(work).await? } else { work() };
        inflated.map_err(|error| error.refusal(encoding, |full| self.full(full)))
    }

    /// Runs what takes long without waiting for anything.
    pub(crate) async fn on_blocking_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        tokio::task::spawn_blocking(work).await.map_err(|error| {
            tracing::error!("a request could not be decoded: {error}");
            Refusal::unavailable("an internal error; nothing was stored", self.config.retry_after)
        })
    }
}

/// Takes in what is left of a body, up to so many bytes, and keeps nothing: over HTTP/1 many a client reads the answer
/// only after it has sent everything, and never if the connection is closed before.
async fn forget<B: Body<Data = Bytes> + Unpin>(mut body: B, bytes_max: usize) {
    let mut length = 0;
    while let Some(Ok(frame)) = body.frame().await {
        length += frame.data_ref().map_or(0, Bytes::len);
        if length > bytes_max {
            return;
        }
    }
}
