//! Zipkin's JSON of version 2: a list of spans.
//!
//! Numbers are taken as numbers or in quotes, `null` as absent, unknown names are passed over, and texts that are not
//! UTF-8 are repaired. A span without `traceId` or `id` is an error.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value, json};

use super::{Annotation, Endpoint, Kind, Span, span_id, trace_id, trace_id_text};
use crate::{SPAN_ELEMENTS_MAX, TranslateError};

const FORMAT: &str = "Zipkin JSON";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonSpan {
    trace_id: String,
    id: String,
    #[serde(default)]
    parent_id: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    timestamp: Lenient,
    #[serde(default)]
    duration: Lenient,
    #[serde(default)]
    local_endpoint: Option<JsonEndpoint>,
    #[serde(default)]
    remote_endpoint: Option<JsonEndpoint>,
    #[serde(default)]
    annotations: Bounded<JsonAnnotation>,
    #[serde(default)]
    tags: Tags,
    #[serde(default)]
    debug: Option<bool>,
    #[serde(default)]
    shared: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct JsonEndpoint {
    service_name: Option<String>,
    ipv4: Option<String>,
    ipv6: Option<String>,
    port: Lenient,
}

#[derive(Deserialize)]
struct JsonAnnotation {
    timestamp: Lenient,
    value: Text,
}

impl From<JsonEndpoint> for Endpoint {
    fn from(json: JsonEndpoint) -> Self {
        Self {
            service_name: json.service_name.unwrap_or_default(),
            ipv4: json.ipv4.and_then(|text| text.parse().ok()),
            ipv6: json.ipv6.and_then(|text| text.parse().ok()),
            port: u16::try_from(json.port.0).unwrap_or_default(),
        }
    }
}

impl From<JsonSpan> for Span {
    fn from(json: JsonSpan) -> Self {
        let mut span = Self {
            trace_id: trace_id(&json.trace_id),
            parent_id: json.parent_id.map(|text| span_id(&text)).filter(|id| !id.is_zero()),
            id: span_id(&json.id),
            kind: json.kind.and_then(|word| Kind::parse(&word)),
            name: json.name.unwrap_or_default(),
            timestamp: json.timestamp.0,
            duration: json.duration.0,
            local_endpoint: json.local_endpoint.map(Endpoint::from).unwrap_or_default(),
            remote_endpoint: json.remote_endpoint.map(Endpoint::from).unwrap_or_default(),
            debug: json.debug.unwrap_or_default(),
            shared: json.shared.unwrap_or_default(),
            ..Self::default()
        };
        let annotations = json.annotations.0.into_iter();
        span.annotations = annotations.map(|a| Annotation { timestamp: a.timestamp.0, value: a.value.0 }).collect();
        span.set_tags(json.tags.0);
        span
    }
}

pub(super) fn read(body: &[u8], each: &mut dyn FnMut(Span)) -> Result<(), TranslateError> {
    read_list::<JsonSpan>(body, FORMAT, &mut |span| each(span.into()))
}

/// Hands over the elements of a list, one by one.
pub(super) fn read_list<T: DeserializeOwned>(
    body: &[u8],
    format: &'static str,
    each: &mut dyn FnMut(T),
) -> Result<(), TranslateError> {
    let text = String::from_utf8_lossy(body);
    let mut input = serde_json::Deserializer::from_str(text.strip_prefix('\u{feff}').unwrap_or(&text));
    let outcome = Elements { each }.deserialize(&mut input).and_then(|()| input.end());
    outcome.map_err(|error| TranslateError::malformed(format, error))
}

struct Elements<'e, T> {
    each: &'e mut dyn FnMut(T),
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Elements<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Elements<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of spans")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(element) = list.next_element()? {
            (self.each)(element);
        }
        Ok(())
    }
}

/// A whole number that is not negative, in quotes or not; anything else is 0.
#[derive(Clone, Copy, Default)]
pub(super) struct Lenient(pub(super) u64);

impl<'de> Deserialize<'de> for Lenient {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Text::deserialize(deserializer)?.0;
        // A float such as 1.5e15 loses what is below a microsecond.
        let number = text.parse().or_else(|_| text.parse::<f64>().map(|number| number as u64));
        Ok(Self(number.unwrap_or_default()))
    }
}

/// A text, or what is written without quotes.
#[derive(Default)]
pub(crate) struct Text(pub(crate) String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = String;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a number or a truth value")
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<String, E> {
                Ok(value.to_owned())
            }
            fn visit_string<E: de::Error>(self, value: String) -> Result<String, E> {
                Ok(value)
            }
            fn visit_bool<E: de::Error>(self, value: bool) -> Result<String, E> {
                Ok(value.to_string())
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<String, E> {
                Ok(value.to_string())
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<String, E> {
                Ok(value.to_string())
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<String, E> {
                Ok(value.to_string())
            }
            fn visit_unit<E: de::Error>(self) -> Result<String, E> {
                Ok(String::new())
            }
        }
        deserializer.deserialize_any(Any).map(Self)
    }
}

/// A list of at most [`SPAN_ELEMENTS_MAX`]; `null` is an empty one.
pub(crate) struct Bounded<T>(pub(crate) Vec<T>);

impl<T> Default for Bounded<T> {
    fn default() -> Self {
        Self(vec![])
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Bounded<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
            type Value = Vec<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }
            fn visit_unit<E: de::Error>(self) -> Result<Vec<T>, E> {
                Ok(vec![])
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
                let mut all = vec![];
                while let Some(element) = list.next_element()? {
                    if all.len() >= SPAN_ELEMENTS_MAX {
                        return Err(de::Error::custom(TranslateError::SpanTooLarge));
                    }
                    all.push(element);
                }
                Ok(all)
            }
        }
        deserializer.deserialize_any(List(PhantomData)).map(Self)
    }
}

/// At most [`SPAN_ELEMENTS_MAX`] tags; `null` is none.
#[derive(Default)]
struct Tags(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Tags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TagMap;
        impl<'de> Visitor<'de> for TagMap {
            type Value = Vec<(String, String)>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tags")
            }
            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(vec![])
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut tags = vec![];
                while let Some((key, Text(value))) = map.next_entry()? {
                    if tags.len() >= SPAN_ELEMENTS_MAX {
                        return Err(de::Error::custom(TranslateError::SpanTooLarge));
                    }
                    tags.push((key, value));
                }
                Ok(tags)
            }
        }
        deserializer.deserialize_any(TagMap).map(Self)
    }
}

/// Spans as Zipkin's servers answer them: what is absent is left out.
pub fn write(spans: &[Span]) -> Value {
    spans.iter().map(span_json).collect()
}

fn span_json(span: &Span) -> Value {
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| out.insert(key.to_owned(), value);
    put("traceId", trace_id_text(&span.trace_id).into());
    if let Some(parent) = &span.parent_id {
        put("parentId", parent.to_string().into());
    }
    put("id", span.id.to_string().into());
    if let Some(kind) = span.kind {
        put("kind", kind.as_str().into());
    }
    if !span.name.is_empty() {
        put("name", span.name.as_str().into());
    }
    for (key, number) in [("timestamp", span.timestamp), ("duration", span.duration)] {
        if number > 0 {
            put(key, number.into());
        }
    }
    for (key, endpoint) in [("localEndpoint", &span.local_endpoint), ("remoteEndpoint", &span.remote_endpoint)] {
        if !endpoint.is_empty() {
            put(key, endpoint_json(endpoint));
        }
    }
    if !span.annotations.is_empty() {
        let annotations = span.annotations.iter();
        put("annotations", annotations.map(|a| json!({ "timestamp": a.timestamp, "value": a.value })).collect());
    }
    if !span.tags.is_empty() {
        put("tags", span.tags.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect());
    }
    for (key, flag) in [("debug", span.debug), ("shared", span.shared)] {
        if flag {
            put(key, true.into());
        }
    }
    out.into()
}

fn endpoint_json(endpoint: &Endpoint) -> Value {
    let mut out = Map::new();
    if !endpoint.service_name.is_empty() {
        out.insert("serviceName".to_owned(), endpoint.service_name.as_str().into());
    }
    if let Some(address) = endpoint.ipv4 {
        out.insert("ipv4".to_owned(), address.to_string().into());
    }
    if let Some(address) = endpoint.ipv6 {
        out.insert("ipv6".to_owned(), address.to_string().into());
    }
    if endpoint.port > 0 {
        out.insert("port".to_owned(), endpoint.port.into());
    }
    out.into()
}
