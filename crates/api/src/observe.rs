//! Measures every request.

use crate::{Metrics, failure::CLIENT_CLOSED_REQUEST, foreign::jaeger_rpc, grpc};
use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use http::{Method, header};
use std::time::Instant;

/// The route of requests that match none.
const NO_ROUTE: &str = "other";

pub(crate) async fn observe(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let mut observation = Observation {
        method: method(request.method()),
        route: route(&request),
        status: CLIENT_CLOSED_REQUEST,
        started: Instant::now(),
        metrics,
    };
    tracer::rename(|| match observation.route.strip_prefix('/').filter(|_| is_rpc(&observation.route)) {
        Some(method) => method.to_owned(),
        None => format!("{} {}", observation.method, observation.route),
    });
    observation.metrics.running().inc();
    let response = next.run(request).await;
    // A gRPC method that fails before its first message says so in a header.
    let grpc = response.headers().get("grpc-status").and_then(|value| value.to_str().ok()?.parse().ok());
    let content_type = response.headers().get(header::CONTENT_TYPE);
    let is_grpc = content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    observation.status = if is_grpc { grpc.unwrap_or(0) } else { response.status().as_u16() };
    response
}

/// Recorded when it goes out of scope: a request whose caller went away is dropped half way.
struct Observation {
    metrics: Metrics,
    method: &'static str,
    route: String,
    status: u16,
    started: Instant,
}

impl Drop for Observation {
    fn drop(&mut self) {
        self.metrics.running().dec();
        let took = self.started.elapsed();
        tracing::debug!(method = self.method, route = self.route, status = self.status, ?took, "request");
        self.metrics.observe(self.method, std::mem::take(&mut self.route), self.status, took);
    }
}

fn is_rpc(route: &str) -> bool {
    [grpc::PATH_START, jaeger_rpc::PATH_START].iter().any(|start| route.starts_with(start))
}

/// One of a fixed set.
fn route(request: &Request) -> String {
    let path = request.uri().path();
    if grpc::METHODS.contains(&path) {
        return path.to_owned();
    }
    request.extensions().get::<MatchedPath>().map_or(NO_ROUTE, MatchedPath::as_str).to_owned()
}

fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
