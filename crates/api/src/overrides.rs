//! `/api/overrides`: a tenant's own document of limits, read and changed while the server runs.
//!
//! - `GET` gives the document, with `scope=merged` what holds for the tenant with everything under it. The header `ETag` has
//!   the version.
//! - `POST` puts another document in its place and `DELETE` takes it away; both name the version that they know in
//!   `If-Match`, 0 if there is none. `PATCH` merges (RFC 7386) and needs no version.
//!
//! What a document says, where it is kept and when it holds is the program's business ([`Overrides`]).

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::State,
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use futures::future::BoxFuture;
use http::{HeaderMap, StatusCode, Uri, header};
use model::{ErrorKind, TenantId};

use crate::{
    Failure,
    state::{Call, Shared},
};

/// The path, for what it needs of its caller.
pub(crate) const PATH: &str = "/api/overrides";

/// What is asked of a tenant's document.
#[derive(Clone, Debug)]
pub enum OverridesCall {
    Get,
    /// What holds, all sources together.
    Merged,
    Replace {
        document: Bytes,
        version: u64,
        /// Also if it changes what the operator has set for this tenant.
        despite_conflicts: bool,
    },
    Merge {
        patch: Bytes,
        despite_conflicts: bool,
    },
    Delete {
        version: u64,
    },
}

pub struct OverridesAnswer {
    /// As JSON.
    pub document: String,
    /// 0 is none.
    pub version: u64,
}

/// Answers for a tenant. A call whose version is not the newest fails with [`stale`].
pub type Overrides =
    Arc<dyn Fn(TenantId, OverridesCall) -> BoxFuture<'static, Result<OverridesAnswer, Failure>> + Send + Sync>;

/// Somebody else changed the document before.
pub fn stale(newest: u64) -> Failure {
    let message = format!("the document has changed: its version is {newest}; read it again, and name that in If-Match");
    Failure { status: StatusCode::PRECONDITION_FAILED, code: tonic::Code::FailedPrecondition, message }
}

pub(crate) fn methods() -> MethodRouter<Arc<Shared>> {
    get(read).post(replace).patch(merge).delete(delete)
}

type Api = State<Arc<Shared>>;

async fn read(State(api): Api, headers: HeaderMap, uri: Uri) -> Result<Response, Failure> {
    let call = api.call(&headers, &uri)?;
    let what = match call.parameters.get("scope") {
        None | Some("api") => OverridesCall::Get,
        Some("merged") => OverridesCall::Merged,
        Some(other) => return Err(Failure::invalid(format!("scope {other:?} is not known: use api or merged"))),
    };
    ask(&api, &call, what).await
}

async fn replace(State(api): Api, headers: HeaderMap, uri: Uri, document: Bytes) -> Result<Response, Failure> {
    let call = api.call(&headers, &uri)?;
    let (version, despite_conflicts) = (version(&headers)?, despite_conflicts(&call));
    ask(&api, &call, OverridesCall::Replace { document, version, despite_conflicts }).await
}

async fn merge(State(api): Api, headers: HeaderMap, uri: Uri, patch: Bytes) -> Result<Response, Failure> {
    let call = api.call(&headers, &uri)?;
    let despite_conflicts = despite_conflicts(&call);
    ask(&api, &call, OverridesCall::Merge { patch, despite_conflicts }).await
}

async fn delete(State(api): Api, headers: HeaderMap, uri: Uri) -> Result<Response, Failure> {
    let call = api.call(&headers, &uri)?;
    let version = version(&headers)?;
    ask(&api, &call, OverridesCall::Delete { version }).await
}

fn despite_conflicts(call: &Call) -> bool {
    call.parameters.get("skip-conflicting-overrides-check") == Some("true")
}

/// In quotes or not.
fn version(headers: &HeaderMap) -> Result<u64, Failure> {
    let Some(text) = headers.get(header::IF_MATCH) else {
        let message = "name the version that you know in If-Match, 0 if there is none".to_owned();
        return Err(Failure { status: StatusCode::PRECONDITION_REQUIRED, code: tonic::Code::FailedPrecondition, message });
    };
    let number = text.to_str().ok().and_then(|text| text.trim().trim_matches('"').parse().ok());
    number.ok_or_else(|| Failure::invalid("If-Match must be a version as ETag has it"))
}

async fn ask(api: &Shared, call: &Call, what: OverridesCall) -> Result<Response, Failure> {
    let Some(overrides) = &api.state.overrides else {
        let off = "tenants have no limits of their own here: set overrides.user_configurable_overrides.enabled";
        return Err(Failure::new(ErrorKind::NotFound, off));
    };
    let [tenant] = call.tenants.as_slice() else {
        return Err(Failure::invalid("overrides are of one tenant: ask for each of them alone"));
    };
    let OverridesAnswer { document, version } = overrides(tenant.clone(), what).await?;
    let headers = [(header::CONTENT_TYPE, "application/json".to_owned()), (header::ETAG, version.to_string())];
    Ok((headers, document).into_response())
}
