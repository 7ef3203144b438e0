//! The words of TraceQL: scopes, intrinsics, statuses, kinds, functions; and which of them a wrong word resembles.

use crate::ast::{AggregateFunction, AttributeName, Intrinsic, Kind, Scope, Status};

impl Scope {
    pub const ALL: [Scope; 5] = [Scope::Resource, Scope::Span, Scope::Event, Scope::Link, Scope::Instrumentation];

    /// The word before the dot.
    pub fn word(self) -> &'static str {
        match self {
            Scope::Resource => "resource",
            Scope::Span => "span",
            Scope::Event => "event",
            Scope::Link => "link",
            Scope::Instrumentation => "instrumentation",
        }
    }

    pub(crate) fn from_word(word: &str) -> Option<Scope> {
        Scope::ALL.into_iter().find(|scope| scope.word() == word)
    }
}

impl Intrinsic {
    pub const ALL: [Intrinsic; 22] = [
        Intrinsic::Duration,
        Intrinsic::Name,
        Intrinsic::Status,
        Intrinsic::StatusMessage,
        Intrinsic::Kind,
        Intrinsic::SpanId,
        Intrinsic::ParentId,
        Intrinsic::ChildCount,
        Intrinsic::TraceDuration,
        Intrinsic::RootName,
        Intrinsic::RootServiceName,
        Intrinsic::TraceId,
        Intrinsic::EventName,
        Intrinsic::EventTimeSinceStart,
        Intrinsic::LinkTraceId,
        Intrinsic::LinkSpanId,
        Intrinsic::InstrumentationName,
        Intrinsic::InstrumentationVersion,
        Intrinsic::NestedSetLeft,
        Intrinsic::NestedSetRight,
        Intrinsic::NestedSetParent,
        Intrinsic::Parent,
    ];

    /// The form without a scope, such as `duration`.
    pub fn unscoped(self) -> Option<&'static str> {
        Some(match self {
            Intrinsic::Duration => "duration",
            Intrinsic::Name => "name",
            Intrinsic::Status => "status",
            Intrinsic::StatusMessage => "statusMessage",
            Intrinsic::Kind => "kind",
            Intrinsic::TraceDuration => "traceDuration",
            Intrinsic::RootName => "rootName",
            Intrinsic::RootServiceName => "rootServiceName",
            Intrinsic::NestedSetLeft => "nestedSetLeft",
            Intrinsic::NestedSetRight => "nestedSetRight",
            Intrinsic::NestedSetParent => "nestedSetParent",
            Intrinsic::Parent => "parent",
            Intrinsic::SpanId
            | Intrinsic::ParentId
            | Intrinsic::ChildCount
            | Intrinsic::TraceId
            | Intrinsic::EventName
            | Intrinsic::EventTimeSinceStart
            | Intrinsic::LinkTraceId
            | Intrinsic::LinkSpanId
            | Intrinsic::InstrumentationName
            | Intrinsic::InstrumentationVersion => return None,
        })
    }

    /// The form with a scope, such as `span:duration`.
    pub fn scoped(self) -> Option<&'static str> {
        Some(match self {
            Intrinsic::Duration => "span:duration",
            Intrinsic::Name => "span:name",
            Intrinsic::Status => "span:status",
            Intrinsic::StatusMessage => "span:statusMessage",
            Intrinsic::Kind => "span:kind",
            Intrinsic::SpanId => "span:id",
            Intrinsic::ParentId => "span:parentID",
            Intrinsic::ChildCount => "span:childCount",
            Intrinsic::TraceDuration => "trace:duration",
            Intrinsic::RootName => "trace:rootName",
            Intrinsic::RootServiceName => "trace:rootService",
            Intrinsic::TraceId => "trace:id",
            Intrinsic::EventName => "event:name",
            Intrinsic::EventTimeSinceStart => "event:timeSinceStart",
            Intrinsic::LinkTraceId => "link:traceID",
            Intrinsic::LinkSpanId => "link:spanID",
            Intrinsic::InstrumentationName => "instrumentation:name",
            Intrinsic::InstrumentationVersion => "instrumentation:version",
            Intrinsic::NestedSetLeft
            | Intrinsic::NestedSetRight
            | Intrinsic::NestedSetParent
            | Intrinsic::Parent => return None,
        })
    }

    /// The canonical form: without a scope where that exists.
    pub fn canonical(self) -> &'static str {
        match self.unscoped().or(self.scoped()) {
            Some(name) => name,
            None => unreachable!("every intrinsic has a form"),
        }
    }

    pub(crate) fn from_unscoped(word: &str) -> Option<Intrinsic> {
        Intrinsic::ALL.into_iter().find(|intrinsic| intrinsic.unscoped() == Some(word))
    }

    pub(crate) fn from_scoped(word: &str) -> Option<Intrinsic> {
        Intrinsic::ALL.into_iter().find(|intrinsic| intrinsic.scoped() == Some(word))
    }

    /// What stands after `parent.`, in either form. There is no `parent.parent`.
    pub(crate) fn of_parent_from(word: &str) -> Option<Intrinsic> {
        Intrinsic::from_unscoped(word).filter(|intrinsic| *intrinsic != Intrinsic::Parent).or_else(|| Intrinsic::from_scoped(word))
    }
}

impl Status {
    pub const ALL: [Status; 3] = [Status::Unset, Status::Ok, Status::Error];

    pub fn word(self) -> &'static str {
        match self {
            Status::Unset => "unset",
            Status::Ok => "ok",
            Status::Error => "error",
        }
    }

    /// The number of OTLP.
    pub fn code(self) -> i64 {
        match self {
            Status::Unset => 0,
            Status::Ok => 1,
            Status::Error => 2,
        }
    }

    pub(crate) fn from_word(word: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|status| status.word() == word)
    }
}

impl Kind {
    pub const ALL: [Kind; 6] =
        [Kind::Unspecified, Kind::Internal, Kind::Server, Kind::Client, Kind::Producer, Kind::Consumer];

    pub fn word(self) -> &'static str {
        match self {
            Kind::Unspecified => "unspecified",
            Kind::Internal => "internal",
            Kind::Server => "server",
            Kind::Client => "client",
            Kind::Producer => "producer",
            Kind::Consumer => "consumer",
        }
    }

    /// The number of OTLP.
    pub fn code(self) -> i64 {
        match self {
            Kind::Unspecified => 0,
            Kind::Internal => 1,
            Kind::Server => 2,
            Kind::Client => 3,
            Kind::Producer => 4,
            Kind::Consumer => 5,
        }
    }

    pub(crate) fn from_word(word: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

impl AggregateFunction {
    pub const ALL: [AggregateFunction; 5] = [
        AggregateFunction::Count,
        AggregateFunction::Min,
        AggregateFunction::Max,
        AggregateFunction::Avg,
        AggregateFunction::Sum,
    ];

    pub fn word(self) -> &'static str {
        match self {
            AggregateFunction::Count => "count",
            AggregateFunction::Min => "min",
            AggregateFunction::Max => "max",
            AggregateFunction::Avg => "avg",
            AggregateFunction::Sum => "sum",
        }
    }

    pub(crate) fn from_word(word: &str) -> Option<AggregateFunction> {
        AggregateFunction::ALL.into_iter().find(|function| function.word() == word)
    }
}

pub(crate) const METRICS_FUNCTIONS: [&str; 9] = [
    "rate",
    "count_over_time",
    "min_over_time",
    "max_over_time",
    "sum_over_time",
    "avg_over_time",
    "quantile_over_time",
    "histogram_over_time",
    "compare",
];

const STAGE_FUNCTIONS: [&str; 5] = ["by", "coalesce", "select", "topk", "bottomk"];

/// The longest word for which a likeness is looked for, in characters.
const LIKENESS_CHARS_MAX: usize = 32;

/// What a wrong word in a field expression probably meant.
pub(crate) fn like_field_word(word: &str) -> Option<&'static str> {
    let unscoped = Intrinsic::ALL.into_iter().filter_map(Intrinsic::unscoped);
    let literals = ["true", "false", "nil", "minInt", "maxInt"].into_iter();
    let statuses = Status::ALL.into_iter().map(Status::word);
    let kinds = Kind::ALL.into_iter().map(Kind::word);
    let only_scoped = || {
        Intrinsic::ALL
            .into_iter()
            .filter(|intrinsic| intrinsic.unscoped().is_none())
            .filter_map(Intrinsic::scoped)
            .find(|scoped| scoped.split(':').next_back() == Some(word))
    };
    closest(word, unscoped.chain(literals).chain(statuses).chain(kinds)).or_else(only_scoped)
}

/// What a wrong `scope:name` probably meant.
pub(crate) fn like_scoped_intrinsic(text: &str) -> Option<&'static str> {
    let unscoped_meaning = || {
        let word = text.split(':').next_back()?;
        Intrinsic::from_unscoped(word)?.scoped()
    };
    closest(text, Intrinsic::ALL.into_iter().filter_map(Intrinsic::scoped)).or_else(unscoped_meaning)
}

/// What a wrong word at the place of a pipeline stage probably meant.
pub(crate) fn like_function(word: &str) -> Option<&'static str> {
    let aggregates = AggregateFunction::ALL.into_iter().map(AggregateFunction::word);
    closest(word, METRICS_FUNCTIONS.into_iter().chain(STAGE_FUNCTIONS).chain(aggregates))
}

/// The candidate within an edit distance of two (one for words of up to four letters).
fn closest(word: &str, candidates: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let length = word.chars().count();
    if length > LIKENESS_CHARS_MAX {
        return None;
    }
    let distance_max = if length <= 4 { 1 } else { 2 };
    candidates
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= distance_max)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, letters compared without case.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().flat_map(char::to_lowercase).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().flat_map(char::to_lowercase).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

impl AttributeName {
    /// The name without its scope: the key of a search answer's attribute (`http.method`, `status`, `event:name`).
    pub fn bare(&self) -> &str {
        match self {
            AttributeName::Key { key, .. } => key,
            AttributeName::Intrinsic(intrinsic) => intrinsic.canonical(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_intrinsic_is_found_by_each_of_its_forms() {
        for intrinsic in Intrinsic::ALL {
            if let Some(word) = intrinsic.unscoped() {
                assert_eq!(Intrinsic::from_unscoped(word), Some(intrinsic));
            }
            if let Some(word) = intrinsic.scoped() {
                assert_eq!(Intrinsic::from_scoped(word), Some(intrinsic));
            }
            assert!(!intrinsic.canonical().is_empty());
        }
    }

    #[test]
    fn finds_what_was_meant() {
        assert_eq!(like_field_word("duraton"), Some("duration"));
        assert_eq!(like_field_word("Status"), Some("status"));
        assert_eq!(like_field_word("childCount"), Some("span:childCount"));
        assert_eq!(like_field_word("foo"), None);
        assert_eq!(like_scoped_intrinsic("span:nmae"), Some("span:name"));
        assert_eq!(like_scoped_intrinsic("trace:rootServiceName"), Some("trace:rootService"));
        assert_eq!(like_function("rates"), Some("rate"));
        assert_eq!(like_function("quantile_over_tme"), Some("quantile_over_time"));
        assert_eq!(like_function(&"x".repeat(1000)), None);
    }
}
