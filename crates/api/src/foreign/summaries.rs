//! What a list of search results shows of a trace, in Jaeger's words.

use std::collections::{BTreeMap, HashSet};

use proto::otlp::trace::v1::{ResourceSpans, Span, TracesData, status::StatusCode};
use serde_json::{Map, Value, json};

use super::{
    dependencies,
    jaeger_messages::{ServiceSummary, TraceSummary},
};

/// `None` without spans.
pub fn of(trace: &TracesData) -> Option<TraceSummary> {
    let spans: Vec<(&str, &Span)> = trace.resource_spans.iter().flat_map(spans).collect();
    let (_, first) = spans.first()?;
    let mut summary = TraceSummary {
        trace_id: hex(&first.trace_id),
        min_start_time_unix_nano: spans.iter().map(|(_, span)| span.start_time_unix_nano).min().unwrap_or(0),
        max_end_time_unix_nano: spans.iter().map(|(_, span)| span.end_time_unix_nano).max().unwrap_or(0),
        span_count: count(spans.len()),
        ..TraceSummary::default()
    };
    let known: HashSet<&[u8]> = spans.iter().map(|(_, span)| span.span_id.as_slice()).collect();
    let mut services: BTreeMap<&str, ServiceSummary> = BTreeMap::new();
    for (service, span) in &spans {
        let failed = i32::from(span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error));
        summary.error_span_count += failed;
        let has_parent = !span.parent_span_id.iter().all(|byte| *byte == 0);
        summary.orphan_span_count += i32::from(has_parent && !known.contains(span.parent_span_id.as_slice()));
        let of_service = services.entry(service).or_default();
        of_service.name = (*service).to_owned();
        of_service.span_count += 1;
        of_service.error_span_count += failed;
    }
    // The earliest span without a parent; where there is none, the earliest one whose parent is missing.
    let parentless = |span: &Span| span.parent_span_id.iter().all(|byte| *byte == 0);
    let orphan = |span: &Span| !known.contains(span.parent_span_id.as_slice());
    let earliest = |is: &dyn Fn(&Span) -> bool| {
        spans.iter().filter(|(_, span)| is(span)).min_by_key(|(_, span)| span.start_time_unix_nano)
    };
    if let Some((service, root)) = earliest(&parentless).or_else(|| earliest(&orphan)) {
        summary.root_service_name = (*service).to_owned();
        summary.root_operation_name = root.name.clone();
    }
    summary.services = services.into_values().collect();
    Some(summary)
}

fn spans(resource: &ResourceSpans) -> impl Iterator<Item = (&str, &Span)> {
    let service = dependencies::service(resource).unwrap_or(translate::NO_SERVICE_NAME);
    resource.scope_spans.iter().flat_map(|scope| &scope.spans).map(move |span| (service, span))
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As protobuf's JSON: times are texts, and what is 0 or empty is left out.
pub fn json(summary: &TraceSummary) -> Value {
    let services = summary.services.iter().map(|service| {
        let counts = [("spanCount", service.span_count), ("errorSpanCount", service.error_span_count)];
        object([("name", json!(service.name))].into_iter().chain(counts.map(|(key, count)| (key, json!(count)))))
    });
    object([
        ("traceId", json!(summary.trace_id)),
        ("rootServiceName", json!(summary.root_service_name)),
        ("rootOperationName", json!(summary.root_operation_name)),
        ("minStartTimeUnixNano", json!(summary.min_start_time_unix_nano.to_string())),
        ("maxEndTimeUnixNano", json!(summary.max_end_time_unix_nano.to_string())),
        ("spanCount", json!(summary.span_count)),
        ("errorSpanCount", json!(summary.error_span_count)),
        ("orphanSpanCount", json!(summary.orphan_span_count)),
        ("services", services.collect()),
    ])
}

fn object<'k>(members: impl IntoIterator<Item = (&'k str, Value)>) -> Value {
    let said = |value: &Value| *value != json!(0) && *value != json!("") && *value != json!("0");
    let members = members.into_iter().filter(|(_, value)| said(value));
    Value::Object(members.map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use proto::otlp::{
        common::v1::{AnyValue, KeyValue, any_value},
        resource::v1::Resource,
        trace::v1::{ScopeSpans, Status},
    };

    use super::*;

    fn resource(service: Option<&str>, spans: Vec<Span>) -> ResourceSpans {
        let attributes = service.into_iter().map(|name| KeyValue {
            key: "service.name".to_owned(),
            value: Some(AnyValue { value: Some(any_value::Value::StringValue(name.to_owned())) }),
        });
        ResourceSpans {
            resource: Some(Resource { attributes: attributes.collect(), ..Resource::default() }),
            scope_spans: vec![ScopeSpans { spans, ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        }
    }

    fn span(id: u8, parent: u8, start: u64, code: StatusCode) -> Span {
        Span {
            trace_id: vec![7; 16],
            span_id: vec![id; 8],
            parent_span_id: if parent == 0 { vec![] } else { vec![parent; 8] },
            name: format!("span {id}"),
            start_time_unix_nano: start,
            end_time_unix_nano: start + 10,
            status: Some(Status { code: code as i32, ..Status::default() }),
            ..Span::default()
        }
    }

    #[test]
    fn a_summary_counts_spans_errors_and_orphans_by_service() {
        use StatusCode::{Error, Unset};
        let trace = TracesData {
            resource_spans: vec![
                resource(Some("shop"), vec![span(2, 1, 5, Error), span(1, 0, 9, Unset)]),
                resource(None, vec![span(3, 4, 1, Error)]),
            ],
        };
        assert_eq!(
            json(&of(&trace).unwrap()),
            json!({
                "traceId": "07".repeat(16), "rootServiceName": "shop", "rootOperationName": "span 1",
                "minStartTimeUnixNano": "1", "maxEndTimeUnixNano": "19", "spanCount": 3, "errorSpanCount": 2,
                "orphanSpanCount": 1,
                "services": [
                    { "name": "OTLPResourceNoServiceName", "spanCount": 1, "errorSpanCount": 1 },
                    { "name": "shop", "spanCount": 2, "errorSpanCount": 1 },
                ],
            })
        );
        // Without a root the earliest orphan stands for it, and zeros are left out.
        let orphan = TracesData { resource_spans: vec![resource(Some("a"), vec![span(3, 4, 1, Unset)])] };
        let summary = json(&of(&orphan).unwrap());
        assert_eq!((summary["rootOperationName"].as_str(), summary.get("errorSpanCount")), (Some("span 3"), None));
        assert_eq!(of(&TracesData::default()), None);
    }
}
