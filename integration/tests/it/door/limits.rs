//! Limits of single tenants: a file that changes, and what is in force.

use std::fs;

use serde_json::json;
use tempfile::TempDir;

use super::{every_port, path, replace};
use crate::{
    server::{Server, Starting, until},
    spans::{TimeRange, request, trace_spans},
};

#[tokio::test]
async fn overrides_change_without_a_restart_and_bad_ones_do_not() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("overrides.yaml");
    fs::write(&file, "overrides: {small: {ingestion: {burst_size_bytes: 100}}}\n").unwrap();
    let settings = every_port(folder.path())
        .with("multitenancy_enabled", true)
        .with("overrides.per_tenant", json!({ "small": { "ingestion": { "rate_limit_bytes": 77 } } }))
        .with("overrides.per_tenant_override_config", path(&file))
        .with("overrides.per_tenant_override_period", "20ms");
    let server = Server::start(&settings).await;
    let body = || request("shop", trace_spans(66, 1, 0..20, TimeRange::lately()));
    let push = async |tenant: &str| {
        let answer = server.client.of(tenant).post("application/x-protobuf", "", body()).await;
        (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
    };
    let (status, why) = push("small").await;
    assert_eq!(status, 413, "{why}");
    assert!(why.contains("100 bytes at once"), "{why}");
    assert_eq!(push("other").await.0, 200);

    let page = async |path: &str| server.client.get(path, &[]).await.1.as_str().unwrap().to_owned();
    let small = page("/status/overrides/small").await;
    assert!(small.contains("burst_size_bytes: 100") && small.contains("rate_limit_bytes: 77"), "fields are joined: {small}");
    let other = page("/status/overrides/other").await;
    assert!(other.contains("burst_size_bytes: 64MiB"), "{other}");
    let all = page("/status/overrides").await;
    assert!(all.contains("small:") && !all.contains("other:"), "{all}");
    assert_eq!(server.client.get("/status/overrides/a%20b", &[]).await.0, 400);

    replace(&file, "overrides: {other: {ingestion: {burst_size_bytes: 100}, read: {max_bytes_per_query: 1}}}\n");
    until("other is limited", async || push("other").await.0 == 413).await;
    let failures = async || server.client.metric("sostenuto_overrides_reload_failures_total").await;
    assert_eq!(failures().await, 0.0);
    replace(&file, "overrides: {other: {ingestion: {burst_sise_bytes: 1000000}}}\n");
    until("the mistake is counted", async || failures().await == 1.0).await;
    until("it is in the log", async || server.log().contains("did you mean `burst_size_bytes`?")).await;
    assert_eq!(push("other").await.0, 413, "the last good ones are in force");

    // What a tenant may read is limited too, and that of several is the least of theirs.
    server.client.flush().await;
    let query = [("q", "{ }".to_owned())];
    for tenants in ["other", "other|small"] {
        let (status, why) = server.client.of(tenants).get("/api/search", &query).await;
        assert_eq!(status, 422, "{tenants}: {why}");
    }
    assert_eq!(server.client.of("small").get("/api/search", &query).await.0, 200);
}

#[tokio::test]
async fn a_server_does_not_start_with_overrides_that_cannot_be_meant() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("overrides.yaml");
    fs::write(&file, "overrides: {a: {read: {max_concurrent_queries: 0}}}\n").unwrap();
    let settings = every_port(folder.path()).with("overrides.per_tenant_override_config", path(&file));
    let log = Starting::spawn(&settings).fails().await;
    assert!(log.contains("max_concurrent_queries must be at least 1"), "{log}");
}
