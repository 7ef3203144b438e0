//! Links, for which Zipkin has no field: tags `otlp.link.0`, `otlp.link.1` and so on, each
//! `trace id|span id|trace state|attributes as JSON|dropped attributes`, as other OpenTelemetry translators write them.

use proto::otlp::trace::v1::span::Link;

use crate::{
    NESTING_MAX,
    attributes::{from_json_map, map_json},
};

const PREFIX: &str = "otlp.link.";

pub(super) fn tag(number: usize, link: &Link) -> (String, String) {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let Link { trace_id, span_id, trace_state, attributes, dropped_attributes_count, .. } = link;
    let attributes = map_json(attributes, NESTING_MAX);
    let (trace_id, span_id) = (hex(trace_id), hex(span_id));
    (format!("{PREFIX}{number}"), format!("{trace_id}|{span_id}|{trace_state}|{attributes}|{dropped_attributes_count}"))
}

/// The number and the link of a tag; `None` if the tag is not a link.
pub(super) fn link(key: &str, value: &str) -> Option<(usize, Link)> {
    let number = key.strip_prefix(PREFIX)?.parse().ok()?;
    let (trace_id, rest) = value.split_once('|')?;
    let (span_id, rest) = rest.split_once('|')?;
    let (rest, dropped) = rest.rsplit_once('|')?;
    // Neither a trace state nor the ids hold a brace, and the attributes begin with one.
    let (trace_state, attributes) = rest.split_at(rest.find("|{")?);
    let link = Link {
        trace_id: bytes(trace_id)?,
        span_id: bytes(span_id)?,
        trace_state: trace_state.to_owned(),
        attributes: from_json_map(serde_json::from_str(attributes.strip_prefix('|')?).ok()?),
        dropped_attributes_count: dropped.parse().ok()?,
        flags: 0,
    };
    Some((number, link))
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    hex.as_bytes().chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect()
}
