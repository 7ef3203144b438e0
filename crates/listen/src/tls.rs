//! TLS of a port: certificate, key and the authorities of clients from PEM files, read again when they change.
//!
//! - A connection uses what was in force when it began; new ones use the newest that could be read.
//! - Files that cannot be used leave in force what was before, and are counted and logged once per change.
//! - HTTP/2 and HTTP/1.1 are negotiated (ALPN). Nothing below TLS 1.2.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use follow::{FollowError, Followed, Source};
use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ServerSessionMemoryCache, WebPkiClientVerifier},
    version::{TLS12, TLS13},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

/// Of one PEM file: a chain has a few KiB, a bundle of all public authorities a quarter of this.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// A TLS record of a client that wants to keep its session; sessions in memory per port.
const SESSIONS_MAX: usize = 4096;

#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// The server's certificate and what leads from it to its authority, PEM.
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    /// Authorities whose certificates clients may show, PEM. Without, clients are not asked for one.
    pub client_ca_file: Option<PathBuf>,
    pub client_certificates: ClientCertificates,
    pub version_min: TlsVersion,
    /// How often the files are looked at.
    pub reload_interval: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    #[default]
    Required,
    /// One that is shown must be good.
    Optional,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    #[default]
    V1_2,
    V1_3,
}

/// A handle; clones share what is in force.
#[derive(Clone)]
pub struct Tls {
    current: Followed<ServerConfig>,
    reload_interval: Duration,
}

impl Tls {
    /// # Errors
    /// Names the file that cannot be used, and why.
    pub fn open(settings: TlsSettings) -> Result<Self, FollowError> {
        let reload_interval = settings.reload_interval;
        let mut files = vec![settings.cert_file.clone(), settings.key_file.clone()];
        files.extend(settings.client_ca_file.clone());
        let source = Source { name: "certificates", files, bytes_max: FILE_BYTES_MAX };
        let current = Followed::open(source, move |files| server(files, &settings))?;
        Ok(Self { current, reload_interval })
    }

    /// Reads the files again whenever they have changed, until `shutdown`.
    pub async fn follow(self, shutdown: CancellationToken) {
        self.current.follow(self.reload_interval, shutdown, |_| {}).await;
    }

    /// How often changed files were put in force.
    pub fn reloads(&self) -> u64 {
        self.current.reloads()
    }

    /// How often changed files could not be used.
    pub fn failures(&self) -> u64 {
        self.current.failures()
    }

    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.current.current()).accept(stream).await
    }
}

/// The client's own certificate; the handshake has found its chain good.
pub(crate) fn certificate(stream: &TlsStream<TcpStream>) -> Option<Arc<[u8]>> {
    let (_, connection) = stream.get_ref();
    connection.peer_certificates()?.first().map(|certificate| Arc::from(certificate.as_ref()))
}

/// `files` are certificate, key and perhaps the clients' authorities.
fn server(files: &[Vec<u8>], settings: &TlsSettings) -> Result<ServerConfig, String> {
    let [cert, key, client_ca @ ..] = files else { return Err("a certificate needs a key".to_owned()) };
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| "the key file has no private key in PEM form (PKCS #8, PKCS #1 or SEC1, not encrypted)")?;
    let versions: &[&SupportedProtocolVersion] = match settings.version_min {
        TlsVersion::V1_2 => &[&TLS13, &TLS12],
        TlsVersion::V1_3 => &[&TLS13],
    };
    let text = |error: rustls::Error| error.to_string();
    let provider = Arc::new(default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).map_err(text)?;
    let builder = match client_ca.first() {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(pem, "the file of the clients' authorities")? {
                roots.add(authority).map_err(text)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match settings.client_certificates {
                ClientCertificates::Required => verifier,
                ClientCertificates::Optional => verifier.allow_unauthenticated(),
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| error.to_string())?)
        }
    };
    let mut config = builder.with_single_cert(certificates(cert, "the certificate file")?, key).map_err(text)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX);
    Ok(config)
}

fn certificates(pem: &[u8], file: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    match CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>() {
        Ok(certificates) if certificates.is_empty() => {
            Err(format!("{file} has no certificate in PEM form (-----BEGIN CERTIFICATE-----)"))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("{file} is damaged: {error}")),
    }
}
