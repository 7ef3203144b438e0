//! What goes wrong: the store refuses, a message is no spans, the brokers are away.

use std::fs;

use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use serde_json::json;
use tempfile::TempDir;

use super::{Cluster, Sent, TOPIC, check, committed, discarded, produce, traces};
use crate::{
    server::{Server, until},
    spans::{TimeRange, request, trace_id, trace_spans},
};

const ENCODINGS: [&str; 7] =
    ["otlp_proto", "otlp_json", "jaeger_proto", "jaeger_json", "zipkin_proto", "zipkin_json", "zipkin_thrift"];

#[tokio::test]
async fn nothing_is_committed_while_the_store_refuses_and_nothing_is_lost() {
    const TRACES: u64 = 40;
    const SPANS: u64 = 100;
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let cluster = Cluster::new(&[(TOPIC, 2)]);
    let client = cluster.client();
    let message = |number: u64| {
        let partition = (number % 2).try_into().unwrap();
        Sent::to(partition, request("shop", trace_spans(10, number, 0..SPANS, range)))
    };
    let messages: Vec<Sent> = (0..TRACES).map(message).collect();
    // One message fits at once, and the next after hours: so many seconds as it has bytes.
    let bytes = messages.iter().map(|message| message.payload.len()).max().unwrap();
    assert!(bytes > 7200);
    let file = folder.path().join("overrides.yaml");
    let limit = |rate: usize, burst: usize| {
        format!(
            "overrides: {{single-tenant: {{ingestion: {{rate_limit_bytes: {rate}, burst_size_bytes: {burst}}}}}}}\n"
        )
    };
    fs::write(&file, limit(1, bytes)).unwrap();
    let settings = cluster
        .settings(folder.path(), json!({ TOPIC: "otlp_proto" }))
        .with("overrides.per_tenant_override_config", file.to_str().unwrap())
        .with("overrides.per_tenant_override_period", "20ms");
    let server = Server::start(&settings).await;
    produce(&client, TOPIC, &messages).await;
    let metric = async |name: &str| server.client.metric(name).await as u64;
    until("both partitions wait", async || metric("sostenuto_kafka_partitions{state=\"waiting\"}").await == 2).await;
    let refused = async || metric("sostenuto_distributor_spans_discarded_total{reason=\"rate_limited\"}").await;
    let before = refused().await;
    until("they are tried again", async || refused().await > before + 4 * SPANS).await;
    let durable: i64 = committed(&client, TOPIC, 2).into_iter().flatten().sum();
    assert!(durable <= 1, "{durable} messages are committed, and one fits");
    assert!(server.client.count("{ }", range).await <= SPANS);

    fs::write(&file, limit(100_000_000, 100_000_000)).unwrap();
    until("all spans are found", async || server.client.count("{ }", range).await == SPANS * TRACES).await;
    until("all offsets are committed", async || committed(&client, TOPIC, 2) == [Some(20); 2]).await;
    for number in 0..TRACES {
        let ids = server.client.span_ids(&trace_id(10, number)).await;
        assert!(ids.len() as u64 == SPANS && ids.values().all(|times| *times == 1), "trace {number}: {ids:?}");
    }
    assert_eq!(metric("sostenuto_kafka_messages_total{topic=\"otlp_spans\"}").await, TRACES, "none was read twice");
    until("both are read on", async || metric("sostenuto_kafka_partitions{state=\"reading\"}").await == 2).await;
}

#[tokio::test]
async fn a_small_window_stores_all() {
    const TRACES: u64 = 200;
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let cluster = Cluster::new(&[(TOPIC, 3)]);
    let client = cluster.client();
    let settings = cluster
        .settings(folder.path(), json!({ TOPIC: "otlp_proto" }))
        .with("distributor.receivers.kafka.max_in_flight_bytes", 1);
    produce(&client, TOPIC, &traces(11, 0..TRACES, 3, range)).await;
    let server = Server::start(&settings).await;
    until("all spans are found", async || server.client.count("{ }", range).await == 2 * TRACES).await;
    check(&server.client, 11, 0..TRACES).await;
}

#[tokio::test]
async fn what_is_no_spans_is_passed_over() {
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let cluster = Cluster::new(&ENCODINGS.map(|encoding| (encoding, 1)));
    let client = cluster.client();
    let topics =
        ENCODINGS.iter().map(|encoding| ((*encoding).to_owned(), json!(encoding))).collect::<serde_json::Map<_, _>>();
    let settings =
        cluster.settings(folder.path(), topics.into()).with("distributor.receivers.kafka.max_message_bytes", "64KiB");
    let garbage: [&[u8]; 5] =
        [b"\xff\xff\xff\xff\xff", b"{\"resourceSpans\": 5}", b"[[[[", b"\x0c\x7f\xff\xff\xff", b"\0"];
    for encoding in ENCODINGS {
        let mut messages: Vec<Sent> = garbage.iter().map(|bytes| Sent::to(0, bytes.to_vec())).collect();
        messages.push(Sent::to(0, vec![b'x'; 70 << 10]));
        produce(&client, encoding, &messages).await;
    }
    // Among them one that can be stored, and one with nothing but a span that is not valid.
    let mut invalid = trace_spans(12, 1, 0..1, range);
    invalid[0].trace_id.truncate(3);
    let messages = [request("shop", trace_spans(12, 0, 0..2, range)), request("shop", invalid)]
        .map(|payload| Sent::to(0, payload));
    produce(&client, "otlp_proto", &messages).await;

    let server = Server::start(&settings).await;
    for encoding in ENCODINGS {
        let end = if encoding == "otlp_proto" { 8 } else { 6 };
        until(encoding, async || committed(&client, encoding, 1) == [Some(end)]).await;
    }
    check(&server.client, 12, 0..1).await;
    assert_eq!(discarded(&server.client, "too_large").await, 7);
    let others = discarded(&server.client, "malformed").await + discarded(&server.client, "rejected").await;
    assert_eq!(others, 5 * 7 + 1);
    assert_eq!(discarded(&server.client, "internal").await, 0);
    let log = server.log();
    assert!(log.contains("\"offset\":") && log.contains("\"partition\":0") && log.contains("passed over"), "{log}");
}

#[tokio::test]
async fn a_partition_stops_at_what_is_no_spans_if_so_configured() {
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let cluster = Cluster::new(&[(TOPIC, 2)]);
    let client = cluster.client();
    let stop = cluster
        .settings(folder.path(), json!({ TOPIC: "otlp_proto" }))
        .with("distributor.receivers.kafka.on_error", "stop");
    let messages =
        [traces(13, 0..4, 2, range), vec![Sent::to(0, b"\xff\xff\xff".to_vec())], traces(13, 4..10, 2, range)].concat();
    produce(&client, TOPIC, &messages).await;
    let server = Server::start(&stop).await;
    until("one partition stopped", async || {
        server.client.metric("sostenuto_kafka_partitions{state=\"stopped\"}").await == 1.0
    })
    .await;
    until("the other is done", async || committed(&client, TOPIC, 2) == [Some(2), Some(5)]).await;
    produce(&client, TOPIC, &traces(13, 10..20, 2, range)).await;
    until("the other goes on", async || committed(&client, TOPIC, 2) == [Some(2), Some(10)]).await;
    assert!(server.log().contains("set on_error: skip"), "{}", server.log());
    assert!(server.stop().await.success());
    assert_eq!(committed(&client, TOPIC, 2), [Some(2), Some(10)]);

    let server = Server::start(&stop.with("distributor.receivers.kafka.on_error", "skip")).await;
    until("all is done", async || committed(&client, TOPIC, 2) == [Some(11), Some(10)]).await;
    assert_eq!(server.client.count("{ }", range).await, 40);
    check(&server.client, 13, 0..20).await;
}

#[tokio::test]
async fn brokers_that_go_away_and_come_back_lose_nothing() {
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let cluster = Cluster::new(&[(TOPIC, 2)]);
    let client = cluster.client();
    // The server comes first, and is ready without them.
    cluster.0.broker_down(-1).unwrap();
    let server = Server::start(&cluster.settings(folder.path(), json!({ TOPIC: "otlp_proto" }))).await;
    let errors = async || {
        let text = server.client.get("/metrics", &[]).await.1;
        text.as_str().unwrap().lines().filter(|line| line.starts_with("sostenuto_kafka_errors_total{")).count()
    };
    until("errors are counted", async || errors().await > 0).await;
    cluster.0.broker_up(-1).unwrap();
    produce(&client, TOPIC, &traces(14, 0..20, 2, range)).await;
    until("all offsets are committed", async || committed(&client, TOPIC, 2) == [Some(10); 2]).await;

    cluster.0.broker_down(-1).unwrap();
    server.client.push(request("shop", trace_spans(14, 99, 0..2, range))).await;
    cluster.0.broker_up(-1).unwrap();
    produce(&client, TOPIC, &traces(14, 20..40, 2, range)).await;
    until("all offsets are committed", async || committed(&client, TOPIC, 2) == [Some(20); 2]).await;
    check(&server.client, 14, 0..40).await;
    check(&server.client, 14, 99..100).await;
}

#[tokio::test]
async fn a_commit_that_fails_is_tried_again() {
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let cluster = Cluster::new(&[(TOPIC, 1)]);
    let client = cluster.client();
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_COMMIT_OFFSET_SIZE;
    cluster.0.request_errors(RDKafkaApiKey::OffsetCommit, &[refusal, refusal]);
    produce(&client, TOPIC, &traces(15, 0..10, 1, range)).await;
    let server = Server::start(&cluster.settings(folder.path(), json!({ TOPIC: "otlp_proto" }))).await;
    until("all offsets are committed", async || committed(&client, TOPIC, 1) == [Some(10)]).await;
    let commits = async |outcome: &str| {
        server.client.metric(&format!("sostenuto_kafka_commits_total{{outcome=\"{outcome}\"}}")).await as u64
    };
    assert!(commits("failed").await >= 1);
    until("the commit is counted", async || commits("committed").await >= 1).await;
}
