//! B30: what may come again, and what must not.

use prost::Message;
use tempfile::TempDir;

use super::{PROTOBUF, Told, Way, request, told};
use crate::{
    client::Answer,
    server::{Server, Settings},
    spans::{TimeRange, trace_spans},
};

fn status(answer: &Answer) -> (u16, Option<&str>, bool) {
    let grpc = answer.headers.get("grpc-status").map(|status| status.to_str().unwrap());
    // RetryInfo is in the details, which are base64 of a message that names it.
    let details = answer.headers.get("grpc-status-details-bin").map_or("", |details| details.to_str().unwrap());
    let padded = |text: &str| {
        use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
        BASE64_STANDARD_NO_PAD.decode(text.trim_end_matches('=')).unwrap_or_default()
    };
    let retry = answer.headers.contains_key("retry-after") || String::from_utf8_lossy(&padded(details)).contains("RetryInfo");
    (answer.status, grpc, retry)
}

#[tokio::test]
async fn too_fast_is_told_with_a_delay_and_too_much_without() {
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let settings = Settings::new(folder.path())
        .with("overrides.defaults.ingestion.rate_limit_bytes", 1)
        .with("overrides.defaults.ingestion.burst_size_bytes", 4096);
    let server = Server::start(&settings).await;
    let small = request(trace_spans(30, 1, 0..3, range)).encode_to_vec();
    let large = request(trace_spans(30, 2, 0..200, range)).encode_to_vec();
    assert!(small.len() < 2048 && large.len() > 4096);
    assert_eq!(status(&server.client.post(PROTOBUF, "", large.clone()).await), (413, None, false));
    assert_eq!(status(&server.client.call("", &large).await), (200, Some("8"), false));
    assert_eq!(told(Way::Protobuf, &server.client.post(PROTOBUF, "", small.clone()).await), Told::Taken { rejected: 0 });
    // More than the burst together: some of them come too soon, whatever time it takes.
    let mut told_to_wait = 0;
    for _ in 0..200 {
        match status(&server.client.post(PROTOBUF, "", small.clone()).await) {
            (429, None, true) => told_to_wait += 1,
            other => assert_eq!(other, (200, None, false)),
        }
    }
    assert!(told_to_wait > 100, "{told_to_wait}");
    let answer = server.client.call("", &small).await;
    assert!(matches!(status(&answer), (200, Some("8" | "14"), true)), "{:?}", answer.headers);
}
