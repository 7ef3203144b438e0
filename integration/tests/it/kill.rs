//! `kill -9` at random moments under load: what was acknowledged is found, once, and nothing else is.
//!
//! Clients send spans that exist once in the world, write down what was acknowledged, and repeat a request until it is.
//! The server is killed while it starts, takes in, flushes, commits, removes its log and merges blocks, and is started
//! again on the same folder. It may be killed as often as we like: a client that goes on repeating gets everything in, once.
//!
//! The work is bounded by requests, not by time: a slow machine takes longer and sees the same.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tempfile::TempDir;
use tokio::sync::{Semaphore, watch};

use crate::{
    client::Client,
    server::{Server, Settings, Starting, until},
    spans::{TimeRange, request, trace_id, trace_spans},
};

/// Ends of the server; a few are stops by SIGTERM.
const ENDS: usize = 60;
const SENDERS: u64 = 8;
/// A trace comes in several requests, so that it lies on both sides of cuts and kills.
const REQUESTS_PER_TRACE: u64 = 8;
const SPANS_PER_REQUEST: u64 = 8;
const SPANS_PER_TRACE: u64 = REQUESTS_PER_TRACE * SPANS_PER_REQUEST;
/// A life of the server ends after up to so many acknowledged requests ...
const REQUESTS_PER_LIFE: u64 = 150;
/// ... and clients send this many more at most, so that the server is killed under load.
const REQUESTS_AHEAD: u64 = 150;
/// Traces looked at one by one while clients send.
const SAMPLE: usize = 16;
/// Lookups under way at once.
const PARALLEL_LOOKUPS: usize = 8;

/// What clients know.
struct Ledger {
    run: u64,
    range: TimeRange,
    /// Spans of each trace that may be on the server, and that are: requests of a trace go one after the other.
    traces: Mutex<BTreeMap<u64, Progress>>,
    sent: AtomicU64,
    acknowledged: AtomicU64,
    repeated: AtomicU64,
    stop: AtomicBool,
    /// Requests that clients may send.
    permits: Semaphore,
}

#[derive(Clone, Copy, Default)]
struct Progress {
    sent: u64,
    acknowledged: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_span_survives_once() {
    let seed: u64 = std::env::var("SOSTENUTO_SEED").map_or_else(|_| rand::rng().random(), |seed| seed.parse().unwrap());
    println!("seed {seed}; repeat it with SOSTENUTO_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let folder = TempDir::new().unwrap();
    let settings = Settings::new(folder.path());
    // What a killed server was merging is free for the next one at once.
    let merging = settings.clone().with("compactor.interval", "20ms").with("compactor.claim_duration", "1s");
    let ledger = Arc::new(Ledger {
        run: seed,
        range: TimeRange::lately(),
        traces: Mutex::default(),
        sent: AtomicU64::new(0),
        acknowledged: AtomicU64::new(0),
        repeated: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        permits: Semaphore::new(0),
    });
    let (address, addresses) = watch::channel(None::<Client>);
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| tokio::spawn(send(sender, ledger.clone(), addresses.clone())))
        .collect();

    let (mut early, mut stopped, mut replayed) = (0, 0, 0);
    for end in 0..ENDS {
        // Blocks small and often, or large and seldom: kills meet every stage. Not smaller, so that the end looks
        // through hundreds of blocks and not thousands.
        let (age, bytes) = *[("100ms", "1MiB"), ("500ms", "1MiB"), ("1h", "64KiB"), ("1h", "256KiB")].choose(&mut random).unwrap();
        let settings = if random.random() { &settings } else { &merging };
        let settings = settings.clone().with("ingester.max_block_duration", age).with("ingester.max_block_bytes", bytes);
        let starting = Starting::spawn(&settings);
        if random.random_ratio(1, 5) {
            early += 1;
            tokio::time::sleep(Duration::from_millis(random.random_range(0..150))).await;
            starting.kill();
            continue;
        }
        let server = starting.ready().await;
        replayed += server.replayed;
        let requests = random.random_range(0..REQUESTS_PER_LIFE);
        let enough = ledger.acknowledged.load(SeqCst) + requests * SPANS_PER_REQUEST;
        ledger.permits.forget_permits(usize::MAX >> 4);
        ledger.permits.add_permits((requests + REQUESTS_AHEAD) as usize);
        address.send_replace(Some(server.client.clone()));
        if end % 5 == 4 {
            check_sample(&ledger, &server.client, &mut random).await;
        }
        until("the server acknowledges requests", async || ledger.acknowledged.load(SeqCst) >= enough).await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..30))).await;
        address.send_replace(None);
        if end % 11 == 10 {
            stopped += 1;
            let status = server.stop().await;
            assert!(status.success(), "a stop flushes everything: {status}");
        } else {
            server.kill();
        }
    }

    let server = Server::start(&merging).await;
    address.send_replace(Some(server.client.clone()));
    ledger.stop.store(true, SeqCst);
    ledger.permits.close();
    for sender in senders {
        sender.await.unwrap();
    }
    check_sample(&ledger, &server.client, &mut random).await;
    assert!(server.stop().await.success());
    let server = Server::start(&settings).await;
    assert_eq!(server.replayed, 0, "a stop leaves nothing in the log");
    check_all(&ledger, &server.client, "after a stop").await;
    println!(
        "{} kills ({early} of them during the start) and {stopped} stops; {} spans in {} traces, {} requests repeated, {replayed} spans replayed",
        ENDS - stopped,
        ledger.sent.load(SeqCst),
        ledger.traces.lock().unwrap().len(),
        ledger.repeated.load(SeqCst),
    );
}

/// Sends one trace after the other, each request until it is acknowledged.
async fn send(sender: u64, ledger: Arc<Ledger>, mut address: watch::Receiver<Option<Client>>) {
    for number in (sender..).step_by(SENDERS as usize) {
        for part in 0..REQUESTS_PER_TRACE {
            match ledger.permits.acquire().await {
                Ok(permit) if !ledger.stop.load(SeqCst) => permit.forget(),
                _ => return,
            }
            let (first, behind) = (part * SPANS_PER_REQUEST, (part + 1) * SPANS_PER_REQUEST);
            let spans = trace_spans(ledger.run, number, first..behind, ledger.range);
            let body = request(&format!("service {sender}"), spans);
            ledger.traces.lock().unwrap().entry(number).or_default().sent = behind;
            ledger.sent.fetch_add(SPANS_PER_REQUEST, SeqCst);
            loop {
                let client = address.wait_for(Option::is_some).await.unwrap().clone().unwrap();
                if client.try_push(body.clone()).await.is_ok() {
                    break;
                }
                ledger.repeated.fetch_add(1, SeqCst);
                // As a client waits before it tries again.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            ledger.traces.lock().unwrap().entry(number).or_default().acknowledged = behind;
            ledger.acknowledged.fetch_add(SPANS_PER_REQUEST, SeqCst);
        }
    }
}

/// While clients send: acknowledged before the question, so in the answer; in the answer, so sent before its end.
async fn check_sample(ledger: &Ledger, client: &Client, random: &mut StdRng) {
    let acknowledged = ledger.acknowledged.load(SeqCst);
    let count = client.count("{ }", ledger.range).await;
    let sent = ledger.sent.load(SeqCst);
    assert!((acknowledged..=sent).contains(&count), "{acknowledged} acknowledged, {count} found, {sent} sent");

    let before = ledger.traces.lock().unwrap().clone();
    let numbers: Vec<u64> = before.keys().copied().collect();
    // The newest are the most interesting: they are being written.
    let newest = numbers.iter().rev().take(SAMPLE / 2).copied();
    let chosen: Vec<u64> = newest.chain(numbers.choose_multiple(random, SAMPLE / 2).copied()).collect();
    for number in chosen {
        let found = client.span_ids(&trace_id(ledger.run, number)).await;
        let after = ledger.traces.lock().unwrap()[&number];
        check_trace(number, &found, before[&number].acknowledged, after.sent);
    }
}

/// When clients have stopped: everything that was sent was acknowledged.
async fn check_all(ledger: &Ledger, client: &Client, when: &str) {
    let began = Instant::now();
    let sent = ledger.sent.load(SeqCst);
    assert_eq!(ledger.acknowledged.load(SeqCst), sent);
    assert_eq!(client.count("{ }", ledger.range).await, sent, "spans counted {when}");
    let traces = ledger.traces.lock().unwrap().clone();
    stream::iter(&traces)
        .for_each_concurrent(PARALLEL_LOOKUPS, |(number, progress)| async move {
            let found = client.span_ids(&trace_id(ledger.run, *number)).await;
            assert_eq!(progress.acknowledged, progress.sent);
            check_trace(*number, &found, progress.acknowledged, progress.sent);
        })
        .await;
    println!("{sent} spans in {} traces checked {when} in {:.1?}", traces.len(), began.elapsed());
}

/// Spans below `acknowledged` are there, spans from `sent` on are not, and none is there twice.
fn check_trace(number: u64, found: &BTreeMap<Vec<u8>, usize>, acknowledged: u64, sent: u64) {
    let id = |index| crate::spans::span_id(number, index);
    let lost: Vec<u64> = (0..acknowledged).filter(|index| !found.contains_key(&id(*index))).collect();
    assert!(lost.is_empty(), "trace {number} lost acknowledged spans {lost:?}");
    let twice: Vec<_> = found.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "trace {number} has spans more than once: {twice:?}");
    let known: Vec<Vec<u8>> = (0..sent.min(SPANS_PER_TRACE)).map(id).collect();
    let foreign: Vec<_> = found.keys().filter(|id| !known.contains(id)).collect();
    assert!(foreign.is_empty(), "trace {number} has spans that nobody sent: {foreign:?}");
}
