//! One account per tenant, of bounded number.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use governor::clock::Clock;
use model::TenantId;
use parking_lot::RwLock;

use crate::{
    Config, Rate, Rates,
    counters::{Counters, OTHER_TENANTS, TenantCounts},
    limit::{ByteRateLimit, between, refill_time},
};

pub(crate) struct Account<C: Clock + Clone> {
    limit: RwLock<Arc<ByteRateLimit<C>>>,
    pub(crate) counters: Counters,
    /// Milliseconds after the start.
    used: AtomicU64,
}

pub(crate) struct Tenants<C: Clock + Clone> {
    tenants_max: usize,
    rates: RwLock<Rates>,
    clock: C,
    started: C::Instant,
    accounts: RwLock<HashMap<TenantId, Arc<Account<C>>>>,
    /// Of all tenants that came when there was no room for another account.
    others: Arc<Account<C>>,
    /// When accounts were last looked through for idle ones, in milliseconds after the start.
    swept: AtomicU64,
}

/// An account idle for so long is given up when room is needed. Longer than Prometheus' staleness, so that its
/// counters were scraped.
const IDLE_MIN: Duration = Duration::from_secs(600);

impl<C: Clock + Clone> Tenants<C> {
    pub(crate) fn new(config: &Config, clock: C) -> Self {
        Self {
            started: clock.now(),
            accounts: RwLock::default(),
            others: Arc::new(Account::new(config.rates.default, &clock)),
            swept: AtomicU64::new(0),
            tenants_max: config.tenants_max,
            rates: RwLock::new(config.rates.clone()),
            clock,
        }
    }

    pub(crate) fn account(&self, tenant: &TenantId) -> Arc<Account<C>> {
        let now = between::<C>(self.started, self.clock.now()).as_millis() as u64;
        let known = self.accounts.read().get(tenant).cloned();
        let account = known.unwrap_or_else(|| self.open(tenant, now));
        account.used.store(now, Ordering::Relaxed);
        account
    }

    fn open(&self, tenant: &TenantId, now: u64) -> Arc<Account<C>> {
        let mut accounts = self.accounts.write();
        if accounts.len() >= self.tenants_max && !accounts.contains_key(tenant) {
            self.sweep(&mut accounts, now);
            if accounts.len() >= self.tenants_max {
                return self.others.clone();
            }
        }
        let rate = self.rates.read().of(tenant);
        accounts.entry(tenant.clone()).or_insert_with(|| Arc::new(Account::new(rate, &self.clock))).clone()
    }

    /// From now on. A tenant whose rate changes begins with a full burst.
    pub(crate) fn set_rates(&self, rates: Rates) {
        *self.rates.write() = rates.clone();
        // An account that is opened meanwhile with the old rate is in the list by now: opening holds its lock throughout.
        for (tenant, account) in &*self.accounts.read() {
            account.set_rate(rates.of(tenant), &self.clock);
        }
        self.others.set_rate(rates.default, &self.clock);
    }

    /// Gives up the accounts that were idle long enough for their rate limit to be as good as new. At most once per
    /// idle time: a flood of names must not make each request look at every account.
    fn sweep(&self, accounts: &mut HashMap<TenantId, Arc<Account<C>>>, now: u64) {
        let idle = IDLE_MIN.as_millis() as u64;
        if now.saturating_sub(self.swept.load(Ordering::Relaxed)) < idle {
            return;
        }
        self.swept.store(now, Ordering::Relaxed);
        accounts.retain(|_, account| {
            let idle = IDLE_MIN.max(refill_time(account.limit().rate)).as_millis() as u64;
            now.saturating_sub(account.used.load(Ordering::Relaxed)) < idle
        });
    }

    pub(crate) fn counts(&self) -> Vec<TenantCounts> {
        let mut counts: Vec<_> =
            self.accounts.read().iter().map(|(tenant, account)| account.counters.counts(tenant.as_str())).collect();
        let others = self.others.counters.counts(OTHER_TENANTS);
        if others.requests > 0 {
            counts.push(others);
        }
        counts.sort_by(|a, b| a.tenant.cmp(&b.tenant));
        counts
    }
}

impl<C: Clock + Clone> Account<C> {
    fn new(rate: Rate, clock: &C) -> Self {
        Self {
            limit: RwLock::new(Arc::new(ByteRateLimit::new(rate, clock.clone()))),
            counters: Counters::default(),
            used: AtomicU64::new(0),
        }
    }

    pub(crate) fn limit(&self) -> Arc<ByteRateLimit<C>> {
        self.limit.read().clone()
    }

    fn set_rate(&self, rate: Rate, clock: &C) {
        let mut limit = self.limit.write();
        if limit.rate != rate {
            *limit = Arc::new(ByteRateLimit::new(rate, clock.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;
    use crate::{limit::Verdict, tests::config};

    fn tenant(number: usize) -> TenantId {
        TenantId::parse(&format!("tenant-{number}")).unwrap()
    }

    #[test]
    fn accounts_are_apart_and_bounded() {
        let clock = FakeRelativeClock::default();
        let tenants = Tenants::new(&Config { tenants_max: 2, ..config(1_000, 1_000) }, clock.clone());
        for number in 0..4 {
            tenants.account(&tenant(number)).counters.request(1);
        }
        let names: Vec<_> = tenants.counts().into_iter().map(|counts| (counts.tenant, counts.requests)).collect();
        let one = |name: &str, requests| (name.to_owned(), requests);
        assert_eq!(names, [one(OTHER_TENANTS, 2), one("tenant-0", 1), one("tenant-1", 1)]);

        assert_eq!(tenants.account(&tenant(0)).limit().check(1_000), Verdict::Admitted);
        assert!(matches!(tenants.account(&tenant(0)).limit().check(1_000), Verdict::After(_)));
        assert_eq!(tenants.account(&tenant(1)).limit().check(1_000), Verdict::Admitted);
        assert_eq!(tenants.account(&tenant(2)).limit().check(1_000), Verdict::Admitted);
        assert!(matches!(tenants.account(&tenant(3)).limit().check(1_000), Verdict::After(_)), "shares with tenant 2");
    }

    #[test]
    fn a_new_rate_holds_at_once_and_only_where_it_differs() {
        let clock = FakeRelativeClock::default();
        let tenants = Tenants::new(&config(1_000, 1_000), clock.clone());
        let check = |number, bytes| tenants.account(&tenant(number)).limit().check(bytes);
        assert_eq!((check(0, 1_000), check(1, 1_000)), (Verdict::Admitted, Verdict::Admitted));
        let more = config(1_000, 5_000).rates.default;
        tenants.set_rates(Rates { tenants: [(tenant(0), more), (tenant(2), more)].into(), ..config(1_000, 1_000).rates });
        assert_eq!(check(0, 5_000), Verdict::Admitted, "a tenant that was there");
        assert!(matches!(check(1, 1_000), Verdict::After(_)), "its burst is still used up");
        assert_eq!(check(2, 5_000), Verdict::Admitted, "a tenant that comes later");
        tenants.set_rates(config(1_000, 1_000).rates);
        assert_eq!(check(0, 5_000), Verdict::Never);
    }

    #[test]
    fn an_idle_account_makes_room() {
        let clock = FakeRelativeClock::default();
        let tenants = Tenants::new(&Config { tenants_max: 2, ..config(1_000, 1_000) }, clock.clone());
        tenants.account(&tenant(0));
        tenants.account(&tenant(1));
        clock.advance(IDLE_MIN / 2);
        tenants.account(&tenant(1));
        clock.advance(IDLE_MIN / 2);
        tenants.account(&tenant(2));
        let names: Vec<_> = tenants.counts().into_iter().map(|counts| counts.tenant).collect();
        assert_eq!(names, ["tenant-1", "tenant-2"]);
    }
}
