//! What an operator can ask the server to do. The program says how; without a way, the request is refused.

use crate::{Failure, state::Shared};
use axum::{Json, extract::State};
use futures::future::BoxFuture;
use serde::Serialize;
use std::sync::Arc;

/// What a flush brought into tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Flushed {
    pub spans: u64,
    pub blocks: u64,
    pub block_bytes: u64,
    /// One per tenant with live spans, at least.
    pub commits: u64,
    /// Segments of the write-ahead log that were no longer needed.
    pub segments_removed: u64,
}

/// Makes blocks of all live spans of all tenants, and returns when they are in their tables.
pub type Flush = Arc<dyn Fn() -> BoxFuture<'static, Result<Flushed, Failure>> + Send + Sync>;

/// One flush at a time: those that wait find what came meanwhile.
pub(crate) async fn flush(State(shared): State<Arc<Shared>>) -> Result<Json<Flushed>, Failure> {
    let Some(flush) = &shared.state.flush else {
        return Err(Failure::new(model::ErrorKind::NotFound, "this server takes no spans in, so there is nothing to flush"));
    };
    let _turn = shared.flushing.lock().await;
    flush().await.map(Json)
}
