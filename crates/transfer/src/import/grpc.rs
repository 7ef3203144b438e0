//! An OTLP endpoint that is spoken to over gRPC: `grpc://host:port`, or `grpcs://` with TLS.
//!
//! The same as over HTTP counts as an answer that may be different later: what OTLP says may be repeated, and broken
//! connections.

use std::{
    str::FromStr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message;
use proto::otlp::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse, trace_service_client::TraceServiceClient,
};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use crate::{
    TransferError,
    http::{HttpOptions, PAUSE_MAX, PAUSE_MIN},
};

/// One call.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Grpc {
    client: TraceServiceClient<Channel>,
    headers: MetadataMap,
    url: String,
    patience: Duration,
}

impl Grpc {
    /// `None`: the endpoint is none of gRPC.
    pub fn new(options: &HttpOptions) -> Option<Result<Self, TransferError>> {
        let (scheme, rest) = match options.url.split_once("://") {
            Some(("grpc", rest)) => ("http", rest),
            Some(("grpcs", rest)) => ("https", rest),
            _ => return None,
        };
        Some(Self::open(options, &format!("{scheme}://{rest}")))
    }

    fn open(options: &HttpOptions, url: &str) -> Result<Self, TransferError> {
        let mistake = |what: String| TransferError::Mistake(what);
        let endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|_| mistake(format!("{:?} is not a URL; write for example grpc://127.0.0.1:4317", options.url)))?;
        let mut endpoint = endpoint.timeout(CALL_TIMEOUT).connect_timeout(CONNECT_TIMEOUT);
        if url.starts_with("https") {
            if options.authorities.is_empty() {
                let needs = "over gRPC an encrypted endpoint needs an authority to trust (--ca-file); https:// trusts the system's";
                return Err(mistake(needs.to_owned()));
            }
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&options.authorities));
            endpoint = endpoint.tls_config(tls).map_err(|error| mistake(format!("no TLS can be made: {error}")))?;
        }
        let mut headers = MetadataMap::new();
        for header in &options.headers {
            let (name, value) = header
                .split_once(':')
                .ok_or_else(|| mistake("a header is written as \"Name: value\"".to_owned()))?;
            put(&mut headers, name, value)?;
        }
        if let Some(tenant) = &options.tenant {
            put(&mut headers, "x-scope-orgid", tenant)?;
        }
        let client = TraceServiceClient::new(endpoint.connect_lazy());
        Ok(Self { client, headers, url: options.url.clone(), patience: options.patience })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Repeats the call until its answer is final; how often it was repeated.
    pub async fn send(&self, request: Bytes, tenant: Option<&str>) -> Result<(ExportTraceServiceResponse, u64), TransferError> {
        let message = ExportTraceServiceRequest::decode(request)
            .map_err(|error| TransferError::Mistake(format!("a request cannot be made: {error}")))?;
        let mut headers = self.headers.clone();
        if let Some(tenant) = tenant {
            put(&mut headers, "x-scope-orgid", tenant)?;
        }
        let (began, mut pause, mut repeated) = (Instant::now(), PAUSE_MIN, 0);
        loop {
            let mut call = Request::new(message.clone());
            *call.metadata_mut() = headers.clone();
            let status = match self.client.clone().export(call).await {
                Ok(answer) => return Ok((answer.into_inner(), repeated)),
                Err(status) => status,
            };
            if !may_pass_later(&status) {
                let said = format!(": {}", status.message());
                return Err(TransferError::Refused { url: self.url.clone(), status: http_status(status.code()), said });
            }
            if began.elapsed() + pause > self.patience {
                let last = format!("{:?}: {}", status.code(), status.message());
                return Err(TransferError::GaveUp { url: self.url.clone(), after: began.elapsed(), last });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
            repeated += 1;
        }
    }
}

/// The value may be a credential: it is not repeated.
fn put(headers: &mut MetadataMap, name: &str, value: &str) -> Result<(), TransferError> {
    let key = MetadataKey::<Ascii>::from_str(&name.trim().to_ascii_lowercase()).ok();
    let pair = key.zip(MetadataValue::<Ascii>::try_from(value.trim()).ok());
    let (key, mut value) = pair.ok_or_else(|| TransferError::Mistake(format!("the header {:?} cannot be sent", name.trim())))?;
    value.set_sensitive(true);
    headers.insert(key, value);
    Ok(())
}

/// By OTLP's table; a limit that is reached passes later if the server says when, and of ours it does.
fn may_pass_later(status: &Status) -> bool {
    match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => true,
        Code::ResourceExhausted => !status.details().is_empty(),
        // A connection that broke in the middle of an answer.
        Code::Unknown => std::error::Error::source(status).is_some(),
        _ => false,
    }
}

/// As HTTP would say it.
fn http_status(code: Code) -> u16 {
    match code {
        Code::InvalidArgument | Code::FailedPrecondition => 400,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::ResourceExhausted => 413,
        Code::Unimplemented => 501,
        _ => 500,
    }
}
