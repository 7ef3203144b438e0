//! Zipkin's protobuf format of version 2.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use model::{SpanId, TraceId};
use prost::Message;

use super::{Annotation, Endpoint, Kind, Span};
use crate::{TranslateError, wire_walk};

const FORMAT: &str = "Zipkin protobuf";

/// Of `ListOfSpans`.
const SPANS: u32 = 1;

#[derive(Clone, PartialEq, Message)]
struct ProtoSpan {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    parent_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    id: Vec<u8>,
    #[prost(int32, tag = "4")]
    kind: i32,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(fixed64, tag = "6")]
    timestamp: u64,
    #[prost(uint64, tag = "7")]
    duration: u64,
    #[prost(message, optional, tag = "8")]
    local_endpoint: Option<ProtoEndpoint>,
    #[prost(message, optional, tag = "9")]
    remote_endpoint: Option<ProtoEndpoint>,
    #[prost(message, repeated, tag = "10")]
    annotations: Vec<ProtoAnnotation>,
    #[prost(map = "string, string", tag = "11")]
    tags: HashMap<String, String>,
    #[prost(bool, tag = "12")]
    debug: bool,
    #[prost(bool, tag = "13")]
    shared: bool,
}

#[derive(Clone, PartialEq, Message)]
struct ProtoEndpoint {
    #[prost(string, tag = "1")]
    service_name: String,
    #[prost(bytes = "vec", tag = "2")]
    ipv4: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    ipv6: Vec<u8>,
    #[prost(int32, tag = "4")]
    port: i32,
}

#[derive(Clone, PartialEq, Message)]
struct ProtoAnnotation {
    #[prost(fixed64, tag = "1")]
    timestamp: u64,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct ListOfSpans {
    #[prost(message, repeated, tag = "1")]
    spans: Vec<ProtoSpan>,
}

pub(super) fn read(body: &[u8], each: &mut dyn FnMut(Span)) -> Result<(), TranslateError> {
    wire_walk::fields(body, FORMAT, |tag, message| {
        if tag == SPANS {
            wire_walk::check_elements(message, &[], FORMAT)?;
            let span = ProtoSpan::decode(message).map_err(|error| TranslateError::malformed(FORMAT, error))?;
            each(span.into());
        }
        Ok(())
    })
}

pub fn write(spans: &[Span]) -> Vec<u8> {
    ListOfSpans { spans: spans.iter().map(ProtoSpan::from).collect() }.encode_to_vec()
}

impl From<ProtoSpan> for Span {
    fn from(proto: ProtoSpan) -> Self {
        let kind = usize::try_from(proto.kind - 1).ok().and_then(|at| Kind::ALL.get(at).copied());
        let annotations = proto.annotations.into_iter();
        let mut tags: Vec<(String, String)> = proto.tags.into_iter().collect();
        tags.sort();
        Self {
            trace_id: trace_id(&proto.trace_id),
            parent_id: SpanId::from_slice(&proto.parent_id).filter(|id| !id.is_zero()),
            id: SpanId::from_slice(&proto.id).unwrap_or_default(),
            kind,
            name: proto.name,
            timestamp: proto.timestamp,
            duration: proto.duration,
            local_endpoint: proto.local_endpoint.map(Endpoint::from).unwrap_or_default(),
            remote_endpoint: proto.remote_endpoint.map(Endpoint::from).unwrap_or_default(),
            annotations: annotations.map(|a| Annotation { timestamp: a.timestamp, value: a.value }).collect(),
            tags,
            debug: proto.debug,
            shared: proto.shared,
        }
    }
}

/// 8 or 16 bytes.
fn trace_id(bytes: &[u8]) -> TraceId {
    let low = || <[u8; 8]>::try_from(bytes).ok().map(|low| TraceId::from(u128::from(u64::from_be_bytes(low))));
    TraceId::from_slice(bytes).or_else(low).unwrap_or_default()
}

impl From<ProtoEndpoint> for Endpoint {
    fn from(proto: ProtoEndpoint) -> Self {
        Self {
            service_name: proto.service_name,
            ipv4: <[u8; 4]>::try_from(proto.ipv4.as_slice()).ok().map(Ipv4Addr::from),
            ipv6: <[u8; 16]>::try_from(proto.ipv6.as_slice()).ok().map(Ipv6Addr::from),
            port: u16::try_from(proto.port).unwrap_or_default(),
        }
    }
}

impl From<&Span> for ProtoSpan {
    fn from(span: &Span) -> Self {
        let endpoint = |endpoint: &Endpoint| (!endpoint.is_empty()).then(|| ProtoEndpoint::from(endpoint));
        let number = |kind| Kind::ALL.iter().position(|other| *other == kind).map_or(0, |at| at as i32 + 1);
        let annotations = span.annotations.iter();
        Self {
            trace_id: span.trace_id.0.to_vec(),
            parent_id: span.parent_id.map(|id| id.0.to_vec()).unwrap_or_default(),
            id: span.id.0.to_vec(),
            kind: span.kind.map_or(0, number),
            name: span.name.clone(),
            timestamp: span.timestamp,
            duration: span.duration,
            local_endpoint: endpoint(&span.local_endpoint),
            remote_endpoint: endpoint(&span.remote_endpoint),
            annotations: annotations.map(|a| ProtoAnnotation { timestamp: a.timestamp, value: a.value.clone() }).collect(),
            tags: span.tags.iter().cloned().collect(),
            debug: span.debug,
            shared: span.shared,
        }
    }
}

impl From<&Endpoint> for ProtoEndpoint {
    fn from(endpoint: &Endpoint) -> Self {
        Self {
            service_name: endpoint.service_name.clone(),
            ipv4: endpoint.ipv4.map(|address| address.octets().to_vec()).unwrap_or_default(),
            ipv6: endpoint.ipv6.map(|address| address.octets().to_vec()).unwrap_or_default(),
            port: endpoint.port.into(),
        }
    }
}
