//! The streaming API and the health service.

use crate::server::Server;
use api::ReadyState;
use proto::tempopb::{
    QueryInstantRequest, QueryRangeRequest, SearchRequest, SearchTagValuesRequest, SearchTagsRequest,
    streaming_querier_client::StreamingQuerierClient,
};
use tonic::{Code, Request, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

async fn channel(server: &Server) -> Channel {
    Channel::from_shared(format!("http://{}", server.address)).unwrap().connect().await.unwrap()
}

#[tokio::test]
async fn wrong_requests_end_the_stream_with_invalid_argument() {
    let server = Server::start().await;
    let mut client = StreamingQuerierClient::new(channel(&server).await);
    let query = || "{}".to_owned();
    let limit = 1_000_000;
    let refused = [
        client.search(SearchRequest { query: query(), limit, ..Default::default() }).await.err(),
        client.search(SearchRequest { query: query(), start: 5, ..Default::default() }).await.err(),
        client.search(SearchRequest { query: query(), start: 5, end: 4, ..Default::default() }).await.err(),
        client.search_tags(SearchTagsRequest { scope: "bogus".to_owned(), ..Default::default() }).await.err(),
        client.search_tags_v2(SearchTagsRequest { end: 5, ..Default::default() }).await.err(),
        client.search_tag_values(SearchTagValuesRequest::default()).await.err(),
        client.search_tag_values_v2(SearchTagValuesRequest { end: 5, ..Default::default() }).await.err(),
        client.metrics_query_range(QueryRangeRequest { query: query(), start: u64::MAX, ..Default::default() }).await.err(),
        client.metrics_query_range(QueryRangeRequest { query: query(), step: 1, ..Default::default() }).await.err(),
        client.metrics_query_instant(QueryInstantRequest::default()).await.err(),
    ];
    for (i, refused) in refused.into_iter().enumerate() {
        let refused = refused.unwrap_or_else(|| panic!("request {i} was answered"));
        assert_eq!(refused.code(), Code::InvalidArgument, "{i}: {refused}");
        assert!(!refused.message().is_empty(), "{i}");
    }
    let text = server.metrics.text();
    let line = r#"sostenuto_request_duration_seconds_count{method="POST",route="/tempopb.StreamingQuerier/Search",status_code="3"} 3"#;
    assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
}

#[tokio::test]
async fn with_multitenancy_a_call_names_its_tenant() {
    let server = Server::with(true, |_| {}).await;
    let mut client = StreamingQuerierClient::new(channel(&server).await);
    let request = || SearchRequest { query: "{}".to_owned(), limit: 1_000_000, ..Default::default() };
    assert_eq!(client.search(request()).await.unwrap_err().code(), Code::Unauthenticated);
    let mut named = Request::new(request());
    named.metadata_mut().insert("x-scope-orgid", "a|b".parse().unwrap());
    assert_eq!(client.search(named).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn health_follows_readiness() {
    let server = Server::start().await;
    let mut client = HealthClient::new(channel(&server).await);
    for service in ["", "tempopb.StreamingQuerier"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        // The stream tells each change, so no change has to be guessed at.
        let mut states = client.watch(request).await.unwrap().into_inner();
        for (state, status) in [
            (ReadyState::Ready, ServingStatus::Serving),
            (ReadyState::Stopping, ServingStatus::NotServing),
            (ReadyState::Ready, ServingStatus::Serving),
        ] {
            server.readiness.set(state);
            while states.message().await.unwrap().unwrap().status() != status {}
        }
    }
}

#[tokio::test]
async fn a_method_that_does_not_exist_is_unimplemented() {
    let server = Server::start().await;
    let channel = channel(&server).await;
    for path in ["/tempopb.StreamingQuerier/Nothing", "/tempopb.Nothing/Search"] {
        let mut client = tonic::client::Grpc::new(channel.clone());
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<SearchRequest, SearchRequest>::default();
        let refused = client.unary(Request::new(SearchRequest::default()), path.parse().unwrap(), codec).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented, "{path}");
    }
}
