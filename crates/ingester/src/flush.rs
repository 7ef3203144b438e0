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

use block::{batch::SpanBatch, writer::EncodedBlock};
use futures::{StreamExt, stream};
use model::TenantId;
use storage::Commit;

use crate::{
    FlushError, encode,
    generation::TenantPart,
    ingester::{Cut, Inner},
    sealing::Run,
};

/// The flusher pauses this long after the first failure, twice as long after each further one, up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Blocks that were stored longer ago and not committed are stored anew, with new ids. Files that no commit names must
/// be left alone for longer than this, and the longest commit.
pub const STORED_KEPT: Duration = Duration::from_secs(3600);
/// Making blocks of the same spans fails for a reason that stays. More than one try is for want of memory.
const ENCODE_TRIES: u32 = 3;
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
                    let mut span = tracer::background("flush", tenant.as_str());
                    let result = flush_part(inner, &tenant, &part, cut, segment, span.as_ref()).await;
                    if let Some(span) = &mut span {
                        record(span, &result);
                    }
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

fn record(span: &mut tracer::Span, result: &Result<Done, FlushError>) {
    match result {
        Ok(done) => {
            span.set("sostenuto.spans", done.spans);
            span.set("sostenuto.blocks", done.blocks);
            span.set("sostenuto.block_bytes", done.block_bytes);
        }
        Err(error) => span.fail(&chain(error)),
    }
}

async fn flush_part(
    inner: &Arc<Inner>,
    tenant: &TenantId,
    part: &TenantPart,
    Cut { generation, closed }: &Cut,
    segment: u64,
    span: Option<&tracer::Span>,
) -> Result<Done, FlushError> {
    let store = |source| FlushError::Store { tenant: tenant.clone(), source };
    let stored = part.stored.lock().clone().filter(|entries| {
        let now = SystemTime::now();
        entries.iter().all(|entry| is_fresh(entry.modified_unix_ms, now))
    });
    let entries = match stored {
        Some(entries) => entries,
        None => {
            let encoding = tracer::child(span, "make blocks");
            // They share the memory for making blocks.
            let at_once = generation.parts().len().clamp(1, inner.config.flush_parallelism.max(1));
            let range_bytes = inner.memory.flush_max() / at_once / RANGE_PART;
            let encoded = make_blocks(inner, tenant, part, closed, range_bytes).await?;
            drop(encoding);
            let mut entries = Vec::with_capacity(encoded.len());
            for block in &encoded {
                let _storing = tracer::child(span, "store block");
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
        transaction: Some((inner.ingester.clone(), version)),
        operation: "flush",
        ..Commit::default()
    };
    let _committing = tracer::child(span, "commit");
    // "Already committed" means that an attempt before this one arrived after all.
    inner.storage.table(tenant).await.map_err(store)?.commit(commit).await.map_err(store)?;
    Ok(done)
}

/// The part's blocks. After `ENCODE_TRIES` failures those of the runs that can be encoded alone: the log segments of the
/// others are set aside, so that what nobody can encode does not hold the log and everything after it for ever.
async fn make_blocks(
    inner: &Inner,
    tenant: &TenantId,
    part: &TenantPart,
    closed: &u64,
    range_bytes: usize,
) -> Result<Vec<EncodedBlock>, FlushError> {
    let runs = part.runs.lock().all();
    let failure = match encode_apart(inner, runs.clone(), range_bytes).await {
        Ok(blocks) => return Ok(blocks),
        Err(detail) => FlushError::Encode { tenant: tenant.clone(), detail },
    };
    if part.encode_failures.fetch_add(1, Relaxed) + 1 < ENCODE_TRIES {
        return Err(failure);
    }
    let (mut blocks, mut spans) = (Vec::new(), 0);
    for run in runs {
        let rows = run.rows();
        match encode_apart(inner, vec![run], range_bytes).await {
            Ok(encoded) => blocks.extend(encoded),
            Err(_) => spans += rows,
        }
    }
    let (wal, first, closed) = (inner.wal.clone(), part.first_segment, *closed);
    let set_aside = tokio::task::spawn_blocking(move || wal.set_aside(first, closed)).await;
    let set_aside = set_aside.map_err(|panic| panic.to_string()).and_then(|kept| kept.map_err(|error| chain(&error)));
    match set_aside {
        Ok(files) => {
            inner.counters.spans_set_aside.fetch_add(spans as u64, Relaxed);
            tracing::error!(
                %tenant,
                spans,
                ?files,
                error = &failure as &dyn std::error::Error,
                "no block can be made of these spans: their log segments are kept aside; report this as a bug, with the files"
            );
            Ok(blocks)
        }
        Err(detail) => {
            tracing::error!(%tenant, spans, %detail, "spans of which no block can be made could not be set aside; they stay live and in the log");
            Err(failure)
        }
    }
}

/// A flush works on so small a part of its share of the memory at once: it has that as it came, merged, and on its way into
/// columns.
const RANGE_PART: usize = 4;

/// Encodes on a thread of its own; a panic there is an error here.
async fn encode_apart(inner: &Inner, runs: Vec<Arc<Run>>, range_bytes: usize) -> Result<Vec<EncodedBlock>, String> {
    let mut share = inner.memory.flush_share();
    // One for each of `flush_parallelism`, for as long as it takes.
    let encoding = background::run("flush", move || {
        let batches: Vec<SpanBatch> = runs.iter().map(|run| run.batch().clone()).collect();
        encode::blocks(&batches, range_bytes, |bytes| share.set(bytes))
    });
    encoding.await.map_err(|failed| chain(&failed))?.map_err(|error| chain(&error))
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
    use arrow::array::{Int64Array, RecordBatch};
    use block::promotion::PromotionPolicy;
    use bytes::Bytes;
    use object_store::memory::InMemory;
    use prost::Message;
    use proto::otlp::{
        collector::trace::v1::ExportTraceServiceRequest,
        trace::v1::{ResourceSpans, ScopeSpans, Span},
    };
    use storage::{Storage, StorageConfig};

    use super::*;
    use crate::{Ingester, IngesterConfig};

    fn request(id: u8) -> Bytes {
        let span = Span { trace_id: vec![id; 16], span_id: vec![id; 8], ..Default::default() };
        let scope = ScopeSpans { spans: vec![span], ..Default::default() };
        let resource = ResourceSpans { scope_spans: vec![scope], ..Default::default() };
        ExportTraceServiceRequest { resource_spans: vec![resource] }.encode_to_vec().into()
    }

    #[tokio::test]
    async fn what_cannot_be_encoded_is_set_aside_and_holds_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let config = IngesterConfig {
            wal_dir: dir.path().to_owned(),
            wal_disk_free_min: bytesize::ByteSize::b(0),
            live_age_max_ms: 3_600_000,
            ..IngesterConfig::default()
        };
        let storage = Storage::with_store(Arc::new(InMemory::new()), &StorageConfig::default()).await.unwrap();
        let ingester = Ingester::open(config, storage.clone()).await.unwrap();
        let tenant = TenantId::single();
        ingester.push(&tenant, request(1)).await.unwrap();
        // No input is known that makes such a batch.
        let strange = RecordBatch::try_from_iter([("strange", Arc::new(Int64Array::from(vec![1, 2])) as _)]).unwrap();
        let strange = SpanBatch { records: strange, catalogue: Arc::default() };
        assert!(block::merge::merge(std::slice::from_ref(&strange), &PromotionPolicy::default()).is_err());
        ingester.inner.open_part(&tenant).runs.lock().push_sealed(strange);

        ingester.inner.cut().unwrap();
        for _ in 1..ENCODE_TRIES {
            let failures = round(&ingester.inner).await.failures;
            assert!(matches!(failures.as_slice(), [FlushError::Encode { .. }]), "{failures:?}");
        }
        let report = round(&ingester.inner).await;
        assert!(report.failures.is_empty(), "{:?}", report.failures);
        assert_eq!((report.spans, report.segments_removed), (1, 1));
        assert_eq!(ingester.stats().spans_set_aside, 2);
        let kept: Vec<_> = std::fs::read_dir(dir.path().join("quarantine")).unwrap().flatten().collect();
        let [segment] = kept.as_slice() else { panic!("{kept:?}") };
        let bytes = std::fs::read(segment.path()).unwrap();
        assert!(bytes.windows(16).any(|window| window == [1; 16]), "the request as it came");

        ingester.push(&tenant, request(2)).await.unwrap();
        assert_eq!(ingester.flush().await.unwrap().spans, 1, "what comes later is flushed as ever");
    }

    #[test]
    fn a_block_is_committed_soon_after_it_was_stored_or_not_at_all() {
        let hour_ms = STORED_KEPT.as_millis() as i64;
        let now = UNIX_EPOCH + 10 * STORED_KEPT;
        assert!(is_fresh(9 * hour_ms + 1, now) && is_fresh(10 * hour_ms, now));
        assert!(!is_fresh(9 * hour_ms, now) && !is_fresh(10 * hour_ms + 1, now) && !is_fresh(-1, now));
    }
}
