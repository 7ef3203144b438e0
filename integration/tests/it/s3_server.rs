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
    /// Requests whose path holds this text wait until it is empty.
    held: watch::Sender<&'static str>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
pub struct Counts {
    pub conditional_writes: AtomicU64,
    pub uploads_begun: AtomicU64,
    pub parts: AtomicU64,
    /// Requests that were held back.
    pub asked_and_held: AtomicU64,
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
        let (held, holds) = watch::channel("");
        let counting = counts.clone();
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (service, counts, holds) = (service.clone(), counting.clone(), holds.clone());
                let answer = service_fn(move |request: http::Request<Incoming>| {
                    let (service, counts, mut holds) = (service.clone(), counts.clone(), holds.clone());
                    async move {
                        counts.note(&request);
                        let path = request.uri().path().to_owned();
                        let through = |held: &&str| held.is_empty() || !path.contains(*held);
                        if !through(&holds.borrow()) {
                            counts.asked_and_held.fetch_add(1, SeqCst);
                            let _ = holds.wait_for(through).await;
                        }
                        service.call(request.map(Into::into)).await
                    }
                });
                connections.spawn(async move {
                    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), answer).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, counts, held, serving }
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// From now on, requests whose path holds this text wait.
    pub fn hold(&self, text: &'static str) {
        self.held.send_replace(text);
    }

    pub fn release(&self) {
        self.held.send_replace("");
    }
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
            http::Method::PUT if query.contains("partNumber=") => self.parts.fetch_add(1, SeqCst),
            http::Method::PUT if conditional => self.conditional_writes.fetch_add(1, SeqCst),
            http::Method::POST if query.starts_with("uploads") => self.uploads_begun.fetch_add(1, SeqCst),
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
