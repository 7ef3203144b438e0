//! The table of a tenant: which blocks it has, at which version, and how that changes.
//!
//! A commit is all or nothing: its file is created once, by one writer, and shows everything it adds and
//! removes at the same moment. A snapshot never changes. Versions of one [`Table`] only grow.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use chrono::Utc;
use futures::future::BoxFuture;
use ulid::Ulid;

use crate::{
    config::TableConfig,
    delta::{
        READER_VERSION, WRITER_VERSION,
        action::{self, Action, CommitInfo, Format, Metadata, Protocol, Transaction},
        log::{Attempt, Log},
        seal,
        state::State,
    },
    entry::BlockEntry,
    error::{Result, StorageError},
};

/// Attempts of one commit. In each round of a race one writer wins, so this many writers can meet.
const COMMIT_ATTEMPTS_MAX: usize = 100;
/// Store failures without a trace of the file, in one commit, before it is given up.
const UNCLEAR_MAX: usize = 3;
/// The longest pause between two attempts.
const PAUSE_MS_MAX: u64 = 250;

/// One tenant's table. Shared by all who read and write it in this process.
pub struct Table {
    log: Log,
    current: ArcSwap<Snapshot>,
    /// Held while a commit looks for its version: writers of this process queue instead of racing.
    committing: tokio::sync::Mutex<()>,
    /// Held while the tail of the log is read.
    refreshing: tokio::sync::Mutex<()>,
    refreshes_begun: AtomicU64,
    refreshes_done: AtomicU64,
    /// When the log was last read, or was to be, for a snapshot of bounded age.
    refresh_tried: parking_lot::Mutex<Instant>,
    /// When `current` was last known to be the newest version.
    confirmed: parking_lot::Mutex<Moment>,
    checkpoint_commits: i64,
    /// For how long after that the next commit is looked for by its number; later, the log is listed. Far less than
    /// files of the log are kept: who looked long ago would not find the next one and take an old version for the
    /// newest. `None`: they are kept for ever.
    follow_for: Option<Duration>,
}

/// A moment by two clocks: one stands still while the machine sleeps, and the other can be set.
#[derive(Clone, Copy)]
struct Moment(Instant, SystemTime);

impl Moment {
    fn now() -> Self {
        Self(Instant::now(), SystemTime::now())
    }

    /// The longer of what the two clocks say.
    fn elapsed(&self) -> Duration {
        self.0.elapsed().max(self.1.elapsed().unwrap_or_default())
    }
}

/// A table at one version.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// −1 before the first commit.
    pub version: i64,
    /// By path, and so by window, oldest window first.
    pub blocks: Vec<Arc<BlockEntry>>,
    /// Application → the highest version of its work that the table holds.
    pub transactions: HashMap<String, i64>,
    /// Data files that some other program added to the table. They have no sidecar; queries do not read them.
    pub foreign_files: Vec<String>,
    state: Arc<State>,
}

/// What one commit changes.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// From [`crate::Storage::put_block`].
    pub adds: Vec<BlockEntry>,
    /// From a snapshot. Each must still be in the table.
    pub removes: Vec<Arc<BlockEntry>>,
    /// `(application, version)`: the commit happens once per version, and not after a higher one.
    pub transaction: Option<(String, i64)>,
    /// The rows of `adds` are those of `removes`, only stored otherwise: who follows the table's changes passes over it.
    pub same_rows: bool,
    /// For people who read the table's history: `flush`, `compact`, `retain`.
    pub operation: &'static str,
}

/// What became of a commit that did not fail.
#[derive(Clone, Debug)]
pub struct Committed {
    /// A snapshot that holds the commit, and perhaps later ones.
    pub snapshot: Arc<Snapshot>,
    pub outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The table changed.
    Applied,
    /// The table already had this or a later version of the application's transaction; nothing changed.
    AlreadyCommitted,
}

impl Snapshot {
    fn new(state: Arc<State>) -> Self {
        Self {
            version: state.version,
            blocks: state.blocks.values().cloned().collect(),
            transactions: state.transactions.iter().map(|(app, t)| (app.clone(), t.version)).collect(),
            foreign_files: state.foreign.keys().cloned().collect(),
            state,
        }
    }

    /// When each block that is known to have been removed was, in milliseconds since 1970. Removals are forgotten
    /// some days after they happened.
    pub(crate) fn removed_unix_ms(&self) -> HashMap<Ulid, i64> {
        let removed = self.state.tombstones.values().filter_map(|gone| {
            let stem = gone.path.rsplit('/').next()?.strip_suffix(".parquet")?;
            Some((Ulid::from_string(stem).ok()?, gone.deletion_timestamp?))
        });
        removed.collect()
    }

    /// The block with this id.
    pub fn block(&self, id: Ulid) -> Option<&Arc<BlockEntry>> {
        self.blocks.iter().find(|block| block.id == id)
    }
}

impl Table {
    pub(crate) async fn open(log: Log, config: &TableConfig) -> Result<Self> {
        let opened = Moment::now();
        let state = log.load().await?;
        Ok(Self {
            log,
            current: ArcSwap::from_pointee(Snapshot::new(Arc::new(state))),
            committing: tokio::sync::Mutex::default(),
            refreshing: tokio::sync::Mutex::default(),
            refreshes_begun: AtomicU64::new(0),
            refreshes_done: AtomicU64::new(0),
            refresh_tried: parking_lot::Mutex::new(opened.0),
            confirmed: parking_lot::Mutex::new(opened),
            checkpoint_commits: i64::from(config.checkpoint_commits.max(1)),
            follow_for: (config.log_kept_ms > 0).then(|| Duration::from_millis(config.log_kept_ms / 2)),
        })
    }

    /// The last known version. No I/O.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Reads the commits of other writers. One GET when there is none; callers that meet share one.
    pub fn refresh(&self) -> BoxFuture<'_, Result<Arc<Snapshot>>> {
        Box::pin(self.follow())
    }

    async fn follow(&self) -> Result<Arc<Snapshot>> {
        let seen = self.refreshes_begun.load(Ordering::Acquire);
        let _reading = self.refreshing.lock().await;
        // One that began after we asked, and succeeded, answers us too.
        if self.refreshes_done.load(Ordering::Acquire) > seen {
            return Ok(self.snapshot());
        }
        let number = self.refreshes_begun.fetch_add(1, Ordering::AcqRel) + 1;
        let asked = Moment::now();
        let news = match self.can_follow(&self.confirmed()) {
            true => self.log.tail(&self.snapshot().state).await?,
            false => Some(self.log.load().await?),
        };
        if let Some(state) = news {
            self.publish(state);
        }
        *self.confirmed.lock() = asked;
        self.refreshes_done.store(number, Ordering::Release);
        Ok(self.snapshot())
    }

    fn confirmed(&self) -> Moment {
        *self.confirmed.lock()
    }

    /// Whether the files after a version that was the newest at this moment are all still there.
    fn can_follow(&self, confirmed: &Moment) -> bool {
        self.follow_for.is_none_or(|follow_for| confirmed.elapsed() < follow_for)
    }

    /// A snapshot that is at most `age_max` behind other writers, as long as the store answers: reads their commits
    /// if that was last tried longer ago. Who comes meanwhile, and who finds that it fails, gets the last known version.
    pub async fn snapshot_within(&self, age_max: Duration) -> Arc<Snapshot> {
        let due = {
            let mut tried = self.refresh_tried.lock();
            let due = tried.elapsed() > age_max;
            if due {
                *tried = Instant::now();
            }
            due
        };
        if due && let Err(error) = self.refresh().await {
            tracing::warn!(table = self.log.table(), %error, "new commits cannot be read; the last known version is used");
        }
        self.snapshot()
    }

    /// Makes `state` current, unless a later one already is.
    fn publish(&self, state: State) -> Arc<Snapshot> {
        let new = Arc::new(Snapshot::new(Arc::new(state)));
        self.current.rcu(|current| if current.version < new.version { new.clone() } else { current.clone() });
        self.snapshot()
    }

    /// Changes the table, all or nothing.
    ///
    /// # Errors
    /// [`StorageError::Conflict`] if a block to remove is gone or a block to add is there: look again.
    /// [`StorageError::Contention`] or [`StorageError::Store`]: try again with the same transaction; if this
    /// attempt did arrive after all, the next says [`Outcome::AlreadyCommitted`].
    pub fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Committed>> {
        Box::pin(self.create_version(commit))
    }

    async fn create_version(&self, commit: Commit) -> Result<Committed> {
        let _queue = self.committing.lock().await;
        let id = Ulid::new().to_string();
        let mut unclear = 0;
        for attempt in 0..COMMIT_ATTEMPTS_MAX {
            if attempt > 0 {
                pause(attempt).await;
            }
            if attempt > 0 || !self.can_follow(&self.confirmed()) {
                self.refresh().await?;
            }
            // If the create succeeds, what we knew was the newest version: no need to ask before.
            let (confirmed, snapshot) = (self.confirmed(), self.snapshot());
            let state = &snapshot.state;
            if state.recent.contains(&id) {
                return Ok(Committed { snapshot, outcome: Outcome::Applied });
            }
            if let Some((app, version)) = &commit.transaction
                && snapshot.transactions.get(app).is_some_and(|known| known >= version)
            {
                return Ok(Committed { snapshot, outcome: Outcome::AlreadyCommitted });
            }
            let actions = match self.actions(state, &commit, &id) {
                Err(StorageError::Conflict { .. }) if attempt == 0 => continue,
                actions => actions?,
            };
            let version = state.version + 1;
            match self.log.create(version, action::encode_commit(&actions).into()).await? {
                // We were away for so long that the number may have been free because its file was cleaned away: then
                // nobody will ever read ours. The log itself tells.
                Attempt::Ours if !self.can_follow(&confirmed) => {}
                Attempt::Ours => {
                    let mut state = State::clone(state);
                    state.apply(version, actions).map_err(|detail| self.unsupported(detail))?;
                    if version > 0 && version % self.checkpoint_commits == 0 {
                        self.checkpoint(&mut state).await;
                    }
                    return Ok(Committed { snapshot: self.publish(state), outcome: Outcome::Applied });
                }
                Attempt::Theirs => {}
                Attempt::Unclear(error) => {
                    unclear += 1;
                    if unclear == UNCLEAR_MAX {
                        return Err(error);
                    }
                }
            }
        }
        Err(StorageError::Contention { table: self.log.table(), attempts: COMMIT_ATTEMPTS_MAX })
    }

    /// The actions that take the table from `state` to what `commit` asks for.
    fn actions(&self, state: &State, commit: &Commit, id: &str) -> Result<Vec<Action>> {
        let conflict = |detail: String| StorageError::Conflict { table: self.log.table(), detail };
        if let Some(gone) = commit.removes.iter().find(|block| !state.blocks.contains_key(&block.path)) {
            return Err(conflict(format!("block {} is no longer in the table at version {}", gone.id, state.version)));
        }
        if let Some(there) = commit.adds.iter().find(|block| state.blocks.contains_key(&block.path)) {
            return Err(conflict(format!("block {} is already in the table at version {}", there.id, state.version)));
        }

        let now = Utc::now().timestamp_millis();
        let mut actions: Vec<Action> = vec![
            CommitInfo {
                timestamp: now.into(),
                operation: commit.operation.to_owned(),
                operation_parameters: Default::default(),
                is_blind_append: commit.removes.is_empty(),
                engine_info: concat!("sostenuto/", env!("CARGO_PKG_VERSION")).to_owned(),
                txn_id: id.to_owned(),
                seal: seal::BLANK.to_owned(),
            }
            .into(),
        ];
        if state.protocol.is_none() {
            actions.push(Protocol { min_reader_version: READER_VERSION, min_writer_version: WRITER_VERSION }.into());
        }
        let mut schema = state.schema.clone();
        let mut changed = state.metadata.is_none();
        for columns in commit.adds.iter().filter_map(|block| block.schema.as_ref()) {
            changed |= schema.extend(columns).map_err(|detail| self.unsupported(detail))?;
        }
        if changed {
            let schema_string = serde_json::to_string(&schema).expect("strings and booleans only");
            let metadata = match &state.metadata {
                Some(known) => Metadata { schema_string, ..known.clone() },
                None => new_metadata(schema_string, now),
            };
            actions.push(metadata.into());
        }
        if let Some((app, version)) = &commit.transaction {
            actions.push(Transaction { app_id: app.clone(), version: *version, last_updated: Some(now) }.into());
        }
        let change = !commit.same_rows;
        actions.extend(commit.removes.iter().map(|block| block.to_remove(now, change).into()));
        actions.extend(commit.adds.iter().map(|block| block.to_add(change).into()));
        Ok(actions)
    }

    /// A checkpoint only makes the next start quicker: a failure is told, and the commit stands.
    async fn checkpoint(&self, state: &mut State) {
        let now = Utc::now().timestamp_millis();
        state.forget_tombstones(now);
        if let Err(error) = self.log.write_checkpoint(state, now).await {
            tracing::warn!(table = self.log.table(), version = state.version, %error, "no checkpoint was written");
        }
    }

    fn unsupported(&self, detail: String) -> StorageError {
        StorageError::Unsupported { table: self.log.table(), detail }
    }
}

fn new_metadata(schema_string: String, now_unix_ms: i64) -> Metadata {
    let id = Ulid::new().0;
    Metadata {
        // Delta wants a GUID: the digits of a ULID in its groups.
        id: format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            id >> 96,
            id >> 80 & 0xffff,
            id >> 64 & 0xffff,
            id >> 48 & 0xffff,
            id & 0xffff_ffff_ffff
        ),
        name: Some("spans".into()),
        description: Some("OpenTelemetry spans, one row each".into()),
        format: Format { provider: "parquet".into(), options: Default::default() },
        schema_string,
        partition_columns: Vec::new(),
        // Other programs' rules for that are not ours: see `delta::clean`.
        configuration: [("delta.enableExpiredLogCleanup".to_owned(), "false".to_owned())].into(),
        created_time: Some(now_unix_ms),
    }
}

/// Waits longer with each attempt, and differently from the other writers.
async fn pause(attempt: usize) {
    let ceiling = (4 << attempt.min(6)).min(PAUSE_MS_MAX);
    let jitter = Ulid::new().random() as u64 % ceiling;
    tokio::time::sleep(Duration::from_millis(1 + jitter)).await;
}
