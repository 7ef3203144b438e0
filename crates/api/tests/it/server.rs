//! A server of the API on a port of its own.

use crate::data::Data;
use api::{ApiConfig, ApiState, BuildInfo, CurrentReadLimits, Metrics, Readiness, ReadyState, StatusPages};
use std::{net::SocketAddr, sync::Arc};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

pub struct Server {
    pub address: SocketAddr,
    pub readiness: Readiness,
    pub metrics: Metrics,
    pub shutdown: CancellationToken,
    _data: Data,
    pub served: JoinHandle<usize>,
}

impl Server {
    /// With the default settings, ready.
    pub async fn start() -> Self {
        Self::with(false, |_| {}).await
    }

    pub async fn with(multitenancy: bool, change: impl FnOnce(&mut ApiConfig)) -> Self {
        Self::over(Data::open().await, multitenancy, change).await
    }

    pub async fn over(data: Data, multitenancy: bool, change: impl FnOnce(&mut ApiConfig)) -> Self {
        let word = |text: &str| text.to_owned();
        let build = BuildInfo {
            version: word("0.0.1"),
            revision: word("abc"),
            branch: word("main"),
            built_by: word("me"),
            built_at: word("today"),
            compiler: word("1.95"),
        };
        let mut config = ApiConfig::default();
        change(&mut config);
        let metrics = Metrics::new(&build);
        let readiness = Readiness::default();
        readiness.set(ReadyState::Ready);
        let mut status = StatusPages::new(build);
        status.config = Arc::new(|| "storage: local\n".to_owned());
        let state = ApiState {
            config,
            multitenancy,
            engine: data.engine.clone(),
            readiness: readiness.clone(),
            metrics: metrics.clone(),
            status,
            flush: None,
            read_limits: CurrentReadLimits::default(),
            overrides: None,
            sampling: None,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(api::serve(listener, state, shutdown.clone()));
        Self { address, readiness, metrics, shutdown, _data: data, served }
    }

    /// Status, headers and body.
    pub async fn get(&self, path: &str) -> (u16, reqwest::header::HeaderMap, String) {
        self.get_with(path, &[]).await
    }

    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> (u16, reqwest::header::HeaderMap, String) {
        let (status, headers, body) = self.fetch(path, headers).await;
        (status, headers, String::from_utf8(body).unwrap())
    }

    pub async fn fetch(&self, path: &str, headers: &[(&str, &str)]) -> (u16, reqwest::header::HeaderMap, Vec<u8>) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut request = client.get(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        (status, headers, response.bytes().await.unwrap().to_vec())
    }
}
