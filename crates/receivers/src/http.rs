//! OTLP/HTTP: `POST /v1/traces`, protobuf or JSON.

use bytes::Bytes;
use distributor::{Lease, PushOutcome};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use hyper::body::Incoming;
use listen::{ResponseBody, full};
use model::TenantId;
use prost::Message;
use proto::{
    otlp::collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceResponse},
    otlp_json,
};
use serde_json::json;
use tonic::Code;

use crate::{
    Receiver,
    inflate::{ENCODINGS, Encoding},
    refusal::Refusal,
    tenancy,
};

const TRACES_PATH: &str = "/v1/traces";

/// The two forms of a body. The answer has that of the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Protobuf,
    Json,
}

/// A request that may bring its body.
struct Asked {
    tenant: TenantId,
    format: Format,
    encoding: Encoding,
    lease: Lease,
}

impl Receiver {
    pub(crate) async fn answer_http(&self, request: Request<Incoming>) -> Response<ResponseBody> {
        if request.uri().path() != TRACES_PATH && self.elsewhere.is_some() {
            return self.answer_elsewhere(request).await;
        }
        let (head, body) = request.into_parts();
        let outcome = match self.asked(&head) {
            Ok(asked) => self.export_http(asked, body).await,
            Err(refusal) => {
                // A client that waits for leave to send its body gets the refusal instead.
                if !head.headers.contains_key(header::EXPECT) {
                    self.forget_body(body).await;
                }
                Err(refusal)
            }
        };
        // Whoever sends neither form gets the one that people can read.
        let format = Format::of(&head.headers).unwrap_or(Format::Json);
        match outcome {
            Ok(outcome) => respond(StatusCode::OK, format, format.accepted(&outcome)),
            Err(refusal) => format.refused(&refusal),
        }
    }

    /// What the head of a request says about its body.
    fn asked(&self, head: &Parts) -> Result<Asked, Refusal> {
        if head.uri.path() != TRACES_PATH {
            let message = format!("{} is not served here; send traces to {TRACES_PATH}", head.uri.path());
            return Err(Refusal::new(StatusCode::NOT_FOUND, Code::Unimplemented, message));
        }
        if head.method != Method::POST {
            let message = format!("send traces with POST, not {}", head.method);
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, Code::Unimplemented, message));
        }
        let Some(format) = Format::of(&head.headers) else {
            return Err(Refusal::unsupported("Content-Type must be application/x-protobuf or application/json"));
        };
        let tenant = tenancy::tenant(&head.headers, self.config.multitenancy)?;
        let encoding = content_encoding(&head.headers)?;
        let lease = self.lease()?;
        Ok(Asked { tenant, format, encoding, lease })
    }

    async fn export_http(&self, asked: Asked, body: Incoming) -> Result<PushOutcome, Refusal> {
        let Asked { tenant, format, encoding, mut lease } = asked;
        let body = self.read_body(body, self.config.request_bytes_max, &mut lease).await?;
        let (body, lease) = self.inflate(body, encoding, lease).await?;
        let (message, _lease) = match format {
            Format::Protobuf => (body, lease),
            Format::Json => self.json_to_protobuf(body, lease).await?,
        };
        let pushed = self.distributor.push(&tenant, message).await;
        pushed.map_err(|error| Refusal::of_push(error, self.config.retry_after))
    }

    async fn json_to_protobuf(&self, body: Bytes, mut lease: Lease) -> Result<(Bytes, Lease), Refusal> {
        lease.grow(otlp_json::protobuf_bytes_max(&body)).map_err(|full| self.full(full))?;
        let message = self.on_blocking_thread(move || otlp_json::to_protobuf(&body)).await?;
        Ok((message.map_err(Refusal::invalid)?.into(), lease))
    }
}

/// The answer to a request that was not refused as a whole.
pub(crate) fn export_response(outcome: &PushOutcome) -> ExportTraceServiceResponse {
    let partial_success = outcome.message().map(|error_message| ExportTracePartialSuccess {
        rejected_spans: i64::try_from(outcome.rejected_spans()).unwrap_or(i64::MAX),
        error_message,
    });
    ExportTraceServiceResponse { partial_success }
}

pub(crate) fn content_encoding(headers: &HeaderMap) -> Result<Encoding, Refusal> {
    let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
    let Some(value) = values.next() else { return Ok(Encoding::Identity) };
    let encoding = value.to_str().ok().and_then(Encoding::parse).filter(|_| values.next().is_none());
    encoding.ok_or_else(|| {
        Refusal::unsupported(format!("Content-Encoding {value:?} is not supported; use one of {ENCODINGS}"))
    })
}

/// What the body is, in small letters and without parameters; empty where it is not said.
pub(crate) fn media_type(headers: &HeaderMap) -> Vec<u8> {
    let content_type = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase()
}

impl Format {
    fn of(headers: &HeaderMap) -> Option<Self> {
        match media_type(headers).as_slice() {
            b"application/x-protobuf" | b"application/protobuf" => Some(Self::Protobuf),
            b"application/json" => Some(Self::Json),
            _ => None,
        }
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Protobuf => "application/x-protobuf",
            Self::Json => "application/json",
        })
    }

    fn accepted(self, outcome: &PushOutcome) -> Vec<u8> {
        let message = export_response(outcome);
        match (self, &message.partial_success) {
            (Self::Protobuf, _) => message.encode_to_vec(),
            (Self::Json, None) => b"{}".to_vec(),
            (Self::Json, Some(partial)) => {
                let mut json = json!({ "partialSuccess": { "errorMessage": partial.error_message } });
                if partial.rejected_spans != 0 {
                    json["partialSuccess"]["rejectedSpans"] = partial.rejected_spans.to_string().into();
                }
                json.to_string().into_bytes()
            }
        }
    }

    fn refused(self, refusal: &Refusal) -> Response<ResponseBody> {
        let body = match self {
            Self::Protobuf => refusal.protobuf(),
            Self::Json => refusal.json(),
        };
        let mut response = respond(refusal.http, self, body);
        let headers = response.headers_mut();
        if let Some(seconds) = refusal.retry_after_seconds() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if refusal.http == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
        }
        response
    }
}

/// The answer to a request whose handling broke down.
pub(crate) fn refused_http(refusal: &Refusal) -> Response<ResponseBody> {
    Format::Json.refused(refusal)
}

fn respond(status: StatusCode, format: Format, body: Vec<u8>) -> Response<ResponseBody> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, format.content_type());
    response
}
