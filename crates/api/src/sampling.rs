//! Jaeger's remote sampling: which share of its traces a service shall record, from a file of strategies in Jaeger's own
//! format, over HTTP and gRPC.
//!
//! - A service without a strategy has the default one, and without a default the server's of Jaeger: one in a thousand.
//! - Strategies of operations in the default hold for every service that says nothing of the operation itself.
//! - The file is read again when it changes; one that cannot be used leaves the last good one in force.

mod message;
mod strategies;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::future::BoxFuture;
use http::{StatusCode, Uri, header};
use tonic_prost::ProstCodec;

use crate::{query_string::Parameters, state::Shared};

pub(crate) use message::Parameters as GrpcParameters;
pub use message::Strategy;
pub use strategies::{FILE_BYTES_MAX, Strategies};

/// The method of Jaeger's `SamplingManager`.
pub(crate) const METHOD: &str = "/jaeger.api_v2.SamplingManager/GetSamplingStrategy";

/// Says what the strategies are now.
pub type CurrentStrategies = Arc<dyn Fn() -> Arc<Strategies> + Send + Sync>;

/// As on the ports of Jaeger's collector.
pub(crate) fn collector_routes() -> Router<Arc<Shared>> {
    Router::new().route("/api/sampling", get(over_http)).route(METHOD, post(over_grpc))
}

/// As on the port of Jaeger's agent, 5778.
pub(crate) fn agent_routes() -> Router<Arc<Shared>> {
    Router::new().route("/sampling", get(over_http)).route("/", get(over_http))
}

const OFF: &str = "no strategies are served here: set distributor.sampling.strategies_file\n";

async fn over_http(State(api): State<Arc<Shared>>, uri: Uri) -> Response {
    let Some(strategies) = &api.state.sampling else { return (StatusCode::NOT_FOUND, OFF).into_response() };
    let parameters = match Parameters::parse(uri.query()) {
        Ok(parameters) => parameters,
        Err(failure) => return failure.into_response(),
    };
    let named: Vec<&str> = parameters.iter().filter(|(name, _)| *name == "service").map(|(_, value)| value).collect();
    let [service] = named.as_slice() else {
        return (StatusCode::BAD_REQUEST, "'service' parameter must be provided once").into_response();
    };
    let json = strategies().of(service).json().to_string();
    ([(header::CONTENT_TYPE, "application/json")], json).into_response()
}

async fn over_grpc(State(api): State<Arc<Shared>>, request: Request<Body>) -> Response {
    let mut grpc = tonic::server::Grpc::new(ProstCodec::<Strategy, GrpcParameters>::default())
        .apply_max_message_size_config(Some(api.state.config.request_bytes_max), None);
    grpc.unary(Answers(api), request).await.map(Body::new)
}

struct Answers(Arc<Shared>);

impl tonic::server::UnaryService<GrpcParameters> for Answers {
    type Response = Strategy;
    type Future = BoxFuture<'static, Result<tonic::Response<Strategy>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<GrpcParameters>) -> Self::Future {
        let strategies = self.0.state.sampling.clone();
        Box::pin(async move {
            let strategies = strategies.ok_or_else(|| tonic::Status::unimplemented(OFF.trim_end()))?;
            Ok(tonic::Response::new(strategies().of(&request.into_inner().service_name)))
        })
    }
}
