//! The entries of a search's answer, of whole traces.

use std::collections::{BTreeMap, BTreeSet};

use arrow::{array::AsArray, datatypes::Int32Type};
use block::schema;
use proto::tempopb;
use traceql::ast::{Attribute, AttributeName, Scope, SpanOfName};

use super::{plan::Plan, unit::TraceTimes};
use crate::{
    layout::Layout,
    reader::{Reader, Strings},
    reads::Reads,
    request::{QueryError, SearchRequest},
    shown::SpanWriter,
    spansets::BoundPipeline,
    traces::TraceRows,
    value::Value,
};

/// What is shown for a trace whose root span is not there, or has no service.
const ROOT_MISSING: &str = "<root span not yet received>";

fn service_name() -> Attribute {
    Attribute {
        of_parent: false,
        name: AttributeName::Key { scope: Some(Scope::Resource), key: "service.name".into() },
        span: SpanOfName::default(),
    }
}

pub(super) fn shown_columns(plan: &Plan, layout: &Layout) -> Result<BTreeSet<String>, QueryError> {
    let mut columns = BoundPipeline::bind(&plan.pipeline, layout)?.columns();
    columns.extend(
        [
            schema::SPAN_ID,
            schema::START_TIME,
            schema::DURATION,
            schema::STATUS_CODE,
            schema::ROOT_SERVICE_NAME,
            schema::ROOT_SPAN_NAME,
            schema::TRACE_START,
            schema::TRACE_DURATION,
        ]
        .map(String::from),
    );
    for name in plan.shown.iter().chain([&service_name()]) {
        columns.extend(layout.places(name).columns().map(str::to_owned));
    }
    Ok(columns)
}

pub(super) fn show_traces(
    rows: &TraceRows,
    plan: &Plan,
    request: &SearchRequest,
    reads: &Reads,
    shown: &mut Vec<tempopb::TraceSearchMetadata>,
) -> Result<(), QueryError> {
    let pipeline = BoundPipeline::bind(&plan.pipeline, &rows.layout)?;
    let records = &rows.records;
    let times = TraceTimes::of(records)?;
    let text = |name: &str| records.column_by_name(name).and_then(Strings::new);
    let (root_service, root_name) = (text(schema::ROOT_SERVICE_NAME), text(schema::ROOT_SPAN_NAME));
    let service = Reader::new(&rows.layout.places(&service_name()), records);
    let status = records.column_by_name(schema::STATUS_CODE).map(|c| c.as_primitive::<Int32Type>());
    let spans = SpanWriter::new(rows, &plan.pipeline, &plan.shown)?;
    pipeline.evaluate(records, reads, |run, spansets| {
        let row = run.start;
        let mut service_stats: BTreeMap<String, tempopb::ServiceStats> = BTreeMap::new();
        if plan.legacy.is_none() {
            for row in run {
                let mut name = String::new();
                service.any(row, |value| match value {
                    Value::String(first) => {
                        name = first;
                        true
                    }
                    _ => false,
                });
                let stats = service_stats.entry(name).or_default();
                stats.span_count += 1;
                stats.error_count += u32::from(status.is_some_and(|s| s.value(row) == 2));
            }
        }
        let root = |text: &Option<Strings>| text.as_ref().and_then(|t| t.get(row)).map(str::to_owned);
        let span_sets: Vec<tempopb::SpanSet> = match plan.legacy {
            Some(_) => vec![],
            None => spansets.iter().map(|set| spans.spanset(set, request.spans_per_spanset)).collect(),
        };
        shown.push(tempopb::TraceSearchMetadata {
            trace_id: times.id(row).short_hex(),
            root_service_name: root(&root_service).filter(|service| !service.is_empty()).unwrap_or_else(|| ROOT_MISSING.into()),
            root_trace_name: root(&root_name).unwrap_or_default(),
            start_time_unix_nano: times.start(row) as u64,
            duration_ms: u32::try_from(times.durations.value(row) / 1_000_000).unwrap_or(u32::MAX),
            // Clients that know it show it alone.
            span_set: span_sets.first().filter(|_| span_sets.len() == 1).cloned(),
            span_sets,
            service_stats,
        });
    })
}
