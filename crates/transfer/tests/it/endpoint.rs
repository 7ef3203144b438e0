//! An OTLP endpoint that remembers what it took and answers as it is told.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use prost::Message;
use proto::otlp::{
    collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse},
    trace::v1::ResourceSpans,
};
use transfer::{
    HttpOptions, TransferError,
    import::{Event, ImportOptions, Progress, import},
};

/// What the next requests are answered with; after that they are taken.
#[derive(Clone, Debug)]
pub enum Reply {
    Status(u16, Option<&'static str>),
    Partial(i64, &'static str),
}

#[derive(Default)]
struct Seen {
    requests: Vec<(ExportTraceServiceRequest, HeaderMap)>,
    refused: usize,
    replies: VecDeque<Reply>,
}

pub struct Endpoint {
    pub url: String,
    seen: Arc<Mutex<Seen>>,
}

impl Endpoint {
    pub async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let seen = Arc::new(Mutex::new(Seen { replies: replies.into_iter().collect(), ..Seen::default() }));
        let (listener, state) = (tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(), seen.clone());
        let url = format!("http://{}", listener.local_addr().unwrap());
        let take =
            move |headers: HeaderMap, body: Bytes| std::future::ready(state.lock().unwrap().take(headers, &body));
        let app = Router::new().route("/v1/traces", post(take));
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, seen }
    }

    /// The resources that were taken, in order.
    pub fn resources(&self) -> Vec<ResourceSpans> {
        let seen = self.seen.lock().unwrap();
        seen.requests.iter().flat_map(|(request, _)| request.resource_spans.clone()).collect()
    }

    pub fn span_count(&self) -> usize {
        self.resources().iter().flat_map(|resource| &resource.scope_spans).map(|scope| scope.spans.len()).sum()
    }

    /// The values of a header, one for each request that was taken.
    pub fn headers(&self, name: &str) -> Vec<Option<String>> {
        let seen = self.seen.lock().unwrap();
        let value = |headers: &HeaderMap| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        seen.requests.iter().map(|(_, headers)| value(headers)).collect()
    }

    pub fn refused(&self) -> usize {
        self.seen.lock().unwrap().refused
    }

    pub fn options(&self, folder: &std::path::Path, sources: &[&std::path::Path]) -> ImportOptions {
        ImportOptions {
            sources: sources.iter().map(|path| path.to_str().unwrap().to_owned()).collect(),
            to: HttpOptions {
                url: self.url.clone(),
                tenant: None,
                headers: vec![],
                authorities: vec![],
                patience: std::time::Duration::from_secs(60),
            },
            state: folder.join("state.json"),
            restart: false,
            dry_run: false,
            concurrency: 1,
            object_stores: Default::default(),
        }
    }
}

impl Seen {
    fn take(&mut self, headers: HeaderMap, body: &[u8]) -> Response {
        let rejected = match self.replies.pop_front() {
            Some(Reply::Status(status, retry_after)) => {
                self.refused += 1;
                let status = StatusCode::from_u16(status).unwrap();
                let text = "because";
                return match retry_after {
                    Some(after) => (status, [("retry-after", after)], text).into_response(),
                    None => (status, text).into_response(),
                };
            }
            Some(Reply::Partial(rejected_spans, said)) => {
                Some(ExportTracePartialSuccess { rejected_spans, error_message: said.to_owned() })
            }
            None => None,
        };
        self.requests.push((ExportTraceServiceRequest::decode(body).unwrap(), headers));
        ExportTraceServiceResponse { partial_success: rejected }.encode_to_vec().into_response()
    }
}

/// Imports, and says what happened but for the progress.
pub async fn run(options: &ImportOptions) -> (Result<Progress, TransferError>, Vec<String>) {
    let mut events = vec![];
    let mut tell = |event: Event<'_>| {
        if !matches!(event, Event::Progress(_)) {
            events.push(format!("{event:?}"));
        }
    };
    (import(options, &mut tell).await, events)
}
