//! The messages of each format that comes in: numbers and names of their fields.

use super::spell::{
    Field,
    Shape::{self, Address, Bool, Bytes, Double, Id, List, Map, Message, OneOf, Text, Whole, Word},
    Width::{Address as HostNumber, Fixed32, Fixed64, HalfId, I16, I32, I64},
    field,
};

// OTLP.

pub static OTLP: Shape = Message(&[field(1, "resourceSpans", List(&Message(&RESOURCE_SPANS)))]);

static RESOURCE_SPANS: [Field; 3] = [
    field(1, "resource", Message(&[field(1, "attributes", List(&Message(&KEY_VALUE))), field(2, "droppedAttributesCount", Whole(I32))])),
    field(2, "scopeSpans", List(&Message(&SCOPE_SPANS))),
    field(3, "schemaUrl", Text),
];
static SCOPE_SPANS: [Field; 3] =
    [field(1, "scope", Message(&SCOPE)), field(2, "spans", List(&Message(&OTLP_SPAN))), field(3, "schemaUrl", Text)];
static SCOPE: [Field; 4] = [
    field(1, "name", Text),
    field(2, "version", Text),
    field(3, "attributes", List(&Message(&KEY_VALUE))),
    field(4, "droppedAttributesCount", Whole(I32)),
];
static OTLP_SPAN: [Field; 16] = [
    field(1, "traceId", Id(16)),
    field(2, "spanId", Id(8)),
    field(3, "traceState", Text),
    field(4, "parentSpanId", Id(8)),
    field(5, "name", Text),
    field(6, "kind", Whole(I32)),
    field(7, "startTimeUnixNano", Whole(Fixed64)),
    field(8, "endTimeUnixNano", Whole(Fixed64)),
    field(9, "attributes", List(&Message(&KEY_VALUE))),
    field(10, "droppedAttributesCount", Whole(I32)),
    field(11, "events", List(&Message(&EVENT))),
    field(12, "droppedEventsCount", Whole(I32)),
    field(13, "links", List(&Message(&LINK))),
    field(14, "droppedLinksCount", Whole(I32)),
    field(15, "status", Message(&[field(2, "message", Text), field(3, "code", Whole(I32))])),
    field(16, "flags", Whole(Fixed32)),
];
static EVENT: [Field; 4] = [
    field(1, "timeUnixNano", Whole(Fixed64)),
    field(2, "name", Text),
    field(3, "attributes", List(&Message(&KEY_VALUE))),
    field(4, "droppedAttributesCount", Whole(I32)),
];
static LINK: [Field; 6] = [
    field(1, "traceId", Id(16)),
    field(2, "spanId", Id(8)),
    field(3, "traceState", Text),
    field(4, "attributes", List(&Message(&KEY_VALUE))),
    field(5, "droppedAttributesCount", Whole(I32)),
    field(6, "flags", Whole(Fixed32)),
];
static KEY_VALUE: [Field; 2] = [field(1, "key", Text), field(2, "value", OneOf(&ANY_VALUE))];
static ANY_VALUE: [Field; 7] = [
    field(1, "stringValue", Text),
    field(2, "boolValue", Bool),
    field(3, "intValue", Whole(I64)),
    field(4, "doubleValue", Double),
    field(5, "arrayValue", Message(&ARRAY)),
    field(6, "kvlistValue", Message(&LIST)),
    field(7, "bytesValue", Bytes),
];
static ARRAY: [Field; 1] = [field(1, "values", List(&OneOf(&ANY_VALUE)))];
static LIST: [Field; 1] = [field(1, "values", List(&Message(&KEY_VALUE)))];

// Zipkin, version 2. In protobuf a message around the list.

pub static ZIPKIN_PROTOBUF: Shape = Message(&[field(1, "spans", List(&Message(&ZIPKIN_SPAN)))]);
pub static ZIPKIN_JSON: Shape = List(&Message(&ZIPKIN_SPAN));

static ZIPKIN_SPAN: [Field; 13] = [
    field(1, "traceId", Id(16)),
    field(2, "parentId", Id(8)),
    field(3, "id", Id(8)),
    field(4, "kind", Word(&["", "CLIENT", "SERVER", "PRODUCER", "CONSUMER", "?"])),
    field(5, "name", Text),
    field(6, "timestamp", Whole(Fixed64)),
    field(7, "duration", Whole(I64)),
    field(8, "localEndpoint", Message(&ENDPOINT)),
    field(9, "remoteEndpoint", Message(&ENDPOINT)),
    field(10, "annotations", List(&Message(&[field(1, "timestamp", Whole(Fixed64)), field(2, "value", Text)]))),
    field(11, "tags", Map),
    field(12, "debug", Bool),
    field(13, "shared", Bool),
];
static ENDPOINT: [Field; 4] =
    [field(1, "serviceName", Text), field(2, "ipv4", Address(4)), field(3, "ipv6", Address(16)), field(4, "port", Whole(I32))];

// Zipkin, version 1: numbers are thrift's.

pub static ZIPKIN_V1: Shape = List(&Message(&ZIPKIN_V1_SPAN));

static ZIPKIN_V1_SPAN: [Field; 10] = [
    field(1, "traceId", Whole(HalfId)),
    field(3, "name", Text),
    field(4, "id", Whole(HalfId)),
    field(5, "parentId", Whole(HalfId)),
    field(6, "annotations", List(&Message(&V1_ANNOTATION))),
    field(8, "binaryAnnotations", List(&Message(&V1_BINARY_ANNOTATION))),
    field(9, "debug", Bool),
    field(10, "timestamp", Whole(I64)),
    field(11, "duration", Whole(I64)),
    field(12, "traceIdHigh", Whole(HalfId)),
];
static V1_ANNOTATION: [Field; 3] = [
    field(1, "timestamp", Whole(I64)),
    field(2, "value", Word(&["cs", "cr", "sr", "ss", "ms", "mr", "else"])),
    field(3, "endpoint", Message(&V1_ENDPOINT)),
];
static V1_BINARY_ANNOTATION: [Field; 4] = [
    field(1, "key", Word(&["http.path", "sa", "ca", "ma", "lc", "error"])),
    field(2, "value", Bytes),
    field(3, "type", Whole(I32)),
    field(4, "endpoint", Message(&V1_ENDPOINT)),
];
static V1_ENDPOINT: [Field; 4] =
    [field(1, "ipv4", Whole(HostNumber)), field(2, "port", Whole(I16)), field(3, "serviceName", Text), field(4, "ipv6", Address(16))];

// Jaeger, protobuf.

pub static JAEGER_PROTOBUF: Shape = Message(&[field(1, "batch", Message(&JAEGER_BATCH))]);

static JAEGER_BATCH: [Field; 2] = [field(1, "spans", List(&Message(&JAEGER_SPAN))), field(2, "process", Message(&JAEGER_PROCESS))];
static JAEGER_PROCESS: [Field; 2] = [field(1, "serviceName", Text), field(2, "tags", List(&Message(&JAEGER_TAG)))];
static JAEGER_SPAN: [Field; 12] = [
    field(1, "traceId", Id(16)),
    field(2, "spanId", Id(8)),
    field(3, "operationName", Text),
    field(4, "references", List(&Message(&[field(1, "traceId", Id(16)), field(2, "spanId", Id(8)), field(3, "refType", Whole(I32))]))),
    field(5, "flags", Whole(I32)),
    field(6, "startTime", Message(&MOMENT)),
    field(7, "duration", Message(&MOMENT)),
    field(8, "tags", List(&Message(&JAEGER_TAG))),
    field(9, "logs", List(&Message(&[field(1, "timestamp", Message(&MOMENT)), field(2, "fields", List(&Message(&JAEGER_TAG)))]))),
    field(10, "process", Message(&JAEGER_PROCESS)),
    field(11, "processId", Text),
    field(12, "warnings", List(&Text)),
];
static MOMENT: [Field; 2] = [field(1, "seconds", Whole(I64)), field(2, "nanos", Whole(I32))];
static JAEGER_TAG: [Field; 7] = [
    field(1, "key", Text),
    field(2, "vType", Whole(I32)),
    field(3, "vStr", Text),
    field(4, "vBool", Bool),
    field(5, "vInt64", Whole(I64)),
    field(6, "vFloat64", Double),
    field(7, "vBinary", Bytes),
];

// Jaeger, thrift.

pub static JAEGER_THRIFT: Shape =
    Message(&[field(1, "process", Message(&THRIFT_PROCESS)), field(2, "spans", List(&Message(&THRIFT_SPAN)))]);

static THRIFT_PROCESS: [Field; 2] = [field(1, "serviceName", Text), field(2, "tags", List(&Message(&THRIFT_TAG)))];
static THRIFT_SPAN: [Field; 11] = [
    field(1, "traceIdLow", Whole(I64)),
    field(2, "traceIdHigh", Whole(I64)),
    field(3, "spanId", Whole(I64)),
    field(4, "parentSpanId", Whole(I64)),
    field(5, "operationName", Text),
    field(6, "references", List(&Message(&THRIFT_REFERENCE))),
    field(7, "flags", Whole(I32)),
    field(8, "startTime", Whole(I64)),
    field(9, "duration", Whole(I64)),
    field(10, "tags", List(&Message(&THRIFT_TAG))),
    field(11, "logs", List(&Message(&[field(1, "timestamp", Whole(I64)), field(2, "fields", List(&Message(&THRIFT_TAG)))]))),
];
static THRIFT_REFERENCE: [Field; 4] = [
    field(1, "refType", Whole(I32)),
    field(2, "traceIdLow", Whole(I64)),
    field(3, "traceIdHigh", Whole(I64)),
    field(4, "spanId", Whole(I64)),
];
static THRIFT_TAG: [Field; 7] = [
    field(1, "key", Text),
    field(2, "vType", Whole(I32)),
    field(3, "vStr", Text),
    field(4, "vDouble", Double),
    field(5, "vBool", Bool),
    field(6, "vLong", Whole(I64)),
    field(7, "vBinary", Bytes),
];

// Jaeger, the JSON of its query API.

pub static JAEGER_JSON: Shape = Message(&[field(1, "data", List(&Message(&JSON_TRACE)))]);

static JSON_TRACE: [Field; 3] = [
    field(1, "traceID", Id(16)),
    field(2, "spans", List(&Message(&JSON_SPAN))),
    field(3, "processes", Message(&[field(1, "p1", Message(&JSON_PROCESS)), field(2, "p2", Message(&JSON_PROCESS))])),
];
static JSON_PROCESS: [Field; 2] = [field(1, "serviceName", Text), field(2, "tags", List(&Message(&JSON_TAG)))];
static JSON_SPAN: [Field; 11] = [
    field(1, "traceID", Id(16)),
    field(2, "spanID", Id(8)),
    field(3, "parentSpanID", Id(8)),
    field(4, "operationName", Text),
    field(5, "references", List(&Message(&JSON_REFERENCE))),
    field(6, "startTime", Whole(I64)),
    field(7, "duration", Whole(I64)),
    field(8, "tags", List(&Message(&JSON_TAG))),
    field(9, "logs", List(&Message(&[field(1, "timestamp", Whole(I64)), field(2, "fields", List(&Message(&JSON_TAG)))]))),
    field(10, "processID", Word(&["p1", "p2", "p3"])),
    field(11, "flags", Whole(I32)),
];
static JSON_REFERENCE: [Field; 3] =
    [field(1, "refType", Word(&["CHILD_OF", "FOLLOWS_FROM", "?"])), field(2, "traceID", Id(16)), field(3, "spanID", Id(8))];
static JSON_TAG: [Field; 3] =
    [field(1, "key", Text), field(2, "type", Word(&["string", "bool", "int64", "float64", "binary", "?"])), field(3, "value", Text)];
