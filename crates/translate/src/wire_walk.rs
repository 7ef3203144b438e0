//! A look over the frame of a protobuf message, before it is decoded.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::{SPAN_ELEMENTS_MAX, TranslateError};

/// The fields of a message that have a length, in order; the others are passed over.
pub(crate) fn fields<'a>(
    mut message: &'a [u8],
    format: &'static str,
    mut each: impl FnMut(u32, &'a [u8]) -> Result<(), TranslateError>,
) -> Result<(), TranslateError> {
    let malformed = |error: prost::DecodeError| TranslateError::malformed(format, error);
    while !message.is_empty() {
        let (tag, wire_type) = decode_key(&mut message).map_err(malformed)?;
        if wire_type != WireType::LengthDelimited {
            skip_field(wire_type, tag, &mut message, DecodeContext::default()).map_err(malformed)?;
            continue;
        }
        let length = decode_varint(&mut message).map_err(malformed)?;
        let field = usize::try_from(length).ok().and_then(|length| message.split_at_checked(length));
        let Some((field, rest)) = field else {
            return Err(TranslateError::malformed(format, "it ends inside a field"));
        };
        message = rest;
        each(tag, field)?;
    }
    Ok(())
}

/// Refuses a span with more than [`SPAN_ELEMENTS_MAX`] fields, those inside the fields `nested` included.
pub(crate) fn check_elements(span: &[u8], nested: &[u32], format: &'static str) -> Result<(), TranslateError> {
    let mut count = 0;
    let mut one_more = || {
        count += 1;
        if count > SPAN_ELEMENTS_MAX { Err(TranslateError::SpanTooLarge) } else { Ok(()) }
    };
    fields(span, format, |tag, field| {
        one_more()?;
        match nested.contains(&tag) {
            true => fields(field, format, |_, _| one_more()),
            false => Ok(()),
        }
    })
}
