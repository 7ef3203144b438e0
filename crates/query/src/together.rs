//! Split traces put together: merged once from their blocks, and kept in memory for as long as these blocks exist.
//!
//! Every trace that lies in several blocks is either in one chunk here or *waits*. What waits is merged by each query that
//! needs it, so being behind costs time, never an answer.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use model::TraceId;

use crate::{
    engine::MERGE_TRACES_MAX,
    source::Source,
    split::TraceSet,
};

/// Spans of split traces that are kept in memory per tenant: about 1 GiB at the most, some hundred bytes each.
const ROWS_MAX: usize = 2_000_000;
/// A chunk with fewer traces that are still right is made anew together with others.
const CHUNK_TRACES_MIN: usize = MERGE_TRACES_MAX / 2;

#[derive(Default)]
pub struct Together {
    chunks: BTreeMap<u64, Chunk>,
    next: u64,
    chunk_of: HashMap<TraceId, u64>,
    waiting: Arc<HashSet<TraceId>>,
}

struct Chunk {
    source: Arc<Source>,
    rows: usize,
    ids: Arc<Vec<TraceId>>,
    /// Those whose blocks have changed since.
    outdated: Arc<HashSet<TraceId>>,
}

impl Together {
    /// The blocks of these traces have changed; `split` are those that still lie in several.
    pub fn change(&mut self, changed: &[TraceId], split: &HashSet<TraceId>) {
        if changed.is_empty() {
            return;
        }
        let waiting = Arc::make_mut(&mut self.waiting);
        for id in changed {
            if let Some(chunk) = self.chunk_of.remove(id).and_then(|number| self.chunks.get_mut(&number)) {
                Arc::make_mut(&mut chunk.outdated).insert(*id);
            }
            match split.contains(id) {
                true => waiting.insert(*id),
                false => waiting.remove(id),
            };
        }
    }

    /// Drops what is of no more use, and lets small chunks wait to be made anew together.
    pub fn tidy(&mut self) {
        let least = if self.waiting.is_empty() { 1 } else { CHUNK_TRACES_MIN };
        let small = |chunk: &Chunk| chunk.ids.len() - chunk.outdated.len() < least;
        let dissolved: HashSet<u64> = self.chunks.iter().filter(|(_, chunk)| small(chunk)).map(|(number, _)| *number).collect();
        if dissolved.is_empty() {
            return;
        }
        self.chunks.retain(|number, _| !dissolved.contains(number));
        let waiting = Arc::make_mut(&mut self.waiting);
        self.chunk_of.retain(|id, number| {
            let keep = !dissolved.contains(number);
            if !keep {
                waiting.insert(*id);
            }
            keep
        });
    }

    /// Traces to merge next, ascending, of those that are `ready`; none if all is done or memory for them is used up.
    pub fn next(&self, ready: impl Fn(&TraceId) -> bool) -> Option<Arc<Vec<TraceId>>> {
        let rows: usize = self.chunks.values().map(|chunk| chunk.rows).sum();
        if rows >= ROWS_MAX {
            return None;
        }
        let mut ids: Vec<TraceId> = self.waiting.iter().filter(|id| ready(id)).take(MERGE_TRACES_MAX).copied().collect();
        ids.sort_unstable();
        (!ids.is_empty()).then(|| Arc::new(ids))
    }

    /// Keeps `source`, which holds all spans of `ids`.
    pub fn keep(&mut self, ids: Arc<Vec<TraceId>>, source: Arc<Source>, rows: usize) {
        let waiting = Arc::make_mut(&mut self.waiting);
        for id in ids.iter() {
            waiting.remove(id);
            self.chunk_of.insert(*id, self.next);
        }
        self.chunks.insert(self.next, Chunk { source, rows, ids, outdated: Arc::default() });
        self.next += 1;
    }

    /// Split traces that are not here.
    pub fn waiting(&self) -> &Arc<HashSet<TraceId>> {
        &self.waiting
    }

    /// Each chunk, and what to leave out of it: what is outdated, and what is `loose`.
    pub fn sources(&self, loose: &TraceSet) -> Vec<(Arc<Source>, TraceSet)> {
        self.chunks.values().map(|chunk| (Arc::clone(&chunk.source), loose.clone().and(&chunk.outdated))).collect()
    }
}
