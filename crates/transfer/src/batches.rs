//! Records, each of which is an OTLP request, become requests of a good size.
//!
//! Requests that follow each other in protobuf are one request with the resources of both, so small ones are put together
//! without being decoded. A large one is decoded and cut between spans.

use prost::Message;
use proto::{
    otlp::{
        collector::trace::v1::ExportTraceServiceRequest,
        trace::v1::{ResourceSpans, ScopeSpans},
    },
    wire,
};

use crate::{REQUEST_BYTES, REQUEST_BYTES_MAX};

/// What is sent at once.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    pub request: Vec<u8>,
    pub spans: u64,
}

/// Puts records together.
#[derive(Debug, Default)]
pub(crate) struct Batches {
    request: Vec<u8>,
    spans: u64,
}

impl Batches {
    /// Takes a record, and gives back what is ready to be sent.
    ///
    /// # Errors
    /// Why the record is no OTLP request; nothing of it is taken.
    pub fn add(&mut self, record: Vec<u8>) -> Result<Vec<Batch>, String> {
        let spans = count_spans(&record)?;
        if spans == 0 {
            return Ok(vec![]);
        }
        if record.len() > REQUEST_BYTES_MAX {
            let parts = cut(&record)?;
            return Ok(self.take().into_iter().chain(parts).collect());
        }
        let full = (self.request.len() + record.len() > REQUEST_BYTES_MAX).then(|| self.take()).flatten();
        self.spans += spans;
        if self.request.is_empty() {
            self.request = record;
        } else {
            self.request.extend_from_slice(&record);
        }
        let ready = (self.request.len() >= REQUEST_BYTES).then(|| self.take()).flatten();
        Ok(full.into_iter().chain(ready).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.spans == 0
    }

    /// What waits to become larger.
    pub fn take(&mut self) -> Option<Batch> {
        let (request, spans) = (std::mem::take(&mut self.request), std::mem::take(&mut self.spans));
        (spans > 0).then_some(Batch { request, spans })
    }
}

/// The spans of a request, whose frame is checked on the way.
pub(crate) fn count_spans(request: &[u8]) -> Result<u64, String> {
    let mut count = 0;
    for resource in wire::resource_spans(request) {
        for scope in resource.map_err(|error| error.to_string())?.scopes() {
            for span in scope.map_err(|error| error.to_string())?.spans() {
                span.map_err(|error| error.to_string())?;
                count += 1;
            }
        }
    }
    Ok(count)
}

/// Cuts a request into some of at most [`REQUEST_BYTES_MAX`], but for spans that alone are larger.
fn cut(request: &[u8]) -> Result<Vec<Batch>, String> {
    let request = ExportTraceServiceRequest::decode(request)
        .map_err(|error| format!("it has more than {} MiB and cannot be cut: {error}", REQUEST_BYTES_MAX >> 20))?;
    let mut batches = Batches::default();
    let mut out = vec![];
    for mut resource in request.resource_spans {
        for mut scope in std::mem::take(&mut resource.scope_spans) {
            // What stands around the spans of each part.
            let spans = std::mem::take(&mut scope.spans);
            let frame = resource.encoded_len() + scope.encoded_len() + 32;
            let mut part = vec![];
            let mut bytes = frame;
            for span in spans {
                let length = span.encoded_len() + 8;
                if bytes + length > REQUEST_BYTES && !part.is_empty() {
                    batches.push(&resource, &scope, std::mem::take(&mut part), &mut out);
                    bytes = frame;
                }
                bytes += length;
                part.push(span);
            }
            if !part.is_empty() {
                batches.push(&resource, &scope, part, &mut out);
            }
        }
    }
    out.extend(batches.take());
    Ok(out)
}

impl Batches {
    fn push(
        &mut self,
        resource: &ResourceSpans,
        scope: &ScopeSpans,
        spans: Vec<proto::otlp::trace::v1::Span>,
        out: &mut Vec<Batch>,
    ) {
        let count = spans.len() as u64;
        let scope_spans = vec![ScopeSpans { spans, ..scope.clone() }];
        let resource_spans = vec![ResourceSpans { scope_spans, ..resource.clone() }];
        let bytes = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        if !self.request.is_empty() && self.request.len() + bytes.len() > REQUEST_BYTES_MAX {
            out.extend(self.take());
        }
        self.request.extend_from_slice(&bytes);
        self.spans += count;
        if self.request.len() >= REQUEST_BYTES {
            out.extend(self.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::otlp::{common::v1::InstrumentationScope, trace::v1::Span};

    use super::*;

    fn request(resources: usize, spans: usize, name_bytes: usize) -> ExportTraceServiceRequest {
        let span = |at: usize| Span {
            trace_id: vec![7; 16],
            span_id: (at as u64 + 1).to_be_bytes().to_vec(),
            name: "n".repeat(name_bytes),
            ..Span::default()
        };
        let scope = |at: usize| ScopeSpans {
            scope: Some(InstrumentationScope { name: format!("library {at}"), ..Default::default() }),
            spans: (0..spans).map(|span_at| span(at * spans + span_at)).collect(),
            schema_url: "scope".into(),
        };
        let resource_spans = (0..resources)
            .map(|at| ResourceSpans { resource: None, scope_spans: vec![scope(at)], schema_url: "resource".into() })
            .collect();
        ExportTraceServiceRequest { resource_spans }
    }

    /// The spans with their frames, whatever requests they stand in.
    fn flat(requests: &[ExportTraceServiceRequest]) -> Vec<(String, String, Span)> {
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        let scopes =
            resources.flat_map(|resource| resource.scope_spans.iter().map(|scope| (&resource.schema_url, scope)));
        scopes
            .flat_map(|(url, scope)| {
                let name = scope.scope.as_ref().unwrap().name.clone();
                scope.spans.iter().map(move |span| (url.clone(), name.clone(), span.clone()))
            })
            .collect()
    }

    fn check(records: &[ExportTraceServiceRequest]) -> Vec<Batch> {
        let mut batches = Batches::default();
        let mut out = vec![];
        for record in records {
            out.extend(batches.add(record.encode_to_vec()).unwrap());
        }
        out.extend(batches.take());
        let decoded: Vec<_> =
            out.iter().map(|batch| ExportTraceServiceRequest::decode(batch.request.as_slice()).unwrap()).collect();
        assert_eq!(flat(&decoded), flat(records));
        for (batch, request) in out.iter().zip(&decoded) {
            assert_eq!(batch.spans, flat(std::slice::from_ref(request)).len() as u64);
        }
        out
    }

    #[test]
    fn small_records_share_a_request() {
        assert_eq!(check(&vec![request(1, 3, 10); 100]).len(), 1);
        assert_eq!(check(&[]), []);
        assert_eq!(check(&[request(2, 0, 0)]), []);
    }

    #[test]
    fn large_records_are_cut_between_spans() {
        let out = check(&[request(1, 2, 5), request(3, 40, 100_000), request(1, 2, 5)]);
        assert!(out.len() > 3, "{}", out.len());
        assert!(out.iter().all(|batch| batch.request.len() <= REQUEST_BYTES_MAX));
        // A span that alone is too large still goes, alone.
        let out = check(&[request(1, 2, REQUEST_BYTES_MAX + 1)]);
        assert_eq!(out.iter().map(|batch| batch.spans).collect::<Vec<_>>(), [1, 1]);
    }

    #[test]
    fn what_is_no_request_leaves_the_others_alone() {
        let mut batches = Batches::default();
        assert!(batches.add(vec![0x0a, 0xff]).is_err());
        assert_eq!(batches.add(request(1, 1, 1).encode_to_vec()), Ok(vec![]));
        assert_eq!(batches.take().unwrap().spans, 1);
    }
}
