//! Blocks made of a few spans, and the stores that every test of behaviour runs over.

use std::{net::SocketAddr, sync::Arc};

use block::{
    builder::{AttributeLimits, SpanBatchBuilder},
    writer::{EncodedBlock, WriterOptions, encode},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use model::TenantId;
use object_store::{ObjectStore, memory::InMemory};
use prost::Message;
use proto::otlp::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use storage::{Backend, BlockEntry, LocalConfig, S3Config, Storage, StorageConfig};
use tempfile::TempDir;

pub const BUCKET: &str = "traces-test";
/// 2026-11-21T07:28:20Z.
pub const START: u64 = 1_795_246_100_000_000_000;

pub fn tenant() -> TenantId {
    TenantId::parse("team-1").unwrap()
}

/// `traces` traces of two spans each, from `first` on; each span carries the string attribute `key`.
pub fn block(first: u64, traces: u64, key: &str) -> EncodedBlock {
    padded_block(first, traces, key, 0)
}

/// The same with an attribute of `padding` bytes per span that does not compress.
pub fn padded_block(first: u64, traces: u64, key: &str, padding: usize) -> EncodedBlock {
    let text = |key: &str, value: String| KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(Value::StringValue(value)) }),
        ..KeyValue::default()
    };
    let mut noise = first + 1;
    let mut spans = Vec::new();
    for number in first..first + traces {
        for child in 0..2_u64 {
            let mut attributes = vec![text(key, format!("value {}", number % 3))];
            if padding > 0 {
                let mut value = String::new();
                while value.len() < padding {
                    noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    value.push_str(&format!("{noise:016x}"));
                }
                attributes.push(text("padding", value));
            }
            let parent_span_id = if child == 0 { vec![] } else { id8(number * 2) };
            spans.push(Span {
                trace_id: (u128::from(number) + 1).to_be_bytes().to_vec(),
                span_id: id8(number * 2 + child),
                parent_span_id,
                name: if child == 0 { "GET /".into() } else { "SELECT".into() },
                kind: 2 + child as i32,
                start_time_unix_nano: START + number * 1_000,
                end_time_unix_nano: START + number * 1_000 + 500,
                attributes,
                ..Span::default()
            });
        }
    }
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes: vec![text("service.name", "shop".into())], ..Resource::default() }),
            scope_spans: vec![ScopeSpans { spans, ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        }],
    };
    let limits = AttributeLimits { value_bytes_max: 0, ..AttributeLimits::default() };
    let mut builder = SpanBatchBuilder::new(limits);
    builder.append_request(&request.encode_to_vec(), |_| panic!("one batch is enough")).unwrap();
    encode(&builder.finish(), &WriterOptions::default()).unwrap()
}

fn id8(number: u64) -> Vec<u8> {
    (number + 1).to_be_bytes().to_vec()
}

/// An entry of which only the table knows: for tests that never open it.
pub fn entry(number: u128) -> BlockEntry {
    let id = ulid::Ulid(number);
    BlockEntry {
        id,
        path: format!("2026-11-21T07/{id}.parquet"),
        size_bytes: 1,
        sidecar_bytes: 1,
        chunks_crc32c: 0,
        rows: 1,
        traces: 1,
        min_start_unix_nano: 0,
        max_end_unix_nano: 1,
        modified_unix_ms: 0,
        columns: Vec::new(),
        schema: None,
    }
}

pub async fn storage_over(store: &Arc<dyn ObjectStore>) -> Storage {
    storage_with(store, StorageConfig::default()).await
}

/// As with a remote store: caches and coalescing are on.
pub async fn storage_with(store: &Arc<dyn ObjectStore>, config: StorageConfig) -> Storage {
    let config = StorageConfig { backend: Backend::S3, ..config };
    Storage::with_store(store.clone(), &config).await.unwrap()
}

/// One kind of store, which several [`Storage`]s can open as different processes would.
pub enum Place {
    Memory(Arc<dyn ObjectStore>),
    Local(TempDir),
    S3 { address: SocketAddr, _folder: TempDir },
}

impl Place {
    pub async fn all() -> Vec<Self> {
        let bucket = TempDir::new().unwrap();
        let address = serve_s3(&bucket).await;
        vec![
            Self::Memory(Arc::new(InMemory::new())),
            Self::Local(TempDir::new().unwrap()),
            Self::S3 { address, _folder: bucket },
        ]
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            Self::Local(_) => "local",
            Self::S3 { .. } => "s3",
        }
    }

    pub async fn open(&self) -> Storage {
        match self {
            Self::Memory(store) => storage_over(store).await,
            Self::Local(folder) => Storage::open(&local_config(folder)).await.unwrap(),
            Self::S3 { address, .. } => Storage::open(&s3_config(*address)).await.unwrap(),
        }
    }
}

pub fn local_config(folder: &TempDir) -> StorageConfig {
    StorageConfig { local: LocalConfig { path: folder.path().join("data") }, ..StorageConfig::default() }
}

pub fn s3_config(address: SocketAddr) -> StorageConfig {
    StorageConfig {
        backend: Backend::S3,
        s3: S3Config {
            bucket: BUCKET.into(),
            prefix: "some/prefix".into(),
            endpoint: address.to_string(),
            access_key: Some("access".into()),
            secret_key: Some("secret".to_owned().into()),
            insecure: true,
            ..S3Config::default()
        },
        ..StorageConfig::default()
    }
}

/// A server that speaks the S3 protocol over a socket, on a folder. Its conditional writes look first and
/// write then: it is no place for races.
pub async fn serve_s3(folder: &TempDir) -> SocketAddr {
    std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
    let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder.path()).unwrap());
    builder.set_auth(SimpleAuth::from_single("access", "secret"));
    let service = builder.build();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
            });
        }
    });
    address
}
