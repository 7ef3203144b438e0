//! `compare()`: how often each attribute has each value, among the selected spans and among the others.

use std::collections::{BTreeMap, BTreeSet};

use proto::otlp::common::v1::KeyValue;
use traceql::ast::{Attribute, AttributeName, FieldExpr, Intrinsic, Scope, SpanOfName};

use super::{
    Eyes, Patterns, Trace,
    metrics::{Axis, Sample, Series},
    of_key,
    value::Value,
};

const INTRINSICS: [Intrinsic; 9] = [
    Intrinsic::Name,
    Intrinsic::Kind,
    Intrinsic::Status,
    Intrinsic::StatusMessage,
    Intrinsic::RootName,
    Intrinsic::RootServiceName,
    Intrinsic::ChildCount,
    Intrinsic::InstrumentationName,
    Intrinsic::InstrumentationVersion,
];

/// Spans without these count as nil, and show it where one is asked for.
pub const EXPECTED: [(Scope, &[&str]); 2] = [
    (Scope::Resource, &["k8s.cluster.name", "k8s.container.name", "k8s.namespace.name", "k8s.pod.name"]),
    (
        Scope::Span,
        &[
            "http.method", "http.request.method", "http.response.status_code", "http.route", "http.status_code",
            "http.url", "server.address", "server.port", "url.path", "url.route",
        ],
    ),
];

/// What is compared.
pub struct Comparison<'a> {
    pub selection: &'a FieldExpr,
    pub top: usize,
    /// Selected spans start after the first and not after the second.
    pub range: Option<(i64, i64)>,
}

/// By side (selected or not) and name: spans by value and bucket.
type Counts = BTreeMap<(bool, String), BTreeMap<String, (Option<Value>, Vec<u64>)>>;

/// The series, and whether the cut to the most frequent values falls between equally frequent ones: then any of them
/// may be meant.
pub fn compare<'a>(
    spans: impl Iterator<Item = (&'a Trace<'a>, usize)>,
    comparison: &Comparison<'_>,
    axis: Axis,
    patterns: &Patterns,
) -> (Vec<Series>, bool) {
    let mut counts = Counts::new();
    for (trace, span) in spans {
        let eyes = Eyes { trace, patterns };
        let start = trace.nodes[span].start;
        let Some(bucket) = axis.bucket(start) else { continue };
        let in_range = comparison.range.is_none_or(|(after, until)| after < start && start <= until);
        let selected = in_range && eyes.holds(comparison.selection, span);
        for (name, value) in values(&eyes, span) {
            let key = value.as_ref().map_or("nil".to_owned(), Value::group);
            let by_value = counts.entry((selected, name)).or_default();
            by_value.entry(key).or_insert_with(|| (value, vec![0; axis.stamps().len()])).1[bucket] += 1;
        }
    }
    let mut all = vec![];
    let mut ambiguous = false;
    for ((selected, name), by_value) in counts {
        let side = if selected { "selection" } else { "baseline" };
        let mut add = |side: &str, value: Option<&Value>, counts: &[u64]| {
            let shown = value.map_or("string \"nil\"".to_owned(), Value::shown);
            let samples = counts.iter().map(|count| Some(Sample { value: *count as f64, slack: 0.0 }));
            let labels = vec![("__meta_type".to_owned(), format!("string {side:?}")), (name.clone(), shown)];
            all.push(Series { labels, samples: samples.collect() });
        };
        let sum = |counts: &[u64]| counts.iter().sum::<u64>();
        let mut values: Vec<(Option<Value>, Vec<u64>)> = by_value.into_values().collect();
        values.sort_by_key(|(_, counts)| std::cmp::Reverse(sum(counts)));
        let total: Vec<u64> = (0..axis.stamps().len()).map(|at| values.iter().map(|(_, counts)| counts[at]).sum()).collect();
        add(&format!("{side}_total"), None, &total);
        if let (Some(last), Some(next)) = (values.get(comparison.top - 1), values.get(comparison.top)) {
            ambiguous |= sum(&last.1) == sum(&next.1);
        }
        values.iter().take(comparison.top).for_each(|(value, counts)| add(side, value.as_ref(), counts));
    }
    (all, ambiguous)
}

/// The one value of every name that counts on the span: the first.
fn values(eyes: &Eyes<'_>, span: usize) -> Vec<(String, Option<Value>)> {
    let row = eyes.trace.nodes[span].row;
    let attribute = |name| Attribute { of_parent: false, name, span: SpanOfName::default() };
    let mut all: Vec<(String, Option<Value>)> = INTRINSICS
        .map(|intrinsic| attribute(AttributeName::Intrinsic(intrinsic)))
        .map(|name| (name.to_string(), eyes.named(&name, span).into_iter().next()))
        .into();
    let mut add = |scope: Scope, attributes: &[KeyValue]| {
        let mut keys: BTreeSet<&str> = attributes.iter().map(|a| a.key.as_str()).collect();
        keys.extend(EXPECTED.iter().filter(|(of, _)| *of == scope).flat_map(|(_, keys)| keys.iter()));
        for key in keys {
            let name = attribute(AttributeName::Key { scope: Some(scope), key: key.to_owned() });
            all.push((name.to_string(), of_key(attributes, key).into_iter().next().and_then(plain)));
        }
    };
    add(Scope::Resource, &row.resource.attributes);
    add(Scope::Span, &row.span.attributes);
    add(Scope::Instrumentation, &row.scope.attributes);
    all
}

/// Nil for what cannot be shown as one value.
fn plain(value: Value) -> Option<Value> {
    match value {
        Value::Array(_) | Value::Other => None,
        value => Some(value),
    }
}
