//! Traces of the program itself: it continues those of its callers, and does not feed on itself.

use proto::otlp::trace::v1::Span;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    sdks::hex,
    server::{Server, Settings, until},
    spans::{TimeRange, request, trace_spans},
};

const RUN: u64 = 101;
const PARENT: &str = "00f067aa0ba902b7";
/// The tenant that the program's own spans go to.
const OWN: &str = "own";

/// A server that sends its own spans to itself. Its port has to be known before it starts, so it is one that was free.
async fn serve(folder: &TempDir, multitenancy: bool) -> Server {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings = Settings::new(folder.path())
        .with("distributor.receivers.otlp.protocols.http.endpoint", free.to_string())
        .with("self_tracing.otlp_endpoint", format!("http://{free}"))
        .with("self_tracing.query_sampling_ratio", 0.0)
        .with("multitenancy_enabled", multitenancy)
        .with("self_tracing.tenant", if multitenancy { OWN } else { "" });
    Server::start(&settings).await
}

async fn send(request: reqwest::RequestBuilder, context: &[(&str, String)]) -> reqwest::Response {
    let pair = |(name, value): &(&str, String)| {
        (HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(value.as_str()).unwrap())
    };
    request.headers(context.iter().map(pair).collect::<HeaderMap>()).send().await.unwrap()
}

fn named<'s>(spans: &'s [Span], name: &str) -> &'s Span {
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name} in {spans:?}"))
}

/// The spans of a trace, once the last one to end is there: they come in the order in which they ended.
async fn trace(server: &Server, id: &[u8], last: &str) -> Vec<Span> {
    let client = server.client.of(OWN);
    until("the trace has its spans", async || client.trace(id).await.iter().any(|span| span.name == last)).await;
    client.trace(id).await
}

#[tokio::test]
async fn a_request_continues_the_trace_of_its_caller_in_every_format() {
    let folder = TempDir::new().unwrap();
    let server = serve(&folder, true).await;
    let range = TimeRange::lately();
    server.client.of("shop").push(request("shop", trace_spans(RUN, 1, 0..3, range))).await;
    let http = reqwest::Client::new();
    let search = || {
        let url = format!("http://{}/api/search", server.address("api"));
        let (start, end) = (range.start_s.to_string(), range.end_s.to_string());
        http.get(url).query(&[("q", "{ span.step > 0 }"), ("start", &start), ("end", &end)]).header("x-scope-orgid", "shop")
    };
    let id = |format: u8| vec![format + 1; 16];
    let contexts = |format: u8, sampled: bool| -> Vec<(&'static str, String)> {
        let (id, decision) = (hex(&id(format)), u8::from(sampled).to_string());
        match format {
            0 => vec![("traceparent", format!("00-{id}-{PARENT}-0{decision}")), ("tracestate", "a=1,b=2".to_owned())],
            1 => vec![("b3", format!("{id}-{PARENT}-{decision}"))],
            2 => vec![("x-b3-traceid", id), ("x-b3-spanid", PARENT.to_owned()), ("x-b3-sampled", decision)],
            _ => vec![("uber-trace-id", format!("{id}:{PARENT}:0:{decision}"))],
        }
    };
    for format in 0..4 {
        let answer = send(search(), &contexts(format, true)).await;
        assert_eq!(answer.status().as_u16(), 200);
        let place = answer.headers()["traceresponse"].to_str().unwrap().to_owned();
        assert!(place.starts_with(&format!("00-{}-", hex(&id(format)))), "{place}");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["traces"].as_array().map(Vec::len), Some(1), "{body}");

        let spans = trace(&server, &id(format), "GET /api/search").await;
        let (asked, query) = (named(&spans, "GET /api/search"), named(&spans, "query"));
        assert_eq!(hex(&asked.parent_span_id), PARENT, "format {format}");
        assert_eq!((hex(&asked.span_id).as_str(), asked.kind), (&place[36..52], 2));
        assert_eq!(query.parent_span_id, asked.span_id);
        assert_eq!(asked.trace_state, if format == 0 { "a=1,b=2" } else { "" });
        for stage in ["parse and plan", "find the newest traces", "fetch and show the traces found"] {
            assert_eq!(named(&spans, stage).parent_span_id, query.span_id, "{stage}");
        }
        assert!(query.start_time_unix_nano >= asked.start_time_unix_nano && query.end_time_unix_nano <= asked.end_time_unix_nano);
    }
    // A caller that does not record its trace gets none of it.
    let answer = send(search(), &[("traceparent", format!("00-{}-{PARENT}-00", "9".repeat(32)))]).await;
    assert!(answer.status().is_success() && !answer.headers().contains_key("traceresponse"));

    // A delivery, and a method of gRPC.
    let delivery = http.post(format!("http://{}/v1/traces", server.address("otlp_http"))).header("x-scope-orgid", "shop");
    let delivery = delivery.header("content-type", "application/x-protobuf").body(request("shop", trace_spans(RUN, 2, 0..3, range)));
    assert_eq!(send(delivery, &[("b3", format!("{}-{PARENT}-1", "a".repeat(32)))]).await.status().as_u16(), 200);
    let spans = trace(&server, &[0xaa; 16], "ingest").await;
    assert_eq!(hex(&named(&spans, "ingest").parent_span_id), PARENT);
    let http2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let call = http2.post(format!("http://{}/tempopb.StreamingQuerier/SearchTags", server.address("api"))).body(vec![0; 5]);
    let call = call.header("content-type", "application/grpc").header("te", "trailers").header("x-scope-orgid", "shop");
    send(call, &[("traceparent", format!("00-{}-{PARENT}-01", "b".repeat(32)))]).await.bytes().await.unwrap();
    let spans = trace(&server, &[0xbb; 16], "tempopb.StreamingQuerier/SearchTags").await;
    assert_eq!(hex(&named(&spans, "tempopb.StreamingQuerier/SearchTags").parent_span_id), PARENT);
}

/// Spans of the program's own that were sent, and those that were lost.
async fn own_spans(server: &Server) -> (f64, f64) {
    let count = async |outcome: &str| server.client.metric(&format!("sostenuto_self_spans_total{{outcome=\"{outcome}\"}}")).await;
    (count("exported").await, count("dropped").await + count("failed").await)
}

#[tokio::test]
async fn its_own_spans_make_no_spans() {
    let range = TimeRange::lately();
    for multitenancy in [true, false] {
        let folder = TempDir::new().unwrap();
        let server = serve(&folder, multitenancy).await;
        let client = server.client.of("shop");
        const REQUESTS: u64 = 30;
        for number in 0..REQUESTS {
            client.push(request("shop", trace_spans(RUN, number, 0..3, range))).await;
        }
        let recorded = async || server.client.metric("sostenuto_self_spans_recorded_total").await;
        assert_eq!(recorded().await, 0.0, "deliveries are not recorded unless it is asked for");
        // One flush of the shop: its span, those of making blocks and of the commit, and one for each block.
        let spans_of = |flushed: &Value| 3.0 + flushed["blocks"].as_f64().unwrap();
        let made = spans_of(&client.flush().await);
        assert_eq!(recorded().await, made);
        let accepted = async || server.client.metric("sostenuto_ingester_spans_accepted_total").await;
        until("they are delivered", async || accepted().await == REQUESTS as f64 * 3.0 + made).await;
        until("they are counted", async || own_spans(&server).await == (made, 0.0)).await;
        let query = "{ name = \"flush\" && resource.service.name = \"sostenuto\" } >> { name = \"commit\" }";
        let (status, body) = client.of(OWN).get("/api/search", &[("q", query.to_owned())]).await;
        assert_eq!((status, body["traces"].as_array().map(Vec::len)), (200, Some(1)), "{body}");
        // What they brought in is flushed, and that brings in nothing.
        let flushed = client.flush().await;
        assert_eq!(flushed["spans"].as_f64(), Some(made), "{flushed}");
        assert_eq!(client.flush().await["spans"], 0);
        assert_eq!(recorded().await, made, "after {REQUESTS} requests");
        // Another delivery is another flush.
        client.push(request("shop", trace_spans(RUN, REQUESTS, 0..3, range))).await;
        let more = spans_of(&client.flush().await);
        assert_eq!(recorded().await, made + more);
    }
}

#[tokio::test]
async fn a_receiver_that_is_away_costs_spans_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    // Nobody listens there any more.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings = Settings::new(folder.path())
        .with("self_tracing.otlp_endpoint", format!("http://{gone}"))
        .with("self_tracing.query_sampling_ratio", 1.0)
        .with("self_tracing.ingest_sampling_ratio", 1.0)
        .with("self_tracing.max_queued_spans", 4);
    let server = Server::start(&settings).await;
    let range = TimeRange::lately();
    for number in 0..20 {
        server.client.push(request("shop", trace_spans(RUN, number, 0..2, range))).await;
    }
    assert_eq!(server.client.count("{ }", range).await, 40);
    until("all spans are counted as lost", async || own_spans(&server).await.1 >= 20.0).await;
    assert!(server.stop().await.success());
}
