//! Writes the traces that a query finds to a file.
//!
//! A server of ours sends them as one stream ([`stream`]), as they were received. From another Tempo-compatible server they
//! are fetched one by one: it pages through the search and fetches each trace whole, some at once, the newest first. In
//! memory are a page of ids and the traces under way.

mod parquet;
mod sink;
mod stream;

use std::{
    collections::HashSet,
    path::PathBuf,
    time::{Duration, Instant},
};

use futures::StreamExt;
use model::TraceId;
use prost::Message;
use proto::{
    otlp::trace::v1::TracesData,
    tempopb::{PartialStatus, TraceByIdResponse},
};
use serde::Deserialize;

use crate::{
    TransferError,
    http::{Http, HttpOptions},
};
use sink::Sink;

/// Ids that are asked for at once.
const PAGE_TRACES: usize = 500;
/// Ids that are remembered so that a trace is not written twice; above it, one may be.
const KNOWN_MAX: usize = 2 << 20;
/// Where a page says how the next is asked for.
const NEXT: &str = "sostenuto-next";
/// Where an answer says what it lacks.
const PARTIAL: &str = "sostenuto-partial";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A request a line, as the Collector's file exporter writes it.
    OtlpJson,
    /// Requests with their length in four bytes in front, as the Collector's file exporter writes them.
    OtlpProto,
    /// An answer of Jaeger's query API, as Jaeger UI reads it from a file.
    JaegerJson,
    /// A row for each span.
    Parquet,
}

#[derive(Clone, Debug)]
pub struct ExportOptions {
    pub server: HttpOptions,
    /// TraceQL.
    pub query: String,
    /// Unix seconds; the end is exclusive. A trace belongs to it as it does to a search.
    pub start_s: u64,
    pub end_s: u64,
    pub format: Format,
    /// Written under another name until it is whole. A name that ends in `.gz` or `.zst` is compressed.
    pub out: PathBuf,
    /// Traces under way at once.
    pub concurrency: usize,
}

#[derive(Clone, Debug, Default)]
pub struct Progress {
    pub traces: u64,
    pub spans: u64,
    /// Of the file, before compression.
    pub bytes: u64,
    pub repeated: u64,
    /// Traces that the search found and that were gone when they were fetched.
    pub gone: u64,
    /// What the server said that its answers lack; the first of it.
    pub lacks: Option<String>,
    pub elapsed: Duration,
    /// How much of all is done, 0 to 1.
    pub share: f64,
}

impl Progress {
    /// Whether everything that there was is in the file.
    pub fn is_complete(&self) -> bool {
        self.lacks.is_none() && self.gone == 0
    }

    fn wrote(&mut self, bytes: u64, spans: u64) {
        self.bytes += bytes;
        self.traces += 1;
        self.spans += spans;
    }

    fn lacks(&mut self, what: &str) {
        self.lacks.get_or_insert_with(|| what.to_owned());
    }
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    traces: Vec<Found>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    #[serde(rename = "traceID")]
    trace_id: String,
    #[serde(default)]
    start_time_unix_nano: String,
}

struct Fetched {
    trace: TracesData,
    start_unix_nano: u64,
    repeated: u64,
    lacks: Option<String>,
}

pub async fn export(
    options: &ExportOptions,
    tell: &mut (dyn FnMut(&Progress) + Send),
) -> Result<Progress, TransferError> {
    let mut progress = Progress::default();
    let server = Http::new(&options.server)?;
    let began = Instant::now();
    let mut sink = Sink::create(options.format, &options.out)?;
    if !stream::traces(&server, options, &mut sink, &mut progress, tell).await? {
        one_by_one(&server, options, &mut sink, &mut progress, tell).await?;
    }
    sink.finish()?;
    progress.elapsed = began.elapsed();
    Ok(progress)
}

async fn one_by_one(
    server: &Http,
    options: &ExportOptions,
    sink: &mut Sink,
    progress: &mut Progress,
    tell: &mut (dyn FnMut(&Progress) + Send),
) -> Result<(), TransferError> {
    let began = Instant::now();
    let mut after: Option<String> = None;
    // A trace that grew at its beginning between two pages may come again.
    let mut known: HashSet<u128> = HashSet::new();
    loop {
        let (page, next) = search(server, options, after.as_deref(), progress).await?;
        if known.len() + page.len() > KNOWN_MAX {
            known.clear();
        }
        let id = |found: &Found| TraceId::parse(&found.trace_id).unwrap_or_default().as_u128();
        let fresh = page.into_iter().filter(|found| known.insert(id(found)));
        let fetches: Vec<_> = fresh.map(|found| fetch(server, found)).collect();
        let mut traces = futures::stream::iter(fetches).buffered(options.concurrency.max(1));
        while let Some(fetched) = traces.next().await {
            let Fetched { trace, start_unix_nano, repeated, lacks } = fetched?;
            progress.repeated += repeated;
            lacks.iter().for_each(|what| progress.lacks(what));
            // How far back it came, in time, is how much is done.
            let reached_s = (start_unix_nano / 1_000_000_000).clamp(options.start_s, options.end_s);
            progress.share = (options.end_s - reached_s) as f64 / (options.end_s - options.start_s).max(1) as f64;
            progress.elapsed = began.elapsed();
            match span_count(&trace) {
                0 => progress.gone += 1,
                spans => progress.wrote(sink.write(trace)?, spans),
            }
            tell(progress);
        }
        match next {
            Some(next) if Some(&next) != after.as_ref() => after = Some(next),
            _ => return Ok(()),
        }
    }
}

fn span_count(trace: &TracesData) -> u64 {
    trace.resource_spans.iter().flat_map(|resource| &resource.scope_spans).map(|scope| scope.spans.len() as u64).sum()
}

async fn search(
    server: &Http,
    options: &ExportOptions,
    after: Option<&str>,
    progress: &mut Progress,
) -> Result<(Vec<Found>, Option<String>), TransferError> {
    let url = below(server, &["api", "search"]);
    let limit = PAGE_TRACES.to_string();
    let (start, end) = (options.start_s.to_string(), options.end_s.to_string());
    let mut parameters =
        vec![("q", options.query.as_str()), ("start", &start), ("end", &end), ("limit", &limit), ("spss", "1")];
    parameters.extend(after.map(|after| ("after", after)));
    let answer = server
        .send(|client| client.get(url.clone()).query(&parameters).header("accept", "application/json").build())
        .await?;
    progress.repeated += answer.repeated;
    let header = |name: &str| {
        let value = answer.headers.get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    if let Some(lacks) = header(PARTIAL) {
        progress.lacks(&lacks);
    }
    let page: Page = serde_json::from_slice(&answer.body)
        .map_err(|error| TransferError::Answer { url: url.to_string(), reason: error.to_string() })?;
    let next = header(NEXT);
    if next.is_none() && page.traces.len() >= PAGE_TRACES {
        progress.lacks("the server has no further pages to give; name a shorter time with --start and --end");
    }
    Ok((page.traces, next))
}

async fn fetch(server: &Http, found: Found) -> Result<Fetched, TransferError> {
    let url = below(server, &["api", "v2", "traces", &found.trace_id]);
    let start_unix_nano = found.start_time_unix_nano.parse().unwrap_or(0);
    let sent = server.send(|client| client.get(url.clone()).header("accept", "application/protobuf").build()).await;
    let answer = match sent {
        Err(TransferError::Refused { status: 404, .. }) => {
            return Ok(Fetched { trace: TracesData::default(), start_unix_nano, repeated: 0, lacks: None });
        }
        answer => answer?,
    };
    let response = TraceByIdResponse::decode(answer.body)
        .map_err(|error| TransferError::Answer { url: url.to_string(), reason: error.to_string() })?;
    let partial = response.status == PartialStatus::Partial as i32;
    let lacks = partial.then(|| format!("trace {}: {}", found.trace_id, response.message));
    Ok(Fetched { trace: response.trace.unwrap_or_default(), start_unix_nano, repeated: answer.repeated, lacks })
}

fn below(server: &Http, path: &[&str]) -> reqwest::Url {
    let mut url = server.base.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    url
}
