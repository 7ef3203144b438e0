//! Moves traces from one store to another, and the settings of another store to ours.
//!
//! [`import`] reads what other stores and collectors leave behind and sends it to an OTLP endpoint; [`export`] asks a server
//! and writes files; [`migrate`] reads another store's configuration. This crate prints nothing and reads no
//! environment: what happens on the way is told to a callback, and credentials of object stores are handed in.
//!
//! What is in memory at one time is bounded: [`RECORD_BYTES_MAX`] for what is read, a few requests of about
//! [`REQUEST_BYTES`] for what is sent.

mod batches;
pub mod export;
mod http;
pub mod import;
pub mod migrate;
mod tempo;

pub use http::{HttpOptions, TransferError};

/// The largest record of a source: a line, a frame, or an element of a JSON list. A larger one is counted as bad and left out.
pub const RECORD_BYTES_MAX: usize = 64 << 20;
/// Requests are sent when they have as many bytes. Larger ones spare round trips, smaller ones are repeated faster.
pub const REQUEST_BYTES: usize = 1 << 20;
/// A record that is larger as a request is cut into several, span by span.
pub const REQUEST_BYTES_MAX: usize = 4 << 20;
