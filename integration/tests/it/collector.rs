//! What passes through an OpenTelemetry Collector, and what `telemetrygen` sends, is what each query API shows.
//!
//! The Collector runs with the configuration of `docs/send-traces/collector`, on ports that the system chooses.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prost::Message;
use proto::otlp::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value::Value as Any},
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span, Status,
        span::{Event, Link, SpanKind},
        status::StatusCode,
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::{
    client::{Access, Client},
    sdks::{hex, run, settings, stored, whole},
    server::{Server, skipped, until},
    shown::{every_api_shows, sent},
    tap::Tap,
};

pub const COLLECTOR: &str = "SOSTENUTO_CLIENTS_COLLECTOR";
const TELEMETRYGEN: &str = "SOSTENUTO_CLIENTS_TELEMETRYGEN";
const CONFIGURATIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/send-traces/collector");
/// How long the Collector may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test]
async fn what_passes_through_a_collector_stays_as_it_was() {
    let Some(program) = env::var_os(COLLECTOR) else {
        skipped(format_args!("collector.rs: the Collector, because {COLLECTOR} is not set"));
        return;
    };
    let folder = TempDir::new().unwrap();
    let server = Server::start(&settings(&folder)).await;
    let environment = [
        ("SOSTENUTO_OTLP_GRPC", server.address("otlp_grpc")),
        ("SOSTENUTO_OTLP_HTTP", format!("http://{}", server.address("otlp_http"))),
    ];
    for (seed, exporter) in [(1, "otlp_grpc/sostenuto"), (2, "otlp_http/sostenuto")] {
        let collector = Collector::start(&program, folder.path(), "config.yaml", exporter, json!({}), &environment).await;
        let through = Client::new(&Access::default(), &server.address("api"), &collector.http, &collector.grpc);
        let (over_http, over_grpc) = (everything(2 * seed), everything(2 * seed + 1));
        through.push(over_http.encode_to_vec()).await;
        let answer = through.call("", &over_grpc.encode_to_vec()).await;
        assert_eq!(answer.status, 200);
        for (receiver, request) in [("HTTP", over_http), ("gRPC", over_grpc)] {
            let expected = whole(request.resource_spans.iter());
            let id = &expected[0].2.trace_id;
            until("the Collector has passed it on", async || through.trace(id).await.len() == expected.len()).await;
            let who = format!("from {receiver} to {exporter}");
            assert_eq!(stored(&server, &hex(id)).await, expected, "{who}");
            let traces = sent(&[request]);
            every_api_shows(&server, &who, &hex(id), &traces[&hex(id)], 0).await;
        }
        collector.stop().await;
    }
}

#[tokio::test]
async fn what_telemetrygen_sends_is_what_every_api_shows() {
    let Some(program) = env::var_os(TELEMETRYGEN) else {
        skipped(format_args!("collector.rs: telemetrygen, because {TELEMETRYGEN} is not set"));
        return;
    };
    let folder = TempDir::new().unwrap();
    let server = Server::start(&settings(&folder)).await;
    for (listener, protocol) in [("otlp_grpc", &[] as &[&str]), ("otlp_http", &["--otlp-http"])] {
        let tap = Tap::before(&server.address(listener)).await;
        let mut command: Vec<OsString> = vec![program.clone(), "traces".into(), "--otlp-endpoint".into(), tap.address.to_string().into()];
        let options = [
            "--otlp-insecure", "--traces", "3", "--child-spans", "4", "--span-links", "2", "--status-code", "Error",
            "--service", "generated", "--otlp-attributes", r#"cloud.region="north""#,
            "--telemetry-attributes", r#"shop.name="tea & more""#, "--telemetry-attributes", "shop.open=true",
        ];
        command.extend(options.iter().chain(protocol).map(Into::into));
        run(&command, &[]).await;
        let requests = tap.taken().await;
        let traces = sent(&requests);
        // How many of what it was told to send a version of it sends is its own affair.
        assert!(!traces.is_empty());
        for (id, trace) in &traces {
            assert!(trace.values().all(|span| span.service == "generated" && span.attributes["cloud.region"] == "north"), "{trace:?}");
            assert!(trace.values().any(|span| span.attributes["shop.name"] == "tea & more"), "{trace:?}");
            let mut expected = whole(requests.iter().flat_map(|request| &request.resource_spans));
            expected.retain(|(_, _, span)| hex(&span.trace_id) == *id);
            assert_eq!(stored(&server, id).await, expected, "telemetrygen over {listener}");
            every_api_shows(&server, &format!("telemetrygen over {listener}"), id, trace, 0).await;
        }
    }
}

pub struct Collector {
    child: Child,
    /// `host:port` of its receivers.
    pub http: String,
    pub grpc: String,
}

impl Collector {
    /// Passes everything on through one exporter of a configuration, with changes to it.
    pub async fn start(
        program: &OsString,
        folder: &Path,
        configuration: &str,
        exporter: &str,
        changes: Value,
        environment: &[(&str, String)],
    ) -> Self {
        let free = json!({ "endpoint": "127.0.0.1:0" });
        let own = json!({
            "receivers": { "otlp": { "protocols": { "grpc": free, "http": free } } },
            "service": {
                "telemetry": { "metrics": { "level": "none" }, "logs": { "encoding": "json" } },
                "pipelines": { "traces": { "exporters": [exporter] } },
            },
        });
        let mut command = Command::new(program);
        command.arg(format!("--config={CONFIGURATIONS}/{configuration}"));
        for (name, changes) in [("changes.yaml", changes), ("own.yaml", own)] {
            let file = folder.join(name);
            // JSON is YAML.
            fs::write(&file, changes.to_string()).unwrap();
            command.arg(format!("--config={}", file.display()));
        }
        let mut child = command
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {}: {error}", program.display()));
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (tell, mut told) = mpsc::unbounded_channel();
        // Reads to the end, or the Collector would wait for a reader some time.
        thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(tell.send(line))));
        let mut collector = Self { child, http: String::new(), grpc: String::new() };
        let mut log = vec![];
        let ready = async {
            while let Some(line) = told.recv().await {
                let event: Value = serde_json::from_str(&line).unwrap_or_default();
                let endpoint = event["endpoint"].as_str().unwrap_or_default().to_owned();
                match event["msg"].as_str().unwrap_or_default() {
                    "Starting HTTP server" => collector.http = endpoint,
                    "Starting GRPC server" => collector.grpc = endpoint,
                    text if text.starts_with("Everything is ready") => return true,
                    _ => log.push(line),
                }
            }
            false
        };
        let ready = tokio::time::timeout(PATIENCE, ready).await;
        assert!(ready == Ok(true), "the Collector does not start:\n{}", log.join("\n"));
        collector
    }

    /// SIGTERM; it ends well.
    pub async fn stop(mut self) {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success(), "{sent}");
        let mut status = None;
        until("the Collector ends", async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        assert!(status.unwrap().success(), "{status:?}");
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        // Either fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two spans of one trace with everything that OTLP has a field for.
pub fn everything(seed: u8) -> ExportTraceServiceRequest {
    let any = |value| Some(AnyValue { value: Some(value) });
    let text = |text: &str| Any::StringValue(text.to_owned());
    let attribute = |(key, value): (&str, Any)| KeyValue { key: key.to_owned(), value: any(value), ..Default::default() };
    let array = |values: Vec<Any>| {
        Any::ArrayValue(ArrayValue { values: values.into_iter().map(|value| AnyValue { value: Some(value) }).collect() })
    };
    let map = |pairs: Vec<(&str, Any)>| Any::KvlistValue(KeyValueList { values: pairs.into_iter().map(attribute).collect() });
    let values = vec![
        ("text", text("quotes \" and \\ and ünïcode 猫")),
        ("empty text", text("")),
        ("truth", Any::BoolValue(true)),
        ("largest", Any::IntValue(i64::MAX)),
        ("smallest", Any::IntValue(i64::MIN)),
        ("fraction", Any::DoubleValue(-0.1)),
        ("bytes", Any::BytesValue(vec![0, 1, 254, 255])),
        ("texts", array(vec![text("a"), text("b, c")])),
        ("mixed", array(vec![Any::IntValue(1), Any::BoolValue(false), array(vec![text("deep")])])),
        ("map", map(vec![("a", Any::IntValue(1)), ("b", map(vec![("c", text("d"))]))])),
    ];
    let attributes: Vec<KeyValue> = values.into_iter().map(attribute).collect();
    let some = |at: usize| attributes[at..=at].to_vec();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let start = u64::try_from(now.as_nanos()).unwrap() - 1_000_000_000;
    let trace_id = [u128::from(seed) << 64 | u128::from(start)].map(u128::to_be_bytes)[0].to_vec();
    let root = Span {
        trace_id: trace_id.clone(),
        span_id: vec![1; 8],
        trace_state: "vendor=value,other=1".to_owned(),
        flags: 0x101,
        name: "GET /{id}".to_owned(),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: start + 123_456_789,
        attributes: attributes.clone(),
        dropped_attributes_count: 1,
        events: vec![Event {
            time_unix_nano: start + 1001,
            name: "cache miss".to_owned(),
            attributes: some(3),
            dropped_attributes_count: 2,
        }],
        dropped_events_count: 3,
        links: vec![Link {
            trace_id: vec![7; 16],
            span_id: vec![8; 8],
            trace_state: "a=b".to_owned(),
            attributes: some(2),
            dropped_attributes_count: 4,
            flags: 0x100,
        }],
        dropped_links_count: 5,
        status: Some(Status { message: "out of tea".to_owned(), code: StatusCode::Error.into() }),
        ..Default::default()
    };
    let child = Span {
        trace_id,
        span_id: vec![2; 8],
        parent_span_id: root.span_id.clone(),
        name: "work".to_owned(),
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: start + 1000,
        end_time_unix_nano: start + 2000,
        status: Some(Status { message: String::new(), code: StatusCode::Ok.into() }),
        ..Default::default()
    };
    let of_resource = [attribute(("service.name", text("shop"))), attribute(("process.pid", Any::IntValue(42)))];
    let scope = InstrumentationScope {
        name: "shop-tracing".to_owned(),
        version: "1.2.3".to_owned(),
        attributes: some(0),
        dropped_attributes_count: 6,
    };
    let scope_spans =
        ScopeSpans { scope: Some(scope), spans: vec![root, child], schema_url: "https://opentelemetry.io/schemas/1.27.0".to_owned() };
    let resource = Resource { attributes: of_resource.to_vec(), dropped_attributes_count: 7, ..Default::default() };
    let schema_url = "https://opentelemetry.io/schemas/1.26.0".to_owned();
    ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { resource: Some(resource), scope_spans: vec![scope_spans], schema_url }] }
}
