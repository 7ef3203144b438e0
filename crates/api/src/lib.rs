//! The Tempo API, HTTP and gRPC on one port, the query APIs of Jaeger and Zipkin, and the server's own pages.
//!
//! Only this crate knows how the clients of these write their questions: parameters, headers, codes, forms of answers.
//! What is asked becomes a `query` request; the engine answers with Tempo's messages. Every request is bounded:
//! its size, its time, how many run at once.

mod accept;
mod account;
mod admin;
mod ask;
mod config;
mod export;
mod failure;
mod foreign;
mod gate;
mod grpc;
mod llm;
mod logfmt;
mod mcp;
mod metrics;
pub mod moment;
mod needs;
mod observe;
mod overrides;
mod packets;
mod params;
mod process;
mod query_string;
mod read_limits;
mod routes;
mod running;
mod sampling;
mod server;
mod shape;
mod sql;
mod state;
mod status;
mod tempo;
mod tenancy;

pub use admin::{Flush, Flushed};
pub use config::{ApiConfig, QueryLimits};
pub use failure::Failure;
pub use metrics::{BuildInfo, Metrics};
pub use needs::{delivery_needs, foreign_needs, needs, sampling_needs};
pub use overrides::{Overrides, OverridesAnswer, OverridesCall, stale};
pub use prometheus_client;
pub use read_limits::{CurrentReadLimits, ReadLimits, TenantReadLimits};
pub use sampling::{CurrentStrategies, FILE_BYTES_MAX as STRATEGIES_BYTES_MAX, Strategies};
pub use server::{Api, serve};
pub use state::{ApiState, Readiness, ReadyState};
pub use status::StatusPages;
