//! What the thread that reads, the tasks that store and whoever watches have in common: the ledger and the counters.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use crate::{
    Config, OnError,
    ledger::{Again, Doing, Ledger, Place, Ticket},
};

/// Messages that are given up and errors of librdkafka are logged one by one, but not more than these in a [`LOG_INTERVAL`].
const LOG_LINES_MAX: u32 = 20;
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The name of what librdkafka reports when the last broker is away, after the reason.
const NOBODY_LEFT: &str = "AllBrokersDown";

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) ledger: Mutex<Ledger>,
    /// Something was done or refused.
    pub(crate) changed: Condvar,
    counted: Counted,
    lines: Mutex<(Option<Instant>, u32)>,
}

#[derive(Default)]
struct Counted {
    topics: Mutex<BTreeMap<Arc<str>, TopicCounts>>,
    discarded: [AtomicU64; Discarded::ALL.len()],
    refusals: AtomicU64,
    commits: AtomicU64,
    commit_failures: AtomicU64,
    offsets_skipped: AtomicU64,
    errors: Mutex<BTreeMap<String, u64>>,
    broker: Mutex<Broker>,
}

/// What librdkafka said last.
#[derive(Default)]
struct Broker {
    error: Option<String>,
    lags: BTreeMap<Place, u64>,
}

/// Why a message can never be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Discarded {
    Malformed,
    TooLarge,
    /// No span of it is valid.
    Rejected,
    NoTenant,
    /// We broke down over it again and again.
    Internal,
}

impl Discarded {
    const ALL: [Self; 5] = [Self::Malformed, Self::TooLarge, Self::Rejected, Self::NoTenant, Self::Internal];

    fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::Rejected => "rejected",
            Self::NoTenant => "no_tenant",
            Self::Internal => "internal",
        }
    }
}

/// A reading of the counters, and how things are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    pub topics: BTreeMap<String, TopicCounts>,
    /// Messages that were given up, or that stop their partition, by reason.
    pub discarded: Vec<(&'static str, u64)>,
    /// How often the store told a message to come again.
    pub refusals: u64,
    /// Commits of offsets that brokers confirmed, and that failed and are tried again.
    pub commits: u64,
    pub commit_failures: u64,
    /// Offsets between messages: markers of transactions, messages that were compacted away, and those that were deleted
    /// before they were read.
    pub offsets_skipped: u64,
    /// Errors that librdkafka reported, by its name for them.
    pub errors: BTreeMap<String, u64>,
    /// The last of them, unless a message came since.
    pub last_error: Option<String>,
    /// Those that are assigned to us.
    pub partitions: Vec<PartitionCounts>,
    /// Memory of messages that are being stored.
    pub under_way_bytes: u64,
}

/// Of one topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopicCounts {
    pub messages: u64,
    /// Of messages as they lie in the topic, uncompressed.
    pub bytes: u64,
    /// Spans that are durable.
    pub spans: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionCounts {
    pub topic: String,
    pub partition: i32,
    /// Messages behind the last one that is durable. `None` until a broker told.
    pub lag: Option<u64>,
    pub doing: Doing,
}

impl Shared {
    pub(crate) fn new(config: Config) -> Self {
        let ledger = Mutex::new(Ledger::new(config.under_way_bytes_max));
        Self { config, ledger, changed: Condvar::new(), counted: Counted::default(), lines: Mutex::default() }
    }

    pub(crate) fn counts(&self) -> Counts {
        let Counted { topics, discarded, refusals, commits, commit_failures, offsets_skipped, errors, broker } =
            &self.counted;
        let (ledger, broker) = (self.ledger.lock(), broker.lock());
        let partitions = ledger.doing().map(|(place, doing)| PartitionCounts {
            topic: place.0.to_string(),
            partition: place.1,
            lag: broker.lags.get(place).copied(),
            doing,
        });
        Counts {
            topics: topics.lock().iter().map(|(topic, counts)| (topic.to_string(), *counts)).collect(),
            discarded: Discarded::ALL
                .iter()
                .zip(discarded)
                .map(|(reason, count)| (reason.as_str(), count.load(Relaxed)))
                .collect(),
            refusals: refusals.load(Relaxed),
            commits: commits.load(Relaxed),
            commit_failures: commit_failures.load(Relaxed),
            offsets_skipped: offsets_skipped.load(Relaxed),
            errors: errors.lock().clone(),
            last_error: broker.error.clone(),
            partitions: partitions.collect(),
            under_way_bytes: ledger.bytes() as u64,
        }
    }

    pub(crate) fn message(&self, topic: &Arc<str>, bytes: usize, skipped: u64) {
        self.counted.offsets_skipped.fetch_add(skipped, Relaxed);
        self.counted.broker.lock().error = None;
        let mut topics = self.counted.topics.lock();
        let counts = topics.entry(Arc::clone(topic)).or_default();
        counts.messages += 1;
        counts.bytes += bytes as u64;
    }

    pub(crate) fn committed(&self, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => self.counted.commits.fetch_add(1, Relaxed),
            Err(why) => {
                self.log(|| tracing::warn!("Kafka did not take a commit of offsets, which is tried again: {why}"));
                self.counted.commit_failures.fetch_add(1, Relaxed)
            }
        };
    }

    pub(crate) fn lags(&self, lags: BTreeMap<Place, u64>) {
        self.counted.broker.lock().lags = lags;
    }

    /// What librdkafka reports; it goes on by itself.
    pub(crate) fn error(&self, name: String, reason: &str) {
        self.log(|| tracing::warn!(error = name, "Kafka: {reason}"));
        // That nobody is left says less than why.
        let mut broker = self.counted.broker.lock();
        if broker.error.is_none() || name != NOBODY_LEFT {
            broker.error = Some(format!("{name}: {reason}"));
        }
        drop(broker);
        *self.counted.errors.lock().entry(name).or_default() += 1;
    }

    /// Logs, unless much was logged lately.
    pub(crate) fn log(&self, line: impl FnOnce()) {
        let mut lines = self.lines.lock();
        if lines.0.is_none_or(|began| began.elapsed() >= LOG_INTERVAL) {
            *lines = (Some(Instant::now()), 0);
        }
        lines.1 += 1;
        match lines.1 {
            ..=LOG_LINES_MAX => line(),
            number if number == LOG_LINES_MAX + 1 => {
                tracing::warn!("Kafka: more of the kind is not logged for {LOG_INTERVAL:?}; the metrics count it");
            }
            _ => {}
        }
    }
}

/// A message under way. Its memory is given back when this is dropped.
pub(crate) struct Flight {
    pub(crate) shared: Arc<Shared>,
    pub(crate) ticket: Ticket,
}

impl Flight {
    /// Its spans are durable.
    pub(crate) fn stored(&self, spans: u64) {
        if let Some(counts) = self.shared.counted.topics.lock().get_mut(&self.ticket.place.0) {
            counts.spans += spans;
        }
        self.shared.ledger.lock().done(&self.ticket);
    }

    pub(crate) fn refused(&self, why: &dyn std::fmt::Display) -> Option<Again> {
        self.shared.counted.refusals.fetch_add(1, Relaxed);
        let Ticket { place: (topic, partition), offset, .. } = &self.ticket;
        self.shared.log(|| tracing::warn!(%topic, partition, offset, "the store refuses a message for now: {why}"));
        let again = self.shared.ledger.lock().refused(&self.ticket);
        self.shared.changed.notify_all();
        again
    }

    /// After it was refused.
    pub(crate) fn decided(&self) {
        self.shared.ledger.lock().decided(&self.ticket);
    }

    /// It can never be stored.
    pub(crate) fn give_up(&self, reason: Discarded, why: &dyn std::fmt::Display) {
        let at = Discarded::ALL.iter().position(|known| *known == reason).expect("all reasons are listed");
        self.shared.counted.discarded[at].fetch_add(1, Relaxed);
        let Ticket { place: (topic, partition), offset, .. } = &self.ticket;
        let reason = reason.as_str();
        match self.shared.config.on_error {
            OnError::Skip => {
                self.shared.log(|| {
                    tracing::warn!(%topic, partition, offset, reason, "a message cannot be stored and is passed over: {why}");
                });
                self.shared.ledger.lock().done(&self.ticket);
            }
            OnError::Stop => {
                tracing::error!(
                    %topic, partition, offset, reason,
                    "a message cannot be stored, and its partition is read no further (on_error: stop): {why}; \
                     set on_error: skip, or move the group behind this offset, and start again"
                );
                self.shared.ledger.lock().stop(&self.ticket);
            }
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.shared.ledger.lock().release(&self.ticket);
        self.shared.changed.notify_all();
    }
}
