//! `/api/export`: whole traces that match a TraceQL query, as they were received, as one stream.
//!
//! Parameters: `q`, `start` and `end` as of a search, and `after`, a trace id: only traces behind it. Traces come by their
//! ids, ascending, so that a stream which broke off goes on with `after` = the last id that arrived. The header
//! `sostenuto-traces` says how many there are.
//!
//! The body is a list of frames: four bytes of length, the most significant first, and so many bytes of a `TraceByIDResponse`
//! with some whole traces. A frame of length 0 is the end; a body without one broke off.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::State,
    response::{IntoResponse, Response},
};
use futures::stream;
use http::{HeaderMap, HeaderName, StatusCode, Uri, header};
use model::{TenantId, TraceId};
use prost::Message;
use proto::{
    otlp::trace::v1::TracesData,
    tempopb::{PartialStatus, TraceByIdResponse},
};

use crate::{
    Failure,
    account::Account,
    params,
    state::{Call, Shared, now},
};

/// How many traces the whole stream has.
const TRACES: HeaderName = HeaderName::from_static("sostenuto-traces");
/// About so many spans are read at once.
const FRAME_SPANS: usize = 20_000;
/// Traces that are read at once: before it is known how large they are, and the most.
const FRAME_TRACES_FIRST: usize = 64;
const FRAME_TRACES_MAX: usize = 4096;
/// While too many queries run, the next traces wait this long, so often at most.
const BUSY_PAUSE: Duration = Duration::from_millis(200);
const BUSY_TRIES: usize = 300;

pub(crate) async fn export(State(api): State<Arc<Shared>>, headers: HeaderMap, uri: Uri) -> Result<Response, Failure> {
    let call = api.call(&headers, &uri)?;
    let [tenant] = call.tenants.as_slice() else {
        return Err(Failure::invalid("an export is of one tenant: ask for each of them alone"));
    };
    let after = call.parameters.read("after", |text| TraceId::parse(text).map_err(|error| error.to_string()))?;
    let (query, range) = asked(&api, &call)?;
    let ids = api.gate.run(&call.tenants, call.account.engine().ids_matching(tenant, &query, range)).await?;
    let count = ids.len();
    let lacks = call.account.reads.partial();
    let ids: Vec<TraceId> = ids.into_iter().filter(|id| after.is_none_or(|after| *id > after)).collect();
    let mut export = Export { api: api.clone(), tenant: tenant.clone(), ids, at: 0, traces: FRAME_TRACES_FIRST, lacks, over: false };
    // What fails at once is an answer of its own.
    let first = export.next().await?;
    let frames = stream::unfold((Some(first), Some(export)), |(ready, export)| async move {
        if let Some(frame) = ready {
            return Some((Ok(frame), (None, export)));
        }
        let mut export = export.filter(|export| !export.over)?;
        match export.next().await {
            Ok(frame) => Some((Ok(frame), (None, Some(export)))),
            // The body ends without its last frame.
            Err(failure) => Some((Err(std::io::Error::other(failure.message)), (None, None))),
        }
    });
    let headers = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((StatusCode::OK, headers, [(TRACES, count.to_string())], Body::from_stream(frames)).into_response())
}

fn asked(api: &Shared, call: &Call) -> Result<(String, query::TimeRange), Failure> {
    let request = params::search(&call.parameters, api.limits(), now())?;
    match (request.filter, request.range) {
        (query::SearchFilter::TraceQl(query), Some(range)) => Ok((query, range)),
        _ => Err(Failure::invalid("q is missing: give a TraceQL query such as { }")),
    }
}

struct Export {
    api: Arc<Shared>,
    tenant: TenantId,
    /// Ascending.
    ids: Vec<TraceId>,
    /// The next of them.
    at: usize,
    /// To be read at once.
    traces: usize,
    /// What the search could not look at; said in the first frame.
    lacks: Option<String>,
    over: bool,
}

impl Export {
    /// The next frame.
    async fn next(&mut self) -> Result<Bytes, Failure> {
        if self.at == self.ids.len() {
            self.over = true;
            return Ok(Bytes::from_static(&[0; 4]));
        }
        loop {
            let ids = &self.ids[self.at..(self.at + self.traces).min(self.ids.len())];
            match self.read(ids).await {
                Ok((trace, lacks)) => {
                    self.at += ids.len();
                    let spans = spans(&trace);
                    self.traces = (FRAME_SPANS * ids.len() / spans.max(1)).clamp(1, FRAME_TRACES_MAX);
                    let message = self.lacks.take().or(lacks);
                    let status = message.as_ref().map_or(PartialStatus::Complete, |_| PartialStatus::Partial);
                    let (status, message) = (status.into(), message.unwrap_or_default());
                    return Ok(frame(&TraceByIdResponse { trace: Some(trace), status, message, metrics: None }));
                }
                // Too large for the memory of a query.
                Err(failure) if failure.status == StatusCode::UNPROCESSABLE_ENTITY && ids.len() > 1 => self.traces = ids.len() / 2,
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn read(&self, ids: &[TraceId]) -> Result<(TracesData, Option<String>), Failure> {
        let tenants = std::slice::from_ref(&self.tenant);
        let mut tries = 0;
        loop {
            // Each read has the budget of a query.
            let account: Account = self.api.account(false, tenants);
            match self.api.gate.run(tenants, account.engine().traces_as_received(&self.tenant, ids)).await {
                Err(failure) if failure.status == StatusCode::TOO_MANY_REQUESTS && tries < BUSY_TRIES => {
                    tries += 1;
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                outcome => return outcome.map(|trace| (trace, account.reads.partial())),
            }
        }
    }
}

fn spans(trace: &TracesData) -> usize {
    trace.resource_spans.iter().flat_map(|resource| &resource.scope_spans).map(|scope| scope.spans.len()).sum()
}

/// A message of more than 4 GiB is beyond the memory of a query.
fn frame(message: &TraceByIdResponse) -> Bytes {
    let length = u32::try_from(message.encoded_len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(length as usize + 4);
    frame.extend(length.to_be_bytes());
    frame.extend(message.encode_to_vec());
    frame.into()
}
