//! The layer that stands in front of every port: decides about each request, and writes it down.

use std::{sync::Arc, time::Duration};

use http::{Method, Request, Response, Version, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use listen::{Handler, Layer, Peer, ResponseBody};

use crate::{
    Audit, Door, Need, Needs,
    audit::{self, Opened},
    tenants,
};

/// Of a refused request's body, how much is taken in: over HTTP/1 many a client reads the answer only after it has sent
/// everything, and never if the connection is closed before.
const FORGOTTEN_BYTES_MAX: usize = 1 << 20;
const FORGET_TIMEOUT: Duration = Duration::from_secs(5);

/// `door` is `None` where everybody may do everything, `audit` where nothing is written down.
pub fn guarded(door: Option<Door>, audit: Option<Audit>, needs: Needs) -> Layer {
    Arc::new(move |handler| {
        let guard = Arc::new(Guard { door: door.clone(), audit: audit.clone(), needs: needs.clone(), handler });
        Arc::new(move |request| {
            let guard = guard.clone();
            Box::pin(async move { guard.answer(request).await })
        })
    })
}

struct Guard {
    door: Option<Door>,
    audit: Option<Audit>,
    needs: Needs,
    handler: Handler,
}

impl Guard {
    async fn answer(&self, mut request: Request<Incoming>) -> Response<ResponseBody> {
        let need = (self.needs)(request.method(), request.uri().path());
        let opened = self.audit.as_ref().map(|_| opened(need, &request));
        let decided = match &self.door {
            Some(door) => {
                let certificate = request.extensions().get::<Peer>().and_then(|peer| peer.certificate.clone());
                door.admit(need, certificate.as_deref(), request.headers_mut()).await
            }
            None => Ok(None),
        };
        match decided {
            Ok(identity) => {
                let Some((audit, opened)) = self.audit.as_ref().zip(opened) else {
                    return (self.handler)(request).await;
                };
                let tenant = tenants::named(request.headers());
                let (response, asked) = audit::listening((self.handler)(request)).await;
                audit.watch(opened.by(identity.as_deref()).of(tenant).asking(asked), response)
            }
            Err(refusal) => {
                let response = refusal.answer(request.headers());
                forget(request).await;
                match self.audit.as_ref().zip(opened) {
                    Some((audit, opened)) => {
                        audit.watch(opened.by(refusal.identity().map(Arc::as_ref)).refused(), response)
                    }
                    None => response,
                }
            }
        }
    }
}

fn opened(need: Need, request: &Request<Incoming>) -> Opened {
    Opened::new(
        need,
        request.method(),
        request.uri(),
        tenants::named(request.headers()),
        request.extensions().get::<Peer>().map(|peer| peer.address),
    )
}

/// Takes in what a refused client still sends.
async fn forget(request: Request<Incoming>) {
    let (head, mut body) = request.into_parts();
    // HTTP/2 refuses a stream without its connection; a client that waits for leave to send gets the refusal.
    if head.version >= Version::HTTP_2 || head.method == Method::GET || head.headers.contains_key(header::EXPECT) {
        return;
    }
    let all = async {
        let mut length = 0;
        while let Some(Ok(frame)) = body.frame().await {
            length += frame.data_ref().map_or(0, bytes::Bytes::len);
            if length > FORGOTTEN_BYTES_MAX {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(FORGET_TIMEOUT, all).await;
}
