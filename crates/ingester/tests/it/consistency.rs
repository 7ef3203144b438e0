//! Pushes, flushes and readers at the same time.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use crate::{Fixture, found, request, span, tenant};

/// A reader sees every span that was acknowledged before it began, and none twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_see_every_acknowledged_span_once_while_flushes_go_on() {
    let fixture = Fixture::new().await;
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let done = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for writer in 0..3u64 {
        let (ingester, acknowledged) = (fixture.ingester.clone(), acknowledged.clone());
        writers.push(tokio::spawn(async move {
            for i in 0..60 {
                let first = writer * 1_000_000 + i * 10;
                ingester.push(&tenant("a"), request((first..first + 10).map(span).collect())).await.unwrap();
                acknowledged.lock().unwrap().extend(first..first + 10);
            }
        }));
    }
    let flusher = tokio::spawn({
        let (ingester, done) = (fixture.ingester.clone(), done.clone());
        async move {
            let mut commits = 0;
            while !done.load(SeqCst) {
                commits += ingester.flush().await.unwrap().commits;
            }
            commits
        }
    });
    let mut looks = 0;
    loop {
        let finished = writers.iter().all(|writer| writer.is_finished());
        let before = acknowledged.lock().unwrap().clone();
        let counts = found(&fixture.ingester, &fixture.store, "a").await;
        for span in &before {
            assert!(counts.contains_key(span), "span {span} was acknowledged and is not visible");
        }
        if let Some((span, count)) = counts.iter().find(|(_, count)| **count > 1) {
            panic!("span {span} is visible {count} times");
        }
        looks += 1;
        if finished {
            assert_eq!(counts.len(), 1800);
            break;
        }
    }
    done.store(true, SeqCst);
    assert!(flusher.await.unwrap() > 0 && looks > 1);
    for writer in writers {
        writer.await.unwrap();
    }
}
