//! What Grafana needs of a data source, checked on the real program; where its own packages can judge, they do.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::OsString,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use prost::Message;
use proto::{
    otlp::{
        collector::trace::v1::ExportTraceServiceRequest,
        common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value as Any},
        resource::v1::Resource,
        trace::v1::{
            ResourceSpans, ScopeSpans, Span,
            span::{Event, Link},
        },
    },
    tempopb::{SearchRequest, TraceByIdResponse, streaming_querier_client::StreamingQuerierClient},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    sdks::{hex, run},
    server::{Server, Settings, skipped},
    spans::{TimeRange, request, trace_id, trace_spans},
};

/// `contract.cjs` of `integration/clients/grafana`, with its packages beside it.
const CONTRACT: &str = "SOSTENUTO_CLIENTS_GRAFANA";
const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const FOR_AGENTS: &str = "crates/api/src/mcp/docs";
const RUN: u64 = 77;
/// What a message of a stream has at most, and what a streamed search has if it names no limit.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
const LIMIT_DEFAULT: usize = 20;

fn contract() -> Option<OsString> {
    let script = env::var_os(CONTRACT);
    if script.is_none() {
        skipped(format_args!("grafana.rs: Grafana's own packages, because {CONTRACT} is not set"));
    }
    script
}

/// Where Grafana's grammar of TraceQL finds an error in each of the queries.
fn grammar(script: &OsString, queries: &[String]) -> Vec<Vec<u64>> {
    let mut node = Command::new("node").arg(script).arg("parse").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    node.stdin.take().unwrap().write_all(&serde_json::to_vec(queries).unwrap()).unwrap();
    let output = node.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Every query in our documents and configurations, with where it stands: what `sostenuto query` is asked, rules of
/// retention, blocks of code in TraceQL, and what agents are told, where a remark may follow behind three blanks.
fn written_queries() -> Vec<(String, String)> {
    let mut files: Vec<PathBuf> = vec![];
    let mut folders: Vec<PathBuf> = ["docs", "config", "deploy", FOR_AGENTS].map(|folder| Path::new(REPOSITORY).join(folder)).into();
    files.push(Path::new(REPOSITORY).join("README.md"));
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            match path.extension().and_then(|extension| extension.to_str()) {
                _ if kind.is_dir() && !path.ends_with("node_modules") => folders.push(path),
                Some("md" | "yaml") if kind.is_file() => files.push(path),
                _ => {}
            }
        }
    }
    files.sort();
    let mut queries = vec![];
    for file in files {
        let mut in_block = false;
        let for_agents = file.parent().is_some_and(|folder| folder.ends_with(FOR_AGENTS));
        for (number, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
            let mut add = |query: &str| queries.push((format!("{}:{}", file.display(), number + 1), query.to_owned()));
            if line.starts_with("```") {
                in_block = line == "```traceql";
            } else if in_block && !line.is_empty() {
                add(line);
            } else if for_agents && line.starts_with("    {") {
                add(line.trim_start().split("   ").next().unwrap());
            } else if let Some((_, rest)) = line.split_once("query '{").or_else(|| line.split_once("query: '{"))
                && let Some((query, _)) = rest.split_once('\'')
                // Grafana's own placeholders are no TraceQL.
                && !query.contains('$')
            {
                add(&format!("{{{query}"));
            }
        }
    }
    queries
}

#[tokio::test]
async fn every_query_of_our_documents_is_answered_and_is_one_for_grafana() {
    let written = written_queries();
    assert!(written.len() >= 30, "{written:?}");
    let folder = TempDir::new().unwrap();
    let server = Server::start(&Settings::new(folder.path())).await;
    for (place, query) in &written {
        is_answered(&server, query, place).await;
    }
    let Some(script) = contract() else { return };
    let queries: Vec<String> = written.iter().map(|(_, query)| query.clone()).collect();
    for ((place, query), errors) in written.iter().zip(grammar(&script, &queries)) {
        assert!(errors.is_empty(), "{place}: Grafana's editor marks {query} at {errors:?}");
    }
}

/// What the editor of Grafana offers while one types.
#[tokio::test]
async fn every_query_that_grafanas_editor_offers_is_answered() {
    let mut queries: Vec<String> = vec![];
    let texts = ["name", "rootName", "rootServiceName", "statusMessage", "event:name", "instrumentation:name", "instrumentation:version",
        "span:name", "span:statusMessage", "trace:rootName", "trace:rootService", "trace:id", "span:id", "span:parentID", "link:spanID",
        "link:traceID"];
    queries.extend(texts.iter().flat_map(|name| ["=", "!=", "=~", "!~"].map(|op| format!("{{ {name} {op} \"ab\" }}"))));
    let durations = ["duration", "traceDuration", "span:duration", "trace:duration", "event:timeSinceStart"];
    queries.extend(durations.iter().flat_map(|name| ["=", "!=", ">", ">=", "<", "<="].map(|op| format!("{{ {name} {op} 1.5ms }}"))));
    for (names, values) in [
        (["kind", "span:kind"], &["server", "client", "producer", "consumer", "internal", "unspecified"] as &[&str]),
        (["status", "span:status"], &["ok", "error", "unset"]),
    ] {
        queries.extend(names.iter().flat_map(|name| values.iter().map(move |value| format!("{{ {name} = {value} }}"))));
    }
    let scopes = [".", "span.", "resource.", "parent.", "event.", "link.", "instrumentation."];
    queries.extend(scopes.iter().flat_map(|scope| ["a", "\"b c\""].map(|name| format!("{{ {scope}{name} != nil }}"))));
    let structure = [">>", ">", "<<", "<", "~", "&>>", "&>", "&<<", "&<", "&~", "!>>", "!>", "!<<", "!<", "!~", "&&", "||"];
    queries.extend(structure.iter().map(|op| format!("{{ span.a = 1 }} {op} {{ span.b = true }}")));
    queries.extend(["+", "-", "*", "/"].iter().map(|op| format!("{{ span.a {op} 2 > 3 }}")));
    for pipeline in [
        "count() > 1", "avg(duration) > 1ms", "max(duration) > 1ms", "min(span.a) < 3", "sum(span.a) >= 3", "by(resource.service.name)",
        "by(name) | count() > 1", "select(span.a, resource.b) with(most_recent=true)", "rate()", "rate() by(resource.service.name)",
        "count_over_time()", "min_over_time(duration)", "max_over_time(duration)", "avg_over_time(duration)", "sum_over_time(span.a)",
        "histogram_over_time(duration)", "quantile_over_time(duration, 0.5, 0.99)", "compare({ status = error })", "rate() by(name) | topk(3)",
        "rate() by(name) | bottomk(3)",
    ] {
        queries.push(format!("{{ resource.service.name = \"shop\" }} | {pipeline}"));
    }
    let folder = TempDir::new().unwrap();
    let server = Server::start(&Settings::new(folder.path())).await;
    server.client.push(request("shop", trace_spans(RUN, 1, 0..3, TimeRange::lately()))).await;
    for query in &queries {
        is_answered(&server, query, "the editor").await;
    }
    let Some(script) = contract() else { return };
    for (query, errors) in queries.iter().zip(grammar(&script, &queries)) {
        assert!(errors.is_empty(), "Grafana's editor does not offer {query}: {errors:?}");
    }
}

/// Asks it as Grafana would: by the names of metrics functions.
async fn is_answered(server: &Server, query: &str, place: &str) {
    let metrics = ["rate(", "_over_time(", "compare("].iter().any(|function| query.contains(function));
    let path = if metrics { "/api/metrics/query_range" } else { "/api/search" };
    let (status, body) = server.client.get(path, &[("q", query.to_owned())]).await;
    assert_eq!(status, 200, "{place}: {query}: {body}");
}

#[tokio::test]
async fn answers_become_data_frames() {
    let Some(script) = contract() else { return };
    let folder = TempDir::new().unwrap();
    let server = Server::start(&Settings::new(folder.path())).await;
    let range = TimeRange::lately();
    for number in 0..5 {
        server.client.push(request("shop", trace_spans(RUN, number, 0..4, range))).await;
    }
    let api = format!("http://{}", server.address("api"));
    let command = ["node".into(), script, "frames".into(), api.into(), range.start_s.to_string().into(), range.end_s.to_string().into()];
    run(&command, &[]).await;
}

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(Any::StringValue(value.to_owned())) }) }
}

#[tokio::test]
async fn a_trace_has_all_that_grafana_looks_into() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(&Settings::new(folder.path())).await;
    let range = TimeRange::lately();
    let start = range.start_s * 1_000_000_000;
    let bare = |span: u8, end: u64| Span {
        trace_id: [vec![0; 14], vec![0xa, 0xbc]].concat(),
        span_id: vec![span; 8],
        name: "bare".to_owned(),
        start_time_unix_nano: start,
        end_time_unix_nano: end,
        ..Span::default()
    };
    let without = |resource, span| ResourceSpans {
        resource,
        scope_spans: vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }],
        ..ResourceSpans::default()
    };
    let resource_spans = vec![without(None, bare(1, start + 5)), without(Some(Resource::default()), bare(2, start - 1_000_000_000))];
    server.client.push(ExportTraceServiceRequest { resource_spans }.encode_to_vec()).await;
    for flushed in [false, true] {
        if flushed {
            server.client.flush().await;
        }
        // As search results show it, with an odd number of digits, in capitals, and padded.
        for id in ["abc", "ABC", "0abc", "00000000000000000000000000000abc"] {
            let url = format!("http://{}/api/v2/traces/{id}", server.address("api"));
            let answer = reqwest::Client::new().get(url).header("accept", "application/protobuf").send().await.unwrap();
            assert_eq!((answer.status().as_u16(), &answer.headers()["content-type"]), (200, &"application/protobuf".parse().unwrap()));
            let answer = TraceByIdResponse::decode(answer.bytes().await.unwrap()).unwrap();
            let mut spans = 0;
            for batch in &answer.trace.as_ref().unwrap().resource_spans {
                let resource = batch.resource.as_ref().unwrap();
                assert!(resource.attributes.iter().any(|attribute| attribute.key == "service.name"), "{id}: {resource:?}");
                for scope in &batch.scope_spans {
                    assert!(scope.scope.is_some(), "{id}");
                    for span in &scope.spans {
                        spans += 1;
                        assert_eq!((span.trace_id.len(), span.span_id.len()), (16, 8), "{id}");
                        assert!(span.status.is_some() && span.end_time_unix_nano >= span.start_time_unix_nano, "{id}: {span:?}");
                    }
                }
            }
            assert_eq!(spans, 2, "{id}");
        }
    }
    // Bounds far from the trace are bounds; Grafana's Jaeger data source writes them in milliseconds.
    let path = |start: u64, end: u64| format!("/jaeger/api/traces/abc?start={start}&end={end}");
    let (status, found) = server.client.get(&path(range.start_s * 1000, range.end_s * 1000), &[]).await;
    assert_eq!((status, found["data"][0]["spans"].as_array().map(Vec::len)), (200, Some(2)), "{found}");
}

#[tokio::test]
async fn names_are_listed_by_scope_and_asked_for_as_grafana_writes_them() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(&Settings::new(folder.path())).await;
    let names = ["plain", "with space", "sla/sh", "co:lon", "quo\"te", "per % cent", "ünïcode"];
    let attributes = |scope: &str| names.map(|name| text(name, scope)).to_vec();
    let [mut span] = <[Span; 1]>::try_from(trace_spans(RUN, 1, 0..1, TimeRange::lately())).unwrap();
    span.attributes = attributes("span");
    span.events = vec![Event { attributes: attributes("event"), time_unix_nano: span.start_time_unix_nano, ..Event::default() }];
    span.links = vec![Link { attributes: attributes("link"), trace_id: trace_id(RUN, 2), span_id: vec![1; 8], ..Link::default() }];
    let scope = InstrumentationScope { attributes: attributes("instrumentation"), ..InstrumentationScope::default() };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans: vec![span], ..ScopeSpans::default() }];
    let resource = Some(Resource { attributes: attributes("resource"), ..Resource::default() });
    let resource_spans = vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }];
    server.client.push(ExportTraceServiceRequest { resource_spans }.encode_to_vec()).await;

    let (status, body) = server.client.get("/api/v2/search/tags", &[("limit", "5000".to_owned())]).await;
    assert_eq!(status, 200, "{body}");
    let listed: BTreeMap<&str, BTreeSet<&str>> = body["scopes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|scope| {
            let tags = scope["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap());
            (scope["name"].as_str().unwrap(), tags.collect())
        })
        .collect();
    for scope in ["resource", "span", "event", "link", "instrumentation"] {
        assert_eq!(listed[scope], BTreeSet::from(names), "{scope}");
        for name in names {
            let identifier = match name {
                "plain" => format!("{scope}.{name}"),
                quoted => format!("{scope}.\"{}\"", quoted.replace('"', "\\\"")),
            };
            // Once, and twice as some versions do.
            let once = percent_encoded(&identifier);
            for tag in [&once, &percent_encoded(&once)] {
                let (status, body) = server.client.get(&format!("/api/v2/search/tag/{tag}/values"), &[]).await;
                assert_eq!((status, &body["tagValues"]), (200, &json!([{ "type": "string", "value": scope }])), "{tag}: {body}");
            }
        }
    }
    for intrinsic in ["duration", "name", "status", "kind", "rootName", "rootServiceName", "trace:id", "span:status"] {
        assert!(listed["intrinsic"].contains(intrinsic), "{intrinsic}");
    }
}

fn percent_encoded(text: &str) -> String {
    text.bytes().map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[tokio::test]
async fn a_streamed_search_has_a_limit_and_messages_that_grafana_takes() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(&Settings::new(folder.path()).with("distributor.max_attribute_bytes", 0)).await;
    let range = TimeRange::lately();
    const TRACES: u64 = 40;
    for number in 0..TRACES {
        let mut spans = trace_spans(RUN, number, 0..5, range);
        spans.iter_mut().for_each(|span| span.attributes = vec![text("long", &"x".repeat(20_000))]);
        server.client.push(request("shop", spans)).await;
    }
    let mut client = StreamingQuerierClient::connect(format!("http://{}", server.address("api"))).await.unwrap();
    for (limit, expected) in [(0, LIMIT_DEFAULT), (TRACES as u32, TRACES as usize)] {
        let asked = SearchRequest {
            query: "{} | select(span.long)".to_owned(),
            start: range.start_s as u32,
            end: range.end_s as u32,
            limit,
            ..SearchRequest::default()
        };
        let mut stream = client.search(asked).await.unwrap().into_inner();
        let mut ids = BTreeSet::new();
        while let Some(message) = stream.message().await.unwrap() {
            assert!(message.encoded_len() <= MESSAGE_BYTES_MAX && message.metrics.is_some(), "{} bytes", message.encoded_len());
            for trace in message.traces {
                // No number of spans is all of them.
                assert_eq!((trace.span_sets.len(), trace.span_sets[0].spans.len()), (1, 5), "{}", trace.trace_id);
                assert!(ids.insert(trace.trace_id), "sent twice");
            }
        }
        assert_eq!(ids.len(), expected, "limit {limit}");
    }
}

#[tokio::test]
async fn the_data_sources_that_we_provision_are_there() {
    let file = fs::read_to_string(Path::new(REPOSITORY).join("deploy/grafana/datasources.yaml")).unwrap();
    let folder = TempDir::new().unwrap();
    let server = Server::start(&Settings::new(folder.path())).await;
    server.client.push(request("shop", trace_spans(RUN, 1, 0..2, TimeRange::lately()))).await;
    let id = hex(&trace_id(RUN, 1));
    // What "Save & test" asks, and a trace.
    for (kind, base, asked) in [
        ("tempo", "http://localhost:3200", ["/api/echo".to_owned(), format!("/api/v2/traces/{id}")]),
        ("jaeger", "http://localhost:3200/jaeger", ["/api/services".to_owned(), format!("/api/traces/{id}")]),
        ("zipkin", "http://localhost:3200/zipkin", ["/api/v2/services".to_owned(), format!("/api/v2/trace/{id}")]),
    ] {
        let source = format!("    type: {kind}\n    access: proxy\n    url: {base}\n");
        assert!(file.contains(&source), "deploy/grafana/datasources.yaml has no such source:\n{source}");
        for path in asked {
            let path = format!("{}{path}", base.trim_start_matches("http://localhost:3200"));
            let (status, body) = server.client.get(&path, &[]).await;
            assert_eq!(status, 200, "{path}: {body}");
            assert_ne!(body, Value::Null);
        }
    }
}
