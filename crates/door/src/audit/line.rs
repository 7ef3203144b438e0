//! One line.

use std::{net::SocketAddr, time::Instant};

use chrono::{DateTime, SecondsFormat, Utc};
use http::{Method, Uri};
use serde::Serialize;

use super::ASKED_BYTES_MAX;
use crate::{
    Need,
    identity::{Identity, Role},
};

/// A line that waits for its end.
pub(crate) struct Opened {
    began: DateTime<Utc>,
    clock: Instant,
    need: Need,
    refused: bool,
    who: Option<String>,
    by: &'static str,
    peer: Option<String>,
    tenant: String,
    method: Method,
    path: String,
    asked: Option<String>,
}

#[derive(Serialize)]
struct Line<'l> {
    time: String,
    /// The id of a key or the subject of a token; absent for who is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    who: Option<&'l str>,
    /// `key`, `token` or `nobody`.
    by: &'l str,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<&'l str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    tenant: &'l str,
    method: &'l str,
    path: &'l str,
    /// The question: a query text, or the parameters of the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    asked: Option<&'l str>,
    /// Of HTTP.
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_status: Option<u16>,
    /// Whether the door refused it.
    refused: bool,
    /// Of the answer's body, as sent.
    bytes: u64,
    /// Whether the answer was sent to its end.
    whole: bool,
    duration_ms: f64,
}

/// What came of a request.
pub(super) struct Outcome {
    pub status: u16,
    pub grpc_status: Option<u16>,
    pub bytes: u64,
    pub whole: bool,
}

impl Opened {
    pub(crate) fn new(need: Need, method: &Method, uri: &Uri, tenant: String, peer: Option<SocketAddr>) -> Self {
        let cut = |text: &str| text.chars().take(ASKED_BYTES_MAX).collect::<String>();
        Self {
            began: Utc::now(),
            clock: Instant::now(),
            need,
            refused: false,
            who: None,
            by: "nobody",
            peer: peer.map(|address| address.to_string()),
            tenant,
            method: method.clone(),
            path: cut(uri.path()),
            asked: uri.query().map(cut),
        }
    }

    pub(crate) fn by(self, identity: Option<&Identity>) -> Self {
        match identity {
            Some(identity) => Self { who: Some(identity.name.clone()), by: identity.by, ..self },
            None => self,
        }
    }

    pub(crate) fn of(self, tenant: String) -> Self {
        Self { tenant, ..self }
    }

    pub(crate) fn asking(self, asked: Option<String>) -> Self {
        Self { asked: asked.or(self.asked), ..self }
    }

    pub(crate) fn refused(self) -> Self {
        Self { refused: true, ..self }
    }

    pub(super) fn is_written(&self, writes: bool) -> bool {
        let of_interest = match self.need {
            Need::Nothing => false,
            Need::Any(roles) => match roles {
                [Role::Write] => writes,
                [Role::Metrics] => false,
                _ => true,
            },
        };
        self.refused || of_interest
    }

    pub(super) fn ended(&self, outcome: &Outcome) -> Vec<u8> {
        let Outcome { status, grpc_status, bytes, whole } = *outcome;
        let line = Line {
            time: self.began.to_rfc3339_opts(SecondsFormat::Micros, true),
            who: self.who.as_deref(),
            by: self.by,
            peer: self.peer.as_deref(),
            tenant: &self.tenant,
            method: self.method.as_str(),
            path: &self.path,
            asked: self.asked.as_deref(),
            status,
            grpc_status,
            refused: self.refused,
            bytes,
            whole,
            duration_ms: (self.clock.elapsed().as_secs_f64() * 1e6).round() / 1e3,
        };
        let mut line = serde_json::to_vec(&line).expect("a line is plain text and numbers");
        line.push(b'\n');
        line
    }
}
