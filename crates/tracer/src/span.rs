//! Spans, and how work finds the one it belongs to.

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use proto::otlp::{
    common::v1::{AnyValue, KeyValue, any_value},
    trace::v1::{self as otlp, Status, span::SpanKind, status::StatusCode},
};
use tokio::sync::mpsc;

use crate::{Context, Incoming};

/// Attributes of one span.
const ATTRIBUTES_MAX: usize = 32;
/// Characters of a text in a span.
const TEXT_CHARS_MAX: usize = 1024;

/// Kinds of work in the background, times tenants, that are remembered; with more, all are forgotten.
const BACKGROUND_MAX: usize = 10_000;

/// What is done for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Query,
    /// Spans are delivered.
    Ingest,
}

/// A handle; clones share everything.
#[derive(Clone)]
pub struct Tracer(Arc<Inner>);

struct Inner {
    queue: mpsc::Sender<otlp::Span>,
    sampling: Sampling,
    /// The tenant that the exports go to.
    tenant: Option<String>,
    /// Deliveries that are not our own exporter's.
    deliveries: AtomicU64,
    /// How many there were at the last span of this name for this tenant.
    seen: Mutex<HashMap<(&'static str, String), u64>>,
    counts: Arc<Counts>,
}

/// Which share is recorded of what comes without a decision. 0 to 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sampling {
    pub queries: f64,
    pub ingest: f64,
    /// Whether a request's own decision counts.
    pub follow_parents: bool,
    pub background: bool,
}

/// What became of spans.
#[derive(Debug, Default)]
pub struct Counts {
    /// All, at their end.
    pub recorded: AtomicU64,
    pub exported: AtomicU64,
    /// The queue was full.
    pub dropped: AtomicU64,
    /// The receiver did not take them.
    pub failed: AtomicU64,
}

impl Counts {
    pub fn recorded(&self) -> u64 {
        self.recorded.load(Relaxed)
    }

    /// Those that are no longer on their way.
    pub fn outcomes(&self) -> [(&'static str, u64); 3] {
        let read = |count: &AtomicU64| count.load(Relaxed);
        [("exported", read(&self.exported)), ("dropped", read(&self.dropped)), ("failed", read(&self.failed))]
    }
}

impl Tracer {
    pub(crate) fn new(queue: mpsc::Sender<otlp::Span>, sampling: Sampling, tenant: Option<String>) -> Self {
        let (deliveries, seen, counts) = (AtomicU64::new(0), Mutex::default(), Arc::default());
        Self(Arc::new(Inner { queue, sampling, tenant, deliveries, seen, counts }))
    }

    pub fn counts(&self) -> Arc<Counts> {
        self.0.counts.clone()
    }

    /// That the exports go to; `None` if they name none.
    pub fn tenant(&self) -> Option<&str> {
        self.0.tenant.as_deref()
    }

    /// Spans were delivered from outside.
    pub fn delivered(&self) {
        self.0.deliveries.fetch_add(1, Relaxed);
    }

    /// The span of a request, if it is recorded.
    pub fn request(&self, side: Side, incoming: Option<Incoming>, name: &'static str) -> Option<Span> {
        let sampling = self.0.sampling;
        let decided = incoming.as_ref().and_then(|incoming| incoming.sampled).filter(|_| sampling.follow_parents);
        let share = match side {
            Side::Query => sampling.queries,
            Side::Ingest => sampling.ingest,
        };
        if !decided.unwrap_or_else(|| rand::random::<f64>() < share) {
            return None;
        }
        let parent = incoming.and_then(|incoming| incoming.context);
        Some(self.span(parent, name, SpanKind::Server))
    }

    fn background(&self, name: &'static str, tenant: &str) -> Option<Span> {
        let Inner { sampling, deliveries, seen, .. } = &*self.0;
        if !sampling.background || self.tenant() == Some(tenant) {
            return None;
        }
        let (deliveries, mut seen) = (deliveries.load(Relaxed), seen.lock());
        if seen.len() >= BACKGROUND_MAX {
            seen.clear();
        }
        let before = seen.insert((name, tenant.to_owned()), deliveries);
        if before.unwrap_or(0) == deliveries {
            return None;
        }
        drop(seen);
        let mut span = self.span(None, name, SpanKind::Internal);
        span.set("sostenuto.tenant", tenant);
        Some(span)
    }

    fn span(&self, parent: Option<Context>, name: &'static str, kind: SpanKind) -> Span {
        let context = parent.as_ref().map_or_else(Context::root, Context::sibling);
        let span = otlp::Span {
            trace_id: context.trace_id.to_vec(),
            span_id: context.span_id.to_vec(),
            parent_span_id: parent.map_or_else(Vec::new, |parent| parent.span_id.to_vec()),
            trace_state: context.trace_state.clone(),
            flags: 1,
            name: name.to_owned(),
            kind: kind as i32,
            start_time_unix_nano: unix_nano(SystemTime::now()),
            ..otlp::Span::default()
        };
        Span { tracer: self.clone(), context, span, began: Instant::now() }
    }

    fn send(&self, span: otlp::Span) {
        self.0.counts.recorded.fetch_add(1, Relaxed);
        if self.0.queue.try_send(span).is_err() {
            self.0.counts.dropped.fetch_add(1, Relaxed);
        }
    }
}

fn unix_nano(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A value of an attribute.
pub enum Value {
    Text(String),
    Int(i64),
    Bool(bool),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.chars().take(TEXT_CHARS_MAX).collect())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::from(number as u64)
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Bool(truth)
    }
}

/// Work that is recorded, from where it is made to where it is dropped.
pub struct Span {
    tracer: Tracer,
    context: Context,
    span: otlp::Span,
    began: Instant,
}

impl Span {
    pub fn context(&self) -> &Context {
        &self.context
    }

    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        if self.span.attributes.len() == ATTRIBUTES_MAX {
            self.span.dropped_attributes_count += 1;
            return;
        }
        let value = match value.into() {
            Value::Text(text) => any_value::Value::StringValue(text),
            Value::Int(number) => any_value::Value::IntValue(number),
            Value::Bool(truth) => any_value::Value::BoolValue(truth),
        };
        self.span.attributes.push(KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) });
    }

    pub fn rename(&mut self, name: String) {
        self.span.name = name;
    }

    /// The work failed; the message may be empty.
    pub fn fail(&mut self, message: &str) {
        let message = message.chars().take(TEXT_CHARS_MAX).collect();
        self.span.status = Some(Status { code: StatusCode::Error as i32, message });
    }

    /// A part of this work, which begins now.
    pub fn child(&self, name: &'static str) -> Self {
        self.parent().child(name)
    }

    /// What makes children when the span itself is elsewhere.
    pub fn parent(&self) -> Parent {
        Parent { tracer: self.tracer.clone(), context: self.context.clone() }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let mut span = std::mem::take(&mut self.span);
        let took = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        span.end_time_unix_nano = span.start_time_unix_nano.saturating_add(took);
        self.tracer.send(span);
    }
}

/// A span that is recorded and may end at any time.
#[derive(Clone)]
pub struct Parent {
    tracer: Tracer,
    context: Context,
}

impl Parent {
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// A part of the work, which begins now.
    pub fn child(&self, name: &'static str) -> Span {
        self.tracer.span(Some(self.context.clone()), name, SpanKind::Internal)
    }

    /// A part of the work that is over. Returns it for its attributes and children; it ends when it did.
    pub fn past(&self, name: &'static str, began: SystemTime, took: Duration) -> Past {
        let mut span = self.child(name);
        span.span.start_time_unix_nano = unix_nano(began);
        Past(span, took)
    }
}

/// A span of a time that is over.
pub struct Past(Span, Duration);

impl Past {
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.0.set(key, value);
    }

    pub fn parent(&self) -> Parent {
        self.0.parent()
    }
}

impl Drop for Past {
    fn drop(&mut self) {
        // The span's own end is counted from here.
        let end = Instant::now();
        self.0.began = end.checked_sub(self.1).unwrap_or(end);
    }
}

/// The span of the request that a task works for.
#[derive(Clone)]
struct Current {
    parent: Parent,
    name: Arc<Mutex<Option<String>>>,
}

tokio::task_local! {
    static CURRENT: Current;
}

/// Does the work of a span: inside, [`current`] is the span. Returns it with the outcome.
pub async fn within<T>(mut span: Span, work: impl Future<Output = T>) -> (Span, T) {
    let name = Arc::<Mutex<Option<String>>>::default();
    let outcome = CURRENT.scope(Current { parent: span.parent(), name: name.clone() }, work).await;
    if let Some(name) = name.lock().take() {
        span.rename(name);
    }
    (span, outcome)
}

/// The span that this task works for, if it is recorded.
pub fn current() -> Option<Parent> {
    CURRENT.try_with(|current| current.parent.clone()).ok()
}

/// A part of work that may be recorded.
pub fn child(span: Option<&Span>, name: &'static str) -> Option<Span> {
    span.map(|span| span.child(name))
}

/// Gives the span that this task works for a name.
pub fn rename(name: impl FnOnce() -> String) {
    let _ = CURRENT.try_with(|current| *current.name.lock() = Some(name()));
}

static INSTALLED: OnceLock<Tracer> = OnceLock::new();

/// Makes this tracer the one of [`background`], for the rest of the process's life. The first one stays.
pub fn install(tracer: Tracer) {
    let _ = INSTALLED.set(tracer);
}

/// The first span of work that nobody asked for, for a tenant; `None` if it is not recorded.
pub fn background(name: &'static str, tenant: &str) -> Option<Span> {
    INSTALLED.get()?.background(name, tenant)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Sampling = Sampling { queries: 1.0, ingest: 0.0, follow_parents: true, background: true };

    fn tracer(queue: usize, sampling: Sampling) -> (Tracer, mpsc::Receiver<otlp::Span>) {
        let (sender, receiver) = mpsc::channel(queue);
        (Tracer::new(sender, sampling, Some("own".to_owned())), receiver)
    }

    fn incoming(sampled: Option<bool>) -> Option<Incoming> {
        Some(Incoming { context: Some(Context { trace_state: "a=1".to_owned(), ..Context::root() }), sampled })
    }

    #[test]
    fn a_parent_decides_and_a_share_decides_without() {
        let (tracer, _receiver) = tracer(10, ALL);
        let recorded = |side, incoming| tracer.request(side, incoming, "x").is_some();
        assert!(recorded(Side::Query, None) && !recorded(Side::Ingest, None));
        assert!(recorded(Side::Ingest, incoming(Some(true))) && !recorded(Side::Query, incoming(Some(false))));
        assert!(recorded(Side::Query, incoming(None)) && !recorded(Side::Ingest, incoming(None)));
        let (stubborn, _receiver) = super::tests::tracer(10, Sampling { follow_parents: false, ..ALL });
        assert!(stubborn.request(Side::Ingest, incoming(Some(true)), "x").is_none());
    }

    #[tokio::test]
    async fn spans_know_their_trace_their_parent_and_their_time() {
        let (tracer, mut receiver) = tracer(10, ALL);
        let parent = incoming(Some(true));
        let remote = parent.clone().unwrap().context.unwrap();
        let server = tracer.request(Side::Query, parent, "GET").unwrap();
        let (span, ()) = within(server, async {
            rename(|| "GET /api/search".to_owned());
            let began = SystemTime::now() - Duration::from_secs(5);
            let mut past = current().unwrap().past("query", began, Duration::from_secs(2));
            past.set("rows", 7_u64);
        })
        .await;
        assert!(current().is_none());
        drop(span);
        let (query, server) = (receiver.recv().await.unwrap(), receiver.recv().await.unwrap());
        assert_eq!((server.trace_id.as_slice(), server.parent_span_id.as_slice()), (&remote.trace_id[..], &remote.span_id[..]));
        assert_eq!((query.trace_id, query.parent_span_id), (server.trace_id, server.span_id));
        assert_eq!((server.name.as_str(), server.trace_state.as_str(), server.flags), ("GET /api/search", "a=1", 1));
        let took = query.end_time_unix_nano - query.start_time_unix_nano;
        assert!((2_000_000_000..3_000_000_000).contains(&took), "{took}");
        assert_eq!(query.attributes.len(), 1);
    }

    #[test]
    fn a_full_queue_loses_spans_and_counts_them() {
        let (tracer, _receiver) = tracer(1, ALL);
        for _ in 0..3 {
            tracer.request(Side::Query, None, "x");
        }
        assert_eq!(tracer.counts().outcomes(), [("exported", 0), ("dropped", 2), ("failed", 0)]);
    }

    #[test]
    fn work_in_the_background_is_recorded_only_after_a_delivery_from_outside() {
        let (tracer, _receiver) = tracer(10, ALL);
        assert!(tracer.background("flush", "a").is_none());
        tracer.delivered();
        assert!(tracer.background("flush", "own").is_none(), "the tenant of the exports");
        for (name, tenant) in [("flush", "a"), ("flush", "b"), ("compact", "a")] {
            assert!(tracer.background(name, tenant).is_some() && tracer.background(name, tenant).is_none(), "{name} {tenant}");
        }
    }
}
