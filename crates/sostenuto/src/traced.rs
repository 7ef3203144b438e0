//! Spans of requests: a layer before a port, behind the one that decides who may ask.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, Request, Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming as Body;
use listen::{Layer, ResponseBody};
use tracer::{MARK, Side, Span, Tracer, extract};

/// Of an answer whose request was recorded: the place of its span, as W3C's `traceparent` has it.
const TRACE_RESPONSE: HeaderName = HeaderName::from_static("traceresponse");
const TENANT: &str = "x-scope-orgid";

/// `side` says what a request is by its method and path; `listener` names the port.
pub fn traced(tracer: Tracer, listener: String, side: fn(&Method, &str) -> Side) -> Layer {
    Arc::new(move |handler| {
        let (tracer, listener) = (tracer.clone(), listener.clone());
        Arc::new(move |request: Request<Body>| {
            let side = side(request.method(), request.uri().path());
            let Some(span) = begin(&tracer, &listener, side, &request) else { return handler(request) };
            let work = handler(request);
            Box::pin(async move {
                let (span, response) = tracer::within(span, work).await;
                answered(span, response)
            })
        })
    })
}

fn begin(tracer: &Tracer, listener: &str, side: Side, request: &Request<Body>) -> Option<Span> {
    let headers = request.headers();
    if headers.contains_key(MARK) {
        return None;
    }
    let tenant = headers.get(TENANT).and_then(|tenant| tenant.to_str().ok());
    if side == Side::Ingest && tenant.is_some() && tenant == tracer.tenant() {
        return None;
    }
    if side == Side::Ingest {
        tracer.delivered();
    }
    let method = request.method();
    let name = match side {
        Side::Ingest => "ingest",
        // What answers knows the route, and gives the span its name.
        Side::Query => method_name(method),
    };
    let mut span = tracer.request(side, extract(headers), name)?;
    span.set("http.request.method", method_name(method));
    span.set("url.path", request.uri().path());
    span.set("sostenuto.listener", listener);
    if let Some(tenant) = tenant {
        span.set("sostenuto.tenant", tenant);
    }
    if let Some(bytes) = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok()) {
        span.set("http.request.body.size", bytes);
    }
    Some(span)
}

fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "_OTHER",
    }
}

/// The span lasts until the answer's body is gone.
fn answered(mut span: Span, mut response: Response<ResponseBody>) -> Response<ResponseBody> {
    let status = response.status();
    span.set("http.response.status_code", u64::from(status.as_u16()));
    let grpc = response.headers().get("grpc-status").and_then(|code| code.to_str().ok()?.parse::<u64>().ok());
    if let Some(code) = grpc {
        span.set("rpc.grpc.status_code", code);
    }
    if status.is_server_error() || grpc.is_some_and(|code| code != 0) {
        span.fail("");
    }
    if let Ok(value) = HeaderValue::try_from(span.context().traceparent()) {
        response.headers_mut().insert(TRACE_RESPONSE, value);
    }
    response.map(|body| {
        ResponseBody::new(body.map_frame(move |frame| {
            let _lives = &span;
            frame
        }))
    })
}
