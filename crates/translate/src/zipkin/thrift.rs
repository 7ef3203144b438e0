//! Zipkin's thrift format: a list of version 1 structures in the binary protocol.

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::{Engine, engine::general_purpose::STANDARD};
use model::{SpanId, TraceId};
use thrift::protocol::{TInputProtocol, TType};

use super::{
    Endpoint, Span,
    v1::{V1Annotation, V1BinaryAnnotation, V1Span},
};
use crate::{
    TranslateError,
    thrift_reader::{Elements, binary, elements, list, reason, structure, text},
};

pub(super) fn read(body: &[u8], each: &mut dyn FnMut(Span)) -> Result<(), TranslateError> {
    read_list(&mut binary(body), each).map_err(|error| TranslateError::malformed("Zipkin thrift", reason(&error)))
}

pub(super) fn read_list<P: TInputProtocol>(input: &mut P, each: &mut dyn FnMut(Span)) -> thrift::Result<()> {
    list(input, |input| {
        span(input)?.convert(each);
        Ok(())
    })
}

fn span<P: TInputProtocol>(input: &mut P) -> thrift::Result<V1Span> {
    let mut left = Elements::of_a_span();
    let mut span = V1Span::default();
    let (mut high, mut low) = (0, 0);
    structure(input, |input, id, kind| {
        match (id, kind) {
            (1, TType::I64) => low = input.read_i64()? as u64,
            (3, TType::String) => span.name = text(input)?,
            (4, TType::I64) => span.id = SpanId(input.read_i64()?.to_be_bytes()),
            (5, TType::I64) => span.parent_id = Some(SpanId(input.read_i64()?.to_be_bytes())).filter(|id| !id.is_zero()),
            (6, TType::List) => span.annotations = elements(input, &mut left, |input, _| annotation(input))?,
            (8, TType::List) => span.binary_annotations = elements(input, &mut left, |input, _| binary_annotation(input))?,
            (9, TType::Bool) => span.debug = input.read_bool()?,
            (10, TType::I64) => span.timestamp = u64::try_from(input.read_i64()?).unwrap_or_default(),
            (11, TType::I64) => span.duration = u64::try_from(input.read_i64()?).unwrap_or_default(),
            (12, TType::I64) => high = input.read_i64()? as u64,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    span.trace_id = TraceId::from(u128::from(high) << 64 | u128::from(low));
    Ok(span)
}

fn annotation<P: TInputProtocol>(input: &mut P) -> thrift::Result<V1Annotation> {
    let mut out = V1Annotation { timestamp: 0, value: String::new(), endpoint: Endpoint::default() };
    structure(input, |input, id, kind| {
        match (id, kind) {
            (1, TType::I64) => out.timestamp = u64::try_from(input.read_i64()?).unwrap_or_default(),
            (2, TType::String) => out.value = text(input)?,
            (3, TType::Struct) => out.endpoint = endpoint(input)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(out)
}

fn binary_annotation<P: TInputProtocol>(input: &mut P) -> thrift::Result<V1BinaryAnnotation> {
    let mut out = V1BinaryAnnotation { key: String::new(), value: None, endpoint: Endpoint::default() };
    let (mut value, mut value_type) = (vec![], TEXT);
    structure(input, |input, id, kind| {
        match (id, kind) {
            (1, TType::String) => out.key = text(input)?,
            (2, TType::String) => value = input.read_bytes()?,
            (3, TType::I32) => value_type = input.read_i32()?,
            (4, TType::Struct) => out.endpoint = endpoint(input)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let is_address = value_type == BOOL && value == [1] && matches!(out.key.as_str(), "sa" | "ca" | "ma");
    out.value = (!is_address).then(|| value_text(value, value_type));
    Ok(out)
}

const BOOL: i32 = 0;
const TEXT: i32 = 6;

/// Numbers are big-endian. A value that does not have the length of its type is bytes.
fn value_text(value: Vec<u8>, value_type: i32) -> String {
    let text = match value_type {
        BOOL => <[u8; 1]>::try_from(value.as_slice()).ok().map(|[byte]| (byte != 0).to_string()),
        2 => value.as_slice().try_into().ok().map(|bytes| i16::from_be_bytes(bytes).to_string()),
        3 => value.as_slice().try_into().ok().map(|bytes| i32::from_be_bytes(bytes).to_string()),
        4 => value.as_slice().try_into().ok().map(|bytes| i64::from_be_bytes(bytes).to_string()),
        5 => value.as_slice().try_into().ok().map(|bytes| f64::from_be_bytes(bytes).to_string()),
        TEXT => return String::from_utf8_lossy(&value).into_owned(),
        _ => None,
    };
    text.unwrap_or_else(|| STANDARD.encode(&value))
}

fn endpoint<P: TInputProtocol>(input: &mut P) -> thrift::Result<Endpoint> {
    let mut out = Endpoint::default();
    structure(input, |input, id, kind| {
        match (id, kind) {
            (1, TType::I32) => {
                let address = input.read_i32()? as u32;
                out.ipv4 = (address != 0).then(|| Ipv4Addr::from(address));
            }
            (2, TType::I16) => out.port = input.read_i16()? as u16,
            (3, TType::String) => out.service_name = text(input)?,
            (4, TType::String) => out.ipv6 = <[u8; 16]>::try_from(input.read_bytes()?).ok().map(Ipv6Addr::from),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(out)
}
