//! What Grafana's data source decodes strictly or crashes over, on the real program: the keys of answers, the methods of gRPC
//! on every port that has them, several tenants at once, traces that are not there, and failures as text.

use std::collections::BTreeSet;

use prost::Message;
use proto::tempopb::{
    QueryInstantRequest, QueryInstantResponse, QueryRangeRequest, QueryRangeResponse, SearchRequest, SearchResponse,
    SearchTagValuesRequest, SearchTagValuesResponse, SearchTagValuesV2Response, SearchTagsRequest, SearchTagsResponse,
    SearchTagsV2Response, TraceByIdResponse,
};
use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    client::Access,
    door::authority::Authority,
    rpc::{self, call},
    sdks::hex,
    server::{Server, Settings},
    spans::{TimeRange, request, trace_id, trace_spans},
};

const RUN: u64 = 107;
const QUERIER: &str = "/tempopb.StreamingQuerier";

/// The keys that each kind of object may have, by where it stands. What is not listed is a value.
fn known(place: &str) -> &'static [&'static str] {
    match place {
        "search" => &["traces", "metrics"],
        "instant" => &["series", "metrics", "status", "message"],
        "traces" => &[
            "traceID", "rootServiceName", "rootTraceName", "startTimeUnixNano", "durationMs", "spanSet", "spanSets", "serviceStats",
        ],
        "spanSet" | "spanSets" => &["spans", "matched", "attributes"],
        "spans" => &["spanID", "name", "startTimeUnixNano", "durationNanos", "attributes"],
        "series" => &["labels", "value"],
        "attributes" | "labels" => &["key", "value"],
        "value" => &["stringValue", "boolValue", "intValue", "doubleValue", "arrayValue", "kvlistValue", "bytesValue"],
        "metrics" => &[
            "inspectedTraces", "inspectedBytes", "totalBlocks", "completedJobs", "totalJobs", "totalBlockBytes", "inspectedSpans",
        ],
        "a service's stats" => &["spanCount", "errorCount"],
        _ => &[],
    }
}

/// No object has a key that Grafana does not know.
fn strict(value: &Value, place: &str) {
    match value {
        Value::Array(all) => all.iter().for_each(|one| strict(one, place)),
        Value::Object(members) if place == "serviceStats" => members.values().for_each(|stats| strict(stats, "a service's stats")),
        Value::Object(members) => {
            for (key, member) in members {
                assert!(known(place).contains(&key.as_str()), "{place} has a key {key} that Grafana does not know: {value}");
                strict(member, key);
            }
        }
        _ => {}
    }
}

async fn get(server: &Server, path: &str, query: &str, range: TimeRange) -> Value {
    let (start, end) = (range.start_s.to_string(), range.end_s.to_string());
    let (status, body) = server.client.get(path, &[("q", query.to_owned()), ("start", start), ("end", end)]).await;
    assert_eq!(status, 200, "{path} {query}: {body}");
    body
}

#[tokio::test]
async fn answers_have_no_key_that_grafana_does_not_know() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(&Settings::new(folder.path())).await;
    let range = TimeRange::lately();
    for number in 0..6 {
        server.client.push(request(["shop", "cart"][number as usize % 2], trace_spans(RUN, number, 0..4, range))).await;
    }
    for flushed in [false, true] {
        if flushed {
            server.client.flush().await;
        }
        for (query, traces) in [
            ("{}", 6),
            ("{ false }", 0),
            ("{ span.step > 1 }", 6),
            ("{} | by(name)", 6),
            ("{} | by(resource.service.name) | count() > 1", 6),
            ("{} | avg(duration) > 1us", 6),
            ("{} | select(span.step, status, kind, duration, rootName, nestedSetLeft, .nothing)", 6),
            ("{ kind = server } >> { span.step = 1 }", 6),
            ("{ resource.service.name = \"cart\" } | select(span.http.route) with(most_recent=true)", 3),
        ] {
            let answer = get(&server, "/api/search", query, range).await;
            strict(&answer, "search");
            let found = answer["traces"].as_array().unwrap_or_else(|| panic!("{query}: {answer}"));
            assert_eq!(found.len(), traces, "{query}");
            for trace in found {
                let sets = trace["spanSets"].as_array().unwrap_or_else(|| panic!("{query}: {trace}"));
                assert!(!sets.is_empty() && trace["startTimeUnixNano"].is_string(), "{query}: {trace}");
                assert_eq!(trace.get("spanSet").is_some(), sets.len() == 1, "one alone stands for itself: {trace}");
            }
        }
        // Alerts are evaluated so, whether queries are streamed or not.
        for query in [
            "{} | rate()",
            "{ false } | rate()",
            "{} | count_over_time() by(resource.service.name, span.step)",
            "{} | quantile_over_time(duration, 0.5, 0.9) by(name)",
            "{} | histogram_over_time(duration)",
            "{} | compare({ span.step = 1 }, 10)",
            "{} | rate() by(name) | topk(2)",
        ] {
            let answer = get(&server, "/api/metrics/query", query, range).await;
            strict(&answer, "instant");
            assert_eq!(answer["series"].as_array().unwrap().is_empty(), query.starts_with("{ false"), "{query}");
            let ranged = get(&server, "/api/metrics/query_range", query, range).await;
            assert_eq!(ranged["series"].as_array().unwrap().is_empty(), query.starts_with("{ false"), "{query}");
        }
    }
}

/// Asks every method for these tenants, and checks that all of them answer, and nobody else.
async fn every_method(client: &Client, base: &str, tenants: &str, services: &[&str], range: TimeRange) {
    let expected: BTreeSet<&str> = services.iter().copied().collect();
    let all = |names: Vec<String>| names.into_iter().collect::<BTreeSet<_>>();
    let same = |names: Vec<String>, method: &str| {
        let names = all(names);
        assert_eq!(names.iter().map(String::as_str).collect::<BTreeSet<_>>(), expected, "{base}{method} of {tenants}");
    };
    let (start, end) = (range.start_s as u32, range.end_s as u32);
    let (start_ns, end_ns) = (range.start_s * 1_000_000_000, range.end_s * 1_000_000_000);
    let path = |method: &str| format!("{QUERIER}/{method}");

    let asked = SearchRequest { query: "{}".to_owned(), start, end, ..SearchRequest::default() };
    let answers: Vec<SearchResponse> = call(client, base, &path("Search"), tenants, &asked).await.unwrap();
    assert!(!answers.is_empty() && answers.iter().all(|answer| answer.metrics.is_some()), "{base}");
    same(answers.into_iter().flat_map(|answer| answer.traces).map(|trace| trace.root_service_name).collect(), "Search");

    let asked = SearchTagsRequest { start, end, ..SearchTagsRequest::default() };
    let answers: Vec<SearchTagsResponse> = call(client, base, &path("SearchTags"), tenants, &asked).await.unwrap();
    assert!(answers.iter().flat_map(|answer| &answer.tag_names).any(|name| name == "http.route"));
    let answers: Vec<SearchTagsV2Response> = call(client, base, &path("SearchTagsV2"), tenants, &asked).await.unwrap();
    let scopes: BTreeSet<&str> = answers.iter().flat_map(|answer| &answer.scopes).map(|scope| scope.name.as_str()).collect();
    assert!(scopes.is_superset(&["span", "resource", "intrinsic"].into()), "{scopes:?}");

    let asked = SearchTagValuesRequest { tag_name: "service.name".to_owned(), start, end, ..SearchTagValuesRequest::default() };
    let answers: Vec<SearchTagValuesResponse> = call(client, base, &path("SearchTagValues"), tenants, &asked).await.unwrap();
    same(answers.into_iter().flat_map(|answer| answer.tag_values).collect(), "SearchTagValues");
    let asked = SearchTagValuesRequest { tag_name: "resource.service.name".to_owned(), ..asked };
    let answers: Vec<SearchTagValuesV2Response> = call(client, base, &path("SearchTagValuesV2"), tenants, &asked).await.unwrap();
    same(answers.into_iter().flat_map(|answer| answer.tag_values).map(|value| value.value).collect(), "SearchTagValuesV2");

    let query = "{} | count_over_time() by(resource.service.name)".to_owned();
    let asked = QueryRangeRequest { query: query.clone(), start: start_ns, end: end_ns, ..QueryRangeRequest::default() };
    let answers: Vec<QueryRangeResponse> = call(client, base, &path("MetricsQueryRange"), tenants, &asked).await.unwrap();
    let series: BTreeSet<String> = answers.iter().flat_map(|answer| &answer.series).map(|series| format!("{:?}", series.labels)).collect();
    assert!(series.len() == services.len() && answers.iter().all(|answer| answer.metrics.is_some()), "{base}: {series:?}");
    let asked = QueryInstantRequest { query, start: start_ns, end: end_ns };
    let answers: Vec<QueryInstantResponse> = call(client, base, &path("MetricsQueryInstant"), tenants, &asked).await.unwrap();
    assert_eq!(answers.iter().map(|answer| answer.series.len()).collect::<Vec<_>>(), [services.len()], "{base}: one message");

    // The health check of the data source, and what ends a stream with an error.
    let asked = SearchRequest { query: "{}".to_owned(), limit: 1, ..SearchRequest::default() };
    assert!(!call::<SearchResponse>(client, base, &path("Search"), tenants, &asked).await.unwrap().is_empty());
    let asked = SearchRequest { query: "{ nonsense".to_owned(), ..SearchRequest::default() };
    assert_eq!(call::<SearchResponse>(client, base, &path("Search"), tenants, &asked).await.unwrap_err(), "3");
    assert_eq!(call::<SearchResponse>(client, base, &path("SearchNothing"), tenants, &asked).await.unwrap_err(), "12");
}

#[tokio::test]
async fn every_method_answers_on_every_port_that_speaks_grpc_and_for_several_tenants() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new("the shop");
    authority.server().write(folder.path());
    let range = TimeRange::lately();
    for encrypted in [false, true] {
        let data = folder.path().join(if encrypted { "tls" } else { "plain" });
        let mut settings = Settings::new(&data).with("multitenancy_enabled", true).with("server.grpc_listen_port", 0);
        let mut access = Access::default();
        if encrypted {
            access.authority = Some(authority.pem.clone());
            let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
            settings = settings
                .with("server.tls", json!({ "cert_file": file("cert.pem"), "key_file": file("key.pem") }))
                .reached_by(access.clone());
        }
        let server = Server::start(&settings).await;
        for (tenant, number) in [("a", 1), ("b", 2), ("c", 3)] {
            let service = format!("shop of {tenant}");
            server.client.of(tenant).push(request(&service, trace_spans(RUN, number, 0..3, range))).await;
        }
        // Without TLS a client has to know that it is HTTP/2, with TLS it negotiates.
        let client = if encrypted { access.builder().build().unwrap() } else { rpc::plain() };
        for port in ["api", "grpc"] {
            let base = format!("{}://{}", access.scheme(), server.address(port));
            every_method(&client, &base, "b", &["shop of b"], range).await;
            every_method(&client, &base, "a|c", &["shop of a", "shop of c"], range).await;
            let asked = SearchRequest { query: "{}".to_owned(), ..SearchRequest::default() };
            let nobody = call::<SearchResponse>(&client, &base, &format!("{QUERIER}/Search"), "", &asked).await;
            assert_eq!(nobody.unwrap_err(), "16", "without a tenant");
        }
        // HTTP/1.1 on the same port as gRPC.
        let echo = access.builder().http1_only().build().unwrap();
        let echo = echo.get(format!("{}://{}/api/echo", access.scheme(), server.address("api"))).send().await.unwrap();
        assert_eq!((echo.status().as_u16(), echo.version()), (200, reqwest::Version::HTTP_11));
        // Several tenants over HTTP, too.
        let (status, body) = server.client.of("c|a").get("/api/search", &[("q", "{}".to_owned())]).await;
        assert_eq!((status, body["traces"].as_array().map(Vec::len)), (200, Some(2)), "{body}");
    }
}

#[tokio::test]
async fn a_trace_that_is_not_there_is_an_empty_one_and_bounds_are_bounds() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(&Settings::new(folder.path())).await;
    let range = TimeRange::lately();
    server.client.push(request("shop", trace_spans(RUN, 1, 0..3, range))).await;
    server.client.flush().await;
    let http = Client::new();
    let ask = async |version: &str, id: &str, bounds: &str| {
        let url = format!("http://{}/api{version}/traces/{id}{bounds}", server.address("api"));
        let answer = http.get(url).header("accept", "application/protobuf").send().await.unwrap();
        (answer.status().as_u16(), answer.bytes().await.unwrap())
    };
    let spans = |body: &[u8]| {
        let trace = TraceByIdResponse::decode(body).unwrap().trace.expect("also an empty one is there");
        trace.resource_spans.iter().flat_map(|resource| &resource.scope_spans).map(|scope| scope.spans.len()).sum::<usize>()
    };
    let id = hex(&trace_id(RUN, 1));
    let (status, body) = ask("/v2", &id, "").await;
    assert_eq!((status, spans(&body)), (200, 3));
    let (status, body) = ask("/v2", &hex(&trace_id(RUN, 2)), "").await;
    assert_eq!((status, spans(&body)), (200, 0), "404 would make Grafana ask again");
    assert_eq!(ask("", &hex(&trace_id(RUN, 2)), "").await.0, 404);
    for (start, end, expected) in [(range.start_s - 60, range.end_s + 60, 3), (range.start_s - 7200, range.start_s - 3600, 0)] {
        let (status, body) = ask("/v2", &id, &format!("?start={start}&end={end}")).await;
        assert_eq!((status, spans(&body)), (200, expected));
    }
    for id in ["x", &"1".repeat(33)] {
        assert_eq!(ask("/v2", id, "").await.0, 400, "{id}");
    }
}

#[tokio::test]
async fn failures_are_short_texts() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(&Settings::new(folder.path())).await;
    for path in [
        "/api/search?q=%7B+nonsense",
        "/api/search?q=%7B%7D&start=10&end=5",
        "/api/search?q=%7B%7D&limit=0",
        "/api/metrics/query?q=%7B%7D",
        "/api/metrics/query_range?q=%7B%7D%7Crate()&step=0s",
        "/api/v2/search/tags?scope=bogus",
        "/api/traces/xyz",
    ] {
        let answer = Client::new().get(format!("http://{}{path}", server.address("api"))).send().await.unwrap();
        let (status, content_type) = (answer.status().as_u16(), answer.headers()["content-type"].to_str().unwrap().to_owned());
        let body = answer.text().await.unwrap();
        assert_eq!((status, content_type.as_str()), (400, "text/plain; charset=utf-8"), "{path}: {body}");
        assert!((1..1000).contains(&body.len()) && !body.contains('<'), "{path}: {body}");
    }
    let (status, build) = server.client.get("/api/status/buildinfo", &[]).await;
    let version: Vec<u32> = build["version"].as_str().unwrap().split('.').map(|part| part.parse().unwrap()).collect();
    assert!(status == 200 && version >= vec![2, 7, 0], "features are switched by it: {build}");
}
