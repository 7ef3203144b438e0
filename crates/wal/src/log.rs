//! The handle of the log.

use std::{
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, mpsc},
    task::{Context, Poll},
    thread::JoinHandle,
};

use bytes::Bytes;
use model::TenantId;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{oneshot, watch};
use ulid::Ulid;

use crate::{
    Disk, LocalDisk, PAYLOAD_BYTES_MAX, Recovery, WalConfig, WalError, directory,
    format::{Place, RecordHeader, body_crc},
    quarantine::Quarantine,
    queue::{Append, Item, Shared, State},
    writer::Writer,
};

/// A handle; clones share one log. Dropping the last one writes what is queued and ends the writer thread.
#[derive(Clone)]
pub struct Wal {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.state.lock().closing = true;
        self.shared.work.notify_all();
        if let Some(writer) = self.writer.lock().take() {
            // A writer that panicked has said so and answered its waiters; nothing is left to do about it here.
            let _ = writer.join();
        }
    }
}

/// An append on its way. As a future it answers when the record is durable; dropping it does not take the record back.
pub struct Pending {
    segment: u64,
    done: oneshot::Receiver<Result<(), WalError>>,
}

impl Pending {
    pub fn segment(&self) -> u64 {
        self.segment
    }

    /// `Ok`: the record is on disk. `Err`: it may or may not be found again at the next start; send it again.
    pub async fn durable(self) -> Result<(), WalError> {
        self.await
    }

    /// `durable` for a thread that may block.
    pub fn wait(self) -> Result<(), WalError> {
        self.done.blocking_recv().unwrap_or(Err(WalError::Closed))
    }
}

impl Future for Pending {
    type Output = Result<(), WalError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.done).poll(cx).map(|answer| answer.unwrap_or(Err(WalError::Closed)))
    }
}

/// Counts since the log was opened, and what it holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalStats {
    /// Group commits, failed ones included.
    pub commits: u64,
    /// Records made durable.
    pub records: u64,
    /// Segments sealed because a write, an fsync or their creation failed.
    pub failures: u64,
    pub queued_bytes: usize,
    pub queued_appends: usize,
    pub disk_bytes: u64,
    pub segments: usize,
    /// The segment that the next append goes to.
    pub segment: u64,
}

impl Wal {
    /// Opens or creates the log of a directory and cuts a torn tail. The [`Recovery`] hands out what is in it; reading it
    /// and appending may overlap.
    pub fn open(config: WalConfig) -> Result<(Self, Recovery), WalError> {
        Self::open_on(config, Arc::new(LocalDisk))
    }

    /// `open` with a write side of the caller's choice.
    pub fn open_on(config: WalConfig, disk: Arc<dyn Disk>) -> Result<(Self, Recovery), WalError> {
        let lock = directory::lock(&config.dir)?;
        let listing = directory::list(&config.dir)?;
        let ingester = listing.ingester;
        let (recovery, last, last_end, sizes) = Recovery::begin(&config, &*disk, listing)?;
        let free_bytes =
            disk.free_bytes(&config.dir).map_err(|e| WalError::io("ask the free space of", &config.dir, e))?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(sizes, free_bytes)),
            config,
            ingester,
            disk,
            work: Condvar::new(),
            ended: watch::Sender::new(false),
            removal: Mutex::new(()),
            _lock: lock,
        });
        let writer = Writer::new(shared.clone(), last, last_end);
        let writer = std::thread::Builder::new()
            .name("wal-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|e| WalError::io("start the writer of", &shared.config.dir, e))?;
        Ok((Self { inner: Arc::new(Inner { shared, writer: Mutex::new(Some(writer)) }) }, recovery))
    }

    /// Whose log this is. Segment numbers grow for ever under one id.
    pub fn ingester_id(&self) -> Ulid {
        self.inner.shared.ingester
    }

    /// Queues a record; never blocks on the disk. Appends become durable in the order of these calls.
    pub fn append(
        &self,
        tenant: &TenantId,
        received_unix_nano: i64,
        payload: Bytes,
    ) -> Result<Pending, WalError> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(WalError::TooLarge { bytes: payload.len(), bytes_max: PAYLOAD_BYTES_MAX });
        }
        let header = RecordHeader {
            payload_bytes: payload.len() as u32,
            tenant_bytes: tenant.as_str().len() as u8,
            received_unix_nano,
            body_crc: body_crc(tenant, &payload),
        };
        let (sender, done) = oneshot::channel();
        let append = Append { segment: 0, tenant: tenant.clone(), payload, header, done: sender };
        let segment = self.inner.shared.enqueue(append)?;
        Ok(Pending { segment, done })
    }

    /// Closes the current segment and returns its number: every append that returned before went to it or a lower one,
    /// every later one goes to a higher one. Zero while nothing was ever appended.
    pub fn rotate(&self) -> Result<u64, WalError> {
        let mut state = self.inner.shared.state.lock();
        if state.closing {
            return Err(WalError::Closed);
        }
        if state.segment_bytes > 0 {
            state.segment += 1;
            state.segment_bytes = 0;
        }
        Ok(state.segment - 1)
    }

    /// Waits until every append to segments up to `segment`, which a `rotate` returned, is durable or has failed, and
    /// returns the number to remember them by: the newest of these segments that stands on disk. Numbers above it hold
    /// nothing that was acknowledged, and after a restart they may be given to other appends. Zero: none stands.
    pub async fn settle(&self, segment: u64) -> Result<u64, WalError> {
        let (done, settled) = oneshot::channel();
        {
            let mut state = self.inner.shared.state.lock();
            assert!(segment < state.segment, "segment {segment} is still open; rotate first");
            if state.closing {
                return Err(WalError::Closed);
            }
            state.queue.push_back(Item::Settle { done });
        }
        self.inner.shared.work.notify_one();
        Ok(settled.await.map_err(|_| WalError::Closed)?.min(segment))
    }

    /// Deletes the segments up to `segment`, which a `rotate` returned, and returns how many. Blocks on the disk. The
    /// newest of the log stays if no newer one can be created. After an error some may remain; calling again is safe.
    pub fn remove_through(&self, segment: u64) -> Result<usize, WalError> {
        let shared = &self.inner.shared;
        let _one_at_a_time = shared.removal.lock();
        let (done, opened) = mpsc::channel();
        let mut doomed: Vec<u64> = {
            let mut state = shared.state.lock();
            assert!(segment < state.segment, "segment {segment} is still open; rotate first");
            let doomed: Vec<u64> = state.sizes.range(..=segment).map(|(number, _)| *number).collect();
            if doomed.is_empty() {
                return Ok(0);
            }
            if state.closing {
                return Err(WalError::Closed);
            }
            let next = state.segment;
            state.queue.push_back(Item::Open { segment: next, done });
            doomed
        };
        shared.work.notify_one();
        if let Err(error) = opened.recv().unwrap_or(Err(WalError::Closed)) {
            // On a full disk this may be the only way to room. One segment stays, so that its number is not used again.
            let kept = doomed.pop();
            tracing::warn!(error = &error as &dyn std::error::Error, kept, "no new segment; the newest one stays");
        }
        let mut removed = 0;
        for number in doomed {
            let path =
                directory::segment_path(&shared.config.dir, Place { ingester: shared.ingester, segment: number });
            match shared.disk.remove(&path) {
                Ok(()) => removed += 1,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(WalError::io("remove", path, e)),
            }
            shared.state.lock().forget(number);
        }
        shared
            .disk
            .sync_directory(&shared.config.dir)
            .map_err(|e| WalError::io("sync", &shared.config.dir, e))?;
        Ok(removed)
    }

    /// Keeps the segments from `first` to `last`, which a `rotate` returned, in the quarantine, for an operator: they stay
    /// there when they are removed here. Returns the files. Blocks on the disk.
    ///
    /// # Errors
    /// What was not kept is still in the log; the quarantine is bounded ([`WalConfig::quarantine_bytes_max`]).
    pub fn set_aside(&self, first: u64, last: u64) -> Result<Vec<PathBuf>, WalError> {
        let shared = &self.inner.shared;
        let _one_at_a_time = shared.removal.lock();
        let segments: Vec<(u64, u64)> = {
            let state = shared.state.lock();
            assert!(last < state.segment, "segment {last} is still open; rotate first");
            state.sizes.range(first..=last).map(|(number, bytes)| (*number, *bytes)).collect()
        };
        let mut quarantine = Quarantine::new(&shared.config.dir, shared.config.quarantine_bytes_max);
        let mut kept = Vec::with_capacity(segments.len());
        for (segment, bytes) in segments {
            let place = Place { ingester: shared.ingester, segment };
            let path = directory::segment_path(&shared.config.dir, place);
            let linked = quarantine.link_whole(place, &path, bytes);
            kept.push(linked.map_err(|e| WalError::io("set aside", path, e))?);
        }
        Ok(kept)
    }

    pub fn bytes_on_disk(&self) -> u64 {
        self.inner.shared.state.lock().disk_bytes
    }

    pub fn stats(&self) -> WalStats {
        let state = self.inner.shared.state.lock();
        WalStats {
            commits: state.commits,
            records: state.records,
            failures: state.failures,
            queued_bytes: state.queued_bytes,
            queued_appends: state.queued_appends,
            disk_bytes: state.disk_bytes,
            segments: state.sizes.len(),
            segment: state.segment,
        }
    }

    /// Refuses further appends and returns when everything queued was written and answered.
    pub async fn close(&self) {
        let shared = &self.inner.shared;
        shared.state.lock().closing = true;
        shared.work.notify_all();
        let mut ended = shared.ended.subscribe();
        // The sender lives in `shared`, so the wait cannot fail.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}
