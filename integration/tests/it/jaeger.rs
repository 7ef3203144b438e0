//! Jaeger's query API on the real program: version 3 over gRPC and HTTP, the numbers of the monitor page, and what errors look
//! like. What traces themselves look like is judged by `clients.rs`.

use std::collections::{BTreeMap, HashMap};

use prost::Message;
use proto::otlp::trace::v1::{Span, Status, TracesData};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    rpc,
    sdks::hex,
    server::{Server, Settings},
    spans::{TimeRange, request, span_id, trace_id},
};

const RUN: u64 = 91;
const SECOND: u64 = 1_000_000_000;

/// The messages of Jaeger's interface definition that are sent and read here, written down a second time.
mod message {
    use std::collections::HashMap;

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct Time {
        #[prost(int64, tag = "1")]
        pub seconds: i64,
        #[prost(int32, tag = "2")]
        pub nanos: i32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Query {
        #[prost(string, tag = "1")]
        pub service_name: String,
        #[prost(string, tag = "2")]
        pub operation_name: String,
        #[prost(map = "string, string", tag = "3")]
        pub attributes: HashMap<String, String>,
        #[prost(message, optional, tag = "4")]
        pub start_time_min: Option<Time>,
        #[prost(message, optional, tag = "5")]
        pub start_time_max: Option<Time>,
        #[prost(message, optional, tag = "6")]
        pub duration_min: Option<Time>,
        #[prost(int32, tag = "8")]
        pub search_depth: i32,
        #[prost(message, optional, tag = "10")]
        pub filter: Option<Time>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Find {
        #[prost(message, optional, tag = "1")]
        pub query: Option<Query>,
    }

    /// `GetTraceRequest`, `GetOperationsRequest`, and entries of their kind: texts.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Texts {
        #[prost(string, tag = "1")]
        pub first: String,
        #[prost(string, tag = "2")]
        pub second: String,
        #[prost(uint64, tag = "3")]
        pub number: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Services {
        #[prost(string, repeated, tag = "1")]
        pub services: Vec<String>,
    }

    /// `GetOperationsResponse`, `DependenciesResponse`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct List {
        #[prost(message, repeated, tag = "1")]
        pub entries: Vec<Texts>,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct Range {
        #[prost(message, optional, tag = "1")]
        pub start: Option<Time>,
        #[prost(message, optional, tag = "2")]
        pub end: Option<Time>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Summary {
        #[prost(string, tag = "1")]
        pub trace_id: String,
        #[prost(string, tag = "2")]
        pub root_service_name: String,
        #[prost(string, tag = "3")]
        pub root_operation_name: String,
        #[prost(fixed64, tag = "4")]
        pub min_start_time_unix_nano: u64,
        #[prost(fixed64, tag = "5")]
        pub max_end_time_unix_nano: u64,
        #[prost(int32, tag = "6")]
        pub span_count: i32,
        #[prost(int32, tag = "7")]
        pub error_span_count: i32,
        #[prost(int32, tag = "8")]
        pub orphan_span_count: i32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Summaries {
        #[prost(message, repeated, tag = "1")]
        pub summaries: Vec<Summary>,
    }
}

use message::{Find, List, Query, Range, Services, Summaries, Texts, Time};

/// Calls a method; its messages, or the code of its failure.
async fn call<A: Message + Default>(address: &str, method: &str, asked: &impl Message) -> Result<Vec<A>, String> {
    rpc::call(&rpc::plain(), &format!("http://{address}"), &format!("/jaeger.api_v3.QueryService/{method}"), "", asked).await
}

fn at(ns: u64) -> Option<Time> {
    Some(Time { seconds: (ns / SECOND) as i64, nanos: (ns % SECOND) as i32 })
}

/// A shop that calls a cart, a minute ago; of every third trace the cart fails. Returns when the first one began.
async fn serve_shop(folder: &TempDir, traces: u64) -> (Server, u64) {
    let free = "127.0.0.1:0";
    let settings = Settings::new(folder.path())
        .with("server.jaeger_query_endpoint", free)
        .with("server.jaeger_query_grpc_endpoint", free);
    let server = Server::start(&settings).await;
    let began = TimeRange::lately().start_s * SECOND;
    for number in 0..traces {
        let span = |index: u64, parent: Option<u64>, name: &str, kind: i32, took: u64| Span {
            trace_id: trace_id(RUN, number),
            span_id: span_id(number, index),
            parent_span_id: parent.map_or(vec![], |parent| span_id(number, parent)),
            name: name.to_owned(),
            kind,
            start_time_unix_nano: began + number * SECOND + index,
            end_time_unix_nano: began + number * SECOND + index + took,
            status: (name == "charge" && number % 3 == 0).then(|| Status { code: 2, ..Status::default() }),
            ..Span::default()
        };
        server.client.push(request("shop", vec![span(0, None, "GET /", 2, 40_000_000), span(1, Some(0), "call", 3, 30_000_000)])).await;
        server.client.push(request("cart", vec![span(2, Some(1), "charge", 2, 20_000_000)])).await;
        if number == traces / 2 {
            server.client.flush().await;
        }
    }
    (server, began)
}

#[tokio::test]
async fn version_three_answers_over_grpc_wherever_jaeger_is_asked() {
    let folder = TempDir::new().unwrap();
    let (server, began) = serve_shop(&folder, 6).await;
    let everything = Query {
        service_name: "cart".to_owned(),
        start_time_min: at(began),
        start_time_max: at(began + 60 * SECOND),
        ..Query::default()
    };
    let find = |query: &Query| Find { query: Some(query.clone()) };
    for address in ["api", "jaeger_query", "jaeger_query_grpc"].map(|listener| server.address(listener)) {
        let address = address.as_str();
        let services: Vec<Services> = call(address, "GetServices", &Texts::default()).await.unwrap();
        assert_eq!(services, [Services { services: vec!["cart".to_owned(), "shop".to_owned()] }]);
        let asked = Texts { first: "shop".to_owned(), ..Texts::default() };
        let operations: Vec<List> = call(address, "GetOperations", &asked).await.unwrap();
        let operation = |name: &str, kind: &str| Texts { first: name.to_owned(), second: kind.to_owned(), number: 0 };
        assert_eq!(operations[0].entries, [operation("GET /", "server"), operation("call", "client")]);
        let of_kind = Texts { second: "client".to_owned(), ..asked };
        let operations: Vec<List> = call(address, "GetOperations", &of_kind).await.unwrap();
        assert_eq!(operations[0].entries, [operation("call", "client")]);

        let traces: Vec<TracesData> = call(address, "FindTraces", &find(&everything)).await.unwrap();
        assert_eq!(traces.len(), 6, "one message for each trace");
        for (trace, number) in traces.iter().zip((0..6).rev()) {
            assert_eq!(ids(trace), (0..3).map(|index| span_id(number, index)).collect::<Vec<_>>(), "whole, newest first");
        }
        let failed = Query { attributes: HashMap::from([("error".to_owned(), "true".to_owned())]), ..everything.clone() };
        let some = Query { search_depth: 1, ..failed.clone() };
        let slow = Query { duration_min: at(SECOND), ..everything.clone() };
        for (query, expected) in [(failed, 2), (some, 1), (slow, 0)] {
            assert_eq!(call::<TracesData>(address, "FindTraces", &find(&query)).await.unwrap().len(), expected, "{query:?}");
        }

        let id = Texts { first: hex(&trace_id(RUN, 3)), ..Texts::default() };
        let found: Vec<TracesData> = call(address, "GetTrace", &id).await.unwrap();
        assert_eq!(found.iter().flat_map(ids).count(), 3);

        let summaries: Vec<Summaries> = call(address, "FindTraceSummaries", &find(&everything)).await.unwrap();
        let summaries: Vec<_> = summaries.into_iter().flat_map(|message| message.summaries).collect();
        assert_eq!(summaries.len(), 6);
        let summary = &summaries[2];
        assert_eq!((summary.trace_id.as_str(), summary.root_service_name.as_str()), (hex(&trace_id(RUN, 3)).as_str(), "shop"));
        assert_eq!((summary.root_operation_name.as_str(), summary.span_count, summary.error_span_count), ("GET /", 3, 1));
        assert_eq!(summary.max_end_time_unix_nano - summary.min_start_time_unix_nano, 40_000_000);

        let range = Range { start: at(began), end: at(began + 60 * SECOND) };
        let links: Vec<List> = call(address, "GetDependencies", &range).await.unwrap();
        assert_eq!(links[0].entries, [Texts { first: "shop".to_owned(), second: "cart".to_owned(), number: 6 }]);

        // Invalid argument, not found, unimplemented.
        let none = Texts { first: hex(&trace_id(RUN, 100)), ..Texts::default() };
        let timeless = Query { start_time_max: None, ..everything.clone() };
        let filtered = Query { filter: at(1), ..everything.clone() };
        for (failure, code) in [
            (call::<TracesData>(address, "GetTrace", &none).await, "5"),
            (call(address, "GetTrace", &Texts { first: "no id".to_owned(), ..Texts::default() }).await, "3"),
            (call(address, "FindTraces", &Find::default()).await, "3"),
            (call(address, "FindTraces", &find(&timeless)).await, "3"),
            (call(address, "FindTraces", &find(&filtered)).await, "3"),
            (call(address, "GetOperations", &Texts::default()).await, "3"),
            (call(address, "GetDependencies", &Range::default()).await, "3"),
            (call(address, "ForgetTrace", &none).await, "12"),
        ] {
            assert_eq!(failure.err().as_deref(), Some(code));
        }
    }
}

fn ids(trace: &TracesData) -> Vec<Vec<u8>> {
    let scopes = trace.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
    let mut ids: Vec<_> = scopes.flat_map(|scope| &scope.spans).map(|span| span.span_id.clone()).collect();
    ids.sort();
    ids
}

/// Status and body of the API on Jaeger's own port.
async fn get(server: &Server, path: &str) -> (u16, Value) {
    let answer = reqwest::get(format!("http://{}{path}", server.address("jaeger_query"))).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.text().await.unwrap();
    (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}")))
}

#[tokio::test]
async fn summaries_and_numbers_of_services_are_as_jaegers_pages_read_them() {
    let folder = TempDir::new().unwrap();
    let (server, began) = serve_shop(&folder, 6).await;
    // Unix seconds are read too, which spares a calendar here.
    let (from, to) = (began / SECOND, began / SECOND + 60);
    let range = format!("query.startTimeMin={from}&query.startTimeMax={to}");
    let (status, body) = get(&server, &format!("/api/v3/trace-summaries?query.serviceName=cart&query.searchDepth=1&{range}")).await;
    assert_eq!(status, 200, "{body}");
    let start = began + 5 * SECOND;
    assert_eq!(
        body,
        json!({ "summaries": [{
            "traceId": hex(&trace_id(RUN, 5)), "rootServiceName": "shop", "rootOperationName": "GET /",
            "minStartTimeUnixNano": start.to_string(), "maxEndTimeUnixNano": (start + 40_000_000).to_string(),
            "spanCount": 3, "services": [{ "name": "cart", "spanCount": 1 }, { "name": "shop", "spanCount": 2 }],
        }] })
    );
    let (status, body) = get(&server, &format!("/api/v3/trace-summaries?query.serviceName=nobody&{range}")).await;
    assert_eq!((status, body), (200, json!({ "summaries": [] })));

    // Six calls within one window of a minute that holds them all.
    let minute = 60_000;
    let end = (to * 1000).div_ceil(minute) * minute;
    let asked = format!("service=shop&service=cart&endTs={end}&lookback={minute}&step={minute}&ratePer={}", 3 * minute);
    let last = |body: &Value| -> BTreeMap<String, f64> {
        let metrics = body["metrics"].as_array().unwrap_or_else(|| panic!("{body}"));
        let labelled = metrics.iter().map(|metric| {
            let labels: Vec<&str> = metric["labels"].as_array().unwrap().iter().map(|label| label["value"].as_str().unwrap()).collect();
            let points = metric["metricPoints"].as_array().unwrap();
            (labels.join(" of "), points.last().unwrap()["gaugeValue"]["doubleValue"].as_f64().unwrap())
        });
        labelled.collect()
    };
    let rate = 6.0 / 180.0;
    let (status, body) = get(&server, &format!("/api/metrics/calls?{asked}")).await;
    assert_eq!((status, &body["name"], &body["type"]), (200, &json!("service_call_rate"), &json!("GAUGE")), "{body}");
    assert_eq!(last(&body), [("cart".to_owned(), rate), ("shop".to_owned(), rate)].into());
    let time = body["metrics"][0]["metricPoints"][0]["timestamp"].as_str().unwrap();
    assert!(time.ends_with('Z') && time.len() == "2026-01-01T00:00:00Z".len(), "{time}");
    let (_, body) = get(&server, &format!("/api/metrics/errors?{asked}&groupByOperation=true")).await;
    assert_eq!(body["name"], "service_operation_error_rate");
    assert_eq!(body["metrics"][0]["labels"][0]["name"], "operation");
    assert_eq!(last(&body), [("GET / of shop".to_owned(), 0.0), ("charge of cart".to_owned(), 2.0 / 6.0)].into());
    let (_, body) = get(&server, &format!("/api/metrics/latencies?{asked}&quantile=0.95&spanKind=server&spanKind=client")).await;
    for (service, least, most) in [("cart", 10.0, 34.0), ("shop", 17.0, 68.0)] {
        let took = last(&body)[service];
        assert!((least..=most).contains(&took), "{service}: {took} ms within the bucket of its calls");
    }
    let (status, body) = get(&server, &format!("/api/metrics/calls?{}", asked.replace("shop", "nobody").replace("cart", "nobody"))).await;
    assert_eq!((status, &body["metrics"]), (200, &json!([])));
}

#[tokio::test]
async fn every_failure_has_jaegers_form() {
    let folder = TempDir::new().unwrap();
    let (server, began) = serve_shop(&folder, 1).await;
    let (from, to) = (began / SECOND, began / SECOND + 60);
    for (path, status) in [
        ("/api/traces", 400),
        ("/api/traces?service=shop&tags=%7B", 400),
        ("/api/traces?service=shop&minDuration=1", 400),
        ("/api/traces?service=shop&limit=x", 400),
        ("/api/traces?traceID=xyz", 400),
        ("/api/traces/xyz", 400),
        ("/api/traces/1234", 404),
        ("/api/operations", 400),
        ("/api/dependencies?endTs=soon", 400),
        ("/api/metrics/calls", 400),
        ("/api/metrics/calls?service=shop&step=0", 400),
        ("/api/metrics/latencies?service=shop", 400),
        ("/api/metrics/latencies?service=shop&quantile=95", 400),
        ("/api/metrics/moods?service=shop", 404),
        ("/api/archive/1234", 501),
    ] {
        let (answered, body) = get(&server, path).await;
        assert_eq!(answered, status, "{path}: {body}");
        assert_eq!((&body["data"], &body["errors"][0]["code"]), (&Value::Null, &json!(status)), "{path}: {body}");
        assert!(body["errors"][0]["msg"].as_str().is_some_and(|text| !text.is_empty()), "{path}: {body}");
        assert_eq!(body.as_object().unwrap().len(), 5, "data, total, limit, offset, errors: {body}");
    }
    for (path, status) in [
        ("/api/v3/operations", 400),
        ("/api/v3/traces", 400),
        ("/api/v3/traces/xyz", 400),
        ("/api/v3/traces/1234", 404),
        (&*format!("/api/v3/traces?query.serviceName=nobody&query.startTimeMin={from}&query.startTimeMax={to}"), 404),
        (&*format!("/api/v3/traces?query.startTimeMin={to}&query.startTimeMax={from}"), 400),
        (&*format!("/api/v3/trace-summaries?query.filter=%7B%7D&query.startTimeMin={from}&query.startTimeMax={to}"), 400),
        ("/api/v3/trace-summaries?query.startTimeMin=yesterday&query.startTimeMax=today", 400),
    ] {
        let (answered, body) = get(&server, path).await;
        assert_eq!(answered, status, "{path}: {body}");
        assert_eq!(body["error"]["httpCode"], status, "{path}: {body}");
        assert!(body["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{path}: {body}");
    }
    // What is asked to be shown and is no OTLP.
    let url = format!("http://{}/api/transform", server.address("jaeger_query"));
    let post = async |body: &str| {
        let answer = reqwest::Client::new().post(&url).body(body.to_owned()).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    for body in ["", "{", r#"{"resourceSpans": 5}"#, r#"{"resourceSpans": [{"scopeSpans": [{"spans": [7]}]}]}"#] {
        let (status, answer) = post(body).await;
        assert_eq!((status, &answer["errors"][0]["code"]), (400, &json!(400)), "{body}: {answer}");
        assert!(answer["errors"][0]["msg"].as_str().unwrap().contains("OTLP"), "{answer}");
    }
    let span = |trace: u64| json!({ "traceId": hex(&trace_id(RUN, trace)), "spanId": hex(&span_id(trace, 0)), "name": "shown",
        "startTimeUnixNano": "1000", "endTimeUnixNano": "3000" });
    let resource = json!({ "attributes": [{ "key": "service.name", "value": { "stringValue": "shop" } }] });
    let body = json!({ "resourceSpans": [{ "resource": resource, "scopeSpans": [{ "spans": [span(1), span(2)] }] }] });
    let (status, answer) = post(&body.to_string()).await;
    assert_eq!((status, &answer["errors"], answer["data"].as_array().map(Vec::len)), (200, &Value::Null, Some(2)), "{answer}");
    let shown = &answer["data"][1];
    assert_eq!((&shown["traceID"], &shown["spans"][0]["duration"]), (&json!(hex(&trace_id(RUN, 2))), &json!(2)));
    assert_eq!(shown["processes"]["p1"]["serviceName"], "shop");
}
