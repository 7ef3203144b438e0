//! The reconciler: looks at every table, does what it calls for, looks again.
//!
//! A round has no input but the tables, and can be cut off at any moment: files that were stored and not committed are
//! deleted by a later sweep.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::{FutureExt, StreamExt, stream};
use model::TenantId;
use parking_lot::{Mutex, RwLock};
use query::Engine;
use storage::{ClaimOutcome, Commit, Snapshot, Storage, StorageError, SweepAges, Swept, Table, TraceIndexes};
use tokio_util::sync::CancellationToken;

use crate::{
    config::CompactorConfig,
    error::JobError,
    index,
    job::{self, Made},
    memory::Memory,
    policy::{self, Job, Known},
    retain::{self, Window},
    retention::{Checked, Retention, Retentions},
    stats::{CompactorStats, Stats},
    wary::{self, Way},
};

/// The work on indexes is claimed under this name, for the whole table.
const INDEXES: &str = "index";
/// The longest pause after rounds that failed.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// A handle; clones share everything.
#[derive(Clone)]
pub struct Compactor(Arc<Inner>);

struct Inner {
    config: CompactorConfig,
    storage: Storage,
    retention: Option<(Engine, RwLock<Arc<Retentions>>)>,
    stats: Stats,
    memory: Mutex<HashMap<TenantId, Memory>>,
    checked: Mutex<Checked>,
}

/// What a round did.
#[derive(Debug, Default)]
pub struct Round {
    /// Commits that replaced blocks.
    pub compactions: usize,
    /// Commits that deleted what is no longer kept.
    pub expirations: usize,
    /// Jobs that were not begun or not committed because of another compactor.
    pub left: usize,
    /// What failed. The next round tries again.
    pub failures: Vec<JobError>,
    /// Another round would find something to do at once.
    pub more: bool,
}

impl Round {
    fn add(&mut self, other: Self) {
        self.compactions += other.compactions;
        self.expirations += other.expirations;
        self.left += other.left;
        self.failures.extend(other.failures);
        self.more |= other.more;
    }

    fn failed(error: JobError) -> Self {
        Self { failures: vec![error], ..Self::default() }
    }
}

impl Compactor {
    pub fn new(config: CompactorConfig, storage: Storage) -> Self {
        Self::build(config, storage, None)
    }

    /// One that also deletes what the rules let go. `engine` says which traces a rule matches; it must see live data, so
    /// that rules see whole traces.
    pub fn with_retention(config: CompactorConfig, storage: Storage, engine: Engine, retentions: Retentions) -> Self {
        Self::build(config, storage, Some((engine, RwLock::new(Arc::new(retentions)))))
    }

    /// Other rules, from the next look on.
    pub fn set_retentions(&self, retentions: Retentions) {
        let Some((_, current)) = &self.0.retention else { return };
        if **current.read() == retentions {
            return;
        }
        *current.write() = Arc::new(retentions);
        // What was done by other rules is to be looked at again.
        *self.0.checked.lock() = Checked::default();
    }

    fn build(config: CompactorConfig, storage: Storage, retention: Option<(Engine, RwLock<Arc<Retentions>>)>) -> Self {
        let (stats, memory, checked) = (Stats::default(), Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { config, storage, retention, stats, memory, checked }))
    }

    pub fn stats(&self) -> CompactorStats {
        self.0.stats.read()
    }

    /// Goes on until it is told to stop. What is under way then is given up.
    pub async fn run(self, stop: CancellationToken) {
        let config = &self.0.config;
        let mut pause = config.interval;
        let mut swept_unix_ms = now_unix_ms();
        loop {
            let cancelled = tokio::time::timeout(pause, stop.cancelled()).await.is_ok();
            if cancelled {
                return;
            }
            let round = self.round(now_unix_ms(), &stop).await;
            pause = match (round.failures.is_empty(), round.more) {
                // What fails does not keep the rest waiting.
                (_, true) => Duration::ZERO,
                (true, false) => config.interval,
                (false, false) => (pause * 2).clamp(config.interval, PAUSE_MAX.max(config.interval)),
            };
            if now_unix_ms().saturating_sub(swept_unix_ms) >= millis(config.sweep_interval) && !stop.is_cancelled() {
                swept_unix_ms = now_unix_ms();
                self.sweep(swept_unix_ms, &stop).await;
            }
        }
    }

    /// Does what the tables call for at this moment, once.
    pub async fn round(&self, now_unix_ms: u64, stop: &CancellationToken) -> Round {
        let inner = &self.0;
        let mut round = Round::default();
        let tenants = match inner.storage.tenants().await {
            Ok(tenants) => tenants,
            Err(error) => return Round::failed(told(error.into(), None)),
        };
        let due = AtomicU64::new(0);
        for tenant in &tenants {
            if stop.is_cancelled() {
                break;
            }
            // What is no longer kept need not be merged, and what is merged next need not be in an index.
            let mut here = Round::default();
            for done in [
                self.retain(tenant, now_unix_ms, stop).await,
                self.compact(tenant, now_unix_ms, stop, &due).await,
            ] {
                here.add(done.unwrap_or_else(|error| Round::failed(told(error.into(), Some(tenant)))));
            }
            if !here.more && !stop.is_cancelled() {
                let done = self.index(tenant, now_unix_ms, stop).await;
                here.add(done.unwrap_or_else(|error| Round::failed(told(error.into(), Some(tenant)))));
            }
            round.add(here);
        }
        inner.stats.due.store(due.into_inner(), Relaxed);
        inner.stats.aside.store(inner.memory.lock().values().map(Memory::aside).sum::<usize>() as u64, Relaxed);
        inner.stats.failures.fetch_add(round.failures.len() as u64, Relaxed);
        round
    }

    /// Deletes what a tenant's rules no longer keep.
    async fn retain(&self, tenant: &TenantId, now_unix_ms: u64, stop: &CancellationToken) -> Result<Round, StorageError> {
        let inner = &self.0;
        let Some((engine, retentions)) = &inner.retention else { return Ok(Round::default()) };
        let retentions = retentions.read().clone();
        let retention = retentions.of(tenant);
        if !retention.is_limited() {
            return Ok(Round::default());
        }
        let table = inner.storage.table(tenant).await?;
        let windows = retain::windows(&table.refresh().await?.blocks);
        inner.checked.lock().retain(tenant, &windows.iter().map(|window| window.name.as_str()).collect());
        let mut round = Round::default();
        for window in windows {
            let age = window.age(now_unix_ms);
            let state = window.state(retention, age);
            let done = retention.passed(age) == 0 || inner.checked.lock().is_done(tenant, &window.name, state);
            if done || stop.is_cancelled() {
                continue;
            }
            round.add(self.expire(tenant, &table, engine, retention, &window, now_unix_ms, stop).await);
        }
        Ok(round)
    }

    /// Deletes what is no longer kept of one window.
    async fn expire(
        &self,
        tenant: &TenantId,
        table: &Arc<Table>,
        engine: &Engine,
        retention: &Retention,
        window: &Window,
        now_unix_ms: u64,
        stop: &CancellationToken,
    ) -> Round {
        let inner = &self.0;
        let until = now_unix_ms.saturating_add(millis(inner.config.claim_lasts));
        let work = |_: &[String]| Some("retention".to_owned());
        let claim = match inner.storage.claim(tenant, &window.name, work, now_unix_ms, until).await {
            Ok(ClaimOutcome::Ours(claim)) => claim,
            Ok(ClaimOutcome::Taken { .. } | ClaimOutcome::Declined) => {
                inner.stats.claimed_elsewhere.fetch_add(1, Relaxed);
                return Round { left: 1, ..Round::default() };
            }
            Err(error) => return Round::failed(told(error.into(), Some(tenant))),
        };
        let age = window.age(now_unix_ms);
        let expiring = async {
            let changes = retain::changes(&inner.storage, engine, tenant, retention, window, age, &inner.config).await?;
            let Some((commit, deleted)) = changes else {
                inner.checked.lock().done(tenant, &window.name, window.state(retention, age));
                return Ok(Round::default());
            };
            if !claim.is_still_ours().await? {
                inner.stats.lost.fetch_add(1, Relaxed);
                return Ok(Round { left: 1, ..Round::default() });
            }
            let expected = window.after(&commit);
            let committed = match table.commit(commit).await {
                Ok(committed) => committed,
                Err(StorageError::Conflict { .. }) => {
                    inner.stats.lost.fetch_add(1, Relaxed);
                    return Ok(Round { left: 1, more: true, ..Round::default() });
                }
                Err(error) => return Err(error.into()),
            };
            let left = retain::windows(&committed.snapshot.blocks).into_iter().find(|left| left.name == window.name);
            if let Some(left) = left.filter(|left| left.ids() == expected) {
                // What was just written holds only what is kept.
                inner.checked.lock().done(tenant, &window.name, left.state(retention, left.age(now_unix_ms)));
            }
            let stats = &inner.stats;
            stats.expirations.fetch_add(1, Relaxed);
            stats.expired_spans.fetch_add(deleted.spans, Relaxed);
            stats.expired_bytes.fetch_add(deleted.bytes, Relaxed);
            tracing::info!(%tenant, window = window.name, spans = deleted.spans, bytes = deleted.bytes, "deleted what is no longer kept");
            Ok::<_, JobError>(Round { expirations: 1, more: true, ..Round::default() })
        };
        let done = tokio::select! {
            done = expiring => done,
            _ = stop.cancelled() => Ok(Round::default()),
        };
        claim.release().await;
        done.unwrap_or_else(|error| Round::failed(told(error, Some(tenant))))
    }

    /// Merges a tenant's blocks.
    async fn compact(
        &self,
        tenant: &TenantId,
        now_unix_ms: u64,
        stop: &CancellationToken,
        due: &AtomicU64,
    ) -> Result<Round, StorageError> {
        let inner = &self.0;
        let table = inner.storage.table(tenant).await?;
        let snapshot = table.refresh().await?;
        let jobs = {
            let mut memories = inner.memory.lock();
            let memory = memories.entry(tenant.clone()).or_default();
            memory.retain(&snapshot);
            let known = Known {
                aside: &|block| memory.is_aside(block),
                barrier: &|window, block| memory.is_barrier(window, block),
            };
            policy::plan(&snapshot.blocks, known, &inner.config, now_unix_ms)
        };
        due.fetch_add(jobs.iter().map(|job| job.inputs.len() as u64).sum(), Relaxed);
        let mut round = Round::default();
        let (table, snapshot) = (&table, &snapshot);
        let work = jobs.into_iter().map(|job| {
            let work = async move {
                match stop.is_cancelled() {
                    true => Round::default(),
                    false => self.work(tenant, table, snapshot, &job, now_unix_ms, stop).await,
                }
            };
            work.boxed()
        });
        let mut working = stream::iter(work.collect::<Vec<_>>()).buffer_unordered(inner.config.jobs_max.max(1));
        while let Some(done) = working.next().await {
            round.add(done);
        }
        Ok(round)
    }

    /// Claims a job, does it, and commits it.
    async fn work(
        &self,
        tenant: &TenantId,
        table: &Arc<Table>,
        snapshot: &Arc<Snapshot>,
        job: &Job,
        now_unix_ms: u64,
        stop: &CancellationToken,
    ) -> Round {
        let inner = &self.0;
        let names: Vec<String> = job.inputs.iter().map(|input| input.id.to_string()).collect();
        let mut way = Way::Whole;
        let choose = |cut_off: &[String]| {
            way = wary::way(&names, cut_off);
            match way {
                Way::Whole => Some(wary::work(names.iter())),
                Way::Pair => Some(wary::work(names.iter().take(2))),
                Way::Aside => None,
            }
        };
        let until = now_unix_ms.saturating_add(millis(inner.config.claim_lasts));
        let claim = inner.storage.claim(tenant, &job.window, choose, now_unix_ms, until).await;
        let inputs = if way == Way::Whole { &job.inputs[..] } else { &job.inputs[..2] };
        let ids = || inputs.iter().map(|input| input.id);
        let claim = match claim {
            Ok(ClaimOutcome::Ours(claim)) => claim,
            Ok(ClaimOutcome::Declined) => {
                self.remember(tenant, |memory| memory.set_aside(tenant, ids()));
                return Round { more: true, ..Round::default() };
            }
            Ok(ClaimOutcome::Taken { .. }) => {
                inner.stats.claimed_elsewhere.fetch_add(1, Relaxed);
                return Round { left: 1, ..Round::default() };
            }
            Err(error) => return Round::failed(told(error.into(), Some(tenant))),
        };
        let mut span = tracer::background("compact", tenant.as_str());
        if let Some(span) = &mut span {
            span.set("sostenuto.window", job.window.as_str());
            span.set("sostenuto.blocks", inputs.len());
            span.set("sostenuto.block_bytes", inputs.iter().map(|input| input.size_bytes).sum::<u64>());
        }
        let merging = async {
            let merge = tracer::child(span.as_ref(), "merge");
            let made = job::merge(&inner.storage, tenant, &snapshot.blocks, inputs, None, job.last, &inner.config).await?;
            drop(merge);
            let (block, rows_in, rows_out) = match made {
                Made::Barrier(barrier) => {
                    self.remember(tenant, |memory| memory.add_barrier(&job.window, barrier));
                    return Ok(Round { more: true, ..Round::default() });
                }
                Made::Stored { block, rows_in, rows_out } => (block, rows_in, rows_out),
            };
            // Whoever took over would only meet a conflict; this spares it the work.
            if !claim.is_still_ours().await? {
                inner.stats.lost.fetch_add(1, Relaxed);
                return Ok(Round { left: 1, ..Round::default() });
            }
            let bytes_out = block.as_ref().map_or(0, |block| block.size_bytes);
            let commit = Commit {
                adds: block.into_iter().map(|block| *block).collect(),
                removes: inputs.to_vec(),
                // A span that came twice is there once afterwards.
                same_rows: rows_in == rows_out,
                operation: "compact",
                ..Commit::default()
            };
            let commit = async {
                let _committing = tracer::child(span.as_ref(), "commit");
                table.commit(commit).await
            };
            match commit.await {
                Ok(_) => {}
                Err(StorageError::Conflict { .. }) => {
                    inner.stats.lost.fetch_add(1, Relaxed);
                    return Ok(Round { left: 1, more: true, ..Round::default() });
                }
                Err(error) => return Err(error.into()),
            }
            let stats = &inner.stats;
            stats.compactions.fetch_add(1, Relaxed);
            stats.blocks_in.fetch_add(inputs.len() as u64, Relaxed);
            stats.bytes_in.fetch_add(inputs.iter().map(|input| input.size_bytes).sum(), Relaxed);
            stats.bytes_out.fetch_add(bytes_out, Relaxed);
            stats.spans.fetch_add(rows_out, Relaxed);
            stats.redelivered.fetch_add(rows_in - rows_out, Relaxed);
            tracing::debug!(%tenant, window = job.window, blocks = inputs.len(), rows_out, bytes_out, "compacted");
            Ok::<_, JobError>(Round { compactions: 1, more: true, ..Round::default() })
        };
        let done = tokio::select! {
            done = merging => done,
            _ = stop.cancelled() => Ok(Round::default()),
        };
        if let (Some(span), Err(error)) = (&mut span, &done) {
            span.fail(&error.to_string());
        }
        claim.release().await;
        done.unwrap_or_else(|error| {
            // A block that another compactor replaced meanwhile may be deleted already.
            let alive = table.snapshot();
            let blamed = error.speaks_against(ids());
            if blamed.iter().all(|id| alive.block(*id).is_some()) {
                self.remember(tenant, |memory| memory.strike(tenant, &blamed));
            }
            Round::failed(told(error, Some(tenant)))
        })
    }

    /// Makes an index of trace ids, if the tenant's blocks call for one.
    async fn index(&self, tenant: &TenantId, now_unix_ms: u64, stop: &CancellationToken) -> Result<Round, StorageError> {
        let inner = &self.0;
        let snapshot = inner.storage.table(tenant).await?.snapshot();
        let plan = |indexes: &TraceIndexes| {
            let memories = inner.memory.lock();
            let aside = |block| memories.get(tenant).is_some_and(|memory| memory.is_aside(block));
            index::plan(indexes, &snapshot.blocks, &aside, &inner.config, now_unix_ms)
        };
        if plan(&*inner.storage.trace_indexes(tenant).await).is_none() {
            return Ok(Round::default());
        }
        let until = now_unix_ms.saturating_add(millis(inner.config.claim_lasts));
        let work = |_: &[String]| Some(INDEXES.to_owned());
        let ClaimOutcome::Ours(claim) = inner.storage.claim(tenant, INDEXES, work, now_unix_ms, until).await? else {
            inner.stats.claimed_elsewhere.fetch_add(1, Relaxed);
            return Ok(Round { left: 1, ..Round::default() });
        };
        let making = async {
            // Another compactor may have made it meanwhile.
            let Some(work) = plan(&*inner.storage.look_for_trace_indexes(tenant).await) else { return Ok(Round::default()) };
            let made = index::make(&inner.storage, tenant, work).await?;
            inner.stats.indexes.fetch_add(1, Relaxed);
            tracing::debug!(%tenant, index = %made.id, blocks = made.blocks.len(), entries = made.entries, "made an index of traces");
            Ok::<_, JobError>(Round { more: true, ..Round::default() })
        };
        let done = tokio::select! {
            done = making => done,
            _ = stop.cancelled() => Ok(Round::default()),
        };
        claim.release().await;
        Ok(done.unwrap_or_else(|error| {
            let blamed = error.speaks_against(std::iter::empty());
            if blamed.iter().all(|id| snapshot.block(*id).is_some()) {
                self.remember(tenant, |memory| memory.strike(tenant, &blamed));
            }
            Round::failed(told(error, Some(tenant)))
        }))
    }

    /// Deletes files that no reader needs at this moment, of every tenant.
    pub async fn sweep(&self, now_unix_ms: u64, stop: &CancellationToken) {
        let config = &self.0.config;
        let ages = SweepAges { removed_ms: millis(config.removed_kept), orphan_ms: millis(config.orphans_kept) };
        let tenants = match self.0.storage.tenants().await {
            Ok(tenants) => tenants,
            Err(error) => return drop(told(error.into(), None)),
        };
        for tenant in tenants {
            if stop.is_cancelled() {
                return;
            }
            match self.0.storage.sweep(&tenant, ages, now_unix_ms).await {
                Ok(swept) if swept != Swept::default() => {
                    let Swept { files, bytes, log_files, claims, indexes } = swept;
                    tracing::info!(%tenant, files, bytes, log_files, claims, indexes, "deleted the files of blocks that are no longer in the table, and what it no longer needs of its log");
                }
                Ok(_) => {}
                Err(error) => drop(told(error.into(), Some(&tenant))),
            }
        }
    }

    fn remember(&self, tenant: &TenantId, change: impl FnOnce(&mut Memory)) {
        change(self.0.memory.lock().entry(tenant.clone()).or_default());
    }
}

/// Logs a failure where it is handled: the next round tries again.
fn told(error: JobError, tenant: Option<&TenantId>) -> JobError {
    let tenant = tenant.map(|tenant| tenant.as_str());
    tracing::warn!(tenant, error = &error as &dyn std::error::Error, "compaction failed and is tried again later");
    error
}

pub(crate) fn now_unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| millis(since))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
