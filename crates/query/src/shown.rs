//! The spans of a search result: what is shown of each.
//!
//! A name that the query only compares with literals, in filters or in `by`, shows the values that one of the comparisons
//! holds for, on every span of the result, whichever filter brought it there: of several events or links the last. A name that
//! the query mentions in any other way (`select`, `by`, aggregates, arithmetic) always shows, but not a map, bytes or an array
//! of several types. Where a name is missing that is compared with `= nil`, it shows as nil. A name without a scope shows the value of the span and
//! that of the resource. Of a parent only what it has is shown, under names that begin with `parent.`.

use arrow::{
    array::{AsArray, FixedSizeBinaryArray, Int64Array},
    datatypes::Int64Type,
};
use block::schema;
use model::{ErrorKind, SpanId};
use proto::{
    otlp::common::v1::{AnyValue, KeyValue, any_value},
    tempopb,
};
use traceql::ast::{Attribute, AttributeName, Intrinsic, Pipeline, Scope};

use crate::{
    expected::is_expected,
    layout::{Place, Places},
    mentioned::{Mention, has_own_field, mention_of, shown_key},
    reader::{Reader, Strings},
    request::QueryError,
    spansets::Spanset,
    traces::TraceRows,
    value::{Test, Value},
};

/// Writes the spans of result spansets.
pub struct SpanWriter<'a> {
    ids: &'a FixedSizeBinaryArray,
    starts: &'a Int64Array,
    durations: &'a Int64Array,
    name: Option<Strings>,
    shown: Vec<Shown>,
}

/// A name whose value is shown of each span.
struct Shown {
    key: String,
    reader: Reader,
    tests: Vec<Test>,
    /// It is of events or links, of which the last shows.
    nested: bool,
    /// What shows where no test holds.
    otherwise: Otherwise,
    /// It shows as nil where it has no value.
    or_nil: bool,
}

/// What shows of a name where no comparison holds.
enum Otherwise {
    Nothing,
    First,
    /// Of events and links.
    Last,
}

impl Shown {
    fn new(name: &Attribute, mention: Mention, places: &Places, rows: &TraceRows) -> Self {
        let nested = matches!(places.first.first(), Some(Place::Event(_) | Place::Link(_)));
        let otherwise = match (mention.always, nested) {
            (false, _) => Otherwise::Nothing,
            (true, true) => Otherwise::Last,
            (true, false) => Otherwise::First,
        };
        let or_nil = !name.of_parent && (mention.missing || (mention.always && is_expected(name)));
        Self { key: shown_key(name), reader: Reader::new(places, &rows.records), tests: mention.tests, nested, otherwise, or_nil }
    }

    fn on(&self, row: usize) -> Option<KeyValue> {
        let value = self.wanted(row).or_else(|| match &self.otherwise {
            Otherwise::Nothing => None,
            Otherwise::First => self.reader.first(row),
            Otherwise::Last => self.reader.last(row),
        });
        match value {
            None if self.or_nil && !self.reader.exists(row) => Some(key_value(&self.key, None)),
            Some(Value::Opaque) => None,
            value => Some(key_value(&self.key, Some(&value?))),
        }
    }

    /// The first value that a test holds for, or the last.
    fn wanted(&self, row: usize) -> Option<Value> {
        let mut wanted = None;
        self.reader.any(row, |value| {
            let found = self.tests.iter().any(|test| test.on(&value));
            if found {
                wanted = Some(value);
            }
            found && !self.nested
        });
        Some(match wanted? {
            Value::Array(elements) => self.passing(elements),
            value => value,
        })
    }

    /// The elements of an array that pass; one alone stands for itself.
    fn passing(&self, elements: Vec<Value>) -> Value {
        let mut passing: Vec<Value> =
            elements.iter().filter(|e| self.tests.iter().any(|test| test.on(e))).cloned().collect();
        match passing.len() {
            0 => Value::Array(elements),
            1 => passing.swap_remove(0),
            _ => Value::Array(passing),
        }
    }
}

impl<'a> SpanWriter<'a> {
    /// `names` are those that the pipeline mentions.
    pub fn new(rows: &'a TraceRows, pipeline: &Pipeline, names: &[Attribute]) -> Result<Self, QueryError> {
        let column = |name: &str| {
            rows.records.column_by_name(name).ok_or_else(|| QueryError::new(ErrorKind::Internal, format!("rows without column {name}")))
        };
        let mut mentions: Vec<(Attribute, Mention)> = vec![];
        for name in names.iter().filter(|name| !has_own_field(name)) {
            let mention = mention_of(pipeline, name);
            for name in scoped(name) {
                match mentions.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, known)) => known.join(&mention),
                    None => mentions.push((name, mention.clone())),
                }
            }
        }
        let mut shown = vec![];
        for (name, mention) in mentions {
            shown.push(Shown::new(&name, mention, &rows.layout.places(&name), rows));
        }
        let asks_name = names.iter().any(|a| !a.of_parent && matches!(a.name, AttributeName::Intrinsic(Intrinsic::Name)));
        Ok(Self {
            ids: column(schema::SPAN_ID)?.as_fixed_size_binary(),
            starts: column(schema::START_TIME)?.as_primitive::<Int64Type>(),
            durations: column(schema::DURATION)?.as_primitive::<Int64Type>(),
            name: if asks_name { rows.records.column_by_name(schema::NAME).and_then(Strings::new) } else { None },
            shown,
        })
    }

    /// `spans_max` 0 lists all spans.
    pub fn spanset(&self, set: &Spanset, spans_max: usize) -> tempopb::SpanSet {
        let listed = if spans_max == 0 { set.rows.len() } else { spans_max };
        tempopb::SpanSet {
            spans: set.rows.iter().take(listed).map(|row| self.span(*row as usize)).collect(),
            matched: set.rows.len() as u32,
            attributes: set.attributes.iter().map(|(key, value)| key_value(key, value.as_ref())).collect(),
        }
    }

    fn span(&self, row: usize) -> tempopb::Span {
        tempopb::Span {
            span_id: SpanId::from_slice(self.ids.value(row)).unwrap_or_default().to_string(),
            name: self.name.as_ref().and_then(|n| n.get(row)).unwrap_or_default().to_owned(),
            start_time_unix_nano: self.starts.value(row) as u64,
            duration_nanos: self.durations.value(row) as u64,
            attributes: self.shown.iter().filter_map(|shown| shown.on(row)).collect(),
        }
    }
}

/// A name without a scope stands for the span's attribute and the resource's.
fn scoped(name: &Attribute) -> Vec<Attribute> {
    let AttributeName::Key { scope: None, key } = &name.name else { return vec![name.clone()] };
    let with = |scope| Attribute { name: AttributeName::Key { scope: Some(scope), key: key.clone() }, ..name.clone() };
    vec![with(Scope::Span), with(Scope::Resource)]
}

/// nil is shown as the word.
pub fn key_value(key: &str, value: Option<&Value>) -> KeyValue {
    let value = value.map_or_else(|| AnyValue { value: Some(any_value::Value::StringValue("nil".into())) }, Value::to_any);
    KeyValue { key: key.to_owned(), value: Some(value), ..Default::default() }
}
