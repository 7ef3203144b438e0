//! The account of one request: what the engine read for it, and how the answer says what it lacks.
//!
//! Grafana decodes some answers strictly, so what Tempo's messages have no field for goes into headers.

use crate::accept::Form;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use query::{Budget, Engine, Reads};
use std::sync::Arc;

/// Set where an answer lacks something, with what and why.
pub const PARTIAL: HeaderName = HeaderName::from_static("sostenuto-partial");

/// The most bytes of a header's value.
const HEADER_BYTES_MAX: usize = 1024;

pub(crate) struct Account {
    engine: Engine,
    pub reads: Arc<Reads>,
}

impl Account {
    pub fn open(engine: &Engine, budget: Budget) -> Self {
        let reads = Arc::new(Reads::within(budget));
        Self { engine: engine.accounting(&reads), reads }
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
            (Form::Llm | Form::Json, _) => (Form::JSON, json(message)),
        };
        (self.headers(), [(header::CONTENT_TYPE, content_type)], body).into_response()
    }
}

/// One line of visible ASCII.
fn header_value(text: &str) -> HeaderValue {
    let plain = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    let line: String = text.chars().map(plain).take(HEADER_BYTES_MAX).collect();
    HeaderValue::try_from(line).unwrap_or(HeaderValue::from_static("yes"))
}
