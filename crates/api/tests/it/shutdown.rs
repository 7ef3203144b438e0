//! What happens to connections when the server stops, and to those that misbehave.

use crate::server::Server;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[tokio::test]
async fn idle_connections_do_not_hold_up_shutdown() {
    let server = Server::start().await;
    // One that has said nothing, one between two requests.
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut kept = TcpStream::connect(server.address).await.unwrap();
    kept.write_all(b"GET /api/echo HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = [0; 15];
    kept.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    server.shutdown.cancel();
    assert_eq!(server.served.await.unwrap(), 0);
    for connection in [&mut silent, &mut kept] {
        let mut rest = Vec::new();
        connection.read_to_end(&mut rest).await.unwrap();
    }
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn a_request_that_never_ends_is_cut_after_the_drain_time() {
    let server = Server::with(false, |config| config.drain_timeout = Duration::from_millis(50)).await;
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    // A call whose message does not come.
    let head = "POST /tempopb.StreamingQuerier/Search HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc\r\ncontent-length: 9\r\n\r\n";
    slow.write_all(head.as_bytes()).await.unwrap();
    while !server.metrics.text().contains("sostenuto_requests_running 1\n") {
        tokio::task::yield_now().await;
    }
    server.shutdown.cancel();
    assert_eq!(server.served.await.unwrap(), 1);
    let mut answer = Vec::new();
    let _ = slow.read_to_end(&mut answer).await;
    assert_eq!(answer, b"");
}

#[tokio::test]
async fn more_connections_than_allowed_wait_their_turn() {
    let server = Server::with(false, |config| config.connections_max = 1).await;
    let request = b"GET /api/echo HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut answer = vec![0; 1024];
    let mut first = TcpStream::connect(server.address).await.unwrap();
    first.write_all(request).await.unwrap();
    assert!(first.read(&mut answer).await.unwrap() > 0);
    let mut second = TcpStream::connect(server.address).await.unwrap();
    second.write_all(request).await.unwrap();
    for _ in 0..100 {
        first.write_all(request).await.unwrap();
        assert!(first.read(&mut answer).await.unwrap() > 0);
        let early = second.try_read(&mut answer).map_err(|error| error.kind());
        assert_eq!(early, Err(std::io::ErrorKind::WouldBlock));
    }
    drop(first);
    assert!(second.read(&mut answer).await.unwrap() > 0);
}

#[tokio::test]
async fn nonsense_on_the_wire_ends_that_connection_only() {
    let server = Server::start().await;
    for bytes in [&b"\0\0\0\0\0\0\0\0\r\n\r\n"[..], b"GET /\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\xff\xff\xff\xff\xff\xff\xff"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(!rest.starts_with(b"HTTP/1.1 200"));
    }
    let head = format!("GET /api/echo?{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(1 << 20));
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let _ = stream.write_all(head.as_bytes()).await;
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(!rest.starts_with(b"HTTP/1.1 200"));
    assert_eq!(server.get("/api/echo").await.0, 200);
}
