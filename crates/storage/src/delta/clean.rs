//! Which files of a log nobody needs any more.
//!
//! A checkpoint sums up all commits until it: what lies before one can go, as far as readers from scratch are concerned.
//! Who follows the table asks for the next commit by its number, and would take a cleaned one for one that was never
//! made; worse, it would make it. So a commit goes only long after it was followed by a checkpoint, and who looked at the
//! log longer ago than half of that time lists it ([`crate::Table`]).
//!
//! Ages are differences of times that the store gave: no clock of ours, set wrongly, deletes anything.

use std::collections::BTreeMap;

use object_store::{ObjectMeta, path::Path};

use super::log::Log;
use crate::{
    error::{Result, StorageError},
    keys::{LogFile, TableKeys},
};

impl Log {
    /// What can be deleted of `listed`, in this order: cut off anywhere, what is left is a log without a gap.
    pub async fn expendable(&self, listed: &[ObjectMeta], kept_ms: u64) -> Result<Vec<Path>> {
        let mut checkpoint = None;
        for version in settled_checkpoints(listed, kept_ms) {
            // One that cannot be read sums up nothing.
            match self.check_checkpoint(version).await {
                Ok(()) => {
                    checkpoint = Some(version);
                    break;
                }
                Err(error @ (StorageError::Corrupt { .. } | StorageError::Unsupported { .. })) => {
                    tracing::warn!(table = self.table(), version, %error, "the log before a damaged checkpoint is kept");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(checkpoint.map_or_else(Vec::new, |checkpoint| before(listed, checkpoint)))
    }
}

/// The versions of checkpoints after which the log went on for so long, newest first.
fn settled_checkpoints(listed: &[ObjectMeta], kept_ms: u64) -> Vec<i64> {
    let files = || listed.iter().filter_map(|file| Some((TableKeys::log_file(&file.location)?, file.last_modified.timestamp_millis())));
    let newest = files().map(|(_, modified)| modified).max().unwrap_or(i64::MIN);
    let settled = newest.saturating_sub(i64::try_from(kept_ms).unwrap_or(i64::MAX));
    let mut versions: Vec<i64> = files()
        .filter_map(|(file, modified)| match file {
            LogFile::Checkpoint(version) if modified <= settled => Some(version),
            _ => None,
        })
        .collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    versions.dedup();
    versions
}

/// All files of lower versions, lowest first. The commit that the checkpoint stands for stays beside it.
fn before(listed: &[ObjectMeta], checkpoint: i64) -> Vec<Path> {
    let mut files: BTreeMap<(i64, bool), Path> = BTreeMap::new();
    for file in listed {
        let key = match TableKeys::log_file(&file.location) {
            // A checkpoint goes before the commits after it do.
            Some(LogFile::Checkpoint(version)) => (version, false),
            Some(LogFile::Commit(version)) => (version, true),
            None => continue,
        };
        if key.0 < checkpoint {
            files.insert(key, file.location.clone());
        }
    }
    files.into_values().collect()
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn file(name: &str, at_ms: i64) -> ObjectMeta {
        ObjectMeta {
            location: Path::from(format!("t/traces/_delta_log/{name}")),
            last_modified: DateTime::from_timestamp_millis(at_ms).unwrap(),
            size: 1,
            e_tag: None,
            version: None,
        }
    }

    fn commit(version: i64, at_ms: i64) -> ObjectMeta {
        file(&format!("{version:020}.json"), at_ms)
    }

    fn checkpoint(version: i64, at_ms: i64) -> ObjectMeta {
        file(&format!("{version:020}.checkpoint.parquet"), at_ms)
    }

    /// A commit a second, a checkpoint after every fifth.
    fn log(commits: i64) -> Vec<ObjectMeta> {
        let with_checkpoint = |n: i64| [commit(n, n * 1000)].into_iter().chain((n % 5 == 0 && n > 0).then(|| checkpoint(n, n * 1000)));
        (0..commits).flat_map(with_checkpoint).collect()
    }

    #[test]
    fn a_log_that_did_not_go_on_is_kept() {
        // The newest file is as old as the others: nothing has an age, whatever a clock says.
        assert_eq!(settled_checkpoints(&log(20), 60_000), Vec::<i64>::new());
        assert_eq!(settled_checkpoints(&[], 0), Vec::<i64>::new());
    }

    #[test]
    fn only_what_a_settled_checkpoint_sums_up_goes() {
        let mut log = log(20);
        log.reverse();
        log.push(file("_last_checkpoint", 1));
        log.push(file("notes.txt", 1));
        assert_eq!(settled_checkpoints(&log, 4_000), [15, 10, 5]);
        assert_eq!(settled_checkpoints(&log, 4_001), [10, 5]);
        let gone: Vec<String> = before(&log, 10).iter().map(|path| path.filename().unwrap_or_default().to_owned()).collect();
        assert_eq!(gone.len(), 11);
        let place = |name: &str| gone.iter().position(|gone| *gone == format!("{:020}.{name}", 5)).unwrap();
        assert!(place("checkpoint.parquet") < place("json"));
        assert!(gone.is_sorted_by_key(|name| name[..20].to_owned()));
        assert!(!gone.contains(&format!("{:020}.json", 10)));
    }
}
