//! Zipkin: its span, the formats it travels in, and the mapping to and from OTLP.

mod addresses;
mod events;
mod from_otlp;
mod json;
mod json_v1;
mod links;
mod protobuf;
mod thrift;
mod to_otlp;
mod v1;

use std::net::{Ipv4Addr, Ipv6Addr};

use model::{SpanId, TraceId};

use crate::{TranslateError, request::RequestWriter};

pub use addresses::REMOTE_NAMES;
pub use from_otlp::spans;
pub(crate) use json::{Bounded, Text};
pub use json::write as write_json;
pub use protobuf::write as write_protobuf;

/// A span of the second version of Zipkin's model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Span {
    /// All zero if the sender's was not one.
    pub trace_id: TraceId,
    pub parent_id: Option<SpanId>,
    /// All zero if the sender's was not one.
    pub id: SpanId,
    pub kind: Option<Kind>,
    pub name: String,
    /// Unix microseconds; 0 is absent.
    pub timestamp: u64,
    /// Microseconds; 0 is absent.
    pub duration: u64,
    pub local_endpoint: Endpoint,
    pub remote_endpoint: Endpoint,
    pub annotations: Vec<Annotation>,
    /// No key twice.
    pub tags: Vec<(String, String)>,
    pub debug: bool,
    /// The server's side of a call, under the id of the client's span.
    pub shared: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Client,
    Server,
    Producer,
    Consumer,
}

/// Empty in all fields is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    pub service_name: String,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    /// 0 is absent.
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotation {
    /// Unix microseconds.
    pub timestamp: u64,
    pub value: String,
}

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    JsonV1,
    JsonV2,
    ProtobufV2,
    ThriftV1,
}

/// The OTLP request that holds the spans of a body. A span without a timestamp gets that of its first annotation, or
/// else `received_unix_nano`.
pub fn request(format: Format, body: &[u8], received_unix_nano: u64) -> Result<Vec<u8>, TranslateError> {
    let mut writer = RequestWriter::of_body(body);
    read(format, body, &mut |span| to_otlp::push(span, received_unix_nano, &mut writer))?;
    writer.finish()
}

/// Hands over the spans of a body, one by one.
pub fn read(format: Format, body: &[u8], each: &mut dyn FnMut(Span)) -> Result<(), TranslateError> {
    match format {
        Format::JsonV1 => json_v1::read(body, each),
        Format::JsonV2 => json::read(body, each),
        Format::ProtobufV2 => protobuf::read(body, each),
        Format::ThriftV1 => thrift::read(body, each),
    }
}

/// As [`request`], of a list of version 1 structures that stands inside another thrift message.
pub(crate) fn thrift_request<P: ::thrift::protocol::TInputProtocol>(
    input: &mut P,
    received_unix_nano: u64,
    writer: &mut RequestWriter,
) -> ::thrift::Result<()> {
    thrift::read_list(input, &mut |span| to_otlp::push(span, received_unix_nano, writer))
}

impl Kind {
    const ALL: [Self; 4] = [Self::Client, Self::Server, Self::Producer, Self::Consumer];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "CLIENT",
            Self::Server => "SERVER",
            Self::Producer => "PRODUCER",
            Self::Consumer => "CONSUMER",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str().eq_ignore_ascii_case(word))
    }
}

impl Endpoint {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Span {
    /// The value of a tag.
    pub fn tag(&self, key: &str) -> Option<&str> {
        self.tags.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Of equal keys the last counts, as in a map.
    fn set_tags(&mut self, tags: Vec<(String, String)>) {
        let mut last = std::collections::HashMap::with_capacity(tags.len());
        for (at, (key, _)) in tags.iter().enumerate() {
            last.insert(key.clone(), at);
        }
        let kept = tags.into_iter().enumerate().filter(|(at, (key, _))| last[key] == *at);
        self.tags = kept.map(|(_, tag)| tag).collect();
    }
}

/// A trace id in Zipkin's notation: 1 to 32 hex digits. All zero if it is not one.
fn trace_id(text: &str) -> TraceId {
    TraceId::parse(text).unwrap_or_default()
}

/// A span id: 1 to 16 hex digits; leading zeros beyond are let through. All zero if it is not one.
fn span_id(text: &str) -> SpanId {
    let id = TraceId::parse(text).ok().and_then(|id| u64::try_from(id.as_u128()).ok());
    SpanId(id.unwrap_or_default().to_be_bytes())
}

/// As Zipkin writes it: 16 digits if the upper half is zero.
pub fn trace_id_text(id: &TraceId) -> String {
    match u64::try_from(id.as_u128()) {
        Ok(low) => format!("{low:016x}"),
        Err(_) => id.to_string(),
    }
}
