//! What stands before each port: TLS, the door, the audit log.

use std::sync::Arc;

use anyhow::Context;
use door::{Audit, Door, Need, Needs};
use http::Method;
use listen::{Port, Tls};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, TlsFiles};

/// Whatever comes to a port for spans delivers them.
pub fn delivers() -> Needs {
    Arc::new(|_, _| Need::WRITE)
}

/// Zipkin's port takes spans and answers queries; Zipkin's own say so by the method.
pub fn delivers_or_asks() -> Needs {
    Arc::new(|method, path| match path {
        "/health" => Need::Nothing,
        _ if method == Method::POST => Need::WRITE,
        _ => Need::READ,
    })
}

pub struct Gates {
    pub door: Option<Door>,
    pub audit: Option<Audit>,
    /// One for each set of files: ports share them.
    tls: Vec<(TlsFiles, Tls)>,
}

impl Gates {
    /// # Errors
    /// Names the file or setting that cannot be used.
    pub fn open(config: &Config) -> anyhow::Result<Self> {
        let door = match config.authenticates() {
            true => Some(Door::open(config.door_settings()).context("authentication")?),
            false => None,
        };
        let audit = config.audit_settings().map(Audit::open).transpose()?;
        Ok(Self { door, audit, tls: Vec::new() })
    }

    /// The port with this key, which needs of its requests what `needs` says.
    pub fn port(&mut self, config: &Config, key: &str, socket: TcpListener, needs: Needs) -> anyhow::Result<Port> {
        let tls = match config.tls_of(key) {
            Some(files) => Some(self.tls(files).with_context(|| format!("TLS of {key}"))?),
            None => None,
        };
        let guarded = self.door.is_some() || self.audit.is_some();
        let layer = guarded.then(|| door::guarded(self.door.clone(), self.audit.clone(), needs));
        Ok(Port { socket, tls, layer })
    }

    fn tls(&mut self, files: &TlsFiles) -> anyhow::Result<Tls> {
        if let Some((_, tls)) = self.tls.iter().find(|(known, _)| known == files) {
            return Ok(tls.clone());
        }
        let tls = Tls::open(files.settings())?;
        self.tls.push((files.clone(), tls.clone()));
        Ok(tls)
    }

    /// Follows files until `shutdown`.
    pub fn follow(&self, shutdown: &CancellationToken, tasks: &mut JoinSet<()>) {
        for (_, tls) in &self.tls {
            tasks.spawn(tls.clone().follow(shutdown.clone()));
        }
        if let Some(door) = &self.door {
            tasks.spawn(door.clone().follow(shutdown.clone()));
        }
    }

    /// Certificates, for the metrics.
    pub fn certificates(&self) -> Vec<Tls> {
        self.tls.iter().map(|(_, tls)| tls.clone()).collect()
    }
}
