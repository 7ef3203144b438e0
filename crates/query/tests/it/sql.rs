//! SQL over the same spans in different places, and what it refuses.

use arrow::{array::RecordBatch, ipc::reader::StreamReader};
use futures::TryStreamExt;
use model::ErrorKind;
use proto::otlp::{
    common::v1::any_value::Value as Any,
    resource::v1::Resource,
    trace::v1::{Span, Status},
};
use query::{Budget, Engine, QueryError, Reads, SqlFormat, SqlRequest};
use std::sync::Arc;

use crate::{
    data::{BASE, Row, SECOND, any, attribute, text},
    places::{everywhere, tenant},
};

async fn asked(engine: &Engine, sql: &str, format: SqlFormat, rows_max: u64) -> Result<Vec<u8>, QueryError> {
    let answer = engine.sql(&[tenant()], SqlRequest { text: sql.to_owned(), format, rows_max }).await?;
    let parts: Vec<_> = answer.try_collect().await?;
    Ok(parts.concat())
}

async fn csv(engine: &Engine, sql: &str) -> String {
    let bytes = asked(engine, sql, SqlFormat::Csv, 1_000_000).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    String::from_utf8(bytes).unwrap()
}

/// Span `number` of a trace, `number` seconds after the start of time, and as many milliseconds long.
fn span(trace: u128, number: u64) -> Row {
    let start = BASE + number * SECOND;
    let span = Span {
        trace_id: trace.to_be_bytes().into(),
        span_id: number.to_be_bytes().into(),
        parent_span_id: if number % 4 == 1 { vec![] } else { (number - 1).to_be_bytes().into() },
        name: if number % 2 == 0 { "even" } else { "odd \"quoted\", line\nbreak" }.into(),
        kind: 2,
        start_time_unix_nano: start,
        end_time_unix_nano: start + number * 1_000_000,
        attributes: vec![
            attribute("http.route", text(if number % 3 == 0 { "/a" } else { "/b" })),
            attribute("size", any(Any::IntValue(number as i64))),
            // A key whose type changes.
            attribute("mixed", if number % 2 == 0 { any(Any::IntValue(7)) } else { text("seven") }),
        ],
        status: (number % 5 == 0).then(|| Status { code: 2, message: "boom".into() }),
        ..Default::default()
    };
    let service = attribute("service.name", text(if trace % 2 == 0 { "cart" } else { "shop" }));
    Row { resource: Resource { attributes: vec![service], ..Default::default() }, scope: Default::default(), span }
}

/// Ten traces of four spans each, and then some spans again.
fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = (1..=40).map(|number| span(u128::from((number - 1) / 4) + 1, number)).collect();
    rows.extend([3, 17, 40].map(|number| span(u128::from((number - 1) / 4) + 1, number)));
    rows
}

#[tokio::test]
async fn the_same_spans_give_the_same_rows_wherever_they_lie() {
    let table = [
        ("SELECT count(*) AS n FROM spans", "n\n40\n"),
        ("SELECT count(DISTINCT trace_id) AS n FROM spans", "n\n10\n"),
        ("SELECT service_name, count(*) AS n FROM spans GROUP BY service_name ORDER BY service_name", "service_name,n\ncart,20\nshop,20\n"),
        ("SELECT status, kind, count(*) AS n FROM spans GROUP BY status, kind ORDER BY status", "status,kind,n\nerror,server,8\nunset,server,32\n"),
        ("SELECT count(*) AS n FROM spans WHERE status = 'error'", "n\n8\n"),
        ("SELECT count(*) AS n FROM spans WHERE name = 'even' AND duration_ms > 20", "n\n10\n"),
        ("SELECT count(*) AS n FROM spans WHERE duration_ns >= 20000000 OR name = 'even'", "n\n30\n"),
        ("SELECT count(*) AS n FROM spans WHERE service_name = 'cart' AND parent_span_id IS NULL", "n\n5\n"),
        ("SELECT attribute('span.http.route') AS route, max(duration_ms) AS most FROM spans GROUP BY route ORDER BY route", "route,most\n/a,39.0\n/b,40.0\n"),
        ("SELECT count(*) AS n FROM spans WHERE attribute('span.http.route') = '/a'", "n\n13\n"),
        ("SELECT sum(attribute_number('span.size')) AS n FROM spans WHERE attribute_number('span.size') <= 10", "n\n55.0\n"),
        // Numbers as text, texts as nothing.
        ("SELECT attribute('span.mixed') AS v, count(attribute_number('span.mixed')) AS n FROM spans GROUP BY v ORDER BY v", "v,n\n7,20\nseven,0\n"),
        ("SELECT count(*) AS n FROM spans WHERE attribute('span.mixed') = '7'", "n\n20\n"),
        ("SELECT count(*) AS n FROM spans WHERE attribute('span.mixed') = 'seven'", "n\n20\n"),
        ("SELECT count(attribute('span.absent')) AS n FROM spans", "n\n0\n"),
        ("SELECT trace_id, span_id FROM spans WHERE trace_id = '00000000000000000000000000000003' ORDER BY span_id LIMIT 1", "trace_id,span_id\n00000000000000000000000000000003,0000000000000009\n"),
        ("SELECT start_time, end_time FROM spans ORDER BY start_time LIMIT 1", "start_time,end_time\n2023-11-14T22:14:01Z,2023-11-14T22:14:01.001Z\n"),
        ("SELECT count(*) AS n FROM spans WHERE start_time >= '2023-11-14T22:14:01Z' AND start_time < TIMESTAMP '2023-11-14T22:14:11Z'", "n\n10\n"),
        ("SELECT name FROM spans WHERE duration_ms = 1", "name\n\"odd \"\"quoted\"\", line\nbreak\"\n"),
        ("WITH slow AS (SELECT trace_id FROM spans WHERE duration_ms > 38) SELECT count(*) AS n FROM spans JOIN slow ON spans.trace_id = slow.trace_id", "n\n8\n"),
        ("SELECT name FROM spans WHERE 1 = 0", "name\n"),
    ];
    for place in everywhere(&rows(), 3).await {
        for (sql, expected) in table {
            assert_eq!(csv(&place.engine, sql).await, expected, "{sql} in place `{}`", place.name);
        }
        // Every row, with every column.
        let all = asked(&place.engine, "SELECT * FROM spans ORDER BY start_time", SqlFormat::Json, 100).await.unwrap();
        let all: Vec<serde_json::Value> = serde_json::from_slice(&all).unwrap();
        assert_eq!(all.len(), 40, "{}", place.name);
        assert_eq!((&all[4]["root_span_name"], &all[4]["child_count"]), (&all[4]["name"], &serde_json::json!(1)), "{}", place.name);
    }
}

#[tokio::test]
async fn rows_come_in_three_forms() {
    let place = everywhere(&rows(), 3).await.remove(0);
    let sql = "SELECT span_id, duration_ns, status_message FROM spans WHERE duration_ms <= 5 ORDER BY span_id";
    let json: serde_json::Value = serde_json::from_slice(&asked(&place.engine, sql, SqlFormat::Json, 100).await.unwrap()).unwrap();
    assert_eq!(json[4], serde_json::json!({ "span_id": "0000000000000005", "duration_ns": 5_000_000, "status_message": "boom" }));
    assert_eq!((json.as_array().unwrap().len(), &json[0]["status_message"]), (5, &serde_json::Value::Null));
    let none = asked(&place.engine, "SELECT span_id FROM spans WHERE 1 = 0", SqlFormat::Json, 100).await.unwrap();
    assert_eq!(none, b"[]\n");

    let arrow = asked(&place.engine, sql, SqlFormat::Arrow, 100).await.unwrap();
    let batches: Vec<RecordBatch> = StreamReader::try_new(arrow.as_slice(), None).unwrap().map(|batch| batch.unwrap()).collect();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 5);
    assert_eq!(batches[0].schema().field(1).name(), "duration_ns");
}

#[tokio::test]
async fn nothing_but_reading_spans_is_possible() {
    let place = everywhere(&rows(), 3).await.remove(1);
    for sql in [
        "",
        "nonsense",
        "SELECT 1; SELECT 2",
        "CREATE TABLE t AS SELECT * FROM spans",
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
        "COPY spans TO '/tmp/out.csv'",
        "COPY (SELECT 1) TO '/tmp/out.csv'",
        "INSERT INTO spans SELECT * FROM spans",
        "DELETE FROM spans",
        "DROP TABLE spans",
        "SET datafusion.execution.batch_size = 1",
        "EXPLAIN SELECT 1",
        "SELECT * INTO t FROM spans",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM generate_series(1, 1000000000000)",
        "SELECT * FROM information_schema.tables",
        "SELECT repeat(name, 1000000000) FROM spans",
        "SELECT lpad(name, 2000000000) FROM spans",
        "SELECT name || name || name || name || name || name || name || name FROM spans",
        "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t",
        "SELECT attribute(name) FROM spans",
        "SELECT attribute('no scope here') FROM spans",
        "SELECT attribute('span.a', 'span.b') FROM spans",
        "SELECT absent FROM spans",
        &format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000)),
        &format!("SELECT 1{}", " ".repeat(70_000)),
        &format!("SELECT '{}'", "x".repeat(5_000)),
    ] {
        let error = asked(&place.engine, sql, SqlFormat::Csv, 100).await.map(|b| String::from_utf8_lossy(&b).into_owned()).expect_err(sql);
        assert_eq!(error.kind, ErrorKind::Invalid, "{sql}: {error}");
    }
    // What is odd but harmless is answered.
    for sql in ["SELECT 1 / 0", "SELECT 9223372036854775807 + 1", "SELECT sum(duration_ns) * 9223372036854775807 FROM spans", "SELECT sqrt(-1)"] {
        let _ = asked(&place.engine, sql, SqlFormat::Csv, 100).await;
    }
    // As many words and signs as are allowed do not exhaust the stack; more are refused.
    for (terms, allowed) in [(400, true), (10_000, false)] {
        let long = format!("SELECT 1{}", " + 1".repeat(terms));
        assert_eq!(asked(&place.engine, &long, SqlFormat::Csv, 100).await.is_ok(), allowed, "{terms} terms");
    }
}

#[tokio::test]
async fn rows_and_memory_have_their_bounds() {
    let place = everywhere(&rows(), 3).await.remove(1);
    let error = asked(&place.engine, "SELECT * FROM spans", SqlFormat::Csv, 39).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::BudgetExceeded, "{error}");
    let reads = Arc::new(Reads::within(Budget { read_bytes_max: u64::MAX, memory_bytes_max: 1000 }));
    let poor = place.engine.accounting(&reads);
    let error = asked(&poor, "SELECT * FROM spans ORDER BY name, duration_ns", SqlFormat::Csv, 100).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::BudgetExceeded, "{error}");
    assert!(error.message.contains("max_memory_per_query"), "{error}");
    for window in ["count(*) OVER ()", "last_value(name) OVER (ROWS BETWEEN CURRENT ROW AND 1000000 FOLLOWING)"] {
        let query = format!("SELECT *, {window} FROM spans");
        let error = asked(&poor, &query, SqlFormat::Csv, 100).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::BudgetExceeded, "{window}: {error}");
        assert!(asked(&place.engine, &query, SqlFormat::Csv, 100).await.is_ok(), "{window}");
    }
    let error = asked(&place.engine, "SELECT array_agg(name) OVER (ORDER BY start_time) FROM spans", SqlFormat::Csv, 100).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    let reads = Arc::new(Reads::within(Budget { read_bytes_max: 1, memory_bytes_max: u64::MAX }));
    let error = asked(&place.engine.accounting(&reads), "SELECT name FROM spans", SqlFormat::Csv, 100).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::BudgetExceeded, "{error}");
}

#[tokio::test]
async fn filters_reach_the_statistics() {
    let place = everywhere(&rows(), 3).await.remove(1);
    for sql in [
        "SELECT span_id FROM spans WHERE name = 'zzz'",
        "SELECT span_id FROM spans WHERE duration_ms > 1000",
        "SELECT span_id FROM spans WHERE start_time > '2030-01-01T00:00:00Z'",
        "SELECT span_id FROM spans WHERE attribute('span.http.route') = 'zzz' AND kind = 'server'",
    ] {
        let reads = Arc::new(Reads::default());
        asked(&place.engine.accounting(&reads), sql, SqlFormat::Csv, 100).await.unwrap();
        assert_eq!(reads.explanation().units_read, 0, "{sql}: {:?}", reads.explanation());
    }
}
