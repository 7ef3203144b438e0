//! What a query tells before it is over. Traces stay in the answer, as they were told, and are told once; samples are those
//! of what was read so far, and taken back where the answer has none.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use block::writer::WriterOptions;
use futures::StreamExt;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use proto::{
    otlp::{common::v1::any_value::Value as Any, resource::v1::Resource, trace::v1::Span},
    tempopb::{PartialStatus, QueryRangeResponse, SearchResponse, TimeSeries},
};
use query::{Engine, MetricsRequest, Partial, RangeAnswer, SearchFilter, SearchRequest};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    data::{BASE, Row, SECOND, any, attribute, rows, text},
    places::{Place, Stored, batch, everywhere, place, small_row_groups, tenant},
};

/// The answer, and the messages before it.
async fn ask(place: &Place, query: &str, limit: usize) -> (SearchResponse, Vec<SearchResponse>) {
    let request = SearchRequest { filter: SearchFilter::TraceQl(query.to_owned()), range: None, limit, spans_per_spanset: 0 };
    let (partial, mut told) = Partial::channel(Duration::ZERO);
    let answer = place.engine.search_telling(&[tenant()], request, Some(&partial)).await.unwrap_or_else(|e| panic!("{query}: {e}"));
    let mut messages = vec![];
    while let Ok(message) = told.try_recv() {
        messages.push(message);
    }
    (answer, messages)
}

fn ids(response: &SearchResponse) -> Vec<&str> {
    response.traces.iter().map(|trace| trace.trace_id.as_str()).collect()
}

/// A trace of one span.
fn row(trace: u128, start_s: u64) -> Row {
    let start = BASE + start_s * SECOND;
    let span = Span {
        trace_id: trace.to_be_bytes().into(),
        span_id: vec![1; 8],
        name: "once".into(),
        start_time_unix_nano: start,
        end_time_unix_nano: start + SECOND,
        ..Default::default()
    };
    Row { resource: Resource::default(), scope: Default::default(), span }
}

#[tokio::test]
async fn the_traces_of_newer_blocks_are_told_while_older_blocks_are_read() {
    let batches = [batch(&[row(1, 0)]), batch(&[row(2, 100), row(3, 50)]), batch(&[row(4, 200)])];
    let place = place("three blocks", &batches, WriterOptions::default(), vec![]).await;
    let (answer, told) = ask(&place, "{ }", 10).await;
    assert_eq!(ids(&answer), ["4", "2", "3", "1"]);
    assert_eq!(told.iter().map(ids).collect::<Vec<_>>(), [vec![], vec!["4"], vec!["2", "3"]]);
    let jobs: Vec<_> = told.iter().map(|m| m.metrics.expect("each message has metrics")).map(|m| (m.completed_jobs, m.total_jobs)).collect();
    assert_eq!(jobs, [(0, 4), (1, 4), (2, 4)]);
    // A full answer needs no older block.
    let (answer, told) = ask(&place, "{ }", 1).await;
    assert_eq!(ids(&answer), ["4"]);
    assert!(told.iter().flat_map(ids).all(|id| id == "4"));
}

#[tokio::test]
async fn what_is_told_stands_in_the_answer() {
    let mut told_in_all = 0;
    for seed in 0..4 {
        for place in everywhere(&rows(seed), seed).await {
            for query in ["{ }", "{ status = error }", "{ } >> { kind = server } | select(.env)", "{ traceDuration > 1s }"] {
                for limit in [1, 3, 1000] {
                    let (answer, messages) = ask(&place, query, limit).await;
                    let told: Vec<_> = messages.iter().flat_map(|message| &message.traces).collect();
                    for trace in &told {
                        assert!(answer.traces.contains(trace), "seed {seed}, {}, {query}, limit {limit}: {trace:?} is not in the answer", place.name);
                    }
                    let once: BTreeSet<_> = told.iter().map(|trace| &trace.trace_id).collect();
                    assert_eq!(once.len(), told.len(), "seed {seed}, {}, {query}, limit {limit}: told twice", place.name);
                    told_in_all += told.len();
                }
            }
        }
    }
    assert!(told_in_all > 0, "some data has traces that are certain early");
}

/// Over ten minutes in steps of one.
fn metrics_request(query: &str, series_max: Option<usize>) -> MetricsRequest {
    let (start, end, step) = (BASE as i64, (BASE + 600 * SECOND) as i64, Some(60 * SECOND as i64));
    MetricsRequest { query: query.to_owned(), start, end, step, exemplars: None, exemplars_max: 100, series_max }
}

/// The answer, and the messages before it.
async fn ask_metrics(engine: &Engine, request: MetricsRequest) -> (RangeAnswer, Vec<QueryRangeResponse>) {
    let query = request.query.clone();
    let (partial, mut told) = Partial::channel(Duration::ZERO);
    let answer = engine.query_range_telling(&[tenant()], request, &partial).await.unwrap_or_else(|e| panic!("{query}: {e}"));
    let mut messages = vec![];
    while let Ok(message) = told.try_recv() {
        messages.push(message);
    }
    (answer, messages)
}

/// Labels, stamp, bits of the value.
type Samples = BTreeMap<(String, i64), u64>;

/// What a client has that keeps the newest sample of each series and time. What is not-a-number is no sample.
fn folded<'a>(messages: impl IntoIterator<Item = &'a TimeSeries>) -> Samples {
    let mut samples = Samples::new();
    for series in messages {
        for sample in &series.samples {
            let place = (format!("{:?}", series.labels), sample.timestamp_ms);
            match sample.value.is_nan() {
                true => samples.remove(&place),
                false => samples.insert(place, sample.value.to_bits()),
            };
        }
    }
    samples
}

/// What a client has in the end is what it would have without a stream.
fn check_folded(answer: &RangeAnswer, told: &[QueryRangeResponse], unary: &QueryRangeResponse, context: &str) {
    let messages = told.iter().flat_map(|message| &message.series).chain(&answer.taken_back).chain(&answer.answer.series);
    assert_eq!(folded(messages), folded(&unary.series), "{context}");
    assert_eq!((answer.answer.status, &answer.answer.message), (unary.status, &unary.message), "{context}");
    assert_eq!(answer.answer.series, unary.series, "{context}");
}

fn total(series: &[TimeSeries]) -> f64 {
    series.iter().flat_map(|series| &series.samples).map(|sample| sample.value).sum()
}

#[tokio::test]
async fn the_counts_of_blocks_are_told_while_others_are_read() {
    let batches = [batch(&[row(1, 0)]), batch(&[row(2, 100), row(3, 50)]), batch(&[row(4, 200)])];
    let place = place("three blocks", &batches, WriterOptions::default(), vec![]).await;
    let (answer, told) = ask_metrics(&place.engine, metrics_request("{ } | count_over_time() by (name)", None)).await;
    assert!(answer.taken_back.is_empty());
    let answer = answer.answer;
    assert_eq!(told.iter().map(|message| total(&message.series)).collect::<Vec<_>>(), [1.0, 3.0, 4.0]);
    assert_eq!(total(&answer.series), 4.0);
    for message in &told {
        let metrics = message.metrics.expect("each message has metrics");
        assert!(metrics.completed_jobs < metrics.total_jobs, "{metrics:?}");
        assert!(message.series.iter().all(|series| series.exemplars.is_empty()), "they may still change");
    }
    assert!(!answer.series[0].exemplars.is_empty());
    // What may be taken back is not told.
    for query in [
        "{ } | rate() by (name) | topk(1)", "{ } | rate() > 0", "{ } | compare({ status = error })",
        "({ } | rate()) * 2",
    ] {
        let (_, told) = ask_metrics(&place.engine, metrics_request(query, None)).await;
        assert!(told.is_empty(), "{query}");
    }
}

#[tokio::test]
async fn what_a_client_has_of_a_stream_is_the_answer() {
    let mut told_in_all = 0;
    for seed in 0..4 {
        for place in everywhere(&rows(seed), seed).await {
            for query in [
                "{ } | rate()", "{ kind = server } | count_over_time() by (resource.service.name)",
                "{ } >> { } | max_over_time(duration)", "{ } | quantile_over_time(duration, .5, .9) by (name)",
                "{ } | sum_over_time(span.number) by (name)",
            ] {
                for series_max in [None, Some(1), Some(3)] {
                    let (answer, told) = ask_metrics(&place.engine, metrics_request(query, series_max)).await;
                    let unary = place.engine.query_range(&[tenant()], metrics_request(query, series_max)).await.unwrap();
                    check_folded(&answer, &told, &unary, &format!("seed {seed}, {}, {query}, {series_max:?} series", place.name));
                    told_in_all += told.iter().map(|message| message.series.len()).sum::<usize>();
                }
            }
        }
    }
    assert!(told_in_all > 0, "some data lies in several places");
}

/// A row whose sum is infinite, and one whose is minus infinity: together there is no sum.
#[tokio::test]
async fn a_sum_that_is_no_number_in_the_end_is_taken_back() {
    let with = |trace, value| {
        let mut row = row(trace, 0);
        row.span.attributes = vec![attribute("number", any(Any::DoubleValue(value)))];
        row
    };
    let place = place("two blocks", &[batch(&[with(1, f64::INFINITY)]), batch(&[with(2, f64::NEG_INFINITY)])], WriterOptions::default(), vec![]).await;
    let request = || metrics_request("{ } | sum_over_time(span.number)", None);
    let (answer, told) = ask_metrics(&place.engine, request()).await;
    assert!(!folded(told.iter().flat_map(|message| &message.series)).is_empty());
    assert_eq!((answer.answer.series.len(), answer.taken_back.len()), (0, 1));
    check_folded(&answer, &told, &place.engine.query_range(&[tenant()], request()).await.unwrap(), "no sum");
}

/// Its names fill megabytes, so that its row groups lie in different pieces of the file.
#[tokio::test]
async fn the_series_of_a_block_that_turns_out_damaged_are_taken_back() {
    const ROWS: u128 = 1_400;
    let mut rng = StdRng::seed_from_u64(5);
    let rows: Vec<Row> = (0..2 * ROWS)
        .map(|number| {
            let mut row = row(number + 1, 0);
            row.span.name = (0..1_000).map(|_| char::from(rng.random_range(b'a'..=b'z'))).collect();
            row.span.attributes = vec![attribute("half", text(if number < ROWS { "first" } else { "second" }))];
            row
        })
        .collect();
    let other: Vec<Row> = (0..10).map(|number| row(u128::MAX - u128::from(number), 60 + number)).collect();
    let stored = Stored::new(&[batch(&rows), batch(&other)], &small_row_groups(ROWS as usize), vec![]).await;
    let listed: Vec<ObjectMeta> = stored.store.list(None).map(|meta| meta.unwrap()).collect().await;
    let large = listed.iter().filter(|meta| meta.location.as_ref().ends_with(".parquet")).max_by_key(|meta| meta.size).unwrap();
    let mut bytes = stored.store.get(&large.location).await.unwrap().bytes().await.unwrap().to_vec();
    assert!(bytes.len() > 5 << 19, "{} bytes", bytes.len());
    let late = bytes.len() - (1 << 18);
    bytes[late] ^= 1;
    stored.store.put(&large.location, bytes.into()).await.unwrap();

    let request = || metrics_request("{ name != \"x\" } | count_over_time() by (span.half)", None);
    let (answer, told) = ask_metrics(&stored.engine(1), request()).await;
    let first = |series: &TimeSeries| format!("{:?}", series.labels).contains("first");
    assert!(told.iter().flat_map(|message| &message.series).any(first), "the half that is well was told");
    assert!(answer.taken_back.iter().any(first) && !answer.answer.series.iter().any(first));
    let unary = stored.engine(1).query_range(&[tenant()], request()).await.unwrap();
    assert_eq!(unary.status(), PartialStatus::Partial);
    assert_eq!(total(&unary.series), 10.0);
    check_folded(&answer, &told, &unary, "a damaged block");
}
