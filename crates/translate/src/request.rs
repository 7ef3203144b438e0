//! The bytes of an `ExportTraceServiceRequest`, written span by span.
//!
//! Neighbours with the same resource and scope share them. At most [`PENDING_SPANS_MAX`] spans are held as values.

use prost::Message;
use proto::otlp::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::InstrumentationScope,
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};

const PENDING_SPANS_MAX: usize = 1024;

#[derive(Default)]
pub(crate) struct RequestWriter {
    bytes: Vec<u8>,
    resource: Resource,
    scope: InstrumentationScope,
    pending: Vec<Span>,
}

impl RequestWriter {
    pub(crate) fn push(&mut self, resource: &Resource, scope: InstrumentationScope, span: Span) {
        let full = self.pending.len() >= PENDING_SPANS_MAX;
        if full || *resource != self.resource || scope != self.scope {
            self.write();
            self.resource = resource.clone();
            self.scope = scope;
        }
        self.pending.push(span);
    }

    fn write(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let scope_spans = ScopeSpans {
            scope: Some(self.scope.clone()),
            spans: std::mem::take(&mut self.pending),
            ..ScopeSpans::default()
        };
        let resource_spans = ResourceSpans {
            resource: Some(self.resource.clone()),
            scope_spans: vec![scope_spans],
            ..ResourceSpans::default()
        };
        // Messages that follow each other are one message with the elements of both.
        ExportTraceServiceRequest { resource_spans: vec![resource_spans] }
            .encode(&mut self.bytes)
            .expect("a vector grows as needed");
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.write();
        self.bytes
    }
}
