//! Traces in many blocks: what is asked of each span alone, or of a trace's duration and root, is read where it lies; what is kept
//! for that is bounded, and changes no answer.

use std::sync::Arc;

use block::{batch::SpanBatch, merge::merge};
use prost::Message;
use proto::otlp::{common::v1::InstrumentationScope, resource::v1::Resource, trace::v1::Span};
use query::{Engine, Explanation, MetricsRequest, Reads, SearchFilter, SearchRequest, TagValuesRequest};

use crate::{
    data::{BASE, Row, SECOND, attribute, text},
    places::{GENEROUS, Stored, batch, small_row_groups, tenant},
};

const TRACES: u64 = 60;
const BLOCKS: u64 = 5;

/// The numbered span of a trace: a second after the one before, its child, and in a service of the same number.
fn span(trace: u64, number: u64) -> Row {
    let start = BASE + trace * 60 * SECOND + number * SECOND;
    let span = Span {
        trace_id: u128::from(trace + 1).to_be_bytes().into(),
        span_id: (number + 1).to_be_bytes().into(),
        parent_span_id: if number == 0 { vec![] } else { number.to_be_bytes().into() },
        name: format!("n{number}"),
        start_time_unix_nano: start,
        end_time_unix_nano: start + SECOND,
        ..Default::default()
    };
    let resource = Resource { attributes: vec![attribute("service.name", text(&format!("s{number}")))], ..Default::default() };
    Row { resource, scope: InstrumentationScope::default(), span }
}

/// Every trace has one span in each block.
fn slices() -> Vec<SpanBatch> {
    let slice = |number| (0..TRACES).map(|trace| span(trace, number)).collect::<Vec<_>>();
    (0..BLOCKS).map(|number| merge(&[batch(&slice(number))], &GENEROUS).expect("one batch merges")).collect()
}

async fn search(engine: &Engine, query: &str) -> (Vec<u8>, Explanation) {
    let reads = Arc::new(Reads::default());
    let request = SearchRequest { filter: SearchFilter::TraceQl(query.into()), range: None, limit: 10, spans_per_spanset: 0 };
    let mut found = engine.accounting(&reads).search(&[tenant()], request).await.expect("an answer");
    found.metrics = None;
    (found.encode_to_vec(), reads.explanation())
}

async fn metrics(engine: &Engine, query: &str) -> (Vec<Vec<u8>>, Explanation) {
    let reads = Arc::new(Reads::default());
    let (start, end) = (BASE as i64, (BASE + TRACES * 60 * SECOND) as i64);
    let request = MetricsRequest { query: query.into(), start, end, step: None, exemplars: None, exemplars_max: 100, series_max: None };
    let found = engine.accounting(&reads).query_range(&[tenant()], request).await.expect("an answer");
    (found.series.iter().map(Message::encode_to_vec).collect(), reads.explanation())
}

/// Row groups that the blocks have: traces never cross one.
fn row_groups(explanation: &Explanation) -> u64 {
    explanation.row_groups - explanation.row_groups_pruned
}

#[tokio::test]
async fn spans_of_split_traces_are_counted_where_they_lie() {
    let stored = Stored::new(&slices(), &small_row_groups(16), vec![]).await;
    let whole = Stored::new(&[merge(&slices(), &GENEROUS).expect("they merge")], &small_row_groups(16), vec![]).await;
    let (engine, whole) = (stored.engine(2), whole.engine(2));
    for query in [
        "{ } | rate()",
        "{ resource.service.name = \"s2\" } | count_over_time() by (name)",
        "{ rootName = \"n0\" } | rate() by (rootServiceName)",
        "{ nestedSetParent < 0 } | count_over_time()",
        "{ trace:duration > 4s } | quantile_over_time(duration, .5)",
        "{ resource.service.name = \"s4\" } | compare({ span:childCount = 0 })",
    ] {
        let (found, explanation) = metrics(&engine, query).await;
        assert!(!found.is_empty(), "{query}");
        assert_eq!(found, metrics(&whole, query).await.0, "{query}");
        assert_eq!(explanation.traces_split, TRACES);
        assert_eq!(explanation.units_read, row_groups(&explanation), "each row group once: {query}");
    }
}

#[tokio::test]
async fn memory_for_split_traces_is_bounded_and_changes_no_answer() {
    let stored = Stored::new(&slices(), &small_row_groups(16), vec![]).await;
    let queries = [
        "{ name = \"n3\" }",
        "{ rootName = \"n0\" && name = \"n4\" }",
        "{ trace:duration >= 5s }",
        "{ name = \"n0\" } >> { name = \"n4\" }",
        "{ } | count() = 5",
    ];
    let generous = stored.engine_with(u64::MAX);
    let mut expected = vec![];
    for query in queries {
        expected.push(search(&generous, query).await.0);
        assert!(!expected.last().expect("pushed").is_empty(), "{query}");
    }
    let all = generous.split_traces_bytes();
    assert!(all > 0);
    for bound in [0, all / 2, all] {
        let engine = stored.engine_with(bound);
        for (query, expected) in queries.iter().zip(&expected) {
            assert_eq!(search(&engine, query).await.0, *expected, "{query} with {bound} bytes");
        }
        let (counted, explanation) = metrics(&engine, "{ } | rate()").await;
        assert_eq!(counted, metrics(&generous, "{ } | rate()").await.0);
        assert_eq!(explanation.units_read, row_groups(&explanation), "spans are counted where they lie with {bound} bytes");
        assert!(engine.split_traces_bytes() <= bound, "{} bytes are kept, {bound} allowed", engine.split_traces_bytes());
    }
}

#[tokio::test]
async fn values_of_split_traces_come_from_catalogues_unless_a_span_is_there_twice() {
    let values = async |stored: &Stored| {
        let reads = Arc::new(Reads::default());
        let request = TagValuesRequest { name: "resource.service.name".into(), query: String::new(), range: None, limit: 0 };
        let found = stored.engine(2).accounting(&reads).tag_values(&[tenant()], request).await.expect("an answer");
        (found.tag_values.into_iter().map(|value| value.value).collect::<Vec<_>>(), reads.explanation().units_read)
    };
    let once = Stored::new(&slices(), &small_row_groups(16), vec![]).await;
    assert_eq!(values(&once).await, (["s0", "s1", "s2", "s3", "s4"].map(String::from).to_vec(), 0));
    // The same span, first from one service and then from another: what came first counts.
    let again = Row { resource: span(0, 1).resource, ..span(0, 0) };
    let blocks = [vec![span(0, 0)], vec![again, span(0, 2)]].map(|rows| merge(&[batch(&rows)], &GENEROUS).expect("one batch merges"));
    let twice = Stored::new(&blocks, &small_row_groups(16), vec![]).await;
    assert_eq!(values(&twice).await.0, ["s0", "s2"]);
}
