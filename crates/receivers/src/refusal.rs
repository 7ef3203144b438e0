//! The one table of answers: what goes wrong, and what each protocol says to it.

use std::{fmt::Display, time::Duration};

use distributor::PushError;
use http::StatusCode;
use model::ErrorKind;
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// A request is not accepted.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) http: StatusCode,
    pub(crate) code: Code,
    pub(crate) message: String,
    /// The same request can pass after so long.
    pub(crate) retry_after: Option<Duration>,
}

impl Refusal {
    pub(crate) fn new(http: StatusCode, code: Code, message: impl Display) -> Self {
        Self { http, code, message: message.to_string(), retry_after: None }
    }

    pub(crate) fn invalid(message: impl Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Code::InvalidArgument, message)
    }

    pub(crate) fn unauthenticated(message: impl Display) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, Code::Unauthenticated, message)
    }

    pub(crate) fn unsupported(message: impl Display) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::Unimplemented, message)
    }

    /// Without a delay: the request can never pass.
    pub(crate) fn too_large(message: impl Display) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceExhausted, message)
    }

    /// The client was too slow.
    pub(crate) fn too_slow(message: impl Display) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, Code::DeadlineExceeded, message)
    }

    pub(crate) fn unavailable(message: impl Display, retry_after: Duration) -> Self {
        let refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, message);
        Self { retry_after: Some(retry_after), ..refusal }
    }

    pub(crate) fn of_push(error: PushError, retry_after: Duration) -> Self {
        let retry_after = error.retry_after.unwrap_or(retry_after);
        match error.kind {
            ErrorKind::Invalid | ErrorKind::NotFound => Self::invalid(error),
            ErrorKind::TooLarge => Self::too_large(error),
            ErrorKind::Unauthenticated => Self::unauthenticated(error),
            ErrorKind::RateLimited => {
                let refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, Code::ResourceExhausted, error);
                Self { retry_after: Some(retry_after), ..refusal }
            }
            // Nothing was accepted, and the client is not to blame: it must come again.
            ErrorKind::Unavailable | ErrorKind::BudgetExceeded | ErrorKind::Corrupt | ErrorKind::Internal => {
                Self::unavailable(error, retry_after)
            }
        }
    }

    /// With `RetryInfo` if and only if the request can pass later: OTLP clients repeat RESOURCE_EXHAUSTED only then.
    pub(crate) fn status(&self) -> Status {
        let mut details = ErrorDetails::new();
        if let Some(delay) = self.retry_after {
            details.set_retry_info(Some(delay));
        } else if self.code == Code::InvalidArgument {
            details.add_bad_request_violation("request", &self.message);
        }
        Status::with_error_details(self.code, &self.message, details)
    }

    /// `google.rpc.Status` as protobuf.
    pub(crate) fn protobuf(&self) -> Vec<u8> {
        self.status().details().to_vec()
    }

    /// `google.rpc.Status` as JSON.
    pub(crate) fn json(&self) -> Vec<u8> {
        let mut status = json!({ "code": self.code as i32, "message": self.message });
        if let Some(delay) = self.retry_after {
            status["details"] = json!([{
                "@type": "type.googleapis.com/google.rpc.RetryInfo",
                "retryDelay": format!("{}s", delay.as_secs_f64()),
            }]);
        } else if self.code == Code::InvalidArgument {
            status["details"] = json!([{
                "@type": "type.googleapis.com/google.rpc.BadRequest",
                "fieldViolations": [{ "field": "request", "description": self.message }],
            }]);
        }
        status.to_string().into_bytes()
    }

    /// The value of `Retry-After`: whole seconds, not less than the delay.
    pub(crate) fn retry_after_seconds(&self) -> Option<u64> {
        let delay = self.retry_after?;
        Some(delay.as_secs() + u64::from(delay.subsec_nanos() > 0))
    }
}
