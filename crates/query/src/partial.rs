//! What a query tells before it is over.
//!
//! A search tells traces. A trace is told once it is certain to be in the answer, with all that the answer says of it: no source still to be
//! read has spans as new, and the traces that are judged last, those with parts in blocks and in live data, are too
//! few to push it out. A metrics query tells its samples as they are so far: later ones take their place, and what the
//! answer has not it takes back. Whoever is slow to listen hears less; the answer itself is whole in any case.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use model::TraceId;
use proto::tempopb::{SearchMetrics, SearchResponse, TraceSearchMetadata};
use tokio::sync::mpsc;

/// Messages that may wait to be heard. One more is not sent.
pub(crate) const WAITING_MAX: usize = 4;

/// The teller's end, for one query.
pub struct Partial<T> {
    sender: mpsc::Sender<T>,
    every: Duration,
}

impl<T> Partial<T> {
    /// A message at most `every` so often: what is new since the last one, and how far the query is.
    pub fn channel(every: Duration) -> (Self, mpsc::Receiver<T>) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        (Self { sender, every }, receiver)
    }

    /// Whether it is time for a message that someone hears.
    pub(crate) fn due(&self, last: Instant) -> bool {
        self.sender.capacity() > 0 && last.elapsed() >= self.every
    }

    /// Whether it will be heard, if the client stays.
    pub(crate) fn tell(&self, message: T) -> bool {
        // Full or closed: the answer says it all again.
        self.sender.try_send(message).is_ok()
    }
}

/// One attempt at a search.
pub(crate) struct Progress<'a> {
    partial: Option<&'a Partial<SearchResponse>>,
    last: Instant,
    /// Sources read, and all of them.
    pub done: u32,
    pub all: u32,
    /// Traces looked at.
    pub inspected: u32,
    /// What was told: it stands in the answer as it was.
    pub told: Vec<TraceSearchMetadata>,
}

impl<'a> Progress<'a> {
    pub fn new(partial: Option<&'a Partial<SearchResponse>>) -> Self {
        Self { partial, last: Instant::now(), done: 0, all: 0, inspected: 0, told: vec![] }
    }

    /// Whether it is time for a message that someone hears.
    pub fn due(&self) -> bool {
        self.partial.is_some_and(|partial| partial.due(self.last))
    }

    /// Tells further traces. The work after the last source counts as one more part.
    pub fn tell(&mut self, traces: Vec<TraceSearchMetadata>, metrics: SearchMetrics) {
        let Some(partial) = self.partial else { return };
        let metrics = SearchMetrics { completed_jobs: self.done, total_jobs: self.all + 1, ..metrics };
        self.told.extend(traces.iter().cloned());
        partial.tell(SearchResponse { traces, metrics: Some(metrics) });
        self.last = Instant::now();
    }

    /// Removes what was told already.
    pub fn leave_out_told<T>(&self, found: &mut Vec<T>, id: impl Fn(&T) -> TraceId) {
        if !self.told.is_empty() {
            let told: HashSet<&str> = self.told.iter().map(|trace| trace.trace_id.as_str()).collect();
            found.retain(|one| !told.contains(id(one).short_hex().as_str()));
        }
    }
}
