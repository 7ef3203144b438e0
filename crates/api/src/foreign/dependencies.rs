//! Which service calls which: an edge for each span whose parent is of another service.

use std::collections::{BTreeMap, HashMap};

use proto::otlp::{
    common::v1::any_value::Value,
    trace::v1::{ResourceSpans, TracesData, span::SpanKind, status::StatusCode},
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    pub count: u64,
    /// Those of which the called side is an error.
    pub errors: u64,
}

/// By calling and called service.
pub type Links = BTreeMap<(String, String), Calls>;

/// `None` for what has no name.
pub fn service(spans: &ResourceSpans) -> Option<&str> {
    let attributes = &spans.resource.as_ref()?.attributes;
    let name = attributes.iter().find(|attribute| attribute.key == "service.name")?;
    match name.value.as_ref()?.value.as_ref()? {
        Value::StringValue(name) if name != translate::NO_SERVICE_NAME => Some(name),
        _ => None,
    }
}

/// Adds the calls of a trace in which no two spans have one id.
pub fn add(trace: &TracesData, links: &mut Links) {
    let mut services: HashMap<&[u8], &str> = HashMap::new();
    let spans = || {
        trace.resource_spans.iter().filter_map(|resource| Some((service(resource)?, resource))).flat_map(|(service, resource)| {
            resource.scope_spans.iter().flat_map(|scope| &scope.spans).map(move |span| (service, span))
        })
    };
    for (service, span) in spans() {
        services.insert(&span.span_id, service);
    }
    for (called, span) in spans() {
        let Some(calling) = services.get(span.parent_span_id.as_slice()) else { continue };
        // Work that a caller left for later counts as a call; a callback inside a service does not.
        if *calling == called || span.kind() == SpanKind::Internal {
            continue;
        }
        let calls = links.entry(((*calling).to_owned(), called.to_owned())).or_default();
        calls.count += 1;
        calls.errors += u64::from(span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error));
    }
}
