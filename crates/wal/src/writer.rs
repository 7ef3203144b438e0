//! The thread that alone writes segments: one write and one fsync for all appends that wait.
//!
//! While the disk works on one commit the next gathers in the queue, so an idle log commits at once. Clients that come in
//! step (each sends again when it was answered) would still alternate between a commit of one and a commit of the rest;
//! therefore a commit that follows a larger one waits until as many appends are there, at most `group_commit_delay_max`.

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use crate::{
    SegmentFile, WalError,
    directory::segment_path,
    format::{Place, SEGMENT_HEADER_BYTES, SegmentHeader},
    queue::{Append, Item, Pause, Shared},
};

/// The first pause after a failure is this part of the longest: 50 ms of 2 s.
const FIRST_PAUSE_DIVISOR: u32 = 40;
/// Records are gathered into writes of about this size.
const STAGE_BYTES: usize = 1 << 20;

pub struct Writer {
    shared: Arc<Shared>,
    open: Option<OpenSegment>,
    /// The newest segment with a durable header, and where its durable records end. Zero: none yet.
    last: u64,
    last_end: u64,
    /// Appends in the last commit.
    company: usize,
    failures_in_a_row: u32,
    stage: Vec<u8>,
}

struct OpenSegment {
    place: Place,
    path: PathBuf,
    file: Box<dyn SegmentFile>,
    end: u64,
}

impl Writer {
    pub fn new(shared: Arc<Shared>, last: u64, last_end: u64) -> Self {
        Self { shared, open: None, last, last_end, company: 0, failures_in_a_row: 0, stage: Vec::new() }
    }

    /// Works until the log closes and the queue is empty.
    pub fn run(mut self) {
        let _ended = Ended(self.shared.clone());
        while let Some(items) = self.gather() {
            let mut appends: Vec<Append> = Vec::new();
            for item in items {
                match item {
                    Item::Append(append) => {
                        if appends.last().is_some_and(|last| last.segment != append.segment) {
                            self.commit(std::mem::take(&mut appends));
                        }
                        appends.push(append);
                    }
                    Item::Settle { done } => {
                        self.commit(std::mem::take(&mut appends));
                        let _ = done.send(self.last);
                    }
                    Item::Open { segment, done } => {
                        self.commit(std::mem::take(&mut appends));
                        // Whoever asked may have given up waiting.
                        let _ = done.send(self.stand(segment));
                    }
                }
            }
            self.commit(appends);
        }
    }

    /// Everything that waits, or `None` when the log is closed.
    fn gather(&mut self) -> Option<Vec<Item>> {
        let shared = self.shared.clone();
        let mut state = shared.state.lock();
        while state.queue.is_empty() {
            if state.closing {
                return None;
            }
            shared.work.wait(&mut state);
        }
        if self.company > 1 && !shared.config.group_commit_delay_max.is_zero() {
            let deadline = Instant::now() + shared.config.group_commit_delay_max;
            while state.queue.len() < self.company && !state.closing {
                if shared.work.wait_until(&mut state, deadline).timed_out() {
                    break;
                }
            }
        }
        let items: Vec<Item> = state.queue.drain(..).collect();
        self.company = items.len();
        Some(items)
    }

    /// Makes appends of one segment durable and answers them.
    fn commit(&mut self, appends: Vec<Append>) {
        let Some(first) = appends.first() else { return };
        let segment = first.segment;
        let result = self.stand_exactly(segment).and_then(|()| self.write(&appends));
        let bytes: usize = appends.iter().map(Append::bytes).sum();
        let mut state = self.shared.state.lock();
        state.queued_bytes -= bytes;
        state.queued_appends -= appends.len();
        state.commits += 1;
        match result {
            Ok(()) => {
                state.records += appends.len() as u64;
                state.set_size(segment, self.last_end);
                drop(state);
                self.failures_in_a_row = 0;
                for append in appends {
                    let _ = append.done.send(Ok(()));
                }
            }
            Err(error) => {
                drop(state);
                let error = self.fail(segment, error);
                for append in appends {
                    Item::Append(append).fail(&error);
                }
            }
        }
    }

    fn write(&mut self, appends: &[Append]) -> Result<(), WalError> {
        let Self { open, stage, shared, .. } = self;
        let open = open.as_mut().expect("the segment of a commit is open");
        let failed = |action, e| WalError::io(action, &open.path, e);
        stage.clear();
        let mut end = open.end;
        for append in appends {
            stage.extend_from_slice(&append.header.encode(open.place, end));
            stage.extend_from_slice(append.tenant.as_str().as_bytes());
            end += append.bytes() as u64;
            if stage.len() + append.payload.len() <= STAGE_BYTES {
                stage.extend_from_slice(&append.payload);
            } else {
                open.file.write_all(stage).map_err(|e| failed("write", e))?;
                stage.clear();
                open.file.write_all(&append.payload).map_err(|e| failed("write", e))?;
            }
        }
        open.file.write_all(stage).map_err(|e| failed("write", e))?;
        if shared.config.fsync {
            open.file.sync().map_err(|e| failed("sync", e))?;
        }
        open.end = end;
        self.last_end = end;
        Ok(())
    }

    /// A durable segment of this number or higher stands in the directory.
    fn stand(&mut self, segment: u64) -> Result<(), WalError> {
        if self.last >= segment {
            return Ok(());
        }
        self.create(segment).map_err(|error| self.fail(segment, error))
    }

    /// Exactly this segment is open for writing.
    fn stand_exactly(&mut self, segment: u64) -> Result<(), WalError> {
        match &self.open {
            Some(open) if open.place.segment == segment => Ok(()),
            // Appends that were queued for a segment which has failed since.
            _ if self.last >= segment => Err(WalError::io(
                "write",
                segment_path(&self.shared.config.dir, Place { ingester: self.shared.ingester, segment }),
                io::Error::other("an earlier write to this segment failed"),
            )),
            _ => self.create(segment),
        }
    }

    fn create(&mut self, segment: u64) -> Result<(), WalError> {
        self.open = None;
        let shared = &self.shared;
        let place = Place { ingester: shared.ingester, segment };
        let path = segment_path(&shared.config.dir, place);
        let header = SegmentHeader { place, previous: self.last, previous_end: self.last_end };
        let build = || {
            let mut file = shared.disk.create(&path)?;
            file.write_all(&header.encode())?;
            if shared.config.fsync {
                file.sync()?;
                shared.disk.sync_directory(&shared.config.dir)?;
            }
            Ok(file)
        };
        match build() {
            Ok(file) => {
                let end = SEGMENT_HEADER_BYTES as u64;
                self.open = Some(OpenSegment { place, path, file, end });
                (self.last, self.last_end) = (segment, end);
                self.shared.state.lock().set_size(segment, end);
                Ok(())
            }
            Err(e) => {
                // Nobody was told that it exists; should it stay, replay sees that nothing in it was acknowledged.
                let _ = shared.disk.remove(&path);
                Err(WalError::io("create", &path, e))
            }
        }
    }

    /// Seals a segment for ever and pauses appends. Returns the error to answer with.
    fn fail(&mut self, segment: u64, error: WalError) -> WalError {
        let shared = self.shared.clone();
        if let Some(open) = self.open.take_if(|open| open.place.segment == segment) {
            drop(open.file);
            // Gives the space of the failed write back. Not needed for replay: the next header says where this one ends.
            let size = match shared.disk.truncate(&open.path, open.end) {
                Ok(()) => open.end,
                Err(_) => std::fs::metadata(&open.path).map_or(open.end, |m| m.len()),
            };
            shared.state.lock().set_size(segment, size);
        }
        let pause_max = shared.config.failure_pause_max;
        let pause = (pause_max / FIRST_PAUSE_DIVISOR).saturating_mul(1 << self.failures_in_a_row.min(8)).min(pause_max);
        self.failures_in_a_row += 1;
        let mut state = shared.state.lock();
        let full = matches!(&error, WalError::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded));
        tracing::error!(
            segment,
            error = &error as &dyn std::error::Error,
            pause_ms = pause.as_millis() as u64,
            "a write to the log failed; its segment is sealed and the requests were told to retry"
        );
        let error = if full { shared.disk_full(&state) } else { error };
        state.failures += 1;
        state.leave(segment);
        state.pause = Some(Pause { until: Instant::now() + pause, error: error.clone() });
        error
    }
}

/// Answers whoever still waits when the thread ends, however it ends.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.closing = true;
        let rest: Vec<Item> = state.queue.drain(..).collect();
        (state.queued_bytes, state.queued_appends) = (0, 0);
        drop(state);
        for item in rest {
            item.fail(&WalError::Closed);
        }
        self.0.ended.send_replace(true);
    }
}
