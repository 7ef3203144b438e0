//! The API over a real socket.

mod answers;
mod cancel;
mod data;
mod death;
mod grafana;
mod grpc;
mod http;
mod partial;
mod server;
mod shutdown;
mod sql;
