//! A port of a receiver: what becomes of each of its requests.

use std::{fmt, panic::AssertUnwindSafe, sync::Arc};

use futures::{FutureExt, future::BoxFuture};
use http::{Request, Response};
use hyper::body::Incoming;
use listen::{Bounds, Handler, Port, ResponseBody};
use tokio_util::sync::CancellationToken;

use crate::{
    Receiver,
    foreign::refused_text,
    grpc::{self, refused_grpc},
    http::refused_http,
    refusal::Refusal,
};

const HEAD_BYTES_MAX: u32 = 64 << 10;

/// Of the ports that take requests. Each takes all formats of its protocol.
#[derive(Clone, Copy, Debug)]
pub enum Protocol {
    OtlpGrpc,
    OtlpHttp,
    Zipkin,
    /// Jaeger's collector over gRPC.
    JaegerGrpc,
    /// Jaeger's collector over HTTP.
    JaegerThrift,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::OtlpGrpc => "OTLP/gRPC",
            Self::OtlpHttp => "OTLP/HTTP",
            Self::Zipkin => "Zipkin",
            Self::JaegerGrpc => "Jaeger/gRPC",
            Self::JaegerThrift => "Jaeger/thrift",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

pub(crate) fn serve(
    port: Port,
    receiver: Receiver,
    protocol: Protocol,
    shutdown: CancellationToken,
) -> BoxFuture<'static, usize> {
    let config = &receiver.config;
    let bounds = Bounds {
        name: protocol.name(),
        connections_max: config.connections_max,
        head_timeout: config.head_timeout,
        head_bytes_max: HEAD_BYTES_MAX,
        drain_timeout: config.drain_timeout,
    };
    let receiver = Arc::new(receiver);
    let handler: Handler = Arc::new(move |request| {
        let receiver = receiver.clone();
        Box::pin(async move { receiver.answer(request, protocol).await })
    });
    listen::serve(port, bounds, handler, shutdown)
}

impl Receiver {
    /// A panic is our bug, and not the client's: it is told to come again.
    async fn answer(&self, request: Request<Incoming>, protocol: Protocol) -> Response<ResponseBody> {
        let answer = async {
            match protocol {
                Protocol::OtlpGrpc => self.answer_grpc(request, &grpc::EXPORT).await,
                Protocol::JaegerGrpc => self.answer_grpc(request, &grpc::POST_SPANS).await,
                Protocol::OtlpHttp => self.answer_http(request).await,
                Protocol::Zipkin => self.answer_zipkin(request).await,
                Protocol::JaegerThrift => self.answer_jaeger_thrift(request).await,
            }
        };
        AssertUnwindSafe(answer).catch_unwind().await.unwrap_or_else(|_| {
            tracing::error!("a panic while a request of {protocol} was handled");
            let refusal = Refusal::unavailable("an internal error; send again later", self.config.retry_after);
            match protocol {
                Protocol::OtlpGrpc | Protocol::JaegerGrpc => refused_grpc(&refusal),
                Protocol::OtlpHttp => refused_http(&refusal),
                Protocol::Zipkin | Protocol::JaegerThrift => refused_text(&refusal),
            }
        })
    }
}
