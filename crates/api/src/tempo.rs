//! Tempo's query endpoints over HTTP: read the parameters, ask the engine, write the answer in the form asked for.

use crate::{
    Failure,
    accept::Form,
    account::{self, Account, NEXT},
    llm, params, shape,
    state::{Call, Shared, now},
};
use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, Uri};
use model::ErrorKind;
use proto::{
    jsonpb,
    tempopb::{PartialStatus, TraceByIdResponse},
};
use std::sync::Arc;

type Answer = Result<Response, Failure>;
type Api = State<Arc<Shared>>;

/// A trace, or 404; an error if it may lie where nothing can be read.
pub async fn trace_v1(State(api): Api, Path(id): Path<String>, headers: HeaderMap, uri: Uri) -> Answer {
    let (response, account) = trace(&api, &id, &headers, &uri).await?;
    let partial = response.status() == PartialStatus::Partial;
    let trace = response.trace.unwrap_or_default();
    match (trace.resource_spans.is_empty(), partial) {
        (true, true) => Err(Failure::new(ErrorKind::Corrupt, format!("no span of the trace was found, but {}", response.message))),
        (true, false) => Ok(StatusCode::NOT_FOUND.into_response()),
        (false, _) => Ok(account.answer(Form::of(&headers), &trace, jsonpb::trace_v1_json, None)),
    }
}

/// Always 200: an absent trace is an empty one.
pub async fn trace_v2(State(api): Api, Path(id): Path<String>, headers: HeaderMap, uri: Uri) -> Answer {
    let (response, account) = trace(&api, &id, &headers, &uri).await?;
    Ok(account.answer(Form::of(&headers), &response, jsonpb::trace_by_id_json, Some(llm::trace)))
}

async fn trace(api: &Shared, id: &str, headers: &HeaderMap, uri: &Uri) -> Result<(TraceByIdResponse, Account), Failure> {
    let Call { tenants, parameters, account } = api.call(headers, uri)?;
    let request = params::trace(id, &parameters)?;
    let response = api.gate.run(&tenants, account.engine().trace_by_id(&tenants, request)).await?;
    Ok((shape::trace(response), account))
}

pub async fn search(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let Call { tenants, parameters, account } = api.call(&headers, &uri)?;
    let request = params::search(&parameters, api.limits(), now())?;
    let after = parameters.read("after", |text| text.parse().map_err(|e: query::QueryError| e.message))?;
    let (mut response, next) = api.gate.run(&tenants, account.engine().search_page(&tenants, request, after)).await?;
    response.metrics.get_or_insert_default();
    let mut answer = account.answer(Form::of(&headers), &response, jsonpb::search_json, None);
    if let Some(next) = next {
        answer.headers_mut().insert(NEXT, account::header_value(&next.to_string()));
    }
    Ok(answer)
}

pub async fn tags_v1(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let Call { tenants, parameters, account } = api.call(&headers, &uri)?;
    let request = params::tag_names(&parameters, api.limits(), now())?;
    let response = shape::tags_v1(&api, &account, &tenants, request).await?;
    Ok(account.answer(Form::of(&headers), &response, jsonpb::tags_json, None))
}

pub async fn tags_v2(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let Call { tenants, parameters, account } = api.call(&headers, &uri)?;
    let request = params::tag_names(&parameters, api.limits(), now())?;
    let response = shape::tags_v2(&api, &account, &tenants, request).await?;
    Ok(account.answer(Form::of(&headers), &response, jsonpb::tags_v2_json, None))
}

pub async fn tag_values_v1(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let name = tag_name(&uri)?;
    let Call { tenants, parameters, account } = api.call(&headers, &uri)?;
    let request = params::tag_values(name, &parameters, api.limits(), now())?;
    let mut response = api.gate.run(&tenants, account.engine().tag_values_v1(&tenants, request)).await?;
    response.metrics.get_or_insert_default();
    Ok(account.answer(Form::of(&headers), &response, jsonpb::tag_values_json, None))
}

pub async fn tag_values_v2(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let name = tag_name(&uri)?;
    let Call { tenants, parameters, account } = api.call(&headers, &uri)?;
    let request = params::tag_values(name, &parameters, api.limits(), now())?;
    let mut response = api.gate.run(&tenants, account.engine().tag_values(&tenants, request)).await?;
    response.metrics.get_or_insert_default();
    Ok(account.answer(Form::of(&headers), &response, jsonpb::tag_values_v2_json, Some(llm::tag_values)))
}

/// What stands between `/search/tag/` and `/values`, still percent-encoded: it may hold slashes.
fn tag_name(uri: &Uri) -> Result<&str, Failure> {
    let (_, rest) = uri.path().split_once("/search/tag/").unwrap_or_default();
    rest.strip_suffix("/values")
        .ok_or_else(|| Failure::new(ErrorKind::NotFound, "no such page: values of a tag are at .../search/tag/{name}/values"))
}

/// Answers JSON whatever is accepted.
pub async fn metrics_range(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let Call { tenants, parameters, account } = api.call(&headers, &uri)?;
    let request = params::metrics_range(&parameters, api.limits(), now())?;
    let mut response = api.gate.run(&tenants, account.engine().query_range(&tenants, request)).await?;
    response.metrics.get_or_insert_default();
    Ok(account.answer(Form::Json, &response, jsonpb::query_range_json, None))
}

/// Answers JSON whatever is accepted.
pub async fn metrics_instant(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let Call { tenants, parameters, account } = api.call(&headers, &uri)?;
    let request = params::metrics_instant(&parameters, api.limits(), now())?;
    let mut response = api.gate.run(&tenants, account.engine().query_instant(&tenants, request)).await?;
    response.metrics.get_or_insert_default();
    Ok(account.answer(Form::Json, &response, jsonpb::query_instant_json, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tags_name_may_hold_slashes() {
        let name = |path: &str| tag_name(&path.parse().unwrap()).map(str::to_owned).map_err(|failure| failure.status);
        assert_eq!(name("/api/v2/search/tag/span.a/values").as_deref(), Ok("span.a"));
        assert_eq!(name("/api/v2/search/tag/span.a/b%2Fvalues/values").as_deref(), Ok("span.a/b%2Fvalues"));
        assert_eq!(name("/api/search/tag/values/values").as_deref(), Ok("values"));
        assert_eq!(name("/api/search/tag/a"), Err(StatusCode::NOT_FOUND));
        assert_eq!(name("/api/search/tag/values"), Err(StatusCode::NOT_FOUND));
    }
}
