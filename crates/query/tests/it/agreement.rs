//! Every query of a kind, asked of every place and of the naive evaluator: one answer.

use std::fmt::Write;

use proto::{
    otlp::common::v1::{AnyValue, KeyValue, any_value::Value as Any},
    tempopb,
};
use query::{MetricsRequest, SearchFilter, SearchRequest, TimeRange};
use rand::{Rng, SeedableRng, rngs::StdRng};
use traceql::ast::{MetricsExpr, Pipeline, QueryBody, SecondStage};

use crate::{
    data::{BASE, Row, SECOND, rows},
    naive::{
        Patterns, Trace,
        metrics::{self, Axis},
        search::{self, Bounds, Found, FoundSet, FoundSpan},
        traces,
    },
    places::{Place, everywhere, tenant},
    questions::{Asker, Vocabulary},
};

const SEED: u64 = 20_240_607;
/// Queries asked of one data set before the next is made.
const QUERIES_PER_DATA: usize = 100;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a whole number, not {text:?}")))
}

pub fn seed() -> u64 {
    number("SOSTENUTO_SEED").unwrap_or(SEED)
}

pub fn count(default: usize) -> usize {
    number("SOSTENUTO_QUERIES").map_or(default, |n| n as usize)
}

/// One data set with everything that is asked of it.
pub struct World {
    pub seed: u64,
    pub rows: Vec<Row>,
    pub places: Vec<Place>,
}

impl World {
    async fn of(seed: u64) -> Self {
        let rows = rows(seed);
        let places = everywhere(&rows, seed).await;
        Self { seed, rows, places }
    }
}

/// Asks `total` queries, data set by data set. `kind` keeps the tests' data sets apart.
pub async fn each_query(kind: u64, total: usize, make: fn(&mut Asker<'_>) -> String, check: impl AsyncFn(&World, &[Trace<'_>], &mut StdRng, &str) -> bool) {
    let seed = seed();
    println!("SOSTENUTO_SEED={seed} SOSTENUTO_QUERIES={total}");
    let (mut asked, mut answered, mut refused, mut world_number) = (0, 0, 0, 0);
    while asked < total {
        let world = World::of(seed.wrapping_mul(1_000_003).wrapping_add(kind * 100_000 + world_number)).await;
        world_number += 1;
        let traces = traces(&world.rows);
        let vocabulary = Vocabulary::of(&world.rows);
        let mut asker = Asker { rng: StdRng::seed_from_u64(world.seed), vocabulary: &vocabulary };
        let mut rng = StdRng::seed_from_u64(!world.seed);
        for _ in 0..QUERIES_PER_DATA.min(total - asked) {
            let text = loop {
                let text = std::env::var("SOSTENUTO_QUERY").unwrap_or_else(|_| make(&mut asker));
                if traceql::parse(&text).is_ok() {
                    break text;
                }
                refused += 1;
            };
            answered += usize::from(check(&world, &traces, &mut rng, &text).await);
            asked += 1;
        }
    }
    println!("{asked} queries asked, {answered} with an answer; {refused} texts that are no query were left out");
    assert!(refused < asked, "{refused} texts were refused: the generator makes queries too seldom");
    assert!(answered * 5 >= asked * 2, "only {answered} of {asked} queries found anything: they prove little");
}

/// Ends the test with all that is needed to see what happened.
pub fn fail(world: &World, place: &Place, text: &str, detail: &str, trace: Option<&Trace<'_>>) -> ! {
    let mut message = format!("\nquery: {text}\nplace: {}\n{detail}\n", place.name);
    if let Some(trace) = trace {
        for node in &trace.nodes {
            let _ = writeln!(
                message,
                "  span {:02x?} parent {:02x?} {:?} start {} duration {} place {:?} left {}\n    {:?}\n    resource {:?}\n    scope {:?}",
                node.row.span.span_id, node.parent_id, node.kind, node.start, node.duration, node.place, node.left,
                node.row.span, node.row.resource.attributes, node.row.scope
            );
        }
    }
    panic!("{message}\nask again with: SOSTENUTO_SEED={} (data set {})", seed(), world.seed);
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

#[test]
fn filters_agree() {
    runtime().block_on(each_query(1, count(3_500), |asker| asker.single_filter(), check_search));
}

#[test]
fn pipelines_agree() {
    runtime().block_on(each_query(2, count(3_500), |asker| asker.hinted_pipeline(), check_search));
}

#[test]
fn metrics_agree() {
    runtime().block_on(each_query(3, count(2_500), |asker| asker.metrics(), check_metrics));
}

pub async fn check_search(world: &World, traces: &[Trace<'_>], rng: &mut StdRng, text: &str) -> bool {
    let QueryBody::Search(pipeline) = traceql::parse(text).expect("checked before").body else {
        panic!("not a search: {text}");
    };
    let start = BASE as i64 + rng.random_range(-60..600) * SECOND as i64;
    let bounds = Bounds {
        range: rng.random_bool(0.25).then(|| (start, start + rng.random_range(0..300) * SECOND as i64)),
        limit: if rng.random_bool(0.3) { rng.random_range(1..8) } else { 10_000 },
        spans_per_spanset: if rng.random_bool(0.2) { rng.random_range(1..4) } else { 0 },
    };
    let expected = search::search(traces, &pipeline, bounds, &Patterns::default());
    for place in &world.places {
        let request = SearchRequest {
            filter: SearchFilter::TraceQl(text.to_owned()),
            range: bounds.range.map(|(start, end)| TimeRange { start, end }),
            limit: bounds.limit,
            spans_per_spanset: bounds.spans_per_spanset,
        };
        match place.engine.search(&[tenant()], request).await {
            Ok(response) => {
                let found: Vec<Found> = response.traces.iter().map(found).collect();
                if found != expected {
                    search_differs(world, place, text, &pipeline, traces, (bounds, &expected, &found));
                }
            }
            Err(error) => fail(world, place, text, &format!("error: {error}"), None),
        }
    }
    !expected.is_empty()
}

fn search_differs(
    world: &World,
    place: &Place,
    text: &str,
    pipeline: &Pipeline,
    traces: &[Trace<'_>],
    (bounds, expected, found): (Bounds, &[Found], &[Found]),
) -> ! {
    let at = (0..).find(|at| expected.get(*at) != found.get(*at)).expect("they differ");
    let (wanted, got) = (expected.get(at), found.get(at));
    let (wanted_text, got_text) = (format!("{wanted:#?}"), format!("{got:#?}"));
    let detail = format!(
        "canonical: {pipeline}\n{bounds:?}\n{} traces expected, {} found\nresult {at}\nexpected\n{}\nfound\n{}",
        expected.len(),
        found.len(),
        around_difference(&wanted_text, &got_text),
        around_difference(&got_text, &wanted_text)
    );
    // The trace that one of the two has and the other has not, or has differently.
    let missing = wanted.filter(|w| !found.iter().any(|f| f.trace == w.trace)).or(got).or(wanted);
    let trace = missing.and_then(|m| traces.iter().find(|t| format!("{:x}", u128::from_be_bytes(t.id)) == m.trace));
    fail(world, place, text, &detail, trace)
}

/// The lines of a text about the first that another has differently.
fn around_difference(text: &str, other: &str) -> String {
    let same = text.lines().zip(other.lines()).take_while(|(a, b)| a == b).count();
    text.lines().skip(same.saturating_sub(12)).take(24).collect::<Vec<_>>().join("\n")
}

fn found(trace: &tempopb::TraceSearchMetadata) -> Found {
    let set = |set: &tempopb::SpanSet| FoundSet {
        matched: set.matched,
        attributes: set.attributes.iter().map(pair).collect(),
        spans: set.spans.iter().map(span).collect(),
    };
    let alone = trace.span_sets.first().filter(|_| trace.span_sets.len() == 1).map(set);
    assert_eq!(trace.span_set.as_ref().map(set), alone, "the old field repeats a spanset that is alone");
    Found {
        trace: trace.trace_id.clone(),
        root_service: trace.root_service_name.clone(),
        root_name: trace.root_trace_name.clone(),
        start: trace.start_time_unix_nano,
        duration_ms: trace.duration_ms,
        services: trace.service_stats.iter().map(|(name, s)| (name.clone(), (s.span_count, s.error_count))).collect(),
        spansets: trace.span_sets.iter().map(set).collect(),
    }
}

fn span(span: &tempopb::Span) -> FoundSpan {
    let mut attributes: Vec<_> = span.attributes.iter().map(pair).collect();
    attributes.sort();
    FoundSpan {
        id: span.span_id.clone(),
        name: span.name.clone(),
        start: span.start_time_unix_nano,
        duration: span.duration_nanos,
        attributes,
    }
}

pub fn pair(attribute: &KeyValue) -> (String, String) {
    (attribute.key.clone(), shown(attribute.value.as_ref().expect("answers have values")))
}

fn shown(value: &AnyValue) -> String {
    match value.value.as_ref().expect("answers have values") {
        Any::StringValue(v) => format!("string {v:?}"),
        Any::BoolValue(v) => format!("bool {v}"),
        Any::IntValue(v) => format!("int {v}"),
        Any::DoubleValue(v) => format!("double {v:?}"),
        Any::ArrayValue(v) => format!("[{}]", v.values.iter().map(shown).collect::<Vec<_>>().join(", ")),
        other => panic!("answers have no {other:?}"),
    }
}

pub async fn check_metrics(world: &World, traces: &[Trace<'_>], rng: &mut StdRng, text: &str) -> bool {
    let QueryBody::Metrics(expr) = traceql::parse(text).expect("checked before").body else {
        panic!("not a metrics query: {text}");
    };
    let start = BASE as i64 + rng.random_range(-120_000..300_000) * 1_000_000;
    let length = rng.random_range(1..600) * SECOND as i64;
    let end = start + length;
    // At most some tens of samples a series.
    let step = [length / 50 + 1_000_000, 10 * SECOND as i64, 60 * SECOND as i64, length][rng.random_range(0..4)];
    let instant = rng.random_bool(0.2);
    let axis = if instant { Axis::Instant { start, end } } else { Axis::range(start, end, step) };
    let answer = metrics::evaluate(traces, &expr, axis, &Patterns::default());
    if answer.ambiguous {
        return false;
    }
    let mut first: Option<Vec<Got>> = None;
    for place in &world.places {
        let request = MetricsRequest {
            query: text.to_owned(),
            start,
            end,
            step: Some(step),
            exemplars: Some(0),
            exemplars_max: 100,
            series_max: None,
        };
        let engine = &place.engine;
        let got = match instant {
            true => engine.query_instant(&[tenant()], request).await.map(|r| r.series.iter().map(|s| at_once(s, axis)).collect()),
            false => engine.query_range(&[tenant()], request).await.map(|r| r.series.iter().map(|s| over_time(s, axis)).collect()),
        };
        let mut got: Vec<Got> = match got {
            Ok(got) => got,
            Err(error) => fail(world, place, text, &format!("{axis:?}\nerror: {error}"), None),
        };
        got.sort_by(|a, b| a.labels.cmp(&b.labels));
        if let Err(difference) = same_series(&answer, &got) {
            let detail = format!("canonical: {expr}\n{axis:?}\n{difference}\nfound {got:#?}\nexpected {:#?}\nthen {:?}", answer.series, answer.rest);
            fail(world, place, text, &detail, traces.iter().find(|t| text.contains(&format!("{:x}", u128::from_be_bytes(t.id)))));
        }
        // The same labels from every place, also where ties had to be broken.
        let labels = |got: &[Got]| got.iter().map(|g| (g.labels.clone(), present(&g.samples))).collect::<Vec<_>>();
        let known = first.get_or_insert_with(|| got.clone());
        if labels(known) != labels(&got) && !ties_by_rounding(&expr) {
            fail(world, place, text, &format!("{axis:?}\nfound {got:#?}\nelsewhere {known:#?}"), None);
        }
    }
    !answer.series.is_empty()
}

#[derive(Clone, Debug)]
struct Got {
    labels: Vec<(String, String)>,
    /// By bucket.
    samples: Vec<Option<f64>>,
}

fn present(samples: &[Option<f64>]) -> Vec<bool> {
    samples.iter().map(Option::is_some).collect()
}

/// Sums of floats may differ in their last digits from place to place, and so may what is selected of them.
fn ties_by_rounding(expr: &MetricsExpr) -> bool {
    use traceql::ast::MetricsFunction::{AvgOverTime, SumOverTime};
    match expr {
        MetricsExpr::Query(query) => matches!(query.function, AvgOverTime(_) | SumOverTime(_)),
        _ => true,
    }
}

fn at_once(series: &tempopb::InstantSeries, _: Axis) -> Got {
    Got { labels: series.labels.iter().map(pair).collect(), samples: vec![Some(series.value)] }
}

fn over_time(series: &tempopb::TimeSeries, axis: Axis) -> Got {
    let stamps = axis.stamps();
    let mut samples = vec![None; stamps.len()];
    let mut last = -1;
    for sample in &series.samples {
        let at = stamps.iter().position(|stamp| *stamp == sample.timestamp_ms).expect("a stamp of the axis");
        assert!(at as i64 > last, "samples are in order of time");
        last = at as i64;
        samples[at] = Some(sample.value);
    }
    Got { labels: series.labels.iter().map(pair).collect(), samples }
}

fn close(expected: metrics::Sample, got: f64) -> bool {
    expected.value == got || (expected.value - got).abs() <= expected.slack + f64::MIN_POSITIVE
}

/// Whether these are the expected series, or what `topk` may leave of them.
fn same_series(answer: &metrics::Answer, got: &[Got]) -> Result<(), String> {
    let mut expected: Vec<metrics::Series> = answer.series.iter().filter(|s| !s.is_empty()).cloned().collect();
    expected.sort_by(|a, b| a.labels.cmp(&b.labels));
    let [stage @ (SecondStage::TopK(k) | SecondStage::BottomK(k)), after @ ..] = answer.rest.as_slice() else {
        return all_same(&expected, got);
    };
    let k = usize::try_from(*k).expect("at least 1");
    // What is equal by value is equally right to select: compare the values only, and that each belongs to its series.
    let after: Vec<(traceql::ast::ComparisonOp, f64)> = after
        .iter()
        .map(|s| if let SecondStage::Compare(op, bound) = s { (*op, *bound) } else { panic!("one selection a query") })
        .collect();
    for series in got {
        let mut same = expected.iter().filter(|e| e.labels == series.labels);
        if !same.any(|e| series.samples.iter().zip(&e.samples).all(|(g, e)| g.is_none_or(|g| e.is_some_and(|e| close(e, g))))) {
            return Err(format!("no series {:?} has these samples", series.labels));
        }
    }
    let buckets = answer.series.first().map_or(0, |s| s.samples.len());
    for bucket in 0..buckets {
        let mut values: Vec<metrics::Sample> = expected.iter().filter_map(|s| s.samples[bucket]).collect();
        values.sort_by(|a, b| a.value.total_cmp(&b.value));
        if matches!(stage, SecondStage::TopK(_)) {
            values.reverse();
        }
        values.truncate(k);
        values.retain(|v| after.iter().all(|(op, bound)| metrics::passes(*op, v.value, *bound)));
        let mut found: Vec<f64> = got.iter().filter_map(|s| s.samples[bucket]).collect();
        found.sort_by(f64::total_cmp);
        values.sort_by(|a, b| a.value.total_cmp(&b.value));
        if values.len() != found.len() || !values.iter().zip(&found).all(|(v, f)| close(*v, *f)) {
            return Err(format!("bucket {bucket}: selected {found:?}, expected {values:?}"));
        }
    }
    Ok(())
}

fn all_same(expected: &[metrics::Series], got: &[Got]) -> Result<(), String> {
    let labels = |e: &[metrics::Series]| e.iter().map(|s| s.labels.clone()).collect::<Vec<_>>();
    let got_labels: Vec<_> = got.iter().map(|s| s.labels.clone()).collect();
    if labels(expected) != got_labels {
        return Err(format!("labels\nexpected {:?}\n   found {got_labels:?}", labels(expected)));
    }
    // Series may share their labels: a value may be the word `nil`. Then any order of them will do.
    let mut left: Vec<&metrics::Series> = expected.iter().collect();
    for series in got {
        let same = |e: &&metrics::Series| {
            e.labels == series.labels
                && e.samples.iter().zip(&series.samples).all(|(e, g)| match (e, g) {
                    (Some(e), Some(g)) => close(*e, *g),
                    (e, g) => e.is_none() && g.is_none(),
                })
        };
        match left.iter().position(same) {
            Some(at) => drop(left.swap_remove(at)),
            None => return Err(format!("series {:?}", series.labels)),
        }
    }
    Ok(())
}
