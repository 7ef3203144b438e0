//! The gate that every query passes: a bound on how many run, over all and for each tenant, and on how long one runs.

use crate::{CurrentReadLimits, Failure};
use model::{ErrorKind, TenantId};
use std::{
    collections::HashMap,
    future::Future,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::Semaphore, time::Instant};

pub struct Gate {
    permits: Semaphore,
    queries_max: usize,
    tenant_queries_max: usize,
    /// Tenants with queries that run; as many as there are permits at the most, times the tenants of a query.
    running: Mutex<HashMap<TenantId, usize>>,
    timeout: Duration,
    limits: CurrentReadLimits,
}

impl Gate {
    pub fn new(queries_max: usize, tenant_queries_max: usize, timeout: Duration) -> Self {
        let (permits, running, limits) = (Semaphore::new(queries_max), Mutex::default(), CurrentReadLimits::default());
        Self { permits, queries_max, tenant_queries_max, running, timeout, limits }
    }

    /// Some tenants may run another number of queries.
    pub fn limited(self, limits: CurrentReadLimits) -> Self {
        Self { limits, ..self }
    }

    /// Runs a query, or refuses it at once if too many run. Dropping the future stops the query.
    pub async fn run<T, E: Into<Failure>>(
        &self,
        tenants: &[TenantId],
        query: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure> {
        let outcome = match self.enter(tenants) {
            Err(refused) => Err(refused),
            Ok(_inside) => {
                let began = Instant::now();
                match tokio::time::timeout(self.timeout, query).await {
                    // What ends the query itself may have noticed the time first.
                    Ok(Err(_)) | Err(_) if began.elapsed() >= self.timeout => Err(Failure::timeout(self.timeout)),
                    Ok(outcome) => outcome.map_err(Into::into),
                    Err(_) => Err(Failure::timeout(self.timeout)),
                }
            }
        };
        if let Err(failure) = &outcome
            && failure.status.is_server_error()
        {
            let trace_id = tracer::current().map(|request| request.context().trace_id_hex());
            tracing::warn!(status = failure.status.as_u16(), trace_id, "query failed: {}", failure.message);
        }
        outcome
    }

    /// A place inside, until it is dropped.
    fn enter<'a>(&'a self, tenants: &'a [TenantId]) -> Result<Inside<'a>, Failure> {
        let busy = |many: usize, whose: &str| {
            Failure::new(ErrorKind::RateLimited, format!("{many} queries{whose} are running already: try again later"))
        };
        let permit = self.permits.try_acquire().map_err(|_| busy(self.queries_max, ""))?;
        let mut running = self.running();
        let queries_max = |tenant: &TenantId| self.limits.queries_max(tenant, self.tenant_queries_max);
        let full = |tenant: &&TenantId| running.get(*tenant).is_some_and(|count| *count >= queries_max(tenant));
        if let Some(tenant) = tenants.iter().find(full) {
            return Err(busy(queries_max(tenant), &format!(" of tenant {tenant}")));
        }
        for tenant in tenants {
            *running.entry(tenant.clone()).or_default() += 1;
        }
        Ok(Inside { gate: self, tenants, _permit: permit })
    }

    fn running(&self) -> MutexGuard<'_, HashMap<TenantId, usize>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Inside<'a> {
    gate: &'a Gate,
    tenants: &'a [TenantId],
    _permit: tokio::sync::SemaphorePermit<'a>,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut running = self.gate.running();
        for tenant in self.tenants {
            if let Some(count) = running.get_mut(tenant) {
                *count -= 1;
                if *count == 0 {
                    running.remove(tenant);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;
    use query::QueryError;
    use std::future::{pending, ready};
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn one_query_too_many_is_refused_and_later_ones_pass() {
        let gate = Gate::new(1, 1, Duration::from_secs(60));
        let (finish, finished) = oneshot::channel::<()>();
        let first = gate.run(&[], async { finished.await.map_err(QueryError::internal) });
        let second = async {
            let refused = gate.run(&[], ready(Ok::<_, QueryError>(()))).await.unwrap_err();
            finish.send(()).unwrap();
            refused
        };
        let (first, refused) = tokio::join!(biased; first, second);
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(refused.code, tonic::Code::ResourceExhausted);
        first.unwrap();
        gate.run(&[], ready(Ok::<_, QueryError>(()))).await.unwrap();
    }

    #[tokio::test]
    async fn a_query_without_end_is_stopped() {
        let gate = Gate::new(1, 1, Duration::from_millis(1));
        for _ in 0..2 {
            let stopped = gate.run(&[], pending::<Result<(), QueryError>>()).await.unwrap_err();
            assert_eq!(stopped.status, StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(stopped.code, tonic::Code::DeadlineExceeded);
        }
    }

    #[tokio::test]
    async fn a_tenant_cannot_take_all_places() {
        let tenant = |name: &str| TenantId::parse(name).unwrap();
        let (a, both, b) = ([tenant("a")], [tenant("a"), tenant("b")], [tenant("b")]);
        let gate = Gate::new(10, 2, Duration::from_secs(60));
        let inside = (gate.enter(&a).unwrap(), gate.enter(&both).unwrap());
        for full in [&a[..], &both[..]] {
            let refused = gate.run(full, ready(Ok::<_, QueryError>(()))).await.unwrap_err();
            assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
            assert!(refused.message.contains("2 queries of tenant a"), "{}", refused.message);
        }
        gate.run(&b, ready(Ok::<_, QueryError>(()))).await.unwrap();
        drop(inside);
        gate.run(&a, ready(Ok::<_, QueryError>(()))).await.unwrap();
        assert!(gate.running().is_empty());
    }
}
