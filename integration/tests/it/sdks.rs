//! The examples of `docs/send-traces` run as they are; what they sent is what each query API shows.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::OsString,
    process::Command,
};

use prost::Message;
use proto::otlp::{
    common::v1::{InstrumentationScope, KeyValue},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, Span, TracesData},
};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    server::{Server, Settings, skipped},
    shown::{Shown, Trace, every_api_shows, sent},
    tap::Tap,
};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/send-traces");

/// What a call of an SDK may take; one minute, in the unit of the language.
const MINUTE_MS: &str = "60000";
const MINUTE_S: &str = "60";

#[tokio::test]
async fn the_shop_in_python() {
    let program = |python| [python, format!("{EXAMPLES}/python/shop.py").into()].to_vec();
    shop("Python", "SOSTENUTO_CLIENTS_PYTHON", MINUTE_S, "ValueError", program).await;
}

#[tokio::test]
async fn the_shop_in_nodejs() {
    let program = |script| ["node".into(), script].to_vec();
    shop("Node.js", "SOSTENUTO_CLIENTS_NODEJS", MINUTE_MS, "RangeError", program).await;
}

#[tokio::test]
async fn the_shop_in_go() {
    shop("Go", "SOSTENUTO_CLIENTS_GO", MINUTE_MS, "*errors.errorString", |program| vec![program]).await;
}

#[tokio::test]
async fn the_shop_in_java() {
    let program = |jar| ["java".into(), "-jar".into(), jar].to_vec();
    shop("Java", "SOSTENUTO_CLIENTS_JAVA", MINUTE_MS, "java.lang.IllegalStateException", program).await;
}

/// A server whose every query API has a port, and that cuts nothing.
pub fn settings(folder: &TempDir) -> Settings {
    Settings::new(folder.path())
        .with("distributor.max_attribute_bytes", 0)
        .with("distributor.receivers.zipkin", json!({ "endpoint": "127.0.0.1:0" }))
        .with("server.jaeger_query_endpoint", "127.0.0.1:0")
}

/// `variable` names what was built of the example, and `program` makes a command of that. `exception` is its type in the
/// example's language.
async fn shop(who: &str, variable: &str, timeout: &str, exception: &str, program: fn(OsString) -> Vec<OsString>) {
    let Some(example) = env::var_os(variable) else {
        skipped(format_args!("sdks.rs: the example in {who}, because {variable} is not set"));
        return;
    };
    let command = program(example);
    let folder = TempDir::new().unwrap();
    let server = Server::start(&settings(&folder)).await;
    for (protocol, listener) in [("http/protobuf", "otlp_http"), ("grpc", "otlp_grpc")] {
        let tap = Tap::before(&server.address(listener)).await;
        let environment = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.to_owned()),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", tap.address)),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", timeout.to_owned()),
            ("OTEL_BSP_EXPORT_TIMEOUT", MINUTE_MS.to_owned()),
        ];
        run(&command, &environment).await;
        let requests = tap.taken().await;
        let traces = sent(&requests);
        let who = format!("{who} over {protocol}");
        is_the_shop(&who, exception, &traces);
        for (id, trace) in &traces {
            every_api_shows(&server, &who, id, trace, 0).await;
            let mut expected = whole(requests.iter().flat_map(|request| &request.resource_spans));
            expected.retain(|(_, _, span)| hex(&span.trace_id) == *id);
            assert_eq!(stored(&server, id).await, expected, "{who}");
        }
    }
}

/// Runs a program that ends by itself.
pub async fn run(command: &[OsString], environment: &[(&str, String)]) {
    let mut process = Command::new(&command[0]);
    process.args(&command[1..]).envs(environment.iter().map(|(key, value)| (key, value)));
    let output = tokio::task::spawn_blocking(move || process.output()).await.unwrap();
    let output = output.unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{errors}", output.status);
}

/// Each example sends the same, but for times, ids and the exception's words.
fn is_the_shop(who: &str, exception: &str, traces: &BTreeMap<String, Trace>) {
    let spans: BTreeMap<&str, (&str, &str, &Shown)> = traces
        .iter()
        .flat_map(|(trace, spans)| spans.iter().map(|(id, span)| (span.name.as_str(), (trace.as_str(), id.as_str(), span))))
        .collect();
    assert_eq!(spans.len(), 5, "{who}: {spans:?}");
    let [order, call, charge, message, shipment] =
        ["POST /checkout", "POST", "POST /charge", "send orders", "process orders"].map(|name| spans[name]);
    for (span, parent, service, scope, kind, status, text) in [
        (order, "", "checkout", ("shop/checkout", "1.4.2"), "SERVER", "OK", ""),
        (call, order.1, "checkout", ("shop/checkout", "1.4.2"), "CLIENT", "ERROR", "payment answered 402"),
        (charge, call.1, "payment", ("shop/payment", "1.0.0"), "SERVER", "ERROR", "card \"4711\" is over its limit"),
        (message, order.1, "checkout", ("shop/checkout", "1.4.2"), "PRODUCER", "UNSET", ""),
        (shipment, "", "checkout", ("shop/checkout", "1.4.2"), "CONSUMER", "UNSET", ""),
    ] {
        let span = span.2;
        let found = (&*span.parent, &*span.service, (&*span.scope.0, &*span.scope.1), &*span.kind, &*span.status, &*span.message);
        assert_eq!(found, (parent, service, scope, kind, status, text), "{who}: {}", span.name);
        has(who, &span.attributes, &[("service.namespace", "shop"), ("deployment.environment.name", "example"), ("host.cpu.count", "4")]);
    }
    let one_trace: BTreeSet<&str> = [order, call, charge, message].map(|span| span.0).into();
    assert!(one_trace.len() == 1 && !one_trace.contains(shipment.0), "{who}");
    has(who, &order.2.attributes, &[
        ("http.response.status_code", "202"),
        ("customer.loyal", "true"),
        ("order.weight_kg", "1.25"),
        ("order.items", r#"["teapot","cup, small"]"#),
        ("order.quantities", "[1,6]"),
        ("customer.greeting", "Grüße, 茶 & \"tea\""),
        ("service.version", "2.3.1"),
    ]);
    has(who, &charge.2.attributes, &[("payment.amount", "129.95"), ("payment.retry", "false"), ("service.version", "0.9.0")]);
    assert_eq!(shipment.2.links, [(message.0.to_owned(), message.1.to_owned())], "{who}");
    let [(name, _, basket)] = &order.2.events[..] else { panic!("{who}: {order:?}") };
    assert_eq!(name, "basket.read", "{who}");
    has(who, basket, &[("basket.size", "2"), ("basket.cached", "true")]);
    let [(name, _, error)] = &charge.2.events[..] else { panic!("{who}: {charge:?}") };
    assert_eq!(name, "exception", "{who}");
    has(who, error, &[("exception.type", exception), ("exception.message", "card \"4711\" is over its limit")]);
    assert!(!error["exception.stacktrace"].is_empty(), "{who}");
}

fn has(who: &str, attributes: &BTreeMap<String, String>, expected: &[(&str, &str)]) {
    for (key, value) in expected {
        assert_eq!(attributes.get(*key).map(String::as_str), Some(*value), "{who}: {key}");
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A span with what it belongs to, and the schemas of both.
type Whole = ((Resource, String), (InstrumentationScope, String), Span);

/// Each span once, by id. Attributes are a set, and an absent message is an empty one.
pub fn whole<'a>(resources: impl Iterator<Item = &'a ResourceSpans>) -> Vec<Whole> {
    let sort = |attributes: &mut Vec<KeyValue>| attributes.sort_by(|a, b| a.key.cmp(&b.key));
    let mut spans = BTreeMap::new();
    for resource in resources {
        for scope in &resource.scope_spans {
            for span in &scope.spans {
                let mut span = span.clone();
                let mut of_span = (resource.resource.clone().unwrap_or_default(), scope.scope.clone().unwrap_or_default());
                span.status.get_or_insert_default();
                let lists = [&mut of_span.0.attributes, &mut of_span.1.attributes, &mut span.attributes].into_iter();
                let events = span.events.iter_mut().map(|event| &mut event.attributes);
                lists.chain(events).chain(span.links.iter_mut().map(|link| &mut link.attributes)).for_each(sort);
                let key = (span.trace_id.clone(), span.span_id.clone());
                let whole = ((of_span.0, resource.schema_url.clone()), (of_span.1, scope.schema_url.clone()), span);
                // A request that was sent again is no second span.
                spans.insert(key, whole);
            }
        }
    }
    spans.into_values().collect()
}

/// The trace in OTLP, to the last field.
pub async fn stored(server: &Server, id: &str) -> Vec<Whole> {
    stored_of(server, "", id).await
}

/// ... for a tenant, where there are several.
pub async fn stored_of(server: &Server, tenant: &str, id: &str) -> Vec<Whole> {
    let url = format!("http://{}/api/traces/{id}", server.address("api"));
    let get = reqwest::Client::new().get(url).header("accept", "application/protobuf");
    let get = if tenant.is_empty() { get } else { get.header("x-scope-orgid", tenant) };
    let body = get.send().await.unwrap().error_for_status().unwrap().bytes().await.unwrap();
    whole(TracesData::decode(body).unwrap().resource_spans.iter())
}
