//! The JSON of Jaeger's query API: traces with their processes apart.
//!
//! Times are whole microseconds, ids hex, whole numbers beyond what JavaScript can hold are texts, bytes are base64.

use std::{collections::HashMap, fmt};

use base64::{Engine, engine::general_purpose::STANDARD};
use model::TraceId;
use serde::{
    Deserialize, Deserializer,
    de::{
        Error, MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};
use serde_json::{Map, Value, json};

use super::{Batch, KeyValue, Log, Process, RefType, Span, SpanRef, ValueType, duration, nanos, timestamp};
use crate::TranslateError;

/// The largest whole number that JavaScript tells from its neighbours.
const SAFE_INTEGER_MAX: i64 = (1 << 53) - 1;

/// One trace. `None` if it has no spans.
pub fn write(batches: &[Batch]) -> Option<Value> {
    let first = batches.iter().flat_map(|batch| &batch.spans).next()?;
    let mut processes: Vec<&Process> = vec![];
    let none = Process::default();
    let mut spans = vec![];
    for batch in batches {
        for span in &batch.spans {
            let process = span.process.as_ref().or(batch.process.as_ref()).unwrap_or(&none);
            let at = processes.iter().rposition(|known| *known == process).unwrap_or_else(|| {
                processes.push(process);
                processes.len() - 1
            });
            spans.push(span_json(span, &process_id(at)));
        }
    }
    let processes = processes.iter().enumerate().map(|(at, process)| {
        (process_id(at), json!({ "serviceName": process.service_name, "tags": tags_json(&process.tags) }))
    });
    Some(json!({
        "traceID": trace_id_text(&first.trace_id),
        "spans": spans,
        "processes": Map::from_iter(processes),
        "warnings": null,
    }))
}

fn process_id(at: usize) -> String {
    format!("p{}", at + 1)
}

/// 16 digits if the upper half is zero.
pub(super) fn trace_id_text(id: &[u8]) -> String {
    let id = TraceId::from_slice(id).unwrap_or_default();
    match u64::try_from(id.as_u128()) {
        Ok(low) => format!("{low:016x}"),
        Err(_) => id.to_string(),
    }
}

fn span_id_text(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn span_json(span: &Span, process_id: &str) -> Value {
    let reference = |r: &SpanRef| {
        let kind = match r.ref_type() {
            RefType::ChildOf => "CHILD_OF",
            RefType::FollowsFrom => "FOLLOWS_FROM",
        };
        json!({ "refType": kind, "traceID": trace_id_text(&r.trace_id), "spanID": span_id_text(&r.span_id) })
    };
    let log = |log: &Log| {
        let time = log.timestamp.map_or(0, |time| nanos(time.seconds, time.nanos)) / 1000;
        json!({ "timestamp": time, "fields": tags_json(&log.fields) })
    };
    let mut out = json!({
        "traceID": trace_id_text(&span.trace_id),
        "spanID": span_id_text(&span.span_id),
        "operationName": span.operation_name,
        "references": span.references.iter().map(reference).collect::<Vec<_>>(),
        "startTime": span.start_time.map_or(0, |time| nanos(time.seconds, time.nanos)) / 1000,
        "duration": span.duration.map_or(0, |time| nanos(time.seconds, time.nanos)) / 1000,
        "tags": tags_json(&span.tags),
        "logs": span.logs.iter().map(log).collect::<Vec<_>>(),
        "processID": process_id,
        "warnings": if span.warnings.is_empty() { Value::Null } else { json!(span.warnings) },
    });
    if span.flags != 0 {
        out["flags"] = span.flags.into();
    }
    out
}

fn tags_json(tags: &[KeyValue]) -> Vec<Value> {
    let one = |tag: &KeyValue| {
        let (kind, value) = match tag.v_type() {
            ValueType::String => ("string", Value::from(tag.v_str.as_str())),
            ValueType::Bool => ("bool", tag.v_bool.into()),
            ValueType::Int64 if tag.v_int64.unsigned_abs() > SAFE_INTEGER_MAX as u64 => {
                ("int64", tag.v_int64.to_string().into())
            }
            ValueType::Int64 => ("int64", tag.v_int64.into()),
            ValueType::Float64 if !tag.v_float64.is_finite() => ("float64", tag.v_float64.to_string().into()),
            ValueType::Float64 => ("float64", tag.v_float64.into()),
            ValueType::Binary => ("binary", STANDARD.encode(&tag.v_binary).into()),
        };
        json!({ "key": tag.key, "type": kind, "value": value })
    };
    tags.iter().map(one).collect()
}

/// An answer of the query API, one trace of it, or a list of traces.
struct JsonFile(Vec<JsonTrace>);

impl<'de> Deserialize<'de> for JsonFile {
    /// Decides by the first byte and the keys, so that an error says what is wrong and where.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = JsonFile;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a trace with \"spans\", an answer with \"data\", or a list of traces")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<JsonFile, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(JsonFile)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<JsonFile, A::Error> {
                let JsonObject { data, spans, processes } = JsonObject::deserialize(MapAccessDeserializer::new(map))?;
                match (data, spans) {
                    (Some(traces), _) => Ok(JsonFile(traces)),
                    (None, Some(spans)) => Ok(JsonFile(vec![JsonTrace { spans, processes }])),
                    (None, None) => Err(A::Error::custom("neither \"data\" nor \"spans\" is there")),
                }
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[derive(Deserialize)]
struct JsonObject {
    #[serde(default)]
    data: Option<Vec<JsonTrace>>,
    #[serde(default)]
    spans: Option<Vec<JsonSpan>>,
    #[serde(default)]
    processes: HashMap<String, JsonProcess>,
}

#[derive(Deserialize)]
struct JsonTrace {
    spans: Vec<JsonSpan>,
    #[serde(default)]
    processes: HashMap<String, JsonProcess>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonProcess {
    #[serde(default)]
    service_name: String,
    #[serde(default)]
    tags: Option<Vec<JsonTag>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonSpan {
    #[serde(rename = "traceID")]
    trace_id: String,
    #[serde(rename = "spanID")]
    span_id: String,
    #[serde(default, rename = "parentSpanID")]
    parent_span_id: Option<String>,
    #[serde(default)]
    flags: Option<u32>,
    #[serde(default)]
    operation_name: String,
    #[serde(default)]
    references: Option<Vec<JsonReference>>,
    #[serde(default)]
    start_time: i64,
    #[serde(default)]
    duration: i64,
    #[serde(default)]
    tags: Option<Vec<JsonTag>>,
    #[serde(default)]
    logs: Option<Vec<JsonLog>>,
    #[serde(default, rename = "processID")]
    process_id: String,
    #[serde(default)]
    process: Option<JsonProcess>,
    #[serde(default)]
    warnings: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct JsonReference {
    #[serde(rename = "refType")]
    ref_type: String,
    #[serde(rename = "traceID")]
    trace_id: String,
    #[serde(rename = "spanID")]
    span_id: String,
}

#[derive(Deserialize)]
struct JsonLog {
    #[serde(default)]
    timestamp: i64,
    #[serde(default)]
    fields: Option<Vec<JsonTag>>,
}

#[derive(Deserialize)]
struct JsonTag {
    key: String,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    value: Value,
}

/// Reads an answer of the query API, one trace of it, or a list of traces. Memory is some tens of times the body: this is
/// for files of one's own, not for what strangers send.
pub fn read(body: &[u8]) -> Result<Vec<Batch>, TranslateError> {
    let file: JsonFile = serde_json::from_slice(body).map_err(|error| TranslateError::malformed("Jaeger JSON", error))?;
    Ok(file.0.into_iter().flat_map(read_trace).collect())
}

/// One batch for each run of spans of one process.
fn read_trace(trace: JsonTrace) -> Vec<Batch> {
    let processes: HashMap<String, Process> =
        trace.processes.into_iter().map(|(id, process)| (id, process.into())).collect();
    let mut batches: Vec<Batch> = vec![];
    for mut span in trace.spans {
        let own = span.process.take().map(Process::from);
        let process = own.or_else(|| processes.get(&span.process_id).cloned());
        let span = Span::from(span);
        match batches.last_mut() {
            Some(batch) if batch.process == process => batch.spans.push(span),
            _ => batches.push(Batch { spans: vec![span], process }),
        }
    }
    batches
}

fn read_tags(tags: Option<Vec<JsonTag>>) -> Vec<KeyValue> {
    tags.unwrap_or_default().into_iter().map(KeyValue::from).collect()
}

fn trace_id(text: &str) -> Vec<u8> {
    TraceId::parse(text).unwrap_or_default().0.to_vec()
}

fn span_id(text: &str) -> Vec<u8> {
    let id = TraceId::parse(text).ok().and_then(|id| u64::try_from(id.as_u128()).ok());
    id.unwrap_or_default().to_be_bytes().to_vec()
}

impl From<JsonProcess> for Process {
    fn from(json: JsonProcess) -> Self {
        Self { service_name: json.service_name, tags: read_tags(json.tags) }
    }
}

impl From<JsonSpan> for Span {
    fn from(json: JsonSpan) -> Self {
        let mut references: Vec<SpanRef> = json.references.unwrap_or_default().into_iter().map(SpanRef::from).collect();
        if let Some(parent) = json.parent_span_id.filter(|_| references.is_empty()) {
            let ref_type = RefType::ChildOf.into();
            references.push(SpanRef { trace_id: trace_id(&json.trace_id), span_id: span_id(&parent), ref_type });
        }
        Self {
            trace_id: trace_id(&json.trace_id),
            span_id: span_id(&json.span_id),
            operation_name: json.operation_name,
            references,
            flags: json.flags.unwrap_or_default(),
            start_time: Some(timestamp(json.start_time)),
            duration: Some(duration(json.duration)),
            tags: read_tags(json.tags),
            logs: json.logs.unwrap_or_default().into_iter().map(Log::from).collect(),
            warnings: json.warnings.unwrap_or_default(),
            ..Self::default()
        }
    }
}

impl From<JsonReference> for SpanRef {
    fn from(json: JsonReference) -> Self {
        let ref_type = if json.ref_type == "CHILD_OF" { RefType::ChildOf } else { RefType::FollowsFrom };
        Self { trace_id: trace_id(&json.trace_id), span_id: span_id(&json.span_id), ref_type: ref_type.into() }
    }
}

impl From<JsonLog> for Log {
    fn from(json: JsonLog) -> Self {
        Self { timestamp: Some(timestamp(json.timestamp)), fields: read_tags(json.fields) }
    }
}

impl From<JsonTag> for KeyValue {
    /// The type decides; a value that is not of it stays a text.
    fn from(JsonTag { key, kind, value }: JsonTag) -> Self {
        let text = match &value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let kind = match kind.as_str() {
            "" if value.is_boolean() => "bool",
            "" if value.is_i64() => "int64",
            "" if value.is_number() => "float64",
            kind => kind,
        };
        let mut out = Self { key, ..Self::default() };
        let read = match kind {
            "bool" => text.parse().ok().map(|value| out.v_bool = value).map(|()| ValueType::Bool),
            "int64" => text.parse().ok().map(|value| out.v_int64 = value).map(|()| ValueType::Int64),
            "float64" => text.parse().ok().map(|value| out.v_float64 = value).map(|()| ValueType::Float64),
            "binary" => STANDARD.decode(&text).ok().map(|value| out.v_binary = value).map(|()| ValueType::Binary),
            _ => None,
        };
        match read {
            Some(kind) => out.v_type = kind.into(),
            None => out.v_str = text,
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_jaeger_json_is_told_with_its_place() {
        for (body, told) in [
            (r#"{"data": [{"spans": [{"traceID": 5}]}]}"#, "expected a string at line 1 column 34"),
            (r#"{"spans": [{"traceID": "1"}]}"#, "missing field `spanID`"),
            (r#"[{"processes": {}}]"#, "missing field `spans`"),
            (r#"{"resourceSpans": []}"#, "neither \"data\" nor \"spans\" is there"),
            ("7", "a list of traces"),
        ] {
            let error = read(body.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("the body is not Jaeger JSON: ") && error.contains(told), "{body}: {error}");
        }
        let span = r#"{"traceID": "1", "spanID": "2"}"#;
        for body in [
            format!(r#"{{"data": [{{"spans": [{span}]}}], "total": 0, "errors": null}}"#),
            format!(r#"{{"spans": [{span}], "processes": {{}}}}"#),
            format!(r#"[{{"spans": [{span}]}}]"#),
        ] {
            assert_eq!(read(body.as_bytes()).unwrap().len(), 1, "{body}");
        }
    }
}
