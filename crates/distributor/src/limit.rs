//! One tenant's rate, in bytes.

use std::{num::NonZeroU32, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, Reference},
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};

use crate::Rate;

/// The limiter counts in units: it divides a second into whole nanoseconds per unit, so that single bytes would
/// make 30 MB/s imprecise and 1 GB/s the end.
const UNIT_BYTES: u64 = 64;
/// One unit each nanosecond.
const RATE_UNITS_MAX: u64 = 1_000_000_000;

pub(crate) struct ByteRateLimit<C: Clock + Clone> {
    limiter: RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>,
    clock: C,
    pub(crate) rate: Rate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Admitted,
    /// Passes after so long, if nothing else of the tenant passes meanwhile.
    After(Duration),
    /// More than the burst.
    Never,
}

impl<C: Clock + Clone> ByteRateLimit<C> {
    pub(crate) fn new(rate: Rate, clock: C) -> Self {
        let per_second = units(rate.limit_bytes.get().min(RATE_UNITS_MAX * UNIT_BYTES));
        let quota = Quota::per_second(per_second).allow_burst(units(rate.burst_bytes.get()));
        let limiter = RateLimiter::direct_with_clock(quota, clock.clone());
        Self { limiter, clock, rate }
    }

    /// Takes so many bytes off the allowance, or none.
    pub(crate) fn check(&self, bytes: u64) -> Verdict {
        if bytes > self.rate.burst_bytes.get() {
            return Verdict::Never;
        }
        match self.limiter.check_n(units(bytes)) {
            Ok(Ok(())) => Verdict::Admitted,
            Ok(Err(not_until)) => Verdict::After(not_until.wait_time_from(self.clock.now())),
            Err(_) => Verdict::Never,
        }
    }
}

/// At least one; what 32 bits do not hold (256 GB) is their maximum.
fn units(bytes: u64) -> NonZeroU32 {
    let units = bytes.div_ceil(UNIT_BYTES).clamp(1, u64::from(u32::MAX));
    NonZeroU32::new(units as u32).expect("clamped to 1 or more")
}

/// How long an unused limit takes to be as good as new.
pub(crate) fn refill_time(rate: Rate) -> Duration {
    Duration::from_secs(rate.burst_bytes.get() / rate.limit_bytes.get() + 1)
}

/// A duration between two readings of a clock.
pub(crate) fn between<C: Clock>(earlier: C::Instant, later: C::Instant) -> Duration {
    later.duration_since(earlier).into()
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;
    use crate::tests::config;

    #[test]
    fn a_tenant_has_its_burst_and_then_its_rate() {
        let clock = FakeRelativeClock::default();
        let limit = ByteRateLimit::new(config(1_000_000, 5_000_000).rates.default, clock.clone());
        assert_eq!(limit.check(5_000_001), Verdict::Never);
        assert_eq!(limit.check(5_000_000), Verdict::Admitted);
        let Verdict::After(wait) = limit.check(2_000_000) else { panic!("the burst is used up") };
        assert!((1.99..2.01).contains(&wait.as_secs_f64()), "{wait:?}");
        clock.advance(wait - Duration::from_millis(1));
        assert!(matches!(limit.check(2_000_000), Verdict::After(_)));
        clock.advance(Duration::from_millis(2));
        assert_eq!(limit.check(2_000_000), Verdict::Admitted);
        assert_eq!(limit.check(5_000_001), Verdict::Never, "not for lack of allowance");
    }

    #[test]
    fn the_largest_and_smallest_limits_work() {
        for bytes in [1, 63, 65, 4_000_000_000, 64_000_000_000, u64::MAX] {
            let clock = FakeRelativeClock::default();
            let limit = ByteRateLimit::new(config(bytes, bytes).rates.default, clock.clone());
            assert_eq!(limit.check(bytes.min(1 << 30)), Verdict::Admitted, "{bytes}");
            clock.advance(Duration::from_secs(2));
            assert_eq!(limit.check(bytes.min(1 << 30)), Verdict::Admitted, "{bytes}");
        }
    }
}
