//! A disk cache that takes no more, is overwritten, or vanishes while queries use it: it costs requests to the store, and
//! no answer.

use std::{fs, os::unix::fs::FileExt, path::Path};

use tempfile::TempDir;

use crate::{
    s3_server::{S3Server, in_bucket},
    server::{Server, Settings, until},
    spans::{TimeRange, attribute, request, span_id, trace_id, trace_spans},
};

const RUN: u64 = 41;
/// Blocks of about 8 MB that do not compress; four times what the cache in memory holds.
const BLOCKS: u64 = 4;
const SPANS: u64 = 128;
const VALUE_BYTES: usize = 64 << 10;

#[tokio::test]
async fn whatever_becomes_of_the_disk_cache_the_answers_are_right() {
    let (folder, bucket) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let cache = folder.path().join("cache");
    let s3 = S3Server::start(bucket.path()).await;
    let settings = in_bucket(Settings::new(folder.path()), s3.address)
        .with("distributor.max_attribute_bytes", 0)
        .with("query_frontend.columns_memory", 0)
        .with("storage.cache.chunks_memory", "8MiB")
        .with("storage.cache.disk_path", cache.to_str().unwrap())
        .with("storage.cache.disk_capacity", "64MiB");
    let range = TimeRange::lately();
    let server = Server::start(&settings).await;
    for number in 0..BLOCKS {
        server.client.push(request("shop", spans(number, range))).await;
        server.client.flush().await;
    }
    until("pieces are written to the disk", async || {
        check(&server, range).await;
        server.client.metric("sostenuto_storage_cache_disk_written_bytes_total").await > 0.0
    })
    .await;
    assert!(server.stop().await.success());

    // The files are there, and may not grow: where they have holes, writes beyond 2 MiB fail, as on a disk that is full.
    overwrite(&cache, |_| Vec::new());
    let server = Server::start(&settings.clone().with_files_of_at_most(2 << 10)).await;
    for _ in 0..3 {
        check(&server, range).await;
    }
    server.kill();

    // Over and over another content, in place.
    let server = Server::start(&settings).await;
    for round in 0..3u8 {
        check(&server, range).await;
        overwrite(&cache, |length| (0..length).map(|at| (at % 251) as u8 ^ round).collect());
    }
    check(&server, range).await;

    // Gone, and something else in its place.
    fs::remove_dir_all(&cache).unwrap();
    fs::write(&cache, "a file").unwrap();
    for _ in 0..2 {
        check(&server, range).await;
    }
    assert!(server.stop().await.success());
    let said = crate::server::Starting::spawn(&settings).fails().await;
    assert!(said.contains("cache.disk_path"), "{said}");
}

/// One large trace.
fn spans(number: u64, range: TimeRange) -> Vec<proto::otlp::trace::v1::Span> {
    let mut spans = trace_spans(RUN, number, 0..SPANS, range);
    for (index, span) in spans.iter_mut().enumerate() {
        span.attributes.push(attribute("payload", value(number, index as u64)));
    }
    spans
}

/// Letters without a pattern.
fn value(number: u64, index: u64) -> String {
    let mut state = (number << 32 | index).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut letter = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b' ' + (state >> 32) as u8 % 94)
    };
    (0..VALUE_BYTES).map(|_| letter()).collect()
}

async fn check(server: &Server, range: TimeRange) {
    for number in 0..BLOCKS {
        let mut found = server.client.trace(&trace_id(RUN, number)).await;
        found.sort_by(|a, b| a.span_id.cmp(&b.span_id));
        let expected = spans(number, range);
        assert_eq!(found.len(), expected.len());
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found.span_id, span_id(number, index as u64));
            let payload = |span: &proto::otlp::trace::v1::Span| span.attributes.iter().find(|a| a.key == "payload").cloned();
            assert!(payload(found) == payload(expected), "span {index} of trace {number} changed");
        }
    }
}

/// Writes over each file of the cache what `content` makes of its length, and keeps the length. Nothing: a hole.
fn overwrite(cache: &Path, content: impl Fn(usize) -> Vec<u8>) {
    let files: Vec<_> = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty());
    for path in files {
        let length = fs::metadata(&path).unwrap().len();
        let file = fs::File::options().write(true).open(&path).unwrap();
        match content(length as usize) {
            nothing if nothing.is_empty() => {
                file.set_len(0).unwrap();
                file.set_len(length).unwrap();
            }
            bytes => file.write_all_at(&bytes, 0).unwrap(),
        }
    }
}
