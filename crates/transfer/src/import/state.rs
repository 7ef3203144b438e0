//! How far an import came, in a small file, so that the next run goes on there.
//!
//! A position is written only when everything before it was acknowledged. After a crash some records go twice, which does no harm:
//! a span that is stored already is not stored again.

use std::{collections::BTreeMap, fs, io, path::Path};

use serde::{Deserialize, Serialize};

use crate::TransferError;

const VERSION: u32 = 1;

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    version: u32,
    /// Where to.
    to: String,
    tenant: Option<String>,
    /// By name.
    sources: BTreeMap<String, Position>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    pub identity: String,
    /// Records that are behind us.
    pub records: u64,
    pub accepted: u64,
    pub rejected: u64,
    pub bad: u64,
    pub done: bool,
}

impl State {
    pub fn new(to: &str, tenant: Option<&str>) -> Self {
        Self { version: VERSION, to: to.to_owned(), tenant: tenant.map(str::to_owned), sources: BTreeMap::new() }
    }

    /// What an earlier run left at `path`, or nothing yet.
    pub fn load(path: &Path, to: &str, tenant: Option<&str>) -> Result<Self, TransferError> {
        let name = path.display().to_string();
        let fail = |reason: String| TransferError::Source { name: name.clone(), reason };
        let text = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::new(to, tenant)),
            text => text.map_err(|error| fail(error.to_string()))?,
        };
        let hint = "name another file with --state, or begin again with --restart";
        let state: Self = serde_json::from_slice(&text)
            .map_err(|error| fail(format!("it is no state of an import ({error}); {hint}")))?;
        if state.version != VERSION || state.to != to || state.tenant.as_deref() != tenant {
            let whose = state.tenant.map_or(String::new(), |tenant| format!(" as tenant {tenant}"));
            return Err(TransferError::Mistake(format!("{name} is of an import to {}{whose}; {hint}", state.to)));
        }
        Ok(state)
    }

    /// Replaces the file at once.
    pub fn save(&self, path: &Path) -> Result<(), TransferError> {
        let fail = |source| TransferError::Write { name: path.display().to_string(), source };
        let text = serde_json::to_vec_pretty(self).expect("a tree of plain values serializes");
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(".new");
        fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, path)).map_err(fail)
    }

    /// Where to go on. A source that is not what it was begins again.
    pub fn position(&mut self, source: &str, identity: &str) -> &mut Position {
        let known = self.sources.entry(source.to_owned()).or_default();
        if known.identity != identity {
            *known = Position { identity: identity.to_owned(), ..Position::default() };
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_only_where_everything_is_the_same() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("state.json");
        let mut state = State::load(&path, "http://a/", None).unwrap();
        state.position("file", "10 bytes").records = 7;
        state.save(&path).unwrap();
        let mut again = State::load(&path, "http://a/", None).unwrap();
        assert_eq!(again, state);
        assert_eq!(again.position("file", "10 bytes").records, 7);
        assert_eq!(again.position("file", "11 bytes").records, 0);
        assert!(State::load(&path, "http://b/", None).unwrap_err().to_string().contains("--restart"));
        assert!(State::load(&path, "http://a/", Some("t")).is_err());
        fs::write(&path, "{").unwrap();
        assert!(State::load(&path, "http://a/", None).is_err());
    }
}
