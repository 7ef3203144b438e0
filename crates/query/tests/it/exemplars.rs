//! Exemplars: each is a span that counts, and the same ones are shown wherever the spans lie.

use std::collections::BTreeSet;

use prost::Message;
use proto::tempopb;
use query::MetricsRequest;
use rand::{Rng, rngs::StdRng};
use traceql::ast::{Attribute, AttributeName, Intrinsic, MetricsExpr, MetricsFunction, MetricsQuery, QueryBody};

use crate::{
    agreement::{World, count, each_query, fail, pair, runtime},
    data::{BASE, SECOND},
    naive::{Eyes, Patterns, Trace, metrics::Axis},
    places::tenant,
};

#[test]
fn exemplars_agree() {
    runtime().block_on(each_query(7, count(800), |asker| asker.metrics_query(), check_exemplars));
}

/// A span that counts.
struct Counted {
    start: i64,
    /// By-labels as an answer shows them, and what is measured.
    labels: Vec<(String, String)>,
    measured: Option<f64>,
}

async fn check_exemplars(world: &World, traces: &[Trace<'_>], rng: &mut StdRng, text: &str) -> bool {
    let QueryBody::Metrics(MetricsExpr::Query(query)) = traceql::parse(text).expect("checked before").body else {
        return true;
    };
    let start = BASE as i64 + rng.random_range(-120_000..300_000) * 1_000_000;
    let length = rng.random_range(1..600) * SECOND as i64;
    let (end, step) = (start + length, [length / 50 + 1_000_000, 10 * SECOND as i64][rng.random_range(0..2)]);
    let axis = Axis::range(start, end, step);
    let (asked, most) = ([None, Some(1), Some(3), Some(40), Some(500)][rng.random_range(0..5)], [2, 100][rng.random_range(0..2)]);
    let hinted = rng.random_bool(0.2).then(|| rng.random_range(0..6_usize));
    let written = match hinted {
        Some(number) => format!("{text} with(exemplars={number})"),
        None => text.to_owned(),
    };
    let bound = hinted.or(asked).unwrap_or(100).min(most);
    let mut first: Option<Vec<Vec<Vec<u8>>>> = None;
    for place in &world.places {
        let request = MetricsRequest {
            query: written.clone(),
            start,
            end,
            step: Some(step),
            exemplars: asked,
            exemplars_max: most,
            series_max: None,
        };
        let answer = place.engine.query_range(&[tenant()], request).await.unwrap_or_else(|e| fail(world, place, &written, &e.to_string(), None));
        if let Err(wrong) = check_answer(traces, &query, axis, bound, &answer.series) {
            fail(world, place, &written, &format!("{axis:?}\n{wrong}\n{:#?}", answer.series), None);
        }
        let encoded = |series: &tempopb::TimeSeries| series.exemplars.iter().map(Message::encode_to_vec).collect();
        let chosen: Vec<Vec<Vec<u8>>> = answer.series.iter().map(encoded).collect();
        // Where ties of rounded sums are selected, the samples may differ.
        let known = first.get_or_insert_with(|| chosen.clone());
        if query.second.is_empty() && chosen != *known {
            fail(world, place, &written, &format!("{axis:?}\nother exemplars than elsewhere: {:#?}", answer.series), None);
        }
    }
    first.is_some_and(|chosen| !chosen.is_empty())
}

fn check_answer(traces: &[Trace<'_>], query: &MetricsQuery, axis: Axis, bound: usize, series: &[tempopb::TimeSeries]) -> Result<(), String> {
    let patterns = Patterns::default();
    let exemplars: Vec<(&tempopb::TimeSeries, &tempopb::Exemplar)> =
        series.iter().flat_map(|series| series.exemplars.iter().map(move |exemplar| (series, exemplar))).collect();
    let compares = matches!(query.function, MetricsFunction::Compare { .. });
    if exemplars.len() > if compares { 0 } else { bound } {
        return Err(format!("{} exemplars, at most {bound} were asked for", exemplars.len()));
    }
    let mut stands_for = BTreeSet::new();
    for (series, exemplar) in &exemplars {
        let labels: Vec<(String, String)> = exemplar.labels.iter().map(pair).collect();
        let Some((_, id)) = labels.iter().find(|(key, _)| key == "trace:id") else { return Err(format!("no trace: {labels:?}")) };
        if !stands_for.insert(id.clone()) {
            return Err(format!("trace {id} stands twice"));
        }
        let trace = traces.iter().find(|trace| *id == format!("string {:?}", format!("{:x}", u128::from_be_bytes(trace.id))));
        let trace = trace.ok_or_else(|| format!("there is no trace {id}"))?;
        let counted = counted(trace, query, axis, &patterns);
        let fits = |span: &&Counted| {
            span.start.div_euclid(1_000_000) == exemplar.timestamp_ms
                && span.labels.iter().all(|label| labels.contains(label))
                && (query.second.is_empty() || axis.bucket(span.start).is_some())
        };
        let span = counted.iter().find(fits).ok_or_else(|| format!("no span that counts is {labels:?} at {}", exemplar.timestamp_ms))?;
        let stamp = axis.stamps()[axis.bucket(span.start).expect("it counts")];
        let sample = series.samples.iter().find(|sample| sample.timestamp_ms == stamp).ok_or_else(|| format!("no sample at {stamp}"))?;
        let expected = span.measured.unwrap_or(sample.value);
        if exemplar.value != expected {
            return Err(format!("the value is {}, expected {expected}", exemplar.value));
        }
        let of_series = series.labels.iter().map(pair).filter(|(key, _)| !["__name__", "p", "__bucket"].contains(&key.as_str()));
        if let Some(label) = of_series.into_iter().find(|label| !labels.contains(label)) {
            return Err(format!("{labels:?} is no exemplar of a series with {label:?}"));
        }
    }
    // A count of anything has an exemplar of it.
    let counts = matches!(query.function, MetricsFunction::Rate | MetricsFunction::CountOverTime) && query.second.is_empty();
    let traces_counted = traces.iter().filter(|trace| !counted(trace, query, axis, &patterns).is_empty()).count();
    let least = traces_counted.min(bound).min(1);
    if counts && exemplars.len() < least {
        return Err(format!("no exemplars of {traces_counted} traces"));
    }
    Ok(())
}

fn counted(trace: &Trace<'_>, query: &MetricsQuery, axis: Axis, patterns: &Patterns) -> Vec<Counted> {
    let eyes = Eyes { trace, patterns };
    let spans: BTreeSet<usize> = eyes.spansets(&query.pipeline).into_iter().flat_map(|set| set.spans).collect();
    let spans = spans.into_iter().filter(|span| axis.bucket(trace.nodes[*span].start).is_some());
    spans
        .map(|span| {
            let shown = |name: &Attribute| Some((name.to_string(), eyes.labelled(name, span)?.shown()));
            let measured = measured(&query.function).and_then(|name| {
                let value = eyes.named(name, span).into_iter().next()?.number()?;
                Some(value / unit(name, &query.function))
            });
            Counted { start: trace.nodes[span].start, labels: query.by.iter().filter_map(shown).collect(), measured }
        })
        .collect()
}

fn measured(function: &MetricsFunction) -> Option<&Attribute> {
    use MetricsFunction as F;
    match function {
        F::Rate | F::CountOverTime | F::Compare { .. } => None,
        F::MinOverTime(name) | F::MaxOverTime(name) | F::SumOverTime(name) | F::AvgOverTime(name) => Some(name),
        F::QuantileOverTime(name, _) | F::HistogramOverTime(name) => Some(name),
    }
}

/// Histograms show every duration in seconds, the others a span's own.
fn unit(name: &Attribute, function: &MetricsFunction) -> f64 {
    let histogram = matches!(function, MetricsFunction::QuantileOverTime(..) | MetricsFunction::HistogramOverTime(_));
    match name.name {
        AttributeName::Intrinsic(Intrinsic::Duration) => 1e9,
        AttributeName::Intrinsic(Intrinsic::TraceDuration | Intrinsic::EventTimeSinceStart) if histogram => 1e9,
        _ => 1.0,
    }
}
