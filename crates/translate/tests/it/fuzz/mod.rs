//! Fuzz targets: every reader of what comes in from outside, OTLP's included. Bytes spell a message of the format, whole,
//! odd or damaged, or are taken as they are. Whatever they are,
//!
//! - the reader answers, in memory that its input bounds, and what it makes of a body is an OTLP request;
//! - of the spans of that request, each is accepted or refused alone, and each accepted one is in the batch that is built,
//!   and comes back out of it;
//! - the trace that comes back can be written in Zipkin's and Jaeger's formats, and read again, with as many spans.
//!
//! Bytes come at random here, the same in every run; `CONTRIBUTING.md` says how to let coverage guide them.

mod forms;
mod spell;
mod write;

use std::collections::BTreeMap;

use block::builder::{AttributeLimits, SpanBatchBuilder};
use prost::Message;
use proptest::{
    collection::vec,
    prelude::any,
    test_runner::{Config, TestRunner},
};
use proto::{otlp::collector::trace::v1::ExportTraceServiceRequest, otlp_json, wire};
use translate::{
    jaeger::{self, Protocol},
    request_bytes_max,
    zipkin::{self, Format},
};

use crate::thrift_writer::{V, binary, call};
use spell::{Shape, Speller};

/// Without `PROPTEST_CASES`.
const BODIES: u32 = 1500;
const CHOICES_MAX: usize = 400;

/// What a reader may allocate, all told, for each byte of its input, and besides: a span of two bytes is some hundreds of
/// bytes while it is read, and a message is written once more for each level around it.
const ALLOCATED_PER_BYTE: u64 = 1024;
const ALLOCATED_BESIDES: u64 = 1 << 20;

const RECEIVED: u64 = 1_700_000_000_123_456_789;

/// A format that comes in.
struct Form {
    /// An ordinary or odd body.
    spell: fn(&mut Speller<'_>) -> Vec<u8>,
    /// The OTLP request it becomes.
    read: fn(&[u8]) -> Option<Vec<u8>>,
}

fn thrift(speller: &mut Speller<'_>, shape: &Shape) -> V {
    write::thrift(&speller.value(shape))
}

/// A call of either method that an agent has.
fn datagram(speller: &mut Speller<'_>, compact: bool) -> Vec<u8> {
    match speller.below(4) {
        1 => call(compact, "emitZipkinBatch", thrift(speller, &forms::ZIPKIN_V1)),
        _ => call(compact, "emitBatch", thrift(speller, &forms::JAEGER_THRIFT)),
    }
}

const OTLP_PROTOBUF: Form =
    Form { spell: |speller| write::protobuf(&speller.value(&forms::OTLP)), read: |body| Some(body.to_vec()) };
const OTLP_JSON: Form = Form { spell: |speller| write::json(&speller.value(&forms::OTLP)), read: read_otlp_json };
const ZIPKIN_JSON_V1: Form = Form {
    spell: |speller| write::json(&speller.value(&forms::ZIPKIN_V1)),
    read: |body| zipkin::request(Format::JsonV1, body, RECEIVED).ok(),
};
const ZIPKIN_JSON_V2: Form = Form {
    spell: |speller| write::json(&speller.value(&forms::ZIPKIN_JSON)),
    read: |body| zipkin::request(Format::JsonV2, body, RECEIVED).ok(),
};
const ZIPKIN_PROTOBUF: Form = Form {
    spell: |speller| write::protobuf(&speller.value(&forms::ZIPKIN_PROTOBUF)),
    read: |body| zipkin::request(Format::ProtobufV2, body, RECEIVED).ok(),
};
const ZIPKIN_THRIFT: Form = Form {
    spell: |speller| binary(&thrift(speller, &forms::ZIPKIN_V1)),
    read: |body| zipkin::request(Format::ThriftV1, body, RECEIVED).ok(),
};
const JAEGER_PROTOBUF: Form = Form {
    spell: |speller| write::protobuf(&speller.value(&forms::JAEGER_PROTOBUF)),
    read: |body| jaeger::request_of_post_spans(body).ok(),
};
const JAEGER_THRIFT: Form = Form {
    spell: |speller| binary(&thrift(speller, &forms::JAEGER_THRIFT)),
    read: |body| jaeger::request_of_thrift(body).ok(),
};
const JAEGER_AGENT_COMPACT: Form = Form {
    spell: |speller| datagram(speller, true),
    read: |body| jaeger::request_of_agent(Protocol::Compact, body, RECEIVED).ok(),
};
const JAEGER_AGENT_BINARY: Form = Form {
    spell: |speller| datagram(speller, false),
    read: |body| jaeger::request_of_agent(Protocol::Binary, body, RECEIVED).ok(),
};
const JAEGER_JSON: Form = Form {
    spell: |speller| write::json(&speller.value(&forms::JAEGER_JSON)),
    read: |body| jaeger::requests(&jaeger::read_json(body).ok()?).ok().map(|requests| requests.concat()),
};

fn read_otlp_json(body: &[u8]) -> Option<Vec<u8>> {
    let request = otlp_json::decode(body).ok()?;
    Some(request.encode_to_vec())
}

/// The first byte says what the others stand for.
fn body_of(form: &Form, bytes: &[u8]) -> Vec<u8> {
    let Some((kind, rest)) = bytes.split_first() else { return vec![] };
    let odd = match kind % 8 {
        0 => return rest.to_vec(),
        1..=3 => 0,
        4 | 5 => 100,
        _ => 20,
    };
    let mut speller = Speller::new(rest, odd);
    let body = (form.spell)(&mut speller);
    match kind % 8 {
        3 | 5 | 7 => spell::damaged(body, speller.rest()),
        _ => body,
    }
}

/// Whether the body was taken.
fn asked(form: &Form, bytes: &[u8]) -> bool {
    let body = body_of(form, bytes);
    let before = crate::allocated();
    let request = (form.read)(&body);
    let allocated = crate::allocated() - before;
    let allowed = ALLOCATED_PER_BYTE * body.len() as u64 + ALLOCATED_BESIDES;
    assert!(allocated <= allowed, "{allocated} bytes for a body of {}", body.len());
    let Some(request) = request else { return false };
    assert!(request.len() <= request_bytes_max(body.len()), "{} bytes of {}", request.len(), body.len());
    stored(&request)
}

/// What tells spans apart: trace id, span id, kind, start.
type Identity = (Vec<u8>, Vec<u8>, i32, u64);

/// What is compared of a span beside its identity. How attributes come back is the block's own test.
type Rest = (String, i32, usize, usize);

/// Whether it is a request. Then every valid span of it comes back.
fn stored(request: &[u8]) -> bool {
    let mut builder = SpanBatchBuilder::new(AttributeLimits::default());
    let Ok(appended) = builder.append_request(request, |_| panic!("no such request fills a batch")) else { return false };
    let mut expected: BTreeMap<Identity, Rest> = BTreeMap::new();
    let (mut accepted, mut refused) = (0, 0);
    for resource in wire::resource_spans(request).map(Result::unwrap) {
        for scope in resource.scopes().map(Result::unwrap) {
            for span in scope.spans().map(Result::unwrap) {
                let Ok(span) = wire::SpanView::parse(span) else {
                    refused += 1;
                    continue;
                };
                accepted += 1;
                let identity = (span.trace_id.to_vec(), span.span_id.to_vec(), span.kind, span.start_time_unix_nano);
                let name = span.name[..span.name.floor_char_boundary(AttributeLimits::default().value_bytes_max)].to_owned();
                let rest = (name, span.status_code, span.events().count(), span.links().count());
                expected.entry(identity).or_insert(rest);
            }
        }
    }
    assert_eq!((appended.spans, appended.refused), (accepted, refused));

    let batch = builder.finish();
    let trace = block::rebuild::traces(std::slice::from_ref(&batch.records)).expect("its own rows");
    let spans = trace.resource_spans.iter().flat_map(|r| &r.scope_spans).flat_map(|s| &s.spans);
    let found: BTreeMap<Identity, Rest> = spans
        .map(|span| {
            let identity = (span.trace_id.clone(), span.span_id.clone(), span.kind, span.start_time_unix_nano);
            let status = span.status.as_ref().map_or(0, |status| status.code);
            (identity, (span.name.clone(), status, span.events.len(), span.links.len()))
        })
        .collect();
    assert_eq!(found, expected);

    let count = expected.len();
    let json = otlp_json::encode(&ExportTraceServiceRequest { resource_spans: trace.resource_spans.clone() });
    let again = otlp_json::decode(&json).expect("its own JSON");
    assert_eq!(otlp_json::encode(&again), json);
    let mut read = 0;
    let zipkin = zipkin::spans(&trace);
    zipkin::read(Format::JsonV2, zipkin::write_json(&zipkin).to_string().as_bytes(), &mut |_| read += 1).expect("its own JSON");
    zipkin::read(Format::ProtobufV2, &zipkin::write_protobuf(&zipkin), &mut |_| read += 1).expect("its own protobuf");
    assert_eq!(read, 2 * count, "by Zipkin");
    let batches = jaeger::batches(&trace);
    if let Some(json) = jaeger::write_json(&batches) {
        let read = jaeger::read_json(json.to_string().as_bytes()).expect("its own JSON");
        assert_eq!(read.iter().map(|batch| batch.spans.len()).sum::<usize>(), count, "by Jaeger's JSON");
    }
    let spans = |batch: &jaeger::Batch| jaeger::Batch::decode(batch.encode_to_vec().as_slice()).expect("its own protobuf").spans.len();
    assert_eq!(batches.iter().map(spans).sum::<usize>(), count, "by Jaeger");
    count > 0
}

/// Nearly half of the bodies are ordinary, so some must be taken, with spans.
#[cfg_attr(fuzzing, allow(dead_code))]
fn bounded(form: &Form) {
    let cases = std::env::var("PROPTEST_CASES").map_or(BODIES, |number| number.parse().expect("PROPTEST_CASES is a number"));
    let taken = std::cell::Cell::new(0);
    let config = Config { failure_persistence: None, ..Config::with_cases(cases) };
    let outcome = TestRunner::new(config).run(&vec(any::<u8>(), 0..CHOICES_MAX), |bytes| {
        taken.set(taken.get() + u32::from(asked(form, &bytes)));
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(taken.get() > cases / 20, "only {} of {cases} bodies were taken", taken.get());
    assert!(asked(form, &[1]), "the plainest body has a span");
}

macro_rules! targets {
    ($($name:ident: $form:ident),* $(,)?) => {$(
        #[test]
        fn $name() {
            #[cfg(fuzzing)]
            bolero::check!().for_each(|bytes: &[u8]| {
                asked(&$form, bytes);
            });
            #[cfg(not(fuzzing))]
            bounded(&$form);
        }
    )*};
}

targets! {
    otlp_protobuf: OTLP_PROTOBUF,
    otlp_json: OTLP_JSON,
    zipkin_json_v1: ZIPKIN_JSON_V1,
    zipkin_json_v2: ZIPKIN_JSON_V2,
    zipkin_protobuf: ZIPKIN_PROTOBUF,
    zipkin_thrift: ZIPKIN_THRIFT,
    jaeger_protobuf: JAEGER_PROTOBUF,
    jaeger_thrift: JAEGER_THRIFT,
    jaeger_agent_compact: JAEGER_AGENT_COMPACT,
    jaeger_agent_binary: JAEGER_AGENT_BINARY,
    jaeger_json: JAEGER_JSON,
}
