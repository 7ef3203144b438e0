//! What a tenant's split traces are as a whole: found once for the blocks that hold them, and kept with each block
//! ([`crate::parts`]) for as long as these blocks exist.
//!
//! Every trace that lies in several blocks is known here, or known but for its whole-trace values, for which there was no memory,
//! or it *waits*. What is not known is merged by each query that needs it, so being behind costs time, never an answer.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arrow::{
    array::{Array, AsArray},
    datatypes::Int32Type,
};
use block::{
    batch::SpanBatch,
    merge::whole_traces,
    schema,
    whole_trace::{NEEDED, SERVICE_NAME, trace_ranges},
};
use model::{AttributeScope, AttributeType, TraceId};
use ulid::Ulid;

use crate::{
    layout::Layout,
    parts::{BlockParts, PartRows, Texts, WholeValues},
    reads::Reads,
    request::QueryError,
    scan::Scan,
    source::Source,
};

/// Traces that are looked at together. About 150 bytes for each of their spans are in memory meanwhile.
const JOIN_TRACES_MAX: usize = 32_768;

/// Memory for the values of whole traces, over all tenants.
#[derive(Debug)]
pub struct ValuesMemory {
    bytes_max: u64,
    used: AtomicU64,
}

impl ValuesMemory {
    pub fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self { bytes_max, used: AtomicU64::new(0) })
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: u64) -> bool {
        let fits = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.bytes_max);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    fn give_back(&self, bytes: u64) {
        let _ = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| Some(used.saturating_sub(bytes)));
    }
}

pub struct Joins {
    memory: Arc<ValuesMemory>,
    /// What is taken of it, by block.
    taken: HashMap<Ulid, u64>,
    blocks: HashMap<Ulid, BlockParts>,
    /// Blocks of which something else is known than was told.
    changed: HashSet<Ulid>,
    /// Traces whose blocks have changed; what is known of them is to be forgotten.
    stale: HashSet<TraceId>,
    waiting: Arc<HashSet<TraceId>>,
    valueless: Arc<HashSet<TraceId>>,
    /// When these start, in Unix nanoseconds: the least that has to be known of them.
    starts: Arc<HashMap<TraceId, i64>>,
}

/// What was found of some traces: the rows of each place.
pub struct Joined(Vec<(Ulid, usize, PartRows)>);

impl Joins {
    pub fn new(memory: Arc<ValuesMemory>) -> Self {
        Self {
            memory,
            taken: HashMap::new(),
            blocks: HashMap::new(),
            changed: HashSet::new(),
            stale: HashSet::new(),
            waiting: Arc::default(),
            valueless: Arc::default(),
            starts: Arc::default(),
        }
    }

    /// The blocks of these traces have changed; `split` are those that still lie in several.
    pub fn change(&mut self, changed: &[TraceId], split: &HashSet<TraceId>) {
        if changed.is_empty() {
            return;
        }
        let (waiting, valueless) = (Arc::make_mut(&mut self.waiting), Arc::make_mut(&mut self.valueless));
        let starts = Arc::make_mut(&mut self.starts);
        for id in changed {
            valueless.remove(id);
            starts.remove(id);
            if !self.blocks.is_empty() {
                self.stale.insert(*id);
            }
            match split.contains(id) {
                true => waiting.insert(*id),
                false => waiting.remove(id),
            };
        }
    }

    /// The block is gone.
    pub fn forget(&mut self, block: Ulid) {
        self.blocks.remove(&block);
        self.changed.remove(&block);
        self.memory.give_back(self.taken.remove(&block).unwrap_or(0));
    }

    /// Forgets what is no longer so, and gives traces without values another chance if there is memory.
    pub fn tidy(&mut self) {
        if !self.stale.is_empty() {
            let stale = std::mem::take(&mut self.stale);
            for (block, parts) in &mut self.blocks {
                if parts.forget(&stale) {
                    self.changed.insert(*block);
                    let taken = self.taken.entry(*block).or_default();
                    let needed = parts.bytes().min(*taken);
                    self.memory.give_back(*taken - needed);
                    *taken = needed;
                }
            }
        }
        if !self.valueless.is_empty() && self.memory.used() < self.memory.bytes_max / 2 {
            let again = std::mem::take(&mut self.valueless);
            self.starts = Arc::default();
            for (block, parts) in &mut self.blocks {
                if parts.forget(&again) {
                    self.changed.insert(*block);
                }
            }
            Arc::make_mut(&mut self.waiting).extend(again.iter().copied());
        }
    }

    /// Traces to look at together, of those that wait and are `ready`; ascending over all, so that each lot takes few pages.
    pub fn lots(&self, ready: impl Fn(&TraceId) -> bool) -> Vec<Arc<Vec<TraceId>>> {
        let mut ids: Vec<TraceId> = self.waiting.iter().filter(|id| ready(id)).copied().collect();
        ids.sort_unstable();
        ids.chunks(JOIN_TRACES_MAX).map(|lot| Arc::new(lot.to_vec())).collect()
    }

    /// Keeps what was found of a lot.
    pub fn keep(&mut self, ids: &[TraceId], found: Joined) {
        let room = self.memory.take(found.0.iter().map(|(_, _, rows)| rows.bytes()).sum());
        if !room {
            Arc::make_mut(&mut self.valueless).extend(ids);
            Arc::make_mut(&mut self.starts).extend(found.0.iter().flat_map(|(_, _, rows)| rows.starts()));
        }
        for (block, row_group, rows) in found.0 {
            let rows = if room { rows } else { rows.without_values() };
            if rows.is_empty() {
                continue;
            }
            *self.taken.entry(block).or_default() += if room { rows.bytes() } else { 0 };
            self.blocks.entry(block).or_default().add(row_group, rows);
            self.changed.insert(block);
        }
        let waiting = Arc::make_mut(&mut self.waiting);
        for id in ids {
            waiting.remove(id);
        }
        if waiting.is_empty() {
            waiting.shrink_to_fit();
        }
    }

    /// The blocks of which something else is known than the last time this was asked.
    pub fn changed(&mut self) -> Vec<(Ulid, BlockParts)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|block| (block, self.blocks.get(&block).cloned().unwrap_or_default())).collect()
    }

    /// Split traces of which nothing is known.
    pub fn waiting(&self) -> &Arc<HashSet<TraceId>> {
        &self.waiting
    }

    /// Split traces of which only is known which of their rows are copies.
    pub fn valueless(&self) -> &Arc<HashSet<TraceId>> {
        &self.valueless
    }

    /// When those of which no more is known start, in Unix nanoseconds.
    pub fn starts(&self) -> &Arc<HashMap<TraceId, i64>> {
        &self.starts
    }
}

/// The columns of a layout that tell what a trace is as a whole.
pub fn columns(layout: &Layout) -> BTreeSet<String> {
    let mut columns: BTreeSet<String> = NEEDED.map(String::from).into();
    columns.insert(schema::attribute_column(AttributeScope::Resource, SERVICE_NAME, AttributeType::String));
    if layout.catalogue.get(AttributeScope::Resource, SERVICE_NAME).is_some_and(|entry| entry.in_list > 0) {
        columns.insert(schema::RESOURCE_ATTRIBUTES.to_owned());
    }
    columns
}

/// Finds what some traces are as a whole from the blocks that hold them, in the order in which they were received.
pub async fn join(blocks: Vec<(Ulid, Arc<Source>)>, ids: Arc<Vec<TraceId>>) -> Result<Joined, QueryError> {
    let reads = Arc::new(Reads::default());
    let (mut places, mut batches) = (vec![], vec![]);
    for (block, source) in blocks {
        let columns = columns(source.layout()).into_iter().collect();
        let scan = Scan { traces: Some(Arc::clone(&ids)), columns: Some(columns), ..Scan::default() };
        for unit in source.units(&scan, &reads)? {
            let Some((row_group, rows, records)) = unit.rows_of_traces(&scan, &reads).await? else { continue };
            if !rows.is_empty() {
                places.push((block, row_group, rows));
                batches.push(SpanBatch { records, catalogue: Arc::clone(&source.layout().catalogue) });
            }
        }
    }
    let (runs, whole) = whole_traces(&batches).map_err(QueryError::internal)?;
    // For each row of each place the row of the merged traces, if it is among them.
    let mut merged: Vec<Vec<Option<u32>>> = batches.iter().map(|batch| vec![None; batch.rows()]).collect();
    let mut at = 0;
    for run in runs {
        for row in run.start..run.start + run.len {
            merged[run.batch][row] = Some(at);
            at += 1;
        }
    }
    let texts = |names: &arrow::array::DictionaryArray<Int32Type>| names.values().as_string::<i32>().clone();
    let (services, names) = (texts(&whole.root_service_names), texts(&whole.root_span_names));
    let mut found = vec![];
    for (((block, row_group, rows), batch), merged) in places.into_iter().zip(&batches).zip(merged) {
        let (mut part_rows, mut known) = (PartRows::default(), Texts::default());
        let column = batch.records.column_by_name(schema::TRACE_ID).ok_or_else(|| QueryError::internal("rows without trace ids"))?;
        let trace_ids = column.as_fixed_size_binary();
        for trace in trace_ranges(trace_ids) {
            let id = TraceId::from_slice(trace_ids.value(trace.start)).unwrap_or_default();
            for row in trace.clone().filter(|row| merged[*row].is_none()) {
                part_rows.push_copy(rows[row], id);
            }
            let Some(any) = trace.clone().find_map(|row| merged[row]) else { continue };
            let numbers: Vec<[i32; 4]> = trace
                .clone()
                .map(|row| {
                    let of = |column: &arrow::array::Int32Array| merged[row].map_or(0, |at| column.value(at as usize));
                    [of(&whole.nested_left), of(&whole.nested_right), of(&whole.nested_parent), of(&whole.child_count)]
                })
                .collect();
            let any = any as usize;
            let values = WholeValues {
                start: whole.trace_starts.value(any),
                duration: whole.trace_durations.value(any),
                root_service: whole.root_service_names.key(any).filter(|key| services.is_valid(*key)).map(|key| services.value(key)),
                root_name: whole.root_span_names.key(any).filter(|key| names.is_valid(*key)).map(|key| names.value(key)),
            };
            part_rows.push(id, rows[trace.start], &numbers, values, &mut known);
        }
        found.push((block, row_group, part_rows));
    }
    Ok(Joined(found))
}
