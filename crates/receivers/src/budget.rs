//! A bound on the memory of all requests together.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Charged per request beside its bytes, so that their number is bounded too.
const REQUEST_BYTES: usize = 4 << 10;

pub(crate) struct Budget {
    bytes: Arc<Semaphore>,
    total: usize,
}

/// The share of one request; given back when dropped.
pub(crate) struct Lease {
    bytes: Arc<Semaphore>,
    total: usize,
    held: Option<OwnedSemaphorePermit>,
}

/// The budget is used up at the moment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Busy;

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        let total = bytes.min(Semaphore::MAX_PERMITS);
        Self { bytes: Arc::new(Semaphore::new(total)), total }
    }

    pub(crate) fn lease(&self) -> Result<Lease, Busy> {
        let mut lease = Lease { bytes: self.bytes.clone(), total: self.total, held: None };
        lease.grow(REQUEST_BYTES)?;
        Ok(lease)
    }
}

impl Lease {
    /// Takes so many bytes more, at once or not at all. A request that alone is more than the whole budget passes
    /// when it is the only one.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Busy> {
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let bytes = u32::try_from(bytes.min(self.total - held)).map_err(|_| Busy)?;
        let more = self.bytes.clone().try_acquire_many_owned(bytes).map_err(|_| Busy)?;
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_share_the_budget() {
        let budget = Budget::new(100_000);
        let mut first = budget.lease().unwrap();
        first.grow(80_000).unwrap();
        let mut second = budget.lease().unwrap();
        assert_eq!(second.grow(20_000), Err(Busy));
        drop(first);
        second.grow(20_000).unwrap();
        drop(second);
        let mut alone = budget.lease().unwrap();
        alone.grow(90_000).unwrap();
        alone.grow(90_000).unwrap();
        assert!(budget.lease().is_err());
    }
}
