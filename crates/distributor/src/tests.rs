use std::{num::NonZeroU64, time::Duration};

use crate::{Config, Rate, Rates};

/// Limits in bytes.
pub(crate) fn config(rate: u64, burst: u64) -> Config {
    Config {
        rates: Rates::all(Rate {
            limit_bytes: NonZeroU64::new(rate).unwrap(),
            burst_bytes: NonZeroU64::new(burst).unwrap(),
        }),
        retry_after: Duration::from_secs(5),
        tenants_max: 100,
    }
}
