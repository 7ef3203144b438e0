//! The log on disk: checkpoints, gaps, damage, and files of other programs.

use std::sync::Arc;

use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};
use storage::{Commit, Snapshot, Storage, StorageConfig, StorageError, TableConfig};

use crate::fixture::{Place, block, entry, storage_over, storage_with, tenant};

fn every(commits: u32) -> StorageConfig {
    StorageConfig { table: TableConfig { checkpoint_commits: commits, ..TableConfig::default() }, ..StorageConfig::default() }
}

fn log_key(name: &str) -> Path {
    Path::from(format!("team-1/traces/_delta_log/{name}"))
}

fn commit_key(version: i64) -> Path {
    log_key(&format!("{version:020}.json"))
}

/// A table of versions 0 to 12, block 3 removed again, with checkpoints at 5 and 10.
async fn table(store: &Arc<dyn ObjectStore>) -> Arc<Snapshot> {
    let table = storage_with(store, every(5)).await.table(&tenant()).await.unwrap();
    for number in 0..12_u128 {
        let transaction = Some(("ingester-0".to_owned(), number as i64));
        let adds = vec![entry(number)];
        table.commit(Commit { adds, transaction, operation: "flush", ..Commit::default() }).await.unwrap();
    }
    let removes = vec![table.snapshot().block(ulid::Ulid(3)).unwrap().clone()];
    table.commit(Commit { removes, operation: "retain", ..Commit::default() }).await.unwrap().snapshot
}

async fn reopen(store: &Arc<dyn ObjectStore>) -> Result<Arc<Snapshot>, StorageError> {
    Ok(storage_over(store).await.table(&tenant()).await?.snapshot())
}

fn assert_same(a: &Snapshot, b: &Snapshot) {
    assert_eq!((a.version, &a.blocks, &a.transactions), (b.version, &b.blocks, &b.transactions));
}

#[tokio::test]
async fn a_table_opens_from_its_checkpoint_and_the_commits_after_it() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let written = table(&store).await;
    assert_eq!((written.version, written.blocks.len()), (12, 11));
    // With all of the log, and with what the checkpoint sums up gone.
    assert_same(&reopen(&store).await.unwrap(), &written);
    for version in 0..=10 {
        store.delete(&commit_key(version)).await.unwrap();
    }
    assert_same(&reopen(&store).await.unwrap(), &written);
    // Without the hint the listing shows the checkpoint.
    store.delete(&log_key("_last_checkpoint")).await.unwrap();
    assert_same(&reopen(&store).await.unwrap(), &written);
}

/// Kept as briefly as a file system's clock lets us see, and never believed to be whole.
fn cleaned() -> StorageConfig {
    StorageConfig { table: TableConfig { checkpoint_commits: 5, log_kept_ms: 1 }, ..StorageConfig::default() }
}

async fn clean(store: &Arc<dyn ObjectStore>) -> u64 {
    let ages = storage::SweepAges { removed_ms: 900_000, orphan_ms: 86_400_000 };
    storage_with(store, cleaned()).await.sweep(&tenant(), ages, 0).await.unwrap().log_files
}

#[tokio::test]
async fn what_a_checkpoint_sums_up_is_cleaned_away_and_nothing_else() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let written = table(&store).await;
    // Without a limit, the log is kept.
    let for_ever = StorageConfig { table: TableConfig { log_kept_ms: 0, ..TableConfig::default() }, ..StorageConfig::default() };
    let ages = storage::SweepAges { removed_ms: 0, orphan_ms: 0 };
    assert_eq!(storage_with(&store, for_ever).await.sweep(&tenant(), ages, 0).await.unwrap().log_files, 0);
    // With the usual one, too: nothing here is a week older than the newest commit, whatever our clock says.
    let usual = storage_with(&store, every(5)).await;
    assert_eq!(usual.sweep(&tenant(), ages, u64::MAX / 2).await.unwrap().log_files, 0);
    while clean(&store).await == 0 {
        // Until a millisecond lies between the checkpoint and the newest commit.
        let table = storage_with(&store, every(5)).await.table(&tenant()).await.unwrap();
        table.commit(Commit { operation: "touch", ..Commit::default() }).await.unwrap();
    }
    let found = reopen(&store).await.unwrap();
    assert_eq!((&found.blocks, &found.transactions), (&written.blocks, &written.transactions));
    assert!(store.head(&commit_key(0)).await.is_err() && store.head(&commit_key(4)).await.is_err());
    assert!(store.head(&commit_key(found.version)).await.is_ok());
    // Without the hint, too, and after one more time.
    store.delete(&log_key("_last_checkpoint")).await.unwrap();
    clean(&store).await;
    assert_same(&reopen(&store).await.unwrap(), &found);
}

#[tokio::test]
async fn a_log_is_not_cleaned_behind_a_damaged_checkpoint() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let written = table(&store).await;
    for version in [5, 10] {
        store.put(&log_key(&format!("{version:020}.checkpoint.parquet")), "PAR1 no".into()).await.unwrap();
    }
    assert_eq!(clean(&store).await, 0);
    assert_same(&reopen(&store).await.unwrap(), &written);
}

/// Who was away for longer than the log is kept would find the number after its own free, and write where nobody reads.
#[tokio::test]
async fn a_writer_that_was_away_while_the_log_was_cleaned_commits_at_its_end() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    table(&store).await;
    let (writer, reader) = (storage_with(&store, cleaned()).await, storage_with(&store, cleaned()).await);
    let (writer, reader) = (writer.table(&tenant()).await.unwrap(), reader.table(&tenant()).await.unwrap());
    let away = writer.snapshot().version;
    let other = storage_with(&store, every(5)).await.table(&tenant()).await.unwrap();
    for number in 100..112_u128 {
        other.commit(Commit { adds: vec![entry(number)], operation: "flush", ..Commit::default() }).await.unwrap();
    }
    while store.head(&commit_key(away + 1)).await.is_ok() {
        other.commit(Commit { operation: "touch", ..Commit::default() }).await.unwrap();
        clean(&store).await;
    }
    let committed = writer.commit(Commit { adds: vec![entry(200)], operation: "flush", ..Commit::default() }).await.unwrap();
    assert!(committed.snapshot.version > other.snapshot().version);
    let found = reopen(&store).await.unwrap();
    assert!((100..112).chain([200]).all(|number| found.block(ulid::Ulid(number)).is_some()));
    assert!(store.head(&commit_key(away + 1)).await.is_err(), "nothing lies where it was cleaned");
    assert_same(&reader.refresh().await.unwrap(), &found);
}

#[tokio::test]
async fn a_compaction_says_that_it_changes_no_data() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let table = storage_over(&store).await.table(&tenant()).await.unwrap();
    table.commit(Commit { adds: vec![entry(1)], operation: "flush", ..Commit::default() }).await.unwrap();
    let removes = vec![table.snapshot().blocks[0].clone()];
    let merged = Commit { adds: vec![entry(2)], removes, same_rows: true, operation: "compact", ..Commit::default() };
    table.commit(merged).await.unwrap();
    for (version, change) in [(0, true), (1, false)] {
        let file = store.get(&commit_key(version)).await.unwrap().bytes().await.unwrap();
        let text = String::from_utf8(file.to_vec()).unwrap();
        assert_eq!((text.contains(r#""dataChange":true"#), text.contains(r#""dataChange":false"#)), (change, !change), "{text}");
    }
}

#[tokio::test]
async fn checkpoints_are_written_through_every_store() {
    for place in Place::all().await {
        let storage = place.open().await;
        let table = storage.table(&tenant()).await.unwrap();
        for number in 0..22_u128 {
            table.commit(Commit { adds: vec![entry(number)], operation: "flush", ..Commit::default() }).await.unwrap();
        }
        let folder = if place.name() == "s3" { "some/prefix/team-1" } else { "team-1" };
        let hint = Path::from(format!("{folder}/traces/_delta_log/_last_checkpoint"));
        let hint = storage.object_store().get(&hint).await.unwrap().bytes().await.unwrap();
        assert!(hint.starts_with(br#"{"version":20,"#), "{hint:?}");
        let again = place.open().await.table(&tenant()).await.unwrap().snapshot();
        assert_same(&again, &table.snapshot());
    }
}

#[tokio::test]
async fn a_bad_checkpoint_or_hint_is_only_slow() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let written = table(&store).await;
    for hint in ["", "{}", "not json", r#"{"version":99,"size":1}"#, r#"{"version":-4,"size":1}"#, r#"{"version":5,"size":1}"#] {
        store.put(&log_key("_last_checkpoint"), hint.into()).await.unwrap();
        assert_same(&reopen(&store).await.unwrap(), &written);
    }
    // The newest is damaged: the one before it; both: the log from its beginning.
    store.put(&log_key("_last_checkpoint"), r#"{"version":10,"size":1}"#.into()).await.unwrap();
    for version in [10, 5] {
        store.put(&log_key(&format!("{version:020}.checkpoint.parquet")), "PAR1 nonsense PAR1".into()).await.unwrap();
        assert_same(&reopen(&store).await.unwrap(), &written);
    }
}

#[tokio::test]
async fn a_gap_is_an_error_that_names_it() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    table(&store).await;
    store.delete(&commit_key(11)).await.unwrap();
    let error = reopen(&store).await.unwrap_err();
    assert!(matches!(error, StorageError::Corrupt { .. }), "{error:?}");
    assert!(error.to_string().contains("commit 11 is missing, though commit 12 is there"), "{error}");
}

#[tokio::test]
async fn a_damaged_commit_is_an_error_that_names_it() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    table(&store).await;
    let good = store.get(&commit_key(11)).await.unwrap().bytes().await.unwrap();
    for bad in [Bytes::new(), good.slice(..good.len() / 2), Bytes::from_static(b"\xff\xfe")] {
        store.put(&commit_key(11), bad.into()).await.unwrap();
        let error = reopen(&store).await.unwrap_err();
        assert!(matches!(error, StorageError::Corrupt { .. }), "{error:?}");
        assert!(error.to_string().contains(commit_key(11).as_ref()), "{error}");
    }
}

#[tokio::test]
async fn a_newer_protocol_is_refused_and_a_foreign_file_is_shown() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    table(&store).await;
    let add = r#"{"add":{"path":"part-0.parquet","partitionValues":{},"size":9,"modificationTime":1,"dataChange":true}}"#;
    store.put(&commit_key(13), add.into()).await.unwrap();
    let snapshot = reopen(&store).await.unwrap();
    assert_eq!((snapshot.version, snapshot.blocks.len()), (13, 11));
    assert_eq!(snapshot.foreign_files, ["part-0.parquet"]);
    store.put(&commit_key(14), r#"{"protocol":{"minReaderVersion":3,"minWriterVersion":7}}"#.into()).await.unwrap();
    let error = reopen(&store).await.unwrap_err();
    assert!(matches!(error, StorageError::Unsupported { .. }), "{error:?}");
}

#[tokio::test]
async fn a_block_with_new_columns_changes_the_schema_in_its_own_commit() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let storage = storage_over(&store).await;
    let mut schemas = Vec::new();
    for (version, key) in ["first.key", "first.key", "second.key"].into_iter().enumerate() {
        let entry = storage.put_block(&tenant(), &block(version as u64 * 100, 50, key)).await.unwrap();
        commit(&storage, entry).await;
        let file = store.get(&commit_key(version as i64)).await.unwrap().bytes().await.unwrap();
        schemas.push(String::from_utf8(file.to_vec()).unwrap().lines().find(|l| l.starts_with(r#"{"metaData""#)).map(str::to_owned));
    }
    assert!(schemas[0].as_ref().unwrap().contains("span.first.key"));
    assert_eq!(schemas[1], None, "nothing new, nothing said");
    let third = schemas[2].as_ref().unwrap();
    assert!(third.contains("span.first.key") && third.contains("span.second.key"));
}

async fn commit(storage: &Storage, entry: storage::BlockEntry) {
    let table = storage.table(&tenant()).await.unwrap();
    table.commit(Commit { adds: vec![entry], operation: "flush", ..Commit::default() }).await.unwrap();
}

#[tokio::test]
async fn tenants_are_those_with_a_table() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let storage = storage_over(&store).await;
    for stranger in ["wal/0001.segment", "lost+found/x", "top-level-file", "other/traces/no-log"] {
        store.put(&Path::from(stranger), "x".into()).await.unwrap();
    }
    let mut names = ["b", "a", "x!-_.*'()"].map(|name| model::TenantId::parse(name).unwrap());
    for name in &names {
        let commit = Commit { adds: vec![entry(1)], operation: "flush", ..Commit::default() };
        storage.table(name).await.unwrap().commit(commit).await.unwrap();
    }
    names.sort();
    assert_eq!(storage.tenants().await.unwrap(), names);
    // A reader of an unknown tenant does not make one.
    storage.table(&model::TenantId::parse("nobody").unwrap()).await.unwrap().refresh().await.unwrap();
    assert_eq!(storage.tenants().await.unwrap(), names);
}
