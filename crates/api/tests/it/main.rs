//! The API over a real socket.

mod answers;
mod data;
mod grpc;
mod http;
mod partial;
mod server;
mod shutdown;
