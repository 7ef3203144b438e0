//! The handle: push, live, flush, shutdown.
//!
//! One lock divides pushes from cuts. A push holds it shared while it takes its place in the log and puts its spans into
//! the open generation; a cut holds it alone while it closes the log's segment and opens the next generation. So both
//! agree on which spans a generation has.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use block::builder::Warnings;
use bytes::Bytes;
use futures::future::BoxFuture;
use model::TenantId;
use parking_lot::RwLock;
use query::{LiveData, LiveGeneration};
use storage::Storage;
use tokio::{runtime::Handle, sync::Notify};
use tokio_util::task::AbortOnDropHandle;
use wal::{Wal, WalStats};

use crate::{
    FlushError, FlushReport, IngesterConfig, OpenError, PushError, ReplayReport, flush,
    generation::{Generation, TenantPart},
    insert::{check_frame, insert},
    memory::{Memory, MemoryUse},
    replay,
    runs::{merge_small, wants_merge},
    sealing::Sealer,
};

/// The flusher opens no further generation while this many wait for the store: the open one grows instead.
const CUTS_MAX: usize = 2;
/// A request has room if this many times its bytes are free; what it takes as live spans is known afterwards.
const LIVE_BYTES_PER_BYTE: usize = 2;
/// Rounds of an explicit flush, with pauses of 200 ms and more between them. The flusher goes on for ever.
const FLUSH_ROUNDS: u32 = 4;
const FLUSH_PAUSE: Duration = Duration::from_millis(200);

/// A handle; clones share one ingester. Dropping the last one stops it as a crash would: nothing acknowledged is lost, and
/// the next start replays what was not flushed.
#[derive(Clone)]
pub struct Ingester {
    pub(crate) inner: Arc<Inner>,
    _flusher: Arc<AbortOnDropHandle<()>>,
    report: Arc<ReplayReport>,
}

pub(crate) struct Inner {
    pub config: IngesterConfig,
    pub storage: Storage,
    pub wal: Wal,
    /// The application of this ingester's commits.
    pub ingester: String,
    pub memory: Memory,
    sealer: Sealer,
    generations: RwLock<Generations>,
    /// Held for a round of flushing.
    pub flushing: tokio::sync::Mutex<()>,
    /// The segment that the last settled generation was given.
    pub settled: AtomicU64,
    /// Says that a cut may be due.
    pub wake: Notify,
    runtime: Handle,
    pub counters: Counters,
}

struct Generations {
    open: Arc<Generation>,
    /// Oldest first.
    cuts: VecDeque<Cut>,
    closing: bool,
}

/// A generation that takes no more spans.
#[derive(Clone)]
pub(crate) struct Cut {
    pub generation: Arc<Generation>,
    /// Its spans are in log segments up to this one.
    pub closed: u64,
}

#[derive(Default)]
pub(crate) struct Counters {
    accepted_spans: AtomicU64,
    rejected_spans: AtomicU64,
    pub flushed_spans: AtomicU64,
    pub blocks: AtomicU64,
    pub flush_failures: AtomicU64,
    pub spans_set_aside: AtomicU64,
}

/// Counts since the start, and what is in memory now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IngesterStats {
    pub accepted_spans: u64,
    pub rejected_spans: u64,
    pub flushed_spans: u64,
    pub blocks: u64,
    pub flush_failures: u64,
    /// Live spans of which no block could be made; their log segments are in the quarantine.
    pub spans_set_aside: u64,
    pub memory: MemoryUse,
    /// Generations that wait for the object store.
    pub cuts_waiting: usize,
    pub log: WalStats,
}

/// A request that is durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushOutcome {
    pub accepted: u64,
    /// Reason to number of spans. They are not stored; sending them again cannot help.
    pub rejected: BTreeMap<&'static str, u64>,
    /// What the attribute limits cut off accepted spans.
    pub warnings: Warnings,
}

impl Ingester {
    /// Opens the log, replays it, and begins to flush. Waits up to five minutes for the object store, and only if the log
    /// holds spans that may or may not have reached it.
    pub fn open(config: IngesterConfig, storage: Storage) -> BoxFuture<'static, Result<Self, OpenError>> {
        Box::pin(Self::open_and_replay(config, storage))
    }

    async fn open_and_replay(config: IngesterConfig, storage: Storage) -> Result<Self, OpenError> {
        let runtime = Handle::current();
        let opening = tokio::task::spawn_blocking(move || -> Result<_, OpenError> {
            let (wal, recovery) = Wal::open(config.wal())?;
            let memory = Memory::new(config.memory_max());
            let next_segment = wal.stats().segment;
            let sealer = Sealer::start();
            let open = Arc::new(Generation::new(config.attribute_limits(), memory.clone(), sealer.clone(), next_segment));
            let inner = Arc::new(Inner {
                ingester: wal.ingester_id().to_string(),
                config,
                storage,
                wal,
                memory,
                sealer,
                generations: RwLock::new(Generations { open, cuts: VecDeque::new(), closing: false }),
                flushing: tokio::sync::Mutex::default(),
                settled: AtomicU64::new(0),
                wake: Notify::new(),
                runtime: runtime.clone(),
                counters: Counters::default(),
            });
            let report = replay::replay(&inner, recovery, &runtime)?;
            Ok((inner, report))
        });
        let (inner, report) = opening.await.unwrap_or_else(|panic| Err(OpenError::Replay(panic.to_string())))?;
        tracing::info!(
            requests = report.requests,
            spans = report.spans,
            skipped_requests = report.skipped_requests,
            segments = report.log.segments,
            "replayed the log"
        );
        inner.wake.notify_one();
        let flusher = AbortOnDropHandle::new(tokio::spawn(flush::run(inner.clone())));
        Ok(Self { inner, _flusher: Arc::new(flusher), report: Arc::new(report) })
    }

    /// What the start found in the log.
    pub fn replayed(&self) -> &ReplayReport {
        &self.report
    }

    /// The application that this ingester's commits name.
    pub fn ingester_id(&self) -> &str {
        &self.inner.ingester
    }

    /// The budget that requests have to be charged to before they come to [`Self::push`].
    pub fn memory(&self) -> &Memory {
        &self.inner.memory
    }

    /// Takes an OTLP `ExportTraceServiceRequest` in protobuf. Answers when its spans are durable and visible.
    pub async fn push(&self, tenant: &TenantId, request: Bytes) -> Result<PushOutcome, PushError> {
        let inner = &self.inner;
        if check_frame(&request)? == 0 {
            return Ok(PushOutcome::default());
        }
        let mut room = inner.memory.empty_lease();
        if let Err(full) = room.grow(request.len() * LIVE_BYTES_PER_BYTE) {
            inner.wake.notify_one();
            return Err(full.into());
        }
        let (pending, inserted) = {
            let generations = inner.generations.read();
            if generations.closing {
                return Err(PushError::ShuttingDown);
            }
            let pending = inner.wal.append(tenant, unix_nano(), request.clone())?;
            let open = &generations.open;
            open.count_push(request.len());
            let part = open.part_or_new(tenant);
            let inserted = insert(&mut part.runs.lock(), &request);
            (pending, inserted)
        };
        drop(room);
        if inner.cut_is_due() {
            inner.wake.notify_one();
        }
        let rejected: u64 = inserted.rejected.values().sum();
        inner.counters.accepted_spans.fetch_add(inserted.accepted, Relaxed);
        inner.counters.rejected_spans.fetch_add(rejected, Relaxed);
        if inserted.accepted == 0 {
            return Err(PushError::NothingValid(inserted.rejected));
        }
        pending.await?;
        Ok(PushOutcome { accepted: inserted.accepted, rejected: inserted.rejected, warnings: inserted.warnings })
    }

    /// Cuts now and returns when everything pushed before is in the table.
    ///
    /// # Errors
    /// The first failure of the last of a few attempts. What is not in the table stays live and in the log, and is flushed
    /// later by itself.
    pub fn flush(&self) -> BoxFuture<'_, Result<FlushReport, FlushError>> {
        Box::pin(self.flush_all())
    }

    async fn flush_all(&self) -> Result<FlushReport, FlushError> {
        self.inner.cut()?;
        let mut report = FlushReport::default();
        for attempt in 0..FLUSH_ROUNDS {
            if attempt > 0 {
                tokio::time::sleep(FLUSH_PAUSE * (1 << attempt)).await;
            }
            report.add(flush::round(&self.inner).await);
            if report.failures.is_empty() {
                return Ok(report);
            }
        }
        Err(report.failures.remove(0))
    }

    /// Refuses further pushes, flushes, and closes the log.
    ///
    /// # Errors
    /// As `flush`. The log is closed all the same, and the next start replays what was not flushed.
    pub fn shutdown(&self) -> BoxFuture<'_, Result<FlushReport, FlushError>> {
        Box::pin(self.flush_and_close())
    }

    async fn flush_and_close(&self) -> Result<FlushReport, FlushError> {
        self.inner.generations.write().closing = true;
        let flushed = self.flush().await;
        self.inner.wal.close().await;
        if let Err(error) = &flushed {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                log_bytes = self.inner.wal.bytes_on_disk(),
                "shut down with spans that are only in the log; the next start replays them"
            );
        }
        flushed
    }

    pub fn stats(&self) -> IngesterStats {
        let Inner { counters, wal, memory, .. } = &*self.inner;
        IngesterStats {
            accepted_spans: counters.accepted_spans.load(Relaxed),
            rejected_spans: counters.rejected_spans.load(Relaxed),
            flushed_spans: counters.flushed_spans.load(Relaxed),
            blocks: counters.blocks.load(Relaxed),
            flush_failures: counters.flush_failures.load(Relaxed),
            spans_set_aside: counters.spans_set_aside.load(Relaxed),
            memory: memory.in_use(),
            cuts_waiting: self.inner.cuts().len(),
            log: wal.stats(),
        }
    }
}

impl LiveData for Ingester {
    fn live(&self, tenant: &TenantId) -> Vec<LiveGeneration> {
        let generations: Vec<Arc<Generation>> = {
            let generations = self.inner.generations.read();
            generations.cuts.iter().map(|cut| cut.generation.clone()).chain([generations.open.clone()]).collect()
        };
        generations
            .iter()
            .filter_map(|generation| generation.part(tenant))
            .map(|part| LiveGeneration {
                ingester: self.inner.ingester.clone(),
                segment: Some(part.first_segment),
                batches: self.inner.batches(&part),
            })
            .filter(|generation| !generation.batches.is_empty())
            .collect()
    }
}

impl Inner {
    /// The part's spans so far. Starts to merge small runs when there are many.
    fn batches(&self, part: &Arc<TenantPart>) -> Vec<block::batch::SpanBatch> {
        let batches = part.batches();
        if wants_merge(&part.runs.lock()) {
            let part = part.clone();
            self.runtime.spawn_blocking(move || merge_small(&part.runs));
        }
        batches
    }

    pub fn new_generation(&self, first_segment: u64) -> Generation {
        Generation::new(self.config.attribute_limits(), self.memory.clone(), self.sealer.clone(), first_segment)
    }

    /// Closes the open generation, unless nothing is in it.
    pub fn cut(&self) -> Result<(), FlushError> {
        let mut generations = self.generations.write();
        if generations.open.first_push().is_none() {
            return Ok(());
        }
        let closed = self.wal.rotate()?;
        let generation = std::mem::replace(&mut generations.open, Arc::new(self.new_generation(closed + 1)));
        generations.cuts.push_back(Cut { generation, closed });
        Ok(())
    }

    /// Adds a generation that was never open, younger than all others that wait.
    pub fn push_cut(&self, generation: Arc<Generation>, closed: u64) {
        self.generations.write().cuts.push_back(Cut { generation, closed });
    }

    pub fn cut_is_due(&self) -> bool {
        let generations = self.generations.read();
        let open = &generations.open;
        let Some(first_push) = open.first_push() else { return false };
        let crowded = self.memory.live() >= self.memory.room_max() / 2;
        let full = open.payload_bytes() >= self.config.cut_bytes.as_u64();
        generations.cuts.len() < CUTS_MAX && (full || first_push.elapsed() >= self.config.live_age_max())
            || generations.cuts.is_empty() && crowded
    }

    #[cfg(test)]
    pub fn open_part(&self, tenant: &TenantId) -> Arc<TenantPart> {
        self.generations.read().open.part_or_new(tenant)
    }

    pub fn cuts(&self) -> Vec<Cut> {
        self.generations.read().cuts.iter().cloned().collect()
    }

    /// The generation is in the table.
    pub fn forget(&self, done: &Cut) {
        self.generations.write().cuts.retain(|cut| !Arc::ptr_eq(&cut.generation, &done.generation));
    }
}

fn unix_nano() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
