//! Tenant names.

use std::{fmt, sync::Arc};

/// A tenant's name. Constructed only from a name that is safe as a path segment of an object key:
/// 1 to 150 of `[0-9A-Za-z!_.*'()-]`, and neither `.` nor `..`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(Arc<str>);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TenantError {
    #[error("a tenant id has 1 to 150 bytes; this one has {0}")]
    Length(usize),
    #[error("a tenant id may hold letters, digits and !-_.*'() only; found {0:?}")]
    Character(char),
    #[error("{0:?} cannot be a tenant id")]
    Reserved(String),
}

impl TenantId {
    const LENGTH_MAX: usize = 150;
    /// The tenant of every request while multi-tenancy is off.
    const SINGLE: &'static str = "single-tenant";

    pub fn single() -> Self {
        Self(Self::SINGLE.into())
    }

    pub fn parse(name: &str) -> Result<Self, TenantError> {
        if let Some(c) = name.chars().find(|c| !c.is_ascii_alphanumeric() && !"!-_.*'()".contains(*c)) {
            return Err(TenantError::Character(c));
        }
        if name.is_empty() || name.len() > Self::LENGTH_MAX {
            return Err(TenantError::Length(name.len()));
        }
        if name == "." || name == ".." {
            return Err(TenantError::Reserved(name.to_owned()));
        }
        Ok(Self(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_folder_are_refused() {
        for bad in ["", ".", "..", "a/b", "../x", "a\\b", "%2e%2e", "a|b", "a\0", "a\n", "ü"] {
            assert!(TenantId::parse(bad).is_err(), "{bad:?}");
        }
        assert!(TenantId::parse(&"a".repeat(151)).is_err());
        for good in ["a", "team-1", "x.y", "a!_*'()", &"a".repeat(150)] {
            assert!(TenantId::parse(good).is_ok(), "{good:?}");
        }
    }
}
