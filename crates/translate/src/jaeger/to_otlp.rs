//! From Jaeger to OTLP.

use std::rc::Rc;

use proto::otlp::{
    common::v1::{self as common, AnyValue, ArrayValue, InstrumentationScope, any_value::Value},
    resource::v1::Resource,
    trace::v1::{self as otlp, Status, span::SpanKind, status::StatusCode},
};

use super::{KeyValue, Log, Process, RefType, Span, SpanRef, ValueType, nanos};
use crate::{
    NO_SERVICE_NAME,
    attributes::{attribute, kind_of_word, text},
    names,
    request::RequestWriter,
};

/// All flags of a Jaeger span, if there are others than "sampled".
pub(super) const FLAGS: &str = "jaeger.flags";
pub(super) const WARNINGS: &str = "jaeger.warnings";
/// What a link was, if it was not "follows from" something beside the parent.
pub(super) const REF_TYPE: &str = "opentracing.ref_type";
/// On a link that is the only word of a parent.
pub(super) const FOLLOWS_FROM: &str = "follows_from";
pub(super) const CHILD_OF: &str = "child_of";
/// The field of a log that is an event's name.
pub(super) const EVENT: &str = "event";
/// What some clients call it; never written.
pub(super) const MESSAGE: &str = "message";
pub(super) const SAMPLED: u32 = 1;

/// Takes the spans of batches.
pub(super) struct Sink<'w> {
    writer: &'w mut RequestWriter,
    resource: Rc<Resource>,
}

impl<'w> Sink<'w> {
    pub(super) fn new(writer: &'w mut RequestWriter) -> Self {
        Self { writer, resource: Rc::default() }
    }

    /// Whose the spans of the next batch are.
    pub(super) fn process(&mut self, process: &Process) {
        self.resource = Rc::new(resource(process));
    }

    pub(super) fn span(&mut self, mut span: Span) {
        match span.process.take() {
            Some(own) => self.writer.set_resource(&Rc::new(resource(&own))),
            None => self.writer.set_resource(&self.resource),
        }
        let (scope, span) = convert(span);
        self.writer.push(scope, span);
    }
}

fn resource(process: &Process) -> Resource {
    let service = match process.service_name.as_str() {
        "" => NO_SERVICE_NAME,
        service => service,
    };
    let mut out = Resource { attributes: vec![text(names::SERVICE_NAME, service)], dropped_attributes_count: 0 };
    for tag in &process.tags {
        if !count(tag, names::DROPPED_ATTRIBUTES, &mut out.dropped_attributes_count) {
            out.attributes.push(convert_tag(tag.clone()));
        }
    }
    out
}

/// What the tags say about things for which OTLP has a field.
#[derive(Default)]
struct Fields {
    scope: InstrumentationScope,
    status_code: Option<StatusCode>,
    status_description: String,
    error: bool,
}

fn convert(span: Span) -> (InstrumentationScope, otlp::Span) {
    let trace_id = long_trace_id(span.trace_id);
    let start = span.start_time.map_or(0, |time| nanos(time.seconds, time.nanos));
    let duration = span.duration.map_or(0, |time| nanos(time.seconds, time.nanos));
    let mut out = otlp::Span {
        span_id: span.span_id,
        name: span.operation_name,
        start_time_unix_nano: start,
        end_time_unix_nano: start.saturating_add(duration),
        flags: span.flags & SAMPLED,
        events: span.logs.into_iter().map(event).collect(),
        ..otlp::Span::default()
    };
    let references = span.references.into_iter().map(|r| SpanRef { trace_id: long_trace_id(r.trace_id), ..r });
    (out.parent_span_id, out.links) = parent_and_links(references.collect(), &trace_id);
    out.trace_id = trace_id;
    let mut fields = Fields::default();
    for tag in span.tags {
        fields.take(&mut out, tag);
    }
    if span.flags & !SAMPLED != 0 {
        out.attributes.push(attribute(FLAGS, Value::IntValue(span.flags.into())));
    }
    if !span.warnings.is_empty() {
        let values = span.warnings.into_iter().map(|text| AnyValue { value: Some(Value::StringValue(text)) }).collect();
        out.attributes.push(attribute(WARNINGS, Value::ArrayValue(ArrayValue { values })));
    }
    let code = fields.status_code.unwrap_or(if fields.error { StatusCode::Error } else { StatusCode::Unset });
    out.status = Some(Status { code: code.into(), message: fields.status_description });
    (fields.scope, out)
}

/// Old senders leave out the upper half where it is zero.
fn long_trace_id(id: Vec<u8>) -> Vec<u8> {
    if id.len() == 8 { [vec![0; 8], id].concat() } else { id }
}

/// The parent is what the span is a child of, or else follows from, in its own trace. A span that follows from its
/// parent has it as a link too, which says so.
fn parent_and_links(references: Vec<SpanRef>, trace_id: &[u8]) -> (Vec<u8>, Vec<otlp::span::Link>) {
    let in_trace = |kind: RefType| {
        references.iter().position(|r| r.ref_type() == kind && r.trace_id == trace_id && r.span_id.iter().any(|b| *b != 0))
    };
    let child_of = in_trace(RefType::ChildOf);
    let parent = child_of.or_else(|| in_trace(RefType::FollowsFrom));
    let parent_id = parent.map(|at| references[at].span_id.clone()).unwrap_or_default();
    let others = references.into_iter().enumerate().filter(|(at, _)| Some(*at) != child_of);
    (parent_id, others.map(|(at, reference)| link(reference, Some(at) == parent)).collect())
}

fn link(reference: SpanRef, is_parent: bool) -> otlp::span::Link {
    let attributes = match reference.ref_type() {
        RefType::ChildOf => vec![text(REF_TYPE, CHILD_OF)],
        RefType::FollowsFrom if is_parent => vec![text(REF_TYPE, FOLLOWS_FROM)],
        RefType::FollowsFrom => vec![],
    };
    otlp::span::Link { trace_id: reference.trace_id, span_id: reference.span_id, attributes, ..Default::default() }
}

fn event(log: Log) -> otlp::span::Event {
    let mut out = otlp::span::Event {
        time_unix_nano: log.timestamp.map_or(0, |time| nanos(time.seconds, time.nanos)),
        ..Default::default()
    };
    let text = |name: &str| log.fields.iter().position(|field| field.key == name && field.v_type() == ValueType::String);
    let name = text(EVENT).or_else(|| text(MESSAGE));
    for (at, field) in log.fields.into_iter().enumerate() {
        if Some(at) == name {
            out.name = field.v_str;
        } else if !count(&field, names::DROPPED_ATTRIBUTES, &mut out.dropped_attributes_count) {
            out.attributes.push(convert_tag(field));
        }
    }
    out
}

fn convert_tag(tag: KeyValue) -> common::KeyValue {
    let value = match tag.v_type() {
        ValueType::String => Value::StringValue(tag.v_str),
        ValueType::Bool => Value::BoolValue(tag.v_bool),
        ValueType::Int64 => Value::IntValue(tag.v_int64),
        ValueType::Float64 => Value::DoubleValue(tag.v_float64),
        ValueType::Binary => Value::BytesValue(tag.v_binary),
    };
    attribute(tag.key, value)
}

/// Reads a tag that is a count into its field.
fn count(tag: &KeyValue, name: &str, into: &mut u32) -> bool {
    let number = u32::try_from(tag.v_int64).ok().filter(|_| tag.key == name && tag.v_type() == ValueType::Int64);
    number.map(|number| *into = number).is_some()
}

impl Fields {
    /// Takes a tag that stands for a field; any other becomes an attribute.
    fn take(&mut self, span: &mut otlp::Span, tag: KeyValue) {
        if !self.take_text(span, &tag) && !self.take_other(span, &tag) {
            match tag.key.strip_prefix(names::SCOPE) {
                Some(key) if !key.is_empty() => {
                    let key = key.to_owned();
                    self.scope.attributes.push(convert_tag(KeyValue { key, ..tag }));
                }
                _ => span.attributes.push(convert_tag(tag)),
            }
        }
    }

    fn take_text(&mut self, span: &mut otlp::Span, tag: &KeyValue) -> bool {
        if tag.v_type() != ValueType::String {
            return false;
        }
        let text = &tag.v_str;
        match tag.key.as_str() {
            names::SPAN_KIND if span.kind() == SpanKind::Unspecified => match kind_of_word(text) {
                Some(kind) => span.kind = kind.into(),
                None => return false,
            },
            names::STATUS_CODE => match text.as_str() {
                "OK" => self.status_code = Some(StatusCode::Ok),
                "ERROR" => self.status_code = Some(StatusCode::Error),
                "UNSET" => self.status_code = Some(StatusCode::Unset),
                _ => return false,
            },
            names::STATUS_DESCRIPTION => self.status_description.clone_from(text),
            names::TRACE_STATE => span.trace_state.clone_from(text),
            names::SCOPE_NAME | names::LIBRARY_NAME => self.scope.name.clone_from(text),
            names::SCOPE_VERSION | names::LIBRARY_VERSION => self.scope.version.clone_from(text),
            _ => return false,
        }
        true
    }

    fn take_other(&mut self, span: &mut otlp::Span, tag: &KeyValue) -> bool {
        // Some clients write the truth as a text.
        let is_true = match tag.v_type() {
            ValueType::Bool => tag.v_bool,
            ValueType::String => tag.v_str == "true",
            _ => false,
        };
        if tag.key == names::ERROR && is_true && self.status_code.is_none_or(|code| code == StatusCode::Error) {
            self.error = true;
            return true;
        }
        count(tag, names::DROPPED_ATTRIBUTES, &mut span.dropped_attributes_count)
            || count(tag, names::DROPPED_EVENTS, &mut span.dropped_events_count)
            || count(tag, names::DROPPED_LINKS, &mut span.dropped_links_count)
    }
}
