//! A trace as a waterfall: a tree of spans at the left, their time as bars at the right.
//!
//! A trace is written by others: it may have no root, several, or parents in a circle. Every span is shown once.

use std::collections::HashMap;

use proto::otlp::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{Span, TracesData},
};

use super::{Style, clip, duration, fit, plain, plural, width};

/// The most spans that are drawn.
const SPANS_MAX: usize = 2_000;
/// Deeper spans are drawn at this depth, or at less where the terminal is narrow.
const DEPTH_MAX: usize = 24;
/// What a name keeps of its column whatever the depth.
const NAME_COLUMNS_MIN: usize = 12;
/// Columns of a duration: `999.9ms`.
const DURATION_COLUMNS: usize = 8;

struct Row<'a> {
    span: &'a Span,
    service: &'a str,
    /// The lines of the tree to the left of the name.
    branch: String,
    /// What stands under the span continues with these.
    below: String,
    /// The service is the parent's too.
    same_service: bool,
    /// Names a parent, and hangs below none: the parent is not here, or the parents form a circle.
    detached: bool,
    /// A child has the same status message: it is said where it comes from, and not again on the way up.
    told_below: bool,
}

/// The whole picture. A trace without spans is an empty text.
pub fn render(trace: &TracesData, style: Style) -> String {
    let spans: Vec<(&Span, &str)> = trace
        .resource_spans
        .iter()
        .flat_map(|resource| {
            let attributes = resource.resource.as_ref().map_or(&[][..], |resource| &resource.attributes);
            let service = text_of(attributes, "service.name").unwrap_or("unknown");
            resource.scope_spans.iter().flat_map(move |scope| scope.spans.iter().map(move |span| (span, service)))
        })
        .collect();
    if spans.is_empty() {
        return String::new();
    }
    let names_max = style.columns * 11 / 20;
    let depth_max = (names_max.saturating_sub(NAME_COLUMNS_MIN) / 2).clamp(1, DEPTH_MAX);
    let rows = tree(&spans, depth_max);
    let start = spans.iter().map(|(span, _)| span.start_time_unix_nano).min().unwrap_or(0);
    let end = spans.iter().map(|(span, _)| span.end_time_unix_nano).max().unwrap_or(0).max(start);
    let mut services: Vec<&str> = Vec::new();
    for row in &rows {
        if !services.contains(&row.service) {
            services.push(row.service);
        }
    }

    let mut text = header(&rows, &services, start, end, style);
    let names = name_columns(&rows, names_max);
    let bars = style.columns.saturating_sub(names + DURATION_COLUMNS + 2).max(8);
    for row in rows.iter().take(SPANS_MAX) {
        let colour = services.iter().position(|service| *service == row.service).unwrap_or(0);
        text.push_str(&line(row, colour, (start, end), (names, bars), style));
        for note in notes(row) {
            let room = style.columns.saturating_sub(width(&row.below) + 2);
            let note_text = clip(&note.text, room);
            let painted = if note.bad { style.red(&note_text) } else { style.dim(&note_text) };
            text.push_str(&format!("{}  {painted}\n", style.dim(&row.below)));
        }
    }
    if rows.len() > SPANS_MAX {
        text.push_str(&format!("… {} more; --json has all\n", plural(rows.len() - SPANS_MAX, "span")));
    }
    text
}

/// Parents before children, children by start time; what has no parent here is a root.
fn tree<'a>(spans: &[(&'a Span, &'a str)], depth_max: usize) -> Vec<Row<'a>> {
    let mut by_id: HashMap<&[u8], usize> = HashMap::with_capacity(spans.len());
    for (index, (span, _)) in spans.iter().enumerate() {
        by_id.entry(&span.span_id).or_insert(index);
    }
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); spans.len()];
    let mut roots = Vec::new();
    for (index, (span, _)) in spans.iter().enumerate() {
        match by_id.get(span.parent_span_id.as_slice()) {
            Some(parent) if *parent != index && !span.parent_span_id.is_empty() => children[*parent].push(index),
            _ => roots.push(index),
        }
    }
    let order = |index: &usize| (spans[*index].0.start_time_unix_nano, &spans[*index].0.span_id);
    roots.sort_by_key(order);
    children.iter_mut().for_each(|siblings| siblings.sort_by_key(order));
    // The true root leads, then spans whose parent is missing.
    roots.sort_by_key(|index| !spans[*index].0.parent_span_id.is_empty());

    let mut seen = vec![false; spans.len()];
    let mut rows = Vec::with_capacity(spans.len());
    // Spans whose parents form a circle hang below no root; the second round starts from each that is left.
    let every: Vec<usize> = (0..spans.len()).collect();
    for root in roots.into_iter().chain(every) {
        // (span, depth, lines to the left, last of its siblings, parent's service)
        let mut stack = vec![(root, 0usize, String::new(), true, None)];
        while let Some((index, depth, lines, last, above)) = stack.pop() {
            if std::mem::replace(&mut seen[index], true) {
                continue;
            }
            let (span, service) = spans[index];
            let (branch, below) = match depth {
                0 => (String::new(), String::new()),
                _ if depth <= depth_max => {
                    let (branch, below) = if last { ("└ ", "  ") } else { ("├ ", "│ ") };
                    (format!("{lines}{branch}"), format!("{lines}{below}"))
                }
                _ => (lines.clone(), lines),
            };
            let family = &children[index];
            let message = message(span);
            let told_below = family.iter().any(|child| message == self::message(spans[*child].0));
            let detached = depth == 0 && !span.parent_span_id.is_empty();
            let lines_below = if children[index].is_empty() { format!("{below}  ") } else { format!("{below}│ ") };
            rows.push(Row {
                span,
                service,
                branch,
                below: lines_below,
                same_service: above == Some(service),
                detached,
                told_below,
            });
            for (position, child) in family.iter().enumerate().rev() {
                stack.push((*child, depth + 1, below.clone(), position + 1 == family.len(), Some(service)));
            }
        }
    }
    rows
}

fn header(rows: &[Row<'_>], services: &[&str], start: u64, end: u64, style: Style) -> String {
    let root = &rows[0];
    let errors = rows.iter().filter(|row| failed(row.span)).count();
    let id: String = root.span.trace_id.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut facts = vec![
        style.time(start).format("%Y-%m-%d %H:%M:%S%.3f").to_string(),
        duration(end - start),
        plural(rows.len(), "span"),
        plural(services.len(), "service"),
    ];
    if errors > 0 {
        facts.push(style.red(&plural(errors, "error")));
    }
    let detached = rows.iter().filter(|row| row.detached).count();
    if detached > 0 {
        facts.push(style.red(&format!("{} detached", plural(detached, "span"))));
    }
    let title = format!("{}  {}", plain(root.service), plain(&root.span.name));
    format!(
        "{}  {}\n{}\n\n",
        style.bold(&id),
        style.bold(&clip(&title, style.columns.saturating_sub(34))),
        facts.join("  ")
    )
}

/// Room for the names: what they need, but at most about half of the line.
fn name_columns(rows: &[Row<'_>], names_max: usize) -> usize {
    let longest = rows.iter().take(SPANS_MAX).map(|row| width(&row.branch) + width(&label(row)) + 1).max().unwrap_or(0);
    longest.clamp(20, names_max)
}

fn label(row: &Row<'_>) -> String {
    let mark = if failed(row.span) { "✗ " } else { "" };
    let lost = if row.detached { "(detached) " } else { "" };
    let name = plain(&row.span.name);
    match row.same_service {
        true => format!("{mark}{lost}{name}"),
        false => format!("{mark}{lost}{} {name}", plain(row.service)),
    }
}

fn line(row: &Row<'_>, colour: usize, (start, end): (u64, u64), (names, bars): (usize, usize), style: Style) -> String {
    let label = label(row);
    let room = names.saturating_sub(width(&row.branch));
    let fitted = fit(&label, room);
    let painted = if failed(row.span) {
        style.red(&fitted)
    } else if row.same_service {
        fitted
    } else {
        // Only the service's name is coloured; the cut may have gone through it.
        let service = plain(row.service);
        match fitted.strip_prefix(service.as_str()) {
            Some(rest) => format!("{}{rest}", style.colour(colour, &service)),
            None => style.colour(colour, &fitted),
        }
    };
    let bar = bar(row.span, start, end, bars);
    let bar = if failed(row.span) { style.red(&bar) } else { style.colour(colour, &bar) };
    let nanos = row.span.end_time_unix_nano.saturating_sub(row.span.start_time_unix_nano);
    let shown = duration(nanos);
    let fill = " ".repeat(DURATION_COLUMNS.saturating_sub(width(&shown)));
    format!("{}{painted} {bar} {fill}{shown}\n", style.dim(&row.branch))
}

/// The span's share of the trace's time, in `columns` columns. Never empty: a short span is a thin line.
fn bar(span: &Span, start: u64, end: u64, columns: usize) -> String {
    let whole = (end - start).max(1) as f64;
    let place = |time: u64| time.saturating_sub(start) as f64 / whole * columns as f64;
    let from = place(span.start_time_unix_nano).min(columns as f64);
    let to = place(span.end_time_unix_nano.max(span.start_time_unix_nano)).min(columns as f64);
    let first = (from.floor() as usize).min(columns - 1);
    let full = (to.round() as usize).saturating_sub(first);
    let body = match full {
        0 => "▏".to_owned(),
        _ if to - from < 0.5 => "▏".to_owned(),
        full => "█".repeat(full),
    };
    let used = first + width(&body);
    format!("{}{body}{}", " ".repeat(first), " ".repeat(columns.saturating_sub(used)))
}

struct Note {
    text: String,
    bad: bool,
}

/// What is said under a span: its exceptions or its status message, its other events, its links.
fn notes(row: &Row<'_>) -> Vec<Note> {
    let span = row.span;
    let mut notes = Vec::new();
    for event in span.events.iter().filter(|event| event.name == "exception") {
        let kind = text_of(&event.attributes, "exception.type").unwrap_or("exception");
        let message = text_of(&event.attributes, "exception.message").unwrap_or_default();
        let separator = if message.is_empty() { "" } else { ": " };
        notes.push(Note { text: plain(&format!("! {kind}{separator}{message}")), bad: true });
    }
    let message = message(span);
    if notes.is_empty() && !message.is_empty() && !row.told_below {
        notes.push(Note { text: plain(&format!("! {message}")), bad: failed(span) });
    }
    let mut names: Vec<(&str, usize)> = Vec::new();
    for event in span.events.iter().filter(|event| event.name != "exception") {
        match names.iter_mut().find(|(name, _)| *name == event.name) {
            Some((_, count)) => *count += 1,
            None => names.push((&event.name, 1)),
        }
    }
    if !names.is_empty() {
        let parts: Vec<String> = names
            .iter()
            .map(|(name, count)| if *count > 1 { format!("{name} ×{count}") } else { (*name).to_owned() })
            .collect();
        notes.push(Note { text: plain(&format!("· {}", parts.join(", "))), bad: false });
    }
    let elsewhere: Vec<&[u8]> =
        span.links.iter().map(|link| link.trace_id.as_slice()).filter(|id| *id != span.trace_id.as_slice()).collect();
    match elsewhere.as_slice() {
        // A link to a span of this trace: what it points at is in the picture.
        [] => {}
        [first, rest @ ..] => {
            let id: String = first.iter().map(|byte| format!("{byte:02x}")).collect();
            let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
            notes.push(Note { text: format!("→ linked to trace {id}{more}"), bad: false });
        }
    }
    notes
}

fn message(span: &Span) -> &str {
    span.status.as_ref().map_or("", |status| status.message.as_str())
}

fn failed(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code == 2)
}

fn text_of<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    attributes.iter().find(|attribute| attribute.key == key).and_then(|attribute| match &attribute.value {
        Some(AnyValue { value: Some(Value::StringValue(text)) }) => Some(text.as_str()),
        _ => None,
    })
}
