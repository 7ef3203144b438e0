//! How an answer was made, as the server tells it.

use std::fmt::Write;

use serde::Deserialize;

use super::{Style, bytes, duration, plain, thousands};

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Explanation {
    plan: Vec<String>,
    blocks: u64,
    blocks_missing: u64,
    live_batches: u64,
    pruned: std::collections::BTreeMap<String, u64>,
    traces_split: u64,
    row_groups: u64,
    row_groups_pruned_by_statistics: u64,
    units_read: u64,
    bytes_read: u64,
    rows_read: u64,
    rows_kept: u64,
    stages: Vec<Stage>,
}

#[derive(Deserialize)]
struct Stage {
    stage: String,
    micros: u64,
}

/// The member `explain` of an answer. Empty text for a server that does not explain.
pub fn render(explanation: &serde_json::Value, style: Style) -> String {
    let Ok(told) = Explanation::deserialize(explanation) else { return String::new() };
    let mut text = format!("\n{}\n", style.bold("How this was answered"));
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {} {value}", style.dim(&format!("{name:<12}")));
    };
    for (at, part) in told.plan.iter().enumerate() {
        line(if at == 0 { "plan" } else { "" }, plain(part));
    }
    line("places", format!("{} blocks, {} live batches", thousands(told.blocks), thousands(told.live_batches)));
    if told.blocks_missing > 0 {
        line("", style.red(&format!("{} blocks cannot be read", thousands(told.blocks_missing))));
    }
    for (reason, count) in told.pruned.iter().filter(|(_, count)| **count > 0) {
        line("", format!("{} left out: {}", thousands(*count), plain(reason)));
    }
    line("split", format!("{} traces lie in several places", thousands(told.traces_split)));
    line(
        "row groups",
        format!("{} left out by statistics, of {}", thousands(told.row_groups_pruned_by_statistics), thousands(told.row_groups)),
    );
    line(
        "read",
        format!(
            "{} row groups and live batches, {}; {} rows, {} kept",
            thousands(told.units_read),
            bytes(told.bytes_read),
            thousands(told.rows_read),
            thousands(told.rows_kept)
        ),
    );
    for (at, stage) in told.stages.iter().enumerate() {
        line(if at == 0 { "time" } else { "" }, format!("{:>8}  {}", duration(stage.micros * 1_000), plain(&stage.stage)));
    }
    text
}
