//! Traces of the program itself: what a request says of the trace it belongs to, spans of the work it makes, and their way
//! to an OTLP receiver, which may be our own.
//!
//! - Off, nothing here runs: nothing stands before the ports, and [`current`] and [`background`] are `None`.
//! - It does not feed on itself. Requests of the exporter carry [`MARK`] and make no spans, nor does what is delivered for
//!   the tenant that the exports go to; work in the background makes spans only for other tenants, and only if something
//!   else was delivered since the last such span.
//! - Spans wait in a bounded queue. What does not fit, and what the receiver does not take, is counted and lost; nothing
//!   waits for it.

mod context;
mod export;
mod headers;
mod span;

pub use context::{Context, Incoming};
pub use export::{ExportError, Exporter, Settings};
pub use headers::extract;
pub use span::{Counts, Parent, Past, Side, Span, Tracer, Value, background, child, current, install, rename, within};

/// A header of the exporter's own requests.
pub const MARK: &str = "sostenuto-own-spans";
