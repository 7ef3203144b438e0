//! Disks that fill up or fail: nobody is told "durable" who is not, and the log works again when the disk does.

use std::{
    io::ErrorKind,
    sync::atomic::Ordering::SeqCst,
    time::Duration,
};

use wal::{WalConfig, WalError};

use crate::{
    config,
    faulty_disk::{Call, FaultyDisk},
    open_with, put, reopen, tenant,
};

#[test]
fn a_failed_fsync_seals_the_segment_and_fails_every_waiter() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::healthy();
    let (wal, _) = open_with(config(dir.path()), disk.clone());
    assert_eq!(put(&wal, "before").unwrap(), 1);
    disk.hold_syncs(true);
    disk.now(|call, _| (call == Call::Sync).then_some(ErrorKind::Other));
    let waiters: Vec<_> = (0..5).map(|i| wal.append(&tenant(), 0, format!("lost {i}").into()).unwrap()).collect();
    disk.hold_syncs(false);
    for waiter in waiters {
        let error = waiter.wait().unwrap_err();
        assert!(error.is_retryable(), "{error}");
    }
    disk.now(|_, _| None);
    assert!(put(&wal, "after").unwrap() > 1, "the sealed segment was used again");
    assert!(wal.stats().failures >= 1);
    drop(wal);
    let (found, report) = reopen(dir.path());
    assert_eq!(found, ["before", "after"]);
    assert_eq!((report.cut, report.damaged_count), (None, 0));
}

/// Fails the n-th call of a session of appends, rotations and removals, for every n, once and for good.
#[test]
fn whichever_call_fails_no_acknowledged_record_is_lost() {
    for lasting in [false, true] {
        let mut n = 0;
        loop {
            let dir = tempfile::tempdir().unwrap();
            let disk = FaultyDisk::failing(move |_, i| {
                (i == n || lasting && i > n).then_some(if n % 2 == 0 { ErrorKind::StorageFull } else { ErrorKind::Other })
            });
            let (wal, _) = open_with(WalConfig { segment_bytes_max: 300, ..config(dir.path()) }, disk.clone());
            let mut acknowledged: Vec<String> = Vec::new();
            let mut removed_through = 0;
            for i in 0..12 {
                if put(&wal, &format!("{i}-{}", "x".repeat(60))).is_ok() {
                    acknowledged.push(i.to_string());
                }
                if i == 5 {
                    let segment = wal.rotate().unwrap();
                    if wal.remove_through(segment).is_ok() {
                        acknowledged.clear();
                    }
                    removed_through = segment;
                }
            }
            let calls = disk.calls();
            drop(wal);
            let (found, report) = reopen(dir.path());
            let found: Vec<&str> = found.iter().map(|p| p.split('-').next().unwrap()).collect();
            // Removal may have got part of the way; what came after it must all be there, in order.
            let must: Vec<&str> =
                acknowledged.iter().map(String::as_str).filter(|a| a.parse::<u32>().unwrap() > 5).collect();
            let late: Vec<&str> = found.iter().copied().filter(|f| f.parse::<u32>().unwrap() > 5).collect();
            // An append that failed may still have reached the disk, when nothing could be written after it.
            let kept: Vec<&str> = late.iter().copied().filter(|f| must.contains(f)).collect();
            assert_eq!(kept, must, "call {n} failed, lasting {lasting}, removed through {removed_through}");
            assert!(late.is_sorted_by_key(|f| f.parse::<u32>().unwrap()), "{late:?}");
            assert!(lasting || late == must, "call {n} failed, but {late:?} were found instead of {must:?}");
            assert_eq!(report.damaged_count, 0, "call {n}: {report:?}");
            if n >= calls {
                break;
            }
            n += 1;
        }
        assert!(n > 30, "only {n} calls");
    }
}

#[test]
fn a_full_disk_is_refused_before_it_is_full_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::healthy();
    let (wal, _) = open_with(WalConfig { disk_free_bytes_min: 10_000, ..config(dir.path()) }, disk.clone());
    put(&wal, "roomy").unwrap();
    disk.free.store(10_100, SeqCst);
    let refused = put(&wal, "no room").unwrap_err();
    assert!(matches!(refused, WalError::DiskFull { free_bytes: 10_100, .. }), "{refused}");
    assert!(refused.is_retryable());
    disk.free.store(1 << 30, SeqCst);
    put(&wal, "roomy again").unwrap();
    drop(wal);
    assert_eq!(reopen(dir.path()).0, ["roomy", "roomy again"]);
}

#[test]
fn the_high_water_mark_counts_segments_and_the_queue() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::healthy();
    let (wal, _) = open_with(WalConfig { disk_bytes_max: 2000, ..config(dir.path()) }, disk);
    let mut taken = 0;
    let refused = loop {
        match put(&wal, &"x".repeat(70)) {
            Ok(_) => taken += 1,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, WalError::DiskFull { disk_bytes_max: 2000, .. }), "{refused}");
    assert!((17..=19).contains(&taken), "{taken}");
    assert!(wal.bytes_on_disk() <= 2000);
    // A flush makes room.
    wal.remove_through(wal.rotate().unwrap()).unwrap();
    put(&wal, "again").unwrap();
}

#[test]
fn no_space_left_is_said_and_the_space_of_the_failed_write_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::healthy();
    let (wal, _) = open_with(config(dir.path()), disk.clone());
    put(&wal, "first").unwrap();
    let used = wal.bytes_on_disk();
    disk.now(|call, _| (call == Call::Write).then_some(ErrorKind::StorageFull));
    let refused = put(&wal, &"x".repeat(10_000)).unwrap_err();
    assert!(matches!(refused, WalError::DiskFull { .. }), "{refused}");
    assert_eq!(wal.bytes_on_disk(), used);
    disk.now(|_, _| None);
    put(&wal, "second").unwrap();
    drop(wal);
    assert_eq!(reopen(dir.path()).0, ["first", "second"]);
}

#[test]
fn after_a_failure_appends_are_refused_without_asking_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::failing(|call, _| (call == Call::Create).then_some(ErrorKind::Other));
    // The first pause is 90 s; the test ends before.
    let (wal, _) = open_with(WalConfig { failure_pause_max: Duration::from_secs(3600), ..config(dir.path()) }, disk.clone());
    put(&wal, "x").unwrap_err();
    let calls = disk.calls();
    for _ in 0..100 {
        assert!(put(&wal, "x").unwrap_err().is_retryable());
    }
    assert_eq!(disk.calls(), calls);
}
