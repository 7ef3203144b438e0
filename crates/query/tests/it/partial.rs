//! What a query tells before it is over. Traces stay in the answer, as they were told, and are told once; samples are those
//! of what was read so far.

use std::{collections::BTreeSet, time::Duration};

use block::writer::WriterOptions;
use proto::{
    otlp::{resource::v1::Resource, trace::v1::Span},
    tempopb::{QueryRangeResponse, SearchResponse, TimeSeries},
};
use query::{MetricsRequest, Partial, SearchFilter, SearchRequest};

use crate::{
    data::{BASE, Row, SECOND, rows},
    places::{Place, batch, everywhere, place, tenant},
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

/// The answer, and the messages before it, over ten minutes in steps of one.
async fn ask_metrics(place: &Place, query: &str) -> (QueryRangeResponse, Vec<QueryRangeResponse>) {
    let (start, end, step) = (BASE as i64, (BASE + 600 * SECOND) as i64, Some(60 * SECOND as i64));
    let request =
        MetricsRequest { query: query.to_owned(), start, end, step, exemplars: None, exemplars_max: 100, series_max: None };
    let (partial, mut told) = Partial::channel(Duration::ZERO);
    let answer = place.engine.query_range_telling(&[tenant()], request, Some(&partial)).await.unwrap_or_else(|e| panic!("{query}: {e}"));
    let mut messages = vec![];
    while let Ok(message) = told.try_recv() {
        messages.push(message);
    }
    (answer, messages)
}

fn total(series: &[TimeSeries]) -> f64 {
    series.iter().flat_map(|series| &series.samples).map(|sample| sample.value).sum()
}

#[tokio::test]
async fn the_counts_of_blocks_are_told_while_others_are_read() {
    let batches = [batch(&[row(1, 0)]), batch(&[row(2, 100), row(3, 50)]), batch(&[row(4, 200)])];
    let place = place("three blocks", &batches, WriterOptions::default(), vec![]).await;
    let (answer, told) = ask_metrics(&place, "{ } | count_over_time() by (name)").await;
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
        let (_, told) = ask_metrics(&place, query).await;
        assert!(told.is_empty(), "{query}");
    }
}

#[tokio::test]
async fn every_sample_that_is_told_has_its_last_word_in_the_answer() {
    let mut told_in_all = 0;
    for seed in 0..4 {
        for place in everywhere(&rows(seed), seed).await {
            for query in [
                "{ } | rate()", "{ kind = server } | count_over_time() by (resource.service.name)",
                "{ } >> { } | max_over_time(duration)", "{ } | quantile_over_time(duration, .5, .9) by (name)",
            ] {
                let (answer, messages) = ask_metrics(&place, query).await;
                for series in messages.iter().flat_map(|message| &message.series) {
                    let stamps: BTreeSet<i64> = series.samples.iter().map(|sample| sample.timestamp_ms).collect();
                    let mut same = answer.series.iter().filter(|other| other.labels == series.labels);
                    let last = same.any(|other| stamps.iter().all(|stamp| other.samples.iter().any(|s| s.timestamp_ms == *stamp)));
                    assert!(last, "seed {seed}, {}, {query}: {series:?} is not in the answer", place.name);
                    told_in_all += 1;
                }
            }
        }
    }
    assert!(told_in_all > 0, "some data lies in several places");
}
