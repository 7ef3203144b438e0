//! From Zipkin to OTLP.

use std::rc::Rc;

use proto::otlp::{
    common::v1::{InstrumentationScope, any_value::Value},
    resource::v1::Resource,
    trace::v1::{self as otlp, Status, span::SpanKind, status::StatusCode},
};

use super::{Kind, Span, addresses, events, links};
use crate::{
    NO_SERVICE_NAME,
    attributes::{attribute, text},
    names,
    request::RequestWriter,
};

/// Marks a span that came without a timestamp.
pub(super) const NO_START: &str = "otel.zipkin.absentField.startTime";
pub(super) const DEBUG: &str = "zipkin.debug";
pub(super) const SHARED: &str = "zipkin.shared";

/// What the tags say about things for which OTLP has a field.
#[derive(Default)]
struct Fields {
    scope: InstrumentationScope,
    status_code: Option<String>,
    status_description: Option<String>,
    error: Option<String>,
    links: Vec<(usize, otlp::span::Link)>,
}

pub(super) fn push(span: Span, received_unix_nano: u64, writer: &mut RequestWriter) {
    let service = match span.local_endpoint.service_name.as_str() {
        "" => NO_SERVICE_NAME,
        service => service,
    };
    let resource = Resource { attributes: vec![text(names::SERVICE_NAME, service)], dropped_attributes_count: 0 };
    let (scope, span) = convert(span, received_unix_nano);
    writer.set_resource(&Rc::new(resource));
    writer.push(scope, span);
}

fn convert(span: Span, received_unix_nano: u64) -> (InstrumentationScope, otlp::Span) {
    let mut out = otlp::Span {
        trace_id: span.trace_id.0.to_vec(),
        span_id: span.id.0.to_vec(),
        parent_span_id: span.parent_id.map(|id| id.0.to_vec()).unwrap_or_default(),
        kind: span.kind.map_or(SpanKind::Unspecified, kind).into(),
        ..otlp::Span::default()
    };
    let mut fields = Fields::default();
    for (key, value) in span.tags {
        fields.take(&mut out, key, value);
    }
    out.status = Some(fields.status(&mut out));
    fields.links.sort_by_key(|(number, _)| *number);
    out.links = fields.links.into_iter().map(|(_, link)| link).collect();
    out.events = span.annotations.iter().map(events::event).collect();

    let micros = |micros: u64| micros.saturating_mul(1000);
    let start = if span.timestamp > 0 {
        micros(span.timestamp)
    } else {
        out.attributes.push(attribute(NO_START, Value::BoolValue(true)));
        span.annotations.iter().map(|a| micros(a.timestamp)).find(|time| *time > 0).unwrap_or(received_unix_nano)
    };
    out.start_time_unix_nano = start;
    out.end_time_unix_nano = start.saturating_add(micros(span.duration));
    out.name = span.name;

    addresses::LOCAL.describe(&span.local_endpoint, &mut out.attributes);
    addresses::REMOTE.describe(&span.remote_endpoint, &mut out.attributes);
    let peer = span.remote_endpoint.service_name;
    let named = out.attributes.iter().any(|a| {
        a.key == addresses::PEER_SERVICE
            || addresses::REMOTE_NAMES.contains(&a.key.as_str()) && crate::attributes::as_text(a) == Some(&peer)
    });
    if !peer.is_empty() && !named {
        out.attributes.push(text(addresses::PEER_SERVICE, peer));
    }
    for (key, flag) in [(DEBUG, span.debug), (SHARED, span.shared)] {
        if flag {
            out.attributes.push(attribute(key, Value::BoolValue(true)));
        }
    }
    (fields.scope, out)
}

fn kind(kind: Kind) -> SpanKind {
    match kind {
        Kind::Client => SpanKind::Client,
        Kind::Server => SpanKind::Server,
        Kind::Producer => SpanKind::Producer,
        Kind::Consumer => SpanKind::Consumer,
    }
}

impl Fields {
    /// Takes a tag that stands for a field; any other becomes an attribute.
    fn take(&mut self, span: &mut otlp::Span, key: String, value: String) {
        let count = |into: &mut u32| value.parse().map(|number| *into = number).is_ok();
        let taken = match key.as_str() {
            names::STATUS_CODE => replace(&mut self.status_code, &value),
            names::STATUS_DESCRIPTION => replace(&mut self.status_description, &value),
            names::ERROR => replace(&mut self.error, &value),
            names::SPAN_KIND if span.kind == 0 && value == "internal" => {
                span.kind = SpanKind::Internal.into();
                true
            }
            names::TRACE_STATE => {
                span.trace_state.clone_from(&value);
                true
            }
            names::SCOPE_NAME | names::LIBRARY_NAME => {
                self.scope.name.clone_from(&value);
                true
            }
            names::SCOPE_VERSION | names::LIBRARY_VERSION => {
                self.scope.version.clone_from(&value);
                true
            }
            names::DROPPED_ATTRIBUTES => count(&mut span.dropped_attributes_count),
            names::DROPPED_EVENTS => count(&mut span.dropped_events_count),
            names::DROPPED_LINKS => count(&mut span.dropped_links_count),
            _ => match links::link(&key, &value) {
                Some(link) => {
                    self.links.push(link);
                    true
                }
                None => false,
            },
        };
        if taken {
            return;
        }
        match key.strip_prefix(names::SCOPE) {
            Some(key) if !key.is_empty() => self.scope.attributes.push(text(key, value)),
            _ => span.attributes.push(text(key, value)),
        }
    }

    /// `otel.status_code` decides; without it a span with the tag `error` is an error, except where it says "false".
    fn status(&mut self, span: &mut otlp::Span) -> Status {
        let code = match self.status_code.as_deref() {
            Some("OK") => StatusCode::Ok,
            Some("ERROR") => StatusCode::Error,
            Some("UNSET") => StatusCode::Unset,
            Some(other) => {
                span.attributes.push(text(names::STATUS_CODE, other));
                StatusCode::Unset
            }
            None if self.error.as_deref().is_some_and(|error| error != "false") => StatusCode::Error,
            None => StatusCode::Unset,
        };
        let mut message = self.status_description.take().unwrap_or_default();
        if let Some(error) = self.error.take() {
            match code {
                // The text says no more than the code.
                StatusCode::Error if self.status_code.is_none() && error == "true" => {}
                StatusCode::Error => message = error,
                StatusCode::Ok | StatusCode::Unset => span.attributes.push(text(names::ERROR, error)),
            }
        }
        Status { code: code.into(), message }
    }
}

fn replace(field: &mut Option<String>, value: &str) -> bool {
    *field = Some(value.to_owned());
    true
}
