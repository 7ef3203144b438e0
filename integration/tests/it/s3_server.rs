//! A server that speaks the S3 protocol on a socket, over a folder, and that can count, and hold back, what it is asked.
//!
//! Its conditional writes look first and write then: it is no place for races.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use http::{Method, StatusCode};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use crate::server::Settings;

pub const BUCKET: &str = "traces-test";
pub const ACCESS_KEY: &str = "test-access-key";
pub const SECRET_KEY: &str = "test-secret-key";

pub struct S3Server {
    pub address: SocketAddr,
    counts: Arc<Counts>,
    rule: watch::Sender<Rule>,
    serving: JoinHandle<()>,
}

/// What is done to requests whose path holds a text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    Pass,
    Hold(&'static str),
    /// 503, before anything is done.
    Refuse(&'static str),
    /// Every other write is done and answered with 500: the client cannot know that it was.
    LoseAnswers(&'static str),
}

#[derive(Default)]
pub struct Counts {
    pub conditional_writes: AtomicU64,
    pub uploads_begun: AtomicU64,
    pub parts: AtomicU64,
    /// Requests that were held back.
    pub asked_and_held: AtomicU64,
    pub refused: AtomicU64,
    pub answers_lost: AtomicU64,
    writes_of_the_rule: AtomicU64,
}

impl S3Server {
    pub async fn start(folder: &Path) -> Self {
        std::fs::create_dir_all(folder.join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder).unwrap());
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let counts = Arc::new(Counts::default());
        let (rule, rules) = watch::channel(Rule::Pass);
        let counting = counts.clone();
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (service, counts, rules) = (service.clone(), counting.clone(), rules.clone());
                let answer = service_fn(move |request: http::Request<Incoming>| {
                    let (service, counts, mut rules) = (service.clone(), counts.clone(), rules.clone());
                    async move {
                        counts.note(&request);
                        let path = request.uri().path().to_owned();
                        let held = |rule: &Rule| matches!(rule, Rule::Hold(text) if path.contains(text));
                        if held(&rules.borrow()) {
                            counts.asked_and_held.fetch_add(1, SeqCst);
                            let _ = rules.wait_for(|rule| !held(rule)).await;
                        }
                        let rule = *rules.borrow();
                        if matches!(rule, Rule::Refuse(text) if path.contains(text)) {
                            counts.refused.fetch_add(1, SeqCst);
                            return Ok(failure(StatusCode::SERVICE_UNAVAILABLE));
                        }
                        let writes = request.method() == Method::PUT || request.method() == Method::POST;
                        let lose = writes
                            && matches!(rule, Rule::LoseAnswers(text) if path.contains(text))
                            && counts.writes_of_the_rule.fetch_add(1, SeqCst) % 2 == 0;
                        let answer = service.call(request.map(Into::into)).await;
                        if lose && answer.as_ref().is_ok_and(|answer| answer.status().is_success()) {
                            counts.answers_lost.fetch_add(1, SeqCst);
                            return Ok(failure(StatusCode::INTERNAL_SERVER_ERROR));
                        }
                        answer
                    }
                });
                connections.spawn(async move {
                    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), answer).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, counts, rule, serving }
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// From now on, requests whose path holds this text wait.
    pub fn hold(&self, text: &'static str) {
        self.rule.send_replace(Rule::Hold(text));
    }

    /// From now on, requests whose path holds this text are answered with 503.
    pub fn refuse(&self, text: &'static str) {
        self.rule.send_replace(Rule::Refuse(text));
    }

    /// From now on, the answer to every other write whose path holds this text is lost.
    pub fn lose_answers(&self, text: &'static str) {
        self.rule.send_replace(Rule::LoseAnswers(text));
    }

    /// Everything passes again, also what was held.
    pub fn release(&self) {
        self.rule.send_replace(Rule::Pass);
    }
}

fn failure(status: StatusCode) -> s3s::HttpResponse {
    let mut answer = s3s::HttpResponse::new(s3s::Body::empty());
    *answer.status_mut() = status;
    answer
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Counts {
    fn note(&self, request: &http::Request<Incoming>) {
        let query = request.uri().query().unwrap_or_default();
        let conditional = request.headers().contains_key("if-none-match") || request.headers().contains_key("if-match");
        match *request.method() {
            Method::PUT if query.contains("partNumber=") => self.parts.fetch_add(1, SeqCst),
            Method::PUT if conditional => self.conditional_writes.fetch_add(1, SeqCst),
            Method::POST if query.starts_with("uploads") => self.uploads_begun.fetch_add(1, SeqCst),
            _ => 0,
        };
    }
}

/// Blocks in the bucket of the S3 server at this address.
pub fn in_bucket(settings: Settings, address: SocketAddr) -> Settings {
    settings
        .with("storage.backend", "s3")
        .with("storage.s3.bucket", BUCKET)
        .with("storage.s3.prefix", "some/prefix")
        .with("storage.s3.endpoint", address.to_string())
        .with("storage.s3.region", "us-east-1")
        .with("storage.s3.access_key", ACCESS_KEY)
        .with("storage.s3.secret_key", SECRET_KEY)
        .with("storage.s3.insecure", true)
        .with("storage.s3.forcepathstyle", true)
}
