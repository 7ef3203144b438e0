//! Jaeger's protobuf, span by span.

use prost::Message;

use super::{Batch, Process, Span, to_otlp::Sink};
use crate::{TranslateError, wire_walk};

const FORMAT: &str = "Jaeger protobuf";

/// Of `PostSpansRequest`.
const BATCH: u32 = 1;
/// Of `Batch`.
const SPANS: u32 = 1;
const PROCESS: u32 = 2;
/// Of `Span`: what holds messages itself.
const LOGS: u32 = 9;
const SPAN_PROCESS: u32 = 10;

pub(super) fn read_post_spans(body: &[u8], sink: &mut Sink<'_>) -> Result<(), TranslateError> {
    wire_walk::fields(body, FORMAT, |tag, batch| if tag == BATCH { read_batch(batch, sink) } else { Ok(()) })
}

fn read_batch(batch: &[u8], sink: &mut Sink<'_>) -> Result<(), TranslateError> {
    let malformed = |error| TranslateError::malformed(FORMAT, error);
    // The process stands behind the spans.
    let mut process = Process::default();
    wire_walk::fields(batch, FORMAT, |tag, field| {
        if tag == PROCESS {
            wire_walk::check_elements(field, &[], FORMAT)?;
            process = Process::decode(field).map_err(malformed)?;
        }
        Ok(())
    })?;
    sink.process(&process);
    wire_walk::fields(batch, FORMAT, |tag, field| if tag == SPANS { read_span(field, sink) } else { Ok(()) })
}

pub(super) fn read_span(span: &[u8], sink: &mut Sink<'_>) -> Result<(), TranslateError> {
    wire_walk::check_elements(span, &[LOGS, SPAN_PROCESS], FORMAT)?;
    sink.span(Span::decode(span).map_err(|error| TranslateError::malformed(FORMAT, error))?);
    Ok(())
}

impl Batch {
    /// As the body of a call of `PostSpans`.
    pub fn to_post_spans(&self) -> Vec<u8> {
        #[derive(Clone, PartialEq, Message)]
        struct PostSpansRequest {
            #[prost(message, optional, tag = "1")]
            batch: Option<Batch>,
        }
        PostSpansRequest { batch: Some(self.clone()) }.encode_to_vec()
    }
}
