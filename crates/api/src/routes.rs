//! Paths, and what answers each.

use crate::{
    Failure, Readiness, admin, export,
    foreign::{jaeger, jaeger_rpc, zipkin},
    grpc, mcp, observe, overrides, sampling, sql,
    state::Shared,
    status, tempo,
};
use axum::{
    Router,
    extract::Request,
    handler::Handler,
    middleware,
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use http::{StatusCode, header};
use std::sync::Arc;
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::{CompressionLayer, CompressionLevel},
    limit::RequestBodyLimitLayer,
};

/// The paths below the prefix.
const API_PATHS: [&str; 12] = [
    "/api/traces/{traceID}",
    "/api/v2/traces/{traceID}",
    "/api/search",
    "/api/search/tags",
    "/api/v2/search/tags",
    "/api/search/tag/{name}/values",
    "/api/v2/search/tag/{name}/values",
    "/api/metrics/query_range",
    "/api/metrics/query",
    "/api/export",
    "/api/echo",
    "/api/status/buildinfo",
];

/// Where the query APIs of others begin.
const JAEGER: &str = "/jaeger";
const ZIPKIN: &str = "/zipkin";

/// The paths that never have a prefix.
const OWN_PATHS: [&str; 4] = ["/ready", "/metrics", "/status", "/status/{version|services|endpoints|config|overrides|backend}"];

/// The whole API, HTTP and gRPC. `health` is served as gRPC's health service.
pub(crate) fn router(shared: Arc<Shared>, health: grpc::Health) -> Router {
    let prefix = prefix(&shared.state.config.http_api_prefix);

    let api = Router::new()
        .route("/api/traces/{id}", asked(tempo::trace_v1))
        .route("/api/v2/traces/{id}", asked(tempo::trace_v2))
        .route("/api/search", asked(tempo::search))
        .route("/api/search/tags", asked(tempo::tags_v1))
        .route("/api/v2/search/tags", asked(tempo::tags_v2))
        // A tag's name may hold slashes, so these match up to the end; the handlers look for `/values`.
        .route("/api/search/tag/{*name}", asked(tempo::tag_values_v1))
        .route("/api/v2/search/tag/{*name}", asked(tempo::tag_values_v2))
        .route("/api/metrics/query_range", asked(tempo::metrics_range))
        .route("/api/metrics/query", asked(tempo::metrics_instant))
        .route("/api/export", get(export::export))
        .route("/api/sql", post(sql::sql))
        .route(overrides::PATH, overrides::methods())
        .route("/api/mcp", post(mcp::post).fallback(mcp::other))
        .route("/api/echo", get(status::echo))
        .route("/api/status/buildinfo", get(status::buildinfo))
        .nest(JAEGER, jaeger::routes())
        .nest(ZIPKIN, zipkin::routes());
    let api = if prefix.is_empty() { api } else { Router::new().nest(&prefix, api) };

    let http = api
        .route("/ready", get(status::ready))
        .route("/metrics", get(status::metrics))
        .route("/flush", post(admin::flush))
        .route("/status", get(status::status))
        .route("/status/{page}", get(status::status_page))
        .route("/status/overrides/{tenant}", get(status::overrides_of))
        .merge(sampling::collector_routes())
        .with_state(shared.clone());
    observed(&shared, bounded(&shared, http).merge(grpc::router(&shared, health)))
}

/// The methods of gRPC alone.
pub(crate) fn grpc_router(shared: Arc<Shared>, health: grpc::Health) -> Router {
    observed(&shared, grpc::router(&shared, health))
}

/// Jaeger's query API alone, HTTP and gRPC, as on its own port.
pub(crate) fn jaeger_router(shared: &Arc<Shared>) -> Router {
    observed(shared, bounded(shared, jaeger::routes().with_state(shared.clone())).merge(grpc::jaeger_router(shared)))
}

/// The methods of Jaeger's query API alone, as on the port of Jaeger's gRPC.
pub(crate) fn jaeger_grpc_router(shared: Arc<Shared>, health: grpc::Health) -> Router {
    observed(&shared, grpc::jaeger_router(&shared).merge(grpc::health_router(&shared, health)))
}

/// Zipkin's query API alone, as on its own port, with Zipkin's own paths too.
pub(crate) fn zipkin_router(shared: &Arc<Shared>) -> Router {
    let routes = zipkin::routes().route("/health", get(zipkin::health)).with_state(shared.clone());
    let routes = Router::new().nest(ZIPKIN, zipkin::routes().with_state(shared.clone())).merge(routes);
    observed(shared, bounded(shared, routes))
}

/// Jaeger's remote sampling alone, as its collector has it beside the spans.
pub(crate) fn sampling_router(shared: &Arc<Shared>) -> Router {
    observed(shared, bounded(shared, sampling::collector_routes().with_state(shared.clone())))
}

/// ... and as its agent has it.
pub(crate) fn agent_router(shared: &Arc<Shared>) -> Router {
    let routes = sampling::collector_routes().merge(sampling::agent_routes());
    observed(shared, bounded(shared, routes.with_state(shared.clone())))
}

fn bounded(shared: &Shared, router: Router) -> Router {
    router
        .layer(CompressionLayer::new().no_br().no_deflate().no_zstd().quality(CompressionLevel::Fastest))
        .layer(RequestBodyLimitLayer::new(shared.state.config.request_bytes_max))
}

fn observed(shared: &Shared, router: Router) -> Router {
    router
        .fallback(not_found)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(shared.state.metrics.clone(), observe::observe))
}

/// A question of Tempo's API stands in the URL. Clients use GET; Tempo takes POST too.
fn asked<H, T>(answer: H) -> MethodRouter<Arc<Shared>>
where
    H: Handler<T, Arc<Shared>>,
    T: 'static,
{
    get(answer.clone()).post(answer)
}

/// Without a slash at the end, with one at the start, or empty.
pub(crate) fn prefix(configured: &str) -> String {
    match configured.trim_matches('/') {
        "" => String::new(),
        path => format!("/{path}"),
    }
}

/// One path on each line, for the status page.
pub(crate) fn endpoints(configured_prefix: &str) -> String {
    let prefix = prefix(configured_prefix);
    let api = API_PATHS.iter().map(|path| format!("GET  {prefix}{path}\n"));
    let foreign = [(JAEGER, jaeger::PATHS.as_slice()), (ZIPKIN, zipkin::PATHS.as_slice())];
    let foreign = foreign.into_iter().flat_map(|(below, paths)| paths.iter().map(move |path| (below, path)));
    let foreign: String = foreign.map(|(below, path)| format!("GET  {prefix}{below}{path}\n")).collect();
    let own = OWN_PATHS.iter().map(|path| format!("GET  {path}\n"));
    let rpc = grpc::METHODS.iter().chain(&jaeger_rpc::METHODS).map(|path| format!("gRPC {path}\n"));
    api.chain([foreign]).chain(own).chain([
            format!("POST {prefix}/api/sql\n"),
            format!("GET|POST|PATCH|DELETE {prefix}{}\n", overrides::PATH),
            format!("POST {prefix}/api/mcp\n"),
            "GET  /api/sampling\n".to_owned(),
            "POST /flush\n".to_owned(),
        ]).chain(rpc).collect()
}

async fn not_found(request: Request) -> Response {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    if content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
        return tonic::Status::unimplemented("no such method").into_http();
    }
    (StatusCode::NOT_FOUND, "no such page: /status/endpoints lists what there is\n").into_response()
}

/// A bug of ours costs one request, not the server. The panic hook has printed what happened.
fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    Failure::new(model::ErrorKind::Internal, "internal error: the server's log says more").into_response()
}

/// Keeps the health service in step with the program's readiness until all handles of it are gone.
pub(crate) async fn follow(readiness: Readiness, reporter: tonic_health::server::HealthReporter) {
    let mut states = readiness.subscribe();
    loop {
        let state = *states.borrow_and_update();
        grpc::report(&reporter, state).await;
        if states.changed().await.is_err() {
            return;
        }
    }
}
