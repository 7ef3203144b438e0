//! Small data for each documented decision: what is asked, and which spans answer, wherever the spans lie.

use proto::{
    otlp::{
        common::v1::{AnyValue, InstrumentationScope, any_value::Value as Any},
        resource::v1::Resource,
        trace::v1::{Span, Status, span::Event},
    },
    tempopb,
};
use query::{LiveGeneration, MetricsRequest, SearchFilter, SearchRequest, TimeRange};

use crate::{
    data::{BASE, Row, SECOND, any, array, attribute, text},
    places::{Place, batch, everywhere, place, tenant},
};

fn double(value: f64) -> AnyValue {
    any(Any::DoubleValue(value))
}

fn int(value: i64) -> AnyValue {
    any(Any::IntValue(value))
}

/// A span that lasts a second, named by its number.
pub fn span(trace: u128, id: u64, parent: u64, start_s: u64) -> Row {
    let start = BASE + start_s * SECOND;
    let span = Span {
        trace_id: trace.to_be_bytes().into(),
        span_id: id.to_be_bytes().into(),
        parent_span_id: if parent == 0 { vec![] } else { parent.to_be_bytes().into() },
        name: format!("n{id}"),
        kind: 1,
        start_time_unix_nano: start,
        end_time_unix_nano: start + SECOND,
        ..Default::default()
    };
    let resource = Resource { attributes: vec![attribute("service.name", text("shop"))], ..Default::default() };
    Row { resource, scope: InstrumentationScope::default(), span }
}

/// One trace of roots without children, the nth with value `x` the nth of `values`.
fn with_values(values: impl IntoIterator<Item = AnyValue>) -> Vec<Row> {
    let spans = (1..).zip(values).map(|(id, value)| {
        let mut row = span(1, id, 0, id);
        row.span.attributes = vec![attribute("x", value)];
        row
    });
    spans.collect()
}

pub async fn ask(place: &Place, query: &str) -> Vec<tempopb::TraceSearchMetadata> {
    asked(place, query, 100, 0, None).await
}

async fn asked(
    place: &Place,
    query: &str,
    limit: usize,
    spans_per_spanset: usize,
    range: Option<TimeRange>,
) -> Vec<tempopb::TraceSearchMetadata> {
    let filter = SearchFilter::TraceQl(query.to_owned());
    let request = SearchRequest { filter, range, limit, spans_per_spanset };
    place.engine.search(&[tenant()], request).await.unwrap_or_else(|e| panic!("{query}: {e}")).traces
}

fn span_ids(traces: &[tempopb::TraceSearchMetadata]) -> Vec<u64> {
    let spans = traces.iter().flat_map(|t| &t.span_sets).flat_map(|set| &set.spans);
    let mut ids: Vec<u64> = spans.map(|s| u64::from_str_radix(&s.span_id, 16).expect("hex")).collect();
    ids.sort_unstable();
    ids
}

/// Every query finds just the spans with these ids, in every place.
pub async fn check(rows: &[Row], table: &[(&str, &[u64])]) {
    for place in everywhere(rows, 7).await {
        for (query, expected) in table {
            assert_eq!(span_ids(&ask(&place, query).await), *expected, "{query} in place `{}`", place.name);
        }
    }
}

/// Enough further spans of another trace that the attribute gets a column of its own.
fn promoted(mut rows: Vec<Row>, key: &str, value: &AnyValue) -> Vec<Row> {
    for id in 1..=40 {
        let mut row = span(2, 1000 + id, 0, 100 + id);
        row.span.attributes = vec![attribute(key, value.clone()), attribute("filler", int(1))];
        rows.push(row);
    }
    rows
}

#[tokio::test]
async fn not_a_number_differs_from_everything_and_is_above_nothing() {
    let rows = with_values([f64::NAN, 0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY].map(double));
    let table: &[(&str, &[u64])] = &[
        ("{ span.x = 0 && span.filler = nil }", &[2, 3]),
        ("{ span.x != 0 && span.filler = nil }", &[1, 4, 5]),
        ("{ span.x >= 0 && span.filler = nil }", &[2, 3, 4]),
        ("{ span.x < 1 && span.filler = nil }", &[2, 3, 5]),
        ("{ span.x > 1e300 && span.filler = nil }", &[4]),
        ("{ !(span.x >= 0) && span.filler = nil }", &[1, 5]),
        ("{ span.x = span.x && span.filler = nil }", &[2, 3, 4, 5]),
        ("{ span.x != span.x && span.filler = nil }", &[1]),
        ("{ span.x = 0.0 && span.filler = nil }", &[2, 3]),
        ("{ -span.x = 0 && span.filler = nil }", &[2, 3]),
    ];
    check(&rows, table).await;
    check(&promoted(rows, "x", &double(0.5)), table).await;
}

#[tokio::test]
async fn numbers_compare_by_value_and_exactly() {
    let rows = with_values([
        int(9_007_199_254_740_993),
        double(9_007_199_254_740_992.0),
        int(i64::MAX),
        double(9_223_372_036_854_775_808.0),
        int(i64::MIN),
        text("7"),
    ]);
    let table: &[(&str, &[u64])] = &[
        ("{ span.x = 9007199254740993 && span.filler = nil }", &[1]),
        ("{ span.x = 9007199254740992.0 && span.filler = nil }", &[2]),
        ("{ span.x = maxInt && span.filler = nil }", &[3]),
        ("{ span.x >= 9223372036854775808.0 && span.filler = nil }", &[4]),
        ("{ span.x = minInt && span.filler = nil }", &[5]),
        ("{ span.x <= -9223372036854775808.0 && span.filler = nil }", &[5]),
        ("{ span.x = 7 && span.filler = nil }", &[]),
        ("{ span.x != 7 && span.filler = nil }", &[1, 2, 3, 4, 5]),
        ("{ span.x = 9007199254740993ns && span.filler = nil }", &[1]),
    ];
    check(&rows, table).await;
    check(&promoted(rows, "x", &int(200)), table).await;
}

#[tokio::test]
async fn a_comparison_with_nothing_is_false_and_its_complement_is_true() {
    let mut rows = with_values([text("a"), text("nil"), AnyValue::default(), any(Any::BoolValue(false))]);
    rows.push(span(1, 5, 0, 5));
    let table: &[(&str, &[u64])] = &[
        ("{ span.x != \"a\" && span.filler = nil }", &[2]),
        ("{ !(span.x = \"a\") && span.filler = nil }", &[2, 3, 4, 5]),
        ("{ !(span.x != \"a\") && span.filler = nil }", &[1, 3, 4, 5]),
        ("{ span.x !~ \"a\" && span.filler = nil }", &[2]),
        ("{ span.x = nil && span.filler = nil }", &[3, 5]),
        ("{ span.x != nil && span.filler = nil }", &[1, 2, 4]),
        ("{ span.x = \"nil\" && span.filler = nil }", &[2]),
        ("{ !(span.x = nil) && span.filler = nil }", &[1, 2, 4]),
        ("{ !span.x && span.filler = nil }", &[4]),
        ("{ !(!span.x) && span.filler = nil }", &[1, 2, 3, 5]),
        ("{ span.x + 1 = nil && span.filler = nil }", &[1, 2, 3, 4, 5]),
    ];
    check(&rows, table).await;
    check(&promoted(rows, "x", &text("b")), table).await;
}

#[tokio::test]
async fn arrays_are_asked_for_any_element_or_for_all() {
    let words = |words: &[&str]| array(words.iter().map(|w| text(w)).collect());
    let rows = with_values([
        words(&["a", "b"]),
        words(&[]),
        array(vec![int(1), int(5)]),
        array(vec![text("a"), int(5)]),
        array(vec![any(Any::BoolValue(true)), any(Any::BoolValue(false))]),
    ]);
    check(
        &rows,
        &[
            // Of different types: not to be asked about.
            ("{ span.x = \"a\" }", &[1]),
            ("{ span.x != \"a\" }", &[]),
            ("{ span.x != \"c\" }", &[1]),
            ("{ span.x =~ \"b|c\" }", &[1]),
            ("{ span.x !~ \"c\" }", &[1]),
            ("{ span.x > 4 }", &[3]),
            ("{ span.x != 1 }", &[]),
            ("{ span.x != 2 }", &[3]),
            ("{ span.x in [\"b\", \"z\"] }", &[1]),
            ("{ span.x not in [\"y\", \"z\"] }", &[1]),
            ("{ span.x }", &[5]),
            ("{ !span.x }", &[5]),
            ("{ (span.x) = true }", &[5]),
            ("{ span.x != nil }", &[1, 2, 3, 4, 5]),
        ],
    )
    .await;
}

#[tokio::test]
async fn arithmetic_has_no_traps() {
    let rows = with_values([int(0), int(2), int(i64::MAX), double(0.5), text("2")]);
    check(
        &rows,
        &[
            ("{ 10 / span.x = 5 }", &[2]),
            ("{ 10 / span.x = nil }", &[1, 5]),
            ("{ 10 % span.x = 0 }", &[2, 4]),
            ("{ span.x + 1 > 0 }", &[1, 2, 3, 4]),
            ("{ span.x ^ 3 = 8 }", &[2]),
            ("{ 2 ^ span.x = 4 }", &[2]),
            ("{ span.x ^ -1 = 0 }", &[2, 3]),
            ("{ span.x ^ 0 = 1 }", &[1, 2, 3, 4]),
            ("{ -span.x < 0 }", &[2, 3, 4]),
            ("{ duration * span.x = 2s }", &[2]),
        ],
    )
    .await;
}

#[tokio::test]
async fn the_span_wins_over_the_resource_only_with_a_value() {
    let mut rows = with_values([text("span"), AnyValue::default()]);
    rows.push(span(1, 3, 0, 3));
    for row in &mut rows {
        row.resource.attributes.push(attribute("x", text("resource")));
        row.span.events = vec![Event { attributes: vec![attribute("y", text("event"))], ..Default::default() }];
    }
    check(
        &rows,
        &[
            ("{ .x = \"span\" }", &[1]),
            ("{ .x = \"resource\" }", &[2, 3]),
            ("{ .x != \"span\" }", &[2, 3]),
            ("{ resource.x = \"resource\" }", &[1, 2, 3]),
            ("{ event.y = \"event\" }", &[1, 2, 3]),
            ("{ .y != nil }", &[]),
        ],
    )
    .await;
}

#[tokio::test]
async fn an_attribute_compares_with_a_status_by_the_numbers_of_otlp() {
    let mut rows = with_values([int(2), int(1), text("error")]);
    rows[0].span.status = Some(Status { code: 2, message: String::new() });
    let table: &[(&str, &[u64])] = &[
        ("{ status = error }", &[1]),
        ("{ span.x = error && span.filler = nil }", &[1]),
        ("{ span.x = status && span.filler = nil }", &[1]),
    ];
    check(&rows, table).await;
    check(&promoted(rows, "x", &int(7)), table).await;
}

#[tokio::test]
async fn a_span_delivered_again_counts_once() {
    let mut rows = vec![span(1, 1, 0, 0), span(1, 2, 1, 1), span(1, 3, 1, 2)];
    rows.extend_from_within(..);
    rows.extend_from_within(..);
    for place in everywhere(&rows, 3).await {
        let traces = ask(&place, "{ } | count() = 3").await;
        assert_eq!(span_ids(&traces), [1, 2, 3], "{}", place.name);
        assert_eq!(traces[0].service_stats["shop"].span_count, 3, "{}", place.name);
        let metrics = instant(&place, "{ } | count_over_time()").await;
        assert_eq!(metrics.iter().map(|s| s.value).collect::<Vec<_>>(), [3.0], "{}", place.name);
    }
}

/// Over everything that starts within an hour after the base.
pub async fn instant(place: &Place, query: &str) -> Vec<tempopb::InstantSeries> {
    let (start, end) = (BASE as i64, (BASE + 3600 * SECOND) as i64);
    let request =
        MetricsRequest { query: query.to_owned(), start, end, step: None, exemplars: None, exemplars_max: 100, series_max: None };
    place.engine.query_instant(&[tenant()], request).await.unwrap_or_else(|e| panic!("{query}: {e}")).series
}

/// Three blocks, or two blocks and live data, each with one span of the same trace.
async fn in_three_places(rows: [Row; 3]) -> [Place; 2] {
    let [a, b, c] = rows.map(|row| batch(&[row]));
    let live = LiveGeneration { ingester: "ingester".into(), segment: None, batches: vec![c.clone()] };
    [
        place("three blocks", &[a.clone(), b.clone(), c], Default::default(), vec![]).await,
        place("two blocks and live", &[a, b], Default::default(), vec![live]).await,
    ]
}

#[tokio::test]
async fn a_trace_in_three_places_is_one_trace() {
    for place in in_three_places([span(1, 1, 0, 0), span(1, 2, 1, 10), span(1, 3, 2, 20)]).await {
        let whole: &[(&str, &[u64])] = &[
            ("{ } | count() = 3", &[1, 2, 3]),
            ("{ name = \"n1\" } >> { name = \"n3\" }", &[3]),
            ("{ name = \"n1\" } > { }", &[2]),
            ("{ name = \"n3\" } << { }", &[1, 2]),
            ("{ name = \"n1\" } && { name = \"n3\" }", &[1, 3]),
            ("{ traceDuration = 21s }", &[1, 2, 3]),
            ("{ rootName = \"n1\" && name = \"n3\" }", &[3]),
            ("{ span:childCount = 1 }", &[1, 2]),
            ("{ nestedSetLeft = 3 }", &[3]),
            ("{ } | sum(duration) = 3s", &[1, 2, 3]),
        ];
        for (query, expected) in whole {
            let traces = ask(&place, query).await;
            assert_eq!(span_ids(&traces), *expected, "{query} in {}", place.name);
            assert_eq!((traces[0].duration_ms, traces[0].start_time_unix_nano), (21_000, BASE), "{query}");
            assert_eq!(traces[0].root_trace_name, "n1", "{query}");
        }
        let metrics = instant(&place, "{ name = \"n1\" } >> { } | count_over_time()").await;
        assert_eq!(metrics[0].value, 2.0, "{}", place.name);
    }
}

#[tokio::test]
async fn a_trace_is_found_by_a_range_that_only_one_of_its_parts_overlaps() {
    for place in in_three_places([span(1, 1, 0, 0), span(1, 2, 1, 10), span(1, 3, 2, 20)]).await {
        for (from, to, found) in [(0, 1, true), (20, 30, true), (5, 6, true), (30, 40, false)] {
            let at = |s: u64| (BASE + s * SECOND) as i64;
            let range = Some(TimeRange { start: at(from), end: at(to) });
            let traces = asked(&place, "{ } | count() = 3", 10, 0, range).await;
            assert_eq!(!traces.is_empty(), found, "{from} to {to} in {}", place.name);
        }
    }
}

#[tokio::test]
async fn a_late_root_changes_what_the_trace_is_called() {
    let (late, early) = (span(1, 7, 0, 0), span(1, 8, 7, 1));
    let live = |row: &Row| LiveGeneration { ingester: "ingester".into(), segment: None, batches: vec![batch(std::slice::from_ref(row))] };
    let before = place("without its root", &[batch(std::slice::from_ref(&early))], Default::default(), vec![]).await;
    let traces = ask(&before, "{ rootName = \"\" && nestedSetParent = 0 }").await;
    assert_eq!(traces[0].root_service_name, "<root span not yet received>");
    assert_eq!(span_ids(&traces), [8]);
    let after = place("with its root", &[batch(&[early])], Default::default(), vec![live(&late)]).await;
    assert_eq!(span_ids(&ask(&after, "{ rootName = \"\" }").await), [0; 0]);
    let traces = ask(&after, "{ rootName = \"n7\" && nestedSetParent = 1 }").await;
    assert_eq!((traces[0].root_service_name.as_str(), traces[0].root_trace_name.as_str()), ("shop", "n7"));
    assert_eq!(span_ids(&traces), [8]);
}

#[tokio::test]
async fn a_root_is_named_by_the_first_string_of_its_service_name() {
    let with_names = |id: u64, values: [AnyValue; 2]| {
        let mut row = span(u128::from(id), 1, 0, id);
        row.resource.attributes = values.map(|value| attribute("service.name", value)).into();
        row
    };
    let rows = [
        with_names(1, [int(5), text("second")]),
        with_names(2, [AnyValue::default(), text("second")]),
        with_names(3, [text("first"), text("second")]),
        with_names(4, [int(5), double(0.5)]),
    ];
    let found: &[(&str, &[u64])] = &[
        ("{ rootServiceName = \"\" }", &[4]),
        ("{ rootServiceName = \"second\" }", &[2, 1]),
        ("{ rootServiceName = \"first\" }", &[3]),
    ];
    let others = promoted(vec![], "x", &int(1)).into_iter().map(|mut row| {
        row.span.trace_id = (100 + u128::from(row.span.start_time_unix_nano)).to_be_bytes().into();
        row
    });
    for rows in [rows.to_vec(), rows.iter().cloned().chain(others).collect()] {
        for place in everywhere(&rows, 13).await {
            for (query, ids) in found {
                let traces = ask(&place, query).await;
                let ids_found: Vec<String> = traces.iter().map(|t| t.trace_id.clone()).collect();
                let expected: Vec<String> = ids.iter().map(|id| format!("{id:x}")).collect();
                assert_eq!(ids_found, expected, "{query} in {}", place.name);
            }
        }
    }
}

#[tokio::test]
async fn the_newest_traces_come_first_and_equal_ones_by_id() {
    // Ids of different lengths without their leading zeros.
    let starts = [(0x10_u128, 5), (0xa, 5), (0x9, 5), (u128::MAX, 4), (0x2, 6), (0x3, 3)];
    let rows: Vec<Row> = starts.iter().map(|(id, start)| span(*id, 1, 0, *start)).collect();
    let order = ["2", "9", "a", "10", "ffffffffffffffffffffffffffffffff", "3"];
    for place in everywhere(&rows, 11).await {
        for limit in 1..=6 {
            let traces = asked(&place, "{ }", limit, 0, None).await;
            let ids: Vec<&str> = traces.iter().map(|t| t.trace_id.as_str()).collect();
            assert_eq!(ids, order[..limit], "limit {limit} in {}", place.name);
        }
    }
}

#[tokio::test]
async fn spans_per_spanset_cuts_the_list_but_not_the_count() {
    // As received, whenever they started.
    let rows: Vec<Row> = [3, 1, 2, 5, 4].map(|id| span(1, id, 0, 10 - id)).into();
    for place in everywhere(&rows, 5).await {
        for (asked_for, ids) in [(0, vec![1, 2, 3, 4, 5]), (2, vec![1, 3]), (9, vec![1, 2, 3, 4, 5])] {
            let traces = asked(&place, "{ }", 10, asked_for, None).await;
            assert_eq!((span_ids(&traces), traces[0].span_sets[0].matched), (ids, 5), "{}", place.name);
        }
    }
}

#[tokio::test]
async fn values_of_one_group_are_equal_bit_by_bit() {
    let rows = with_values([f64::NAN, f64::NAN, 0.0, -0.0].map(double));
    for place in everywhere(&rows, 5).await {
        let groups: Vec<u32> = ask(&place, "{ } | by(span.x)").await[0].span_sets.iter().map(|s| s.matched).collect();
        assert_eq!(groups, [2, 1, 1], "{}", place.name);
        let series = instant(&place, "{ } | count_over_time() by (span.x)").await;
        let mut counts: Vec<f64> = series.iter().map(|s| s.value).collect();
        counts.sort_by(f64::total_cmp);
        assert_eq!(counts, [1.0, 1.0, 2.0], "{}", place.name);
    }
}

#[tokio::test]
async fn not_a_number_is_neither_least_nor_greatest() {
    let rows = with_values([f64::NAN, 2.0, 1.0].map(double));
    for place in everywhere(&rows, 5).await {
        for query in ["{ } | min(span.x) = 1", "{ } | max(span.x) = 2"] {
            assert_eq!(span_ids(&ask(&place, query).await), [1, 2, 3], "{query} in {}", place.name);
        }
        for (query, value) in [("min", 1.0), ("max", 2.0)] {
            let series = instant(&place, &format!("{{ }} | {query}_over_time(span.x)")).await;
            assert_eq!(series.iter().map(|s| s.value).collect::<Vec<_>>(), [value], "{query} in {}", place.name);
        }
        let alone = "{ span.x != span.x } | max_over_time(span.x)";
        assert_eq!(instant(&place, alone).await, [], "{}", place.name);
        // Not a sample, so that it takes no place among the top.
        let top = "{ } | avg_over_time(span.x) by (name) | topk(1)";
        let series = instant(&place, top).await;
        assert_eq!(series.iter().map(|s| s.value).collect::<Vec<_>>(), [2.0], "{}", place.name);
    }
}
