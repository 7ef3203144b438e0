//! HTTP below its messages: heads, lengths, versions, frames.

use std::time::Duration;

use prost::Message;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{PROTOBUF, Told, Way, request, told};
use crate::{
    client::Access,
    server::{Server, Settings},
    spans::{TimeRange, trace_spans},
};

/// No answer of these tests takes long.
const PATIENCE: Duration = Duration::from_secs(60);
const PORTS: [&str; 6] = ["otlp_http", "otlp_grpc", "zipkin", "jaeger_grpc", "jaeger_thrift_http", "api"];

fn every_receiver(folder: &TempDir) -> Settings {
    let endpoint = serde_json::json!({ "endpoint": "127.0.0.1:0" });
    Settings::new(folder.path())
        .with("server.jaeger_query_endpoint", "127.0.0.1:0")
        .with("distributor.receivers.zipkin", endpoint.clone())
        .with("distributor.receivers.jaeger", serde_json::json!({ "protocols": { "grpc": endpoint, "thrift_http": endpoint } }))
}

/// What comes back for these bytes before the server hangs up.
async fn exchange(server: &Server, port: &str, bytes: &[u8]) -> String {
    talk(server, port, bytes, false).await
}

/// As [`exchange`], by a client that goes away when it has sent them.
async fn cut_off(server: &Server, port: &str, bytes: &[u8]) -> String {
    talk(server, port, bytes, true).await
}

async fn talk(server: &Server, port: &str, bytes: &[u8], goes_away: bool) -> String {
    let mut stream = TcpStream::connect(server.address(port)).await.unwrap();
    // The server may have hung up before it has read all.
    let _ = stream.write_all(bytes).await;
    if goes_away {
        let _ = stream.shutdown().await;
    }
    let mut answer = vec![];
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    // A connection that is reset has an end as well.
    read.unwrap_or_else(|_| panic!("{port}: no end")).ok();
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status of the first answer; 0 if there is none.
fn status(answer: &str) -> u16 {
    answer.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.parse().ok()).unwrap_or(0)
}

fn post(more: &str) -> String {
    format!("POST /v1/traces HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: {PROTOBUF}\r\n{more}\r\n")
}

/// B07.
#[tokio::test]
async fn lengths_that_lie_cost_only_their_connection() {
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let server = Server::start(&Settings::new(folder.path())).await;
    let good = request(trace_spans(7, 1, 0..3, range)).encode_to_vec();
    let body = |head: String| [head.into_bytes(), good.clone()].concat();
    let length = good.len();
    for (what, bytes, expected) in [
        ("longer than the body", body(post(&format!("Content-Length: {}\r\n", length + 5))), &[0, 400][..]),
        ("negative", body(post("Content-Length: -1\r\n")), &[400]),
        ("no number", body(post("Content-Length: 0x10\r\n")), &[400]),
        ("beyond 64 bits", body(post("Content-Length: 99999999999999999999\r\n")), &[400]),
        ("two", body(post(&format!("Content-Length: {length}\r\nContent-Length: 1\r\n"))), &[400]),
        ("more than may be", body(post("Content-Length: 9999999999999\r\n")), &[0, 400, 413]),
        ("chunks that are larger than there is", post("Transfer-Encoding: chunked\r\n\r\nffff\r\nabc").into_bytes(), &[0, 400]),
        ("a chunk beyond 64 bits", post("Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nabc").into_bytes(), &[0, 400]),
        ("a chunk without a length", post("Transfer-Encoding: chunked\r\n\r\nxyz\r\nabc").into_bytes(), &[0, 400]),
        ("a transfer encoding that there is not", body(post("Transfer-Encoding: gzip\r\n")), &[400]),
    ] {
        let answer = cut_off(&server, "otlp_http", &bytes).await;
        assert!(expected.contains(&status(&answer)), "{what}: {answer}");
    }
    // What follows a body that was declared too short is no request, and never spans.
    let smuggled = post(&format!("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nPOST /v1/traces HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n"));
    let answer = cut_off(&server, "otlp_http", &body(smuggled)).await;
    assert!(answer.matches("HTTP/1.1 200").count() <= 1, "{answer}");
    assert_eq!(server.client.count("{ }", range).await, 0);

    let chunked = format!("{}{length:x}\r\n", post("Transfer-Encoding: chunked\r\n"));
    let chunked = [chunked.as_bytes(), &good, b"\r\n0\r\n\r\n"].concat();
    assert_eq!(status(&exchange(&server, "otlp_http", &chunked).await), 200);
    assert_eq!(server.client.count("{ }", range).await, 3);
}

/// B09.
#[tokio::test]
async fn old_careful_and_wrong_requests_are_told_apart() {
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let server = Server::start(&Settings::new(folder.path())).await;
    let body = |number| request(trace_spans(9, number, 0..1, range)).encode_to_vec();
    let with = |head: &str, body: Vec<u8>| [format!("{head}Connection: close\r\nContent-Type: {PROTOBUF}\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes(), body].concat();
    let ask = async |head: &str, body: Vec<u8>| exchange(&server, "otlp_http", &with(head, body)).await;
    assert_eq!(status(&ask("POST /v1/traces HTTP/1.0\r\n", body(1)).await), 200);
    let careful = ask("POST /v1/traces HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n", body(2)).await;
    assert!(careful.starts_with("HTTP/1.1 100 ") && careful.contains("HTTP/1.1 200 "), "{careful}");
    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"] {
        let answer = ask(&format!("{method} /v1/traces HTTP/1.1\r\nHost: a\r\n"), vec![]).await;
        assert!(status(&answer) == 405 && answer.to_lowercase().contains("allow: post"), "{method}: {answer}");
    }
    for path in ["/", "/v1/trace", "/v1/traces/", "/v1/metrics", "/v1/logs", "//v1/traces", "/v1/../v1/traces", "/V1/traces", "/v1%2ftraces"] {
        let answer = ask(&format!("POST {path} HTTP/1.1\r\nHost: a\r\n"), body(3)).await;
        assert_eq!(status(&answer), 404, "{path}: {answer}");
    }
    for head in ["POST /v1/traces HTTP/2.0\r\n", "POST /v1/traces HTTP/9\r\n", "POST\r\n", "\0\0\0\r\n", "POST /v1/traces HTTP/1.1 more\r\nHost: a\r\n"] {
        let answer = ask(head, vec![]).await;
        assert!([0, 400, 505].contains(&status(&answer)), "{head:?}: {answer}");
    }
    // HTTP/2 without encryption, from its first byte.
    let client = Access::default().builder().http2_prior_knowledge().build().unwrap();
    let url = format!("http://{}/v1/traces", server.address("otlp_http"));
    let answer = client.post(url).header("content-type", PROTOBUF).body(body(4)).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, reqwest::Version::HTTP_2));
    assert_eq!(server.client.count("{ }", range).await, 3);
}

/// B25: a header that comes twice, or in other letters. What is no name is in `tenants`.
#[tokio::test]
async fn tenants_are_named_once() {
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let server = Server::start(&Settings::new(folder.path()).with("multitenancy_enabled", true)).await;
    let body = request(trace_spans(25, 1, 0..2, range)).encode_to_vec();
    let ask = async |named: &str| {
        let head = post(&format!("{named}Content-Length: {}\r\n", body.len()));
        status(&exchange(&server, "otlp_http", &[head.as_bytes(), &body].concat()).await)
    };
    for (named, expected) in [
        ("x-scope-orgid: a\r\n", &[200][..]),
        ("X-SCOPE-ORGID: a\r\n", &[200]),
        ("X-Scope-OrgID:   a  \r\n", &[200]),
        ("X-Scope-OrgID: a\r\nX-Scope-OrgID: b\r\n", &[400]),
        ("X-Scope-OrgID: a\r\nX-Scope-OrgID: a\r\n", &[400]),
        ("X-Scope-OrgID: a|b\r\n", &[400]),
        ("X-Scope-OrgID: a,b\r\n", &[400]),
        ("X-Scope-OrgID: %252e%252e\r\n", &[400]),
        ("X-Scope-OrgID: \u{2024}\u{2024}\r\n", &[400]),
        ("X-Scope-OrgID: a\0b\r\n", &[0, 400]),
        ("X-Scope-OrgID: a\r\n b\r\n", &[0, 400]),
        ("X-Scope-OrgID: a\nb\r\n", &[0, 400]),
        ("X-Scope-OrgID : a\r\n", &[0, 400]),
        ("X_Scope_OrgID: a\r\n", &[401]),
        ("", &[401]),
    ] {
        let got = ask(named).await;
        assert!(expected.contains(&got), "{named:?}: {got}");
    }
    assert_eq!(server.client.of("a").count("{ }", range).await, 2);
    assert_eq!(server.client.of("b").count("{ }", range).await, 0);
}

/// B26.
#[tokio::test]
async fn headers_have_their_bounds() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(&every_receiver(&folder)).await;
    let before = server.peak_memory_bytes();
    for port in PORTS {
        for (what, more, expected) in [
            ("64 KB in one", format!("X-Large: {}\r\n", "x".repeat(64 << 10)), &[400, 404, 431][..]),
            ("1 MB in one", format!("X-Large: {}\r\n", "x".repeat(1 << 20)), &[0, 400, 431]),
            ("1,000 of them", "X-Many: x\r\n".repeat(1_000), &[400, 431]),
            ("a line without end", format!("X: {}", "x".repeat(200_000)), &[0, 400, 431]),
            ("a NUL", "traceparent: a\0b\r\n".to_owned(), &[400]),
            ("a folded line", "User-Agent: a\r\n HTTP/1.1 200 OK\r\n".to_owned(), &[400]),
            ("no name", ": x\r\n".to_owned(), &[400]),
        ] {
            let answer = cut_off(&server, port, post(&more).as_bytes()).await;
            assert!(expected.contains(&status(&answer)), "{port}, {what}: {answer}");
        }
        // Odd, and allowed: answered like any other.
        let odd = "traceparent: 00-zz\r\nUser-Agent: \u{1b}[31m\u{202e}\r\nbaggage: ,,,=;=\r\nContent-Length: 0\r\n".replace('\u{1b}', "");
        let answer = exchange(&server, port, post(&odd).as_bytes()).await;
        assert!((200..500).contains(&status(&answer)), "{port}: {answer}");
    }
    let grown = server.peak_memory_bytes() - before;
    assert!(grown < 64 << 20, "{grown} bytes more");
    for line in server.log().lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line:?}");
    }
}

// HTTP/2, by hand.

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET / http` and no authority, by HPACK's static table.
const GET: [u8; 3] = [0x82, 0x84, 0x86];

/// B27: none of them keeps others from being served, nor takes much memory.
#[tokio::test]
async fn floods_cost_their_own_connection() {
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let server = Server::start(&every_receiver(&folder)).await;
    let good = request(trace_spans(27, 1, 0..3, range)).encode_to_vec();
    server.client.push(good.clone()).await;
    let before = server.peak_memory_bytes();
    let begin = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let streams = || (0..20_000_u32).map(|number| 2 * number + 1);
    let floods: [(&str, Vec<u8>); 6] = [
        ("resets", streams().flat_map(|stream| [frame(HEADERS, END_HEADERS, stream, &GET), frame(RESET, 0, stream, &[0, 0, 0, 8])].concat()).collect()),
        ("streams that never end", streams().flat_map(|stream| frame(HEADERS, END_HEADERS, stream, &GET)).collect()),
        (
            "a head that never ends",
            [frame(HEADERS, END_STREAM, 1, &GET), frame(CONTINUATION, 0, 1, &[&[0, 1, b'a', 0x7f, 0x81, 0x7e][..], &[b'x'; 16_000]].concat()).repeat(1_000)].concat(),
        ),
        ("empty pieces of a head", [frame(HEADERS, END_STREAM, 1, &GET), frame(CONTINUATION, 0, 1, &[]).repeat(100_000)].concat()),
        ("pings", frame(PING, 0, 0, &[7; 8]).repeat(50_000)),
        ("settings", frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9]).repeat(50_000)),
    ];
    for port in PORTS {
        for (what, flood) in &floods {
            cut_off(&server, port, &[&begin[..], flood].concat()).await;
            assert_eq!(told(Way::Grpc, &server.client.call("", &good).await), Told::Taken { rejected: 0 }, "after {what} on {port}");
        }
        for bytes in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"\0", b"PRI * HTTP/2.0\r\n\r\nXX", b"\r\n\r\n\r\n"] {
            cut_off(&server, port, bytes).await;
        }
    }
    let grown = server.peak_memory_bytes() - before;
    assert!(grown < 128 << 20, "{grown} bytes more");
    assert_eq!(server.client.count("{ }", range).await, 3);
}
