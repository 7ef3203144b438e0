//! Limits that are changed over the API: versions, strict fields, at once in force, there after a restart and in other processes.

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    server::{Server, Settings, until},
    spans::{TimeRange, request, trace_spans},
};

const RUN: u64 = 103;

fn settings(folder: &TempDir) -> Settings {
    Settings::new(folder.path())
        .with("multitenancy_enabled", true)
        .with("overrides.user_configurable_overrides.enabled", true)
        .with("overrides.user_configurable_overrides.poll_interval", "20ms")
}

struct Answer {
    status: u16,
    version: Option<String>,
    body: Value,
}

async fn ask(server: &Server, method: Method, more: &str, tenant: &str, version: Option<&str>, body: Value) -> Answer {
    let url = format!("http://{}/api/overrides{more}", server.address("api"));
    let mut request = reqwest::Client::new().request(method, url).header("x-scope-orgid", tenant);
    if let Some(version) = version {
        request = request.header("if-match", version);
    }
    if !body.is_null() {
        request = request.body(body.to_string());
    }
    let answer = request.send().await.unwrap();
    let version = answer.headers().get("etag").map(|version| version.to_str().unwrap().to_owned());
    let status = answer.status().as_u16();
    let body = answer.text().await.unwrap();
    Answer { status, version, body: serde_json::from_str(&body).unwrap_or(Value::String(body)) }
}

async fn get(server: &Server, tenant: &str) -> (u16, Option<String>, Value) {
    let Answer { status, version, body } = ask(server, Method::GET, "", tenant, None, Value::Null).await;
    (status, version, body)
}

#[tokio::test]
async fn a_document_is_written_by_who_knows_its_version() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(&settings(&folder)).await;
    let change = async |method, tenant, version, body| {
        let Answer { status, version, body } = ask(&server, method, "", tenant, version, body).await;
        (status, version, body)
    };
    let small = json!({ "ingestion": { "rate_limit_bytes": "1KiB" } });
    assert_eq!(get(&server, "a").await.0, 404);
    assert_eq!(change(Method::POST, "a", None, small.clone()).await.0, 428);
    assert_eq!(change(Method::POST, "a", Some("7"), small.clone()).await.0, 412);
    assert_eq!(change(Method::POST, "a", Some("soon"), small.clone()).await.0, 400);
    let (status, version, body) = change(Method::POST, "a", Some("0"), small.clone()).await;
    assert_eq!((status, version.as_deref(), &body), (200, Some("1"), &small), "the first version");
    assert_eq!(get(&server, "a").await, (200, Some("1".to_owned()), small.clone()));
    assert_eq!(change(Method::POST, "a", Some("0"), small).await.0, 412, "there is one already");

    let patch = json!({ "read": { "max_concurrent_queries": 3 }, "ingestion": { "rate_limit_bytes": null } });
    let merged = json!({ "read": { "max_concurrent_queries": 3 } });
    assert_eq!(change(Method::PATCH, "a", None, patch).await, (200, Some("2".to_owned()), merged.clone()));
    assert_eq!(change(Method::POST, "a", Some("\"2\""), merged.clone()).await.1.as_deref(), Some("3"), "in quotes, too");

    // Nothing of what is wrong is kept.
    for wrong in [
        json!({ "ingestion": { "rate_limit": 5 } }),
        json!({ "metrics_generator": { "processors": [] } }),
        json!({ "ingestion": { "rate_limit_bytes": 0 } }),
        json!({ "read": { "max_concurrent_queries": 0 } }),
        json!({ "read": { "max_bytes_per_query": "much" } }),
        json!({ "retention": { "keep": "for long" } }),
        json!([]),
        json!({ "read": [3] }),
        json!("x".repeat(100_000)),
    ] {
        let (status, _, body) = change(Method::POST, "a", Some("3"), wrong.clone()).await;
        assert_eq!(status, 400, "{wrong}: {body}");
    }
    assert_eq!(change(Method::PATCH, "a", None, json!({ "reads": {} })).await.0, 400);
    assert_eq!(get(&server, "a").await, (200, Some("3".to_owned()), merged));

    // Of one tenant, and of this one.
    assert_eq!(get(&server, "b").await.0, 404);
    assert_eq!(get(&server, "a|b").await.0, 400);
    assert_eq!(ask(&server, Method::GET, "?scope=all", "a", None, Value::Null).await.status, 400);
    let effective = ask(&server, Method::GET, "?scope=merged", "a", None, Value::Null).await;
    assert_eq!((effective.status, effective.version.as_deref()), (200, Some("3")));
    assert_eq!((&effective.body["read"]["max_concurrent_queries"], &effective.body["ingestion"]["rate_limit_bytes"]), (&json!(3), &json!(30_000_000)));

    assert_eq!(change(Method::DELETE, "a", None, Value::Null).await.0, 428);
    assert_eq!(change(Method::DELETE, "a", Some("2"), Value::Null).await.0, 412);
    assert_eq!(change(Method::DELETE, "a", Some("3"), Value::Null).await.0, 200);
    assert_eq!(get(&server, "a").await.0, 404);
    assert_eq!(change(Method::DELETE, "a", Some("0"), Value::Null).await.0, 404);
    // Versions are not used again.
    assert_eq!(change(Method::PATCH, "a", None, json!({ "read": { "max_concurrent_queries": 1 } })).await.1.as_deref(), Some("5"));
}

#[tokio::test]
async fn a_change_holds_at_once_and_after_a_restart_and_elsewhere() {
    let folder = TempDir::new().unwrap();
    let settings = settings(&folder)
        .with("overrides.per_tenant.team.ingestion.burst_size_bytes", "1MiB")
        .with("overrides.user_configurable_overrides.api.check_for_conflicting_runtime_overrides", true);
    let server = Server::start(&settings).await;
    let client = server.client.of("team");
    let range = TimeRange::lately();
    let spans = |number| request("shop", trace_spans(RUN, number, 0..50, range));
    client.push(spans(1)).await;
    let tiny = json!({ "ingestion": { "burst_size_bytes": "1KiB" } });
    // The operator has set it.
    let refused = ask(&server, Method::POST, "", "team", Some("0"), tiny.clone()).await;
    assert!(refused.status == 400 && refused.body.to_string().contains("burst_size_bytes"), "{}", refused.body);
    let despite = "?skip-conflicting-overrides-check=true";
    assert_eq!(ask(&server, Method::POST, despite, "team", Some("0"), tiny).await.status, 200);
    let refused = client.post("application/x-protobuf", "", spans(2)).await;
    assert!(refused.status >= 400, "larger than what may come at once: {}", refused.status);
    server.client.of("other").push(spans(2)).await;
    let shown = async |server: &Server| server.client.of("team").get("/status/overrides/team", &[]).await.1.to_string();
    assert!(shown(&server).await.contains("burst_size_bytes: 1KiB"), "{}", shown(&server).await);

    // Another process over the same store.
    let elsewhere = settings.clone().with("storage.wal.path", folder.path().join("other-wal").to_str().unwrap());
    let other = Server::start(&elsewhere).await;
    assert!(shown(&other).await.contains("burst_size_bytes: 1KiB"), "{}", shown(&other).await);
    assert_eq!(ask(&server, Method::DELETE, "", "team", Some("1"), Value::Null).await.status, 200);
    client.push(spans(3)).await;
    until("the other process knows", async || shown(&other).await.contains("burst_size_bytes: 1MiB")).await;
    assert!(other.stop().await.success());

    assert_eq!(ask(&server, Method::PATCH, "", "team", None, json!({ "retention": { "keep": "30d" } })).await.status, 200);
    assert!(server.stop().await.success());
    let server = Server::start(&settings).await;
    assert!(shown(&server).await.contains("keep: 720h"), "{}", shown(&server).await);
    assert_eq!(get(&server, "team").await.1.as_deref(), Some("3"));
}

#[tokio::test]
async fn without_leave_there_is_nothing() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(&Settings::new(folder.path())).await;
    for method in [Method::GET, Method::POST, Method::PATCH, Method::DELETE] {
        assert_eq!(ask(&server, method, "", "a", Some("0"), Value::Null).await.status, 404);
    }
}
