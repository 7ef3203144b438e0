//! Blocks of Tempo come out as the OTLP that they hold.

use std::{fs, path::Path};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use proto::otlp::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value::Value},
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span, Status,
        span::{Event, Link},
    },
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use tempfile::TempDir;

use crate::{
    blocks::{self, Dedicated, Format},
    endpoint::{Endpoint, run},
};

fn pair(key: &str, value: impl Into<Option<Value>>) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: value.into() }), ..KeyValue::default() }
}

fn text(key: &str, value: &str) -> KeyValue {
    pair(key, Value::StringValue(value.into()))
}

fn array(values: Vec<Value>) -> Value {
    Value::ArrayValue(ArrayValue { values: values.into_iter().map(|value| AnyValue { value: Some(value) }).collect() })
}

/// Every type that an attribute can have.
fn every_type() -> Vec<KeyValue> {
    let map = KeyValueList { values: vec![text("inner", "\"x\""), pair("nested", array(vec![Value::IntValue(-1)]))] };
    vec![
        text("text", "grüße"),
        text("empty", ""),
        pair("integer", Value::IntValue(i64::MIN)),
        pair("double", Value::DoubleValue(-0.5)),
        pair("truth", Value::BoolValue(true)),
        pair("falsehood", Value::BoolValue(false)),
        pair("texts", array(vec![Value::StringValue("a".into()), Value::StringValue(String::new())])),
        pair("integers", array(vec![Value::IntValue(1), Value::IntValue(2), Value::IntValue(3)])),
        pair("one", array(vec![Value::IntValue(1)])),
        pair("doubles", array(vec![Value::DoubleValue(1.5), Value::DoubleValue(2.0)])),
        pair("truths", array(vec![Value::BoolValue(true), Value::BoolValue(false)])),
        pair("nothing in it", array(vec![])),
        pair("mixed", array(vec![Value::IntValue(i64::MAX), Value::StringValue("b".into())])),
        pair("map", Value::KvlistValue(map)),
        pair("bytes", Value::BytesValue(vec![0xff, 0x00])),
        pair("no value", None),
    ]
}

const DEDICATED: [(&str, &str, &str, bool); 5] = [
    ("resource", "service.instance.id", "string", false),
    ("span", "tenant", "string", false),
    ("span", "retries", "int", false),
    ("span", "headers", "string", true),
    ("event", "exception.message", "string", false),
];

/// What vParquet4 can hold.
fn dedicated(format: Format) -> &'static Dedicated {
    match format {
        Format::V4 => &DEDICATED[..2],
        Format::V5 => &DEDICATED,
    }
}

pub fn trace(number: u8) -> ExportTraceServiceRequest {
    let start = 1_700_000_000_000_000_000 + u64::from(number);
    let headers = array(vec![Value::StringValue("accept".into()), Value::StringValue("host".into())]);
    let of_span = vec![
        text("http.method", "GET"),
        text("http.url", "/cart"),
        pair("http.status_code", Value::IntValue(500)),
        text("tenant", "acme"),
        pair("retries", Value::IntValue(3)),
        pair("headers", headers),
    ];
    let event = |time_unix_nano, name: &str| Event {
        time_unix_nano,
        name: name.into(),
        attributes: [every_type(), vec![text("exception.message", "no")]].concat(),
        dropped_attributes_count: 4,
    };
    let root = Span {
        trace_id: vec![number; 16],
        span_id: vec![number; 8],
        name: "GET /cart".into(),
        kind: 2,
        trace_state: "a=1,b=2".into(),
        start_time_unix_nano: start,
        end_time_unix_nano: start + 1_500,
        attributes: [every_type(), of_span].concat(),
        dropped_attributes_count: 1,
        events: vec![event(start + 10, "late"), event(start - 10, "before the span")],
        dropped_events_count: 2,
        links: vec![
            Link {
                trace_id: vec![0xee; 16],
                span_id: vec![0xef; 8],
                trace_state: "c=3".into(),
                attributes: every_type(),
                dropped_attributes_count: 5,
                ..Link::default()
            },
            Link { trace_id: vec![1; 16], span_id: vec![2; 8], ..Link::default() },
        ],
        dropped_links_count: 3,
        status: Some(Status { code: 2, message: "it broke".into() }),
        ..Span::default()
    };
    let child = Span {
        trace_id: vec![number; 16],
        span_id: vec![0x55; 8],
        parent_span_id: vec![number; 8],
        name: "child".into(),
        kind: 3,
        start_time_unix_nano: start + 1,
        end_time_unix_nano: start + 1,
        // Of another type than the column of this name.
        attributes: vec![
            pair("http.status_code", Value::StringValue("200".into())),
            pair("http.method", Value::IntValue(1)),
        ],
        ..Span::default()
    };
    let bare = Span { trace_id: vec![number; 16], span_id: vec![0x66; 8], ..Span::default() };
    let scope = |name: &str, spans| ScopeSpans {
        scope: Some(InstrumentationScope {
            name: name.into(),
            version: "1.2".into(),
            attributes: every_type(),
            dropped_attributes_count: 6,
        }),
        spans,
        ..ScopeSpans::default()
    };
    let of_resource = vec![
        text("service.name", "shop"),
        text("cluster", "eu"),
        text("k8s.pod.name", "shop-1"),
        text("service.instance.id", "7f"),
    ];
    let resource = Resource { attributes: [every_type(), of_resource].concat(), dropped_attributes_count: 7 };
    let nameless =
        ScopeSpans { scope: Some(InstrumentationScope::default()), spans: vec![bare], ..ScopeSpans::default() };
    let resource_spans = vec![
        ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![scope("a", vec![root]), scope("b", vec![child])],
            ..ResourceSpans::default()
        },
        ResourceSpans { resource: Some(Resource::default()), scope_spans: vec![nameless], ..ResourceSpans::default() },
    ];
    ExportTraceServiceRequest { resource_spans }
}

/// The order of attributes says nothing.
fn sorted(mut resources: Vec<ResourceSpans>) -> Vec<ResourceSpans> {
    fn sort(attributes: &mut [KeyValue]) {
        attributes.sort_by(|a, b| a.key.cmp(&b.key));
    }
    for resource in &mut resources {
        sort(&mut resource.resource.as_mut().unwrap().attributes);
        for scope in &mut resource.scope_spans {
            sort(&mut scope.scope.as_mut().unwrap().attributes);
            for span in &mut scope.spans {
                sort(&mut span.attributes);
                span.events.iter_mut().for_each(|event| sort(&mut event.attributes));
                span.links.iter_mut().for_each(|link| sort(&mut link.attributes));
            }
        }
    }
    resources
}

fn traces(numbers: std::ops::Range<u8>) -> Vec<ExportTraceServiceRequest> {
    numbers.map(trace).collect()
}

fn resources(traces: &[ExportTraceServiceRequest]) -> Vec<ResourceSpans> {
    traces.iter().flat_map(|trace| trace.resource_spans.clone()).collect()
}

#[tokio::test]
async fn every_field_of_a_block_arrives() {
    for format in [Format::V4, Format::V5] {
        let folder = TempDir::new().unwrap();
        // More traces than are decoded at once.
        let traces = traces(1..40);
        let block = folder.path().join("blocks/single-tenant/b1");
        blocks::write(&block, format, "single-tenant", dedicated(format), &traces);
        let endpoint = Endpoint::start([]).await;
        let (progress, events) = run(&endpoint.options(folder.path(), &[&folder.path().join("blocks")])).await;
        let progress = progress.unwrap();
        assert_eq!(events, Vec::<String>::new(), "{format:?}");
        assert_eq!((progress.accepted, progress.sources_done, progress.is_complete()), (39 * 3, 1, true), "{format:?}");
        assert_eq!(progress.bytes_read, progress.bytes, "{format:?}");
        let (found, expected) = (sorted(endpoint.resources()), sorted(resources(&traces)));
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found, expected, "{format:?}");
        }
        assert_eq!(found.len(), expected.len());
        // Of a Tempo without tenants nobody names one.
        assert!(endpoint.headers("x-scope-orgid").iter().all(Option::is_none));
    }
}

/// A column for lists has no place for what a list is.
#[tokio::test]
async fn a_list_of_one_in_a_column_for_lists_is_its_element_as_tempo_answers() {
    let list = |values: &[&str]| array(values.iter().map(|value| Value::StringValue((*value).to_owned())).collect());
    let (sent, stored) = (
        [pair("headers", list(&["accept"])), pair("headers", list(&[])), pair("headers", list(&["a", "b"]))],
        [vec![text("headers", "accept")], vec![], vec![pair("headers", list(&["a", "b"]))]],
    );
    let mut trace = trace(1);
    let mut expected = trace.clone();
    for (sent, stored) in sent.into_iter().zip(stored) {
        let folder = TempDir::new().unwrap();
        trace.resource_spans[0].scope_spans[1].spans[0].attributes = vec![sent];
        expected.resource_spans[0].scope_spans[1].spans[0].attributes = stored;
        blocks::write(&folder.path().join("b"), Format::V5, "single-tenant", &DEDICATED, &[trace.clone()]);
        let endpoint = Endpoint::start([]).await;
        run(&endpoint.options(folder.path(), &[&folder.path().join("b")])).await.0.unwrap();
        assert_eq!(sorted(endpoint.resources()), sorted(expected.resource_spans.clone()));
    }
}

#[tokio::test]
async fn blocks_go_to_the_tenants_that_they_are_of() {
    let folder = TempDir::new().unwrap();
    let root = folder.path().join("blocks");
    for (number, tenant) in ["team-a", "team-b"].into_iter().enumerate() {
        let number = number as u8 + 1;
        blocks::write(&root.join(tenant).join("b"), Format::V4, tenant, &[], &traces(number..number + 1));
    }
    let endpoint = Endpoint::start([]).await;
    let (progress, _) = run(&endpoint.options(folder.path(), &[&root])).await;
    assert_eq!(progress.unwrap().accepted, 6);
    assert_eq!(endpoint.headers("x-scope-orgid"), [Some("team-a".to_owned()), Some("team-b".to_owned())]);
    // Who names a tenant means it.
    let endpoint = Endpoint::start([]).await;
    let mut options = endpoint.options(folder.path(), &[&root]);
    options.to.tenant = Some("all".to_owned());
    options.restart = true;
    run(&options).await.0.unwrap();
    assert_eq!(endpoint.headers("x-scope-orgid"), [Some("all".to_owned()), Some("all".to_owned())]);
}

#[tokio::test]
async fn what_a_block_cannot_say_is_not_lost_in_silence() {
    let folder = TempDir::new().unwrap();
    let block = folder.path().join("b");
    blocks::write(&block, Format::V4, "t", &DEDICATED[..2], &traces(1..3));
    let meta = |text: &str, with: &str| {
        fs::write(block.join("meta.json"), text.replace("\"dedicatedColumns\"", with)).unwrap()
    };
    let text = fs::read_to_string(block.join("meta.json")).unwrap();
    // Nobody knows what the columns of their own hold.
    meta(&text, "\"other\"");
    let endpoint = Endpoint::start([]).await;
    let (progress, events) = run(&endpoint.options(folder.path(), &[&block])).await;
    assert_eq!((progress.unwrap().bad, endpoint.span_count()), (2, 0));
    assert!(events[0].contains("Trace(1)") && events[0].contains("String01"), "{events:?}");
    // A format that is not known.
    meta(&text.replace("vParquet4", "vParquet3"), "\"dedicatedColumns\"");
    let (progress, events) = run(&endpoint.options(folder.path(), &[&block])).await;
    assert_eq!((progress.unwrap().unreadable, endpoint.span_count()), (1, 0));
    assert!(events[0].contains("vParquet3") && events[0].contains("vParquet4"), "{events:?}");
}

#[tokio::test]
async fn a_damaged_block_costs_itself() {
    let folder = TempDir::new().unwrap();
    let root = folder.path().join("blocks");
    for name in ["a", "b", "c"] {
        blocks::write(&root.join(name), Format::V5, "single-tenant", &DEDICATED, &traces(1..3));
    }
    let damage = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes.truncate(middle);
        fs::write(path, bytes).unwrap();
    };
    damage(&root.join("b/data.parquet"));
    // One that is not finished.
    blocks::write(&root.join("d"), Format::V5, "single-tenant", &DEDICATED, &traces(1..3));
    fs::remove_file(root.join("d/data.parquet")).unwrap();
    let endpoint = Endpoint::start([]).await;
    let (progress, events) = run(&endpoint.options(folder.path(), &[&root])).await;
    let progress = progress.unwrap();
    assert_eq!((progress.accepted, progress.unreadable, progress.sources_done), (12, 2, 2));
    assert!(events.iter().any(|event| event.starts_with("Unreadable") && event.contains("blocks/b")), "{events:?}");
}

/// A server that speaks the S3 protocol over a folder; its `host:port`.
async fn s3(folder: &Path) -> String {
    let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder).unwrap());
    builder.set_auth(SimpleAuth::from_single("key", "secret"));
    let (service, listener) = (builder.build(), tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                // A client that goes away is no matter of this test.
                drop(server.serve_connection(TokioIo::new(socket), service).await);
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_and_files_are_read_from_a_bucket() {
    let (folder, bucket) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let root = bucket.path().join("old-tempo");
    blocks::write(&root.join("traces/team-a/b1"), Format::V4, "team-a", dedicated(Format::V4), &traces(1..30));
    blocks::write(&root.join("traces/team-a/b2"), Format::V5, "team-a", dedicated(Format::V5), &traces(30..50));
    let file: Vec<u8> =
        traces(1..4).iter().flat_map(|trace| [proto::otlp_json::encode(trace), b"\n".to_vec()].concat()).collect();
    fs::create_dir_all(root.join("files")).unwrap();
    fs::write(root.join("files/day.jsonl"), file).unwrap();
    let address = s3(bucket.path()).await;
    let settings = [
        ("AWS_ENDPOINT", format!("http://{address}")),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "key".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
        // Not of any object store.
        ("REGION", "nowhere".to_owned()),
        ("TOKEN", "x".to_owned()),
    ];
    for (url, expected) in [
        ("s3://old-tempo/traces", traces(1..50)),
        ("s3://old-tempo/traces/team-a/b1", traces(1..30)),
        ("s3://old-tempo/files/day.jsonl", traces(1..4)),
    ] {
        let endpoint = Endpoint::start([]).await;
        let mut options = endpoint.options(folder.path(), &[]);
        options.sources = vec![url.to_owned()];
        options.object_stores = settings.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        options.restart = true;
        let (progress, events) = run(&options).await;
        let progress = progress.unwrap();
        assert_eq!((progress.accepted, progress.is_complete()), (expected.len() as u64 * 3, true), "{url}: {events:?}");
        assert_eq!(progress.bytes_read, progress.bytes, "{url}");
        assert_eq!(sorted(endpoint.resources()), sorted(resources(&expected)), "{url}");
    }
}

#[tokio::test]
async fn no_damage_ends_the_program() {
    let folder = TempDir::new().unwrap();
    let block = folder.path().join("b");
    blocks::write(&block, Format::V5, "single-tenant", &DEDICATED, &traces(1..3));
    let whole = fs::read(block.join("data.parquet")).unwrap();
    let endpoint = Endpoint::start([]).await;
    let mut options = endpoint.options(folder.path(), &[&block]);
    options.dry_run = true;
    for number in 0..64 {
        let mut bytes = whole.clone();
        let at = number * (bytes.len() - 1) / 63;
        bytes[at] ^= 1 << (number % 8);
        fs::write(block.join("data.parquet"), bytes).unwrap();
        let progress = run(&options).await.0.unwrap();
        assert!(progress.accepted <= 6 && progress.sources == 1, "byte {at}: {progress:?}");
    }
}
