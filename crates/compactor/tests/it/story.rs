//! The life of a span, cut off at every write: flush, commit, checkpoint, compaction, retention, deletion.
//!
//! Each step of it is made again and again, and each time the process ends at another write, or only that write fails;
//! in both cases once before the write arrived and once after. Then a new process looks, and brings the work to its end.
//! A ledger says what was acknowledged: of that nothing is missing, nothing is there twice, and what retention deleted
//! does not come back.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::ErrorKind,
    path::Path,
    sync::Arc,
    time::Duration,
};

use arrow::array::AsArray;
use block::schema;
use compactor::{Compactor, CompactorConfig, Retention, Retentions, Rule};
use futures::{StreamExt, TryStreamExt, stream};
use ingester::{Ingester, IngesterConfig};
use model::TenantId;
use object_store::{ObjectStore, memory::InMemory};
use proto::otlp::{resource::v1::Resource, trace::v1::Span};
use query::LiveData;
use storage::{Backend, Storage, StorageConfig, TableConfig};
use tempfile::TempDir;
use test_stores::{Outage, TestStore};
use tokio_util::sync::CancellationToken;

use crate::{
    fixture::{LATER_UNIX_MS, eager, engine, rows_of},
    spans::{BASE, Row, SECOND, attribute, request, text},
};

const HOUR: u64 = 3_600 * SECOND;
const DAY_MS: u64 = 86_400_000;
const DAY: Duration = Duration::from_secs(86_400);
const TENANTS: [&str; 2] = ["one", "two"];
const WINDOWS: u64 = 2;
/// Flushes, and requests per tenant.
const FLUSHES: u64 = 4;
const POINTS_AT_ONCE: usize = 16;
/// Traces of two spans in each request.
const TRACES: u64 = 6;

/// What is left of a process that ended: the store and the log.
struct Left {
    store: InMemory,
    log: TempDir,
}

impl Left {
    fn copy(&self) -> Self {
        let log = tempfile::tempdir().expect("a folder");
        for file in std::fs::read_dir(self.log.path()).expect("the log") {
            let path = file.expect("a file").path();
            if path.extension().is_some_and(|end| end == "wal") {
                match std::fs::copy(&path, log.path().join(path.file_name().expect("a name"))) {
                    // Work that the process began goes on: what the table names is deleted meanwhile.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    copied => drop(copied.expect("a copy")),
                }
            }
        }
        Self { store: self.store.fork(), log }
    }
}

fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).expect("a tenant's name")
}

/// Every commit is followed by a checkpoint.
async fn open(store: &Arc<TestStore>) -> Storage {
    open_with(store, 0).await
}

/// The log is cleaned by a sweep unless `log_kept_ms` is 0.
async fn open_with(store: &Arc<TestStore>, log_kept_ms: u64) -> Storage {
    let table = TableConfig { checkpoint_commits: 1, log_kept_ms };
    let config = StorageConfig { backend: Backend::S3, table, ..StorageConfig::default() };
    let store: Arc<dyn ObjectStore> = store.clone();
    Storage::with_store(store, &config).await.expect("a store")
}

/// An ingester that cuts when it is told to.
async fn start(storage: &Storage, log: &Path) -> Ingester {
    let config = IngesterConfig {
        wal_dir: log.to_owned(),
        wal_fsync: false,
        wal_disk_free_min: bytesize::ByteSize::b(0),
        live_age_max_ms: 3_600_000,
        ..IngesterConfig::default()
    };
    Ingester::open(config, storage.clone()).await.expect("an ingester")
}

fn compaction(storage: &Storage, inputs_max: usize) -> Compactor {
    Compactor::new(CompactorConfig { inputs_max, zstd_level: 0, last_zstd_level: 0, ..eager() }, storage.clone())
}

/// Traces with an odd number go after a day.
fn retention(storage: &Storage) -> Compactor {
    let rule = Rule { query: Some("{ span.kept = \"yes\" }".to_owned()), sample: 1.0, keep: None };
    let retentions = Retentions { default: Retention { rules: vec![rule], keep: Some(DAY) }, ..Retentions::default() };
    // Blocks too large to be merged.
    Compactor::with_retention(CompactorConfig { block_bytes_max: 1, zstd_level: 0, last_zstd_level: 0, ..eager() }, storage.clone(), engine(storage), retentions)
}

/// Traces over all windows, of one request.
fn rows_of_request(number: u64) -> Vec<Row> {
    let span = |trace: u64, child: u64| {
        let start = BASE / HOUR * HOUR + trace % WINDOWS * HOUR + trace * SECOND + child;
        Span {
            trace_id: u128::from(trace + 1).to_be_bytes().to_vec(),
            span_id: (trace * 2 + child + 1).to_be_bytes().to_vec(),
            name: "step".to_owned(),
            kind: 1,
            start_time_unix_nano: start,
            end_time_unix_nano: start + SECOND,
            attributes: vec![attribute("kept", text(if trace % 2 == 0 { "yes" } else { "no" }))],
            ..Span::default()
        }
    };
    let resource = || Resource { attributes: vec![attribute("service.name", text("shop"))], ..Resource::default() };
    let traces = number * TRACES..(number + 1) * TRACES;
    let spans = traces.flat_map(|trace| [span(trace, 0), span(trace, 1)]);
    spans.map(|span| Row { resource: resource(), scope: Default::default(), span }).collect()
}

/// (tenant, span id) of what is acknowledged.
type Ledger = BTreeSet<(String, u64)>;

fn acknowledged() -> Ledger {
    let spans = 1..=FLUSHES * TRACES * 2;
    TENANTS.iter().flat_map(|name| spans.clone().map(|span| ((*name).to_owned(), span))).collect()
}

/// What stays after retention.
fn kept() -> Ledger {
    acknowledged().into_iter().filter(|(_, span)| (span - 1) / 2 % 2 == 0).collect()
}

/// What a new process finds, live and in the tables, as a query would. Panics if it finds anything twice.
async fn found(left: &Left, context: &str) -> Ledger {
    let store = TestStore::over(left.store.clone());
    let storage = open(&store).await;
    let copy = left.copy();
    // Without a log there is nothing live.
    let ingester = match std::fs::read_dir(copy.log.path()).expect("a folder").next() {
        Some(_) => Some(start(&storage, copy.log.path()).await),
        None => None,
    };
    let mut counts: BTreeMap<(String, u64), usize> = BTreeMap::new();
    for name in TENANTS {
        let live = ingester.as_ref().map(|ingester| ingester.live(&tenant(name))).unwrap_or_default();
        let snapshot = storage.table(&tenant(name)).await.expect("a table").refresh().await.expect("its newest version");
        let mut count = |records: &arrow::array::RecordBatch| {
            let ids = records.column_by_name(schema::SPAN_ID).expect("span ids").as_fixed_size_binary();
            for id in ids.iter().flatten() {
                let id = u64::from_be_bytes(id.try_into().expect("eight bytes"));
                *counts.entry((name.to_owned(), id)).or_default() += 1;
            }
        };
        for generation in live {
            let committed = snapshot.transactions.get(&generation.ingester).copied().unwrap_or(0);
            if generation.segment.is_some_and(|segment| segment as i64 > committed) {
                generation.batches.iter().for_each(|batch| count(&batch.records));
            }
        }
        for block in &snapshot.blocks {
            rows_of(&left.store, name, &block.path).await.iter().for_each(&mut count);
        }
    }
    assert!(counts.values().all(|count| *count == 1), "{context}: {counts:?}");
    counts.into_keys().collect()
}

/// Rounds until nothing is left to do.
async fn settle(compactor: &Compactor, now_unix_ms: u64, context: &str) {
    for _ in 0..64 {
        let round = compactor.round(now_unix_ms, &CancellationToken::new()).await;
        assert!(round.failures.is_empty(), "{context}: {:?}", round.failures);
        if !round.more {
            return;
        }
    }
    panic!("{context}: no end");
}

/// A step of the story.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Flush,
    /// Of so many blocks at once.
    Compact(usize),
    Retain,
    Sweep,
}

impl Step {
    async fn open(self, store: &Arc<TestStore>) -> Storage {
        open_with(store, u64::from(self == Self::Sweep)).await
    }

    /// Does it once, as far as the store lets it.
    async fn act(self, storage: &Storage, log: &Path, now_unix_ms: u64) {
        let stop = CancellationToken::new();
        match self {
            Self::Flush => drop(start(storage, log).await.flush().await),
            Self::Compact(inputs_max) => {
                let compactor = compaction(storage, inputs_max);
                while compactor.round(now_unix_ms, &stop).await.more {}
            }
            Self::Retain => drop(retention(storage).round(now_unix_ms, &stop).await),
            Self::Sweep => compaction(storage, 2).sweep(now_unix_ms + 2 * DAY_MS, &stop).await,
        }
    }

    /// A new process does all that is left to do until this step is over.
    async fn finish(self, left: &Left, now_unix_ms: u64, context: &str) {
        let storage = self.open(&TestStore::over(left.store.clone())).await;
        match self {
            Self::Flush => {
                let ingester = start(&storage, left.log.path()).await;
                ingester.flush().await.unwrap_or_else(|error| panic!("{context}: {error}"));
            }
            Self::Compact(inputs_max) => settle(&compaction(&storage, inputs_max), now_unix_ms, context).await,
            Self::Retain => settle(&retention(&storage), now_unix_ms, context).await,
            Self::Sweep => {
                compaction(&storage, 2).sweep(now_unix_ms + 2 * DAY_MS, &CancellationToken::new()).await;
                self.nothing_is_left_over(&storage, &left.store, context).await;
            }
        }
    }

    /// Two files for each block, no beginning of a log, and no claim.
    async fn nothing_is_left_over(self, storage: &Storage, store: &InMemory, context: &str) {
        let objects: Vec<_> = store.list(None).try_collect().await.expect("a listing");
        let names: Vec<String> = objects.into_iter().map(|object| object.location.to_string()).collect();
        let count = |part: &str| names.iter().filter(|name| name.contains(part)).count();
        let mut blocks = 0;
        for name in TENANTS {
            blocks += storage.table(&tenant(name)).await.expect("a table").snapshot().blocks.len();
        }
        assert_eq!((count("_side/"), count("_claims/")), (blocks, 0), "{context}: {names:?}");
        assert_eq!(count(".parquet") - count(".checkpoint.parquet"), blocks, "{context}: {names:?}");
        assert_eq!(count("_delta_log/00000000000000000000.json"), 0, "{context}: {names:?}");
    }
}

/// Cuts `step` off at every write, each time from `before` on. How often that was.
async fn cut_off(step: Step, before: &Left, stays: &Ledger) -> usize {
    let there = &found(before, "before").await;
    // How many writes there are, where none fails.
    let (left, well) = (before.copy(), TestStore::over(before.store.fork()));
    step.act(&step.open(&well).await, left.log.path(), LATER_UNIX_MS).await;
    let points = Outage::ALL.into_iter().flat_map(|outage| (0..well.writes()).map(move |write| (outage, write)));
    // Side by side, since a flush that failed waits before it tries again.
    let cut = stream::iter(points).map(|(outage, write)| point(step, before, there, stays, outage, write));
    cut.buffer_unordered(POINTS_AT_ONCE).count().await
}

async fn point(step: Step, before: &Left, there: &Ledger, stays: &Ledger, outage: Outage, write: usize) {
    let context = format!("{step:?}, {outage:?} at write {write}");
    let left = before.copy();
    let store = TestStore::over(left.store.clone());
    let storage = step.open(&store).await;
    store.fail_at_write(write, outage);
    step.act(&storage, left.log.path(), LATER_UNIX_MS).await;
    assert!(store.writes() > write, "{context}: there was no such write");
    // What the process would still do with the store, it does not do.
    store.go_away();
    drop(storage);
    let log = left.copy().log;
    let left = Left { log, store: left.store };

    let between = found(&left, &context).await;
    assert!(between.is_subset(there) && between.is_superset(stays), "{context}: {between:?}");
    // A day later, when claims are over.
    step.finish(&left, LATER_UNIX_MS + DAY_MS, &context).await;
    let after = found(&left, &context).await;
    assert!(after.is_subset(&between), "{context}: came back");
    assert_eq!(after, *stays, "{context}");
}

/// The state of things after `step` without any fault.
async fn after(step: Step, before: &Left) -> Left {
    let left = before.copy();
    step.finish(&left, LATER_UNIX_MS, "without a fault").await;
    // The log of the ingester that did it may still be locked.
    left.copy()
}

#[tokio::test]
async fn a_life_may_be_cut_off_at_every_write() {
    let empty = || Left { store: InMemory::new(), log: tempfile::tempdir().expect("a folder") };
    let mut flushed = empty();
    let mut points = 0;
    for number in 0..FLUSHES {
        let storage = open(&TestStore::over(flushed.store.clone())).await;
        let ingester = start(&storage, flushed.log.path()).await;
        for name in TENANTS {
            let request = request(&rows_of_request(number));
            let pushed = ingester.push(&tenant(name), request.into()).await.expect("acknowledged");
            assert_eq!(pushed.accepted, TRACES * 2);
        }
        let log = flushed.copy().log;
        drop(ingester);
        let pushed = Left { store: flushed.store, log };
        let acknowledged = acknowledged().into_iter().filter(|(_, span)| *span <= (number + 1) * TRACES * 2).collect();
        points += cut_off(Step::Flush, &pushed, &acknowledged).await;
        flushed = after(Step::Flush, &pushed).await;
    }
    println!("{points} points in flushes");
    // From here on the log is empty.
    let flushed = Left { log: empty().log, ..flushed };
    let merged = after(Step::Compact(2), &flushed).await;
    let kept_merged = after(Step::Retain, &merged).await;
    let kept_flushed = after(Step::Retain, &flushed).await;
    let merged_at_once = after(Step::Compact(32), &flushed).await;
    let kept_merged_at_once = after(Step::Compact(32), &kept_flushed).await;
    let merged_at_once_kept = after(Step::Retain, &merged_at_once).await;
    let mut all = points;
    for (step, before, stays) in [
        (Step::Compact(2), &flushed, acknowledged()),
        (Step::Compact(32), &flushed, acknowledged()),
        (Step::Compact(32), &kept_flushed, kept()),
        (Step::Retain, &flushed, kept()),
        (Step::Retain, &merged, kept()),
        (Step::Retain, &merged_at_once, kept()),
        (Step::Sweep, &merged, acknowledged()),
        (Step::Sweep, &merged_at_once, acknowledged()),
        (Step::Sweep, &kept_merged_at_once, kept()),
        (Step::Sweep, &kept_flushed, kept()),
        (Step::Sweep, &kept_merged, kept()),
        (Step::Sweep, &merged_at_once_kept, kept()),
    ] {
        let points = cut_off(step, before, &stays).await;
        println!("{points} points in {step:?}");
        all += points;
    }
    println!("{all} points");
    assert!(all >= 2_000, "{all} points are not every write");
}
