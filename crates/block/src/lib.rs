//! The block format: bytes in, bytes out. No I/O.

pub mod catalogue;
pub mod schema;
