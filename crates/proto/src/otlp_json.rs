//! OTLP/JSON: trace requests in the JSON form of the OpenTelemetry protocol.
//!
//! Ids in hex of either case, enums as numbers, names in lower camel case only, 64-bit integers as number or
//! string, unknown fields ignored, `null` like a field that is not there. A field given twice: the last one counts.
//! Bytes that are not UTF-8 become U+FFFD. An id that is not hex reads as an empty one, so that the check of ids
//! later refuses that span alone; likewise a value that nests too deep is kept one level deeper than allowed.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use model::ATTRIBUTE_DEPTH_MAX;

mod transcode;

pub use crate::json::JsonError;
pub use transcode::{protobuf_bytes_max, to_protobuf};
use crate::{
    json::{Flavour, Object, Reader, write_resource_spans},
    otlp::{
        collector::trace::v1::ExportTraceServiceRequest,
        common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value::Value},
        resource::v1::Resource,
        trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span},
    },
};

/// The most memory that the lists of a decoded body of this length take; strings take no more than the body. Real
/// spans take two to five times their length; thousands of `{}` would take a hundred times.
fn heap_bytes_max(body_bytes: usize) -> usize {
    body_bytes.saturating_mul(8).saturating_add(64 << 10)
}

/// Reads a request. Memory is bounded by [`heap_bytes_max`].
pub fn decode(body: &[u8]) -> Result<ExportTraceServiceRequest, JsonError> {
    let text = String::from_utf8_lossy(body);
    let mut reader = Reader::new(text.strip_prefix('\u{feff}').unwrap_or(&text), heap_bytes_max(body.len()));
    let mut request = ExportTraceServiceRequest::default();
    reader.object(|reader, key| {
        match key {
            "resourceSpans" => request.resource_spans = reader.list(resource_spans)?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    reader.end()?;
    Ok(request)
}

/// Writes a request.
pub fn encode(request: &ExportTraceServiceRequest) -> Vec<u8> {
    let mut out = Vec::new();
    Object::write(&mut out, |object| {
        object.list("resourceSpans", &request.resource_spans, |out, spans| {
            write_resource_spans(out, spans, Flavour::Otlp);
        });
    });
    out
}

fn resource_spans(reader: &mut Reader<'_>) -> Result<ResourceSpans, JsonError> {
    let mut out = ResourceSpans::default();
    reader.object(|reader, key| {
        match key {
            "resource" => out.resource = Some(resource(reader)?),
            "scopeSpans" => out.scope_spans = reader.list(scope_spans)?,
            "schemaUrl" => out.schema_url = reader.string()?.into_owned(),
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    Ok(out)
}

fn resource(reader: &mut Reader<'_>) -> Result<Resource, JsonError> {
    let mut out = Resource::default();
    reader.object(|reader, key| {
        match key {
            "attributes" => out.attributes = attributes(reader)?,
            "droppedAttributesCount" => out.dropped_attributes_count = reader.integer()?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    Ok(out)
}

fn scope_spans(reader: &mut Reader<'_>) -> Result<ScopeSpans, JsonError> {
    let mut out = ScopeSpans::default();
    reader.object(|reader, key| {
        match key {
            "scope" => out.scope = Some(scope(reader)?),
            "spans" => out.spans = reader.list(span)?,
            "schemaUrl" => out.schema_url = reader.string()?.into_owned(),
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    Ok(out)
}

fn scope(reader: &mut Reader<'_>) -> Result<InstrumentationScope, JsonError> {
    let mut out = InstrumentationScope::default();
    reader.object(|reader, key| {
        match key {
            "name" => out.name = reader.string()?.into_owned(),
            "version" => out.version = reader.string()?.into_owned(),
            "attributes" => out.attributes = attributes(reader)?,
            "droppedAttributesCount" => out.dropped_attributes_count = reader.integer()?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    Ok(out)
}

fn span(reader: &mut Reader<'_>) -> Result<Span, JsonError> {
    let mut out = Span::default();
    reader.object(|reader, key| {
        match key {
            "traceId" => out.trace_id = id(reader)?,
            "spanId" => out.span_id = id(reader)?,
            "traceState" => out.trace_state = reader.string()?.into_owned(),
            "parentSpanId" => out.parent_span_id = id(reader)?,
            "flags" => out.flags = reader.integer()?,
            "name" => out.name = reader.string()?.into_owned(),
            "kind" => out.kind = reader.enumeration()?,
            "startTimeUnixNano" => out.start_time_unix_nano = reader.integer()?,
            "endTimeUnixNano" => out.end_time_unix_nano = reader.integer()?,
            "attributes" => out.attributes = attributes(reader)?,
            "droppedAttributesCount" => out.dropped_attributes_count = reader.integer()?,
            "events" => out.events = reader.list(event)?,
            "droppedEventsCount" => out.dropped_events_count = reader.integer()?,
            "links" => out.links = reader.list(link)?,
            "droppedLinksCount" => out.dropped_links_count = reader.integer()?,
            "status" => out.status = Some(status(reader)?),
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    Ok(out)
}

fn event(reader: &mut Reader<'_>) -> Result<span::Event, JsonError> {
    let mut out = span::Event::default();
    reader.object(|reader, key| {
        match key {
            "timeUnixNano" => out.time_unix_nano = reader.integer()?,
            "name" => out.name = reader.string()?.into_owned(),
            "attributes" => out.attributes = attributes(reader)?,
            "droppedAttributesCount" => out.dropped_attributes_count = reader.integer()?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    Ok(out)
}

fn link(reader: &mut Reader<'_>) -> Result<span::Link, JsonError> {
    let mut out = span::Link::default();
    reader.object(|reader, key| {
        match key {
            "traceId" => out.trace_id = id(reader)?,
            "spanId" => out.span_id = id(reader)?,
            "traceState" => out.trace_state = reader.string()?.into_owned(),
            "attributes" => out.attributes = attributes(reader)?,
            "droppedAttributesCount" => out.dropped_attributes_count = reader.integer()?,
            "flags" => out.flags = reader.integer()?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    Ok(out)
}

fn status(reader: &mut Reader<'_>) -> Result<Status, JsonError> {
    let mut out = Status::default();
    reader.object(|reader, key| {
        match key {
            "message" => out.message = reader.string()?.into_owned(),
            "code" => out.code = reader.enumeration()?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    Ok(out)
}

fn attributes(reader: &mut Reader<'_>) -> Result<Vec<KeyValue>, JsonError> {
    key_values(reader, ATTRIBUTE_DEPTH_MAX + 1)
}

fn key_values(reader: &mut Reader<'_>, levels: usize) -> Result<Vec<KeyValue>, JsonError> {
    reader.list(|reader| {
        let mut out = KeyValue::default();
        reader.object(|reader, key| {
            match key {
                "key" => out.key = reader.string()?.into_owned(),
                "value" => out.value = Some(any_value(reader, levels)?),
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        Ok(out)
    })
}

/// `levels`: how many arrays and maps may still be entered; what is deeper is passed over. The recursion is as
/// deep as that.
fn any_value(reader: &mut Reader<'_>, levels: usize) -> Result<AnyValue, JsonError> {
    let mut out = AnyValue::default();
    reader.object(|reader, key| {
        let value = match key {
            "stringValue" => Value::StringValue(reader.string()?.into_owned()),
            "boolValue" => Value::BoolValue(reader.boolean()?),
            "intValue" => Value::IntValue(reader.integer()?),
            "doubleValue" => Value::DoubleValue(reader.double()?),
            "arrayValue" if levels > 0 => {
                let mut values = Vec::new();
                reader.object(|reader, key| {
                    match key {
                        "values" => values = reader.list(|reader| any_value(reader, levels - 1))?,
                        _ => reader.skip()?,
                    }
                    Ok(())
                })?;
                Value::ArrayValue(ArrayValue { values })
            }
            "kvlistValue" if levels > 0 => {
                let mut values = Vec::new();
                reader.object(|reader, key| {
                    match key {
                        "values" => values = key_values(reader, levels - 1)?,
                        _ => reader.skip()?,
                    }
                    Ok(())
                })?;
                Value::KvlistValue(KeyValueList { values })
            }
            "bytesValue" => Value::BytesValue(base64_bytes(reader)?),
            _ => return reader.skip(),
        };
        out.value = Some(value);
        Ok(())
    })?;
    Ok(out)
}

/// An id in hex; empty if it is not.
fn id(reader: &mut Reader<'_>) -> Result<Vec<u8>, JsonError> {
    let text = reader.string()?;
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let pairs = text.as_bytes().chunks(2);
    let bytes: Option<Vec<u8>> = pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect();
    Ok(bytes.unwrap_or_default())
}

/// Bytes in base64, standard or URL-safe, padded or not.
fn base64_bytes(reader: &mut Reader<'_>) -> Result<Vec<u8>, JsonError> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);
    let text = reader.string()?;
    let bytes = STANDARD.decode(text.as_bytes()).or_else(|_| URL_SAFE.decode(text.as_bytes()));
    bytes.map_err(|_| reader.error("bytesValue is not base64"))
}

#[cfg(test)]
mod tests;
