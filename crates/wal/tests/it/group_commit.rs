//! Appends that wait share one write and one fsync, and memory stays bounded meanwhile.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use wal::{WalConfig, WalError};

use crate::{config, faulty_disk::FaultyDisk, open_with, payloads, put, tenant};

#[test]
fn everything_that_waits_for_the_disk_is_one_commit() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::healthy();
    let (wal, _) = open_with(config(dir.path()), disk.clone());
    put(&wal, "opens the segment").unwrap();
    let before = (wal.stats(), disk.syncs.load(SeqCst));
    disk.hold_syncs(true);
    let first = wal.append(&tenant(), 0, "first".into()).unwrap();
    // The first is in the disk's hands when it left the queue but not the count.
    let pending: Vec<_> = (0..100).map(|i| wal.append(&tenant(), 0, format!("{i}").into()).unwrap()).collect();
    disk.hold_syncs(false);
    first.wait().unwrap();
    for pending in pending {
        pending.wait().unwrap();
    }
    let after = wal.stats();
    assert_eq!(after.records - before.0.records, 101);
    assert!(after.commits - before.0.commits <= 2, "{} commits", after.commits - before.0.commits);
    assert!(disk.syncs.load(SeqCst) - before.1 <= 2);
    assert_eq!((after.queued_bytes, after.queued_appends), (0, 0));
}

#[test]
fn a_lone_client_never_waits_for_company() {
    let dir = tempfile::tempdir().unwrap();
    // A delay that the test would not survive.
    let config = WalConfig { group_commit_delay_max: Duration::from_secs(3600), ..config(dir.path()) };
    let (wal, _) = open_with(config, FaultyDisk::healthy());
    for i in 0..20 {
        put(&wal, &i.to_string()).unwrap();
    }
    assert_eq!(wal.stats().commits, 20);
}

#[test]
fn a_commit_waits_for_the_company_the_last_one_had() {
    let dir = tempfile::tempdir().unwrap();
    let config = WalConfig { group_commit_delay_max: Duration::from_secs(3600), ..config(dir.path()) };
    let disk = FaultyDisk::healthy();
    let (wal, _) = open_with(config, disk.clone());
    // The first append occupies the disk, eight more gather: a commit of eight.
    disk.hold_syncs(true);
    let mut pending = vec![wal.append(&tenant(), 0, "0".into()).unwrap()];
    while wal.stats().disk_bytes == 0 && wal.stats().queued_appends == 1 && disk.calls() == 0 {
        std::thread::yield_now();
    }
    pending.extend((0..8).map(|i| wal.append(&tenant(), 0, format!("{i}").into()).unwrap()));
    disk.hold_syncs(false);
    pending.drain(..).for_each(|p| p.wait().unwrap());
    assert_eq!(wal.stats().commits, 2);
    // Each of the next eight comes alone, and still they become one commit.
    pending.extend((0..8).map(|i| wal.append(&tenant(), 0, format!("{i}").into()).unwrap()));
    pending.drain(..).for_each(|p| p.wait().unwrap());
    assert_eq!(wal.stats().commits, 3);
}

#[test]
fn the_queue_is_bounded_in_bytes_and_empties_again() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::healthy();
    let (wal, _) = open_with(WalConfig { queue_bytes_max: 1000, ..config(dir.path()) }, disk.clone());
    put(&wal, "before").unwrap();
    disk.hold_syncs(true);
    let mut taken = Vec::new();
    let refused = loop {
        match wal.append(&tenant(), 0, vec![b'x'; 70].into()) {
            Ok(pending) => taken.push(pending),
            Err(refused) => break refused,
        }
    };
    // A record takes 24 + 6 + 70 bytes.
    assert_eq!(taken.len(), 10);
    assert!(matches!(refused, WalError::Overloaded { queued_bytes: 1000, queue_bytes_max: 1000 }), "{refused}");
    assert!(refused.is_retryable());
    disk.hold_syncs(false);
    taken.into_iter().for_each(|p| p.wait().unwrap());
    put(&wal, "after").unwrap();
    // Larger than the whole queue, but alone.
    put(&wal, &"y".repeat(5000)).unwrap();
    drop(wal);
    let (_wal, recovery) = crate::open(dir.path());
    assert_eq!(payloads(&crate::drain(recovery).0).len(), 13);
}
