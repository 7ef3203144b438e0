//! An engine over one trace of a shop, all of it live, and a table in a folder of its own: empty, or with one block.

use block::{
    batch::SpanBatch,
    builder::{AttributeLimits, SpanBatchBuilder},
    writer::{BlockWriter, WriterOptions},
};
use model::TenantId;
use object_store::ObjectStore;
use prost::Message;
use proto::otlp::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status},
};
use query::{Engine, EngineConfig, LiveData, LiveGeneration};
use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use storage::{Commit, Storage, StorageConfig};
use tempfile::TempDir;
use ulid::Ulid;

/// With a leading zero, which search results leave out.
pub const TRACE_ID: u128 = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
pub const TRACE_ID_TEXT: &str = "0123456789abcdef0123456789abcdef";

pub struct Data {
    pub engine: Engine,
    folder: TempDir,
}

impl Data {
    pub async fn open() -> Self {
        Self::behind(|store| store).await
    }

    /// Reads the table through what `wrap` makes of its store.
    pub async fn behind(wrap: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>) -> Self {
        let folder = TempDir::new().unwrap();
        let mut config = StorageConfig::default();
        config.local.path = folder.path().to_owned();
        let store = Storage::open(&config).await.unwrap().object_store();
        let storage = Storage::with_store(wrap(store), &config).await.unwrap();
        let engine = Engine::new(storage, Arc::new(Shop(batch(request(TRACE_ID)))), EngineConfig::default());
        Self { engine, folder }
    }

    /// Stores a block with a trace of the same kind.
    pub async fn store(&self, trace_id: u128) {
        self.store_all(trace_id, request(trace_id)).await;
    }

    /// Stores a block with so many traces, each of a span of a user of its own.
    pub async fn store_users(&self, users: u32) {
        let mut all = request(TRACE_ID);
        let spans = &mut all.resource_spans[0].scope_spans[0].spans;
        let (root, _) = (spans.remove(0), spans.remove(0));
        spans.extend((1..=users).map(|user| Span {
            trace_id: u128::from(user).to_be_bytes().to_vec(),
            attributes: vec![attribute("user", Value::StringValue(format!("user {user}")))],
            ..root.clone()
        }));
        self.store_all(1, all).await;
    }

    async fn store_all(&self, number: u128, request: ExportTraceServiceRequest) {
        let mut config = StorageConfig::default();
        config.local.path = self.folder.path().to_owned();
        let storage = Storage::open(&config).await.unwrap();
        let records = batch(request).records;
        let mut writer = BlockWriter::new(Ulid::from_parts(1, number), records.schema(), WriterOptions::default());
        writer.write(&records).unwrap();
        let entry = storage.put_block(&TenantId::single(), &writer.finish().unwrap()).await.unwrap();
        let table = storage.table(&TenantId::single()).await.unwrap();
        table.commit(Commit { adds: vec![entry], operation: "flush", ..Commit::default() }).await.unwrap();
    }

    /// Flips a bit in every data file.
    pub fn damage(&self) {
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|end| end == "parquet") {
                    let mut bytes = std::fs::read(&path).unwrap();
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 1;
                    std::fs::write(&path, bytes).unwrap();
                }
            }
        }
    }
}

struct Shop(SpanBatch);

impl LiveData for Shop {
    fn live(&self, tenant: &TenantId) -> Vec<LiveGeneration> {
        if *tenant != TenantId::single() {
            return vec![];
        }
        vec![LiveGeneration { ingester: "one".to_owned(), segment: None, batches: vec![self.0.clone()] }]
    }
}

fn batch(request: ExportTraceServiceRequest) -> SpanBatch {
    let mut builder = SpanBatchBuilder::new(AttributeLimits::default());
    builder.append_request(&request.encode_to_vec(), |_| panic!("a few spans fill no builder")).unwrap();
    builder.finish()
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

/// A server span `GET /cart` of 20 ms, with a failed child `db.get` of 5 ms. A second ago.
fn request(trace_id: u128) -> ExportTraceServiceRequest {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let start = now - 1_000_000_000;
    let root = Span {
        trace_id: trace_id.to_be_bytes().to_vec(),
        span_id: vec![1; 8],
        name: "GET /cart".to_owned(),
        kind: 2,
        start_time_unix_nano: start,
        end_time_unix_nano: start + 20_000_000,
        attributes: vec![attribute("with space/slash", Value::StringValue("yes".to_owned())), attribute("items", Value::IntValue(3))],
        ..Default::default()
    };
    let child = Span {
        span_id: vec![2; 8],
        parent_span_id: root.span_id.clone(),
        name: "db.get".to_owned(),
        kind: 3,
        start_time_unix_nano: start + 1_000_000,
        end_time_unix_nano: start + 6_000_000,
        status: Some(Status { code: 2, message: "boom".to_owned() }),
        attributes: vec![],
        ..root.clone()
    };
    let service = attribute("service.name", Value::StringValue("shop".to_owned()));
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes: vec![service], ..Default::default() }),
            scope_spans: vec![ScopeSpans { spans: vec![root, child], ..Default::default() }],
            ..Default::default()
        }],
    }
}
