//! Zipkin's JSON of version 1, as lenient as that of version 2.

use serde::Deserialize;

use super::{
    Endpoint, Span,
    json::{Bounded, JsonEndpoint, Lenient, Text, read_list},
    span_id, trace_id,
    v1::{V1Annotation, V1BinaryAnnotation, V1Span},
};
use crate::TranslateError;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonSpan {
    trace_id: String,
    id: String,
    #[serde(default)]
    parent_id: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    timestamp: Lenient,
    #[serde(default)]
    duration: Lenient,
    #[serde(default)]
    annotations: Bounded<JsonAnnotation>,
    #[serde(default)]
    binary_annotations: Bounded<JsonBinaryAnnotation>,
    #[serde(default)]
    debug: Option<bool>,
}

#[derive(Deserialize)]
struct JsonAnnotation {
    timestamp: Lenient,
    value: Text,
    #[serde(default)]
    endpoint: Option<JsonEndpoint>,
}

#[derive(Deserialize)]
struct JsonBinaryAnnotation {
    key: String,
    value: Text,
    #[serde(default)]
    endpoint: Option<JsonEndpoint>,
}

pub(super) fn read(body: &[u8], each: &mut dyn FnMut(Span)) -> Result<(), TranslateError> {
    read_list(body, "Zipkin JSON, version 1", &mut |span: JsonSpan| V1Span::from(span).convert(each))
}

impl From<JsonSpan> for V1Span {
    fn from(json: JsonSpan) -> Self {
        let endpoint = |json: Option<JsonEndpoint>| json.map(Endpoint::from).unwrap_or_default();
        let annotations = json.annotations.0.into_iter().map(|a| V1Annotation {
            timestamp: a.timestamp.0,
            value: a.value.0,
            endpoint: endpoint(a.endpoint),
        });
        let binary = json.binary_annotations.0.into_iter().map(|b| V1BinaryAnnotation {
            // Addresses come as the truth value of a key of two letters.
            value: (!(matches!(b.key.as_str(), "sa" | "ca" | "ma") && b.value.0 == "true")).then_some(b.value.0),
            key: b.key,
            endpoint: endpoint(b.endpoint),
        });
        Self {
            trace_id: trace_id(&json.trace_id),
            id: span_id(&json.id),
            parent_id: json.parent_id.map(|text| span_id(&text)).filter(|id| !id.is_zero()),
            name: json.name.unwrap_or_default(),
            timestamp: json.timestamp.0,
            duration: json.duration.0,
            annotations: annotations.collect(),
            binary_annotations: binary.collect(),
            debug: json.debug.unwrap_or_default(),
        }
    }
}
