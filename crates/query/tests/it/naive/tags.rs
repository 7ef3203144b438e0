//! Names and values to pick from: those of the spans that a filter takes and that start in time.

use std::collections::{BTreeMap, BTreeSet};

use proto::otlp::common::v1::KeyValue;
use traceql::ast::{Attribute, AttributeName, FieldExpr, Intrinsic, Kind, Status};

use super::{Eyes, Patterns, Trace, value::Value};

/// Which spans are looked at.
pub struct Wanted<'a> {
    pub filter: Option<&'a FieldExpr>,
    /// The start of the span, both ends included. Unix nanoseconds.
    pub range: Option<(i64, i64)>,
}

impl Wanted<'_> {
    fn each<'t>(&self, traces: &'t [Trace<'t>], patterns: &Patterns, mut work: impl FnMut(&Eyes<'_>, usize)) {
        for trace in traces {
            let eyes = Eyes { trace, patterns };
            for span in 0..trace.nodes.len() {
                let in_time = self.range.is_none_or(|(start, end)| (start..=end).contains(&trace.nodes[span].start));
                if in_time && self.filter.is_none_or(|filter| eyes.holds(filter, span)) {
                    work(&eyes, span);
                }
            }
        }
    }
}

/// By scope, also of keys without a value.
pub fn names(traces: &[Trace<'_>], wanted: &Wanted<'_>, patterns: &Patterns) -> BTreeMap<String, BTreeSet<String>> {
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    wanted.each(traces, patterns, |eyes, span| {
        let row = eyes.trace.nodes[span].row;
        let mut add = |scope: &str, attributes: &[KeyValue]| {
            for attribute in attributes {
                names.entry(scope.to_owned()).or_default().insert(attribute.key.clone());
            }
        };
        add("span", &row.span.attributes);
        add("resource", &row.resource.attributes);
        add("instrumentation", &row.scope.attributes);
        row.span.events.iter().for_each(|event| add("event", &event.attributes));
        row.span.links.iter().for_each(|link| add("link", &link.attributes));
    });
    names
}

/// Type and text of every value, of arrays of each element. The words of `kind` and `status` are always the same, and ids
/// are not listed. Of the parent's name those of the name, whatever the filter.
pub fn values(traces: &[Trace<'_>], name: &Attribute, wanted: &Wanted<'_>, patterns: &Patterns) -> BTreeSet<(String, String)> {
    let keywords = |words: Vec<&str>| words.into_iter().map(|word| ("keyword".to_owned(), word.to_owned())).collect();
    match name.name {
        AttributeName::Intrinsic(Intrinsic::Kind) => return keywords(Kind::ALL.map(Kind::word).into()),
        AttributeName::Intrinsic(Intrinsic::Status) => return keywords(Status::ALL.map(Status::word).into()),
        AttributeName::Intrinsic(
            Intrinsic::TraceId | Intrinsic::SpanId | Intrinsic::ParentId | Intrinsic::LinkTraceId | Intrinsic::LinkSpanId,
        ) => return BTreeSet::new(),
        _ => {}
    }
    let wanted = Wanted { filter: wanted.filter.filter(|_| !name.of_parent), range: wanted.range };
    let name = Attribute { of_parent: false, ..name.clone() };
    let mut values = BTreeSet::new();
    wanted.each(traces, patterns, |eyes, span| eyes.named(&name, span).iter().for_each(|value| add(value, &mut values)));
    values
}

fn add(value: &Value, values: &mut BTreeSet<(String, String)>) {
    let (kind, text) = match value {
        Value::Int(v) | Value::Duration(v) => ("int", v.to_string()),
        Value::Float(v) if *v != 0.0 && v.is_finite() && !(1e-4..1e6).contains(&v.abs()) => {
            let (digits, exponent) = format!("{v:e}").split_once('e').map(|(d, e)| (d.to_owned(), e.to_owned())).expect("an exponent");
            let (sign, exponent) = exponent.strip_prefix('-').map_or(("+", exponent.as_str()), |e| ("-", e));
            ("float", format!("{digits}e{sign}{exponent:0>2}"))
        }
        Value::Float(v) => ("float", format!("{v:?}")),
        Value::String(v) => ("string", v.clone()),
        Value::Bool(v) => ("bool", v.to_string()),
        Value::Status(v) => ("keyword", v.word().to_owned()),
        Value::Kind(v) => ("keyword", v.word().to_owned()),
        Value::Array(elements) => return elements.iter().for_each(|element| add(element, values)),
        Value::Other => return,
    };
    values.insert((kind.to_owned(), text));
}
