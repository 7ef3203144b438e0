//! Where bytes go that cannot be replayed: kept for an operator, bounded, never read back by the log.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::format::Place;

const FOLDER: &str = "quarantine";

/// Why something is here; the file's extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes that no longer check.
    Damaged,
    /// An intact record whose replay ended the process twice.
    Poison,
    /// A whole segment that the file system would not read.
    Unreadable,
    /// A whole segment whose records the reader of the log could not use.
    Unusable,
}

impl Kind {
    fn extension(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::Poison => "poison",
            Self::Unreadable => "unreadable",
            Self::Unusable => "unusable",
        }
    }
}

pub struct Quarantine {
    folder: PathBuf,
    bytes: u64,
    bytes_max: u64,
}

impl Quarantine {
    pub fn new(dir: &Path, bytes_max: u64) -> Self {
        let folder = dir.join(FOLDER);
        let bytes = fs::read_dir(&folder)
            .map(|entries| entries.flatten().filter_map(|e| e.metadata().ok()).map(|m| m.len()).sum())
            .unwrap_or(0);
        Self { folder, bytes, bytes_max }
    }

    fn path(&self, place: Place, offset: u64, kind: Kind) -> PathBuf {
        self.folder.join(format!("{:020}-{}-{offset:020}.{}", place.segment, place.ingester, kind.extension()))
    }

    pub fn holds(&self, place: Place, offset: u64, kind: Kind) -> bool {
        self.path(place, offset, kind).exists()
    }

    /// Copies a stretch of a segment here. `None`, and a log line, if that was not possible.
    pub fn keep(&mut self, place: Place, offset: u64, end: u64, kind: Kind, segment: &File) -> Option<PathBuf> {
        let path = self.path(place, offset, kind);
        let bytes = end - offset;
        if fs::metadata(&path).is_ok_and(|found| found.len() == bytes) {
            return Some(path);
        }
        if self.bytes.saturating_add(bytes) > self.bytes_max {
            tracing::error!(?path, bytes, bytes_max = self.bytes_max, "the quarantine is full; these bytes are not kept");
            return None;
        }
        match self.copy(&path, offset, bytes, segment) {
            Ok(()) => {
                self.bytes += bytes;
                Some(path)
            }
            Err(error) => {
                tracing::error!(?path, bytes, %error, "could not copy to the quarantine; these bytes are not kept");
                None
            }
        }
    }

    /// Gives a segment that cannot be read a second name here, so that removing the first keeps it.
    pub fn link(&self, place: Place, segment: &Path) -> Option<PathBuf> {
        let path = self.path(place, 0, Kind::Unreadable);
        let linked = fs::create_dir_all(&self.folder).and_then(|()| fs::hard_link(segment, &path));
        match linked {
            Ok(()) => Some(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Some(path),
            Err(error) => {
                tracing::error!(?path, %error, "could not link to the quarantine; the segment is not kept");
                None
            }
        }
    }

    /// Gives a whole segment a second name here, durably, so that removing the first keeps it. Twice is once.
    pub fn link_whole(&mut self, place: Place, segment: &Path, bytes: u64) -> io::Result<PathBuf> {
        let path = self.path(place, 0, Kind::Unusable);
        if !path.exists() {
            if self.bytes.saturating_add(bytes) > self.bytes_max {
                let (held, most) = (self.bytes, self.bytes_max);
                let full = format!("the quarantine holds {held} of {most} bytes: no room for {bytes} more; move its files away");
                return Err(io::Error::new(io::ErrorKind::QuotaExceeded, full));
            }
            fs::create_dir_all(&self.folder)?;
            fs::hard_link(segment, &path)?;
            self.bytes += bytes;
        }
        File::open(&self.folder)?.sync_all()?;
        if let Some(parent) = self.folder.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(path)
    }

    fn copy(&self, path: &Path, offset: u64, bytes: u64, segment: &File) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let mut to = File::create(path)?;
        io::copy(&mut Stretch { file: segment, offset, left: bytes }, &mut to)?;
        to.flush()?;
        to.sync_all()?;
        File::open(&self.folder)?.sync_all()
    }
}

struct Stretch<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Stretch<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..wanted], self.offset)?;
        self.offset += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}
