//! Jaeger's collector: `POST /api/traces` with a batch in thrift's binary protocol, accepted with 202.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use listen::ResponseBody;
use tonic::Code;
use translate::jaeger;

use crate::{
    Receiver,
    foreign::{accepted, refused_text},
    http::media_type,
    refusal::Refusal,
};

const TRACES_PATH: &str = "/api/traces";

impl Receiver {
    pub(crate) async fn answer_jaeger_thrift(&self, request: Request<Incoming>) -> Response<ResponseBody> {
        if request.uri().path() != TRACES_PATH {
            return self.answer_elsewhere(request).await;
        }
        let outcome = match check(request.method(), request.headers()) {
            Ok(()) => self.take_http(request, |body: Bytes| jaeger::request_of_thrift(&body)).await,
            Err(refusal) => {
                self.forget_body(request.into_body()).await;
                Err(refusal)
            }
        };
        match outcome {
            Ok(()) => accepted(),
            Err(refusal) => refused_text(&refusal),
        }
    }
}

fn check(method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
    if method != Method::POST {
        let message = format!("send batches with POST, not {method}");
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, Code::Unimplemented, message));
    }
    match media_type(headers).as_slice() {
        b"application/x-thrift" | b"application/vnd.apache.thrift.binary" => Ok(()),
        _ => Err(Refusal::unsupported("Content-Type must be application/x-thrift or application/vnd.apache.thrift.binary")),
    }
}
