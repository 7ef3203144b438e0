//! The table of a search: one row per trace.

use std::collections::BTreeSet;

use chrono::{DateTime, FixedOffset, NaiveDate};
use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};
use serde::Deserialize;

use super::{Style, bytes, clip, duration, plain, plural, thousands, width};

/// The parts of Tempo's search answer that are shown.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SearchAnswer {
    pub traces: Vec<TraceFound>,
    pub metrics: SearchMetrics,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TraceFound {
    #[serde(rename = "traceID")]
    pub trace_id: String,
    pub root_service_name: String,
    pub root_trace_name: String,
    pub start_time_unix_nano: String,
    pub duration_ms: u64,
    pub span_sets: Vec<SpansFound>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SpansFound {
    pub matched: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SearchMetrics {
    pub inspected_bytes: String,
    pub inspected_spans: String,
}

/// Between columns.
const GAP: usize = 2;
/// The least that is left for what a trace is called.
const ROOT_COLUMNS_MIN: usize = 12;

/// The table, newest first as the server sent it, and a line that sums it up.
pub fn render(answer: &SearchAnswer, limit: u32, style: Style) -> String {
    if answer.traces.is_empty() {
        return format!("No trace matches.{}\n", read(answer));
    }
    let starts: Vec<DateTime<FixedOffset>> =
        answer.traces.iter().map(|trace| style.time(trace.start_time_unix_nano.parse().unwrap_or(0))).collect();
    let days: BTreeSet<NaiveDate> = starts.iter().map(DateTime::date_naive).collect();
    let format = if days.len() > 1 { "%m-%d %H:%M:%S" } else { "%H:%M:%S" };
    let heads = ["TIME", "DURATION", "SPANS", "TRACE"];
    let rows: Vec<[String; 4]> =
        answer.traces.iter().zip(&starts).map(|(trace, start)| row(trace, start.format(format).to_string())).collect();
    let taken: usize = (0..heads.len())
        .map(|column| rows.iter().map(|row| width(&row[column])).max().unwrap_or(0).max(heads[column].len()) + GAP)
        .sum();
    let room = style.columns.saturating_sub(taken).max(ROOT_COLUMNS_MIN);

    let mut table = table(style);
    table.set_header(heads.iter().chain(&["ROOT"]).map(|head| Cell::new(style.bold(head))));
    for (row, trace) in rows.into_iter().zip(&answer.traces) {
        let root = format!("{} {}", plain(&trace.root_service_name), plain(&trace.root_trace_name));
        table.add_row(row.into_iter().chain([clip(root.trim(), room)]));
    }
    for index in 0..heads.len() {
        let column = table.column_mut(index).expect("the header has this column");
        column.set_constraint(ColumnConstraint::ContentWidth);
        if matches!(index, 1 | 2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = lines(&table);
    let mut summary = plural(answer.traces.len(), "trace");
    if let (Some(day), 1) = (days.first(), days.len()) {
        summary.push_str(&format!(" of {day}"));
    }
    if answer.traces.len() as u64 >= u64::from(limit) {
        summary.push_str("; there may be more, see --limit");
    }
    text.push_str(&format!("\n{}\n", style.dim(&format!("{summary}.{}", read(answer)))));
    text
}

/// A table without lines, as wide as the terminal at most.
pub fn table(style: Style) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        // The space around the outer edges is taken off again by `lines`.
        .set_width(u16::try_from(style.columns + GAP).unwrap_or(u16::MAX));
    table
}

/// The table as text, without the space around its columns' outer edges.
pub fn lines(table: &Table) -> String {
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.strip_prefix(' ').unwrap_or(&line).trim_end());
        text.push('\n');
    }
    text
}

fn row(trace: &TraceFound, time: String) -> [String; 4] {
    let matched: u64 = trace.span_sets.iter().map(|set| set.matched).sum();
    [
        time,
        if trace.duration_ms == 0 { "<1ms".to_owned() } else { duration(trace.duration_ms.saturating_mul(1_000_000)) },
        if matched > 0 { thousands(matched) } else { String::new() },
        plain(&trace.trace_id),
    ]
}

/// What the server read for the answer.
fn read(answer: &SearchAnswer) -> String {
    let number = |text: &str| text.parse::<u64>().ok().filter(|count| *count > 0);
    match (number(&answer.metrics.inspected_spans), number(&answer.metrics.inspected_bytes)) {
        (Some(spans), Some(size)) => format!(" Read {} spans, {}.", thousands(spans), bytes(size)),
        (None, Some(size)) => format!(" Read {}.", bytes(size)),
        _ => String::new(),
    }
}
