//! What comes back when something is found, in each form.

use crate::{
    data::{TRACE_ID, TRACE_ID_TEXT},
    server::Server,
};
use prost::Message;
use proto::{
    otlp::trace::v1::TracesData,
    tempopb::{
        SearchRequest, SearchResponse, SearchTagValuesRequest, SearchTagsRequest, TraceByIdResponse,
        streaming_querier_client::StreamingQuerierClient,
    },
};
use serde_json::{Value, json};

const ABSENT: &str = "00000000000000000000000000000001";
const PROTOBUF: [(&str, &str); 1] = [("accept", "application/protobuf")];
const LLM: [(&str, &str); 1] = [("accept", "application/vnd.grafana.llm")];

/// The body of a 200 answer of the given content type.
async fn body(server: &Server, path: &str, headers: &[(&str, &str)], content_type: &str) -> Vec<u8> {
    let (status, answered, body) = server.fetch(path, headers).await;
    assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&body));
    assert_eq!(answered["content-type"], content_type, "{path}");
    body
}

async fn json(server: &Server, path: &str) -> Value {
    serde_json::from_slice(&body(server, path, &[], "application/json").await).unwrap()
}

fn span_count(trace: &TracesData) -> usize {
    trace.resource_spans.iter().flat_map(|r| &r.scope_spans).map(|s| s.spans.len()).sum()
}

#[tokio::test]
async fn a_trace_comes_in_both_versions_and_all_forms() {
    let server = Server::start().await;
    let v1 = json(&server, &format!("/api/traces/{TRACE_ID:X}")).await;
    assert_eq!(v1["batches"][0]["scopeSpans"][0]["spans"].as_array().unwrap().len(), 2);
    let v2 = json(&server, &format!("/api/v2/traces/{TRACE_ID_TEXT}")).await;
    assert_eq!(v2["trace"]["resourceSpans"], v1["batches"]);

    let path = format!("/api/traces/{TRACE_ID_TEXT}");
    let bare = TracesData::decode(body(&server, &path, &PROTOBUF, "application/protobuf").await.as_slice()).unwrap();
    assert_eq!(span_count(&bare), 2);
    let path = format!("/api/v2/traces/{TRACE_ID_TEXT}");
    let whole = TraceByIdResponse::decode(body(&server, &path, &PROTOBUF, "application/protobuf").await.as_slice()).unwrap();
    assert_eq!(whole.trace.as_ref(), Some(&bare));
    assert!(whole.metrics.is_some());
    // Grafana looks into these without asking whether they are there.
    for batch in &bare.resource_spans {
        assert!(batch.resource.is_some());
        assert!(batch.scope_spans.iter().all(|s| s.scope.is_some() && s.spans.iter().all(|span| span.status.is_some())));
    }

    let llm: Value = serde_json::from_slice(&body(&server, &path, &LLM, "application/vnd.grafana.llm+json").await).unwrap();
    assert_eq!((&llm["trace"]["traceId"], &llm["trace"]["services"][0]["serviceName"]), (&json!(TRACE_ID_TEXT), &json!("shop")));
}

#[tokio::test]
async fn an_absent_trace_is_404_in_v1_and_empty_in_v2() {
    let server = Server::start().await;
    let (status, _, text) = server.get(&format!("/api/traces/{ABSENT}")).await;
    assert_eq!((status, text.as_str()), (404, ""));
    let path = format!("/api/v2/traces/{ABSENT}");
    assert_eq!(json(&server, &path).await["trace"], json!({}));
    let empty = TraceByIdResponse::decode(body(&server, &path, &PROTOBUF, "application/protobuf").await.as_slice()).unwrap();
    assert_eq!(empty.trace, Some(TracesData::default()));
    // A time range that the trace does not touch hides it.
    let (status, ..) = server.get(&format!("/api/traces/{TRACE_ID_TEXT}?start=100&end=200")).await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn a_search_answers_json_and_protobuf() {
    let server = Server::start().await;
    for query in ["q=%7B%20status%20%3D%20error%20%7D", "tags=service.name%3Dshop", "service.name=shop", "q="] {
        let found = json(&server, &format!("/api/search?{query}")).await;
        let trace = &found["traces"][0];
        assert_eq!(trace["traceID"], TRACE_ID_TEXT.trim_start_matches('0'), "{query}");
        assert_eq!((&trace["rootServiceName"], &trace["durationMs"]), (&json!("shop"), &json!(20)), "{query}");
        assert!(found["metrics"].is_object(), "{query}");
    }
    let none = json(&server, "/api/search?q=%7B%7D&start=100&end=200").await;
    assert_eq!(none["traces"], json!([]));
    let path = "/api/search?q=%7B%7D&spss=1";
    let found = SearchResponse::decode(body(&server, path, &PROTOBUF, "application/protobuf").await.as_slice()).unwrap();
    let set = &found.traces[0].span_sets[0];
    assert_eq!((set.spans.len(), set.matched), (1, 2));
    let (status, _, text) = server.get("/api/search?q=%7B").await;
    assert_eq!(status, 400, "{text}");
}

#[tokio::test]
async fn names_and_values_of_attributes_are_listed() {
    let server = Server::start().await;
    let v1 = json(&server, "/api/search/tags").await;
    assert_eq!(v1["tagNames"], json!(["items", "service.name", "with space/slash"]));
    let v2 = json(&server, "/api/v2/search/tags?scope=resource").await;
    assert_eq!(v2["scopes"], json!([{ "name": "resource", "tags": ["service.name"] }]));
    assert_eq!(json(&server, "/api/search/tags?scope=trace").await["tagNames"], json!([]));
    let yes = json!([{ "type": "string", "value": "yes" }]);
    for name in ["span.%22with%20space%2Fslash%22", "span.%22with%20space/slash%22", "span.%2522with%2520space%252Fslash%2522"] {
        let values = json(&server, &format!("/api/v2/search/tag/{name}/values")).await;
        assert_eq!(values["tagValues"], yes, "{name}");
    }
    assert_eq!(json(&server, "/api/search/tag/service.name/values").await["tagValues"], json!(["shop"]));
    let path = "/api/v2/search/tag/span.items/values";
    let llm: Value = serde_json::from_slice(&body(&server, path, &LLM, "application/vnd.grafana.llm+json").await).unwrap();
    assert_eq!(llm["tagValues"], json!({ "int": ["3"] }));
    assert_eq!(server.get("/api/v2/search/tag/not%20a%20tag/values").await.0, 400);
}

#[tokio::test]
async fn streams_carry_the_same_answers() {
    let server = Server::start().await;
    let mut client = StreamingQuerierClient::connect(format!("http://{}", server.address)).await.unwrap();
    let query = || "{}".to_owned();

    // What Grafana sends to see whether streaming works.
    let request = SearchRequest { query: query(), limit: 1, ..Default::default() };
    let mut stream = client.search(request).await.unwrap().into_inner();
    let message = stream.message().await.unwrap().unwrap();
    assert_eq!((message.traces.len(), message.metrics.is_some()), (1, true));
    assert!(stream.message().await.unwrap().is_none());

    let request = SearchTagsRequest { scope: "resource".to_owned(), ..Default::default() };
    let v1 = client.search_tags(request.clone()).await.unwrap().into_inner().message().await.unwrap().unwrap();
    assert_eq!(v1.tag_names, ["service.name"]);
    let v2 = client.search_tags_v2(request).await.unwrap().into_inner().message().await.unwrap().unwrap();
    assert_eq!(v2.scopes[0].tags, ["service.name"]);

    let request = |name: &str| SearchTagValuesRequest { tag_name: name.to_owned(), ..Default::default() };
    let v1 = client.search_tag_values(request("service.name")).await.unwrap().into_inner().message().await.unwrap().unwrap();
    assert_eq!(v1.tag_values, ["shop"]);
    let v2 = client.search_tag_values_v2(request("span.items")).await.unwrap().into_inner().message().await.unwrap().unwrap();
    assert_eq!((v2.tag_values[0].r#type.as_str(), v2.tag_values[0].value.as_str()), ("int", "3"));
}

#[tokio::test]
async fn a_tenant_sees_only_its_own() {
    let server = Server::with(true, |_| {}).await;
    let path = format!("/api/traces/{TRACE_ID_TEXT}");
    for (tenants, status) in [("other", 404), ("single-tenant", 200), ("other|single-tenant", 200)] {
        assert_eq!(server.get_with(&path, &[("X-Scope-OrgID", tenants)]).await.0, status, "{tenants}");
    }
}
