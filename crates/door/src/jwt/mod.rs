//! JSON web tokens (RFC 7519) of one issuer.
//!
//! - The configuration says which algorithms are taken; the token's header only chooses among them. There is no `none`,
//!   and HS256 works with a configured secret only, never with a public key.
//! - `iss`, `aud` and `exp` must be there and right, `nbf` right if it is there, within the stated leeway.
//! - Roles and tenants come from the claims that the configuration names, and from nowhere else.

mod claims;
mod keyset;
mod source;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{
    DoorError,
    identity::{Identity, Role},
    refusal::Refusal,
};
use keyset::KeySet;
use source::KeySets;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Algorithm {
    RS256,
    ES256,
    /// With a shared secret: whoever can check such a token can also make one.
    HS256,
}

#[derive(Clone, Debug)]
pub struct JwtSettings {
    /// What `iss` must be.
    pub issuer: String,
    /// What `aud` must be, or hold.
    pub audience: String,
    pub keys: KeySource,
    pub algorithms: Vec<Algorithm>,
    /// By how much clocks may differ; at most [`LEEWAY_MAX`].
    pub leeway: Duration,
    /// The claim of tenants: a string or a list of them; dots lead into objects. `*` is not taken from a token.
    pub tenant_claim: String,
    /// The claim of roles: words in a string, or a list; dots lead into objects.
    pub role_claim: String,
    /// From words of that claim to roles. Without any, the words are the roles' own names.
    pub roles: BTreeMap<String, Role>,
    /// How often keys are fetched from a URL.
    pub refresh_interval: Duration,
}

/// Where the issuer's keys are.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// A JSON web key set.
    File(PathBuf),
    Url(String),
    /// Where `<issuer>/.well-known/openid-configuration` says.
    Discovered,
    /// The secret of HS256.
    SecretFile(PathBuf),
}

/// More than a minute is a broken clock.
pub const LEEWAY_MAX: Duration = Duration::from_secs(60);

pub(crate) struct Tokens {
    settings: JwtSettings,
    keys: KeySets,
}

/// A token, read and not yet believed.
struct Shown {
    algorithm: Algorithm,
    key_id: Option<String>,
    /// What is signed.
    message: Vec<u8>,
    signature: Vec<u8>,
    claims: serde_json::Value,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    crit: Option<serde_json::Value>,
}

impl Tokens {
    pub(crate) fn open(settings: JwtSettings) -> Result<Self, DoorError> {
        let symmetric = matches!(settings.keys, KeySource::SecretFile(_));
        let fits = |algorithm: &Algorithm| (*algorithm == Algorithm::HS256) == symmetric;
        if settings.algorithms.is_empty() || !settings.algorithms.iter().all(fits) {
            let message = match symmetric {
                true => "with a shared secret, algorithms must be [HS256]",
                false => "algorithms must be of RS256 and ES256; HS256 takes a hmac_secret_file",
            };
            return Err(DoorError::Setting(format!("authentication.jwt: {message}")));
        }
        if settings.leeway > LEEWAY_MAX {
            return Err(DoorError::Setting("authentication.jwt.leeway: must be at most 1m".to_owned()));
        }
        let keys = KeySets::open(&settings)?;
        Ok(Self { settings, keys })
    }

    pub(crate) async fn follow(&self, interval: Duration, shutdown: CancellationToken) {
        self.keys.follow(interval, shutdown).await;
    }

    pub(crate) fn failures(&self) -> u64 {
        self.keys.failures()
    }

    pub(crate) async fn identity(&self, token: &str, now_unix_s: u64) -> Result<Arc<Identity>, Refusal> {
        let refused = |what: String| Refusal::Unauthenticated(format!("token: {what}"));
        let shown = Shown::read(token, &self.settings.algorithms).map_err(refused)?;
        let no_keys = || Refusal::Undecided("the issuer's keys could not be fetched yet; send again later".to_owned());
        let mut keys = self.keys.current().ok_or_else(no_keys)?;
        // A key that is not known may be new.
        if !keys.knows(&shown) {
            keys = self.keys.newer_than(&keys).await;
        }
        if !keys.verifies(&shown) {
            return Err(refused("the signature is not by a key of the issuer".to_owned()));
        }
        let identity = claims::identity(&shown.claims, &self.settings, now_unix_s).map_err(refused)?;
        Ok(Arc::new(identity))
    }
}

impl Shown {
    fn read(token: &str, algorithms: &[Algorithm]) -> Result<Self, String> {
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("not of the form header.claims.signature".to_owned());
        };
        let decode = |part: &str, what: &str| {
            BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| format!("the {what} is not base64url"))
        };
        let head: Header = serde_json::from_slice(&decode(header, "header")?)
            .map_err(|_| "the header is no JSON object with an alg".to_owned())?;
        if head.crit.is_some() {
            return Err("the header has critical extensions, and none is known here".to_owned());
        }
        let algorithm = algorithms.iter().copied().find(|algorithm| format!("{algorithm:?}") == head.alg);
        let algorithm = algorithm.ok_or_else(|| format!("the algorithm {:?} is not taken here", head.alg))?;
        let claims = serde_json::from_slice(&decode(payload, "payload")?)
            .map_err(|_| "the claims are no JSON".to_owned())?;
        let message = token[..header.len() + 1 + payload.len()].as_bytes().to_vec();
        Ok(Self { algorithm, key_id: head.kid, message, signature: decode(signature, "signature")?, claims })
    }
}

#[cfg(test)]
mod tests;
