//! Jaeger's query API, below `/jaeger` and on the port of Jaeger's query server.
//!
//! Every answer, errors too, stands in one envelope.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use base64::{
    Engine as _,
    engine::general_purpose::{GeneralPurpose, STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use http::{HeaderMap, StatusCode, Uri, header};
use model::{ErrorKind, TraceId};
use proto::{
    otlp::trace::v1::{ResourceSpans, ScopeSpans, TracesData},
    otlp_json,
};
use query::TimeRange;
use serde_json::{Value, json};
use translate::jaeger;

use super::{
    conditions::{self, Condition},
    dependencies::{self, Links},
    jaeger_v3,
    lookup::{self, Ids, TRACES_MAX},
    service_metrics,
};
use crate::{
    Failure, moment,
    query_string::Parameters,
    state::{Call, Shared, now},
};

type Api = State<Arc<Shared>>;

const LIMIT_DEFAULT: u32 = 100;
const RANGE_DEFAULT_NS: i64 = 48 * 3600 * 1_000_000_000;
const LOOKBACK_MS_DEFAULT: i64 = 24 * 3600 * 1000;
/// Tags of one search.
const TAGS_MAX: usize = 100;
/// The kinds of spans, as words.
const KINDS: [&str; 6] = ["", "client", "consumer", "internal", "producer", "server"];

pub const PATHS: [&str; 13] = [
    "/api/services",
    "/api/services/{service}/operations",
    "/api/operations",
    "/api/traces",
    "/api/traces/{traceID}",
    "/api/dependencies",
    "/api/transform",
    "/api/metrics/{latencies|calls|errors}",
    "/api/v3/services",
    "/api/v3/operations",
    "/api/v3/traces",
    "/api/v3/traces/{traceID}",
    "/api/v3/trace-summaries",
];

pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/api/services", get(services))
        // A service's name may hold slashes.
        .route("/api/services/{*rest}", get(operations_of_service))
        .route("/api/operations", get(operations))
        .route("/api/traces", get(traces))
        .route("/api/traces/{id}", get(trace))
        .route("/api/dependencies", get(dependencies))
        .route("/api/transform", post(transform))
        .route("/api/archive/{id}", any(not_kept))
        .merge(service_metrics::routes())
        .merge(jaeger_v3::routes())
}

/// A failure in the envelope.
pub(super) struct Refused(Failure);

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Failure { status, message, .. } = self.0.clone();
        let body = envelope(Value::Null, 0, json!([{ "code": status.as_u16(), "msg": message }]));
        let mut response = self.0.into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        *response.body_mut() = body.to_string().into();
        response.headers_mut().remove(header::CONTENT_LENGTH);
        response
    }
}

pub(super) type Answer = Result<Response, Refused>;

fn envelope(data: Value, total: usize, errors: Value) -> Value {
    json!({ "data": data, "total": total, "limit": 0, "offset": 0, "errors": errors })
}

fn answer(call: &Call, data: Vec<Value>, errors: Vec<Value>) -> Response {
    let total = data.len();
    let errors = if errors.is_empty() { Value::Null } else { errors.into() };
    let body = envelope(data.into(), total, errors);
    let text = match call.parameters.get("prettyPrint") {
        Some("true") => format!("{body:#}"),
        _ => body.to_string(),
    };
    (call.account.headers(), [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

fn texts(texts: Vec<String>) -> Vec<Value> {
    texts.into_iter().map(Value::from).collect()
}

async fn services(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let call = api.call(&headers, &uri)?;
    Ok(answer(&call, texts(lookup::services(&api, &call).await?), vec![]))
}

async fn operations_of_service(State(api): Api, Path(rest): Path<String>, headers: HeaderMap, uri: Uri) -> Answer {
    let call = api.call(&headers, &uri)?;
    let Some(service) = rest.strip_suffix("/operations") else {
        return Err(Failure::new(ErrorKind::NotFound, "no such page: operations are at /api/services/{service}/operations").into());
    };
    let names = lookup::values(&api, &call, "name", conditions::query([conditions::service(service)])).await?;
    Ok(answer(&call, texts(names), vec![]))
}

async fn operations(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let call = api.call(&headers, &uri)?;
    let service = service(&call.parameters)?;
    let operations = named_operations(&api, &call, service, call.parameters.get("spanKind")).await?;
    let operation = |(name, kind)| json!({ "name": name, "spanKind": kind });
    Ok(answer(&call, operations.into_iter().map(operation).collect(), vec![]))
}

fn service(parameters: &Parameters) -> Result<&str, Failure> {
    parameters.get("service").ok_or_else(|| Failure::invalid("parameter 'service' is required"))
}

/// Names and kinds, sorted; of one kind only if one is named.
pub(super) async fn named_operations(
    api: &Shared,
    call: &Call,
    service: &str,
    kind: Option<&str>,
) -> Result<Vec<(String, &'static str)>, Failure> {
    let mut all = vec![];
    for word in KINDS.into_iter().filter(|word| kind.is_none_or(|kind| kind == *word)) {
        let query = conditions::all([conditions::service(service)].into_iter().chain(conditions::kind(word)));
        let names = lookup::values(api, call, "name", conditions::query(query)).await?;
        all.extend(names.into_iter().map(|name| (name, word)));
    }
    all.sort();
    Ok(all)
}

async fn trace(State(api): Api, Path(id): Path<String>, headers: HeaderMap, uri: Uri) -> Answer {
    let call = api.call(&headers, &uri)?;
    let found = lookup::trace(&api, &call, trace_id(&id)?, Ids::Separate).await?;
    match jaeger::write_json(&jaeger::batches(&found)) {
        Some(trace) => Ok(answer(&call, vec![trace], vec![])),
        None => Err(Failure::new(ErrorKind::NotFound, "trace not found").into()),
    }
}

/// Hexadecimal, or 16 bytes as base64.
pub(super) fn trace_id(text: &str) -> Result<TraceId, Failure> {
    let base64 = |engine: &GeneralPurpose| TraceId::from_slice(&engine.decode(text.trim_end_matches('=')).ok()?);
    TraceId::parse(text).or_else(|error| {
        let found = [STANDARD_NO_PAD, URL_SAFE_NO_PAD].iter().filter(|_| text.len() <= BASE64_BYTES_MAX).find_map(base64);
        found.ok_or_else(|| Failure::invalid(format!("{text:?} is not a trace id: {error}")))
    })
}

/// Of a trace id.
const BASE64_BYTES_MAX: usize = 24;

async fn traces(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let call = api.call(&headers, &uri)?;
    let parameters = &call.parameters;
    let ids: Vec<&str> = parameters.iter().filter(|(name, _)| *name == "traceID").map(|(_, value)| value).collect();
    let mut errors = vec![];
    let found = if ids.is_empty() {
        let limit = parameters.number("limit")?.unwrap_or(LIMIT_DEFAULT) as usize;
        let (query, range) = (query(parameters)?, range(parameters, now())?);
        lookup::matching(&api, &call, query, range, limit, Ids::Separate).await?
    } else {
        let ids = ids.into_iter().map(trace_id).collect::<Result<Vec<_>, _>>()?;
        let found = lookup::several(&api, &call, ids.clone(), Ids::Separate).await?;
        let has = |id: &TraceId| found.iter().any(|trace| first_id(trace) == Some(*id));
        let missing = ids.iter().filter(|id| !has(id));
        errors.extend(missing.map(|id| json!({ "code": 404, "msg": "trace not found", "traceID": id.to_string() })));
        found
    };
    let traces = found.iter().filter_map(|trace| jaeger::write_json(&jaeger::batches(trace)));
    Ok(answer(&call, traces.collect(), errors))
}

fn first_id(trace: &TracesData) -> Option<TraceId> {
    let mut spans = trace.resource_spans.iter().flat_map(|r| &r.scope_spans).flat_map(|s| &s.spans);
    TraceId::from_slice(&spans.next()?.trace_id)
}

fn range(parameters: &Parameters, now: i64) -> Result<TimeRange, Failure> {
    let micros = |name| {
        let read = |text: &str| text.parse::<i64>().map_err(|_| format!("must be microseconds since 1970; found {text:?}"));
        parameters.read(name, read).map(|micros| micros.map(|micros| micros.saturating_mul(1000)))
    };
    let end = micros("end")?.unwrap_or(now);
    let start = micros("start")?.unwrap_or(end.saturating_sub(RANGE_DEFAULT_NS)).max(0);
    if start > end {
        return Err(Failure::invalid("start must not be after end"));
    }
    Ok(TimeRange { start, end })
}

/// All conditions hold for one span.
fn query(parameters: &Parameters) -> Result<String, Failure> {
    let mut wanted: Vec<Condition> = vec![conditions::service(service(parameters)?)];
    if let Some(name) = parameters.get("operation").filter(|name| *name != "all") {
        wanted.push(conditions::equal(traceql::ast::Intrinsic::Name, conditions::text(name)));
    }
    wanted.extend(durations(parameters.read("minDuration", moment::duration)?, parameters.read("maxDuration", moment::duration)?)?);
    let mut tags: Vec<(String, String)> = vec![];
    for (name, value) in parameters.iter() {
        match name {
            "tag" => {
                let (key, value) = value.split_once(':').ok_or_else(|| malformed("tag", "it must be key:value"))?;
                tags.push((key.to_owned(), value.to_owned()));
            }
            "tags" => tags.extend(tag_map("tags", value)?),
            _ => {}
        }
    }
    wanted.extend(tag_conditions(tags)?);
    Ok(conditions::query(conditions::all(wanted)))
}

pub(super) fn malformed(name: &str, wrong: impl std::fmt::Display) -> Failure {
    Failure::invalid(format!("malformed parameter '{name}': {wrong}"))
}

/// A JSON object of texts.
pub(super) fn tag_map(name: &str, json: &str) -> Result<BTreeMap<String, String>, Failure> {
    if json.is_empty() {
        return Ok(BTreeMap::new());
    }
    serde_json::from_str(json).map_err(|wrong| malformed(name, wrong))
}

pub(super) fn tag_conditions(tags: impl IntoIterator<Item = (String, String)>) -> Result<Vec<Condition>, Failure> {
    let tags: Vec<(String, String)> = tags.into_iter().collect();
    if tags.len() > TAGS_MAX {
        return Err(Failure::invalid(format!("a search has at most {TAGS_MAX} tags")));
    }
    Ok(tags.iter().filter_map(|(key, value)| conditions::tag(key, value)).collect())
}

/// Nanoseconds.
pub(super) fn durations(least: Option<i64>, most: Option<i64>) -> Result<impl Iterator<Item = Condition>, Failure> {
    let (least, most) = (least.filter(|least| *least > 0), most.filter(|most| *most > 0));
    if most.zip(least).is_some_and(|(most, least)| most < least) {
        return Err(Failure::invalid("'maxDuration' should be greater than 'minDuration'"));
    }
    Ok(conditions::duration(least, most))
}

async fn dependencies(State(api): Api, headers: HeaderMap, uri: Uri) -> Answer {
    let call = api.call(&headers, &uri)?;
    let millis = |name| {
        let read = |text: &str| text.parse::<i64>().map_err(|_| format!("must be milliseconds; found {text:?}"));
        call.parameters.read(name, read)
    };
    let end = millis("endTs")?.map_or(now(), |ms| ms.saturating_mul(1_000_000));
    let lookback = millis("lookback")?.unwrap_or(LOOKBACK_MS_DEFAULT).saturating_mul(1_000_000);
    let range = TimeRange { start: end.saturating_sub(lookback).max(0), end };
    let links = links(&api, &call, range, call.parameters.get("service")).await?;
    let link = |((parent, child), calls): (&(String, String), &dependencies::Calls)| {
        json!({ "parent": parent, "child": child, "callCount": calls.count })
    };
    Ok(answer(&call, links.iter().map(link).collect(), vec![]))
}

/// Which service calls which; of one service only if one is named.
pub(super) async fn links(api: &Shared, call: &Call, range: TimeRange, service: Option<&str>) -> Result<Links, Failure> {
    let query = conditions::query(service.map(conditions::service));
    let mut links = Links::new();
    for trace in lookup::matching(api, call, query, range, TRACES_MAX, Ids::Separate).await? {
        dependencies::add(&trace, &mut links);
    }
    links.retain(|(parent, child), _| service.is_none_or(|service| service == parent || service == child));
    Ok(links)
}

/// OTLP as JSON in, traces out; nothing is stored.
async fn transform(State(api): Api, headers: HeaderMap, uri: Uri, body: Bytes) -> Answer {
    let call = api.call(&headers, &uri)?;
    let request = otlp_json::decode(&body).map_err(|wrong| Failure::invalid(format!("the body is not OTLP as JSON: {wrong}")))?;
    let traces = by_trace(request.resource_spans);
    let traces = traces.values().filter_map(|trace| jaeger::write_json(&jaeger::batches(trace)));
    Ok(answer(&call, traces.collect(), vec![]))
}

fn by_trace(resource_spans: Vec<ResourceSpans>) -> BTreeMap<Vec<u8>, TracesData> {
    let mut traces: BTreeMap<Vec<u8>, TracesData> = BTreeMap::new();
    for ResourceSpans { resource, scope_spans, schema_url } in resource_spans {
        for ScopeSpans { scope, spans, schema_url: scope_schema_url } in scope_spans {
            for span in spans {
                let scope_spans = ScopeSpans { scope: scope.clone(), schema_url: scope_schema_url.clone(), spans: vec![] };
                let trace = traces.entry(span.trace_id.clone()).or_default();
                let scope_spans = vec![ScopeSpans { spans: vec![span], ..scope_spans }];
                let (resource, schema_url) = (resource.clone(), schema_url.clone());
                trace.resource_spans.push(ResourceSpans { resource, scope_spans, schema_url });
            }
        }
    }
    traces
}

async fn not_kept() -> Refused {
    let mut failure = Failure::new(ErrorKind::NotFound, "there is no second storage for archived traces here: retention rules say what is kept how long");
    failure.status = StatusCode::NOT_IMPLEMENTED;
    Refused(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(parameters: &str) -> Result<String, String> {
        let parameters = Parameters::parse(Some(parameters)).unwrap();
        query(&parameters).map_err(|failure| failure.message)
    }

    #[test]
    fn ids_are_hexadecimal_or_base64() {
        let check = |text: &str| trace_id(text).ok().map(|id| id.to_string());
        assert_eq!(check("1f"), Some(format!("{:0>32}", "1f")));
        for text in ["AAAAAAAAAAAAAAAAAAAAHw==", "AAAAAAAAAAAAAAAAAAAAHw"] {
            assert_eq!(check(text), Some(format!("{:0>32}", "1f")), "{text}");
        }
        for bad in ["", "x", "AAAx", "not-a-trace-id", &"A".repeat(40)] {
            assert_eq!(check(bad), None, "{bad}");
        }
    }

    #[test]
    fn everything_is_asked_of_one_span() {
        assert_eq!(
            check("service=shop&operation=GET+/&minDuration=1ms&maxDuration=1s").unwrap(),
            r#"{ resource.service.name = "shop" && name = "GET /" && duration >= 1ms && duration <= 1s }"#
        );
        let tags = check("service=shop&tags=%7B%22error%22%3A%22true%22%7D&tag=http.status_code:500").unwrap();
        assert!(tags.contains("status = error") && tags.contains("span.http.status_code = 500"), "{tags}");
        assert!(check("operation=x").unwrap_err().contains("'service' is required"));
        assert!(check("service=shop&tags=%7B").unwrap_err().contains("malformed parameter 'tags'"));
        assert!(check("service=shop&tag=x").unwrap_err().contains("key:value"));
        assert!(check("service=shop&minDuration=2s&maxDuration=1s").is_err());
    }
}
