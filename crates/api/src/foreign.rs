//! The query APIs of Jaeger and Zipkin, over the same engine as Tempo's.

pub mod conditions;
mod dependencies;
pub mod jaeger;
mod jaeger_v3;
mod lookup;
pub mod zipkin;
