//! The ingester from outside: every acknowledged span is found once, live or in a table, whatever happens in between.

mod consistency;
mod corruption;
mod crash;
mod flushing;
mod pushing;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use arrow::array::{AsArray, RecordBatch};
use block::schema;
use bytes::Bytes;
use ingester::{Ingester, IngesterConfig};
use model::TenantId;
use object_store::{ObjectStoreExt, memory::InMemory};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use prost::Message;
use proto::otlp::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use query::LiveData;
use storage::{Storage, StorageConfig};
use test_stores::TestStore;


/// 2026-05-01T00:00:00Z.
const NOW: u64 = 1_777_593_600_000_000_000;
const HOUR: u64 = 3_600_000_000_000;

fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).unwrap()
}

/// An ingester that cuts only when it is told to.
fn config(wal_dir: &Path) -> IngesterConfig {
    IngesterConfig {
        wal_dir: wal_dir.to_owned(),
        wal_fsync: false,
        wal_disk_free_min: bytesize::ByteSize::b(0),
        live_age_max_ms: 3_600_000,
        ..IngesterConfig::default()
    }
}

async fn storage(store: &Arc<TestStore>) -> Storage {
    Storage::with_store(store.clone(), &StorageConfig::default()).await.unwrap()
}

/// An ingester with a store and a log of its own.
struct Fixture {
    store: Arc<TestStore>,
    dir: tempfile::TempDir,
    ingester: Ingester,
}

impl Fixture {
    async fn new() -> Self {
        Self::with(|config| config).await
    }

    async fn with(change: impl FnOnce(IngesterConfig) -> IngesterConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = TestStore::new();
        let ingester = Ingester::open(change(config(dir.path())), storage(&store).await).await.unwrap();
        Self { store, dir, ingester }
    }

    /// What is left if the process ends now: a copy of its log, and the same store.
    fn crashed(&self) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        copy_log(self.dir.path(), dir.path());
        dir
    }

    /// The process ends here.
    fn crash(self) -> (Arc<TestStore>, tempfile::TempDir) {
        let log = self.crashed();
        (self.store, log)
    }

    /// Starts on what a crash left.
    async fn start(store: &Arc<TestStore>, log: tempfile::TempDir) -> Self {
        let ingester = Ingester::open(config(log.path()), storage(store).await).await.unwrap();
        Self { store: store.clone(), dir: log, ingester }
    }

    async fn push(&self, name: &str, spans: impl IntoIterator<Item = u64>) {
        let spans: Vec<Span> = spans.into_iter().map(span).collect();
        let count = spans.len() as u64;
        let outcome = self.ingester.push(&tenant(name), request(spans)).await.unwrap();
        assert_eq!(outcome.accepted, count);
    }

    /// How often each span is found by a reader that follows the engine's protocol.
    async fn found(&self, name: &str) -> BTreeMap<u64, usize> {
        found(&self.ingester, &self.store, name).await
    }
}

async fn found(ingester: &Ingester, store: &Arc<TestStore>, name: &str) -> BTreeMap<u64, usize> {
    let tenant = tenant(name);
    let live = ingester.live(&tenant);
    let snapshot = storage(store).await.table(&tenant).await.unwrap().refresh().await.unwrap();
    let mut counts = BTreeMap::new();
    let mut count = |records: &RecordBatch| {
        let ids = records.column_by_name(schema::SPAN_ID).unwrap().as_fixed_size_binary();
        for id in ids.iter().flatten() {
            *counts.entry(u64::from_be_bytes(id.try_into().unwrap()) - 1).or_default() += 1;
        }
    };
    for generation in live {
        let committed = snapshot.transactions.get(&generation.ingester).copied().unwrap_or(0);
        if generation.segment.unwrap() as i64 > committed {
            generation.batches.iter().for_each(|batch| count(&batch.records));
        }
    }
    for block in &snapshot.blocks {
        for records in rows(&store.inner, name, &block.path).await {
            count(&records);
        }
    }
    counts
}

async fn rows(store: &InMemory, name: &str, path: &str) -> Vec<RecordBatch> {
    let key = format!("{name}/traces/{path}");
    let data = store.get(&key.as_str().into()).await.unwrap().bytes().await.unwrap();
    ParquetRecordBatchReaderBuilder::try_new(data).unwrap().build().unwrap().map(Result::unwrap).collect()
}

fn each_once(spans: impl IntoIterator<Item = u64>) -> BTreeMap<u64, usize> {
    spans.into_iter().map(|span| (span, 1)).collect()
}

fn copy_log(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "wal") {
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

/// Span `number`; ten numbers share a trace.
fn span(number: u64) -> Span {
    Span {
        trace_id: (u128::from(number / 10) + 1).to_be_bytes().to_vec(),
        span_id: (number + 1).to_be_bytes().to_vec(),
        name: format!("operation {}", number % 7),
        kind: 2,
        start_time_unix_nano: NOW + number,
        end_time_unix_nano: NOW + number + 1000,
        attributes: vec![text("http.method", "GET")],
        ..Span::default()
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) });
    KeyValue { key: key.to_owned(), value }
}

fn request(spans: Vec<Span>) -> Bytes {
    let scope = InstrumentationScope { name: "test".to_owned(), ..Default::default() };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..Default::default() }];
    let resource = Some(Resource { attributes: vec![text("service.name", "shop")], ..Default::default() });
    ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { resource, scope_spans, ..Default::default() }] }
        .encode_to_vec()
        .into()
}
