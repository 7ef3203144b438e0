//! Spans that no good client sends, one by one and in crowds.

use prost::Message;
use proto::otlp::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::{Event, Link}},
};
use tempfile::TempDir;

use super::{PROTOBUF, Told, WAYS, Way, request, send, told};
use crate::{
    server::{Server, Settings},
    spans::{TimeRange, attribute, span_id, trace_id, trace_spans},
};

/// An attribute whose value is so many arrays, one in the other.
fn nested(depth: usize) -> KeyValue {
    let innermost = AnyValue { value: Some(Value::IntValue(1)) };
    let array = |value| AnyValue { value: Some(Value::ArrayValue(ArrayValue { values: vec![value] })) };
    KeyValue { key: "deep".into(), value: Some((0..depth).fold(innermost, |value, _| array(value))), ..KeyValue::default() }
}

/// B11, B15, B16, B19 to B22: one span of each kind between two good ones: what becomes of it, and whether the request says
/// so.
#[tokio::test]
async fn a_bad_span_costs_itself() {
    type Change = fn(&mut Span);
    let cases: [(&str, bool, Change); 15] = [
        ("no trace id", false, |span| span.trace_id.clear()),
        ("a trace id of zeros", false, |span| span.trace_id.fill(0)),
        ("a short trace id", false, |span| span.trace_id.truncate(8)),
        ("a long trace id", false, |span| span.trace_id.push(1)),
        ("no span id", false, |span| span.span_id.clear()),
        ("a span id of zeros", false, |span| span.span_id.fill(0)),
        ("a long span id", false, |span| span.span_id.extend([1; 8])),
        ("its own parent", true, |span| span.parent_span_id.clone_from(&span.span_id)),
        ("no times", true, |span| (span.start_time_unix_nano, span.end_time_unix_nano) = (0, 0)),
        ("the last time there is", true, |span| (span.start_time_unix_nano, span.end_time_unix_nano) = (u64::MAX, u64::MAX)),
        ("an end before its start", true, |span| span.end_time_unix_nano = 1),
        ("a kind and a status of the future", true, |span| {
            span.kind = 99;
            span.status = Some(proto::otlp::trace::v1::Status { code: 42, message: "\u{1b}[31m\0".into() });
        }),
        ("no name, and keys that are empty or come twice", true, |span| {
            span.name.clear();
            let again = span.attributes[0].clone();
            span.attributes.extend([KeyValue::default(), again]);
        }),
        ("numbers that are none", true, |span| {
            for value in [f64::NAN, f64::INFINITY, -0.0] {
                span.attributes.push(KeyValue {
                    key: "number".into(),
                    value: Some(AnyValue { value: Some(Value::DoubleValue(value)) }),
                    ..KeyValue::default()
                });
            }
        }),
        ("a value that is too deep", false, |span| span.attributes.push(nested(70))),
    ];
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let settings = Settings::new(folder.path());
    let server = Server::start(&settings).await;
    let mut kept = vec![];
    for (run, way) in (100..).zip(WAYS) {
        for (number, (what, valid, change)) in (0..).zip(&cases) {
            let mut spans = trace_spans(run, number, 0..3, range);
            change(&mut spans[1]);
            let answer = send(&server.client, way, &request(spans)).await;
            assert_eq!(answer, Told::Taken { rejected: i64::from(!valid) }, "{what}, {way:?}");
            kept.push((run, number, if *valid { 3 } else { 2 }, format!("{what}, {way:?}")));
            if !valid {
                let mut alone = trace_spans(run, number, 1..2, range);
                change(&mut alone[0]);
                assert_eq!(send(&server.client, way, &request(alone)).await, Told::Invalid, "{what}, alone, {way:?}");
            }
        }
    }
    for state in ["live", "flushed"] {
        for (run, number, spans, what) in &kept {
            assert_eq!(server.client.span_ids(&trace_id(*run, *number)).await.len(), *spans, "{what}, {state}");
        }
        server.client.flush().await;
    }
    assert!(server.stop().await.success());
}

/// B11: as deep as an SDK may send them, and deeper than most clients can read them.
#[tokio::test]
async fn deep_values_are_kept() {
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let server = Server::start(&Settings::new(folder.path())).await;
    for (run, way) in (1..).zip(WAYS) {
        let mut spans = trace_spans(run, 1, 0..3, range);
        spans[1].attributes.push(nested(60));
        assert_eq!(send(&server.client, way, &request(spans)).await, Told::Taken { rejected: 0 }, "{way:?}");
    }
    assert_eq!(server.client.count("{ }", range).await, 9);
    server.client.flush().await;
    assert_eq!(server.client.count("{ }", range).await, 9);
}

/// B14: names that are not UTF-8 do arrive; protobuf of most languages lets them pass.
#[tokio::test]
async fn text_that_is_none_is_replaced() {
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let server = Server::start(&Settings::new(folder.path())).await;
    for (run, way) in [(1, Way::Protobuf), (2, Way::Grpc)] {
        let mut spans = trace_spans(run, 1, 0..2, range);
        spans[1].name = "MARKED".into();
        let mut body = request(spans).encode_to_vec();
        let at = body.windows(6).position(|bytes| bytes == b"MARKED").unwrap();
        body[at + 1] = 0xff;
        let answer = match way {
            Way::Grpc => server.client.call("", &body).await,
            _ => server.client.post(PROTOBUF, "", body).await,
        };
        assert_eq!(told(way, &answer), Told::Taken { rejected: 0 });
        let names: Vec<String> = server.client.trace(&trace_id(run, 1)).await.into_iter().map(|span| span.name).collect();
        assert!(names.contains(&"M\u{fffd}RKED".to_owned()), "{names:?}");
    }
}

fn with_value(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }) }
}

/// The message of an answer that took every span and says that it cut something.
fn warning(answer: &crate::client::Answer) -> String {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let partial = ExportTraceServiceResponse::decode(&answer.body[..]).unwrap().partial_success.expect("something was cut");
    assert_eq!(partial.rejected_spans, 0, "{}", partial.error_message);
    assert!(!partial.error_message.is_empty());
    partial.error_message
}

/// B12, B13.
#[tokio::test]
async fn what_is_too_much_of_a_span_is_cut_and_said() {
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let server = Server::start(&Settings::new(folder.path())).await;
    let text = |key: &str, bytes: usize| attribute(key, "v".repeat(bytes));
    type Change = Box<dyn Fn(&mut Span)>;
    let cases: [(&str, Change); 5] = [
        ("a million attributes", Box::new(|span| span.attributes = vec![with_value("k", Value::IntValue(1)); 1_000_000])),
        ("a value of 32 MB", Box::new(move |span| span.attributes = vec![text("k", 32 << 20)])),
        ("a key of 1 MB", Box::new(|span| span.attributes = vec![attribute(&"k".repeat(1 << 20), "v".into())])),
        ("100,000 events", Box::new(|span| span.events = vec![Event { name: "e".into(), ..Event::default() }; 100_000])),
        ("100,000 links", Box::new(|span| span.links = vec![Link { trace_id: vec![1; 16], span_id: vec![2; 8], ..Link::default() }; 100_000])),
    ];
    for (number, (what, change)) in (1..).zip(&cases) {
        let mut spans = trace_spans(12, number, 0..3, range);
        change(&mut spans[1]);
        let answer = server.client.post(PROTOBUF, "", request(spans).encode_to_vec()).await;
        let warning = warning(&answer);
        let stored = server.client.trace(&trace_id(12, number)).await;
        let bytes: usize = stored.iter().map(Message::encoded_len).sum();
        assert!(stored.len() == 3 && bytes < 1 << 20, "{what}: {} spans, {bytes} bytes; {warning}", stored.len());
    }
    // What has no limit is kept.
    let elements: Vec<AnyValue> = (0..10_000).map(|n| AnyValue { value: Some(Value::IntValue(n)) }).collect();
    let array = with_value("list", Value::ArrayValue(ArrayValue { values: elements }));
    let mut spans = trace_spans(12, 100, 0..1, range);
    spans[0].attributes = vec![array.clone()];
    assert_eq!(send(&server.client, Way::Protobuf, &request(spans)).await, Told::Taken { rejected: 0 });
    assert_eq!(server.client.trace(&trace_id(12, 100)).await[0].attributes, [array]);
    let resources = trace_spans(12, 101, 0..10_000, range).into_iter().zip(0..).map(|(span, number): (Span, u64)| ResourceSpans {
        resource: Some(Resource { attributes: vec![attribute("host", number.to_string())], ..Resource::default() }),
        scope_spans: vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }],
        ..ResourceSpans::default()
    });
    let resources = ExportTraceServiceRequest { resource_spans: resources.collect() };
    assert_eq!(send(&server.client, Way::Grpc, &resources).await, Told::Taken { rejected: 0 });
    assert_eq!(server.client.span_ids(&trace_id(12, 101)).await.len(), 10_000);
    server.client.flush().await;
    assert_eq!(server.client.span_ids(&trace_id(12, 101)).await.len(), 10_000);
}

/// B17: the same span again is a re-delivery; another under its id is another.
#[tokio::test]
async fn an_id_twice_is_one_span_or_two() {
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let server = Server::start(&Settings::new(folder.path())).await;
    let span = trace_spans(17, 1, 1..2, range).remove(0);
    let server_side = Span { kind: 2, name: "server".into(), ..span.clone() };
    let later = Span { start_time_unix_nano: span.start_time_unix_nano + 1, name: "later".into(), ..span.clone() };
    let sent = vec![span.clone(), span.clone(), server_side, later];
    for _ in 0..2 {
        assert_eq!(send(&server.client, Way::Protobuf, &request(sent.clone())).await, Told::Taken { rejected: 0 });
    }
    for state in ["live", "flushed"] {
        let mut names: Vec<String> = server.client.trace(&trace_id(17, 1)).await.into_iter().map(|span| span.name).collect();
        names.sort();
        assert_eq!(names, ["later", "server", span.name.as_str()], "{state}");
        assert_eq!(server.client.count("{ }", range).await, 3, "{state}");
        server.client.flush().await;
    }
}

/// B18.
#[tokio::test]
async fn traces_that_are_no_trees_are_answered() {
    const MANY: u64 = 20_000;
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let server = Server::start(&Settings::new(folder.path())).await;
    type Parent = fn(u64) -> Option<u64>;
    let shapes: [(&str, u64, Parent); 5] = [
        ("a cycle", 4, |index| Some((index + 1) % 4)),
        ("a chain", MANY, |index| index.checked_sub(1)),
        ("a crowd", MANY, |index| (index > 0).then_some(0)),
        ("no root", 3, |_| Some(999)),
        ("a chain into a cycle", MANY, |index| Some((index + 1).min(MANY - 2))),
    ];
    for (number, (what, count, parent)) in (1..).zip(shapes) {
        let mut spans = trace_spans(18, number, 0..count, range);
        for (index, span) in (0..).zip(&mut spans) {
            span.parent_span_id = parent(index).map(|parent| span_id(number, parent)).unwrap_or_default();
        }
        assert_eq!(send(&server.client, Way::Grpc, &request(spans)).await, Told::Taken { rejected: 0 }, "{what}");
    }
    for state in ["live", "flushed"] {
        for (number, (what, count, _)) in (1..).zip(shapes) {
            assert_eq!(server.client.span_ids(&trace_id(18, number)).await.len() as u64, count, "{what}, {state}");
        }
        for query in ["{ } >> { name = \"step 1\" }", "{ } << { }", "{ name = \"step 2\" } ~ { }", "{ } &>> { } | count() > 3", "{ span:childCount > 10 }", "{ nestedSetLeft > 30000 }"] {
            let (status, body) = server.client.get("/api/search", &[("q", query.into()), ("limit", "10".into())]).await;
            assert_eq!(status, 200, "{query}, {state}: {body}");
        }
        server.client.flush().await;
    }
}

/// B19 to B22.
#[tokio::test]
async fn what_is_odd_comes_back_as_it_came() {
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let server = Server::start(&Settings::new(folder.path()).with("distributor.max_attribute_bytes", 0)).await;
    let mut spans = trace_spans(19, 1, 0..8, range);
    for span in &mut spans {
        span.attributes.clear();
        span.status = Some(Status::default());
    }
    const YEAR: u64 = 365 * 86_400 * 1_000_000_000;
    (spans[0].start_time_unix_nano, spans[0].end_time_unix_nano) = (1, 2);
    (spans[1].start_time_unix_nano, spans[1].end_time_unix_nano) = (300 * YEAR, 500 * YEAR);
    spans[2].end_time_unix_nano = spans[2].start_time_unix_nano + 300 * YEAR;
    for (key, bits) in [("nan", f64::NAN.to_bits()), ("infinite", f64::INFINITY.to_bits()), ("less than zero", (-0.0f64).to_bits()), ("smallest", 1)] {
        spans[3].attributes.push(with_value(key, Value::DoubleValue(f64::from_bits(bits))));
    }
    spans[4].attributes = vec![with_value("least", Value::IntValue(i64::MIN)), with_value("most", Value::IntValue(i64::MAX))];
    spans[5].trace_state = "k=v,".repeat(16 << 10);
    spans[5].name = "n".repeat(1 << 20);
    spans[6].flags = 0xdead_beef;
    (spans[6].dropped_attributes_count, spans[6].dropped_events_count, spans[6].dropped_links_count) = (u32::MAX, u32::MAX, 1);
    spans[7].name = "\u{202e}right to left\r\n\u{1b}]0;title\u{7}".into();
    let scope_spans = |spans| vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let resource = |value: Option<Value>| Resource {
        attributes: value.map(|value| with_value("service.name", value)).into_iter().collect(),
        ..Resource::default()
    };
    let array = ArrayValue { values: vec![AnyValue { value: Some(Value::BoolValue(true)) }] };
    let resources = [None, Some(Value::IntValue(7)), Some(Value::ArrayValue(array)), Some(Value::StringValue(String::new()))];
    let mut resource_spans = vec![ResourceSpans { scope_spans: scope_spans(spans[..5].to_vec()), ..ResourceSpans::default() }];
    for (value, span) in resources.into_iter().zip(&spans[4..]) {
        resource_spans.push(ResourceSpans { resource: Some(resource(value)), scope_spans: scope_spans(vec![span.clone()]), ..ResourceSpans::default() });
    }
    let sent = ExportTraceServiceRequest { resource_spans };
    assert_eq!(send(&server.client, Way::Protobuf, &sent).await, Told::Taken { rejected: 0 });
    spans.sort_by(|a, b| a.span_id.cmp(&b.span_id));
    let hex: String = trace_id(19, 1).iter().map(|byte| format!("{byte:02x}")).collect();
    for state in ["live", "flushed"] {
        let mut stored = server.client.trace(&trace_id(19, 1)).await;
        stored.sort_by(|a, b| a.span_id.cmp(&b.span_id));
        for (stored, sent) in stored.iter().zip(&spans) {
            let (mut stored, mut sent) = (stored.clone(), sent.clone());
            for span in [&mut stored, &mut sent] {
                span.attributes.sort_by(|a, b| a.key.cmp(&b.key));
            }
            // Not-a-number is not equal to itself, but its bytes are.
            assert_eq!(stored.encode_to_vec(), sent.encode_to_vec(), "{state}: {stored:?}");
        }
        assert_eq!(stored.len(), spans.len(), "{state}");
        for path in [format!("/api/traces/{hex}"), format!("/api/v2/traces/{hex}"), format!("/jaeger/api/traces/{hex}"), format!("/zipkin/api/v2/trace/{hex}"), "/api/search".into()] {
            let (status, body) = server.client.get(&path, &[]).await;
            assert!(status == 200 && !body.is_string(), "{path} is no JSON, {state}: {status} {body}");
        }
        server.client.flush().await;
    }
    for line in server.log().lines() {
        assert!(line.chars().all(|character| !character.is_control()), "{line:?}");
    }
}

/// B23: what was taken is there, and can be read.
#[tokio::test]
async fn a_trace_of_very_many_spans_is_whole() {
    const AT_ONCE: u64 = 30_000;
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let server = Server::start(&Settings::new(folder.path())).await;
    for part in 0..2 {
        let spans = trace_spans(23, 1, part * AT_ONCE..(part + 1) * AT_ONCE, range);
        assert_eq!(send(&server.client, Way::Grpc, &request(spans)).await, Told::Taken { rejected: 0 });
        server.client.flush().await;
    }
    let live = trace_spans(23, 1, 2 * AT_ONCE..2 * AT_ONCE + 1000, range);
    for span in live {
        assert_eq!(send(&server.client, Way::Protobuf, &request(vec![span])).await, Told::Taken { rejected: 0 });
    }
    assert_eq!(server.client.span_ids(&trace_id(23, 1)).await.len() as u64, 2 * AT_ONCE + 1000);
    assert_eq!(server.client.count("{ }", range).await, 2 * AT_ONCE + 1000);
}

/// B24.
#[tokio::test]
async fn tenants_are_not_in_the_data() {
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let server = Server::start(&Settings::new(folder.path()).with("multitenancy_enabled", true)).await;
    let resources = trace_spans(24, 1, 0..2_000, range).into_iter().zip(0..).map(|(span, number): (Span, u64)| {
        let names = ["X-Scope-OrgID", "tenant", "tenant.id", "__tenant_id__"];
        let attributes = names.iter().map(|name| attribute(name, format!("t{number}"))).collect();
        ResourceSpans {
            resource: Some(Resource { attributes, ..Resource::default() }),
            scope_spans: vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        }
    });
    let sent = ExportTraceServiceRequest { resource_spans: resources.collect() };
    let own = server.client.of("own");
    for way in WAYS {
        assert_eq!(send(&own, way, &sent).await, Told::Taken { rejected: 0 });
    }
    assert_eq!(own.count("{ }", range).await, 2_000);
    assert_eq!(server.client.of("t1").count("{ }", range).await, 0);
    own.flush().await;
    let blocks = folder.path().join("data/blocks");
    let tenants: Vec<String> = std::fs::read_dir(blocks).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(tenants.iter().all(|name| name == "own" || name.starts_with('_')), "{tenants:?}");
}
