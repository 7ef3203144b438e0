//! From a request down to its texts: which field of which message holds what.

use crate::{
    Redactor,
    settings::Place,
    value::{self, Outcome},
    wire::{self, Content},
};

/// The messages on the way.
#[derive(Clone, Copy)]
enum Message {
    Request,
    ResourceSpans,
    Resource,
    ScopeSpans,
    Scope,
    Span,
    Event,
    Link,
    Status,
}

/// What a field holds, as far as rules care.
enum Holds {
    Message(Message),
    Attribute(Place),
    Text(Place),
    Other,
}

impl Message {
    fn holds(self, field: u64) -> Holds {
        match (self, field) {
            (Self::Request, 1) => Holds::Message(Self::ResourceSpans),
            (Self::ResourceSpans, 1) => Holds::Message(Self::Resource),
            (Self::ResourceSpans, 2) => Holds::Message(Self::ScopeSpans),
            (Self::Resource, 1) => Holds::Attribute(Place::Resource),
            (Self::ScopeSpans, 1) => Holds::Message(Self::Scope),
            (Self::ScopeSpans, 2) => Holds::Message(Self::Span),
            (Self::Scope, 3) => Holds::Attribute(Place::Scope),
            (Self::Span, 5) | (Self::Event, 2) => Holds::Text(Place::Name),
            (Self::Span, 9) => Holds::Attribute(Place::Span),
            (Self::Span, 11) => Holds::Message(Self::Event),
            (Self::Span, 13) => Holds::Message(Self::Link),
            (Self::Span, 15) => Holds::Message(Self::Status),
            (Self::Event, 3) => Holds::Attribute(Place::Event),
            (Self::Link, 4) => Holds::Attribute(Place::Link),
            (Self::Status, 2) => Holds::Text(Place::Status),
            _ => Holds::Other,
        }
    }
}

/// The request after all rules, if any has changed anything.
pub(crate) fn request(redactor: &Redactor, bytes: &[u8]) -> Option<Vec<u8>> {
    walk(redactor, Message::Request, bytes)
}

/// `None`: it stays as it is. From where it cannot be read, it does.
fn walk(redactor: &Redactor, message: Message, bytes: &[u8]) -> Option<Vec<u8>> {
    let (mut written, mut copied, mut at) = (None::<Vec<u8>>, 0, 0);
    while at < bytes.len() {
        let Some(field) = wire::field(bytes, at) else { break };
        let begin = at;
        at = field.end;
        let Content::Bytes(content) = field.content else { continue };
        let outcome = match message.holds(field.number) {
            Holds::Other => continue,
            Holds::Message(inner) => walk(redactor, inner, content).map_or(Outcome::Kept, Outcome::Changed),
            Holds::Attribute(place) => value::attribute(redactor, place, content).unwrap_or(Outcome::Kept),
            Holds::Text(place) => value::text(redactor, place, content),
        };
        let (Outcome::Changed(_) | Outcome::Dropped) = outcome else { continue };
        let out = written.get_or_insert_with(|| Vec::with_capacity(bytes.len()));
        out.extend_from_slice(&bytes[copied..begin]);
        if let Outcome::Changed(content) = outcome {
            wire::put_bytes(out, field.number, &content);
        }
        copied = at;
    }
    if let Some(out) = &mut written {
        out.extend_from_slice(&bytes[copied..]);
    }
    written
}
