//! Stands between a client and an OTLP receiver, passes everything on unchanged, and keeps what was sent.
//!
//! What was taken from a client has been answered by the receiver, or is about to be: [`Tap::taken`] waits for that, also
//! if the client has hung up.

use std::{
    io::Read,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use flate2::read::GzDecoder;
use http::{HeaderMap, Request, Response, Uri, Version, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use prost::Message;
use proto::otlp::collector::trace::v1::ExportTraceServiceRequest;
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};

pub struct Tap {
    pub address: SocketAddr,
    state: Arc<State>,
    serving: JoinHandle<()>,
}

struct State {
    /// `host:port` of the receiver.
    receiver: String,
    http1: Client<HttpConnector, Full<Bytes>>,
    http2: Client<HttpConnector, Full<Bytes>>,
    taken: Mutex<Vec<ExportTraceServiceRequest>>,
    forwarding: Mutex<JoinSet<()>>,
}

impl Tap {
    /// HTTP/1.1 becomes HTTP/1.1, and HTTP/2 HTTP/2.
    pub async fn before(receiver: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = || Client::builder(TokioExecutor::new());
        let state = Arc::new(State {
            receiver: receiver.to_owned(),
            http1: client().build_http(),
            http2: client().http2_only(true).build_http(),
            taken: Mutex::default(),
            forwarding: Mutex::default(),
        });
        let shared = state.clone();
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let state = shared.clone();
                let answer = service_fn(move |request| state.clone().pass(request));
                connections.spawn(async move {
                    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), answer).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, state, serving }
    }

    /// What was sent, in the order in which it came.
    pub async fn taken(self) -> Vec<ExportTraceServiceRequest> {
        let mut forwarding = std::mem::take(&mut *self.state.forwarding.lock().unwrap());
        while let Some(ended) = forwarding.join_next().await {
            ended.unwrap();
        }
        std::mem::take(&mut *self.state.taken.lock().unwrap())
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl State {
    async fn pass(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Incoming>, String> {
        let (mut head, body) = request.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        self.taken.lock().unwrap().push(read(&head.headers, &body));
        let http2 = head.version == Version::HTTP_2;
        head.uri = Uri::builder()
            .scheme("http")
            .authority(self.receiver.as_str())
            .path_and_query(head.uri.path_and_query().unwrap().as_str())
            .build()
            .unwrap();
        head.headers.remove(header::HOST);
        let client = if http2 { &self.http2 } else { &self.http1 };
        let answer = client.request(Request::from_parts(head, Full::new(body)));
        let (tell, told) = tokio::sync::oneshot::channel();
        // In a task of its own, which a client that hangs up does not end.
        self.forwarding.lock().unwrap().spawn(async move {
            let _ = tell.send(answer.await.map_err(|error| error.to_string()));
        });
        told.await.unwrap()
    }
}

/// The message in a request of OTLP/HTTP or OTLP/gRPC.
fn read(headers: &HeaderMap, body: &[u8]) -> ExportTraceServiceRequest {
    let named = |name: &str, value: &str| headers.get(name).is_some_and(|found| found == value);
    let (compressed, message) = if named("content-type", "application/grpc") {
        (body[0] == 1, &body[5..])
    } else {
        assert!(named("content-type", "application/x-protobuf"), "{headers:?}");
        (named("content-encoding", "gzip"), body)
    };
    if !compressed {
        return ExportTraceServiceRequest::decode(message).unwrap();
    }
    let mut inflated = vec![];
    GzDecoder::new(message).read_to_end(&mut inflated).unwrap();
    ExportTraceServiceRequest::decode(&inflated[..]).unwrap()
}
