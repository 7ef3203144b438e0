//! The same spans in different places: live, in one block, split over many of both, compacted.

use std::{num::NonZeroUsize, sync::Arc};

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
    let small = [16, 64, 128][rng.random_range(0..3)];
    let mut parts = |count: usize| -> Vec<SpanBatch> {
        let mut ends: Vec<usize> = (1..count).map(|_| rng.random_range(0..=rows.len())).collect();
        ends.push(rows.len());
        ends.sort_unstable();
        let starts = std::iter::once(0).chain(ends.iter().copied());
        starts.zip(&ends).filter(|(start, end)| start < end).map(|(start, end)| batch(&rows[start..*end])).collect()
    };
    let options = |row_group_rows| WriterOptions { row_group_rows, page_rows: 16, ..WriterOptions::default() };
    let (live, many) = (parts(4), parts(6));
    let whole = batch(rows);
    let frugal = PromotionPolicy { rows_min: 1_000_000, ..PromotionPolicy::default() };
    let generous = PromotionPolicy { rows_min: 1, ..PromotionPolicy::default() };
    let blocks: Vec<SpanBatch> = many[..many.len().min(4)]
        .iter()
        .zip([&frugal, &generous, &PromotionPolicy::default(), &generous])
        .map(|(batch, policy)| merge(std::slice::from_ref(batch), policy).expect("the batch merges"))
        .collect();
    let rest = many[blocks.len()..].to_vec();
    // Live data that a commit has already brought into the table: to be left out, and not to be missed.
    let committed = LiveGeneration { ingester: "ingester".into(), segment: Some(3), batches: many[..1].to_vec() };
    let growing = |batches: Vec<SpanBatch>| LiveGeneration { ingester: "ingester".into(), segment: Some(4), batches };
    let compacted = merge(&many, &generous).expect("the batches merge");
    vec![
        place("live", &[], options(small), vec![growing(live)]).await,
        place("one block", &[whole], options(128), vec![]).await,
        place("many blocks and live", &blocks, options(small), vec![committed, growing(rest)]).await,
        place("compacted", &[compacted], options(100_000), vec![]).await,
    ]
}

/// An engine over blocks made of `batches`, in the order in which they were received, and live data.
pub async fn place(name: &'static str, batches: &[SpanBatch], options: WriterOptions, live: Vec<LiveGeneration>) -> Place {
    let storage = Storage::with_store(Arc::new(InMemory::new()), &StorageConfig::default()).await.expect("a store");
    let tenant = tenant();
    let mut adds = vec![];
    for (batch, number) in batches.iter().zip(1..) {
        let block = encode(Ulid::from_parts(number, 0), batch, &options);
        adds.push(storage.put_block(&tenant, &block).await.expect("the block is stored"));
    }
    let table = storage.table(&tenant).await.expect("a table");
    if !adds.is_empty() {
        let transaction = Some(("ingester".to_owned(), 3));
        let commit = Commit { adds, removes: vec![], transaction, operation: "flush" };
        table.commit(commit).await.expect("the commit succeeds");
    }
    let config = EngineConfig { parallelism: NonZeroUsize::new(2).expect("not zero"), ..EngineConfig::default() };
    Place { name, engine: Engine::new(storage, Arc::new(Live(live)), config) }
}

/// A block with a given id, without the columns that are empty in all of it.
fn encode(id: Ulid, batch: &SpanBatch, options: &WriterOptions) -> EncodedBlock {
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

struct Live(Vec<LiveGeneration>);

impl LiveData for Live {
    fn live(&self, _: &TenantId) -> Vec<LiveGeneration> {
        self.0.clone()
    }
}
