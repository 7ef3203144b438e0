//! The keys of an issuer: a JSON web key set (RFC 7517), or a secret.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::{
    hmac,
    signature::{self, RsaPublicKeyComponents, UnparsedPublicKey},
};
use serde::Deserialize;

use super::{Algorithm, Shown};

/// An issuer has two at a time.
const KEYS_MAX: usize = 100;
/// Of an RSA modulus: 2048 to 8192 bits.
const RSA_MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;
/// As RFC 7518 asks for HS256.
const SECRET_BYTES_MIN: usize = 32;

pub(super) struct KeySet(Vec<Key>);

struct Key {
    id: Option<String>,
    public: Public,
}

enum Public {
    /// Modulus and exponent, big-endian.
    Rsa(Vec<u8>, Vec<u8>),
    /// A point of P-256, uncompressed.
    P256(Vec<u8>),
    Secret(hmac::Key),
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default, rename = "use")]
    purpose: Option<String>,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
    #[serde(default)]
    crv: String,
    #[serde(default)]
    x: String,
    #[serde(default)]
    y: String,
}

impl KeySet {
    /// Keys of kinds that are not known here are left out, as RFC 7517 says.
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        let jwks: Jwks = serde_json::from_slice(json).map_err(|_| "not a JSON web key set: {\"keys\": [...]}".to_owned())?;
        if jwks.keys.len() > KEYS_MAX {
            return Err(format!("a key set may have at most {KEYS_MAX} keys"));
        }
        let keys: Vec<Key> =
            jwks.keys.into_iter().filter_map(|key| Key::of(serde_json::from_value(key).ok()?)).collect();
        match keys.is_empty() {
            true => Err("no key of the set can be used: it needs RSA (2048 bits or more) or EC on P-256".to_owned()),
            false => Ok(Self(keys)),
        }
    }

    pub(super) fn secret(bytes: &[u8]) -> Result<Self, String> {
        let bytes = bytes.trim_ascii();
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(format!("the secret of HS256 must have at least {SECRET_BYTES_MIN} bytes"));
        }
        Ok(Self(vec![Key { id: None, public: Public::Secret(hmac::Key::new(hmac::HMAC_SHA256, bytes)) }]))
    }

    /// Whether there is a key that could have signed it.
    pub(super) fn knows(&self, shown: &Shown) -> bool {
        self.candidates(shown).next().is_some()
    }

    pub(super) fn verifies(&self, shown: &Shown) -> bool {
        self.candidates(shown).any(|key| key.public.verifies(&shown.message, &shown.signature))
    }

    /// By kind and id. A token without an id may be of any key, and a key without an id of any token.
    fn candidates<'s>(&'s self, shown: &'s Shown) -> impl Iterator<Item = &'s Key> {
        self.0.iter().filter(move |key| {
            key.public.algorithm() == shown.algorithm
                && (key.id.is_none() || shown.key_id.is_none() || key.id == shown.key_id)
        })
    }
}

impl Key {
    fn of(jwk: Jwk) -> Option<Self> {
        if jwk.purpose.is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let number = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).ok().filter(|bytes| !bytes.is_empty());
        let public = match jwk.kty.as_str() {
            "RSA" => {
                let (n, e) = (number(&jwk.n)?, number(&jwk.e)?);
                if !RSA_MODULUS_BYTES.contains(&n.len()) {
                    return None;
                }
                Public::Rsa(n, e)
            }
            "EC" if jwk.crv == "P-256" => {
                let (x, y) = (number(&jwk.x)?, number(&jwk.y)?);
                if (x.len(), y.len()) != (32, 32) {
                    return None;
                }
                Public::P256([&[4], x.as_slice(), &y].concat())
            }
            _ => return None,
        };
        Some(Self { id: jwk.kid, public })
    }
}

impl Public {
    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Rsa(..) => Algorithm::RS256,
            Self::P256(_) => Algorithm::ES256,
            Self::Secret(_) => Algorithm::HS256,
        }
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Rsa(n, e) => {
                RsaPublicKeyComponents { n, e }.verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
            }
            Self::P256(point) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }
            // In constant time.
            Self::Secret(key) => hmac::verify(key, message, signature).is_ok(),
        }
    }
}
