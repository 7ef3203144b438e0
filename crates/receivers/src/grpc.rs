//! OTLP/gRPC: `TraceService/Export`, one message in, one message out.
//!
//! The gRPC framing is read here and not by a generated server, for three reasons: the message stays raw bytes, size
//! and memory are bounded as over HTTP, and each fault gets the code that makes an OTLP client do the right thing.

use bytes::{BufMut, Bytes, BytesMut};
use distributor::PushOutcome;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use prost::Message;
use tonic::Code;

use crate::{
    Receiver,
    http::export_response,
    inflate::{ENCODINGS, Encoding},
    refusal::Refusal,
    serve::ResponseBody,
    tenancy,
};

const EXPORT_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
/// Of a message: one byte whether it is compressed, four its length.
const PREFIX_BYTES: usize = 5;

impl Receiver {
    pub(crate) async fn answer_grpc(&self, request: Request<Incoming>) -> Response<ResponseBody> {
        match is_grpc(request.headers()) {
            true => self.export_grpc(request).await.map_or_else(|refusal| refused_grpc(&refusal), accepted),
            false => {
                let mut response = Response::new(ResponseBody::default());
                *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
                response
            }
        }
    }

    async fn export_grpc(&self, request: Request<Incoming>) -> Result<PushOutcome, Refusal> {
        let (head, body) = request.into_parts();
        if head.method != Method::POST || head.uri.path() != EXPORT_PATH {
            let message = format!("{} is not served here; this is {EXPORT_PATH}", head.uri.path());
            return Err(Refusal::new(StatusCode::NOT_FOUND, Code::Unimplemented, message));
        }
        let tenant = tenancy::tenant(&head.headers, self.config.multitenancy)?;
        let encoding = encoding(&head.headers)?;
        let mut lease = self.budget.lease().map_err(|busy| self.busy(busy))?;
        let body = self.read_body(body, self.config.request_bytes_max + PREFIX_BYTES, &mut lease).await?;
        let (compressed, message) = single_message(body)?;
        let encoding = match (compressed, encoding) {
            (false, _) => Encoding::Identity,
            (true, Encoding::Identity) => {
                return Err(Refusal::invalid("the message is compressed, and no grpc-encoding says how"));
            }
            (true, encoding) => encoding,
        };
        let (message, _lease) = self.inflate(message, encoding, lease).await?;
        let pushed = self.distributor.push(&tenant, message).await;
        pushed.map_err(|error| Refusal::of_push(error, self.config.retry_after))
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let kind = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    kind == b"application/grpc" || kind == b"application/grpc+proto"
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Refusal> {
    let Some(value) = headers.get("grpc-encoding") else { return Ok(Encoding::Identity) };
    value.to_str().ok().and_then(Encoding::parse).ok_or_else(|| {
        Refusal::unsupported(format!("grpc-encoding {value:?} is not supported; use one of {ENCODINGS}"))
    })
}

/// The one message of a unary call, and whether it is compressed.
fn single_message(mut body: Bytes) -> Result<(bool, Bytes), Refusal> {
    let Some((prefix, rest)) = body.split_first_chunk::<PREFIX_BYTES>() else {
        return Err(Refusal::invalid("the call has no message"));
    };
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    let compressed = match prefix[0] {
        0 => false,
        1 => true,
        flag => return Err(Refusal::invalid(format!("a message starts with flag {flag}, which gRPC does not have"))),
    };
    if rest.len() < length {
        return Err(Refusal::invalid(format!("the message ends after {} of {length} bytes", rest.len())));
    }
    if rest.len() > length {
        return Err(Refusal::invalid("the call has more than one message; Export takes one"));
    }
    Ok((compressed, body.split_off(PREFIX_BYTES)))
}

fn accepted(outcome: PushOutcome) -> Response<ResponseBody> {
    let message = export_response(&outcome);
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("an answer is a few hundred bytes"));
    message.encode(&mut frame).expect("the buffer grows as needed");
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(frame.freeze()).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(ResponseBody::new(body));
    response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
    response
}

pub(crate) fn refused_grpc(refusal: &Refusal) -> Response<ResponseBody> {
    let mut response = refusal.status().into_http::<ResponseBody>();
    response.headers_mut().insert("grpc-accept-encoding", HeaderValue::from_static(ENCODINGS));
    response
}
