//! Scenarios of the log from outside: what was acknowledged is found again, whatever happened to disk and files.

mod damage;
mod failure;
mod faulty_disk;
mod group_commit;
mod operations;
mod poison;
mod rotation;

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use model::TenantId;
use wal::{Recovery, RecoveryReport, Replayed, Wal, WalConfig, WalError};

use crate::faulty_disk::FaultyDisk;

fn tenant() -> TenantId {
    TenantId::parse("team-1").unwrap()
}

fn config(dir: &Path) -> WalConfig {
    WalConfig {
        disk_free_bytes_min: 0,
        group_commit_delay_max: Duration::ZERO,
        failure_pause_max: Duration::ZERO,
        ..WalConfig::new(dir)
    }
}

fn open(dir: &Path) -> (Wal, Recovery) {
    open_with(config(dir), FaultyDisk::healthy())
}

fn open_with(config: WalConfig, disk: Arc<FaultyDisk>) -> (Wal, Recovery) {
    Wal::open_on(config, Arc::new(faulty_disk::Shared(disk))).unwrap()
}

fn put(wal: &Wal, payload: &str) -> Result<u64, WalError> {
    let pending = wal.append(&tenant(), 17, Bytes::copy_from_slice(payload.as_bytes()))?;
    let segment = pending.segment();
    pending.wait().map(|()| segment)
}

/// Everything the log hands out.
fn drain(mut recovery: Recovery) -> (Vec<Replayed>, RecoveryReport) {
    let records = std::iter::from_fn(|| recovery.next()).collect();
    (records, recovery.finish())
}

fn payloads(records: &[Replayed]) -> Vec<String> {
    records.iter().map(|r| String::from_utf8(r.payload.to_vec()).unwrap()).collect()
}

/// What a start finds, without changing anything for the next.
fn reopen(dir: &Path) -> (Vec<String>, RecoveryReport) {
    let (_wal, recovery) = open(dir);
    let (records, report) = drain(recovery);
    (payloads(&records), report)
}

#[test]
fn what_was_appended_comes_back_in_order_and_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, recovery) = Wal::open(config(dir.path())).unwrap();
    assert_eq!(drain(recovery).0, []);
    let other = TenantId::parse(&"x".repeat(150)).unwrap();
    let large = Bytes::from(vec![0xa5; 3 << 20]);
    wal.append(&tenant(), -1, Bytes::from_static(b"one")).unwrap().wait().unwrap();
    wal.append(&other, i64::MAX, large.clone()).unwrap().wait().unwrap();
    wal.append(&tenant(), 3, Bytes::new()).unwrap().wait().unwrap();
    let id = wal.ingester_id();
    drop(wal);

    let (wal, recovery) = Wal::open(config(dir.path())).unwrap();
    assert_eq!(wal.ingester_id(), id);
    let (records, report) = drain(recovery);
    let seen: Vec<_> =
        records.iter().map(|r| (r.segment, r.tenant.clone(), r.received_unix_nano, r.payload.clone())).collect();
    assert_eq!(
        seen,
        [
            (1, tenant(), -1, Bytes::from_static(b"one")),
            (1, other, i64::MAX, large),
            (1, tenant(), 3, Bytes::new())
        ]
    );
    assert_eq!((report.records, report.cut, report.damaged_count), (3, None, 0));
    // Old segments stay until they are removed; new appends never go to them.
    assert_eq!(put(&wal, "two").unwrap(), 2);
}

#[test]
fn one_directory_serves_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _recovery) = open(dir.path());
    let refused = Wal::open(config(dir.path())).map(|_| ()).unwrap_err();
    assert!(matches!(&refused, WalError::Locked { .. }), "{refused}");
    assert!(!refused.is_retryable());
    drop(wal);
    open(dir.path());
}

#[test]
fn segments_of_a_newer_version_are_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    put(&wal, "future").unwrap();
    drop(wal);
    let path = segment_files(dir.path()).pop().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 9;
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes[..60]) as u32;
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let refused = Wal::open(config(dir.path())).map(|_| ()).unwrap_err();
    assert!(matches!(&refused, WalError::Version { found: 9, .. }), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn an_oversized_record_is_refused_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    let refused = wal.append(&tenant(), 0, vec![0; wal::PAYLOAD_BYTES_MAX + 1].into()).map(|_| ()).unwrap_err();
    assert_eq!(refused.kind(), model::ErrorKind::TooLarge);
}

#[tokio::test]
async fn close_writes_what_is_queued_and_refuses_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    let pending = wal.append(&tenant(), 0, "last".into()).unwrap();
    wal.close().await;
    pending.durable().await.unwrap();
    assert!(matches!(wal.append(&tenant(), 0, "late".into()), Err(WalError::Closed)));
    drop(wal);
    assert_eq!(reopen(dir.path()).0, ["last"]);
}

/// Paths of the segments, oldest first.
fn segment_files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "wal"))
        .collect();
    files.sort();
    files
}
