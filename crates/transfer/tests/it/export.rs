//! Exports from a server that is made up: pages, partial answers, traces that are gone.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use arrow::array::AsArray;
use axum::{
    Json, Router,
    extract::{Path as UrlPath, Query},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use prost::Message;
use proto::{
    otlp::{
        collector::trace::v1::ExportTraceServiceRequest,
        trace::v1::{ResourceSpans, TracesData},
    },
    tempopb::{PartialStatus, TraceByIdResponse},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use transfer::{
    HttpOptions, TransferError,
    export::{ExportOptions, Format, Progress, export},
};

use crate::{
    endpoint::{Endpoint, run},
    tempo::trace,
};

/// The page that the server gives; what is asked for is larger.
const PAGE: usize = 3;

#[derive(Default)]
struct Told {
    /// Trace numbers that are gone, and those of which a part is missing.
    gone: Vec<u8>,
    partial: Vec<u8>,
    /// Searches that are told to come again first.
    busy: usize,
    asked: Vec<HashMap<String, String>>,
}

struct Server {
    url: String,
    told: Arc<Mutex<Told>>,
}

impl Server {
    /// Of traces `1..=count`, the highest being the newest.
    async fn start(count: u8, told: Told) -> Self {
        let told = Arc::new(Mutex::new(told));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/tempo", listener.local_addr().unwrap());
        let (of_search, of_trace) = (told.clone(), told.clone());
        let search = move |Query(parameters): Query<HashMap<String, String>>| {
            std::future::ready(search(count, parameters, &mut of_search.lock().unwrap()))
        };
        let by_id = move |UrlPath(id): UrlPath<String>| std::future::ready(by_id(&id, &of_trace.lock().unwrap()));
        let app = Router::new().route("/tempo/api/search", get(search)).route("/tempo/api/v2/traces/{id}", get(by_id));
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, told }
    }

    fn options(&self, format: Format, out: &Path) -> ExportOptions {
        ExportOptions {
            server: HttpOptions {
                url: self.url.clone(),
                tenant: None,
                headers: vec![],
                authorities: vec![],
                patience: std::time::Duration::from_secs(60),
            },
            query: "{ status = error }".to_owned(),
            start_s: 100,
            end_s: 200,
            format,
            out: out.to_owned(),
            concurrency: 2,
        }
    }

    async fn export(&self, format: Format, out: &Path) -> Result<Progress, TransferError> {
        export(&self.options(format, out), &mut |_| {}).await
    }
}

fn search(count: u8, parameters: HashMap<String, String>, told: &mut Told) -> Response {
    if told.busy > 0 {
        told.busy -= 1;
        return (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "0")]).into_response();
    }
    let newest = parameters.get("after").map_or(count, |after| after.parse().unwrap());
    told.asked.push(parameters);
    // The newest of the last page comes again: it became longer.
    let again = (newest < count).then_some(newest + 1);
    let fresh = (1..=newest).rev().take(PAGE);
    let traces: Vec<Value> = again.into_iter().chain(fresh).map(|number| {
        json!({ "traceID": format!("{:032x}", u128::from_be_bytes([number; 16])), "startTimeUnixNano": "150000000000" })
    }).collect();
    let mut answer = Json(json!({ "traces": traces, "metrics": {} })).into_response();
    if let Some(next) = newest.checked_sub(PAGE as u8).filter(|next| *next > 0) {
        answer.headers_mut().insert("sostenuto-next", next.to_string().parse().unwrap());
    }
    answer
}

fn by_id(id: &str, told: &Told) -> Response {
    let number = u128::from_str_radix(id, 16).unwrap().to_be_bytes()[0];
    if told.gone.contains(&number) {
        return StatusCode::NOT_FOUND.into_response();
    }
    let partial = told.partial.contains(&number);
    let status = if partial { PartialStatus::Partial } else { PartialStatus::Complete };
    let trace = TracesData { resource_spans: trace(number).resource_spans };
    let message = if partial { "a block is missing".to_owned() } else { String::new() };
    TraceByIdResponse { trace: Some(trace), status: status.into(), message, ..Default::default() }
        .encode_to_vec()
        .into_response()
}

fn expected(count: u8) -> Vec<ResourceSpans> {
    (1..=count).rev().flat_map(|number| trace(number).resource_spans).collect()
}

#[tokio::test]
async fn every_trace_is_written_once_and_read_back() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(8, Told { busy: 2, ..Told::default() }).await;
    for (format, name) in [
        (Format::OtlpJson, "a.jsonl"),
        (Format::OtlpJson, "a.jsonl.gz"),
        (Format::OtlpProto, "a.bin"),
        (Format::OtlpProto, "a.bin.zst"),
    ] {
        let out = folder.path().join(name);
        let progress = server.export(format, &out).await.unwrap();
        assert_eq!((progress.traces, progress.spans, progress.is_complete()), (8, 24, true), "{name}");
        assert!(!folder.path().join(format!("{name}.part")).exists());
        // What is imported again is what there was.
        let endpoint = Endpoint::start([]).await;
        let mut options = endpoint.options(folder.path(), &[&out]);
        options.restart = true;
        assert_eq!(run(&options).await.0.unwrap().accepted, 24, "{name}");
        assert_eq!(endpoint.resources(), expected(8), "{name}");
    }
    let told = server.told.lock().unwrap();
    let first = &told.asked[0];
    assert_eq!(
        (first["q"].as_str(), first["start"].as_str(), first["end"].as_str()),
        ("{ status = error }", "100", "200")
    );
    assert_eq!(told.asked.len(), 4 * 3, "three pages each");
}

#[tokio::test]
async fn jaegers_answer_is_one_document() {
    let folder = TempDir::new().unwrap();
    for count in [1, 2] {
        let server = Server::start(count, Told::default()).await;
        let out = folder.path().join("a.json");
        server.export(Format::JaegerJson, &out).await.unwrap();
        let answer: Value = serde_json::from_slice(&fs::read(&out).unwrap()).unwrap();
        assert_eq!(answer["data"].as_array().unwrap().len(), usize::from(count));
        assert_eq!(answer["data"][0]["spans"].as_array().unwrap().len(), 3);
        let endpoint = Endpoint::start([]).await;
        let mut options = endpoint.options(folder.path(), &[&out]);
        options.restart = true;
        assert_eq!(run(&options).await.0.unwrap().accepted, u64::from(count) * 3);
    }
}

#[tokio::test]
async fn a_table_has_a_row_for_each_span() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(5, Told::default()).await;
    let out = folder.path().join("a.parquet");
    assert_eq!(server.export(Format::Parquet, &out).await.unwrap().spans, 15);
    let batches: Vec<_> = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(&out).unwrap())
        .unwrap()
        .build()
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 15);
    let text =
        |name: &str, row: usize| batches[0].column_by_name(name).unwrap().as_string::<i32>().value(row).to_owned();
    assert_eq!((text("trace_id", 0), text("span_id", 0)), ("05".repeat(16), "05".repeat(8)));
    assert_eq!(
        (text("service_name", 0), text("name", 0), text("trace_state", 0)),
        ("shop".into(), "GET /cart".into(), "a=1,b=2".into())
    );
    assert_eq!(
        (text("parent_span_id", 1), text("scope_name", 1), text("events", 1)),
        ("05".repeat(8), "b".into(), "[]".into())
    );
    // Put together again it is the span that it was.
    let row = |name| text(name, 0);
    let json = format!(
        r#"{{"resourceSpans":[{{"resource":{},"scopeSpans":[{{"scope":{},"spans":[{{"attributes":{},"events":{},"links":{}}}]}}]}}]}}"#,
        row("resource"),
        row("scope"),
        row("attributes"),
        row("events"),
        row("links")
    );
    let again: ExportTraceServiceRequest = proto::otlp_json::decode(json.as_bytes()).unwrap();
    let (found, wanted) = (&again.resource_spans[0], &trace(5).resource_spans[0]);
    assert_eq!(found.resource, wanted.resource);
    assert_eq!(found.scope_spans[0].scope, wanted.scope_spans[0].scope);
    let (found, wanted) = (&found.scope_spans[0].spans[0], &wanted.scope_spans[0].spans[0]);
    assert_eq!((&found.attributes, &found.events, &found.links), (&wanted.attributes, &wanted.events, &wanted.links));
}

#[tokio::test]
async fn what_is_missing_is_said() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("a.jsonl");
    let server = Server::start(5, Told { gone: vec![2], partial: vec![4], ..Told::default() }).await;
    let progress = server.export(Format::OtlpJson, &out).await.unwrap();
    assert_eq!((progress.traces, progress.gone, progress.is_complete()), (4, 1, false));
    assert!(progress.lacks.unwrap().contains("a block is missing"));
    // A file under its name is always whole.
    let nobody = Server { url: "http://127.0.0.1:9".to_owned(), told: Arc::default() };
    let other = folder.path().join("b.jsonl");
    let mut options = nobody.options(Format::OtlpJson, &other);
    options.server.patience = std::time::Duration::ZERO;
    assert!(export(&options, &mut |_| {}).await.is_err());
    assert!(!other.exists());
}
