//! Version 1 of Zipkin's model, whose spans are those of a whole call, and what they are in version 2.
//!
//! The first and last moments of each side are annotations of two letters: client `cs` and `cr`, server `sr` and `ss`,
//! producer `ms`, consumer `mr`. A span that has both sides becomes two spans with one id, the server's marked as
//! shared. Addresses of the other side are binary annotations `sa`, `ca` and `ma`; `lc` names a local component.

use model::{SpanId, TraceId};

use super::{Annotation, Endpoint, Kind, Span};

#[derive(Default)]
pub(super) struct V1Span {
    pub trace_id: TraceId,
    pub id: SpanId,
    pub parent_id: Option<SpanId>,
    pub name: String,
    /// Unix microseconds; 0 is absent.
    pub timestamp: u64,
    pub duration: u64,
    pub annotations: Vec<V1Annotation>,
    pub binary_annotations: Vec<V1BinaryAnnotation>,
    pub debug: bool,
}

pub(super) struct V1Annotation {
    pub timestamp: u64,
    pub value: String,
    pub endpoint: Endpoint,
}

pub(super) struct V1BinaryAnnotation {
    pub key: String,
    /// `None`: not a value but an address.
    pub value: Option<String>,
    pub endpoint: Endpoint,
}

/// One side of a call, under construction.
struct Side {
    span: Span,
    begin: Option<u64>,
    end: Option<u64>,
}

impl V1Span {
    /// Hands over one span for each side that the span has, at least one.
    pub(super) fn convert(self, each: &mut dyn FnMut(Span)) {
        let mut sides: Vec<Side> = vec![];
        for annotation in &self.annotations {
            let (kind, begins) = match annotation.value.as_str() {
                "cs" => (Kind::Client, true),
                "cr" => (Kind::Client, false),
                "sr" => (Kind::Server, true),
                "ss" => (Kind::Server, false),
                "ms" => (Kind::Producer, true),
                "mr" => (Kind::Consumer, true),
                _ => continue,
            };
            let side = side(&mut sides, kind, &self);
            if side.span.local_endpoint.is_empty() {
                side.span.local_endpoint = annotation.endpoint.clone();
            }
            let moment = if begins { &mut side.begin } else { &mut side.end };
            moment.get_or_insert(annotation.timestamp);
        }
        self.add_addresses(&mut sides);
        if sides.is_empty() {
            sides.push(Side { span: self.blank(), begin: None, end: None });
            let named = self.annotations.iter().map(|a| &a.endpoint).chain(self.binary_annotations.iter().map(|b| &b.endpoint));
            sides[0].span.local_endpoint = named.into_iter().find(|e| !e.is_empty()).cloned().unwrap_or_default();
        }
        self.add_details(&mut sides);
        let both = sides.len() > 1;
        for side in sides {
            each(self.timed(side, both));
        }
    }

    fn blank(&self) -> Span {
        Span {
            trace_id: self.trace_id,
            id: self.id,
            parent_id: self.parent_id,
            name: self.name.clone(),
            debug: self.debug,
            ..Span::default()
        }
    }

    fn add_addresses(&self, sides: &mut Vec<Side>) {
        for address in self.binary_annotations.iter().filter(|b| b.value.is_none()) {
            let kinds: &[Kind] = match address.key.as_str() {
                "sa" => &[Kind::Client],
                "ca" => &[Kind::Server],
                "ma" => &[Kind::Producer, Kind::Consumer],
                _ => continue,
            };
            if let Some(side) = sides.iter_mut().find(|side| side.span.kind.is_some_and(|kind| kinds.contains(&kind))) {
                side.span.remote_endpoint = address.endpoint.clone();
            } else if sides.is_empty() && address.key != "ma" {
                side(sides, kinds[0], self).span.remote_endpoint = address.endpoint.clone();
            }
        }
    }

    /// Annotations and tags go to the side of their endpoint, or else to the first.
    fn add_details(&self, sides: &mut [Side]) {
        let place = |sides: &[Side], endpoint: &Endpoint| {
            let name = &endpoint.service_name;
            sides.iter().position(|side| !name.is_empty() && side.span.local_endpoint.service_name == *name).unwrap_or(0)
        };
        for annotation in &self.annotations {
            if !matches!(annotation.value.as_str(), "cs" | "cr" | "sr" | "ss" | "ms" | "mr") {
                let at = place(sides, &annotation.endpoint);
                let (timestamp, value) = (annotation.timestamp, annotation.value.clone());
                sides[at].span.annotations.push(Annotation { timestamp, value });
            }
        }
        let mut tags: Vec<Vec<(String, String)>> = sides.iter().map(|_| vec![]).collect();
        for tag in &self.binary_annotations {
            let Some(value) = &tag.value else { continue };
            let at = place(sides, &tag.endpoint);
            if sides[at].span.local_endpoint.is_empty() {
                sides[at].span.local_endpoint = tag.endpoint.clone();
            }
            if !(tag.key == "lc" && value.is_empty()) {
                tags[at].push((tag.key.clone(), value.clone()));
            }
        }
        for (side, tags) in sides.iter_mut().zip(tags) {
            side.span.set_tags(tags);
        }
    }

    /// The span's own times are those of the side that began it; the other side's are in its annotations.
    fn timed(&self, side: Side, both: bool) -> Span {
        let Side { mut span, begin, end } = side;
        let between = begin.zip(end).map_or(0, |(begin, end)| end.saturating_sub(begin));
        let server = span.kind == Some(Kind::Server);
        // A server that took the client's id reports no times of its own.
        span.shared = server && (both || (self.timestamp == 0 && begin.is_some() && self.parent_id.is_some()));
        let own = self.timestamp > 0 && !(both && server);
        span.timestamp = if own { self.timestamp } else { begin.unwrap_or_default() };
        span.duration = if own && self.duration > 0 { self.duration } else { between };
        span
    }
}

fn side<'s>(sides: &'s mut Vec<Side>, kind: Kind, span: &V1Span) -> &'s mut Side {
    let at = sides.iter().position(|side| side.span.kind == Some(kind)).unwrap_or_else(|| {
        sides.push(Side { span: Span { kind: Some(kind), ..span.blank() }, begin: None, end: None });
        sides.len() - 1
    });
    &mut sides[at]
}
