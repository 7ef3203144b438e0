//! The frame of a request: resources and scopes around the spans.

use std::borrow::Cow;

use super::{
    reader::{Payload, Reader, WireError, text},
    value::{Attributes, ValueFault, check_key_value},
};

/// The resources of an `ExportTraceServiceRequest` (or `TracesData`: the same on the wire). Ends after the first error.
pub fn resource_spans(request: &[u8]) -> impl Iterator<Item = Result<ResourceSpansView<'_>, WireError>> {
    let mut reader = Reader::new(request);
    let mut failed = false;
    std::iter::from_fn(move || {
        if failed {
            return None;
        }
        let next = next_message(&mut reader, 1).and_then(|message| message.map(ResourceSpansView::read).transpose());
        failed = next.is_err();
        next.transpose()
    })
}

/// The next field of this number, which must be a message; other fields are passed over.
#[inline]
fn next_message<'a>(reader: &mut Reader<'a>, number: u32) -> Result<Option<&'a [u8]>, WireError> {
    loop {
        match reader.field()? {
            None => return Ok(None),
            Some((n, Payload::Bytes(message))) if n == number => return Ok(Some(message)),
            Some((n, _)) if n == number => return Err(WireError::WireType(n)),
            Some(_) => {}
        }
    }
}

/// The spans of one resource.
#[derive(Clone)]
pub struct ResourceSpansView<'a> {
    pub schema_url: Cow<'a, str>,
    /// What the client counts, plus the attributes left out here because they nest too deep.
    pub dropped_attributes_count: u32,
    resource: &'a [u8],
    some_too_deep: bool,
    message: &'a [u8],
}

const RESOURCE_ATTRIBUTES: u32 = 1;
const SCOPE_SPANS: u32 = 2;

impl<'a> ResourceSpansView<'a> {
    fn read(message: &'a [u8]) -> Result<Self, WireError> {
        let (mut resource, mut schema_url): (&[u8], &[u8]) = (&[], &[]);
        let mut reader = Reader::new(message);
        while let Some(field) = reader.field()? {
            match field {
                (1, Payload::Bytes(bytes)) => resource = bytes,
                (SCOPE_SPANS, Payload::Bytes(_)) => {}
                (3, Payload::Bytes(bytes)) => schema_url = bytes,
                (number @ 1..=3, _) => return Err(WireError::WireType(number)),
                _ => {}
            }
        }
        let (mut dropped, mut too_deep) = (0u64, 0u32);
        let mut reader = Reader::new(resource);
        while let Some(field) = reader.field()? {
            match field {
                (RESOURCE_ATTRIBUTES, Payload::Bytes(bytes)) => too_deep += u32::from(is_too_deep(bytes)?),
                (2, Payload::Varint(bits)) => dropped = bits,
                (number @ 1..=2, _) => return Err(WireError::WireType(number)),
                _ => {}
            }
        }
        Ok(Self {
            schema_url: text(schema_url),
            dropped_attributes_count: (dropped as u32).saturating_add(too_deep),
            resource,
            some_too_deep: too_deep > 0,
            message,
        })
    }

    /// The `Resource` message as it came: equal bytes are equal resources.
    pub fn raw(&self) -> &'a [u8] {
        self.resource
    }

    pub fn attributes(&self) -> Attributes<'a> {
        Attributes::new(self.resource, RESOURCE_ATTRIBUTES).shallow_only(self.some_too_deep)
    }

    /// Ends after the first error.
    pub fn scopes(&self) -> Scopes<'a> {
        Scopes { reader: Reader::new(self.message) }
    }
}

/// Whether an attribute nests too deep; an error if it is malformed.
fn is_too_deep(key_value: &[u8]) -> Result<bool, WireError> {
    match check_key_value(key_value) {
        Ok(()) => Ok(false),
        Err(ValueFault::TooDeep) => Ok(true),
        Err(ValueFault::Malformed(error)) => Err(error),
    }
}

/// The scopes of one resource.
#[derive(Clone)]
pub struct Scopes<'a> {
    reader: Reader<'a>,
}

impl<'a> Iterator for Scopes<'a> {
    type Item = Result<ScopeSpansView<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = next_message(&mut self.reader, SCOPE_SPANS)
            .and_then(|message| message.map(ScopeSpansView::read).transpose());
        if next.is_err() {
            self.reader = Reader::new(&[]);
        }
        next.transpose()
    }
}

/// The spans of one instrumentation scope.
#[derive(Clone)]
pub struct ScopeSpansView<'a> {
    pub name: Cow<'a, str>,
    pub version: Cow<'a, str>,
    pub schema_url: Cow<'a, str>,
    /// What the client counts, plus the attributes left out here because they nest too deep.
    pub dropped_attributes_count: u32,
    scope: &'a [u8],
    some_too_deep: bool,
    message: &'a [u8],
}

const SCOPE_ATTRIBUTES: u32 = 3;
const SPANS: u32 = 2;

impl<'a> ScopeSpansView<'a> {
    fn read(message: &'a [u8]) -> Result<Self, WireError> {
        let (mut scope, mut schema_url): (&[u8], &[u8]) = (&[], &[]);
        let mut reader = Reader::new(message);
        while let Some(field) = reader.field()? {
            match field {
                (1, Payload::Bytes(bytes)) => scope = bytes,
                (SPANS, Payload::Bytes(_)) => {}
                (3, Payload::Bytes(bytes)) => schema_url = bytes,
                (number @ 1..=3, _) => return Err(WireError::WireType(number)),
                _ => {}
            }
        }
        let (mut name, mut version): (&[u8], &[u8]) = (&[], &[]);
        let (mut dropped, mut too_deep) = (0u64, 0u32);
        let mut reader = Reader::new(scope);
        while let Some(field) = reader.field()? {
            match field {
                (1, Payload::Bytes(bytes)) => name = bytes,
                (2, Payload::Bytes(bytes)) => version = bytes,
                (SCOPE_ATTRIBUTES, Payload::Bytes(bytes)) => too_deep += u32::from(is_too_deep(bytes)?),
                (4, Payload::Varint(bits)) => dropped = bits,
                (number @ 1..=4, _) => return Err(WireError::WireType(number)),
                _ => {}
            }
        }
        Ok(Self {
            name: text(name),
            version: text(version),
            schema_url: text(schema_url),
            dropped_attributes_count: (dropped as u32).saturating_add(too_deep),
            scope,
            some_too_deep: too_deep > 0,
            message,
        })
    }

    /// The `InstrumentationScope` message as it came: equal bytes are equal scopes.
    pub fn raw(&self) -> &'a [u8] {
        self.scope
    }

    pub fn attributes(&self) -> Attributes<'a> {
        Attributes::new(self.scope, SCOPE_ATTRIBUTES).shallow_only(self.some_too_deep)
    }

    /// The span messages, still to be read by [`super::SpanView::parse`]. Ends after the first error.
    pub fn spans(&self) -> Spans<'a> {
        Spans { reader: Reader::new(self.message) }
    }
}

/// The span messages of one scope.
#[derive(Clone)]
pub struct Spans<'a> {
    reader: Reader<'a>,
}

impl<'a> Iterator for Spans<'a> {
    type Item = Result<&'a [u8], WireError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let next = next_message(&mut self.reader, SPANS);
        if next.is_err() {
            self.reader = Reader::new(&[]);
        }
        next.transpose()
    }
}
