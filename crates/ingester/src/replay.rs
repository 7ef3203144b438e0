//! From the log back to live spans, at the start.
//!
//! What a tenant's table already has, by the segment its last transaction names, is left out. When the log holds more than
//! memory may, generations are flushed on the way.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use model::TenantId;
use tokio::runtime::Handle;
use wal::{Recovery, RecoveryReport};

use crate::{
    FlushError, OpenError,
    flush::round,
    ingester::Inner,
    insert::{check_frame, insert},
};

/// How long a start waits for the object store before it gives up. The log keeps everything for the next try.
const STORE_WAIT_MAX: Duration = Duration::from_secs(300);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What a start found in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayReport {
    /// Requests that were not in a table yet, and their valid spans.
    pub requests: u64,
    pub spans: u64,
    /// Requests that a table already has.
    pub skipped_requests: u64,
    /// Records of intact bytes that are no request: none, unless an older version accepted what this one does not.
    pub unreadable_requests: u64,
    pub log: RecoveryReport,
}

/// Makes cut generations of the log, ready to be flushed. Blocks: not for an async thread.
pub(crate) fn replay(inner: &Arc<Inner>, mut recovery: Recovery, runtime: &Handle) -> Result<ReplayReport, OpenError> {
    let mut report = ReplayReport::default();
    let mut known: HashMap<TenantId, u64> = HashMap::new();
    let mut generation = Arc::new(inner.new_generation(1));
    let mut last_segment = 0;
    while let Some(record) = recovery.next() {
        if record.segment != last_segment && generation.payload_bytes() >= inner.config.cut_bytes.as_u64() {
            inner.push_cut(generation, last_segment);
            generation = Arc::new(inner.new_generation(last_segment + 1));
            if inner.memory.live() >= inner.memory.room_max() {
                recovery.while_waiting(|| runtime.block_on(make_room(inner)))?;
            }
        }
        last_segment = record.segment;
        let committed = match known.get(&record.tenant) {
            Some(segment) => *segment,
            None => {
                let segment = recovery.while_waiting(|| runtime.block_on(committed_segment(inner, &record.tenant)))?;
                known.insert(record.tenant.clone(), segment);
                segment
            }
        };
        if record.segment <= committed {
            report.skipped_requests += 1;
            continue;
        }
        if let Err(error) = check_frame(&record.payload) {
            report.unreadable_requests += 1;
            tracing::error!(
                segment = record.segment,
                offset = record.offset,
                tenant = %record.tenant,
                %error,
                "the log holds a request that cannot be read; it is left out"
            );
            continue;
        }
        generation.count_push(record.payload.len());
        let part = generation.part_from(&record.tenant, record.segment);
        report.spans += insert(&mut part.runs.lock(), &record.payload).accepted;
        report.requests += 1;
    }
    report.log = recovery.finish();
    // Also when nothing is left to flush: the old segments can then go.
    let closed = inner.wal.rotate()?;
    if closed > 0 {
        inner.push_cut(generation, closed);
    }
    Ok(report)
}

/// The highest segment of this ingester's log that the tenant's table covers; 0 for none.
async fn committed_segment(inner: &Inner, tenant: &TenantId) -> Result<u64, OpenError> {
    let started = Instant::now();
    let mut pause = PAUSE_MIN;
    loop {
        let look = async { inner.storage.table(tenant).await?.refresh().await };
        match look.await {
            Ok(snapshot) => {
                let version = snapshot.transactions.get(&inner.ingester).copied().unwrap_or(0);
                return Ok(u64::try_from(version).unwrap_or(0));
            }
            Err(source) if started.elapsed() >= STORE_WAIT_MAX => {
                let waited_s = started.elapsed().as_secs();
                return Err(OpenError::Table { tenant: tenant.clone(), waited_s, source });
            }
            Err(error) => {
                tracing::warn!(%tenant, error = &error as &dyn std::error::Error, "waiting for the tenant's table, to know what of the log it has");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

/// Flushes until live data fits into memory again.
async fn make_room(inner: &Arc<Inner>) -> Result<(), OpenError> {
    let started = Instant::now();
    let mut pause = PAUSE_MIN;
    loop {
        let failure: Option<FlushError> = round(inner).await.failures.into_iter().next();
        match failure {
            None => return Ok(()),
            Some(_) if inner.memory.live() < inner.memory.room_max() => return Ok(()),
            Some(source) if started.elapsed() >= STORE_WAIT_MAX => {
                return Err(OpenError::Flush { waited_s: started.elapsed().as_secs(), source });
            }
            Some(_) => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}
