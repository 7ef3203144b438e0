//! Version 3 of Jaeger's query API over gRPC: `jaeger.api_v3.QueryService`.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::Response,
    routing::post,
};
use futures::{future::BoxFuture, stream};
use http::Uri;
use model::ErrorKind;
use prost::Message;
use proto::otlp::trace::v1::TracesData;
use query::TimeRange;
use tonic::{Extensions, Status, metadata::MetadataMap, server::Grpc};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::{
    dependencies::Calls,
    jaeger::{links, named_operations, trace_id},
    jaeger_messages::{
        DependenciesResponse, Dependency, Duration, FindRequest, FindTraceSummariesResponse, GetDependenciesRequest, GetOperationsRequest,
        GetOperationsResponse, GetServicesRequest, GetServicesResponse, GetTraceRequest, Operation, Timestamp,
        TraceQueryParameters,
    },
    jaeger_v3::{DEPTH_DEFAULT, Question, kind_word, no_filter},
    lookup::{self, Ids},
    summaries,
};
use crate::{
    Failure,
    packets::{PACKET_BYTES_MAX, cut},
    state::{Call, Shared},
};

/// Where the paths of this service begin.
pub(crate) const PATH_START: &str = "/jaeger.api_v3.";

pub(crate) const SERVICE: &str = "jaeger.api_v3.QueryService";

/// The paths of all methods.
pub(crate) const METHODS: [&str; 6] = [
    "/jaeger.api_v3.QueryService/GetTrace",
    "/jaeger.api_v3.QueryService/FindTraces",
    "/jaeger.api_v3.QueryService/FindTraceSummaries",
    "/jaeger.api_v3.QueryService/GetServices",
    "/jaeger.api_v3.QueryService/GetOperations",
    "/jaeger.api_v3.QueryService/GetDependencies",
];

type Api = State<Arc<Shared>>;
type Method<Q, A> = for<'a> fn(&'a Shared, &'a Call, Q) -> BoxFuture<'a, Result<A, Failure>>;

pub(crate) fn routes() -> Router<Arc<Shared>> {
    let [get_trace, find_traces, find_summaries, get_services, get_operations, get_dependencies] = METHODS;
    Router::new()
        .route(get_trace, post(|State(api): Api, request: Request| streaming(api, request, trace)))
        .route(find_traces, post(|State(api): Api, request: Request| streaming(api, request, traces)))
        .route(find_summaries, post(|State(api): Api, request: Request| streaming(api, request, trace_summaries)))
        .route(get_services, post(|State(api): Api, request: Request| unary(api, request, services)))
        .route(get_operations, post(|State(api): Api, request: Request| unary(api, request, operations)))
        .route(get_dependencies, post(|State(api): Api, request: Request| unary(api, request, dependencies)))
}

fn grpc<Q, A>(api: &Shared) -> Grpc<ProstCodec<A, Q>>
where
    Q: Message + Default + Send + 'static,
    A: Message + Send + 'static,
{
    Grpc::new(ProstCodec::default()).apply_max_message_size_config(Some(api.state.config.request_bytes_max), None)
}

/// Answers one message with one.
async fn unary<Q, A>(api: Arc<Shared>, request: Request, method: Method<Q, A>) -> Response
where
    Q: Message + Default + Send + 'static,
    A: Message + Send + 'static,
{
    let mut grpc = grpc::<Q, A>(&api);
    let service = service_fn(move |asked| answered(api.clone(), asked, method, |answer| answer));
    grpc.unary(service, request).await.map(Body::new)
}

/// Answers one message with several.
async fn streaming<Q, A>(api: Arc<Shared>, request: Request, method: Method<Q, Vec<A>>) -> Response
where
    Q: Message + Default + Send + 'static,
    A: Message + Send + 'static,
{
    let mut grpc = grpc::<Q, A>(&api);
    let messages = |answers: Vec<A>| stream::iter(answers.into_iter().map(Ok::<A, Status>));
    let service = service_fn(move |asked| answered(api.clone(), asked, method, messages));
    grpc.server_streaming(service, request).await.map(Body::new)
}

/// What a method answers, as it is sent, with what the answer lacks in its metadata.
async fn answered<Q, A, S>(
    api: Arc<Shared>,
    asked: tonic::Request<Q>,
    method: Method<Q, A>,
    sent: impl FnOnce(A) -> S,
) -> Result<tonic::Response<S>, Status> {
    let call = api.call(asked.metadata().as_ref(), &Uri::default())?;
    let answer = method(&api, &call, asked.into_inner()).await?;
    let metadata = MetadataMap::from_headers(call.account.headers());
    Ok(tonic::Response::from_parts(metadata, sent(answer), Extensions::default()))
}

/// Messages that every client takes: a large trace is several.
fn messages(traces: Vec<TracesData>) -> Vec<TracesData> {
    let cut = |trace: TracesData| cut(trace.resource_spans, PACKET_BYTES_MAX, Message::encoded_len);
    traces.into_iter().flat_map(cut).map(|resource_spans| TracesData { resource_spans }).collect()
}

fn trace<'a>(api: &'a Shared, call: &'a Call, asked: GetTraceRequest) -> BoxFuture<'a, Result<Vec<TracesData>, Failure>> {
    Box::pin(async move {
        let found = lookup::trace(api, call, trace_id(&asked.trace_id)?, Ids::Separate).await?;
        if found.resource_spans.is_empty() {
            return Err(Failure::new(ErrorKind::NotFound, "trace not found"));
        }
        Ok(messages(vec![found]))
    })
}

fn traces<'a>(api: &'a Shared, call: &'a Call, asked: FindRequest) -> BoxFuture<'a, Result<Vec<TracesData>, Failure>> {
    Box::pin(async move { Ok(messages(question(asked)?.matching(api, call).await?)) })
}

fn trace_summaries<'a>(
    api: &'a Shared,
    call: &'a Call,
    asked: FindRequest,
) -> BoxFuture<'a, Result<Vec<FindTraceSummariesResponse>, Failure>> {
    Box::pin(async move {
        let found = question(asked)?.matching(api, call).await?;
        let packets = cut(found.iter().filter_map(summaries::of).collect(), PACKET_BYTES_MAX, Message::encoded_len);
        Ok(packets.into_iter().map(|summaries| FindTraceSummariesResponse { summaries }).collect())
    })
}

fn services<'a>(api: &'a Shared, call: &'a Call, _: GetServicesRequest) -> BoxFuture<'a, Result<GetServicesResponse, Failure>> {
    Box::pin(async move { Ok(GetServicesResponse { services: lookup::services(api, call).await? }) })
}

fn operations<'a>(
    api: &'a Shared,
    call: &'a Call,
    asked: GetOperationsRequest,
) -> BoxFuture<'a, Result<GetOperationsResponse, Failure>> {
    Box::pin(async move {
        let GetOperationsRequest { service, span_kind } = asked;
        if service.is_empty() {
            return Err(Failure::invalid("service is required"));
        }
        let kind = (!span_kind.is_empty()).then_some(span_kind.as_str());
        let named = named_operations(api, call, &service, kind).await?.into_iter();
        let operations = named.map(|(name, kind)| Operation { name, span_kind: kind_word(kind).to_owned() }).collect();
        Ok(GetOperationsResponse { operations })
    })
}

fn dependencies<'a>(
    api: &'a Shared,
    call: &'a Call,
    asked: GetDependenciesRequest,
) -> BoxFuture<'a, Result<DependenciesResponse, Failure>> {
    Box::pin(async move {
        let range = TimeRange { start: time("start_time", asked.start_time)?, end: time("end_time", asked.end_time)? };
        if range.start >= range.end {
            return Err(Failure::invalid("end_time must be after start_time"));
        }
        let links = links(api, call, range, None).await?.into_iter();
        let dependency = |((parent, child), calls): (_, Calls)| Dependency { parent, child, call_count: calls.count };
        Ok(DependenciesResponse { dependencies: links.map(dependency).collect() })
    })
}

fn question(asked: FindRequest) -> Result<Question, Failure> {
    let TraceQueryParameters {
        service_name,
        operation_name,
        attributes,
        start_time_min,
        start_time_max,
        duration_min,
        duration_max,
        search_depth,
        filter,
    } = asked.query.ok_or_else(|| Failure::invalid("missing query"))?;
    if filter.is_some() {
        return Err(no_filter());
    }
    let some = |text: String| (!text.is_empty()).then_some(text);
    let duration = |name, duration: Option<Duration>| duration.map(|duration| nanos(name, duration)).transpose();
    Ok(Question {
        service: some(service_name),
        operation: some(operation_name),
        attributes: attributes.into_iter().collect(),
        range: TimeRange { start: time("start_time_min", start_time_min)?, end: time("start_time_max", start_time_max)? },
        duration_min: duration("duration_min", duration_min)?,
        duration_max: duration("duration_max", duration_max)?,
        // 0 is what protobuf has for absent.
        depth: usize::try_from(search_depth).ok().filter(|depth| *depth > 0).unwrap_or(DEPTH_DEFAULT),
    })
}

fn time(name: &str, time: Option<Timestamp>) -> Result<i64, Failure> {
    nanos(name, time.ok_or_else(|| Failure::invalid(format!("{name} is required")))?)
}

/// Since 1970, or of a length of time. Not negative.
fn nanos(name: &str, Timestamp { seconds, nanos }: Timestamp) -> Result<i64, Failure> {
    let all = seconds.checked_mul(1_000_000_000).and_then(|all| all.checked_add(i64::from(nanos)));
    all.filter(|all| *all >= 0).ok_or_else(|| Failure::invalid(format!("{name}: {seconds} s cannot be stored")))
}

#[cfg(test)]
mod tests {
    use super::{super::jaeger_messages::Filter, *};

    #[test]
    fn a_question_needs_its_times_and_has_a_depth() {
        let at = |seconds| Some(Timestamp { seconds, nanos: 5 });
        let query = TraceQueryParameters { service_name: "shop".to_owned(), start_time_min: at(1), ..Default::default() };
        let check = |query: &TraceQueryParameters| question(FindRequest { query: Some(query.clone()) }).map_err(|f| f.message);
        assert!(check(&query).err().unwrap_or_default().contains("start_time_max is required"));
        let query = TraceQueryParameters { start_time_max: at(3), duration_min: at(0), ..query };
        let asked = check(&query).unwrap_or_else(|wrong| panic!("{wrong}"));
        assert_eq!((asked.range.start, asked.range.end, asked.duration_min), (1_000_000_005, 3_000_000_005, Some(5)));
        assert_eq!((asked.depth, asked.service.as_deref(), asked.operation), (DEPTH_DEFAULT, Some("shop"), None));
        for wrong in [
            TraceQueryParameters { start_time_min: at(-2), ..query.clone() },
            TraceQueryParameters { start_time_max: at(i64::MAX), ..query.clone() },
            TraceQueryParameters { filter: Some(Filter {}), ..query },
        ] {
            assert!(check(&wrong).is_err());
        }
        assert!(question(FindRequest { query: None }).is_err());
    }
}
