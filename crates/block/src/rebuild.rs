//! Rows back into OTLP: what came in goes out.
//!
//! Lossless but for this: attributes come sorted by key, an absent value of an attribute as an empty one, and
//! resource, scope and status always as messages.

mod attributes;
mod columns;
mod nested;

use std::collections::HashMap;

use arrow::array::{Array, FixedSizeBinaryArray, Int32Array, Int64Array, RecordBatch};
use model::AttributeScope;
use prost::Message;
use proto::otlp::common::v1::{InstrumentationScope, KeyValue};
use proto::otlp::resource::v1::Resource;
use proto::otlp::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, TracesData};

use crate::error::BlockError;
use crate::schema;
pub use attributes::AttributeRows;
use attributes::write_text;
use columns::{Columns, Strings};
use nested::{Events, Links, unsigned};

/// The spans of all batches, each once, grouped by equal resource and then by equal scope.
///
/// Batches may have different attribute columns, lack nullable columns, and have strings of type Utf8, Utf8View or
/// Dictionary(Int32, Utf8). Spans are sorted by start, groups by their first span. Rows that are re-deliveries of
/// another (equal trace id, span id, kind and start) are left out.
pub fn traces(batches: &[RecordBatch]) -> Result<TracesData, BlockError> {
    let views: Vec<Rows<'_>> = batches.iter().map(Rows::new).collect::<Result<_, _>>()?;
    let mut order: Vec<(i64, &[u8], i32, &[u8], usize, usize)> = Vec::new();
    for (number, rows) in views.iter().enumerate() {
        order.extend((0..batches[number].num_rows()).map(|row| {
            let kind = integer(rows.kinds, row);
            (rows.starts.value(row), rows.span_ids.value(row), kind, rows.trace_ids.value(row), number, row)
        }));
    }
    order.sort_unstable();
    order.dedup_by_key(|(start, span_id, kind, trace_id, _, _)| (*start, *span_id, *kind, *trace_id));

    let mut groups = Groups::default();
    let mut known: Vec<HashMap<Vec<u8>, (usize, usize)>> = vec![HashMap::new(); views.len()];
    let mut fingerprint = Vec::new();
    for (_, _, _, _, number, row) in order {
        let rows = &views[number];
        fingerprint.clear();
        rows.resource.fingerprint(row, &mut fingerprint);
        rows.scope.fingerprint(row, &mut fingerprint);
        let (resource, scope) = match known[number].get(&fingerprint) {
            Some(group) => *group,
            None => {
                let group = groups.place(rows.resource_at(row), rows.scope_at(row));
                known[number].insert(fingerprint.clone(), group);
                group
            }
        };
        groups.data.resource_spans[resource].scope_spans[scope].spans.push(rows.span_at(row));
    }
    Ok(groups.data)
}

/// The attributes of one row and scope, sorted by key. For many rows make [`AttributeRows`] once.
pub fn attributes_at(records: &RecordBatch, row: usize, scope: AttributeScope) -> Result<Vec<KeyValue>, BlockError> {
    Ok(AttributeRows::new(records, scope)?.at(row))
}

/// The answer under construction, and where each distinct resource and scope is in it.
#[derive(Default)]
struct Groups {
    data: TracesData,
    resources: HashMap<Vec<u8>, usize>,
    scopes: HashMap<(usize, Vec<u8>), usize>,
}

impl Groups {
    /// The place of a group; both come without spans.
    fn place(&mut self, resource: ResourceSpans, scope: ScopeSpans) -> (usize, usize) {
        let all = &mut self.data.resource_spans;
        let resource_at = *self.resources.entry(resource.encode_to_vec()).or_insert_with(|| {
            all.push(resource);
            all.len() - 1
        });
        let scopes = &mut all[resource_at].scope_spans;
        let scope_at = *self.scopes.entry((resource_at, scope.encode_to_vec())).or_insert_with(|| {
            scopes.push(scope);
            scopes.len() - 1
        });
        (resource_at, scope_at)
    }
}

/// One batch, its columns found.
struct Rows<'a> {
    trace_ids: &'a FixedSizeBinaryArray,
    span_ids: &'a FixedSizeBinaryArray,
    parent_span_ids: Option<&'a FixedSizeBinaryArray>,
    starts: &'a Int64Array,
    durations: &'a Int64Array,
    ends: Option<&'a Int64Array>,
    names: Option<Strings<'a>>,
    kinds: Option<&'a Int32Array>,
    status_codes: Option<&'a Int32Array>,
    status_messages: Option<Strings<'a>>,
    trace_states: Option<Strings<'a>>,
    flags: Option<&'a Int32Array>,
    dropped_attributes: Option<&'a Int32Array>,
    dropped_events: Option<&'a Int32Array>,
    dropped_links: Option<&'a Int32Array>,
    attributes: AttributeRows<'a>,
    events: Option<Events>,
    links: Option<Links>,
    resource: Owner<'a>,
    scope: Owner<'a>,
    scope_names: Option<Strings<'a>>,
    scope_versions: Option<Strings<'a>>,
}

/// What resource and scope have in common.
struct Owner<'a> {
    attributes: AttributeRows<'a>,
    dropped: Option<&'a Int32Array>,
    /// Schema URL, and for a scope its name and version.
    texts: Vec<Strings<'a>>,
    schema_urls: Option<Strings<'a>>,
}

impl Owner<'_> {
    fn fingerprint(&self, row: usize, out: &mut Vec<u8>) {
        self.attributes.fingerprint(row, out);
        out.extend(self.dropped.map_or(0, |dropped| unsigned(dropped, row)).to_le_bytes());
        for texts in &self.texts {
            write_text(texts.value(row).unwrap_or_default().as_bytes(), out);
        }
    }

    fn schema_url(&self, row: usize) -> String {
        text(self.schema_urls, row)
    }
}

impl<'a> Rows<'a> {
    fn new(records: &'a RecordBatch) -> Result<Self, BlockError> {
        let columns = Columns(records);
        let missing = |name: &str| BlockError::column(name, "is missing");
        let ids = |name: &str| columns.ids(name)?.ok_or_else(|| missing(name));
        let longs = |name: &str| columns.longs(name)?.ok_or_else(|| missing(name));
        let resource_urls = columns.strings(schema::RESOURCE_SCHEMA_URL)?;
        let scope_urls = columns.strings(schema::SCOPE_SCHEMA_URL)?;
        let scope_names = columns.strings(schema::SCOPE_NAME)?;
        let scope_versions = columns.strings(schema::SCOPE_VERSION)?;
        Ok(Self {
            trace_ids: ids(schema::TRACE_ID)?,
            span_ids: ids(schema::SPAN_ID)?,
            parent_span_ids: columns.ids(schema::PARENT_SPAN_ID)?,
            starts: longs(schema::START_TIME)?,
            durations: longs(schema::DURATION)?,
            ends: columns.longs(schema::END_TIME)?,
            names: columns.strings(schema::NAME)?,
            kinds: columns.integers(schema::KIND)?,
            status_codes: columns.integers(schema::STATUS_CODE)?,
            status_messages: columns.strings(schema::STATUS_MESSAGE)?,
            trace_states: columns.strings(schema::TRACE_STATE)?,
            flags: columns.integers(schema::FLAGS)?,
            dropped_attributes: columns.integers(schema::DROPPED_ATTRIBUTES)?,
            dropped_events: columns.integers(schema::DROPPED_EVENTS)?,
            dropped_links: columns.integers(schema::DROPPED_LINKS)?,
            attributes: AttributeRows::new(records, AttributeScope::Span)?,
            events: columns.list(schema::EVENTS, &schema::events(), Events::new)?,
            links: columns.list(schema::LINKS, &schema::links(), Links::new)?,
            resource: Owner {
                attributes: AttributeRows::new(records, AttributeScope::Resource)?,
                dropped: columns.integers(schema::RESOURCE_DROPPED_ATTRIBUTES)?,
                texts: resource_urls.into_iter().collect(),
                schema_urls: resource_urls,
            },
            scope: Owner {
                attributes: AttributeRows::new(records, AttributeScope::Instrumentation)?,
                dropped: columns.integers(schema::SCOPE_DROPPED_ATTRIBUTES)?,
                texts: [scope_urls, scope_names, scope_versions].into_iter().flatten().collect(),
                schema_urls: scope_urls,
            },
            scope_names,
            scope_versions,
        })
    }

    fn resource_at(&self, row: usize) -> ResourceSpans {
        ResourceSpans {
            resource: Some(Resource {
                attributes: self.resource.attributes.at(row),
                dropped_attributes_count: self.resource.dropped.map_or(0, |dropped| unsigned(dropped, row)),
            }),
            scope_spans: Vec::new(),
            schema_url: self.resource.schema_url(row),
        }
    }

    fn scope_at(&self, row: usize) -> ScopeSpans {
        ScopeSpans {
            scope: Some(InstrumentationScope {
                name: text(self.scope_names, row),
                version: text(self.scope_versions, row),
                attributes: self.scope.attributes.at(row),
                dropped_attributes_count: self.scope.dropped.map_or(0, |dropped| unsigned(dropped, row)),
            }),
            spans: Vec::new(),
            schema_url: self.scope.schema_url(row),
        }
    }

    fn span_at(&self, row: usize) -> Span {
        let number = |column: Option<&Int32Array>| column.map_or(0, |column| unsigned(column, row));
        let start = self.starts.value(row);
        let sent_end = self.ends.filter(|ends| ends.is_valid(row)).map(|ends| ends.value(row));
        let parent = self.parent_span_ids.filter(|ids| ids.is_valid(row)).map(|ids| ids.value(row).to_vec());
        Span {
            trace_id: self.trace_ids.value(row).to_vec(),
            span_id: self.span_ids.value(row).to_vec(),
            trace_state: text(self.trace_states, row),
            parent_span_id: parent.unwrap_or_default(),
            flags: number(self.flags),
            name: text(self.names, row),
            kind: integer(self.kinds, row),
            start_time_unix_nano: start as u64,
            end_time_unix_nano: sent_end.unwrap_or_else(|| start.wrapping_add(self.durations.value(row))) as u64,
            attributes: self.attributes.at(row),
            dropped_attributes_count: number(self.dropped_attributes),
            events: self.events.as_ref().map(|events| events.at(row)).unwrap_or_default(),
            dropped_events_count: number(self.dropped_events),
            links: self.links.as_ref().map(|links| links.at(row)).unwrap_or_default(),
            dropped_links_count: number(self.dropped_links),
            status: Some(Status { message: text(self.status_messages, row), code: integer(self.status_codes, row) }),
        }
    }
}

fn text(column: Option<Strings<'_>>, row: usize) -> String {
    column.and_then(|column| column.value(row)).unwrap_or_default().to_owned()
}

fn integer(column: Option<&Int32Array>, row: usize) -> i32 {
    column.filter(|column| column.is_valid(row)).map_or(0, |column| column.value(row))
}
