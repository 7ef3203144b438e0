//! All traces in one answer, `/api/export` of a server of ours. A stream that breaks off is taken up behind the last trace
//! that arrived.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use model::TraceId;
use prost::Message;
use proto::{
    otlp::trace::v1::{ResourceSpans, ScopeSpans, Span, TracesData},
    tempopb::{PartialStatus, TraceByIdResponse},
};
use reqwest::Response;

use super::{ExportOptions, Progress, below, sink::Sink, span_count};
use crate::{
    TransferError,
    http::{Http, PAUSE_MAX, PAUSE_MIN, cause, shown},
};

/// How many traces there are.
const TRACES: &str = "sostenuto-traces";
/// From one piece of the stream to the next.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// The whole stream.
const STREAM_TIMEOUT: Duration = Duration::from_secs(30 * 86_400);
/// A frame, which is some traces.
const FRAME_BYTES_MAX: usize = 2 << 30;

/// False: the server has no such stream.
pub(super) async fn traces(
    server: &Http,
    options: &ExportOptions,
    sink: &mut Sink,
    progress: &mut Progress,
    tell: &mut (dyn FnMut(&Progress) + Send),
) -> Result<bool, TransferError> {
    let began = Instant::now();
    let url = below(server, &["api", "export"]);
    let (start, end) = (options.start_s.to_string(), options.end_s.to_string());
    let mut after: Option<TraceId> = None;
    let mut all: Option<u64> = None;
    let (mut advanced, mut pause) = (Instant::now(), PAUSE_MIN);
    loop {
        let after_text = after.map(|id| id.to_string());
        let mut parameters = vec![("q", options.query.as_str()), ("start", &start), ("end", &end)];
        parameters.extend(after_text.iter().map(|after| ("after", after.as_str())));
        let opened = server.open(|client| {
            // Packing costs more than it spares on the way here.
            let get = client.get(url.clone()).query(&parameters).header("accept-encoding", "identity");
            get.timeout(STREAM_TIMEOUT).build()
        });
        let answer = match opened.await {
            Err(TransferError::Refused { status: 404, .. }) if all.is_none() => return Ok(false),
            answer => answer?,
        };
        progress.repeated += answer.repeated;
        let count = answer.headers.get(TRACES).and_then(|count| count.to_str().ok()?.parse().ok());
        let all = *all.get_or_insert(count.unwrap_or(0));
        let mut frames = Frames { response: answer.stream, buffer: BytesMut::new() };
        let broken = loop {
            let message = match frames.next().await {
                Ok(Some(message)) => message,
                Ok(None) => {
                    progress.gone = all.saturating_sub(progress.traces);
                    return Ok(true);
                }
                Err(broken) => break broken,
            };
            if message.status == PartialStatus::Partial as i32 {
                progress.lacks(&message.message);
            }
            for (id, trace) in apart(message.trace.unwrap_or_default()) {
                let spans = span_count(&trace);
                progress.wrote(sink.write(trace)?, spans);
                after = after.max(Some(id));
            }
            progress.share = progress.traces as f64 / all.max(1) as f64;
            progress.elapsed = began.elapsed();
            tell(progress);
            (advanced, pause) = (Instant::now(), PAUSE_MIN);
        };
        if advanced.elapsed() + pause > server.patience() {
            return Err(TransferError::GaveUp { url: shown(&url), after: advanced.elapsed(), last: broken });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
        progress.repeated += 1;
    }
}

struct Frames {
    response: Option<Response>,
    buffer: BytesMut,
}

impl Frames {
    /// `None` is the end. What is broken is said.
    async fn next(&mut self) -> Result<Option<TraceByIdResponse>, String> {
        let length = self.take(4).await?.get_u32() as usize;
        if length == 0 {
            return Ok(None);
        }
        if length > FRAME_BYTES_MAX {
            return Err(format!("a frame of {length} bytes is too large"));
        }
        let frame = self.take(length).await?;
        TraceByIdResponse::decode(frame).map(Some).map_err(|error| format!("a frame cannot be read: {error}"))
    }

    async fn take(&mut self, bytes: usize) -> Result<Bytes, String> {
        while self.buffer.len() < bytes {
            let Some(response) = &mut self.response else { return Err("the answer has no body".to_owned()) };
            match tokio::time::timeout(SILENCE_MAX, response.chunk()).await {
                Ok(Ok(Some(piece))) => self.buffer.extend_from_slice(&piece),
                Ok(Ok(None)) => return Err("the stream ended before its end".to_owned()),
                Ok(Err(error)) => return Err(cause(&error)),
                Err(_) => return Err(format!("nothing came for {} s", SILENCE_MAX.as_secs())),
            }
        }
        Ok(self.buffer.split_to(bytes).freeze())
    }
}

/// Each trace by itself, in the order in which they begin.
fn apart(several: TracesData) -> Vec<(TraceId, TracesData)> {
    let mut traces: Vec<(TraceId, TracesData)> = vec![];
    let mut places: HashMap<TraceId, usize> = HashMap::new();
    for ResourceSpans { resource, scope_spans, schema_url } in several.resource_spans {
        // Where the spans of this resource go, by trace.
        let mut of_resource: HashMap<TraceId, usize> = HashMap::new();
        for ScopeSpans { scope, spans, schema_url: scope_schema_url } in scope_spans {
            let mut of_scope: HashMap<TraceId, usize> = HashMap::new();
            for span in spans {
                let id = TraceId::from_slice(&span.trace_id).unwrap_or_default();
                let place = *places.entry(id).or_insert_with(|| {
                    traces.push((id, TracesData::default()));
                    traces.len() - 1
                });
                let resources = &mut traces[place].1.resource_spans;
                let resource = *of_resource.entry(id).or_insert_with(|| {
                    let (resource, schema_url) = (resource.clone(), schema_url.clone());
                    resources.push(ResourceSpans { resource, schema_url, ..ResourceSpans::default() });
                    resources.len() - 1
                });
                let scopes = &mut resources[resource].scope_spans;
                let at = *of_scope.entry(id).or_insert_with(|| {
                    let schema_url = scope_schema_url.clone();
                    scopes.push(ScopeSpans { scope: scope.clone(), spans: Vec::<Span>::new(), schema_url });
                    scopes.len() - 1
                });
                scopes[at].spans.push(span);
            }
        }
    }
    traces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_come_apart_with_their_resources_and_scopes() {
        let span = |trace: u8, id: u8| Span { trace_id: vec![trace; 16], span_id: vec![id; 8], ..Span::default() };
        let scope = |url: &str, spans| ScopeSpans { spans, schema_url: url.to_owned(), ..ScopeSpans::default() };
        let resource = |url: &str, scope_spans| ResourceSpans { scope_spans, schema_url: url.to_owned(), ..ResourceSpans::default() };
        let several = TracesData {
            resource_spans: vec![
                resource("a", vec![scope("x", vec![span(2, 1), span(1, 2), span(2, 3)]), scope("y", vec![span(1, 4)])]),
                resource("b", vec![scope("x", vec![span(1, 5)])]),
            ],
        };
        let expected = [
            (2, vec![resource("a", vec![scope("x", vec![span(2, 1), span(2, 3)])])]),
            (
                1,
                vec![
                    resource("a", vec![scope("x", vec![span(1, 2)]), scope("y", vec![span(1, 4)])]),
                    resource("b", vec![scope("x", vec![span(1, 5)])]),
                ],
            ),
        ];
        let expected = expected.map(|(id, resource_spans)| (TraceId([id; 16]), TracesData { resource_spans }));
        assert_eq!(apart(several), expected);
    }
}
