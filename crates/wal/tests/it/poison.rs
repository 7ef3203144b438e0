//! A record that ends the process is tried twice and then set aside.

use crate::{drain, open, payloads, put, reopen};

#[test]
fn the_third_start_goes_around_a_record_that_ended_two() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    for name in ["a", "poison", "b"] {
        put(&wal, name).unwrap();
    }
    drop(wal);
    for _ in 0..2 {
        let (_wal, mut recovery) = open(dir.path());
        assert_eq!(&recovery.next().unwrap().payload[..], b"a");
        assert_eq!(&recovery.next().unwrap().payload[..], b"poison");
        // The process ends here, with the record in hand.
    }
    for _ in 0..2 {
        let (_wal, recovery) = open(dir.path());
        let (records, report) = drain(recovery);
        assert_eq!(payloads(&records), ["a", "b"]);
        assert_eq!(report.set_aside, 1);
    }
    let kept: Vec<_> = std::fs::read_dir(dir.path().join("quarantine")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(kept.len(), 1);
    let bytes = std::fs::read(&kept[0]).unwrap();
    assert!(bytes.ends_with(b"team-1poison"), "{bytes:?}");
}

#[test]
fn a_process_that_ends_while_it_waits_blames_no_record() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    for name in ["a", "b"] {
        put(&wal, name).unwrap();
    }
    drop(wal);
    for _ in 0..5 {
        let (_wal, mut recovery) = open(dir.path());
        recovery.next().unwrap();
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| recovery.while_waiting(|| panic!("killed"))));
        killed.unwrap_err();
    }
    // Behind a wait, the record is in hand again.
    for _ in 0..2 {
        let (_wal, mut recovery) = open(dir.path());
        recovery.next().unwrap();
        recovery.while_waiting(|| ());
    }
    assert_eq!(reopen(dir.path()).0, ["b"]);
}

#[test]
fn two_poison_records_do_not_hide_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    for name in ["p0", "p1", "p2", "good"] {
        put(&wal, name).unwrap();
    }
    drop(wal);
    let mut starts = 0;
    let found = loop {
        starts += 1;
        assert!(starts < 10, "the log never gets past its poison");
        let (_wal, mut recovery) = open(dir.path());
        let mut taken = Vec::new();
        let died = loop {
            match recovery.next() {
                Some(record) if record.payload.starts_with(b"p") => break true,
                Some(record) => taken.push(record),
                None => break false,
            }
        };
        if !died {
            break payloads(&taken);
        }
    };
    assert_eq!((starts, found), (7, vec!["good".to_owned()]));
}

#[test]
fn one_crash_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    for name in ["a", "b"] {
        put(&wal, name).unwrap();
    }
    drop(wal);
    for _ in 0..3 {
        let (_wal, mut recovery) = open(dir.path());
        recovery.next().unwrap();
        drop(recovery);
        drop(_wal);
        // A whole replay in between clears the suspicion.
        assert_eq!(reopen(dir.path()).0, ["a", "b"]);
    }
}
