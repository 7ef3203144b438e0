//! Traces go out of one server and into another, by files, and both answer the same.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    server::{Server, Settings, binary},
    spans::{TimeRange, request, trace_id, trace_spans},
};

const RUN: u64 = 47;
const TRACES: u64 = 60;

/// Runs a command of the program to its end.
async fn sostenuto(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(arguments).current_dir(folder).env_remove("SOSTENUTO_CONFIG").env_remove("SOSTENUTO_SERVER");
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The spans of all traces, and what questions are answered with.
async fn answers(server: &Server, range: TimeRange) -> BTreeMap<String, Value> {
    let (start, end) = (range.start_s.to_string(), range.end_s.to_string());
    let mut out = BTreeMap::new();
    for number in 0..TRACES {
        let mut spans = server.client.trace(&trace_id(RUN, number)).await;
        spans.sort_by(|a, b| a.span_id.cmp(&b.span_id));
        out.insert(format!("trace {number}"), format!("{spans:?}").into());
    }
    for query in ["{ }", "{ span.step > 2 }", "{ name = \"step 1\" } | count() > 1"] {
        let parameters =
            [("q", query.to_owned()), ("start", start.clone()), ("end", end.clone()), ("limit", "1000".to_owned())];
        let (status, body) = server.client.get("/api/search", &parameters).await;
        assert_eq!(status, 200, "{body}");
        out.insert(query.to_owned(), body["traces"].clone());
    }
    let query = "{ } | count_over_time() by (resource.service.name)".to_owned();
    let (status, body) =
        server.client.get("/api/metrics/query", &[("q", query.clone()), ("start", start), ("end", end)]).await;
    assert_eq!(status, 200, "{body}");
    let mut series: Vec<String> = body["series"].as_array().unwrap().iter().map(Value::to_string).collect();
    series.sort();
    out.insert(query, series.into());
    out
}

#[tokio::test]
async fn what_one_server_exports_another_answers() {
    let folder = TempDir::new().unwrap();
    let range = TimeRange::lately();
    let from = Server::start(&Settings::new(&folder.path().join("from"))).await;
    for number in 0..TRACES {
        let service = ["shop", "cart", "mail"][number as usize % 3];
        from.client.push(request(service, trace_spans(RUN, number, 0..number % 7 + 1, range))).await;
        if number == TRACES / 2 {
            from.client.flush().await;
        }
    }
    let expected = answers(&from, range).await;
    let (server, start, end) = (from.address("api"), range.start_s.to_string(), range.end_s.to_string());
    for (format, file) in [("otlp-json", "traces.jsonl.gz"), ("otlp-proto", "traces.bin")] {
        let output = sostenuto(
            folder.path(),
            &[
                "export", "{ }", "--server", &server, "--start", &start, "--end", &end, "--format", format, "--out",
                file,
            ],
        )
        .await;
        assert!(output.status.success() && text(&output).contains("60 traces"), "{}", text(&output));
        let to = Server::start(&Settings::new(&folder.path().join(format))).await;
        let endpoint = match format {
            "otlp-proto" => format!("grpc://{}", to.address("otlp_grpc")),
            _ => to.address("otlp_http"),
        };
        let import = ["import", file, "--to", &endpoint, "--state", &format!("{format}.state")];
        let output = sostenuto(folder.path(), &import).await;
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(answers(&to, range).await, expected, "{format}");
        // Once more it sends nothing; from the beginning it changes nothing.
        let output = sostenuto(folder.path(), &import).await;
        assert!(output.status.success() && text(&output).contains("0 spans stored"), "{}", text(&output));
        let output = sostenuto(folder.path(), &[&import[..], &["--restart"]].concat()).await;
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(answers(&to, range).await, expected, "{format}, twice");
    }
}

#[tokio::test]
async fn files_that_are_broken_in_part_say_so() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(&Settings::new(&folder.path().join("to"))).await;
    let good = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174","name":"a","startTimeUnixNano":"1544712660000000000","endTimeUnixNano":"1544712661000000000"}]}]}]}"#;
    // The second has an id that is none: the server refuses that span alone.
    let refused = good.replace("eee19b7ec3c1b174", "0000000000000000");
    fs::write(folder.path().join("a.jsonl"), format!("{good}\n{{\"resourceSpans\":[\n{refused}\n")).unwrap();
    let endpoint = server.address("otlp_http");
    let output = sostenuto(folder.path(), &["import", "a.jsonl", "--to", &endpoint]).await;
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("a.jsonl, line 2") && said.contains("1 spans stored") && said.contains("1 refused, 1 bad"),
        "{said}"
    );
    let id = [0x5b, 0x8e, 0xff, 0xf7, 0x98, 0x03, 0x81, 0x03, 0xd2, 0x69, 0xb6, 0x33, 0x81, 0x3f, 0xc6, 0x0c];
    assert_eq!(server.client.trace(&id).await.len(), 1);
    // What is typed wrong has an exit code of its own; what is counted only leaves nothing behind.
    assert_eq!(sostenuto(folder.path(), &["import", "a.jsonl", "--to", "::"]).await.status.code(), Some(2));
    let output = sostenuto(folder.path(), &["import", "a.jsonl", "--dry-run", "--state", "none"]).await;
    assert!(text(&output).contains("2 spans found") && !folder.path().join("none").exists(), "{}", text(&output));
    assert_eq!(
        sostenuto(folder.path(), &["export", "{ nonsense", "--format", "otlp-json", "--out", "x"]).await.status.code(),
        Some(2)
    );
}

/// A configuration with what installations have, 2.x and 3.x.
const TEMPO: &str = r#"
target: all
stream_over_http_enabled: true
server: {http_listen_port: 3200, log_level: info, log_format: logfmt, grpc_server_max_recv_msg_size: 16777216}
query_frontend:
  api_timeout: 30s
  search: {default_result_limit: 20, max_result_limit: 1000, max_spans_per_span_set: 50}
  metrics: {max_exemplars: 50, max_intervals: 5000}
  multi_tenant_queries_enabled: false
distributor:
  retry_after_on_resource_exhausted: 2s
  max_attribute_bytes: 4096
  receivers:
    jaeger: {protocols: {thrift_http: {endpoint: "0.0.0.0:14268"}, thrift_compact: , grpc: }}
    zipkin: {endpoint: "0.0.0.0:9411"}
    otlp: {protocols: {http: {endpoint: "0.0.0.0:4318"}, grpc: {endpoint: "${OTLP_ADDRESS:-0.0.0.0:4317}"}}}
ingester: {max_block_duration: 5m, trace_idle_period: 10s}
compactor: {compaction: {block_retention: 336h0m0s, compaction_window: 1h}}
backend_worker: {compaction: {block_retention: 48h}}
live_store: {wal: {path: /var/tempo/live-store}}
memberlist: {join_members: [tempo-gossip:7946]}
metrics_generator: {storage: {remote_write: [{url: "http://prometheus/api/v1/write"}]}}
storage:
  trace:
    backend: s3
    s3: {bucket: "${BUCKET:-traces}", endpoint: "minio:9000", region: eu-central-1, access_key: "${KEY:-key}", secret_key: "a$b", insecure: true, forcepathstyle: true}
    wal: {path: /var/tempo/wal}
    block: {version: vParquet4}
overrides:
  defaults: {ingestion: {rate_limit_bytes: 20000000, burst_size_bytes: "${BURST:-30000000}"}, global: {max_bytes_per_trace: 5000000}}
  per_tenant_override_config: /conf/overrides.yaml
usage_report: {reporting_enabled: false}
mistake: {of: mine}
"#;

#[tokio::test]
async fn a_configuration_of_tempo_becomes_one_that_loads() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("tempo.yaml"), TEMPO).unwrap();
    let output = sostenuto(folder.path(), &["migrate", "tempo", "tempo.yaml"]).await;
    let yaml = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(yaml.contains("mistake.of") && yaml.contains("${BUCKET:-traces}"), "{yaml}");
    fs::write(folder.path().join("ours.yaml"), &yaml).unwrap();
    let output = sostenuto(folder.path(), &["check-config", "--config.file=ours.yaml"]).await;
    assert!(output.status.success() && text(&output).contains("s3://traces/sostenuto"), "{}\n{yaml}", text(&output));
    // What is smallest and what is none.
    for (tempo, loads) in
        [("storage: {trace: {backend: local, local: {path: /tmp/tempo}}}", true), ("", true), ("- a", false)]
    {
        fs::write(folder.path().join("tempo.yaml"), tempo).unwrap();
        let output = sostenuto(folder.path(), &["migrate", "tempo", "tempo.yaml"]).await;
        assert_eq!(output.status.success(), loads, "{tempo}: {}", text(&output));
        if loads {
            fs::write(folder.path().join("ours.yaml"), &output.stdout).unwrap();
            let output = sostenuto(folder.path(), &["check-config", "--config.file=ours.yaml"]).await;
            assert!(output.status.success(), "{tempo}: {}", text(&output));
        }
    }
    // Limits of single tenants, in the file that the configuration names.
    let tenants = "overrides: {team-a: {ingestion: {rate_limit_bytes: 1000000}}, '5': {block_retention: 48h}, '*': {}}";
    fs::write(folder.path().join("tempo.yaml"), tenants).unwrap();
    let output = sostenuto(folder.path(), &["migrate", "tempo-overrides", "tempo.yaml"]).await;
    assert!(output.status.success(), "{}", text(&output));
    fs::write(folder.path().join("tenants.yaml"), &output.stdout).unwrap();
    fs::write(folder.path().join("ours.yaml"), "overrides: {per_tenant_override_config: tenants.yaml}").unwrap();
    let output = sostenuto(folder.path(), &["check-config", "--config.file=ours.yaml"]).await;
    assert!(output.status.success(), "{}", text(&output));
    fs::write(folder.path().join("tenants.yaml"), "overrides: {team-a: {ingestion: {rate: 5}}}").unwrap();
    let output = sostenuto(folder.path(), &["check-config", "--config.file=ours.yaml"]).await;
    assert!(!output.status.success() && text(&output).contains("tenants.yaml"), "{}", text(&output));
}
