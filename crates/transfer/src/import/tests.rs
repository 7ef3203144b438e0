//! What readers make of files, without an endpoint.

use std::{
    collections::BTreeSet,
    io::{Cursor, Write},
};

use proptest::prelude::*;
use prost::Message;
use proto::{
    otlp::{
        collector::trace::v1::ExportTraceServiceRequest,
        common::v1::{AnyValue, KeyValue, any_value::Value},
        resource::v1::Resource,
        trace::v1::{ResourceSpans, ScopeSpans, Span},
    },
    otlp_json,
};

use super::{
    intake::{Found, Intake},
    *,
};

fn spans(count: usize, name_bytes: usize) -> ExportTraceServiceRequest {
    let spans = (0..count as u64).map(|at| Span {
        trace_id: vec![9; 16],
        span_id: (at + 1).to_be_bytes().to_vec(),
        name: "n".repeat(name_bytes),
        start_time_unix_nano: 1_700_000_000_000_000_000 + at,
        end_time_unix_nano: 1_700_000_000_000_000_500 + at,
        ..Span::default()
    });
    let value = Some(AnyValue { value: Some(Value::StringValue("shop".into())) });
    let name = KeyValue { key: "service.name".into(), value, ..KeyValue::default() };
    let resource = Some(Resource { attributes: vec![name], ..Resource::default() });
    let scope_spans = vec![ScopeSpans { spans: spans.collect(), ..ScopeSpans::default() }];
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }],
    }
}

pub(crate) fn request_of(count: usize, name_bytes: usize) -> Vec<u8> {
    spans(count, name_bytes).encode_to_vec()
}

/// What is in a file: resources, bad records with their places, the number of records, and why the rest is unreadable.
#[derive(Debug, Default)]
struct Contents {
    resources: Vec<ResourceSpans>,
    bad: Vec<String>,
    records: u64,
    unreadable: Option<String>,
}

impl Contents {
    fn span_names(&self) -> Vec<&str> {
        let scopes = self.resources.iter().flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| &scope.spans).map(|span| span.name.as_str()).collect()
    }
}

fn contents_after(skip: u64, file: &[u8]) -> Contents {
    let mut contents = Contents::default();
    let mut out = |found| {
        match found {
            Found::Batch { batch, .. } => {
                let request = ExportTraceServiceRequest::decode(batch.request.as_slice()).unwrap();
                contents.resources.extend(request.resource_spans);
            }
            Found::Bad { at, reason } => contents.bad.push(format!("{at}: {reason}")),
        }
        Ok(())
    };
    let mut intake = Intake::new(skip, &mut out);
    let bytes = open::decompress(Box::new(Cursor::new(file.to_vec()))).unwrap();
    let unreadable = match read_bytes(bytes, 5_000, &mut intake) {
        Ok(()) => None,
        Err(Ended::Unreadable(reason)) => Some(reason),
        Err(Ended::Stopped) => panic!("nobody stopped it"),
    };
    let records = intake.finish().unwrap();
    Contents { records, unreadable, ..contents }
}

fn contents(file: &[u8]) -> Contents {
    contents_after(0, file)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ::zstd::encode_all(bytes, 1).unwrap()
}

fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
    messages.iter().flat_map(|message| [&(message.len() as u32).to_be_bytes()[..], message].concat()).collect()
}

fn delimited(messages: &[Vec<u8>]) -> Vec<u8> {
    let mut out = vec![];
    for message in messages {
        protobuf::put_varint(&mut out, message.len() as u64);
        out.extend_from_slice(message);
    }
    out
}

fn lines(requests: &[ExportTraceServiceRequest]) -> Vec<u8> {
    requests.iter().flat_map(|request| [otlp_json::encode(request), b"\n".to_vec()].concat()).collect()
}

fn requests() -> Vec<ExportTraceServiceRequest> {
    vec![spans(1, 1), spans(5, 130), spans(2, 40_000), spans(1, 0)]
}

#[test]
fn every_form_of_otlp_says_the_same() {
    let requests = requests();
    let expected: Vec<ResourceSpans> = requests.iter().flat_map(|request| request.resource_spans.clone()).collect();
    let messages: Vec<Vec<u8>> = requests.iter().map(Message::encode_to_vec).collect();
    let one = ExportTraceServiceRequest { resource_spans: expected.clone() };
    let document = otlp_json::encode(&one);
    let pretty = serde_json::to_vec_pretty(&serde_json::from_slice::<serde_json::Value>(&document).unwrap()).unwrap();
    let json_frames: Vec<Vec<u8>> = requests.iter().map(otlp_json::encode).collect();
    let files = [
        ("frames", framed(&messages)),
        ("frames, each compressed", framed(&messages.iter().map(|message| zstd(message)).collect::<Vec<_>>())),
        ("JSON in compressed frames", framed(&json_frames.iter().map(|message| zstd(message)).collect::<Vec<_>>())),
        ("JSON in frames", framed(&json_frames)),
        ("varints", delimited(&messages)),
        ("one message", one.encode_to_vec()),
        ("lines", lines(&requests)),
        ("with line breaks", pretty),
        ("a list", [b"[".to_vec(), json_frames.join(&b","[..]), b"]".to_vec()].concat()),
    ];
    for (form, file) in files {
        for (compression, file) in [("plain", file.clone()), ("gzip", gzip(&file)), ("zstd", zstd(&file))] {
            let found = contents(&file);
            assert_eq!((found.unreadable, found.bad), (None, vec![]), "{form}, {compression}");
            assert_eq!(found.resources, expected, "{form}, {compression}");
            assert_eq!(found.records, 4, "{form}, {compression}");
            // Where an earlier run ended, this one begins.
            let rest = contents_after(3, &file);
            assert_eq!((rest.resources.as_slice(), rest.records), (&expected[3..], 4), "{form}, {compression}");
        }
    }
    // Without a line break it is a line.
    let found = contents(&document);
    assert_eq!((found.resources, found.records, found.bad, found.unreadable), (expected, 1, vec![], None));
}

#[test]
fn a_broken_line_costs_itself() {
    let mut file = lines(&requests()[..1]);
    file.extend_from_slice(b"{\"resourceSpans\":[{\"scopeSpans\":[{\"spa\n\n");
    file.extend_from_slice(b"{\"resourceMetrics\":[]}\n");
    file.extend(lines(&requests()[1..2]));
    let found = contents(&file);
    assert_eq!(found.span_names().len(), 6);
    assert_eq!(found.unreadable, None);
    let [cut, metrics] = &found.bad[..] else { panic!("{:?}", found.bad) };
    assert!(cut.starts_with("line 2: ") && metrics.starts_with("line 4: "), "{:?}", found.bad);
    // Also the first one, and the last without its end.
    let found = contents(b"{\"resourceSpans\":[{\"scopeSpans\":[\n{\"resourceSpans\":[]}\n{\"resourceSpans\":[");
    assert_eq!((found.bad.len(), found.records), (2, 3), "{found:?}");
}

#[test]
fn a_broken_frame_costs_itself_and_a_broken_length_the_rest() {
    let good = request_of(1, 3);
    let found = contents(&framed(&[good.clone(), vec![0x0a, 0x7f, 1], good.clone()]));
    assert_eq!((found.span_names(), found.unreadable.as_deref()), (vec!["nnn", "nnn"], None));
    assert!(found.bad.len() == 1 && found.bad[0].starts_with(&format!("byte {}: ", good.len() + 4)), "{:?}", found.bad);
    let mut cut = framed(&[good.clone(), good.clone()]);
    cut.truncate(cut.len() - 1);
    let found = contents(&cut);
    assert_eq!(found.span_names(), ["nnn"]);
    assert!(found.unreadable.unwrap().contains("ends inside"));
    let found = contents(&[framed(&[good]), vec![0xff; 9]].concat());
    assert_eq!(found.span_names(), ["nnn"]);
    assert!(found.unreadable.unwrap().contains("no length"));
}

const JAEGER_TRACE: &str = r#"{"traceID":"0af7651916cd43dd8448eb211c80319c","spans":[{"traceID":"0af7651916cd43dd8448eb211c80319c",
  "spanID":"b7ad6b7169203331","operationName":"GET /","references":[],"startTime":1700000000000000,"duration":1500,
  "tags":[{"key":"http.status_code","type":"int64","value":200},{"key":"span.kind","type":"string","value":"server"}],
  "logs":[{"timestamp":1700000000000100,"fields":[{"key":"event","type":"string","value":"hit [\"{"}]}],
  "processID":"p1","warnings":null}],"processes":{"p1":{"serviceName":"shop","tags":[]}},"warnings":null}"#;

#[test]
fn jaegers_answers_are_read_trace_by_trace() {
    let bare = contents(JAEGER_TRACE.as_bytes());
    assert_eq!((bare.records, &bare.bad, &bare.unreadable), (1, &vec![], &None));
    let span = &bare.resources[0].scope_spans[0].spans[0];
    assert_eq!((span.name.as_str(), span.kind), ("GET /", 2));
    assert_eq!(
        (span.start_time_unix_nano, span.end_time_unix_nano),
        (1_700_000_000_000_000_000, 1_700_000_000_001_500_000)
    );
    assert_eq!(span.events[0].name, "hit [\"{");
    assert_eq!(span.attributes[0].value.as_ref().unwrap().value, Some(Value::IntValue(200)));
    let answers = [
        format!("{{\"data\":[{JAEGER_TRACE},{JAEGER_TRACE}],\"total\":0,\"limit\":0,\"offset\":0,\"errors\":null}}"),
        format!("{{\"total\":0,\"errors\":[\"]}}\"],\"data\":[{JAEGER_TRACE},{JAEGER_TRACE}]}}"),
        format!("[{JAEGER_TRACE},{JAEGER_TRACE}]"),
        format!("{JAEGER_TRACE}\n{JAEGER_TRACE}\n"),
    ];
    for answer in answers {
        let found = contents(answer.as_bytes());
        assert_eq!((found.records, found.bad, found.unreadable), (2, vec![], None), "{answer}");
        assert_eq!(found.resources, [bare.resources.clone(), bare.resources.clone()].concat());
        assert_eq!(contents_after(1, answer.as_bytes()).resources, bare.resources);
    }
    let found = contents(format!("{{\"data\":[{{\"spans\":[{{\"traceID\":7}}]}},{JAEGER_TRACE}, 3]}}").as_bytes());
    assert_eq!((found.records, found.bad.len(), found.resources), (3, 2, bare.resources.clone()), "{:?}", found.bad);
    let found = contents(format!("{{\"data\":[{JAEGER_TRACE},{{\"spans\":[").as_bytes());
    assert_eq!(found.resources, bare.resources);
    assert!(found.unreadable.unwrap().contains("ends inside"));
}

#[test]
fn zipkins_lists_are_read() {
    let span = |id: u32| {
        format!(
            r#"{{"traceId":"463ac35c9f6413ad","id":"{id:016x}","name":"get","kind":"CLIENT","timestamp":1700000000000000,"duration":207,"localEndpoint":{{"serviceName":"shop"}},"tags":{{"a":"b]"}}}}"#
        )
    };
    let (a, b, c) = (span(1), span(2), span(3));
    for file in [format!("[{a},{b},{c}]"), format!("[[{a},{b}],\n[{c}]]"), format!("[{a}]\n[{b},{c}]")] {
        let found = contents(file.as_bytes());
        assert_eq!((found.bad.as_slice(), found.unreadable), (&[][..], None), "{file}");
        let scopes = found.resources.iter().flat_map(|resource| &resource.scope_spans);
        let ids: BTreeSet<u8> = scopes.flat_map(|scope| &scope.spans).map(|span| span.span_id[7]).collect();
        assert_eq!(ids, BTreeSet::from([1, 2, 3]), "{file}");
    }
    // Without any time it gets that of the file, the same in every run.
    let found = contents(br#"[{"traceId":"463ac35c9f6413ad","id":"1"},{"traceId":"2"},[]]"#);
    assert_eq!(found.resources[0].scope_spans[0].spans[0].start_time_unix_nano, 5_000);
    assert_eq!((found.records, found.bad.len()), (3, 1), "{:?}", found.bad);
    assert_eq!((contents(b"[]").records, contents(b"[[]]").records, contents(b"").records), (0, 1, 0));
}

#[test]
fn what_is_none_of_them_says_so() {
    for file in [&b"PK\x03\x04 a zip"[..], b"hello", b"\x00\x00\x00\x00\x00", b"PAR1"] {
        let found = contents(file);
        assert!(found.unreadable.is_some_and(|reason| reason.contains("Zipkin")), "{file:?}");
    }
    let found = contents(b"{\"hello\":1}");
    assert_eq!((found.records, found.bad.len()), (1, 1));
    assert_eq!(contents(b"{\"data\":null}").bad.len(), 1);
}

proptest! {
    /// No bytes make a reader panic, loop or invent spans.
    #[test]
    fn any_bytes_are_survived(
        head in prop::sample::select(vec![&b""[..], b"{", b"[{", b"[[", b"{\"data\":[", b"{\"resourceSpans\":[", b"\x0a\x05", b"\x00\x00\x00\x05\x0a", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"]),
        tail in prop::collection::vec(any::<u8>(), 0..200),
        text in "[\\[\\]{}\",:a-z0-9\\\\ \n]{0,80}",
        as_text in any::<bool>(),
    ) {
        let tail = if as_text { text.into_bytes() } else { tail };
        let mut out = |_| Ok(());
        let mut intake = Intake::new(0, &mut out);
        if let Ok(bytes) = open::decompress(Box::new(Cursor::new([head, &tail].concat()))) {
            let _ = read_bytes(bytes, 0, &mut intake);
        }
        prop_assert!(intake.finish().unwrap() <= 300);
    }

    /// Cut anywhere, a file gives what stood before the cut.
    #[test]
    fn a_cut_file_gives_what_is_whole(cut in 0.0f64..1.0, json in any::<bool>()) {
        let requests: Vec<_> = (1..5).map(|count| spans(count, 7)).collect();
        let parts: Vec<Vec<u8>> = match json {
            true => requests.iter().map(|request| lines(std::slice::from_ref(request))).collect(),
            false => requests.iter().map(|request| framed(&[request.encode_to_vec()])).collect(),
        };
        let file = parts.concat();
        let end = (file.len() as f64 * cut) as usize;
        let mut whole = 0;
        let mut behind = 0;
        for (request, part) in requests.iter().zip(&parts) {
            behind += part.len();
            // A line is whole without its end.
            if behind - usize::from(json) <= end {
                whole += request.resource_spans[0].scope_spans[0].spans.len();
            }
        }
        prop_assert_eq!(contents(&file[..end]).span_names().len(), whole);
    }
}
