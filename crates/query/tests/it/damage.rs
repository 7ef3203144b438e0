//! Blocks that cannot be read: they cost themselves, and the answer says so.

use std::{num::NonZeroUsize, sync::Arc};

use block::writer::{BlockWriter, WriterOptions};
use futures::StreamExt;
use model::{ErrorKind, TraceId};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, path::Path};
use proto::{
    otlp::{resource::v1::Resource, trace::v1::Span},
    tempopb::PartialStatus,
};
use query::{
    Engine, EngineConfig, MetricsRequest, NoLiveData, Reads, SearchFilter, SearchRequest, TagScope, TagNamesRequest, TagValuesRequest,
    TraceRequest,
};
use storage::{Commit, Storage, StorageConfig};
use test_stores::{Dice, Fault, TestStore};
use ulid::Ulid;

use crate::{
    data::{BASE, Row, SECOND, attribute, text},
    places::{batch, tenant},
};

/// From now on every read of a data file or sidecar of these blocks fails.
fn down(store: &TestStore, blocks: &'static [usize]) {
    store.rule(move |asked| match blocks.iter().any(|number| asked.key.as_ref().contains(&id(*number).to_string())) {
        true => Fault::Before,
        false => Fault::None,
    });
}

const ALL: &[usize] = &[1, 2];

/// The nth block's.
fn id(number: usize) -> Ulid {
    Ulid::from_parts(number as u64, 0)
}

fn span(trace: u128, number: u64) -> Row {
    let start = BASE + number * SECOND;
    let span = Span {
        trace_id: trace.to_be_bytes().into(),
        span_id: number.to_be_bytes().into(),
        name: format!("n{number}"),
        kind: 1,
        start_time_unix_nano: start,
        end_time_unix_nano: start + SECOND,
        attributes: vec![attribute("number", text(&number.to_string()))],
        ..Default::default()
    };
    let resource = Resource { attributes: vec![attribute("service.name", text("shop"))], ..Default::default() };
    Row { resource, scope: Default::default(), span }
}

/// Trace 1 in block 1, trace 2 in block 2, trace 3 in both: two spans for each block.
async fn stored() -> Arc<TestStore> {
    let store = TestStore::new();
    let storage = Storage::with_store(Arc::clone(&store) as Arc<dyn ObjectStore>, &StorageConfig::default()).await.unwrap();
    let mut adds = vec![];
    for number in [1_usize, 2] {
        let rows = [span(number as u128, number as u64), span(3, 10 + number as u64)];
        let records = batch(&rows).records;
        let mut writer = BlockWriter::new(id(number), records.schema(), WriterOptions::default());
        writer.write(&records).unwrap();
        adds.push(storage.put_block(&tenant(), &writer.finish().unwrap()).await.unwrap());
    }
    let table = storage.table(&tenant()).await.unwrap();
    table.commit(Commit { adds, operation: "flush", ..Commit::default() }).await.unwrap();
    store
}

/// An engine that has nothing in its caches.
async fn engine(store: &Arc<TestStore>) -> Engine {
    let storage = Storage::with_store(Arc::clone(store) as Arc<dyn ObjectStore>, &StorageConfig::default()).await.unwrap();
    let config = EngineConfig { parallelism: NonZeroUsize::new(2).unwrap(), ..EngineConfig::default() };
    Engine::new(storage, Arc::new(NoLiveData), config)
}

/// The object of block 1 whose key ends so.
async fn object(store: &TestStore, end: &str) -> Path {
    let all: Vec<ObjectMeta> = store.inner.list(None).map(|meta| meta.unwrap()).collect().await;
    let of_block = |key: &Path| key.as_ref().contains(&id(1).to_string()) && key.as_ref().ends_with(end);
    all.into_iter().map(|meta| meta.location).find(of_block).unwrap()
}

async fn flip(store: &TestStore, end: &str) {
    let key = object(store, end).await;
    let mut bytes = store.inner.get(&key).await.unwrap().bytes().await.unwrap().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    store.inner.put(&key, bytes.into()).await.unwrap();
}

async fn delete(store: &TestStore, end: &str) {
    store.inner.delete(&object(store, end).await).await.unwrap();
}

fn searching() -> SearchRequest {
    SearchRequest { filter: SearchFilter::TraceQl("{ }".into()), range: None, limit: 10, spans_per_spanset: 0 }
}

/// The span counts of the traces found, by trace; and what the answer lacks.
async fn search(engine: &Engine) -> (Vec<(String, usize)>, Option<String>) {
    let reads = Arc::new(Reads::default());
    let found = engine.accounting(&reads).search(&[tenant()], searching()).await.unwrap();
    let spans = |t: &proto::tempopb::TraceSearchMetadata| t.span_sets.iter().map(|set| set.spans.len()).sum();
    let mut traces: Vec<(String, usize)> = found.traces.iter().map(|t| (t.trace_id.clone(), spans(t))).collect();
    traces.sort();
    (traces, reads.partial())
}

/// How many spans a lookup brings, and whether it is all there is.
async fn lookup(engine: &Engine, trace: u128) -> (usize, PartialStatus) {
    let request = TraceRequest { id: TraceId(trace.to_be_bytes()), range: None };
    let found = engine.trace_by_id(&[tenant()], request).await.unwrap();
    let trace = found.trace.clone().unwrap_or_default();
    let spans = trace.resource_spans.iter().flat_map(|r| &r.scope_spans).map(|s| s.spans.len()).sum();
    assert_eq!(found.status() == PartialStatus::Partial, !found.message.is_empty());
    (spans, found.status())
}

/// Everything that block 2 has, each time with a mark that block 1 is missing.
async fn check_without_block_1(engine: &Engine, what: &str, reason: &str, filter_known: bool) {
    for round in ["first", "second"] {
        let context = format!("{what}, {round} time");
        let (traces, partial) = search(engine).await;
        assert_eq!(traces, [("2".to_owned(), 1), ("3".to_owned(), 1)], "{context}");
        let partial = partial.unwrap_or_else(|| panic!("{context}: not marked"));
        assert!(partial.contains(&id(1).to_string()) && !partial.contains(&id(2).to_string()), "{context}: {partial}");

        assert_eq!(lookup(engine, 1).await, (0, PartialStatus::Partial), "{context}");
        assert_eq!(lookup(engine, 3).await, (1, PartialStatus::Partial), "{context}");
        let whole = if filter_known { PartialStatus::Complete } else { PartialStatus::Partial };
        assert_eq!(lookup(engine, 2).await, (1, whole), "{context}");

        let request = MetricsRequest {
            query: "{ } | count_over_time()".into(),
            start: BASE as i64 - 1,
            end: (BASE + 100 * SECOND) as i64,
            step: None,
            exemplars: None,
            exemplars_max: 100,
            series_max: None,
        };
        let counted = engine.query_instant(&[tenant()], request).await.unwrap();
        assert_eq!((counted.series[0].value, counted.status()), (2.0, PartialStatus::Partial), "{context}");
        assert!(counted.message.contains(&id(1).to_string()), "{context}: {}", counted.message);

        let reads = Arc::new(Reads::default());
        let request = TagValuesRequest { name: "span.number".into(), query: String::new(), range: None, limit: 0 };
        let listed = engine.accounting(&reads).tag_values(&[tenant()], request).await.unwrap();
        let values: Vec<&str> = listed.tag_values.iter().map(|v| v.value.as_str()).collect();
        assert_eq!((values, reads.partial().is_some()), (vec!["12", "2"], true), "{context}");

        let reads = Arc::new(Reads::default());
        let request = TagNamesRequest { scope: TagScope::All, query: "{ name = \"n2\" }".into(), range: None, limit: 0 };
        engine.accounting(&reads).tag_names(&[tenant()], request).await.unwrap();
        assert!(reads.partial().is_some(), "{context}");
    }
    let count = engine.blocks_broken().into_iter().find(|(name, _)| *name == reason);
    assert!(count.is_some_and(|(_, count)| count > 0), "{what}: {:?}", engine.blocks_broken());
}

#[tokio::test]
async fn a_flipped_bit_costs_its_block() {
    let store = stored().await;
    flip(&store, ".parquet").await;
    check_without_block_1(&engine(&store).await, "a flipped bit", "corrupt", true).await;
}

#[tokio::test]
async fn a_deleted_file_costs_its_block() {
    let store = stored().await;
    delete(&store, ".parquet").await;
    check_without_block_1(&engine(&store).await, "a deleted file", "missing", true).await;
}

#[tokio::test]
async fn a_block_without_sidecar_and_data_is_missed() {
    let store = stored().await;
    delete(&store, ".side").await;
    flip(&store, ".parquet").await;
    check_without_block_1(&engine(&store).await, "no sidecar, damaged data", "corrupt", false).await;
}

#[tokio::test]
async fn a_broken_sidecar_alone_costs_nothing() {
    for broken in ["flipped", "deleted"] {
        let store = stored().await;
        match broken {
            "flipped" => flip(&store, ".side").await,
            _ => delete(&store, ".side").await,
        }
        let (traces, partial) = search(&engine(&store).await).await;
        assert_eq!(traces, [("1".to_owned(), 1), ("2".to_owned(), 1), ("3".to_owned(), 2)], "{broken}");
        assert_eq!(partial, None, "{broken}");
    }
}

#[tokio::test]
async fn a_store_that_gives_one_block_only_gives_a_partial_answer() {
    let store = stored().await;
    let engine = engine(&store).await;
    down(&store, &[1]);
    let (traces, partial) = search(&engine).await;
    assert_eq!(traces, [("2".to_owned(), 1), ("3".to_owned(), 1)]);
    assert!(partial.is_some());
    // It is asked again by the next query.
    store.heal();
    let (traces, partial) = search(&engine).await;
    assert_eq!((traces.len(), partial), (3, None));
}

#[tokio::test]
async fn a_store_that_gives_nothing_is_an_error_to_try_again() {
    let store = stored().await;
    let engine = engine(&store).await;
    down(&store, ALL);
    let error = engine.search(&[tenant()], searching()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(error.message.contains("cannot be reached") && error.message.contains("as the test wants it"), "{error}");
    store.heal();
    let (traces, partial) = search(&engine).await;
    assert_eq!((traces.len(), partial), (3, None));
}

/// What queries make of a bit that flipped anywhere in the store: the answer of before, one that says what it lacks, or
/// none.
#[tokio::test]
async fn no_flipped_bit_makes_a_wrong_answer() {
    let well = stored().await;
    let whole = search(&engine(&well).await).await;
    let listed: Vec<ObjectMeta> = well.inner.list(None).map(|meta| meta.unwrap()).collect().await;
    let (mut same, mut partial, mut refused) = (0, 0, 0);
    let mut dice = Dice::new(11);
    for _ in 0..600 {
        let key = &listed[dice.below(listed.len())].location;
        let mut bytes = well.inner.get(key).await.unwrap().bytes().await.unwrap().to_vec();
        let bit = dice.flip(&mut bytes);
        let context = format!("bit {bit} of {key}");
        let store = TestStore::over(well.inner.fork());
        store.inner.put(key, bytes.into()).await.unwrap();
        let engine = engine(&store).await;
        let reads = Arc::new(Reads::default());
        match engine.accounting(&reads).search(&[tenant()], searching()).await {
            Err(error) => {
                assert!(matches!(error.kind, ErrorKind::Corrupt | ErrorKind::Internal), "{context}: {error}");
                refused += 1;
            }
            Ok(_) if reads.partial().is_some() => {
                check_without_one(&engine, &whole.0, &context).await;
                partial += 1;
            }
            Ok(_) => {
                assert_eq!(search(&engine).await, whole, "{context}");
                assert_eq!(lookup(&engine, 3).await, (2, PartialStatus::Complete), "{context}");
                same += 1;
            }
        }
    }
    println!("{same} the same, {partial} partial, {refused} refused");
    assert!(same > 0 && partial > 0 && refused > 0);
}

/// Fewer traces or spans than there are, and none that is not there.
async fn check_without_one(engine: &Engine, whole: &[(String, usize)], context: &str) {
    for (trace, spans) in search(engine).await.0 {
        let there = whole.iter().find(|(id, _)| *id == trace).unwrap_or_else(|| panic!("{context}: {trace}"));
        assert!(spans <= there.1, "{context}: {trace}");
    }
}
