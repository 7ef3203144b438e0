//! What is deleted, and what is not.

use std::{sync::Arc, time::Duration};

use block::{promotion::PromotionPolicy, writer::WriterOptions};
use compactor::Compactor;
use futures::TryStreamExt;
use model::TenantId;
use object_store::{ObjectStore, ObjectStoreExt};
use storage::Storage;
use test_stores::TestStore;
use tokio_util::sync::CancellationToken;

use crate::{
    fixture::{blocks, eager, flush, ledger, open, settle, snapshot, tenant},
    spans::rows,
};

const MINUTE_MS: u64 = 60_000;

fn now_unix_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}

async fn objects(store: &TestStore) -> Vec<String> {
    let objects: Vec<_> = store.inner.list(None).try_collect().await.unwrap();
    objects.into_iter().map(|object| object.location.to_string()).collect()
}

async fn compacted(store: &Arc<TestStore>) -> (Storage, Compactor) {
    let storage = open(store).await;
    let all = rows(9);
    for (number, part) in all.chunks(all.len().div_ceil(3)).enumerate() {
        let made = blocks(part, number as u64 + 1, &PromotionPolicy::default(), &WriterOptions::default());
        flush(&storage, &made, number as i64 + 1).await;
    }
    let compactor = Compactor::new(eager(), storage.clone());
    settle(&compactor).await;
    (storage, compactor)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_blocks_keep_their_files_for_the_readers_of_older_snapshots() {
    let store = TestStore::new();
    let (storage, compactor) = compacted(&store).await;
    let before = objects(&store).await;
    let stop = CancellationToken::new();
    compactor.sweep(now_unix_ms() + 14 * MINUTE_MS, &stop).await;
    assert_eq!(objects(&store).await, before);
    compactor.sweep(now_unix_ms() + 16 * MINUTE_MS, &stop).await;
    let after = objects(&store).await;
    let snapshot = snapshot(&storage).await;
    let data = after.iter().filter(|name| name.ends_with(".parquet")).count();
    assert!(after.len() < before.len());
    assert_eq!(data, snapshot.blocks.len());
    ledger(&store.inner, &snapshot).await;
    assert_eq!(storage.metrics().files_swept.get() as usize, before.len() - after.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_without_a_commit_are_left_to_their_writer_for_a_day() {
    let store = TestStore::new();
    let (storage, compactor) = compacted(&store).await;
    let stop = CancellationToken::new();
    compactor.sweep(now_unix_ms() + 20 * MINUTE_MS, &stop).await;
    let before = objects(&store).await;
    let stray = &blocks(&rows(10), 99, &PromotionPolicy::default(), &WriterOptions::default())[0];
    storage.put_block(&tenant(), stray).await.unwrap();
    compactor.sweep(now_unix_ms() + 23 * 60 * MINUTE_MS, &stop).await;
    assert_eq!(objects(&store).await.len(), before.len() + 2);
    compactor.sweep(now_unix_ms() + 25 * 60 * MINUTE_MS, &stop).await;
    assert_eq!(objects(&store).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_but_blocks_is_ever_deleted() {
    let store = TestStore::new();
    let (_storage, compactor) = compacted(&store).await;
    let foreign = [
        format!("{}/traces/part-00000.snappy.parquet", tenant()),
        format!("{}/traces/2026-11-21T07/part-00001.parquet", tenant()),
        format!("{}/traces/_side/notes.txt", tenant()),
        format!("{}/other/2026-11-21T07/01ARZ3NDEKTSV4RRFFQ69G5FAV.parquet", tenant()),
        "elsewhere/2026-11-21T07/01ARZ3NDEKTSV4RRFFQ69G5FAV.parquet".to_owned(),
    ];
    for name in &foreign {
        store.inner.put(&name.as_str().into(), "mine".into()).await.unwrap();
    }
    let log = |objects: Vec<String>| objects.into_iter().filter(|name| name.contains("_delta_log")).collect::<Vec<_>>();
    let log_before = log(objects(&store).await);
    compactor.sweep(now_unix_ms() + 400 * 86_400_000, &CancellationToken::new()).await;
    let after = objects(&store).await;
    assert!(foreign.iter().all(|name| after.contains(name)));
    assert_eq!(log(after), log_before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_is_one_processs_until_it_expires() {
    let store = TestStore::new();
    let (one, other) = (open(&store).await, open(&store).await);
    let (tenant, window): (TenantId, _) = (tenant(), "2026-11-21T07");
    let ours = |outcome| match outcome {
        storage::ClaimOutcome::Ours(claim) => Some(claim),
        storage::ClaimOutcome::Taken { .. } | storage::ClaimOutcome::Declined => None,
    };
    let works = |work: &'static str| move |_: &[String]| Some(work.to_owned());
    let lasts = Duration::from_secs(60).as_millis() as u64;
    let first = ours(one.claim(&tenant, window, works("a b"), 1_000, 1_000 + lasts).await.unwrap()).expect("nobody else");
    assert!(ours(other.claim(&tenant, window, works("a b"), 2_000, 2_000 + lasts).await.unwrap()).is_none());
    assert!(ours(other.claim(&tenant, "2026-11-21T08", works("c"), 2_000, 2_000 + lasts).await.unwrap()).is_some());
    assert!(first.is_still_ours().await.unwrap());
    // Too slow: another takes over, and the first learns of it.
    let later = 1_000 + lasts + 1;
    let mut cut_off = vec![];
    let choose = |works: &[String]| {
        cut_off = works.to_vec();
        Some("a b".to_owned())
    };
    let second = ours(other.claim(&tenant, window, choose, later, later + lasts).await.unwrap()).expect("it expired");
    assert_eq!(cut_off, ["a b"]);
    assert!(!first.is_still_ours().await.unwrap());
    assert!(second.is_still_ours().await.unwrap());
    // Released together with what it took over.
    second.release().await;
    let nothing = |works: &[String]| {
        assert!(works.is_empty());
        None
    };
    let declined = one.claim(&tenant, window, nothing, later, later + lasts).await.unwrap();
    assert!(matches!(declined, storage::ClaimOutcome::Declined));
    assert!(ours(one.claim(&tenant, window, works("a b"), later, later + lasts).await.unwrap()).is_some(), "it is free");
    first.release().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_who_claim_at_once_one_gets_it() {
    let store = TestStore::new();
    for round in 0..20u64 {
        let mut tries = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let storage = open(&store).await;
            tries.spawn(async move {
                let now = round * 100;
                matches!(storage.claim(&tenant(), "w", |_| Some("a".to_owned()), now, now + 50).await.unwrap(), storage::ClaimOutcome::Ours(_))
            });
        }
        let won = tries.join_all().await.into_iter().filter(|won| *won).count();
        assert_eq!(won, 1, "in round {round}");
    }
}
