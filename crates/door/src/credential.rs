//! What a request shows to say who it is from.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderName, header};

use crate::{keys, refusal::Refusal};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// A token of a large company has 4 KiB.
const CREDENTIAL_BYTES_MAX: usize = 16 << 10;

const HOW: &str = "send an API key or a token as `Authorization: Bearer ...`, or an API key as the password of basic authentication";

/// Holds secrets: has no form for people.
#[derive(PartialEq, Eq)]
pub(crate) enum Credential {
    /// An API key, and the name that stood before it in basic authentication.
    Key { user: Option<String>, key: String },
    /// A JSON web token, by its looks.
    Token(String),
}

impl Credential {
    /// `None` if the headers have none.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let mut shown = headers.get_all(header::AUTHORIZATION).iter().chain(headers.get_all(API_KEY));
        let Some(value) = shown.next() else { return Ok(None) };
        if shown.next().is_some() {
            return Err(Refusal::unauthenticated("more than one credential; send one"));
        }
        let unreadable = || Refusal::unauthenticated(format!("the credentials cannot be read: {HOW}"));
        let value = value.to_str().map_err(|_| unreadable())?.trim();
        if value.len() > CREDENTIAL_BYTES_MAX {
            return Err(Refusal::unauthenticated("the credentials are longer than 16 KiB"));
        }
        if !headers.contains_key(header::AUTHORIZATION) {
            return Ok(Some(Self::Key { user: None, key: value.to_owned() }));
        }
        let (scheme, rest) = value.split_once(' ').ok_or_else(unreadable)?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Ok(Some(match keys::looks_like_key(rest) {
                true => Self::Key { user: None, key: rest.to_owned() },
                false => Self::Token(rest.to_owned()),
            }));
        }
        if scheme.eq_ignore_ascii_case("basic") {
            let text = BASE64_STANDARD.decode(rest).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let text = text.ok_or_else(unreadable)?;
            let (user, password) = text.split_once(':').ok_or_else(unreadable)?;
            return Ok(Some(Self::Key { user: Some(user.to_owned()), key: password.to_owned() }));
        }
        Err(unreadable())
    }
}

/// The refusal of who shows nothing.
pub(crate) fn none() -> Refusal {
    Refusal::unauthenticated(format!("no credentials: {HOW}"))
}

/// Takes credentials out: nothing behind the door has any use for them.
pub(crate) fn forget(headers: &mut HeaderMap) {
    headers.remove(header::AUTHORIZATION);
    headers.remove(API_KEY);
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn shown(headers: &[(&'static str, &str)]) -> Result<String, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        match Credential::of(&map) {
            Ok(Some(Credential::Key { user, key })) => Ok(format!("key {key} of {user:?}")),
            Ok(Some(Credential::Token(token))) => Ok(format!("token {token}")),
            Ok(None) => Ok("nothing".to_owned()),
            Err(Refusal::Unauthenticated(message)) => Err(message),
            Err(_) => unreachable!("nothing else is decided here"),
        }
    }

    #[test]
    fn keys_and_tokens_come_in_three_ways() {
        let expect = |headers, what: &str| assert_eq!(shown(headers).as_deref(), Ok(what), "{headers:?}");
        expect(&[("authorization", "Bearer sos_a_b")], "key sos_a_b of None");
        expect(&[("authorization", "bearer  e.y.j")], "token e.y.j");
        expect(&[("authorization", "Basic ZzpzOnQ=")], "key s:t of Some(\"g\")");
        expect(&[("x-api-key", "sos_a_b")], "key sos_a_b of None");
        for bad in ["", "Bearer", "Digest x", "Basic !", "Basic Zw==", "Negotiate abc"] {
            assert!(shown(&[("authorization", bad)]).is_err(), "{bad:?}");
        }
        expect(&[], "nothing");
        assert!(shown(&[("authorization", "Bearer a"), ("x-api-key", "b")]).unwrap_err().contains("more than one"));
        assert!(shown(&[("authorization", &format!("Bearer {}", "x".repeat(20_000)))]).is_err());
    }
}
