//! The program's parts: command line, configuration, wiring, the demo, and what a terminal shows.
//!
//! Only this crate knows all roles; it makes components of settings and nothing else decides what they are.

pub mod ask;
mod build;
pub mod cli;
pub mod client;
pub mod config;
pub mod demo;
mod gates;
pub mod inspect;
#[cfg_attr(not(feature = "kafka"), path = "kafka_left_out.rs")]
mod kafka;
mod keys;
mod limits;
mod logging;
mod observe;
mod receive;
mod redaction;
pub mod retention;
pub mod serve;
pub mod show;
mod sockets;
mod traced;
pub mod transfer;
mod user_overrides;
