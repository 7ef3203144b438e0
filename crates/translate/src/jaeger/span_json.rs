//! One Jaeger span in protobuf's JSON, as its collector writes spans into a queue. The JSON of its query API is another.
//!
//! Names in camel case or as in the message, ids and bytes in base64 (ids in hex are taken too), enums by name or number,
//! 64-bit numbers in quotes or not, times as texts, `null` as absent, unknown names passed over. Text that is not UTF-8 is
//! repaired. An id that is none reads as zeros, so that the check of ids refuses the span later.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use model::TraceId;
use prost_types::{Duration, Timestamp};
use serde::Deserialize;

use super::{KeyValue, Log, Process, RefType, Span, SpanRef, ValueType};
use crate::{
    SPAN_ELEMENTS_MAX, TranslateError,
    zipkin::{Bounded, Text},
};

const FORMAT: &str = "Jaeger JSON";

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonSpan {
    #[serde(alias = "trace_id")]
    trace_id: String,
    #[serde(alias = "span_id")]
    span_id: String,
    #[serde(default, alias = "operation_name")]
    operation_name: Text,
    #[serde(default)]
    references: Bounded<JsonReference>,
    #[serde(default)]
    flags: Text,
    #[serde(default, alias = "start_time")]
    start_time: Option<String>,
    #[serde(default)]
    duration: Option<String>,
    #[serde(default)]
    tags: Bounded<JsonTag>,
    #[serde(default)]
    logs: Bounded<JsonLog>,
    #[serde(default)]
    process: Option<JsonProcess>,
    #[serde(default)]
    warnings: Bounded<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonReference {
    #[serde(alias = "trace_id")]
    trace_id: String,
    #[serde(alias = "span_id")]
    span_id: String,
    #[serde(default, alias = "ref_type")]
    ref_type: Text,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct JsonProcess {
    #[serde(alias = "service_name")]
    service_name: Text,
    tags: Bounded<JsonTag>,
}

#[derive(Deserialize)]
struct JsonLog {
    #[serde(default)]
    timestamp: Option<String>,
    #[serde(default)]
    fields: Bounded<JsonTag>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonTag {
    #[serde(default)]
    key: Text,
    #[serde(default, alias = "v_type")]
    v_type: Text,
    #[serde(default, alias = "v_str")]
    v_str: Text,
    #[serde(default, alias = "v_bool")]
    v_bool: bool,
    #[serde(default, alias = "v_int64")]
    v_int64: Text,
    #[serde(default, alias = "v_float64")]
    v_float64: Text,
    #[serde(default, alias = "v_binary")]
    v_binary: Text,
}

pub(super) fn read(body: &[u8]) -> Result<Span, TranslateError> {
    let text = String::from_utf8_lossy(body);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    // Before anything is made of it: an empty element takes three bytes here and more than a hundred in memory.
    if objects(text) > SPAN_ELEMENTS_MAX {
        return Err(TranslateError::SpanTooLarge);
    }
    let json: JsonSpan = serde_json::from_str(text).map_err(|error| TranslateError::malformed(FORMAT, error))?;
    Ok(Span {
        trace_id: id::<16>(&json.trace_id).to_vec(),
        span_id: id::<8>(&json.span_id).to_vec(),
        operation_name: json.operation_name.0,
        references: json.references.0.into_iter().map(reference).collect(),
        flags: or_zero(&json.flags, "flags")?,
        start_time: time(json.start_time.as_deref())?,
        duration: duration(json.duration.as_deref())?,
        tags: tags(json.tags)?,
        logs: json.logs.0.into_iter().map(log).collect::<Result<_, _>>()?,
        process: json.process.map(process_of).transpose()?,
        warnings: json.warnings.0,
        ..Span::default()
    })
}

/// How many objects open outside of texts.
fn objects(text: &str) -> usize {
    let (mut count, mut quoted, mut escaped) = (0, false, false);
    for byte in text.bytes() {
        match (quoted, byte) {
            _ if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => quoted = !quoted,
            (false, b'{') => count += 1,
            _ => {}
        }
    }
    count
}

fn reference(json: JsonReference) -> SpanRef {
    let ref_type = match json.ref_type.0.as_str() {
        "FOLLOWS_FROM" | "1" => RefType::FollowsFrom,
        _ => RefType::ChildOf,
    };
    SpanRef {
        trace_id: id::<16>(&json.trace_id).to_vec(),
        span_id: id::<8>(&json.span_id).to_vec(),
        ref_type: ref_type.into(),
    }
}

fn log(json: JsonLog) -> Result<Log, TranslateError> {
    Ok(Log { timestamp: time(json.timestamp.as_deref())?, fields: tags(json.fields)? })
}

fn process_of(json: JsonProcess) -> Result<Process, TranslateError> {
    Ok(Process { service_name: json.service_name.0, tags: tags(json.tags)? })
}

fn tags(json: Bounded<JsonTag>) -> Result<Vec<KeyValue>, TranslateError> {
    json.0.into_iter().map(tag).collect()
}

fn tag(json: JsonTag) -> Result<KeyValue, TranslateError> {
    let v_type = match json.v_type.0.as_str() {
        "" | "STRING" | "0" => ValueType::String,
        "BOOL" | "1" => ValueType::Bool,
        "INT64" | "2" => ValueType::Int64,
        "FLOAT64" | "3" => ValueType::Float64,
        "BINARY" | "4" => ValueType::Binary,
        other => return Err(TranslateError::malformed(FORMAT, format_args!("a tag has the type {other:?}"))),
    };
    let v_binary = BASE64.decode(&json.v_binary.0).map_err(|error| TranslateError::malformed(FORMAT, error))?;
    Ok(KeyValue {
        key: json.key.0,
        v_type: v_type.into(),
        v_str: json.v_str.0,
        v_bool: json.v_bool,
        v_int64: or_zero(&json.v_int64, "vInt64")?,
        v_float64: or_zero(&json.v_float64, "vFloat64")?,
        v_binary,
    })
}

fn or_zero<T: std::str::FromStr + Default>(text: &Text, name: &str) -> Result<T, TranslateError> {
    if text.0.is_empty() {
        return Ok(T::default());
    }
    text.0
        .parse()
        .map_err(|_| TranslateError::malformed(FORMAT, format_args!("{name} is {:?}, no such number", text.0)))
}

fn time(text: Option<&str>) -> Result<Option<Timestamp>, TranslateError> {
    text.map(|text| text.parse().map_err(|error| TranslateError::malformed(FORMAT, error))).transpose()
}

fn duration(text: Option<&str>) -> Result<Option<Duration>, TranslateError> {
    text.map(|text| text.parse().map_err(|error| TranslateError::malformed(FORMAT, error))).transpose()
}

/// An id of so many bytes in base64, or in twice as many hex digits, or fewer of them.
fn id<const BYTES: usize>(text: &str) -> [u8; BYTES] {
    if let Some(id) = BASE64.decode(text).ok().and_then(|bytes| <[u8; BYTES]>::try_from(bytes).ok()) {
        return id;
    }
    let digits = TraceId::parse(text).unwrap_or_default().0;
    match digits.split_last_chunk::<BYTES>() {
        Some((above, id)) if above.iter().all(|byte| *byte == 0) => *id,
        _ => [0; BYTES],
    }
}
