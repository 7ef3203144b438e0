//! Keeps the order in which the spans of a trace were received.
//!
//! That order is the order of the ids of the blocks they lie in. A merged block takes the place of its last input: the id
//! is a little above that one's. So spans of earlier inputs move behind the blocks in between. Of the same window there
//! are none, as inputs are neighbours; but a trace may also have spans in a block of another window, if it began before
//! the hour and what was received first began after. Such a block is a *barrier*: what lies before it and what lies after
//! it are not merged with each other.

use std::sync::Arc;

use model::{TenantId, TraceId};
use storage::{BlockEntry, OpenBlock, Storage};
use ulid::Ulid;

use crate::{
    error::JobError,
    input::trace_ids,
    read::each_batch,
};

/// The room above an input's id for ids of merged blocks: of the 2^80 ids of a millisecond so few that another block's
/// is not among them by chance, and so many that two compactors do not choose the same.
const ROOM: u128 = 1 << 56;

/// A new id for the block that `inputs` become.
pub fn merged_id(inputs: &[Arc<BlockEntry>]) -> Ulid {
    let last = inputs.iter().map(|input| input.id.0).max().expect("a job has inputs");
    Ulid(last + 1 + Ulid::new().random() % ROOM)
}

/// A block of another window that stands between `inputs` and shares a trace with one before it.
pub async fn barrier(
    storage: &Storage,
    tenant: &TenantId,
    blocks: &[Arc<BlockEntry>],
    inputs: &[Arc<OpenBlock>],
) -> Result<Option<Ulid>, JobError> {
    let ids = || inputs.iter().map(|input| input.entry().id);
    let (Some(first), Some(last)) = (ids().min(), ids().max()) else { return Ok(None) };
    let mut known: Vec<Option<Vec<TraceId>>> = vec![None; inputs.len()];
    let between = blocks.iter().filter(|block| block.id > first && block.id < last && !ids().any(|id| id == block.id));
    for entry in between {
        let block = storage.open_block(tenant, entry).await.map_err(|e| JobError::input(entry.id, e))?;
        let traces = traces_of(&block).await?;
        for (input, known) in inputs.iter().zip(&mut known).filter(|(input, _)| input.entry().id < entry.id) {
            let perhaps: Vec<&TraceId> = traces.iter().filter(|id| input.sidecar().trace_filter.contains(id)).collect();
            if perhaps.is_empty() {
                continue;
            }
            if known.is_none() {
                *known = Some(traces_of(input).await?);
            }
            let known = known.as_ref().expect("just read");
            if perhaps.iter().any(|id| known.binary_search(id).is_ok()) {
                return Ok(Some(entry.id));
            }
        }
    }
    Ok(None)
}

/// The ids of the traces of a block, ascending.
async fn traces_of(block: &Arc<OpenBlock>) -> Result<Vec<TraceId>, JobError> {
    Ok(rows_by_trace(block).await?.into_iter().map(|(trace, _)| trace).collect())
}

/// The traces of a block, ascending, with how many rows each has.
pub async fn rows_by_trace(block: &Arc<OpenBlock>) -> Result<Vec<(TraceId, u64)>, JobError> {
    let columns = |name: &str| name == block::schema::TRACE_ID;
    each_batch(block, &columns, Vec::new(), |traces: &mut Vec<(TraceId, u64)>, batch| {
        for id in trace_ids(batch)?.iter().flatten().filter_map(TraceId::from_slice) {
            match traces.last_mut() {
                Some((last, rows)) if *last == id => *rows += 1,
                _ => traces.push((id, 1)),
            }
        }
        Ok(())
    })
    .await
}
