//! An answer's body that is counted while it is sent, and whose end ends the line.

use std::{
    error::Error,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use hyper::body::{Body, Frame, SizeHint};
use listen::ResponseBody;

use super::{Audit, Opened, line::Outcome};

pub(super) struct Watched {
    body: ResponseBody,
    opened: Opened,
    audit: Audit,
    outcome: Outcome,
}

impl Watched {
    pub(super) fn around(opened: Opened, audit: Audit, response: Response<ResponseBody>) -> Response<ResponseBody> {
        let outcome = Outcome {
            status: response.status().as_u16(),
            grpc_status: grpc_status(response.headers()),
            bytes: 0,
            whole: response.body().is_end_stream(),
        };
        response.map(|body| ResponseBody::new(Self { body, opened, audit, outcome }))
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.outcome.bytes += data.len() as u64;
                }
                if let Some(status) = frame.trailers_ref().and_then(grpc_status) {
                    self.outcome.grpc_status = Some(status);
                }
                // Nothing comes behind trailers.
                self.outcome.whole = frame.is_trailers() || self.body.is_end_stream();
            }
            Poll::Ready(None) => self.outcome.whole = true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A client that goes away drops the body half way.
impl Drop for Watched {
    fn drop(&mut self) {
        self.audit.push(self.opened.ended(&self.outcome));
    }
}
