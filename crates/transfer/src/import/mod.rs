//! Sends what files and blocks hold to an OTLP endpoint.
//!
//! One thread reads; requests go out side by side and are counted in the order of the sources, so that the state names only what
//! was acknowledged before it. What cannot be read or is refused is counted with its place, and the rest goes on.

mod grpc;
mod intake;
mod json;
mod open;
mod protobuf;
mod scanner;
mod source;
mod state;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesOrdered};
use prost::Message;
use proto::otlp::collector::trace::v1::ExportTraceServiceResponse;
use tokio::{runtime::Handle, sync::mpsc};

use crate::{
    TransferError,
    http::{Http, HttpOptions},
    tempo,
};
pub(crate) use intake::Intake;
use grpc::Grpc;
use intake::{Found, Stopped};
use protobuf::Framing;
use source::Source;
use state::State;

pub use intake::Place;
pub(crate) use protobuf::Ended;

/// Batches that are read and wait to be sent.
const WAITING_MAX: usize = 4;
/// The pause between two writes of the state.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// Of OTLP over gRPC, everywhere.
const GRPC_PORT: u16 = 4317;
/// The tenant of a Tempo that has no tenants.
const NO_TENANT: &str = "single-tenant";

#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// Files, folders, and URLs of object stores.
    pub sources: Vec<String>,
    /// The OTLP endpoint. Without a path it is `/v1/traces`.
    pub to: HttpOptions,
    /// Where to keep how far it came.
    pub state: PathBuf,
    /// Begin again whatever the state says.
    pub restart: bool,
    /// Read and count, and send nothing.
    pub dry_run: bool,
    /// Requests under way at once.
    pub concurrency: usize,
    /// Settings of object stores, as in the environment of their tools (`AWS_ACCESS_KEY_ID`).
    pub object_stores: HashMap<String, String>,
}

/// What happens on the way.
#[derive(Debug)]
pub enum Event<'a> {
    /// How far it is.
    Progress(&'a Progress),
    /// A source is behind us already, from an earlier run.
    Before { source: &'a str },
    /// A record cannot be meant, and was left out.
    Bad { source: &'a str, at: Place, reason: &'a str },
    /// The rest of a source cannot be read.
    Unreadable { source: &'a str, reason: &'a str },
    /// The endpoint took a request but for some spans, or refused all of it, or only warns (none rejected).
    Rejected { source: &'a str, records: u64, spans: u64, said: &'a str },
}

#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Acknowledged now; with `dry_run`, found.
    pub accepted: u64,
    pub rejected: u64,
    pub bad: u64,
    pub unreadable: u64,
    /// Acknowledged in earlier runs.
    pub accepted_before: u64,
    pub requests: u64,
    pub repeated: u64,
    pub sources: usize,
    pub sources_done: usize,
    /// Of all sources, before decompression.
    pub bytes: u64,
    pub bytes_read: u64,
    pub elapsed: Duration,
}

impl Progress {
    /// Whether everything that there was is stored.
    pub fn is_complete(&self) -> bool {
        self.rejected == 0 && self.bad == 0 && self.unreadable == 0
    }

    pub fn spans_per_second(&self) -> f64 {
        self.accepted as f64 / self.elapsed.as_secs_f64().max(1e-3)
    }

    /// About how long the rest takes, once that can be told.
    pub fn remaining(&self) -> Option<Duration> {
        let left = self.bytes.checked_sub(self.bytes_read)?;
        (self.bytes_read > 0).then(|| self.elapsed.mul_f64(left as f64 / self.bytes_read as f64))
    }
}

/// From the thread that reads.
enum Step {
    Found { source: usize, found: Found },
    Done { source: usize, records: u64 },
    Unreadable { source: usize, reason: String },
}

/// What became of a step.
enum Outcome {
    Sent { source: usize, records: u64, spans: u64, sent: Result<Sent, TransferError> },
    Step(Step),
}

struct Sent {
    rejected: u64,
    said: String,
    repeated: u64,
}

pub async fn import(
    options: &ImportOptions,
    tell: &mut (dyn FnMut(Event<'_>) + Send),
) -> Result<Progress, TransferError> {
    let endpoint = Endpoint::new(&options.to)?;
    let sources = Arc::new(source::find(&options.sources, &options.object_stores).await?);
    let tenant = options.to.tenant.as_deref();
    let mut state = match options.restart || options.dry_run {
        true => State::new(endpoint.url(), tenant),
        false => State::load(&options.state, endpoint.url(), tenant)?,
    };
    let mut run = Run { options, sources: sources.clone(), progress: Progress::default(), began: Instant::now(), tell };
    let mut work = vec![];
    for (at, source) in sources.iter().enumerate() {
        let position = state.position(&source.name, &source.identity);
        let progress = &mut run.progress;
        progress.sources += 1;
        progress.accepted_before += position.accepted;
        progress.rejected += position.rejected;
        progress.bad += position.bad;
        if position.done {
            progress.sources_done += 1;
            (run.tell)(Event::Before { source: &source.name });
        } else {
            progress.bytes += source.bytes;
            work.push((at, position.records));
        }
    }
    let read = Arc::new(AtomicU64::new(0));
    let (step, mut steps) = mpsc::channel(WAITING_MAX);
    let reader = {
        let (sources, read, runtime) = (sources.clone(), read.clone(), Handle::current());
        tokio::task::spawn_blocking(move || read_all(&sources, &work, &read, &runtime, &step))
    };
    let mut under_way: FuturesOrdered<BoxFuture<'_, Outcome>> = FuturesOrdered::new();
    let mut saved = Instant::now();
    let mut open = true;
    let concurrency = options.concurrency.max(1);
    while open || !under_way.is_empty() {
        tokio::select! {
            Some(outcome) = under_way.next(), if !under_way.is_empty() => {
                run.progress.bytes_read = read.load(Ordering::Relaxed);
                run.take(outcome, &mut state)?;
                if !options.dry_run && saved.elapsed() >= SAVE_INTERVAL {
                    state.save(&options.state)?;
                    saved = Instant::now();
                }
            }
            next = steps.recv(), if open && under_way.len() < concurrency => match next {
                Some(step) => under_way.push_back(endpoint.handle(step, &sources, options.dry_run)),
                None => open = false,
            }
        }
    }
    if let Err(error) = reader.await {
        std::panic::resume_unwind(error.into_panic());
    }
    if !options.dry_run {
        state.save(&options.state)?;
    }
    run.progress.bytes_read = read.load(Ordering::Relaxed);
    run.progress.elapsed = run.began.elapsed();
    Ok(run.progress)
}

struct Run<'a> {
    options: &'a ImportOptions,
    sources: Arc<Vec<Source>>,
    progress: Progress,
    began: Instant,
    tell: &'a mut (dyn FnMut(Event<'_>) + Send),
}

impl Run<'_> {
    /// Counts an outcome. Outcomes come in the order of the sources.
    fn take(&mut self, outcome: Outcome, state: &mut State) -> Result<(), TransferError> {
        let progress = &mut self.progress;
        progress.elapsed = self.began.elapsed();
        match outcome {
            Outcome::Sent { source, records, spans, sent } => {
                let Source { name, identity, .. } = &self.sources[source];
                let sent = match sent {
                    Ok(sent) => sent,
                    // What one request did wrong another may not; but if none ever passed, none will.
                    Err(TransferError::Refused { status: status @ (400 | 413 | 422), said, .. })
                        if progress.accepted + progress.accepted_before > 0 =>
                    {
                        Sent { rejected: spans, said: format!("{status}{said}"), repeated: 0 }
                    }
                    Err(error) => {
                        if !self.options.dry_run {
                            state.save(&self.options.state)?;
                        }
                        return Err(error);
                    }
                };
                let position = state.position(name, identity);
                position.records = records;
                position.accepted += spans - sent.rejected;
                position.rejected += sent.rejected;
                progress.accepted += spans - sent.rejected;
                progress.rejected += sent.rejected;
                progress.repeated += sent.repeated;
                progress.requests += 1;
                if sent.rejected > 0 || !sent.said.is_empty() {
                    (self.tell)(Event::Rejected { source: name, records, spans: sent.rejected, said: &sent.said });
                }
            }
            Outcome::Step(Step::Found { source, found: Found::Bad { at, reason } }) => {
                let Source { name, identity, .. } = &self.sources[source];
                state.position(name, identity).bad += 1;
                progress.bad += 1;
                (self.tell)(Event::Bad { source: name, at, reason: &reason });
            }
            Outcome::Step(Step::Found { found: Found::Batch { .. }, .. }) => unreachable!("batches are sent"),
            Outcome::Step(Step::Done { source, records }) => {
                let Source { name, identity, .. } = &self.sources[source];
                let position = state.position(name, identity);
                (position.records, position.done) = (records, true);
                progress.sources_done += 1;
            }
            Outcome::Step(Step::Unreadable { source, reason }) => {
                progress.unreadable += 1;
                (self.tell)(Event::Unreadable { source: &self.sources[source].name, reason: &reason });
            }
        }
        (self.tell)(Event::Progress(&self.progress));
        Ok(())
    }
}

struct Endpoint {
    way: Way,
    /// Whether blocks may name the tenant.
    tenant_of_block: bool,
}

enum Way {
    Http(Box<Http>, reqwest::Url),
    Grpc(Grpc),
}

impl Endpoint {
    fn new(options: &HttpOptions) -> Result<Self, TransferError> {
        let tenant_of_block = options.tenant.is_none();
        if let Some(grpc) = Grpc::new(options) {
            return Ok(Self { way: Way::Grpc(grpc?), tenant_of_block });
        }
        let http = Http::new(options)?;
        let mut url = http.base.clone();
        if url.path() == "/" && url.port() == Some(GRPC_PORT) {
            let hint = format!("{url} is OTLP over gRPC by its port: write grpc:// before it, or name the port over HTTP, mostly 4318");
            return Err(TransferError::Mistake(hint));
        }
        if url.path() == "/" {
            url.set_path("/v1/traces");
        }
        Ok(Self { way: Way::Http(Box::new(http), url), tenant_of_block })
    }

    fn url(&self) -> &str {
        match &self.way {
            Way::Http(_, url) => url.as_str(),
            Way::Grpc(grpc) => grpc.url(),
        }
    }

    fn handle<'a>(&'a self, step: Step, sources: &'a [Source], dry_run: bool) -> BoxFuture<'a, Outcome> {
        match step {
            Step::Found { source, found: Found::Batch { batch, records } } => {
                let tenant = sources[source].block.as_ref().map(|block| block.tenant.as_str());
                let tenant = tenant.filter(|tenant| self.tenant_of_block && !["", NO_TENANT].contains(tenant));
                async move {
                    let sent = match dry_run {
                        true => Ok(Sent { rejected: 0, said: String::new(), repeated: 0 }),
                        false => self.send(batch.request.into(), batch.spans, tenant).await,
                    };
                    Outcome::Sent { source, records, spans: batch.spans, sent }
                }
                .boxed()
            }
            step => std::future::ready(Outcome::Step(step)).boxed(),
        }
    }

    async fn send(&self, request: Bytes, spans: u64, tenant: Option<&str>) -> Result<Sent, TransferError> {
        let (response, repeated) = match &self.way {
            Way::Http(http, url) => over_http(http, url, request, tenant).await?,
            Way::Grpc(grpc) => grpc.send(request, tenant).await?,
        };
        let partial = response.partial_success.unwrap_or_default();
        let rejected = u64::try_from(partial.rejected_spans).unwrap_or(0).min(spans);
        Ok(Sent { rejected, said: partial.error_message, repeated })
    }
}

/// The answer, and how often the request was repeated.
async fn over_http(
    http: &Http,
    url: &reqwest::Url,
    request: Bytes,
    tenant: Option<&str>,
) -> Result<(ExportTraceServiceResponse, u64), TransferError> {
    let answer = http
        .send(|client| {
            let post = client.post(url.clone()).header("content-type", "application/x-protobuf");
            let post = match tenant {
                Some(tenant) => post.header("x-scope-orgid", tenant),
                None => post,
            };
            post.body(request.clone()).build()
        })
        .await?;
    let response = ExportTraceServiceResponse::decode(answer.body).map_err(|_| {
        let reason = "it is no OTLP answer; is this the endpoint of an OTLP receiver over HTTP?".to_owned();
        TransferError::Answer { url: url.to_string(), reason }
    })?;
    Ok((response, answer.repeated))
}

/// Reads the sources one after the other, each from its record on. Ends early when nobody listens any more.
fn read_all(
    sources: &[Source],
    work: &[(usize, u64)],
    read: &Arc<AtomicU64>,
    runtime: &Handle,
    steps: &mpsc::Sender<Step>,
) {
    for &(source, skip) in work {
        let mut out = |found| steps.blocking_send(Step::Found { source, found }).map_err(|_| Stopped);
        let mut intake = Intake::new(skip, &mut out);
        let outcome = read_one(&sources[source], read, runtime, &mut intake);
        // What was read before the damage is sent.
        let Ok(records) = intake.finish() else { return };
        let last = match outcome {
            Ok(()) => Step::Done { source, records },
            Err(Ended::Stopped) => return,
            Err(Ended::Unreadable(reason)) => Step::Unreadable { source, reason },
        };
        if steps.blocking_send(last).is_err() {
            return;
        }
    }
}

fn read_one(source: &Source, read: &Arc<AtomicU64>, runtime: &Handle, intake: &mut Intake<'_>) -> Result<(), Ended> {
    if let Some(problem) = &source.problem {
        return Err(Ended::Unreadable(problem.clone()));
    }
    if let Some(meta) = &source.block {
        let source::Location::Object { store, path } = &source.location else { unreachable!("blocks are objects") };
        return tempo::read(meta, store.clone(), path.clone(), source.bytes, read, runtime, intake);
    }
    if source.bytes == 0 {
        return Ok(());
    }
    read_bytes(open::open(source, read, runtime)?, source.written_unix_nano, intake)
}

/// Reads what a file holds, by its first bytes.
fn read_bytes(bytes: open::Bytewise, written_unix_nano: u64, intake: &mut Intake<'_>) -> Result<(), Ended> {
    let (head, bytes) = open::head(bytes)?;
    if head.is_empty() {
        Ok(())
    } else if json::begins(&head) {
        json::read(bytes, written_unix_nano, intake)
    } else if let Some(framing) = Framing::of(&head) {
        protobuf::read(framing, bytes, intake)
    } else {
        let known = "OTLP (protobuf or JSON), Jaeger JSON or Zipkin JSON, also with gzip or zstd; a Tempo block is named by its folder";
        Err(Ended::Unreadable(format!("it does not begin like {known}")))
    }
}

#[cfg(test)]
mod tests;
