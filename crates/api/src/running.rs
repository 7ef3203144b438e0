//! A streamed search: what it is certain of while it runs, then the rest.
//!
//! Every trace is sent once, and no more than the limit. Each message has job metrics. A search that is over before
//! it has anything to tell is one answer, with everything in its head; dropping the stream stops the search.

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
use proto::tempopb::SearchResponse;
use query::{Partial, SearchRequest};
use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};
use tokio::sync::mpsc;
use tonic::{Extensions, Response, Status, metadata::MetadataMap};

pub type Messages = BoxStream<'static, Result<SearchResponse, Status>>;

type Outcome = (Result<SearchResponse, Failure>, Account);

/// The answer begins with the first message, or fails if the search fails before.
pub async fn search(
    shared: Arc<Shared>,
    account: Account,
    tenants: Vec<TenantId>,
    request: SearchRequest,
) -> Result<Response<Messages>, Status> {
    let (partial, parts) = Partial::channel(shared.state.config.streaming_interval);
    let limit = request.limit;
    let search: BoxFuture<'static, Outcome> = Box::pin(async move {
        let search = account.engine().search_telling(&tenants, request, Some(&partial));
        (shared.gate.run(&tenants, search).await, account)
    });
    let mut running = Running { search, parts, sent: HashSet::new(), limit, ready: VecDeque::new(), over: false };
    let head = running.step().await?;
    let messages = stream::unfold(running, |mut running| async move { Some((running.next().await?, running)) });
    Ok(Response::from_parts(head, messages.boxed(), Extensions::default()))
}

struct Running {
    search: BoxFuture<'static, Outcome>,
    parts: mpsc::Receiver<SearchResponse>,
    sent: HashSet<String>,
    limit: usize,
    /// Not yet taken by the client.
    ready: VecDeque<SearchResponse>,
    over: bool,
}

impl Running {
    async fn next(&mut self) -> Option<Result<SearchResponse, Status>> {
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

    /// Waits for what the search tells next, or for its answer, and makes messages of it. Returns what the account says by
    /// then for the head of the answer.
    async fn step(&mut self) -> Result<MetadataMap, Status> {
        let (response, head) = tokio::select! {
            biased;
            (outcome, account) = &mut self.search => {
                self.over = true;
                (outcome?, MetadataMap::from_headers(account.headers()))
            }
            Some(part) = self.parts.recv() => (part, MetadataMap::new()),
        };
        let SearchResponse { mut traces, metrics } = response;
        traces.retain(|trace| !self.sent.contains(&trace.trace_id));
        traces.truncate(self.limit.saturating_sub(self.sent.len()));
        self.sent.extend(traces.iter().map(|trace| trace.trace_id.clone()));
        let metrics = Some(metrics.unwrap_or_default());
        let packets = cut(traces, PACKET_BYTES_MAX, Message::encoded_len);
        self.ready.extend(packets.into_iter().map(|traces| SearchResponse { traces, metrics }));
        Ok(head)
    }
}
