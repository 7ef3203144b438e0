//! What clients do to connections: say nothing, stop half-way, stay too long.

use std::time::Duration;

use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::setup::{REQUEST_BYTES_MAX, Server, config, request, span};

/// Short, because these tests wait for it to pass.
const SOON: Duration = Duration::from_millis(150);

fn head(more: &str) -> String {
    format!("POST /v1/traces HTTP/1.1\r\nhost: a\r\ncontent-type: application/x-protobuf\r\n{more}\r\n")
}

/// Everything until the server closes the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    // A reset is an end too.
    let _ = stream.read_to_end(&mut all).await;
    String::from_utf8_lossy(&all).into_owned()
}

async fn answer_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("an answer"));
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn clients_that_never_ask_are_cut_off() {
    let server = Server::start(receivers::Config { head_timeout: SOON, ..config() }).await;
    let partial = head("");
    for address in [server.http, server.grpc] {
        for start in ["", "P", "PRI * HTTP/2.0\r\n", &partial[..partial.len() - 2], "POST /v1/traces HT"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(start.as_bytes()).await.unwrap();
            assert!(!rest(&mut stream).await.contains("200 OK"), "{start:?}");
        }
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let server = Server::start(receivers::Config { body_timeout: SOON, ..config() }).await;
    for more in ["content-length: 100\r\n", "transfer-encoding: chunked\r\n"] {
        let mut stream = TcpStream::connect(server.http).await.unwrap();
        stream.write_all(head(more).as_bytes()).await.unwrap();
        assert!(rest(&mut stream).await.starts_with("HTTP/1.1 408 "), "{more}");
    }
}

#[tokio::test]
async fn a_body_that_ends_early_costs_only_its_request() {
    let server = Server::start(config()).await;
    let body = request(vec![span(1)]).encode_to_vec();
    for length in ["1000", "-1", "99999999999999999999999", "1, 2", "x"] {
        let mut stream = TcpStream::connect(server.http).await.unwrap();
        stream.write_all(head(&format!("content-length: {length}\r\n")).as_bytes()).await.unwrap();
        let _ = stream.write_all(&body).await;
        let _ = stream.shutdown().await;
        assert!(!rest(&mut stream).await.contains("200 OK"), "{length}");
    }
    assert_eq!(server.stored(), 0);
    // Bad heads: too large, not HTTP, a line break in a header.
    for bad in [head(&format!("x: {}\r\n", "a".repeat(100_000))), "\0\0\0\r\n\r\n".into(), head("x-scope-orgid: a\rb\r\n")] {
        let mut stream = TcpStream::connect(server.http).await.unwrap();
        let _ = stream.write_all(bad.as_bytes()).await;
        assert!(!rest(&mut stream).await.contains("200 OK"));
    }
    let mut stream = TcpStream::connect(server.http).await.unwrap();
    let ask = format!("{}", head(&format!("content-length: {}\r\nconnection: close\r\n", body.len())));
    stream.write_all(&[ask.as_bytes(), &body].concat()).await.unwrap();
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 200 OK"));
    assert_eq!(server.stored(), 1);
}

#[tokio::test]
async fn old_and_careful_clients_are_served() {
    let server = Server::start(config()).await;
    let body = request(vec![span(1)]).encode_to_vec();
    let mut stream = TcpStream::connect(server.http).await.unwrap();
    let ask = head(&format!("content-length: {}\r\n", body.len())).replace("HTTP/1.1", "HTTP/1.0");
    stream.write_all(&[ask.as_bytes(), &body].concat()).await.unwrap();
    assert!(rest(&mut stream).await.starts_with("HTTP/1.0 200 OK"));

    let mut stream = TcpStream::connect(server.http).await.unwrap();
    let ask = head(&format!("content-length: {}\r\nexpect: 100-continue\r\n", body.len()));
    stream.write_all(ask.as_bytes()).await.unwrap();
    assert!(answer_head(&mut stream).await.starts_with("HTTP/1.1 100 "));
    stream.write_all(&body).await.unwrap();
    assert!(answer_head(&mut stream).await.starts_with("HTTP/1.1 200 OK"));

    // The same connection, in chunks.
    stream.write_all(head("transfer-encoding: chunked\r\n").as_bytes()).await.unwrap();
    for piece in body.chunks(7) {
        let piece = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
        stream.write_all(&piece).await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    assert!(answer_head(&mut stream).await.starts_with("HTTP/1.1 200 OK"));
    assert_eq!(server.stored(), 3);
}

#[tokio::test]
async fn a_client_that_sends_too_much_still_reads_why() {
    let server = Server::start(config()).await;
    let mut stream = TcpStream::connect(server.http).await.unwrap();
    let length = REQUEST_BYTES_MAX + REQUEST_BYTES_MAX / 2;
    stream.write_all(head(&format!("content-length: {length}\r\n")).as_bytes()).await.unwrap();
    stream.write_all(&vec![0; length]).await.unwrap();
    assert!(answer_head(&mut stream).await.starts_with("HTTP/1.1 413 "));
}

#[tokio::test]
async fn a_drain_answers_what_was_asked() {
    let server = Server::start(config()).await;
    let body = request(vec![span(1)]).encode_to_vec();
    let mut idle = TcpStream::connect(server.http).await.unwrap();
    let mut busy = TcpStream::connect(server.http).await.unwrap();
    let ask = head(&format!("content-length: {}\r\nexpect: 100-continue\r\n", body.len()));
    for stream in [&mut idle, &mut busy] {
        stream.write_all(ask.as_bytes()).await.unwrap();
        assert!(answer_head(stream).await.starts_with("HTTP/1.1 100 "));
    }
    idle.write_all(&body).await.unwrap();
    assert!(answer_head(&mut idle).await.starts_with("HTTP/1.1 200 OK"));
    server.shutdown.cancel();
    assert_eq!(rest(&mut idle).await, "", "a connection without a request is closed");
    busy.write_all(&body).await.unwrap();
    assert!(rest(&mut busy).await.starts_with("HTTP/1.1 200 OK"));
    assert_eq!(server.ended.1.await.unwrap(), 0);
    assert_eq!(server.ended.0.await.unwrap(), 0);
    assert_eq!(server.ingester.stats().accepted_spans, 2);
    assert!(TcpStream::connect(server.http).await.is_err(), "no one listens any more");
}

#[tokio::test]
async fn a_drain_has_an_end() {
    let server = Server::start(receivers::Config { drain_timeout: SOON, ..config() }).await;
    let mut stuck = TcpStream::connect(server.http).await.unwrap();
    stuck.write_all(head("content-length: 5\r\nexpect: 100-continue\r\n").as_bytes()).await.unwrap();
    assert!(answer_head(&mut stuck).await.starts_with("HTTP/1.1 100 "));
    server.shutdown.cancel();
    assert_eq!(server.ended.1.await.unwrap(), 1);
    assert_eq!(rest(&mut stuck).await, "");
}
