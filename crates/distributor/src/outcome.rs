//! What became of the spans of a request.

use std::{collections::BTreeMap, fmt};

use proto::wire::SpanFault;

/// Every span of the request is in `accepted` or in `rejected`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushOutcome {
    /// Spans that are durable.
    pub accepted: u64,
    /// Spans that are refused for good, by reason: one word, as in metrics.
    pub rejected: BTreeMap<&'static str, u64>,
    /// What was changed in accepted spans.
    pub warnings: Vec<Warning>,
}

/// Each with how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warning {
    /// Keys or values longer than the limit were cut.
    AttributesTruncated(u64),
    /// Names, status messages or trace states longer than the limit were cut.
    WordsTruncated(u64),
    /// Attributes over the number that a span, resource, scope, event or link may have.
    AttributesDropped(u64),
    EventsDropped(u64),
    LinksDropped(u64),
    /// Parent ids of a wrong length, stored as none.
    ParentsUnknown(u64),
}

impl PushOutcome {
    pub(crate) fn of(pushed: ingester::PushOutcome) -> Self {
        let cut = pushed.warnings;
        let warnings = [
            (cut.keys_cut + cut.values_cut, Warning::AttributesTruncated as fn(u64) -> Warning),
            (cut.words_cut, Warning::WordsTruncated),
            (cut.attributes_dropped, Warning::AttributesDropped),
            (cut.events_dropped, Warning::EventsDropped),
            (cut.links_dropped, Warning::LinksDropped),
            (cut.parents_unknown, Warning::ParentsUnknown),
        ];
        let warnings = warnings.into_iter().filter(|(count, _)| *count > 0).map(|(count, warning)| warning(count));
        Self { accepted: pushed.accepted, rejected: pushed.rejected, warnings: warnings.collect() }
    }

    pub(crate) fn nothing(rejected: BTreeMap<&'static str, u64>) -> Self {
        Self { rejected, ..Self::default() }
    }

    pub fn rejected_spans(&self) -> u64 {
        self.rejected.values().sum()
    }

    /// What to tell the client, if there is anything to tell.
    pub fn message(&self) -> Option<String> {
        let mut parts = Vec::new();
        if !self.rejected.is_empty() {
            let reasons: Vec<_> = self.rejected.iter().map(|(reason, spans)| explained(reason, *spans)).collect();
            parts.push(format!("spans rejected: {}", reasons.join(", ")));
        }
        parts.extend(self.warnings.iter().map(ToString::to_string));
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

fn explained(reason: &str, spans: u64) -> String {
    let faults = [SpanFault::InvalidTraceId, SpanFault::InvalidSpanId, SpanFault::TooDeep];
    match faults.iter().find(|fault| fault.reason() == reason) {
        Some(fault) => format!("{spans} {reason} ({fault})"),
        None => format!("{spans} {reason}"),
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, what) = match self {
            Self::AttributesTruncated(count) => (count, "attribute keys or values cut to the size limit"),
            Self::WordsTruncated(count) => (count, "names, status messages or trace states cut to the size limit"),
            Self::AttributesDropped(count) => (count, "attributes over the limit dropped"),
            Self::EventsDropped(count) => (count, "events over the limit dropped"),
            Self::LinksDropped(count) => (count, "links over the limit dropped"),
            Self::ParentsUnknown(count) => (count, "parent span ids that are not 8 bytes dropped"),
        };
        write!(f, "{count} {what}")
    }
}
