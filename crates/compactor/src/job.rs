//! One compaction, from reading the inputs to storing the new block. The commit is the caller's.

use std::{collections::HashSet, sync::Arc};

use block::{promotion::PromotionPolicy, writer::WriterOptions};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use model::{TenantId, TraceId};
use storage::{BlockEntry, OpenBlock, Storage};
use ulid::Ulid;

use crate::{
    config::CompactorConfig,
    error::JobError,
    input::Input,
    order, promote, read,
    stream::{MergeStream, Step, StreamError},
};

/// Sidecars read at the same time.
const OPENING_MAX: usize = 8;

/// What came of a job.
pub enum Made {
    /// Files are stored; nobody sees them before a commit. `block` is `None` if no row is left.
    Stored { block: Option<Box<BlockEntry>>, rows_in: u64, rows_out: u64 },
    /// The blocks on both sides of this one must stay apart.
    Barrier(Ulid),
}

/// Merges `inputs`, which are in received order, leaving out the traces of `without`. `blocks` is the whole table; `last`
/// says that the result will hardly be merged again.
pub async fn merge(
    storage: &Storage,
    tenant: &TenantId,
    blocks: &[Arc<BlockEntry>],
    inputs: &[Arc<BlockEntry>],
    without: Option<Arc<HashSet<TraceId>>>,
    last: bool,
    config: &CompactorConfig,
) -> Result<Made, JobError> {
    let opening = inputs.iter().map(|entry| {
        async { storage.open_block(tenant, entry).await.map_err(|e| JobError::input(entry.id, e)) }.boxed()
    });
    let opening = stream::iter(opening.collect::<Vec<_>>()).buffered(OPENING_MAX);
    let opened: Vec<Arc<OpenBlock>> = opening.try_collect().await?;
    if let Some(barrier) = order::barrier(storage, tenant, blocks, &opened).await? {
        return Ok(Made::Barrier(barrier));
    }
    let promotion = promote::promotion(&opened, &PromotionPolicy::default()).await?;
    // Half of the memory is for the inputs as stored; decoded rows are there once as they come and once merged.
    let batch_bytes = config.job_bytes_max / 4 / (2 * opened.len() as u64);
    let mut streams = Vec::with_capacity(opened.len());
    for block in &opened {
        let input = Input::new(&block.sidecar().footer, None, batch_bytes);
        streams.push(input.map_err(|e| JobError::input(block.entry().id, e))?);
    }
    let zstd_level = if last { config.last_zstd_level } else { config.zstd_level };
    let options = WriterOptions { zstd_level, ..WriterOptions::default() };
    let mut merge = MergeStream::new(order::merged_id(inputs), streams, promotion, options, without);
    loop {
        let stepped = background::run("merge", move || {
            let step = merge.advance();
            (merge, step)
        });
        let (back, step) = stepped.await.map_err(|failed| JobError::merge(failed))?;
        merge = back;
        match step.map_err(|e| blame(&opened, e))? {
            Step::Bring { input, wanted } => {
                let bytes = read::wanted(&opened[input], &wanted).await?;
                merge.bring(input, &wanted, bytes).map_err(|e| blame(&opened, e))?;
            }
            Step::End => break,
        }
    }
    let finished = background::run("merge", move || merge.finish()).await;
    let merged = finished.map_err(|failed| JobError::merge(failed))?.map_err(|e| blame(&opened, e))?;
    let block = match &merged.block {
        None => None,
        Some(block) => Some(Box::new(storage.put_merged_block(tenant, block).await?)),
    };
    Ok(Made::Stored { block, rows_in: merged.rows_in, rows_out: merged.rows_out })
}

fn blame(opened: &[Arc<OpenBlock>], error: StreamError) -> JobError {
    match error.input {
        Some(input) => JobError::input(opened[input].entry().id, error.error),
        None => JobError::merge(error.error),
    }
}
