//! A damaged log: the program starts, and loses what stood in the damage and nothing else.
//!
//! `crates/wal` tries every byte and every bit; here are a few of each kind, on the whole program.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::{
    server::{Server, Settings},
    spans::{TimeRange, request, trace_id, trace_spans},
};

const RUN: u64 = 7;
const REQUESTS: u64 = 12;
const SPANS: u64 = 3;
/// `docs/wal-format.md`.
const SEGMENT_HEADER_BYTES: u64 = 64;
const RECORD_HEADER_BYTES: u64 = 24;

/// One harm done to the newest segment.
enum Harm {
    /// The file ends here.
    Cut(u64),
    /// One bit of this byte is another.
    Flip(u64),
    /// These bytes stand behind the end.
    Tail(Vec<u8>),
}

#[tokio::test]
async fn a_start_goes_on_behind_damage() {
    let folder = TempDir::new().unwrap();
    let settings = Settings::new(folder.path());
    let range = TimeRange::lately();
    let server = Server::start(&settings).await;
    // One after the other: each is a record of its own.
    for number in 0..REQUESTS {
        server.client.push(request("shop", trace_spans(RUN, number, 0..SPANS, range))).await;
    }
    server.kill();

    let segment = newest_segment(&settings.data());
    let log = fs::read(&segment).unwrap();
    let records = records(&log);
    assert_eq!(records.len() as u64, REQUESTS, "one record for each request");
    let (fifth, last) = (records[4], *records.last().unwrap());
    let all: BTreeSet<u64> = (0..REQUESTS).collect();
    let first = |count: u64| (0..count).collect::<BTreeSet<u64>>();
    let without = |number: u64| all.iter().copied().filter(|n| *n != number).collect::<BTreeSet<u64>>();
    let end = log.len() as u64;
    let cases = [
        ("a bit of the segment header", Harm::Flip(20), all.clone()),
        ("a bit of a record header", Harm::Flip(fifth.0 + 2), without(4)),
        ("a bit of a tenant name", Harm::Flip(fifth.0 + RECORD_HEADER_BYTES), without(4)),
        ("a bit of a payload", Harm::Flip(fifth.1 - 1), without(4)),
        ("a bit of the last payload", Harm::Flip(end - 1), first(REQUESTS - 1)),
        ("one byte missing", Harm::Cut(end - 1), first(REQUESTS - 1)),
        ("half a record missing", Harm::Cut((last.0 + last.1) / 2), first(REQUESTS - 1)),
        ("a record missing", Harm::Cut(last.0), first(REQUESTS - 1)),
        ("half a record header left", Harm::Cut(last.0 + RECORD_HEADER_BYTES / 2), first(REQUESTS - 1)),
        ("cut in the middle", Harm::Cut(fifth.0 + 1), first(4)),
        ("only the segment header left", Harm::Cut(SEGMENT_HEADER_BYTES), first(0)),
        ("half a segment header left", Harm::Cut(SEGMENT_HEADER_BYTES / 2), first(0)),
        ("nothing left", Harm::Cut(0), first(0)),
        ("zeros behind the end", Harm::Tail(vec![0; 4096]), all.clone()),
        ("a copy of a record behind the end", Harm::Tail(log[fifth.0 as usize..fifth.1 as usize].to_vec()), all.clone()),
        ("noise behind the end", Harm::Tail((0..1000_u32).map(|n| (n * n >> 3) as u8).collect()), all.clone()),
    ];
    for (number, (what, harm, left)) in cases.into_iter().enumerate() {
        let copy = folder.path().join(format!("copy-{number}"));
        copy_folder(&settings.data(), &copy);
        let file = OpenOptions::new().write(true).open(newest_segment(&copy)).unwrap();
        match harm {
            Harm::Cut(bytes) => file.set_len(bytes).unwrap(),
            Harm::Flip(byte) => file.write_all_at(&[log[byte as usize] ^ 0x10], byte).unwrap(),
            Harm::Tail(bytes) => file.write_all_at(&bytes, end).unwrap(),
        }
        drop(file);
        let settings = settings.on(&copy);
        let server = Server::start(&settings).await;
        assert_eq!(found(&server, range).await, left, "{what}");
        // It takes in more, and both survive the next kill.
        server.client.push(request("shop", trace_spans(RUN, REQUESTS, 0..SPANS, range))).await;
        server.kill();
        let server = Server::start(&settings).await;
        let mut left = left;
        left.insert(REQUESTS);
        assert_eq!(found(&server, range).await, left, "{what}, after a second kill");
    }
}

/// The traces that are complete; no trace may be there in part.
async fn found(server: &Server, range: TimeRange) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    for number in 0..=REQUESTS {
        match server.client.span_ids(&trace_id(RUN, number)).await.len() as u64 {
            0 => {}
            SPANS => drop(found.insert(number)),
            some => panic!("trace {number} has {some} spans of {SPANS}"),
        }
    }
    assert_eq!(server.client.count("{ }", range).await, found.len() as u64 * SPANS);
    found
}

fn newest_segment(data: &Path) -> PathBuf {
    let entries = fs::read_dir(data.join("wal")).unwrap().map(|entry| entry.unwrap().path());
    let segments = entries.filter(|path| path.extension().is_some_and(|extension| extension == "wal"));
    // A start opens a segment before it is needed.
    let with_records = segments.filter(|path| fs::metadata(path).unwrap().len() > SEGMENT_HEADER_BYTES);
    with_records.max().expect("a log that was written to has a segment")
}

/// Where each record begins and ends, by the description of the format.
fn records(log: &[u8]) -> Vec<(u64, u64)> {
    let mut records = Vec::new();
    let mut at = SEGMENT_HEADER_BYTES;
    while at < log.len() as u64 {
        let header = &log[at as usize..];
        let payload = u32::from_le_bytes(header[..4].try_into().unwrap());
        let end = at + RECORD_HEADER_BYTES + u64::from(header[4]) + u64::from(payload);
        records.push((at, end));
        at = end;
    }
    assert_eq!(at, log.len() as u64, "records fill the segment");
    records
}

pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}
