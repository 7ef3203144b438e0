//! Indexes of trace ids over many blocks: which to make, and making them.
//!
//! Blocks that have settled and that no index covers are put into a new one once there are enough of them, together with what
//! smaller indexes say of blocks that are still there. So an entry is written again about log2(blocks) times, and there are
//! few indexes at any moment: each is larger than all younger ones together, or full.

use std::{collections::HashMap, sync::Arc};

use model::TenantId;
use storage::{BlockEntry, IndexBuilder, IndexHead, Storage, TraceIndexes};
use ulid::Ulid;

use crate::{config::CompactorConfig, error::JobError, order};

/// Entries of one index: 40 MB at rest, 64 MB while it is made.
const ENTRIES_MAX: u64 = 8 << 20;
/// Blocks of one index: its head is read whole by who looks up a trace.
const BLOCKS_MAX: usize = 1 << 14;

/// What a new index is made of.
#[derive(Clone, Debug, Default)]
pub struct Work {
    /// Indexes that it takes the place of, with those of their blocks that are still there.
    pub indexes: Vec<(Arc<IndexHead>, Vec<Arc<BlockEntry>>)>,
    /// Blocks that no index covers.
    pub blocks: Vec<Arc<BlockEntry>>,
}

/// An index and what is left of it: blocks that are in the table, and of which no newer index speaks.
struct Known {
    head: Arc<IndexHead>,
    alive: Vec<Arc<BlockEntry>>,
    entries: u64,
}

/// What the table calls for at this moment, if anything.
pub fn plan(
    indexes: &TraceIndexes,
    blocks: &[Arc<BlockEntry>],
    aside: &dyn Fn(Ulid) -> bool,
    config: &CompactorConfig,
    now_unix_ms: u64,
) -> Option<Work> {
    if config.index_blocks_min == 0 {
        return None;
    }
    let entries_max = ENTRIES_MAX.min(config.job_bytes_max / 16);
    let settled_ms = now_unix_ms.saturating_sub(u64::try_from(config.settled_after.as_millis()).unwrap_or(u64::MAX));
    let mut alive: HashMap<Ulid, Vec<Arc<BlockEntry>>> = HashMap::new();
    let mut fresh = vec![];
    for block in blocks {
        match indexes.of(block) {
            Some(head) => alive.entry(head.id).or_default().push(block.clone()),
            None if u64::try_from(block.modified_unix_ms).is_ok_and(|at| at > settled_ms) => {}
            None if aside(block.id) || block.traces > entries_max => {}
            None => fresh.push(block.clone()),
        }
    }
    let mut known: Vec<Known> = indexes.heads().iter().filter_map(|head| {
        let alive = alive.remove(&head.id)?;
        let entries = alive.iter().map(|block| block.traces).sum();
        Some(Known { head: head.clone(), alive, entries })
    }).collect();
    known.sort_by_key(|known| known.entries);

    let mut work = Work::default();
    let (mut entries, mut count) = (0, 0);
    if fresh.len() >= config.index_blocks_min {
        // In the order of the table: blocks of one time come together.
        for block in fresh {
            if entries + block.traces <= entries_max && count < BLOCKS_MAX {
                entries += block.traces;
                count += 1;
                work.blocks.push(block);
            }
        }
    } else {
        // One that mostly speaks of blocks that are gone.
        let at = known.iter().position(|known| known.entries * 2 < known.head.entries)?;
        let Known { head, alive, entries: left } = known.remove(at);
        (entries, count) = (left, alive.len());
        work.indexes.push((head, alive));
    }
    for known in known {
        if known.entries <= entries && entries + known.entries <= entries_max && count + known.alive.len() <= BLOCKS_MAX {
            entries += known.entries;
            count += known.alive.len();
            work.indexes.push((known.head, known.alive));
        }
    }
    Some(work)
}

/// Makes and stores the index.
pub async fn make(storage: &Storage, tenant: &TenantId, work: Work) -> Result<Arc<IndexHead>, JobError> {
    let Work { indexes, mut blocks } = work;
    let mut builder = IndexBuilder::default();
    for (head, alive) in indexes {
        if let Err(error) = storage.copy_trace_index(tenant, &head, &alive, &mut builder).await {
            tracing::warn!(%tenant, error = &error as &dyn std::error::Error, "an index of traces cannot be read and is made anew");
            blocks.extend(alive);
        }
    }
    for entry in blocks {
        let block = storage.open_block(tenant, &entry).await.map_err(|e| JobError::input(entry.id, e))?;
        let number = builder.block(&entry);
        for (trace, _) in order::rows_by_trace(&block).await? {
            builder.trace(number, &trace);
        }
    }
    Ok(storage.put_trace_index(tenant, builder).await?)
}
