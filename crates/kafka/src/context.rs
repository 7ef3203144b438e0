//! What librdkafka calls back, always on the thread that polls.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Offset, Statistics, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance},
    error::KafkaError,
    types::RDKafkaErrorCode,
};

use crate::{
    ledger::{Commit, Place},
    shared::Shared,
};

/// How long partitions that go to somebody else wait for what is on its way to the store. The rest comes to them again.
const REVOKE_WAIT: Duration = Duration::from_secs(5);

pub(crate) struct Context {
    pub(crate) shared: Arc<Shared>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                self.shared.log(|| tracing::warn!(facility, "librdkafka: {message}"));
            }
            RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice => tracing::info!(facility, "librdkafka: {message}"),
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => tracing::debug!(facility, "librdkafka: {message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let name = error.rdkafka_error_code().map_or_else(|| "unknown".to_owned(), name);
        self.shared.error(name, reason);
    }

    fn stats(&self, statistics: Statistics) {
        let ledger = self.shared.ledger.lock();
        let lags = ledger.places().into_iter().filter_map(|place| {
            let told = statistics.topics.get(&*place.0)?.partitions.get(&place.1)?;
            // Of a transaction that is not finished, nobody may read.
            let end = if told.ls_offset >= 0 { told.ls_offset } else { told.hi_offset };
            let read = ledger.durable(&place).or((told.committed_offset >= 0).then_some(told.committed_offset));
            let begin = read.unwrap_or(told.lo_offset);
            let lag = (end >= 0 && begin >= 0).then(|| end.saturating_sub(begin).max(0).unsigned_abs())?;
            Some((place, lag))
        });
        let lags = lags.collect::<BTreeMap<Place, u64>>();
        drop(ledger);
        self.shared.lags(lags);
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Revoke(list) = rebalance else { return };
        let places = places(list);
        tracing::info!(partitions = names(&places), "Kafka takes partitions from this member");
        // Of what was lost already, others are the owners: nobody would take our commit.
        if !consumer.assignment_lost() {
            self.shared.settle(&places, Instant::now() + REVOKE_WAIT, || {});
            let commits = self.shared.ledger.lock().commits(Some(&places));
            commit(consumer, &self.shared, &commits);
        }
        let mut ledger = self.shared.ledger.lock();
        places.iter().for_each(|place| ledger.revoke(place));
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => {
                let places = places(list);
                tracing::info!(partitions = names(&places), "Kafka gives partitions to this member");
                let mut ledger = self.shared.ledger.lock();
                places.into_iter().for_each(|place| ledger.assign(place));
                drop(ledger);
                // They may have been held when they were ours before.
                if let Err(error) = consumer.resume(list) {
                    tracing::warn!("Kafka: cannot go on with partitions: {error}");
                }
            }
            Rebalance::Revoke(_) => {}
            Rebalance::Error(error) => self.shared.error("rebalance".to_owned(), &error.to_string()),
        }
    }
}

/// Commits, and waits for the outcome: without waiting, librdkafka's events do not tell it. It takes no longer than the
/// session timeout and that of a request together.
pub(crate) fn commit(consumer: &BaseConsumer<Context>, shared: &Shared, commits: &[Commit]) {
    if commits.is_empty() {
        return;
    }
    let mut list = TopicPartitionList::with_capacity(commits.len());
    let added = commits.iter().try_for_each(|((topic, partition), offset)| {
        list.add_partition_offset(topic, *partition, Offset::Offset(*offset))
    });
    let outcome = added.and_then(|()| consumer.commit(&list, CommitMode::Sync));
    if outcome.is_err() {
        let mut ledger = shared.ledger.lock();
        commits.iter().for_each(|(place, _)| ledger.not_committed(place));
    }
    shared.committed(outcome.map_err(|error| error.to_string()));
}

impl Shared {
    /// Waits until nothing of these partitions is on its way to the store, and calls `meanwhile` now and then. Whether it
    /// came so far.
    pub(crate) fn settle(&self, places: &[Place], until: Instant, mut meanwhile: impl FnMut()) -> bool {
        const LOOK_INTERVAL: Duration = Duration::from_millis(50);
        loop {
            let mut ledger = self.ledger.lock();
            if ledger.is_settled(places) {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            self.changed.wait_for(&mut ledger, LOOK_INTERVAL);
            drop(ledger);
            meanwhile();
        }
    }
}

fn places(list: &TopicPartitionList) -> Vec<Place> {
    list.elements().iter().map(|element| (element.topic().into(), element.partition())).collect()
}

fn names(places: &[Place]) -> String {
    places.iter().map(|(topic, partition)| format!("{topic}/{partition}")).collect::<Vec<_>>().join(" ")
}

/// librdkafka's name of an error, as a metric label.
fn name(code: RDKafkaErrorCode) -> String {
    format!("{code:?}")
}
