//! Version 3 of Jaeger's query API over HTTP: the same questions, answered in OTLP's JSON.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderMap, StatusCode, Uri, header};
use model::ErrorKind;
use proto::{
    otlp::{collector::trace::v1::ExportTraceServiceRequest, trace::v1::TracesData},
    otlp_json,
};
use query::TimeRange;
use serde_json::{Value, json};

use super::{
    conditions,
    jaeger::{durations, named_operations, tag_conditions, tag_map, trace_id},
    lookup::{self, Ids},
};
use crate::{
    Failure, moment,
    query_string::Parameters,
    state::{Call, Shared},
};

type Api = State<Arc<Shared>>;

const DEPTH_DEFAULT: usize = 100;

pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/api/v3/services", get(services))
        .route("/api/v3/operations", get(operations))
        .route("/api/v3/traces", get(traces))
        .route("/api/v3/traces/{id}", get(trace))
}

struct Refused(Failure);

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Failure { status, code, message } = self.0;
        let error = json!({ "httpCode": status.as_u16(), "grpcCode": code as i32, "message": message });
        (status, [(header::CONTENT_TYPE, "application/json")], json!({ "error": error }).to_string()).into_response()
    }
}

type Answer = Result<Response, Refused>;

fn answer(call: &Call, text: String) -> Response {
    (StatusCode::OK, call.account.headers(), [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// A parameter by its name or its older one.
fn either<'p>(parameters: &'p Parameters, names: [&str; 2]) -> Option<&'p str> {
    names.into_iter().find_map(|name| parameters.get(name))
}

async fn services(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let call = api.call(&headers, &uri)?;
    let services = lookup::services(&api, &call).await?;
    Ok(answer(&call, json!({ "services": services }).to_string()))
}

async fn operations(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let call = api.call(&headers, &uri)?;
    let service = call.parameters.get("service").ok_or_else(|| Failure::invalid("service is required"))?;
    let kind = either(&call.parameters, ["spanKind", "span_kind"]);
    let operations = named_operations(&api, &call, service, kind).await?;
    let operation = |(name, kind): (String, &str)| {
        json!({ "name": name, "spanKind": if kind.is_empty() { "internal" } else { kind } })
    };
    let operations: Vec<Value> = operations.into_iter().map(operation).collect();
    Ok(answer(&call, json!({ "operations": operations }).to_string()))
}

fn result(call: &Call, traces: Vec<TracesData>) -> Answer {
    let resource_spans: Vec<_> = traces.into_iter().flat_map(|trace| trace.resource_spans).collect();
    if resource_spans.is_empty() {
        return Err(Failure::new(ErrorKind::NotFound, "No traces found").into());
    }
    let json = otlp_json::encode(&ExportTraceServiceRequest { resource_spans });
    let json = String::from_utf8(json).map_err(|_| Failure::new(ErrorKind::Internal, "the answer is not UTF-8"))?;
    Ok(answer(call, format!("{{\"result\":{json}}}")))
}

async fn trace(State(api): Api, Path(id): Path<String>, headers: HeaderMap, uri: Uri) -> Answer {
    let call = api.call(&headers, &uri)?;
    let found = lookup::trace(&api, &call, trace_id(&id)?, Ids::Separate).await?;
    result(&call, vec![found])
}

async fn traces(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let call = api.call(&headers, &uri)?;
    let (query, range, limit) = search(&call.parameters)?;
    let found = lookup::matching(&api, &call, query, range, limit, Ids::Separate).await?;
    result(&call, found)
}

fn search(parameters: &Parameters) -> Result<(String, TimeRange, usize), Failure> {
    let time = |names: [&str; 2]| {
        let text = either(parameters, names).ok_or_else(|| Failure::invalid(format!("{} is required", names[0])))?;
        // A `+` that was not escaped.
        moment::instant(&text.replace(' ', "+")).map_err(|wrong| Failure::invalid(format!("{}: {wrong}", names[0])))
    };
    let range = TimeRange {
        start: time(["query.startTimeMin", "query.start_time_min"])?,
        end: time(["query.startTimeMax", "query.start_time_max"])?,
    };
    if range.start >= range.end {
        return Err(Failure::invalid("query.startTimeMin must be before query.startTimeMax"));
    }
    let depth = either(parameters, ["query.searchDepth", "query.search_depth"]).or(parameters.get("query.num_traces"));
    let depth = match depth {
        Some(text) => text.parse().map_err(|_| Failure::invalid(format!("query.searchDepth: {text:?} is no number")))?,
        None => DEPTH_DEFAULT,
    };
    let duration = |names: [&str; 2]| {
        let text = either(parameters, names);
        text.map(moment::duration).transpose().map_err(|wrong| Failure::invalid(format!("{}: {wrong}", names[0])))
    };
    let least = duration(["query.durationMin", "query.duration_min"])?;
    let most = duration(["query.durationMax", "query.duration_max"])?;
    let service = either(parameters, ["query.serviceName", "query.service_name"]).map(conditions::service);
    let name = either(parameters, ["query.operationName", "query.operation_name"])
        .map(|name| conditions::equal(traceql::ast::Intrinsic::Name, conditions::text(name)));
    let tags = tag_conditions(tag_map("query.attributes", parameters.get("query.attributes").unwrap_or_default())?)?;
    let wanted = service.into_iter().chain(name).chain(durations(least, most)?).chain(tags);
    Ok((conditions::query(conditions::all(wanted)), range, depth))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_are_read() {
        let check = |parameters: &str| search(&Parameters::parse(Some(parameters)).unwrap()).map_err(|f| f.message);
        let times = "query.startTimeMin=2024-01-01T00:00:00Z&query.start_time_max=2024-01-01T01:00:00.5%2B00:00";
        let (query, range, limit) = check(&format!("{times}&query.service_name=shop&query.num_traces=5")).unwrap();
        assert_eq!((query.as_str(), limit), (r#"{ resource.service.name = "shop" }"#, 5));
        assert_eq!(range.end - range.start, 3_600_500_000_000);
        assert!(check("query.serviceName=shop").unwrap_err().contains("query.startTimeMin is required"));
    }
}
