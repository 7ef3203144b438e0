//! Jaeger: its span, the formats it travels in, and the mapping to and from OTLP.
//!
//! The model is that of Jaeger's protobuf, in which the others are expressed.

mod agent;
mod from_otlp;
mod json;
mod protobuf;
mod span_json;
mod thrift;
mod to_otlp;

use prost::Message;
use prost_types::{Duration, Timestamp};

use crate::{TranslateError, request::RequestWriter};
use to_otlp::Sink;

pub use agent::Protocol;
pub use from_otlp::batches;
pub use json::{read as read_json, write as write_json};

#[derive(Clone, PartialEq, Message)]
pub struct Batch {
    #[prost(message, repeated, tag = "1")]
    pub spans: Vec<Span>,
    #[prost(message, optional, tag = "2")]
    pub process: Option<Process>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Span {
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    pub operation_name: String,
    #[prost(message, repeated, tag = "4")]
    pub references: Vec<SpanRef>,
    #[prost(uint32, tag = "5")]
    pub flags: u32,
    #[prost(message, optional, tag = "6")]
    pub start_time: Option<Timestamp>,
    #[prost(message, optional, tag = "7")]
    pub duration: Option<Duration>,
    #[prost(message, repeated, tag = "8")]
    pub tags: Vec<KeyValue>,
    #[prost(message, repeated, tag = "9")]
    pub logs: Vec<Log>,
    /// In place of that of the batch.
    #[prost(message, optional, tag = "10")]
    pub process: Option<Process>,
    #[prost(string, tag = "11")]
    pub process_id: String,
    #[prost(string, repeated, tag = "12")]
    pub warnings: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct SpanRef {
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
    #[prost(enumeration = "RefType", tag = "3")]
    pub ref_type: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum RefType {
    ChildOf = 0,
    FollowsFrom = 1,
}

#[derive(Clone, PartialEq, Message)]
pub struct Process {
    #[prost(string, tag = "1")]
    pub service_name: String,
    #[prost(message, repeated, tag = "2")]
    pub tags: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Log {
    #[prost(message, optional, tag = "1")]
    pub timestamp: Option<Timestamp>,
    #[prost(message, repeated, tag = "2")]
    pub fields: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub struct KeyValue {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(enumeration = "ValueType", tag = "2")]
    pub v_type: i32,
    #[prost(string, tag = "3")]
    pub v_str: String,
    #[prost(bool, tag = "4")]
    pub v_bool: bool,
    #[prost(int64, tag = "5")]
    pub v_int64: i64,
    #[prost(double, tag = "6")]
    pub v_float64: f64,
    #[prost(bytes = "vec", tag = "7")]
    pub v_binary: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum ValueType {
    String = 0,
    Bool = 1,
    Int64 = 2,
    Float64 = 3,
    Binary = 4,
}

/// The OTLP request that holds the spans of a `PostSpansRequest` message.
pub fn request_of_post_spans(body: &[u8]) -> Result<Vec<u8>, TranslateError> {
    let mut writer = RequestWriter::of_body(body);
    protobuf::read_post_spans(body, &mut Sink::new(&mut writer))?;
    writer.finish()
}

/// The OTLP request that holds one span, as Jaeger's collector writes each into a queue: a `Span` message with its process.
pub fn request_of_span(body: &[u8]) -> Result<Vec<u8>, TranslateError> {
    let mut writer = RequestWriter::of_body(body);
    protobuf::read_span(body, &mut Sink::new(&mut writer))?;
    writer.finish()
}

/// As [`request_of_span`], of the message's protobuf JSON.
pub fn request_of_span_json(body: &[u8]) -> Result<Vec<u8>, TranslateError> {
    let mut writer = RequestWriter::of_body(body);
    Sink::new(&mut writer).span(span_json::read(body)?);
    writer.finish()
}

/// The OTLP request that holds the spans of a `Batch` structure in thrift's binary protocol.
pub fn request_of_thrift(body: &[u8]) -> Result<Vec<u8>, TranslateError> {
    let mut writer = RequestWriter::of_body(body);
    thrift::read(body, &mut Sink::new(&mut writer))?;
    writer.finish()
}

/// The OTLP request that holds the spans of a message to an agent, one datagram. Spans of Zipkin's without a timestamp
/// get `received_unix_nano`.
pub fn request_of_agent(protocol: Protocol, body: &[u8], received_unix_nano: u64) -> Result<Vec<u8>, TranslateError> {
    let mut writer = RequestWriter::of_body(body);
    agent::read(protocol, body, received_unix_nano, &mut writer)?;
    writer.finish()
}

/// The OTLP requests that hold the spans of batches, one for each.
pub fn requests(batches: &[Batch]) -> Result<Vec<Vec<u8>>, TranslateError> {
    batches.iter().map(|batch| request_of_post_spans(&batch.to_post_spans())).collect()
}

impl KeyValue {
    fn text(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { key: key.into(), v_str: value.into(), ..Self::default() }
    }

    fn boolean(key: impl Into<String>, value: bool) -> Self {
        Self { key: key.into(), v_type: ValueType::Bool.into(), v_bool: value, ..Self::default() }
    }

    fn integer(key: impl Into<String>, value: i64) -> Self {
        Self { key: key.into(), v_type: ValueType::Int64.into(), v_int64: value, ..Self::default() }
    }
}

/// Unix microseconds, not negative.
fn timestamp(micros: i64) -> Timestamp {
    let micros = micros.max(0);
    Timestamp { seconds: micros / 1_000_000, nanos: (micros % 1_000_000 * 1000) as i32 }
}

fn duration(micros: i64) -> Duration {
    let micros = micros.max(0);
    Duration { seconds: micros / 1_000_000, nanos: (micros % 1_000_000 * 1000) as i32 }
}

/// Nanoseconds of what has seconds and nanoseconds; negative ones are 0, too many the most there are.
fn nanos(seconds: i64, nanos: i32) -> u64 {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    u64::try_from(total.max(0)).unwrap_or(u64::MAX)
}
