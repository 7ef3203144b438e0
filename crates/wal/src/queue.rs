//! What callers and the writer thread share: the bounded queue, the segment that appends go to, and the disk budget.
//!
//! Invariant: items stand in the queue in the order of their segments.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    sync::{Arc, mpsc},
    time::Instant,
};

use bytes::Bytes;
use model::TenantId;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{oneshot, watch};
use ulid::Ulid;

use crate::{
    Disk, WalConfig, WalError,
    format::{RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES},
};

/// One record on its way to the disk.
pub struct Append {
    pub segment: u64,
    pub tenant: TenantId,
    pub payload: Bytes,
    pub header: RecordHeader,
    pub done: oneshot::Sender<Result<(), WalError>>,
}

impl Append {
    pub fn bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.header.body_bytes()
    }
}

pub enum Item {
    Append(Append),
    /// See to it that a durable segment of this number or higher stands in the directory.
    Open { segment: u64, done: mpsc::Sender<Result<(), WalError>> },
    /// Say which segment is the newest durable one, now that everything before this item is settled.
    Settle { done: oneshot::Sender<u64> },
}

impl Item {
    pub fn fail(self, error: &WalError) {
        // A receiver that went away no longer wants to know.
        match self {
            Self::Append(append) => drop(append.done.send(Err(error.clone()))),
            Self::Open { done, .. } => drop(done.send(Err(error.clone()))),
            Self::Settle { done } => drop(done),
        }
    }
}

/// After a failed write: the error to answer with until the time has come to try again.
pub struct Pause {
    pub until: Instant,
    pub error: WalError,
}

pub struct State {
    pub queue: VecDeque<Item>,
    /// Bytes of appends in the queue and in the commit under way.
    pub queued_bytes: usize,
    pub queued_appends: usize,
    /// The segment of the next append, and the bytes it will have when everything queued is written.
    pub segment: u64,
    pub segment_bytes: u64,
    /// Segment number to bytes on disk.
    pub sizes: BTreeMap<u64, u64>,
    pub disk_bytes: u64,
    /// Free bytes of the file system when last asked.
    pub free_bytes: u64,
    pub pause: Option<Pause>,
    pub closing: bool,
    pub commits: u64,
    pub records: u64,
    pub failures: u64,
}

impl State {
    pub fn new(sizes: BTreeMap<u64, u64>, free_bytes: u64) -> Self {
        Self {
            queue: VecDeque::new(),
            queued_bytes: 0,
            queued_appends: 0,
            segment: sizes.last_key_value().map_or(0, |(last, _)| *last) + 1,
            segment_bytes: 0,
            disk_bytes: sizes.values().sum(),
            sizes,
            free_bytes,
            pause: None,
            closing: false,
            commits: 0,
            records: 0,
            failures: 0,
        }
    }

    pub fn set_size(&mut self, segment: u64, bytes: u64) {
        let before = self.sizes.insert(segment, bytes).unwrap_or(0);
        self.disk_bytes = self.disk_bytes - before + bytes;
    }

    pub fn forget(&mut self, segment: u64) {
        self.disk_bytes -= self.sizes.remove(&segment).unwrap_or(0);
    }

    /// Later appends go to a segment greater than `segment`.
    pub fn leave(&mut self, segment: u64) {
        if self.segment <= segment {
            self.segment = segment + 1;
            self.segment_bytes = 0;
        }
    }
}

pub struct Shared {
    pub config: WalConfig,
    pub ingester: Ulid,
    pub disk: Arc<dyn Disk>,
    pub state: Mutex<State>,
    pub work: Condvar,
    /// True when the writer thread has ended.
    pub ended: watch::Sender<bool>,
    /// Serialises removals.
    pub removal: Mutex<()>,
    /// Held until the last user of the directory, the writer included, is gone.
    pub _lock: File,
}

impl Shared {
    /// Queues a record and decides its segment, or says why not.
    pub fn enqueue(&self, mut append: Append) -> Result<u64, WalError> {
        let config = &self.config;
        let bytes = append.bytes();
        // Asked every time: others write to the file system too, and the question costs a microsecond.
        let free_bytes = self.disk.free_bytes(&config.dir);
        let mut state = self.state.lock();
        state.free_bytes = free_bytes.unwrap_or(state.free_bytes);
        if state.closing {
            return Err(WalError::Closed);
        }
        if let Some(pause) = &state.pause {
            if Instant::now() < pause.until {
                return Err(pause.error.clone());
            }
            state.pause = None;
        }
        if state.queued_bytes > 0 && state.queued_bytes + bytes > config.queue_bytes_max {
            return Err(WalError::Overloaded {
                queued_bytes: state.queued_bytes,
                queue_bytes_max: config.queue_bytes_max,
            });
        }
        // What waits to be written counts as written: room once promised stays promised.
        let coming = (state.queued_bytes + bytes + 2 * SEGMENT_HEADER_BYTES) as u64;
        if state.disk_bytes + coming > config.disk_bytes_max
            || state.free_bytes < config.disk_free_bytes_min.saturating_add(coming)
        {
            return Err(self.disk_full(&state));
        }
        if state.segment_bytes > 0 && state.segment_bytes + bytes as u64 > config.segment_bytes_max {
            state.segment += 1;
            state.segment_bytes = 0;
        }
        if state.segment_bytes == 0 {
            state.segment_bytes = SEGMENT_HEADER_BYTES as u64;
        }
        state.segment_bytes += bytes as u64;
        state.queued_bytes += bytes;
        state.queued_appends += 1;
        append.segment = state.segment;
        let segment = state.segment;
        state.queue.push_back(Item::Append(append));
        drop(state);
        self.work.notify_one();
        Ok(segment)
    }

    pub fn disk_full(&self, state: &State) -> WalError {
        WalError::DiskFull {
            used_bytes: state.disk_bytes,
            disk_bytes_max: self.config.disk_bytes_max,
            free_bytes: state.free_bytes,
            disk_free_bytes_min: self.config.disk_free_bytes_min,
        }
    }
}
