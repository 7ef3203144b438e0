//! Events as annotations: the name alone, or, where there are attributes, `"name": {attributes as JSON}`. The form
//! `{"name": {attributes as JSON}}`, as OpenTelemetry for Python writes it, is read too.

use proto::otlp::trace::v1::span::Event;
use serde_json::{Map, Value};

use super::Annotation;
use crate::{
    NESTING_MAX,
    attributes::{from_json_map, map_json},
};

pub(super) fn annotation(event: &Event) -> Annotation {
    let name = Value::from(event.name.as_str());
    let value = match event.attributes.is_empty() {
        // A name that reads like the other form is put into it.
        true if parse(&event.name).is_none() => event.name.clone(),
        _ => format!("{name}: {}", map_json(&event.attributes, NESTING_MAX)),
    };
    Annotation { timestamp: event.time_unix_nano / 1000, value }
}

pub(super) fn event(annotation: &Annotation) -> Event {
    let (name, attributes) = parse(&annotation.value).unwrap_or_else(|| (annotation.value.clone(), Map::new()));
    Event {
        time_unix_nano: annotation.timestamp.saturating_mul(1000),
        name,
        attributes: from_json_map(attributes),
        dropped_attributes_count: 0,
    }
}

fn parse(text: &str) -> Option<(String, Map<String, Value>)> {
    if !text.ends_with('}') {
        return None;
    }
    // The reader's own limit on depth is twice ours; what is deeper than it is a name.
    if text.starts_with('{') {
        let mut events = serde_json::from_str::<Map<String, Value>>(text).ok()?.into_iter();
        return match (events.next()?, events.next()) {
            ((name, Value::Object(attributes)), None) => Some((name, attributes)),
            _ => None,
        };
    }
    if !text.starts_with('"') {
        return None;
    }
    let mut names = serde_json::Deserializer::from_str(text).into_iter::<String>();
    let name = names.next()?.ok()?;
    let attributes = text.get(names.byte_offset()..)?.trim_start().strip_prefix(':')?;
    Some((name, serde_json::from_str(attributes).ok()?))
}
