//! Every port with every credential: who may do what, of which tenant.

use std::collections::BTreeMap;

use reqwest::{Method, header};
use serde_json::json;
use tempfile::TempDir;

use super::{Key, every_port, path, write_keys};
use crate::{
    client::Access,
    server::{Server, Settings, until},
    spans::{TimeRange, request, trace_spans},
};

const RUN: u64 = 62;

/// What a request asks of a port.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ask {
    Write,
    Read,
    Metrics,
    Admin,
    /// How many traces to record, which both readers and writers may ask.
    Sampling,
    Open,
}

use Ask::{Admin, Metrics, Open, Read, Sampling, Write};

/// Port, method, path, content type, what it asks.
const REQUESTS: [(&str, Method, &str, &str, Ask); 69] = [
    ("otlp_http", Method::POST, "/v1/traces", "application/x-protobuf", Write),
    ("otlp_http", Method::POST, "/v1/traces", "application/json", Write),
    ("otlp_grpc", Method::POST, "/opentelemetry.proto.collector.trace.v1.TraceService/Export", "application/grpc", Write),
    ("jaeger_grpc", Method::POST, "/jaeger.api_v2.CollectorService/PostSpans", "application/grpc", Write),
    ("jaeger_thrift_http", Method::POST, "/api/traces", "application/x-thrift", Write),
    ("zipkin", Method::POST, "/api/v2/spans", "application/json", Write),
    ("zipkin", Method::POST, "/api/v1/spans", "application/json", Write),
    ("zipkin", Method::POST, "/", "application/json", Write),
    ("zipkin", Method::POST, "/health/", "application/json", Write),
    ("zipkin", Method::GET, "/api/v2/services", "", Read),
    ("zipkin", Method::GET, "/zipkin/api/v2/services", "", Read),
    ("zipkin", Method::GET, "/api/v2/trace/1", "", Read),
    ("zipkin", Method::GET, "/api/v2/traces", "", Read),
    ("zipkin", Method::GET, "/no/such/page", "", Read),
    ("zipkin", Method::GET, "/health", "", Open),
    ("otlp_http", Method::GET, "/health", "", Write),
    ("otlp_http", Method::POST, "/no/such/page", "application/json", Write),
    ("otlp_grpc", Method::POST, "/grpc.health.v1.Health/Check", "application/grpc", Write),
    ("jaeger_grpc", Method::POST, "/jaeger.api_v2.SamplingManager/GetSamplingStrategy", "application/grpc", Sampling),
    ("jaeger_grpc", Method::POST, "/jaeger.api_v2.QueryService/GetTrace", "application/grpc", Write),
    ("jaeger_thrift_http", Method::GET, "/api/sampling?service=shop", "", Sampling),
    ("jaeger_thrift_http", Method::GET, "/api/traces", "", Write),
    ("sampling", Method::GET, "/sampling?service=shop", "", Sampling),
    ("sampling", Method::GET, "/?service=shop", "", Sampling),
    ("sampling", Method::POST, "/jaeger.api_v2.SamplingManager/GetSamplingStrategy", "application/grpc", Sampling),
    ("api", Method::GET, "/api/sampling?service=shop", "", Sampling),
    ("api", Method::POST, "/jaeger.api_v2.SamplingManager/GetSamplingStrategy", "application/grpc", Sampling),
    ("jaeger_query", Method::GET, "/api/services", "", Read),
    ("jaeger_query", Method::GET, "/api/v3/services", "", Read),
    ("jaeger_query", Method::GET, "/api/traces/1", "", Read),
    ("jaeger_query", Method::GET, "/api/dependencies?endTs=1", "", Read),
    ("jaeger_query", Method::GET, "/", "", Read),
    ("jaeger_query_grpc", Method::POST, "/jaeger.api_v3.QueryService/GetServices", "application/grpc", Read),
    ("jaeger_query_grpc", Method::POST, "/no.such.Service/Method", "application/grpc", Read),
    ("jaeger_query_grpc", Method::POST, "/grpc.health.v1.Health/Check", "application/grpc", Open),
    ("api", Method::GET, "/api/search", "", Read),
    ("api", Method::GET, "/api/traces/00000000000000000000000000000001", "", Read),
    ("api", Method::GET, "/api/v2/search/tags", "", Read),
    ("api", Method::GET, "/api/v2/search/tag/name/values", "", Read),
    ("api", Method::GET, "/api/metrics/query?q=%7B%7D%7Crate()", "", Read),
    ("api", Method::GET, "/jaeger/api/services", "", Read),
    ("api", Method::GET, "/zipkin/api/v2/services", "", Read),
    ("api", Method::POST, "/api/sql", "text/plain", Read),
    ("api", Method::GET, "/api/v2/traces/00000000000000000000000000000001", "", Read),
    ("api", Method::GET, "/api/search/tags", "", Read),
    ("api", Method::GET, "/api/metrics/query_range?q=%7B%7D%7Crate()", "", Read),
    ("api", Method::GET, "/api/status/buildinfo", "", Read),
    ("api", Method::GET, "/zipkin/api/v2/trace/1", "", Read),
    ("api", Method::GET, "/jaeger/api/v3/services", "", Read),
    ("api", Method::POST, "/api/mcp", "application/json", Read),
    ("api", Method::GET, "/api/mcp", "", Read),
    ("api", Method::POST, "/tempopb.StreamingQuerier/Search", "application/grpc", Read),
    ("api", Method::POST, "/tempopb.StreamingQuerier/SearchTags", "application/grpc", Read),
    ("api", Method::POST, "/tempopb.StreamingQuerier/SearchTagsV2", "application/grpc", Read),
    ("api", Method::POST, "/tempopb.StreamingQuerier/SearchTagValuesV2", "application/grpc", Read),
    ("api", Method::POST, "/tempopb.StreamingQuerier/MetricsQueryRange", "application/grpc", Read),
    ("api", Method::POST, "/tempopb.Pusher/PushBytes", "application/grpc", Read),
    ("grpc", Method::POST, "/tempopb.StreamingQuerier/Search", "application/grpc", Read),
    ("grpc", Method::POST, "/grpc.health.v1.Health/Check", "application/grpc", Open),
    ("grpc", Method::POST, "/no.such.Service/Method", "application/grpc", Admin),
    ("api", Method::GET, "/metrics", "", Metrics),
    ("api", Method::GET, "/status/config", "", Admin),
    ("api", Method::GET, "/status", "", Admin),
    ("api", Method::GET, "/status/overrides", "", Admin),
    ("api", Method::DELETE, "/api/search", "", Admin),
    ("api", Method::POST, "/flush", "", Admin),
    ("api", Method::GET, "/no/such/page", "", Admin),
    ("api", Method::GET, "/ready", "", Open),
    ("api", Method::GET, "/api/echo", "", Open),
];

/// What came of a request: refused for want of a known caller, of a right, or not refused by the door.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    Unknown,
    Forbidden,
    Passes,
}

use Verdict::{Forbidden, Passes, Unknown};

async fn verdict(server: &Server, asked: &(&str, Method, &str, &str, Ask), credential: &[(&str, String)], tenant: Option<&str>) -> Verdict {
    let (port, method, path, content_type, _) = asked;
    let http2 = *content_type == "application/grpc";
    let builder = Access::default().builder();
    let client = if http2 { builder.http2_prior_knowledge() } else { builder }.build().unwrap();
    let mut request = client.request(method.clone(), format!("http://{}{path}", server.address(port)));
    if !content_type.is_empty() {
        request = request.header(header::CONTENT_TYPE, *content_type);
    }
    for (name, value) in credential {
        request = request.header(*name, value);
    }
    if let Some(tenant) = tenant {
        request = request.header("x-scope-orgid", tenant);
    }
    // An empty message, list or batch: what passes the door may fail behind it, but not with these codes.
    let body = match *content_type {
        "application/grpc" => vec![0; 5],
        "application/json" if path.contains("spans") => b"[]".to_vec(),
        "application/json" => b"{}".to_vec(),
        "text/plain" => b"SELECT 1".to_vec(),
        _ => Vec::new(),
    };
    let answer = request.body(body).send().await.unwrap();
    let grpc = answer.headers().get("grpc-status").map(|status| status.to_str().unwrap().to_owned());
    match (answer.status().as_u16(), grpc.as_deref()) {
        (401, _) | (200, Some("16")) => {
            assert!(http2 || answer.headers().contains_key(header::WWW_AUTHENTICATE), "{path}");
            Unknown
        }
        (403, _) | (200, Some("7")) => Forbidden,
        (status, _) => {
            assert!(status < 500, "{path}: {status}");
            Passes
        }
    }
}

/// Every port, and what is served on them only if it is switched on.
fn everything(folder: &TempDir) -> Settings {
    let strategies = folder.path().join("strategies.json");
    std::fs::write(&strategies, "{}").unwrap();
    every_port(folder.path())
        .with("distributor.sampling", json!({ "strategies_file": path(&strategies), "endpoint": "127.0.0.1:0" }))
        .with("query_frontend.mcp_server.enabled", true)
}

fn bearer(key: &str) -> Vec<(&'static str, String)> {
    vec![("authorization", format!("Bearer {key}"))]
}

#[tokio::test]
async fn every_port_asks_every_caller_for_its_right() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("keys.yaml");
    let roles: BTreeMap<&str, Key> = ["read", "write", "metrics", "admin"]
        .map(|role| (role, Key::create(&["--role", role, "--tenant", "team-a", "--id", role])))
        .into();
    write_keys(&file, &roles.values().collect::<Vec<_>>());
    let settings = everything(&folder).with("multitenancy_enabled", true).with("authentication.keys_file", path(&file));
    let server = Server::start(&settings).await;
    let other = Key::create(&["--role", "admin", "--id", "read"]);
    let basic = |user: &str, password: &str| {
        use base64::{Engine, prelude::BASE64_STANDARD};
        vec![("authorization", format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))))]
    };
    for asked in &REQUESTS {
        let (what, of) = (asked.4, |credential: Vec<(&'static str, String)>| {
            let server = &server;
            async move { verdict(server, asked, &credential, None).await }
        });
        let unknown = if what == Open { Passes } else { Unknown };
        let strangers = [
            vec![],
            bearer(""),
            bearer("x"),
            bearer("sos_read_"),
            bearer(&other.key),
            bearer("eyJhbGciOiJub25lIn0.e30."),
            basic("read", ""),
            basic("write", &roles["read"].key),
            vec![("authorization", roles["admin"].key.clone())],
            vec![("x-api-key", String::new())],
        ];
        for stranger in strangers {
            let shown = format!("{asked:?} with {stranger:?}");
            assert_eq!(of(stranger).await, unknown, "{shown}");
        }
        for (role, key) in &roles {
            let may = match (what, *role) {
                (Open, _) | (_, "admin") | (Write | Sampling, "write") | (Read | Sampling, "read") | (Metrics, "metrics") => Passes,
                _ => Forbidden,
            };
            assert_eq!(of(bearer(&key.key)).await, may, "{asked:?} as {role}");
            assert_eq!(of(basic(role, &key.key)).await, may, "{asked:?} as {role}, basic");
            assert_eq!(of(vec![("x-api-key", key.key.clone())]).await, may, "{asked:?} as {role}, x-api-key");
        }
        // Not even an administrator of one tenant has another.
        for tenant in ["team-b", "team-a|team-b", "team-a|", "TEAM-A", "*"] {
            let verdict = verdict(&server, asked, &bearer(&roles["admin"].key), Some(tenant)).await;
            let own_and_nobody = tenant == "team-a|";
            let expected = if what == Open || own_and_nobody { Passes } else { Forbidden };
            assert_eq!(verdict, expected, "{asked:?} of {tenant}");
        }
    }
    assert!(server.stop().await.success());
}

/// A datagram cannot say who sent it: where callers must, those ports stay closed.
#[tokio::test]
async fn datagrams_are_not_taken_where_callers_must_say_who_they_are() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("keys.yaml");
    write_keys(&file, &[&Key::create(&["--role", "write"])]);
    let endpoint = json!({ "endpoint": "127.0.0.1:0" });
    let with_datagrams = every_port(folder.path())
        .with("distributor.receivers.jaeger.protocols", json!({ "thrift_compact": endpoint, "thrift_binary": endpoint }));
    let server = Server::start(&with_datagrams).await;
    for port in ["jaeger_thrift_compact", "jaeger_thrift_binary"] {
        assert!(server.announced(port).is_some(), "{port}");
    }
    assert!(server.stop().await.success());
    for closed in [with_datagrams.clone().with("authentication.keys_file", path(&file)), with_datagrams.with("multitenancy_enabled", true)] {
        let server = Server::start(&closed).await;
        for port in ["jaeger_thrift_compact", "jaeger_thrift_binary"] {
            assert_eq!(server.announced(port), None, "{port}");
        }
    }
}

#[tokio::test]
async fn spans_stay_with_their_tenants() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("keys.yaml");
    let key = |role: &str, tenants: &[&str]| {
        let tenants = tenants.iter().flat_map(|tenant| ["--tenant", tenant]);
        Key::create(&["--role", role].into_iter().chain(tenants).collect::<Vec<_>>())
    };
    let (a, b) = (key("write", &["a"]), key("write", &["b"]));
    let (reads_a, reads_ab, reads_all) = (key("read", &["a"]), key("read", &["a", "b"]), key("read", &["*"]));
    write_keys(&file, &[&a, &b, &reads_a, &reads_ab, &reads_all]);
    let settings = every_port(folder.path()).with("multitenancy_enabled", true).with("authentication.keys_file", path(&file));
    let server = Server::start(&settings).await;
    let range = TimeRange::lately();
    let body = |number, spans| request("shop", trace_spans(RUN, number, 0..spans, range));
    // One tenant needs no name.
    server.client.showing(&a.key).push(body(1, 3)).await;
    server.client.showing(&b.key).of("b").push(body(1, 5)).await;
    let refused = server.client.showing(&a.key).of("b").post("application/x-protobuf", "", body(1, 9)).await;
    assert_eq!(refused.status, 403);
    let count = async |key: &Key, tenant: Option<&str>| {
        let client = server.client.showing(&key.key);
        let client = tenant.map_or(client.clone(), |tenant| client.of(tenant));
        client.count("{ }", range).await
    };
    assert_eq!(count(&reads_a, None).await, 3);
    assert_eq!(count(&reads_a, Some("a")).await, 3);
    assert_eq!(count(&reads_ab, Some("b")).await, 5);
    assert_eq!(count(&reads_ab, Some("a|b")).await, 8);
    assert_eq!(count(&reads_all, Some("b|a|c")).await, 8);
    for (key, tenant, status) in [(&reads_a, "b", 403), (&reads_a, "a|b", 403), (&reads_ab, "a|b|c", 403), (&a, "a", 403)] {
        let (got, body) = server.client.showing(&key.key).of(tenant).get("/api/search", &[]).await;
        assert_eq!(got, status, "{tenant}: {body}");
    }
    // Several, and none is named.
    assert_eq!(server.client.showing(&reads_ab.key).get("/api/search", &[]).await.0, 401);
}

#[tokio::test]
async fn keys_come_and_go_without_a_restart() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("keys.yaml");
    let (first, second, admin) =
        (Key::create(&["--role", "read"]), Key::create(&["--role", "read"]), Key::create(&["--role", "admin"]));
    write_keys(&file, &[&first, &admin]);
    let settings = every_port(folder.path())
        .with("authentication", json!({ "keys_file": path(&file), "reload_interval": "20ms" }));
    let server = Server::start(&settings).await;
    let status = async |key: &Key| server.client.showing(&key.key).get("/api/search", &[]).await.0;
    assert_eq!((status(&first).await, status(&second).await), (200, 401));
    write_keys(&file, &[&second, &admin]);
    until("the new key is known", async || status(&second).await == 200).await;
    assert_eq!(status(&first).await, 401, "the old one is not");
    std::fs::write(&file, format!("{}\n- nonsense\n", first.line)).unwrap();
    let admin = server.client.showing(&admin.key);
    until("the bad file is counted", async || admin.metric("sostenuto_door_reload_failures_total").await >= 1.0).await;
    assert_eq!((status(&first).await, status(&second).await), (401, 200), "the last good file is in force");

    // Nowhere is there anything of a key.
    let (_, config) = admin.get("/status/config", &[]).await;
    let (_, metrics) = admin.get("/metrics", &[]).await;
    for shown in [server.log(), config.to_string(), metrics.to_string()] {
        for key in [&first, &second] {
            assert!(!shown.contains(key.secret()), "{shown}");
        }
    }
}

#[tokio::test]
async fn without_settings_everybody_may_and_that_is_said() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(&everything(&folder)).await;
    assert_eq!(server.address("access"), "everybody");
    for asked in &REQUESTS {
        assert_eq!(verdict(&server, asked, &[], None).await, Passes, "{asked:?}");
    }
}
