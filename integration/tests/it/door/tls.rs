//! Encryption on every port, of both versions of HTTP; certificates that change; clients that show one.

use std::{fs, time::Duration};

use reqwest::{Client, Method, Version, header};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{authority::Authority, every_port, path};
use crate::{
    client::Access,
    server::{Server, Settings, until},
    spans::{TimeRange, request, trace_id, trace_spans},
};

/// Each port, and a question that it answers.
const PORTS: [(&str, Method, &str); 9] = [
    ("api", Method::GET, "/api/echo"),
    ("grpc", Method::POST, "/tempopb.StreamingQuerier/Search"),
    ("jaeger_query", Method::GET, "/api/services"),
    ("jaeger_query_grpc", Method::POST, "/jaeger.api_v3.QueryService/GetServices"),
    ("otlp_http", Method::POST, "/v1/traces"),
    ("otlp_grpc", Method::POST, "/opentelemetry.proto.collector.trace.v1.TraceService/Export"),
    ("zipkin", Method::GET, "/health"),
    ("jaeger_grpc", Method::POST, "/jaeger.api_v2.CollectorService/PostSpans"),
    ("jaeger_thrift_http", Method::POST, "/api/traces"),
];

fn encrypted(folder: &TempDir, client_ca: Option<&Authority>) -> Settings {
    let mut tls = json!({
        "cert_file": path(&folder.path().join("cert.pem")),
        "key_file": path(&folder.path().join("key.pem")),
        "reload_interval": "20ms",
    });
    if let Some(authority) = client_ca {
        let file = folder.path().join("clients.pem");
        fs::write(&file, &authority.pem).unwrap();
        tls["client_ca_file"] = path(&file);
    }
    every_port(folder.path()).with("server.tls", tls)
}

fn trusting(authority: &Authority) -> Access {
    Access { authority: Some(authority.pem.clone()), ..Access::default() }
}

/// The version and the status of an answer, or why there is none.
async fn ask(client: &Client, server: &Server, scheme: &str, port: &(&str, Method, &str)) -> Result<(Version, u16), reqwest::Error> {
    let (name, method, path) = port;
    let url = format!("{scheme}://{}{path}", server.address(name));
    let content_type = if path.contains('.') { "application/grpc" } else { "application/x-protobuf" };
    let answer = client.request(method.clone(), url).header(header::CONTENT_TYPE, content_type).send().await?;
    Ok((answer.version(), answer.status().as_u16()))
}

#[tokio::test]
async fn every_port_is_encrypted_and_speaks_both_versions() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new("the shop");
    authority.server().write(folder.path());
    let access = trusting(&authority);
    let server = Server::start(&encrypted(&folder, None).reached_by(access.clone())).await;
    let newest = access.builder().build().unwrap();
    let old = access.builder().http1_only().max_tls_version(reqwest::tls::Version::TLS_1_2).build().unwrap();
    let stranger = trusting(&Authority::new("somebody else")).builder().build().unwrap();
    let plain = Access::default().builder().build().unwrap();
    for port in &PORTS {
        let name = port.0;
        let (version, status) = ask(&newest, &server, "https", port).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(version, Version::HTTP_2, "{name} negotiates");
        assert!((200..=415).contains(&status), "{name}: {status}");
        let (version, _) = ask(&old, &server, "https", port).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(version, Version::HTTP_11, "{name}, TLS 1.2");
        assert!(ask(&stranger, &server, "https", port).await.unwrap_err().is_connect(), "{name}");
        assert!(ask(&plain, &server, "http", port).await.is_err(), "{name} in plain text");
    }
    // Spans travel in both protocols.
    let range = TimeRange::lately();
    server.client.push(request("shop", trace_spans(61, 1, 0..2, range))).await;
    let answer = server.client.call("", &request("shop", trace_spans(61, 2, 0..3, range))).await;
    assert_eq!(answer.status, 200);
    assert_eq!(server.client.span_ids(&trace_id(61, 1)).await.len(), 2);
    assert_eq!(server.client.span_ids(&trace_id(61, 2)).await.len(), 3);
    assert!(server.stop().await.success());
}

#[tokio::test]
async fn one_port_may_have_its_own_certificate_or_none() {
    let folder = TempDir::new().unwrap();
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    ours.server().write(folder.path());
    let other = folder.path().join("zipkin");
    fs::create_dir(&other).unwrap();
    theirs.server().write(&other);
    let own = json!({ "cert_file": path(&other.join("cert.pem")), "key_file": path(&other.join("key.pem")), "min_version": "1.3" });
    let settings = encrypted(&folder, None)
        .with("distributor.receivers.zipkin.tls", own)
        .with("distributor.receivers.jaeger.protocols.thrift_http.tls", json!({ "enabled": false }))
        .reached_by(trusting(&ours));
    let server = Server::start(&settings).await;
    let [zipkin, thrift] = ["zipkin", "jaeger_thrift_http"].map(|name| PORTS.iter().find(|port| port.0 == name).unwrap());
    let client = trusting(&theirs).builder().build().unwrap();
    ask(&client, &server, "https", zipkin).await.unwrap();
    let old = trusting(&theirs).builder().max_tls_version(reqwest::tls::Version::TLS_1_2).build().unwrap();
    assert!(ask(&old, &server, "https", zipkin).await.unwrap_err().is_connect(), "1.2 where 1.3 is asked for");
    let plain = Access::default().builder().build().unwrap();
    ask(&plain, &server, "http", thrift).await.unwrap();
}

#[tokio::test]
async fn a_certificate_changes_without_a_restart_and_a_bad_one_does_not() {
    let folder = TempDir::new().unwrap();
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    old.server().write(folder.path());
    let both = Access { authority: Some(format!("{}{}", old.pem, new.pem)), ..Access::default() };
    let server = Server::start(&encrypted(&folder, None).reached_by(both)).await;
    let reaches = async |authority: &Authority| {
        let client = trusting(authority).builder().build().unwrap();
        ask(&client, &server, "https", &PORTS[0]).await.is_ok()
    };
    assert!(!reaches(&new).await);
    new.server().write(folder.path());
    until("the new certificate is in force", async || reaches(&new).await).await;
    assert!(!reaches(&old).await);
    let before = server.client.metric("sostenuto_tls_reload_failures_total").await;
    fs::write(folder.path().join("cert.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    until("the failure is counted", async || {
        server.client.metric("sostenuto_tls_reload_failures_total").await > before
    })
    .await;
    assert!(reaches(&new).await);
    assert!(server.log().contains("cannot be used"), "{}", server.log());
}

#[tokio::test]
async fn clients_must_show_a_certificate_where_that_is_asked() {
    let folder = TempDir::new().unwrap();
    let (ours, clients) = (Authority::new("ours"), Authority::new("clients"));
    ours.server().write(folder.path());
    let with = |identity: String| Access { identity: Some(identity), ..trusting(&ours) };
    let known = with(clients.client().identity());
    let server = Server::start(&encrypted(&folder, Some(&clients)).reached_by(known.clone())).await;
    let known = known.builder().build().unwrap();
    let forged = with(Authority::new("clients").client().identity()).builder().build().unwrap();
    let nobody = trusting(&ours).builder().build().unwrap();
    let expired = with(clients.expired_client().identity()).builder().build().unwrap();
    for port in &PORTS {
        assert!(ask(&expired, &server, "https", port).await.is_err(), "{} with one whose time is over", port.0);
        ask(&known, &server, "https", port).await.unwrap_or_else(|error| panic!("{}: {error:?}", port.0));
        assert!(ask(&nobody, &server, "https", port).await.is_err(), "{} without a certificate", port.0);
        assert!(ask(&forged, &server, "https", port).await.is_err(), "{} with another's", port.0);
    }
}

/// Nobody holds a place by beginning and not going on.
#[tokio::test]
async fn a_handshake_that_stalls_is_cut_off() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new("the shop");
    authority.server().write(folder.path());
    let server = Server::start(&encrypted(&folder, None).reached_by(trusting(&authority))).await;
    let stalled = PORTS.iter().flat_map(|port| [(port.0, &b""[..]), (port.0, b"\x16\x03\x01\x02\x00\x01"), (port.0, b"GET / HTTP/1.1\r\n\r\n")]);
    let cut_off = stalled.map(|(port, begun)| {
        let server = &server;
        async move {
            let mut stream = TcpStream::connect(server.address(port)).await.unwrap();
            stream.write_all(begun).await.unwrap();
            let mut said = vec![];
            // At most an alert; then an end, or a reset.
            let ended = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut said)).await;
            assert!(ended.is_ok() && said.len() < 100, "{port} {begun:?}: {said:?}");
        }
    });
    futures::future::join_all(cut_off).await;
    assert_eq!(server.client.get("/api/echo", &[]).await.0, 200);
}
