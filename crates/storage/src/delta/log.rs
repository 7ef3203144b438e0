//! The files of a table's log: reading them into a state, and creating the next one.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode};

use super::{
    action::{self, Action},
    checkpoint::{self, LastCheckpoint},
    state::State,
};
use crate::{
    error::{Result, StorageError},
    keys::{LogFile, TableKeys},
};

/// GETs of log files under way for one table.
const PARALLEL_GETS: usize = 16;

pub(crate) struct Log {
    store: Arc<dyn ObjectStore>,
    keys: TableKeys,
}

/// What became of the create of a commit file.
pub(crate) enum Attempt {
    /// The file is there and it is ours.
    Ours,
    /// The file is there and another writer's.
    Theirs,
    /// The store failed and the file is not there, yet: the request may still be on its way.
    Unclear(StorageError),
}

/// The versions that a listing of the log shows.
#[derive(Default)]
struct Listing {
    commits: BTreeSet<i64>,
    checkpoints: BTreeSet<i64>,
}

impl Log {
    pub fn new(store: Arc<dyn ObjectStore>, keys: TableKeys) -> Self {
        Self { store, keys }
    }

    pub fn table(&self) -> String {
        self.keys.root().to_string()
    }

    /// The newest state, from the last readable checkpoint on. An empty state if there is no log.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] names the file that is missing or unreadable.
    pub async fn load(&self) -> Result<State> {
        let hint = self.hint().await?;
        let state = match hint {
            None => self.assemble(self.list(0).await?).await?,
            Some(version) => match self.assemble(self.list(version).await?).await {
                Ok(state) if state.version >= version => state,
                // The hint was wrong, or its checkpoint is damaged: the log itself has everything.
                Ok(_) | Err(StorageError::Corrupt { .. }) => self.assemble(self.list(0).await?).await?,
                Err(e) => return Err(e),
            },
        };
        // A listing may lag behind; a GET does not.
        Ok(self.tail(&state).await?.unwrap_or(state))
    }

    async fn hint(&self) -> Result<Option<i64>> {
        let hint = self.get(&self.keys.last_checkpoint()).await?;
        Ok(hint.and_then(|file| serde_json::from_slice::<LastCheckpoint>(&file).ok()).map(|c| c.version).filter(|v| *v >= 0))
    }

    async fn list(&self, from: i64) -> Result<Listing> {
        let folder = self.keys.log();
        let mut files = self.store.list_with_offset(Some(&folder), &self.keys.log_offset(from));
        let mut listing = Listing::default();
        while let Some(file) = files.try_next().await.map_err(|e| StorageError::store("list", &folder, e))? {
            match TableKeys::log_file(&file.location) {
                Some(LogFile::Commit(version)) => drop(listing.commits.insert(version)),
                Some(LogFile::Checkpoint(version)) => drop(listing.checkpoints.insert(version)),
                None => {}
            }
        }
        Ok(listing)
    }

    async fn assemble(&self, listing: Listing) -> Result<State> {
        let mut state = State::empty();
        for version in listing.checkpoints.into_iter().rev() {
            match self.read_checkpoint(version).await {
                Ok(read) => {
                    state = read;
                    break;
                }
                Err(e @ StorageError::Corrupt { .. }) => {
                    tracing::warn!(table = self.table(), version, error = %e, "a checkpoint is skipped; the log before it is read instead");
                }
                Err(e) => return Err(e),
            }
        }
        let Some(last) = listing.commits.last().copied().filter(|last| *last > state.version) else {
            return Ok(state);
        };
        if let Some(missing) = (state.version + 1..last).find(|version| !listing.commits.contains(version)) {
            return Err(StorageError::corrupt(
                &self.keys.log(),
                format!("commit {missing} is missing, though commit {last} is there; restore it from a backup or from the bucket's versions"),
            ));
        }
        self.apply_commits(&mut state, last).await?;
        Ok(state)
    }

    /// Whether the checkpoint can stand for the log before it.
    pub async fn check_checkpoint(&self, version: i64) -> Result<()> {
        self.read_checkpoint(version).await.map(drop)
    }

    async fn read_checkpoint(&self, version: i64) -> Result<State> {
        let key = self.keys.checkpoint(version);
        let file = self.get(&key).await?.ok_or_else(|| StorageError::corrupt(&key, "it was listed and is gone"))?;
        let mut state = State::empty();
        let actions = blocking(move || checkpoint::parse(file)).await.map_err(|e| StorageError::corrupt(&key, e))?;
        state.apply(version, actions).map_err(|detail| self.unsupported(detail))?;
        if state.protocol.is_none() || state.metadata.is_none() {
            return Err(StorageError::corrupt(&key, "it lacks the table's protocol or metadata"));
        }
        Ok(state)
    }

    /// Applies the commits after `state` up to `last`, all of which exist.
    async fn apply_commits(&self, state: &mut State, last: i64) -> Result<()> {
        let mut commits = stream::iter(state.version + 1..=last)
            .map(|version| async move { Ok::<_, StorageError>((version, self.actions(version).await?)) })
            .buffered(PARALLEL_GETS);
        while let Some((version, actions)) = commits.try_next().await? {
            let Some(actions) = actions else {
                return Err(StorageError::corrupt(&self.keys.commit(version), "it was listed and is gone"));
            };
            self.apply(state, version, actions)?;
        }
        Ok(())
    }

    fn apply(&self, state: &mut State, version: i64, actions: Vec<Action>) -> Result<()> {
        debug_assert_eq!(version, state.version + 1, "commits are applied in order");
        state.apply(version, actions).map_err(|detail| self.unsupported(detail))
    }

    /// The state after the commits that follow `state`; `None` if there is none. Costs one GET when nothing
    /// is new.
    pub async fn tail(&self, state: &State) -> Result<Option<State>> {
        let Some(actions) = self.actions(state.version + 1).await? else { return Ok(None) };
        let mut new = state.clone();
        self.apply(&mut new, state.version + 1, actions)?;
        let mut ahead = 1;
        loop {
            let first = new.version + 1;
            let mut commits = stream::iter(first..first + ahead)
                .map(|version| async move { Ok::<_, StorageError>((version, self.actions(version).await?)) })
                .buffered(PARALLEL_GETS);
            while let Some((version, actions)) = commits.try_next().await? {
                // What lies behind a gap is read next time.
                let Some(actions) = actions else { return Ok(Some(new)) };
                self.apply(&mut new, version, actions)?;
            }
            drop(commits);
            ahead = (ahead * 2).min(PARALLEL_GETS as i64);
        }
    }

    /// Creates the file of `version`. `file` must hold something that no other writer's has.
    pub async fn create(&self, version: i64, file: Bytes) -> Result<Attempt> {
        let key = self.keys.commit(version);
        let error = match self.store.put_opts(&key, file.clone().into(), PutMode::Create.into()).await {
            Ok(_) => return Ok(Attempt::Ours),
            Err(e) => e,
        };
        // Both answers can be wrong. "Already exists" may be our own write, repeated by the client after a
        // lost answer, or a conflict that left nothing behind. Any other error may come after the write
        // was done. So look.
        let exists = matches!(error, Error::AlreadyExists { .. } | Error::Precondition { .. });
        let error = StorageError::store("create", &key, error);
        match self.commit_file(version).await {
            Ok(Some(found)) if found == file => Ok(Attempt::Ours),
            Ok(Some(_)) => Ok(Attempt::Theirs),
            Ok(None) => Ok(Attempt::Unclear(error)),
            Err(e) if exists => Err(e),
            Err(_) => Err(error),
        }
    }

    /// Writes the checkpoint of `state` and the hint that points to it.
    pub async fn write_checkpoint(&self, state: &State, now_unix_ms: i64) -> Result<()> {
        let key = self.keys.checkpoint(state.version);
        let actions = state.summary(now_unix_ms);
        let size = actions.len() as i64;
        let file = blocking(move || checkpoint::encode(&actions)).await.map_err(|e| StorageError::corrupt(&key, e))?;
        let hint = LastCheckpoint { version: state.version, size, size_in_bytes: Some(file.len() as i64) };
        self.store.put(&key, file.into()).await.map_err(|e| StorageError::store("write", &key, e))?;
        let hint = serde_json::to_vec(&hint).expect("numbers only");
        let key = self.keys.last_checkpoint();
        self.store.put(&key, hint.into()).await.map_err(|e| StorageError::store("write", &key, e))?;
        Ok(())
    }

    /// The actions of a commit; `None` if it is not there.
    async fn actions(&self, version: i64) -> Result<Option<Vec<Action>>> {
        let Some(file) = self.commit_file(version).await? else { return Ok(None) };
        if let Ok(actions) = action::decode_commit(&file) {
            return Ok(Some(actions));
        }
        // Perhaps it went wrong on the way.
        let Some(file) = self.commit_file(version).await? else { return Ok(None) };
        let actions = action::decode_commit(&file);
        actions.map(Some).map_err(|detail| StorageError::corrupt(&self.keys.commit(version), detail))
    }

    async fn commit_file(&self, version: i64) -> Result<Option<Bytes>> {
        self.get(&self.keys.commit(version)).await
    }

    async fn get(&self, key: &object_store::path::Path) -> Result<Option<Bytes>> {
        let read = async { self.store.get(key).await?.bytes().await };
        match read.await {
            Ok(file) => Ok(Some(file)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(StorageError::store("read", key, e)),
        }
    }

    fn unsupported(&self, detail: String) -> StorageError {
        StorageError::Unsupported { table: self.table(), detail }
    }
}

/// Runs work of some milliseconds off the threads that serve requests.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(format!("the work was cut off: {e}")),
    }
}
