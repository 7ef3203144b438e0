//! What the receivers of formats other than OTLP share: the body in, its translation to the distributor, a bare answer
//! out.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use distributor::{Lease, PushOutcome};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use listen::{ResponseBody, full};
use model::TenantId;
use translate::{TranslateError, request_bytes_max};

use crate::{
    Receiver,
    http::content_encoding,
    inflate::Encoding,
    refusal::Refusal,
    tenancy,
};

/// Bodies up to this size are translated at once; more goes to a thread that may block.
const INLINE_BYTES_MAX: usize = 16 << 10;

struct Asked {
    tenant: TenantId,
    encoding: Encoding,
    lease: Lease,
}

impl Receiver {
    /// Takes the spans of a POST. Spans that are refused one by one are counted, but these protocols have no words for it.
    pub(crate) async fn take_http<T>(&self, request: Request<Incoming>, translate: T) -> Result<(), Refusal>
    where
        T: FnOnce(Bytes) -> Result<Vec<u8>, TranslateError> + Send + 'static,
    {
        let (head, body) = request.into_parts();
        let Asked { tenant, encoding, mut lease } = match self.asked_foreign(&head.headers) {
            Ok(asked) => asked,
            Err(refusal) => {
                if !head.headers.contains_key(header::EXPECT) {
                    self.forget_body(body).await;
                }
                return Err(refusal);
            }
        };
        let body = self.read_body(body, self.config.request_bytes_max, &mut lease).await?;
        let (body, lease) = self.inflate(body, encoding, lease).await?;
        self.push_translated(&tenant, body, lease, translate).await.map(drop)
    }

    fn asked_foreign(&self, headers: &HeaderMap) -> Result<Asked, Refusal> {
        let tenant = tenancy::tenant(headers, self.config.multitenancy)?;
        let encoding = content_encoding(headers)?;
        let lease = self.lease()?;
        Ok(Asked { tenant, encoding, lease })
    }

    pub(crate) async fn push_translated<T>(
        &self,
        tenant: &TenantId,
        body: Bytes,
        mut lease: Lease,
        translate: T,
    ) -> Result<PushOutcome, Refusal>
    where
        T: FnOnce(Bytes) -> Result<Vec<u8>, TranslateError> + Send + 'static,
    {
        lease.grow(request_bytes_max(body.len())).map_err(|full| self.full(full))?;
        let translated = match body.len() > INLINE_BYTES_MAX {
            true => self.on_blocking_thread(move || translate(body)).await?,
            false => translate(body),
        };
        let message = translated.map_err(|error| match error {
            TranslateError::Grows { .. } | TranslateError::SpanTooLarge => Refusal::too_large(error),
            TranslateError::Malformed { .. } => Refusal::invalid(error),
        })?;
        let pushed = self.distributor.push(tenant, Bytes::from(message)).await;
        pushed.map_err(|error| Refusal::of_push(error, self.config.retry_after))
    }

    /// What is no delivery of spans goes to whoever shares the port.
    pub(crate) async fn answer_elsewhere(&self, request: Request<Incoming>) -> Response<ResponseBody> {
        match &self.elsewhere {
            Some(elsewhere) => elsewhere(request).await,
            None => {
                self.forget_body(request.into_body()).await;
                let message = "nothing is served here but deliveries of spans";
                refused_text(&Refusal::new(StatusCode::NOT_FOUND, tonic::Code::Unimplemented, message))
            }
        }
    }
}

/// Unix nanoseconds.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) fn accepted() -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::default());
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

/// The reason as plain text.
pub(crate) fn refused_text(refusal: &Refusal) -> Response<ResponseBody> {
    let mut response = Response::new(full(refusal.message.clone().into_bytes()));
    *response.status_mut() = refusal.http;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if let Some(seconds) = refusal.retry_after_seconds() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if refusal.http == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
    }
    response
}
