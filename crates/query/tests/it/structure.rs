//! Traces that are not trees, and what `parent.` says of their spans: what is documented, wherever the spans lie.

use proto::otlp::common::v1::any_value::Value as Any;
use query::{MetricsRequest, SearchFilter, SearchRequest, TagNamesRequest, TagScope, TagValuesRequest};

use crate::{
    data::{BASE, Row, SECOND, any, attribute, text},
    decisions::{ask, check, instant, span},
    places::{Place, everywhere, tenant},
};

const CLIENT: i32 = 3;
const SERVER: i32 = 2;

#[tokio::test]
async fn spans_without_a_parent_in_the_trace_have_no_place_but_what_they_hold_counts() {
    // 3 names a parent that never came, and 4 is its child.
    let rows = [span(1, 1, 0, 0), span(1, 2, 1, 1), span(1, 3, 99, 2), span(1, 4, 3, 3)];
    check(
        &rows,
        &[
            ("{ } | count() = 4", &[1, 2, 3, 4]),
            ("{ rootName = \"n1\" }", &[1, 2, 3, 4]),
            ("{ nestedSetParent = 0 }", &[3, 4]),
            ("{ nestedSetLeft = 0 }", &[3, 4]),
            ("{ } > { }", &[2]),
            ("{ } >> { }", &[2]),
            ("{ } &>> { }", &[1, 2]),
            ("{ } !> { }", &[1, 3, 4]),
            ("{ } ~ { }", &[]),
            ("{ parent = nil }", &[1, 3, 4]),
            ("{ parent != nil }", &[2]),
            ("{ parent.name = \"n3\" }", &[]),
            ("{ span:childCount = 1 }", &[1, 3]),
            ("{ span:parentID = \"\" }", &[1]),
        ],
    )
    .await;
}

#[tokio::test]
async fn spans_of_a_cycle_have_no_place() {
    // 2 and 3 name each other, 4 hangs from them, 5 names itself.
    let rows = [span(1, 1, 0, 0), span(1, 2, 3, 1), span(1, 3, 2, 2), span(1, 4, 3, 3), span(1, 5, 5, 4), span(1, 6, 1, 5)];
    check(
        &rows,
        &[
            ("{ } >> { }", &[6]),
            ("{ } << { }", &[1]),
            ("{ nestedSetParent = 0 }", &[2, 3, 4, 5]),
            ("{ parent = nil }", &[1, 2, 3, 4, 5]),
            ("{ parent.name != nil }", &[6]),
            ("{ } | count() = 6", &[1, 2, 3, 4, 5, 6]),
        ],
    )
    .await;
    // No root at all.
    check(&rows[1..5], &[("{ } >> { }", &[]), ("{ } !>> { }", &[2, 3, 4, 5]), ("{ rootName = \"\" }", &[2, 3, 4, 5])]).await;
}

#[tokio::test]
async fn of_several_roots_the_last_received_names_the_trace_and_all_are_siblings() {
    let rows = [span(1, 1, 0, 5), span(1, 2, 1, 6), span(1, 3, 0, 0), span(1, 4, 3, 1)];
    check(
        &rows,
        &[
            ("{ rootName = \"n3\" }", &[1, 2, 3, 4]),
            ("{ nestedSetParent = -1 }", &[1, 3]),
            ("{ name = \"n1\" } ~ { }", &[3]),
            ("{ name = \"n3\" } >> { }", &[4]),
            ("{ name = \"n2\" } ~ { }", &[]),
            ("{ parent.name = \"n1\" || parent.name = \"n3\" }", &[2, 4]),
        ],
    )
    .await;
}

#[tokio::test]
async fn two_sides_of_a_call_share_an_id_and_others_leave_the_trace_without_structure() {
    let with_kind = |mut row: Row, kind: i32| {
        row.span.kind = kind;
        row
    };
    // Client and server: what names their id is the server's.
    let shared = [span(1, 1, 0, 0), with_kind(span(1, 5, 1, 1), CLIENT), with_kind(span(1, 5, 1, 2), SERVER), span(1, 6, 5, 3)];
    check(
        &shared,
        &[
            ("{ kind = server } > { }", &[6]),
            ("{ kind = client } >> { }", &[]),
            ("{ name = \"n1\" } > { }", &[5, 5]),
            ("{ kind = client } ~ { }", &[5]),
            ("{ parent.kind = server }", &[6]),
            ("{ span:childCount = 2 }", &[1]),
        ],
    )
    .await;
    // Any other two: nothing is certain.
    let unclear = [span(1, 1, 0, 0), span(1, 5, 1, 1), span(1, 5, 1, 2), span(1, 6, 5, 3)];
    check(
        &unclear,
        &[
            ("{ } > { }", &[]),
            ("{ } !> { }", &[1, 5, 5, 6]),
            ("{ parent = nil }", &[1, 5, 5, 6]),
            ("{ } | count() = 4", &[1, 5, 5, 6]),
            ("{ rootName = \"n1\" } | count() = 4", &[1, 5, 5, 6]),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_condition_on_parents_sees_all_spans_also_where_few_are_left_to_decide() {
    // A chain of twelve.
    let rows: Vec<Row> = (1..=12).map(|id| span(1, id, id - 1, id)).collect();
    let all_but = |left_out: u64| (1..=12).filter(|id| *id != left_out).collect::<Vec<u64>>();
    check(
        &rows,
        &[
            ("{ !(name = \"n3\" && parent.name = \"n2\") }", &all_but(3)),
            ("{ !(parent.name = \"n2\" && name = \"n3\") }", &all_but(3)),
            ("{ name != \"n3\" || parent.name = \"n2\" }", &(1..=12).collect::<Vec<u64>>()),
            ("{ name != \"n3\" || parent.name = \"n1\" }", &all_but(3)),
            ("{ name = \"n3\" && parent.name = \"n2\" }", &[3]),
            ("{ (name = \"n3\" && parent.name = \"n2\") || (name = \"n5\" && parent.name = \"n4\") }", &[3, 5]),
            ("{ (name = \"n3\" && parent.name = \"n2\") = true }", &[3]),
        ],
    )
    .await;
}

/// A root, a child and two grandchildren, each with attributes.
fn family() -> Vec<Row> {
    let mut rows = vec![span(1, 1, 0, 0), span(1, 2, 1, 10), span(1, 3, 2, 20), span(1, 4, 2, 30)];
    for (number, row) in (1..).zip(&mut rows) {
        row.span.attributes = vec![attribute("number", any(Any::IntValue(number))), attribute("name", text(&format!("a{number}")))];
        row.resource.attributes.push(attribute("zone", text(if number < 3 { "east" } else { "west" })));
        if number == 2 {
            row.span.attributes.push(attribute("zone", text("own")));
        }
    }
    rows
}

#[tokio::test]
async fn values_of_the_parent_are_asked_for_like_those_of_the_span() {
    check(
        &family(),
        &[
            ("{ parent.name = \"n2\" }", &[3, 4]),
            ("{ parent.span:name = \"n1\" }", &[2]),
            ("{ parent.\"name\" = \"a2\" }", &[3, 4]),
            ("{ parent.span.name = \"a2\" }", &[3, 4]),
            ("{ parent.number >= 2 }", &[3, 4]),
            ("{ parent.number != 2 }", &[2]),
            ("{ !(parent.number = 2) }", &[1, 2]),
            ("{ parent.number = nil }", &[1]),
            ("{ parent.span.number != nil }", &[2, 3, 4]),
            ("{ parent.zone = \"own\" }", &[3, 4]),
            ("{ parent.resource.zone = \"east\" }", &[2, 3, 4]),
            ("{ parent.resource.zone != resource.zone }", &[3, 4]),
            ("{ parent.resource.service.name = resource.service.name }", &[2, 3, 4]),
            ("{ parent.number in [1, 7] }", &[2]),
            ("{ parent.name =~ \"n[12]\" && span.number > 2 }", &[3, 4]),
            ("{ span.number - parent.number = 1 }", &[2, 3]),
            ("{ parent.duration = 1s && parent.status = unset }", &[2, 3, 4]),
            ("{ parent.span:id = span:parentID }", &[2, 3, 4]),
            ("{ parent.span:parentID = \"\" }", &[2]),
            ("{ parent.span:childCount = 2 }", &[3, 4]),
            ("{ parent.nestedSetLeft = nestedSetParent }", &[2, 3, 4]),
            ("{ span.number = 4 } && { parent.number = 1 }", &[2, 4]),
            ("{ span.number = 4 } | { parent.number = 1 }", &[]),
            ("{ parent.number = 1 } > { }", &[3, 4]),
            ("{ span.number > 2 } | by(parent.number) | count() = 2", &[3, 4]),
            ("{ span.number > 2 } | sum(parent.number) = 4", &[3, 4]),
            ("{ } | count() > 3 | { parent = nil }", &[1]),
        ],
    )
    .await;
}

#[tokio::test]
async fn values_of_the_parent_are_shown_grouped_and_measured() {
    let value = |value: &proto::otlp::common::v1::AnyValue| match &value.value {
        Some(Any::IntValue(v)) => v.to_string(),
        Some(Any::StringValue(v)) => v.clone(),
        other => panic!("{other:?}"),
    };
    for place in everywhere(&family(), 3).await {
        let traces = ask(&place, "{ } | select(parent.number, parent.name, parent.resource.zone)").await;
        let shown = |id: &str| {
            let span = traces[0].span_sets[0].spans.iter().find(|span| span.span_id.ends_with(id)).expect("it is found");
            let pairs = span.attributes.iter().map(|a| format!("{}={}", a.key, value(a.value.as_ref().expect("a value"))));
            pairs.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(shown("1"), "", "{}", place.name);
        assert_eq!(shown("2"), "parent.number=1 parent.name=n1 parent.zone=east", "{}", place.name);
        assert_eq!(shown("4"), "parent.number=2 parent.name=n2 parent.zone=east", "{}", place.name);

        let series = |all: Vec<proto::tempopb::InstantSeries>| -> Vec<(String, f64)> {
            let labels = |s: &proto::tempopb::InstantSeries| {
                let labels = s.labels.iter().map(|l| format!("{}={}", l.key, value(l.value.as_ref().expect("a value"))));
                labels.collect::<Vec<_>>().join(" ")
            };
            all.iter().map(|s| (labels(s), s.value)).collect()
        };
        let counts = series(instant(&place, "{ } | count_over_time() by (parent.name)").await);
        let expected = [("parent.name=n1", 1.0), ("parent.name=n2", 2.0), ("parent.name=nil", 1.0)];
        assert_eq!(counts, expected.map(|(labels, count)| (labels.to_owned(), count)), "{}", place.name);
        let sums = series(instant(&place, "{ parent.number = 2 } | sum_over_time(parent.number)").await);
        assert_eq!(sums, [("__name__=sum_over_time".to_owned(), 4.0)], "{}", place.name);
        tags(&place).await;
    }
}

/// Filters of names and values see parents too; the values of `parent.x` are those of `x`.
async fn tags(place: &Place) {
    let values = async |name: &str, query: &str| {
        let request = TagValuesRequest { name: name.into(), query: query.into(), range: None, limit: 0 };
        let answer = place.engine.tag_values(&[tenant()], request).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        answer.tag_values.into_iter().map(|value| value.value).collect::<Vec<_>>()
    };
    assert_eq!(values("span.number", "{ parent.name = \"n2\" }").await, ["3", "4"], "{}", place.name);
    assert_eq!(values("parent.span.number", "{ span.number = 1 }").await, ["1", "2", "3", "4"], "{}", place.name);
    assert_eq!(values("parent.name", "").await, ["n1", "n2", "n3", "n4"], "{}", place.name);
    let request = TagNamesRequest { scope: TagScope::All, query: "{ parent.number = 1 }".into(), range: None, limit: 0 };
    let names = place.engine.tag_names(&[tenant()], request).await.expect("names");
    let names: Vec<String> = names.scopes.into_iter().find(|scope| scope.name == "span").expect("names of spans").tags;
    assert_eq!(names, ["name", "number", "zone"], "{}", place.name);
}

/// A parent that starts outside of the range that is counted is a parent all the same.
#[tokio::test]
async fn a_parent_outside_of_the_range_counts() {
    for place in everywhere(&family(), 3).await {
        let at = |s: u64| (BASE + s * SECOND) as i64;
        let query = "{ parent.number = 2 } | count_over_time() by (parent.name)".to_owned();
        let request =
            MetricsRequest { query, start: at(25), end: at(35), step: None, exemplars: None, exemplars_max: 0, series_max: None };
        let series = place.engine.query_instant(&[tenant()], request).await.expect("an answer").series;
        assert_eq!(series.iter().map(|s| s.value).collect::<Vec<_>>(), [1.0], "{}", place.name);
    }
}

/// What needs whole traces is not decided while a block is scanned.
#[tokio::test]
async fn aggregates_compare_and_compute_with_each_other() {
    let rows = family();
    check(
        &rows,
        &[
            ("{ span.number > 1 } | count() > max(span.number) - 2", &[2, 3, 4]),
            ("{ span.number > 1 } | count() = max(span.number)", &[]),
            ("{ } | sum(span.number) / count() = 2", &[1, 2, 3, 4]),
            ("{ } | avg(span.number) * 2 = 5", &[1, 2, 3, 4]),
            ("{ } | 3 < count()", &[1, 2, 3, 4]),
            ("{ } | -count() = -4", &[1, 2, 3, 4]),
            ("{ } | count() % 3 = 1", &[1, 2, 3, 4]),
            ("{ } | max(duration) - min(duration) = 0s", &[1, 2, 3, 4]),
            ("({ span.number > 1 } | count()) = ({ parent != nil } | count())", &[1, 2, 3, 4]),
            ("({ span.number > 1 } | count()) > 3", &[]),
            ("({ span.number > 9 } | count()) = 0", &[1, 2, 3, 4]),
            ("{ span.number = 4 } | ({ } | count()) = 4", &[4]),
        ],
    )
    .await;
    for place in everywhere(&rows, 3).await {
        for (query, value) in [
            ("({ } | count_over_time()) + ({ parent = nil } | count_over_time())", 5.0),
            ("({ parent = nil } | count_over_time()) / ({ } | count_over_time())", 0.25),
            ("2 * ({ } | sum_over_time(span.number)) - 1", 19.0),
            ("(({ } | count_over_time()) + 1) * 2", 10.0),
        ] {
            let series = instant(&place, query).await;
            assert_eq!(series.iter().map(|s| s.value).collect::<Vec<_>>(), [value], "{query} in {}", place.name);
        }
        // Only series of both sides, and no result of a division by zero.
        let query = "({ } | count_over_time() by (name)) / ({ span.number < 3 } | count_over_time() by (name))";
        assert_eq!(instant(&place, query).await.len(), 2, "{}", place.name);
        let query = "({ } | count_over_time()) / (({ } | count_over_time()) - 4)";
        assert_eq!(instant(&place, query).await, [], "{}", place.name);
        let request = SearchRequest { filter: SearchFilter::TraceQl("{ parent }".into()), range: None, limit: 1, spans_per_spanset: 0 };
        assert!(place.engine.search(&[tenant()], request).await.is_err(), "`parent` alone is no condition");
    }
}
