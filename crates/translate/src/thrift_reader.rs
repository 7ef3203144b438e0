//! Reading thrift structures by hand, with limits.
//!
//! Fields of an unknown id or of another type than expected are passed over. What is not UTF-8 becomes U+FFFD.

use thrift::{
    TConfiguration,
    protocol::{TBinaryInputProtocol, TCompactInputProtocol, TInputProtocol, TType},
};

use crate::{NESTING_MAX, SPAN_ELEMENTS_MAX};

/// No container has more elements and no text more bytes than the body has bytes.
fn limits(body: &[u8]) -> TConfiguration {
    TConfiguration::builder()
        .max_recursion_depth(Some(NESTING_MAX))
        .max_container_size(Some(body.len()))
        .max_string_size(Some(body.len()))
        .build()
        .expect("the frame limit is that of the default")
}

pub(crate) fn binary(body: &[u8]) -> TBinaryInputProtocol<&[u8]> {
    TBinaryInputProtocol::with_config(body, false, limits(body))
}

pub(crate) fn compact(body: &[u8]) -> TCompactInputProtocol<&[u8]> {
    TCompactInputProtocol::with_config(body, limits(body))
}

/// How many elements a span may still have.
pub(crate) struct Elements(usize);

impl Elements {
    pub(crate) fn of_a_span() -> Self {
        Self(SPAN_ELEMENTS_MAX)
    }

    fn take(&mut self) -> thrift::Result<()> {
        self.0 = self.0.checked_sub(1).ok_or_else(|| invalid("a span has too many elements"))?;
        Ok(())
    }
}

/// What is wrong, of an error that the protocol or this module found.
pub(crate) fn reason(error: &thrift::Error) -> String {
    match error {
        thrift::Error::Protocol(error) => error.message.clone(),
        thrift::Error::Transport(error) => format!("it ends inside a structure ({})", error.message),
        other => other.to_string(),
    }
}

pub(crate) fn invalid(message: &str) -> thrift::Error {
    thrift::Error::Protocol(thrift::ProtocolError::new(thrift::ProtocolErrorKind::InvalidData, message))
}

/// Reads a structure. `field` reads a field it knows and answers true, or reads nothing and answers false.
pub(crate) fn structure<P: TInputProtocol>(
    input: &mut P,
    mut field: impl FnMut(&mut P, i16, TType) -> thrift::Result<bool>,
) -> thrift::Result<()> {
    input.read_struct_begin()?;
    loop {
        let header = input.read_field_begin()?;
        if header.field_type == TType::Stop {
            return input.read_struct_end();
        }
        if !field(input, header.id.unwrap_or_default(), header.field_type)? {
            input.skip(header.field_type)?;
        }
        input.read_field_end()?;
    }
}

/// Reads a list of structures; one of something else is passed over.
pub(crate) fn list<P: TInputProtocol>(
    input: &mut P,
    mut element: impl FnMut(&mut P) -> thrift::Result<()>,
) -> thrift::Result<()> {
    let header = input.read_list_begin()?;
    for _ in 0..header.size {
        match header.element_type {
            TType::Struct => element(input)?,
            other => input.skip(other)?,
        }
    }
    input.read_list_end()
}

/// Reads a list whose elements count against those of a span.
pub(crate) fn elements<P: TInputProtocol, T>(
    input: &mut P,
    left: &mut Elements,
    mut element: impl FnMut(&mut P, &mut Elements) -> thrift::Result<T>,
) -> thrift::Result<Vec<T>> {
    let mut all = vec![];
    list(input, |input| {
        left.take()?;
        all.push(element(input, left)?);
        Ok(())
    })?;
    Ok(all)
}

pub(crate) fn text<P: TInputProtocol>(input: &mut P) -> thrift::Result<String> {
    let bytes = input.read_bytes()?;
    Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}
