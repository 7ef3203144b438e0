//! Pages about the server itself: readiness, build, services, configuration, storage, metrics.

use crate::{
    Metrics, ReadyState,
    metrics::BuildInfo,
    state::Shared,
};
use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use std::sync::Arc;

/// The release of Tempo whose API this is. Grafana reads it as `version` and switches features by it.
const TEMPO_API_VERSION: &str = "3.0.3";

type Page = Arc<dyn Fn() -> String + Send + Sync>;

/// What the status pages show. The program gives the text of its own parts; none of it may hold a secret.
#[derive(Clone)]
pub struct StatusPages {
    pub build: BuildInfo,
    /// The configuration in force, as YAML.
    pub config: Page,
    /// One line for each service and its state.
    pub services: Page,
    /// Where data is stored and how much.
    pub backend: Page,
    /// Limits as YAML: of a tenant, or of all that have their own.
    pub overrides: Arc<dyn Fn(Option<&str>) -> String + Send + Sync>,
}

impl StatusPages {
    /// Pages that have nothing to tell yet but the build.
    pub fn new(build: BuildInfo) -> Self {
        let empty: Page = Arc::new(String::new);
        Self { build, config: empty.clone(), services: empty.clone(), backend: empty, overrides: Arc::new(|_| String::new()) }
    }
}

pub(crate) async fn echo() -> &'static str {
    "echo\n"
}

pub(crate) async fn ready(State(shared): State<Arc<Shared>>) -> (StatusCode, &'static str) {
    match shared.state.readiness.get() {
        ReadyState::Ready => (StatusCode::OK, "ready\n"),
        ReadyState::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        ReadyState::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
    }
}

pub(crate) async fn buildinfo(State(shared): State<Arc<Shared>>) -> Json<serde_json::Value> {
    let build = &shared.state.status.build;
    Json(serde_json::json!({
        "version": TEMPO_API_VERSION,
        "revision": build.revision,
        "branch": build.branch,
        "buildUser": build.built_by,
        "buildDate": build.built_at,
        "goVersion": "",
        "sostenutoVersion": build.version,
        "rustVersion": build.compiler,
    }))
}

pub(crate) async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    ([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], shared.state.metrics.text()).into_response()
}

/// All pages, one after the other.
pub(crate) async fn status(State(shared): State<Arc<Shared>>) -> String {
    PAGES.map(|name| format!("# {name}\n{}", page(&shared, name).unwrap_or_default().trim_end())).join("\n\n") + "\n"
}

pub(crate) async fn status_page(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Response {
    match page(&shared, &name) {
        Some(text) => text.into_response(),
        None => (StatusCode::NOT_FOUND, format!("no such page; there are {}\n", PAGES.join(", "))).into_response(),
    }
}

/// What holds for one tenant.
pub(crate) async fn overrides_of(State(shared): State<Arc<Shared>>, Path(tenant): Path<String>) -> Response {
    match model::TenantId::parse(&tenant) {
        Ok(tenant) => (shared.state.status.overrides)(Some(tenant.as_str())).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

const PAGES: [&str; 6] = ["version", "services", "endpoints", "config", "overrides", "backend"];

fn page(shared: &Shared, name: &str) -> Option<String> {
    let pages = &shared.state.status;
    Some(match name {
        "version" => {
            let BuildInfo { version, revision, branch, built_by, built_at, compiler } = &pages.build;
            format!(
                "sostenuto {version}\nrevision  {revision}\nbranch    {branch}\nbuilt     {built_at} by {built_by}\nrustc     {compiler}\nanswers   the API of Tempo {TEMPO_API_VERSION}\n"
            )
        }
        "services" => (pages.services)(),
        "endpoints" => crate::routes::endpoints(&shared.state.config.http_api_prefix),
        "config" => (pages.config)(),
        // The second is what Tempo calls it.
        "overrides" | "runtime_config" => (pages.overrides)(None),
        "backend" => (pages.backend)(),
        _ => return None,
    })
}
