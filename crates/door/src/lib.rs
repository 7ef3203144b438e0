//! Who may ask what. One [`Door`] stands in front of every port that takes requests: it knows who is asking (an API key, a
//! token or a client's certificate), compares what the request needs with what the caller may, and writes down what was asked.
//!
//! - What no table names needs the role `admin`: a forgotten path is closed, not open.
//! - Behind the door, `X-Scope-OrgID` names only tenants that the caller may have, and credentials are gone from the
//!   request.
//! - Secrets are compared in constant time, and appear in no log, no message and no metric. Only their hashes are kept.
//! - What cannot be decided for want of the issuer's keys is refused for now (503), so that no client drops its spans.

mod audit;
mod certificate;
mod credential;
mod guard;
mod identity;
mod jwt;
mod keys;
mod refusal;
mod tenants;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use follow::{FollowError, Followed};
use http::{HeaderMap, Method};
use tokio_util::sync::CancellationToken;

pub use audit::{Audit, AuditError, AuditOutput, AuditSettings, note};
pub use certificate::{Attribute, CertificateSettings};
pub use guard::guarded;
pub use identity::{Identity, Role, Tenants};
pub use jwt::{Algorithm, JwtSettings, KeySource};
pub use keys::{KeyEntry, NewKey};

use credential::Credential;
use jwt::Tokens;
use keys::Keys;
use refusal::Refusal;

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: anybody may ask.
    Nothing,
    /// One of these roles.
    Any(&'static [Role]),
}

impl Need {
    pub const READ: Self = Self::Any(&[Role::Read]);
    pub const WRITE: Self = Self::Any(&[Role::Write]);
    pub const ADMIN: Self = Self::Any(&[Role::Admin]);
}

/// From a request's method and path to what it needs.
pub type Needs = Arc<dyn Fn(&Method, &str) -> Need + Send + Sync>;

#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether `X-Scope-OrgID` chooses tenants. Without, there is one, and roles alone decide.
    pub multitenancy: bool,
    /// Of API keys: see [`KeyEntry`].
    pub keys_file: Option<PathBuf>,
    pub jwt: Option<JwtSettings>,
    /// Who a caller without a key and a token is.
    pub certificates: Option<CertificateSettings>,
    /// How often files are looked at.
    pub reload_interval: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    #[error(transparent)]
    File(#[from] FollowError),
    #[error("{0}")]
    Setting(String),
}

/// A handle; clones share everything.
#[derive(Clone)]
pub struct Door(Arc<Inner>);

struct Inner {
    multitenancy: bool,
    reload_interval: Duration,
    keys: Option<Followed<Keys>>,
    tokens: Option<Tokens>,
    certificates: Option<CertificateSettings>,
    admitted: AtomicU64,
    unauthenticated: AtomicU64,
    forbidden: AtomicU64,
    undecided: AtomicU64,
}

impl Door {
    /// # Errors
    /// Names the file or setting that cannot be used.
    pub fn open(settings: Settings) -> Result<Self, DoorError> {
        let Settings { multitenancy, keys_file, jwt, certificates, reload_interval } = settings;
        let keys = keys_file.map(keys::followed).transpose()?;
        let tokens = jwt.map(Tokens::open).transpose()?;
        let counter = || AtomicU64::new(0);
        let (admitted, unauthenticated, forbidden, undecided) = (counter(), counter(), counter(), counter());
        Ok(Self(Arc::new(Inner {
            multitenancy,
            reload_interval,
            keys,
            tokens,
            certificates,
            admitted,
            unauthenticated,
            forbidden,
            undecided,
        })))
    }

    /// Keeps keys up to date until `shutdown`.
    pub async fn follow(self, shutdown: CancellationToken) {
        let Inner { reload_interval, keys, tokens, .. } = &*self.0;
        let keys = async {
            if let Some(keys) = keys {
                keys.clone().follow(*reload_interval, shutdown.clone(), |_| {}).await;
            }
        };
        let tokens = async {
            if let Some(tokens) = tokens {
                tokens.follow(*reload_interval, shutdown.clone()).await;
            }
        };
        futures::join!(keys, tokens);
    }

    /// Requests so far, by what became of them.
    pub fn counts(&self) -> [(&'static str, u64); 4] {
        let Inner { admitted, unauthenticated, forbidden, undecided, .. } = &*self.0;
        [
            ("admitted", admitted.load(Relaxed)),
            ("unauthenticated", unauthenticated.load(Relaxed)),
            ("forbidden", forbidden.load(Relaxed)),
            ("undecided", undecided.load(Relaxed)),
        ]
    }

    /// How often changed files of keys could not be used.
    pub fn reload_failures(&self) -> u64 {
        self.0.keys.as_ref().map_or(0, Followed::failures) + self.0.tokens.as_ref().map_or(0, Tokens::failures)
    }

    /// Decides about a request. On `Ok` its headers hold no credentials any more, and name only tenants of the caller.
    async fn admit(
        &self,
        need: Need,
        certificate: Option<&[u8]>,
        headers: &mut HeaderMap,
    ) -> Result<Option<Arc<Identity>>, Refusal> {
        let decided = self.decide(need, certificate, headers).await;
        let Inner { admitted, unauthenticated, forbidden, undecided, .. } = &*self.0;
        let counter = match &decided {
            Ok(_) => admitted,
            Err(Refusal::Unauthenticated(_)) => unauthenticated,
            Err(Refusal::Forbidden(..)) => forbidden,
            Err(Refusal::Undecided(_)) => undecided,
        };
        counter.fetch_add(1, Relaxed);
        decided
    }

    async fn decide(
        &self,
        need: Need,
        certificate: Option<&[u8]>,
        headers: &mut HeaderMap,
    ) -> Result<Option<Arc<Identity>>, Refusal> {
        let Need::Any(roles) = need else {
            credential::forget(headers);
            return Ok(None);
        };
        let identity = match (Credential::of(headers)?, certificate.zip(self.0.certificates.as_ref())) {
            (Some(Credential::Key { user, key }), _) => self.key(user.as_deref(), &key)?,
            (Some(Credential::Token(token)), _) => self.token(&token).await?,
            (None, Some((certificate, settings))) => settings.identity(certificate)?,
            (None, None) => return Err(credential::none()),
        };
        credential::forget(headers);
        if !identity.may_any(roles) {
            let message = format!("{} lacks the role {} that this needs", identity.name, Role::listed(roles));
            return Err(Refusal::Forbidden(message, identity));
        }
        if self.0.multitenancy
            && let Err(message) = tenants::restrict(headers, &identity)
        {
            return Err(Refusal::Forbidden(message, identity));
        }
        Ok(Some(identity))
    }

    fn key(&self, user: Option<&str>, key: &str) -> Result<Arc<Identity>, Refusal> {
        let Some(keys) = &self.0.keys else {
            return Err(Refusal::unauthenticated("no API keys are taken here; send a token"));
        };
        keys.current().identity(user, key, unix_seconds())
    }

    async fn token(&self, token: &str) -> Result<Arc<Identity>, Refusal> {
        let Some(tokens) = &self.0.tokens else {
            return Err(Refusal::unauthenticated("this is no API key, and other tokens are not taken here"));
        };
        tokens.identity(token, unix_seconds()).await
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
