//! What came in and what became of it, per tenant.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use model::ErrorKind;

use crate::{PushError, PushOutcome, Warning};

/// Stands for the tenants without an account of their own; no tenant can have this name.
pub const OTHER_TENANTS: &str = "<other>";

/// Why spans were discarded: the values of a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reason(&'static str);

const OTHER: Reason = Reason("other");
const REASONS: [Reason; 8] = [
    Reason("attribute_too_deep"),
    Reason("invalid_span_id"),
    Reason("invalid_trace_id"),
    Reason("malformed"),
    Reason("rate_limited"),
    Reason("request_too_large"),
    Reason("unavailable"),
    OTHER,
];

impl Reason {
    pub(crate) fn of(error: &PushError) -> Self {
        match error.kind {
            ErrorKind::RateLimited => Self("rate_limited"),
            ErrorKind::TooLarge => Self("request_too_large"),
            ErrorKind::Unavailable => Self("unavailable"),
            ErrorKind::Invalid => Self("malformed"),
            _ => OTHER,
        }
    }

    fn index(self) -> usize {
        REASONS.iter().position(|reason| *reason == self).unwrap_or(REASONS.len() - 1)
    }
}

/// Counters of one tenant. They only grow.
#[derive(Default)]
pub(crate) struct Counters {
    requests: AtomicU64,
    bytes: AtomicU64,
    spans: AtomicU64,
    discarded: [AtomicU64; REASONS.len()],
    attributes_truncated: AtomicU64,
}

/// A reading of one tenant's counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantCounts {
    /// The tenant's name, or [`OTHER_TENANTS`].
    pub tenant: String,
    pub requests: u64,
    /// Bytes of requests, as protobuf and uncompressed.
    pub bytes_received: u64,
    /// Stored or discarded, as far as requests could be read.
    pub spans_received: u64,
    /// By reason, without those that are zero.
    pub spans_discarded: Vec<(&'static str, u64)>,
    /// Keys and values that were cut at the size limit.
    pub attributes_truncated: u64,
}

impl Counters {
    pub(crate) fn request(&self, bytes: usize) {
        self.requests.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// A request of so many spans was refused as a whole.
    pub(crate) fn refused(&self, reason: Reason, spans: u64) {
        self.spans.fetch_add(spans, Relaxed);
        self.discarded[reason.index()].fetch_add(spans, Relaxed);
    }

    pub(crate) fn outcome(&self, outcome: &PushOutcome) {
        self.spans.fetch_add(outcome.accepted, Relaxed);
        for (reason, spans) in &outcome.rejected {
            self.refused(Reason(reason), *spans);
        }
        for warning in &outcome.warnings {
            if let Warning::AttributesTruncated(count) | Warning::WordsTruncated(count) = warning {
                self.attributes_truncated.fetch_add(*count, Relaxed);
            }
        }
    }

    pub(crate) fn counts(&self, tenant: &str) -> TenantCounts {
        let discarded = REASONS.iter().zip(&self.discarded).map(|(reason, count)| (reason.0, count.load(Relaxed)));
        TenantCounts {
            tenant: tenant.to_owned(),
            requests: self.requests.load(Relaxed),
            bytes_received: self.bytes.load(Relaxed),
            spans_received: self.spans.load(Relaxed),
            spans_discarded: discarded.filter(|(_, count)| *count > 0).collect(),
            attributes_truncated: self.attributes_truncated.load(Relaxed),
        }
    }
}
