//! What is shown at a terminal, on fixed input.

use proto::otlp::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span, Status, TracesData,
        span::{Event, Link},
    },
};
use sostenuto::show::{Style, explain, search, series, waterfall};

const START: u64 = 1_700_000_000_000_000_000;
const MS: u64 = 1_000_000;

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(Value::StringValue(value.into())) }) }
}

/// Ids are single bytes here; 0 is no parent. Times are milliseconds.
fn span(id: u8, parent: u8, name: &str, from: u64, to: u64) -> Span {
    let id_of = |id: u8| if id == 0 { vec![] } else { vec![0, 0, 0, 0, 0, 0, 0, id] };
    Span {
        trace_id: vec![0xab; 16],
        span_id: id_of(id),
        parent_span_id: id_of(parent),
        name: name.into(),
        start_time_unix_nano: START + from * MS,
        end_time_unix_nano: START + to * MS,
        ..Span::default()
    }
}

fn service(name: &str, spans: Vec<Span>) -> ResourceSpans {
    ResourceSpans {
        resource: Some(Resource { attributes: vec![text("service.name", name)], ..Resource::default() }),
        scope_spans: vec![ScopeSpans { spans, ..ScopeSpans::default() }],
        ..ResourceSpans::default()
    }
}

fn checkout() -> TracesData {
    let mut failed = span(4, 3, "POST", 200, 700);
    failed.status = Some(Status { code: 2, message: "request timed out".into() });
    failed.events = vec![Event {
        name: "exception".into(),
        attributes: vec![text("exception.type", "TimeoutError"), text("exception.message", "no answer\nwithin 500 ms")],
        ..Event::default()
    }];
    let mut retried = span(5, 3, "POST", 800, 990);
    retried.events = (0..3).map(|_| Event { name: "retry".into(), ..Event::default() }).collect();
    let mut producer = span(6, 1, "send orders", 991, 992);
    producer.links = vec![Link { trace_id: vec![0xcd; 16], ..Link::default() }];
    TracesData {
        resource_spans: vec![
            service("frontend", vec![span(1, 0, "POST /checkout", 0, 1000), span(2, 1, "render", 992, 1000)]),
            service("payment", vec![span(3, 1, "shop.Payment/Charge", 150, 990), retried, failed]),
            service("frontend", vec![producer]),
        ],
    }
}

#[track_caller]
fn check(actual: &str, expected: &str) {
    assert!(actual == expected, "shown:\n{actual}\nexpected:\n{expected}");
}

#[test]
fn a_waterfall() {
    check(&waterfall::render(&checkout(), Style::plain(80)), include_str!("golden/waterfall-80.txt"));
    check(&waterfall::render(&checkout(), Style::plain(120)), include_str!("golden/waterfall-120.txt"));
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    let mut trace = checkout();
    let long = "名".repeat(90);
    trace.resource_spans.push(service(&long, vec![span(9, 5, &long, 0, 1000)]));
    // A chain far deeper than the terminal is wide.
    let chain = (20..200).map(|id| span(id, if id == 20 { 2 } else { id - 1 }, "step", 0, 1)).collect();
    trace.resource_spans.push(service("deep", chain));
    for columns in [40, 80, 200] {
        let shown = waterfall::render(&trace, Style::plain(columns));
        for line in shown.lines().skip(2) {
            assert!(sostenuto::show::width(line) <= columns, "{columns} columns: {line:?}");
        }
    }
}

#[test]
fn every_span_is_shown_once_whatever_the_parents_say() {
    let circle = vec![span(1, 2, "a", 0, 9), span(2, 1, "b", 1, 8)];
    let own = vec![span(3, 3, "own parent", 2, 7)];
    let orphan = vec![span(4, 99, "orphan", 3, 6), span(5, 4, "below it", 4, 5)];
    let twin = vec![span(4, 99, "same id", 3, 6)];
    let all: Vec<Span> = [circle, own, orphan, twin].concat();
    let shown = waterfall::render(&TracesData { resource_spans: vec![service("s", all.clone())] }, Style::plain(100));
    for span in &all {
        let rows = shown.lines().skip(2).filter(|line| {
            let before_bar = line.split(['█', '▏']).next().unwrap();
            before_bar.trim_end().ends_with(&span.name)
        });
        assert_eq!(rows.count(), 1, "{} in\n{shown}", span.name);
    }
    assert_eq!(waterfall::render(&TracesData::default(), Style::plain(80)), "");
}

#[test]
fn times_that_make_no_sense_are_drawn_all_the_same() {
    let mut backwards = span(1, 0, "ends before it starts", 5, 5);
    backwards.end_time_unix_nano = 1;
    let mut late = span(2, 1, "at the end of time", 0, 0);
    late.end_time_unix_nano = u64::MAX;
    let trace = TracesData { resource_spans: vec![service("s", vec![backwards, late])] };
    assert_eq!(waterfall::render(&trace, Style::plain(80)).lines().skip(3).count(), 2);
}

#[test]
fn what_a_trace_says_cannot_control_the_terminal() {
    let mut span = span(1, 0, "\x1b[2J\x07name\r\n", 0, 1);
    span.status = Some(Status { code: 2, message: "\x1b]0;title\x07".into() });
    let trace = TracesData { resource_spans: vec![service("\x1b[31mred", vec![span])] };
    let shown = waterfall::render(&trace, Style::plain(80));
    assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
}

const SEARCH: &str = r#"{"traces":[
 {"traceID":"4bf92f3577b34da6a3ce929d0e0e4736","rootServiceName":"frontend","rootTraceName":"POST /checkout",
  "startTimeUnixNano":"1700000000123000000","durationMs":1234,
  "spanSets":[{"spans":[{"spanID":"00f067aa0ba902b7"}],"matched":12}]},
 {"traceID":"1f1ea52d4100399b","rootServiceName":"<root span not yet received>","startTimeUnixNano":"1699999990000000000",
  "spanSets":[{"matched":1},{"matched":2}]}],
 "metrics":{"inspectedBytes":"123456","inspectedSpans":"5000"},"anything":"new"}"#;

#[test]
fn a_search() {
    let answer = serde_json::from_str(SEARCH).unwrap();
    check(&search::render(&answer, 20, Style::plain(80)), include_str!("golden/search-80.txt"));
    check(&search::render(&answer, 2, Style::plain(120)), include_str!("golden/search-120.txt"));
    let empty = serde_json::from_str(r#"{"traces":[],"metrics":{}}"#).unwrap();
    check(&search::render(&empty, 20, Style::plain(80)), "No trace matches.\n");
}

#[test]
fn a_metrics_query() {
    let samples = |from: u64| -> String {
        let one =
            |i: u64| format!(r#"{{"timestampMs":"{}","value":{}}}"#, 1_700_000_000_000 + i * 15_000, (i * from) % 7);
        (0..60).map(one).collect::<Vec<_>>().join(",")
    };
    let answer = format!(
        r#"{{"series":[
            {{"labels":[{{"key":"resource.service.name","value":{{"stringValue":"checkout"}}}}],"samples":[{}]}},
            {{"labels":[{{"key":"p","value":{{"doubleValue":0.9}}}}],"samples":[{{"timestampMs":"1700000000000"}}]}}],
            "status":"PARTIAL","message":"too many series"}}"#,
        samples(3)
    );
    let answer = serde_json::from_str(&answer).unwrap();
    check(&series::render(&answer, Style::plain(80)), include_str!("golden/series-80.txt"));
}

#[test]
fn colours_add_nothing_but_colours() {
    let colourful = Style { colour: true, ..Style::plain(100) };
    let shown = waterfall::render(&checkout(), colourful);
    assert!(shown.contains("\x1b[31m"), "errors are red");
    let mut bare = String::new();
    let mut rest = shown.as_str();
    while let Some((before, after)) = rest.split_once("\x1b[") {
        bare.push_str(before);
        rest = after.split_once('m').unwrap().1;
    }
    bare.push_str(rest);
    check(&bare, &waterfall::render(&checkout(), Style::plain(100)));
}

#[test]
fn an_explanation_names_what_was_left_out() {
    let told = serde_json::json!({
        "plan": ["query: { status = error }", "rows read: { status = error }"],
        "blocks": 1200, "blocksMissing": 0, "liveBatches": 2,
        "pruned": { "outside the time range": 1100, "no value can match": 0 },
        "tracesSplit": 7, "rowGroups": 300, "rowGroupsPrunedByStatistics": 250,
        "unitsRead": 52, "bytesRead": 3_145_728, "rowsRead": 5_000_000, "rowsKept": 12,
        "stages": [{ "stage": "find the newest traces", "micros": 1500 }],
    });
    let text = explain::render(&told, Style::plain(120));
    let expected = "
How this was answered
  plan         query: { status = error }
               rows read: { status = error }
  places       1,200 blocks, 2 live batches
               1,100 left out: outside the time range
  split        7 traces lie in several places
  row groups   250 left out by statistics, of 300
  read         52 row groups and live batches, 3.0 MiB; 5,000,000 rows, 12 kept
  time            1.5ms  find the newest traces
";
    assert_eq!(text, expected);
    assert_eq!(explain::render(&serde_json::Value::Null, Style::plain(120)), "");
}
