//! Messages to a Jaeger agent: one call per datagram, without an answer.

use thrift::protocol::{TInputProtocol, TType};

use super::{thrift as batch, to_otlp::Sink};
use crate::{
    TranslateError,
    request::RequestWriter,
    thrift_reader::{binary, compact, invalid, reason, structure},
    zipkin,
};

/// Of thrift's. Each has a port of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Compact,
    Binary,
}

pub(super) fn read(
    protocol: Protocol,
    body: &[u8],
    received_unix_nano: u64,
    writer: &mut RequestWriter,
) -> Result<(), TranslateError> {
    let outcome = match protocol {
        Protocol::Compact => read_with(|| compact(body), received_unix_nano, writer),
        Protocol::Binary => read_with(|| binary(body), received_unix_nano, writer),
    };
    outcome.map_err(|error| TranslateError::malformed("a message to a Jaeger agent", reason(&error)))
}

/// `start` begins at the first byte each time.
fn read_with<P: TInputProtocol>(
    start: impl Fn() -> P,
    received_unix_nano: u64,
    writer: &mut RequestWriter,
) -> thrift::Result<()> {
    let mut input = start();
    match input.read_message_begin()?.name.as_str() {
        "emitBatch" => {
            let mut process = super::Process::default();
            argument(&mut input, TType::Struct, |input| {
                process = batch::find_process(input)?;
                Ok(())
            })?;
            let mut input = start();
            input.read_message_begin()?;
            argument(&mut input, TType::Struct, |input| {
                batch::read_spans(input, &process, &mut Sink::new(writer))
            })
        }
        "emitZipkinBatch" => argument(&mut input, TType::List, |input| {
            zipkin::thrift_request(input, received_unix_nano, writer)
        }),
        _ => Err(invalid("it calls neither emitBatch nor emitZipkinBatch")),
    }
}

/// The one argument of a call.
fn argument<P: TInputProtocol>(
    input: &mut P,
    expected: TType,
    mut read: impl FnMut(&mut P) -> thrift::Result<()>,
) -> thrift::Result<()> {
    structure(input, |input, id, kind| {
        let known = (id, kind) == (1, expected);
        if known {
            read(input)?;
        }
        Ok(known)
    })
}
