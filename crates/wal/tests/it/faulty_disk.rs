//! The local disk without the slow fsyncs, with a switch for each thing that can fail.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
};

use parking_lot::{Condvar, Mutex};
use wal::{Disk, LocalDisk, SegmentFile};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Create,
    Write,
    Sync,
    SyncDirectory,
    Truncate,
    Remove,
}

pub type Fault = Box<dyn Fn(Call, usize) -> Option<io::ErrorKind> + Send + Sync>;

/// Decides each call by its kind and its number since the start (0, 1, ...).
pub struct FaultyDisk {
    fault: Mutex<Fault>,
    calls: AtomicUsize,
    pub syncs: AtomicUsize,
    pub free: AtomicU64,
    /// While true, syncs wait.
    held: Mutex<bool>,
    release: Condvar,
}

impl FaultyDisk {
    pub fn healthy() -> Arc<Self> {
        Self::failing(|_, _| None)
    }

    pub fn failing(fault: impl Fn(Call, usize) -> Option<io::ErrorKind> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            fault: Mutex::new(Box::new(fault)),
            calls: AtomicUsize::new(0),
            syncs: AtomicUsize::new(0),
            free: AtomicU64::new(u64::MAX),
            held: Mutex::new(false),
            release: Condvar::new(),
        })
    }

    pub fn now(&self, fault: impl Fn(Call, usize) -> Option<io::ErrorKind> + Send + Sync + 'static) {
        *self.fault.lock() = Box::new(fault);
    }

    pub fn hold_syncs(&self, hold: bool) {
        *self.held.lock() = hold;
        self.release.notify_all();
    }

    pub fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }

    fn call(&self, call: Call) -> io::Result<()> {
        let number = self.calls.fetch_add(1, SeqCst);
        match (self.fault.lock())(call, number) {
            Some(kind) => Err(kind.into()),
            None => Ok(()),
        }
    }
}

/// `Disk` for a shared `FaultyDisk`.
struct File {
    inner: Box<dyn SegmentFile>,
    disk: Arc<FaultyDisk>,
}

impl SegmentFile for File {
    /// A failing write leaves half of its bytes behind.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.disk.call(Call::Write) {
            Ok(()) => self.inner.write_all(bytes),
            Err(e) => {
                self.inner.write_all(&bytes[..bytes.len() / 2])?;
                Err(e)
            }
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut held = self.disk.held.lock();
        while *held {
            self.disk.release.wait(&mut held);
        }
        drop(held);
        self.disk.syncs.fetch_add(1, SeqCst);
        self.disk.call(Call::Sync)
    }
}

/// The log takes the disk as an `Arc`; files need it too.
pub struct Shared(pub Arc<FaultyDisk>);

impl Disk for Shared {
    fn create(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>> {
        self.0.call(Call::Create)?;
        Ok(Box::new(File { inner: LocalDisk.create(path)?, disk: self.0.clone() }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.call(Call::Remove)?;
        LocalDisk.remove(path)
    }

    fn truncate(&self, path: &Path, bytes: u64) -> io::Result<()> {
        self.0.call(Call::Truncate)?;
        std::fs::OpenOptions::new().write(true).open(path)?.set_len(bytes)
    }

    fn sync_directory(&self, _dir: &Path) -> io::Result<()> {
        self.0.call(Call::SyncDirectory)
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(self.0.free.load(SeqCst))
    }
}
