//! How a request fails. The one place where kinds of errors become codes of HTTP and gRPC.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use model::ErrorKind;
use query::QueryError;

/// A failed request: its codes and the text for the caller. The body of an HTTP answer is the plain text.
#[derive(Debug, Clone)]
pub struct Failure {
    pub status: StatusCode,
    pub code: tonic::Code,
    pub message: String,
}

/// The codes of each kind of error.
fn codes(kind: ErrorKind) -> (StatusCode, tonic::Code) {
    match kind {
        ErrorKind::Invalid => (StatusCode::BAD_REQUEST, tonic::Code::InvalidArgument),
        ErrorKind::Unauthenticated => (StatusCode::UNAUTHORIZED, tonic::Code::Unauthenticated),
        ErrorKind::NotFound => (StatusCode::NOT_FOUND, tonic::Code::NotFound),
        // On the query side the only thing too large is the trace that was asked for.
        ErrorKind::TooLarge => (StatusCode::UNPROCESSABLE_ENTITY, tonic::Code::OutOfRange),
        ErrorKind::RateLimited => (StatusCode::TOO_MANY_REQUESTS, tonic::Code::ResourceExhausted),
        ErrorKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, tonic::Code::Unavailable),
        // The same query can never pass: not a code that clients try again.
        ErrorKind::BudgetExceeded => (StatusCode::UNPROCESSABLE_ENTITY, tonic::Code::ResourceExhausted),
        ErrorKind::Corrupt => (StatusCode::INTERNAL_SERVER_ERROR, tonic::Code::DataLoss),
        ErrorKind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, tonic::Code::Internal),
    }
}

/// The status that stands in metrics for a request whose caller went away before the answer.
pub const CLIENT_CLOSED_REQUEST: u16 = 499;

impl Failure {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let (status, code) = codes(kind);
        Self { status, code, message: message.into() }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// The time that one request may take has run out.
    pub fn timeout(limit: std::time::Duration) -> Self {
        let limit = crate::moment::format_duration(limit.as_nanos());
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: tonic::Code::DeadlineExceeded,
            message: format!("the query took longer than {limit}: ask for a shorter time range or a narrower filter"),
        }
    }
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        Self::new(error.kind, error.message)
    }
}

impl From<Failure> for tonic::Status {
    fn from(failure: Failure) -> Self {
        Self::new(failure.code, failure.message)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.message).into_response();
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
