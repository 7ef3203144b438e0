//! Google Cloud Storage, by its protocol: a server of a hundred lines that keeps what we build on, and one that does not.
//! And what S3 is told about encryption.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use storage::{Backend, ClientConfig, Commit, GcsConfig, S3Config, SseConfig, SseKind, Storage, StorageConfig};
use tempfile::TempDir;

use crate::fixture::{block, tenant};

const BUCKET: &str = "traces-test";

#[derive(Default)]
struct Server {
    objects: Mutex<BTreeMap<String, (u64, Bytes)>>,
    generation: AtomicUsize,
    /// So many requests are answered with 503 before one is not.
    unavailable: AtomicUsize,
    requests: AtomicUsize,
    /// Of the last PUT.
    headers: Mutex<HeaderMap>,
    /// Creates overwrite.
    ignores_conditions: bool,
}

type Answer = Response<Full<Bytes>>;

fn answer(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer
}

fn decode(text: &str) -> String {
    let mut bytes = vec![];
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let mut digit = || rest.next().and_then(|digit| (digit as char).to_digit(16)).unwrap_or(0) as u8;
        bytes.push(if byte == b'%' { digit() << 4 | digit() } else { byte });
    }
    String::from_utf8(bytes).unwrap()
}

impl Server {
    async fn serve(self: Arc<Self>) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let server = self.clone();
                let service = service_fn(move |request| {
                    let server = server.clone();
                    async move { Ok::<_, Infallible>(server.handle(request).await) }
                });
                tokio::spawn(async move {
                    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        address
    }

    async fn handle(&self, request: Request<Incoming>) -> Answer {
        self.requests.fetch_add(1, SeqCst);
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        if self.unavailable.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
            return answer(StatusCode::SERVICE_UNAVAILABLE, "come again");
        }
        let path = decode(parts.uri.path());
        let query: BTreeMap<String, String> = parts.uri.query().unwrap_or_default().split('&').filter_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            Some((key.to_owned(), decode(value)))
        }).collect();
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let Some(key) = path.strip_prefix(&format!("/{BUCKET}")).map(|key| key.trim_start_matches('/').to_owned()) else {
            return answer(StatusCode::NOT_FOUND, "no such bucket");
        };
        let mut objects = self.objects.lock();
        match parts.method {
            Method::GET if key.is_empty() => list(&objects, &query),
            Method::PUT => {
                *self.headers.lock() = parts.headers.clone();
                let create = header("x-goog-if-generation-match").as_deref() == Some("0");
                if create && objects.contains_key(&key) && !self.ignores_conditions {
                    return answer(StatusCode::PRECONDITION_FAILED, "it is there");
                }
                let generation = self.generation.fetch_add(1, SeqCst) as u64 + 1;
                objects.insert(key, (generation, body));
                described(answer(StatusCode::OK, ""), generation)
            }
            Method::DELETE => match objects.remove(&key) {
                Some(_) => answer(StatusCode::NO_CONTENT, ""),
                None => answer(StatusCode::NOT_FOUND, ""),
            },
            method => {
                let Some((generation, bytes)) = objects.get(&key) else { return answer(StatusCode::NOT_FOUND, "") };
                let whole = 0..bytes.len();
                let range = header("range").and_then(|range| {
                    let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
                    Some(from.parse().ok()?..(to.parse::<usize>().ok()? + 1).min(bytes.len()))
                });
                let status = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
                let range = range.unwrap_or(whole);
                let said = format!("bytes {}-{}/{}", range.start, range.end.saturating_sub(1), bytes.len());
                let sent = if method == Method::HEAD { Bytes::new() } else { bytes.slice(range) };
                let mut found = described(answer(status, sent), *generation);
                if status == StatusCode::PARTIAL_CONTENT {
                    found.headers_mut().insert("content-range", said.parse().unwrap());
                }
                if method == Method::HEAD {
                    found.headers_mut().insert("content-length", bytes.len().into());
                }
                found
            }
        }
    }
}

fn described(mut answer: Answer, generation: u64) -> Answer {
    let headers = answer.headers_mut();
    headers.insert("etag", format!("\"{generation}\"").parse().unwrap());
    headers.insert("x-goog-generation", generation.into());
    headers.insert("last-modified", "Sat, 21 Nov 2026 07:28:20 GMT".parse().unwrap());
    answer
}

fn list(objects: &BTreeMap<String, (u64, Bytes)>, query: &BTreeMap<String, String>) -> Answer {
    let of = |key: &str| query.get(key).cloned().unwrap_or_default();
    let (prefix, delimiter, after) = (of("prefix"), of("delimiter"), of("start-after"));
    let (mut contents, mut folders) = (String::new(), std::collections::BTreeSet::new());
    for (key, (generation, bytes)) in objects.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > after) {
        match key[prefix.len()..].split_once(&delimiter).filter(|_| !delimiter.is_empty()) {
            Some((folder, _)) => drop(folders.insert(format!("{prefix}{folder}{delimiter}"))),
            None => contents.push_str(&format!(
                "<Contents><Key>{key}</Key><Size>{}</Size><LastModified>2026-11-21T07:28:20Z</LastModified><ETag>{generation}</ETag></Contents>",
                bytes.len()
            )),
        }
    }
    let folders: String = folders.into_iter().map(|folder| format!("<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>")).collect();
    answer(StatusCode::OK, format!("<ListBucketResult><IsTruncated>false</IsTruncated>{contents}{folders}</ListBucketResult>"))
}

/// As a test server's key file says: no signature.
fn config(address: SocketAddr, folder: &TempDir) -> StorageConfig {
    let key = folder.path().join("key.json");
    let text = r#"{"disable_oauth":true,"client_email":"","private_key":"","private_key_id":""}"#;
    std::fs::write(&key, text).unwrap();
    StorageConfig {
        backend: Backend::Gcs,
        gcs: GcsConfig {
            bucket_name: BUCKET.into(),
            prefix: "some/prefix".into(),
            endpoint: address.to_string(),
            service_account_path: Some(key),
            insecure: true,
        },
        client: ClientConfig { retry_backoff_min_ms: 1, retry_backoff_max_ms: 2, ..ClientConfig::default() },
        ..StorageConfig::default()
    }
}

#[tokio::test]
async fn blocks_and_tables_live_in_google_cloud_storage() {
    let (server, folder) = (Arc::new(Server::default()), TempDir::new().unwrap());
    let config = config(server.clone().serve().await, &folder);
    let storage = Storage::open(&config).await.unwrap();
    assert!(server.objects.lock().is_empty(), "the probe leaves nothing behind");
    let table = storage.table(&tenant()).await.unwrap();
    let mut written = vec![];
    for number in 0..4 {
        written.push(block(number * 5, 5, "a"));
        let adds = vec![storage.put_block(&tenant(), written.last().unwrap()).await.unwrap()];
        table.commit(Commit { adds, operation: "flush", ..Commit::default() }).await.unwrap();
    }
    // Another process, that another raced with.
    let other = Storage::open(&config).await.unwrap();
    let theirs = other.table(&tenant()).await.unwrap();
    let removes = vec![table.snapshot().blocks[0].clone()];
    table.commit(Commit { removes, operation: "retain", ..Commit::default() }).await.unwrap();
    theirs.commit(Commit { operation: "late", ..Commit::default() }).await.unwrap();
    assert_eq!((theirs.snapshot().version, theirs.snapshot().blocks.len()), (5, 3));
    for entry in &theirs.snapshot().blocks {
        let open = other.open_block(&tenant(), entry).await.unwrap();
        let data = &written.iter().find(|block| block.id == entry.id).unwrap().data;
        assert_eq!(open.read(&[0..entry.size_bytes]).await.unwrap()[0], data);
        assert_eq!(open.read_once(4..20).await.unwrap(), data.slice(4..20));
    }
    assert_eq!(other.tenants().await.unwrap(), [tenant()]);
    let ages = storage::SweepAges { removed_ms: 0, orphan_ms: 0 };
    assert_eq!(other.sweep(&tenant(), ages, 4_000_000_000_000).await.unwrap().files, 2);
}

#[tokio::test]
async fn a_server_that_does_not_keep_its_conditions_is_refused() {
    let (server, folder) = (Arc::new(Server { ignores_conditions: true, ..Server::default() }), TempDir::new().unwrap());
    let error = Storage::open(&config(server.serve().await, &folder)).await.err().unwrap().to_string();
    assert!(error.contains("two creates"), "{error}");
}

#[tokio::test]
async fn a_storm_of_503_is_weathered_and_one_without_end_is_told() {
    let (server, folder) = (Arc::new(Server::default()), TempDir::new().unwrap());
    let mut config = config(server.clone().serve().await, &folder);
    let storage = Storage::open(&config).await.unwrap();
    let written = block(0, 5, "a");
    for refusals in 1..=5 {
        server.unavailable.store(refusals, SeqCst);
        storage.put_block(&tenant(), &written).await.unwrap();
    }
    config.client.retries_max = 2;
    let storage = Storage::open(&config).await.unwrap();
    let before = server.requests.load(SeqCst);
    server.unavailable.store(usize::MAX, SeqCst);
    let error = storage.put_block(&tenant(), &written).await.unwrap_err();
    assert_eq!(error.kind(), model::ErrorKind::Unavailable, "{error}");
    // One request, and two repeats of it.
    assert_eq!(server.requests.load(SeqCst) - before, 3);
}

#[tokio::test]
async fn s3_is_told_how_to_encrypt() {
    let server = Arc::new(Server::default());
    let address = server.clone().serve().await;
    let kms = SseConfig { kind: Some(SseKind::Kms), kms_key_id: "our-key".into(), ..SseConfig::default() };
    let cases = [
        (SseConfig::default(), None),
        (SseConfig { kind: Some(SseKind::S3), ..SseConfig::default() }, Some("AES256")),
        (kms, Some("aws:kms")),
    ];
    for (sse, said) in cases {
        let s3 = S3Config {
            bucket: BUCKET.into(),
            endpoint: address.to_string(),
            access_key: Some("access".into()),
            secret_key: Some("secret".to_owned().into()),
            insecure: true,
            sse: sse.clone(),
            ..S3Config::default()
        };
        // This server speaks enough of S3's protocol to store.
        let config = StorageConfig { backend: Backend::S3, s3, skip_probe: true, ..StorageConfig::default() };
        Storage::open(&config).await.unwrap().put_block(&tenant(), &block(0, 1, "a")).await.unwrap();
        let headers = server.headers.lock().clone();
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        assert_eq!(header("x-amz-server-side-encryption").as_deref(), said);
        let key = said.filter(|said| *said == "aws:kms").map(|_| "our-key");
        assert_eq!(header("x-amz-server-side-encryption-aws-kms-key-id").as_deref(), key);
    }
}
