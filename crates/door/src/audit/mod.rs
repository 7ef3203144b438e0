//! Who asked what, when, of which tenant, and what came of it: one line of JSON for each request.
//!
//! - Questions, administration and refusals are written down; deliveries of spans only if the settings say so, and what
//!   anybody may ask never.
//! - A line is queued when the answer has been sent, or its client has gone; the queue is bounded, and a line for which
//!   there is no room is counted as dropped. No request waits for the log.
//! - Lines hold no credentials and no results. They hold questions, which may name what somebody looks for.

mod line;
mod watched;
mod writer;

use std::{
    cell::RefCell,
    future::Future,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{SyncSender, sync_channel},
    },
    thread,
};

use http::Response;
use listen::ResponseBody;

pub(crate) use line::Opened;
use watched::Watched;
use writer::Output;

/// Lines that wait to be written: about 500 bytes each.
const QUEUE_LINES_MAX: usize = 8192;
/// Of a question.
const ASKED_BYTES_MAX: usize = 4096;

#[derive(Clone, Debug)]
pub struct AuditSettings {
    pub output: AuditOutput,
    /// Whether deliveries of spans are written down too.
    pub writes: bool,
}

#[derive(Clone, Debug)]
pub enum AuditOutput {
    Stderr,
    /// When it has `bytes_max`, it becomes `<path>.1`, that `<path>.2`, and so on; `files_max` in all.
    File { path: PathBuf, bytes_max: u64, files_max: usize },
}

#[derive(Debug, thiserror::Error)]
#[error("cannot write the audit log {}: {source}", path.display())]
pub struct AuditError {
    path: PathBuf,
    source: std::io::Error,
}

/// A handle; clones share everything.
#[derive(Clone)]
pub struct Audit(Arc<Shared>);

struct Shared {
    queue: std::sync::Mutex<Option<SyncSender<Vec<u8>>>>,
    writer: std::sync::Mutex<Option<thread::JoinHandle<()>>>,
    writes: bool,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    written: AtomicU64,
    dropped: AtomicU64,
}

impl Audit {
    /// # Errors
    /// The file cannot be opened.
    pub fn open(settings: AuditSettings) -> Result<Self, AuditError> {
        let output = Output::open(settings.output)?;
        let (queue, lines) = sync_channel(QUEUE_LINES_MAX);
        let counts = Arc::new(Counts::default());
        let counted = counts.clone();
        let writer = thread::spawn(move || writer::run(output, &lines, &counted));
        Ok(Self(Arc::new(Shared {
            queue: Some(queue).into(),
            writer: Some(writer).into(),
            writes: settings.writes,
            counts,
        })))
    }

    /// Lines written, and lines dropped for want of room or because they could not be written.
    pub fn counts(&self) -> [(&'static str, u64); 2] {
        [("written", self.0.counts.written.load(Relaxed)), ("dropped", self.0.counts.dropped.load(Relaxed))]
    }

    /// Writes what is queued. Later lines are dropped and counted.
    pub fn close(&self) {
        drop(lock(&self.0.queue).take());
        if let Some(writer) = lock(&self.0.writer).take()
            && writer.join().is_err()
        {
            tracing::error!("a panic in the audit log's writer");
        }
    }

    /// The answer, whose end is the end of the line.
    pub(crate) fn watch(&self, opened: Opened, response: Response<ResponseBody>) -> Response<ResponseBody> {
        match opened.is_written(self.0.writes) {
            true => Watched::around(opened, self.clone(), response),
            false => response,
        }
    }

    fn push(&self, line: Vec<u8>) {
        let queued = lock(&self.0.queue).as_ref().is_some_and(|queue| queue.try_send(line).is_ok());
        if !queued {
            self.0.counts.dropped.fetch_add(1, Relaxed);
        }
    }
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

tokio::task_local! {
    /// What the request that this task answers asks for.
    static ASKED: RefCell<Option<String>>;
}

/// Tells the audit log the question of the request that is being answered, which its path need not say. Once is enough;
/// the last one stays. Does nothing where nothing is written down.
pub fn note(question: &str) {
    let _ = ASKED.try_with(|asked| {
        let mut end = question.len().min(ASKED_BYTES_MAX);
        while !question.is_char_boundary(end) {
            end -= 1;
        }
        *asked.borrow_mut() = Some(question[..end].to_owned());
    });
}

/// Runs the answer to a request, and hears its question.
pub(crate) async fn listening<T>(answer: impl Future<Output = T>) -> (T, Option<String>) {
    let heard = async {
        let answer = answer.await;
        (answer, ASKED.with(RefCell::take))
    };
    ASKED.scope(RefCell::default(), heard).await
}
