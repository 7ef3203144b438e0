//! Black-box tests: the real program, its ports, its folder, and nothing else of it.

mod client;
mod conformance;
mod kill;
mod log_damage;
mod reader;
mod replay;
mod s3;
mod s3_server;
mod server;
mod spans;
