//! Tables with many small blocks, made as a flush makes them, and what is in them.

use std::{collections::BTreeMap, num::NonZeroUsize, sync::Arc, time::Duration};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use block::{
    batch::SpanBatch,
    builder::{AttributeLimits, SpanBatchBuilder},
    merge::{merge, window_partition},
    promotion::PromotionPolicy,
    schema,
    writer::{BlockWriter, EncodedBlock, WriterOptions},
};
use compactor::{Compactor, CompactorConfig};
use model::TenantId;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use query::{Engine, EngineConfig, NoLiveData};
use storage::{Backend, Commit, Snapshot, Storage, StorageConfig};
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use crate::spans::{Row, request};

pub const HOUR: i64 = 3_600_000_000_000;
/// Later than everything that a test writes, by more than blocks need to settle.
pub const LATER_UNIX_MS: u64 = 4_000_000_000_000;

pub fn tenant() -> TenantId {
    TenantId::parse("kept").expect("a tenant name")
}

/// Merges whatever lies side by side.
pub fn eager() -> CompactorConfig {
    CompactorConfig { settled_after: Duration::ZERO, claim_lasts: Duration::from_secs(60), ..CompactorConfig::default() }
}

/// As another process would open the store.
pub async fn open(store: &Arc<impl ObjectStore>) -> Storage {
    let store: Arc<dyn ObjectStore> = store.clone();
    let config = StorageConfig { backend: Backend::S3, ..StorageConfig::default() };
    Storage::with_store(store, &config).await.expect("a store")
}

pub fn engine(storage: &Storage) -> Engine {
    let config = EngineConfig { parallelism: NonZeroUsize::MIN, table_age_max: Duration::ZERO, ..EngineConfig::default() };
    Engine::new(storage.clone(), Arc::new(NoLiveData), config)
}

pub fn batch(rows: &[Row]) -> SpanBatch {
    let mut builder = SpanBatchBuilder::new(AttributeLimits::default());
    let appended = builder.append_request(&request(rows), |_| panic!("the batch is small")).expect("a request");
    assert_eq!((appended.spans, appended.refused), (rows.len() as u64, 0), "every span is accepted");
    builder.finish()
}

/// The blocks of one flush, with ids of the given millisecond.
pub fn blocks(rows: &[Row], at_ms: u64, policy: &PromotionPolicy, options: &WriterOptions) -> Vec<EncodedBlock> {
    let merged = merge(&[batch(rows)], policy).expect("the batch merges");
    let windows = window_partition(&merged, HOUR).expect("windows");
    windows.into_iter().zip(0..).map(|((_, batch), n)| encode(Ulid::from_parts(at_ms, n), &batch, options)).collect()
}

/// Without the columns that are empty in all of it.
pub fn encode(id: Ulid, batch: &SpanBatch, options: &WriterOptions) -> EncodedBlock {
    let records = &batch.records;
    let set = (0..records.num_columns()).filter(|at| {
        !records.schema_ref().field(*at).is_nullable() || records.column(*at).null_count() < records.num_rows()
    });
    let records = records.project(&set.collect::<Vec<_>>()).expect("columns of the batch");
    let mut writer = BlockWriter::new(id, records.schema(), options.clone());
    writer.write(&records).expect("the batch is sorted");
    writer.finish().expect("the block is written")
}

/// Commits blocks as a flush does.
pub async fn flush(storage: &Storage, blocks: &[EncodedBlock], segment: i64) {
    let mut adds = vec![];
    for block in blocks {
        adds.push(storage.put_block(&tenant(), block).await.expect("the block is stored"));
    }
    let transaction = Some(("ingester-1".to_owned(), segment));
    let table = storage.table(&tenant()).await.expect("a table");
    table.commit(Commit { adds, transaction, operation: "flush", ..Commit::default() }).await.expect("the commit succeeds");
}

/// Rounds until nothing is left to do.
pub async fn settle(compactor: &Compactor) {
    // Each round halves the blocks at least; more would be a loop.
    for _ in 0..64 {
        let round = compactor.round(LATER_UNIX_MS, &CancellationToken::new()).await;
        assert!(round.failures.is_empty(), "{:?}", round.failures);
        if !round.more {
            return;
        }
    }
    panic!("the compactor does not come to an end");
}

/// (trace id, span id, kind, start) of every row that the newest snapshot holds, with how often it is there.
pub async fn ledger(store: &impl ObjectStore, snapshot: &Snapshot) -> BTreeMap<(Vec<u8>, Vec<u8>, i32, i64), usize> {
    let mut found = BTreeMap::new();
    for block in &snapshot.blocks {
        for records in rows_of(store, tenant().as_str(), &block.path).await {
            let bytes = |name: &str| records.column_by_name(name).expect(name).as_fixed_size_binary().clone();
            let (traces, spans) = (bytes(schema::TRACE_ID), bytes(schema::SPAN_ID));
            let kinds = records.column_by_name(schema::KIND).expect("kinds").as_primitive::<Int32Type>();
            let starts = records.column_by_name(schema::START_TIME).expect("starts").as_primitive::<Int64Type>();
            for row in 0..records.num_rows() {
                let key = (traces.value(row).to_vec(), spans.value(row).to_vec(), kinds.value(row), starts.value(row));
                *found.entry(key).or_default() += 1;
            }
        }
    }
    found
}

pub async fn rows_of(store: &impl ObjectStore, tenant: &str, path: &str) -> Vec<RecordBatch> {
    let key = format!("{tenant}/traces/{path}");
    let data = store.get(&key.as_str().into()).await.expect("the file is there").bytes().await.expect("its bytes");
    let reader = ParquetRecordBatchReaderBuilder::try_new(data).expect("Parquet").build().expect("a reader");
    reader.map(|batch| batch.expect("rows")).collect()
}

pub async fn snapshot(storage: &Storage) -> Arc<Snapshot> {
    storage.table(&tenant()).await.expect("a table").refresh().await.expect("its newest version")
}
