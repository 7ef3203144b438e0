//! A borrowing reader of OTLP trace requests: what ingest reads, once per span and attribute.
//!
//! - Nothing is allocated, except to repair a string that is not UTF-8 (its bad bytes become U+FFFD).
//! - Resource and scope are found wherever they stand on the wire, also after the spans they own.
//! - A field that occurs several times where the schema has it once: the last one counts. Unknown fields are skipped.
//! - Groups, field number 0, a known field of the wrong wire type, lengths past the end and varints longer than
//!   ten bytes are errors, never panics.
//! - A span is checked as a whole by [`SpanView::parse`]; reading its attributes, events and links afterwards cannot
//!   fail. What is wrong inside one span costs that span only; what is wrong around spans is a [`WireError`] and
//!   costs the request.
//! - Attribute values nest at most [`model::ATTRIBUTE_DEPTH_MAX`] arrays or maps deep. A deeper value is a
//!   [`SpanFault::TooDeep`] in a span; on a resource or scope that attribute alone is left out and counted in
//!   `dropped_attributes_count`.

mod reader;
mod request;
mod span;
mod value;

pub use reader::WireError;
pub use request::{ResourceSpansView, ScopeSpansView, Scopes, Spans, resource_spans};
pub use span::{EventView, Events, LinkView, Links, SpanFault, SpanView};
pub use value::{
    Attribute, Attributes, RawAttribute, RawAttributes, Value, Values, any_value, array_values, map_entries,
};

#[cfg(test)]
mod tests;
