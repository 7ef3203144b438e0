//! The API over a real socket.

mod answers;
mod data;
mod grpc;
mod http;
mod server;
mod shutdown;
