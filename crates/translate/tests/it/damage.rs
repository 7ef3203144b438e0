//! Bytes that no client would send, by name: an error or spans, soon and in little memory, and never a panic. [`crate::fuzz`]
//! looks for others.

use prost::Message;
use proptest::prelude::*;
use proto::otlp::trace::v1::TracesData;
use translate::{
    SPAN_ELEMENTS_MAX, TranslateError,
    jaeger::{self, Protocol},
    zipkin::{self, Format},
};

use crate::jaeger_formats::SPAN_JSON;

const FORMATS: [Format; 4] = [Format::JsonV1, Format::JsonV2, Format::ProtobufV2, Format::ThriftV1];

/// Whatever is read is a request.
fn check(outcome: Result<Vec<u8>, TranslateError>) {
    if let Ok(request) = outcome {
        TracesData::decode(request.as_slice()).expect("an OTLP request");
    }
}

fn read_all(body: &[u8]) {
    for format in FORMATS {
        check(zipkin::request(format, body, 1));
    }
    check(jaeger::request_of_post_spans(body));
    check(jaeger::request_of_span(body));
    check(jaeger::request_of_span_json(body));
    check(jaeger::request_of_thrift(body));
    for protocol in [Protocol::Compact, Protocol::Binary] {
        check(jaeger::request_of_agent(protocol, body, 1));
    }
    if let Ok(batches) = jaeger::read_json(body) {
        check(jaeger::requests(&batches).map(|requests| requests.concat()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_json(body in "[\\[\\]{}\":,a-z0-9. \\-]{0,60}") {
        read_all(body.as_bytes());
    }
}

#[test]
fn a_span_in_json_that_ends_anywhere() {
    for end in 0..SPAN_JSON.len() {
        read_all(&SPAN_JSON.as_bytes()[..end]);
    }
}

/// A field that holds what follows.
fn field(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag << 3 | 2];
    prost::encoding::encode_varint(content.len() as u64, &mut out);
    out.extend_from_slice(content);
    out
}

#[test]
fn a_span_of_empty_elements_is_refused_before_it_is_decoded() {
    let many = SPAN_ELEMENTS_MAX + 1;
    let empty_tags = [8 << 3 | 2, 0].repeat(many);
    let in_a_batch = |span: &[u8]| field(1, &field(1, span));
    let refused = |outcome: Result<Vec<u8>, TranslateError>| matches!(outcome, Err(TranslateError::SpanTooLarge));
    assert!(refused(jaeger::request_of_post_spans(&in_a_batch(&empty_tags))));
    assert!(refused(jaeger::request_of_post_spans(&in_a_batch(&field(9, &empty_tags)))));
    assert!(refused(zipkin::request(Format::ProtobufV2, &field(1, &[11 << 3 | 2, 0].repeat(many)), 0)));

    let tags: String = (0..many).map(|_| "\"\":\"\",").collect();
    let json = format!("[{{\"traceId\":\"1\",\"id\":\"1\",\"tags\":{{{}}}}}]", tags.trim_end_matches(','));
    assert!(zipkin::request(Format::JsonV2, json.as_bytes(), 0).unwrap_err().to_string().contains("more than 65536"));
    let annotations = vec!["{\"timestamp\":1,\"value\":\"\"}"; many].join(",");
    let json = format!("[{{\"traceId\":\"1\",\"id\":\"1\",\"annotations\":[{annotations}]}}]");
    assert!(zipkin::request(Format::JsonV2, json.as_bytes(), 0).is_err());

    // A list of so many empty structures, in the compact protocol: one byte each.
    let mut thrift = vec![0x82, 0x81, 0x01, 9];
    thrift.extend_from_slice(b"emitBatch");
    thrift.extend_from_slice(&[0x1c, 0x29, 0x1c, 0xa9, 0xfc]);
    prost::encoding::encode_varint(many as u64, &mut thrift);
    thrift.resize(thrift.len() + many + 10, 0);
    let outcome = jaeger::request_of_agent(Protocol::Compact, &thrift, 0);
    assert!(outcome.unwrap_err().to_string().contains("too many elements"));
}

#[test]
fn lengths_that_are_not_there_claim_no_memory() {
    // A list of two billion structures; a text of two gigabytes.
    assert!(zipkin::request(Format::ThriftV1, &[12, 0x7f, 0xff, 0xff, 0xff], 0).is_err());
    let text = [12, 0, 0, 0, 1, 11, 0, 3, 0x7f, 0xff, 0xff, 0xff];
    assert!(zipkin::request(Format::ThriftV1, &text, 0).is_err());
    assert!(jaeger::request_of_agent(Protocol::Compact, &[0x82, 0x81, 1, 0xff, 0xff, 0xff, 0xff, 7], 0).is_err());
    assert!(jaeger::request_of_post_spans(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x07]).is_err());
}

#[test]
fn a_process_is_not_written_for_each_of_a_million_spans() {
    let tags: Vec<u8> = (0..20_000).flat_map(|_| field(2, &field(1, b"abc"))).collect();
    let mut batch = field(2, &tags);
    batch.extend_from_slice(&[1 << 3 | 2, 0].repeat(1_000_000));
    let outcome = jaeger::request_of_post_spans(&field(1, &batch));
    assert!(matches!(outcome, Err(TranslateError::Grows { .. })), "{:?}", outcome.map(|request| request.len()));
}

#[test]
fn nesting_has_an_end() {
    let deep = 200_000;
    for open in ["[", "{\"a\":", "[{\"traceId\":\"1\",\"id\":\"1\",\"x\":[", "[{\"traceId\":"] {
        read_all(open.repeat(deep).as_bytes());
    }
    // Structures inside structures of an unknown field, and lists inside lists.
    read_all(&[12, 0, 99].repeat(deep));
    read_all(&[[15, 0, 99].as_slice(), &[15, 0, 0, 0, 1].repeat(deep)].concat());
    read_all(&[0x82, 0x81, 1, 0].into_iter().chain([0x1c].repeat(deep)).collect::<Vec<_>>());
    let annotation = format!("\"x\": {}", "{\"a\":".repeat(deep));
    let json = serde_json::json!([{ "traceId": "1", "id": "1", "annotations": [{ "timestamp": 1, "value": annotation }] }]);
    check(zipkin::request(Format::JsonV2, json.to_string().as_bytes(), 0));
}
