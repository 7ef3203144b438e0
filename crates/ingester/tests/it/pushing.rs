//! Requests in.

use bytes::Bytes;
use ingester::{IngesterConfig, PushError};
use model::ErrorKind;
use query::LiveData;

use crate::{Fixture, each_once, request, span, tenant};

#[tokio::test]
async fn a_span_is_visible_when_its_push_returns_and_to_its_tenant_only() {
    let fixture = Fixture::new().await;
    assert!(fixture.ingester.live(&tenant("a")).is_empty());
    for i in 0..50 {
        fixture.push("a", [i]).await;
        assert_eq!(fixture.found("a").await, each_once(0..=i));
    }
    assert!(fixture.ingester.live(&tenant("b")).is_empty());
    assert_eq!(fixture.ingester.stats().accepted_spans, 50);
}

#[tokio::test]
async fn a_bad_span_does_not_cost_the_good_ones() {
    let fixture = Fixture::new().await;
    let mut spans: Vec<_> = (0..5).map(span).collect();
    spans[1].trace_id.clear();
    spans[2].trace_id = vec![0; 16];
    spans[3].span_id = vec![1; 7];
    let outcome = fixture.ingester.push(&tenant("a"), request(spans)).await.unwrap();
    assert_eq!(outcome.accepted, 2);
    assert_eq!(outcome.rejected, [("invalid_span_id", 1), ("invalid_trace_id", 2)].into());
    assert_eq!(fixture.found("a").await, each_once([0, 4]));
}

#[tokio::test]
async fn what_cannot_be_taken_is_refused_for_good() {
    let fixture = Fixture::new().await;
    let mut bad = span(1);
    bad.trace_id.clear();
    let refused = fixture.ingester.push(&tenant("a"), request(vec![bad])).await.unwrap_err();
    assert!(matches!(&refused, PushError::NothingValid(reasons) if reasons["invalid_trace_id"] == 1), "{refused}");
    assert_eq!(refused.kind(), ErrorKind::Invalid);

    // Cut off in the middle: nothing of it is stored, not even the spans before the cut.
    let whole = request((0..20).map(span).collect());
    let refused = fixture.ingester.push(&tenant("a"), whole.slice(..whole.len() - 3)).await.unwrap_err();
    assert!(matches!(refused, PushError::Undecodable(_)), "{refused}");
    assert_eq!(fixture.found("a").await, each_once([]));

    let nothing = fixture.ingester.push(&tenant("a"), Bytes::new()).await.unwrap();
    assert_eq!(nothing.accepted, 0);
    assert_eq!(fixture.ingester.stats().rejected_spans, 1);
}

#[tokio::test]
async fn long_values_are_cut_and_counted() {
    let fixture = Fixture::with(|config| IngesterConfig { attribute_value_bytes_max: 4, ..config }).await;
    let mut long = span(1);
    long.attributes = vec![crate::text("k", "longer than four")];
    let outcome = fixture.ingester.push(&tenant("a"), request(vec![long])).await.unwrap();
    assert_eq!((outcome.accepted, outcome.warnings.values_cut), (1, 1));
}

#[tokio::test]
async fn a_request_larger_than_a_run_is_taken_whole() {
    let fixture = Fixture::new().await;
    fixture.push("a", 0..40_000).await;
    let batches: Vec<usize> =
        fixture.ingester.live(&tenant("a")).iter().flat_map(|g| g.batches.iter().map(|b| b.rows())).collect();
    assert_eq!(batches.iter().sum::<usize>(), 40_000);
    assert!(batches.len() == 3 && batches.iter().all(|rows| *rows <= 16_384), "{batches:?}");
}

/// Readers that come after every push must not leave a run each behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frequent_readers_do_not_fragment_live_data() {
    let fixture = Fixture::new().await;
    let runs = || fixture.ingester.live(&tenant("a")).iter().map(|g| g.batches.len()).sum::<usize>();
    for i in 0..600 {
        fixture.push("a", [i]).await;
        runs();
    }
    // 600 = 1130 in base 8: one run of 512, one of 64, three of 8 and seven of 1 at most, once merging caught up.
    while runs() > 1 + 7 + 7 + 7 {
        tokio::task::yield_now().await;
    }
    assert_eq!(fixture.found("a").await, each_once(0..600));
}
