//! Reads the parameters of each endpoint from its URL.

use crate::{
    Failure,
    ask::{self, AskedMetrics, AskedRange, AskedSearch, AskedTagNames, AskedTagValues},
    config::QueryLimits,
    logfmt, moment,
    query_string::{Parameters, percent_decode},
};
use model::TraceId;
use query::{MetricsRequest, SearchRequest, TagNamesRequest, TagValuesRequest, TimeRange, TraceRequest};

/// Parameters of a search that are never taken for tags.
const SEARCH_PARAMETERS: [&str; 13] = [
    "after",
    "explain",
    "q",
    "tags",
    "minDuration",
    "maxDuration",
    "limit",
    "start",
    "end",
    "since",
    "spss",
    "skip_ast_transformations",
    "most_recent",
];

pub fn trace(id: &str, parameters: &Parameters) -> Result<TraceRequest, Failure> {
    let id = TraceId::parse(id).map_err(|error| Failure::invalid(error.to_string()))?;
    match parameters.get("mode") {
        // All that is stored is always read: live data and blocks of one snapshot.
        None | Some("all" | "ingesters" | "blocks" | "external") => {}
        Some(mode) => {
            return Err(Failure::invalid(format!("invalid mode {mode:?}: use all, ingesters, blocks or external")));
        }
    }
    let start = parameters.read("start", moment::instant)?.filter(|ns| *ns > 0);
    let end = parameters.read("end", moment::instant)?.filter(|ns| *ns > 0);
    let range = match (start, end) {
        (None, None) => None,
        (start, end) => Some(TimeRange { start: start.unwrap_or(0), end: end.unwrap_or(i64::MAX) }),
    };
    if range.is_some_and(|range| range.end <= range.start) {
        return Err(Failure::invalid("end must be after start"));
    }
    Ok(TraceRequest { id, range })
}

pub fn search(parameters: &Parameters, limits: &QueryLimits, now: i64) -> Result<SearchRequest, Failure> {
    let query = parameters.get("q").map(str::to_owned);
    let tags = match parameters.read("tags", logfmt::parse)? {
        Some(_) if query.is_some() => {
            return Err(Failure::invalid("q and tags exclude each other: write the tags into the TraceQL query"));
        }
        Some(tags) => tags,
        None if query.is_some() => Vec::new(),
        None => unknown_as_tags(parameters),
    };
    ask::search(
        AskedSearch {
            query,
            tags,
            duration_min: parameters.read("minDuration", moment::duration)?,
            duration_max: parameters.read("maxDuration", moment::duration)?,
            range: range(parameters)?,
            limit: parameters.number("limit")?,
            spans_per_spanset: parameters.number("spss")?,
        },
        limits,
        now,
    )
}

/// The first clients of Tempo sent each tag as a parameter of its own.
fn unknown_as_tags(parameters: &Parameters) -> Vec<(String, String)> {
    let mut tags: Vec<(String, String)> = Vec::new();
    for (name, value) in parameters.iter() {
        if !SEARCH_PARAMETERS.contains(&name) && !value.is_empty() && !tags.iter().any(|(known, _)| known == name) {
            tags.push((name.to_owned(), value.to_owned()));
        }
    }
    tags
}

/// `None`: the answer is empty.
pub fn tag_names(parameters: &Parameters, limits: &QueryLimits, now: i64) -> Result<Option<TagNamesRequest>, Failure> {
    stale_values(parameters)?;
    let asked = AskedTagNames {
        scope: parameters.get("scope").unwrap_or_default().to_owned(),
        query: parameters.get("q").unwrap_or_default().to_owned(),
        range: range(parameters)?,
        limit: parameters.number("limit")?.unwrap_or(0),
    };
    ask::tag_names(asked, limits, now)
}

/// `name` is the path's segment as it came, still percent-encoded.
pub fn tag_values(name: &str, parameters: &Parameters, limits: &QueryLimits, now: i64) -> Result<TagValuesRequest, Failure> {
    stale_values(parameters)?;
    let asked = AskedTagValues {
        name: tag_name(name)?,
        query: parameters.get("q").unwrap_or_default().to_owned(),
        range: range(parameters)?,
        limit: parameters.number("limit")?.unwrap_or(0),
    };
    ask::tag_values(asked, limits, now)
}

/// Grafana 12 sometimes encodes a tag twice: when escapes are left after decoding once, they are decoded too.
fn tag_name(encoded: &str) -> Result<String, Failure> {
    let once = percent_decode(encoded)
        .ok_or_else(|| Failure::invalid("the tag's name in the path is not valid percent-encoded UTF-8"))?;
    Ok(percent_decode(&once).unwrap_or(once))
}

/// `maxStaleValues` stops Tempo's reading early. Our tag answers come from the blocks' catalogues and need no such
/// stop, so it is only checked.
fn stale_values(parameters: &Parameters) -> Result<(), Failure> {
    parameters.number("maxStaleValues").map(|_| ())
}

pub fn metrics_range(parameters: &Parameters, limits: &QueryLimits, now: i64) -> Result<MetricsRequest, Failure> {
    let step = parameters.read("step", step)?;
    let exemplars = parameters.number("exemplars")?.unwrap_or(0);
    metrics(parameters, step, exemplars, limits, now)
}

/// An instant query has neither steps nor exemplars; both parameters are ignored.
pub fn metrics_instant(parameters: &Parameters, limits: &QueryLimits, now: i64) -> Result<MetricsRequest, Failure> {
    metrics(parameters, None, 0, limits, now)
}

fn metrics(parameters: &Parameters, step: Option<i64>, exemplars: u32, limits: &QueryLimits, now: i64) -> Result<MetricsRequest, Failure> {
    let asked = AskedMetrics {
        query: parameters.get("q").or_else(|| parameters.get("query")).unwrap_or_default().to_owned(),
        range: range(parameters)?,
        step,
        exemplars,
        series_max: parameters.number("maxSeries")?.unwrap_or(0),
    };
    ask::metrics(asked, limits, now)
}

/// Seconds as a number, or a duration with units.
fn step(text: &str) -> Result<i64, String> {
    moment::seconds(text).map_or_else(|| moment::duration(text), Ok)
}

fn range(parameters: &Parameters) -> Result<AskedRange, Failure> {
    Ok(AskedRange {
        start: parameters.read("start", moment::instant)?,
        end: parameters.read("end", moment::instant)?,
        since: parameters.read("since", moment::duration)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;
    use proptest::prelude::*;
    use query::{SearchFilter, TagScope};

    const SECOND: i64 = 1_000_000_000;
    const NOW: i64 = 1_700_000_000 * SECOND;

    fn parameters(query: &str) -> Parameters {
        Parameters::parse(Some(query)).unwrap()
    }

    fn searched(query: &str) -> Result<SearchRequest, Failure> {
        search(&parameters(query), &QueryLimits::default(), NOW)
    }

    fn ranged(query: &str) -> Result<MetricsRequest, Failure> {
        metrics_range(&parameters(query), &QueryLimits::default(), NOW)
    }

    #[test]
    fn a_bare_search_takes_the_defaults() {
        let request = searched("q=%7B%7D").unwrap();
        assert_eq!((request.limit, request.spans_per_spanset), (20, 3));
        assert_eq!(request.range, Some(TimeRange { start: NOW - 3600 * SECOND, end: NOW }));
        assert!(matches!(request.filter, SearchFilter::TraceQl(q) if q == "{}"));
    }

    #[test]
    fn a_search_that_breaks_a_rule_is_refused() {
        for bad in [
            "q=%7B%7D&limit=0",
            "q=%7B%7D&limit=abc",
            "q=%7B%7D&limit=1000000000",
            "q=%7B%7D&limit=262145",
            "q=%7B%7D&spss=101",
            "q=%7B%7D&start=100",
            "q=%7B%7D&end=100",
            "q=%7B%7D&start=200&end=100",
            "q=%7B%7D&start=100&end=100",
            "q=%7B%7D&start=x&end=100",
            "q=%7B%7D&since=-5m",
            "q=%7B%7D&tags=a%3Db",
            "tags=a%3D%22b",
            "tags=a%3D1+a%3D2",
            "minDuration=2s&maxDuration=1s",
            "minDuration=-2s",
            "minDuration=5",
        ] {
            let refused = searched(bad).unwrap_err();
            assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{bad}");
            assert!(!refused.message.is_empty(), "{bad}");
        }
        let long = format!("q=%7B%7D{}", "+".repeat(128 * 1024));
        assert_eq!(searched(&long).unwrap_err().status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn since_wins_and_zero_spans_means_the_most() {
        let request = searched("q=%7B%7D&since=5m&start=7&spss=0&limit=262144").unwrap();
        assert_eq!(request.range, Some(TimeRange { start: NOW - 300 * SECOND, end: NOW }));
        assert_eq!((request.limit, request.spans_per_spanset), (262_144, 100));
    }

    #[test]
    fn tags_come_from_logfmt_or_from_unknown_parameters() {
        let tags = |query: &str| match searched(query).unwrap().filter {
            SearchFilter::Tags { tags, duration_min_ns, duration_max_ns } => (tags, duration_min_ns, duration_max_ns),
            other => panic!("{other:?}"),
        };
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(
            tags("tags=service.name%3Dorders+http.method%3DGET&minDuration=100ms&ignored=1"),
            (vec![pair("service.name", "orders"), pair("http.method", "GET")], Some(100_000_000), None)
        );
        assert_eq!(tags("service.name=a&limit=5&maxDuration=1s"), (vec![pair("service.name", "a")], None, Some(SECOND)));
        assert_eq!(tags("q=&limit=5"), (vec![], None, None));
    }

    #[test]
    fn a_trace_id_and_its_range_are_checked() {
        let request = |id: &str, query: &str| trace(id, &parameters(query));
        assert_eq!(request("abc", "").unwrap().range, None);
        assert_eq!(request("abc", "start=5").unwrap().range, Some(TimeRange { start: 5 * SECOND, end: i64::MAX }));
        assert_eq!(request("abc", "start=0&end=0&mode=blocks").unwrap().range, None);
        for (id, query) in [("zz", ""), ("123456789012345678901234567890123", ""), ("a", "mode=x"), ("a", "start=2&end=1"), ("a", "start=x")] {
            assert_eq!(request(id, query).unwrap_err().status, StatusCode::BAD_REQUEST, "{id} {query}");
        }
    }

    #[test]
    fn tag_scopes_and_names_are_read() {
        let names = |query: &str| tag_names(&parameters(query), &QueryLimits::default(), NOW);
        assert_eq!(names("").unwrap().unwrap().scope, TagScope::All);
        assert_eq!(names("scope=none").unwrap().unwrap().scope, TagScope::All);
        assert_eq!(names("scope=event&limit=7").unwrap().unwrap().limit, 7);
        assert!(names("scope=trace").unwrap().is_none());
        for bad in ["scope=bogus", "limit=-1", "maxStaleValues=x", "start=1"] {
            assert_eq!(names(bad).unwrap_err().status, StatusCode::BAD_REQUEST, "{bad}");
        }
        for (path, name) in [
            ("span.%22with%20space%22", r#"span."with space""#),
            ("span%3Aname", "span:name"),
            ("span.%2522with%2520space%2522", r#"span."with space""#),
            ("span.a%2Fb/c", "span.a/b/c"),
            ("span.100%25", "span.100%"),
        ] {
            assert_eq!(tag_name(path).unwrap(), name);
        }
        assert!(tag_name("%ff").is_err());
    }

    #[test]
    fn metrics_ranges_and_steps_follow_the_rules() {
        let request = ranged("q=%7B%7D%7Crate()").unwrap();
        assert_eq!((request.start, request.end, request.step, request.exemplars), (NOW - 3600 * SECOND, NOW, None, None));
        let request = ranged("query=x&start=100&end=200&step=1m30s&exemplars=500&maxSeries=9").unwrap();
        assert_eq!((request.start, request.end, request.step), (100 * SECOND, 200 * SECOND, Some(90 * SECOND)));
        assert_eq!((request.exemplars, request.exemplars_max, request.series_max), (Some(500), 100, Some(9)));
        assert_eq!(ranged("q=x&step=0.5").unwrap().step, Some(SECOND / 2));
        assert_eq!(ranged("q=x&since=1h&end=7200").unwrap().start, 3600 * SECOND);
        // Ten thousand steps pass, one more does not.
        assert!(ranged("q=x&start=0&end=10000&step=1").is_ok());
        let refused = ranged("q=x&start=0&end=10001&step=1").unwrap_err();
        assert!(refused.message.contains("1s100us"), "{}", refused.message);
        for bad in ["", "q=x&start=200&end=100", "q=x&step=0s", "q=x&step=0", "q=x&step=-1", "q=x&step=1ms", "q=x&start=x", "q=x&step=abc", "q=x&exemplars=-1"] {
            assert_eq!(ranged(bad).unwrap_err().status, StatusCode::BAD_REQUEST, "{bad}");
        }
        assert!(metrics_instant(&parameters("q=x&step=0"), &QueryLimits::default(), NOW).is_ok());
    }

    proptest! {
        #[test]
        fn no_url_panics(query in "[a-zA-Z0-9=&%+.\"{}-]{0,60}", value in "[-0-9a-zA-Z.%:]{0,25}") {
            let limits = QueryLimits::default();
            for query in [query, format!("q=x&start={value}&end={value}&since={value}&step={value}&limit={value}")] {
                if let Ok(parameters) = Parameters::parse(Some(&query)) {
                    let _ = search(&parameters, &limits, NOW);
                    let _ = tag_names(&parameters, &limits, NOW);
                    let _ = metrics_range(&parameters, &limits, NOW);
                    let _ = trace(&value, &parameters);
                }
                let _ = tag_name(&value);
            }
        }
    }
}
