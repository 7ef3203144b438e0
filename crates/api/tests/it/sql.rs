//! `POST /api/sql`: forms, refusals, pages of search beside it.

use crate::{
    data::{Data, TRACE_ID_TEXT},
    server::Server,
};
use query::Budget;

async fn post(server: &Server, sql: &str, accept: &str) -> (u16, reqwest::header::HeaderMap, Vec<u8>) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.post(format!("http://{}/api/sql", server.address)).header("accept", accept).body(sql.to_owned());
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    (status, headers, response.bytes().await.unwrap().to_vec())
}

#[tokio::test]
async fn rows_come_in_the_form_that_is_accepted() {
    let server = Server::start().await;
    let sql = "SELECT trace_id, name, duration_ms FROM spans ORDER BY name";
    let rows = format!(
        "[{{\"trace_id\":\"{TRACE_ID_TEXT}\",\"name\":\"GET /cart\",\"duration_ms\":20.0}},\n\
         {{\"trace_id\":\"{TRACE_ID_TEXT}\",\"name\":\"db.get\",\"duration_ms\":5.0}}]\n"
    );
    let table = format!("trace_id,name,duration_ms\n{TRACE_ID_TEXT},GET /cart,20.0\n{TRACE_ID_TEXT},db.get,5.0\n");
    for (accept, content_type, expected) in
        [("*/*", "application/json", &rows), ("application/json", "application/json", &rows), ("text/csv", "text/csv", &table)]
    {
        let (status, headers, body) = post(&server, sql, accept).await;
        assert_eq!((status, &headers["content-type"]), (200, &content_type.parse().unwrap()), "{accept}");
        assert_eq!(&String::from_utf8(body).unwrap(), expected, "{accept}");
    }
    let (status, headers, body) = post(&server, sql, "application/vnd.apache.arrow.stream").await;
    assert_eq!((status, &headers["content-type"]), (200, &"application/vnd.apache.arrow.stream".parse().unwrap()));
    // A stream begins with a continuation mark and ends with an empty message.
    assert!(body.starts_with(&[0xff; 4]) && body.ends_with(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]));
}

#[tokio::test]
async fn wrong_and_expensive_queries_are_refused_and_the_server_goes_on() {
    let server = Server::with(false, |config| {
        config.query.sql_rows_max = 1;
        config.budget = Budget { read_bytes_max: u64::MAX, memory_bytes_max: 10_000_000 };
    })
    .await;
    for (sql, expected) in [
        ("SELECT nothing FROM spans", 400),
        ("DROP TABLE spans", 400),
        ("COPY spans TO '/tmp/x'", 400),
        ("SELECT name FROM spans", 422),
        ("SELECT count(*) FROM spans", 200),
        ("SELECT array_agg(a.name) FROM spans a, spans b, spans c, spans d, spans e, spans f, spans g, spans h, spans i, spans j, spans k, spans l, spans m, spans n, spans o, spans p, spans q, spans r, spans s, spans t", 422),
    ] {
        let (status, _, body) = post(&server, sql, "text/csv").await;
        assert_eq!(status, expected, "{sql}: {}", String::from_utf8_lossy(&body));
        assert_eq!(server.get("/api/echo").await.0, 200, "{sql}");
    }
    assert_eq!(server.get("/api/sql").await.0, 405);
}

#[tokio::test]
async fn a_query_without_end_is_stopped_in_time() {
    let server = Server::with(false, |config| config.query_timeout = std::time::Duration::from_millis(200)).await;
    let many: Vec<String> = (0..40).map(|n| format!("spans s{n}")).collect();
    let (status, _, body) = post(&server, &format!("SELECT count(*) FROM {}", many.join(", ")), "text/csv").await;
    assert_eq!(status, 503, "{}", String::from_utf8_lossy(&body));
    assert_eq!(server.get("/api/echo").await.0, 200);
}

#[tokio::test]
async fn a_missing_block_is_told_in_a_header() {
    let data = Data::open().await;
    data.store(0xfeed).await;
    data.damage();
    let server = Server::over(data, false, |_| {}).await;
    let (status, headers, body) = post(&server, "SELECT count(*) AS n FROM spans", "text/csv").await;
    assert_eq!((status, String::from_utf8(body).unwrap().as_str()), (200, "n\n2\n"));
    assert!(headers.contains_key("sostenuto-partial"));
}

#[tokio::test]
async fn search_results_come_in_pages() {
    let data = Data::open().await;
    data.store(0xfeed).await;
    let server = Server::over(data, false, |_| {}).await;
    let ids = |body: &str| -> Vec<String> {
        let answer: serde_json::Value = serde_json::from_str(body).unwrap();
        answer["traces"].as_array().unwrap().iter().map(|t| t["traceID"].as_str().unwrap().to_owned()).collect()
    };
    let (_, headers, whole) = server.get("/api/search?q=%7B%7D").await;
    assert!(!headers.contains_key("sostenuto-next"));
    let mut found = vec![];
    let mut path = "/api/search?q=%7B%7D&limit=1".to_owned();
    loop {
        let (status, headers, body) = server.get(&path).await;
        assert_eq!(status, 200, "{body}");
        found.extend(ids(&body));
        let Some(next) = headers.get("sostenuto-next") else { break };
        path = format!("/api/search?q=%7B%7D&limit=1&after={}", next.to_str().unwrap());
    }
    assert_eq!((found.len(), found), (2, ids(&whole)));
    assert_eq!(server.get("/api/search?q=%7B%7D&after=nonsense").await.0, 400);
}
