//! API keys: 256 random bits each, of which the file holds the SHA-256.
//!
//! A key is `sos_<id>_<secret>`; the id finds the entry, the hash of the whole key decides. Since keys are made here and not
//! chosen by people, a fast hash is as good as a slow one.

use std::{collections::HashMap, fmt, path::PathBuf, sync::Arc};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, SecondsFormat, Utc};
use follow::{FollowError, Followed, Source};
use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom, SystemRandom},
};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::{
    identity::{Identity, Role, Tenants},
    refusal::Refusal,
};

const PREFIX: &str = "sos_";
const SECRET_BYTES: usize = 32;
const ID_BYTES_MAX: usize = 64;
/// A line has about 200 bytes.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// One line of the file, which is a YAML list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    /// Public: stands in the key, in the audit log and in messages.
    pub id: String,
    /// SHA-256 of the whole key, in hexadecimal.
    pub sha256: String,
    pub roles: Vec<Role>,
    /// Names, or `*` for all.
    pub tenants: Vec<String>,
    /// From then on the key is not taken any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A key that was just made. Not kept anywhere.
pub struct NewKey {
    pub key: String,
    pub entry: KeyEntry,
}

impl NewKey {
    /// # Errors
    /// Says what of the id, roles or tenants cannot be.
    pub fn make(
        id: Option<String>,
        roles: Vec<Role>,
        tenants: Vec<String>,
        expires: Option<DateTime<Utc>>,
        note: Option<String>,
    ) -> Result<Self, String> {
        let random = |bytes: &mut [u8]| SystemRandom::new().fill(bytes).map_err(|_| "the system gives no random bytes");
        let id = match id {
            Some(id) => id,
            None => {
                let mut bytes = [0; 6];
                random(&mut bytes)?;
                hex(&bytes)
            }
        };
        let mut secret = [0; SECRET_BYTES];
        random(&mut secret)?;
        let key = format!("{PREFIX}{id}_{}", BASE64_URL_SAFE_NO_PAD.encode(secret));
        let sha256 = hex(digest(&SHA256, key.as_bytes()).as_ref());
        let expires = expires.map(|time| time.to_rfc3339_opts(SecondsFormat::Secs, true));
        let entry = KeyEntry { id, sha256, roles, tenants, expires, note };
        Key::of(&entry)?;
        Ok(Self { key, entry })
    }
}

impl KeyEntry {
    /// The line for the file.
    pub fn line(&self) -> String {
        // JSON is YAML, and quotes everything that needs it.
        format!("- {}", serde_json::to_string(self).expect("an entry is plain text"))
    }
}

struct Key {
    sha256: [u8; 32],
    expires_unix_s: Option<u64>,
    identity: Arc<Identity>,
}

/// All keys of a file.
pub(crate) struct Keys(HashMap<String, Key>);

pub(crate) fn followed(path: PathBuf) -> Result<Followed<Keys>, FollowError> {
    let source = Source { name: "the API keys", files: vec![path], bytes_max: FILE_BYTES_MAX };
    Followed::open(source, |files| Keys::parse(&files[0]))
}

/// Whether to look for it among the keys, and not to read it as a token.
pub(crate) fn looks_like_key(text: &str) -> bool {
    text.starts_with(PREFIX)
}

impl Keys {
    fn parse(file: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(file).map_err(|_| "the file is not UTF-8")?;
        // Messages never repeat the file: somebody may have put a key into it.
        let options = serde_saphyr::options! { with_snippet: false };
        let entries: Option<Vec<KeyEntry>> =
            serde_saphyr::from_str_with_options(text, options).map_err(|error| match error.location() {
                Some(at) => format!("line {}: not an entry of the form that `sostenuto keys create` prints", at.line()),
                None => "not a list of entries of the form that `sostenuto keys create` prints".to_owned(),
            })?;
        let mut keys = HashMap::new();
        for entry in entries.unwrap_or_default() {
            let key = Key::of(&entry).map_err(|what| format!("key {:?}: {what}", entry.id))?;
            if keys.insert(entry.id.clone(), key).is_some() {
                return Err(format!("key {:?} is there twice; give the new one another id", entry.id));
            }
        }
        Ok(Self(keys))
    }

    /// Who shows this key, perhaps with a user's name, which then is its id.
    pub(crate) fn identity(&self, user: Option<&str>, shown: &str, now_unix_s: u64) -> Result<Arc<Identity>, Refusal> {
        let unknown = || Refusal::unauthenticated("the API key is not known here");
        let (id, _) = shown.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).ok_or_else(unknown)?;
        let key = self.0.get(id).ok_or_else(unknown)?;
        let hash = digest(&SHA256, shown.as_bytes());
        if !bool::from(hash.as_ref().ct_eq(&key.sha256)) {
            return Err(unknown());
        }
        if user.is_some_and(|user| user != id) {
            return Err(Refusal::unauthenticated(format!("the user's name must be the key's id, {id}")));
        }
        if key.expires_unix_s.is_some_and(|expires| now_unix_s >= expires) {
            return Err(Refusal::unauthenticated(format!("the API key {id} has expired")));
        }
        Ok(key.identity.clone())
    }
}

impl Key {
    fn of(entry: &KeyEntry) -> Result<Self, String> {
        let KeyEntry { id, sha256, roles, tenants, expires, note: _ } = entry;
        let id_is_good = !id.is_empty()
            && id.len() <= ID_BYTES_MAX
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
        if !id_is_good {
            return Err(format!("an id has 1 to {ID_BYTES_MAX} letters, digits, '-' and '.'"));
        }
        if roles.is_empty() {
            return Err("needs at least one role".to_owned());
        }
        if tenants.is_empty() {
            return Err("needs at least one tenant, or \"*\" for all".to_owned());
        }
        let sha256 = unhex(sha256).ok_or("sha256 must be 64 hexadecimal digits")?;
        let expires_unix_s = match expires {
            None => None,
            Some(text) => {
                let time = DateTime::parse_from_rfc3339(text)
                    .map_err(|_| "expires must be a time such as 2030-01-31T00:00:00Z".to_owned())?;
                Some(u64::try_from(time.timestamp()).unwrap_or(0))
            }
        };
        let tenants = Tenants::of(tenants.iter().map(String::as_str))?;
        let identity = Identity { name: id.clone(), by: "key", roles: roles.iter().copied().collect(), tenants };
        Ok(Self { sha256, expires_unix_s, identity: Arc::new(identity) })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let text = text.as_bytes();
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        *byte = (digit(digits[0])? << 4 | digit(digits[1])?) as u8;
    }
    Some(bytes)
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewKey").field("entry", &self.entry).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(id: &str, expires: Option<i64>) -> NewKey {
        let expires = expires.map(|at| DateTime::from_timestamp(at, 0).unwrap());
        NewKey::make(Some(id.to_owned()), vec![Role::Read], vec!["a".to_owned()], expires, Some("it's: a {note}".to_owned()))
            .unwrap()
    }

    fn said(refusal: Refusal) -> String {
        match refusal {
            Refusal::Unauthenticated(message) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_key_is_its_entry_and_nothing_else_is() {
        let (one, two) = (new("one", None), new("two", Some(1_000)));
        let file = format!("# the keys\n{}\n{}\n", one.entry.line(), two.entry.line());
        let keys = Keys::parse(file.as_bytes()).unwrap();
        let who = |user, key: &str, now| keys.identity(user, key, now).map(|identity| identity.name.clone());
        assert_eq!(who(None, &one.key, 0).unwrap(), "one");
        assert_eq!(who(Some("one"), &one.key, 0).unwrap(), "one");
        assert!(said(who(Some("two"), &one.key, 0).unwrap_err()).contains("must be the key's id"));
        assert_eq!(who(None, &two.key, 999).unwrap(), "two");
        assert!(said(who(None, &two.key, 1_000).unwrap_err()).contains("expired"));
        let longer = format!("{}x", one.key);
        let swapped = one.key.replace("sos_one_", "sos_two_");
        for wrong in ["", "sos_", "sos_one", "sos_one_", "sos_three_x", &longer, &swapped, &one.key[..one.key.len() - 1]] {
            assert!(said(who(None, wrong, 0).unwrap_err()).contains("not known"), "{wrong:?}");
        }
        assert_ne!(new("one", None).key, one.key);
        assert!(!file.contains(one.key.rsplit_once('_').unwrap().1), "the file has no secret");
    }

    #[test]
    fn a_file_that_cannot_be_meant_is_refused_without_repeating_it() {
        let line = new("one", None).entry.line();
        for (bad, says) in [
            (format!("{line}\n{line}"), "twice"),
            (line.replace("\"read\"", ""), "role"),
            (line.replace("\"a\"", ""), "tenant"),
            (line.replace("\"a\"", "\"../a\""), "cannot be a tenant"),
            (line.replace("\"read\"", "\"reader\""), "line 1"),
            (line.replace("\"id\":\"one\"", "\"id\":\"o_ne\""), "an id has"),
            (line.replace("\"sha256\":\"", "\"sha256\":\"0"), "64"),
            (line.replace("\"note\"", "\"notes\""), "line 1"),
            ("sos_one_canary".to_owned(), "entries"),
        ] {
            let message = Keys::parse(bad.as_bytes()).map(drop).unwrap_err();
            assert!(message.contains(says) || message.contains("not an entry") || message.contains("not a list"), "{message}");
            assert!(!message.contains("canary"), "{message}");
        }
        assert!(Keys::parse(b"").unwrap().0.is_empty());
    }
}
