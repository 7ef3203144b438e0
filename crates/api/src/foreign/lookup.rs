//! What both APIs ask of the engine: whole traces that match, traces by id, and lists of names.

use futures::{StreamExt, TryStreamExt, stream};
use model::{AttributeScope, TraceId};
use proto::otlp::trace::v1::TracesData;
use query::{QueryError, SearchFilter, SearchRequest, TagNamesRequest, TagScope, TagValuesRequest, TimeRange, TraceRequest};

use crate::{
    Failure,
    config::QUERY_BYTES_MAX,
    state::{Call, Shared},
};

/// The most whole traces of one answer.
pub const TRACES_MAX: usize = 1500;
/// Traces of one answer that are fetched at the same time.
const FETCHES_MAX: usize = 8;

/// How spans that share an id come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// The server's side has an id of its own.
    Separate,
    AsReceived,
}

pub async fn trace(api: &Shared, call: &Call, id: TraceId, ids: Ids) -> Result<TracesData, Failure> {
    api.gate.run(&call.tenants, fetch(call, id, ids)).await
}

/// The newest traces that match, newest first.
pub async fn matching(
    api: &Shared,
    call: &Call,
    text: String,
    range: TimeRange,
    limit: usize,
    ids: Ids,
) -> Result<Vec<TracesData>, Failure> {
    if limit == 0 || limit > TRACES_MAX {
        return Err(Failure::invalid(format!("limit must be from 1 to {TRACES_MAX}")));
    }
    if text.len() > QUERY_BYTES_MAX {
        return Err(Failure::invalid("what is asked for is too long"));
    }
    let request =
        SearchRequest { filter: SearchFilter::TraceQl(text), range: Some(range), limit, spans_per_spanset: 1 };
    let search = async {
        let found = call.account.engine().search(&call.tenants, request).await?;
        let ids_found = found.traces.iter().filter_map(|trace| TraceId::parse(&trace.trace_id).ok());
        fetch_all(call, ids_found.collect(), ids).await
    };
    api.gate.run(&call.tenants, search).await
}

/// Those of the traces that there are.
pub async fn several(api: &Shared, call: &Call, wanted: Vec<TraceId>, ids: Ids) -> Result<Vec<TracesData>, Failure> {
    if wanted.len() > TRACES_MAX {
        return Err(Failure::invalid(format!("at most {TRACES_MAX} traces at once")));
    }
    api.gate.run(&call.tenants, fetch_all(call, wanted, ids)).await
}

async fn fetch_all(call: &Call, wanted: Vec<TraceId>, ids: Ids) -> Result<Vec<TracesData>, QueryError> {
    let fetched = stream::iter(wanted).map(|id| fetch(call, id, ids)).buffered(FETCHES_MAX);
    fetched.try_filter(|trace| std::future::ready(!trace.resource_spans.is_empty())).try_collect().await
}

async fn fetch(call: &Call, id: TraceId, ids: Ids) -> Result<TracesData, QueryError> {
    let (engine, request) = (call.account.engine(), TraceRequest { id, range: None });
    let answer = match ids {
        Ids::Separate => engine.trace_by_id(&call.tenants, request).await?,
        Ids::AsReceived => engine.trace_as_received(&call.tenants, request).await?,
    };
    Ok(answer.trace.unwrap_or_default())
}

/// The values of a name among the spans that match, of all time, sorted, each once.
pub async fn values(api: &Shared, call: &Call, name: &str, query: String) -> Result<Vec<String>, Failure> {
    let request = TagValuesRequest { name: name.to_owned(), query, range: None, limit: 0 };
    let answer = api.gate.run(&call.tenants, call.account.engine().tag_values(&call.tenants, request)).await?;
    let mut values: Vec<String> = answer.tag_values.into_iter().map(|value| value.value).filter(|v| !v.is_empty()).collect();
    values.sort();
    values.dedup();
    Ok(values)
}

/// The names of the spans' attributes, sorted.
pub async fn span_attributes(api: &Shared, call: &Call) -> Result<Vec<String>, Failure> {
    let scope = TagScope::Only(AttributeScope::Span);
    let request = TagNamesRequest { scope, query: String::new(), range: None, limit: 0 };
    let answer = api.gate.run(&call.tenants, call.account.engine().tag_names(&call.tenants, request)).await?;
    Ok(answer.scopes.into_iter().flat_map(|scope| scope.tags).collect())
}

pub async fn services(api: &Shared, call: &Call) -> Result<Vec<String>, Failure> {
    let mut services = values(api, call, "resource.service.name", String::new()).await?;
    services.retain(|service| service != translate::NO_SERVICE_NAME);
    Ok(services)
}
