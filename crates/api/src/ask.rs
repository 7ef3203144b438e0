//! From what a caller asked to what the engine is asked: defaults, bounds and rules, the same for HTTP and gRPC.
//!
//! Nothing here knows how a request was written down; `params` reads URLs into these types and `grpc` reads
//! messages into them. `now` is an argument.

use crate::{
    Failure,
    config::{QUERY_BYTES_MAX, QueryLimits},
    moment::format_duration,
};
use model::AttributeScope;
use query::{
    MetricsRequest, SearchFilter, SearchRequest, TagNamesRequest, TagScope, TagValuesRequest, TimeRange,
};

/// A time range as asked for. All in nanoseconds, points in time since 1970.
#[derive(Clone, Copy, Debug, Default)]
pub struct AskedRange {
    pub start: Option<i64>,
    pub end: Option<i64>,
    /// Wins over both.
    pub since: Option<i64>,
}

impl AskedRange {
    /// For search and tags: `since`, or both ends, or neither, which asks for the last `default_range`.
    pub fn resolve(self, limits: &QueryLimits, now: i64) -> Result<TimeRange, Failure> {
        if let Some(since) = self.since {
            return Ok(TimeRange { start: before(now, since)?, end: now });
        }
        match (self.start, self.end) {
            (None, None) => Ok(last(limits, now)),
            // What clients that have no notion of "absent" send.
            (Some(0), Some(0)) => Ok(last(limits, now)),
            (Some(start), Some(end)) if start < end => Ok(TimeRange { start, end }),
            (Some(start), Some(end)) => {
                Err(Failure::invalid(format!("end must be after start; start is {start} ns and end is {end} ns")))
            }
            (Some(_), None) => Err(Failure::invalid("start is given without end: give both or neither")),
            (None, Some(_)) => Err(Failure::invalid("end is given without start: give both or neither")),
        }
    }

    /// For metrics: `end` is now if absent, `start` is `since` before the end, and that is `default_range` if absent.
    fn resolve_metrics(self, limits: &QueryLimits, now: i64) -> Result<TimeRange, Failure> {
        let end = self.end.unwrap_or(now);
        let start = match self.start {
            Some(start) => start,
            None => before(end, self.since.unwrap_or(nanos(limits.default_range)))?,
        };
        if start > end {
            return Err(Failure::invalid(format!("start must not be after end; start is {start} ns and end is {end} ns")));
        }
        Ok(TimeRange { start, end })
    }
}

fn last(limits: &QueryLimits, now: i64) -> TimeRange {
    TimeRange { start: now.saturating_sub(nanos(limits.default_range)).max(0), end: now }
}

fn before(end: i64, since: i64) -> Result<i64, Failure> {
    if since <= 0 {
        return Err(Failure::invalid("since must be longer than 0"));
    }
    Ok(end.saturating_sub(since).max(0))
}

fn nanos(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

pub struct AskedSearch {
    pub query: Option<String>,
    pub tags: Vec<(String, String)>,
    /// Nanoseconds.
    pub duration_min: Option<i64>,
    pub duration_max: Option<i64>,
    pub range: AskedRange,
    pub limit: Option<u32>,
    pub spans_per_spanset: Option<u32>,
}

pub fn search(asked: AskedSearch, limits: &QueryLimits, now: i64) -> Result<SearchRequest, Failure> {
    let limit = asked.limit.unwrap_or(limits.traces_default);
    if limit == 0 {
        return Err(Failure::invalid("limit must be at least 1"));
    }
    if limit > limits.traces_max {
        return Err(Failure::invalid(format!("limit {limit} exceeds max limit {}", limits.traces_max)));
    }
    let spans = asked.spans_per_spanset.unwrap_or(limits.spans_per_spanset_default);
    if spans > limits.spans_per_spanset_max {
        let max = limits.spans_per_spanset_max;
        return Err(Failure::invalid(format!("spans per span set (spss) {spans} exceeds max {max}")));
    }
    // 0 asks for all, and all are never more than the maximum.
    let spans = if spans == 0 { limits.spans_per_spanset_max } else { spans };

    for (name, duration) in [("minDuration", asked.duration_min), ("maxDuration", asked.duration_max)] {
        if duration.is_some_and(|d| d < 0) {
            return Err(Failure::invalid(format!("{name} must not be negative")));
        }
    }
    let duration_min_ns = asked.duration_min.filter(|d| *d > 0);
    let duration_max_ns = asked.duration_max.filter(|d| *d > 0);
    if let (Some(min), Some(max)) = (duration_min_ns, duration_max_ns)
        && max < min
    {
        return Err(Failure::invalid("maxDuration must not be less than minDuration"));
    }

    let filter = match asked.query {
        Some(_) if !asked.tags.is_empty() => {
            return Err(Failure::invalid("q and tags exclude each other: write the tags into the TraceQL query"));
        }
        Some(query) => {
            let query = query_text(query)?;
            door::note(&query);
            SearchFilter::TraceQl(query)
        }
        None => SearchFilter::Tags { tags: asked.tags, duration_min_ns, duration_max_ns },
    };
    Ok(SearchRequest {
        filter,
        range: Some(asked.range.resolve(limits, now)?),
        limit: limit as usize,
        spans_per_spanset: spans as usize,
    })
}

pub struct AskedTagNames {
    pub scope: String,
    pub query: String,
    pub range: AskedRange,
    pub limit: u32,
}

/// `None`: the scope can hold no attributes, so the answer is empty.
pub fn tag_names(asked: AskedTagNames, limits: &QueryLimits, now: i64) -> Result<Option<TagNamesRequest>, Failure> {
    let range = Some(asked.range.resolve(limits, now)?);
    let query = query_text(asked.query)?;
    let scope = match asked.scope.as_str() {
        "" | "none" => TagScope::All,
        "intrinsic" => TagScope::Intrinsic,
        "trace" => return Ok(None),
        word => match AttributeScope::ALL.into_iter().find(|scope| scope.as_str() == word) {
            Some(scope) => TagScope::Only(scope),
            None => {
                return Err(Failure::invalid(format!(
                    "invalid scope {word:?}: use resource, span, event, link, instrumentation, intrinsic or none"
                )));
            }
        },
    };
    Ok(Some(TagNamesRequest { scope, query, range, limit: asked.limit as usize }))
}

pub struct AskedTagValues {
    pub name: String,
    pub query: String,
    pub range: AskedRange,
    pub limit: u32,
}

pub fn tag_values(asked: AskedTagValues, limits: &QueryLimits, now: i64) -> Result<TagValuesRequest, Failure> {
    if asked.name.is_empty() {
        return Err(Failure::invalid("the tag's name is empty"));
    }
    door::note(&format!("values of {} {}", asked.name, asked.query));
    Ok(TagValuesRequest {
        name: query_text(asked.name)?,
        query: query_text(asked.query)?,
        range: Some(asked.range.resolve(limits, now)?),
        limit: asked.limit as usize,
    })
}

pub struct AskedMetrics {
    pub query: String,
    pub range: AskedRange,
    /// Nanoseconds. `None` leaves the choice to the engine.
    pub step: Option<i64>,
    /// 0 takes the default.
    pub exemplars: u32,
    /// 0 takes the default.
    pub series_max: u32,
}

pub fn metrics(asked: AskedMetrics, limits: &QueryLimits, now: i64) -> Result<MetricsRequest, Failure> {
    if asked.query.is_empty() {
        return Err(Failure::invalid("q is missing: give a TraceQL metrics query such as { } | rate()"));
    }
    let query = query_text(asked.query)?;
    door::note(&query);
    let TimeRange { start, end } = asked.range.resolve_metrics(limits, now)?;
    if let Some(step) = asked.step {
        if step <= 0 {
            return Err(Failure::invalid("step must be longer than 0"));
        }
        // Both are not negative and end >= start, so this cannot overflow.
        let steps = (end - start) as u64 / step as u64;
        if steps > limits.steps_max {
            let least = ((end - start) as u64).div_ceil(limits.steps_max);
            return Err(Failure::invalid(format!(
                "{steps} steps exceed the maximum of {}: use a step of at least {}",
                limits.steps_max,
                format_duration(u128::from(least))
            )));
        }
    }
    Ok(MetricsRequest {
        query,
        start,
        end,
        step: asked.step,
        exemplars: (asked.exemplars > 0).then_some(asked.exemplars as usize),
        exemplars_max: limits.exemplars_max as usize,
        series_max: (asked.series_max > 0).then_some(asked.series_max as usize),
    })
}

fn query_text(text: String) -> Result<String, Failure> {
    if text.len() > QUERY_BYTES_MAX {
        return Err(Failure::invalid(format!(
            "the query has {} bytes; a query has at most {QUERY_BYTES_MAX}",
            text.len()
        )));
    }
    Ok(text)
}
