//! Where a batch or block keeps each attribute.
//!
//! The same TraceQL name lies in different columns of different blocks: promotion is decided block by
//! block. A layout answers, for one batch or block, which places can hold a name's values.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use block::{catalogue::Catalogue, schema};
use model::{AttributeScope, AttributeType};
use traceql::ast::{Attribute, AttributeName, Intrinsic, Scope};

use crate::parents;

#[derive(Clone, Debug)]
pub struct Layout {
    pub schema: SchemaRef,
    pub catalogue: Arc<Catalogue>,
}

/// How to read a fixed column as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reading {
    /// Null is the empty string.
    String,
    Int,
    Duration,
    Status,
    Kind,
    /// 16 hex digits; null is the empty string.
    SpanId,
    /// Hex without leading zeros.
    TraceId,
    /// The number of the parent: what has one has something, if nothing to compare with.
    Parent,
}

/// One place that can hold values of a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// A column of the attribute's own.
    Promoted { column: String, kind: AttributeType },
    /// Entries of a key/value list.
    List { column: &'static str, key: String },
    Fixed { column: &'static str, reading: Reading },
    /// Something of every event.
    Event(NestedField),
    /// Something of every link.
    Link(NestedField),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NestedField {
    Attribute(String),
    EventName,
    /// Event time minus span start.
    TimeSinceStart,
    LinkTraceId,
    LinkSpanId,
}

/// All places of a name. If no value is found in `first`, `fallback` is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Places {
    pub first: Vec<Place>,
    pub fallback: Vec<Place>,
    /// On the row of the span's parent.
    pub of_parent: bool,
}

impl Places {
    /// The place of the values on the span's own row, if there is but one.
    pub fn single(&self) -> Option<&Place> {
        match (self.first.as_slice(), self.fallback.as_slice()) {
            ([place], []) if !self.of_parent => Some(place),
            _ => None,
        }
    }

    /// The columns that have to be read.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        let structure = parents::COLUMNS.into_iter().filter(|_| self.of_parent);
        let places = self.first.iter().chain(&self.fallback).flat_map(|place| match place {
            Place::Promoted { column, .. } => vec![column.as_str()],
            Place::List { column, .. } | Place::Fixed { column, .. } => vec![*column],
            Place::Event(NestedField::TimeSinceStart) => vec![schema::EVENTS, schema::START_TIME],
            Place::Event(_) => vec![schema::EVENTS],
            Place::Link(_) => vec![schema::LINKS],
        });
        places.chain(structure)
    }
}

impl Layout {
    pub fn places(&self, attribute: &Attribute) -> Places {
        let (first, fallback) = match &attribute.name {
            AttributeName::Key { scope: Some(scope), key } => (self.attribute_places(model_scope(*scope), key), vec![]),
            AttributeName::Key { scope: None, key } => {
                (self.attribute_places(AttributeScope::Span, key), self.attribute_places(AttributeScope::Resource, key))
            }
            // A column that is null on every row may be left out of a block.
            AttributeName::Intrinsic(intrinsic) => (vec![intrinsic_place(*intrinsic)], vec![]),
        };
        Places { first, fallback, of_parent: attribute.of_parent }
    }

    fn attribute_places(&self, scope: AttributeScope, key: &str) -> Vec<Place> {
        let Some(entry) = self.catalogue.get(scope, key) else { return vec![] };
        let mut places: Vec<Place> = entry
            .promoted_types()
            .map(|kind| Place::Promoted { column: schema::attribute_column(scope, key, kind), kind })
            .collect();
        if entry.in_list > 0 {
            places.push(match (scope, schema::kv_column(scope)) {
                (AttributeScope::Event, _) => Place::Event(NestedField::Attribute(key.to_owned())),
                (AttributeScope::Link, _) => Place::Link(NestedField::Attribute(key.to_owned())),
                (_, Some(column)) => Place::List { column, key: key.to_owned() },
                (_, None) => unreachable!("only events and links have no list column"),
            });
        }
        places
    }
}

pub fn model_scope(scope: Scope) -> AttributeScope {
    match scope {
        Scope::Resource => AttributeScope::Resource,
        Scope::Span => AttributeScope::Span,
        Scope::Event => AttributeScope::Event,
        Scope::Link => AttributeScope::Link,
        Scope::Instrumentation => AttributeScope::Instrumentation,
    }
}

fn intrinsic_place(intrinsic: Intrinsic) -> Place {
    let fixed = |column, reading| Place::Fixed { column, reading };
    match intrinsic {
        Intrinsic::Duration => fixed(schema::DURATION, Reading::Duration),
        Intrinsic::Name => fixed(schema::NAME, Reading::String),
        Intrinsic::Status => fixed(schema::STATUS_CODE, Reading::Status),
        Intrinsic::StatusMessage => fixed(schema::STATUS_MESSAGE, Reading::String),
        Intrinsic::Kind => fixed(schema::KIND, Reading::Kind),
        Intrinsic::SpanId => fixed(schema::SPAN_ID, Reading::SpanId),
        Intrinsic::ParentId => fixed(schema::PARENT_SPAN_ID, Reading::SpanId),
        Intrinsic::ChildCount => fixed(schema::CHILD_COUNT, Reading::Int),
        Intrinsic::TraceDuration => fixed(schema::TRACE_DURATION, Reading::Duration),
        Intrinsic::RootName => fixed(schema::ROOT_SPAN_NAME, Reading::String),
        Intrinsic::RootServiceName => fixed(schema::ROOT_SERVICE_NAME, Reading::String),
        Intrinsic::TraceId => fixed(schema::TRACE_ID, Reading::TraceId),
        Intrinsic::InstrumentationName => fixed(schema::SCOPE_NAME, Reading::String),
        Intrinsic::InstrumentationVersion => fixed(schema::SCOPE_VERSION, Reading::String),
        Intrinsic::NestedSetLeft => fixed(schema::NESTED_LEFT, Reading::Int),
        Intrinsic::NestedSetRight => fixed(schema::NESTED_RIGHT, Reading::Int),
        Intrinsic::NestedSetParent => fixed(schema::NESTED_PARENT, Reading::Int),
        Intrinsic::EventName => Place::Event(NestedField::EventName),
        Intrinsic::EventTimeSinceStart => Place::Event(NestedField::TimeSinceStart),
        Intrinsic::LinkTraceId => Place::Link(NestedField::LinkTraceId),
        Intrinsic::LinkSpanId => Place::Link(NestedField::LinkSpanId),
        Intrinsic::Parent => fixed(schema::NESTED_PARENT, Reading::Parent),
    }
}
