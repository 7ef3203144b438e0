//! Cut and flipped bytes: the start always succeeds and loses no more than was damaged.

use std::{fs, path::Path};

use wal::RecoveryReport;

use crate::{drain, open, payloads, put, reopen, segment_files};

const HEADER: usize = 64;

/// A log of two segments: the first with records a0..a2, the last with b0..b2.
fn two_segments() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    for i in 0..3 {
        put(&wal, &format!("a{i}")).unwrap();
    }
    wal.rotate().unwrap();
    for i in 0..3 {
        put(&wal, &format!("b{i}")).unwrap();
    }
    dir
}

/// A copy of the log with one segment replaced.
fn with_segment(from: &Path, index: usize, bytes: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (i, file) in segment_files(from).iter().enumerate() {
        let to = dir.path().join(file.file_name().unwrap());
        let original = fs::read(file).unwrap();
        fs::write(to, if i == index { bytes } else { &original }).unwrap();
    }
    dir
}

fn record_ends(bytes: &[u8]) -> Vec<usize> {
    let mut ends = vec![HEADER];
    while *ends.last().unwrap() < bytes.len() {
        let at = *ends.last().unwrap();
        let payload = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        ends.push(at + 24 + usize::from(bytes[at + 4]) + payload);
    }
    ends
}

fn quarantined(report: &RecoveryReport) -> u64 {
    report.damaged.iter().map(|d| fs::metadata(d.kept.as_ref().unwrap()).unwrap().len()).sum()
}

#[test]
fn cutting_the_last_segment_anywhere_loses_only_what_was_cut() {
    let original = two_segments();
    let bytes = fs::read(&segment_files(original.path())[1]).unwrap();
    let ends = record_ends(&bytes);
    assert_eq!(ends.len(), 4);
    for cut in 0..bytes.len() {
        let dir = with_segment(original.path(), 1, &bytes[..cut]);
        let whole = ends.iter().filter(|end| **end <= cut).count().saturating_sub(1);
        let expected: Vec<String> =
            (0..3).map(|i| format!("a{i}")).chain((0..whole).map(|i| format!("b{i}"))).collect();
        let (found, report) = reopen(dir.path());
        assert_eq!(found, expected, "cut at {cut}");
        assert_eq!(report.damaged_count, 0, "cut at {cut}");
        let end = ends.iter().copied().filter(|end| *end <= cut).max().unwrap_or(0);
        assert_eq!(report.cut.map_or(0, |c| c.bytes) as usize, cut - end, "cut at {cut}");

        // The log goes on, and the second start has nothing to say.
        let (wal, _) = open(dir.path());
        assert_eq!(put(&wal, "new").unwrap(), 3);
        drop(wal);
        let (again, report) = reopen(dir.path());
        assert_eq!(again, [expected, vec!["new".to_owned()]].concat(), "cut at {cut}");
        assert_eq!((report.cut, report.damaged_count), (None, 0), "cut at {cut}");
    }
}

#[test]
fn a_garbage_tail_is_cut() {
    let original = two_segments();
    let bytes = fs::read(&segment_files(original.path())[1]).unwrap();
    let ends = record_ends(&bytes);
    // Zeros, ones, text, and a copy of the last record: intact, but not where it belongs.
    let tails: [Vec<u8>; 4] = [vec![0; 5000], vec![255; 5000], b"garbage".repeat(900), bytes[ends[2]..].to_vec()];
    for tail in tails {
        let dir = with_segment(original.path(), 1, &[&bytes[..], &tail[..]].concat());
        let (found, report) = reopen(dir.path());
        assert_eq!(found, ["a0", "a1", "a2", "b0", "b1", "b2"]);
        assert_eq!(report.cut.unwrap().bytes as usize, tail.len());
        assert_eq!(fs::metadata(&segment_files(dir.path())[1]).unwrap().len() as usize, bytes.len());
    }
}

#[test]
fn flipping_any_bit_loses_at_most_the_record_it_hits() {
    let original = two_segments();
    let files = segment_files(original.path());
    for (index, prefix) in [(0, "a"), (1, "b")] {
        let bytes = fs::read(&files[index]).unwrap();
        let ends = record_ends(&bytes);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let dir = with_segment(original.path(), index, &flipped);
            let hit = ends.windows(2).position(|w| (w[0]..w[1]).contains(&(bit / 8)));
            let lost = hit.map(|i| format!("{prefix}{i}"));
            let expected: Vec<String> = ["a0", "a1", "a2", "b0", "b1", "b2"]
                .map(str::to_owned)
                .into_iter()
                .filter(|name| Some(name) != lost.as_ref())
                .collect();
            let (found, report) = reopen(dir.path());
            assert_eq!(found, expected, "segment {index}, bit {bit}");
            if let Some(i) = hit {
                let bytes = (ends[i + 1] - ends[i]) as u64;
                if (index, i) == (1, 2) {
                    assert_eq!(report.cut.unwrap().bytes, bytes, "bit {bit}");
                } else {
                    assert_eq!((report.damaged_bytes, quarantined(&report)), (bytes, bytes), "bit {bit}");
                }
            }
        }
    }
}

#[test]
fn an_earlier_segment_that_lost_its_end_is_reported() {
    let original = two_segments();
    let bytes = fs::read(&segment_files(original.path())[0]).unwrap();
    let ends = record_ends(&bytes);
    // At a record boundary nothing but the next segment's header can tell.
    let dir = with_segment(original.path(), 0, &bytes[..ends[2]]);
    let (found, report) = reopen(dir.path());
    assert_eq!(found, ["a0", "a1", "b0", "b1", "b2"]);
    assert_eq!(report.damaged[0].reason, "the segment is shorter than acknowledged");
    assert_eq!(report.damaged_bytes as usize, ends[3] - ends[2]);
}

#[test]
fn an_empty_segment_does_not_stop_the_start() {
    let original = two_segments();
    for index in [0, 1] {
        let dir = with_segment(original.path(), index, b"");
        let expected = [["b0", "b1", "b2"], ["a0", "a1", "a2"]][index];
        assert_eq!(reopen(dir.path()).0, expected);
        // Its number is not used again.
        let (wal, _) = open(dir.path());
        assert_eq!(put(&wal, "new").unwrap(), 3);
    }
}

#[test]
fn a_full_quarantine_does_not_stop_the_start() {
    let original = two_segments();
    let mut bytes = fs::read(&segment_files(original.path())[0]).unwrap();
    bytes[HEADER + 30] ^= 1;
    let dir = with_segment(original.path(), 0, &bytes);
    let config = wal::WalConfig { quarantine_bytes_max: 10, ..crate::config(dir.path()) };
    let (_wal, recovery) = wal::Wal::open(config).unwrap();
    let (records, report) = drain(recovery);
    assert_eq!(payloads(&records), ["a1", "a2", "b0", "b1", "b2"]);
    assert_eq!(report.damaged[0].kept, None);
}
