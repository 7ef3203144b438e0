//! The API over a real socket.
// `cfg(fuzzing)` is set by fuzzers.
#![allow(unexpected_cfgs)]

mod answers;
mod cancel;
mod data;
mod death;
mod fuzz;
mod grafana;
mod grpc;
mod http;
mod partial;
mod server;
mod shutdown;
mod sql;
