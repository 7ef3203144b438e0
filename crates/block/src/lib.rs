//! The block format: bytes in, bytes out. No I/O.

pub mod batch;
pub mod builder;
pub mod catalogue;
pub mod error;
pub mod merge;
pub mod promotion;
pub mod rebuild;
pub mod schema;
pub mod sidecar;
pub mod stats;
pub mod whole_trace;
pub mod writer;

pub use error::BlockError;
