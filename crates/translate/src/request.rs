//! The bytes of an `ExportTraceServiceRequest`, written span by span.
//!
//! Neighbours with the same resource share it, and so with the scope. At most [`PENDING_SPANS_MAX`] spans are held as
//! values.

use std::rc::Rc;

use prost::Message;
use proto::otlp::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::InstrumentationScope,
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};

use crate::TranslateError;

const PENDING_SPANS_MAX: usize = 1024;

/// The most bytes that a body of this length becomes. Real spans stay about as long as they were; a process of many
/// tags with thousands of empty spans would be written again and again.
pub fn request_bytes_max(body_bytes: usize) -> usize {
    body_bytes.saturating_mul(8).saturating_add(64 << 10)
}

pub(crate) struct RequestWriter {
    bytes: Vec<u8>,
    bytes_max: usize,
    resource: Rc<Resource>,
    scopes: Vec<ScopeSpans>,
    pending: usize,
}

impl RequestWriter {
    pub(crate) fn of_body(body: &[u8]) -> Self {
        Self {
            bytes: vec![],
            bytes_max: request_bytes_max(body.len()),
            resource: Rc::default(),
            scopes: vec![],
            pending: 0,
        }
    }

    /// Whose spans come next.
    pub(crate) fn set_resource(&mut self, resource: &Rc<Resource>) {
        if !Rc::ptr_eq(resource, &self.resource) && *resource != self.resource {
            self.write();
            self.resource = Rc::clone(resource);
        }
    }

    pub(crate) fn push(&mut self, scope: InstrumentationScope, span: Span) {
        if self.pending >= PENDING_SPANS_MAX {
            self.write();
        }
        self.pending += 1;
        match self.scopes.last_mut() {
            Some(last) if last.scope.as_ref() == Some(&scope) => last.spans.push(span),
            _ => self.scopes.push(ScopeSpans { scope: Some(scope), spans: vec![span], ..ScopeSpans::default() }),
        }
    }

    fn write(&mut self) {
        self.pending = 0;
        let scope_spans = std::mem::take(&mut self.scopes);
        if scope_spans.is_empty() || self.bytes.len() > self.bytes_max {
            return;
        }
        let resource = Some(Resource::clone(&self.resource));
        let resource_spans = vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }];
        // Messages that follow each other are one message with the elements of both.
        ExportTraceServiceRequest { resource_spans }.encode(&mut self.bytes).expect("a vector grows as needed");
    }

    pub(crate) fn finish(mut self) -> Result<Vec<u8>, TranslateError> {
        self.write();
        match self.bytes.len() > self.bytes_max {
            true => Err(TranslateError::Grows { bytes_max: self.bytes_max }),
            false => Ok(self.bytes),
        }
    }
}
