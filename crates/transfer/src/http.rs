//! One HTTP exchange, repeated while that may help.
//!
//! 429, 502, 503 and 504 are answers that may be different later, and so are broken connections; everything else is final.
//! A server that says when to come again is obeyed up to [`PAUSE_MAX`]. After [`HttpOptions::patience`] without an
//! answer that is final, it is given up.

use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::{
    Certificate, Client, Request, Response, StatusCode, Url,
    header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};

/// The longest pause, also one that a server asks for.
pub const PAUSE_MAX: Duration = Duration::from_secs(60);
pub(crate) const PAUSE_MIN: Duration = Duration::from_millis(200);
/// How long one exchange may take.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(120);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 512 << 20;
/// The most characters of an error answer that are repeated.
const SAID_CHARS_MAX: usize = 300;

/// How to speak to a server.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    pub url: String,
    /// The tenant, as `X-Scope-OrgID`.
    pub tenant: Option<String>,
    /// Further headers, as `Name: value`; credentials among them, which are never shown.
    pub headers: Vec<String>,
    /// Authorities to trust beside the system's, PEM; may be empty.
    pub authorities: Vec<u8>,
    /// How long the same request is repeated.
    pub patience: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error("{0}")]
    Mistake(String),
    #[error("{url} answered {status}{said}")]
    Refused { url: String, status: u16, said: String },
    #[error("gave up on {url} after {} s: {last}", after.as_secs())]
    GaveUp { url: String, after: Duration, last: String },
    #[error("cannot read {name}: {reason}")]
    Source { name: String, reason: String },
    #[error("cannot write {name}: {source}")]
    Write { name: String, source: std::io::Error },
    #[error("the answer of {url} is not what a Tempo-compatible server sends: {reason}")]
    Answer { url: String, reason: String },
}

pub(crate) struct Http {
    client: Client,
    pub base: Url,
    patience: Duration,
}

pub(crate) struct Answer {
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The body, where it is read piece by piece.
    pub stream: Option<Response>,
    /// Exchanges before this one.
    pub repeated: u64,
}

enum Exchange {
    Done(Answer),
    Again { after: Option<Duration>, said: String },
    Final(TransferError),
}

impl Http {
    pub fn new(options: &HttpOptions) -> Result<Self, TransferError> {
        let text = match options.url.contains("://") {
            true => options.url.clone(),
            false => format!("http://{}", options.url),
        };
        let base = Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let base = base.ok_or_else(|| {
            TransferError::Mistake(format!("{:?} is not a URL; write for example http://127.0.0.1:4318", options.url))
        })?;
        let mut headers = HeaderMap::new();
        let mut put = |name: &str, value: &str| {
            let pair = HeaderName::try_from(name.trim()).ok().zip(HeaderValue::try_from(value.trim()).ok());
            // The value may be a credential: it is not repeated.
            let (name, mut value) =
                pair.ok_or_else(|| TransferError::Mistake(format!("the header {:?} cannot be sent", name.trim())))?;
            value.set_sensitive(true);
            headers.append(name, value);
            Ok(())
        };
        for header in &options.headers {
            let (name, value) = header
                .split_once(':')
                .ok_or_else(|| TransferError::Mistake("a header is written as \"Name: value\"".to_owned()))?;
            put(name, value)?;
        }
        if let Some(tenant) = &options.tenant {
            put("x-scope-orgid", tenant)?;
        }
        let authorities = Certificate::from_pem_bundle(&options.authorities)
            .map_err(|error| TransferError::Mistake(format!("the authorities to trust cannot be read: {error}")))?;
        let client = Client::builder().timeout(EXCHANGE_TIMEOUT).connect_timeout(CONNECT_TIMEOUT);
        let client = authorities.into_iter().fold(client, reqwest::ClientBuilder::add_root_certificate);
        let client = client
            .default_headers(headers)
            .build()
            .map_err(|error| TransferError::Mistake(format!("no HTTP client can be made: {error}")))?;
        Ok(Self { client, base, patience: options.patience })
    }

    /// Repeats what `make` makes until an answer is final.
    pub async fn send(
        &self,
        make: impl FnMut(&Client) -> Result<Request, reqwest::Error>,
    ) -> Result<Answer, TransferError> {
        self.repeat(make, false).await
    }

    /// As [`Self::send`], but the body of a good answer is not read.
    pub async fn open(
        &self,
        make: impl FnMut(&Client) -> Result<Request, reqwest::Error>,
    ) -> Result<Answer, TransferError> {
        self.repeat(make, true).await
    }

    /// How long the same is tried.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    async fn repeat(
        &self,
        mut make: impl FnMut(&Client) -> Result<Request, reqwest::Error>,
        stream: bool,
    ) -> Result<Answer, TransferError> {
        let began = Instant::now();
        let mut pause = PAUSE_MIN;
        let mut repeated = 0;
        loop {
            let request = make(&self.client)
                .map_err(|error| TransferError::Mistake(format!("a request cannot be made: {error}")))?;
            let url = request.url().clone();
            match self.exchange(request, stream).await {
                Exchange::Done(answer) => return Ok(Answer { repeated, ..answer }),
                Exchange::Final(error) => return Err(error),
                Exchange::Again { after, said } => {
                    let wait = after.unwrap_or(pause).min(PAUSE_MAX);
                    if began.elapsed() + wait > self.patience {
                        return Err(TransferError::GaveUp { url: shown(&url), after: began.elapsed(), last: said });
                    }
                    tokio::time::sleep(wait).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                    repeated += 1;
                }
            }
        }
    }

    async fn exchange(&self, request: Request, stream: bool) -> Exchange {
        let url = shown(request.url());
        match self.client.execute(request).await {
            Ok(response) if stream && response.status().is_success() => {
                let headers = response.headers().clone();
                Exchange::Done(Answer { headers, body: Bytes::new(), stream: Some(response), repeated: 0 })
            }
            Ok(response) => judge(url, response).await,
            Err(error) if error.is_builder() => Exchange::Final(TransferError::Mistake(error.to_string())),
            Err(error) => Exchange::Again { after: None, said: cause(&error) },
        }
    }
}

async fn judge(url: String, mut response: Response) -> Exchange {
    let (status, headers) = (response.status(), response.headers().clone());
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(None) => break,
            Ok(Some(part)) if body.len() + part.len() > ANSWER_BYTES_MAX => {
                let reason = format!("it has more than {} MiB", ANSWER_BYTES_MAX >> 20);
                return Exchange::Final(TransferError::Answer { url, reason });
            }
            Ok(Some(part)) => body.extend_from_slice(&part),
            Err(error) => return Exchange::Again { after: None, said: cause(&error) },
        }
    }
    if status.is_success() {
        return Exchange::Done(Answer { headers, body: body.into(), stream: None, repeated: 0 });
    }
    let text: String = String::from_utf8_lossy(&body)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(SAID_CHARS_MAX)
        .collect();
    let said = if text.trim().is_empty() { String::new() } else { format!(": {}", text.trim()) };
    if matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    ) {
        let after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        return Exchange::Again { after: after.map(Duration::from_secs), said: format!("{status}{said}") };
    }
    Exchange::Final(TransferError::Refused { url, status: status.as_u16(), said })
}

/// Without a query, and without credentials that may stand in it.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

/// The innermost cause says what happened; the outer ones repeat the URL.
pub(crate) fn cause(error: &reqwest::Error) -> String {
    let mut at: &dyn std::error::Error = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}
