//! The thread that reads: it polls librdkafka, begins messages, holds partitions and commits offsets.
//!
//! It never stops polling for long, whatever the store does: who does not poll loses its partitions.

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use distributor::Distributor;
use futures::future::BoxFuture;
use model::TenantId;
use rdkafka::{
    Message, TopicPartitionList,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::{BorrowedMessage, Headers},
};
use tokio::{runtime::Handle, sync::oneshot, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    Encoding, StartError, Tenants, client,
    context::{Context, commit},
    ledger::Place,
    shared::{Discarded, Flight, Shared},
    store::store,
};

/// How long librdkafka may wait for a message before the thread looks at other things.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// How long it waits for room before all partitions are held and it polls on.
const ROOM_WAIT: Duration = Duration::from_secs(1);
/// Before another client takes the place of one that broke down.
const RESTART_WAIT: Duration = Duration::from_secs(5);
/// What leaving the group may take at shutdown, beside the session timeout, within which brokers answer or are given up.
const LEAVE_WAIT: Duration = Duration::from_secs(5);

pub(crate) fn start(
    shared: Arc<Shared>,
    distributor: Distributor,
    shutdown: CancellationToken,
) -> Result<BoxFuture<'static, ()>, StartError> {
    let (drain, leave) = (shared.config.drain_timeout, shared.config.session_timeout + LEAVE_WAIT);
    let topics = shared.config.topics.iter().map(|(topic, encoding)| (topic.as_str().into(), *encoding)).collect();
    let runtime = Handle::current();
    let reader = Reader { consumer: connect(&shared)?.into(), shared, distributor, topics, runtime };
    let (ending, ended) = oneshot::channel();
    let stop = shutdown.clone();
    let run = move || {
        reader.run(&stop);
        let _ = ending.send(());
    };
    thread::Builder::new().name("kafka".to_owned()).spawn(run).map_err(StartError::Thread)?;
    Ok(Box::pin(async move {
        let mut ended = ended;
        tokio::select! {
            () = shutdown.cancelled() => {}
            // It broke down: what it says was logged by the panic.
            _ = &mut ended => return,
        }
        // What is not committed by then comes again.
        if tokio::time::timeout(drain + leave, ended).await.is_err() {
            tracing::warn!("the group of Kafka could not be left in order: leaving it as it is");
        }
    }))
}

/// A member that has not said anything yet.
fn connect(shared: &Arc<Shared>) -> Result<BaseConsumer<Context>, StartError> {
    let settings = client::settings(&shared.config)?;
    let context = Context { shared: Arc::clone(shared) };
    let consumer = BaseConsumer::from_config_and_context(&settings, context).map_err(client::start_error)?;
    let topics: Vec<&str> = shared.config.topics.keys().map(String::as_str).collect();
    consumer.subscribe(&topics).map_err(client::start_error)?;
    Ok(consumer)
}

struct Reader {
    /// Shared with a commit under way only.
    consumer: Arc<BaseConsumer<Context>>,
    shared: Arc<Shared>,
    distributor: Distributor,
    topics: BTreeMap<Arc<str>, Encoding>,
    runtime: Handle,
}

impl Reader {
    fn run(mut self, shutdown: &CancellationToken) {
        while !self.read(shutdown) {
            thread::sleep(RESTART_WAIT);
            match connect(&self.shared) {
                // The one before leaves the group here.
                Ok(consumer) => self.consumer = consumer.into(),
                Err(error) => tracing::error!("Kafka: {error}; trying again"),
            }
        }
        self.drain();
    }

    /// Until shutdown: true. False if the client broke down and another is needed.
    fn read(&self, shutdown: &CancellationToken) -> bool {
        let mut committing = None;
        let goes_on = self.poll(shutdown, &mut committing);
        if let Some(committing) = committing {
            let _ = self.runtime.block_on(committing);
        }
        goes_on
    }

    fn poll(&self, shutdown: &CancellationToken, committing: &mut Option<JoinHandle<()>>) -> bool {
        let mut commit_at = Instant::now() + self.shared.config.commit_interval;
        let mut hold_all = false;
        while !shutdown.is_cancelled() {
            if Instant::now() >= commit_at {
                self.commit_beside(committing);
                commit_at = Instant::now() + self.shared.config.commit_interval;
            }
            hold_all = self.is_without_room(hold_all);
            self.hold(hold_all);
            match self.consumer.poll(POLL_WAIT) {
                None => {}
                Some(Ok(message)) => self.take(&message),
                Some(Err(KafkaError::MessageConsumptionFatal(error))) => {
                    tracing::error!("Kafka: the client cannot go on, and another is made: {error}");
                    return false;
                }
                // It was counted and logged when it was reported; librdkafka goes on by itself.
                Some(Err(_)) => {}
            }
        }
        true
    }

    /// Waits for room, but not long.
    fn is_without_room(&self, was: bool) -> bool {
        let mut ledger = self.shared.ledger.lock();
        if was {
            return !ledger.is_half_empty();
        }
        let until = Instant::now() + ROOM_WAIT;
        while ledger.is_full() {
            if self.shared.changed.wait_until(&mut ledger, until).timed_out() {
                return true;
            }
        }
        false
    }

    fn hold(&self, all: bool) {
        let (hold, go_on) = self.shared.ledger.lock().holds(all);
        let told = [(hold, true), (go_on, false)].into_iter().filter(|(places, _)| !places.is_empty()).try_for_each(
            |(places, hold)| {
                let places = list(&places);
                if hold { self.consumer.pause(&places) } else { self.consumer.resume(&places) }
            },
        );
        if let Err(error) = told {
            tracing::warn!("Kafka: cannot hold partitions, or go on with them: {error}");
        }
    }

    fn take(&self, message: &BorrowedMessage<'_>) {
        let Some((topic, encoding)) = self.topics.get_key_value(message.topic()) else { return };
        let payload = message.payload().unwrap_or_default();
        let is_too_large = payload.len() > self.shared.config.message_bytes_max;
        let memory = if is_too_large { 0 } else { encoding.memory_bytes_max(payload) };
        let place = (Arc::clone(topic), message.partition());
        let Some((ticket, skipped)) = self.shared.ledger.lock().take(place, message.offset(), memory) else { return };
        self.shared.message(topic, payload.len(), skipped);
        let flight = Flight { shared: Arc::clone(&self.shared), ticket };
        if is_too_large {
            let (bytes, max) = (payload.len(), self.shared.config.message_bytes_max);
            return flight.give_up(
                Discarded::TooLarge,
                &format_args!("it has {bytes} bytes, and {max} are allowed (max_message_bytes)"),
            );
        }
        // What deletes a key from a compacted topic holds nothing, and nothing is to be stored.
        if payload.is_empty() {
            return flight.stored(0);
        }
        match self.tenant(message) {
            Ok(tenant) => {
                let payload = Bytes::copy_from_slice(payload);
                self.runtime.spawn(store(flight, self.distributor.clone(), tenant, *encoding, payload));
            }
            Err(why) => flight.give_up(Discarded::NoTenant, &why),
        }
    }

    fn tenant(&self, message: &BorrowedMessage<'_>) -> Result<TenantId, String> {
        let (name, default) = match &self.shared.config.tenants {
            Tenants::One(tenant) => return Ok(tenant.clone()),
            Tenants::Header { name, default } => (name, default),
        };
        // The client panics over a header whose name is not UTF-8.
        let found = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let headers = message.headers()?;
            let mut values = headers.iter().filter(|header| header.key.eq_ignore_ascii_case(name));
            let value = values.next()?.value.unwrap_or_default().to_vec();
            Some((value, values.next().is_some()))
        }));
        match found {
            Err(_) => Err("its headers cannot be read".to_owned()),
            Ok(None) => {
                default.clone().ok_or_else(|| format!("it has no header {name}, and there is no default_tenant"))
            }
            Ok(Some((_, true))) => Err(format!("it has the header {name} more than once")),
            Ok(Some((value, false))) => {
                let value = String::from_utf8(value).map_err(|_| format!("its header {name} is not UTF-8"))?;
                TenantId::parse(&value).map_err(|error| format!("its header {name}: {error}"))
            }
        }
    }

    /// Commits on another thread, one commit at a time: brokers that do not answer must not keep this one from polling.
    fn commit_beside(&self, committing: &mut Option<JoinHandle<()>>) {
        if committing.as_ref().is_some_and(|committing| !committing.is_finished()) {
            return;
        }
        let commits = self.shared.ledger.lock().commits(None);
        if !commits.is_empty() {
            let (consumer, shared) = (Arc::clone(&self.consumer), Arc::clone(&self.shared));
            *committing = Some(self.runtime.spawn_blocking(move || commit(&consumer, &shared, &commits)));
        }
    }

    /// Takes nothing more, waits for what is on its way to the store, commits, and leaves the group.
    fn drain(self) {
        self.hold(true);
        let places = self.shared.ledger.lock().places();
        let until = Instant::now() + self.shared.config.drain_timeout;
        // Polled on, so that the group knows that it lives. What comes all the same comes again to the next.
        let settled = self.shared.settle(&places, until, || drop(self.consumer.poll(Duration::ZERO)));
        if !settled {
            tracing::warn!(
                "messages of Kafka are still being stored after {:?}: leaving them",
                self.shared.config.drain_timeout
            );
        }
        let commits = self.shared.ledger.lock().commits(None);
        commit(&self.consumer, &self.shared, &commits);
        drop(self.consumer);
    }
}

fn list(places: &[Place]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(places.len());
    for (topic, partition) in places {
        list.add_partition(topic, *partition);
    }
    list
}
