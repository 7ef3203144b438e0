//! Zipkin's query API, version 2, below `/zipkin` and on Zipkin's own port.

use std::{collections::HashSet, sync::Arc};

use axum::{
    Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderMap, StatusCode, Uri, header};
use model::{ErrorKind, TraceId};
use proto::otlp::trace::v1::TracesData;
use query::TimeRange;
use serde_json::{Value, json};
use translate::zipkin::{self, Kind, Span};

use super::{
    conditions::{self, Condition},
    dependencies::{self, Links},
    lookup::{self, Ids, TRACES_MAX},
};
use crate::{
    Failure,
    query_string::Parameters,
    state::{Call, Shared, now},
};

type Answer = Result<Response, Failure>;
type Api = State<Arc<Shared>>;

const LIMIT_DEFAULT: usize = 10;
const LOOKBACK_MS_DEFAULT: i64 = 24 * 3600 * 1000;
/// Parts of an `annotationQuery`.
const ANNOTATIONS_MAX: usize = 100;

pub const PATHS: [&str; 9] = [
    "/api/v2/services",
    "/api/v2/spans",
    "/api/v2/remoteServices",
    "/api/v2/traces",
    "/api/v2/trace/{traceId}",
    "/api/v2/traceMany",
    "/api/v2/dependencies",
    "/api/v2/autocompleteKeys",
    "/api/v2/autocompleteValues",
];

pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/api/v2/services", get(services))
        .route("/api/v2/spans", get(span_names))
        .route("/api/v2/remoteServices", get(remote_services))
        .route("/api/v2/traces", get(traces))
        .route("/api/v2/trace/{id}", get(trace))
        .route("/api/v2/traceMany", get(trace_many))
        .route("/api/v2/dependencies", get(dependencies))
        .route("/api/v2/autocompleteKeys", get(autocomplete_keys))
        .route("/api/v2/autocompleteValues", get(autocomplete_values))
}

fn answer(call: &Call, value: &Value) -> Response {
    (call.account.headers(), [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

async fn services(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let call = api.call(&headers, &uri)?;
    let services = lookup::services(&api, &call).await?;
    Ok(answer(&call, &json!(services)))
}

fn required<'p>(parameters: &'p Parameters, name: &str) -> Result<&'p str, Failure> {
    parameters.get(name).ok_or_else(|| Failure::invalid(format!("{name} is required")))
}

async fn span_names(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let call = api.call(&headers, &uri)?;
    let service = conditions::service_alike(required(&call.parameters, "serviceName")?);
    let names = lookup::values(&api, &call, "name", conditions::query([service])).await?;
    Ok(answer(&call, &json!(names)))
}

async fn remote_services(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let call = api.call(&headers, &uri)?;
    let query = conditions::query([conditions::service_alike(required(&call.parameters, "serviceName")?)]);
    let mut names = vec![];
    for attribute in zipkin::REMOTE_NAMES {
        names.extend(lookup::values(&api, &call, &conditions::span_attribute(attribute), query.clone()).await?);
    }
    names.sort();
    names.dedup();
    Ok(answer(&call, &json!(names)))
}

async fn autocomplete_keys(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let call = api.call(&headers, &uri)?;
    let names = lookup::span_attributes(&api, &call).await?;
    Ok(answer(&call, &json!(names)))
}

async fn autocomplete_values(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let call = api.call(&headers, &uri)?;
    let name = conditions::span_attribute(required(&call.parameters, "key")?);
    let values = lookup::values(&api, &call, &name, String::new()).await?;
    Ok(answer(&call, &json!(values)))
}

async fn trace(State(api): Api, Path(id): Path<String>, headers: HeaderMap, uri: Uri) -> Answer {
    let call = api.call(&headers, &uri)?;
    let found = lookup::trace(&api, &call, trace_id(&id)?, Ids::AsReceived).await?;
    let spans = spans(&found);
    if spans.is_empty() {
        return Err(Failure::new(ErrorKind::NotFound, format!("{id} not found")));
    }
    Ok(answer(&call, &zipkin::write_json(&spans)))
}

async fn trace_many(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let call = api.call(&headers, &uri)?;
    let texts = required(&call.parameters, "traceIds")?;
    let ids = texts.split(',').map(|text| trace_id(text.trim())).collect::<Result<Vec<_>, _>>()?;
    let distinct: HashSet<&TraceId> = ids.iter().collect();
    if distinct.len() != ids.len() || ids.len() < 2 {
        return Err(Failure::invalid("traceIds must be at least two trace ids, none of them twice"));
    }
    let found = lookup::several(&api, &call, ids, Ids::AsReceived).await?;
    Ok(answer(&call, &many(&found)))
}

async fn traces(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let call = api.call(&headers, &uri)?;
    let parameters = &call.parameters;
    let limit = positive(parameters, "limit")?.map_or(LIMIT_DEFAULT, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let (query, range) = (query(parameters)?, range(parameters, now())?);
    let found = lookup::matching(&api, &call, query, range, limit, Ids::AsReceived).await?;
    Ok(answer(&call, &many(&found)))
}

async fn dependencies(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let call = api.call(&headers, &uri)?;
    required(&call.parameters, "endTs")?;
    let range = range(&call.parameters, now())?;
    let mut links = Links::new();
    for trace in lookup::matching(&api, &call, conditions::query([]), range, TRACES_MAX, Ids::Separate).await? {
        dependencies::add(&trace, &mut links);
    }
    let link = |((parent, child), calls): (&(String, String), &dependencies::Calls)| {
        let mut link = json!({ "parent": parent, "child": child, "callCount": calls.count });
        if calls.errors > 0 {
            link["errorCount"] = calls.errors.into();
        }
        link
    };
    Ok(answer(&call, &links.iter().map(link).collect()))
}

fn trace_id(text: &str) -> Result<TraceId, Failure> {
    TraceId::parse(text).map_err(|error| Failure::invalid(format!("{text:?} is not a trace id: {error}")))
}

fn many(traces: &[TracesData]) -> Value {
    traces.iter().map(|trace| zipkin::write_json(&spans(trace))).collect()
}

/// A server's span under the id of a client's is a shared one, also where its sender did not say so.
fn spans(trace: &TracesData) -> Vec<Span> {
    let mut spans = zipkin::spans(trace);
    let clients: HashSet<_> = spans.iter().filter(|span| span.kind == Some(Kind::Client)).map(|span| span.id).collect();
    for span in &mut spans {
        span.shared |= span.kind == Some(Kind::Server) && clients.contains(&span.id);
    }
    spans
}

fn positive(parameters: &Parameters, name: &str) -> Result<Option<i64>, Failure> {
    parameters.read(name, |text| match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("must be a whole number above 0; found {text:?}")),
    })
}

fn range(parameters: &Parameters, now: i64) -> Result<TimeRange, Failure> {
    let end = positive(parameters, "endTs")?.map_or(now, |ms| ms.saturating_mul(1_000_000));
    let lookback = positive(parameters, "lookback")?.unwrap_or(LOOKBACK_MS_DEFAULT).saturating_mul(1_000_000);
    Ok(TimeRange { start: end.saturating_sub(lookback).max(0), end })
}

/// Each condition may be met by another span, but where a service is named, only by its spans.
fn query(parameters: &Parameters) -> Result<String, Failure> {
    let mut wanted: Vec<Condition> = vec![];
    if let Some(name) = parameters.get("spanName").filter(|name| *name != "all") {
        wanted.push(conditions::name_alike(name));
    }
    wanted.extend(parameters.get("remoteServiceName").and_then(conditions::remote_alike));
    wanted.extend(annotations(parameters.get("annotationQuery").unwrap_or_default())?);
    let micros = |name| positive(parameters, name).map(|micros| micros.map(|micros| micros.saturating_mul(1000)));
    match (micros("minDuration")?, micros("maxDuration")?) {
        (None, Some(_)) => return Err(Failure::invalid("maxDuration is given without minDuration")),
        (Some(least), Some(most)) if most < least => {
            return Err(Failure::invalid("maxDuration must not be less than minDuration"));
        }
        (least, most) => wanted.extend(conditions::all(conditions::duration(least, most))),
    }
    let Some(service) = parameters.get("serviceName").filter(|name| *name != "all").map(conditions::service_alike) else {
        return Ok(conditions::query(wanted));
    };
    if wanted.is_empty() {
        return Ok(conditions::query([service]));
    }
    let of_service = |condition| conditions::all([service.clone(), condition]);
    Ok(conditions::query(wanted.into_iter().filter_map(of_service)))
}

/// `key=value and event and ...`
fn annotations(text: &str) -> Result<Vec<Condition>, Failure> {
    let parts: Vec<&str> = text.split(" and ").map(str::trim).filter(|part| !part.is_empty()).collect();
    if parts.len() > ANNOTATIONS_MAX {
        return Err(Failure::invalid(format!("annotationQuery has more than {ANNOTATIONS_MAX} parts")));
    }
    let mut tags: Vec<(&str, &str)> = vec![];
    let mut conditions: Vec<Condition> = vec![];
    for part in parts {
        match part.split_once('=') {
            None => conditions.extend(conditions::mentions(part)),
            Some((key, value)) => {
                tags.retain(|(known, _)| *known != key);
                tags.push((key, value));
            }
        }
    }
    conditions.extend(tags.into_iter().filter_map(|(key, value)| match value {
        "" => conditions::mentions(key),
        value => conditions::tag(key, value),
    }));
    Ok(conditions)
}

/// Zipkin's own page asks how the server is.
pub(crate) async fn health() -> Response {
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], json!({ "status": "UP" }).to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(parameters: &str) -> Result<String, String> {
        let parameters = Parameters::parse(Some(parameters)).unwrap();
        query(&parameters).map_err(|failure| failure.message)
    }

    #[test]
    fn conditions_are_those_of_the_service() {
        assert_eq!(check("").unwrap(), "{ }");
        assert_eq!(check("serviceName=7&spanName=all").unwrap(), r#"{ resource.service.name = "7" }"#);
        assert_eq!(
            check("serviceName=7&spanName=8&minDuration=100").unwrap(),
            r#"{ resource.service.name = "7" && name = "8" } && { resource.service.name = "7" && duration >= 100µs }"#
        );
        let both = check("annotationQuery=a%3D1+and+b+and+a%3D2").unwrap();
        assert!(both.contains(r#"span.a = "2""#) && !both.contains(r#""1""#) && both.contains(r#"event:name = "b""#), "{both}");
        assert!(check("maxDuration=1").unwrap_err().contains("minDuration"));
        assert!(check("minDuration=0").unwrap_err().contains("above 0"));
    }
}
