//! Who asks, and what that one may.

use std::{collections::BTreeSet, fmt, str::FromStr};

use model::TenantId;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Ask for traces.
    Read,
    /// Send spans.
    Write,
    /// Scrape `/metrics`, which names tenants.
    Metrics,
    /// Everything.
    Admin,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Metrics, Self::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Metrics => "metrics",
            Self::Admin => "admin",
        }
    }

    pub(crate) fn listed(roles: &[Self]) -> String {
        roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(" or ")
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is no role; there are read, write, metrics and admin"))
    }
}

/// Whose spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tenants {
    All,
    These(BTreeSet<TenantId>),
}

impl Tenants {
    /// From names; `*` is all.
    pub(crate) fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut tenants = BTreeSet::new();
        for name in names {
            if name == "*" {
                return Ok(Self::All);
            }
            tenants.insert(TenantId::parse(name).map_err(|error| format!("{name:?} cannot be a tenant: {error}"))?);
        }
        Ok(Self::These(tenants))
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(tenants) => tenants.iter().any(|tenant| tenant.as_str() == name),
        }
    }
}

/// A caller that was recognized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The id of a key, the subject of a token, the common name of a certificate. For people and the audit log.
    pub name: String,
    /// How it was recognized: `key`, `token` or `certificate`.
    pub by: &'static str,
    pub roles: BTreeSet<Role>,
    pub tenants: Tenants,
}

impl Identity {
    pub(crate) fn may_any(&self, roles: &[Role]) -> bool {
        self.roles.contains(&Role::Admin) || roles.iter().any(|role| self.roles.contains(role))
    }
}
