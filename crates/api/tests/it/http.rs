//! Paths, codes, tenants, forms.

use crate::server::Server;
use api::ReadyState;

#[tokio::test]
async fn the_servers_own_pages_answer() {
    let server = Server::start().await;
    assert_eq!(server.get("/api/echo").await.2, "echo\n");
    assert_eq!(server.get("/ready").await.0, 200);
    let (status, headers, body) = server.get("/api/status/buildinfo").await;
    assert_eq!((status, &headers["content-type"]), (200, &"application/json".parse().unwrap()));
    let build: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((build["version"].as_str(), build["sostenutoVersion"].as_str()), (Some("3.0.3"), Some("0.0.1")));
    assert!(server.get("/status").await.2.contains("storage: local"));
    assert_eq!(server.get("/status/config").await.2, "storage: local\n");
    assert!(server.get("/status/endpoints").await.2.contains("/api/v2/search/tag/{name}/values\n"));
    for page in ["version", "services", "backend", "overrides", "runtime_config"] {
        assert_eq!(server.get(&format!("/status/{page}")).await.0, 200, "{page}");
    }
    for absent in ["/", "/status/x", "/api/nothing", "/api/search/tag/a"] {
        assert_eq!(server.get(absent).await.0, 404, "{absent}");
    }
}

#[tokio::test]
async fn readiness_follows_the_program() {
    let server = Server::start().await;
    for (state, status) in [(ReadyState::Starting, 503), (ReadyState::Stopping, 503), (ReadyState::Ready, 200)] {
        server.readiness.set(state);
        assert_eq!(server.get("/ready").await.0, status, "{state:?}");
    }
}

#[tokio::test]
async fn wrong_parameters_are_answered_with_400_and_a_reason() {
    let server = Server::start().await;
    for path in [
        "/api/search?q=%7B%7D&limit=0",
        "/api/search?q=%7B%7D&tags=a%3Db",
        "/api/search?q=%7B%7D&start=5",
        "/api/search?q=%ZZ",
        "/api/traces/zz",
        "/api/v2/traces/123456789012345678901234567890123",
        "/api/v2/search/tags?scope=bogus",
        "/api/v2/search/tag/span.a/values?limit=x",
        "/api/metrics/query_range?q=%7B%7D%7Crate()&step=0s",
        "/api/metrics/query",
    ] {
        let (status, headers, body) = server.get(path).await;
        assert_eq!(status, 400, "{path}");
        assert_eq!(headers["content-type"], "text/plain; charset=utf-8", "{path}");
        assert!(!body.is_empty() && !body.contains('<'), "{path}: {body}");
    }
}

#[tokio::test]
async fn a_question_may_be_posted_with_its_parameters_in_the_url() {
    let server = Server::start().await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for path in ["/api/search?q=%7B%7D", "/api/v2/search/tags", "/api/metrics/query?q=%7B%7D%7Crate()", "/api/v2/traces/1"] {
        let asked = client.post(format!("http://{}{path}", server.address)).body("q=nonsense").send().await.unwrap();
        assert_eq!(asked.status(), 200, "{path}");
    }
    assert_eq!(client.delete(format!("http://{}/api/search", server.address)).send().await.unwrap().status(), 405);
}

#[tokio::test]
async fn a_prefix_stands_before_the_api_only() {
    let server = Server::with(false, |config| config.http_api_prefix = "tempo/".to_owned()).await;
    for (path, status) in [
        ("/tempo/api/echo", 200),
        ("/api/echo", 404),
        ("/ready", 200),
        ("/tempo/ready", 404),
        ("/tempo/api/v2/search/tag/a/b/values?limit=x", 400),
        ("/tempo/api/v2/search/tag/a/b", 404),
    ] {
        assert_eq!(server.get(path).await.0, status, "{path}");
    }
}

#[tokio::test]
async fn with_multitenancy_a_query_names_its_tenant() {
    let server = Server::with(true, |_| {}).await;
    let search = "/api/search?q=%7B%7D&limit=0";
    assert_eq!(server.get(search).await.0, 401);
    assert_eq!(server.get_with(search, &[("X-Scope-OrgID", "../x")]).await.0, 400);
    let (status, _, body) = server.get_with(search, &[("x-scope-orgid", "a|b")]).await;
    assert!(status == 400 && body.contains("limit"), "{status} {body}");
    assert_eq!(server.get("/api/echo").await.0, 200);
}

#[tokio::test]
async fn requests_are_measured_by_route() {
    let server = Server::start().await;
    server.metrics.gauge("sostenuto_test_value", "A value", || 3.0);
    server.get("/api/traces/zz").await;
    server.get("/nowhere").await;
    let (status, headers, text) = server.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(headers["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    for line in [
        r#"sostenuto_request_duration_seconds_count{method="GET",route="/api/traces/{id}",status_code="400"} 1"#,
        r#"sostenuto_request_duration_seconds_count{method="GET",route="other",status_code="404"} 1"#,
        "sostenuto_requests_running 1",
        "sostenuto_test_value 3.0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
    }
}

#[tokio::test]
async fn answers_are_compressed_for_clients_that_ask() {
    let server = Server::start().await;
    let client = reqwest::Client::builder().no_proxy().no_gzip().build().unwrap();
    let request = client.get(format!("http://{}/status/endpoints", server.address)).header("accept-encoding", "gzip");
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-encoding"], "gzip");
    assert!(response.bytes().await.unwrap().starts_with(&[0x1f, 0x8b]));
}

#[tokio::test]
async fn http2_without_encryption_is_spoken_on_the_same_port() {
    let server = Server::start().await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let response = client.get(format!("http://{}/api/echo", server.address)).send().await.unwrap();
    assert_eq!((response.version(), response.status().as_u16()), (reqwest::Version::HTTP_2, 200));
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_unread() {
    let server = Server::with(false, |config| config.request_bytes_max = 1000).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.get(format!("http://{}/api/echo", server.address)).body(vec![0u8; 1001]);
    assert_eq!(request.send().await.unwrap().status().as_u16(), 413);
}
