//! Jaeger's thrift structures, span by span.

use thrift::protocol::{TInputProtocol, TType};

use super::{KeyValue, Log, Process, RefType, Span, SpanRef, ValueType, duration, timestamp, to_otlp::Sink};
use crate::{
    TranslateError,
    thrift_reader::{Elements, binary, elements, list, reason, structure, text},
};

/// The fields of a batch.
const PROCESS: i16 = 1;
const SPANS: i16 = 2;

pub(super) fn read(body: &[u8], sink: &mut Sink<'_>) -> Result<(), TranslateError> {
    let outcome = find_process(&mut binary(body)).and_then(|process| read_spans(&mut binary(body), &process, sink));
    outcome.map_err(|error| TranslateError::malformed("Jaeger thrift", reason(&error)))
}

/// The process of a batch, which may stand behind the spans.
pub(super) fn find_process<P: TInputProtocol>(input: &mut P) -> thrift::Result<Process> {
    let mut found = Process::default();
    structure(input, |input, id, kind| {
        if (id, kind) != (PROCESS, TType::Struct) {
            return Ok(false);
        }
        found = process(input)?;
        Ok(true)
    })?;
    Ok(found)
}

pub(super) fn read_spans<P: TInputProtocol>(
    input: &mut P,
    process: &Process,
    sink: &mut Sink<'_>,
) -> thrift::Result<()> {
    sink.process(process);
    structure(input, |input, id, kind| {
        if (id, kind) != (SPANS, TType::List) {
            return Ok(false);
        }
        list(input, |input| {
            sink.span(span(input)?);
            Ok(())
        })?;
        Ok(true)
    })
}

fn process<P: TInputProtocol>(input: &mut P) -> thrift::Result<Process> {
    let mut left = Elements::of_a_span();
    let mut out = Process::default();
    structure(input, |input, id, kind| {
        match (id, kind) {
            (1, TType::String) => out.service_name = text(input)?,
            (2, TType::List) => out.tags = elements(input, &mut left, |input, _| tag(input))?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(out)
}

fn trace_id(high: i64, low: i64) -> Vec<u8> {
    [high.to_be_bytes(), low.to_be_bytes()].concat()
}

fn span<P: TInputProtocol>(input: &mut P) -> thrift::Result<Span> {
    let mut left = Elements::of_a_span();
    let mut out = Span::default();
    let (mut low, mut high, mut parent) = (0, 0, 0);
    structure(input, |input, id, kind| {
        match (id, kind) {
            (1, TType::I64) => low = input.read_i64()?,
            (2, TType::I64) => high = input.read_i64()?,
            (3, TType::I64) => out.span_id = input.read_i64()?.to_be_bytes().to_vec(),
            (4, TType::I64) => parent = input.read_i64()?,
            (5, TType::String) => out.operation_name = text(input)?,
            (6, TType::List) => out.references = elements(input, &mut left, |input, _| reference(input))?,
            (7, TType::I32) => out.flags = input.read_i32()? as u32,
            (8, TType::I64) => out.start_time = Some(timestamp(input.read_i64()?)),
            (9, TType::I64) => out.duration = Some(duration(input.read_i64()?)),
            (10, TType::List) => out.tags = elements(input, &mut left, |input, _| tag(input))?,
            (11, TType::List) => out.logs = elements(input, &mut left, log)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    out.trace_id = trace_id(high, low);
    let parent = parent.to_be_bytes().to_vec();
    let named = out.references.iter().any(|r| r.span_id == parent && r.trace_id == out.trace_id);
    if parent != [0; 8] && !named {
        let reference =
            SpanRef { trace_id: out.trace_id.clone(), span_id: parent, ref_type: RefType::ChildOf.into() };
        out.references.insert(0, reference);
    }
    Ok(out)
}

fn reference<P: TInputProtocol>(input: &mut P) -> thrift::Result<SpanRef> {
    let mut out = SpanRef::default();
    let (mut low, mut high) = (0, 0);
    structure(input, |input, id, kind| {
        match (id, kind) {
            (1, TType::I32) => out.ref_type = input.read_i32()?,
            (2, TType::I64) => low = input.read_i64()?,
            (3, TType::I64) => high = input.read_i64()?,
            (4, TType::I64) => out.span_id = input.read_i64()?.to_be_bytes().to_vec(),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    out.trace_id = trace_id(high, low);
    Ok(out)
}

fn log<P: TInputProtocol>(input: &mut P, left: &mut Elements) -> thrift::Result<Log> {
    let mut out = Log::default();
    structure(input, |input, id, kind| {
        match (id, kind) {
            (1, TType::I64) => out.timestamp = Some(timestamp(input.read_i64()?)),
            (2, TType::List) => out.fields = elements(input, left, |input, _| tag(input))?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(out)
}

/// Thrift numbers the types in another order.
fn value_type(number: i32) -> ValueType {
    match number {
        1 => ValueType::Float64,
        2 => ValueType::Bool,
        3 => ValueType::Int64,
        4 => ValueType::Binary,
        _ => ValueType::String,
    }
}

fn tag<P: TInputProtocol>(input: &mut P) -> thrift::Result<KeyValue> {
    let mut out = KeyValue::default();
    structure(input, |input, id, kind| {
        match (id, kind) {
            (1, TType::String) => out.key = text(input)?,
            (2, TType::I32) => out.v_type = value_type(input.read_i32()?).into(),
            (3, TType::String) => out.v_str = text(input)?,
            (4, TType::Double) => out.v_float64 = input.read_double()?,
            (5, TType::Bool) => out.v_bool = input.read_bool()?,
            (6, TType::I64) => out.v_int64 = input.read_i64()?,
            (7, TType::String) => out.v_binary = input.read_bytes()?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(out)
}
