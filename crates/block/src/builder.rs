//! Turns spans from the wire into a [`SpanBatch`].
//!
//! One file per kind of column: `span_attributes`, `groups` (resources and instrumentation scopes), `nested`
//! (events and links), `sparse` (columns that few rows set). Rows are kept in the order they come; `order` decides
//! at the end where each goes, and every column is written straight into its place.
//!
//! Nothing that came in is lost or changed in type, except what the limits cut, which is counted: in the dropped
//! counts of the span and in [`Warnings`]. Of an attribute's place only this stays: values of one key keep
//! their order; promoted attributes leave the list.

mod cut;
mod finish;
mod groups;
mod interner;
mod kv;
mod nested;
mod order;
mod span_attributes;
mod sparse;

use model::AttributeScope;
use proto::wire::{self, ResourceSpansView, ScopeSpansView, SpanView, WireError};

use crate::batch::SpanBatch;
use groups::{GroupWords, Groups};
use interner::Interner;
use nested::{Events, Links};
use span_attributes::SpanAttributes;
use sparse::Sparse;

/// How much of one span is kept. What is over is cut and counted, never a reason to refuse the span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributeLimits {
    /// Longest key and string value of an attribute, name, status message and trace state, in bytes; 0 = no limit.
    pub value_bytes_max: usize,
    /// Per span; also per resource, scope, event and link.
    pub attributes_per_span_max: usize,
    pub events_per_span_max: usize,
    pub links_per_span_max: usize,
}

impl Default for AttributeLimits {
    fn default() -> Self {
        Self {
            // Tempo's `max_attribute_bytes`.
            value_bytes_max: 2048,
            attributes_per_span_max: 1024,
            events_per_span_max: 10_000,
            links_per_span_max: 10_000,
        }
    }
}

/// What was cut or corrected. Only ever counted up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Warnings {
    pub keys_cut: u64,
    pub values_cut: u64,
    /// Names of spans, events and scopes, status messages, trace states, schema URLs.
    pub words_cut: u64,
    pub attributes_dropped: u64,
    pub events_dropped: u64,
    pub links_dropped: u64,
    /// Parent ids that are not 8 bytes: stored as no parent.
    pub parents_unknown: u64,
}

/// The builder holds as much as a batch may: call [`SpanBatchBuilder::finish`], then go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the span batch is full: finish it and go on")]
pub struct Full;

/// The most a batch may be allowed to hold: Arrow addresses at most 2 GiB of text in one column, and one span may
/// add as much as its request and its resource have bytes.
pub const BYTES_MAX: usize = 1 << 30;

/// The most that resource and scope attributes may take once written on every row, if none of them gets a column.
/// Ordinary resources (1 KB) reach it after 1.5 million spans.
const GROUP_BYTES_MAX: usize = 3 << 29;

/// A resource of the batch under construction. Not valid after [`SpanBatchBuilder::finish`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceNumber(u32);

/// An instrumentation scope of the batch under construction. Not valid after [`SpanBatchBuilder::finish`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScopeNumber(u32);

/// What became of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    pub spans: u64,
    /// Spans that [`SpanView::parse`] refused; the others are in.
    pub refused: u64,
}

/// A growing batch.
pub struct SpanBatchBuilder {
    limits: AttributeLimits,
    /// The batch takes no further span once its estimate is here.
    bytes_max: usize,
    warnings: Warnings,
    columns: Columns,
}

/// Everything of the current batch.
struct Columns {
    /// Estimate of the heap in use, and of what resources and scopes will take once spread over rows.
    bytes: usize,
    /// What resources and scopes will take at most.
    group_bytes_most: usize,
    trace_id: Vec<[u8; 16]>,
    span_id: Vec<[u8; 8]>,
    /// Zero for none.
    parent_span_id: Vec<[u8; 8]>,
    start: Vec<i64>,
    duration: Vec<i64>,
    /// Only where it is not start + duration.
    end: Sparse<i64>,
    name: Vec<u32>,
    names: Interner,
    kind: Vec<u8>,
    status_code: Vec<u8>,
    status_message: Sparse<u32>,
    status_messages: Interner,
    trace_state: Sparse<u32>,
    trace_states: Interner,
    // Unsigned 32-bit numbers kept bit for bit.
    flags: Sparse<i32>,
    dropped_attributes: Sparse<i32>,
    dropped_events: Sparse<i32>,
    dropped_links: Sparse<i32>,
    resource: Vec<u32>,
    scope: Vec<u32>,
    resources: Groups,
    scopes: Groups,
    attributes: SpanAttributes,
    events: Events,
    links: Links,
}

impl SpanBatchBuilder {
    pub fn new(limits: AttributeLimits) -> Self {
        Self { limits, bytes_max: BYTES_MAX, warnings: Warnings::default(), columns: Columns::new(0) }
    }

    /// Batches no larger than about `bytes_max`, at most [`BYTES_MAX`].
    pub fn with_bytes_max(self, bytes_max: usize) -> Self {
        Self { bytes_max: bytes_max.min(BYTES_MAX), ..self }
    }

    /// Reads the resource, unless an equal one is known. The spans that follow name it by its number.
    pub fn resource(&mut self, resource: &ResourceSpansView<'_>) -> ResourceNumber {
        let words = GroupWords {
            raw: resource.raw(),
            name: "",
            version: "",
            schema_url: &resource.schema_url,
            dropped: resource.dropped_attributes_count,
        };
        let Columns { resources, bytes, .. } = &mut self.columns;
        ResourceNumber(resources.number(&words, resource.attributes(), &self.limits, &mut self.warnings, bytes))
    }

    /// Reads the instrumentation scope, unless an equal one is known.
    pub fn scope(&mut self, scope: &ScopeSpansView<'_>) -> ScopeNumber {
        let words = GroupWords {
            raw: scope.raw(),
            name: &scope.name,
            version: &scope.version,
            schema_url: &scope.schema_url,
            dropped: scope.dropped_attributes_count,
        };
        let Columns { scopes, bytes, .. } = &mut self.columns;
        ScopeNumber(scopes.number(&words, scope.attributes(), &self.limits, &mut self.warnings, bytes))
    }

    /// Adds one span. `resource` and `scope` are numbers that this builder gave since the last [`Self::finish`].
    pub fn append(&mut self, resource: ResourceNumber, scope: ScopeNumber, span: &SpanView<'_>) -> Result<(), Full> {
        if self.is_full() {
            return Err(Full);
        }
        self.columns.push(resource, scope, span, &self.limits, &mut self.warnings);
        Ok(())
    }

    /// Adds every span of an `ExportTraceServiceRequest` that [`SpanView::parse`] accepts. A batch that fills up on
    /// the way is finished and given to `full`. An error leaves the spans before it in.
    pub fn append_request(&mut self, request: &[u8], mut full: impl FnMut(SpanBatch)) -> Result<Appended, WireError> {
        let mut appended = Appended::default();
        for resource in wire::resource_spans(request) {
            let resource = resource?;
            let mut resource_number = self.resource(&resource);
            for scope in resource.scopes() {
                let scope = scope?;
                let mut scope_number = self.scope(&scope);
                for span in scope.spans() {
                    let Ok(span) = SpanView::parse(span?) else {
                        appended.refused += 1;
                        continue;
                    };
                    if self.is_full() {
                        full(self.finish());
                        resource_number = self.resource(&resource);
                        scope_number = self.scope(&scope);
                    }
                    self.columns.push(resource_number, scope_number, &span, &self.limits, &mut self.warnings);
                    appended.spans += 1;
                }
            }
        }
        Ok(appended)
    }

    /// Spans in the batch, re-deliveries included.
    pub fn rows(&self) -> usize {
        self.columns.trace_id.len()
    }

    /// About how many bytes the batch takes, now and when finished. Costs nothing to ask.
    pub fn bytes(&self) -> usize {
        self.columns.bytes
    }

    /// Whether [`Self::append`] refuses further spans. An empty batch takes one whatever its resource weighs.
    pub fn is_full(&self) -> bool {
        let Columns { bytes, group_bytes_most, .. } = self.columns;
        (bytes >= self.bytes_max || group_bytes_most >= GROUP_BYTES_MAX) && self.rows() > 0
    }

    /// Totals since the builder was made; `finish` does not reset them.
    pub fn warnings(&self) -> Warnings {
        self.warnings
    }

    /// The spans so far as a batch, which may have no rows. The builder is empty afterwards.
    pub fn finish(&mut self) -> SpanBatch {
        self.take().finish()
    }

    /// The spans so far, to be made a batch somewhere else. The builder is empty afterwards.
    pub fn take(&mut self) -> Filled {
        let next = Columns::new(self.rows());
        Filled { columns: std::mem::replace(&mut self.columns, next) }
    }
}

/// Spans as they came, of which a batch can be made: sorting and spreading them takes about as long as taking them in.
pub struct Filled {
    columns: Columns,
}

impl Filled {
    /// Spans, re-deliveries included.
    pub fn rows(&self) -> usize {
        self.columns.trace_id.len()
    }

    /// About how many bytes it takes, and the batch will.
    pub fn bytes(&self) -> usize {
        self.columns.bytes
    }

    pub fn finish(self) -> SpanBatch {
        self.columns.finish()
    }
}

impl Columns {
    /// What a row takes in the plain columns, here and in the finished batch.
    const ROW_BYTES: usize = 160;

    /// With room for so many rows in the columns that all rows set.
    fn new(rows: usize) -> Self {
        Self {
            bytes: 0,
            group_bytes_most: 0,
            trace_id: Vec::with_capacity(rows),
            span_id: Vec::with_capacity(rows),
            parent_span_id: Vec::with_capacity(rows),
            start: Vec::with_capacity(rows),
            duration: Vec::with_capacity(rows),
            end: Sparse::default(),
            name: Vec::with_capacity(rows),
            names: Interner::default(),
            kind: Vec::with_capacity(rows),
            status_code: Vec::with_capacity(rows),
            status_message: Sparse::default(),
            status_messages: Interner::default(),
            trace_state: Sparse::default(),
            trace_states: Interner::default(),
            flags: Sparse::default(),
            dropped_attributes: Sparse::default(),
            dropped_events: Sparse::default(),
            dropped_links: Sparse::default(),
            resource: Vec::with_capacity(rows),
            scope: Vec::with_capacity(rows),
            resources: Groups::new(AttributeScope::Resource),
            scopes: Groups::new(AttributeScope::Instrumentation),
            attributes: SpanAttributes::default(),
            events: Events::default(),
            links: Links::default(),
        }
    }

    fn push(
        &mut self,
        resource: ResourceNumber,
        scope: ScopeNumber,
        span: &SpanView<'_>,
        limits: &AttributeLimits,
        warnings: &mut Warnings,
    ) {
        let row = self.trace_id.len() as u32;
        let heap = &mut self.bytes;
        *heap += Self::ROW_BYTES;
        for bytes in [self.resources.row_bytes(resource.0), self.scopes.row_bytes(scope.0)] {
            *heap += bytes.likely;
            self.group_bytes_most += bytes.most;
        }
        self.trace_id.push(*span.trace_id);
        self.span_id.push(*span.span_id);
        let parent = span.parent_span_id.try_into().unwrap_or_else(|_| {
            warnings.parents_unknown += u64::from(!span.parent_span_id.is_empty());
            [0; 8]
        });
        self.parent_span_id.push(parent);

        let (start, end) = (span.start_time_unix_nano, span.end_time_unix_nano);
        let duration = i64::try_from(end.saturating_sub(start)).unwrap_or(i64::MAX);
        self.start.push(start as i64);
        self.duration.push(duration);
        if start.wrapping_add(duration as u64) != end {
            self.end.push(row, end as i64, heap);
        }

        let name = cut::words(&span.name, limits.value_bytes_max, warnings);
        self.name.push(self.names.intern(name.as_bytes(), heap));
        self.kind.push(u8::try_from(span.kind).unwrap_or(0));
        self.status_code.push(u8::try_from(span.status_code).unwrap_or(0));
        if !span.status_message.is_empty() {
            let message = cut::words(&span.status_message, limits.value_bytes_max, warnings);
            let code = self.status_messages.intern(message.as_bytes(), heap);
            self.status_message.push(row, code, heap);
        }
        if !span.trace_state.is_empty() {
            let state = cut::words(&span.trace_state, limits.value_bytes_max, warnings);
            let code = self.trace_states.intern(state.as_bytes(), heap);
            self.trace_state.push(row, code, heap);
        }
        if span.flags != 0 {
            self.flags.push(row, span.flags as i32, heap);
        }
        self.resource.push(resource.0);
        self.scope.push(scope.0);

        let surplus = |count: usize, max: usize| u32::try_from(count.saturating_sub(max)).unwrap_or(u32::MAX);
        let attributes_surplus = surplus(span.attribute_count(), limits.attributes_per_span_max);
        let events_surplus = surplus(span.event_count(), limits.events_per_span_max);
        let links_surplus = surplus(span.link_count(), limits.links_per_span_max);
        warnings.attributes_dropped += u64::from(attributes_surplus);
        warnings.events_dropped += u64::from(events_surplus);
        warnings.links_dropped += u64::from(links_surplus);
        for (column, sent, surplus) in [
            (&mut self.dropped_attributes, span.dropped_attributes_count, attributes_surplus),
            (&mut self.dropped_events, span.dropped_events_count, events_surplus),
            (&mut self.dropped_links, span.dropped_links_count, links_surplus),
        ] {
            let dropped = sent.saturating_add(surplus);
            if dropped != 0 {
                column.push(row, dropped as i32, heap);
            }
        }

        let attributes = span.raw_attributes().take(limits.attributes_per_span_max);
        self.attributes.push_all(row, attributes, limits.value_bytes_max, warnings, heap);
        for event in span.events().take(limits.events_per_span_max) {
            self.events.push(&event, limits, warnings, heap);
        }
        self.events.end_row();
        for link in span.links().take(limits.links_per_span_max) {
            self.links.push(&link, limits, warnings, heap);
        }
        self.links.end_row();
    }
}
