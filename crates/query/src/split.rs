//! Which traces lie in more than one place: the *split* ones.
//!
//! Blocks never change, so what is known of them is kept: [`BlockTraces`] knows a block of every trace, and all blocks of
//! a split one. A block that comes or goes costs time for its own traces only. Live batches come and go with every
//! query; [`LiveTraces`] compares each new one with the blocks and with the other batches, once.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use arrow::array::AsArray;
use model::TraceId;
use ulid::Ulid;

use crate::source::{Source, SourceData, SourceId};

/// Some sets of traces, looked at as one.
#[derive(Clone, Default)]
pub struct TraceSet(Vec<Arc<HashSet<TraceId>>>);

impl TraceSet {
    pub fn of<const N: usize>(sets: [&Arc<HashSet<TraceId>>; N]) -> Self {
        Self(sets.into_iter().filter(|set| !set.is_empty()).cloned().collect())
    }

    /// With another set.
    pub fn and(mut self, set: &Arc<HashSet<TraceId>>) -> Self {
        self.0.extend(Some(set).filter(|set| !set.is_empty()).cloned());
        self
    }

    pub fn contains(&self, id: &TraceId) -> bool {
        self.0.iter().any(|set| set.contains(id))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// No fewer than there are traces; one may count twice.
    pub fn len_max(&self) -> usize {
        self.0.iter().map(|set| set.len()).sum()
    }

    /// Ascending, each once.
    pub fn ids(&self) -> Vec<TraceId> {
        let mut ids: Vec<TraceId> = self.0.iter().flat_map(|set| set.iter()).copied().collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

/// Names a block in [`BlockTraces`]; never used twice there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct BlockNumber(u32);

/// The traces of a tenant's blocks, about 40 bytes each.
#[derive(Default)]
pub struct BlockTraces {
    /// The blocks, with how many traces each has.
    numbers: HashMap<Ulid, (BlockNumber, usize)>,
    blocks: HashMap<BlockNumber, Ulid>,
    next: u32,
    /// A block that holds the trace. It may be gone: then no block holds it.
    one: HashMap<TraceId, BlockNumber>,
    /// All blocks of those traces that lie in several.
    several: HashMap<TraceId, Vec<BlockNumber>>,
    /// The keys of `several`.
    split: Arc<HashSet<TraceId>>,
    /// Entries of `one` that name a block which is gone, at most.
    stale: usize,
}

impl BlockTraces {
    /// Adds a block with these traces. Returns those that are split now and whose blocks have changed by this.
    pub fn add(&mut self, block: Ulid, ids: &[TraceId]) -> Vec<TraceId> {
        assert!(!self.numbers.contains_key(&block), "block {block} is added once");
        let number = BlockNumber(self.next);
        self.next += 1;
        self.numbers.insert(block, (number, ids.len()));
        self.blocks.insert(number, block);
        let mut changed = vec![];
        for id in ids {
            let one = self.one.entry(*id).or_insert(number);
            if *one == number {
                continue;
            }
            if let Some(several) = self.several.get_mut(id) {
                several.push(number);
            } else if self.blocks.contains_key(one) {
                self.several.insert(*id, vec![*one, number]);
                Arc::make_mut(&mut self.split).insert(*id);
            } else {
                *one = number;
                continue;
            }
            changed.push(*id);
        }
        changed
    }

    /// Forgets a block. Returns the traces that were split and whose blocks have changed by this; some may no longer be.
    pub fn remove(&mut self, block: Ulid) -> Vec<TraceId> {
        let Some((number, traces)) = self.numbers.remove(&block) else { return vec![] };
        self.blocks.remove(&number);
        let mut changed = vec![];
        self.several.retain(|id, several| {
            if let Some(at) = several.iter().position(|other| *other == number) {
                changed.push(*id);
                several.remove(at);
            }
            if let [one] = several[..] {
                self.one.insert(*id, one);
                Arc::make_mut(&mut self.split).remove(id);
            }
            several.len() > 1
        });
        // An entry of a split trace must name a block that is there.
        for id in &changed {
            if let Some(several) = self.several.get(id) {
                self.one.insert(*id, several[0]);
            }
        }
        self.stale += traces;
        if self.stale > self.one.len() / 2 {
            self.one.retain(|_, number| self.blocks.contains_key(number));
            self.stale = 0;
        }
        changed
    }

    /// Traces that lie in several blocks.
    pub fn split(&self) -> &Arc<HashSet<TraceId>> {
        &self.split
    }

    /// The blocks of a split trace; none for another.
    pub fn blocks_of(&self, id: &TraceId) -> impl Iterator<Item = Ulid> {
        self.several.get(id).into_iter().flatten().map(|number| self.blocks[number])
    }

    /// The split traces of which one of these blocks holds a part. Looks at all of them.
    pub fn split_in(&self, blocks: impl Iterator<Item = Ulid>) -> Arc<HashSet<TraceId>> {
        let numbers: HashSet<BlockNumber> = blocks.filter_map(|id| Some(self.numbers.get(&id)?.0)).collect();
        if numbers.is_empty() {
            return Arc::default();
        }
        let there = self.several.iter().filter(|(_, several)| several.iter().any(|number| numbers.contains(number)));
        Arc::new(there.map(|(id, _)| *id).collect())
    }

    /// Whether any block holds the trace.
    pub fn hold(&self, id: &TraceId) -> bool {
        self.one.get(id).is_some_and(|number| self.blocks.contains_key(number))
    }
}

/// The split traces of live batches.
#[derive(Default)]
pub struct LiveTraces {
    batches: HashMap<SourceId, BatchTraces>,
    /// Names the state of the blocks that batches were compared with.
    blocks_at: u64,
}

struct BatchTraces {
    ids: Arc<Vec<TraceId>>,
    /// Those that lie in a block too.
    in_blocks: Vec<TraceId>,
    /// Those that lie in an earlier batch too, by batch.
    in_batches: HashMap<SourceId, Vec<TraceId>>,
}

impl LiveTraces {
    /// The traces that lie in one of `batches` and in another or in a block. Forgets all other batches. `blocks_at` is
    /// another number whenever `blocks` has changed.
    pub fn split(&mut self, batches: &[Arc<Source>], blocks: &BlockTraces, blocks_at: u64) -> Arc<HashSet<TraceId>> {
        let in_blocks = |ids: &[TraceId]| ids.iter().filter(|id| blocks.hold(id)).copied().collect();
        if self.blocks_at != blocks_at {
            self.blocks_at = blocks_at;
            for traces in self.batches.values_mut() {
                traces.in_blocks = in_blocks(&traces.ids);
            }
        }
        let mut current: HashMap<SourceId, BatchTraces> = HashMap::new();
        let mut split = HashSet::new();
        for (at, batch) in batches.iter().enumerate() {
            let mut traces = self.batches.remove(&batch.id).unwrap_or_else(|| {
                let ids = Arc::new(batch_ids(batch));
                BatchTraces { in_blocks: in_blocks(&ids), ids, in_batches: HashMap::new() }
            });
            let mut known = std::mem::take(&mut traces.in_batches);
            for earlier in &batches[..at] {
                let shared = known.remove(&earlier.id).unwrap_or_else(|| shared(&traces.ids, &current[&earlier.id].ids));
                split.extend(shared.iter().copied());
                traces.in_batches.insert(earlier.id, shared);
            }
            split.extend(traces.in_blocks.iter().copied());
            current.insert(batch.id, traces);
        }
        self.batches = current;
        Arc::new(split)
    }
}

/// The distinct ids of the traces in a batch, ascending.
fn batch_ids(batch: &Source) -> Vec<TraceId> {
    let SourceData::Memory(batch, _) = &batch.data else { unreachable!("live data is in memory") };
    let column = batch.records.column(0).as_fixed_size_binary();
    let mut ids: Vec<TraceId> = (0..batch.records.num_rows()).filter_map(|row| TraceId::from_slice(column.value(row))).collect();
    ids.dedup();
    ids
}

/// What two ascending lists have in common.
fn shared(a: &[TraceId], b: &[TraceId]) -> Vec<TraceId> {
    let (few, many) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    let mut rest = many;
    let mut shared = vec![];
    for id in few {
        let at = rest.partition_point(|other| other < id);
        rest = &rest[at..];
        if rest.first() == Some(id) {
            shared.push(*id);
        }
    }
    shared
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn id(number: u8) -> TraceId {
        TraceId([number; 16])
    }

    proptest! {
        /// Blocks come and go in any order; what is known of their traces is what a look at all of them would say.
        #[test]
        fn the_index_knows_what_the_blocks_hold(
            steps in prop::collection::vec((0_u64..12, prop::collection::btree_set(0_u8..24, 1..10)), 1..60),
        ) {
            let mut index = BlockTraces::default();
            let mut blocks: BTreeMap<Ulid, BTreeSet<u8>> = BTreeMap::new();
            for (block, traces) in steps {
                let block = Ulid::from_parts(block, 0);
                let before: Vec<BTreeSet<Ulid>> = (0..24).map(|n| index.blocks_of(&id(n)).collect()).collect();
                let changed = match blocks.remove(&block) {
                    Some(_) => index.remove(block),
                    None => {
                        let changed = index.add(block, &traces.iter().map(|n| id(*n)).collect::<Vec<_>>());
                        blocks.insert(block, traces);
                        changed
                    }
                };
                let changed: HashSet<TraceId> = changed.into_iter().collect();
                for number in 0..24 {
                    let holders: BTreeSet<Ulid> =
                        blocks.iter().filter(|(_, traces)| traces.contains(&number)).map(|(block, _)| *block).collect();
                    let found: BTreeSet<Ulid> = index.blocks_of(&id(number)).collect();
                    prop_assert_eq!(index.hold(&id(number)), !holders.is_empty(), "trace {}", number);
                    prop_assert_eq!(index.split().contains(&id(number)), holders.len() > 1, "trace {}", number);
                    prop_assert_eq!(changed.contains(&id(number)), found != before[usize::from(number)], "trace {}", number);
                    if holders.len() > 1 {
                        prop_assert_eq!(found, holders);
                    }
                }
            }
        }
    }

    #[test]
    fn lists_in_order_are_compared_in_one_pass() {
        let list = |numbers: &[u8]| numbers.iter().map(|n| id(*n)).collect::<Vec<_>>();
        assert_eq!(shared(&list(&[1, 3, 5, 9]), &list(&[0, 1, 2, 5, 6, 7])), list(&[1, 5]));
        assert_eq!(shared(&[], &list(&[1])), []);
    }
}
