//! A streamed query: what it tells while it runs, then the rest.
//!
//! Each message has job metrics. A query that is over before it has anything to tell is one answer, with everything in
//! its head; dropping the stream stops the query. Of a search every trace is sent once, and no more than the limit. Of a
//! metrics query every message holds samples as they are so far, and the last ones the whole answer: a client keeps the
//! newest sample of each series and time. What was sent and is not in the answer is sent as not-a-number before it.

use crate::{
    Failure,
    account::Account,
    packets::{PACKET_BYTES_MAX, cut},
    state::Shared,
};
use futures::{
    future::BoxFuture,
    stream::{self, BoxStream, StreamExt},
};
use model::TenantId;
use prost::Message;
use proto::tempopb::{QueryRangeResponse, SearchResponse};
use query::{MetricsRequest, Partial, RangeAnswer, SearchRequest};
use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};
use tokio::sync::mpsc;
use tonic::{Extensions, Response, Status, metadata::MetadataMap};

pub type Messages<T> = BoxStream<'static, Result<T, Status>>;

/// The last messages, in their order.
type Outcome<T> = (Result<Vec<T>, Failure>, Account);

/// The answer begins with the first message, or fails if the search fails before.
pub async fn search(
    shared: Arc<Shared>,
    account: Account,
    tenants: Vec<TenantId>,
    request: SearchRequest,
) -> Result<Response<Messages<SearchResponse>>, Status> {
    let (partial, parts) = Partial::channel(shared.state.config.streaming_interval);
    let limit = request.limit;
    let search: BoxFuture<'static, Outcome<SearchResponse>> = Box::pin(async move {
        let search = account.engine().search_telling(&tenants, request, Some(&partial));
        (shared.gate.run(&tenants, search).await.map(|answer| vec![answer]), account)
    });
    let mut sent: HashSet<String> = HashSet::new();
    let packets = move |SearchResponse { mut traces, metrics }: SearchResponse| {
        traces.retain(|trace| !sent.contains(&trace.trace_id));
        traces.truncate(limit.saturating_sub(sent.len()));
        sent.extend(traces.iter().map(|trace| trace.trace_id.clone()));
        let metrics = Some(metrics.unwrap_or_default());
        let packets = cut(traces, PACKET_BYTES_MAX, Message::encoded_len);
        packets.into_iter().map(|traces| SearchResponse { traces, metrics }).collect::<Vec<_>>()
    };
    begin(search, parts, Box::new(packets)).await
}

/// As [`search`].
pub async fn metrics(
    shared: Arc<Shared>,
    account: Account,
    tenants: Vec<TenantId>,
    request: MetricsRequest,
) -> Result<Response<Messages<QueryRangeResponse>>, Status> {
    let (partial, parts) = Partial::channel(shared.state.config.streaming_interval);
    let query: BoxFuture<'static, Outcome<QueryRangeResponse>> = Box::pin(async move {
        let query = account.engine().query_range_telling(&tenants, request, &partial);
        (shared.gate.run(&tenants, query).await.map(last_messages), account)
    });
    let packets = |QueryRangeResponse { series, metrics, status, message }: QueryRangeResponse| {
        let metrics = Some(metrics.unwrap_or_default());
        let packets = cut(series, PACKET_BYTES_MAX, Message::encoded_len).into_iter();
        let mut messages: Vec<_> = packets.map(|series| QueryRangeResponse { series, metrics, ..Default::default() }).collect();
        if let Some(last) = messages.last_mut() {
            (last.status, last.message) = (status, message);
        }
        messages
    };
    begin(query, parts, Box::new(packets)).await
}

/// What is taken back, if anything is, and the answer.
fn last_messages(RangeAnswer { taken_back, answer }: RangeAnswer) -> Vec<QueryRangeResponse> {
    let taking_back = QueryRangeResponse { series: taken_back, metrics: answer.metrics, ..Default::default() };
    let taking_back = Some(taking_back).filter(|message| !message.series.is_empty());
    taking_back.into_iter().chain([answer]).collect()
}

async fn begin<T: Send + 'static>(
    query: BoxFuture<'static, Outcome<T>>,
    parts: mpsc::Receiver<T>,
    packets: Box<dyn FnMut(T) -> Vec<T> + Send>,
) -> Result<Response<Messages<T>>, Status> {
    let mut running = Running { query, parts, packets, ready: VecDeque::new(), over: false };
    let head = running.step().await?;
    let messages = stream::unfold(running, |mut running| async move { Some((running.next().await?, running)) });
    Ok(Response::from_parts(head, messages.boxed(), Extensions::default()))
}

struct Running<T> {
    query: BoxFuture<'static, Outcome<T>>,
    parts: mpsc::Receiver<T>,
    /// Makes messages of what is told and of the answer.
    packets: Box<dyn FnMut(T) -> Vec<T> + Send>,
    /// Not yet taken by the client.
    ready: VecDeque<T>,
    over: bool,
}

impl<T> Running<T> {
    async fn next(&mut self) -> Option<Result<T, Status>> {
        while self.ready.is_empty() {
            if self.over {
                return None;
            }
            if let Err(status) = self.step().await {
                return Some(Err(status));
            }
        }
        self.ready.pop_front().map(Ok)
    }

    /// Waits for what the query tells next, or for its answer, and makes messages of it. Returns what the account says by
    /// then for the head of the answer.
    async fn step(&mut self) -> Result<MetadataMap, Status> {
        let (responses, head) = tokio::select! {
            biased;
            (outcome, account) = &mut self.query => {
                self.over = true;
                (outcome?, MetadataMap::from_headers(account.headers()))
            }
            Some(part) = self.parts.recv() => (vec![part], MetadataMap::new()),
        };
        self.ready.extend(responses.into_iter().flat_map(&mut self.packets));
        Ok(head)
    }
}
