//! What it costs to find one trace among a thousand blocks.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use arrow::array::AsArray;
use model::TraceId;
use object_store::{ObjectStore, memory::InMemory};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proto::{
    otlp::{resource::v1::Resource, trace::v1::Span},
    tempopb::PartialStatus,
};
use query::{Engine, EngineConfig, NoLiveData, TimeRange, TraceRequest};
use rand::{Rng, SeedableRng, rngs::StdRng};
use storage::{Backend, Commit, IndexBuilder, OpenBlock, Storage, StorageConfig};
use test_stores::{Fault, Kind, TestStore};
use ulid::Ulid;

use crate::{
    data::{BASE, Row, SECOND},
    places::{batch, encode, small_row_groups, tenant},
};

const BLOCKS: u64 = 1_000;
const TRACES: u64 = 40;
const HOUR: u64 = 3_600 * SECOND;
/// Begins in the first hour and goes on in the second, the third, and so on.
const LONG: u128 = 7;
/// Has a span in the first hour, and one that begins hundreds of hours later.
const APART: u128 = 8;
const APART_HOUR: u64 = 800;

fn row(trace: u128, number: u64, start: u64, duration: u64) -> Row {
    let span = Span {
        trace_id: trace.to_be_bytes().into(),
        span_id: (number + 1).to_be_bytes().into(),
        name: "n".to_owned(),
        kind: 1,
        start_time_unix_nano: start,
        end_time_unix_nano: start + duration,
        ..Default::default()
    };
    Row { resource: Resource::default(), scope: Default::default(), span }
}

/// A block for each hour, each with traces of its own; and the ids of the first trace of each.
async fn stored() -> (InMemory, Vec<u128>) {
    let memory = InMemory::new();
    let storage = open(&TestStore::over(memory.clone())).await;
    let mut rng = StdRng::seed_from_u64(17);
    let (mut adds, mut first) = (vec![], vec![]);
    for number in 0..BLOCKS {
        let hour = BASE + number * HOUR;
        let ids: Vec<u128> = (0..TRACES).map(|_| rng.random()).collect();
        let mut rows: Vec<Row> = ids.iter().zip(0..).map(|(id, n)| row(*id, n, hour + n * SECOND, SECOND)).collect();
        if number < 3 {
            // Spans that reach from one hour into the next.
            rows.push(row(LONG, 100 + number, hour + 2 * SECOND, HOUR));
        }
        if number == 0 || number == APART_HOUR {
            rows.push(row(APART, 200 + number, hour + 3 * SECOND, SECOND));
        }
        let block = encode(Ulid::from_parts(number + 1, 0), &batch(&rows), &small_row_groups(100));
        adds.push(storage.put_merged_block(&tenant(), &block).await.unwrap());
        first.push(ids[0]);
    }
    let table = storage.table(&tenant()).await.unwrap();
    table.commit(Commit { adds, operation: "flush", ..Commit::default() }).await.unwrap();
    (memory, first)
}

async fn open(store: &Arc<TestStore>) -> Storage {
    let mut config = StorageConfig { backend: Backend::S3, ..StorageConfig::default() };
    // A machine that stands still for a while is no slow store: requests are counted here.
    config.client.hedge_percent_max = 0;
    Storage::with_store(Arc::<TestStore>::clone(store) as Arc<dyn ObjectStore>, &config).await.unwrap()
}

async fn engine(store: &Arc<TestStore>) -> Engine {
    let storage = open(store).await;
    // The process is up: it knows the table, and nothing of the blocks.
    storage.table(&tenant()).await.unwrap();
    store.clear_log();
    // Nobody else writes.
    let (parallelism, table_age_max) = (NonZeroUsize::new(2).unwrap(), Duration::from_secs(3_600));
    let config = EngineConfig { parallelism, table_age_max, ..EngineConfig::default() };
    Engine::new(storage, Arc::new(NoLiveData), config)
}

/// The spans found.
async fn lookup(engine: &Engine, trace: u128, range: Option<TimeRange>) -> usize {
    let request = TraceRequest { id: TraceId(trace.to_be_bytes()), range };
    let found = engine.trace_by_id(&[tenant()], request).await.unwrap();
    assert_eq!(found.status(), PartialStatus::Complete);
    let trace = found.trace.unwrap_or_default();
    trace.resource_spans.iter().flat_map(|r| &r.scope_spans).map(|s| s.spans.len()).sum()
}

/// All blocks, open.
async fn filters(store: &Arc<TestStore>) -> Vec<Arc<OpenBlock>> {
    let storage = open(store).await;
    let snapshot = storage.table(&tenant()).await.unwrap().snapshot();
    let mut filters = vec![];
    for entry in &snapshot.blocks {
        filters.push(storage.open_block(&tenant(), entry).await.unwrap());
    }
    filters
}

fn hour(number: u64) -> Option<TimeRange> {
    let start = (BASE + number * HOUR) as i64;
    Some(TimeRange { start, end: start + 60 * SECOND as i64 })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_among_a_thousand_blocks_costs_what_its_filters_say() {
    let (memory, first) = stored().await;
    let store = TestStore::over(memory);
    let requests = |kind, part: &str| store.count(kind, part);

    // Without a time, by a process that has opened nothing: the sidecars beside each other, and then the one block.
    let cold = engine(&store).await;
    assert_eq!(lookup(&cold, first[600], None).await, 1);
    assert_eq!(requests(Kind::Get, ".side"), BLOCKS as usize);
    let opened = requests(Kind::Get, ".parquet");
    // One block holds it; of a thousand others five may look as if they did.
    assert!((1..=6).contains(&opened), "{opened}");
    println!("cold, no time: {} sidecars, {opened} reads of data", BLOCKS);

    // Once they are known, only blocks are read whose filters say so: one request each, and one for news of the log.
    let filters = filters(&TestStore::over(store.inner.clone())).await;
    let may_hold = |trace: u128| filters.iter().filter(|open| open.sidecar().trace_filter.contains(&TraceId(trace.to_be_bytes()))).count();
    let (mut most, mut holders) = (0, 0);
    for trace in first.iter().step_by(41) {
        store.clear_log();
        assert_eq!(lookup(&cold, *trace, None).await, 1);
        assert!(requests(Kind::Get, ".parquet") <= may_hold(*trace));
        assert!(store.log().len() <= 1 + may_hold(*trace), "{:?}", store.log());
        most = most.max(store.log().len());
        holders = holders.max(may_hold(*trace));
    }
    println!("warm, no time: {most} requests at most, with {holders} blocks that may hold the trace");

    // They are read beside each other: all are asked before any has answered.
    // Of those that only look as if they held it, statistics say that they do not.
    let fresh = engine(&store).await;
    lookup(&fresh, u128::MAX, None).await;
    store.clear_log();
    store.rule(|asked| if asked.ends_with(".parquet") { Fault::Stall } else { Fault::None });
    let all_asked = async {
        while store.count(Kind::Get, ".parquet") < 3 {
            tokio::task::yield_now().await;
        }
        store.heal();
        store.go_on();
    };
    let (spans, ()) = tokio::join!(lookup(&fresh, LONG, None), all_asked);
    assert_eq!(spans, 3);
    store.clear_log();

    // With a time, only the blocks of that time.
    let other = engine(&store).await;
    assert_eq!(lookup(&other, first[600], hour(600)).await, 1);
    assert_eq!((requests(Kind::Get, ".side"), requests(Kind::Get, ".parquet")), (1, 1));
    // A trace that goes on is followed to its end.
    store.clear_log();
    assert_eq!(lookup(&engine(&store).await, LONG, hour(0)).await, 3);
    assert!(requests(Kind::Get, ".side") <= 5, "{}", requests(Kind::Get, ".side"));
    // A time in which it is not.
    assert_eq!(lookup(&other, first[600], hour(300)).await, 0);
    // Without an index, a part that nothing reaches is found where the filter of its block is known.
    assert_eq!(lookup(&engine(&store).await, APART, hour(0)).await, 1);
    assert_eq!(lookup(&cold, APART, hour(0)).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_few_blocks_beside_the_time_all_are_asked() {
    let (memory, _) = stored().await;
    // All but the last fifty are in an index.
    index(&memory, &[950]).await;
    let store = TestStore::over(memory);
    let engine = engine(&store).await;
    assert_eq!(lookup(&engine, APART, hour(APART_HOUR)).await, 2);
    let opened = store.count(Kind::Get, ".side");
    assert!((52..=56).contains(&opened), "two that hold it and those in no index: {opened}");
}

/// Indexes over the first blocks of the table, so many each.
async fn index(memory: &InMemory, sizes: &[usize]) {
    let storage = open(&TestStore::over(memory.clone())).await;
    let snapshot = storage.table(&tenant()).await.unwrap().snapshot();
    let mut blocks = snapshot.blocks.iter();
    for size in sizes {
        let mut builder = IndexBuilder::default();
        for entry in blocks.by_ref().take(*size) {
            let number = builder.block(entry);
            let block = storage.open_block(&tenant(), entry).await.unwrap();
            let data = block.read(&[0..entry.size_bytes]).await.unwrap().remove(0);
            let mut traces = vec![];
            for records in ParquetRecordBatchReaderBuilder::try_new(data).unwrap().build().unwrap() {
                let records = records.unwrap();
                let ids = records.column_by_name("trace_id").unwrap().as_fixed_size_binary();
                traces.extend(ids.iter().flatten().filter_map(TraceId::from_slice));
            }
            traces.dedup();
            traces.iter().for_each(|id| builder.trace(number, id));
        }
        storage.put_trace_index(&tenant(), builder).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_indexes_a_trace_among_a_thousand_blocks_costs_three_reads_one_after_the_other() {
    let (memory, first) = stored().await;
    let sizes = [400, 300, 200, 100];
    index(&memory, &sizes).await;
    let store = TestStore::over(memory.clone());
    let requests = |kind, part: &str| store.count(kind, part);

    // Nothing passes but in three rounds: a range of each index, the sidecar of the one block, its rows.
    let cold = engine(&store).await;
    store.rule(|_| Fault::Stall);
    let rounds = async {
        for (part, number) in [("_index/", sizes.len()), (".side", 1), (".parquet", 1)] {
            while requests(Kind::Get, part) < number {
                tokio::task::yield_now().await;
            }
            if part == ".parquet" {
                store.go_away();
            }
            store.go_on();
        }
    };
    let (spans, ()) = tokio::join!(lookup(&cold, first[600], None), rounds);
    assert_eq!(spans, 1);
    assert_eq!(store.log().len(), sizes.len() + 2, "{:?}", store.log());
    println!("cold, no time: {} ranges of indexes with {} bytes, 1 sidecar, 1 read of data", sizes.len(), store.bytes(Kind::Get, "_index/"));
    store.heal();

    // Ranges that were read stay in memory; here each index has one.
    let mut most = 0;
    for trace in first.iter().step_by(41) {
        store.clear_log();
        assert_eq!(lookup(&cold, *trace, None).await, 1);
        most = most.max(store.log().len());
    }
    println!("warm, no time: {most} requests at most");
    // A sidecar and rows.
    assert!(most <= 2, "{most}");

    // With a time, the blocks of that time, which are too few to ask an index, and then the indexes of all others.
    let other = engine(&store).await;
    assert_eq!(lookup(&other, first[600], hour(600)).await, 1);
    assert_eq!((requests(Kind::Get, "_index/"), requests(Kind::Get, ".side"), requests(Kind::Get, ".parquet")), (sizes.len(), 1, 1));
    // So parts are found that nothing in the time reaches.
    let fresh = engine(&store).await;
    assert_eq!(lookup(&fresh, APART, hour(0)).await, 2);
    assert!(requests(Kind::Get, ".side") <= 4, "{}", requests(Kind::Get, ".side"));
    // They are the trace's though the time lies between them, and not where it lies beside.
    assert_eq!(lookup(&engine(&store).await, APART, hour(100)).await, 2);
    assert_eq!(lookup(&engine(&store).await, APART, hour(900)).await, 0);

    // Of traces that are nowhere, hardly any opens a block.
    let mut rng = StdRng::seed_from_u64(19);
    let fresh = engine(&store).await;
    store.clear_log();
    for _ in 0..2_000 {
        assert_eq!(lookup(&fresh, rng.random(), None).await, 0);
    }
    let opened = requests(Kind::Get, ".side");
    println!("{opened} blocks opened for 2,000 traces that are nowhere");
    assert!(opened <= 10, "{opened}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_costs_time_at_the_worst_and_never_an_answer() {
    let (memory, first) = stored().await;
    // The last hundred blocks are in no index.
    index(&memory, &[600, 300]).await;
    for fault in [Fault::Before, Fault::Hidden, Fault::Flip, Fault::Short] {
        for while_opening in [true, false] {
            let store = TestStore::over(memory.fork());
            let rule = move |asked: &test_stores::Asked| if asked.key.as_ref().contains("_index") { fault } else { Fault::None };
            if while_opening {
                store.rule(rule);
            }
            let engine = engine(&store).await;
            store.rule(rule);
            for block in [0, 300, 650, 950] {
                assert_eq!(lookup(&engine, first[block], None).await, 1, "{fault:?}");
            }
            assert_eq!(lookup(&engine, LONG, None).await, 3, "{fault:?}");
            assert_eq!(lookup(&engine, u128::MAX, None).await, 0, "{fault:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_thousand_filters_few_are_wrong() {
    let (memory, first) = stored().await;
    let filters = filters(&TestStore::over(memory)).await;
    let mut rng = StdRng::seed_from_u64(18);
    let absent: Vec<TraceId> = (0..4_000).map(|_| TraceId(rng.random::<u128>().to_be_bytes())).collect();
    let mut wrong = 0;
    for (open, first) in filters.iter().zip(&first) {
        assert!(open.sidecar().trace_filter.contains(&TraceId(first.to_be_bytes())));
        wrong += absent.iter().filter(|id| open.sidecar().trace_filter.contains(id)).count();
    }
    let share = wrong as f64 / (absent.len() * filters.len()) as f64;
    println!("{:.3} % false positives", share * 100.0);
    assert!(share <= 0.005, "{share}");
}
