//! What single tenants may use when they ask, instead of what holds for all. Changes while the server runs.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use model::TenantId;
use query::Budget;

/// Of one tenant; `None` is what holds for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadLimits {
    /// Queries at the same time.
    pub queries_max: Option<usize>,
    /// Bytes of blocks that a query may read.
    pub read_bytes_max: Option<u64>,
    /// Bytes of memory for rows and cells of a query.
    pub memory_bytes_max: Option<u64>,
}

pub type TenantReadLimits = BTreeMap<TenantId, ReadLimits>;

/// A handle; clones share what is in force.
#[derive(Clone, Default)]
pub struct CurrentReadLimits(Arc<RwLock<Arc<TenantReadLimits>>>);

impl CurrentReadLimits {
    /// From now on. Queries that run keep what they began with.
    pub fn set(&self, limits: TenantReadLimits) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(limits);
    }

    fn current(&self) -> Arc<TenantReadLimits> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn queries_max(&self, tenant: &TenantId, default: usize) -> usize {
        self.current().get(tenant).and_then(|limits| limits.queries_max).unwrap_or(default)
    }

    /// Of a query over these tenants: the smallest of theirs.
    pub(crate) fn budget(&self, tenants: &[TenantId], default: Budget) -> Budget {
        let limits = self.current();
        if limits.is_empty() {
            return default;
        }
        let least = |of: fn(&ReadLimits) -> Option<u64>, default: u64| {
            tenants.iter().map(|tenant| limits.get(tenant).and_then(of).unwrap_or(default)).min().unwrap_or(default)
        };
        Budget {
            read_bytes_max: least(|limits| limits.read_bytes_max, default.read_bytes_max),
            memory_bytes_max: least(|limits| limits.memory_bytes_max, default.memory_bytes_max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_the_smallest_budget_of_its_tenants() {
        let tenant = |name: &str| TenantId::parse(name).unwrap();
        let limits = CurrentReadLimits::default();
        let default = Budget { read_bytes_max: 100, memory_bytes_max: 100 };
        let budget = |names: &[&str]| {
            let Budget { read_bytes_max, memory_bytes_max } =
                limits.budget(&names.iter().map(|name| tenant(name)).collect::<Vec<_>>(), default);
            (read_bytes_max, memory_bytes_max)
        };
        assert_eq!(budget(&["a"]), (100, 100));
        let small = ReadLimits { queries_max: Some(1), read_bytes_max: Some(10), memory_bytes_max: None };
        let large = ReadLimits { read_bytes_max: Some(1000), ..ReadLimits::default() };
        limits.set([(tenant("small"), small), (tenant("large"), large)].into());
        assert_eq!((budget(&["small"]), budget(&["large"]), budget(&["other"])), ((10, 100), (1000, 100), (100, 100)));
        assert_eq!((budget(&["large", "other"]), budget(&["large", "small"])), ((100, 100), (10, 100)));
        assert_eq!((limits.queries_max(&tenant("small"), 5), limits.queries_max(&tenant("large"), 5)), (1, 5));
    }
}
