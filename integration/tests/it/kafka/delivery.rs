//! What is in a topic is found, once, and its offsets are committed when it is durable and not before.

use serde_json::json;
use tempfile::TempDir;

use super::{Cluster, Sent, TOPIC, check, committed, discarded, produce, traces};
use crate::{
    server::{Server, until},
    spans::{TimeRange, request, trace_id, trace_spans},
};

#[tokio::test]
async fn messages_of_all_partitions_are_stored_and_committed() {
    const TRACES: u64 = 300;
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let cluster = Cluster::new(&[(TOPIC, 3)]);
    let client = cluster.client();
    let codecs = [("none", 0..60), ("gzip", 60..120), ("snappy", 120..180), ("lz4", 180..240), ("zstd", 240..TRACES)];
    for (codec, numbers) in codecs {
        produce(client.clone().set("compression.codec", codec), TOPIC, &traces(1, numbers, 3, range)).await;
    }
    let server = Server::start(&cluster.settings(folder.path(), json!({ TOPIC: "otlp_proto" }))).await;
    until("all spans are found", async || server.client.count("{ }", range).await == 2 * TRACES).await;
    until("all offsets are committed", async || committed(&client, TOPIC, 3) == [Some(100); 3]).await;
    check(&server.client, 1, 0..TRACES).await;

    // Messages that come while it reads, and one that holds nothing.
    let later = [traces(1, TRACES..TRACES + 30, 3, range), vec![Sent::to(0, vec![])]].concat();
    produce(&client, TOPIC, &later).await;
    until("all spans are found", async || server.client.count("{ }", range).await == 2 * (TRACES + 30)).await;
    until("all offsets are committed", async || committed(&client, TOPIC, 3) == [Some(111), Some(110), Some(110)])
        .await;
    let metric = async |name: &str| server.client.metric(name).await as u64;
    assert_eq!(metric("sostenuto_kafka_messages_total{topic=\"otlp_spans\"}").await, TRACES + 31);
    assert_eq!(metric("sostenuto_kafka_spans_stored_total{topic=\"otlp_spans\"}").await, 2 * (TRACES + 30));
    assert_eq!(metric("sostenuto_kafka_partitions{state=\"reading\"}").await, 3);
    assert_eq!(metric("sostenuto_kafka_commits_total{outcome=\"failed\"}").await, 0);
    assert_eq!(metric("sostenuto_kafka_in_flight_bytes").await, 0);
    until("there is no lag", async || {
        let (_, text) = server.client.get("/metrics", &[]).await;
        let lines = (0..3).map(|partition| format!("sostenuto_kafka_lag{{partition=\"otlp_spans/{partition}\"}} 0"));
        lines.into_iter().all(|line| text.as_str().unwrap().contains(&line))
    })
    .await;
    let services = server.client.get("/status/services", &[]).await.1;
    assert!(services.as_str().unwrap().contains("3 partitions (3 reading, 0 waiting, 0 stopped)"), "{services}");
}

#[tokio::test]
async fn what_was_durable_and_not_committed_is_there_once_after_a_kill() {
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let cluster = Cluster::new(&[(TOPIC, 2)]);
    let client = cluster.client();
    let last = cluster.settings(folder.path(), json!({ TOPIC: "otlp_proto" }));
    // The group waits so long for one that was killed.
    let settings = last.clone().with("distributor.receivers.kafka.session_timeout", "6s");
    let never = settings.clone().with("distributor.receivers.kafka.commit_interval", "1h");
    produce(&client, TOPIC, &traces(2, 0..50, 2, range)).await;
    let server = Server::start(&never).await;
    until("all spans are found", async || server.client.count("{ }", range).await == 100).await;
    assert_eq!(committed(&client, TOPIC, 2), [None, None]);
    server.kill();

    let server = Server::start(&settings).await;
    assert_eq!(server.replayed, 100);
    until("all offsets are committed", async || committed(&client, TOPIC, 2) == [Some(25), Some(25)]).await;
    assert!(
        server.client.metric("sostenuto_kafka_messages_total{topic=\"otlp_spans\"}").await >= 50.0,
        "all came again"
    );
    assert_eq!(server.client.count("{ }", range).await, 100);
    check(&server.client, 2, 0..50).await;
    server.client.flush().await;
    assert_eq!(server.client.count("{ }", range).await, 100, "in blocks");
    server.kill();

    // What was committed does not come again.
    produce(&client, TOPIC, &traces(2, 50..52, 2, range)).await;
    let server = Server::start(&last).await;
    until("the others are found", async || server.client.count("{ }", range).await == 104).await;
    assert_eq!(server.client.metric("sostenuto_kafka_messages_total{topic=\"otlp_spans\"}").await, 2.0);
}

#[tokio::test]
async fn a_stop_commits_what_is_durable() {
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let cluster = Cluster::new(&[(TOPIC, 2)]);
    let client = cluster.client();
    let settings = cluster
        .settings(folder.path(), json!({ TOPIC: "otlp_proto" }))
        .with("distributor.receivers.kafka.commit_interval", "1h")
        .with("distributor.receivers.kafka.group_instance_id", "one");
    produce(&client, TOPIC, &traces(3, 0..20, 2, range)).await;
    let server = Server::start(&settings).await;
    until("all spans are found", async || server.client.count("{ }", range).await == 40).await;
    assert_eq!(committed(&client, TOPIC, 2), [None, None]);
    assert!(server.stop().await.success());
    assert_eq!(committed(&client, TOPIC, 2), [Some(10), Some(10)]);
}

#[tokio::test]
async fn a_header_names_the_tenant() {
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let cluster = Cluster::new(&[(TOPIC, 1)]);
    let client = cluster.client();
    let of = |number: u64, headers: &[(&'static str, &'static str)]| Sent {
        headers: headers.to_vec(),
        ..Sent::to(0, request("shop", trace_spans(5, number, 0..2, range)))
    };
    let messages = [
        of(0, &[("x-scope-orgid", "team-a"), ("other", "x")]),
        of(1, &[("X-Scope-OrgID", "team-b")]),
        of(2, &[]),
        of(3, &[("x-scope-orgid", "../team-a")]),
        of(4, &[("x-scope-orgid", "team-a"), ("X-Scope-OrgID", "team-b")]),
        of(5, &[("x-scope-orgid", "")]),
        of(6, &[("x-scope-orgid", "team-a|team-b")]),
    ];
    produce(&client, TOPIC, &messages).await;
    let settings = cluster.settings(folder.path(), json!({ TOPIC: "otlp_proto" })).with("multitenancy_enabled", true);
    let server = Server::start(&settings).await;
    until("all offsets are committed", async || committed(&client, TOPIC, 1) == [Some(7)]).await;
    assert_eq!(discarded(&server.client, "no_tenant").await, 5);
    for (tenant, number) in [("team-a", 0), ("team-b", 1)] {
        assert_eq!(server.client.of(tenant).count("{ }", range).await, 2, "{tenant}");
        assert_eq!(server.client.of(tenant).span_ids(&trace_id(5, number)).await.len(), 2, "{tenant}");
    }
    assert!(server.stop().await.success());

    let settings = settings.with("distributor.receivers.kafka.default_tenant", "team-c");
    let server = Server::start(&settings).await;
    produce(&client, TOPIC, &[of(7, &[])]).await;
    until("the message is stored", async || server.client.of("team-c").count("{ }", range).await == 2).await;

    // Where there is one tenant, headers say nothing.
    let folder = TempDir::new().unwrap();
    let settings = cluster
        .settings(folder.path(), json!({ TOPIC: "otlp_proto" }))
        .with("distributor.receivers.kafka.group_id", "one");
    let server = Server::start(&settings).await;
    until("all spans are found", async || server.client.count("{ }", range).await == 16).await;
}

#[tokio::test]
async fn what_was_produced_before_is_left_out_if_so_configured() {
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let cluster = Cluster::new(&[(TOPIC, 1)]);
    let client = cluster.client();
    produce(&client, TOPIC, &traces(6, 0..5, 1, range)).await;
    let settings = cluster
        .settings(folder.path(), json!({ TOPIC: "otlp_proto" }))
        .with("distributor.receivers.kafka.initial_offset", "latest");
    let server = Server::start(&settings).await;
    let mut number = 5;
    until("what comes now is found", async || {
        produce(&client, TOPIC, &traces(6, number..number + 1, 1, range)).await;
        number += 1;
        server.client.count("{ }", range).await > 0
    })
    .await;
    assert!(server.client.span_ids(&trace_id(6, 0)).await.is_empty());
}
