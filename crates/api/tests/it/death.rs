//! Queries that are meant to hurt: each gets an answer or a clear refusal, and the server goes on.

use crate::{
    data::{Data, TRACE_ID_TEXT},
    server::Server,
};
use futures::TryStreamExt;
use proto::tempopb::{QueryInstantRequest, QueryRangeRequest, SearchRequest, streaming_querier_client::StreamingQuerierClient};
use query::Budget;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Short, because a request line has its bounds.
fn encode(text: &str) -> String {
    let byte = |b: u8| match b {
        b' ' => "+".to_owned(),
        b if b.is_ascii_alphanumeric() || b"()!.=,-*_".contains(&b) => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// Asks, and then asks for something ordinary. Returns the first answer.
async fn ask(server: &Server, path: &str) -> (u16, String) {
    let (status, _, body) = server.get(path).await;
    assert_eq!(server.get("/api/echo").await.0, 200, "the server answers no more after {}", &path[..path.len().min(200)]);
    (status, body)
}

/// Over search, metrics and values: everything that takes a query.
async fn check(server: &Server, query: &str, expected: &[u16], says: &str) {
    let q = encode(query);
    let metrics = encode(&format!("{query} | rate()"));
    for path in [
        format!("/api/search?q={q}"),
        format!("/api/metrics/query_range?q={metrics}"),
        format!("/api/metrics/query?q={metrics}"),
        format!("/api/v2/search/tag/span.items/values?q={q}"),
        format!("/api/v2/search/tags?q={q}"),
    ] {
        let (status, body) = ask(server, &path).await;
        let shown: String = query.chars().take(60).collect();
        // Lists are read leniently: what cannot be used is ignored.
        let lenient = path.contains("/tag");
        assert!(expected.contains(&status) || lenient && status == 200, "{shown}: {status} {body}");
        assert!(status == 200 || body.contains(says), "{shown}: {status} {body}");
        assert!(body.len() < 100_000, "{shown}: an answer of {} bytes", body.len());
    }
}

#[tokio::test]
async fn deep_and_long_queries_are_refused() {
    let server = Server::start().await;
    let (n, refused) = (10_000, &[400]);
    check(&server, &format!("{{ {}.a{} }}", "(".repeat(n), ")".repeat(n)), refused, "more than").await;
    check(&server, &format!("{{ {}.a }}", "!".repeat(n)), refused, "more than").await;
    check(&server, &format!("{{ .a{} }}", "||.a".repeat(n / 2)), refused, "more than").await;
    check(&server, &format!("{{ }}{}", " | { }".repeat(5_000)), refused, "more than").await;
    check(&server, &format!("{{ .a in [1{}] }}", ", 1".repeat(n)), refused, "more than").await;
    check(&server, &format!("{{ .a = {:?} }}", "x".repeat(40_000)), &[200, 400], "").await;
}

/// A request line has its bounds before the query has: over gRPC it does not.
#[tokio::test]
async fn a_query_above_the_longest_is_refused() {
    let server = Server::start().await;
    let mut client = StreamingQuerierClient::connect(format!("http://{}", server.address)).await.unwrap();
    let request = SearchRequest { query: format!("{{ }}{}", " ".repeat(140_000)), ..Default::default() };
    let refused = client.search(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");

    let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let line = format!("GET /api/search?q={} HTTP/1.1\r\nHost: a\r\n\r\n", "+".repeat(1_000_000));
    // The server may hang up before it has read it all.
    let _ = stream.write_all(line.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let status = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
    assert!(status.is_empty() || status.contains(" 414 ") || status.contains(" 431 "), "{status}");
    assert_eq!(server.get("/api/echo").await.0, 200);
}

#[tokio::test]
async fn what_the_parser_allows_is_answered() {
    let server = Server::start().await;
    let nested = traceql_nesting();
    for query in [
        format!("{{ {}.a{} }}", "(".repeat(nested), ")".repeat(nested)),
        format!("{{ .a = 0{} }}", "||.a=1".repeat(1_000)),
        format!("{{ .a = 0{} }}", "&&.a!=1".repeat(1_000)),
        format!("{{ .a = 0{} }}", "||.b=`x`".repeat(1_000)),
        format!("{{ }}{}", " | { }".repeat(300)),
        format!("{{ .a in [1{}] }}", ", 2".repeat(3_000)),
        format!("{{ }}{}", " >> { }".repeat(nested)),
        format!("{{ }}{}", " &>> { }".repeat(nested)),
        format!("{{ }} | by(name){}", " | by(kind)".repeat(20)),
    ] {
        check(&server, &query, &[200], "").await;
    }
}

/// A depth that every shape of query may have.
fn traceql_nesting() -> usize {
    30
}

#[tokio::test]
async fn hostile_patterns_are_linear_or_refused() {
    let server = Server::start().await;
    check(&server, r"{ name =~ `(a+)+$` }", &[200], "").await;
    check(&server, r"{ name =~ `(.*.*.*.*.*)*x` }", &[200], "").await;
    check(&server, r"{ name =~ `(x{1000}){1000}` }", &[400], "compiled").await;
    check(&server, r"{ name =~ `(?<=a)b` }", &[400], "look").await;
    check(&server, &format!("{{ name =~ `{}` }}", "a".repeat(5_000)), &[400], "4096").await;
    let many: Vec<String> = (0..11).map(|n| format!("name =~ `{n}`")).collect();
    check(&server, &format!("{{ {} }}", many.join(" || ")), &[400], "more than 10").await;
}

#[tokio::test]
async fn arithmetic_at_its_ends_is_answered() {
    let server = Server::start().await;
    for condition in [
        "span.items / 0 > 1",
        "span.items % 0 = 1",
        "1 / (span.items - 3) > 0",
        "span.items ^ 100000 > 1",
        "10 ^ 1000000000 > span.items",
        "0 ^ 0 = 1",
        "span.items + 9223372036854775807 > 0",
        "-9223372036854775808 - span.items < 0",
        "span.items * 9223372036854775807 > 0",
        "-9223372036854775808 / (span.items - 4) > 0",
        "-9223372036854775808 % (span.items - 4) > 0",
        "-(span.items - 9223372036854775807 - 10) > 0",
        "duration * 9223372036854775807 > 1s",
        "duration + 2562047h > 1s",
        "span.items ^ -1 > 0",
        "(span.items / 0.0) ^ 2 > 0",
    ] {
        let query = format!("{{ {condition} }}");
        check(&server, &query, &[200, 400], "").await;
        let metrics = encode(&format!("{query} | quantile_over_time(duration, 0, 1, .5)"));
        let (status, body) = ask(&server, &format!("/api/metrics/query_range?q={metrics}")).await;
        assert!([200, 400].contains(&status), "{condition}: {status} {body}");
    }
    for pipeline in ["count() / 0 > 1", "sum(span.items) * 9223372036854775807 > 0", "avg(duration) ^ 1000000 > 1", "min(span.items) % 0 = 0"] {
        let query = format!("{{ }} | {pipeline}");
        let (status, body) = ask(&server, &format!("/api/search?q={}", encode(&query))).await;
        assert!([200, 400].contains(&status), "{pipeline}: {status} {body}");
    }
}

#[tokio::test]
async fn giant_parameters_are_refused_or_cut() {
    let server = Server::start().await;
    let rate = encode("{ } | rate()");
    for (path, status) in [
        ("/api/search?q={}&limit=9223372036854775808".to_owned(), 400),
        ("/api/search?q={}&limit=262145".to_owned(), 400),
        ("/api/search?q={}&limit=-1".to_owned(), 400),
        ("/api/search?q={}&limit=262144&spss=0".to_owned(), 200),
        ("/api/search?q={}&spss=1000000000".to_owned(), 400),
        ("/api/search?q={}&start=0&end=9223372036".to_owned(), 200),
        ("/api/search?q={}&start=0&end=99999999999999999999".to_owned(), 400),
        (format!("/api/metrics/query_range?q={rate}&exemplars=1000000000"), 200),
        (format!("/api/metrics/query_range?q={rate}&exemplars=99999999999"), 400),
        (format!("/api/metrics/query_range?q={rate}&step=1ns"), 400),
        (format!("/api/metrics/query_range?q={rate}&start=0&end=9223372036"), 400),
        (format!("/api/metrics/query_range?q={rate}&start=2&end=1"), 400),
        (format!("/api/metrics/query_range?q={}", encode("{ } | rate() | topk(9223372036854775807)")), 200),
        (format!("/api/metrics/query_range?q={}", encode("{ } | compare({ status = error }, 1000000000)")), 200),
        (format!("/api/metrics/query_range?q={}", encode("{ } | quantile_over_time(duration, 1e300)")), 400),
        (format!("/api/v2/traces/{}", "f".repeat(33)), 400),
        (format!("/api/v2/traces/{}", "f".repeat(1_000)), 400),
        ("/api/v2/search/tag/span.items/values?limit=4294967295".to_owned(), 200),
        ("/api/v2/search/tags?limit=4294967296".to_owned(), 400),
    ] {
        let (answered, body) = ask(&server, &path.replace("{}", "%7B%7D")).await;
        assert_eq!(answered, status, "{}: {body}", &path[..path.len().min(200)]);
    }
}

#[tokio::test]
async fn a_query_with_many_groups_is_refused_before_it_takes_the_memory() {
    let server = Server::start().await;
    // Two spans in ten thousand intervals, by as many names as a text can hold: the cells are few, the labels many.
    let names: Vec<String> = (0..500).map(|n| format!("span.a{n}")).collect();
    let query = encode(&format!("{{ }} | rate() by ({})", names.join(", ")));
    let (status, body) = ask(&server, &format!("/api/metrics/query_range?q={query}")).await;
    assert!([200, 400].contains(&status), "{status} {body}");
}

/// Groups, cells and series count: where they take more than there is, the query is refused, and says which setting it is.
#[tokio::test]
async fn metrics_queries_keep_to_their_memory() {
    let many = [
        "{ } | rate() by (span.user)",
        "{ } | quantile_over_time(duration, .5, .9) by (trace:id, span.user)",
        "{ } | compare({ status = error })",
        "{ } | count_over_time() by (span.user) | topk(3)",
        "({ } | rate() by (span.user)) + ({ } | rate() by (span.user))",
    ];
    let few = ["{ } | rate()", "{ } | quantile_over_time(duration, .5, .9) by (name)", "{ span.user = `user 7` } | rate() by (span.user)"];
    for (megabytes, queries, status) in [(1, &many[..], 422), (1, &few[..], 200), (256, &many[..], 200)] {
        let data = Data::open().await;
        data.store_users(8_000).await;
        let memory_bytes_max = megabytes << 20;
        let server = Server::over(data, false, |config| config.budget = Budget { read_bytes_max: u64::MAX, memory_bytes_max }).await;
        let mut client = StreamingQuerierClient::connect(format!("http://{}", server.address)).await.unwrap();
        for query in queries {
            for path in ["/api/metrics/query_range", "/api/metrics/query"] {
                let (answered, body) = ask(&server, &format!("{path}?step=30m&q={}", encode(query))).await;
                assert_eq!(answered, status, "{path}: {query}: {}", &body[..body.len().min(300)]);
                assert!(status == 200 || body.contains("max_memory_per_query"), "{path}: {query}: {body}");
            }
            let step = 1_800_000_000_000;
            let range = client.metrics_query_range(QueryRangeRequest { query: (*query).to_owned(), step, ..Default::default() }).await;
            let range = match range {
                Ok(answer) => answer.into_inner().try_collect::<Vec<_>>().await.map(|messages| messages.len()),
                Err(refused) => Err(refused),
            };
            let instant = client.metrics_query_instant(QueryInstantRequest { query: (*query).to_owned(), ..Default::default() }).await;
            for outcome in [range.map(|_| ()), instant.map(|_| ())] {
                match outcome {
                    Ok(()) => assert_eq!(status, 200, "{query}"),
                    Err(refused) => assert_eq!((refused.code(), status), (tonic::Code::ResourceExhausted, 422), "{query}: {refused}"),
                }
            }
        }
    }
}

#[tokio::test]
async fn over_budget_is_a_clear_refusal_that_is_not_tried_again() {
    let data = Data::open().await;
    data.store(0xfeed).await;
    let server = Server::over(data, false, |config| config.budget = Budget { read_bytes_max: 1, memory_bytes_max: u64::MAX }).await;
    for path in ["/api/search?q={}", "/api/metrics/query_range?q={}|rate()", "/api/traces/feed", "/api/v2/traces/feed"] {
        let (status, body) = ask(&server, &path.replace('{', "%7B").replace('}', "%7D").replace('|', "%7C")).await;
        assert_eq!(status, 422, "{path}: {body}");
        assert!(body.contains("max_bytes_per_query"), "{path}: {body}");
    }
    let mut client = StreamingQuerierClient::connect(format!("http://{}", server.address)).await.unwrap();
    let request = SearchRequest { query: "{ }".to_owned(), ..Default::default() };
    let refused = client.search(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);

    let data = Data::open().await;
    let server = Server::over(data, false, |config| config.budget = Budget { read_bytes_max: u64::MAX, memory_bytes_max: 100 }).await;
    for path in ["/api/search?q=%7B%7D".to_owned(), format!("/api/traces/{TRACE_ID_TEXT}")] {
        let (status, body) = ask(&server, &path).await;
        assert_eq!(status, 422, "{path}: {body}");
        assert!(body.contains("max_memory_per_query"), "{path}: {body}");
    }
}

