//! One span in every encoding, read back through the Tempo API and compared field by field.

use base64::{Engine, engine::general_purpose::STANDARD};
use model::{SpanId, TraceId};
use prost::Message;
use proto::{
    otlp::{
        collector::trace::v1::ExportTraceServiceRequest,
        common::v1::{AnyValue, KeyValue, any_value::Value},
        trace::v1::{Span, span::Event},
    },
    otlp_json,
};
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use translate::{
    jaeger,
    zipkin::{self, Annotation, Endpoint, Kind},
};

use super::{Cluster, Sent, committed, produce};
use crate::{
    server::{Server, until},
    spans::{TimeRange, attribute, request},
};

/// What every encoding can hold, to the microsecond.
struct Told {
    trace_id: [u8; 16],
    start_us: u64,
}

const SPAN_ID: [u8; 8] = [0, 0, 0, 0, 0, 0, 7, 7];
const PARENT_ID: [u8; 8] = [0, 0, 0, 0, 0, 0, 0, 9];
const DURATION_US: u64 = 2500;
const EVENT_AT_US: u64 = 500;
const SERVICE: &str = "shop";
const NAME: &str = "get /cart";
const SERVER: i32 = 2;

#[tokio::test]
async fn a_span_in_every_encoding_is_what_was_sent() {
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let encodings: [(&str, fn(&Told) -> Vec<u8>); 7] = [
        ("otlp_proto", |told| request(SERVICE, vec![told.otlp()])),
        ("otlp_json", |told| {
            otlp_json::encode(
                &ExportTraceServiceRequest::decode(request(SERVICE, vec![told.otlp()]).as_slice()).unwrap(),
            )
        }),
        ("jaeger_proto", |told| told.jaeger().encode_to_vec()),
        ("jaeger_json", |told| told.jaeger_json().to_string().into_bytes()),
        ("zipkin_proto", |told| zipkin::write_protobuf(&[told.zipkin()])),
        ("zipkin_json", |told| told.zipkin_json().to_string().into_bytes()),
        ("zipkin_thrift", |told| told.zipkin_thrift()),
    ];
    let cluster = Cluster::new(&encodings.map(|(encoding, _)| (encoding, 1)));
    let client = cluster.client();
    let topics = encodings
        .iter()
        .map(|(encoding, _)| ((*encoding).to_owned(), json!(encoding)))
        .collect::<serde_json::Map<_, _>>();
    let server = Server::start(&cluster.settings(folder.path(), topics.into())).await;
    let mut all = vec![];
    for (number, (encoding, write)) in (1..).zip(encodings) {
        let mut told = Told { trace_id: [1; 16], start_us: range.start_s * 1_000_000 + 123 };
        told.trace_id[15] = number;
        produce(&client, encoding, &[Sent::to(0, write(&told))]).await;
        all.push((encoding, told));
    }
    for (encoding, told) in &all {
        until(encoding, async || committed(&client, encoding, 1) == [Some(1)]).await;
        check(&server, encoding, told).await;
    }
    server.client.flush().await;
    for (encoding, told) in &all {
        check(&server, encoding, told).await;
    }
}

async fn check(server: &Server, encoding: &str, told: &Told) {
    let mut spans = server.client.trace(&told.trace_id).await;
    assert_eq!(spans.len(), 1, "{encoding}");
    let mut span = spans.remove(0);
    span.attributes.sort_by(|a, b| a.key.cmp(&b.key));
    let mut expected = told.otlp();
    if encoding.starts_with("zipkin") {
        // Its tags are texts.
        expected.attributes[1] = attribute("retries", "3".into());
    }
    assert_eq!(span.status.take().unwrap_or_default(), Default::default(), "{encoding}");
    assert_eq!(span.flags & !1, 0, "{encoding}");
    span.flags = 0;
    assert_eq!(span, expected, "{encoding}");
    let hex: String = told.trace_id.iter().map(|byte| format!("{byte:02x}")).collect();
    let (status, body) = server.client.get(&format!("/api/v2/traces/{hex}"), &[]).await;
    assert_eq!(status, 200);
    let resource = &body["trace"]["resourceSpans"][0]["resource"]["attributes"];
    let service = json!([{ "key": "service.name", "value": { "stringValue": SERVICE } }]);
    assert_eq!(*resource, service, "{encoding}");
}

impl Told {
    fn otlp(&self) -> Span {
        let retries = KeyValue {
            key: "retries".into(),
            value: Some(AnyValue { value: Some(Value::IntValue(3)) }),
            ..KeyValue::default()
        };
        Span {
            trace_id: self.trace_id.to_vec(),
            span_id: SPAN_ID.to_vec(),
            parent_span_id: PARENT_ID.to_vec(),
            name: NAME.into(),
            kind: SERVER,
            start_time_unix_nano: self.start_us * 1000,
            end_time_unix_nano: (self.start_us + DURATION_US) * 1000,
            attributes: vec![attribute("http.route", "/cart".into()), retries],
            events: vec![Event {
                time_unix_nano: (self.start_us + EVENT_AT_US) * 1000,
                name: "retry".into(),
                ..Event::default()
            }],
            ..Span::default()
        }
    }

    fn jaeger(&self) -> jaeger::Span {
        let time = |us: u64| prost_types::Timestamp {
            seconds: (us / 1_000_000).try_into().unwrap(),
            nanos: (us % 1_000_000 * 1000).try_into().unwrap(),
        };
        let text =
            |key: &str, value: &str| jaeger::KeyValue { key: key.into(), v_str: value.into(), ..Default::default() };
        let retries = jaeger::KeyValue {
            key: "retries".into(),
            v_type: jaeger::ValueType::Int64.into(),
            v_int64: 3,
            ..Default::default()
        };
        jaeger::Span {
            trace_id: self.trace_id.to_vec(),
            span_id: SPAN_ID.to_vec(),
            operation_name: NAME.into(),
            references: vec![jaeger::SpanRef {
                trace_id: self.trace_id.to_vec(),
                span_id: PARENT_ID.to_vec(),
                ref_type: 0,
            }],
            start_time: Some(time(self.start_us)),
            duration: Some(prost_types::Duration { seconds: 0, nanos: (DURATION_US * 1000).try_into().unwrap() }),
            tags: vec![text("http.route", "/cart"), retries, text("span.kind", "server")],
            logs: vec![jaeger::Log {
                timestamp: Some(time(self.start_us + EVENT_AT_US)),
                fields: vec![text("event", "retry")],
            }],
            process: Some(jaeger::Process { service_name: SERVICE.into(), tags: vec![] }),
            ..jaeger::Span::default()
        }
    }

    fn jaeger_json(&self) -> Json {
        let span = self.jaeger();
        json!({
            "traceId": STANDARD.encode(self.trace_id),
            "spanId": STANDARD.encode(SPAN_ID),
            "operationName": NAME,
            "references": [{ "traceId": STANDARD.encode(self.trace_id), "spanId": STANDARD.encode(PARENT_ID) }],
            "startTime": span.start_time.unwrap().to_string(),
            "duration": "0.002500s",
            "tags": [
                { "key": "http.route", "vStr": "/cart" },
                { "key": "retries", "vType": "INT64", "vInt64": "3" },
                { "key": "span.kind", "vStr": "server" },
            ],
            "logs": [{ "timestamp": span.logs[0].timestamp.unwrap().to_string(), "fields": [{ "key": "event", "vStr": "retry" }] }],
            "process": { "serviceName": SERVICE },
        })
    }

    fn zipkin(&self) -> zipkin::Span {
        zipkin::Span {
            trace_id: TraceId(self.trace_id),
            parent_id: Some(SpanId(PARENT_ID)),
            id: SpanId(SPAN_ID),
            kind: Some(Kind::Server),
            name: NAME.into(),
            timestamp: self.start_us,
            duration: DURATION_US,
            local_endpoint: Endpoint { service_name: SERVICE.into(), ..Endpoint::default() },
            annotations: vec![Annotation { timestamp: self.start_us + EVENT_AT_US, value: "retry".into() }],
            tags: vec![("http.route".into(), "/cart".into()), ("retries".into(), "3".into())],
            ..zipkin::Span::default()
        }
    }

    fn zipkin_json(&self) -> Json {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        json!([{
            "traceId": hex(&self.trace_id), "id": hex(&SPAN_ID), "parentId": hex(&PARENT_ID), "kind": "SERVER", "name": NAME,
            "timestamp": self.start_us, "duration": DURATION_US, "localEndpoint": { "serviceName": SERVICE },
            "annotations": [{ "timestamp": self.start_us + EVENT_AT_US, "value": "retry" }],
            "tags": { "http.route": "/cart", "retries": "3" },
        }])
    }

    /// A list of version 1 structures in the binary protocol.
    fn zipkin_thrift(&self) -> Vec<u8> {
        let (high, low) = self.trace_id.split_at(8);
        let host = |id: u16| field(12, id, &[field(11, 3, &text(SERVICE)), vec![0]].concat());
        let annotation = |at: u64, value: &str| {
            [field(10, 1, &at.to_be_bytes()), field(11, 2, &text(value)), host(3), vec![0]].concat()
        };
        let tag = |key: &str, value: &str| {
            let kind = field(8, 3, &6u32.to_be_bytes());
            [field(11, 1, &text(key)), field(11, 2, &text(value)), kind, host(4), vec![0]].concat()
        };
        let annotations = [
            annotation(self.start_us, "sr"),
            annotation(self.start_us + EVENT_AT_US, "retry"),
            annotation(self.start_us + DURATION_US, "ss"),
        ];
        let span = [
            field(10, 1, low),
            field(11, 3, &text(NAME)),
            field(10, 4, &SPAN_ID),
            field(10, 5, &PARENT_ID),
            field(15, 6, &list(&annotations)),
            field(15, 8, &list(&[tag("http.route", "/cart"), tag("retries", "3")])),
            field(10, 10, &self.start_us.to_be_bytes()),
            field(10, 11, &DURATION_US.to_be_bytes()),
            field(10, 12, high),
            vec![0],
        ];
        list(&[span.concat()])
    }
}

fn field(kind: u8, id: u16, value: &[u8]) -> Vec<u8> {
    [&[kind], &id.to_be_bytes()[..], value].concat()
}

fn text(value: &str) -> Vec<u8> {
    [&u32::try_from(value.len()).unwrap().to_be_bytes()[..], value.as_bytes()].concat()
}

/// Of structures.
fn list(elements: &[Vec<u8>]) -> Vec<u8> {
    [&[12], &u32::try_from(elements.len()).unwrap().to_be_bytes()[..], &elements.concat()].concat()
}
