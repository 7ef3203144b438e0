//! The ports' door: encryption, credentials, roles, tenants, and what is written down.

mod access;
mod agents;
mod audit;
pub mod authority;
mod certificates;
mod commands;
mod limits;
mod paths;
mod redaction;
mod sampling;
mod secrets;
mod tls;
mod tokens;

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

use crate::server::{Settings, binary};

/// Every port there is, chosen by the system.
fn every_port(folder: &Path) -> Settings {
    let endpoint = json!({ "endpoint": "127.0.0.1:0" });
    let jaeger = json!({ "protocols": { "grpc": endpoint, "thrift_http": endpoint } });
    Settings::new(folder)
        .with("distributor.receivers.zipkin", endpoint)
        .with("distributor.receivers.jaeger", jaeger)
        .with("server.jaeger_query_endpoint", "127.0.0.1:0")
        .with("server.jaeger_query_grpc_endpoint", "127.0.0.1:0")
        .with("server.grpc_listen_port", 0)
}

/// A key of `sostenuto keys create`, and the line that lets it in.
struct Key {
    key: String,
    line: String,
}

impl Key {
    fn create(arguments: &[&str]) -> Self {
        let output = Command::new(binary()).args(["keys", "create"]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap().to_owned();
        Self { key: line("sos_"), line: line("- ") }
    }

    /// The part of it that is secret.
    fn secret(&self) -> &str {
        self.key.splitn(3, '_').nth(2).unwrap()
    }
}

fn write_keys(path: &Path, keys: &[&Key]) {
    let lines: String = keys.iter().map(|key| format!("{}\n", key.line)).collect();
    replace(path, &lines);
}

/// As an operator should: a reader sees the old file or the new one.
fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, file).unwrap();
}

fn path(path: &Path) -> Value {
    path.to_str().unwrap().into()
}
