//! `POST /api/sql`: a `SELECT` in the body, rows back as they come.
//!
//! The query runs in a task of its own, inside the gate until its last row is written; when the answer is dropped, so is
//! the task. An error before the first rows is an answer with its status; a later one ends the connection.

use crate::{
    Failure,
    state::{Call, Shared},
};
use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderMap, Uri, header};
use query::{SqlFormat, SqlRequest};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Parts of an answer that wait for a slow client.
const PARTS_WAITING_MAX: usize = 2;

const ARROW: &str = "application/vnd.apache.arrow.stream";
const CSV: &str = "text/csv";
const JSON: &str = "application/json";

/// JSON unless something else is accepted.
fn format(headers: &HeaderMap) -> (SqlFormat, &'static str) {
    let accepts = |kind: &str| {
        headers.get_all(header::ACCEPT).iter().any(|value| value.to_str().is_ok_and(|text| text.contains(kind)))
    };
    if accepts(ARROW) {
        (SqlFormat::Arrow, ARROW)
    } else if accepts(CSV) && !accepts(JSON) {
        (SqlFormat::Csv, CSV)
    } else {
        (SqlFormat::Json, JSON)
    }
}

pub async fn sql(State(api): State<Arc<Shared>>, headers: HeaderMap, uri: Uri, text: String) -> Result<Response, Failure> {
    let Call { tenants, account, .. } = api.call(&headers, &uri)?;
    door::note(&text);
    let (format, content_type) = format(&headers);
    let request = SqlRequest { text, format, rows_max: api.limits().sql_rows_max };
    let (sender, mut parts) = mpsc::channel::<Result<Bytes, Failure>>(PARTS_WAITING_MAX);
    let engine = account.engine().clone();
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        let query = async {
            let mut answer = engine.sql(&tenants, request).await?;
            while let Some(part) = answer.next().await {
                // Nobody listens any more where this fails.
                if sender.send(Ok(part?)).await.is_err() {
                    break;
                }
            }
            Ok::<(), query::QueryError>(())
        };
        if let Err(failure) = api.gate.run(&tenants, query).await {
            let _ = sender.send(Err(failure)).await;
        }
    }));
    let first = match parts.recv().await {
        Some(first) => first?,
        None => return Err(Failure::new(model::ErrorKind::Internal, "the query ended without an answer: the server's log says more")),
    };
    let rest = stream::unfold((parts, task), |(mut parts, task)| async move {
        let part = parts.recv().await?.map_err(|failure| std::io::Error::other(failure.message));
        Some((part, (parts, task)))
    });
    // A compressed body asks once more behind the end.
    let body = Body::from_stream(stream::once(async { Ok(first) }).chain(rest).fuse());
    Ok((account.headers(), [(header::CONTENT_TYPE, content_type)], body).into_response())
}
