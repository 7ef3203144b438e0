//! Black-box tests: the real program, its ports, its folder, and nothing else of it.

mod bad_input;
mod client;
mod clients;
mod collector;
mod conformance;
mod disk_faults;
mod door;
mod grafana;
mod kill;
mod log_damage;
mod reader;
mod replay;
mod s3;
mod s3_server;
mod sdks;
mod server;
mod shown;
mod spans;
mod store_faults;
mod tap;
mod tenants;
mod transfer;
