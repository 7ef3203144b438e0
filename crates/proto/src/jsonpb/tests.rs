use super::*;
use crate::{
    otlp::{
        common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value::Value},
        resource::v1::Resource,
        trace::v1::{self as trace, ResourceSpans, ScopeSpans, Status, span},
    },
    tempopb::{InstantSeries, Sample, SearchTagsV2Scope, ServiceStats, TagValue, TimeSeries, TraceByIdMetrics},
};

#[track_caller]
fn check(json: Vec<u8>, expected: &str) {
    assert_eq!(String::from_utf8(json).unwrap(), expected);
}

fn key_value(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }) }
}

fn text(key: &str, value: &str) -> KeyValue {
    key_value(key, Value::StringValue(value.into()))
}

fn traces_data() -> TracesData {
    let attributes = vec![
        text("s", ""),
        key_value("b", Value::BoolValue(false)),
        key_value("i", Value::IntValue(0)),
        key_value("d", Value::DoubleValue(0.0)),
        key_value("n", Value::DoubleValue(f64::NAN)),
        key_value("y", Value::BytesValue(vec![255])),
        key_value("a", Value::ArrayValue(ArrayValue { values: vec![AnyValue { value: Some(Value::IntValue(-1)) }] })),
        key_value("m", Value::KvlistValue(KeyValueList { values: vec![text("k", "v")] })),
        KeyValue { key: "none".into(), value: None },
    ];
    let span = trace::Span {
        trace_id: vec![0, 0, 0, 0, 0, 0, 0, 0, 0x1f, 0x1e, 0xa5, 0x2d, 0x41, 0, 0x39, 0x9b],
        span_id: vec![1, 2, 3, 4, 5, 6, 7, 8],
        name: "GET /\"x\"".into(),
        kind: 2,
        start_time_unix_nano: 1_700_000_000_000_000_000,
        end_time_unix_nano: 1_700_000_000_000_000_001,
        attributes,
        events: vec![span::Event { time_unix_nano: 5, name: "e".into(), ..Default::default() }],
        links: vec![span::Link { trace_id: vec![1; 16], span_id: vec![2; 8], ..Default::default() }],
        status: Some(Status { message: "bad".into(), code: 2 }),
        flags: 257,
        ..Default::default()
    };
    TracesData {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes: vec![text("service.name", "shop")], ..Default::default() }),
            scope_spans: vec![ScopeSpans {
                scope: Some(InstrumentationScope { name: "lib".into(), ..Default::default() }),
                spans: vec![span, trace::Span { status: Some(Status::default()), ..Default::default() }],
                ..Default::default()
            }],
            ..Default::default()
        }],
    }
}

const RESOURCE_SPANS: &str = concat!(
    r#"[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}}]},"#,
    r#""scopeSpans":[{"scope":{"name":"lib"},"spans":[{"traceId":"AAAAAAAAAAAfHqUtQQA5mw==","#,
    r#""spanId":"AQIDBAUGBwg=","flags":257,"name":"GET /\"x\"","kind":"SPAN_KIND_SERVER","#,
    r#""startTimeUnixNano":"1700000000000000000","endTimeUnixNano":"1700000000000000001","attributes":["#,
    r#"{"key":"s","value":{"stringValue":""}},{"key":"b","value":{"boolValue":false}},"#,
    r#"{"key":"i","value":{"intValue":"0"}},{"key":"d","value":{"doubleValue":0}},"#,
    r#"{"key":"n","value":{"doubleValue":"NaN"}},{"key":"y","value":{"bytesValue":"/w=="}},"#,
    r#"{"key":"a","value":{"arrayValue":{"values":[{"intValue":"-1"}]}}},"#,
    r#"{"key":"m","value":{"kvlistValue":{"values":[{"key":"k","value":{"stringValue":"v"}}]}}},{"key":"none"}],"#,
    r#""events":[{"timeUnixNano":"5","name":"e"}],"#,
    r#""links":[{"traceId":"AQEBAQEBAQEBAQEBAQEBAQ==","spanId":"AgICAgICAgI="}],"#,
    r#""status":{"message":"bad","code":"STATUS_CODE_ERROR"}},{"status":{}}]}]}]"#,
);

#[test]
fn a_trace() {
    check(trace_v1_json(&traces_data()), &format!(r#"{{"batches":{RESOURCE_SPANS}}}"#));
    let mut response = TraceByIdResponse {
        trace: Some(traces_data()),
        metrics: Some(TraceByIdMetrics { inspected_bytes: 123 }),
        ..Default::default()
    };
    let found = format!(r#"{{"trace":{{"resourceSpans":{RESOURCE_SPANS}}},"metrics":{{"inspectedBytes":"123"}}}}"#);
    check(trace_by_id_json(&response), &found);
    response.trace = None;
    response.metrics = Some(TraceByIdMetrics::default());
    response.status = PartialStatus::Partial as i32;
    response.message = "too large".into();
    check(trace_by_id_json(&response), r#"{"trace":{},"metrics":{},"status":"PARTIAL","message":"too large"}"#);
}

#[test]
fn a_search() {
    let empty = SearchResponse { metrics: Some(SearchMetrics::default()), ..Default::default() };
    check(search_json(&empty), r#"{"traces":[],"metrics":{}}"#);
    let span_set = SpanSet {
        spans: vec![Span {
            span_id: "0102030405060708".into(),
            start_time_unix_nano: 1,
            duration_nanos: 2,
            attributes: vec![text("http.method", "GET")],
            ..Default::default()
        }],
        matched: 7,
        attributes: vec![key_value("count()", Value::IntValue(7))],
    };
    let response = SearchResponse {
        traces: vec![TraceSearchMetadata {
            trace_id: "1f1ea52d4100399b".into(),
            root_service_name: "shop".into(),
            root_trace_name: "GET /".into(),
            start_time_unix_nano: 1,
            duration_ms: 12,
            span_set: Some(span_set.clone()),
            span_sets: vec![span_set],
            service_stats: [("shop".to_owned(), ServiceStats { span_count: 3, error_count: 0 })].into(),
        }],
        metrics: Some(SearchMetrics { inspected_traces: 1, inspected_bytes: 2, inspected_spans: 3, ..Default::default() }),
    };
    let set = concat!(
        r#"{"spans":[{"spanID":"0102030405060708","startTimeUnixNano":"1","durationNanos":"2","#,
        r#""attributes":[{"key":"http.method","value":{"stringValue":"GET"}}]}],"matched":7,"#,
        r#""attributes":[{"key":"count()","value":{"intValue":"7"}}]}"#
    );
    let head = r#"{"traces":[{"traceID":"1f1ea52d4100399b","rootServiceName":"shop","rootTraceName":"GET /","startTimeUnixNano":"1","durationMs":12,"#;
    let tail = r#""serviceStats":{"shop":{"spanCount":3}}}],"metrics":{"inspectedTraces":1,"inspectedBytes":"2","inspectedSpans":"3"}}"#;
    check(search_json(&response), &format!(r#"{head}"spanSet":{set},"spanSets":[{set}],{tail}"#));
}

#[test]
fn tags() {
    let metrics = Some(MetadataMetrics { inspected_bytes: 9, total_jobs: 1, total_block_bytes: 5, ..Default::default() });
    let printed = r#""metrics":{"inspectedBytes":"9","totalJobs":1,"totalBlockBytes":"5"}}"#;
    check(tags_json(&SearchTagsResponse::default()), r#"{"tagNames":[]}"#);
    check(
        tags_json(&SearchTagsResponse { tag_names: vec!["a".into(), "b".into()], metrics }),
        &format!(r#"{{"tagNames":["a","b"],{printed}"#),
    );
    let scopes = vec![SearchTagsV2Scope { name: "span".into(), tags: vec!["a".into()] }];
    check(
        tags_v2_json(&SearchTagsV2Response { scopes, metrics }),
        &format!(r#"{{"scopes":[{{"name":"span","tags":["a"]}}],{printed}"#),
    );
    check(
        tag_values_json(&SearchTagValuesResponse { tag_values: vec!["a".into()], metrics }),
        &format!(r#"{{"tagValues":["a"],{printed}"#),
    );
    let tag_values = vec![TagValue { r#type: "string".into(), value: "GET".into() }];
    check(
        tag_values_v2_json(&SearchTagValuesV2Response { tag_values, metrics }),
        &format!(r#"{{"tagValues":[{{"type":"string","value":"GET"}}],{printed}"#),
    );
    let empty = SearchTagValuesV2Response { metrics: Some(MetadataMetrics::default()), ..Default::default() };
    check(tag_values_v2_json(&empty), r#"{"tagValues":[],"metrics":{}}"#);
}

#[test]
fn metrics() {
    let labels = vec![text("resource.service.name", "a"), key_value("p", Value::DoubleValue(0.99))];
    let series = vec![TimeSeries {
        labels: labels.clone(),
        samples: vec![
            Sample { value: 0.5, timestamp_ms: 1_700_000_000_000 },
            Sample { value: 0.0, timestamp_ms: 1 },
            Sample { value: 3.0, timestamp_ms: 2 },
            Sample { value: 1e21, timestamp_ms: 3 },
            Sample { value: f64::INFINITY, timestamp_ms: 4 },
        ],
        exemplars: vec![Exemplar { labels: vec![text("trace:id", "ab")], value: 0.2, timestamp_ms: 7 }],
    }];
    let printed = r#"[{"key":"resource.service.name","value":{"stringValue":"a"}},{"key":"p","value":{"doubleValue":0.99}}]"#;
    let response = QueryRangeResponse { series, status: 1, message: "m".into(), ..Default::default() };
    check(
        query_range_json(&response),
        &[
            r#"{"series":[{"labels":"#,
            printed,
            r#","samples":[{"timestampMs":"1700000000000","value":0.5},{"timestampMs":"1"},"#,
            r#"{"timestampMs":"2","value":3},{"timestampMs":"3","value":1e+21},{"timestampMs":"4","value":"Infinity"}],"#,
            r#""exemplars":[{"labels":[{"key":"trace:id","value":{"stringValue":"ab"}}],"value":0.2,"timestampMs":"7"}]}],"#,
            r#""status":"PARTIAL","message":"m"}"#,
        ]
        .concat(),
    );
    let series = vec![InstantSeries { labels, value: 1.5 }];
    let response = QueryInstantResponse { series, metrics: Some(SearchMetrics::default()), ..Default::default() };
    check(
        query_instant_json(&response),
        &format!(r#"{{"series":[{{"labels":{printed},"value":1.5}}],"metrics":{{}}}}"#),
    );
    check(query_range_json(&QueryRangeResponse::default()), r#"{"series":[]}"#);
}
