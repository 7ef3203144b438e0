//! Requests through a real ingester.

use std::{num::NonZeroU64, time::Duration};

use bytes::Bytes;
use distributor::{Config, Distributor, PushError, Rate, Rates, TenantCounts, Warning};
use ingester::{Ingester, IngesterConfig};
use model::{ErrorKind, TenantId};
use prost::Message;
use proto::otlp::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use storage::{Storage, StorageConfig};
use tempfile::TempDir;

struct Setup {
    distributor: Distributor,
    ingester: Ingester,
    _dir: TempDir,
}

async fn setup(rate: u64, burst: u64) -> Setup {
    let dir = tempfile::tempdir().unwrap();
    let mut storage = StorageConfig::default();
    storage.local.path = dir.path().join("blocks");
    let config = IngesterConfig { wal_dir: dir.path().join("wal"), ..IngesterConfig::default() };
    let ingester = Ingester::open(config, Storage::open(&storage).await.unwrap()).await.unwrap();
    let config = Config {
        rates: Rates::all(Rate {
            limit_bytes: NonZeroU64::new(rate).unwrap(),
            burst_bytes: NonZeroU64::new(burst).unwrap(),
        }),
        retry_after: Duration::from_secs(5),
        tenants_max: 10,
    };
    Setup { distributor: Distributor::new(config, ingester.clone()), ingester, _dir: dir }
}

fn span(number: u8) -> Span {
    Span { trace_id: vec![number; 16], span_id: vec![number; 8], name: "work".into(), ..Span::default() }
}

fn request(spans: Vec<Span>) -> Bytes {
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec().into()
}

fn tenant() -> TenantId {
    TenantId::single()
}

impl Setup {
    fn counts(&self) -> TenantCounts {
        let counts = self.distributor.counts().remove(0);
        let discarded: u64 = counts.spans_discarded.iter().map(|(_, spans)| spans).sum();
        assert_eq!(self.ingester.stats().accepted_spans + discarded, counts.spans_received, "every span has one fate");
        counts
    }
}

const PLENTY: u64 = 100 << 20;

#[tokio::test]
async fn good_spans_are_kept_and_bad_ones_told() {
    let setup = setup(PLENTY, PLENTY).await;
    let long = KeyValue {
        key: "k".into(),
        value: Some(AnyValue { value: Some(Value::StringValue("x".repeat(5000))) }),
    };
    let bad_trace = Span { trace_id: vec![1; 8], ..span(1) };
    let bad_span = Span { span_id: vec![0; 8], ..span(1) };
    let spans = vec![span(1), bad_trace.clone(), bad_span, bad_trace, Span { attributes: vec![long], ..span(2) }];
    let outcome = setup.distributor.push(&tenant(), request(spans)).await.unwrap();
    assert_eq!((outcome.accepted, outcome.rejected_spans()), (2, 3));
    assert_eq!(outcome.warnings, [Warning::AttributesTruncated(1)]);
    assert_eq!(
        outcome.message().unwrap(),
        "spans rejected: 1 invalid_span_id (the span id is not 8 bytes, or all zero), \
         2 invalid_trace_id (the trace id is not 16 bytes, or all zero); \
         1 attribute keys or values cut to the size limit"
    );
    let counts = setup.counts();
    assert_eq!((counts.spans_received, counts.attributes_truncated), (5, 1));
    assert_eq!(counts.spans_discarded, [("invalid_span_id", 1), ("invalid_trace_id", 2)]);
}

#[tokio::test]
async fn a_request_without_spans_succeeds() {
    let setup = setup(PLENTY, PLENTY).await;
    for request in [Bytes::new(), request(vec![])] {
        let outcome = setup.distributor.push(&tenant(), request).await.unwrap();
        assert_eq!((outcome.accepted, outcome.message()), (0, None));
    }
}

#[tokio::test]
async fn what_is_wholly_wrong_is_refused_for_good() {
    let setup = setup(PLENTY, PLENTY).await;
    let push = async |request| -> PushError { setup.distributor.push(&tenant(), request).await.unwrap_err() };
    let error = push(request(vec![Span { trace_id: vec![], ..span(1) }])).await;
    assert_eq!((error.kind, error.retry_after), (ErrorKind::Invalid, None));
    assert!(error.message.contains("invalid_trace_id"), "{error}");
    let error = push(Bytes::from_static(b"\x0a\x05\x00")).await;
    assert_eq!((error.kind, error.retry_after), (ErrorKind::Invalid, None));
    assert!(error.message.contains("ends in the middle"), "{error}");
    assert_eq!(setup.counts().spans_discarded, [("invalid_trace_id", 1)]);
}

#[tokio::test]
async fn rate_and_burst_are_told_apart() {
    let one = request(vec![span(1)]);
    let size = one.len() as u64;
    // One byte a second: what is used up stays used up for this test.
    let setup = setup(1, 64 * size).await;
    let error = setup.distributor.push(&tenant(), request((0..100).map(|_| span(1)).collect())).await.unwrap_err();
    assert_eq!((error.kind, error.retry_after), (ErrorKind::TooLarge, None));
    assert!(error.message.contains(&format!("at most {} bytes", 64 * size)), "{error}");

    let most = request((1..50).map(span).collect());
    setup.distributor.push(&tenant(), most.clone()).await.unwrap();
    let error = setup.distributor.push(&tenant(), most.clone()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::RateLimited);
    assert!(error.retry_after.unwrap() >= Duration::from_secs(5));
    let other = TenantId::parse("other").unwrap();
    setup.distributor.push(&other, most).await.unwrap();
    let counts = setup.distributor.counts();
    let mine = counts.iter().find(|counts| counts.tenant == tenant().as_str()).unwrap();
    assert_eq!((mine.requests, mine.spans_received), (3, 100 + 49 + 49));
    assert_eq!(mine.spans_discarded, [("rate_limited", 49), ("request_too_large", 100)]);
}

#[tokio::test]
async fn an_ingester_that_shuts_down_is_a_reason_to_come_again() {
    let setup = setup(PLENTY, PLENTY).await;
    setup.ingester.shutdown().await.unwrap();
    let error = setup.distributor.push(&tenant(), request(vec![span(1)])).await.unwrap_err();
    assert_eq!((error.kind, error.retry_after), (ErrorKind::Unavailable, Some(Duration::from_secs(5))));
    assert_eq!(setup.counts().spans_discarded, [("unavailable", 1)]);
}
