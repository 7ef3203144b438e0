//! The old search by tags: which traces it finds, wherever the spans lie.

use proto::otlp::{common::v1::any_value::Value as Any, trace::v1::Status};
use query::{SearchFilter, SearchRequest};

use crate::{
    data::{Row, any, attribute, text},
    decisions::span,
    places::{Place, everywhere, tenant},
};

const MILLISECOND: i64 = 1_000_000;

async fn found(place: &Place, tags: &[(&str, &str)], durations_ms: (Option<i64>, Option<i64>)) -> Vec<String> {
    let filter = SearchFilter::Tags {
        tags: tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        duration_min_ns: durations_ms.0.map(|ms| ms * MILLISECOND),
        duration_max_ns: durations_ms.1.map(|ms| ms * MILLISECOND),
    };
    let request = SearchRequest { filter, range: None, limit: 100, spans_per_spanset: 3 };
    let traces = place.engine.search(&[tenant()], request).await.expect("an answer").traces;
    assert!(traces.iter().all(|trace| trace.span_sets.is_empty() && trace.service_stats.is_empty()));
    let mut ids: Vec<String> = traces.into_iter().map(|trace| trace.trace_id).collect();
    ids.sort();
    ids
}

/// Trace 1: a root of two seconds and a child of one, of two services; trace 2: one span of a second, an error.
fn rows() -> Vec<Row> {
    let mut rows = vec![span(1, 1, 0, 0), span(1, 2, 1, 1), span(2, 1, 0, 5)];
    rows[0].span.attributes = vec![attribute("http.url", text("/v1/cart/7")), attribute("user", text("u7"))];
    rows[1].resource.attributes = vec![attribute("service.name", text("orders")), attribute("k8s.pod.name", text("orders-0"))];
    rows[1].span.attributes = vec![attribute("http.status_code", any(Any::IntValue(500))), attribute("db", text("redis"))];
    rows[2].span.attributes = vec![attribute("http.status_code", any(Any::IntValue(50))), attribute("db", text("redis-2"))];
    rows[2].span.status = Some(Status { code: 2, message: String::new() });
    rows
}

#[tokio::test]
async fn every_tag_has_to_match_somewhere_in_the_trace() {
    let none = (None, None);
    let table: &[(&[(&str, &str)], (Option<i64>, Option<i64>), &[&str])] = &[
        (&[], none, &["1", "2"]),
        // In part.
        (&[("service.name", "ord")], none, &["1"]),
        (&[("name", "n")], none, &["1", "2"]),
        (&[("root.name", "n1")], none, &["1", "2"]),
        (&[("root.service.name", "sho")], none, &["1", "2"]),
        (&[("http.url", "/cart/")], none, &["1"]),
        (&[("k8s.pod.name", "orders")], none, &["1"]),
        // As a whole.
        (&[("db", "redis")], none, &["1"]),
        (&[("user", "u")], none, &[]),
        (&[("http.status_code", "50")], none, &["2"]),
        (&[("http.status_code", "x")], none, &[]),
        (&[("status.code", "error")], none, &["2"]),
        (&[("status.code", "ok")], none, &[]),
        (&[("status.code", "whatever")], none, &["1"]),
        // On different spans.
        (&[("user", "u7"), ("db", "redis"), ("service.name", "shop")], none, &["1"]),
        (&[("user", "u7"), ("db", "redis-2")], none, &[]),
        // Of the whole trace, both included.
        (&[], (Some(2_000), None), &["1"]),
        (&[], (Some(1_000), Some(1_000)), &["2"]),
        (&[("name", "n")], (None, Some(1_999)), &["2"]),
    ];
    for place in everywhere(&rows(), 3).await {
        for (tags, durations, expected) in table {
            assert_eq!(found(&place, tags, *durations).await, *expected, "{tags:?} {durations:?} in {}", place.name);
        }
    }
}
