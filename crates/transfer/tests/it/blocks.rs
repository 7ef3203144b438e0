//! Writes blocks as a Tempo does, from OTLP, in vParquet4 and vParquet5.
//!
//! No Tempo made these files. Columns, their order, nesting, encodings and compression, and what meta.json says, are those of
//! blocks that a Tempo wrote (3.1); rows are taken apart into columns by the rules of the Parquet format, so that lists without
//! annotation (vParquet5) come out as they do there.

use std::{fs, path::Path, sync::Arc};

use parquet::{
    basic::{Compression, Encoding, LogicalType, Repetition, Type as Physical, ZstdLevel},
    column::writer::ColumnWriter,
    data_type::ByteArray,
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::{
        parser::parse_message_type,
        types::{SchemaDescriptor, Type},
    },
};
use proto::otlp::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value as Any},
};
use serde_json::{Map, Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    V4,
    V5,
}

/// Attributes that have a column of their own: scope, name, type, whether it is for lists.
pub type Dedicated = [(&'static str, &'static str, &'static str, bool)];

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::V4 => "vParquet4",
            Self::V5 => "vParquet5",
        }
    }

    /// A list of groups.
    fn groups(self, name: &str, fields: &str) -> String {
        match self {
            Self::V4 => format!(
                "required group {name} (LIST) {{ repeated group list {{ required group element {{ {fields} }} }} }}"
            ),
            Self::V5 => format!("repeated group {name} {{ {fields} }}"),
        }
    }

    fn values(self, name: &str, of: &str) -> String {
        let (physical, logical) = of.split_once(' ').unwrap_or((of, ""));
        match self {
            Self::V4 => format!(
                "required group {name} (LIST) {{ repeated group list {{ required {physical} element {logical}; }} }}"
            ),
            Self::V5 => format!("repeated {physical} {name} {logical};"),
        }
    }

    fn attributes(self) -> String {
        let lists = [
            self.values("Value", "binary (STRING)"),
            self.values("ValueInt", "int64 (INTEGER(64,true))"),
            self.values("ValueDouble", "double"),
            self.values("ValueBool", "boolean"),
        ];
        let fields = format!(
            "required binary Key (STRING); required boolean IsArray; {} optional binary ValueUnsupported (STRING);",
            lists.join(" ")
        );
        self.groups("Attrs", &fields) + " required int32 DroppedAttributesCount (INTEGER(32,true));"
    }

    /// The columns of attributes that have one of their own: in vParquet4 always the same number, in vParquet5 as many as
    /// there are such attributes.
    fn spares(self, scope: &str, dedicated: &Dedicated) -> String {
        let count = |kind: &str| dedicated.iter().filter(|(of, _, other, _)| *of == scope && *other == kind).count();
        let (texts, numbers) = match self {
            Self::V4 => (10, 0),
            Self::V5 => (count("string"), count("int")),
        };
        if texts + numbers == 0 {
            return String::new();
        }
        let text = |at| match self {
            Self::V4 => format!("optional binary String{at:02} (STRING);"),
            Self::V5 => self.values(&format!("String{at:02}"), "binary (STRING)"),
        };
        let number = |at| self.values(&format!("Int{at:02}"), "int64 (INTEGER(64,true))");
        let columns: Vec<String> = (1..=texts).map(text).chain((1..=numbers).map(number)).collect();
        format!("required group DedicatedAttributes {{ {} }}", columns.join(" "))
    }

    fn schema(self, dedicated: &Dedicated) -> Arc<Type> {
        let text = |name: &str| format!("required binary {name} (STRING);");
        let long = |name: &str| format!("required int64 {name} (INTEGER(64,false));");
        let count = |name: &str| format!("required int32 {name} (INTEGER(32,true));");
        let maybe = |names: &[&str]| -> String {
            names.iter().map(|name| format!("optional binary {name} (STRING);")).collect()
        };
        let old = self == Self::V4;
        let events = [
            long("TimeSinceStartNano"),
            text("Name"),
            self.attributes(),
            if old { String::new() } else { self.spares("event", dedicated) },
        ];
        let links =
            ["required binary TraceID; required binary SpanID;".to_owned(), text("TraceState"), self.attributes()];
        let rounded = [15, 60, 300, 3600].map(|seconds| format!("required int32 StartTimeRounded{seconds} (INTEGER(32,false));"));
        let spans = [
            "required binary SpanID; required binary ParentSpanID;".to_owned(),
            ["ParentID", "NestedSetLeft", "NestedSetRight"].map(count).concat(),
            if old { String::new() } else { count("ChildCount") },
            text("Name"),
            "required int64 Kind (INTEGER(64,true));".to_owned(),
            text("TraceState"),
            long("StartTimeUnixNano") + &long("DurationNano"),
            "required int64 StatusCode (INTEGER(64,true));".to_owned(),
            text("StatusMessage"),
            self.attributes(),
            self.groups("Events", &events.concat()),
            count("DroppedEventsCount"),
            self.groups("Links", &links.concat()),
            count("DroppedLinksCount"),
            if old {
                maybe(&["HttpMethod", "HttpUrl"]) + "optional int64 HttpStatusCode (INTEGER(64,true));"
            } else {
                String::new()
            },
            self.spares("span", dedicated),
            if old { String::new() } else { rounded.concat() },
        ];
        let scope = format!("required group Scope {{ {} {} {} }}", text("Name"), text("Version"), self.attributes());
        let kubernetes = [
            "Cluster",
            "Namespace",
            "Pod",
            "Container",
            "K8sClusterName",
            "K8sNamespaceName",
            "K8sPodName",
            "K8sContainerName",
        ];
        let spares = self.spares("resource", dedicated);
        let resource = match self {
            Self::V4 => [self.attributes(), text("ServiceName"), maybe(&kubernetes), spares].concat(),
            Self::V5 => [text("ServiceName"), self.attributes(), spares].concat(),
        };
        let resource = format!("required group Resource {{ {resource} }}");
        let spans_of_scope = if old { String::new() } else { count("SpanCount") };
        let scopes = self.groups("ss", &(scope + &self.groups("Spans", &spans.concat()) + &spans_of_scope));
        let stats = match self {
            Self::V4 => "required group ServiceStats (MAP) { repeated group key_value { required binary key (STRING); required group value { required int32 SpanCount (INTEGER(32,false)); required int32 ErrorCount (INTEGER(32,false)); } } }".to_owned(),
            Self::V5 => self.groups("ServiceStats", "required binary ServiceName (STRING); required int32 SpanCount (INTEGER(32,false)); required int32 ErrorCount (INTEGER(32,false));"),
        };
        let trace = [
            "required binary TraceID;".to_owned(),
            text("TraceIDText"),
            ["StartTimeUnixNano", "EndTimeUnixNano", "DurationNano"].map(long).concat(),
            text("RootServiceName") + &text("RootSpanName"),
            stats,
            self.groups("rs", &(resource + &scopes)),
        ];
        Arc::new(parse_message_type(&format!("message Trace {{ {} }}", trace.concat())).unwrap())
    }
}

/// Writes a block of `traces`, one trace each, into `folder`.
pub fn write(folder: &Path, format: Format, tenant: &str, dedicated: &Dedicated, traces: &[ExportTraceServiceRequest]) {
    fs::create_dir_all(folder).unwrap();
    let rows: Vec<Value> = traces.iter().map(|trace| row(format, dedicated, trace)).collect();
    fs::write(folder.join("data.parquet"), parquet(format.schema(dedicated), &rows)).unwrap();
    // What is left out is a text of a span.
    let columns = dedicated.iter().map(|(scope, name, kind, list)| {
        let mut column = json!({ "n": name });
        if *scope != "span" {
            column["s"] = json!(scope);
        }
        if *kind != "string" {
            column["t"] = json!(kind);
        }
        if *list {
            column["o"] = json!(["array"]);
        }
        column
    });
    let mut meta = json!({
        "format": format.name(), "blockID": "9e5e8c07-7a67-4d8c-8a4c-6f6b1c9fd3a1", "tenantID": tenant,
        "startTime": "2023-11-14T22:13:20Z", "endTime": "2023-11-14T22:13:21Z", "totalObjects": traces.len(), "size": 1,
        "compactionLevel": 1, "indexPageSize": 0, "totalRecords": 1, "bloomShards": 1, "footerSize": 1, "replicationFactor": 1,
    });
    if !dedicated.is_empty() {
        meta["dedicatedColumns"] = columns.collect();
    }
    fs::write(folder.join("meta.json"), meta.to_string()).unwrap();
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn row(format: Format, dedicated: &Dedicated, trace: &ExportTraceServiceRequest) -> Value {
    let writer = Rows { format, dedicated };
    let first = &trace.resource_spans[0].scope_spans[0].spans[0];
    let resources: Vec<Value> = trace
        .resource_spans
        .iter()
        .map(|of| {
            let resource = of.resource.clone().unwrap_or_default();
            let mut group = writer.attributes("resource", &resource.attributes, resource.dropped_attributes_count);
            group.entry("ServiceName").or_insert("".into());
            let scopes: Vec<Value> = of.scope_spans.iter().map(|of| {
            let scope = of.scope.clone().unwrap_or_default();
            let mut group = writer.attributes("scope", &scope.attributes, scope.dropped_attributes_count);
            group.insert("Name".into(), scope.name.into());
            group.insert("Version".into(), scope.version.into());
            json!({ "Scope": group, "Spans": of.spans.iter().map(|span| writer.span(span)).collect::<Vec<_>>() })
        }).collect();
            json!({ "Resource": group, "ss": scopes })
        })
        .collect();
    json!({
        "TraceID": hex(&first.trace_id), "TraceIDText": hex(&first.trace_id), "StartTimeUnixNano": 1, "EndTimeUnixNano": 2,
        "DurationNano": 1, "RootServiceName": "r", "RootSpanName": "r", "rs": resources,
    })
}

struct Rows<'a> {
    format: Format,
    dedicated: &'a Dedicated,
}

impl Rows<'_> {
    fn span(&self, span: &proto::otlp::trace::v1::Span) -> Value {
        let mut group = self.attributes("span", &span.attributes, span.dropped_attributes_count);
        let status = span.status.clone().unwrap_or_default();
        let events: Vec<Value> = span
            .events
            .iter()
            .map(|event| {
                let mut group = self.attributes("event", &event.attributes, event.dropped_attributes_count);
                let since = event.time_unix_nano.wrapping_sub(span.start_time_unix_nano) as i64;
                group.insert("TimeSinceStartNano".into(), since.into());
                group.insert("Name".into(), event.name.clone().into());
                group.into()
            })
            .collect();
        let links: Vec<Value> = span
            .links
            .iter()
            .map(|link| {
                let mut group = self.attributes("link", &link.attributes, link.dropped_attributes_count);
                group.insert("TraceID".into(), hex(&link.trace_id).into());
                group.insert("SpanID".into(), hex(&link.span_id).into());
                group.insert("TraceState".into(), link.trace_state.clone().into());
                group.into()
            })
            .collect();
        let fields = json!({
            "SpanID": hex(&span.span_id), "ParentSpanID": hex(&span.parent_span_id), "ParentID": 0, "NestedSetLeft": 1,
            "NestedSetRight": 2, "ChildCount": 0, "Name": span.name, "Kind": span.kind, "TraceState": span.trace_state,
            "StartTimeUnixNano": span.start_time_unix_nano as i64,
            "DurationNano": (span.end_time_unix_nano - span.start_time_unix_nano) as i64,
            "StatusCode": status.code, "StatusMessage": status.message, "Events": events, "Links": links,
            "DroppedEventsCount": span.dropped_events_count, "DroppedLinksCount": span.dropped_links_count,
        });
        let Value::Object(fields) = fields else { unreachable!() };
        group.extend(fields);
        group.into()
    }

    /// The column that an attribute has for itself.
    fn column(&self, scope: &str, attribute: &KeyValue) -> Option<(String, bool)> {
        let value = attribute.value.as_ref().and_then(|value| value.value.as_ref());
        let fixed = [
            ("resource", "service.name", "ServiceName"),
            ("resource", "cluster", "Cluster"),
            ("resource", "k8s.pod.name", "K8sPodName"),
            ("span", "http.method", "HttpMethod"),
            ("span", "http.url", "HttpUrl"),
            ("span", "http.status_code", "HttpStatusCode"),
        ];
        let fixed = fixed.iter().find(|(of, key, _)| *of == scope && *key == attribute.key);
        let fixed = fixed.filter(|(.., column)| self.format == Format::V4 || *column == "ServiceName");
        if let (Some((_, key, column)), Some(value)) = (fixed, value) {
            let fits = match value {
                Any::StringValue(_) => *key != "http.status_code",
                Any::IntValue(_) => *key == "http.status_code",
                _ => false,
            };
            return fits.then(|| ((*column).to_owned(), false));
        }
        let of_scope = self.dedicated.iter().filter(|(of, ..)| *of == scope);
        let (_, _, kind, list) = of_scope.clone().find(|(_, name, ..)| *name == attribute.key)?;
        let number =
            of_scope.filter(|(_, _, other, _)| other == kind).position(|(_, name, ..)| *name == attribute.key)? + 1;
        let name = if *kind == "int" { "Int" } else { "String" };
        let fits = matches!(
            (value?, *kind, list),
            (Any::StringValue(_), "string", false) | (Any::IntValue(_), "int", false) | (Any::ArrayValue(_), _, true)
        );
        fits.then(|| (format!("DedicatedAttributes.{name}{number:02}"), *list))
    }

    fn attributes(&self, scope: &str, attributes: &[KeyValue], dropped: u32) -> Map<String, Value> {
        let mut group = Map::new();
        let (mut list, mut own) = (vec![], Map::new());
        for attribute in attributes {
            let value = attribute.value.as_ref().and_then(|value| value.value.as_ref());
            match self.column(scope, attribute) {
                Some((column, _)) => {
                    let value = plain(value.unwrap());
                    match column.strip_prefix("DedicatedAttributes.") {
                        // vParquet5 has lists there in any case.
                        Some(column) if self.format == Format::V5 && !value.is_array() => {
                            own.insert(column.to_owned(), json!([value]));
                        }
                        Some(column) => drop(own.insert(column.to_owned(), value)),
                        None => drop(group.insert(column, value)),
                    }
                }
                None => list.push(generic(&attribute.key, value)),
            }
        }
        group.insert("Attrs".into(), list.into());
        group.insert("DroppedAttributesCount".into(), dropped.into());
        group.insert("DedicatedAttributes".into(), own.into());
        group
    }
}

fn plain(value: &Any) -> Value {
    match value {
        Any::StringValue(text) => text.as_str().into(),
        Any::IntValue(number) => (*number).into(),
        Any::DoubleValue(number) => (*number).into(),
        Any::BoolValue(truth) => (*truth).into(),
        Any::ArrayValue(array) => {
            array.values.iter().map(|value| plain(value.value.as_ref().unwrap())).collect::<Vec<_>>().into()
        }
        other => panic!("{other:?} has no column"),
    }
}

fn type_column(value: &Any) -> Option<&'static str> {
    match value {
        Any::StringValue(_) => Some("Value"),
        Any::IntValue(_) => Some("ValueInt"),
        Any::DoubleValue(_) => Some("ValueDouble"),
        Any::BoolValue(_) => Some("ValueBool"),
        _ => None,
    }
}

fn generic(key: &str, value: Option<&Any>) -> Value {
    let mut out = json!({ "Key": key, "IsArray": false });
    match value {
        None => {}
        Some(Any::ArrayValue(array)) if array.values.is_empty() => out["IsArray"] = true.into(),
        Some(Any::ArrayValue(array)) => {
            let columns: Vec<_> = array.values.iter().map(|value| value.value.as_ref().and_then(type_column)).collect();
            match columns[0].filter(|first| columns.iter().all(|column| *column == Some(*first))) {
                Some(column) => {
                    out["IsArray"] = true.into();
                    out[column] = plain(value.unwrap());
                }
                None => out["ValueUnsupported"] = any_json(value.unwrap()).to_string().into(),
            }
        }
        Some(value) => match type_column(value) {
            Some(column) => out[column] = json!([plain(value)]),
            None => out["ValueUnsupported"] = any_json(value).to_string().into(),
        },
    }
    out
}

/// The JSON of protobuf: whole numbers as texts, bytes in base64.
fn any_json(value: &Any) -> Value {
    let inner = |value: &proto::otlp::common::v1::AnyValue| value.value.as_ref().map_or(json!({}), any_json);
    match value {
        Any::StringValue(text) => json!({ "stringValue": text }),
        Any::IntValue(number) => json!({ "intValue": number.to_string() }),
        Any::DoubleValue(number) => json!({ "doubleValue": number }),
        Any::BoolValue(truth) => json!({ "boolValue": truth }),
        Any::BytesValue(bytes) => {
            json!({ "bytesValue": if bytes == &[0xff, 0x00] { "/wA=" } else { panic!("unknown bytes") } })
        }
        Any::ArrayValue(array) => {
            json!({ "arrayValue": { "values": array.values.iter().map(inner).collect::<Vec<_>>() } })
        }
        Any::KvlistValue(list) => {
            let pair =
                |pair: &KeyValue| json!({ "key": pair.key, "value": pair.value.as_ref().map_or(json!({}), inner) });
            json!({ "kvlistValue": { "values": list.values.iter().map(pair).collect::<Vec<_>>() } })
        }
    }
}

/// A column while it is made.
#[derive(Default, Clone)]
struct Leaf {
    values: Vec<Value>,
    definitions: Vec<i16>,
    repetitions: Vec<i16>,
}

fn parquet(schema: Arc<Type>, rows: &[Value]) -> Vec<u8> {
    let count = leaves(&schema);
    let mut columns = vec![Leaf::default(); count];
    for row in rows {
        let mut at = 0;
        for field in schema.get_fields() {
            shred(field, &row[field.name()], Level { definition: 0, repetition: 0, depth: 0 }, &mut columns, &mut at);
        }
    }
    let mut writer = SerializedFileWriter::new(vec![], schema.clone(), Arc::new(properties(schema))).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut columns = columns.into_iter();
    while let Some(mut column) = group.next_column().unwrap() {
        let leaf = columns.next().unwrap();
        let (definitions, repetitions) = (Some(&leaf.definitions[..]), Some(&leaf.repetitions[..]));
        match column.untyped() {
            ColumnWriter::ByteArrayColumnWriter(writer) => {
                let values: Vec<ByteArray> =
                    leaf.values.iter().map(|value| value.as_str().unwrap().as_bytes().to_vec().into()).collect();
                let binary: Vec<ByteArray> =
                    leaf.values.iter().map(|value| unhex(value.as_str().unwrap()).into()).collect();
                let is_text = matches!(writer.get_descriptor().logical_type_ref(), Some(LogicalType::String));
                writer.write_batch(if is_text { &values } else { &binary }, definitions, repetitions).unwrap();
            }
            ColumnWriter::Int64ColumnWriter(writer) => {
                let values: Vec<i64> = leaf.values.iter().map(|value| value.as_i64().unwrap()).collect();
                writer.write_batch(&values, definitions, repetitions).unwrap();
            }
            ColumnWriter::Int32ColumnWriter(writer) => {
                let values: Vec<i32> = leaf.values.iter().map(|value| value.as_i64().unwrap() as i32).collect();
                writer.write_batch(&values, definitions, repetitions).unwrap();
            }
            ColumnWriter::DoubleColumnWriter(writer) => {
                let values: Vec<f64> = leaf.values.iter().map(|value| value.as_f64().unwrap()).collect();
                writer.write_batch(&values, definitions, repetitions).unwrap();
            }
            ColumnWriter::BoolColumnWriter(writer) => {
                let values: Vec<bool> = leaf.values.iter().map(|value| value.as_bool().unwrap()).collect();
                writer.write_batch(&values, definitions, repetitions).unwrap();
            }
            _ => panic!("a column of another type"),
        }
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.into_inner().unwrap()
}

/// How Tempo encodes and compresses each column.
fn properties(schema: Arc<Type>) -> WriterProperties {
    let zstd = Compression::ZSTD(ZstdLevel::default());
    let mut properties = WriterProperties::builder();
    for column in SchemaDescriptor::new(schema).columns() {
        let path = column.path();
        let name = path.parts().iter().rev().find(|part| *part != "list" && *part != "element").unwrap();
        let (encoding, compression) = match name.as_str() {
            "TraceID" | "SpanID" | "ParentSpanID" => (Some(Encoding::DELTA_LENGTH_BYTE_ARRAY), Compression::UNCOMPRESSED),
            "TraceIDText" | "TraceState" | "StatusMessage" | "ValueUnsupported" => {
                (Some(Encoding::DELTA_LENGTH_BYTE_ARRAY), Compression::SNAPPY)
            }
            // As a column for large texts.
            "String02" => (Some(Encoding::DELTA_LENGTH_BYTE_ARRAY), zstd),
            "RootServiceName" | "RootSpanName" => (None, Compression::UNCOMPRESSED),
            "DroppedAttributesCount" => (Some(Encoding::DELTA_BINARY_PACKED), Compression::SNAPPY),
            "IsArray" | "ValueInt" | "ValueDouble" | "ValueBool" | "DroppedEventsCount" | "DroppedLinksCount" => {
                (Some(Encoding::PLAIN), Compression::SNAPPY)
            }
            name if name.starts_with("Int") => (Some(Encoding::PLAIN), Compression::SNAPPY),
            _ if column.physical_type() == Physical::BYTE_ARRAY => (None, Compression::SNAPPY),
            _ => (Some(Encoding::DELTA_BINARY_PACKED), Compression::UNCOMPRESSED),
        };
        properties = properties.set_column_dictionary_enabled(path.clone(), encoding.is_none());
        properties = properties.set_column_compression(path.clone(), compression);
        if let Some(encoding) = encoding {
            properties = properties.set_column_encoding(path.clone(), encoding);
        }
    }
    properties.build()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).filter_map(|at| u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok()).collect()
}

fn leaves(field: &Type) -> usize {
    if field.is_group() { field.get_fields().iter().map(|field| leaves(field)).sum() } else { 1 }
}

#[derive(Clone, Copy)]
struct Level {
    definition: i16,
    repetition: i16,
    /// Repeated fields around.
    depth: i16,
}

/// Puts a value into its columns, `at` being the first.
fn shred(field: &Type, value: &Value, level: Level, columns: &mut [Leaf], at: &mut usize) {
    match field.get_basic_info().repetition() {
        Repetition::REQUIRED => present(field, value, level, columns, at),
        Repetition::OPTIONAL if value.is_null() => absent(field, level, columns, at),
        Repetition::OPTIONAL => present(field, value, Level { definition: level.definition + 1, ..level }, columns, at),
        Repetition::REPEATED => {
            let elements = value.as_array().map_or(&[][..], Vec::as_slice);
            if elements.is_empty() {
                return absent(field, level, columns, at);
            }
            let begin = *at;
            let inner = Level { definition: level.definition + 1, depth: level.depth + 1, ..level };
            for (number, element) in elements.iter().enumerate() {
                *at = begin;
                let repetition = if number == 0 { level.repetition } else { inner.depth };
                present(field, element, Level { repetition, ..inner }, columns, at);
            }
        }
    }
}

fn present(field: &Type, value: &Value, level: Level, columns: &mut [Leaf], at: &mut usize) {
    if !field.is_group() {
        let leaf = &mut columns[*at];
        let default = match field.get_physical_type() {
            Physical::BYTE_ARRAY => json!(""),
            Physical::BOOLEAN => json!(false),
            _ => json!(0),
        };
        leaf.values.push(if value.is_null() { default } else { value.clone() });
        leaf.definitions.push(level.definition);
        leaf.repetitions.push(level.repetition);
        *at += 1;
        return;
    }
    // Around an annotated list stand two groups that rows do not have.
    let wrapped = match field.get_fields() {
        [list] if list.name() == "list" => {
            let elements = value.as_array().map_or(&[][..], Vec::as_slice);
            Some(json!({ "list": elements.iter().map(|element| json!({ "element": element })).collect::<Vec<_>>() }))
        }
        _ => None,
    };
    let value = wrapped.as_ref().unwrap_or(value);
    for inner in field.get_fields() {
        shred(inner, &value[inner.name()], level, columns, at);
    }
}

fn absent(field: &Type, level: Level, columns: &mut [Leaf], at: &mut usize) {
    for leaf in &mut columns[*at..*at + leaves(field)] {
        leaf.definitions.push(level.definition);
        leaf.repetitions.push(level.repetition);
    }
    *at += leaves(field);
}
