//! Moves the bytes of blocks to where they are decoded: checked, and past the cache, which is for queries.

use std::sync::Arc;

use arrow::array::RecordBatch;
use block::BlockError;
use bytes::Bytes;
use storage::OpenBlock;

use crate::{
    error::{Cause, JobError},
    input::{Input, Wanted},
};

/// Bytes of rows decoded at a time when a few columns are read.
const BATCH_BYTES: u64 = 4 << 20;

/// What an input wants.
pub async fn wanted(block: &OpenBlock, wanted: &Wanted) -> Result<Vec<Bytes>, JobError> {
    let mut bytes = Vec::with_capacity(wanted.ranges.len());
    for range in &wanted.ranges {
        bytes.push(block.read_once(range.clone()).await.map_err(|e| JobError::input(block.entry().id, e))?);
    }
    Ok(bytes)
}

/// Shows some columns of all rows of a block to `visit`, in order, with what it has collected so far.
pub async fn each_batch<S: Send + 'static>(
    block: &Arc<OpenBlock>,
    columns: &(dyn Fn(&str) -> bool + Sync),
    mut state: S,
    visit: fn(&mut S, &RecordBatch) -> Result<(), BlockError>,
) -> Result<S, JobError> {
    let blame = |cause: Cause| JobError::input(block.entry().id, cause);
    let mut input = Input::new(&block.sidecar().footer, Some(columns), BATCH_BYTES).map_err(|e| blame(e.into()))?;
    while let Some(asked) = input.wanted() {
        let bytes = wanted(block, &asked).await?;
        (input, state) = blocking(move || {
            input.bring(&asked, bytes)?;
            while input.decode()? {
                for batch in input.take_all() {
                    visit(&mut state, &batch)?;
                }
            }
            Ok((input, state))
        })
        .await
        .map_err(blame)?;
    }
    Ok(state)
}

/// Runs work of some length behind the threads that serve requests; a panic becomes an error.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlockError> + Send + 'static,
) -> Result<T, Cause> {
    Ok(background::run("merge", work).await??)
}
