//! The API over a real socket.

mod grpc;
mod http;
mod server;
mod shutdown;
