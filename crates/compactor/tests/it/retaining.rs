//! What retention deletes: whole traces, by the first rule that matches, and nothing without a rule.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use block::{promotion::PromotionPolicy, writer::WriterOptions};
use compactor::{Compactor, Retention, Retentions, Rule, plan_retention};
use model::TraceId;
use proto::otlp::{
    common::v1::InstrumentationScope,
    resource::v1::Resource,
    trace::v1::{Span, Status},
};
use storage::Storage;
use test_stores::{Outage, TestStore};
use tokio_util::sync::CancellationToken;

use crate::{
    fixture::{HOUR, blocks, eager, engine, flush, ledger, open, snapshot, tenant},
    spans::{BASE, Row, SECOND, attribute, text},
};

const DAY: Duration = Duration::from_secs(86_400);
const TRACES: u64 = 300;

/// Traces of three spans: every tenth has an error, every third is of the checkout.
fn rows(base: u64) -> Vec<Row> {
    let mut rows = vec![];
    for number in 0..TRACES {
        for child in 0..3u64 {
            let service = if number % 3 == 0 { "checkout" } else { "cart" };
            let resource = Resource { attributes: vec![attribute("service.name", text(service))], ..Default::default() };
            let start = base + number * SECOND;
            // The error is on the last span received.
            let code = if number % 10 == 0 && child == 2 { 2 } else { 0 };
            let span = Span {
                trace_id: (u128::from(number) << 64 | 1).to_be_bytes().into(),
                span_id: (number * 3 + child + 1).to_be_bytes().into(),
                parent_span_id: if child == 0 { vec![] } else { (number * 3 + 1).to_be_bytes().into() },
                name: format!("n{child}"),
                kind: 1,
                start_time_unix_nano: start + child,
                end_time_unix_nano: start + SECOND,
                status: Some(Status { code, ..Default::default() }),
                ..Default::default()
            };
            rows.push(Row { resource, scope: InstrumentationScope::default(), span });
        }
    }
    // The spans of a trace come in different flushes.
    rows.sort_by_key(|row| row.span.name.clone());
    rows
}

/// The start of an hour.
fn base() -> u64 {
    BASE / HOUR as u64 * HOUR as u64
}

/// So long after the hour in which the traces began.
fn after(age: Duration) -> u64 {
    (base() + HOUR as u64) / 1_000_000 + age.as_millis() as u64
}

async fn stored(storage: &Storage) {
    let rows = rows(base());
    for (part, number) in rows.chunks(rows.len().div_ceil(3)).zip(1..) {
        // Received as it happened.
        let received = base() / 1_000_000 + number;
        let options = WriterOptions { row_group_rows: 100, ..WriterOptions::default() };
        flush(storage, &blocks(part, received, &PromotionPolicy::default(), &options), number as i64).await;
    }
}

fn retention() -> Retention {
    let rule = |query: &str, days| Rule { query: Some(query.into()), sample: 1.0, keep: Some(DAY * days) };
    Retention {
        rules: vec![
            rule("{ status = error }", 90),
            rule("{ resource.service.name = \"checkout\" } && { name = \"n1\" }", 30),
            Rule { query: None, sample: 0.1, keep: None },
        ],
        keep: Some(DAY * 7),
    }
}

fn compactor(storage: &Storage, retention: Retention) -> Compactor {
    let retentions = Retentions { default: retention, ..Retentions::default() };
    Compactor::with_retention(eager(), storage.clone(), engine(storage), retentions)
}

/// Numbers of the traces that are left. Each of them whole.
async fn left(store: &TestStore, storage: &Storage) -> BTreeSet<u64> {
    let found = ledger(&store.inner, &*snapshot(storage).await).await;
    let number = |trace: &[u8]| (TraceId::from_slice(trace).unwrap().as_u128() >> 64) as u64;
    let traces: BTreeSet<u64> = found.keys().map(|(trace, ..)| number(trace)).collect();
    assert_eq!(found.len(), traces.len() * 3, "some trace is there in part");
    assert!(found.values().all(|count| *count == 1));
    traces
}

async fn rounds(compactor: &Compactor, now_unix_ms: u64) {
    for _ in 0..32 {
        let round = compactor.round(now_unix_ms, &CancellationToken::new()).await;
        assert!(round.failures.is_empty(), "{:?}", round.failures);
        if !round.more {
            return;
        }
    }
    panic!("retention does not come to an end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_deleted_unless_configured() {
    let store = TestStore::new();
    let storage = open(&store).await;
    stored(&storage).await;
    for retention in [
        Retention::default(),
        // Rules that keep for ever.
        Retention { rules: vec![Rule { query: Some("{ }".into()), sample: 1.0, keep: None }], keep: Some(DAY) },
    ] {
        rounds(&compactor(&storage, retention), after(10_000 * DAY)).await;
        assert_eq!(left(&store, &storage).await.len() as u64, TRACES);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_traces_go_when_the_first_rule_that_matches_lets_them() {
    let store = TestStore::new();
    let storage = open(&store).await;
    stored(&storage).await;
    let compactor = compactor(&storage, retention());
    let error = |number: &u64| number % 10 == 0;
    let checkout = |number: &u64| number % 3 == 0;

    rounds(&compactor, after(7 * DAY) - 1).await;
    let all = left(&store, &storage).await;
    assert_eq!(all.len() as u64, TRACES);

    rounds(&compactor, after(7 * DAY)).await;
    let week = left(&store, &storage).await;
    let sample: BTreeSet<u64> = week.iter().copied().filter(|n| !error(n) && !checkout(n)).collect();
    assert!((2..50).contains(&sample.len()), "about a tenth of 180: {}", sample.len());
    assert!(all.iter().filter(|n| error(n) || checkout(n)).all(|n| week.contains(n)));

    rounds(&compactor, after(30 * DAY)).await;
    let month = left(&store, &storage).await;
    // A checkout without an error was decided over by its rule, so the sample cannot keep it.
    assert_eq!(month, all.iter().copied().filter(|n| error(n) || sample.contains(n)).collect());

    rounds(&compactor, after(90 * DAY)).await;
    assert_eq!(left(&store, &storage).await, sample);
    let stats = compactor.stats();
    assert_eq!(stats.expired_spans, (TRACES - sample.len() as u64) * 3);
    assert!(stats.expired_bytes > 0);
    // Nothing more, ever, and without looking again.
    let before = stats.expirations;
    rounds(&compactor, after(5_000 * DAY)).await;
    assert_eq!((left(&store, &storage).await, compactor.stats().expirations), (sample, before));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_late_is_kept_as_long_as_what_came_in_time() {
    let store = TestStore::new();
    let storage = open(&store).await;
    let received = after(100 * DAY);
    flush(&storage, &blocks(&rows(base()), received, &PromotionPolicy::default(), &WriterOptions::default()), 1).await;
    let compactor = compactor(&storage, Retention { rules: vec![], keep: Some(7 * DAY) });
    rounds(&compactor, after(106 * DAY)).await;
    assert_eq!(left(&store, &storage).await.len() as u64, TRACES);
    rounds(&compactor, after(107 * DAY)).await;
    assert!(snapshot(&storage).await.blocks.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_with_rules_of_its_own_does_not_follow_the_default() {
    let store = TestStore::new();
    let storage = open(&store).await;
    stored(&storage).await;
    let forever = Retentions {
        default: Retention { rules: vec![], keep: Some(DAY) },
        tenants: [(tenant(), Retention::default())].into(),
    };
    let compactor = Compactor::with_retention(eager(), storage.clone(), engine(&storage), forever);
    rounds(&compactor, after(100 * DAY)).await;
    assert_eq!(left(&store, &storage).await.len() as u64, TRACES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_plan_says_what_will_happen() {
    let store = TestStore::new();
    let storage = open(&store).await;
    stored(&storage).await;
    let now = after(8 * DAY);
    let plan = plan_retention(&storage, &engine(&storage), &tenant(), &retention(), now).await.unwrap();
    let traces: Vec<u64> = plan.rules.iter().map(|rule| rule.traces).collect();
    assert_eq!((traces[0], traces[1], traces[2] + traces[3]), (30, 90, 180));
    assert!(plan.rules.iter().all(|rule| rule.spans == rule.traces * 3));
    let bytes: u64 = plan.rules.iter().map(|rule| rule.bytes).sum();
    let stored: u64 = snapshot(&storage).await.blocks.iter().map(|block| block.size_bytes).sum();
    assert!(bytes.abs_diff(stored) <= 4, "{bytes} of {stored}");
    let expired: Vec<u64> = plan.rules.iter().map(|rule| rule.expired_traces).collect();
    assert_eq!(expired, [0, 0, 0, traces[3]]);
    assert_eq!(plan.rules[3].expired_bytes, plan.rules[3].bytes);

    rounds(&compactor(&storage, retention()), now).await;
    assert_eq!(left(&store, &storage).await.len() as u64, TRACES - traces[3]);
}

/// At every operation: what is to be kept is there, what a commit deleted does not come back, and the work is finished.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_may_fail_at_every_operation() {
    let store = TestStore::new();
    stored(&open(&store).await).await;
    let prepared = store.inner.fork();
    let now = after(8 * DAY);
    let only_retention = |storage: &Storage| {
        // Blocks too large to be merged with others.
        let config = compactor::CompactorConfig { block_bytes_max: 1, ..eager() };
        let retentions = Retentions { default: retention(), ..Retentions::default() };
        Compactor::with_retention(config, storage.clone(), engine(storage), retentions)
    };
    rounds(&only_retention(&open(&store).await), now).await;
    let kept = left(&store, &open(&store).await).await;
    let mut points = 0;
    for fault in Outage::ALL {
        for number in 0.. {
            let store: Arc<TestStore> = TestStore::over(prepared.fork());
            let failing = only_retention(&open(&store).await);
            store.fail(number, fault);
            failing.round(now, &CancellationToken::new()).await;
            let reached = store.requests() > number;
            store.heal();
            let storage = open(&store).await;
            let between = left(&store, &storage).await;
            assert!(between == kept || between.len() as u64 == TRACES, "{fault:?} at operation {number}");
            // Later, when a claim that a crash left behind has expired.
            rounds(&only_retention(&storage), now + 3_600_000).await;
            assert_eq!(left(&store, &storage).await, kept, "{fault:?} at operation {number}");
            if !reached {
                break;
            }
            points += 1;
        }
    }
    println!("{points} points");
    assert!(points > 50, "{points} points are not every operation");
}
