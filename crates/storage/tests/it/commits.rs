//! Commits: all or nothing, exactly once, whoever races and whatever the store answers.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use object_store::{ObjectStore, memory::InMemory};
use proptest::prelude::*;
use storage::{Commit, Outcome, Snapshot, StorageError};
use test_stores::{Fault, Kind, TestStore};

use crate::fixture::{Place, entry, storage_over, tenant};

fn flush(numbers: impl IntoIterator<Item = u128>, transaction: Option<(&str, i64)>) -> Commit {
    Commit {
        adds: numbers.into_iter().map(entry).collect(),
        transaction: transaction.map(|(app, version)| (app.to_owned(), version)),
        operation: "flush",
        ..Commit::default()
    }
}

fn numbers(snapshot: &Snapshot) -> Vec<u128> {
    snapshot.blocks.iter().map(|block| block.id.0).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixteen_writers_lose_and_double_nothing() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let writers: Vec<_> = (0..16_u128)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                // A process of its own: nothing shared but the store.
                let table = storage_over(&store).await.table(&tenant()).await.unwrap();
                for round in 0..8 {
                    let app = format!("ingester-{writer}");
                    let commit = flush([writer * 100 + round], Some((&app, round as i64)));
                    assert_eq!(table.commit(commit).await.unwrap().outcome, Outcome::Applied);
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let snapshot = storage_over(&store).await.table(&tenant()).await.unwrap().snapshot();
    let expected: BTreeSet<u128> = (0..16).flat_map(|w| (0..8).map(move |r| w * 100 + r)).collect();
    assert_eq!(numbers(&snapshot), expected.into_iter().collect::<Vec<_>>());
    assert_eq!(snapshot.version, 16 * 8 - 1, "one version per commit");
    assert!((0..16).all(|w| snapshot.transactions[&format!("ingester-{w}")] == 7));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_compactions_of_one_block_one_wins() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    for round in 0..20_u128 {
        let base = round * 10;
        let table = storage_over(&store).await.table(&tenant()).await.unwrap();
        let before = table.commit(flush([base], None)).await.unwrap().snapshot;
        let input = before.block(ulid::Ulid(base)).unwrap().clone();
        let compactions: Vec<_> = (1..=4)
            .map(|number| {
                let (store, input) = (store.clone(), input.clone());
                tokio::spawn(async move {
                    let table = storage_over(&store).await.table(&tenant()).await.unwrap();
                    let commit = Commit { removes: vec![input], operation: "compact", ..flush([base + number], None) };
                    table.commit(commit).await
                })
            })
            .collect();
        let mut won = 0;
        for compaction in compactions {
            match compaction.await.unwrap() {
                Ok(_) => won += 1,
                Err(StorageError::Conflict { detail, .. }) => assert!(detail.contains(&input.id.to_string()), "{detail}"),
                Err(e) => panic!("{e:?}"),
            }
        }
        assert_eq!(won, 1);
        let after = table.refresh().await.unwrap();
        assert_eq!(after.blocks.len(), before.blocks.len(), "one for one");
    }
}

#[tokio::test]
async fn a_transaction_happens_once() {
    for place in Place::all().await {
        let table = place.open().await.table(&tenant()).await.unwrap();
        assert_eq!(table.commit(flush([1], Some(("ingester-0", 5)))).await.unwrap().outcome, Outcome::Applied);
        for (number, version) in [(1, 5), (2, 5), (3, 4)] {
            let repeated = table.commit(flush([number], Some(("ingester-0", version)))).await.unwrap();
            assert_eq!(repeated.outcome, Outcome::AlreadyCommitted);
            assert_eq!(numbers(&repeated.snapshot), [1]);
        }
        // Another application counts for itself; and a restart remembers.
        let table = place.open().await.table(&tenant()).await.unwrap();
        assert_eq!(table.commit(flush([4], Some(("ingester-1", 1)))).await.unwrap().outcome, Outcome::Applied);
        assert_eq!(table.commit(flush([1], Some(("ingester-0", 5)))).await.unwrap().outcome, Outcome::AlreadyCommitted);
        assert_eq!(table.snapshot().transactions["ingester-0"], 5);
        assert_eq!(table.snapshot().version, 1, "{}", place.name());
    }
}

#[tokio::test]
async fn adding_what_is_there_is_a_conflict() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let table = storage_over(&store).await.table(&tenant()).await.unwrap();
    table.commit(flush([1], None)).await.unwrap();
    assert!(matches!(table.commit(flush([2, 1], None)).await, Err(StorageError::Conflict { .. })));
    assert_eq!(numbers(&table.refresh().await.unwrap()), [1], "nothing of it was applied");
}

#[tokio::test]
async fn refresh_sees_other_writers_and_never_goes_back() {
    for place in Place::all().await {
        let reader = place.open().await.table(&tenant()).await.unwrap();
        let writer = place.open().await.table(&tenant()).await.unwrap();
        assert_eq!(reader.refresh().await.unwrap().version, -1);
        let mut seen = -1;
        // Gaps of many sizes between two looks.
        for (step, gap) in [1_u128, 2, 0, 5, 40].into_iter().enumerate() {
            for number in 0..gap {
                writer.commit(flush([step as u128 * 100 + number], None)).await.unwrap();
            }
            let old = reader.snapshot();
            assert_eq!(old.version, seen, "a snapshot does not change by itself");
            seen += gap as i64;
            assert_eq!(reader.refresh().await.unwrap().version, seen, "{}", place.name());
            assert_eq!(reader.snapshot().blocks, writer.snapshot().blocks);
        }
    }
}

#[tokio::test]
async fn a_refresh_without_news_costs_one_request() {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let counting = TestStore::with_rule(memory, |_| Fault::None);
    let store: Arc<dyn ObjectStore> = counting.clone();
    let table = storage_over(&store).await.table(&tenant()).await.unwrap();
    table.commit(flush([1], None)).await.unwrap();
    let before = counting.count(Kind::Get, "_delta_log");
    table.refresh().await.unwrap();
    assert_eq!(counting.count(Kind::Get, "_delta_log"), before + 1);
}

#[tokio::test]
async fn an_answer_that_lies_about_a_write_is_seen_through() {
    for lie in [Fault::After, Fault::Exists, Fault::Before] {
        for transaction in [None, Some(("ingester-0", 1))] {
            let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let mut lies = 2;
            let store: Arc<dyn ObjectStore> = TestStore::with_rule(memory.clone(), move |asked| {
                if asked.kind == Kind::Put && asked.ends_with(".json") && lies > 0 {
                    lies -= 1;
                    return lie;
                }
                Fault::None
            });
            let table = storage_over(&store).await.table(&tenant()).await.unwrap();
            let committed = table.commit(flush([1], transaction)).await.unwrap();
            assert_eq!(committed.outcome, Outcome::Applied, "{lie:?}");
            table.commit(flush([2], None)).await.unwrap();
            let snapshot = storage_over(&memory).await.table(&tenant()).await.unwrap().snapshot();
            assert_eq!(numbers(&snapshot), [1, 2], "{lie:?}");
            assert_eq!(snapshot.version, 1, "{lie:?}: no version was written twice");
        }
    }
}

#[tokio::test]
async fn a_commit_that_arrived_unseen_is_known_again_by_its_transaction() {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    // The write is done, its answer is lost, and looking fails too: the caller hears of a failure.
    let broken = Arc::new(AtomicUsize::new(0));
    let switch = broken.clone();
    let store: Arc<dyn ObjectStore> = TestStore::with_rule(memory.clone(), move |asked| {
        let log = asked.ends_with("00000.json");
        match asked.kind {
            Kind::Put if log && switch.load(Ordering::SeqCst) == 0 => {
                switch.store(1, Ordering::SeqCst);
                Fault::After
            }
            Kind::Get if log && switch.load(Ordering::SeqCst) == 1 => Fault::Before,
            _ => Fault::None,
        }
    });
    let table = storage_over(&store).await.table(&tenant()).await.unwrap();
    let error = table.commit(flush([1], Some(("ingester-0", 1)))).await.unwrap_err();
    assert_eq!(error.kind(), model::ErrorKind::Unavailable);
    broken.store(2, Ordering::SeqCst);
    let again = table.commit(flush([1], Some(("ingester-0", 1)))).await.unwrap();
    assert_eq!(again.outcome, Outcome::AlreadyCommitted);
    assert_eq!(numbers(&again.snapshot), [1]);
}

#[tokio::test]
async fn a_store_that_is_down_is_given_up_after_a_few_tries() {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let counting = TestStore::with_rule(memory, |asked| if asked.kind == Kind::Put { Fault::Before } else { Fault::None });
    let store: Arc<dyn ObjectStore> = counting.clone();
    let table = storage_over(&store).await.table(&tenant()).await.unwrap();
    assert!(matches!(table.commit(flush([1], None)).await, Err(StorageError::Store { .. })));
    assert_eq!(counting.count(Kind::Put, ".json"), 3);
}

#[derive(Clone, Debug)]
enum Step {
    Flush { writer: usize, fate: Fault },
    Compact { writer: usize, fate: Fault },
    Refresh { writer: usize },
    Restart { writer: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let fate = prop_oneof![
        4 => Just(Fault::None),
        1 => Just(Fault::Before),
        1 => Just(Fault::After),
        1 => Just(Fault::Exists),
    ];
    let writer = 0..3_usize;
    prop_oneof![
        4 => (writer.clone(), fate.clone()).prop_map(|(writer, fate)| Step::Flush { writer, fate }),
        2 => (writer.clone(), fate).prop_map(|(writer, fate)| Step::Compact { writer, fate }),
        1 => writer.clone().prop_map(|writer| Step::Refresh { writer }),
        1 => writer.prop_map(|writer| Step::Restart { writer }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    /// Three writers with views of different age, and a store whose answers lie, against a set in memory.
    #[test]
    fn the_table_is_the_set_of_what_was_committed(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let fate = Arc::new(parking_lot::Mutex::new(Fault::None));
            let next = fate.clone();
            let store: Arc<dyn ObjectStore> = TestStore::with_rule(Arc::new(InMemory::new()), move |asked| {
                if asked.kind == Kind::Put && asked.ends_with(".json") {
                    return std::mem::replace(&mut *next.lock(), Fault::None);
                }
                Fault::None
            });
            let config = || storage::StorageConfig {
                table: storage::TableConfig { checkpoint_commits: 3, ..storage::TableConfig::default() },
                ..storage::StorageConfig::default()
            };
            let mut tables = Vec::new();
            for _ in 0..3 {
                tables.push(crate::fixture::storage_with(&store, config()).await.table(&tenant()).await.unwrap());
            }
            let mut expected = BTreeSet::new();
            let mut number = 0;
            for step in steps {
                number += 1;
                match step {
                    Step::Flush { writer, fate: verdict } => {
                        *fate.lock() = verdict;
                        let outcome = tables[writer].commit(flush([number], None)).await.unwrap().outcome;
                        assert_eq!(outcome, Outcome::Applied);
                        expected.insert(number);
                    }
                    Step::Compact { writer, fate: verdict } => {
                        // The oldest block that this writer believes in.
                        let Some(oldest) = tables[writer].snapshot().blocks.first().cloned() else { continue };
                        *fate.lock() = verdict;
                        let commit = Commit { removes: vec![oldest.clone()], operation: "compact", ..flush([number], None) };
                        match tables[writer].commit(commit).await {
                            Ok(_) => {
                                assert!(expected.remove(&oldest.id.0), "removed twice");
                                expected.insert(number);
                            }
                            Err(StorageError::Conflict { .. }) => assert!(!expected.contains(&oldest.id.0)),
                            Err(e) => panic!("{e:?}"),
                        }
                        *fate.lock() = Fault::None;
                    }
                    Step::Refresh { writer } => {
                        let snapshot = tables[writer].refresh().await.unwrap();
                        assert_eq!(numbers(&snapshot), expected.iter().copied().collect::<Vec<_>>());
                    }
                    Step::Restart { writer } => {
                        let storage = crate::fixture::storage_with(&store, config()).await;
                        tables[writer] = storage.table(&tenant()).await.unwrap();
                        let snapshot = tables[writer].snapshot();
                        assert_eq!(numbers(&snapshot), expected.iter().copied().collect::<Vec<_>>());
                    }
                }
            }
        });
    }
}
