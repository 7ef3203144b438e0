//! Why a request was refused as a whole.

use std::{error::Error, time::Duration};

use model::{ErrorKind, TenantId};

use crate::{PushOutcome, Rate};

/// Nothing of the request is known to be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PushError {
    pub kind: ErrorKind,
    /// For the client: what is wrong and what to do.
    pub message: String,
    /// The same request can pass after so long. `None`: sending it again cannot help.
    pub retry_after: Option<Duration>,
}

impl PushError {
    fn final_one(kind: ErrorKind, message: String) -> Self {
        Self { kind, message, retry_after: None }
    }

    pub(crate) fn all_rejected(outcome: &PushOutcome) -> Self {
        Self::final_one(ErrorKind::Invalid, outcome.message().unwrap_or_else(|| "no span was accepted".to_owned()))
    }

    pub(crate) fn over_burst(tenant: &TenantId, bytes: usize, rate: Rate) -> Self {
        let message = format!(
            "RATE_LIMITED: the request has {bytes} bytes, and tenant {tenant} may send at most {} bytes at once \
             (burst_size_bytes): it can never pass; send smaller batches",
            rate.burst_bytes
        );
        Self::final_one(ErrorKind::TooLarge, message)
    }

    pub(crate) fn over_rate(tenant: &TenantId, bytes: usize, rate: Rate, retry_after: Duration) -> Self {
        let message = format!(
            "RATE_LIMITED: tenant {tenant} sends more than {} bytes per second (rate_limit_bytes, burst {} bytes); \
             this request has {bytes}; send it again later",
            rate.limit_bytes, rate.burst_bytes
        );
        Self { kind: ErrorKind::RateLimited, message, retry_after: Some(retry_after) }
    }

    /// What is not the client's fault is retryable: a span that was stored all the same is recognised when it comes
    /// again.
    pub(crate) fn of_ingester(error: &ingester::PushError, retry_after: Duration) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        match error.kind() {
            kind @ (ErrorKind::Invalid | ErrorKind::TooLarge) => Self::final_one(kind, message),
            kind => Self { kind, message, retry_after: Some(retry_after) },
        }
    }
}
