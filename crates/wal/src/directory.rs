//! The log's directory: its lock, the names of its segments, and whose they are.
//!
//! A segment's name alone says its number and its ingester, so neither is lost with the contents.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, TryLockError},
    path::{Path, PathBuf},
};

use ulid::Ulid;

use crate::{WalError, format::Place};

const LOCK_FILE: &str = "LOCK";
const EXTENSION: &str = ".wal";

pub fn segment_path(dir: &Path, place: Place) -> PathBuf {
    dir.join(format!("{:020}-{}{EXTENSION}", place.segment, place.ingester))
}

fn parse_name(name: &str) -> Option<Place> {
    let (number, ingester) = name.strip_suffix(EXTENSION)?.split_once('-')?;
    if number.len() != 20 || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let place = Place { ingester: Ulid::from_string(ingester).ok()?, segment: number.parse().ok()? };
    (place.segment > 0).then_some(place)
}

/// Makes this process the only one on the directory, for as long as the file lives.
pub fn lock(dir: &Path) -> Result<File, WalError> {
    fs::create_dir_all(dir).map_err(|e| WalError::io("create", dir, e))?;
    let path = dir.join(LOCK_FILE);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| WalError::io("open", &path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(WalError::Locked { dir: dir.to_owned() }),
        Err(TryLockError::Error(e)) => Err(WalError::io("lock", &path, e)),
    }
}

/// What stands in the directory.
pub struct Listing {
    /// The id of the segments, or a new one when there are none.
    pub ingester: Ulid,
    /// Segment number to length in bytes.
    pub segments: BTreeMap<u64, u64>,
}

pub fn list(dir: &Path) -> Result<Listing, WalError> {
    let failed = |e| WalError::io("list", dir, e);
    let mut owner: Option<Ulid> = None;
    let mut segments = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Some(place) = entry.file_name().to_str().and_then(parse_name) else { continue };
        match owner {
            Some(first) if first != place.ingester => {
                return Err(WalError::TwoIngesters {
                    dir: dir.to_owned(),
                    first: first.to_string(),
                    second: place.ingester.to_string(),
                });
            }
            _ => owner = Some(place.ingester),
        }
        let length = entry.metadata().map_err(|e| WalError::io("examine", entry.path(), e))?.len();
        segments.insert(place.segment, length);
    }
    #[expect(clippy::unwrap_or_default, reason = "a new id, and it should read like one")]
    let ingester = owner.unwrap_or_else(Ulid::new);
    Ok(Listing { ingester, segments })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_number_and_ingester_and_nothing_else_is_a_segment() {
        let place = Place { ingester: Ulid::from_bytes([9; 16]), segment: 42 };
        let path = segment_path(Path::new("/x"), place);
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(parse_name(name), Some(place));
        for other in ["LOCK", "x.wal", "1-2.wal", &name[1..], &format!("{name}~"), &name.replace("42", "00")] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }
}
