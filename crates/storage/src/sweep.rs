//! Deleting what no table needs: files of blocks that it does not have, indexes of such blocks, old files of its log,
//! forgotten claims.
//!
//! A file goes if its block is not in the table's newest snapshot and either was removed from it long enough ago
//! that no reader works on an older snapshot, or never was in it and is so old that nobody is still about to commit
//! it. Only names that we give are looked at. The listing is made first and the snapshot is read after it: what a
//! commit in between adds is seen.
//!
//! Which files of the log go, [`crate::delta::clean`] says. A claim goes a day after it was made: it has expired, and
//! nobody will take it over any more.

use std::collections::{HashMap, HashSet};

use futures::{StreamExt, TryStreamExt, future::BoxFuture};
use model::TenantId;
use object_store::{Error, ObjectMeta, ObjectStore, path::Path};
use ulid::Ulid;

use crate::{
    error::{Result, StorageError},
    storage::Storage,
    trace_index::{needless, read_head},
};

/// Files that one sweep of a table deletes at the most; the next goes on.
const FILES_MAX: usize = 100_000;

/// How long files are left alone, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SweepAges {
    /// After the commit that removed their block: longer than any query takes and any reader is behind.
    pub removed_ms: u64,
    /// Since they were written, if no commit that is still known named them: longer than any writer takes from
    /// its upload to its commit.
    pub orphan_ms: u64,
}

/// What a sweep deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub files: u64,
    pub bytes: u64,
    /// Files of the log.
    pub log_files: u64,
    pub claims: u64,
    /// Indexes of traces.
    pub indexes: u64,
}

impl Storage {
    /// Deletes the files of a tenant that no reader can need at `now_unix_ms`. LISTs the whole table: one request per
    /// 1,000 files.
    pub fn sweep<'a>(&'a self, tenant: &'a TenantId, ages: SweepAges, now_unix_ms: u64) -> BoxFuture<'a, Result<Swept>> {
        Box::pin(self.sweep_table(tenant, ages, now_unix_ms))
    }

    async fn sweep_table(&self, tenant: &TenantId, ages: SweepAges, now_unix_ms: u64) -> Result<Swept> {
        let keys = self.table_keys(tenant);
        let root = keys.root().clone();
        let before = |age_ms: u64| i64::try_from(now_unix_ms.saturating_sub(age_ms)).unwrap_or(i64::MAX);
        let (removed_before, orphan_before) = (before(ages.removed_ms), before(ages.orphan_ms));

        let store = self.object_store();
        let mut files: Vec<(Ulid, Path, u64, i64)> = Vec::new();
        let (mut log, mut claims, mut indexes) = (Vec::new(), Vec::new(), Vec::new());
        let mut listing = store.list(Some(&root));
        while let Some(file) = listing.try_next().await.map_err(|e| StorageError::store("list", &root, e))? {
            if keys.is_log_file(&file.location) {
                log.push(file);
                continue;
            }
            if keys.is_claim(&file.location) {
                claims.push(file);
                continue;
            }
            if let Some(id) = keys.trace_index_of(&file.location) {
                indexes.push((id, file));
                continue;
            }
            let Some(block) = keys.block_of(&file.location) else { continue };
            files.push((block, file.location, file.size, file.last_modified.timestamp_millis()));
        }
        let snapshot = self.table(tenant).await?.refresh().await?;
        let alive: HashSet<Ulid> = snapshot.blocks.iter().map(|block| block.id).collect();
        let foreign: HashSet<Path> = snapshot.foreign_files.iter().map(|path| keys.data(path)).collect();
        let removed = snapshot.removed_unix_ms();
        files.retain(|(block, location, _, modified)| {
            let old = match removed.get(block) {
                Some(removed) => *removed < removed_before,
                None => *modified < orphan_before,
            };
            old && !alive.contains(block) && !foreign.contains(location)
        });
        files.truncate(FILES_MAX);

        let mut swept = Swept::default();
        claims.retain(|claim| claim.last_modified.timestamp_millis() < orphan_before);
        swept.claims = self.delete(&root, claims.into_iter().map(|claim| claim.location).collect()).await?;
        self.metrics().claims_cleaned.add(swept.claims);
        let crcs = snapshot.blocks.iter().map(|block| (block.id, block.chunks_crc32c)).collect();
        swept.indexes = self.sweep_indexes(tenant, &indexes, &crcs, (removed_before, orphan_before)).await?;
        if let Some(kept_ms) = self.log_kept_ms() {
            let mut expendable = self.log_of(tenant).expendable(&log, kept_ms).await?;
            expendable.truncate(FILES_MAX);
            // One after the other: what is left must have no gap.
            for location in expendable {
                swept.log_files += self.delete(&root, vec![location]).await?;
            }
            self.metrics().log_files_cleaned.add(swept.log_files);
        }
        let sizes: HashMap<Path, (Ulid, u64)> = files.iter().map(|file| (file.1.clone(), (file.0, file.2))).collect();
        let locations = futures::stream::iter(files.into_iter().map(|file| Ok(file.1))).boxed();
        let mut deleted = store.delete_stream(locations);
        let mut failed = None;
        while let Some(result) = deleted.next().await {
            match result {
                Ok(location) => {
                    swept.files += 1;
                    if let Some((block, bytes)) = sizes.get(&location) {
                        swept.bytes += bytes;
                        self.forget(*block, *bytes).await;
                    }
                }
                // Another sweep was there first.
                Err(Error::NotFound { .. }) => {}
                Err(e) => failed = Some(e),
            }
        }
        self.metrics().files_swept.add(swept.files);
        self.metrics().files_swept_bytes.add(swept.bytes);
        match failed {
            Some(e) => Err(StorageError::store("delete files of", &root, e)),
            None => Ok(swept),
        }
    }

    /// Indexes stay as long for readers as blocks do, and damaged ones as long as strange files.
    async fn sweep_indexes(
        &self,
        tenant: &TenantId,
        listed: &[(Ulid, ObjectMeta)],
        blocks: &HashMap<Ulid, u32>,
        (removed_before, orphan_before): (i64, i64),
    ) -> Result<u64> {
        let keys = self.table_keys(tenant);
        let (mut heads, mut gone) = (Vec::new(), Vec::new());
        for (id, object) in listed {
            let written = object.last_modified.timestamp_millis();
            match read_head(&*self.object_store(), &keys, *id, object.size).await {
                Ok(head) => heads.push((head, written)),
                Err(StorageError::Corrupt { .. }) if written < orphan_before => gone.push(*id),
                Err(StorageError::Corrupt { .. }) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        gone.extend(needless(&heads, blocks, removed_before));
        let deleted = self.delete(keys.root(), gone.iter().map(|id| keys.trace_index(*id)).collect()).await?;
        if deleted > 0 {
            self.look_for_trace_indexes(tenant).await;
        }
        Ok(deleted)
    }

    /// How many there were. What is not there any more is as good as deleted.
    async fn delete(&self, table: &Path, locations: Vec<Path>) -> Result<u64> {
        let locations = futures::stream::iter(locations.into_iter().map(Ok)).boxed();
        let mut results = self.object_store().delete_stream(locations);
        let mut deleted = 0;
        while let Some(result) = results.next().await {
            match result {
                Ok(_) => deleted += 1,
                Err(Error::NotFound { .. }) => {}
                Err(e) => return Err(StorageError::store("delete files of", table, e)),
            }
        }
        Ok(deleted)
    }
}
