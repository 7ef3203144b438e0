//! What Grafana's Tempo data source and Traces Drilldown rely on.
//!
//! The data source decodes search and instant metrics strictly: a key that it does not know fails the query.

use crate::{data::Data, server::Server};
use proto::tempopb::{
    QueryInstantRequest, QueryRangeRequest, SearchRequest, streaming_querier_client::StreamingQuerierClient,
};
use serde_json::{Map, Value};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const ATTRIBUTE_VALUES: [&str; 7] =
    ["stringValue", "boolValue", "intValue", "doubleValue", "arrayValue", "kvlistValue", "bytesValue"];
/// What a user of Drilldown may have chosen to look at.
const SIGNALS: [&str; 5] = ["nestedSetParent<0", "true", "kind=server", "kind=consumer", "span.db.system.name!=\"\""];

fn encoded(text: &str) -> String {
    text.bytes().map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// The ten minutes up to now, in seconds.
fn range() -> (u64, u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    (now - 600, now + 60)
}

async fn asked(server: &Server, path: &str, query: &str, more: &str) -> Value {
    asked_over(server, range(), path, query, more).await
}

async fn asked_over(server: &Server, (start, end): (u64, u64), path: &str, query: &str, more: &str) -> Value {
    let (status, _, body) = server.get(&format!("{path}?q={}&start={start}&end={end}{more}", encoded(query))).await;
    assert_eq!(status, 200, "{query}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// An object with no other keys than these.
fn only<'a>(value: &'a Value, keys: &[&str], what: &str) -> &'a Map<String, Value> {
    let object = value.as_object().unwrap_or_else(|| panic!("{what} is no object: {value}"));
    for key in object.keys() {
        assert!(keys.contains(&key.as_str()), "{what} has a key {key} that Grafana does not know");
    }
    object
}

fn list<'a>(object: &'a Map<String, Value>, key: &str) -> &'a [Value] {
    match object.get(key) {
        None => &[],
        Some(value) => value.as_array().unwrap_or_else(|| panic!("{key} is no list: {value}")),
    }
}

fn numbers_as_text(object: &Map<String, Value>, keys: &[&str]) {
    for value in keys.iter().filter_map(|key| object.get(*key)) {
        assert!(value.as_str().is_some_and(|text| text.parse::<u64>().is_ok()), "{value} is no number as text");
    }
}

fn is_attributes(attributes: &[Value]) -> BTreeMap<String, (String, Value)> {
    let one = |attribute: &Value| {
        let attribute = only(attribute, &["key", "value"], "an attribute");
        let value = only(&attribute["value"], &ATTRIBUTE_VALUES, "a value");
        assert_eq!(value.len(), 1, "{value:?}");
        let (kind, value) = value.iter().next().unwrap();
        assert!(kind != "intValue" || value.is_string(), "{value}");
        (attribute["key"].as_str().unwrap().to_owned(), (kind.clone(), value.clone()))
    };
    attributes.iter().map(one).collect()
}

fn is_metrics(metrics: &Value) {
    let keys =
        ["inspectedTraces", "inspectedBytes", "totalBlocks", "completedJobs", "totalJobs", "totalBlockBytes", "inspectedSpans"];
    numbers_as_text(only(metrics, &keys, "metrics"), &["inspectedBytes", "totalBlockBytes", "inspectedSpans"]);
}

fn is_spanset(set: &Value) {
    let set = only(set, &["spans", "matched", "attributes"], "a span set");
    is_attributes(list(set, "attributes"));
    assert!(set["matched"].is_u64() && !list(set, "spans").is_empty(), "{set:?}");
    for span in list(set, "spans") {
        let span = only(span, &["spanID", "name", "startTimeUnixNano", "durationNanos", "attributes"], "a span");
        assert_eq!(span["spanID"].as_str().unwrap().len(), 16);
        numbers_as_text(span, &["startTimeUnixNano", "durationNanos"]);
        is_attributes(list(span, "attributes"));
    }
}

fn is_search(answer: &Value) {
    let answer = only(answer, &["traces", "metrics"], "an answer");
    is_metrics(&answer["metrics"]);
    for trace in answer["traces"].as_array().expect("also of no traces") {
        let keys = [
            "traceID", "rootServiceName", "rootTraceName", "startTimeUnixNano", "durationMs", "spanSet", "spanSets", "serviceStats",
        ];
        let trace = only(trace, &keys, "a trace");
        numbers_as_text(trace, &["startTimeUnixNano"]);
        assert!(trace["durationMs"].is_u64());
        for stats in trace["serviceStats"].as_object().unwrap().values() {
            only(stats, &["spanCount", "errorCount"], "service stats");
        }
        let sets = trace["spanSets"].as_array().expect("always there");
        sets.iter().for_each(is_spanset);
        // The table of traces shows the one alone if it is there.
        assert_eq!(trace.get("spanSet"), sets.first().filter(|_| sets.len() == 1));
    }
}

#[tokio::test]
async fn a_search_has_no_key_that_grafana_does_not_know() {
    let server = Server::start().await;
    for query in [
        "{}",
        "{ status = error }",
        "{ false }",
        "{} | by(name)",
        "{} | by(span.nothing) | count() > 0",
        "{} | avg(duration) > 1ms",
        "{} | select(span.items, status, kind, duration, event:name, span.http.url, .nothing)",
        "{ kind = server } >> { status = error }",
    ] {
        for more in ["", "&limit=20&spss=3", "&limit=1&spss=1"] {
            let answer = asked(&server, "/api/search", query, more).await;
            is_search(&answer);
            assert_eq!(answer["traces"].as_array().unwrap().len(), usize::from(query != "{ false }"), "{query}");
        }
    }
}

#[tokio::test]
async fn an_instant_metric_has_no_key_that_grafana_does_not_know() {
    let server = Server::start().await;
    for query in [
        "{} | rate()",
        "{ false } | rate()",
        "{} | count_over_time() by (name, span.items)",
        "{} | quantile_over_time(duration, 0.5, 0.9) by (resource.service.name)",
        "{} | histogram_over_time(duration)",
        "{} | avg_over_time(span.items)",
        "{} | compare({ status = error }, 10)",
        "{} | rate() by (name) | topk(1)",
    ] {
        let answer = asked(&server, "/api/metrics/query", query, "").await;
        let answer = only(&answer, &["series", "metrics", "status", "message"], "an answer");
        is_metrics(&answer["metrics"]);
        let series = answer["series"].as_array().expect("also of no series");
        assert_eq!(series.is_empty(), query.starts_with("{ false }"), "{query}");
        for one in series {
            let one = only(one, &["labels", "value"], "a series");
            assert!(!is_attributes(list(one, "labels")).is_empty(), "{query}");
            assert!(one.get("value").is_none_or(Value::is_number), "{query}");
        }
    }
}

type Samples = BTreeMap<i64, f64>;

/// Samples by labels.
async fn ranged(server: &Server, query: &str, step: &str) -> BTreeMap<String, Samples> {
    ranged_over(server, range(), query, step).await
}

async fn ranged_over(server: &Server, range: (u64, u64), query: &str, step: &str) -> BTreeMap<String, Samples> {
    let answer = asked_over(server, range, "/api/metrics/query_range", query, &format!("&step={step}")).await;
    let number = |value: &Value| value.as_str().unwrap().parse::<i64>().unwrap();
    let samples = |one: &Map<String, Value>| {
        list(one, "samples").iter().map(|s| (number(&s["timestampMs"]), s.get("value").map_or(0.0, |v| v.as_f64().unwrap()))).collect()
    };
    let series = answer["series"].as_array().unwrap().iter().map(|one| {
        let one = one.as_object().unwrap();
        (format!("{:?}", is_attributes(list(one, "labels"))), samples(one))
    });
    series.collect()
}

#[tokio::test]
async fn every_view_of_drilldown_gets_an_answer() {
    let server = Server::start().await;
    let (start, end) = range();
    for filter in SIGNALS.iter().flat_map(|signal| [format!("{signal} && true"), format!("{signal} && resource.service.name=\"shop\"&&duration>0")]) {
        for query in [
            format!("{{{filter}}} | rate()  with(sample=true)"),
            format!("{{{filter} && status=error}} | rate()  with(sample=true)"),
            format!("{{{filter}}} | histogram_over_time(duration) with(sample=true)"),
            format!("{{{filter} && resource.service.name != nil}} | rate() by(resource.service.name)"),
            format!("{{{filter} && status=error && span.items != nil}} | rate() by(span.items)"),
            format!("{{{filter} && name != nil}} | quantile_over_time(duration, 0.9, 0.5) by(name)"),
            format!("{{{filter} && span.items=3}} | rate() by(span.items)"),
            format!("{{{filter}}} | compare({{status = error}}, 10)"),
            format!("{{{filter}}} | compare({{duration >= 1s && duration <= 2s}}, 10, {start}000000000, {end}000000000)"),
            format!("{{{filter}}} | compare({{}})"),
        ] {
            ranged(&server, &query, "30s").await;
        }
        for query in [
            format!("{{{filter}&& duration > 1ms}}"),
            format!("{{{filter} && duration >= 1ms && duration <= 2s}} | select(span.items,status)"),
            format!(
                "{{{filter} && status = error}} | select(resource.service.name, event.exception.message,event.exception.stacktrace,event.exception.type) with(most_recent=true)"
            ),
            format!("{{{filter} && status = error && event.exception.message =~ \"^no [0-9a-fA-F]{{8}} \\\\S+$\"}} | select(name)"),
        ] {
            is_search(&asked(&server, "/api/search", &query, "&limit=400&spss=10").await);
        }
    }
    let (status, _, text) = server.get(&format!("/api/search?q={}", encoded("{true && duration > }"))).await;
    assert_eq!(status, 400, "{text}");
}

#[tokio::test]
async fn metrics_are_labelled_as_drilldown_reads_them() {
    let server = Server::start().await;
    let labels = |series: &BTreeMap<String, Samples>| series.keys().cloned().collect::<Vec<_>>();
    let text = |key: &str, value: &str| format!(r#"{{"{key}": ("stringValue", String("{value}"))}}"#);
    assert_eq!(labels(&ranged(&server, "{} | rate()", "10s").await), [text("__name__", "rate")]);
    assert_eq!(labels(&ranged(&server, "{} | rate() by(resource.service.name)", "10s").await), [text("resource.service.name", "shop")]);
    assert_eq!(labels(&ranged(&server, "{} | rate() by(span.nothing)", "10s").await), [text("span.nothing", "nil")]);
    for series in labels(&ranged(&server, "{} | histogram_over_time(duration)", "10s").await) {
        assert!(series.starts_with(r#"{"__bucket": ("doubleValue", Number(0.0"#), "{series}: in seconds");
    }
    // The columns of one group are joined by position, so they have to have the same times.
    let quantiles = ranged(&server, "{} | quantile_over_time(duration, 0.9, 0.5) by(resource.service.name)", "10s").await;
    let times: BTreeSet<Vec<i64>> = quantiles.values().map(|samples| samples.keys().copied().collect()).collect();
    assert_eq!((quantiles.len(), times.len()), (2, 1));
    let all = times.first().unwrap();
    assert!(all.windows(2).all(|pair| pair[1] - pair[0] == 10_000), "{all:?}");
}

#[tokio::test]
async fn the_structure_view_gets_one_set_with_places_for_each_trace() {
    let server = Server::start().await;
    let select = "select(status, resource.service.name, name, nestedSetParent, nestedSetLeft, nestedSetRight)";
    for (outer, inner, spans) in [("true && true", "kind = server", 2), ("true && true && status = error", "status = error", 1)] {
        let query = format!("({{{outer}}} &>> {{ {inner} }}) || ({{{outer}}}) | {select}");
        let answer = asked(&server, "/api/search", &query, "&limit=200&spss=20").await;
        is_search(&answer);
        let [trace] = answer["traces"].as_array().unwrap().as_slice() else { panic!("{answer}") };
        let [set] = trace["spanSets"].as_array().unwrap().as_slice() else { panic!("{trace}") };
        assert_eq!(set["spans"].as_array().unwrap().len(), spans, "{query}");
        for span in set["spans"].as_array().unwrap() {
            let attributes = is_attributes(span["attributes"].as_array().unwrap());
            for place in ["nestedSetLeft", "nestedSetRight", "nestedSetParent"] {
                assert_eq!(attributes[place].0, "intValue", "{span}");
            }
            let status = if span["name"] == "db.get" { "error" } else { "unset" };
            assert_eq!(attributes["status"], ("stringValue".to_owned(), status.into()));
            assert_eq!(attributes["service.name"], ("stringValue".to_owned(), "shop".into()));
        }
    }
}

#[tokio::test]
async fn values_are_typed_and_an_unfinished_filter_is_no_error() {
    let server = Server::start().await;
    for (name, query, kind, expected) in [
        ("status", "", "keyword", vec!["error", "ok", "unset"]),
        ("span:kind", "", "keyword", vec!["client", "consumer", "internal", "producer", "server", "unspecified"]),
        ("span.items", "{resource.service.name=}", "int", vec!["3"]),
        ("name", "{kind = client && span.x = }", "string", vec!["db.get"]),
        ("resource.service.name", "{", "string", vec!["shop"]),
        (".service.name", "{}", "string", vec!["shop"]),
        ("duration", "", "int", vec!["20000000", "5000000"]),
    ] {
        let path = format!("/api/v2/search/tag/{}/values", encoded(name));
        let answer = asked(&server, &path, query, "&limit=5000&tag=x").await;
        let mut values: Vec<&str> = vec![];
        for value in answer["tagValues"].as_array().unwrap() {
            assert_eq!(value["type"], kind, "{name}");
            values.push(value["value"].as_str().unwrap());
        }
        values.sort_unstable();
        assert_eq!(values, expected, "{name} {query}");
    }
}

#[tokio::test]
async fn a_streamed_search_sends_each_trace_once_and_no_more_than_the_limit() {
    let data = Data::open().await;
    for id in [2, 3, 4] {
        data.store(id).await;
    }
    // What is certain is sent at once.
    let server = Server::over(data, false, |config| config.streaming_interval = Duration::ZERO).await;
    let mut client = StreamingQuerierClient::connect(format!("http://{}", server.address)).await.unwrap();
    for query in ["{}", "{ status = error }", "{ false }", "{} | select(status)"] {
        for limit in [0, 1, 3] {
            let request = SearchRequest { query: query.to_owned(), limit, ..Default::default() };
            let mut stream = client.search(request).await.unwrap().into_inner();
            let (mut messages, mut ids) = (0, vec![]);
            while let Some(message) = stream.message().await.unwrap() {
                messages += 1;
                assert!(message.metrics.is_some(), "{query}: each message has metrics");
                ids.extend(message.traces.into_iter().map(|trace| trace.trace_id));
            }
            assert!(messages > 0, "{query}");
            let more = if limit == 0 { String::new() } else { format!("&limit={limit}") };
            let answer = asked(&server, "/api/search", query, &more).await;
            let expected: BTreeSet<&str> = answer["traces"].as_array().unwrap().iter().map(|t| t["traceID"].as_str().unwrap()).collect();
            assert_eq!(ids.iter().map(String::as_str).collect::<BTreeSet<_>>(), expected, "{query}, limit {limit}");
            assert_eq!(ids.len(), expected.len(), "{query}, limit {limit}: sent twice");
        }
    }
}

#[tokio::test]
async fn streamed_metrics_fold_into_the_answer_over_http() {
    let data = Data::open().await;
    for id in [2, 3, 4] {
        data.store(id).await;
    }
    // What was counted is sent at once.
    let server = Server::over(data, false, |config| config.streaming_interval = Duration::ZERO).await;
    let mut client = StreamingQuerierClient::connect(format!("http://{}", server.address)).await.unwrap();
    let range = range();
    let (start, end) = (range.0 * 1_000_000_000, range.1 * 1_000_000_000);
    let queries = [
        "{} | rate()", "{} | count_over_time() by (name)", "{} | quantile_over_time(duration, 0.9) by (name)", "{ false } | rate()",
        "{} | rate() by (name) | topk(1)", "{} | compare({ status = error })", "({} | rate()) * 2",
    ];
    for query in queries {
        let expected = ranged_over(&server, range, query, "10s").await;
        let request = QueryRangeRequest { query: query.to_owned(), start, end, step: 10_000_000_000, ..Default::default() };
        let mut stream = client.metrics_query_range(request).await.unwrap().into_inner();
        let mut folded: BTreeMap<usize, Samples> = BTreeMap::new();
        let mut known: Vec<Vec<_>> = vec![];
        while let Some(message) = stream.message().await.unwrap() {
            assert!(message.metrics.is_some(), "{query}");
            for series in message.series {
                let at = known.iter().position(|labels| *labels == series.labels).unwrap_or_else(|| {
                    known.push(series.labels.clone());
                    known.len() - 1
                });
                // The newest message wins, sample by sample.
                folded.entry(at).or_default().extend(series.samples.iter().map(|s| (s.timestamp_ms, s.value)));
            }
        }
        let mut folded: Vec<Samples> = folded.into_values().collect();
        let mut expected: Vec<Samples> = expected.into_values().collect();
        let order = |a: &Samples, b: &Samples| format!("{a:?}").cmp(&format!("{b:?}"));
        folded.sort_by(order);
        expected.sort_by(order);
        assert_eq!(folded, expected, "{query}");

        let request = QueryInstantRequest { query: query.to_owned(), start, end };
        let mut stream = client.metrics_query_instant(request).await.unwrap().into_inner();
        let message = stream.message().await.unwrap().expect("at least one message");
        assert!(message.metrics.is_some(), "{query}");
        assert_eq!(message.series.is_empty(), expected.is_empty(), "{query}");
    }
    // Without a step one is chosen.
    let request = QueryRangeRequest { query: "{} | rate()".to_owned(), start, end, ..Default::default() };
    let message = client.metrics_query_range(request).await.unwrap().into_inner().message().await.unwrap().unwrap();
    assert!(message.series[0].samples.len() > 1);
}
