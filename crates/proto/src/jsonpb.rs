//! Answers of the query API as the JSON that Tempo's clients read.
//!
//! Names in lower camel case (but `traceID`, `spanID` in search results), 64-bit integers as strings, enums by
//! name, ids inside a trace in base64, non-finite doubles as strings. Zero values are left out, except the list
//! that is the answer itself: it prints as `[]`. A message that is there but empty prints as `{}`.

use crate::{
    json::{Flavour, Object, write_key_value, write_resource_spans, write_text},
    otlp::trace::v1::TracesData,
    tempopb::{
        Exemplar, MetadataMetrics, PartialStatus, QueryInstantResponse, QueryRangeResponse, SearchMetrics,
        SearchResponse, SearchTagValuesResponse, SearchTagValuesV2Response, SearchTagsResponse, SearchTagsV2Response,
        Span, SpanSet, TraceByIdResponse, TraceSearchMetadata,
    },
};

fn answer(fields: impl FnOnce(&mut Object<'_>)) -> Vec<u8> {
    let mut out = Vec::new();
    Object::write(&mut out, fields);
    out
}

/// `/api/traces/{id}`: the resources stand under `batches`.
pub fn trace_v1_json(trace: &TracesData) -> Vec<u8> {
    answer(|object| {
        object.always_list("batches", &trace.resource_spans, |out, spans| {
            write_resource_spans(out, spans, Flavour::Tempo);
        });
    })
}

/// `/api/v2/traces/{id}`: `trace` is always there, empty if there is no such trace.
pub fn trace_by_id_json(response: &TraceByIdResponse) -> Vec<u8> {
    answer(|object| {
        object.object("trace", |object| {
            let resource_spans = response.trace.as_ref().map_or(&[][..], |trace| &trace.resource_spans);
            object.list("resourceSpans", resource_spans, |out, spans| write_resource_spans(out, spans, Flavour::Tempo));
        });
        if let Some(metrics) = &response.metrics {
            object.object("metrics", |object| object.long("inspectedBytes", metrics.inspected_bytes));
        }
        partial_status(object, response.status, &response.message);
    })
}

fn partial_status(object: &mut Object<'_>, status: i32, message: &str) {
    if status == PartialStatus::Partial as i32 {
        object.text("status", PartialStatus::Partial.as_str_name());
    }
    object.text("message", message);
}

/// `/api/search`.
pub fn search_json(response: &SearchResponse) -> Vec<u8> {
    answer(|object| {
        object.always_list("traces", &response.traces, write_trace_metadata);
        search_metrics(object, response.metrics.as_ref());
    })
}

fn write_trace_metadata(out: &mut Vec<u8>, trace: &TraceSearchMetadata) {
    Object::write(out, |object| {
        object.text("traceID", &trace.trace_id);
        object.text("rootServiceName", &trace.root_service_name);
        object.text("rootTraceName", &trace.root_trace_name);
        object.long("startTimeUnixNano", trace.start_time_unix_nano);
        object.number("durationMs", trace.duration_ms);
        if let Some(span_set) = &trace.span_set {
            write_span_set(object.key("spanSet"), span_set);
        }
        object.list("spanSets", &trace.span_sets, write_span_set);
        if !trace.service_stats.is_empty() {
            object.object("serviceStats", |object| {
                for (service, stats) in &trace.service_stats {
                    object.object(service, |object| {
                        object.number("spanCount", stats.span_count);
                        object.number("errorCount", stats.error_count);
                    });
                }
            });
        }
    });
}

fn write_span_set(out: &mut Vec<u8>, span_set: &SpanSet) {
    Object::write(out, |object| {
        object.list("spans", &span_set.spans, write_span);
        object.number("matched", span_set.matched);
        object.list("attributes", &span_set.attributes, write_key_value);
    });
}

fn write_span(out: &mut Vec<u8>, span: &Span) {
    Object::write(out, |object| {
        object.text("spanID", &span.span_id);
        object.text("name", &span.name);
        object.long("startTimeUnixNano", span.start_time_unix_nano);
        object.long("durationNanos", span.duration_nanos);
        object.list("attributes", &span.attributes, write_key_value);
    });
}

fn search_metrics(object: &mut Object<'_>, metrics: Option<&SearchMetrics>) {
    let Some(metrics) = metrics else { return };
    object.object("metrics", |object| {
        object.number("inspectedTraces", metrics.inspected_traces);
        object.long("inspectedBytes", metrics.inspected_bytes);
        object.number("totalBlocks", metrics.total_blocks);
        object.number("completedJobs", metrics.completed_jobs);
        object.number("totalJobs", metrics.total_jobs);
        object.long("totalBlockBytes", metrics.total_block_bytes);
        object.long("inspectedSpans", metrics.inspected_spans);
    });
}

fn metadata_metrics(object: &mut Object<'_>, metrics: Option<&MetadataMetrics>) {
    let Some(metrics) = metrics else { return };
    object.object("metrics", |object| {
        object.long("inspectedBytes", metrics.inspected_bytes);
        object.number("totalJobs", metrics.total_jobs);
        object.number("completedJobs", metrics.completed_jobs);
        object.number("totalBlocks", metrics.total_blocks);
        object.long("totalBlockBytes", metrics.total_block_bytes);
    });
}

/// `/api/search/tags`.
pub fn tags_json(response: &SearchTagsResponse) -> Vec<u8> {
    answer(|object| {
        object.always_list("tagNames", &response.tag_names, |out, name| write_text(out, name));
        metadata_metrics(object, response.metrics.as_ref());
    })
}

/// `/api/v2/search/tags`.
pub fn tags_v2_json(response: &SearchTagsV2Response) -> Vec<u8> {
    answer(|object| {
        object.always_list("scopes", &response.scopes, |out, scope| {
            Object::write(out, |object| {
                object.text("name", &scope.name);
                object.list("tags", &scope.tags, |out, tag| write_text(out, tag));
            });
        });
        metadata_metrics(object, response.metrics.as_ref());
    })
}

/// `/api/search/tag/{name}/values`.
pub fn tag_values_json(response: &SearchTagValuesResponse) -> Vec<u8> {
    answer(|object| {
        object.always_list("tagValues", &response.tag_values, |out, value| write_text(out, value));
        metadata_metrics(object, response.metrics.as_ref());
    })
}

/// `/api/v2/search/tag/{identifier}/values`.
pub fn tag_values_v2_json(response: &SearchTagValuesV2Response) -> Vec<u8> {
    answer(|object| {
        object.always_list("tagValues", &response.tag_values, |out, value| {
            Object::write(out, |object| {
                object.text("type", &value.r#type);
                object.text("value", &value.value);
            });
        });
        metadata_metrics(object, response.metrics.as_ref());
    })
}

/// `/api/metrics/query_range`. A sample without `value` is 0.
pub fn query_range_json(response: &QueryRangeResponse) -> Vec<u8> {
    answer(|object| {
        object.always_list("series", &response.series, |out, series| {
            Object::write(out, |object| {
                object.list("labels", &series.labels, write_key_value);
                object.list("samples", &series.samples, |out, sample| {
                    Object::write(out, |object| {
                        object.long("timestampMs", sample.timestamp_ms);
                        object.double("value", sample.value);
                    });
                });
                object.list("exemplars", &series.exemplars, write_exemplar);
            });
        });
        search_metrics(object, response.metrics.as_ref());
        partial_status(object, response.status, &response.message);
    })
}

fn write_exemplar(out: &mut Vec<u8>, exemplar: &Exemplar) {
    Object::write(out, |object| {
        object.list("labels", &exemplar.labels, write_key_value);
        object.double("value", exemplar.value);
        object.long("timestampMs", exemplar.timestamp_ms);
    });
}

/// `/api/metrics/query`. A series without `value` is 0.
pub fn query_instant_json(response: &QueryInstantResponse) -> Vec<u8> {
    answer(|object| {
        object.always_list("series", &response.series, |out, series| {
            Object::write(out, |object| {
                object.list("labels", &series.labels, write_key_value);
                object.double("value", series.value);
            });
        });
        search_metrics(object, response.metrics.as_ref());
        partial_status(object, response.status, &response.message);
    })
}

#[cfg(test)]
mod tests;
