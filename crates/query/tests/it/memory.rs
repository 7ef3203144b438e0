//! What a metrics query holds counts: over its budget it is refused, within it the answer is the same, and in the end
//! nothing is held.

use std::{sync::Arc, time::Duration};

use block::writer::WriterOptions;
use model::ErrorKind;
use proto::{otlp::{resource::v1::Resource, trace::v1::Span}, tempopb::TimeSeries};
use query::{Budget, Engine, MetricsRequest, Partial, QueryError, Reads};

use crate::{
    data::{BASE, Row, SECOND, attribute, text},
    places::{Place, Stored, batch, place, small_row_groups, tenant},
};

const USERS: u64 = 3_000;

/// A span of a user who has no other, in a trace of its own: one a second.
fn span(number: u64) -> Row {
    let start = BASE + number * SECOND;
    let span = Span {
        trace_id: u128::from(number + 1).to_be_bytes().into(),
        span_id: (number + 1).to_be_bytes().into(),
        name: format!("n{}", number % 3),
        kind: 1,
        start_time_unix_nano: start,
        end_time_unix_nano: start + number,
        attributes: vec![attribute("user", text(&format!("user {number} of many"))), attribute("even", text(["yes", "no"][number as usize % 2]))],
        ..Default::default()
    };
    Row { resource: Resource::default(), scope: Default::default(), span }
}

async fn users() -> Place {
    let batches: Vec<_> = (0..3).map(|part| batch(&(0..USERS).skip(part).step_by(3).map(span).collect::<Vec<_>>())).collect();
    place("users", &batches, WriterOptions::default(), vec![]).await
}

fn request(query: &str) -> MetricsRequest {
    let (start, end) = (BASE as i64, (BASE + USERS * SECOND) as i64);
    let (exemplars, exemplars_max) = (None, 100);
    MetricsRequest { query: query.to_owned(), start, end, step: Some(60 * SECOND as i64), exemplars, exemplars_max, series_max: None }
}

/// The series over time, or at once, and what the query holds after its end.
async fn ask(engine: &Engine, query: &str, instant: bool, bytes: u64) -> (Result<Vec<TimeSeries>, QueryError>, u64) {
    let reads = Arc::new(Reads::within(Budget { read_bytes_max: u64::MAX, memory_bytes_max: bytes }));
    let engine = engine.accounting(&reads);
    let series = match instant {
        false => engine.query_range(&[tenant()], request(query)).await.map(|answer| answer.series),
        true => engine.query_instant(&[tenant()], request(query)).await.map(|answer| {
            let sample = |value| vec![proto::tempopb::Sample { value, timestamp_ms: 0 }];
            let series = answer.series.into_iter();
            series.map(|s| TimeSeries { labels: s.labels, samples: sample(s.value), exemplars: vec![] }).collect()
        }),
    };
    (series, reads.memory_bytes())
}

const MANY_GROUPS: [&str; 12] = [
    "{ } | rate() by (span.user)",
    "{ } | count_over_time() by (span:id, name, span.even)",
    "{ span.even = \"yes\" } | max_over_time(duration) by (span.user)",
    "{ } | avg_over_time(duration) by (duration)",
    "{ } | quantile_over_time(duration, .5, .9) by (span.user)",
    "{ } | histogram_over_time(duration) by (span.user)",
    "{ } | count_over_time() by (span.user) | topk(3)",
    "{ } | count_over_time() by (span.user) | bottomk(3)",
    "{ } | rate() by (span.user) > 100",
    "({ } | rate() by (span.user)) / ({ } | rate() by (span.user))",
    "{ } && { } | rate() by (trace:id)",
    "{ } | compare({ span.even = \"yes\" })",
];

const FEW_GROUPS: [&str; 6] = [
    "{ } | rate()",
    "{ } | rate() by (name, span.even)",
    "{ span.user = \"user 7 of many\" } | rate() by (span.user)",
    "{ } | quantile_over_time(duration, .5, .9)",
    "{ } | histogram_over_time(duration) by (span.even)",
    "({ } | rate() by (name)) / ({ } | rate())",
];

#[tokio::test]
async fn groups_beyond_the_memory_are_refused_and_few_are_counted() {
    let place = users().await;
    for instant in [false, true] {
        for query in MANY_GROUPS {
            let (refused, held) = ask(&place.engine, query, instant, 300_000).await;
            let refused = refused.err().unwrap_or_else(|| panic!("{query}: answered"));
            assert_eq!(refused.kind, ErrorKind::BudgetExceeded, "{query}: {refused}");
            assert!(refused.message.contains("max_memory_per_query") && refused.message.contains("fewer groups"), "{query}: {refused}");
            assert_eq!(held, 0, "{query}");
        }
        for query in MANY_GROUPS.into_iter().chain(FEW_GROUPS) {
            let bytes = if MANY_GROUPS.contains(&query) { 200_000_000 } else { 300_000 };
            let (answer, held) = ask(&place.engine, query, instant, bytes).await;
            assert_eq!(held, 0, "{query}");
            let (unbounded, _) = ask(&place.engine, query, instant, u64::MAX).await;
            assert_eq!(answer.unwrap_or_else(|e| panic!("{query}: {e}")), unbounded.unwrap(), "{query}");
        }
    }
}

/// The least memory that an answer was had with is no less than what its parts take.
#[tokio::test]
async fn answers_within_any_memory_are_the_same() {
    let place = users().await;
    for query in MANY_GROUPS.into_iter().chain(FEW_GROUPS) {
        let (unbounded, _) = ask(&place.engine, query, false, u64::MAX).await;
        let unbounded = unbounded.unwrap();
        let samples: usize = unbounded.iter().map(|series| series.samples.len()).sum();
        let (mut refused, mut answered) = (0, 0);
        for bytes in (8..30).step_by(2).map(|power| 1 << power) {
            match ask(&place.engine, query, false, bytes).await.0 {
                Ok(answer) => {
                    assert_eq!(answer, unbounded, "{query} with {bytes} bytes");
                    assert!(bytes as usize > samples * 16, "{query}: {samples} samples in {bytes} bytes");
                    answered += 1;
                }
                Err(error) => {
                    assert_eq!(error.kind, ErrorKind::BudgetExceeded, "{query} with {bytes} bytes: {error}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 0 && answered > 0, "{query}: {refused} refused, {answered} answered");
    }
}

/// They label series with nil, however many there are.
#[tokio::test]
async fn arrays_are_one_group() {
    let rows: Vec<Row> = (0..USERS)
        .map(|number| {
            let mut row = span(number);
            let values = [number / 2, 7].map(|value| text(&value.to_string()));
            row.span.attributes.push(attribute("pair", crate::data::array(values.to_vec())));
            row
        })
        .collect();
    let place = place("arrays", &[batch(&rows)], WriterOptions::default(), vec![]).await;
    let (answer, _) = ask(&place.engine, "{ } | count_over_time() by (span.pair)", true, u64::MAX).await;
    let answer = answer.unwrap();
    let counts: Vec<f64> = answer.iter().map(|series| series.samples[0].value).collect();
    assert_eq!(counts, [USERS as f64]);
}

#[tokio::test]
async fn a_query_that_is_given_up_holds_nothing() {
    let rows: Vec<Row> = (0..USERS).map(span).collect();
    let engine = Stored::new(&[batch(&rows)], &small_row_groups(100), vec![]).await.engine(1);
    let reads = Arc::new(Reads::default());
    let (partial, mut told) = Partial::channel(Duration::ZERO);
    {
        let (accounting, tenants) = (engine.accounting(&reads), [tenant()]);
        let query = accounting.query_range_telling(&tenants, request("{ } | rate() by (span.user)"), &partial);
        let held = async { told.recv().await.map(|_| reads.memory_bytes()) };
        tokio::select! {
            biased;
            held = held => assert!(held.is_some_and(|held| held > 100 * 8), "the groups that were told are held: {held:?}"),
            _ = query => panic!("the answer was there before a part of it"),
        }
    }
    assert_eq!(reads.memory_bytes(), 0);
}
