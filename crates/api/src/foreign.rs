//! The query APIs of Jaeger and Zipkin, over the same engine as Tempo's.

pub mod conditions;
mod dependencies;
pub mod jaeger;
mod jaeger_messages;
pub mod jaeger_rpc;
mod jaeger_v3;
mod lookup;
mod service_metrics;
mod summaries;
pub mod zipkin;
