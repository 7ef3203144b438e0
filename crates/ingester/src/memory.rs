//! The one budget of memory for spans on their way into blocks.
//!
//! - Charged to it are requests in work, live spans, and the making of blocks.
//! - A quarter is kept for making blocks, which is the way out: requests and live spans are admitted up to the rest. Whoever
//!   comes when that is used up is refused, and comes again.
//! - What is admitted stays admitted: live spans and blocks being made are charged what they take, without asking.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

/// The part that making blocks may take.
const FLUSH_SHARE: usize = 4;
/// Charged per request beside its bytes, so that their number is bounded too.
const REQUEST_BYTES: usize = 4 << 10;

/// A handle; clones share one budget.
#[derive(Clone)]
pub struct Memory {
    inner: Arc<Inner>,
}

struct Inner {
    bytes_max: usize,
    /// Requests and live spans.
    admitted: AtomicUsize,
    live: AtomicUsize,
    flushing: AtomicUsize,
    refusals: AtomicU64,
}

/// What is charged at the moment, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    pub bytes_max: usize,
    /// Requests that are being received or stored.
    pub requests: usize,
    pub live: usize,
    /// Blocks that are being made.
    pub flushing: usize,
    /// How often something was refused for want of memory, since the start.
    pub refusals: u64,
}

/// Why no more was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryFull {
    /// It may be granted later.
    #[error("overloaded: memory for spans is used up: {} bytes of requests and {} of live spans that wait to be stored, of {} (ingester.max_memory); send again later", .0.requests, .0.live, .0.bytes_max)]
    Now(MemoryUse),
    /// It can never be.
    #[error("the request takes {bytes} bytes of memory, and there is room for {room} (ingester.max_memory); send smaller batches")]
    Ever { bytes: usize, room: usize },
}

/// What one request has been granted; given back when dropped.
pub struct Lease {
    memory: Memory,
    bytes: usize,
}

/// What the making of one block takes; given back when dropped.
pub(crate) struct FlushShare {
    memory: Memory,
    bytes: usize,
}

impl Memory {
    pub fn new(bytes_max: usize) -> Self {
        let inner = Inner {
            bytes_max,
            admitted: AtomicUsize::new(0),
            live: AtomicUsize::new(0),
            flushing: AtomicUsize::new(0),
            refusals: AtomicU64::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Of a request that begins.
    pub fn lease(&self) -> Result<Lease, MemoryFull> {
        let mut lease = self.empty_lease();
        lease.grow(REQUEST_BYTES)?;
        Ok(lease)
    }

    pub(crate) fn empty_lease(&self) -> Lease {
        Lease { memory: self.clone(), bytes: 0 }
    }

    pub fn in_use(&self) -> MemoryUse {
        let Inner { bytes_max, admitted, live, flushing, refusals } = &*self.inner;
        let live = live.load(Relaxed);
        MemoryUse {
            bytes_max: *bytes_max,
            requests: admitted.load(Relaxed).saturating_sub(live),
            live,
            flushing: flushing.load(Relaxed),
            refusals: refusals.load(Relaxed),
        }
    }

    pub fn bytes_max(&self) -> usize {
        self.inner.bytes_max
    }

    /// Bytes of live spans.
    pub fn live(&self) -> usize {
        self.inner.live.load(Relaxed)
    }

    /// The most that requests and live spans may take together.
    pub fn room_max(&self) -> usize {
        self.inner.bytes_max - self.flush_max()
    }

    /// What making blocks should not go over.
    pub fn flush_max(&self) -> usize {
        self.inner.bytes_max / FLUSH_SHARE
    }

    /// Live spans took `before` bytes and take `now`.
    pub(crate) fn change_live(&self, before: usize, now: usize) {
        let Inner { admitted, live, .. } = &*self.inner;
        admitted.fetch_add(now, Relaxed);
        live.fetch_add(now, Relaxed);
        live.fetch_sub(before, Relaxed);
        admitted.fetch_sub(before, Relaxed);
    }

    pub(crate) fn flush_share(&self) -> FlushShare {
        FlushShare { memory: self.clone(), bytes: 0 }
    }

    fn admit(&self, bytes: usize) -> Result<(), MemoryFull> {
        let Inner { bytes_max, admitted, flushing, refusals, .. } = &*self.inner;
        let room = bytes_max - flushing.load(Relaxed).clamp(self.flush_max(), *bytes_max);
        let grown = admitted.fetch_update(Relaxed, Relaxed, |taken| taken.checked_add(bytes).filter(|taken| *taken <= room));
        if grown.is_ok() {
            return Ok(());
        }
        refusals.fetch_add(1, Relaxed);
        match bytes > self.room_max() {
            true => Err(MemoryFull::Ever { bytes, room: self.room_max() }),
            false => Err(MemoryFull::Now(self.in_use())),
        }
    }
}

impl Lease {
    /// Takes so many bytes more, at once or not at all.
    pub fn grow(&mut self, bytes: usize) -> Result<(), MemoryFull> {
        match self.memory.admit(bytes) {
            Ok(()) => {
                self.bytes += bytes;
                Ok(())
            }
            Err(MemoryFull::Now(_)) if self.bytes + bytes > self.memory.room_max() => {
                Err(MemoryFull::Ever { bytes: self.bytes + bytes, room: self.memory.room_max() })
            }
            Err(full) => Err(full),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.memory.inner.admitted.fetch_sub(self.bytes, Relaxed);
    }
}

impl FlushShare {
    /// It takes so much now.
    pub fn set(&mut self, bytes: usize) {
        let flushing = &self.memory.inner.flushing;
        flushing.fetch_add(bytes, Relaxed);
        flushing.fetch_sub(self.bytes, Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for FlushShare {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_live_spans_share_what_blocks_leave() {
        let memory = Memory::new(400_000);
        let mut first = memory.lease().unwrap();
        first.grow(200_000).unwrap();
        memory.change_live(0, 50_000);
        let mut second = memory.lease().unwrap();
        assert!(matches!(second.grow(50_000), Err(MemoryFull::Now(MemoryUse { live: 50_000, .. }))));
        drop(first);
        second.grow(200_000).unwrap();
        memory.change_live(50_000, 20_000);
        second.grow(50_000).unwrap();
        drop(second);
        assert_eq!((memory.in_use().requests, memory.live(), memory.in_use().refusals), (0, 20_000, 1));

        // A block that takes more than its share leaves less to others.
        let mut share = memory.flush_share();
        share.set(300_000);
        assert!(matches!(memory.lease().unwrap().grow(90_000), Err(MemoryFull::Now(_))));
        drop(share);
        memory.lease().unwrap().grow(90_000).unwrap();
    }

    #[test]
    fn what_can_never_fit_is_told_apart() {
        let memory = Memory::new(400_000);
        let mut alone = memory.lease().unwrap();
        alone.grow(290_000).unwrap();
        assert!(matches!(alone.grow(10_000), Err(MemoryFull::Ever { bytes: 304_096, room: 300_000 })));
        drop(alone);
        assert!(matches!(memory.lease().unwrap().grow(300_001), Err(MemoryFull::Ever { .. })));
        assert_eq!(memory.in_use().requests, 0);
    }
}
