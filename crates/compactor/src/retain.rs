//! Applies retention to a table: window by window, oldest first, one commit for each.
//!
//! A window that has outlived every time goes without being read. Otherwise the engine says which whole traces each rule
//! matches, and blocks that hold traces to delete are written anew without them. All blocks of a window change in one
//! commit, so that a trace goes as a whole.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use model::{TenantId, TraceId};
use query::{Engine, QueryError, TimeRange};
use storage::{BlockEntry, Commit, Storage};
use ulid::Ulid;

use crate::{
    config::CompactorConfig,
    error::JobError,
    job::{self, Made},
    order,
    retention::Retention,
};

/// The length of a window in milliseconds.
const WINDOW_MS: u64 = 3_600_000;

/// The blocks of one window.
pub struct Window {
    pub name: String,
    /// In received order.
    pub blocks: Vec<Arc<BlockEntry>>,
}

/// The windows of a table, oldest first.
pub fn windows(blocks: &[Arc<BlockEntry>]) -> Vec<Window> {
    let mut windows: BTreeMap<&str, Vec<Arc<BlockEntry>>> = BTreeMap::new();
    for block in blocks {
        windows.entry(block.window()).or_default().push(Arc::clone(block));
    }
    let sorted = |mut blocks: Vec<Arc<BlockEntry>>| {
        blocks.sort_by_key(|block| block.id);
        blocks
    };
    windows.into_iter().map(|(name, blocks)| Window { name: name.to_owned(), blocks: sorted(blocks) }).collect()
}

impl Window {
    /// For how long all of its traces have been kept.
    pub fn age(&self, now_unix_ms: u64) -> Duration {
        // What was received last; merging and rewriting leave it as it is.
        let received = self.blocks.iter().map(|block| block.id.timestamp_ms()).max().unwrap_or(u64::MAX);
        let ended = self.blocks.iter().map(|block| window_end_unix_ms(block)).max().unwrap_or(u64::MAX);
        Duration::from_millis(now_unix_ms.saturating_sub(received.max(ended)))
    }

    /// Stands for its blocks and how far retention has come with them.
    pub fn state(&self, retention: &Retention, age: Duration) -> u64 {
        let mut hasher = DefaultHasher::new();
        format!("{retention:?}").hash(&mut hasher);
        retention.passed(age).hash(&mut hasher);
        self.blocks.iter().for_each(|block| block.id.0.hash(&mut hasher));
        hasher.finish()
    }

    /// The ids of its blocks, ascending.
    pub fn ids(&self) -> Vec<Ulid> {
        self.blocks.iter().map(|block| block.id).collect()
    }

    /// The ids of its blocks after a commit, if nobody else changes it.
    pub fn after(&self, commit: &Commit) -> Vec<Ulid> {
        let stays = |id: &Ulid| !commit.removes.iter().any(|gone| gone.id == *id);
        let mut ids: Vec<Ulid> = self.ids().into_iter().filter(stays).chain(commit.adds.iter().map(|new| new.id)).collect();
        ids.sort_unstable();
        ids
    }

    fn range(&self) -> TimeRange {
        let start = self.blocks.iter().map(|block| block.min_start_unix_nano).min().unwrap_or(i64::MIN);
        let end = self.blocks.iter().map(|block| block.max_end_unix_nano).max().unwrap_or(i64::MAX);
        TimeRange { start, end }
    }
}

/// The end of the hour that the block lies in.
fn window_end_unix_ms(block: &BlockEntry) -> u64 {
    storage::window_start_unix_ms(block.window()).map_or(u64::MAX, |start| start.saturating_add(WINDOW_MS))
}

/// The traces that each rule's query matches in a window; `None` where there is no query.
pub async fn matching(
    engine: &Engine,
    tenant: &TenantId,
    retention: &Retention,
    window: &Window,
) -> Result<Vec<Option<HashSet<TraceId>>>, QueryError> {
    let mut matching = Vec::with_capacity(retention.rules.len());
    for rule in &retention.rules {
        matching.push(match &rule.query {
            None => None,
            Some(query) => Some(engine.traces_matching(tenant, query, window.range()).await?.into_iter().collect()),
        });
    }
    Ok(matching)
}

/// What a window's commit would change. `None`: nothing.
pub async fn changes(
    storage: &Storage,
    engine: &Engine,
    tenant: &TenantId,
    retention: &Retention,
    window: &Window,
    age: Duration,
    config: &CompactorConfig,
) -> Result<Option<(Commit, Deleted)>, JobError> {
    let mut deleted = Deleted::default();
    let mut commit = Commit { operation: "retain", ..Commit::default() };
    if retention.all_passed(age) {
        for block in &window.blocks {
            deleted.spans += block.rows;
            deleted.bytes += block.size_bytes;
        }
        commit.removes.clone_from(&window.blocks);
        return Ok(Some((commit, deleted)));
    }
    let matching = matching(engine, tenant, retention, window).await?;
    for entry in &window.blocks {
        let block = storage.open_block(tenant, entry).await.map_err(|e| JobError::input(entry.id, e))?;
        let mut without = HashSet::new();
        let traces = order::rows_by_trace(&block).await?;
        let count = traces.len();
        for (trace, _) in traces {
            let keep = retention.keep_of(retention.decider(&trace, &matching));
            if keep.is_some_and(|keep| keep <= age) {
                without.insert(trace);
            }
        }
        if without.is_empty() {
            continue;
        }
        commit.removes.push(Arc::clone(entry));
        if without.len() == count {
            deleted.spans += entry.rows;
            deleted.bytes += entry.size_bytes;
            continue;
        }
        let inputs = [Arc::clone(entry)];
        let made = job::merge(storage, tenant, &inputs, &inputs, Some(Arc::new(without)), true, config).await?;
        let Made::Stored { block: Some(new), rows_out, .. } = made else {
            unreachable!("one block has none between, and some of its traces stay")
        };
        deleted.spans += entry.rows - rows_out;
        deleted.bytes += entry.size_bytes.saturating_sub(new.size_bytes);
        commit.adds.push(*new);
    }
    Ok((!commit.removes.is_empty()).then_some((commit, deleted)))
}

/// What a commit deletes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deleted {
    pub spans: u64,
    pub bytes: u64,
}

/// What the rules keep of a tenant's traces as they are in the table now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RetentionPlan {
    /// One for each rule, and one for the default.
    pub rules: Vec<RulePlan>,
}

/// The traces that one rule decides over.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RulePlan {
    pub traces: u64,
    pub spans: u64,
    /// Their share of the data files, by spans.
    pub bytes: u64,
    /// Of these, what would be deleted now.
    pub expired_traces: u64,
    pub expired_bytes: u64,
}

/// Evaluates all rules over all of a tenant's blocks. Reads the trace ids of every block, and what the queries need.
pub async fn plan(
    storage: &Storage,
    engine: &Engine,
    tenant: &TenantId,
    retention: &Retention,
    now_unix_ms: u64,
) -> Result<RetentionPlan, JobError> {
    let snapshot = storage.table(tenant).await?.refresh().await?;
    let mut rules = vec![RulePlan::default(); retention.rules.len() + 1];
    for window in windows(&snapshot.blocks) {
        let age = window.age(now_unix_ms);
        let matching = matching(engine, tenant, retention, &window).await?;
        // A trace may lie in several blocks: rows and bytes of all of them.
        let mut traces: HashMap<TraceId, (u64, f64)> = HashMap::new();
        for entry in &window.blocks {
            let block = storage.open_block(tenant, entry).await.map_err(|e| JobError::input(entry.id, e))?;
            let row_bytes = entry.size_bytes as f64 / entry.rows.max(1) as f64;
            for (trace, rows) in order::rows_by_trace(&block).await? {
                let sum = traces.entry(trace).or_default();
                sum.0 += rows;
                sum.1 += rows as f64 * row_bytes;
            }
        }
        let mut bytes = vec![(0.0, 0.0); rules.len()];
        for (trace, (rows, trace_bytes)) in traces {
            let decider = retention.decider(&trace, &matching);
            let rule = &mut rules[decider];
            rule.traces += 1;
            rule.spans += rows;
            bytes[decider].0 += trace_bytes;
            if retention.keep_of(decider).is_some_and(|keep| keep <= age) {
                rule.expired_traces += 1;
                bytes[decider].1 += trace_bytes;
            }
        }
        for (rule, (all, expired)) in rules.iter_mut().zip(bytes) {
            rule.bytes += all.round() as u64;
            rule.expired_bytes += expired.round() as u64;
        }
    }
    Ok(RetentionPlan { rules })
}
