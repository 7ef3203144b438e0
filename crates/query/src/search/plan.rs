//! What a search asks for: its pipeline, the rows it needs, and what of it a part of a trace can answer.

use model::TraceId;
use traceql::ast::{Attribute, AttributeName, FieldExpr, Intrinsic, Pipeline, QueryBody};

use crate::{
    explain::Trail,
    legacy,
    matching::Asks,
    mentioned::{in_field, names},
    request::{Cursor, QueryError, SearchFilter},
    spansets::{everything, rows_needed, single_filter},
};

/// A search, ready to run on any layout.
pub(crate) struct Plan {
    pub pipeline: Pipeline,
    /// Holds on every row the pipeline looks at.
    pub needed: Option<FieldExpr>,
    /// Every matching row is a result: no evaluation per trace is needed to decide.
    pub single: bool,
    /// The filter asks about the trace as a whole, so that a part of a trace cannot answer it.
    pub asks_whole_trace: bool,
    pub shown: Vec<Attribute>,
    /// Tempo's old search answers without spans.
    pub legacy: Option<legacy::Tags>,
    /// Only traces behind it.
    pub after: Option<Cursor>,
}

impl Plan {
    pub(super) fn new(filter: &SearchFilter) -> Result<Self, QueryError> {
        match filter {
            SearchFilter::TraceQl(text) if text.trim().is_empty() => Ok(Self::of(everything())),
            SearchFilter::TraceQl(text) => {
                let query = traceql::parse(text).map_err(|e| QueryError::invalid(format!("invalid TraceQL query: {e}")))?;
                match query.body {
                    QueryBody::Search(pipeline) => Ok(Self::of(pipeline)),
                    QueryBody::Metrics(_) => Err(QueryError::invalid(
                        "invalid TraceQL query: this is a metrics query; send it to /api/metrics/query_range, or leave out the metrics function to search",
                    )),
                }
            }
            SearchFilter::Tags { tags, duration_min_ns, duration_max_ns } => {
                let tags = legacy::Tags::new(tags, *duration_min_ns, *duration_max_ns);
                Ok(Self { legacy: Some(tags), single: false, asks_whole_trace: true, ..Self::of(everything()) })
            }
        }
    }

    /// Of a TraceQL search.
    pub fn of_text(text: &str) -> Result<Self, QueryError> {
        Self::new(&SearchFilter::TraceQl(text.to_owned()))
    }

    pub fn of(pipeline: Pipeline) -> Self {
        let needed = rows_needed(&pipeline);
        let shown = names(&pipeline);
        Self {
            single: needed.is_some() && single_filter(&pipeline).is_some(),
            asks_whole_trace: shown.iter().any(asks_whole_trace) || needed.as_ref().is_none_or(mentions_whole_trace),
            needed,
            shown,
            pipeline,
            legacy: None,
            after: None,
        }
    }
}

impl Plan {
    pub(super) fn wants(&self, start: i64, id: &TraceId) -> bool {
        self.after.is_none_or(|after| after.precedes(start, id))
    }

    /// What it takes to decide whether a trace matches.
    pub(super) fn asks(&self) -> Asks {
        if self.single { Asks::Values } else { Asks::Trace }
    }

    pub(crate) fn explain(&self, trail: &Trail) {
        if self.legacy.is_some() {
            trail.plan("every tag somewhere in the trace, evaluated trace by trace");
            return;
        }
        trail.plan(format!("query: {}", self.pipeline));
        match &self.needed {
            Some(needed) => trail.plan(format!("rows read: {{ {needed} }}")),
            None => trail.plan("rows read: all, because the pipeline looks at all"),
        }
        trail.plan(match self.single {
            true => "every row that is read belongs to a result",
            false => "evaluated trace by trace",
        });
        if self.asks() == Asks::Trace {
            trail.plan("relates the spans of a trace: split traces with rows that are read are merged");
        }
    }
}

pub(crate) fn mentions_whole_trace(expr: &FieldExpr) -> bool {
    let mut found = vec![];
    in_field(expr, &mut found);
    found.iter().any(asks_whole_trace)
}

/// Whether a name's value depends on other spans of the trace.
pub(crate) fn asks_whole_trace(attribute: &Attribute) -> bool {
    attribute.of_parent
        || matches!(
            attribute.name,
            AttributeName::Intrinsic(
                Intrinsic::TraceDuration
                    | Intrinsic::RootName
                    | Intrinsic::RootServiceName
                    | Intrinsic::ChildCount
                    | Intrinsic::NestedSetLeft
                    | Intrinsic::NestedSetRight
                    | Intrinsic::NestedSetParent
                    | Intrinsic::Parent
            )
        )
}
