//! Blocks: stored, found again, read back, and never read wrong.

use std::sync::Arc;

use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};
use storage::{BlockEntry, Commit, Storage, StorageError};
use test_stores::{Fault, Kind, TestStore};

use crate::fixture::{Place, block, padded_block, storage_over, tenant};

const MIB: u64 = 1 << 20;

async fn commit(storage: &Storage, adds: Vec<BlockEntry>) {
    let table = storage.table(&tenant()).await.unwrap();
    table.commit(Commit { adds, operation: "flush", ..Commit::default() }).await.unwrap();
}

/// Ranges that begin, end and cross where it hurts.
fn ranges(size: u64) -> Vec<std::ops::Range<u64>> {
    [0..0, 0..1, 0..4, MIB - 1..MIB, MIB - 1..MIB + 1, MIB..MIB + 7, 100..3 * MIB + 5, size - 8..size, 0..size, size..size]
        .into_iter()
        .filter(|r| r.end <= size)
        .collect()
}

#[tokio::test]
async fn a_block_is_found_and_read_in_every_store() {
    for place in Place::all().await {
        let name = place.name();
        // Small: one PUT. Large: more than 16 MiB goes up in parts.
        let small = block(0, 10, "http.route");
        let large = padded_block(100, 6_000, "http.route", 3_600);
        assert!(large.data.len() > 17 << 20, "{} bytes are not enough for parts", large.data.len());
        {
            let storage = place.open().await;
            let entries = [
                storage.put_block(&tenant(), &small).await.unwrap(),
                storage.put_block(&tenant(), &large).await.unwrap(),
            ];
            commit(&storage, entries.into()).await;
        }
        let storage = place.open().await;
        assert_eq!(storage.tenants().await.unwrap(), [tenant()], "{name}");
        let snapshot = storage.table(&tenant()).await.unwrap().snapshot();
        assert_eq!(snapshot.version, 0);
        assert_eq!(snapshot.blocks.len(), 2, "{name}");
        for written in [&small, &large] {
            let entry = snapshot.block(written.id).unwrap();
            assert_eq!(entry.path, format!("2026-11-21T07/{}.parquet", written.id));
            assert_eq!((entry.rows, entry.traces), (written.stats.rows, written.stats.traces));
            assert_eq!(entry.min_start_unix_nano, written.stats.min_start_unix_nano);
            assert_eq!(entry.max_end_unix_nano, written.stats.max_end_unix_nano);
            let open = storage.open_block(&tenant(), entry).await.unwrap();
            assert_eq!(open.sidecar().stats, written.stats, "{name}");
            let ranges = ranges(entry.size_bytes);
            // Cold and warm.
            for _ in 0..2 {
                let read = open.read(&ranges).await.unwrap();
                for (range, bytes) in ranges.iter().zip(read) {
                    let expected = &written.data[range.start as usize..range.end as usize];
                    assert!(bytes == expected, "{name}: {range:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn what_was_stored_but_not_committed_is_not_there() {
    for place in Place::all().await {
        let written = block(0, 3, "a");
        {
            // The process dies between the two steps.
            let storage = place.open().await;
            storage.put_block(&tenant(), &written).await.unwrap();
        }
        let storage = place.open().await;
        assert_eq!(storage.tenants().await.unwrap(), []);
        assert_eq!(storage.table(&tenant()).await.unwrap().snapshot().version, -1);
        // And the same block can be stored again and committed.
        let entry = storage.put_block(&tenant(), &written).await.unwrap();
        commit(&storage, vec![entry]).await;
        assert_eq!(place.open().await.table(&tenant()).await.unwrap().snapshot().blocks.len(), 1, "{}", place.name());
    }
}

#[tokio::test]
async fn neighbouring_chunks_come_in_one_request_and_once() {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let written = padded_block(0, 4_000, "a", 3_600);
    let entry = Arc::new(storage_over(&memory).await.put_block(&tenant(), &written).await.unwrap());
    let counting = TestStore::with_rule(memory, |_| Fault::None);
    let store: Arc<dyn ObjectStore> = counting.clone();
    let storage = Arc::new(storage_over(&store).await);
    let size = entry.size_bytes;
    let chunks = size.div_ceil(MIB);
    assert!(chunks > 8, "{chunks}");

    // Thirty-two readers of the whole file at once.
    let readers = (0..32).map(|_| {
        let (storage, entry) = (storage.clone(), entry.clone());
        tokio::spawn(async move {
            let open = storage.open_block(&tenant(), &entry).await.unwrap();
            open.read(&[0..size]).await.unwrap().remove(0)
        })
    });
    for reader in readers.collect::<Vec<_>>() {
        assert!(reader.await.unwrap() == written.data);
    }
    assert_eq!(counting.count(Kind::Get, ".side"), 1);
    assert_eq!(counting.count(Kind::Get, ".parquet") as u64, chunks.div_ceil(8));
    assert_eq!(storage.metrics().chunk_misses.get(), chunks);
}

#[tokio::test]
async fn a_reader_that_gives_up_does_not_take_the_others_along() {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let written = block(0, 10, "a");
    let storage = storage_over(&memory).await;
    let entry = Arc::new(storage.put_block(&tenant(), &written).await.unwrap());
    let open = storage.open_block(&tenant(), &entry).await.unwrap();
    {
        let mut first = Box::pin(open.read(&[0..4]));
        // Polled once: the request is on its way, and then nobody waits for it.
        let _ = futures::poll!(&mut first);
    }
    assert_eq!(open.read(&[0..4]).await.unwrap()[0], written.data[..4]);
}

#[tokio::test]
async fn a_wrong_bit_is_never_returned() {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let written = padded_block(0, 1_000, "a", 3_600);
    let entry = Arc::new(storage_over(&memory).await.put_block(&tenant(), &written).await.unwrap());
    let key = Path::from(format!("team-1/traces/{}", entry.path));
    let chunks = (written.data.len() as u64).div_ceil(MIB);
    for chunk in 0..chunks {
        let place = (chunk * MIB) as usize + 77;
        let mut damaged = written.data.to_vec();
        damaged[place] ^= 1;
        memory.put(&key, Bytes::from(damaged).into()).await.unwrap();

        let storage = storage_over(&memory).await;
        let open = storage.open_block(&tenant(), &entry).await.unwrap();
        let error = open.read(&[place as u64 - 1..place as u64 + 1]).await.unwrap_err();
        assert!(matches!(error, StorageError::Corrupt { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&entry.id.to_string()) && text.contains(&format!("chunk {chunk} ")), "{text}");
        assert_eq!(error.kind(), model::ErrorKind::Corrupt);
        // The other chunks are as good as ever.
        let other = (chunk + 1) % chunks * MIB;
        assert_eq!(open.read(&[other..other + 4]).await.unwrap()[0], written.data[other as usize..other as usize + 4]);
        // Once the bytes are right again, so is the answer: a failure is not remembered.
        memory.put(&key, written.data.clone().into()).await.unwrap();
        assert_eq!(open.read(&[place as u64..place as u64 + 1]).await.unwrap()[0], written.data[place..place + 1]);
    }
}

#[tokio::test]
async fn bytes_that_went_wrong_on_the_way_are_read_once_more() {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let written = block(0, 10, "a");
    let entry = Arc::new(storage_over(&memory).await.put_block(&tenant(), &written).await.unwrap());
    let mut flips = 1;
    let store: Arc<dyn ObjectStore> = TestStore::with_rule(memory, move |asked| {
        if asked.kind == Kind::Get && asked.ends_with(".parquet") && flips > 0 {
            flips -= 1;
            return Fault::Flip;
        }
        Fault::None
    });
    let storage = storage_over(&store).await;
    let open = storage.open_block(&tenant(), &entry).await.unwrap();
    assert_eq!(open.read(&[0..entry.size_bytes]).await.unwrap()[0], written.data);
    assert_eq!(storage.metrics().chunk_checksum_failures.get(), 1);
}

#[tokio::test]
async fn a_lost_or_damaged_sidecar_is_made_again() {
    for place in Place::all().await {
        let storage = place.open().await;
        let written = block(0, 10, "a");
        let entry = Arc::new(storage.put_block(&tenant(), &written).await.unwrap());
        let store = storage.object_store();
        let prefix = if place.name() == "s3" { "some/prefix/" } else { "" };
        let key = Path::from(format!("{prefix}team-1/traces/_side/{}.side", entry.id));
        for damage in [None, Some(0), Some(written.sidecar.len() / 2), Some(written.sidecar.len() - 1)] {
            match damage {
                None => store.delete(&key).await.unwrap(),
                Some(at) => {
                    let mut bytes = written.sidecar.to_vec();
                    bytes[at] ^= 4;
                    store.put(&key, Bytes::from(bytes).into()).await.unwrap();
                }
            }
            let storage = place.open().await;
            let open = storage.open_block(&tenant(), &entry).await.unwrap();
            assert_eq!(open.sidecar().stats, written.stats);
            assert_eq!(storage.metrics().sidecars_rebuilt.get(), 1, "{} {damage:?}", place.name());
            // It is in its place again.
            assert_eq!(store.get(&key).await.unwrap().bytes().await.unwrap(), written.sidecar);
        }
    }
}

#[tokio::test]
async fn damaged_data_does_not_get_a_fresh_seal() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let storage = storage_over(&store).await;
    let written = block(0, 10, "a");
    let entry = Arc::new(storage.put_block(&tenant(), &written).await.unwrap());
    store.delete(&Path::from(format!("team-1/traces/_side/{}.side", entry.id))).await.unwrap();
    // Every bit position of some bytes across the file.
    for at in (0..written.data.len()).step_by(written.data.len() / 40) {
        let mut damaged = written.data.to_vec();
        damaged[at] ^= 1 << (at % 8);
        store.put(&Path::from(format!("team-1/traces/{}", entry.path)), Bytes::from(damaged).into()).await.unwrap();
        // Another process: the one that stored the block has it open.
        let result = storage_over(&store).await.open_block(&tenant(), &entry).await;
        assert!(matches!(result, Err(StorageError::Corrupt { .. })), "byte {at} passed");
    }
}

#[tokio::test]
async fn a_store_that_is_down_is_not_a_damaged_block() {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let entry = Arc::new(storage_over(&memory).await.put_block(&tenant(), &block(0, 3, "a")).await.unwrap());
    let store: Arc<dyn ObjectStore> = TestStore::with_rule(memory, |asked| {
        if asked.ends_with(".parquet") { Fault::Before } else { Fault::None }
    });
    let storage = storage_over(&store).await;
    let error = storage.open_block(&tenant(), &entry).await.unwrap().read(&[0..4]).await.unwrap_err();
    assert_eq!(error.kind(), model::ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn a_disk_cache_answers_after_a_restart_and_is_not_trusted() {
    let folder = tempfile::TempDir::new().unwrap();
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let written = padded_block(0, 2_000, "a", 3_600);
    let entry = Arc::new(storage_over(&memory).await.put_block(&tenant(), &written).await.unwrap());
    let config = || {
        let mut config = storage::StorageConfig::default();
        config.cache.disk_path = Some(folder.path().join("cache"));
        config.cache.disk_capacity = bytesize::ByteSize::mib(64);
        // Room for little in memory, so that chunks go to disk.
        config.cache.chunks_memory = bytesize::ByteSize::mib(2);
        config
    };
    for restarted in [false, true] {
        let storage = crate::fixture::storage_with(&memory, config()).await;
        let open = storage.open_block(&tenant(), &entry).await.unwrap();
        for _ in 0..3 {
            assert!(open.read(&[0..entry.size_bytes]).await.unwrap()[0] == written.data);
        }
        assert!(!restarted || storage.metrics().chunk_hits_disk.get() > 0);
        storage.close().await;
    }
    // Whatever the cache's files hold now, the answer is right.
    for file in std::fs::read_dir(folder.path().join("cache")).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        for at in (5_000..bytes.len()).step_by(50_000) {
            bytes[at] ^= 0xff;
        }
        std::fs::write(&path, bytes).unwrap();
    }
    let storage = crate::fixture::storage_with(&memory, config()).await;
    let open = storage.open_block(&tenant(), &entry).await.unwrap();
    assert!(open.read(&[0..entry.size_bytes]).await.unwrap()[0] == written.data);
}
