//! Trace and span ids.

use std::fmt;

/// A trace id: 16 bytes, never all zero when it comes from a client.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct TraceId(pub [u8; 16]);

/// A span id: 8 bytes, never all zero when it comes from a client.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct SpanId(pub [u8; 8]);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdError {
    #[error("a trace id is 1 to 32 hexadecimal digits; this one has {0}")]
    Length(usize),
    #[error("a trace id is hexadecimal digits only; found {0:?}")]
    Digit(char),
}

impl TraceId {
    /// Reads the id of a request path: up to 32 hex digits in either case, padded with zeros on the left.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        if let Some(c) = text.chars().find(|c| !c.is_ascii_hexdigit()) {
            return Err(IdError::Digit(c));
        }
        if text.is_empty() || text.len() > 32 {
            return Err(IdError::Length(text.len()));
        }
        let value = u128::from_str_radix(text, 16).expect("at most 32 hex digits fit 128 bits");
        Ok(Self(value.to_be_bytes()))
    }

    /// From the bytes of a message. `None` unless there are exactly 16.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub fn is_zero(&self) -> bool {
        self.0 == [0; 16]
    }

    pub fn as_u128(&self) -> u128 {
        u128::from_be_bytes(self.0)
    }

    /// Hex without leading zeros, as Tempo prints ids in search results. A zero id prints as `0`.
    pub fn short_hex(&self) -> String {
        format!("{:x}", self.as_u128())
    }
}

impl From<u128> for TraceId {
    fn from(value: u128) -> Self {
        Self(value.to_be_bytes())
    }
}

impl SpanId {
    /// From the bytes of a message. `None` unless there are exactly 8.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub fn is_zero(&self) -> bool {
        self.0 == [0; 8]
    }

    pub fn as_u64(&self) -> u64 {
        u64::from_be_bytes(self.0)
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.as_u128())
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.as_u64())
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_ids_are_padded_on_the_left() {
        let id = TraceId::parse("1F1ea52d4100399b").unwrap();
        assert_eq!(id.to_string(), "00000000000000001f1ea52d4100399b");
        assert_eq!(id.short_hex(), "1f1ea52d4100399b");
        assert_eq!(TraceId::parse("abc").unwrap().short_hex(), "abc");
    }

    #[test]
    fn what_is_not_a_trace_id_is_named() {
        assert_eq!(TraceId::parse("zz"), Err(IdError::Digit('z')));
        assert_eq!(TraceId::parse(&"1".repeat(33)), Err(IdError::Length(33)));
        assert_eq!(TraceId::parse(""), Err(IdError::Length(0)));
    }
}
