//! The cache of data files: bounded, and gone without harm.

use std::sync::Arc;

use object_store::{ObjectStore, memory::InMemory};
use storage::{BlockEntry, Storage, StorageConfig};

use crate::fixture::{block, padded_block, storage_with, tenant};

const MIB: u64 = 1 << 20;

/// With room for 4 MiB in memory.
fn config() -> StorageConfig {
    let mut config = StorageConfig::default();
    config.cache.chunks_memory = bytesize::ByteSize::mib(4);
    config
}

fn with_disk(folder: &std::path::Path, mib: u64) -> StorageConfig {
    let mut config = config();
    config.cache.disk_path = Some(folder.join("cache"));
    config.cache.disk_capacity = bytesize::ByteSize::mib(mib);
    config
}

async fn read(storage: &Storage, entry: &Arc<BlockEntry>) -> bytes::Bytes {
    let open = storage.open_block(&tenant(), entry).await.unwrap();
    open.read(&[0..entry.size_bytes]).await.unwrap().remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_bounded_and_what_left_it_is_counted() {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let storage = storage_with(&memory, config()).await;
    let large = padded_block(0, 2_000, "a", 3_600);
    let entry = Arc::new(storage.put_block(&tenant(), &large).await.unwrap());
    assert!(entry.size_bytes > 6 * MIB, "{}", entry.size_bytes);
    // A new file that would fill the cache does not go through it.
    assert_eq!(storage.cached().memory_bytes, 0);
    for _ in 0..3 {
        assert!(read(&storage, &entry).await == large.data);
        let cached = storage.cached();
        assert!((1..=cached.memory_bytes_max).contains(&cached.memory_bytes), "{cached:?}");
    }
    assert!(storage.metrics().chunk_evictions.get() > 0);
    assert_eq!(storage.cached().memory_bytes_max, 4 * MIB);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_once_pushes_nothing_out() {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (hot, large) = (block(0, 10, "a"), padded_block(10, 2_000, "a", 3_600));
    let writer = storage_with(&memory, config()).await;
    let hot = Arc::new(writer.put_block(&tenant(), &hot).await.unwrap());
    let entry = Arc::new(writer.put_merged_block(&tenant(), &large).await.unwrap());
    let storage = storage_with(&memory, config()).await;
    read(&storage, &hot).await;
    let before = storage.cached();
    // As a merge reads it.
    let open = storage.open_block(&tenant(), &entry).await.unwrap();
    assert!(open.read_once(0..entry.size_bytes).await.unwrap() == large.data);
    assert_eq!(storage.cached().memory_bytes, before.memory_bytes);
    read(&storage, &hot).await;
    assert_eq!((storage.metrics().chunk_misses.get(), storage.metrics().chunk_hits_memory.get()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_cache_stays_within_its_bound_and_answers_right() {
    let folder = tempfile::TempDir::new().unwrap();
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let blocks: Vec<_> = (0..4).map(|number| padded_block(number * 3_000, 3_000, "a", 3_600)).collect();
    let writer = storage_with(&memory, config()).await;
    let mut entries = vec![];
    for block in &blocks {
        entries.push(Arc::new(writer.put_merged_block(&tenant(), block).await.unwrap()));
    }
    assert!(entries.iter().map(|entry| entry.size_bytes).sum::<u64>() > 40 * MIB);
    let storage = storage_with(&memory, with_disk(folder.path(), 32)).await;
    for _ in 0..2 {
        for (entry, block) in entries.iter().zip(&blocks) {
            assert!(read(&storage, entry).await == block.data);
        }
    }
    storage.close().await;
    assert!(storage.cached().disk_written_bytes > 0);
    let files = std::fs::read_dir(folder.path().join("cache")).unwrap();
    let taken: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(taken <= 32 * MIB, "{taken}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_cache_that_vanishes_is_a_miss() {
    let folder = tempfile::TempDir::new().unwrap();
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let written = padded_block(0, 2_000, "a", 3_600);
    let entry = storage_with(&memory, config()).await.put_merged_block(&tenant(), &written).await.unwrap();
    let entry = Arc::new(entry);
    let storage = storage_with(&memory, with_disk(folder.path(), 64)).await;
    assert!(read(&storage, &entry).await == written.data);
    std::fs::remove_dir_all(folder.path().join("cache")).unwrap();
    for _ in 0..3 {
        assert!(read(&storage, &entry).await == written.data);
    }
    storage.close().await;
    // Cut short behind our back, and there again as if nothing had been.
    let storage = storage_with(&memory, with_disk(folder.path(), 64)).await;
    assert!(read(&storage, &entry).await == written.data);
    for file in std::fs::read_dir(folder.path().join("cache")).unwrap() {
        std::fs::File::options().write(true).open(file.unwrap().path()).unwrap().set_len(1 << 20).unwrap();
    }
    for _ in 0..3 {
        assert!(read(&storage, &entry).await == written.data);
    }
    storage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_leaves_the_caches() {
    let folder = tempfile::TempDir::new().unwrap();
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let storage = storage_with(&memory, with_disk(folder.path(), 64)).await;
    let table = storage.table(&tenant()).await.unwrap();
    let (mut entries, mut cached) = (vec![], vec![]);
    for number in 0..2 {
        let entry = storage.put_merged_block(&tenant(), &padded_block(number * 300, 300, "a", 3_600)).await.unwrap();
        table.commit(storage::Commit { adds: vec![entry.clone()], operation: "flush", ..Default::default() }).await.unwrap();
        let entry = Arc::new(entry);
        read(&storage, &entry).await;
        entries.push(entry);
        cached.push(storage.cached().memory_bytes);
    }
    assert!(cached[0] > MIB);
    let removes = vec![entries[0].clone()];
    table.commit(storage::Commit { removes, operation: "retention", ..Default::default() }).await.unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let ages = storage::SweepAges { removed_ms: 1_000, orphan_ms: 86_400_000 };
    let swept = storage.sweep(&tenant(), ages, now + 60_000).await.unwrap();
    assert_eq!(swept.files, 2, "the data file and its sidecar");
    assert_eq!(storage.cached().memory_bytes, cached[1] - cached[0]);
    assert!(storage.open_block(&tenant(), &entries[0]).await.is_err(), "its sidecar is asked for anew");
    let misses = storage.metrics().chunk_misses.get();
    read(&storage, &entries[1]).await;
    assert_eq!(storage.metrics().chunk_misses.get(), misses, "the other one is still there");
    storage.close().await;
}

/// May not be written any more, or not be seen: its files are open, so nothing changes until the next start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_cache_that_becomes_read_only_costs_no_answer() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::TempDir::new().unwrap();
    let cache = folder.path().join("cache");
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let written = padded_block(0, 2_000, "a", 3_600);
    let entry = storage_with(&memory, config()).await.put_merged_block(&tenant(), &written).await.unwrap();
    let entry = Arc::new(entry);
    let storage = storage_with(&memory, with_disk(folder.path(), 64)).await;
    let permit = |folder_mode: u32, file_mode: u32| {
        std::fs::set_permissions(&cache, PermissionsExt::from_mode(0o700)).unwrap();
        for file in files(&cache) {
            std::fs::set_permissions(file, PermissionsExt::from_mode(file_mode)).unwrap();
        }
        std::fs::set_permissions(&cache, PermissionsExt::from_mode(folder_mode)).unwrap();
    };
    for (folder_mode, file_mode) in [(0o500, 0o400), (0o000, 0o000)] {
        permit(folder_mode, file_mode);
        for _ in 0..2 {
            assert!(read(&storage, &entry).await == written.data);
        }
    }
    storage.close().await;
    permit(0o700, 0o600);
}

/// What another version, or another program, left there, and what is written over it while it is in use.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_disk_is_never_an_answer() {
    let folder = tempfile::TempDir::new().unwrap();
    let cache = folder.path().join("cache");
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let written = padded_block(0, 4_000, "a", 3_600);
    let entry = storage_with(&memory, config()).await.put_merged_block(&tenant(), &written).await.unwrap();
    let entry = Arc::new(entry);
    for round in 0..3 {
        // Left behind: first nothing, then files full of noise, longer and shorter than ours.
        if round > 0 {
            for (number, file) in files(&cache).into_iter().enumerate() {
                std::fs::write(file, noise(round, (number + 1) * 3_000_000)).unwrap();
            }
            std::fs::write(cache.join("something else"), noise(round, 1_000)).unwrap();
        }
        let storage = storage_with(&memory, with_disk(folder.path(), 64)).await;
        for _ in 0..2 {
            assert!(read(&storage, &entry).await == written.data, "round {round}");
        }
        // In use, and written over in place: what was good is not there any more.
        for file in files(&cache) {
            let length = file.metadata().unwrap().len() as usize;
            let over = std::fs::File::options().write(true).open(&file).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&over, &noise(round + 10, length), 0).unwrap();
        }
        for _ in 0..2 {
            assert!(read(&storage, &entry).await == written.data, "round {round}, written over");
        }
        storage.close().await;
    }
}

#[tokio::test]
async fn a_disk_cache_that_cannot_be_made_is_told_at_the_start() {
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::write(folder.path().join("cache"), "a file where a folder should be").unwrap();
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut config = with_disk(folder.path(), 64);
    config.backend = storage::Backend::S3;
    let error = Storage::with_store(memory, &config).await.err().expect("no cache can be there").to_string();
    assert!(error.contains("cache.disk_path"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_blocks_are_bounded_and_counted() {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let writer = storage_with(&memory, config()).await;
    let mut entries = vec![];
    for number in 0..20 {
        entries.push(Arc::new(writer.put_block(&tenant(), &block(number * 10, 10, "a")).await.unwrap()));
    }
    let one = writer.open_block(&tenant(), &entries[0]).await.unwrap().sidecar().memory_bytes() as u64;
    let mut config = config();
    config.cache.sidecars_memory = bytesize::ByteSize::b(5 * one);
    let storage = storage_with(&memory, config).await;
    // What is over the bound leaves a little later, so they are asked for until it has.
    let counts = storage.metrics();
    let mut asked = 0;
    while counts.sidecar_evictions.get() == 0 {
        for entry in &entries {
            storage.open_block(&tenant(), entry).await.unwrap();
            storage.open_block(&tenant(), entry).await.unwrap();
            asked += 2;
        }
    }
    let (hits, misses, cached) = (counts.sidecar_hits.get(), counts.sidecar_misses.get(), storage.cached());
    assert_eq!(hits + misses, asked);
    assert!(hits > 0 && misses >= 20, "{hits} hits, {misses} misses");
    assert_eq!(cached.sidecars_bytes_max, 5 * one);
    assert!(cached.sidecars_bytes <= cached.sidecars_bytes_max, "{cached:?}");
}

fn files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8)).flat_map(|_| next()).take(length).collect()
}
