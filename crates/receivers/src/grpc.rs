//! OTLP's `TraceService/Export` and Jaeger's `CollectorService/PostSpans`: one message in, one message out.
//!
//! The gRPC framing is read here and not by a generated server, for three reasons: the message stays raw bytes, size
//! and memory are bounded as over HTTP, and each fault gets the code that makes an OTLP client do the right thing.

use bytes::{BufMut, Bytes, BytesMut};
use distributor::PushOutcome;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use listen::{ResponseBody, full};
use prost::Message;
use tonic::Code;
use translate::TranslateError;

use crate::{
    Receiver,
    http::{export_response, media_type},
    inflate::{ENCODINGS, Encoding},
    refusal::Refusal,
    tenancy,
};

/// A method that takes spans.
pub(crate) struct TakesSpans {
    path: &'static str,
    /// From its message to OTLP's.
    translate: Option<fn(&[u8]) -> Result<Vec<u8>, TranslateError>>,
    /// The message of its answer.
    answer: fn(&PushOutcome) -> Vec<u8>,
}

pub(crate) const EXPORT: TakesSpans = TakesSpans {
    path: "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    translate: None,
    answer: |outcome| export_response(outcome).encode_to_vec(),
};

/// Its answer has no fields: what was refused of a batch is only counted.
pub(crate) const POST_SPANS: TakesSpans = TakesSpans {
    path: "/jaeger.api_v2.CollectorService/PostSpans",
    translate: Some(translate::jaeger::request_of_post_spans),
    answer: |_| vec![],
};

const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
/// Of a message: one byte whether it is compressed, four its length.
const PREFIX_BYTES: usize = 5;

impl Receiver {
    pub(crate) async fn answer_grpc(&self, request: Request<Incoming>, method: &TakesSpans) -> Response<ResponseBody> {
        if request.uri().path() != method.path && self.elsewhere.is_some() {
            return self.answer_elsewhere(request).await;
        }
        match is_grpc(request.headers()) {
            true => match self.take_grpc(request, method).await {
                Ok(outcome) => accepted(&(method.answer)(&outcome)),
                Err(refusal) => refused_grpc(&refusal),
            },
            false => {
                let mut response = Response::new(ResponseBody::default());
                *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
                response
            }
        }
    }

    async fn take_grpc(&self, request: Request<Incoming>, method: &TakesSpans) -> Result<PushOutcome, Refusal> {
        let (head, body) = request.into_parts();
        if head.method != Method::POST || head.uri.path() != method.path {
            let message = format!("{} is not served here; this is {}", head.uri.path(), method.path);
            return Err(Refusal::new(StatusCode::NOT_FOUND, Code::Unimplemented, message));
        }
        let tenant = tenancy::tenant(&head.headers, self.config.multitenancy)?;
        let encoding = encoding(&head.headers)?;
        let mut lease = self.lease()?;
        let body = self.read_body(body, self.config.request_bytes_max + PREFIX_BYTES, &mut lease).await?;
        let (compressed, message) = single_message(body, self.config.request_bytes_max)?;
        let encoding = match (compressed, encoding) {
            (false, _) => Encoding::Identity,
            (true, Encoding::Identity) => {
                return Err(Refusal::invalid("the message is compressed, and no grpc-encoding says how"));
            }
            (true, encoding) => encoding,
        };
        let (message, lease) = self.inflate(message, encoding, lease).await?;
        if let Some(translate) = method.translate {
            return self.push_translated(&tenant, message, lease, move |message| translate(&message)).await;
        }
        let pushed = self.distributor.push(&tenant, message).await;
        drop(lease);
        pushed.map_err(|error| Refusal::of_push(error, self.config.retry_after))
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    matches!(media_type(headers).as_slice(), b"application/grpc" | b"application/grpc+proto")
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Refusal> {
    let Some(value) = headers.get("grpc-encoding") else { return Ok(Encoding::Identity) };
    value.to_str().ok().and_then(Encoding::parse).ok_or_else(|| {
        Refusal::unsupported(format!("grpc-encoding {value:?} is not supported; use one of {ENCODINGS}"))
    })
}

/// The one message of a unary call, of at most `bytes_max`, and whether it is compressed.
fn single_message(mut body: Bytes, bytes_max: usize) -> Result<(bool, Bytes), Refusal> {
    let Some((prefix, rest)) = body.split_first_chunk::<PREFIX_BYTES>() else {
        return Err(Refusal::invalid("the call has no message"));
    };
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    let compressed = match prefix[0] {
        0 => false,
        1 => true,
        flag => return Err(Refusal::invalid(format!("a message starts with flag {flag}, which gRPC does not have"))),
    };
    if length > bytes_max {
        return Err(Refusal::too_large(format!("the message has {length} bytes, more than {bytes_max}; send smaller batches")));
    }
    if rest.len() < length {
        return Err(Refusal::invalid(format!("the message ends after {} of {length} bytes", rest.len())));
    }
    if rest.len() > length {
        return Err(Refusal::invalid("the call has more than one message; one is taken"));
    }
    Ok((compressed, body.split_off(PREFIX_BYTES)))
}

fn accepted(message: &[u8]) -> Response<ResponseBody> {
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("an answer is a few hundred bytes"));
    frame.put_slice(message);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = full(frame).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(ResponseBody::new(body));
    response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
    response
}

pub(crate) fn refused_grpc(refusal: &Refusal) -> Response<ResponseBody> {
    let mut response = refusal.status().into_http::<ResponseBody>();
    response.headers_mut().insert("grpc-accept-encoding", HeaderValue::from_static(ENCODINGS));
    response
}
