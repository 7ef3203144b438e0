//! Traces of a block as OTLP.

use proto::otlp::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::InstrumentationScope,
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span, Status,
        span::{Event, Link},
    },
};

use super::{
    attributes::Attributes,
    columns::{Group, List, Numbers, Texts, number, text},
    meta::{Meta, Scope},
};

/// Columns that are always the same attribute: of vParquet4 but for the first.
const OF_RESOURCES: [(&str, &str, bool); 9] = [
    ("ServiceName", "service.name", true),
    ("Cluster", "cluster", false),
    ("Namespace", "namespace", false),
    ("Pod", "pod", false),
    ("Container", "container", false),
    ("K8sClusterName", "k8s.cluster.name", false),
    ("K8sNamespaceName", "k8s.namespace.name", false),
    ("K8sPodName", "k8s.pod.name", false),
    ("K8sContainerName", "k8s.container.name", false),
];
const OF_SPANS: [(&str, &str, bool); 3] = [
    ("HttpMethod", "http.method", false),
    ("HttpUrl", "http.url", false),
    ("HttpStatusCode", "http.status_code", false),
];

pub(super) struct Traces<'a> {
    trace_id: Texts<'a>,
    resources: List<'a>,
    resource_attributes: Attributes<'a>,
    resource_dropped: Option<Numbers<'a>>,
    scopes: List<'a>,
    scope: Option<Scopes<'a>>,
    spans: List<'a>,
    span: Spans<'a>,
}

struct Scopes<'a> {
    name: Option<Texts<'a>>,
    version: Option<Texts<'a>>,
    attributes: Attributes<'a>,
    dropped: Option<Numbers<'a>>,
}

struct Spans<'a> {
    span_id: Texts<'a>,
    parent_span_id: Option<Texts<'a>>,
    name: Texts<'a>,
    kind: Option<Numbers<'a>>,
    trace_state: Option<Texts<'a>>,
    start: Numbers<'a>,
    duration: Numbers<'a>,
    status_code: Option<Numbers<'a>>,
    status_message: Option<Texts<'a>>,
    attributes: Attributes<'a>,
    dropped_attributes: Option<Numbers<'a>>,
    dropped_events: Option<Numbers<'a>>,
    dropped_links: Option<Numbers<'a>>,
    events: Option<(List<'a>, Events<'a>)>,
    links: Option<(List<'a>, Links<'a>)>,
}

struct Events<'a> {
    since_start: Numbers<'a>,
    name: Option<Texts<'a>>,
    attributes: Attributes<'a>,
    dropped: Option<Numbers<'a>>,
}

struct Links<'a> {
    trace_id: Texts<'a>,
    span_id: Texts<'a>,
    trace_state: Option<Texts<'a>>,
    attributes: Attributes<'a>,
    dropped: Option<Numbers<'a>>,
}

const DROPPED_ATTRIBUTES: &str = "DroppedAttributesCount";

impl<'a> Traces<'a> {
    /// # Errors
    /// Which column is missing or is not what it should be.
    pub fn find(root: &Group<'a>, meta: &Meta) -> Result<Self, String> {
        let resources = needed(root, "rs", Group::list)?;
        let group = resources.groups()?;
        let resource = needed(&group, "Resource", Group::group)?;
        let scopes = needed(&group, "ss", Group::list)?;
        let scope_group = scopes.groups()?;
        let spans = needed(&scope_group, "Spans", Group::list)?;
        Ok(Self {
            trace_id: needed(root, "TraceID", Group::texts)?,
            resource_attributes: Attributes::find(&resource, &OF_RESOURCES, Some((Scope::Resource, meta)))?,
            resource_dropped: resource.numbers(DROPPED_ATTRIBUTES)?,
            scope: scope_group.group("Scope")?.map(|group| Scopes::find(&group)).transpose()?,
            span: Spans::find(&spans.groups()?, meta)?,
            resources,
            scopes,
            spans,
        })
    }

    pub fn read(&self, row: usize) -> Result<ExportTraceServiceRequest, String> {
        let trace_id = long(self.trace_id.bytes(row).unwrap_or_default());
        let resource_spans = self.resources.range(row).map(|at| {
            let resource = Resource {
                attributes: self.resource_attributes.read(at)?,
                dropped_attributes_count: number(self.resource_dropped, at) as u32,
            };
            let scopes = self.scopes.range(at).map(|at| {
                let scope = self.scope.as_ref().map(|scope| scope.read(at)).transpose()?;
                let spans = self.spans.range(at).map(|at| self.span.read(at, &trace_id)).collect::<Result<_, _>>()?;
                Ok(ScopeSpans { scope, spans, ..ScopeSpans::default() })
            });
            let scope_spans = scopes.collect::<Result<_, String>>()?;
            Ok(ResourceSpans { resource: Some(resource), scope_spans, ..ResourceSpans::default() })
        });
        Ok(ExportTraceServiceRequest { resource_spans: resource_spans.collect::<Result<_, String>>()? })
    }
}

/// Leading zeros may have been left out.
fn long(id: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 16usize.saturating_sub(id.len())];
    out.extend_from_slice(id);
    out
}

fn needed<'a, T>(
    group: &Group<'a>,
    name: &str,
    find: impl Fn(&Group<'a>, &str) -> Result<Option<T>, String>,
) -> Result<T, String> {
    find(group, name)?.ok_or_else(|| group.missing(name))
}

impl<'a> Scopes<'a> {
    fn find(group: &Group<'a>) -> Result<Self, String> {
        Ok(Self {
            name: group.texts("Name")?,
            version: group.texts("Version")?,
            attributes: Attributes::find(group, &[], None)?,
            dropped: group.numbers(DROPPED_ATTRIBUTES)?,
        })
    }

    fn read(&self, at: usize) -> Result<InstrumentationScope, String> {
        Ok(InstrumentationScope {
            name: text(self.name, at),
            version: text(self.version, at),
            attributes: self.attributes.read(at)?,
            dropped_attributes_count: number(self.dropped, at) as u32,
        })
    }
}

impl<'a> Spans<'a> {
    fn find(group: &Group<'a>, meta: &Meta) -> Result<Self, String> {
        let events = match group.list("Events")? {
            Some(list) => {
                let group = list.groups()?;
                let events = Events {
                    since_start: needed(&group, "TimeSinceStartNano", Group::numbers)?,
                    name: group.texts("Name")?,
                    attributes: Attributes::find(&group, &[], Some((Scope::Event, meta)))?,
                    dropped: group.numbers(DROPPED_ATTRIBUTES)?,
                };
                Some((list, events))
            }
            None => None,
        };
        let links = match group.list("Links")? {
            Some(list) => {
                let group = list.groups()?;
                let links = Links {
                    trace_id: needed(&group, "TraceID", Group::texts)?,
                    span_id: needed(&group, "SpanID", Group::texts)?,
                    trace_state: group.texts("TraceState")?,
                    attributes: Attributes::find(&group, &[], None)?,
                    dropped: group.numbers(DROPPED_ATTRIBUTES)?,
                };
                Some((list, links))
            }
            None => None,
        };
        Ok(Self {
            span_id: needed(group, "SpanID", Group::texts)?,
            parent_span_id: group.texts("ParentSpanID")?,
            name: needed(group, "Name", Group::texts)?,
            kind: group.numbers("Kind")?,
            trace_state: group.texts("TraceState")?,
            start: needed(group, "StartTimeUnixNano", Group::numbers)?,
            duration: needed(group, "DurationNano", Group::numbers)?,
            status_code: group.numbers("StatusCode")?,
            status_message: group.texts("StatusMessage")?,
            attributes: Attributes::find(group, &OF_SPANS, Some((Scope::Span, meta)))?,
            dropped_attributes: group.numbers(DROPPED_ATTRIBUTES)?,
            dropped_events: group.numbers("DroppedEventsCount")?,
            dropped_links: group.numbers("DroppedLinksCount")?,
            events,
            links,
        })
    }

    fn read(&self, at: usize, trace_id: &[u8]) -> Result<Span, String> {
        let start = self.start.get(at).unwrap_or(0) as u64;
        let events = match &self.events {
            Some((list, events)) => list.range(at).map(|at| events.read(at, start)).collect::<Result<_, _>>()?,
            None => vec![],
        };
        let links = match &self.links {
            Some((list, links)) => list.range(at).map(|at| links.read(at)).collect::<Result<_, _>>()?,
            None => vec![],
        };
        let status = Status { code: number(self.status_code, at) as i32, message: text(self.status_message, at) };
        let parent = self.parent_span_id.and_then(|column| column.bytes(at)).unwrap_or_default();
        Ok(Span {
            trace_id: trace_id.to_vec(),
            span_id: self.span_id.bytes(at).unwrap_or_default().to_vec(),
            parent_span_id: parent.to_vec(),
            trace_state: text(self.trace_state, at),
            name: self.name.owned(at),
            kind: number(self.kind, at) as i32,
            start_time_unix_nano: start,
            end_time_unix_nano: start.wrapping_add(self.duration.get(at).unwrap_or(0) as u64),
            attributes: self.attributes.read(at)?,
            dropped_attributes_count: number(self.dropped_attributes, at) as u32,
            events,
            dropped_events_count: number(self.dropped_events, at) as u32,
            links,
            dropped_links_count: number(self.dropped_links, at) as u32,
            status: (status != Status::default()).then_some(status),
            ..Span::default()
        })
    }
}

impl Events<'_> {
    /// An event before its span has a time that wraps around.
    fn read(&self, at: usize, start: u64) -> Result<Event, String> {
        Ok(Event {
            time_unix_nano: start.wrapping_add(self.since_start.get(at).unwrap_or(0) as u64),
            name: text(self.name, at),
            attributes: self.attributes.read(at)?,
            dropped_attributes_count: number(self.dropped, at) as u32,
        })
    }
}

impl Links<'_> {
    fn read(&self, at: usize) -> Result<Link, String> {
        Ok(Link {
            trace_id: long(self.trace_id.bytes(at).unwrap_or_default()),
            span_id: self.span_id.bytes(at).unwrap_or_default().to_vec(),
            trace_state: text(self.trace_state, at),
            attributes: self.attributes.read(at)?,
            dropped_attributes_count: number(self.dropped, at) as u32,
            ..Link::default()
        })
    }
}
