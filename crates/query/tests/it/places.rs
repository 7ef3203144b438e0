//! The same spans in different places: live, in one block, split over many of both, compacted.

use std::{
    num::NonZeroUsize,
    sync::{Arc, LazyLock, Mutex},
};

use block::{
    batch::SpanBatch,
    builder::{AttributeLimits, SpanBatchBuilder},
    merge::merge,
    promotion::PromotionPolicy,
    writer::{BlockWriter, EncodedBlock, WriterOptions},
};
use model::TenantId;
use object_store::memory::InMemory;
use query::{Engine, EngineConfig, LiveData, LiveGeneration};
use rand::{Rng, SeedableRng, rngs::StdRng};
use storage::{Commit, Storage, StorageConfig};
use ulid::Ulid;

use crate::data::{Row, request};

pub struct Place {
    pub name: &'static str,
    pub engine: Engine,
}

pub fn tenant() -> TenantId {
    TenantId::parse("judged").expect("a tenant name")
}

/// Where there are several parts, each holds what was received in one stretch of time, and so some traces in part.
pub async fn everywhere(rows: &[Row], seed: u64) -> Vec<Place> {
    let mut rng = StdRng::seed_from_u64(seed);
    let live = LiveGeneration { ingester: INGESTER.into(), segment: Some(4), batches: stretches(rows, 4, &mut rng) };
    let split = Stored::split(rows, &mut rng).await;
    let whole = Stored::new(&[batch(rows)], &small_row_groups(128), vec![]).await;
    let many = Stored::blocks(rows, 7, &mut rng).await;
    let compacted = merge(&stretches(rows, 6, &mut rng), &GENEROUS).expect("the batches merge");
    let compacted = Stored::new(&[compacted], &WriterOptions::default(), vec![]).await;
    vec![
        place("live", &[], WriterOptions::default(), vec![live]).await,
        Place { name: "one block", engine: whole.engine(2) },
        Place { name: "many blocks and live", engine: split.engine(2) },
        // With memory for all, some or none of the values of split traces.
        Place { name: "many blocks", engine: many.engine_with([1 << 20, 4 << 10, 0][rng.random_range(0..3)]) },
        Place { name: "compacted", engine: compacted.engine(2) },
    ]
}

/// An engine over blocks made of `batches`, in the order in which they were received, and live data.
pub async fn place(name: &'static str, batches: &[SpanBatch], options: WriterOptions, live: Vec<LiveGeneration>) -> Place {
    Place { name, engine: Stored::new(batches, &options, live).await.engine(2) }
}

pub const INGESTER: &str = "ingester";

/// As many columns as there can be, and as few.
pub static GENEROUS: LazyLock<PromotionPolicy> =
    LazyLock::new(|| PromotionPolicy { rows_min: 1, ..PromotionPolicy::default() });
pub static FRUGAL: LazyLock<PromotionPolicy> =
    LazyLock::new(|| PromotionPolicy { rows_min: 1_000_000, ..PromotionPolicy::default() });

/// Pages are not compressed: making the contexts for it takes longer than anything else with so few rows.
pub fn small_row_groups(rows: usize) -> WriterOptions {
    WriterOptions { zstd_level: 0, row_group_rows: rows, page_rows: 16, packed_page_rows: 16, ..WriterOptions::default() }
}

/// The rows cut into at most so many stretches.
fn stretches(rows: &[Row], count: usize, rng: &mut StdRng) -> Vec<SpanBatch> {
    let mut ends: Vec<usize> = (1..count).map(|_| rng.random_range(0..=rows.len())).collect();
    ends.push(rows.len());
    ends.sort_unstable();
    let starts = std::iter::once(0).chain(ends.iter().copied());
    starts.zip(&ends).filter(|(start, end)| start < end).map(|(start, end)| batch(&rows[start..*end])).collect()
}

/// Blocks in a store, and live data beside them.
pub struct Stored {
    pub store: Arc<InMemory>,
    pub storage: Storage,
    pub live: Arc<Live>,
}

impl Stored {
    pub async fn new(batches: &[SpanBatch], options: &WriterOptions, live: Vec<LiveGeneration>) -> Self {
        let store = Arc::new(InMemory::new());
        let storage = Storage::with_store(Arc::<InMemory>::clone(&store), &StorageConfig::default()).await.expect("a store");
        let mut adds = vec![];
        for (batch, number) in batches.iter().zip(1..) {
            let block = encode(Ulid::from_parts(number, 0), batch, options);
            adds.push(storage.put_block(&tenant(), &block).await.expect("the block is stored"));
        }
        let table = storage.table(&tenant()).await.expect("a table");
        if !adds.is_empty() {
            let transaction = Some((INGESTER.to_owned(), 3));
            let commit = Commit { adds, transaction, operation: "flush", ..Commit::default() };
            table.commit(commit).await.expect("the commit succeeds");
        }
        Self { store, storage, live: Arc::new(Live(Mutex::new(live))) }
    }

    /// Four blocks with columns of different kinds, and the rest live.
    pub async fn split(rows: &[Row], rng: &mut StdRng) -> Self {
        let many = stretches(rows, 6, rng);
        let blocks: Vec<SpanBatch> = many[..many.len().min(4)]
            .iter()
            .zip([&*FRUGAL, &GENEROUS, &PromotionPolicy::default(), &GENEROUS])
            .map(|(batch, policy)| merge(std::slice::from_ref(batch), policy).expect("the batch merges"))
            .collect();
        let rest = many[blocks.len()..].to_vec();
        // Live data that a commit has already brought into the table: to be left out, and not to be missed.
        let committed = LiveGeneration { ingester: INGESTER.into(), segment: Some(3), batches: many[..1].to_vec() };
        let growing = LiveGeneration { ingester: INGESTER.into(), segment: Some(4), batches: rest };
        let row_group_rows = [16, 64, 128][rng.random_range(0..3)];
        Self::new(&blocks, &small_row_groups(row_group_rows), vec![committed, growing]).await
    }

    /// At most so many blocks with columns of different kinds.
    pub async fn blocks(rows: &[Row], count: usize, rng: &mut StdRng) -> Self {
        let usual = PromotionPolicy::default();
        let policies = [&*FRUGAL, &GENEROUS, &usual].into_iter().cycle();
        let blocks: Vec<SpanBatch> = stretches(rows, count, rng)
            .into_iter()
            .zip(policies)
            .map(|(batch, policy)| merge(&[batch], policy).expect("the batch merges"))
            .collect();
        Self::new(&blocks, &small_row_groups([16, 64][rng.random_range(0..2)]), vec![]).await
    }

    /// An engine that has seen nothing yet, with so much memory for the values of split traces.
    pub fn engine_with(&self, split_traces_memory_bytes: u64) -> Engine {
        let parallelism = NonZeroUsize::new(2).expect("not zero");
        let config = EngineConfig { parallelism, columns_memory_bytes: 1 << 20, split_traces_memory_bytes, ..EngineConfig::default() };
        Engine::new(self.storage.clone(), Arc::<Live>::clone(&self.live), config)
    }

    /// An engine that has seen nothing yet.
    pub fn engine(&self, parallelism: usize) -> Engine {
        engine(self.storage.clone(), &self.live, parallelism)
    }
}

pub fn engine(storage: Storage, live: &Arc<Live>, parallelism: usize) -> Engine {
    // What is kept between queries changes no answer: where one unit is read at a time, nothing is.
    let columns_memory_bytes = if parallelism == 1 { 0 } else { 1 << 20 };
    let parallelism = NonZeroUsize::new(parallelism).expect("not zero");
    let config = EngineConfig { parallelism, columns_memory_bytes, ..EngineConfig::default() };
    Engine::new(storage, Arc::<Live>::clone(live), config)
}

/// A block with a given id, without the columns that are empty in all of it.
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

pub fn batch(rows: &[Row]) -> SpanBatch {
    let mut builder = SpanBatchBuilder::new(AttributeLimits::default());
    let appended = builder.append_request(&request(rows), |_| panic!("the batch is small")).expect("a request");
    assert_eq!((appended.spans, appended.refused), (rows.len() as u64, 0), "every span is accepted");
    builder.finish()
}

pub struct Live(pub Mutex<Vec<LiveGeneration>>);

impl LiveData for Live {
    fn live(&self, _: &TenantId) -> Vec<LiveGeneration> {
        self.0.lock().expect("no test panics with it").clone()
    }
}
