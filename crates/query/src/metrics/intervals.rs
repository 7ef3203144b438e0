//! The time axis of a metrics query.

use crate::request::{QueryError, TimeRange};

/// The most samples of a series.
pub const INTERVALS_MAX: i64 = 10_000;

const SECOND: i64 = 1_000_000_000;

/// Equal stretches of time, nanoseconds. Interval `i` covers `(start + i·step, start + (i+1)·step]` and is
/// stamped with its right edge. An instant query has one interval, with both ends included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Intervals {
    start: i64,
    end: i64,
    pub step: i64,
    pub count: usize,
    instant: bool,
    /// 1 / step.
    per_nano: f64,
}

impl Intervals {
    /// The start is floored and the end is ceiled to whole steps, and one more interval is put in front.
    pub fn range(start: i64, end: i64, step: Option<i64>) -> Result<Self, QueryError> {
        if start > end {
            return Err(QueryError::invalid("start is after end"));
        }
        let step = step.unwrap_or_else(|| default_step(end.saturating_sub(start)));
        if step <= 0 {
            return Err(QueryError::invalid("step must be greater than zero"));
        }
        if end.saturating_sub(start) == step {
            return Self::instant(start, end);
        }
        let aligned = || {
            let first = start.checked_sub(start.rem_euclid(step))?.checked_sub(step)?;
            let last = match end.rem_euclid(step) {
                0 => end,
                over => end.checked_add(step - over)?,
            };
            Some((first, last, last.checked_sub(first)? / step))
        };
        let (start, end, count) = aligned().ok_or_else(|| QueryError::invalid("start, end or step is too large"))?;
        if count > INTERVALS_MAX + 2 {
            let least = (end - start) / INTERVALS_MAX;
            return Err(QueryError::invalid(format!(
                "the range has {count} steps, the most is {INTERVALS_MAX}: use a step of at least {}",
                traceql::go_duration(least)
            )));
        }
        Ok(Self { start, end, step, count: usize::try_from(count).unwrap_or(0), instant: false, per_nano: 1.0 / step as f64 })
    }

    pub fn instant(start: i64, end: i64) -> Result<Self, QueryError> {
        if start > end {
            return Err(QueryError::invalid("start is after end"));
        }
        let step = end.checked_sub(start).ok_or_else(|| QueryError::invalid("start or end is too large"))?;
        Ok(Self { start, end, step, count: 1, instant: true, per_nano: 0.0 })
    }

    /// The interval a span belongs to by its start.
    pub fn of(&self, time: i64) -> Option<usize> {
        if self.instant {
            return (self.start <= time && time <= self.end).then_some(0);
        }
        if time <= self.start || time > self.end {
            return None;
        }
        let past = time - self.start - 1;
        // Multiplying is much faster than dividing, and there are few enough intervals that it is off by one at most.
        let about = (past as f64 * self.per_nano) as i64;
        let interval = if about.saturating_mul(self.step) > past {
            about - 1
        } else {
            about + i64::from((about + 1).saturating_mul(self.step) <= past)
        };
        usize::try_from(interval).ok()
    }

    /// The stamp of an interval: milliseconds.
    pub fn timestamp_ms(&self, interval: usize) -> i64 {
        let right = if self.instant { self.end } else { self.start + self.step * (interval as i64 + 1) };
        right / 1_000_000
    }

    pub fn step_seconds(&self) -> f64 {
        self.step as f64 / SECOND as f64
    }

    /// All times that belong to some interval.
    pub fn covered(&self) -> TimeRange {
        TimeRange { start: if self.instant { self.start } else { self.start.saturating_add(1) }, end: self.end }
    }
}

/// The step for a range of this many nanoseconds: about 240 samples, on a round number.
pub fn default_step(range: i64) -> i64 {
    const MINUTE: i64 = 60 * SECOND;
    let baseline = range / 240;
    if range < MINUTE {
        let grain = 50_000_000;
        return (baseline / grain * grain).max(grain);
    }
    let grains = [60 * MINUTE, 5 * MINUTE, MINUTE, 15 * SECOND, 5 * SECOND, SECOND];
    match grains.into_iter().find(|grain| *grain < baseline) {
        Some(grain) => baseline / grain * grain,
        None => SECOND,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_belongs_to_the_interval_that_division_says() {
        for (start, end, step) in [(0, 1_000, 7), (1, i64::MAX / 2, i64::MAX / 18_000), (-5_000_000, 3_000_017, 1_001)] {
            let intervals = Intervals::range(start, end, Some(step)).unwrap();
            let first = intervals.covered().start - 1;
            for interval in 0..intervals.count as i64 {
                let edges = [0, 1, step / 2, step - 1].map(|past| (first + interval * step + 1).saturating_add(past));
                for time in edges.into_iter().filter(|time| *time <= intervals.covered().end) {
                    assert_eq!(intervals.of(time), Some(interval as usize), "{time} of {start} to {end} by {step}");
                }
            }
        }
    }

    #[test]
    fn steps_follow_the_range() {
        let hours = |h: i64| h * 3600 * SECOND;
        assert_eq!(default_step(hours(1)), 15 * SECOND);
        assert_eq!(default_step(hours(6)), 60 * SECOND);
        assert_eq!(default_step(hours(24)), 300 * SECOND);
        assert_eq!(default_step(10 * SECOND), 50_000_000);
    }

    #[test]
    fn intervals_are_open_on_the_left() {
        // 10:00:07 to 10:05:07 in steps of a minute.
        let ten = 36_000 * SECOND;
        let intervals = Intervals::range(ten + 7 * SECOND, ten + 307 * SECOND, Some(60 * SECOND)).unwrap();
        assert_eq!(intervals.count, 7);
        assert_eq!(intervals.timestamp_ms(0), ten / 1_000_000);
        assert_eq!(intervals.of(ten + 60 * SECOND), Some(1));
        assert_eq!(intervals.of(ten + 60 * SECOND + 1), Some(2));
        assert_eq!(intervals.of(ten - 60 * SECOND), None);
        assert_eq!(intervals.of(ten + 360 * SECOND), Some(6));
    }

    #[test]
    fn too_many_steps_are_refused_with_the_least_step() {
        let error = Intervals::range(0, 20_000 * SECOND, Some(SECOND)).unwrap_err();
        assert!(error.message.contains("at least 2"), "{error}");
    }
}
