//! What a caller can do about an error. Protocol codes are derived from this in one place per protocol.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request is wrong; sending it again cannot help.
    Invalid,
    /// The request is larger than it may ever be; sending it again cannot help.
    TooLarge,
    /// The tenant is over its rate; the same request passes later.
    RateLimited,
    /// The server cannot take it now (overloaded, disk full, shutting down); the same request passes later.
    Unavailable,
    /// What was asked for does not exist.
    NotFound,
    /// The caller did not say who it is.
    Unauthenticated,
    /// A time, memory or read budget ran out.
    BudgetExceeded,
    /// Data at rest is damaged.
    Corrupt,
    /// A bug of ours.
    Internal,
}

impl ErrorKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::TooLarge => "too_large",
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
            Self::NotFound => "not_found",
            Self::Unauthenticated => "unauthenticated",
            Self::BudgetExceeded => "budget_exceeded",
            Self::Corrupt => "corrupt",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
