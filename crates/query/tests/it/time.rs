//! The time limit ends the work inside of one unit: between batches, not when the unit is done.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use block::writer::WriterOptions;
use model::ErrorKind;
use proto::otlp::common::v1::any_value::Value as Any;
use query::{
    Budget, Engine, LiveGeneration, MetricsRequest, QueryError, Reads, SearchFilter, SearchRequest, SqlFormat, SqlRequest,
    TagNamesRequest, TagScope, TagValuesRequest,
};

use crate::{
    data::{BASE, Row, SECOND, any, attribute, text},
    decisions::span,
    places::{Stored, batch, place, tenant},
};

/// Spans of one unit: several batches of what is read or computed at a time.
const ROWS: u64 = 80_000;

/// Traces of a few spans, with an attribute that needs a look at every row.
fn rows(count: u64) -> Vec<Row> {
    (0..count)
        .map(|at| {
            let mut row = span(u128::from(at / 8 + 1), at + 1, if at % 8 == 0 { 0 } else { at }, at % 500);
            row.span.attributes = vec![attribute("word", text(&format!("word {at}"))), attribute("number", any(Any::IntValue(at as i64)))];
            row
        })
        .collect()
}

async fn in_memory_and_in_a_block() -> [(&'static str, Stored); 2] {
    let batch = batch(&rows(ROWS));
    let live = LiveGeneration { ingester: "ingester".into(), segment: None, batches: vec![batch.clone()] };
    let options = WriterOptions::default();
    [("one block", Stored::new(&[batch], &options, vec![]).await), ("live", Stored::new(&[], &options, vec![live]).await)]
}

/// Every look at the clock finds it a second later.
struct Clock {
    looks: AtomicU64,
    start: Instant,
}

impl Clock {
    fn limit(self: &Arc<Self>, seconds: u64) -> Arc<Reads> {
        let clock = Arc::clone(self);
        let now = move || clock.start + Duration::from_secs(clock.looks.fetch_add(1, Ordering::Relaxed));
        Arc::new(Reads::within(Budget::UNLIMITED).at_most(Duration::from_secs(seconds)).by_clock(Arc::new(now)))
    }

    fn new() -> Arc<Self> {
        Arc::new(Self { looks: AtomicU64::new(0), start: Instant::now() })
    }
}

const SEARCHES: [&str; 3] = [
    "{ span.word =~ \".*7.*9.*\" && span.number * 2 > 150000 }",
    "{ span.number % 7 = 3 } | count() > 5",
    "{ parent.number + 1 = span.number && span.word =~ \".*99.*\" } >> { span.number % 1000 = 999 }",
];
const METRICS: [&str; 2] = ["{ span.number % 7 = 3 } | rate() by (span.word)", "{ } | compare({ span.number % 2 = 0 })"];

async fn ask(engine: &Engine, query: &str) -> Result<(), QueryError> {
    if SEARCHES.contains(&query) {
        let request = SearchRequest { filter: SearchFilter::TraceQl(query.to_owned()), range: None, limit: 5, spans_per_spanset: 3 };
        return engine.search(&[tenant()], request).await.map(|_| ());
    }
    let (start, end) = (BASE as i64, (BASE + 600 * SECOND) as i64);
    let request = MetricsRequest {
        query: query.to_owned(),
        start,
        end,
        step: Some(end - start + 1),
        exemplars: None,
        exemplars_max: 100,
        series_max: None,
    };
    engine.query_range(&[tenant()], request).await.map(|_| ())
}

#[tokio::test]
async fn the_time_is_looked_at_between_the_batches_of_a_unit() {
    for (name, stored) in in_memory_and_in_a_block().await {
        for query in SEARCHES.iter().chain(&METRICS) {
            // One unit, and nothing kept from one query to the next.
            let clock = Clock::new();
            ask(&stored.engine(1).accounting(&clock.limit(1_000_000)), query).await.unwrap_or_else(|e| panic!("{query}: {e}"));
            let whole = clock.looks.load(Ordering::Relaxed);
            assert!(whole >= 5, "{query} in {name}: the clock was looked at {whole} times");
            // Wherever in the work the time is over, that is the end of it.
            for seconds in [1, whole / 2, whole - 2] {
                let clock = Clock::new();
                let error = ask(&stored.engine(1).accounting(&clock.limit(seconds)), query).await.expect_err("the time is over");
                assert_eq!(error.kind, ErrorKind::BudgetExceeded, "{query} in {name}: {error}");
                assert!(error.message.contains("api_timeout"), "{error}");
                let looks = clock.looks.load(Ordering::Relaxed);
                assert!(looks <= seconds + 2, "{query} in {name}: went on for {looks} looks of {seconds}");
            }
        }
    }
}

#[tokio::test]
async fn a_query_whose_time_is_over_reads_nothing() {
    let place = place("one block", &[batch(&rows(64))], WriterOptions::default(), vec![]).await;
    let reads = || Arc::new(Reads::within(Budget::UNLIMITED).at_most(Duration::ZERO));
    let over = |error: Option<QueryError>, reads: &Reads, what: &str| {
        assert_eq!(error.unwrap_or_else(|| panic!("{what}: the time is over")).kind, ErrorKind::BudgetExceeded, "{what}");
        assert_eq!((reads.bytes.load(Ordering::Relaxed), reads.spans.load(Ordering::Relaxed)), (0, 0), "{what}");
    };
    for query in SEARCHES.iter().chain(&METRICS) {
        let reads = reads();
        over(ask(&place.engine.accounting(&reads), query).await.err(), &reads, query);
    }
    let (query, range, limit) = ("{ span.word != nil || name != nil }".to_owned(), None, 0);
    let account = reads();
    let names = TagNamesRequest { scope: TagScope::All, query: query.clone(), range, limit };
    over(place.engine.accounting(&account).tag_names(&[tenant()], names).await.err(), &account, "names");
    let account = reads();
    let values = TagValuesRequest { name: "name".into(), query, range, limit };
    over(place.engine.accounting(&account).tag_values(&[tenant()], values).await.err(), &account, "values");
    let account = reads();
    let sql = SqlRequest { text: "SELECT name FROM spans".into(), format: SqlFormat::Json, rows_max: 10 };
    over(place.engine.accounting(&account).sql(&[tenant()], sql).await.err(), &account, "SQL");
}

/// The clock is held still while the query is dropped; what works on in other threads stops at its next look.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn work_stops_when_nobody_waits_for_it() {
    let options = WriterOptions { row_group_rows: 20_000, ..WriterOptions::default() };
    let stored = Stored::new(&[batch(&rows(ROWS))], &options, vec![]).await;
    let whole = Clock::new();
    ask(&stored.engine(2).accounting(&whole.limit(1_000_000)), SEARCHES[1]).await.expect("an answer");
    let engine = stored.engine(2);
    let (dropped, looks) = (Arc::new(std::sync::Barrier::new(2)), Arc::new(AtomicUsize::new(0)));
    let reached = Arc::new(tokio::sync::Notify::new());
    let clock = {
        let (dropped, looks, reached, start) = (Arc::clone(&dropped), Arc::clone(&looks), Arc::clone(&reached), Instant::now());
        move || {
            // The first looks are those of the beginning, in the task that is dropped.
            if looks.fetch_add(1, Ordering::SeqCst) == 4 {
                reached.notify_one();
                dropped.wait();
            }
            start
        }
    };
    let reads = Arc::new(Reads::within(Budget::UNLIMITED).at_most(Duration::from_secs(3_600)).by_clock(Arc::new(clock)));
    let accounting = engine.accounting(&reads);
    tokio::select! {
        answer = ask(&accounting, SEARCHES[1]) => panic!("the work waits for the query to be dropped: {answer:?}"),
        () = reached.notified() => {}
    }
    drop(accounting);
    tokio::task::spawn_blocking(move || dropped.wait()).await.expect("the work goes on");
    // Every part of the work holds the account; here is the last one.
    while Arc::strong_count(&reads) > 1 {
        tokio::task::yield_now().await;
    }
    let (looks, whole) = (looks.load(Ordering::SeqCst) as u64, whole.looks.load(Ordering::Relaxed));
    assert!(looks < whole, "the work went on: {looks} looks, {whole} are all");
}
