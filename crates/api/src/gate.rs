//! The gate that every query passes: a bound on how many run, and on how long one runs.

use crate::Failure;
use model::ErrorKind;
use std::{future::Future, time::Duration};
use tokio::sync::Semaphore;

pub struct Gate {
    permits: Semaphore,
    queries_max: usize,
    timeout: Duration,
}

impl Gate {
    pub fn new(queries_max: usize, timeout: Duration) -> Self {
        Self { permits: Semaphore::new(queries_max), queries_max, timeout }
    }

    /// Runs a query, or refuses it at once if too many run. Dropping the future stops the query.
    pub async fn run<T, E: Into<Failure>>(&self, query: impl Future<Output = Result<T, E>>) -> Result<T, Failure> {
        let outcome = match self.permits.try_acquire() {
            Err(_) => {
                let message = format!("{} queries are running already: try again later", self.queries_max);
                Err(Failure::new(ErrorKind::RateLimited, message))
            }
            Ok(_permit) => match tokio::time::timeout(self.timeout, query).await {
                Ok(outcome) => outcome.map_err(Into::into),
                Err(_) => Err(Failure::timeout(self.timeout)),
            },
        };
        if let Err(failure) = &outcome
            && failure.status.is_server_error()
        {
            tracing::warn!(status = failure.status.as_u16(), "query failed: {}", failure.message);
        }
        outcome
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
        let gate = Gate::new(1, Duration::from_secs(60));
        let (finish, finished) = oneshot::channel::<()>();
        let first = gate.run(async { finished.await.map_err(QueryError::internal) });
        let second = async {
            let refused = gate.run(ready(Ok::<_, QueryError>(()))).await.unwrap_err();
            finish.send(()).unwrap();
            refused
        };
        let (first, refused) = tokio::join!(biased; first, second);
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(refused.code, tonic::Code::ResourceExhausted);
        first.unwrap();
        gate.run(ready(Ok::<_, QueryError>(()))).await.unwrap();
    }

    #[tokio::test]
    async fn a_query_without_end_is_stopped() {
        let gate = Gate::new(1, Duration::from_millis(1));
        for _ in 0..2 {
            let stopped = gate.run(pending::<Result<(), QueryError>>()).await.unwrap_err();
            assert_eq!(stopped.status, StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(stopped.code, tonic::Code::DeadlineExceeded);
        }
    }
}
