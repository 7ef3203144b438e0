//! Zipkin's and Jaeger's formats, to and from OTLP. Bytes in, values out: no I/O, no clocks.
//!
//! [`zipkin`] and [`jaeger`] each have a model of a span, readers and writers of its wire formats, and the two mappings
//! between that model and OTLP. What comes in becomes the bytes of an `ExportTraceServiceRequest`, span by span,
//! so that a body costs its own length, one span, and at most [`request_bytes_max`]. What goes out starts from
//! `TracesData`.
//!
//! The mappings follow OpenTelemetry's rules for formats that are not OTLP, and lose nothing that the other format can
//! hold; `docs/compatibility.md` lists what it cannot.
//!
//! No bytes make this crate panic or recurse deeply. The bounds: [`SPAN_ELEMENTS_MAX`] parts of one span, and
//! [`NESTING_MAX`] levels of what is read and of values that are written as JSON.

mod attributes;
pub mod jaeger;
mod request;
mod thrift_reader;
mod wire_walk;
pub mod zipkin;

/// The most tags, logs, references and annotations of one span together. A span with more is an error, because an
/// empty one takes two bytes on the wire and a hundred in memory.
pub const SPAN_ELEMENTS_MAX: usize = 65_536;

/// The most levels of structures inside each other in what is read.
pub const NESTING_MAX: usize = 64;

pub use request::request_bytes_max;

/// Why a body cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TranslateError {
    #[error("the body is not {format}: {reason}")]
    Malformed { format: &'static str, reason: String },
    #[error("a span has more than {SPAN_ELEMENTS_MAX} tags, annotations, logs and references")]
    SpanTooLarge,
    #[error("its spans as OTLP have more than {bytes_max} bytes; send fewer at once")]
    Grows { bytes_max: usize },
}

impl TranslateError {
    fn malformed(format: &'static str, reason: impl std::fmt::Display) -> Self {
        Self::Malformed { format, reason: reason.to_string() }
    }
}

/// The service of a resource that names none, as OpenTelemetry's translators call it. It becomes no `service.name`.
pub const NO_SERVICE_NAME: &str = "OTLPResourceNoServiceName";

/// The names under which both formats hold what only OTLP has a field for.
mod names {
    pub const SERVICE_NAME: &str = "service.name";
    pub const STATUS_CODE: &str = "otel.status_code";
    pub const STATUS_DESCRIPTION: &str = "otel.status_description";
    pub const ERROR: &str = "error";
    pub const SPAN_KIND: &str = "span.kind";
    pub const TRACE_STATE: &str = "w3c.tracestate";
    pub const SCOPE_NAME: &str = "otel.scope.name";
    pub const SCOPE_VERSION: &str = "otel.scope.version";
    /// Before the key of a scope's attribute.
    pub const SCOPE: &str = "otel.scope.";
    /// What the scope was called before.
    pub const LIBRARY_NAME: &str = "otel.library.name";
    pub const LIBRARY_VERSION: &str = "otel.library.version";
    pub const DROPPED_ATTRIBUTES: &str = "otel.dropped_attributes_count";
    pub const DROPPED_EVENTS: &str = "otel.dropped_events_count";
    pub const DROPPED_LINKS: &str = "otel.dropped_links_count";
}
