//! The account of one request: what the engine read for it, and how the answer says what it lacks.
//!
//! Grafana decodes some answers strictly, so what Tempo's messages have no field for goes into headers.

use crate::accept::Form;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use query::{Budget, Engine, Explanation, Reads};
use std::{sync::Arc, time::Duration};

/// Set where an answer lacks something, with what and why.
pub const PARTIAL: HeaderName = HeaderName::from_static("sostenuto-partial");

/// Of a page of search results: what to send as `after` for the next one.
pub const NEXT: HeaderName = HeaderName::from_static("sostenuto-next");

/// The most bytes of a header's value.
const HEADER_BYTES_MAX: usize = 1024;

pub(crate) struct Account {
    engine: Engine,
    pub reads: Arc<Reads>,
    /// JSON answers say how they were made.
    explain: bool,
    /// Where the request is recorded.
    span: Option<tracer::Span>,
}

impl Account {
    pub fn open(engine: &Engine, budget: Budget, time_max: Duration, explain: bool) -> Self {
        let span = tracer::current().map(|request| request.child("query"));
        let reads = Reads::within(budget).at_most(time_max);
        let reads = Arc::new(if span.is_some() { reads.watched() } else { reads });
        Self { engine: engine.accounting(&reads), reads, explain, span }
    }

    /// Accounts here for what it is asked.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// What goes into the headers of the answer, or into the metadata of a gRPC answer.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(partial) = self.reads.partial() {
            headers.insert(PARTIAL, header_value(&partial));
        }
        headers
    }

    /// A message that has no form for language models is plain JSON to them.
    pub fn answer<M: prost::Message>(
        &self,
        form: Form,
        message: &M,
        json: fn(&M) -> Vec<u8>,
        llm: Option<fn(&M) -> Vec<u8>>,
    ) -> Response {
        let (content_type, body) = match (form, llm) {
            (Form::Protobuf, _) => (Form::PROTOBUF, message.encode_to_vec()),
            (Form::Llm, Some(llm)) => (Form::LLM, llm(message)),
            (Form::Llm | Form::Json, _) => (Form::JSON, self.explained(json(message))),
        };
        (self.headers(), [(header::CONTENT_TYPE, content_type)], body).into_response()
    }
}

impl Drop for Account {
    /// The query's span says how the answer was made, as `explain` does.
    fn drop(&mut self) {
        let Some(span) = &mut self.span else { return };
        let explanation = self.reads.explanation();
        for (key, number) in [
            ("sostenuto.blocks", explanation.blocks),
            ("sostenuto.blocks_missing", explanation.blocks_missing),
            ("sostenuto.live_batches", explanation.live_batches),
            ("sostenuto.row_groups", explanation.row_groups),
            ("sostenuto.units_read", explanation.units_read),
            ("sostenuto.bytes_read", explanation.bytes),
            ("sostenuto.rows_read", explanation.rows),
            ("sostenuto.rows_kept", explanation.rows_kept),
        ] {
            span.set(key, number);
        }
        span.set("sostenuto.plan", explanation.plan.join("\n").as_str());
        let parent = span.parent();
        for stage in explanation.stages {
            drop(parent.past(stage.name, stage.began, stage.took));
        }
        for read in explanation.reads {
            let name = if read.block.is_some() { "read row group" } else { "read live batch" };
            let mut span = parent.past(name, read.began, read.took);
            span.set("sostenuto.rows_kept", read.rows);
            if let Some((block, row_group)) = read.block {
                span.set("sostenuto.block", block.to_string().as_str());
                span.set("sostenuto.row_group", row_group);
            }
        }
    }
}

impl Account {
    /// The JSON object with a further member, if it was asked for.
    fn explained(&self, mut object: Vec<u8>) -> Vec<u8> {
        if self.explain && object.last() == Some(&b'}') {
            object.pop();
            let first = if object.len() > 1 { "," } else { "" };
            object.extend_from_slice(format!("{first}\"explain\":{}}}", explanation(&self.reads.explanation())).as_bytes());
        }
        object
    }
}

/// Numbers are numbers, times microseconds.
fn explanation(explanation: &Explanation) -> serde_json::Value {
    let Explanation {
        plan, blocks, blocks_missing, live_batches, pruned, traces_split, row_groups, row_groups_pruned, units_read, bytes, rows,
        rows_kept, stages, reads: _,
    } = explanation;
    let pruned: serde_json::Map<_, _> = pruned.iter().map(|(reason, count)| ((*reason).to_owned(), (*count).into())).collect();
    let micros = |took: &std::time::Duration| u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let stages: Vec<_> =
        stages.iter().map(|stage| serde_json::json!({ "stage": stage.name, "micros": micros(&stage.took) })).collect();
    serde_json::json!({
        "plan": plan,
        "blocks": blocks,
        "blocksMissing": blocks_missing,
        "liveBatches": live_batches,
        "pruned": pruned,
        "tracesSplit": traces_split,
        "rowGroups": row_groups,
        "rowGroupsPrunedByStatistics": row_groups_pruned,
        "unitsRead": units_read,
        "bytesRead": bytes,
        "rowsRead": rows,
        "rowsKept": rows_kept,
        "stages": stages,
    })
}

/// One line of visible ASCII.
pub fn header_value(text: &str) -> HeaderValue {
    let plain = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    let line: String = text.chars().map(plain).take(HEADER_BYTES_MAX).collect();
    HeaderValue::try_from(line).unwrap_or(HeaderValue::from_static("yes"))
}
