//! Bits that flip in the log at rest: the start succeeds, what is lost is told, and nothing that was not sent is found.

use std::fs;

use test_stores::Dice;

use crate::{Fixture, each_once};

#[tokio::test]
async fn a_flipped_bit_costs_its_request_at_most_and_is_told() {
    let fixture = Fixture::with(|config| ingester::IngesterConfig { wal_segment_max: bytesize::ByteSize::kib(2), ..config }).await;
    // Requests of five spans, in several segments.
    for request in 0..12 {
        fixture.push("a", request * 5..request * 5 + 5).await;
    }
    let (store, log) = fixture.crash();
    let all = each_once(0..60);
    let mut dice = Dice::new(9);
    let (mut whole, mut told) = (0, 0);
    for _ in 0..1_000 {
        let mut segments: Vec<_> = fs::read_dir(log.path()).unwrap().map(|file| file.unwrap().path()).collect();
        segments.retain(|path| path.extension().is_some_and(|end| end == "wal"));
        segments.sort();
        assert!(segments.len() > 2, "{segments:?}");
        let copy = tempfile::tempdir().unwrap();
        crate::copy_log(log.path(), copy.path());
        let path = copy.path().join(segments[dice.below(segments.len())].file_name().unwrap());
        let mut bytes = fs::read(&path).unwrap();
        let bit = dice.flip(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let context = format!("bit {bit} of {path:?}");

        let next = Fixture::start(&store, copy).await;
        let found = next.found("a").await;
        assert!(found.iter().all(|(span, count)| all.get(span) == Some(count)), "{context}: {found:?}");
        let report = next.ingester.replayed();
        let noticed = report.log.damaged_count > 0 || report.log.cut.is_some();
        if found == all {
            whole += 1;
        } else {
            told += 1;
            // One request, and it is told.
            assert_eq!((found.len(), noticed), (55, true), "{context}: {report:?}");
        }
    }
    println!("{whole} flips cost nothing, {told} cost a request");
    assert!(told > 800, "{told}");
}
