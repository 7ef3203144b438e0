//! A table with a row for each span, for DuckDB, pandas and Spark.
//!
//! What has a name in OTLP has a column; attributes, events and links are the JSON of OTLP, which loses nothing.

use std::{
    fs::File,
    io::{self, BufWriter},
    sync::Arc,
};

use arrow::{
    array::{
        ArrayRef, Int32Builder, RecordBatch, StringBuilder, TimestampNanosecondBuilder, UInt32Builder, UInt64Builder,
    },
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};
use proto::{
    otlp::{
        collector::trace::v1::ExportTraceServiceRequest,
        common::v1::{KeyValue, any_value::Value},
        resource::v1::Resource,
        trace::v1::{ResourceSpans, ScopeSpans, Span, TracesData},
    },
    otlp_json,
};
use serde_json::value::RawValue;

/// Rows are encoded when there are so many.
const ROWS_AT_ONCE: usize = 8_192;
/// A row group ends when it has so many rows; about its bytes are in memory.
const ROW_GROUP_ROWS: usize = 128 << 10;

const TEXTS: [&str; 16] = [
    "trace_id",
    "span_id",
    "parent_span_id",
    "trace_state",
    "name",
    "status_message",
    "service_name",
    "scope_name",
    "scope_version",
    "resource_schema_url",
    "scope_schema_url",
    "resource",
    "scope",
    "attributes",
    "events",
    "links",
];

pub(super) struct Table {
    writer: ArrowWriter<BufWriter<File>>,
    schema: SchemaRef,
    texts: [StringBuilder; 16],
    kind: Int32Builder,
    status_code: Int32Builder,
    start: TimestampNanosecondBuilder,
    duration: UInt64Builder,
    flags: UInt32Builder,
    dropped: [UInt32Builder; 3],
    rows: usize,
}

impl Table {
    pub fn create(file: BufWriter<File>) -> io::Result<Self> {
        let time = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
        let mut fields: Vec<Field> = TEXTS.iter().map(|name| Field::new(*name, DataType::Utf8, false)).collect();
        fields.extend([
            Field::new("kind", DataType::Int32, false),
            Field::new("status_code", DataType::Int32, false),
            Field::new("start_time", time, false),
            Field::new("duration_ns", DataType::UInt64, false),
            Field::new("flags", DataType::UInt32, false),
            Field::new("dropped_attributes_count", DataType::UInt32, false),
            Field::new("dropped_events_count", DataType::UInt32, false),
            Field::new("dropped_links_count", DataType::UInt32, false),
        ]);
        let schema = Arc::new(Schema::new(fields));
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .build();
        let writer = ArrowWriter::try_new(file, schema.clone(), Some(properties)).map_err(io::Error::other)?;
        Ok(Self {
            writer,
            schema,
            texts: Default::default(),
            kind: Int32Builder::new(),
            status_code: Int32Builder::new(),
            start: TimestampNanosecondBuilder::new().with_timezone("UTC"),
            duration: UInt64Builder::new(),
            flags: UInt32Builder::new(),
            dropped: Default::default(),
            rows: 0,
        })
    }

    /// Returns about the bytes that it takes.
    pub fn write(&mut self, trace: &TracesData) -> io::Result<usize> {
        let mut bytes = 0;
        for resource in &trace.resource_spans {
            let of = resource.resource.clone().unwrap_or_default();
            let service = of.attributes.iter().find(|attribute| attribute.key == "service.name");
            let service = service.and_then(|attribute| attribute.value.as_ref()?.value.as_ref());
            let service = if let Some(Value::StringValue(name)) = service { name.as_str() } else { "" };
            let resource_json =
                member(&resource_request(Some(of.clone()), vec![]), &["resourceSpans", "0", "resource"]);
            for scope in &resource.scope_spans {
                let frame = ScopeSpans { scope: scope.scope.clone(), ..ScopeSpans::default() };
                let path = ["resourceSpans", "0", "scopeSpans", "0", "scope"];
                let scope_json = member(&resource_request(None, vec![frame]), &path);
                let (name, version) =
                    scope.scope.as_ref().map_or(("", ""), |of| (of.name.as_str(), of.version.as_str()));
                for span in &scope.spans {
                    let ids = [&span.trace_id, &span.span_id, &span.parent_span_id].map(|id| hex(id));
                    let texts: [&str; 16] = [
                        &ids[0],
                        &ids[1],
                        &ids[2],
                        &span.trace_state,
                        &span.name,
                        span.status.as_ref().map_or("", |status| status.message.as_str()),
                        service,
                        name,
                        version,
                        &resource.schema_url,
                        &scope.schema_url,
                        &resource_json,
                        &scope_json,
                        &attributes(&span.attributes),
                        &of_span("events", Span { events: span.events.clone(), ..Span::default() }),
                        &of_span("links", Span { links: span.links.clone(), ..Span::default() }),
                    ];
                    bytes += 64 + texts.iter().map(|text| text.len()).sum::<usize>();
                    self.texts.iter_mut().zip(texts).for_each(|(column, text)| column.append_value(text));
                    self.kind.append_value(span.kind);
                    self.status_code.append_value(span.status.as_ref().map_or(0, |status| status.code));
                    self.start.append_value(span.start_time_unix_nano as i64);
                    self.duration.append_value(span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano));
                    self.flags.append_value(span.flags);
                    let dropped = [span.dropped_attributes_count, span.dropped_events_count, span.dropped_links_count];
                    self.dropped.iter_mut().zip(dropped).for_each(|(column, count)| column.append_value(count));
                    self.rows += 1;
                    if self.rows >= ROWS_AT_ONCE {
                        self.encode()?;
                    }
                }
            }
        }
        Ok(bytes)
    }

    fn encode(&mut self) -> io::Result<()> {
        self.rows = 0;
        let mut columns: Vec<ArrayRef> = vec![];
        columns.extend(self.texts.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef));
        columns.push(Arc::new(self.kind.finish()));
        columns.push(Arc::new(self.status_code.finish()));
        columns.push(Arc::new(self.start.finish()));
        columns.push(Arc::new(self.duration.finish()));
        columns.push(Arc::new(self.flags.finish()));
        columns.extend(self.dropped.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef));
        let batch = RecordBatch::try_new(self.schema.clone(), columns).map_err(io::Error::other)?;
        self.writer.write(&batch).map_err(io::Error::other)
    }

    pub fn finish(mut self) -> io::Result<()> {
        self.encode()?;
        let file = self.writer.into_inner().map_err(io::Error::other)?;
        file.into_inner()?.sync_all()
    }
}

fn resource_request(resource: Option<Resource>, scope_spans: Vec<ScopeSpans>) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }],
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(attributes: &[KeyValue]) -> String {
    if attributes.is_empty() {
        return "[]".to_owned();
    }
    of_span("attributes", Span { attributes: attributes.to_vec(), ..Span::default() })
}

fn of_span(name: &str, span: Span) -> String {
    if span == Span::default() {
        return "[]".to_owned();
    }
    let scope_spans = vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }];
    let text =
        member(&resource_request(None, scope_spans), &["resourceSpans", "0", "scopeSpans", "0", "spans", "0", name]);
    if text.is_empty() { "[]".to_owned() } else { text }
}

/// What stands at a place of a request's JSON; empty if nothing does.
fn member(request: &ExportTraceServiceRequest, path: &[&str]) -> String {
    let text = String::from_utf8(otlp_json::encode(request)).expect("JSON is UTF-8");
    let mut value: Option<Box<RawValue>> = RawValue::from_string(text).ok();
    for part in path {
        let Some(around) = value.take() else { return String::new() };
        value = match part.parse::<usize>() {
            Ok(at) => serde_json::from_str::<Vec<Box<RawValue>>>(around.get())
                .ok()
                .and_then(|mut list| (at < list.len()).then(|| list.swap_remove(at))),
            Err(_) => {
                let members = serde_json::from_str::<std::collections::HashMap<String, Box<RawValue>>>(around.get());
                members.ok().and_then(|mut members| members.remove(*part))
            }
        };
    }
    value.map(|value| value.get().to_owned()).unwrap_or_default()
}
