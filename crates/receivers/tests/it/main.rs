//! Real clients and raw sockets against receivers over a real ingester.

mod connections;
mod foreign;
mod grpc;
mod http;
mod setup;
