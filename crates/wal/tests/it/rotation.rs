//! Where segments begin and end, and when they go.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

use wal::WalConfig;

use crate::{config, drain, faulty_disk::FaultyDisk, open, open_with, put, reopen, segment_files, tenant};

#[test]
fn rotation_divides_appends_exactly_under_concurrency() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open_with(WalConfig { segment_bytes_max: 2000, ..config(dir.path()) }, FaultyDisk::healthy());
    // `cut` is raised right after a rotation returned: an append that starts later must lie behind it; one that returned
    // before the rotation was called must not.
    let cut = AtomicU64::new(0);
    let returned = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut last = 0;
                    for i in 0..500 {
                        let behind = cut.load(SeqCst);
                        let pending = wal.append(&tenant(), i, vec![b'p'; 50].into()).unwrap();
                        assert!(pending.segment() > behind, "{} is not behind {behind}", pending.segment());
                        assert!(pending.segment() >= last);
                        last = pending.segment();
                        returned.fetch_max(last, SeqCst);
                        pending.wait().unwrap();
                    }
                })
            })
            .collect();
        while writers.iter().any(|w| !w.is_finished()) {
            let before = returned.load(SeqCst);
            let closed = wal.rotate().unwrap();
            assert!(closed >= before, "{closed} closed, but an append had gone to {before}");
            cut.store(closed, SeqCst);
        }
    });
    let total = wal.stats().records;
    drop(wal);
    let (_wal, recovery) = open(dir.path());
    let (records, report) = drain(recovery);
    assert_eq!((records.len() as u64, total, report.damaged_count), (2000, 2000, 0));
}

#[test]
fn segments_roll_over_by_size_and_go_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open_with(WalConfig { segment_bytes_max: 300, ..config(dir.path()) }, FaultyDisk::healthy());
    let segments: BTreeSet<u64> = (0..9).map(|i| put(&wal, &format!("{i}{}", "x".repeat(69))).unwrap()).collect();
    // 64 bytes of header and two records of 100.
    assert_eq!(segments, BTreeSet::from([1, 2, 3, 4, 5]));
    assert_eq!(wal.bytes_on_disk(), 5 * 64 + 900);
    assert_eq!(wal.rotate().unwrap(), 5);
    assert_eq!(wal.rotate().unwrap(), 5, "nothing was appended in between");
    assert_eq!(wal.remove_through(2).unwrap(), 2);
    assert_eq!(wal.remove_through(2).unwrap(), 0);
    // A durable successor stands there before the last data goes.
    assert_eq!(segment_files(dir.path()).len(), 4);
    assert_eq!(wal.remove_through(5).unwrap(), 3);
    assert_eq!(segment_files(dir.path()).len(), 1);
    assert_eq!(wal.bytes_on_disk(), 64);
    assert_eq!(put(&wal, "next").unwrap(), 6);
    drop(wal);
    assert_eq!(reopen(dir.path()).0, ["next"]);
}

#[test]
fn a_number_is_never_used_twice_under_one_id() {
    let dir = tempfile::tempdir().unwrap();
    let (mut last, mut id) = (0, None);
    for _ in 0..3 {
        let (wal, recovery) = open(dir.path());
        drain(recovery);
        assert_eq!(*id.get_or_insert(wal.ingester_id()), wal.ingester_id());
        let segment = put(&wal, "x").unwrap();
        assert!(segment > last);
        last = wal.rotate().unwrap();
        wal.remove_through(last).unwrap();
    }
    for file in segment_files(dir.path()) {
        std::fs::remove_file(file).unwrap();
    }
    // A wiped directory is another ingester.
    assert_ne!(Some(open(dir.path()).0.ingester_id()), id);
}

#[test]
fn segments_of_two_ingesters_are_not_mixed() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for dir in [&one, &two] {
        put(&open(dir.path()).0, "x").unwrap();
    }
    let file = segment_files(two.path()).pop().unwrap();
    std::fs::copy(&file, one.path().join(file.file_name().unwrap())).unwrap();
    let refused = wal::Wal::open(config(one.path())).map(|_| ()).unwrap_err();
    assert!(matches!(refused, wal::WalError::TwoIngesters { .. }), "{refused}");
}

#[test]
fn segments_set_aside_outlive_their_removal() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = crate::open(dir.path());
    for (segment, payload) in [(1, "one"), (2, "two"), (3, "three")] {
        assert_eq!(crate::put(&wal, payload).unwrap(), segment);
        assert_eq!(wal.rotate().unwrap(), segment);
    }
    let kept = wal.set_aside(2, 3).unwrap();
    assert_eq!(kept, wal.set_aside(2, 3).unwrap(), "twice is once");
    assert_eq!(wal.remove_through(3).unwrap(), 3);
    let [two, three] = kept.as_slice() else { panic!("{kept:?}") };
    for (path, payload) in [(two, "two"), (three, "three")] {
        assert!(path.parent().is_some_and(|folder| folder.ends_with("quarantine")), "{path:?}");
        let bytes = std::fs::read(path).unwrap();
        assert!(bytes.windows(payload.len()).any(|found| found == payload.as_bytes()));
    }
    drop(wal);
    let (payloads, report) = crate::reopen(dir.path());
    assert_eq!((payloads, report.damaged_count), (vec![], 0), "the log does not read them again");
}

#[test]
fn a_full_quarantine_sets_nothing_aside() {
    let dir = tempfile::tempdir().unwrap();
    let config = wal::WalConfig { quarantine_bytes_max: 10, ..crate::config(dir.path()) };
    let (wal, _) = crate::open_with(config, crate::FaultyDisk::healthy());
    crate::put(&wal, "one").unwrap();
    let closed = wal.rotate().unwrap();
    let refused = wal.set_aside(closed, closed).unwrap_err().to_string();
    drop(wal);
    assert!(refused.contains("set aside"), "{refused}");
    assert_eq!(crate::reopen(dir.path()).0, ["one"]);
}
