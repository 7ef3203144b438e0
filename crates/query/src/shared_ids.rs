//! Zipkin lets the two sides of a call share one span id. Whoever reads a trace by id expects ids to differ.

use std::collections::{HashMap, HashSet};

use proto::otlp::trace::v1::{Span, TracesData, span::SpanKind};

/// Gives the server's side of such a pair an id of its own: the smallest number from 1 that is free. Its parent
/// becomes the client's span, and what named the shared id as parent becomes its child.
pub fn separate(trace: &mut TracesData) {
    let mut sides: HashMap<Vec<u8>, Vec<i32>> = HashMap::new();
    for span in spans(trace) {
        sides.entry(span.span_id.clone()).or_default().push(span.kind);
    }
    let (client, server) = (SpanKind::Client as i32, SpanKind::Server as i32);
    let pair = |kinds: &[i32]| matches!(kinds, [a, b] if (*a, *b) == (client, server) || (*a, *b) == (server, client));
    let mut shared: Vec<&Vec<u8>> = sides.iter().filter(|(_, kinds)| pair(kinds)).map(|(id, _)| id).collect();
    if shared.is_empty() {
        return;
    }
    shared.sort();
    let taken: HashSet<&Vec<u8>> = sides.keys().collect();
    let mut free = (1_u64..).map(|number| number.to_be_bytes().to_vec()).filter(|id| !taken.contains(id));
    let new: HashMap<Vec<u8>, Vec<u8>> = shared.into_iter().map(|id| (id.clone(), free.next().unwrap_or_default())).collect();
    for span in spans(trace) {
        match new.get(&span.span_id) {
            Some(id) if span.kind == server => span.parent_span_id = std::mem::replace(&mut span.span_id, id.clone()),
            _ => {
                if let Some(id) = new.get(&span.parent_span_id) {
                    span.parent_span_id = id.clone();
                }
            }
        }
    }
}

fn spans(trace: &mut TracesData) -> impl Iterator<Item = &mut Span> {
    trace.resource_spans.iter_mut().flat_map(|r| &mut r.scope_spans).flat_map(|s| &mut s.spans)
}
