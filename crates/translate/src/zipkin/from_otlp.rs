//! From OTLP to Zipkin.

use std::collections::HashSet;

use model::{SpanId, TraceId};
use proto::otlp::{
    common::v1::{InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{self as otlp, TracesData, span::SpanKind, status::StatusCode},
};

use super::{
    Endpoint, Kind, Span, addresses, events, links,
    to_otlp::{DEBUG, NO_START, SHARED},
};
use crate::{
    NO_SERVICE_NAME,
    attributes::{as_text, kind_word, to_text, value},
    names,
};

/// Every span, in the order of the trace.
pub fn spans(trace: &TracesData) -> Vec<Span> {
    let mut spans = vec![];
    for resource_spans in &trace.resource_spans {
        let resource = resource_spans.resource.clone().unwrap_or_default();
        for scope_spans in &resource_spans.scope_spans {
            let scope = scope_spans.scope.clone().unwrap_or_default();
            spans.extend(scope_spans.spans.iter().map(|span| convert(&resource, &scope, span)));
        }
    }
    spans
}

/// Tags, of which the first with a key counts.
#[derive(Default)]
struct Tags {
    keys: HashSet<String>,
    tags: Vec<(String, String)>,
}

impl Tags {
    fn add(&mut self, key: &str, value: String) {
        if self.keys.insert(key.to_owned()) {
            self.tags.push((key.to_owned(), value));
        }
    }

    fn add_all(&mut self, attributes: &[KeyValue]) {
        for attribute in attributes {
            self.add(&attribute.key, to_text(value(attribute)));
        }
    }
}

fn convert(resource: &Resource, scope: &InstrumentationScope, span: &otlp::Span) -> Span {
    let mut out = Span {
        trace_id: TraceId::from_slice(&span.trace_id).unwrap_or_default(),
        parent_id: SpanId::from_slice(&span.parent_span_id).filter(|id| !id.is_zero()),
        id: SpanId::from_slice(&span.span_id).unwrap_or_default(),
        kind: kind(span.kind()),
        name: span.name.clone(),
        timestamp: span.start_time_unix_nano / 1000,
        duration: duration(span),
        annotations: span.events.iter().map(events::annotation).collect(),
        ..Span::default()
    };
    let mut tags = Tags::default();
    // What has a field of its own comes before an attribute of the same name.
    if span.kind() == SpanKind::Internal {
        tags.add(names::SPAN_KIND, kind_word(SpanKind::Internal).unwrap_or_default().to_owned());
    }
    add_status(&mut tags, span);
    add_fields(&mut tags, scope, span);
    for attribute in &span.attributes {
        if !out.take(attribute) {
            tags.add(&attribute.key, to_text(value(attribute)));
        }
    }
    out.name_remote(span);
    let service = resource.attributes.iter().find(|attribute| attribute.key == names::SERVICE_NAME);
    let service_name = service.map(|service| to_text(value(service))).unwrap_or_default();
    if service_name != NO_SERVICE_NAME {
        out.local_endpoint.service_name = service_name;
    }
    let others = resource.attributes.iter().filter(|attribute| attribute.key != names::SERVICE_NAME);
    tags.add_all(&others.cloned().collect::<Vec<_>>());
    out.tags = tags.tags;
    out
}

fn kind(kind: SpanKind) -> Option<Kind> {
    match kind {
        SpanKind::Unspecified | SpanKind::Internal => None,
        SpanKind::Client => Some(Kind::Client),
        SpanKind::Server => Some(Kind::Server),
        SpanKind::Producer => Some(Kind::Producer),
        SpanKind::Consumer => Some(Kind::Consumer),
    }
}

/// Microseconds; less than one is one, because 0 is absent.
fn duration(span: &otlp::Span) -> u64 {
    match span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano) {
        0 => 0,
        nanos => (nanos / 1000).max(1),
    }
}

fn add_status(tags: &mut Tags, span: &otlp::Span) {
    let status = span.status.clone().unwrap_or_default();
    match status.code() {
        StatusCode::Error => {
            tags.add(names::STATUS_CODE, "ERROR".to_owned());
            tags.add(names::ERROR, status.message);
            return;
        }
        StatusCode::Ok => tags.add(names::STATUS_CODE, "OK".to_owned()),
        // So that an attribute of this name is not taken for a status.
        StatusCode::Unset if span.attributes.iter().any(|attribute| attribute.key == names::ERROR) => {
            tags.add(names::STATUS_CODE, "UNSET".to_owned());
        }
        StatusCode::Unset => {}
    }
    if !status.message.is_empty() {
        tags.add(names::STATUS_DESCRIPTION, status.message);
    }
}

fn add_fields(tags: &mut Tags, scope: &InstrumentationScope, span: &otlp::Span) {
    for (key, text) in
        [(names::SCOPE_NAME, &scope.name), (names::SCOPE_VERSION, &scope.version), (names::TRACE_STATE, &span.trace_state)]
    {
        if !text.is_empty() {
            tags.add(key, text.clone());
        }
    }
    for attribute in &scope.attributes {
        tags.add(&format!("{}{}", names::SCOPE, attribute.key), to_text(value(attribute)));
    }
    for (key, count) in [
        (names::DROPPED_ATTRIBUTES, span.dropped_attributes_count),
        (names::DROPPED_EVENTS, span.dropped_events_count),
        (names::DROPPED_LINKS, span.dropped_links_count),
    ] {
        if count > 0 {
            tags.add(key, count.to_string());
        }
    }
    for (number, link) in span.links.iter().enumerate() {
        let (key, value) = links::tag(number, link);
        tags.add(&key, value);
    }
}

impl Span {
    /// Takes an attribute that stands for a field of Zipkin's span.
    fn take(&mut self, attribute: &KeyValue) -> bool {
        let is_true = value(attribute) == Some(&Value::BoolValue(true));
        match attribute.key.as_str() {
            NO_START if is_true => self.timestamp = 0,
            DEBUG if is_true => self.debug = true,
            SHARED if is_true => self.shared = true,
            addresses::PEER_SERVICE => match as_text(attribute) {
                Some(name) if !name.is_empty() => self.remote_endpoint.service_name = name.to_owned(),
                _ => return false,
            },
            _ => {
                return addresses::LOCAL.take(attribute, &mut self.local_endpoint)
                    || addresses::REMOTE.take(attribute, &mut self.remote_endpoint);
            }
        }
        true
    }

    /// The other side of an outgoing call, where only attributes of other names tell it.
    fn name_remote(&mut self, span: &otlp::Span) {
        let outgoing = matches!(self.kind, Some(Kind::Client | Kind::Producer));
        let Endpoint { service_name, .. } = &mut self.remote_endpoint;
        if outgoing && service_name.is_empty() {
            let named = |name: &&str| span.attributes.iter().find(|a| a.key == **name).and_then(as_text);
            *service_name = addresses::REMOTE_NAMES.iter().find_map(named).unwrap_or_default().to_owned();
        }
    }
}
