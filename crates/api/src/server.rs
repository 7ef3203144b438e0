//! Serves the API on ports.

use crate::{ApiState, grpc, routes, state::Shared};
use axum::Router;
use futures::{FutureExt, future::BoxFuture};
use http_body_util::BodyExt;
use listen::{Bounds, Handler, Port, ResponseBody};
use std::{sync::Arc, time::Duration};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// From the connection to its first request, and from one request to the end of the next one's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// A URL has at most 64 KiB; the headers come beside it.
const HEAD_BYTES_MAX: u32 = 256 << 10;

/// The query APIs over one engine, which share their bounds whatever port they are asked on.
#[derive(Clone)]
pub struct Api(Arc<Shared>);

impl Api {
    pub fn new(state: ApiState) -> Self {
        Self(Shared::new(state))
    }

    /// Serves everything until `shutdown` is cancelled, then takes no new connection and waits for running requests as
    /// long as `drain_timeout` says. Returns the number of connections that had to be cut.
    pub fn serve(&self, port: impl Into<Port>, shutdown: CancellationToken) -> BoxFuture<'static, usize> {
        self.serve_with_health(port.into(), "the API", routes::router, shutdown)
    }

    /// Serves the methods of gRPC alone, otherwise as [`Api::serve`].
    pub fn serve_grpc(&self, port: impl Into<Port>, shutdown: CancellationToken) -> BoxFuture<'static, usize> {
        self.serve_with_health(port.into(), "gRPC", routes::grpc_router, shutdown)
    }

    fn serve_with_health(
        &self,
        port: Port,
        name: &'static str,
        router: fn(Arc<Shared>, grpc::Health) -> Router,
        shutdown: CancellationToken,
    ) -> BoxFuture<'static, usize> {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let (reporter, _) = tonic_health::server::health_reporter();
            let health = grpc::Health::new(tonic_health::server::HealthService::from_health_reporter(reporter.clone()));
            let mut health_follower = JoinSet::new();
            health_follower.spawn(routes::follow(shared.state.readiness.clone(), reporter));
            let handler = handler(router(Arc::clone(&shared), health));
            listen::serve(port, bounds(name, &shared), handler, shutdown).await
        })
    }

    /// Serves Jaeger's query API alone, otherwise as [`Api::serve`].
    pub fn serve_jaeger(&self, port: impl Into<Port>, shutdown: CancellationToken) -> BoxFuture<'static, usize> {
        listen::serve(port.into(), bounds("the Jaeger API", &self.0), handler(routes::jaeger_router(&self.0)), shutdown)
    }

    /// Serves the methods of Jaeger's query API alone, otherwise as [`Api::serve`].
    pub fn serve_jaeger_grpc(&self, port: impl Into<Port>, shutdown: CancellationToken) -> BoxFuture<'static, usize> {
        self.serve_with_health(port.into(), "gRPC of the Jaeger API", routes::jaeger_grpc_router, shutdown)
    }

    /// Serves Jaeger's remote sampling alone, as its agent does, otherwise as [`Api::serve`].
    pub fn serve_sampling(&self, port: impl Into<Port>, shutdown: CancellationToken) -> BoxFuture<'static, usize> {
        listen::serve(port.into(), bounds("remote sampling", &self.0), handler(routes::agent_router(&self.0)), shutdown)
    }

    /// Jaeger's remote sampling alone, for ports that are served elsewhere.
    pub fn sampling(&self) -> Handler {
        handler(routes::sampling_router(&self.0))
    }

    /// Zipkin's query API alone, for a port that is served elsewhere.
    pub fn zipkin(&self) -> Handler {
        handler(routes::zipkin_router(&self.0))
    }
}

/// Serves everything on one port: see [`Api::serve`].
pub fn serve(port: impl Into<Port>, state: ApiState, shutdown: CancellationToken) -> BoxFuture<'static, usize> {
    Api::new(state).serve(port, shutdown)
}

/// The bounds of a port, of which the configuration decides some.
fn bounds(name: &'static str, shared: &Shared) -> Bounds {
    let config = &shared.state.config;
    Bounds {
        name,
        connections_max: config.connections_max,
        head_timeout: HEAD_TIMEOUT,
        head_bytes_max: HEAD_BYTES_MAX,
        drain_timeout: config.drain_timeout,
    }
}

fn handler(router: Router) -> Handler {
    Arc::new(move |request| {
        let answer = router.clone().oneshot(request);
        Box::pin(answer.map(|answer| match answer {
            Ok(answer) => answer.map(|body| ResponseBody::new(body.map_err(Into::into))),
            Err(never) => match never {},
        }))
    })
}
