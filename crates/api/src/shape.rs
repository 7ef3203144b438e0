//! Completes the engine's answers with what clients rely on, the same for HTTP and gRPC.

use crate::{Failure, account::Account, state::Shared};
use model::TenantId;
use proto::{
    otlp::common::v1::{AnyValue, KeyValue, any_value::Value},
    tempopb::{SearchTagsResponse, SearchTagsV2Response, TraceByIdResponse},
};
use query::{TagNamesRequest, TagScope};
use translate::NO_SERVICE_NAME;

/// Grafana reads these messages of a trace without looking whether they are there, does not show spans of a resource without
/// attributes, and subtracts a start from an end without a sign.
pub fn trace(mut response: TraceByIdResponse) -> TraceByIdResponse {
    response.metrics.get_or_insert_default();
    for batch in &mut response.trace.get_or_insert_default().resource_spans {
        let attributes = &mut batch.resource.get_or_insert_default().attributes;
        if attributes.is_empty() {
            let name = AnyValue { value: Some(Value::StringValue(NO_SERVICE_NAME.to_owned())) };
            attributes.push(KeyValue { key: "service.name".to_owned(), value: Some(name) });
        }
        for scope in &mut batch.scope_spans {
            scope.scope.get_or_insert_default();
            for span in &mut scope.spans {
                span.status.get_or_insert_default();
                span.end_time_unix_nano = span.end_time_unix_nano.max(span.start_time_unix_nano);
            }
        }
    }
    response
}

/// Asks for the names of attributes by scope. No request, no names.
pub async fn tags_v2(
    api: &Shared,
    account: &Account,
    tenants: &[TenantId],
    request: Option<TagNamesRequest>,
) -> Result<SearchTagsV2Response, Failure> {
    let mut response = match request {
        Some(request) => api.gate.run(tenants, account.engine().tag_names(tenants, request)).await?,
        None => SearchTagsV2Response::default(),
    };
    response.metrics.get_or_insert_default();
    Ok(response)
}

/// The names of all scopes in one sorted list. Intrinsics are in it only if they were asked for.
pub async fn tags_v1(
    api: &Shared,
    account: &Account,
    tenants: &[TenantId],
    request: Option<TagNamesRequest>,
) -> Result<SearchTagsResponse, Failure> {
    let intrinsics = request.as_ref().is_some_and(|request| request.scope == TagScope::Intrinsic);
    let limit = request.as_ref().map_or(0, |request| request.limit);
    let SearchTagsV2Response { scopes, metrics } = tags_v2(api, account, tenants, request).await?;
    let mut tag_names: Vec<String> =
        scopes.into_iter().filter(|scope| intrinsics || scope.name != "intrinsic").flat_map(|scope| scope.tags).collect();
    tag_names.sort();
    tag_names.dedup();
    if limit > 0 {
        tag_names.truncate(limit);
    }
    Ok(SearchTagsResponse { tag_names, metrics })
}
