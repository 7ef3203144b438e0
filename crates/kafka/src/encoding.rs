//! What a message holds, and its way to OTLP's protobuf.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use proto::otlp_json;
use translate::{TranslateError, jaeger, request_bytes_max, zipkin};

/// The encodings of OpenTelemetry Collectors for traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Encoding {
    /// `ExportTraceServiceRequest`, or `TracesData`, which is the same on the wire.
    OtlpProto,
    OtlpJson,
    /// One span of Jaeger's model with its process.
    JaegerProto,
    /// The same in protobuf's JSON.
    JaegerJson,
    /// `ListOfSpans`.
    ZipkinProto,
    /// A list of spans, version 2.
    ZipkinJson,
    /// A list of spans, version 1, in thrift's binary protocol.
    ZipkinThrift,
}

/// The message cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error(transparent)]
    Json(#[from] otlp_json::JsonError),
    #[error(transparent)]
    Foreign(#[from] TranslateError),
}

impl DecodeError {
    pub(crate) fn is_size(&self) -> bool {
        matches!(self, Self::Foreign(TranslateError::Grows { .. } | TranslateError::SpanTooLarge))
    }
}

impl Encoding {
    /// The most memory that a message takes until it is durable.
    pub(crate) fn memory_bytes_max(self, payload: &[u8]) -> usize {
        match self {
            Self::OtlpProto => payload.len(),
            Self::OtlpJson => payload.len().saturating_add(otlp_json::protobuf_bytes_max(payload)),
            _ => payload.len().saturating_add(request_bytes_max(payload.len())),
        }
    }

    /// The OTLP request with the spans of a message. OTLP's own protobuf is not looked at: the ingester does that.
    pub(crate) fn decode(self, payload: Bytes) -> Result<Bytes, DecodeError> {
        let zipkin = |format| zipkin::request(format, &payload, now());
        let request = match self {
            Self::OtlpProto => return Ok(payload),
            Self::OtlpJson => otlp_json::to_protobuf(&payload)?,
            Self::JaegerProto => jaeger::request_of_span(&payload)?,
            Self::JaegerJson => jaeger::request_of_span_json(&payload)?,
            Self::ZipkinProto => zipkin(zipkin::Format::ProtobufV2)?,
            Self::ZipkinJson => zipkin(zipkin::Format::JsonV2)?,
            Self::ZipkinThrift => zipkin(zipkin::Format::ThriftV1)?,
        };
        Ok(request.into())
    }
}

/// Unix nanoseconds.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
