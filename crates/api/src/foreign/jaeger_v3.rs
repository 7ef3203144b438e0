//! Version 3 of Jaeger's query API over HTTP: the same questions, answered in OTLP's JSON.

use std::{collections::BTreeMap, sync::Arc};

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
    jaeger::{durations, malformed, named_operations, tag_conditions, tag_map, trace_id},
    lookup::{self, Ids},
    summaries,
};
use crate::{
    Failure, moment,
    query_string::Parameters,
    state::{Call, Shared},
};

type Api = State<Arc<Shared>>;

pub(super) const DEPTH_DEFAULT: usize = 100;

pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/api/v3/services", get(services))
        .route("/api/v3/operations", get(operations))
        .route("/api/v3/traces", get(traces))
        .route("/api/v3/traces/{id}", get(trace))
        .route("/api/v3/trace-summaries", get(summaries))
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
    let operation = |(name, kind): (String, &str)| json!({ "name": name, "spanKind": kind_word(kind) });
    let operations: Vec<Value> = operations.into_iter().map(operation).collect();
    Ok(answer(&call, json!({ "operations": operations }).to_string()))
}

/// A span without a kind is internal.
pub(super) fn kind_word(kind: &str) -> &str {
    if kind.is_empty() { "internal" } else { kind }
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
    let found = asked(&call.parameters)?.matching(&api, &call).await?;
    result(&call, found)
}

async fn summaries(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let call = api.call(&headers, &uri)?;
    let found = asked(&call.parameters)?.matching(&api, &call).await?;
    let summaries: Vec<Value> = found.iter().filter_map(summaries::of).map(|summary| summaries::json(&summary)).collect();
    Ok(answer(&call, json!({ "summaries": summaries }).to_string()))
}

/// What is asked of one span of a trace. Times in nanoseconds.
pub(super) struct Question {
    pub service: Option<String>,
    pub operation: Option<String>,
    pub attributes: BTreeMap<String, String>,
    pub range: TimeRange,
    pub duration_min: Option<i64>,
    pub duration_max: Option<i64>,
    /// The most traces.
    pub depth: usize,
}

impl Question {
    fn query(&self) -> Result<String, Failure> {
        let TimeRange { start, end } = self.range;
        if start >= end {
            return Err(Failure::invalid("query.startTimeMin must be before query.startTimeMax"));
        }
        let service = self.service.as_deref().map(conditions::service);
        let name = self.operation.as_deref();
        let name = name.map(|name| conditions::equal(traceql::ast::Intrinsic::Name, conditions::text(name)));
        let wanted = service.into_iter().chain(name).chain(durations(self.duration_min, self.duration_max)?);
        Ok(conditions::query(conditions::all(wanted.chain(tag_conditions(self.attributes.clone())?))))
    }

    /// The newest traces, newest first.
    pub async fn matching(&self, api: &Shared, call: &Call) -> Result<Vec<TracesData>, Failure> {
        lookup::matching(api, call, self.query()?, self.range, self.depth, Ids::Separate).await
    }
}

/// An expression that is not looked at would find more than was asked for.
pub(super) fn no_filter() -> Failure {
    Failure::invalid("query.filter is not supported: use query.attributes, or TraceQL at /api/search")
}

fn asked(parameters: &Parameters) -> Result<Question, Failure> {
    let time = |names: [&str; 2]| {
        let text = either(parameters, names).ok_or_else(|| Failure::invalid(format!("{} is required", names[0])))?;
        // A `+` that was not escaped.
        moment::instant(&text.replace(' ', "+")).map_err(|wrong| malformed(names[0], wrong))
    };
    if parameters.get("query.filter").is_some() {
        return Err(no_filter());
    }
    let depth = either(parameters, ["query.searchDepth", "query.search_depth"]).or(parameters.get("query.num_traces"));
    let depth = match depth {
        Some(text) => text.parse().map_err(|_| malformed("query.searchDepth", format!("{text:?} is no number")))?,
        None => DEPTH_DEFAULT,
    };
    let duration = |names: [&str; 2]| {
        let text = either(parameters, names);
        text.map(moment::duration).transpose().map_err(|wrong| malformed(names[0], wrong))
    };
    let text = |names| either(parameters, names).map(str::to_owned);
    Ok(Question {
        service: text(["query.serviceName", "query.service_name"]),
        operation: text(["query.operationName", "query.operation_name"]),
        attributes: tag_map("query.attributes", parameters.get("query.attributes").unwrap_or_default())?,
        range: TimeRange {
            start: time(["query.startTimeMin", "query.start_time_min"])?,
            end: time(["query.startTimeMax", "query.start_time_max"])?,
        },
        duration_min: duration(["query.durationMin", "query.duration_min"])?,
        duration_max: duration(["query.durationMax", "query.duration_max"])?,
        depth,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_are_read() {
        let check = |parameters: &str| {
            let question = asked(&Parameters::parse(Some(parameters)).unwrap()).map_err(|f| f.message)?;
            Ok::<_, String>((question.query().map_err(|f| f.message)?, question.range, question.depth))
        };
        let times = "query.startTimeMin=2024-01-01T00:00:00Z&query.start_time_max=2024-01-01T01:00:00.5%2B00:00";
        let (query, range, limit) = check(&format!("{times}&query.service_name=shop&query.num_traces=5")).unwrap();
        assert_eq!((query.as_str(), limit), (r#"{ resource.service.name = "shop" }"#, 5));
        assert_eq!(range.end - range.start, 3_600_500_000_000);
        assert!(check("query.serviceName=shop").unwrap_err().contains("query.startTimeMin is required"));
        assert!(check(&format!("{times}&query.filter=%7B%7D")).unwrap_err().contains("query.filter"));
        let backwards = "query.startTimeMin=2024-01-01T01:00:00Z&query.startTimeMax=2024-01-01T01:00:00Z";
        assert!(check(backwards).unwrap_err().contains("must be before"));
    }
}
