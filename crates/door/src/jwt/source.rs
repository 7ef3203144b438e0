//! Where an issuer's keys come from, and how they stay up to date.
//!
//! From a URL they are fetched at the start, then every `refresh_interval`, and sooner when a token names a key that is not
//! known, but at most every [`REFRESH_PAUSE`]: a flood of bad tokens is no flood of fetches. Keys that were fetched stay
//! while the issuer cannot be reached.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use follow::{Followed, Source};
use serde::Deserialize;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{JwtSettings, KeySet, KeySource};
use crate::DoorError;

/// Of a key set or a discovery document.
const ANSWER_BYTES_MAX: usize = 1 << 20;
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two fetches that tokens ask for, and after one that failed.
const REFRESH_PAUSE: Duration = Duration::from_secs(4);
/// How long a request waits for a key that is not known: a pause, and a fetch.
const PATIENCE: Duration = Duration::from_secs(6);

pub(super) enum KeySets {
    File(Followed<KeySet>),
    Url(Fetched),
}

pub(super) struct Fetched {
    client: reqwest::Client,
    issuer: String,
    /// `None`: what the issuer's discovery document says.
    url: Option<String>,
    interval: Duration,
    newest: watch::Sender<Option<Arc<KeySet>>>,
    wanted: Notify,
    failures: AtomicU64,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl KeySets {
    pub(super) fn open(settings: &JwtSettings) -> Result<Self, DoorError> {
        let file = |path: &std::path::Path, parse: fn(&[u8]) -> Result<KeySet, String>| {
            let source =
                Source { name: "the issuer's keys", files: vec![path.to_owned()], bytes_max: ANSWER_BYTES_MAX as u64 };
            Followed::open(source, move |files| parse(&files[0]))
        };
        Ok(match &settings.keys {
            KeySource::File(path) => Self::File(file(path, KeySet::parse)?),
            KeySource::SecretFile(path) => Self::File(file(path, KeySet::secret)?),
            KeySource::Url(url) => Self::Url(Fetched::new(settings, Some(url.clone()))?),
            KeySource::Discovered => Self::Url(Fetched::new(settings, None)?),
        })
    }

    /// `None` before they were fetched for the first time.
    pub(super) fn current(&self) -> Option<Arc<KeySet>> {
        match self {
            Self::File(keys) => Some(keys.current()),
            Self::Url(fetched) => fetched.newest.borrow().clone(),
        }
    }

    /// The newest, after a fetch if there may be others than `known`.
    pub(super) async fn newer_than(&self, known: &Arc<KeySet>) -> Arc<KeySet> {
        if let Self::Url(fetched) = self {
            let mut changes = fetched.newest.subscribe();
            fetched.wanted.notify_one();
            let other = |keys: &Option<Arc<KeySet>>| keys.as_ref().is_some_and(|keys| !Arc::ptr_eq(keys, known));
            let _ = timeout(PATIENCE, changes.wait_for(other)).await;
        }
        self.current().unwrap_or_else(|| known.clone())
    }

    pub(super) async fn follow(&self, interval: Duration, shutdown: CancellationToken) {
        match self {
            Self::File(keys) => keys.clone().follow(interval, shutdown, |_| {}).await,
            Self::Url(fetched) => {
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    never = fetched.follow() => match never {},
                }
            }
        }
    }

    pub(super) fn failures(&self) -> u64 {
        match self {
            Self::File(keys) => keys.failures(),
            Self::Url(fetched) => fetched.failures.load(Relaxed),
        }
    }
}

impl Fetched {
    fn new(settings: &JwtSettings, url: Option<String>) -> Result<Self, DoorError> {
        let client = reqwest::Client::builder()
            .timeout(FETCH_TIMEOUT)
            // The operator named a place; the issuer does not name others.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| DoorError::Setting(format!("authentication.jwt: no HTTP client: {error}")))?;
        Ok(Self {
            client,
            issuer: settings.issuer.clone(),
            url,
            interval: settings.refresh_interval,
            newest: watch::Sender::new(None),
            wanted: Notify::new(),
            failures: AtomicU64::new(0),
        })
    }

    async fn follow(&self) -> std::convert::Infallible {
        loop {
            let began = Instant::now();
            let pause = match self.fetch().await {
                Ok(keys) => {
                    self.newest.send_replace(Some(Arc::new(keys)));
                    self.interval
                }
                Err(what) => {
                    self.failures.fetch_add(1, Relaxed);
                    tracing::error!("the keys of the issuer {} cannot be fetched: {what}", self.issuer);
                    REFRESH_PAUSE.min(self.interval)
                }
            };
            tokio::select! {
                () = sleep_until(began + pause) => {}
                () = self.wanted.notified() => sleep_until(began + REFRESH_PAUSE.min(self.interval)).await,
            }
        }
    }

    async fn fetch(&self) -> Result<KeySet, String> {
        let url = match &self.url {
            Some(url) => url.clone(),
            None => {
                let url = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
                let found: Discovery = serde_json::from_slice(&self.get(&url).await?)
                    .map_err(|_| format!("{url} is no discovery document with issuer and jwks_uri"))?;
                if found.issuer != self.issuer {
                    return Err(format!("{url} is of another issuer, {:?}", found.issuer));
                }
                found.jwks_uri
            }
        };
        KeySet::parse(&self.get(&url).await?).map_err(|what| format!("{url}: {what}"))
    }

    async fn get(&self, url: &str) -> Result<Vec<u8>, String> {
        let said = |error: reqwest::Error| format!("{url}: {}", error.without_url());
        let mut response = self.client.get(url).send().await.and_then(reqwest::Response::error_for_status).map_err(said)?;
        if !response.status().is_success() {
            return Err(format!("{url}: answered {}", response.status()));
        }
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await.map_err(said)? {
            if body.len() + part.len() > ANSWER_BYTES_MAX {
                return Err(format!("{url}: the answer has more than {ANSWER_BYTES_MAX} bytes"));
            }
            body.extend_from_slice(&part);
        }
        Ok(body)
    }
}
