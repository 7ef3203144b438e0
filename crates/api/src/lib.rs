//! The Tempo API, HTTP and gRPC on one port.
mod accept;
mod ask;
mod config;
mod failure;
mod logfmt;
pub mod moment;
mod params;
mod query_string;
mod tenancy;

pub use config::{ApiConfig, QueryLimits};
pub use failure::Failure;
