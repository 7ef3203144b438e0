//! Tempo's query endpoints over HTTP: read the parameters, ask the engine, write the answer in the form asked for.

use crate::{
    Failure,
    accept::Form,
    llm, params, shape,
    state::{Call, Shared, now},
};
use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, Uri, header};
use model::ErrorKind;
use proto::{
    jsonpb,
    tempopb::{PartialStatus, TraceByIdResponse},
};
use std::sync::Arc;

type Answer = Result<Response, Failure>;
type Api = State<Arc<Shared>>;

/// A trace, or 404. This form cannot say that something is missing, so a part of a trace is an error.
pub async fn trace_v1(State(api): Api, Path(id): Path<String>, headers: HeaderMap, uri: Uri) -> Answer {
    let response = trace(&api, &id, &headers, &uri).await?;
    if response.status() == PartialStatus::Partial {
        let message = format!("{}; /api/v2/traces/{id} returns the part that can be read", response.message);
        return Err(Failure::new(ErrorKind::TooLarge, message));
    }
    let trace = response.trace.unwrap_or_default();
    if trace.resource_spans.is_empty() {
        return Ok(StatusCode::NOT_FOUND.into_response());
    }
    Ok(answer(Form::of(&headers), &trace, jsonpb::trace_v1_json, None))
}

/// Always 200: an absent trace is an empty one.
pub async fn trace_v2(State(api): Api, Path(id): Path<String>, headers: HeaderMap, uri: Uri) -> Answer {
    let response = trace(&api, &id, &headers, &uri).await?;
    Ok(answer(Form::of(&headers), &response, jsonpb::trace_by_id_json, Some(llm::trace)))
}

async fn trace(api: &Shared, id: &str, headers: &HeaderMap, uri: &Uri) -> Result<TraceByIdResponse, Failure> {
    let Call { tenants, parameters } = api.call(headers, uri)?;
    let request = params::trace(id, &parameters)?;
    let response = api.gate.run(api.engine().trace_by_id(&tenants, request)).await?;
    Ok(shape::trace(response))
}

pub async fn search(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let Call { tenants, parameters } = api.call(&headers, &uri)?;
    let request = params::search(&parameters, api.limits(), now())?;
    let mut response = api.gate.run(api.engine().search(&tenants, request)).await?;
    response.metrics.get_or_insert_default();
    Ok(answer(Form::of(&headers), &response, jsonpb::search_json, None))
}

pub async fn tags_v1(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let Call { tenants, parameters } = api.call(&headers, &uri)?;
    let request = params::tag_names(&parameters, api.limits(), now())?;
    let response = shape::tags_v1(&api, &tenants, request).await?;
    Ok(answer(Form::of(&headers), &response, jsonpb::tags_json, None))
}

pub async fn tags_v2(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let Call { tenants, parameters } = api.call(&headers, &uri)?;
    let request = params::tag_names(&parameters, api.limits(), now())?;
    let response = shape::tags_v2(&api, &tenants, request).await?;
    Ok(answer(Form::of(&headers), &response, jsonpb::tags_v2_json, None))
}

pub async fn tag_values_v1(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let name = tag_name(&uri)?;
    let Call { tenants, parameters } = api.call(&headers, &uri)?;
    let request = params::tag_values(name, &parameters, api.limits(), now())?;
    let mut response = api.gate.run(api.engine().tag_values_v1(&tenants, request)).await?;
    response.metrics.get_or_insert_default();
    Ok(answer(Form::of(&headers), &response, jsonpb::tag_values_json, None))
}

pub async fn tag_values_v2(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let name = tag_name(&uri)?;
    let Call { tenants, parameters } = api.call(&headers, &uri)?;
    let request = params::tag_values(name, &parameters, api.limits(), now())?;
    let mut response = api.gate.run(api.engine().tag_values(&tenants, request)).await?;
    response.metrics.get_or_insert_default();
    Ok(answer(Form::of(&headers), &response, jsonpb::tag_values_v2_json, Some(llm::tag_values)))
}

/// What stands between `/search/tag/` and `/values`, still percent-encoded: it may hold slashes.
fn tag_name(uri: &Uri) -> Result<&str, Failure> {
    let (_, rest) = uri.path().split_once("/search/tag/").unwrap_or_default();
    rest.strip_suffix("/values")
        .ok_or_else(|| Failure::new(ErrorKind::NotFound, "no such page: values of a tag are at .../search/tag/{name}/values"))
}

/// Answers JSON whatever is accepted.
pub async fn metrics_range(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let Call { tenants, parameters } = api.call(&headers, &uri)?;
    let request = params::metrics_range(&parameters, api.limits(), now())?;
    let mut response = api.gate.run(api.engine().query_range(&tenants, request)).await?;
    response.metrics.get_or_insert_default();
    Ok(answer(Form::Json, &response, jsonpb::query_range_json, None))
}

/// Answers JSON whatever is accepted.
pub async fn metrics_instant(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let Call { tenants, parameters } = api.call(&headers, &uri)?;
    let request = params::metrics_instant(&parameters, api.limits(), now())?;
    let mut response = api.gate.run(api.engine().query_instant(&tenants, request)).await?;
    response.metrics.get_or_insert_default();
    Ok(answer(Form::Json, &response, jsonpb::query_instant_json, None))
}

/// A message that has no form for language models is plain JSON to them.
fn answer<M: prost::Message>(form: Form, message: &M, json: fn(&M) -> Vec<u8>, llm: Option<fn(&M) -> Vec<u8>>) -> Response {
    let (content_type, body) = match (form, llm) {
        (Form::Protobuf, _) => (Form::PROTOBUF, message.encode_to_vec()),
        (Form::Llm, Some(llm)) => (Form::LLM, llm(message)),
        (Form::Llm | Form::Json, _) => (Form::JSON, json(message)),
    };
    ([(header::CONTENT_TYPE, content_type)], body).into_response()
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
