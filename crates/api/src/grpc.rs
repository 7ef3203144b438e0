//! `tempopb.StreamingQuerier` and gRPC's health service.
//!
//! Requests pass the same checks as over HTTP, and 0 means absent as protobuf has it. The answer is the whole
//! result, cut into messages of about a mebibyte; each repeats the job metrics, and what was sent is never taken
//! back. A search that takes its time sends what is certain, a metrics query what it has counted so far ([`running`]).

use crate::{
    Failure, ReadyState,
    account::Account,
    foreign::jaeger_rpc,
    ask::{self, AskedMetrics, AskedRange, AskedSearch, AskedTagNames, AskedTagValues},
    packets::{PACKET_BYTES_MAX, cut},
    running,
    shape,
    state::{Shared, now},
};
use axum::{
    Router,
    extract::State,
    middleware::{self, Next},
};
use futures::stream;
use prost::Message;
use proto::tempopb::{
    QueryInstantRequest, QueryInstantResponse, QueryRangeRequest, QueryRangeResponse, SearchRequest, SearchResponse,
    SearchTagValuesRequest, SearchTagValuesResponse, SearchTagValuesV2Response, SearchTagsRequest, SearchTagsResponse,
    SearchTagsV2Response, SearchTagsV2Scope,
    streaming_querier_server::{StreamingQuerier, StreamingQuerierServer},
};
use std::{sync::Arc, time::Duration};
use tonic::{Extensions, Request, Response, Status, codec::CompressionEncoding, metadata::MetadataMap, server::NamedService};
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

pub(crate) type Health = HealthServer<HealthService>;

/// From a call's head to the end of its one request message, beside the time that a query may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) const PATH_START: &str = "/tempopb.";

/// The paths of all methods.
pub(crate) const METHODS: [&str; 7] = [
    "/tempopb.StreamingQuerier/Search",
    "/tempopb.StreamingQuerier/SearchTags",
    "/tempopb.StreamingQuerier/SearchTagsV2",
    "/tempopb.StreamingQuerier/SearchTagValues",
    "/tempopb.StreamingQuerier/SearchTagValuesV2",
    "/tempopb.StreamingQuerier/MetricsQueryRange",
    "/tempopb.StreamingQuerier/MetricsQueryInstant",
];

const SERVICE: &str = <StreamingQuerierServer<Querier> as NamedService>::NAME;

pub(crate) fn router(shared: &Arc<Shared>, health: Health) -> Router {
    let bytes_max = shared.state.config.request_bytes_max;
    let querier = StreamingQuerierServer::new(Querier(shared.clone()))
        .max_decoding_message_size(bytes_max)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    in_time(shared, Router::new().route_service(&format!("/{SERVICE}/{{*method}}"), querier))
        .merge(health_router(shared, health))
        .merge(jaeger_router(shared))
}

/// Jaeger's query service alone.
pub(crate) fn jaeger_router(shared: &Arc<Shared>) -> Router {
    in_time(shared, jaeger_rpc::routes().with_state(shared.clone()))
}

/// gRPC's health service alone.
pub(crate) fn health_router(shared: &Arc<Shared>, health: Health) -> Router {
    in_time(shared, Router::new().route_service(&format!("/{}/{{*method}}", <Health as NamedService>::NAME), health))
}

fn in_time(shared: &Shared, router: Router) -> Router {
    let patience = shared.state.config.query_timeout + REQUEST_TIMEOUT;
    router.layer(middleware::from_fn_with_state(patience, hurry))
}

/// Ends a call whose request does not come, and so never reaches the gate.
async fn hurry(State(patience): State<Duration>, request: axum::extract::Request, next: Next) -> axum::response::Response {
    match tokio::time::timeout(patience, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Status::deadline_exceeded("the request message did not come in time").into_http(),
    }
}

/// Tells the health service, for the server as a whole and for each service of queries.
pub(crate) async fn report(reporter: &HealthReporter, state: ReadyState) {
    let status = if state == ReadyState::Ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    reporter.set_service_status("", status).await;
    reporter.set_service_status(SERVICE, status).await;
    reporter.set_service_status(jaeger_rpc::SERVICE, status).await;
}

struct Querier(Arc<Shared>);

type Stream<T> = stream::Iter<std::vec::IntoIter<Result<T, Status>>>;
type Answer<T> = Result<Response<Stream<T>>, Status>;

fn answer<T>(account: &Account, messages: Vec<T>) -> Answer<T> {
    let messages = stream::iter(messages.into_iter().map(Ok).collect::<Vec<_>>());
    Ok(Response::from_parts(MetadataMap::from_headers(account.headers()), messages, Extensions::default()))
}

#[tonic::async_trait]
impl StreamingQuerier for Querier {
    type SearchStream = running::Messages<SearchResponse>;
    type SearchTagsStream = Stream<SearchTagsResponse>;
    type SearchTagsV2Stream = Stream<SearchTagsV2Response>;
    type SearchTagValuesStream = Stream<SearchTagValuesResponse>;
    type SearchTagValuesV2Stream = Stream<SearchTagValuesV2Response>;
    type MetricsQueryRangeStream = running::Messages<QueryRangeResponse>;
    type MetricsQueryInstantStream = Stream<QueryInstantResponse>;

    async fn search(&self, request: Request<SearchRequest>) -> Result<Response<running::Messages<SearchResponse>>, Status> {
        let tenants = self.0.tenants(request.metadata().as_ref())?;
        let account = self.0.account(false, &tenants);
        let r = request.into_inner();
        let asked = AskedSearch {
            query: some_text(r.query),
            tags: r.tags.into_iter().collect(),
            duration_min: Some(i64::from(r.min_duration_ms) * 1_000_000),
            duration_max: Some(i64::from(r.max_duration_ms) * 1_000_000),
            range: seconds(r.start, r.end),
            limit: some(r.limit),
            // Grafana always says it, and 0 is all.
            spans_per_spanset: Some(r.spans_per_span_set),
        };
        let request = ask::search(asked, self.0.limits(), now())?;
        running::search(Arc::clone(&self.0), account, tenants, request).await
    }

    async fn search_tags(&self, request: Request<SearchTagsRequest>) -> Answer<SearchTagsResponse> {
        let tenants = self.0.tenants(request.metadata().as_ref())?;
        let account = self.0.account(false, &tenants);
        let request = self.tag_names(request.into_inner())?;
        let SearchTagsResponse { tag_names, metrics } = shape::tags_v1(&self.0, &account, &tenants, request).await?;
        let packets = cut(tag_names, PACKET_BYTES_MAX, |name| text_bytes(name));
        answer(&account, packets.into_iter().map(|tag_names| SearchTagsResponse { tag_names, metrics }).collect())
    }

    async fn search_tags_v2(&self, request: Request<SearchTagsRequest>) -> Answer<SearchTagsV2Response> {
        let tenants = self.0.tenants(request.metadata().as_ref())?;
        let account = self.0.account(false, &tenants);
        let request = self.tag_names(request.into_inner())?;
        let SearchTagsV2Response { scopes, metrics } = shape::tags_v2(&self.0, &account, &tenants, request).await?;
        let parts: Vec<SearchTagsV2Scope> = scopes
            .into_iter()
            .flat_map(|SearchTagsV2Scope { name, tags }| {
                let packets = cut(tags, PACKET_BYTES_MAX, |tag| text_bytes(tag));
                packets.into_iter().map(move |tags| SearchTagsV2Scope { name: name.clone(), tags })
            })
            .collect();
        let packets = cut(parts, PACKET_BYTES_MAX, Message::encoded_len);
        answer(&account, packets.into_iter().map(|scopes| SearchTagsV2Response { scopes, metrics }).collect())
    }

    async fn search_tag_values(&self, request: Request<SearchTagValuesRequest>) -> Answer<SearchTagValuesResponse> {
        let tenants = self.0.tenants(request.metadata().as_ref())?;
        let account = self.0.account(false, &tenants);
        let request = self.tag_values(request.into_inner())?;
        let response = self.0.gate.run(&tenants, account.engine().tag_values_v1(&tenants, request)).await?;
        let metrics = Some(response.metrics.unwrap_or_default());
        let packets = cut(response.tag_values, PACKET_BYTES_MAX, |value| text_bytes(value));
        answer(&account, packets.into_iter().map(|tag_values| SearchTagValuesResponse { tag_values, metrics }).collect())
    }

    async fn search_tag_values_v2(&self, request: Request<SearchTagValuesRequest>) -> Answer<SearchTagValuesV2Response> {
        let tenants = self.0.tenants(request.metadata().as_ref())?;
        let account = self.0.account(false, &tenants);
        let request = self.tag_values(request.into_inner())?;
        let response = self.0.gate.run(&tenants, account.engine().tag_values(&tenants, request)).await?;
        let metrics = Some(response.metrics.unwrap_or_default());
        let packets = cut(response.tag_values, PACKET_BYTES_MAX, Message::encoded_len);
        answer(&account, packets.into_iter().map(|tag_values| SearchTagValuesV2Response { tag_values, metrics }).collect())
    }

    async fn metrics_query_range(&self, request: Request<QueryRangeRequest>) -> Result<Response<running::Messages<QueryRangeResponse>>, Status> {
        let tenants = self.0.tenants(request.metadata().as_ref())?;
        let account = self.0.account(false, &tenants);
        let r = request.into_inner();
        let asked = AskedMetrics {
            query: r.query,
            range: nanoseconds(r.start, r.end)?,
            step: Some(time(r.step)?).filter(|step| *step > 0),
            exemplars: r.exemplars,
            series_max: r.max_series,
        };
        let request = ask::metrics(asked, self.0.limits(), now())?;
        running::metrics(Arc::clone(&self.0), account, tenants, request).await
    }

    /// One message whatever its size: a client puts each message in the place of the one before.
    async fn metrics_query_instant(&self, request: Request<QueryInstantRequest>) -> Answer<QueryInstantResponse> {
        let tenants = self.0.tenants(request.metadata().as_ref())?;
        let account = self.0.account(false, &tenants);
        let r = request.into_inner();
        let range = nanoseconds(r.start, r.end)?;
        let asked = AskedMetrics { query: r.query, range, step: None, exemplars: 0, series_max: 0 };
        let request = ask::metrics(asked, self.0.limits(), now())?;
        let mut response = self.0.gate.run(&tenants, account.engine().query_instant(&tenants, request)).await?;
        response.metrics.get_or_insert_default();
        answer(&account, vec![response])
    }
}

impl Querier {
    fn tag_names(&self, r: SearchTagsRequest) -> Result<Option<query::TagNamesRequest>, Failure> {
        let range = seconds(r.start, r.end);
        let asked = AskedTagNames { scope: r.scope, query: r.query, range, limit: r.max_tags_per_scope };
        ask::tag_names(asked, self.0.limits(), now())
    }

    fn tag_values(&self, r: SearchTagValuesRequest) -> Result<query::TagValuesRequest, Failure> {
        let range = seconds(r.start, r.end);
        let asked = AskedTagValues { name: r.tag_name, query: r.query, range, limit: r.max_tag_values };
        ask::tag_values(asked, self.0.limits(), now())
    }
}

fn some(number: u32) -> Option<u32> {
    (number > 0).then_some(number)
}

fn some_text(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn seconds(start: u32, end: u32) -> AskedRange {
    let nanos = |seconds: u32| some(seconds).map(|seconds| i64::from(seconds) * 1_000_000_000);
    AskedRange { start: nanos(start), end: nanos(end), since: None }
}

fn nanoseconds(start: u64, end: u64) -> Result<AskedRange, Failure> {
    let point = |ns: u64| time(ns).map(|ns| (ns > 0).then_some(ns));
    Ok(AskedRange { start: point(start)?, end: point(end)?, since: None })
}

fn time(ns: u64) -> Result<i64, Failure> {
    i64::try_from(ns).map_err(|_| Failure::invalid(format!("{ns} ns is beyond the times that can be stored, to 2262")))
}

/// With the tag and length that protobuf adds.
fn text_bytes(text: &str) -> usize {
    text.len() + 6
}
