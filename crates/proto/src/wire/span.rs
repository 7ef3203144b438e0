//! One span, its events and its links.

use std::borrow::Cow;

use super::{
    reader::{Payload, Reader, WireError, text},
    value::{Attributes, RawAttributes, ValueFault, check_key_value},
};

/// Why one span is refused. The other spans of the request are not touched by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpanFault {
    #[error("the trace id is not 16 bytes, or all zero")]
    InvalidTraceId,
    #[error("the span id is not 8 bytes, or all zero")]
    InvalidSpanId,
    #[error("an attribute value nests more than {} levels", model::ATTRIBUTE_DEPTH_MAX)]
    TooDeep,
    #[error("the span is not a well-formed message: {0}")]
    Malformed(WireError),
}

impl SpanFault {
    /// The word for it in metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidTraceId => "invalid_trace_id",
            Self::InvalidSpanId => "invalid_span_id",
            Self::TooDeep => "attribute_too_deep",
            Self::Malformed(_) => "malformed",
        }
    }
}

impl From<WireError> for SpanFault {
    fn from(error: WireError) -> Self {
        Self::Malformed(error)
    }
}

impl From<ValueFault> for SpanFault {
    fn from(fault: ValueFault) -> Self {
        match fault {
            ValueFault::TooDeep => Self::TooDeep,
            ValueFault::Malformed(error) => Self::Malformed(error),
        }
    }
}

/// A span that was checked with everything in it.
#[derive(Clone)]
pub struct SpanView<'a> {
    /// Not all zero.
    pub trace_id: &'a [u8; 16],
    /// Not all zero.
    pub span_id: &'a [u8; 8],
    /// Empty for a root (also if the client sent zeros), else as it came: of another length than 8 it names no span.
    pub parent_span_id: &'a [u8],
    pub trace_state: Cow<'a, str>,
    pub flags: u32,
    pub name: Cow<'a, str>,
    /// 0 to 5; what OTLP does not define reads as 0.
    pub kind: i32,
    pub start_time_unix_nano: u64,
    /// May lie before the start.
    pub end_time_unix_nano: u64,
    pub dropped_attributes_count: u32,
    pub dropped_events_count: u32,
    pub dropped_links_count: u32,
    /// 0 to 2; what OTLP does not define reads as 0.
    pub status_code: i32,
    pub status_message: Cow<'a, str>,
    attributes: Run<'a>,
    events: Run<'a>,
    links: Run<'a>,
}

/// The part of a message from the first to the last occurrence of a repeated field, so that reading the field
/// passes over little else.
#[derive(Clone, Copy)]
struct Run<'a> {
    bytes: &'a [u8],
    count: usize,
}

/// A [`Run`] while its message is read.
#[derive(Default)]
struct RunBounds {
    start: usize,
    end: usize,
    count: usize,
}

impl RunBounds {
    #[inline]
    fn add(&mut self, start: usize, end: usize) {
        if self.count == 0 {
            self.start = start;
        }
        self.end = end;
        self.count += 1;
    }

    #[inline]
    fn of<'a>(&self, message: &'a [u8]) -> Run<'a> {
        Run { bytes: &message[self.start..self.end], count: self.count }
    }
}

const ATTRIBUTES: u32 = 9;
const EVENTS: u32 = 11;
const LINKS: u32 = 13;

impl<'a> SpanView<'a> {
    /// Reads a `Span` message and checks everything in it.
    pub fn parse(message: &'a [u8]) -> Result<Self, SpanFault> {
        let (mut trace_id, mut span_id, mut parent_span_id): (&[u8], &[u8], &[u8]) = (&[], &[], &[]);
        let (mut trace_state, mut name, mut status): (&[u8], &[u8], &[u8]) = (&[], &[], &[]);
        let (mut kind, mut flags) = (0u64, 0u32);
        let (mut start_time_unix_nano, mut end_time_unix_nano) = (0u64, 0u64);
        let (mut dropped_attributes, mut dropped_events, mut dropped_links) = (0u64, 0u64, 0u64);
        let mut attributes = RunBounds::default();
        let mut events = RunBounds::default();
        let mut links = RunBounds::default();

        let mut reader = Reader::new(message);
        loop {
            let start = message.len() - reader.remaining();
            let Some(field) = reader.field()? else { break };
            let end = message.len() - reader.remaining();
            match field {
                (ATTRIBUTES, Payload::Bytes(bytes)) => {
                    check_key_value(bytes)?;
                    attributes.add(start, end);
                }
                (1, Payload::Bytes(bytes)) => trace_id = bytes,
                (2, Payload::Bytes(bytes)) => span_id = bytes,
                (3, Payload::Bytes(bytes)) => trace_state = bytes,
                (4, Payload::Bytes(bytes)) => parent_span_id = bytes,
                (5, Payload::Bytes(bytes)) => name = bytes,
                (6, Payload::Varint(bits)) => kind = bits,
                (7, Payload::Fixed64(bits)) => start_time_unix_nano = bits,
                (8, Payload::Fixed64(bits)) => end_time_unix_nano = bits,
                (10, Payload::Varint(bits)) => dropped_attributes = bits,
                (EVENTS, Payload::Bytes(bytes)) => {
                    EventView::read(bytes, true)?;
                    events.add(start, end);
                }
                (12, Payload::Varint(bits)) => dropped_events = bits,
                (LINKS, Payload::Bytes(bytes)) => {
                    LinkView::read(bytes, true)?;
                    links.add(start, end);
                }
                (14, Payload::Varint(bits)) => dropped_links = bits,
                (15, Payload::Bytes(bytes)) => status = bytes,
                (16, Payload::Fixed32(bits)) => flags = bits,
                (number @ 1..=16, _) => return Err(WireError::WireType(number).into()),
                _ => {}
            }
        }

        let (status_code, status_message) = read_status(status)?;
        let trace_id: &[u8; 16] = trace_id.try_into().map_err(|_| SpanFault::InvalidTraceId)?;
        if *trace_id == [0; 16] {
            return Err(SpanFault::InvalidTraceId);
        }
        let span_id: &[u8; 8] = span_id.try_into().map_err(|_| SpanFault::InvalidSpanId)?;
        if *span_id == [0; 8] {
            return Err(SpanFault::InvalidSpanId);
        }
        if parent_span_id.iter().all(|byte| *byte == 0) {
            parent_span_id = &[];
        }
        Ok(Self {
            trace_id,
            span_id,
            parent_span_id,
            trace_state: text(trace_state),
            flags,
            name: text(name),
            kind: known(kind, 5),
            start_time_unix_nano,
            end_time_unix_nano,
            dropped_attributes_count: dropped_attributes as u32,
            dropped_events_count: dropped_events as u32,
            dropped_links_count: dropped_links as u32,
            status_code,
            status_message: text(status_message),
            attributes: attributes.of(message),
            events: events.of(message),
            links: links.of(message),
        })
    }

    #[inline]
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes::new(self.attributes.bytes, ATTRIBUTES)
    }

    /// [`Self::attributes`] before their texts are looked at.
    #[inline]
    pub fn raw_attributes(&self) -> RawAttributes<'a> {
        RawAttributes::new(self.attributes.bytes, ATTRIBUTES)
    }

    #[inline]
    pub fn events(&self) -> Events<'a> {
        Events { reader: Reader::new(self.events.bytes) }
    }

    #[inline]
    pub fn links(&self) -> Links<'a> {
        Links { reader: Reader::new(self.links.bytes) }
    }

    /// How many attributes [`Self::attributes`] gives.
    #[inline]
    pub fn attribute_count(&self) -> usize {
        self.attributes.count
    }

    #[inline]
    pub fn event_count(&self) -> usize {
        self.events.count
    }

    #[inline]
    pub fn link_count(&self) -> usize {
        self.links.count
    }
}

/// An enum's number, or 0 if OTLP does not define it.
#[inline]
fn known(bits: u64, last: i32) -> i32 {
    // A protobuf enum is the low 32 bits of its varint.
    let number = bits as i32;
    if (0..=last).contains(&number) { number } else { 0 }
}

#[inline]
fn read_status(message: &[u8]) -> Result<(i32, &[u8]), WireError> {
    let (mut code, mut text): (u64, &[u8]) = (0, &[]);
    let mut reader = Reader::new(message);
    while let Some(field) = reader.field()? {
        match field {
            (2, Payload::Bytes(bytes)) => text = bytes,
            (3, Payload::Varint(bits)) => code = bits,
            (number @ 2..=3, _) => return Err(WireError::WireType(number)),
            _ => {}
        }
    }
    Ok((known(code, 2), text))
}

#[derive(Clone)]
pub struct EventView<'a> {
    pub time_unix_nano: u64,
    pub name: Cow<'a, str>,
    pub dropped_attributes_count: u32,
    message: &'a [u8],
}

impl<'a> EventView<'a> {
    const ATTRIBUTES: u32 = 3;

    #[inline]
    fn read(message: &'a [u8], check: bool) -> Result<Self, ValueFault> {
        let (mut time_unix_nano, mut name, mut dropped): (u64, &[u8], u64) = (0, &[], 0);
        let mut reader = Reader::new(message);
        while let Some(field) = reader.field()? {
            match field {
                (1, Payload::Fixed64(bits)) => time_unix_nano = bits,
                (2, Payload::Bytes(bytes)) => name = bytes,
                (Self::ATTRIBUTES, Payload::Bytes(bytes)) if check => check_key_value(bytes)?,
                (Self::ATTRIBUTES, Payload::Bytes(_)) => {}
                (4, Payload::Varint(bits)) => dropped = bits,
                (number @ 1..=4, _) => return Err(WireError::WireType(number).into()),
                _ => {}
            }
        }
        Ok(Self { time_unix_nano, name: text(name), dropped_attributes_count: dropped as u32, message })
    }

    pub fn attributes(&self) -> Attributes<'a> {
        Attributes::new(self.message, Self::ATTRIBUTES)
    }
}

#[derive(Clone)]
pub struct LinkView<'a> {
    /// As it came, of any length.
    pub trace_id: &'a [u8],
    /// As it came, of any length.
    pub span_id: &'a [u8],
    pub trace_state: Cow<'a, str>,
    pub flags: u32,
    pub dropped_attributes_count: u32,
    message: &'a [u8],
}

impl<'a> LinkView<'a> {
    const ATTRIBUTES: u32 = 4;

    #[inline]
    fn read(message: &'a [u8], check: bool) -> Result<Self, ValueFault> {
        let (mut trace_id, mut span_id, mut trace_state): (&[u8], &[u8], &[u8]) = (&[], &[], &[]);
        let (mut flags, mut dropped) = (0u32, 0u64);
        let mut reader = Reader::new(message);
        while let Some(field) = reader.field()? {
            match field {
                (1, Payload::Bytes(bytes)) => trace_id = bytes,
                (2, Payload::Bytes(bytes)) => span_id = bytes,
                (3, Payload::Bytes(bytes)) => trace_state = bytes,
                (Self::ATTRIBUTES, Payload::Bytes(bytes)) if check => check_key_value(bytes)?,
                (Self::ATTRIBUTES, Payload::Bytes(_)) => {}
                (5, Payload::Varint(bits)) => dropped = bits,
                (6, Payload::Fixed32(bits)) => flags = bits,
                (number @ 1..=6, _) => return Err(WireError::WireType(number).into()),
                _ => {}
            }
        }
        let trace_state = text(trace_state);
        Ok(Self { trace_id, span_id, trace_state, flags, dropped_attributes_count: dropped as u32, message })
    }

    pub fn attributes(&self) -> Attributes<'a> {
        Attributes::new(self.message, Self::ATTRIBUTES)
    }
}

/// The events of a span, in the order they came.
#[derive(Clone)]
pub struct Events<'a> {
    reader: Reader<'a>,
}

impl<'a> Iterator for Events<'a> {
    type Item = EventView<'a>;

    #[inline]
    fn next(&mut self) -> Option<EventView<'a>> {
        EventView::read(self.reader.next_bytes(EVENTS)?, false).ok()
    }
}

/// The links of a span, in the order they came.
#[derive(Clone)]
pub struct Links<'a> {
    reader: Reader<'a>,
}

impl<'a> Iterator for Links<'a> {
    type Item = LinkView<'a>;

    #[inline]
    fn next(&mut self) -> Option<LinkView<'a>> {
        LinkView::read(self.reader.next_bytes(LINKS)?, false).ok()
    }
}
