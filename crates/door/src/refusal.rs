//! How a request is refused, in the words of its protocol.

use std::{fmt::Write, sync::Arc};

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use listen::{ResponseBody, full};

use crate::identity::Identity;

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Nobody known.
    Unauthenticated(String),
    /// Somebody known who may not.
    Forbidden(String, Arc<Identity>),
    /// Who it is cannot be found out now.
    Undecided(String),
}

/// What a client waits before it comes again, in seconds.
const RETRY_AFTER: &str = "5";

impl Refusal {
    pub(crate) fn unauthenticated(message: impl Into<String>) -> Self {
        Self::Unauthenticated(message.into())
    }

    /// HTTP's code, gRPC's code, and the text.
    fn said(&self) -> (StatusCode, u8, &str) {
        match self {
            Self::Unauthenticated(message) => (StatusCode::UNAUTHORIZED, 16, message),
            Self::Forbidden(message, _) => (StatusCode::FORBIDDEN, 7, message),
            Self::Undecided(message) => (StatusCode::SERVICE_UNAVAILABLE, 14, message),
        }
    }

    pub(crate) fn identity(&self) -> Option<&Arc<Identity>> {
        match self {
            Self::Forbidden(_, identity) => Some(identity),
            Self::Unauthenticated(_) | Self::Undecided(_) => None,
        }
    }

    /// The answer to a request with these headers: `google.rpc.Status` where OTLP wants it, plain text otherwise.
    pub(crate) fn answer(&self, asked: &HeaderMap) -> Response<ResponseBody> {
        let (status, code, message) = self.said();
        let form = asked.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        let form = form.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        if form.starts_with(b"application/grpc") {
            let mut response = Response::new(ResponseBody::default());
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from(u16::from(code)));
            headers.insert("grpc-message", percent_encoded(message));
            return response;
        }
        let (content_type, body) = match form {
            b"application/x-protobuf" | b"application/protobuf" => ("application/x-protobuf", protobuf(code, message)),
            b"application/json" => {
                let json = serde_json::json!({ "code": code, "message": message });
                ("application/json", json.to_string().into_bytes())
            }
            _ => ("text/plain; charset=utf-8", format!("{message}\n").into_bytes()),
        };
        let mut response = Response::new(full(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        match self {
            Self::Unauthenticated(_) => {
                for challenge in ["Bearer realm=\"sostenuto\"", "Basic realm=\"sostenuto\", charset=\"UTF-8\""] {
                    headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
                }
            }
            Self::Undecided(_) => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
            }
            Self::Forbidden(..) => {}
        }
        response
    }
}

/// `google.rpc.Status`: code is field 1, message field 2.
fn protobuf(code: u8, message: &str) -> Vec<u8> {
    let mut bytes = vec![1 << 3, code, 2 << 3 | 2];
    let mut length = message.len();
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend_from_slice(message.as_bytes());
    bytes
}

/// As gRPC wants its messages.
fn percent_encoded(message: &str) -> HeaderValue {
    let mut text = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => text.push(char::from(byte)),
            _ => write!(text, "%{byte:02X}").expect("a string takes everything"),
        }
    }
    HeaderValue::try_from(text).expect("printable ASCII is a header")
}
