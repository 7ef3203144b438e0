//! How far a search has got: the newest traces that match, and the split ones that are still to be judged.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::{AtomicI64, Ordering}},
};

use model::TraceId;

use super::plan::Plan;
use crate::{
    reads::Reads,
    request::{QueryError, SearchRequest},
    source::Sources,
    spansets::{BoundPipeline, Sides},
};

/// Traces that are merged and judged, in the first lot; each further one is twice as large.
pub(super) const JUDGED_FIRST: usize = 64;

/// A trace that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Winner {
    pub start: i64,
    pub id: TraceId,
}

/// What one unit brings.
#[derive(Default)]
pub(super) struct UnitResult {
    pub winners: Vec<Winner>,
    /// Split traces with rows that match, to be evaluated whole, when they start at the latest, and what these rows pass.
    pub touched: Vec<(Winner, Sides)>,
    pub traces: u32,
}

/// What is known of a split trace that may match.
#[derive(Clone, Copy)]
pub(super) struct Pending {
    /// When it starts at the latest.
    pub latest: i64,
    pub sides: Sides,
}

/// What each takes in memory, about.
pub(super) const PENDING_BYTES: usize = 64;

/// How far a search has got in one tenant.
pub(super) struct Hunt<'a> {
    pub sources: &'a Sources,
    pub plan: &'a Arc<Plan>,
    pub request: &'a SearchRequest,
    pub reads: &'a Arc<Reads>,
    /// The newest that match, newest first.
    pub winners: Vec<Winner>,
    /// Split traces that may match, as far as their parts were found.
    pub pending: HashMap<TraceId, Pending>,
    /// So many of them have parts that pass all that it takes.
    pub ready: usize,
    /// Says so; `None` if one part is enough.
    pub pipeline: Option<BoundPipeline>,
    pub judged: HashSet<TraceId>,
    /// So many pending ones are judged at once.
    pub due: usize,
    /// No trace that starts before can be among the newest: a full list of later ones is known.
    pub oldest_wanted: Arc<AtomicI64>,
    pub inspected: u32,
}

impl<'a> Hunt<'a> {
    pub fn new(sources: &'a Sources, plan: &'a Arc<Plan>, request: &'a SearchRequest, reads: &'a Arc<Reads>) -> Result<Self, QueryError> {
        // Filters have the same numbers in all layouts.
        let layout = sources.all.first().map(|source| source.layout()).filter(|_| !plan.single && plan.legacy.is_none());
        let pipeline = layout.map(|layout| BoundPipeline::bind(&plan.pipeline, layout)).transpose()?;
        let oldest_wanted = Arc::new(AtomicI64::new(i64::MIN));
        let due = request.limit.max(JUDGED_FIRST);
        let (winners, pending, judged) = (vec![], HashMap::new(), HashSet::new());
        Ok(Self { sources, plan, request, reads, winners, pending, ready: 0, pipeline, judged, due, oldest_wanted, inspected: 0 })
    }

    pub fn take(&mut self, result: UnitResult) {
        self.inspected += result.traces;
        for (Winner { start, id }, sides) in result.touched {
            if !self.judged.contains(&id) {
                let before = self.pending.get(&id).copied();
                let known = before.map_or(Pending { latest: start, sides }, |known| Pending { latest: start.min(known.latest), sides: known.sides.and(sides) });
                self.ready += usize::from(self.is_ready(&known) && !before.is_some_and(|before| self.is_ready(&before)));
                self.pending.insert(id, known);
            }
        }
        self.won(result.winners);
    }

    pub fn is_ready(&self, known: &Pending) -> bool {
        self.pipeline.as_ref().is_none_or(|pipeline| pipeline.may_match(known.sides))
    }

    /// Takes those that may match by what is known of them now. Others may have parts that were not looked at yet.
    pub fn take_ready(&mut self) -> Vec<Winner> {
        let pending = std::mem::take(&mut self.pending);
        let (ready, rest): (Vec<_>, Vec<_>) = pending.into_iter().partition(|(_, known)| self.is_ready(known));
        self.pending = rest.into_iter().collect();
        self.ready = 0;
        ready.into_iter().map(|(id, known)| Winner { start: known.latest, id }).collect()
    }

    pub fn won(&mut self, winners: Vec<Winner>) {
        self.winners.extend(winners);
        keep_newest(&mut self.winners, self.request.limit);
        if let Some(last) = self.winners.get(self.request.limit.wrapping_sub(1)) {
            self.oldest_wanted.fetch_max(last.start, Ordering::Relaxed);
        }
    }

    pub fn wants(&self, start: i64) -> bool {
        start >= self.oldest_wanted.load(Ordering::Relaxed)
    }
}

/// The winners that stay, whatever is still found: those that start after `end`, when the newest span of any source not
/// yet read ends, and that `others` traces, judged later, cannot push out of the answer.
pub(super) fn certain(winners: &[Winner], end: i64, others: usize, limit: usize) -> &[Winner] {
    let newer = winners.partition_point(|winner| winner.start > end);
    &winners[..newer.min(limit.saturating_sub(others))]
}

pub(super) fn keep_newest(winners: &mut Vec<Winner>, limit: usize) {
    winners.sort_unstable_by_key(|w| (std::cmp::Reverse(w.start), w.id));
    winners.dedup();
    winners.truncate(limit);
}
