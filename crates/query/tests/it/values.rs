//! What answers say of values that are not plain: arrays of one element, maps and bytes, what is missing.

use proto::{
    otlp::{
        common::v1::{AnyValue, KeyValueList, any_value::Value as Any},
        trace::v1::span::Event,
    },
    tempopb,
};

use crate::{
    agreement::pair,
    data::{Row, SECOND, any, array, attribute, text},
    decisions::{ask, check, instant, span},
    places::everywhere,
};

fn int(value: i64) -> AnyValue {
    any(Any::IntValue(value))
}

/// Roots of one trace, the nth with value `x` the nth of `values`.
fn with_values(values: impl IntoIterator<Item = AnyValue>) -> Vec<Row> {
    let spans = (1..).zip(values).map(|(id, value)| {
        let mut row = span(1, id, 0, id);
        row.span.attributes = vec![attribute("x", value)];
        row
    });
    spans.collect()
}

/// Of each spanset its attributes and how many spans it has.
fn groups(traces: &[tempopb::TraceSearchMetadata]) -> Vec<(Vec<(String, String)>, u32)> {
    let sets = traces.iter().flat_map(|trace| &trace.span_sets);
    sets.map(|set| (set.attributes.iter().map(pair).collect(), set.matched)).collect()
}

/// The attributes of each span of a result.
fn shown(traces: &[tempopb::TraceSearchMetadata]) -> Vec<Vec<(String, String)>> {
    let spans = traces.iter().flat_map(|trace| &trace.span_sets).flat_map(|set| &set.spans);
    spans.map(|span| span.attributes.iter().map(pair).collect()).collect()
}

fn owned(key: &str, value: &str) -> Vec<(String, String)> {
    vec![(key.to_owned(), value.to_owned())]
}

#[tokio::test]
async fn an_array_of_one_element_is_that_element() {
    let rows = with_values([array(vec![int(5)]), int(5), array(vec![int(5), int(5)]), array(vec![int(5)])]);
    let table: &[(&str, &[u64])] = &[
        ("{ span.x = 5 }", &[1, 2, 3, 4]),
        ("{ span.x + 1 = 6 }", &[1, 2, 4]),
        ("{ } | sum(span.x) = 15", &[1, 2, 3, 4]),
    ];
    check(&rows, table).await;
    for place in everywhere(&rows, 5).await {
        let by = groups(&ask(&place, "{ } | by(span.x)").await);
        assert_eq!(by, [(owned("by(span.x)", "int 5"), 3), (owned("by(span.x)", "[int 5, int 5]"), 1)], "{}", place.name);
        let mut counts: Vec<(Vec<(String, String)>, f64)> =
            instant(&place, "{ } | count_over_time() by (span.x)").await.iter().map(|s| (s.labels.iter().map(pair).collect(), s.value)).collect();
        counts.sort_by(|a, b| a.1.total_cmp(&b.1));
        assert_eq!(counts, [(owned("span.x", "string \"nil\""), 1.0), (owned("span.x", "int 5"), 3.0)], "{}", place.name);
    }
}

#[tokio::test]
async fn maps_and_bytes_are_there_but_their_value_is_nil() {
    let map = any(Any::KvlistValue(KeyValueList { values: vec![attribute("inner", int(1))] }));
    let mut rows = with_values([map, any(Any::BytesValue(vec![1, 2])), text("a")]);
    rows.push(span(1, 4, 0, 4));
    let table: &[(&str, &[u64])] =
        &[("{ span.x != nil }", &[1, 2, 3]), ("{ span.x = nil }", &[4]), ("{ span.x != \"b\" }", &[3]), ("{ span.x.inner = 1 }", &[])];
    check(&rows, table).await;
    for place in everywhere(&rows, 5).await {
        let by = groups(&ask(&place, "{ } | by(span.x)").await);
        let nil = "string \"nil\"";
        assert_eq!(by, [(owned("by(span.x)", nil), 3), (owned("by(span.x)", "string \"a\""), 1)], "{}", place.name);
        let selected = shown(&ask(&place, "{ } | select(span.x)").await);
        assert_eq!(selected, [vec![], vec![], owned("x", "string \"a\""), vec![]], "{}", place.name);
        let counts = instant(&place, "{ } | count_over_time() by (span.x) | topk(1)").await;
        assert_eq!(counts.iter().map(|s| s.value).collect::<Vec<_>>(), [3.0], "{}", place.name);
    }
}

#[tokio::test]
async fn without_events_the_name_of_an_event_is_empty_where_one_is_asked_for() {
    let mut rows = vec![span(1, 1, 0, 0), span(1, 2, 0, 1)];
    rows[0].span.events = vec![Event { name: "log".into(), ..Default::default() }];
    check(&rows, &[("{ event:name != \"x\" }", &[1]), ("{ event:name = \"\" }", &[]), ("{ event:name != nil }", &[1])]).await;
    for place in everywhere(&rows, 5).await {
        let by = groups(&ask(&place, "{ } | by(event:name)").await);
        let label = |name: &str| owned("by(event:name)", &format!("string {name:?}"));
        assert_eq!(by, [(label("log"), 1), (label(""), 1)], "{}", place.name);
        let series = instant(&place, "{ } | count_over_time() by (event:name)").await;
        let mut labels: Vec<_> = series.iter().map(|s| pair(&s.labels[0]).1).collect();
        labels.sort();
        assert_eq!(labels, ["string \"\"", "string \"log\""], "{}", place.name);
    }
    // Where no span has events.
    for place in everywhere(&rows[1..], 5).await {
        let series = instant(&place, "{ } | count_over_time() by (event:name)").await;
        assert_eq!(pair(&series[0].labels[0]).1, "string \"\"", "{}", place.name);
    }
}

#[tokio::test]
async fn what_a_filter_finds_missing_shows_as_nil() {
    let mut rows = with_values([text("a"), text("b")]);
    rows.push(span(1, 3, 0, 3));
    for place in everywhere(&rows, 5).await {
        let all = shown(&ask(&place, "{ span.x = nil || span.x = \"a\" || kind = internal }").await);
        let kind = |mut with: Vec<(String, String)>| {
            with.push(("kind".into(), "string \"internal\"".into()));
            with
        };
        let expected = [kind(owned("x", "string \"a\"")), kind(vec![]), kind(owned("x", "string \"nil\""))];
        assert_eq!(all, expected, "{}", place.name);
        let both = shown(&ask(&place, "{ .x = nil }").await);
        assert_eq!(both, [[owned("x", "string \"nil\""), owned("x", "string \"nil\"")].concat()], "{}", place.name);
        assert_eq!(shown(&ask(&place, "{ parent.x = nil && name = \"n3\" }").await), [vec![]], "{}", place.name);
    }
}

#[tokio::test]
async fn of_a_span_delivered_twice_the_first_is_kept_with_all_it_says() {
    // Everything but what identifies a span is different.
    let first = with_values([text("a")]).remove(0);
    let mut again = first.clone();
    again.span.attributes = vec![attribute("x", text("b"))];
    again.span.name = "again".into();
    again.span.end_time_unix_nano += SECOND;
    again.span.parent_span_id = 9_u64.to_be_bytes().into();
    again.resource.attributes = vec![attribute("service.name", text("other"))];
    let rows = [first, span(1, 9, 0, 5), again];
    let table: &[(&str, &[u64])] = &[
        ("{ span.x = \"a\" }", &[1]),
        ("{ span.x = \"b\" }", &[]),
        ("{ name = \"again\" || duration > 1s || resource.service.name = \"other\" }", &[]),
        ("{ } > { }", &[]),
        ("{ } | count() = 2", &[1, 9]),
    ];
    for seed in 0..4 {
        for place in everywhere(&rows, seed).await {
            for (query, expected) in table {
                let mut ids: Vec<u64> = shown_ids(&ask(&place, query).await);
                ids.sort_unstable();
                assert_eq!(ids, *expected, "{query} in {}", place.name);
            }
        }
    }
}

fn shown_ids(traces: &[tempopb::TraceSearchMetadata]) -> Vec<u64> {
    let spans = traces.iter().flat_map(|trace| &trace.span_sets).flat_map(|set| &set.spans);
    spans.map(|span| u64::from_str_radix(&span.span_id, 16).expect("hex")).collect()
}
