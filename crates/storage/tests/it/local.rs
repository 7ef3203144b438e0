//! The durable local store keeps the contract of an object store: it is compared with one in memory.

use std::sync::Arc;

use futures::TryStreamExt;
use object_store::{
    Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutPayload, memory::InMemory, path::Path,
};
use proptest::prelude::*;
use storage::Storage;
use tempfile::TempDir;

use crate::fixture::local_config;

#[derive(Clone, Debug)]
enum Step {
    Put(usize, Vec<u8>),
    Create(usize, Vec<u8>),
    Multipart(usize, Vec<Vec<u8>>),
    Get(usize),
    GetRange(usize, u64, u64),
    GetSuffix(usize, u64),
    Head(usize),
    Delete(usize),
    Copy(usize, usize),
    CopyIfNotExists(usize, usize),
    Rename(usize, usize),
    List(usize),
    ListFrom(usize, usize),
    ListFolder(usize),
}

/// No key is a folder of another: a file system cannot have that.
const KEYS: [&str; 7] =
    ["top", "a/1", "a/2", "a/b/1", "a/b/c/d/deep", "team-1/traces/_delta_log/00000000000000000000.json", "x y/z'!(1)*"];
const FOLDERS: [&str; 5] = ["", "a", "a/b", "team-1", "nothing"];

fn step() -> impl Strategy<Value = Step> {
    let key = 0..KEYS.len();
    let bytes = proptest::collection::vec(any::<u8>(), 0..40);
    prop_oneof![
        (key.clone(), bytes.clone()).prop_map(|(k, b)| Step::Put(k, b)),
        (key.clone(), bytes.clone()).prop_map(|(k, b)| Step::Create(k, b)),
        (key.clone(), proptest::collection::vec(bytes, 1..4)).prop_map(|(k, b)| Step::Multipart(k, b)),
        key.clone().prop_map(Step::Get),
        (key.clone(), 0..50_u64, 0..50_u64).prop_map(|(k, a, b)| Step::GetRange(k, a, b)),
        (key.clone(), 1..50_u64).prop_map(|(k, n)| Step::GetSuffix(k, n)),
        key.clone().prop_map(Step::Head),
        key.clone().prop_map(Step::Delete),
        (key.clone(), key.clone()).prop_map(|(a, b)| Step::Copy(a, b)),
        (key.clone(), key.clone()).prop_map(|(a, b)| Step::CopyIfNotExists(a, b)),
        (key.clone(), key.clone()).prop_map(|(a, b)| Step::Rename(a, b)),
        (0..FOLDERS.len()).prop_map(Step::List),
        (0..FOLDERS.len(), key).prop_map(|(f, k)| Step::ListFrom(f, k)),
        (0..FOLDERS.len()).prop_map(Step::ListFolder),
    ]
}

/// What a caller can see of an answer.
async fn answer(store: &dyn ObjectStore, step: &Step) -> String {
    let key = |k: &usize| Path::from(KEYS[*k]);
    let folder = |f: &usize| Path::from(FOLDERS[*f]);
    let shown = |result: Result<String, Error>| match result {
        Ok(text) => text,
        Err(Error::NotFound { .. }) => "not found".into(),
        Err(Error::AlreadyExists { .. }) => "already exists".into(),
        Err(_) => "error".into(),
    };
    let there = async |k: &usize| store.head(&key(k)).await.is_ok();
    let get = async |k: &usize, range: Option<GetRange>| {
        let result = store.get_opts(&key(k), GetOptions { range, ..GetOptions::default() }).await?;
        let (size, range) = (result.meta.size, result.range.clone());
        Ok(format!("{size} {range:?} {:?}", result.bytes().await?))
    };
    match step {
        Step::Put(k, bytes) => shown(store.put(&key(k), PutPayload::from(bytes.clone())).await.map(|_| "done".into())),
        Step::Create(k, bytes) => {
            shown(store.put_opts(&key(k), bytes.clone().into(), PutMode::Create.into()).await.map(|_| "done".into()))
        }
        Step::Multipart(k, parts) => {
            let upload = async {
                let mut upload = store.put_multipart(&key(k)).await?;
                for part in parts {
                    upload.put_part(part.clone().into()).await?;
                }
                upload.complete().await
            };
            shown(upload.await.map(|_| "done".into()))
        }
        Step::Get(k) => shown(get(k, None).await),
        Step::GetRange(k, from, length) => shown(get(k, Some((*from..from + length + 1).into())).await),
        Step::GetSuffix(k, bytes) => shown(get(k, Some(GetRange::Suffix(*bytes))).await),
        Step::Head(k) => shown(store.head(&key(k)).await.map(|m| m.size.to_string())),
        // Deleting what is not there is an error here and none there: both are allowed.
        Step::Delete(k) if !there(k).await => "not there".into(),
        Step::Delete(k) => shown(store.delete(&key(k)).await.map(|()| "done".into())),
        Step::Copy(from, to) | Step::CopyIfNotExists(from, to) | Step::Rename(from, to) if from == to => String::new(),
        Step::Copy(from, to) => shown(store.copy(&key(from), &key(to)).await.map(|()| "done".into())),
        // Which of two mistakes is told first may differ.
        Step::CopyIfNotExists(from, to) if !there(from).await && there(to).await => String::new(),
        Step::CopyIfNotExists(from, to) => {
            shown(store.copy_if_not_exists(&key(from), &key(to)).await.map(|()| "done".into()))
        }
        Step::Rename(from, to) => shown(store.rename(&key(from), &key(to)).await.map(|()| "done".into())),
        Step::List(f) => shown(keys(store.list(Some(&folder(f)))).await),
        Step::ListFrom(f, k) => shown(keys(store.list_with_offset(Some(&folder(f)), &key(k))).await),
        Step::ListFolder(f) => {
            let found = store.list_with_delimiter(Some(&folder(f))).await.unwrap();
            // A folder that was emptied stays on a disk.
            let mut folders = Vec::new();
            for folder in found.common_prefixes {
                if store.list(Some(&folder)).try_next().await.unwrap().is_some() {
                    folders.push(folder);
                }
            }
            let objects: Vec<_> = found.objects.iter().map(|o| (&o.location, o.size)).collect();
            format!("{folders:?} {objects:?}")
        }
    }
}

async fn keys(
    listing: futures::stream::BoxStream<'static, object_store::Result<object_store::ObjectMeta>>,
) -> object_store::Result<String> {
    let found: Vec<_> = listing.map_ok(|object| (object.location, object.size)).try_collect().await?;
    Ok(format!("{found:?}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn a_folder_answers_as_memory_does(steps in proptest::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = TempDir::new().unwrap();
            let local = Storage::open(&local_config(&folder)).await.unwrap().object_store();
            let memory = InMemory::new();
            for step in steps {
                let expected = answer(&memory, &step).await;
                assert_eq!(answer(&*local, &step).await, expected, "{step:?}");
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_many_creators_wins() {
    let folder = TempDir::new().unwrap();
    let store = Storage::open(&local_config(&folder)).await.unwrap().object_store();
    for round in 0..20 {
        let creators: Vec<_> = (0..8)
            .map(|creator| {
                let store: Arc<dyn ObjectStore> = store.clone();
                let key = Path::from(format!("deep/{round}/key"));
                tokio::spawn(async move {
                    store.put_opts(&key, format!("{creator}").into(), PutMode::Create.into()).await.is_ok().then_some(creator)
                })
            })
            .collect();
        let mut winners = Vec::new();
        for creator in creators {
            winners.extend(creator.await.unwrap());
        }
        assert_eq!(winners.len(), 1);
        let held = store.get(&Path::from(format!("deep/{round}/key"))).await.unwrap().bytes().await.unwrap();
        assert_eq!(held, winners[0].to_string());
    }
}

#[tokio::test]
async fn what_a_crash_left_behind_is_not_an_object() {
    let folder = TempDir::new().unwrap();
    let store = Storage::open(&local_config(&folder)).await.unwrap().object_store();
    store.put(&Path::from("a/1"), "x".into()).await.unwrap();
    let data = folder.path().join("data/a");
    // Names in the way of the next puts, whatever number they begin with.
    std::fs::write(data.join("1#7"), "half").unwrap();
    std::fs::write(data.join(format!("2#{}", u64::from(std::process::id()) << 32)), "half").unwrap();
    store.put(&Path::from("a/2"), "y".into()).await.unwrap();
    let listed: Vec<_> = store.list(None).map_ok(|o| o.location.to_string()).try_collect().await.unwrap();
    assert_eq!(listed, ["a/1", "a/2"]);
    let files = std::fs::read_dir(&data).unwrap().count();
    assert_eq!(files, 4, "nothing of our own stays behind");
}

#[tokio::test]
async fn a_folder_that_someone_removed_is_made_again() {
    let folder = TempDir::new().unwrap();
    let store = Storage::open(&local_config(&folder)).await.unwrap().object_store();
    store.put(&Path::from("a/b/1"), "x".into()).await.unwrap();
    std::fs::remove_dir_all(folder.path().join("data/a")).unwrap();
    store.put(&Path::from("a/b/2"), "y".into()).await.unwrap();
    assert_eq!(store.get(&Path::from("a/b/2")).await.unwrap().bytes().await.unwrap(), "y");
}

#[tokio::test]
async fn a_rename_onto_a_copy_leaves_one_of_them() {
    let folder = TempDir::new().unwrap();
    let store = Storage::open(&local_config(&folder)).await.unwrap().object_store();
    let (one, other) = (Path::from("a/1"), Path::from("b/2"));
    store.put(&one, "x".into()).await.unwrap();
    store.copy(&one, &other).await.unwrap();
    store.rename(&one, &other).await.unwrap();
    assert!(matches!(store.head(&one).await, Err(Error::NotFound { .. })));
    assert_eq!(store.get(&other).await.unwrap().bytes().await.unwrap(), "x");
}
