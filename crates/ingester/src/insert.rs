//! From a request to live spans.

use std::collections::BTreeMap;

use block::builder::Warnings;
use proto::wire::{self, SpanView, WireError};

use crate::runs::Runs;

/// What became of the spans of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inserted {
    pub accepted: u64,
    /// Reason to number of spans.
    pub rejected: BTreeMap<&'static str, u64>,
    /// What the limits cut.
    pub warnings: Warnings,
}

/// Checks everything around the spans, so that inserting cannot fail half-way. Returns the number of spans.
pub fn check_frame(request: &[u8]) -> Result<u64, WireError> {
    let mut spans = 0;
    for resource in wire::resource_spans(request) {
        for scope in resource?.scopes() {
            for span in scope?.spans() {
                span?;
                spans += 1;
            }
        }
    }
    Ok(spans)
}

/// Adds the valid spans of a request whose frame was checked.
pub fn insert(runs: &mut Runs, request: &[u8]) -> Inserted {
    const CHECKED: &str = "the frame of the request was checked";
    let mut inserted = Inserted::default();
    let before = runs.builder().warnings();
    for resource in wire::resource_spans(request) {
        let resource = resource.expect(CHECKED);
        let mut resource_number = runs.builder().resource(&resource);
        for scope in resource.scopes() {
            let scope = scope.expect(CHECKED);
            let mut scope_number = runs.builder().scope(&scope);
            for span in scope.spans() {
                let span = match SpanView::parse(span.expect(CHECKED)) {
                    Ok(span) => span,
                    Err(fault) => {
                        *inserted.rejected.entry(fault.reason()).or_default() += 1;
                        continue;
                    }
                };
                if runs.builder_is_full() {
                    runs.seal();
                    resource_number = runs.builder().resource(&resource);
                    scope_number = runs.builder().scope(&scope);
                }
                runs.builder().append(resource_number, scope_number, &span).expect("a full builder was sealed");
                inserted.accepted += 1;
            }
        }
    }
    if runs.builder_is_full() {
        runs.seal();
    }
    runs.account();
    inserted.warnings = since(before, runs.builder().warnings());
    inserted
}

fn since(before: Warnings, after: Warnings) -> Warnings {
    Warnings {
        keys_cut: after.keys_cut - before.keys_cut,
        values_cut: after.values_cut - before.values_cut,
        words_cut: after.words_cut - before.words_cut,
        attributes_dropped: after.attributes_dropped - before.attributes_dropped,
        events_dropped: after.events_dropped - before.events_dropped,
        links_dropped: after.links_dropped - before.links_dropped,
        parents_unknown: after.parents_unknown - before.parents_unknown,
    }
}
