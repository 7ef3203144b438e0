//! Random sessions against a model: acknowledged records, in order, minus what was removed.

use std::io::ErrorKind;

use proptest::prelude::*;
use wal::WalConfig;

use crate::{config, drain, faulty_disk::FaultyDisk, open_with, tenant};

#[derive(Clone, Debug)]
enum Operation {
    Append { bytes: usize, wait: bool },
    Rotate,
    RemoveThroughLastRotation,
    Restart,
    /// The call that many calls from now fails.
    FailSoon(usize),
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        8 => (0usize..400, any::<bool>()).prop_map(|(bytes, wait)| Operation::Append { bytes, wait }),
        2 => Just(Operation::Rotate),
        1 => Just(Operation::RemoveThroughLastRotation),
        1 => Just(Operation::Restart),
        1 => (0usize..6).prop_map(Operation::FailSoon),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_session_keeps_what_it_acknowledged(
        operations in prop::collection::vec(operation(), 1..60),
        segment_bytes_max in 100u64..2000,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let config = WalConfig { segment_bytes_max, ..config(dir.path()) };
        let mut disk = FaultyDisk::healthy();
        let mut wal = open_with(config.clone(), disk.clone()).0;
        // (segment, sequence number) of what must and of what may be there.
        let mut acknowledged: Vec<(u64, i64)> = Vec::new();
        let mut refused: Vec<(u64, i64)> = Vec::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut ingester = wal.ingester_id();
        let (mut rotated, mut sequence, mut waiting) = (0, 0, Vec::new());
        let mut highest = 0;
        for operation in operations.into_iter().chain([Operation::Restart]) {
            match operation {
                Operation::Append { bytes, wait } => {
                    sequence += 1;
                    if let Ok(pending) = wal.append(&tenant(), sequence, vec![b'x'; bytes].into()) {
                        prop_assert!(pending.segment() >= highest && pending.segment() > rotated);
                        highest = pending.segment();
                        waiting.push((pending.segment(), sequence, pending));
                    }
                    if !wait {
                        continue;
                    }
                }
                Operation::Rotate => {
                    let closed = wal.rotate().unwrap();
                    prop_assert!(closed >= highest);
                    rotated = runtime.block_on(wal.settle(closed)).unwrap();
                    // What was acknowledged stands for good below that number.
                    for (segment, sequence, pending) in waiting.drain(..) {
                        let list = if pending.wait().is_ok() { &mut acknowledged } else { &mut refused };
                        list.push((segment, sequence));
                    }
                    prop_assert!(acknowledged.iter().all(|(segment, _)| *segment <= rotated));
                }
                Operation::RemoveThroughLastRotation => {
                    // What waits may be written after the removal; settle it first, so that the model knows.
                    for (segment, sequence, pending) in waiting.drain(..) {
                        let list = if pending.wait().is_ok() { &mut acknowledged } else { &mut refused };
                        list.push((segment, sequence));
                    }
                    // On a failing disk some of them may stay.
                    let _ = wal.remove_through(rotated);
                    let (gone, kept) = acknowledged.into_iter().partition(|(segment, _)| *segment <= rotated);
                    acknowledged = kept;
                    refused.extend::<Vec<_>>(gone);
                }
                Operation::FailSoon(calls) => {
                    let at = disk.calls() + calls;
                    disk.now(move |_, i| (i == at).then_some(ErrorKind::Other));
                }
                Operation::Restart => {}
            }
            for (segment, sequence, pending) in waiting.drain(..) {
                let list = if pending.wait().is_ok() { &mut acknowledged } else { &mut refused };
                list.push((segment, sequence));
            }
            if matches!(operation, Operation::Restart) {
                drop(wal);
                disk = FaultyDisk::healthy();
                let (log, recovery) = open_with(config.clone(), disk.clone());
                if log.ingester_id() != ingester {
                    // No segment was there: another ingester, whose numbers begin again.
                    prop_assert!(acknowledged.is_empty());
                    (ingester, rotated) = (log.ingester_id(), 0);
                    refused.clear();
                }
                let (records, report) = drain(recovery);
                let found: Vec<_> = records.iter().map(|r| (r.segment, r.received_unix_nano)).collect();
                prop_assert!(found.is_sorted());
                for record in &acknowledged {
                    prop_assert!(found.contains(record), "{:?} is lost; found {:?}; {:?}", record, found, report);
                }
                for record in &found {
                    prop_assert!(acknowledged.contains(record) || refused.contains(record), "{:?} is invented", record);
                }
                prop_assert_eq!(report.damaged_count, 0);
                // Numbers of segments that never came to stand may be used again, but none at or below `rotated`.
                highest = rotated;
                wal = log;
            }
        }
    }
}
