//! What stands before each port: TLS, the door, the audit log, and the spans of its requests.

use std::sync::Arc;

use anyhow::Context;
use door::{Audit, Door, Need, Needs};
use http::Method;
use listen::{Layer, Port, Tls};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracer::{Exporter, Side, Tracer};

use crate::{
    config::{Config, TlsFiles, keys},
    traced,
};

/// Of a token file.
const TOKEN_BYTES_MAX: u64 = 64 << 10;

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

/// What is done at the port with this key.
fn side(key: &str) -> fn(&Method, &str) -> Side {
    match key {
        // Zipkin's port answers queries too.
        keys::ZIPKIN => |method, _| if *method == Method::POST { Side::Ingest } else { Side::Query },
        key if keys::ALL.contains(&key) => |_, _| Side::Ingest,
        _ => |_, _| Side::Query,
    }
}

fn token(path: &std::path::Path) -> anyhow::Result<String> {
    let cannot = || format!("cannot read the token {}", path.display());
    let length = std::fs::metadata(path).with_context(cannot)?.len();
    anyhow::ensure!(length <= TOKEN_BYTES_MAX, "{}: it has {length} bytes, more than any token", cannot());
    std::fs::read_to_string(path).with_context(cannot)
}

pub struct Gates {
    pub door: Option<Door>,
    pub audit: Option<Audit>,
    /// Records requests.
    pub tracer: Option<Tracer>,
    exporter: Option<Exporter>,
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
        let tracing = config.self_tracing(token)?.map(Exporter::new).transpose().context("self_tracing")?;
        let (tracer, exporter) = tracing.unzip();
        if let Some(tracer) = &tracer {
            tracer::install(tracer.clone());
        }
        Ok(Self { door, audit, tracer, exporter, tls: Vec::new() })
    }

    /// What sends the spans of this program; once.
    pub fn exporter(&mut self) -> Option<Exporter> {
        self.exporter.take()
    }

    /// The port with this key, which needs of its requests what `needs` says.
    pub fn port(&mut self, config: &Config, key: &str, socket: TcpListener, needs: Needs) -> anyhow::Result<Port> {
        let tls = match config.tls_of(key) {
            Some(files) => Some(self.tls(files).with_context(|| format!("TLS of {key}"))?),
            None => None,
        };
        let guarded = self.door.is_some() || self.audit.is_some();
        let guard = guarded.then(|| door::guarded(self.door.clone(), self.audit.clone(), needs));
        let traced = self.tracer.clone().map(|tracer| traced::traced(tracer, key.to_owned(), side(key)));
        // Who may not ask makes no spans.
        let layer = match (guard, traced) {
            (Some(guard), Some(traced)) => Some(Arc::new(move |handler| guard(traced(handler))) as Layer),
            (guard, traced) => guard.or(traced),
        };
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
