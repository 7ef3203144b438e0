//! From cut generations to commits.
//!
//! A round goes through the waiting generations, oldest first, and through the tenants of each. What fails stays live and
//! in the log for the next round; a tenant that failed in one generation is not flushed in a later one before, because its
//! table would then know a segment above spans that it does not have.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::{StreamExt, stream};
use model::TenantId;
use storage::Commit;

use crate::{
    FlushError, encode,
    generation::TenantPart,
    ingester::{Cut, Inner},
};

/// The flusher pauses this long after the first failure, twice as long after each further one, up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Blocks that were stored longer ago and not committed are stored anew, with new ids. Files that no commit names must
/// be left alone for longer than this, and the longest commit.
pub const STORED_KEPT: Duration = Duration::from_secs(3600);
/// How often the flusher looks for spans that have become old.
const LOOK_MAX: Duration = Duration::from_secs(1);
/// Failures that one report names.
const FAILURES_LISTED_MAX: usize = 20;

/// What a flush did.
#[derive(Clone, Debug, Default)]
pub struct FlushReport {
    /// Commits: one per tenant and generation.
    pub commits: u64,
    pub blocks: u64,
    /// Rows in the blocks: re-deliveries are counted once.
    pub spans: u64,
    pub block_bytes: u64,
    /// Segments of the log that were no longer needed.
    pub segments_removed: usize,
    /// What is not in the table; at most 20. Empty: everything is.
    pub failures: Vec<FlushError>,
}

impl FlushReport {
    pub(crate) fn add(&mut self, other: Self) {
        self.commits += other.commits;
        self.blocks += other.blocks;
        self.spans += other.spans;
        self.block_bytes += other.block_bytes;
        self.segments_removed += other.segments_removed;
        self.failures = other.failures;
    }

    fn fail(&mut self, error: FlushError) {
        tracing::error!(error = &error as &dyn std::error::Error, "a flush failed; its spans stay live and in the log");
        if self.failures.len() < FAILURES_LISTED_MAX {
            self.failures.push(error);
        }
    }
}

/// Cuts what is due and flushes what was cut, until it is aborted.
pub(crate) async fn run(inner: Arc<Inner>) {
    let look = (inner.config.live_age_max() / 10).clamp(Duration::from_millis(10), LOOK_MAX);
    let mut pause = PAUSE_MIN;
    loop {
        // A wake-up may come early or without need; both only cost a look.
        let _ = tokio::time::timeout(look, inner.wake.notified()).await;
        if inner.cut_is_due()
            && let Err(error) = inner.cut()
        {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot cut the live data");
        }
        if inner.cuts().is_empty() {
            continue;
        }
        if round(&inner).await.failures.is_empty() {
            pause = PAUSE_MIN;
        } else {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// Tries everything that waits once.
pub(crate) async fn round(inner: &Arc<Inner>) -> FlushReport {
    let _one_at_a_time = inner.flushing.lock().await;
    let mut report = FlushReport::default();
    let mut behind: HashSet<TenantId> = HashSet::new();
    for cut in inner.cuts() {
        let segment = match settle(inner, &cut).await {
            Ok(segment) => segment,
            Err(error) => {
                report.fail(error);
                break;
            }
        };
        let (late, ready): (Vec<_>, Vec<_>) =
            cut.generation.parts().into_iter().partition(|(tenant, _)| behind.contains(tenant));
        for (tenant, _) in late {
            report.fail(FlushError::Behind { tenant });
        }
        let mut flushes = stream::iter(ready)
            .map(|(tenant, part)| {
                let cut = &cut;
                async move {
                    let result = flush_part(inner, &tenant, &part, segment).await;
                    if result.is_ok() {
                        cut.generation.drop_part(&tenant);
                    }
                    (tenant, result)
                }
            })
            .buffer_unordered(inner.config.flush_parallelism.max(1));
        while let Some((tenant, result)) = flushes.next().await {
            match result {
                Ok(done) => {
                    report.commits += done.commits;
                    report.blocks += done.blocks;
                    report.spans += done.spans;
                    report.block_bytes += done.block_bytes;
                }
                Err(error) => {
                    behind.insert(tenant);
                    report.fail(error);
                }
            }
        }
        drop(flushes);
        // Segments go in the order of generations: an older one that waits keeps the log of the younger ones too.
        if behind.is_empty() && cut.generation.parts().is_empty() {
            inner.forget(&cut);
            remove_segments(inner, cut.closed, &mut report).await;
        }
    }
    let counters = &inner.counters;
    counters.blocks.fetch_add(report.blocks, Relaxed);
    counters.flushed_spans.fetch_add(report.spans, Relaxed);
    counters.flush_failures.fetch_add(report.failures.len() as u64, Relaxed);
    report
}

/// The segment that the generation's commits name. Decided when all its appends are durable or have failed.
async fn settle(inner: &Inner, cut: &Cut) -> Result<u64, FlushError> {
    if let Some(segment) = cut.generation.segment() {
        return Ok(segment);
    }
    let segment = inner.wal.settle(cut.closed).await?;
    cut.generation.set_segment(segment);
    let before = inner.settled.swap(segment, Relaxed);
    if segment <= before {
        // No segment of this generation came to stand: every push of it was told to come again.
        for (tenant, _) in cut.generation.parts() {
            tracing::warn!(%tenant, "dropped live spans that were never acknowledged: the log failed");
            cut.generation.drop_part(&tenant);
        }
    }
    Ok(segment)
}

#[derive(Default)]
struct Done {
    commits: u64,
    blocks: u64,
    spans: u64,
    block_bytes: u64,
}

async fn flush_part(inner: &Arc<Inner>, tenant: &TenantId, part: &TenantPart, segment: u64) -> Result<Done, FlushError> {
    let store = |source| FlushError::Store { tenant: tenant.clone(), source };
    let stored = part.stored.lock().clone().filter(|entries| {
        let now = SystemTime::now();
        entries.iter().all(|entry| is_fresh(entry.modified_unix_ms, now))
    });
    let entries = match stored {
        Some(entries) => entries,
        None => {
            let batches = part.runs.lock().batches();
            let encoded = tokio::task::spawn_blocking(move || encode::blocks(batches))
                .await
                .map_err(|panic| panic.to_string())
                .and_then(|result| result.map_err(|error| chain(&error)))
                .map_err(|detail| FlushError::Encode { tenant: tenant.clone(), detail })?;
            let mut entries = Vec::with_capacity(encoded.len());
            for block in &encoded {
                entries.push(inner.storage.put_block(tenant, block).await.map_err(store)?);
            }
            *part.stored.lock() = Some(entries.clone());
            entries
        }
    };
    if entries.is_empty() {
        return Ok(Done::default());
    }
    let done = Done {
        commits: 1,
        blocks: entries.len() as u64,
        spans: entries.iter().map(|entry| entry.rows).sum(),
        block_bytes: entries.iter().map(|entry| entry.size_bytes).sum(),
    };
    let version = i64::try_from(segment).expect("segments count up from 1, one per commit at most");
    let commit = Commit {
        adds: entries,
        removes: Vec::new(),
        transaction: Some((inner.ingester.clone(), version)),
        operation: "flush",
    };
    // "Already committed" means that an attempt before this one arrived after all.
    inner.storage.table(tenant).await.map_err(store)?.commit(commit).await.map_err(store)?;
    Ok(done)
}

/// Whether a stored block may still be committed. Later, a sweep may hold its files to be left behind.
fn is_fresh(stored_unix_ms: i64, now: SystemTime) -> bool {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let stored = Duration::from_millis(u64::try_from(stored_unix_ms).unwrap_or(0));
    // A clock that was set back says nothing.
    now.checked_sub(stored).is_some_and(|age| age < STORED_KEPT)
}

/// A failure leaves segments that the next start skips and the next removal removes.
async fn remove_segments(inner: &Inner, closed: u64, report: &mut FlushReport) {
    let wal = inner.wal.clone();
    match tokio::task::spawn_blocking(move || wal.remove_through(closed)).await {
        Ok(Ok(removed)) => report.segments_removed += removed,
        Ok(Err(error)) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "flushed segments of the log could not be removed yet");
        }
        Err(panic) => tracing::error!(%panic, "removing flushed segments of the log ended unexpectedly"),
    }
}

/// An error with its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_committed_soon_after_it_was_stored_or_not_at_all() {
        let hour_ms = STORED_KEPT.as_millis() as i64;
        let now = UNIX_EPOCH + 10 * STORED_KEPT;
        assert!(is_fresh(9 * hour_ms + 1, now) && is_fresh(10 * hour_ms, now));
        assert!(!is_fresh(9 * hour_ms, now) && !is_fresh(10 * hour_ms + 1, now) && !is_fresh(-1, now));
    }
}
