//! What an answer says when a block cannot be read, in every form.

use crate::{
    data::{Data, TRACE_ID_TEXT},
    server::Server,
};
use proto::tempopb::{SearchRequest, streaming_querier_client::StreamingQuerierClient};
use serde_json::{Value, json};

const STORED: u128 = 0xfeed;
const STORED_TEXT: &str = "0000000000000000000000000000feed";

/// A server with one live trace, and one trace in a block that may be damaged.
async fn server(damaged: bool) -> Server {
    let data = Data::open().await;
    data.store(STORED).await;
    if damaged {
        data.damage();
    }
    // The engine that stored the block has not read it.
    Server::over(data, false, |_| {}).await
}

#[tokio::test]
async fn whole_answers_say_nothing() {
    let server = server(false).await;
    for path in ["/api/search?q=%7B%7D", "/api/search/tags", "/api/metrics/query_range?q=%7B%7D%7Crate()"] {
        let (status, headers, body) = server.get(path).await;
        assert_eq!((status, headers.get("sostenuto-partial")), (200, None), "{path}: {body}");
        assert!(!body.contains("PARTIAL"), "{path}: {body}");
    }
    let found: Value = serde_json::from_str(&server.get("/api/search?q=%7B%7D").await.2).unwrap();
    assert_eq!(found["traces"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn every_answer_without_a_block_says_so() {
    let server = server(true).await;
    for path in [
        "/api/search?q=%7B%7D",
        "/api/search?q=",
        "/api/search/tags?q=%7Bname%3D%22x%22%7D",
        "/api/v2/search/tags?q=%7Bname%3D%22x%22%7D",
        "/api/search/tag/service.name/values",
        "/api/v2/search/tag/span.items/values",
        "/api/metrics/query_range?q=%7B%7D%7Crate()",
        "/api/metrics/query?q=%7B%7D%7Crate()",
        &format!("/api/v2/traces/{STORED_TEXT}"),
    ] {
        let (status, headers, body) = server.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        let partial = headers.get("sostenuto-partial").unwrap_or_else(|| panic!("{path}: {body}")).to_str().unwrap();
        assert!(partial.contains("1 block cannot be read") && partial.contains("CRC32C"), "{path}: {partial}");
        if path.contains("/metrics/") || path.contains("/traces/") {
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!((&body["status"], &body["message"]), (&json!("PARTIAL"), &json!(partial)), "{path}");
        }
    }
    // The answer has what can be read.
    let found: Value = serde_json::from_str(&server.get("/api/search?q=%7B%7D").await.2).unwrap();
    assert_eq!(found["traces"][0]["traceID"], TRACE_ID_TEXT.trim_start_matches('0'));
    // A search answer has no field to say it: its keys stay those that Grafana knows.
    let keys: Vec<&String> = found.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["metrics", "traces"]);

    // The old form of a trace cannot say that the trace may be elsewhere.
    let (status, _, body) = server.get(&format!("/api/traces/{STORED_TEXT}")).await;
    assert_eq!(status, 500, "{body}");
    assert!(body.contains("cannot be read"), "{body}");
    let (status, headers, _) = server.get(&format!("/api/traces/{TRACE_ID_TEXT}")).await;
    assert_eq!((status, headers.get("sostenuto-partial")), (200, None), "the block does not have this trace");
}

#[tokio::test]
async fn a_stream_says_it_in_its_metadata() {
    let server = server(true).await;
    let mut client = StreamingQuerierClient::connect(format!("http://{}", server.address)).await.unwrap();
    let answer = client.search(SearchRequest { query: "{}".to_owned(), ..Default::default() }).await.unwrap();
    let partial = answer.metadata().get("sostenuto-partial").expect("marked").to_str().unwrap().to_owned();
    assert!(partial.contains("1 block cannot be read"), "{partial}");
    assert_eq!(answer.into_inner().message().await.unwrap().unwrap().traces.len(), 1);
}

#[tokio::test]
async fn an_answer_explains_itself_when_asked() {
    let server = server(false).await;
    let explained = async |path: &str| -> Value {
        let (status, _, body) = server.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str::<Value>(&body).unwrap()["explain"].clone()
    };
    assert_eq!(explained("/api/search?q=%7B%7D").await, Value::Null);
    assert_eq!(explained("/api/search?q=%7B%7D&explain=false").await, Value::Null);

    let told = explained("/api/search?q=%7Bname%3D%22db.get%22%7D&explain=true").await;
    assert_eq!(told["plan"][0], "query: { name = \"db.get\" }", "{told}");
    assert_eq!((&told["blocks"], &told["liveBatches"], &told["rowGroups"]), (&json!(1), &json!(1), &json!(2)), "{told}");
    // Both batches have two rows, one of which matches; then both traces are fetched to be shown.
    assert_eq!((&told["rowsRead"], &told["unitsRead"]), (&json!(4), &json!(4)), "{told}");
    assert!(told["bytesRead"].as_u64().unwrap() > 0 && !told["stages"].as_array().unwrap().is_empty(), "{told}");

    // What statistics leave out is not read.
    let told = explained("/api/search?q=%7Bname%3D%22zzz%22%7D&explain=true").await;
    assert_eq!((&told["rowGroupsPrunedByStatistics"], &told["unitsRead"], &told["bytesRead"]), (&json!(1), &json!(1), &json!(0)), "{told}");
    // Neither is a block outside of the range.
    let told = explained("/api/search?q=%7B%7D&start=100&end=200&explain=true").await;
    assert_eq!((&told["pruned"]["outside the time range"], &told["unitsRead"]), (&json!(2), &json!(0)), "{told}");

    let told = explained("/api/metrics/query_range?q=%7B%7D%7Crate()by(name)&explain=1").await;
    assert_eq!((&told["plan"][0], &told["rowsRead"]), (&json!("query: { } | rate() by(name)"), &json!(4)), "{told}");
    let told = explained(&format!("/api/v2/traces/{STORED_TEXT}?explain=true")).await;
    assert_eq!(told["pruned"]["trace filter"], 1, "{told}");
}

async fn damaged_server() -> Server {
    server(true).await
}

#[tokio::test]
async fn counts_of_what_was_inspected_are_true() {
    let server = server(false).await;
    let metrics = async |path: &str| -> Value { serde_json::from_str::<Value>(&server.get(path).await.2).unwrap()["metrics"].clone() };
    let counted = metrics("/api/search?q=%7B%7D").await;
    let expected = json!(["4", 1, 2]);
    assert_eq!(json!([counted["inspectedSpans"], counted["totalBlocks"], counted["inspectedTraces"]]), expected, "{counted}");
    assert_eq!(counted["completedJobs"], counted["totalJobs"], "{counted}");
    let outside = metrics("/api/search?q=%7B%7D&start=100&end=200").await;
    assert_eq!((&outside["totalBlocks"], &outside["inspectedBytes"]), (&Value::Null, &Value::Null), "{outside}");

    let damaged = damaged_server().await;
    let counted = serde_json::from_str::<Value>(&damaged.get("/api/search?q=%7B%7D").await.2).unwrap()["metrics"].clone();
    assert!(counted["completedJobs"].as_u64() < counted["totalJobs"].as_u64(), "{counted}");
}
