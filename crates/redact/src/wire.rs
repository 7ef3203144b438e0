//! Protobuf's fields: read one by one, and written again.

/// One field of a message.
pub(crate) struct Field<'m> {
    pub number: u64,
    pub content: Content<'m>,
    /// Its bytes, tag and all.
    pub raw: &'m [u8],
    /// Where the next begins.
    pub end: usize,
}

#[derive(Clone, Copy)]
pub(crate) enum Content<'m> {
    Varint(u64),
    /// Of 4 or 8 bytes.
    Fixed,
    Bytes(&'m [u8]),
}

/// The field that begins at `at`; `None` for what is no field.
pub(crate) fn field(message: &[u8], at: usize) -> Option<Field<'_>> {
    let mut position = at;
    let tag = varint(message, &mut position)?;
    let content = match tag & 7 {
        0 => Content::Varint(varint(message, &mut position)?),
        1 => take(message, &mut position, 8).map(|_| Content::Fixed)?,
        2 => {
            let length = varint(message, &mut position)?;
            Content::Bytes(take(message, &mut position, length)?)
        }
        5 => take(message, &mut position, 4).map(|_| Content::Fixed)?,
        _ => return None,
    };
    (tag >> 3 != 0).then_some(Field { number: tag >> 3, content, raw: &message[at..position], end: position })
}

fn take<'m>(message: &'m [u8], position: &mut usize, length: u64) -> Option<&'m [u8]> {
    let end = position.checked_add(usize::try_from(length).ok()?)?;
    let taken = message.get(*position..end)?;
    *position = end;
    Some(taken)
}

fn varint(bytes: &[u8], position: &mut usize) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*position)?;
        *position += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u64, content: &[u8]) {
    put_varint(out, number << 3 | 2);
    put_varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
