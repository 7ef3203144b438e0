//! Remembers, across crashes, which record was being replayed: the way out of a crash loop.
//!
//! The file `replaying` has slots of 32 bytes. Slot 0 names the record in hand; a process that finds it set knows that the
//! one before died there. The other slots count such deaths. Writes are not synced: they are to survive the end of the
//! process, not of the machine, and a lost count only means one more try.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::format::crc32c;

const FILE: &str = "replaying";
const SLOT_BYTES: usize = 32;
/// One record in hand and 15 suspects; with more, the oldest suspect is forgotten and gets new tries.
const SUSPECTS_MAX: usize = 15;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Attempt {
    segment: u64,
    offset: u64,
    /// How many processes ended while they replayed it.
    deaths: u32,
}

impl Attempt {
    fn encode(&self) -> [u8; SLOT_BYTES] {
        let mut slot = [0; SLOT_BYTES];
        slot[0..8].copy_from_slice(&self.segment.to_le_bytes());
        slot[8..16].copy_from_slice(&self.offset.to_le_bytes());
        slot[16..20].copy_from_slice(&self.deaths.to_le_bytes());
        let crc = crc32c(&slot[..28]);
        slot[28..32].copy_from_slice(&crc.to_le_bytes());
        slot
    }

    fn decode(slot: &[u8]) -> Option<Self> {
        let slot: &[u8; SLOT_BYTES] = slot.try_into().ok()?;
        let (fields, crc) = slot.split_at(28);
        let attempt = Self {
            segment: u64::from_le_bytes(fields[0..8].try_into().ok()?),
            offset: u64::from_le_bytes(fields[8..16].try_into().ok()?),
            deaths: u32::from_le_bytes(fields[16..20].try_into().ok()?),
        };
        (crc32c(fields).to_le_bytes() == *crc && attempt.segment > 0).then_some(attempt)
    }
}

pub struct Attempts {
    path: PathBuf,
    /// `None` until the first record, and after the file failed us: then replay goes on without protection.
    file: Option<File>,
    failed: bool,
    /// Segment and offset of the record in hand.
    in_hand: Option<(u64, u64)>,
    suspects: Vec<Attempt>,
}

impl Attempts {
    /// Reads what the process before left.
    pub fn open(dir: &Path) -> Self {
        let path = dir.join(FILE);
        let mut attempts = Self { path, file: None, failed: false, in_hand: None, suspects: Vec::new() };
        let Ok(left) = fs::read(&attempts.path) else { return attempts };
        let mut slots = left.chunks(SLOT_BYTES).take(1 + SUSPECTS_MAX).map(Attempt::decode);
        let in_hand = slots.next().flatten();
        attempts.suspects = slots.flatten().collect();
        if let Some(died) = in_hand {
            match attempts.suspects.iter().position(|s| (s.segment, s.offset) == (died.segment, died.offset)) {
                Some(at) => attempts.suspects[at].deaths += 1,
                None => {
                    if attempts.suspects.len() == SUSPECTS_MAX {
                        attempts.suspects.remove(0);
                    }
                    attempts.suspects.push(Attempt { deaths: 1, ..died });
                }
            }
            tracing::warn!(segment = died.segment, offset = died.offset, "an earlier process ended while it replayed this record");
        }
        attempts
    }

    pub fn deaths(&self, segment: u64, offset: u64) -> u32 {
        self.suspects.iter().find(|s| (s.segment, s.offset) == (segment, offset)).map_or(0, |s| s.deaths)
    }

    /// Notes that this record is in hand now, in place of the one before.
    pub fn begin(&mut self, segment: u64, offset: u64) {
        self.in_hand = Some((segment, offset));
        self.note(Attempt { segment, offset, deaths: 0 }.encode());
    }

    /// No record is in hand until `resume`.
    pub fn pause(&mut self) {
        self.note([0; SLOT_BYTES]);
    }

    /// The record that was in hand before `pause` is so again.
    pub fn resume(&mut self) {
        if let Some((segment, offset)) = self.in_hand {
            self.begin(segment, offset);
        }
    }

    fn note(&mut self, slot: [u8; SLOT_BYTES]) {
        if self.failed {
            return;
        }
        let written = match &self.file {
            Some(file) => file.write_all_at(&slot, 0),
            None => self.create(slot),
        };
        if let Err(error) = written {
            tracing::warn!(path = ?self.path, %error, "cannot note what is being replayed; a record that ends the process will not be set aside");
            self.failed = true;
        }
    }

    fn create(&mut self, slot: [u8; SLOT_BYTES]) -> io::Result<()> {
        let mut slots = slot.to_vec();
        slots.extend(self.suspects.iter().flat_map(Attempt::encode));
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&self.path)?;
        file.write_all_at(&slots, 0)?;
        self.file = Some(file);
        Ok(())
    }

    /// Everything was replayed: nobody is suspect any more.
    pub fn end(&mut self) {
        self.file = None;
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = ?self.path, %error, "cannot remove the note of what was being replayed");
            }
            _ => {}
        }
    }
}
