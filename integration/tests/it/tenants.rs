//! Many tenants in one server: nobody without a name, and nobody's spans for another.

use std::{collections::BTreeSet, fs};

use tempfile::TempDir;

use crate::{
    client::Client,
    server::{Server, Settings},
    spans::{TimeRange, request, trace_id, trace_spans},
};

const RUN: u64 = 31;
/// The same trace of each tenant has a number of spans of its own.
const TENANTS: [(&str, u64); 3] = [("team-a", 3), ("team-b", 5), ("Team.A", 7)];

#[tokio::test]
async fn tenants_see_their_own_spans() {
    let folder = TempDir::new().unwrap();
    let settings = Settings::new(folder.path()).with("multitenancy_enabled", true);
    let range = TimeRange::lately();
    let server = Server::start(&settings).await;
    for (tenant, spans) in TENANTS {
        let body = request(tenant, trace_spans(RUN, 1, 0..spans, range));
        server.client.of(tenant).push(body).await;
    }
    check(&server.client, range, "live").await;
    server.client.flush().await;
    check(&server.client, range, "flushed").await;
    server.kill();
    let server = Server::start(&settings).await;
    check(&server.client, range, "after a kill").await;

    let folders = fs::read_dir(settings.data().join("blocks")).unwrap().map(|entry| entry.unwrap().file_name());
    let folders: BTreeSet<String> = folders.map(|name| name.into_string().unwrap()).filter(|name| !name.starts_with('_')).collect();
    assert_eq!(folders, TENANTS.iter().map(|(tenant, _)| (*tenant).to_owned()).collect());
}

async fn check(client: &Client, range: TimeRange, when: &str) {
    for (tenant, spans) in TENANTS {
        let client = client.of(tenant);
        assert_eq!(client.count("{ }", range).await, spans, "{tenant}, {when}");
        assert_eq!(client.span_ids(&trace_id(RUN, 1)).await.len() as u64, spans, "{tenant}, {when}");
        let (status, body) = client.get("/api/v2/search/tag/resource.service.name/values", &[]).await;
        assert_eq!((status, body["tagValues"].as_array().unwrap().len()), (200, 1), "{tenant}, {when}: {body}");
        assert_eq!(body["tagValues"][0]["value"], tenant, "{when}");
        let (status, body) = client.get("/api/search", &[("q", "{ }".to_owned())]).await;
        assert_eq!((status, &body["traces"][0]["rootServiceName"]), (200, &tenant.into()), "{when}: {body}");
    }
    assert_eq!(client.of("nobody").count("{ }", range).await, 0, "{when}");
    assert_eq!(client.of("team-a|team-b").count("{ }", range).await, 8, "{when}");
}

#[tokio::test]
async fn names_that_are_none_are_refused() {
    let folder = TempDir::new().unwrap();
    let settings = Settings::new(folder.path()).with("multitenancy_enabled", true);
    let range = TimeRange::lately();
    let server = Server::start(&settings).await;
    let body = request("shop", trace_spans(RUN, 1, 0..1, range));
    let nobody = server.client.post("application/x-protobuf", "", body.clone()).await;
    assert_eq!(nobody.status, 401, "no name");
    assert_eq!(server.client.get("/api/search", &[]).await.0, 401, "no name");
    let long = "x".repeat(151);
    for name in ["", ".", "..", "../up", "a/b", "a\\b", "%2e%2e", "a b", "a:b", "a%00b", "\u{e9}", &long] {
        let client = server.client.of(name);
        let status = client.post("application/x-protobuf", "", body.clone()).await.status;
        assert!(matches!(status, 400 | 401), "{name:?} may write: {status}");
        let status = client.get("/api/search", &[]).await.0;
        assert!(matches!(status, 400 | 401), "{name:?} may read: {status}");
    }
    // One tenant writes, although several may be read at once.
    assert_eq!(server.client.of("a|b").post("application/x-protobuf", "", body.clone()).await.status, 400);
    server.client.flush().await;
    let written: Vec<_> = fs::read_dir(settings.data().join("blocks")).into_iter().flatten().map(|entry| entry.unwrap().file_name()).collect();
    assert!(written.iter().all(|name| name.to_str().unwrap().starts_with('_')), "{written:?}");
}
