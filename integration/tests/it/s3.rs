//! The whole way with blocks behind the S3 protocol: push, flush, kill, restart, another machine.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::Ordering::SeqCst,
};

use proto::otlp::common::v1::any_value::Value;
use rand::{Rng, SeedableRng, distr::Alphanumeric, rngs::StdRng};
use tempfile::TempDir;

use crate::{
    client::Client,
    s3_server::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY, in_bucket},
    server::{Server, Settings, skipped, until},
    spans::{TimeRange, attribute, request, span_id, trace_id, trace_spans},
};

const RUN: u64 = 3;
const TRACES: u64 = 40;
const SPANS: u64 = 6;
/// The trace whose spans are large.
const LARGE: u64 = 1_000;
/// 24 MiB that do not compress below the 16 MiB from which a file is sent in parts.
const LARGE_SPANS: u64 = 384;
const LARGE_BYTES: usize = 64 << 10;
/// Names the MinIO program.
const MINIO: &str = "SOSTENUTO_MINIO";

#[tokio::test]
async fn blocks_live_in_a_bucket() {
    let (folder, bucket) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let s3 = S3Server::start(bucket.path()).await;
    the_whole_way(folder.path(), in_bucket(Settings::new(folder.path()), s3.address)).await;
    let counts = s3.counts();
    let (uploads, parts) = (counts.uploads_begun.load(SeqCst), counts.parts.load(SeqCst));
    assert!(uploads >= 1 && parts >= 3, "the large block came in parts: {uploads} uploads, {parts} parts");
    let conditional = counts.conditional_writes.load(SeqCst);
    assert!(conditional >= 4, "each of four commits is a conditional write: {conditional}");
}

/// Runs where MinIO is installed, as `.ci/run` does.
#[tokio::test]
async fn blocks_live_in_minio() {
    let Some(program) = minio() else {
        skipped(format_args!("blocks_live_in_minio: no {MINIO} is set, and there is no minio on the PATH"));
        return;
    };
    let (folder, drive) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    fs::create_dir(drive.path().join(BUCKET)).unwrap();
    let minio = MinIo::start(&program, drive.path()).await;
    the_whole_way(folder.path(), in_bucket(Settings::new(folder.path()), minio.address)).await;
}

/// Push, flush, kill, restart, another machine; blocks are where the settings say. Returns how many spans are there.
pub async fn the_whole_way(folder: &Path, settings: Settings) -> u64 {
    let settings = settings.with("distributor.max_attribute_bytes", 0);
    let range = TimeRange::lately();
    let mut known = 0;

    // Live, flushed, and killed with spans that are only in the log.
    let server = Server::start(&settings).await;
    push_traces(&server.client, 0..SPANS / 2, range).await;
    known += TRACES * SPANS / 2;
    check(&server.client, SPANS / 2, known, range).await;
    let report = server.client.flush().await;
    assert_eq!((&report["spans"], &report["blocks"]), (&known.into(), &1.into()), "{report}");
    check(&server.client, SPANS / 2, known, range).await;
    push_traces(&server.client, SPANS / 2..SPANS, range).await;
    known += TRACES * SPANS / 2;
    check(&server.client, SPANS, known, range).await;
    server.kill();

    // A block too large for one request.
    let server = Server::start(&settings).await;
    assert_eq!(server.replayed, TRACES * SPANS / 2);
    check(&server.client, SPANS, known, range).await;
    let values = large_values();
    for (first, values) in values.chunks(64).enumerate() {
        let first = first as u64 * 64;
        let mut spans = trace_spans(RUN, LARGE, first..first + values.len() as u64, range);
        for (span, value) in spans.iter_mut().zip(values) {
            span.attributes.push(attribute("payload", value.clone()));
        }
        server.client.push(request("shop", spans)).await;
    }
    known += LARGE_SPANS;
    let report = server.client.flush().await;
    assert!(report["blockBytes"].as_u64().unwrap() > 16 << 20, "{report}");
    check(&server.client, SPANS, known, range).await;
    check_large(&server.client, &values).await;

    // What a stop leaves behind is all in the bucket: a machine with an empty disk finds it.
    push_traces_again(&server.client, range).await;
    assert!(server.stop().await.success());
    let elsewhere = settings.on(&folder.join("elsewhere"));
    let server = Server::start(&elsewhere).await;
    assert_eq!(server.replayed, 0);
    check(&server.client, SPANS, known, range).await;
    check_large(&server.client, &values).await;
    known
}

async fn push_traces(client: &Client, indexes: std::ops::Range<u64>, range: TimeRange) {
    for number in 0..TRACES {
        client.push(request("shop", trace_spans(RUN, number, indexes.clone(), range))).await;
    }
}

/// As a client that did not hear the first answer: the same spans, which are in blocks by now.
async fn push_traces_again(client: &Client, range: TimeRange) {
    push_traces(client, 0..SPANS, range).await;
}

/// Every span once, by id and by number.
async fn check(client: &Client, spans: u64, known: u64, range: TimeRange) {
    assert_eq!(client.count("{ }", range).await, known);
    for number in 0..TRACES {
        let found = client.span_ids(&trace_id(RUN, number)).await;
        let expected = (0..spans).map(|index| (span_id(number, index), 1)).collect();
        assert_eq!(found, expected, "spans of trace {number}");
    }
}

async fn check_large(client: &Client, values: &[String]) {
    let mut found = client.trace(&trace_id(RUN, LARGE)).await;
    found.sort_by(|a, b| a.span_id.cmp(&b.span_id));
    assert_eq!(found.len(), values.len());
    for (span, value) in found.iter().zip(values) {
        let payload = span.attributes.iter().find(|attribute| attribute.key == "payload").unwrap();
        let Some(Value::StringValue(found)) = payload.value.as_ref().and_then(|value| value.value.as_ref()) else {
            panic!("not a string: {payload:?}")
        };
        assert!(found == value, "a large attribute changed");
    }
}

fn large_values() -> Vec<String> {
    let mut random = StdRng::seed_from_u64(RUN);
    let mut value = || (&mut random).sample_iter(Alphanumeric).take(LARGE_BYTES).map(char::from).collect();
    (0..LARGE_SPANS).map(|_| value()).collect()
}

/// What [`MINIO`] names, or what is on the PATH.
fn minio() -> Option<PathBuf> {
    if let Some(named) = env::var_os(MINIO) {
        let named = PathBuf::from(named);
        assert!(named.is_file(), "{MINIO} names {}, which is no file", named.display());
        return Some(named);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|folder| folder.join("minio")).find(|program| program.is_file())
}

struct MinIo {
    child: Child,
    address: SocketAddr,
}

impl MinIo {
    async fn start(program: &Path, drive: &Path) -> Self {
        // It cannot say which port the system chose, so we choose one that was free just now.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new(program)
            .args(["server", "--quiet", "--address", &address.to_string(), "--console-address", "127.0.0.1:0"])
            .arg(drive)
            .env("MINIO_ROOT_USER", ACCESS_KEY)
            .env("MINIO_ROOT_PASSWORD", SECRET_KEY)
            .env("MINIO_UPDATE", "off")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let minio = Self { child, address };
        let http = reqwest::Client::builder().no_proxy().tls_built_in_root_certs(false).build().unwrap();
        until("MinIO is ready", async || {
            let ready = http.get(format!("http://{address}/minio/health/ready")).send().await;
            ready.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        minio
    }
}

impl Drop for MinIo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
