//! The table of a metrics query: one row per series, with a sparkline.

use comfy_table::{Cell, CellAlignment};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Style, plain,
    search::{lines, table},
    thousands, width,
};

/// The parts of Tempo's metrics answer that are shown.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SeriesAnswer {
    pub series: Vec<Series>,
    pub status: String,
    pub message: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Series {
    pub labels: Vec<Label>,
    pub samples: Vec<Sample>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Label {
    pub key: String,
    pub value: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Sample {
    pub timestamp_ms: String,
    /// Absent means 0; a number, or a text such as `NaN`.
    pub value: Value,
}

/// The most series that are listed.
const SERIES_MAX: usize = 100;
const SPARK_COLUMNS_MIN: usize = 8;
/// The widest a sparkline gets.
const SPARK_COLUMNS_MAX: usize = 48;
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

pub fn render(answer: &SeriesAnswer, style: Style) -> String {
    if answer.series.is_empty() {
        return "No series.\n".to_owned();
    }
    // One scale for all, so that heights can be compared.
    let highest = answer.series.iter().flat_map(values).fold(0.0f64, f64::max);
    let common = common_key(&answer.series);
    let rows: Vec<(String, Vec<f64>, [String; 4])> =
        answer.series.iter().take(SERIES_MAX).map(|series| row(series, common.is_some())).collect();
    let title = common.map_or("SERIES".to_owned(), plain);
    let heads = ["LAST", "MIN", "MEAN", "MAX"];
    let numbers: usize =
        (0..4).map(|i| rows.iter().map(|row| row.2[i].len()).max().unwrap_or(0).max(heads[i].len()) + 2).sum();
    let names = rows.iter().map(|row| width(&row.0)).max().unwrap_or(0).max(width(&title)).min(style.columns / 2);
    let columns = style.columns.saturating_sub(names + numbers + 2).clamp(SPARK_COLUMNS_MIN, SPARK_COLUMNS_MAX);

    let mut table = table(style);
    table.set_header([title.as_str(), ""].iter().chain(&heads).map(|head| Cell::new(style.bold(head))));
    for (name, values, figures) in rows {
        table.add_row([name, sparkline(&values, highest, columns)].into_iter().chain(figures));
    }
    for index in 2..6 {
        table.column_mut(index).expect("the header has six columns").set_cell_alignment(CellAlignment::Right);
    }
    let mut text = lines(&table);
    let mut summary = format!("{} series", thousands(answer.series.len() as u64));
    if answer.series.len() > SERIES_MAX {
        summary.push_str(&format!(", {SERIES_MAX} of them shown; --json has all"));
    }
    if let Some(range) = range(answer, style) {
        summary.push_str(&format!(", {range}"));
    }
    text.push_str(&format!("\n{}\n", style.dim(&format!("{summary}."))));
    if answer.status == "PARTIAL" {
        text.push_str(&format!("{}\n", style.red(&format!("Partial: {}", plain(&answer.message)))));
    }
    text
}

/// The name of a series, its values, and its last, least, mean and greatest.
fn row(series: &Series, value_only: bool) -> (String, Vec<f64>, [String; 4]) {
    let values: Vec<f64> = values(series).collect();
    let known: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    let figures = match known.last() {
        None => Default::default(),
        Some(last) => [
            *last,
            known.iter().copied().fold(f64::INFINITY, f64::min),
            known.iter().sum::<f64>() / known.len() as f64,
            known.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        ]
        .map(figure),
    };
    (name(series, value_only), values, figures)
}

fn values(series: &Series) -> impl Iterator<Item = f64> + '_ {
    series.samples.iter().map(|sample| match &sample.value {
        Value::Number(number) => number.as_f64().unwrap_or(f64::NAN),
        Value::String(text) => text.parse().unwrap_or(f64::NAN),
        _ => 0.0,
    })
}

/// The one label that every series has, and nothing else: it is said once, in the head.
fn common_key(series: &[Series]) -> Option<&str> {
    let key = match series.first()?.labels.as_slice() {
        [only] if only.key != "__name__" => only.key.as_str(),
        _ => return None,
    };
    series.iter().all(|series| matches!(series.labels.as_slice(), [only] if only.key == key)).then_some(key)
}

/// `resource.service.name=cart p=0.9`, or the function's name where there are no labels.
fn name(series: &Series, value_only: bool) -> String {
    let value = |label: &Label| match label.value.as_object().and_then(|object| object.values().next()) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "nil".to_owned(),
    };
    match series.labels.as_slice() {
        [only] if value_only || only.key == "__name__" => plain(&value(only)),
        labels => {
            let parts: Vec<String> = labels
                .iter()
                .filter(|label| label.key != "__name__")
                .map(|label| format!("{}={}", label.key, value(label)))
                .collect();
            plain(&parts.join(" "))
        }
    }
}

/// The values in `columns` columns at most, each column the mean of the values that fall into it.
fn sparkline(values: &[f64], highest: f64, columns: usize) -> String {
    let columns = columns.min(values.len());
    (0..columns)
        .map(|column| {
            let slice = &values[column * values.len() / columns..(column + 1) * values.len() / columns];
            let known: Vec<f64> = slice.iter().copied().filter(|value| value.is_finite()).collect();
            if known.is_empty() {
                return ' ';
            }
            let mean = known.iter().sum::<f64>() / known.len() as f64;
            // The lowest line is for nothing at all.
            match mean > 0.0 {
                true => LEVELS[((mean / highest * 7.0).round() as usize).clamp(1, 7)],
                false => LEVELS[0],
            }
        })
        .collect()
}

/// A number in four figures or so.
fn figure(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude >= 1000.0 || value == value.trunc() {
        return format!("{value:.0}");
    }
    let decimals = if magnitude >= 10.0 {
        1
    } else if magnitude >= 0.1 {
        3
    } else {
        6
    };
    format!("{value:.decimals$}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn range(answer: &SeriesAnswer, style: Style) -> Option<String> {
    let times =
        answer.series.iter().flat_map(|series| &series.samples).filter_map(|s| s.timestamp_ms.parse::<u64>().ok());
    let (first, last) = times.fold(None, |range: Option<(u64, u64)>, time| {
        Some(range.map_or((time, time), |(first, last)| (first.min(time), last.max(time))))
    })?;
    let moment = |millis: u64| style.time(millis.saturating_mul(1_000_000)).format("%H:%M:%S").to_string();
    Some(format!("{} to {}", moment(first), moment(last)))
}
