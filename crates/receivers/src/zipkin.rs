//! Zipkin: `POST /api/v1/spans` and `POST /api/v2/spans` in JSON, protobuf and thrift; accepted with 202.
//!
//! Other paths take spans as version 2 does. What is not POST is a query, and not answered here.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use hyper::body::Incoming;
use listen::ResponseBody;
use translate::zipkin::{self, Format};

use crate::{
    Receiver,
    foreign::{self, accepted, refused_text},
    http::media_type,
};

impl Receiver {
    pub(crate) async fn answer_zipkin(&self, request: Request<Incoming>) -> Response<ResponseBody> {
        if request.method() != Method::POST {
            return self.answer_elsewhere(request).await;
        }
        let format = format(request.uri().path(), request.headers());
        let received = foreign::now();
        let translate = move |body: Bytes| zipkin::request(format, &body, received);
        match self.take_http(request, translate).await {
            Ok(()) => accepted(),
            Err(refusal) => refused_text(&refusal),
        }
    }
}

/// Whatever does not say otherwise is JSON.
fn format(path: &str, headers: &HeaderMap) -> Format {
    match media_type(headers).as_slice() {
        b"application/x-thrift" | b"application/vnd.apache.thrift.binary" => Format::ThriftV1,
        b"application/x-protobuf" | b"application/protobuf" => Format::ProtobufV2,
        _ if path.contains("api/v1/spans") => Format::JsonV1,
        _ => Format::JsonV2,
    }
}
