//! Making batches of full runs, behind the back of those who push.
//!
//! Sorting the spans of a run takes several milliseconds, which nobody should wait for who only wants an acknowledgement. So
//! one thread makes them, which gives way to others. Whoever needs a run before its turn, to query or to flush it, makes it
//! himself; it is made once.

use std::sync::{
    Arc, OnceLock,
    mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
};

use block::{batch::SpanBatch, builder::Filled};
use parking_lot::Mutex;

/// Runs that wait for the thread. Whoever brings more makes them himself: then pushes come too fast, and slow down.
const WAITING_MAX: usize = 2;

/// Spans of one tenant in the order in which they came, or as a batch.
pub struct Run {
    pub number: u64,
    /// Until it is made.
    rows: usize,
    /// What it takes until it is made, about.
    bytes: usize,
    filled: Mutex<Option<Filled>>,
    made: OnceLock<Made>,
}

struct Made {
    batch: SpanBatch,
    bytes: usize,
}

impl Run {
    pub fn new(number: u64, filled: Filled) -> Self {
        Self { number, rows: filled.rows(), bytes: filled.bytes(), filled: Mutex::new(Some(filled)), made: OnceLock::new() }
    }

    pub fn made(number: u64, batch: SpanBatch) -> Self {
        let bytes = batch.records.get_array_memory_size();
        Self { number, rows: batch.rows(), bytes, filled: Mutex::new(None), made: OnceLock::from(Made { batch, bytes }) }
    }

    /// Makes it, or waits for who is at it, if it is not made yet.
    pub fn batch(&self) -> &SpanBatch {
        let made = self.made.get_or_init(|| {
            let filled = self.filled.lock().take().expect("a run is made once");
            let batch = filled.finish();
            Made { bytes: batch.records.get_array_memory_size(), batch }
        });
        &made.batch
    }

    pub fn is_made(&self) -> bool {
        self.made.get().is_some()
    }

    /// Re-deliveries are counted until it is made.
    pub fn rows(&self) -> usize {
        self.made.get().map_or(self.rows, |made| made.batch.rows())
    }

    pub fn bytes(&self) -> usize {
        self.made.get().map_or(self.bytes, |made| made.bytes)
    }
}

/// A handle to the thread, which ends with the last one.
#[derive(Clone)]
pub struct Sealer {
    queue: SyncSender<Arc<Run>>,
}

impl Sealer {
    pub fn start() -> Self {
        let (queue, full) = sync_channel(WAITING_MAX);
        if let Err(error) = std::thread::Builder::new().name("seal".to_owned()).spawn(move || seal_all(full)) {
            // The queue has no end then, and everybody seals for himself.
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot start the thread that seals runs; requests do it");
        }
        Self { queue }
    }

    /// Sees to it that the run is made soon.
    pub fn seal(&self, run: Arc<Run>) {
        if let Err(error) = self.queue.try_send(run) {
            let (TrySendError::Full(run) | TrySendError::Disconnected(run)) = error;
            run.batch();
        }
    }
}

fn seal_all(full: Receiver<Arc<Run>>) {
    background::give_way();
    while let Ok(run) = full.recv() {
        run.batch();
    }
}

#[cfg(test)]
mod tests {
    use block::builder::{AttributeLimits, SpanBatchBuilder};
    use prost::Message;
    use proto::otlp::{
        collector::trace::v1::ExportTraceServiceRequest,
        trace::v1::{ResourceSpans, ScopeSpans, Span},
    };

    use super::*;

    fn filled(spans: u64) -> Filled {
        let spans = (1..=spans).map(|id| Span { trace_id: vec![9; 16], span_id: id.to_be_bytes().to_vec(), ..Default::default() });
        let scope = ScopeSpans { spans: spans.collect(), ..Default::default() };
        let resource = ResourceSpans { scope_spans: vec![scope], ..Default::default() };
        let request = ExportTraceServiceRequest { resource_spans: vec![resource] }.encode_to_vec();
        let mut builder = SpanBatchBuilder::new(AttributeLimits::default());
        builder.append_request(&request, |_| panic!("one batch")).unwrap();
        builder.take()
    }

    #[test]
    fn every_run_is_made_once_whoever_asks() {
        let sealer = Sealer::start();
        let runs: Vec<Arc<Run>> = (0..20).map(|number| Arc::new(Run::new(number, filled(300)))).collect();
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| runs.iter().rev().map(|run| run.batch().rows()).sum::<usize>());
            runs.iter().for_each(|run| sealer.seal(run.clone()));
            assert_eq!(asking.join().unwrap(), 20 * 300);
        });
        assert!(runs.iter().all(|run| run.is_made() && run.rows() == 300 && run.bytes() > 0));
    }

    #[test]
    fn without_the_thread_runs_are_made_at_once() {
        let (queue, full) = sync_channel(WAITING_MAX);
        drop(full);
        let run = Arc::new(Run::new(1, filled(3)));
        assert!(!run.is_made());
        Sealer { queue }.seal(run.clone());
        assert!(run.is_made());
    }
}
