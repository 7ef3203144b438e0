//! Sends requests as an SDK would, and keeps to OTLP's rules on what may be sent again.

use std::time::Duration;

use anyhow::Context;
use prost::Message;
use proto::otlp::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse, trace_service_client::TraceServiceClient,
};
use tonic::{
    Code,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig},
};
use tonic_types::StatusExt;

use crate::client::AccessArgs;

/// The most attempts for one request.
const ATTEMPTS_MAX: u32 = 6;
/// The longest pause that a server may ask for.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The longest a single attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// The most of an error answer that is read into a message.
const ANSWER_CHARS_MAX: usize = 300;

#[derive(Clone)]
pub enum Sender {
    /// With what the server is shown, if anything.
    Grpc(TraceServiceClient<Channel>, Option<MetadataValue<Ascii>>),
    Http { client: reqwest::Client, url: String },
}

/// What came of one request.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub accepted: u64,
    pub rejected: u64,
    /// Attempts after the first.
    pub retries: u64,
    /// Why spans were rejected or given up, or the server's warning.
    pub message: Option<String>,
}

enum Attempt {
    Done {
        rejected: u64,
        message: String,
    },
    /// Sending it again may help; the server may have said after how long.
    Again {
        after: Option<Duration>,
        message: String,
    },
    Refused {
        message: String,
    },
}

impl Sender {
    /// Connects, so that a wrong endpoint is known before anything is made.
    pub async fn grpc(endpoint: &str, access: &AccessArgs) -> anyhow::Result<Self> {
        let mut there = tonic::transport::Endpoint::from_shared(endpoint.to_owned())
            .map_err(|_| anyhow::anyhow!("{endpoint:?} is not a URL; write for example http://127.0.0.1:4317"))?
            .timeout(ATTEMPT_TIMEOUT)
            .connect_timeout(Duration::from_secs(5));
        if endpoint.starts_with("https://") {
            let Some(path) = &access.ca_file else {
                anyhow::bail!("over gRPC an encrypted endpoint needs a --ca-file; --protocol http trusts the system's authorities")
            };
            let pem = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            there = there.tls_config(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))?;
        }
        let channel = there.connect().await.map_err(|_| nothing_listens(endpoint))?;
        let shown = access.authorization()?.map(|value| MetadataValue::try_from(value.as_bytes())).transpose()?;
        Ok(Self::Grpc(TraceServiceClient::new(channel), shown))
    }

    pub async fn http(endpoint: &str, access: &AccessArgs) -> anyhow::Result<Self> {
        let mut url = reqwest::Url::parse(endpoint)
            .map_err(|_| anyhow::anyhow!("{endpoint:?} is not a URL; write for example http://127.0.0.1:4318"))?;
        if matches!(url.path(), "" | "/") {
            url.set_path("/v1/traces");
        }
        let client =
            access.client()?.timeout(ATTEMPT_TIMEOUT).connect_timeout(Duration::from_secs(5)).build()?;
        let sender = Self::Http { client, url: url.to_string() };
        // An empty request succeeds and shows that someone is there.
        match sender.attempt(&ExportTraceServiceRequest::default()).await {
            Attempt::Refused { message } => anyhow::bail!("{endpoint} refused an empty OTLP request: {message}"),
            Attempt::Again { message, .. } if message.starts_with(NOT_REACHED) => Err(nothing_listens(endpoint)),
            _ => Ok(sender),
        }
    }

    /// Sends `request` until it is taken, refused for good, or [`ATTEMPTS_MAX`] is reached.
    pub async fn send(&self, request: &ExportTraceServiceRequest) -> Delivery {
        let spans = request.resource_spans.iter().flat_map(|r| &r.scope_spans).map(|s| s.spans.len() as u64).sum();
        let mut pause = Duration::from_millis(250);
        for attempt in 0..ATTEMPTS_MAX {
            let retries = u64::from(attempt);
            match self.attempt(request).await {
                Attempt::Done { rejected, message } => {
                    let rejected = rejected.min(spans);
                    let message = (!message.is_empty()).then_some(message);
                    return Delivery { accepted: spans - rejected, rejected, retries, message };
                }
                Attempt::Again { after, message } if attempt + 1 == ATTEMPTS_MAX => {
                    let _ = after;
                    let message = Some(format!("gave up after {ATTEMPTS_MAX} attempts: {message}"));
                    return Delivery { accepted: 0, rejected: spans, retries, message };
                }
                Attempt::Refused { message } => {
                    return Delivery { accepted: 0, rejected: spans, retries, message: Some(message) };
                }
                Attempt::Again { after, .. } => {
                    tokio::time::sleep(after.unwrap_or(pause).min(PAUSE_MAX)).await;
                    pause *= 2;
                }
            }
        }
        unreachable!("the last attempt returns")
    }

    async fn attempt(&self, request: &ExportTraceServiceRequest) -> Attempt {
        match self {
            Self::Grpc(client, shown) => {
                let mut call = tonic::Request::new(request.clone());
                if let Some(shown) = shown {
                    call.metadata_mut().insert("authorization", shown.clone());
                }
                match client.clone().export(call).await {
                    Ok(response) => done(response.into_inner()),
                    Err(status) => judge_grpc(&status),
                }
            }
            Self::Http { client, url } => {
                let sent = client
                    .post(url)
                    .header("content-type", "application/x-protobuf")
                    .body(request.encode_to_vec())
                    .send()
                    .await;
                match sent {
                    Ok(response) => judge_http(response).await,
                    Err(error) if error.is_connect() => {
                        Attempt::Again { after: None, message: format!("{NOT_REACHED} {url}") }
                    }
                    Err(error) => Attempt::Again { after: None, message: error.to_string() },
                }
            }
        }
    }
}

const NOT_REACHED: &str = "cannot connect to";

fn nothing_listens(endpoint: &str) -> anyhow::Error {
    anyhow::anyhow!("nothing listens on {endpoint}; start `sostenuto serve` first, or name another with --endpoint")
}

fn done(response: ExportTraceServiceResponse) -> Attempt {
    let partial = response.partial_success.unwrap_or_default();
    Attempt::Done { rejected: u64::try_from(partial.rejected_spans).unwrap_or(0), message: partial.error_message }
}

fn judge_grpc(status: &tonic::Status) -> Attempt {
    let after = status.get_details_retry_info().and_then(|info| info.retry_delay);
    let again = match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => true,
        Code::ResourceExhausted => after.is_some(),
        _ => false,
    };
    let message = format!("{}: {}", status.code(), status.message());
    if again { Attempt::Again { after, message } } else { Attempt::Refused { message } }
}

async fn judge_http(response: reqwest::Response) -> Attempt {
    let status = response.status();
    let after = response
        .headers()
        .get("retry-after")
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map(Duration::from_secs);
    let body = response.bytes().await.unwrap_or_default();
    if status.is_success() {
        return match ExportTraceServiceResponse::decode(body) {
            Ok(response) => done(response),
            Err(_) => {
                Attempt::Refused { message: "the answer is not an OTLP response; is this an OTLP endpoint?".into() }
            }
        };
    }
    // Errors are a google.rpc.Status; what is not one is shown as text.
    let text = match tonic_types::pb::Status::decode(body.clone()) {
        Ok(status) if !status.message.is_empty() => status.message,
        _ => String::from_utf8_lossy(&body).into_owned(),
    };
    let message = format!("{status}: {}", text.chars().take(ANSWER_CHARS_MAX).collect::<String>());
    match status.as_u16() {
        429 | 502 | 503 | 504 => Attempt::Again { after, message },
        _ => Attempt::Refused { message },
    }
}
