//! Tempo's old tag search: every tag has to match somewhere in the trace, not on one span.
//!
//! Texts of service and span names, and of the attributes that Tempo keeps in columns of their own, match in part;
//! others as a whole.

use std::ops::Range;

use arrow::{array::{AsArray, RecordBatch}, datatypes::Int64Type};
use block::schema;
use traceql::ast::{Attribute, AttributeName, Intrinsic, Scope, SpanOfName};

use crate::{
    expected::EXPECTED,
    layout::Layout,
    reader::Reader,
    request::QueryError,
    value::{Value, status_word},
};

/// The tags of one search, and the bounds on the trace's duration (inclusive).
#[derive(Clone, Debug)]
pub struct Tags {
    tags: Vec<Tag>,
    duration_min_ns: Option<i64>,
    duration_max_ns: Option<i64>,
}

#[derive(Clone, Debug)]
struct Tag {
    /// Any of these may match.
    names: Vec<Attribute>,
    text: String,
    how: Match,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Match {
    Substring,
    Equal,
    /// The word of a status.
    Status,
}

fn name(name: AttributeName) -> Attribute {
    Attribute { of_parent: false, name, span: SpanOfName::default() }
}

fn key(scope: Scope, key: &str) -> Attribute {
    name(AttributeName::Key { scope: Some(scope), key: key.to_owned() })
}

impl Tags {
    pub fn new(tags: &[(String, String)], duration_min_ns: Option<i64>, duration_max_ns: Option<i64>) -> Self {
        let intrinsic = |i| vec![name(AttributeName::Intrinsic(i))];
        let tags = tags.iter().map(|(tag, text)| {
            let (names, how) = match tag.as_str() {
                "service.name" => (vec![key(Scope::Resource, tag)], Match::Substring),
                "name" => (intrinsic(Intrinsic::Name), Match::Substring),
                "root.service.name" => (intrinsic(Intrinsic::RootServiceName), Match::Substring),
                "root.name" => (intrinsic(Intrinsic::RootName), Match::Substring),
                "status.code" => (intrinsic(Intrinsic::Status), Match::Status),
                _ => match EXPECTED.iter().find(|(_, expected)| expected == tag) {
                    Some((scope, _)) => (vec![key(*scope, tag)], Match::Substring),
                    None => (vec![key(Scope::Span, tag), key(Scope::Resource, tag)], Match::Equal),
                },
            };
            Tag { names, text: text.clone(), how }
        });
        Self { tags: tags.collect(), duration_min_ns, duration_max_ns }
    }

    /// The columns that [`Self::matching`] reads.
    pub fn columns(&self, layout: &Layout) -> Vec<String> {
        let names = self.tags.iter().flat_map(|tag| &tag.names);
        let places = names.map(|name| layout.places(name));
        let mut columns: Vec<String> = places.flat_map(|p| p.columns().map(str::to_owned).collect::<Vec<_>>()).collect();
        columns.push(schema::TRACE_DURATION.into());
        columns
    }

    /// Calls `each` with the first row of every trace that matches.
    pub fn matching(
        &self,
        records: &RecordBatch,
        layout: &Layout,
        runs: &[Range<usize>],
        each: &mut impl FnMut(usize),
    ) -> Result<(), QueryError> {
        let mut readers = vec![];
        for tag in &self.tags {
            readers.push((tag, tag.names.iter().map(|name| Reader::new(&layout.places(name), records)).collect()));
        }
        let durations = records
            .column_by_name(schema::TRACE_DURATION)
            .ok_or_else(|| QueryError::internal("rows without trace durations"))?
            .as_primitive::<Int64Type>();
        for run in runs {
            let duration = durations.value(run.start);
            let long_enough = self.duration_min_ns.is_none_or(|min| duration >= min);
            let short_enough = self.duration_max_ns.is_none_or(|max| duration <= max);
            let found = |(tag, readers): &(&Tag, Vec<Reader>)| {
                run.clone().any(|row| readers.iter().any(|r| r.any(row, |value| tag.matches(&value))))
            };
            if long_enough && short_enough && readers.iter().all(found) {
                each(run.start);
            }
        }
        Ok(())
    }
}

impl Tag {
    fn matches(&self, value: &Value) -> bool {
        match (self.how, value) {
            (Match::Substring, Value::String(text)) => text.contains(&self.text),
            (Match::Equal, Value::String(text)) => *text == self.text,
            (Match::Substring | Match::Equal, Value::Int(number)) => self.text.parse() == Ok(*number),
            // An unknown word asks for unset, as it always did.
            (Match::Status, Value::Status(status)) => match self.text.as_str() {
                word @ ("ok" | "error") => status_word(*status) == word,
                _ => status_word(*status) == "unset",
            },
            _ => false,
        }
    }
}
