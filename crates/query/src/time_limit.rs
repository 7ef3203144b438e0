//! How long a query may work, and whether anyone still waits for it.
//!
//! Work that computes for long asks here between its batches: dropping a future does not end what does not pause.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use model::ErrorKind;

use crate::request::QueryError;

/// Rows worked on between two looks at the time. A row takes about a microsecond where it takes long.
pub const ROWS_UNCHECKED_MAX: usize = 32_768;

type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// Counts from the query's first attempt.
pub struct TimeLimit {
    most: Duration,
    clock: Clock,
    began: OnceLock<Instant>,
    given_up: AtomicBool,
}

impl fmt::Debug for TimeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeLimit").field("most", &self.most).field("began", &self.began).finish_non_exhaustive()
    }
}

impl Default for TimeLimit {
    fn default() -> Self {
        Self::of(Duration::MAX)
    }
}

impl TimeLimit {
    pub fn of(most: Duration) -> Self {
        Self { most, clock: Arc::new(Instant::now), began: OnceLock::new(), given_up: AtomicBool::new(false) }
    }

    /// By another clock.
    pub fn by(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    pub fn begin(&self) {
        self.began.get_or_init(|| (self.clock)());
    }

    /// # Errors
    /// `BudgetExceeded` if the time is over, or nobody waits any more.
    pub fn go_on(&self) -> Result<(), QueryError> {
        if self.given_up.load(Ordering::Relaxed) {
            return Err(QueryError::new(ErrorKind::BudgetExceeded, "the query was given up by whoever asked"));
        }
        if self.most == Duration::MAX {
            return Ok(());
        }
        let began = *self.began.get_or_init(|| (self.clock)());
        if (self.clock)().saturating_duration_since(began) < self.most {
            return Ok(());
        }
        Err(QueryError::new(
            ErrorKind::BudgetExceeded,
            format!("the query took longer than {:?} (query_frontend.api_timeout): ask for a shorter time range or a narrower filter", self.most),
        ))
    }

    /// Gives the query up when it is dropped before it is done.
    pub fn waited_for(&self) -> Waiting<'_> {
        Waiting { limit: self, done: false }
    }
}

/// Somebody who waits for the answer.
pub struct Waiting<'a> {
    limit: &'a TimeLimit,
    done: bool,
}

impl Waiting<'_> {
    pub fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.limit.given_up.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_stops_when_its_time_is_over_or_nobody_waits() {
        let clock = Arc::new(parking_lot::Mutex::new(Instant::now()));
        let read = Arc::clone(&clock);
        let limit = TimeLimit::of(Duration::from_secs(2)).by(Arc::new(move || *read.lock()));
        limit.begin();
        *clock.lock() += Duration::from_secs(1);
        assert!(limit.go_on().is_ok());
        *clock.lock() += Duration::from_secs(1);
        assert_eq!(limit.go_on().unwrap_err().kind, ErrorKind::BudgetExceeded);

        let limit = TimeLimit::default();
        limit.waited_for().done();
        assert!(limit.go_on().is_ok());
        drop(limit.waited_for());
        assert_eq!(limit.go_on().unwrap_err().kind, ErrorKind::BudgetExceeded);
    }
}
