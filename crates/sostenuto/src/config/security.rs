//! Who may connect, who may ask, and what is written down about it.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use door::{Algorithm, Attribute, AuditOutput, AuditSettings, CertificateSettings, JwtSettings, KeySource, Role};
use listen::{ClientCertificates, TlsSettings, TlsVersion};
use serde::{Deserialize, Serialize};

use super::{Config, GoDuration, Size, invalid::Invalid, receivers::keys};

/// Files are looked at so often that a disk feels nothing of it.
const RELOAD_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// TLS of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsFiles {
    /// `false` is plain text on this port, although `server.tls` is set.
    pub enabled: bool,
    /// The certificate and what leads to its authority, PEM.
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    /// Authorities of clients' certificates, PEM. With it, clients must show one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca_file: Option<PathBuf>,
    pub client_certificates: Shown,
    pub min_version: MinVersion,
    /// How often the files are looked at for changes.
    pub reload_interval: GoDuration,
}

impl Default for TlsFiles {
    fn default() -> Self {
        Self {
            enabled: true,
            cert_file: PathBuf::new(),
            key_file: PathBuf::new(),
            client_ca_file: None,
            client_certificates: Shown::Required,
            min_version: MinVersion::V1_2,
            reload_interval: GoDuration::from_millis(10_000),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shown {
    Required,
    Optional,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MinVersion {
    #[serde(rename = "1.2")]
    V1_2,
    #[serde(rename = "1.3")]
    V1_3,
}

impl TlsFiles {
    pub fn settings(&self) -> TlsSettings {
        TlsSettings {
            cert_file: self.cert_file.clone(),
            key_file: self.key_file.clone(),
            client_ca_file: self.client_ca_file.clone(),
            client_certificates: match self.client_certificates {
                Shown::Required => ClientCertificates::Required,
                Shown::Optional => ClientCertificates::Optional,
            },
            version_min: match self.min_version {
                MinVersion::V1_2 => TlsVersion::V1_2,
                MinVersion::V1_3 => TlsVersion::V1_3,
            },
            reload_interval: self.reload_interval.0,
        }
    }
}

/// Who may ask. Without keys, tokens and certificates, everybody may do everything.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Authentication {
    /// API keys: lines of `sostenuto keys create`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt: Option<Jwt>,
    /// Callers that show no key and no token are who their certificates say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificates: Option<Subjects>,
    /// How often files of keys are looked at for changes.
    pub reload_interval: GoDuration,
}

impl Default for Authentication {
    fn default() -> Self {
        Self { keys_file: None, jwt: None, client_certificates: None, reload_interval: GoDuration::from_millis(10_000) }
    }
}

/// What the subjects of clients' certificates mean.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Subjects {
    /// Of the subject: whose values are tenants.
    pub tenant_attribute: Attribute,
    /// Whose values say the roles.
    pub role_attribute: Attribute,
    /// From those values to roles; without any, they are the roles' names.
    pub roles: BTreeMap<String, Role>,
}

impl Default for Subjects {
    fn default() -> Self {
        Self { tenant_attribute: Attribute::O, role_attribute: Attribute::OU, roles: BTreeMap::new() }
    }
}

/// JSON web tokens of one issuer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Jwt {
    /// What `iss` must be. Without one of the next three, keys are found by OpenID discovery below it.
    pub issuer: String,
    /// What `aud` must be or hold.
    pub audience: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_file: Option<PathBuf>,
    /// The shared secret of HS256, and of nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hmac_secret_file: Option<PathBuf>,
    pub algorithms: Vec<Algorithm>,
    /// By how much clocks may differ.
    pub leeway: GoDuration,
    pub tenant_claim: String,
    pub role_claim: String,
    /// From words of the role claim to roles; without any, they are the roles' names.
    pub roles: BTreeMap<String, Role>,
    /// How often keys are fetched from a URL.
    pub refresh_interval: GoDuration,
}

impl Default for Jwt {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            audience: String::new(),
            jwks_url: None,
            jwks_file: None,
            hmac_secret_file: None,
            algorithms: vec![Algorithm::RS256, Algorithm::ES256],
            leeway: GoDuration::from_millis(30_000),
            tenant_claim: "tenants".to_owned(),
            role_claim: "roles".to_owned(),
            roles: BTreeMap::new(),
            refresh_interval: GoDuration::from_millis(300_000),
        }
    }
}

/// Who asked what, as lines of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditLog {
    pub output: AuditTo,
    pub path: PathBuf,
    /// A file that would grow past this is put away as `<path>.1`, and so on.
    pub max_file_bytes: Size,
    /// Files in all; the oldest goes.
    pub max_files: usize,
    /// Deliveries of spans too.
    pub writes: bool,
}

impl Default for AuditLog {
    fn default() -> Self {
        let path = PathBuf::from("./sostenuto-data/audit.log");
        Self { output: AuditTo::Off, path, max_file_bytes: Size::mib(64), max_files: 8, writes: false }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditTo {
    Off,
    Stderr,
    File,
}

impl Config {
    /// Whether callers must say who they are.
    pub fn authenticates(&self) -> bool {
        let Authentication { keys_file, jwt, client_certificates, .. } = &self.authentication;
        keys_file.is_some() || jwt.is_some() || client_certificates.is_some()
    }

    /// TLS of the port with this key: its own, or that of all.
    pub fn tls_of(&self, key: &str) -> Option<&TlsFiles> {
        let own = self.distributor.receivers.tls(key);
        own.or(self.server.tls.as_ref()).filter(|tls| tls.enabled)
    }

    pub fn door_settings(&self) -> door::Settings {
        let Authentication { keys_file, jwt, client_certificates, reload_interval } = &self.authentication;
        door::Settings {
            multitenancy: self.multitenancy_enabled,
            keys_file: keys_file.clone(),
            jwt: jwt.as_ref().map(Jwt::settings),
            certificates: client_certificates.as_ref().map(|subjects| CertificateSettings {
                tenant_attribute: subjects.tenant_attribute,
                role_attribute: subjects.role_attribute,
                roles: subjects.roles.clone(),
            }),
            reload_interval: reload_interval.0,
        }
    }

    pub fn audit_settings(&self) -> Option<AuditSettings> {
        let AuditLog { output, path, max_file_bytes, max_files, writes } = &self.audit;
        let output = match output {
            AuditTo::Off => return None,
            AuditTo::Stderr => AuditOutput::Stderr,
            AuditTo::File => {
                AuditOutput::File { path: path.clone(), bytes_max: max_file_bytes.0, files_max: *max_files }
            }
        };
        Some(AuditSettings { output, writes: *writes })
    }

    pub(super) fn validate_security(&self) -> Result<(), Invalid> {
        let fail = |key, message: &str| Err(Invalid { key, message: message.to_owned() });
        let receivers = keys::ALL.iter().map(|key| (*key, self.distributor.receivers.tls(key)));
        for (key, tls) in receivers.chain([("server.tls", self.server.tls.as_ref())]) {
            let Some(tls) = tls.filter(|tls| tls.enabled) else { continue };
            let key = if key == "server.tls" { key } else { "distributor.receivers: tls" };
            if tls.cert_file.as_os_str().is_empty() || tls.key_file.as_os_str().is_empty() {
                return fail(key, "needs a cert_file and a key_file");
            }
            if tls.reload_interval.0 < RELOAD_INTERVAL_MIN {
                return fail(key, "reload_interval must be at least 10ms");
            }
        }
        if self.authentication.reload_interval.0 < RELOAD_INTERVAL_MIN {
            return fail("authentication.reload_interval", "must be at least 10ms");
        }
        if self.distributor.redaction.reload_interval.0 < RELOAD_INTERVAL_MIN {
            return fail("distributor.redaction.reload_interval", "must be at least 10ms");
        }
        let ports = keys::ALL.iter().map(|key| self.distributor.receivers.tls(key)).chain([self.server.tls.as_ref()]);
        let knows_clients = ports.flatten().any(|tls| tls.enabled && tls.client_ca_file.is_some());
        if self.authentication.client_certificates.is_some() && !knows_clients {
            return fail("authentication.client_certificates", "needs a client_ca_file, of server.tls say: who signs them");
        }
        if let Some(jwt) = &self.authentication.jwt {
            jwt.validate()?;
        }
        if self.audit.max_files == 0 || self.audit.max_file_bytes.0 == 0 {
            return fail("audit", "max_files and max_file_bytes must be more than 0");
        }
        Ok(())
    }
}

impl Jwt {
    fn settings(&self) -> JwtSettings {
        let keys = match (&self.jwks_url, &self.jwks_file, &self.hmac_secret_file) {
            (Some(url), ..) => KeySource::Url(url.clone()),
            (_, Some(path), _) => KeySource::File(path.clone()),
            (_, _, Some(path)) => KeySource::SecretFile(path.clone()),
            (None, None, None) => KeySource::Discovered,
        };
        JwtSettings {
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            keys,
            algorithms: self.algorithms.clone(),
            leeway: self.leeway.0,
            tenant_claim: self.tenant_claim.clone(),
            role_claim: self.role_claim.clone(),
            roles: self.roles.clone(),
            refresh_interval: self.refresh_interval.0,
        }
    }

    fn validate(&self) -> Result<(), Invalid> {
        let fail = |key, message: &str| Err(Invalid { key, message: message.to_owned() });
        if self.issuer.is_empty() {
            return fail("authentication.jwt.issuer", "must be set: what iss is in the tokens");
        }
        if self.audience.is_empty() {
            return fail("authentication.jwt.audience", "must be set: what aud is in the tokens");
        }
        let sources = [self.jwks_url.is_some(), self.jwks_file.is_some(), self.hmac_secret_file.is_some()];
        if sources.iter().filter(|given| **given).count() > 1 {
            return fail("authentication.jwt", "set one of jwks_url, jwks_file and hmac_secret_file");
        }
        if !sources.contains(&true) && !self.issuer.starts_with("https://") && !self.issuer.starts_with("http://") {
            return fail("authentication.jwt.issuer", "is no URL, so set jwks_url or jwks_file beside it");
        }
        if self.jwks_url.as_deref().is_some_and(|url| url.contains('@') || !url.starts_with("http")) {
            return fail("authentication.jwt.jwks_url", "must be a http or https URL without credentials in it");
        }
        if self.refresh_interval.0 < Duration::from_millis(100) {
            return fail("authentication.jwt.refresh_interval", "must be at least 100ms");
        }
        Ok(())
    }
}
