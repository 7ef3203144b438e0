//! Questions that no good client asks, over every way to ask: each has an answer or a clear refusal, and the program goes on.
//!
//! The cases, and where they are tried against the program itself; `crates/api/tests/it/death.rs` tries more of them
//! in one process.
//!
//! | | what is asked | tests |
//! |---|---|---|
//! | Q01, Q02 | long and deep queries | `long_and_deep_queries_are_refused_or_answered` |
//! | Q03 | hostile patterns | `patterns_are_linear_or_refused` |
//! | Q04 | parameters at their ends | `parameters_at_their_ends_are_refused_or_cut` |
//! | Q05 | arithmetic at its ends | `arithmetic_at_its_ends_is_answered` |
//! | Q06 | structure upon structure | `structure_upon_structure_is_answered` |
//! | Q07, Q14 | very many groups, values, names | `very_many_groups_and_values_are_bounded` |
//! | Q08 | trace ids that are none | `trace_ids_have_one_form` |
//! | Q09 | tricks with paths | `door::paths` |
//! | Q10 | odd wishes for a form | `odd_wishes_for_a_form_are_answered` |
//! | Q11 | tenants that are not there, or not the caller's | `tenants`, `door::access` |
//! | Q12 | too many at once, and clients that hang up | `too_many_at_once_come_again` |
//! | Q13 | damaged and missing blocks, a store that is down | `disk_faults`, `store_faults` |
//! | Q15 | names that are meant as code | `names_are_data` |
//! | Q16 | more memory than one query may have | `one_query_has_its_share_of_memory` |
//! | Q17 | answers larger than a client takes | `grafana::a_streamed_search_has_a_limit_and_messages_that_grafana_takes` |
//! | Q18 | streams that nobody reads | `streams_that_nobody_reads_hold_up_nobody` |

use proto::{
    otlp::trace::v1::Span,
    tempopb::{SearchRequest, streaming_querier_client::StreamingQuerierClient},
};
use reqwest::header;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    client::Access,
    server::{Server, Settings, until},
    spans::{TimeRange, attribute, request, span_id, trace_id, trace_spans},
};

const RUN: u64 = 80;

/// A server with some traces, live and in a block.
async fn server(folder: &TempDir) -> Server {
    let server = Server::start(&Settings::new(folder.path())).await;
    for number in 0..4 {
        server.client.push(request("shop", trace_spans(RUN, number, 0..5, TimeRange::lately()))).await;
        if number == 1 {
            server.client.flush().await;
        }
    }
    server
}

/// Asks for a search over HTTP and over gRPC, and for metrics. `fine`: whether it must be answered.
async fn check(server: &Server, query: &str, fine: bool) {
    let shown: String = query.chars().take(80).collect();
    let mut statuses = vec![];
    // A request's line has a bound of its own.
    if query.len() < 20_000 {
        for (path, query) in [("/api/search", query.to_owned()), ("/api/metrics/query_range", format!("{query} | rate()"))] {
            let (status, body) = server.client.get(path, &[("q", query)]).await;
            assert!(matches!(status, 200 | 400 | 422), "{shown}: {path} {status} {body}");
            assert!(body.to_string().len() < 100_000, "{shown}: an answer of {} bytes", body.to_string().len());
            statuses.push(status == 200);
        }
    }
    let mut client = StreamingQuerierClient::connect(format!("http://{}", server.address("api"))).await.unwrap();
    let asked = SearchRequest { query: query.to_owned(), ..SearchRequest::default() };
    let outcome = match client.search(asked).await {
        Ok(stream) => {
            let mut stream = stream.into_inner();
            loop {
                match stream.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => break Ok(()),
                    Err(status) => break Err(status),
                }
            }
        }
        Err(status) => Err(status),
    };
    if let Err(status) = &outcome {
        // INVALID_ARGUMENT, FAILED_PRECONDITION, RESOURCE_EXHAUSTED.
        assert!([3, 8, 9].contains(&(status.code() as i32)), "{shown}: {status}");
    }
    statuses.push(outcome.is_ok());
    assert!(statuses.iter().all(|answered| *answered == fine), "{shown}: {statuses:?}, {outcome:?}");
    assert_eq!(server.client.get("/api/echo", &[]).await.0, 200);
}

#[tokio::test]
async fn long_and_deep_queries_are_refused_or_answered() {
    let folder = TempDir::new().unwrap();
    let server = server(&folder).await;
    for (query, fine) in [
        (format!("{{ }}{}", " ".repeat(140_000)), false),
        (format!("{{ .a = {:?} }}", "x".repeat(1 << 20)), false),
        (format!("{{ {}.a{} }}", "(".repeat(10_000), ")".repeat(10_000)), false),
        (format!("{{ {}.a }}", "!".repeat(100_000)), false),
        (format!("{{ {}.a }}", "-".repeat(10_000)), false),
        (format!("{{ .a{} }}", " || .a".repeat(20_000)), false),
        (format!("{{ }}{}", " | { }".repeat(5_000)), false),
        (format!("{{ .a in [1{}] }}", ", 1".repeat(40_000)), false),
        (format!("{}{{ }}{}", "(".repeat(10_000), ")".repeat(10_000)), false),
        (format!("{{ {}.a{} }}", "(".repeat(30), ")".repeat(30)), true),
        (format!("{{ .a = 0{} }}", " || .a = 1".repeat(1_000)), true),
        (format!("{{ .a = 0{} }}", " && .a != 1".repeat(1_000)), true),
        (format!("{{ .a in [1{}] }}", ", 2".repeat(3_000)), true),
    ] {
        check(&server, &query, fine).await;
    }
    // Other languages have their bounds too.
    let post = async |path: &str, body: String| {
        let client = Access::default().builder().build().unwrap();
        let answer = client.post(format!("http://{}{path}", server.address("api"))).header(header::CONTENT_TYPE, "text/plain").body(body).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    for sql in [
        format!("SELECT {}1{}", "(".repeat(5_000), ")".repeat(5_000)),
        format!("SELECT 1{}", " + 1".repeat(50_000)),
        format!("SELECT * FROM spans WHERE name = 'a'{}", " OR name = 'b'".repeat(10_000)),
        format!("SELECT * FROM {}spans{}", "(SELECT * FROM ".repeat(500), ")".repeat(500)),
        format!("SELECT '{}'", "x".repeat(2 << 20)),
    ] {
        let (status, body) = post("/api/sql", sql.clone()).await;
        assert!(matches!(status, 200 | 400 | 413 | 422), "{}: {status} {}", &sql[..60], &body[..body.len().min(300)]);
        assert_eq!(server.client.get("/api/echo", &[]).await.0, 200, "after {}", &sql[..60]);
    }
}

#[tokio::test]
async fn patterns_are_linear_or_refused() {
    let folder = TempDir::new().unwrap();
    let server = server(&folder).await;
    let many: Vec<String> = (0..11).map(|n| format!("name =~ `{n}`")).collect();
    for (query, fine) in [
        ("{ name =~ `(a+)+$` }".to_owned(), true),
        ("{ name =~ `(.*.*.*.*.*)*x` }".to_owned(), true),
        ("{ name =~ `(x{1000}){1000}` }".to_owned(), false),
        ("{ name =~ `(?<=a)b` }".to_owned(), false),
        ("{ name =~ `(` }".to_owned(), false),
        (format!("{{ name =~ `{}` }}", "a".repeat(5_000)), false),
        (format!("{{ {} }}", many.join(" || ")), false),
    ] {
        check(&server, &query, fine).await;
    }
}

#[tokio::test]
async fn parameters_at_their_ends_are_refused_or_cut() {
    let folder = TempDir::new().unwrap();
    let server = server(&folder).await;
    let cases: [(&str, &[(&str, &str)], u16); 22] = [
        ("/api/search", &[("limit", "9223372036854775808")], 400),
        ("/api/search", &[("limit", "-1")], 400),
        ("/api/search", &[("limit", "1.5")], 400),
        ("/api/search", &[("limit", "0x10")], 400),
        ("/api/search", &[("limit", "262144")], 200),
        ("/api/search", &[("limit", "262145")], 400),
        ("/api/search", &[("spss", "0")], 200),
        ("/api/search", &[("spss", "4294967296")], 400),
        ("/api/search", &[("start", "0"), ("end", "31536000")], 200),
        ("/api/search", &[("start", "2"), ("end", "1")], 400),
        ("/api/search", &[("start", "-1"), ("end", "1")], 400),
        ("/api/search", &[("start", "1e9"), ("end", "NaN")], 400),
        ("/api/search", &[("minDuration", "9999999999999h")], 400),
        ("/api/metrics/query_range", &[("step", "1ns")], 400),
        ("/api/metrics/query_range", &[("step", "0")], 400),
        ("/api/metrics/query_range", &[("step", "-1s")], 400),
        ("/api/metrics/query_range", &[("exemplars", "1000000000")], 200),
        ("/api/metrics/query_range", &[("exemplars", "1e9")], 400),
        ("/api/metrics/query_range", &[("start", "0"), ("end", "9223372036")], 400),
        ("/api/metrics/query", &[("start", "5"), ("end", "1")], 400),
        ("/api/v2/search/tags", &[("limit", "4294967296")], 400),
        ("/api/v2/search/tag/name/values", &[("limit", "-5")], 400),
    ];
    for (path, parameters, expected) in cases {
        let query = if path.contains("metrics") { "{ } | rate()" } else { "{ }" };
        let mut parameters: Vec<(&str, String)> = parameters.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        parameters.push(("q", query.to_owned()));
        let (status, body) = server.client.get(path, &parameters).await;
        // An empty or backward range may as well be answered with nothing.
        assert!(status == expected, "{path} {parameters:?}: {status} {body}");
    }
}

#[tokio::test]
async fn arithmetic_at_its_ends_is_answered() {
    let folder = TempDir::new().unwrap();
    let server = server(&folder).await;
    for condition in [
        "span.step / 0 > 1",
        "span.step % 0 = 1",
        "10 ^ 1000000000 > span.step",
        "0 ^ 0 = 1",
        "span.step * 9223372036854775807 > 0",
        "-9223372036854775808 / (span.step - 1) > 0",
        "duration * 9223372036854775807 > 1s",
        "duration + 2562047h > 1s",
    ] {
        for (path, query) in [("/api/search", format!("{{ {condition} }}")), ("/api/metrics/query_range", format!("{{ {condition} }} | quantile_over_time(duration, 0, 1, .5)"))] {
            let (status, body) = server.client.get(path, &[("q", query)]).await;
            assert!(matches!(status, 200 | 400), "{condition}: {status} {body}");
        }
    }
    check(&server, "{ duration > 99999999999999999h }", false).await;
}

#[tokio::test]
async fn structure_upon_structure_is_answered() {
    const SPANS: u64 = 5_000;
    let folder = TempDir::new().unwrap();
    let server = Server::start(&Settings::new(folder.path())).await;
    let chained = |number: u64| {
        let mut spans = trace_spans(RUN, number, 0..SPANS, TimeRange::lately());
        for (index, span) in (0..).zip(&mut spans) {
            span.parent_span_id = if index == 0 { vec![] } else { span_id(number, index - 1) };
        }
        spans
    };
    server.client.push(request("shop", chained(1))).await;
    server.client.push(request("shop", trace_spans(RUN, 2, 0..SPANS, TimeRange::lately()))).await;
    for operator in [">>", "<<", "~", "&>>", "!>>", ">"] {
        let query = format!("{{ }}{}", format!(" {operator} {{ }}").repeat(30));
        let (status, body) = server.client.get("/api/search", &[("q", query), ("limit", "1".into())]).await;
        assert!(matches!(status, 200 | 400 | 422), "{operator}: {status} {body}");
        assert_eq!(server.client.get("/api/echo", &[]).await.0, 200);
    }
}

#[tokio::test]
async fn very_many_groups_and_values_are_bounded() {
    const SPANS: u64 = 20_000;
    let folder = TempDir::new().unwrap();
    let range = TimeRange::lately();
    let server = Server::start(&Settings::new(folder.path())).await;
    let mut spans = trace_spans(RUN, 1, 0..SPANS, range);
    for (number, span) in spans.iter_mut().enumerate() {
        span.attributes = vec![attribute("unique", format!("{number}{}", "x".repeat(200)))];
    }
    // As many names as there may be on a span, of ten spans.
    for (number, span) in spans.iter_mut().enumerate().take(10) {
        span.attributes.extend((0..1_000).map(|name| attribute(&format!("name.{number}.{name}"), "v".into())));
    }
    server.client.push(request("shop", spans)).await;
    for state in ["live", "flushed"] {
        let before = server.peak_memory_bytes();
        let names: Vec<String> = (0..1_000).map(|name| format!("span.a{name}")).collect();
        for query in ["{ } | rate() by (span.unique)".to_owned(), format!("{{ }} | rate() by ({})", names.join(", ")), "{ } | compare({ name = \"step 1\" }, 1000000000)".to_owned(), "{ } | rate() by (span.unique) | topk(1000000000)".to_owned()] {
            let parameters = [("q", query.clone()), ("start", range.start_s.to_string()), ("end", range.end_s.to_string())];
            let (status, body) = server.client.get("/api/metrics/query_range", &parameters).await;
            assert!(matches!(status, 200 | 400 | 422), "{}, {state}: {status} {body}", &query[..40]);
        }
        let parameters = [("q", "{ }".to_owned()), ("limit", "100".into())];
        let (status, body) = server.client.get("/api/v2/search/tag/span.unique/values", &parameters).await;
        assert_eq!((status, body["tagValues"].as_array().unwrap().len()), (200, 100), "{state}");
        let (status, body) = server.client.get("/api/v2/search/tag/span.unique/values", &[]).await;
        assert!(status == 200 && body.to_string().len() < 16 << 20, "{state}: {status}");
        let (status, body) = server.client.get("/api/v2/search/tags", &[("scope", "span".into())]).await;
        assert!(status == 200 && body.to_string().len() < 16 << 20, "{state}: {status}");
        let grown = server.peak_memory_bytes() - before;
        assert!(grown < 1 << 30, "{state}: {grown} bytes more");
        server.client.flush().await;
    }
}

#[tokio::test]
async fn trace_ids_have_one_form() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(&Settings::new(folder.path())).await;
    let mut span = trace_spans(RUN, 1, 0..1, TimeRange::lately()).remove(0);
    span.trace_id = 0xabcdef_u128.to_be_bytes().to_vec();
    server.client.push(request("shop", vec![span])).await;
    for state in ["live", "flushed"] {
        for id in ["abcdef", "ABCDEF", "0abcdef", "00000000000000000000000000abcdef", "0000000000abcdef", "AbCdEf"] {
            for version in ["", "v2/"] {
                assert_eq!(server.client.get(&format!("/api/{version}traces/{id}"), &[]).await.0, 200, "{id}, {state}");
            }
        }
        for (id, status) in [
            ("abcdee", 404),
            ("000000000000000000000000000abcdef", 400),
            ("xyz", 400),
            ("ab-cdef", 400),
            ("abc%2fdef", 400),
            ("%61bcdef%00", 400),
            ("0x1", 400),
            ("..%2f..%2fstatus", 400),
            ("%25", 400),
            ("-1", 400),
            ("\u{ff11}", 400),
        ] {
            let (answered, body) = server.client.get(&format!("/api/traces/{id}"), &[]).await;
            assert_eq!(answered, status, "{id}, {state}: {body}");
        }
        server.client.flush().await;
    }
}

#[tokio::test]
async fn odd_wishes_for_a_form_are_answered() {
    let folder = TempDir::new().unwrap();
    let server = server(&folder).await;
    let client = Access::default().builder().build().unwrap();
    let id: String = trace_id(RUN, 1).iter().map(|byte| format!("{byte:02x}")).collect();
    for path in [format!("/api/traces/{id}"), format!("/api/v2/traces/{id}"), "/api/search".into(), "/api/v2/search/tags".into()] {
        for accept in ["", "*/*", "text/html", "application/xml;q=0.9", "application/json;q=0", ";;;", "application/protobuf", "application/*", "a".repeat(8_000).as_str()] {
            let answer = client.get(format!("http://{}{path}", server.address("api"))).header(header::ACCEPT, accept).send().await.unwrap();
            assert!(matches!(answer.status().as_u16(), 200 | 406), "{path} {accept}: {}", answer.status());
        }
        for encoding in ["identity;q=0", "*;q=0", "gzip;q=0", "br", "gzip, deflate, br, zstd", "x"] {
            let answer = client.get(format!("http://{}{path}", server.address("api"))).header(header::ACCEPT_ENCODING, encoding).send().await.unwrap();
            assert!(matches!(answer.status().as_u16(), 200 | 406), "{path} {encoding}: {}", answer.status());
        }
    }
}

#[tokio::test]
async fn too_many_at_once_come_again() {
    let folder = TempDir::new().unwrap();
    let settings = Settings::new(folder.path())
        .with("query_frontend.max_concurrent_queries", 2)
        .with("query_frontend.max_concurrent_queries_per_tenant", 1);
    let server = Server::start(&settings).await;
    for number in 0..20 {
        server.client.push(request("shop", trace_spans(RUN, number, 0..200, TimeRange::lately()))).await;
    }
    let asked = (0..200).map(|_| async {
        let client = Access::default().builder().build().unwrap();
        let get = client.get(format!("http://{}/api/search", server.address("api"))).query(&[("q", "{ } >> { } | avg(duration) > 1ns")]);
        let answer = get.send().await.unwrap();
        (answer.status().as_u16(), answer.headers().contains_key(header::RETRY_AFTER))
    });
    let answers = futures::future::join_all(asked).await;
    let refused: Vec<_> = answers.iter().filter(|(status, _)| *status != 200).collect();
    assert!(refused.iter().all(|answer| matches!(answer, (429 | 503, true))), "{refused:?}");
    assert!(refused.len() < answers.len(), "none was answered");
    // Clients that hang up give their places back.
    for _ in 0..20 {
        let client = Access::default().builder().timeout(std::time::Duration::from_millis(1)).build().unwrap();
        let get = client.get(format!("http://{}/api/search", server.address("api"))).query(&[("q", "{ } >> { } ~ { }")]);
        let _ = get.send().await;
    }
    until("there is room again", async || server.client.get("/api/search", &[]).await.0 == 200).await;
}

#[tokio::test]
async fn names_are_data() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(&Settings::new(folder.path())).await;
    let names = [
        "\"; DROP TABLE spans; --", "a`b", "{{x}}", "' OR '1'='1", "a\\\"b", "a.b[0]", "${x}", "span.name", "a\nb", "}", "*", "ü ß", "a\"b", "__proto__",
    ];
    for (number, name) in (0..).zip(names) {
        let mut spans: Vec<Span> = trace_spans(RUN, number, 0..1, TimeRange::lately());
        spans[0].attributes = vec![attribute(name, "marked".into()), attribute("value", name.into())];
        server.client.push(request("shop", spans)).await;
    }
    let found = |body: &Value| body["traces"].as_array().map_or(0, Vec::len);
    for state in ["live", "flushed"] {
        let (status, all) = server.client.get("/api/v2/search/tags", &[("scope", "span".into())]).await;
        let listed: Vec<&str> = all["scopes"].as_array().unwrap().iter().flat_map(|scope| scope["tags"].as_array().unwrap()).filter_map(Value::as_str).collect();
        assert_eq!(status, 200);
        for name in names {
            assert!(listed.contains(&name), "{name:?}, {state}: {listed:?}");
            // As a name, as a value, in words of TraceQL and of SQL.
            let quoted = format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""));
            for query in [format!("{{ span.{quoted} = \"marked\" }}"), format!("{{ .value = {} }}", quoted.replace('\n', "\\n"))] {
                let (status, body) = server.client.get("/api/search", &[("q", query.clone())]).await;
                assert_eq!((status, found(&body)), (200, 1), "{query}, {state}: {body}");
            }
            let query = format!("{{ }} | rate() by (span.{quoted})");
            let (status, body) = server.client.get("/api/metrics/query_range", &[("q", query)]).await;
            assert_eq!((status, body["series"].as_array().map_or(0, Vec::len)), (200, 2), "{name:?}, {state}: {body}");
            let tags = json!({ name: "marked" }).to_string();
            let (status, body) = server.client.get("/jaeger/api/traces", &[("service", "shop".into()), ("tags", tags)]).await;
            assert_eq!((status, body["data"].as_array().map_or(0, Vec::len)), (200, 1), "{name:?}, {state}: {body}");
            let sql = format!("SELECT count(*) AS n FROM spans WHERE name = '{}'", name.replace('\'', "''"));
            let client = Access::default().builder().build().unwrap();
            let answer = client.post(format!("http://{}/api/sql", server.address("api"))).body(sql).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{name:?}, {state}: {}", answer.text().await.unwrap());
        }
        for unquoted in ["{ .a\"; drop = 1 }", "{{ .x = 1 }}", "{ } ; { }", "{ name = \"a\" OR 1=1 }"] {
            let (status, body) = server.client.get("/api/search", &[("q", unquoted.into())]).await;
            assert_eq!(status, 400, "{unquoted}: {body}");
        }
        server.client.flush().await;
    }
    for sql in ["DROP TABLE spans", "DELETE FROM spans", "CREATE TABLE x AS SELECT 1", "COPY spans TO '/tmp/x'", "INSERT INTO spans VALUES (1)", "SET datafusion.execution.batch_size = 1", "SELECT 1; DROP TABLE spans", "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'", "SELECT * FROM '/etc/passwd'"] {
        let client = Access::default().builder().build().unwrap();
        let answer = client.post(format!("http://{}/api/sql", server.address("api"))).body(sql).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{sql}: {}", answer.text().await.unwrap());
    }
}

#[tokio::test]
async fn one_query_has_its_share_of_memory() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(&Settings::new(folder.path()).with("query_frontend.max_memory_per_query", "64KiB")).await;
    let mut spans = trace_spans(RUN, 1, 0..5_000, TimeRange::lately());
    for (number, span) in spans.iter_mut().enumerate() {
        span.attributes = vec![attribute("unique", format!("{number:0>500}"))];
    }
    server.client.push(request("shop", spans)).await;
    for path in ["/api/search", &format!("/api/traces/{:016x}{:016x}", RUN, 1)] {
        let (status, body) = server.client.get(path, &[("q", "{ } | select(span.unique)".into())]).await;
        assert!(status == 422 && body.to_string().contains("max_memory_per_query"), "{path}: {status} {body}");
    }
    assert_eq!(server.client.get("/api/metrics/query_range", &[("q", "{ } | rate()".into())]).await.0, 200, "others go on");
}

#[tokio::test]
async fn streams_that_nobody_reads_hold_up_nobody() {
    let folder = TempDir::new().unwrap();
    let settings = Settings::new(folder.path())
        .with("query_frontend.max_concurrent_queries", 2)
        .with("query_frontend.max_concurrent_queries_per_tenant", 2)
        .with("query_frontend.api_timeout", "2s")
        .with("distributor.max_attribute_bytes", 0);
    let server = Server::start(&settings).await;
    for number in 0..50 {
        let mut spans = trace_spans(RUN, number, 0..5, TimeRange::lately());
        spans.iter_mut().for_each(|span| span.attributes = vec![attribute("long", "x".repeat(20_000))]);
        server.client.push(request("shop", spans)).await;
    }
    let mut unread = vec![];
    for _ in 0..10 {
        let mut client = StreamingQuerierClient::connect(format!("http://{}", server.address("api"))).await.unwrap();
        let asked = SearchRequest { query: "{ } | select(span.long)".into(), limit: 50, ..SearchRequest::default() };
        if let Ok(stream) = client.search(asked).await {
            unread.push(stream);
        }
    }
    assert!(!unread.is_empty());
    until("others are answered", async || server.client.get("/api/search", &[("q", "{ }".into())]).await.0 == 200).await;
}
