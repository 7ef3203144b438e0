//! Where in which trace something happens.

use std::fmt::Write;

/// A span's place. No id is zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    /// W3C's `tracestate` as it came; may be empty.
    pub trace_state: String,
}

/// What a request says of the trace it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// `None`: only whether to record was said.
    pub context: Option<Context>,
    /// Whether the trace is recorded; `None` leaves that to us.
    pub sampled: Option<bool>,
}

impl Context {
    /// The first span of a new trace.
    pub(crate) fn root() -> Self {
        Self { trace_id: rand::random::<u128>().max(1).to_be_bytes(), span_id: new_span_id(), trace_state: String::new() }
    }

    /// Another span of this trace.
    pub(crate) fn sibling(&self) -> Self {
        Self { span_id: new_span_id(), ..self.clone() }
    }

    /// As in a header `traceparent` of a span that is recorded.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-01", hex(&self.trace_id), hex(&self.span_id))
    }

    /// 32 hexadecimal digits.
    pub fn trace_id_hex(&self) -> String {
        hex(&self.trace_id)
    }
}

fn new_span_id() -> [u8; 8] {
    rand::random::<u64>().max(1).to_be_bytes()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
