//! The way of spans to an OTLP receiver: OTLP/HTTP with protobuf, in batches, each sent once.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use prost::Message;
use proto::otlp::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use reqwest::{
    Client, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    MARK, Tracer,
    span::{Counts, Sampling},
};

/// Spans of one request.
const BATCH_SPANS_MAX: usize = 512;
/// How long a span waits for others.
const BATCH_DELAY: Duration = Duration::from_secs(1);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Of what the receiver answers.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// What is left at the end may take this long altogether.
const LAST_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two lines in the log about a receiver that does not take spans.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct Settings {
    /// `http://host:port`, or a URL with a path.
    pub endpoint: String,
    /// Sent as `X-Scope-OrgID`. What is delivered for this tenant makes no spans.
    pub tenant: Option<String>,
    /// Sent as `Authorization: Bearer`.
    pub token: Option<String>,
    /// The share of queries that are recorded if nobody decided before, 0 to 1.
    pub queries: f64,
    /// ... and of requests that deliver spans.
    pub ingest: f64,
    /// Whether the decision that a request brings counts.
    pub follow_parents: bool,
    /// Flushes and merges too.
    pub background: bool,
    /// Spans that wait; about a kibibyte each.
    pub queue_spans_max: usize,
    pub service_name: String,
    pub service_version: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("{0:?} is not a URL: write for example http://127.0.0.1:4318")]
    Endpoint(String),
    #[error("the {0} cannot be sent in a header")]
    Header(&'static str),
    #[error("no HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

/// Sends what a [`Tracer`] records.
pub struct Exporter {
    client: Client,
    url: Url,
    queue: mpsc::Receiver<Span>,
    counts: Arc<Counts>,
    resource: Resource,
    scope: InstrumentationScope,
    complained: Option<tokio::time::Instant>,
}

impl Exporter {
    /// # Errors
    /// Names the setting that cannot be used.
    pub fn new(settings: Settings) -> Result<(Tracer, Self), ExportError> {
        let url = Url::parse(&settings.endpoint).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let mut url = url.ok_or_else(|| ExportError::Endpoint(settings.endpoint.clone()))?;
        if url.path() == "/" {
            url.set_path("/v1/traces");
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        headers.insert(HeaderName::from_static(MARK), HeaderValue::from_static("1"));
        if let Some(tenant) = &settings.tenant {
            let tenant = HeaderValue::try_from(tenant).map_err(|_| ExportError::Header("tenant"))?;
            headers.insert(HeaderName::from_static("x-scope-orgid"), tenant);
        }
        if let Some(token) = &settings.token {
            let mut token = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| ExportError::Header("token"))?;
            token.set_sensitive(true);
            headers.insert(reqwest::header::AUTHORIZATION, token);
        }
        let redirects = reqwest::redirect::Policy::none();
        let client = Client::builder().timeout(REQUEST_TIMEOUT).redirect(redirects).default_headers(headers).build()?;
        let (sender, queue) = mpsc::channel(settings.queue_spans_max.max(1));
        let sampling = Sampling {
            queries: settings.queries,
            ingest: settings.ingest,
            follow_parents: settings.follow_parents,
            background: settings.background,
        };
        let tracer = Tracer::new(sender, sampling, settings.tenant);
        let text = |key: &str, value: String| {
            let value = Some(AnyValue { value: Some(any_value::Value::StringValue(value)) });
            KeyValue { key: key.to_owned(), value }
        };
        let attributes = vec![
            text("service.name", settings.service_name),
            text("service.version", settings.service_version.clone()),
            text("service.instance.id", format!("{:032x}", rand::random::<u128>())),
        ];
        let resource = Resource { attributes, ..Resource::default() };
        let scope =
            InstrumentationScope { name: "sostenuto".to_owned(), version: settings.service_version, ..InstrumentationScope::default() };
        let counts = tracer.counts();
        Ok((tracer, Self { client, url, queue, counts, resource, scope, complained: None }))
    }

    /// Sends until `shutdown`, and then what is left.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let mut batch = Vec::new();
            tokio::select! {
                () = shutdown.cancelled() => break,
                received = self.queue.recv_many(&mut batch, BATCH_SPANS_MAX) => {
                    // Nobody records any more.
                    if received == 0 {
                        return;
                    }
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = self.fill(&mut batch) => {}
            }
            self.send(batch).await;
        }
        let rest = async {
            let mut batch = Vec::new();
            while let Ok(span) = self.queue.try_recv() {
                batch.push(span);
                if batch.len() == BATCH_SPANS_MAX {
                    self.send(std::mem::take(&mut batch)).await;
                }
            }
            self.send(batch).await;
        };
        if timeout(LAST_TIMEOUT, rest).await.is_err() {
            tracing::warn!("not all spans of this program's own were sent before its end");
        }
    }

    /// Waits for more spans, a while.
    async fn fill(&mut self, batch: &mut Vec<Span>) {
        let more = async {
            while batch.len() < BATCH_SPANS_MAX {
                let room = BATCH_SPANS_MAX - batch.len();
                if self.queue.recv_many(batch, room).await == 0 {
                    return;
                }
            }
        };
        let _ = timeout(BATCH_DELAY, more).await;
    }

    async fn send(&mut self, spans: Vec<Span>) {
        if spans.is_empty() {
            return;
        }
        let count = spans.len() as u64;
        let scope_spans = vec![ScopeSpans { scope: Some(self.scope.clone()), spans, ..ScopeSpans::default() }];
        let resource_spans = vec![ResourceSpans { resource: Some(self.resource.clone()), scope_spans, ..ResourceSpans::default() }];
        let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        match self.post(body).await {
            Ok(rejected) => {
                self.counts.exported.fetch_add(count.saturating_sub(rejected), Relaxed);
                self.counts.failed.fetch_add(rejected.min(count), Relaxed);
            }
            Err(why) => {
                self.counts.failed.fetch_add(count, Relaxed);
                let now = tokio::time::Instant::now();
                if self.complained.is_none_or(|last| now - last > COMPLAINT_PAUSE) {
                    self.complained = Some(now);
                    tracing::warn!(spans = count, "spans of this program's own are lost: {why}");
                }
            }
        }
    }

    /// How many spans were refused.
    async fn post(&self, body: Vec<u8>) -> Result<u64, String> {
        let answer = self.client.post(self.url.clone()).body(body).send().await;
        let answer = answer.map_err(|error| error.without_url().to_string())?;
        if !answer.status().is_success() {
            return Err(format!("the receiver answers {}", answer.status()));
        }
        let (mut answer, mut body) = (answer, Vec::new());
        while let Some(piece) = answer.chunk().await.map_err(|error| error.without_url().to_string())? {
            if body.len() + piece.len() > ANSWER_BYTES_MAX {
                return Err(format!("the receiver's answer has more than {ANSWER_BYTES_MAX} bytes"));
            }
            body.extend_from_slice(&piece);
        }
        let answer = ExportTraceServiceResponse::decode(body.as_slice()).map_err(|error| format!("the receiver's answer is not OTLP: {error}"))?;
        Ok(answer.partial_success.map_or(0, |partial| u64::try_from(partial.rejected_spans).unwrap_or(0)))
    }
}
