//! The receiver of Kafka's topics: against librdkafka's mock cluster, and against a real broker where there is one.

mod broker;
mod delivery;
mod encodings;
mod faults;

use std::{ops::Range, path::Path, time::Duration};

use futures::future::try_join_all;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::{Header, OwnedHeaders},
    mocking::MockCluster,
    producer::{DefaultProducerContext, FutureProducer, FutureRecord},
};
use serde_json::{Value, json};

use crate::{
    client::Client,
    server::Settings,
    spans::{TimeRange, request, trace_spans},
};

const GROUP: &str = "sostenuto";
const TOPIC: &str = "otlp_spans";
/// How long a broker may take for an answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// Brokers within this process.
struct Cluster(MockCluster<'static, DefaultProducerContext>);

impl Cluster {
    fn new(topics: &[(&str, i32)]) -> Self {
        let cluster = MockCluster::new(1).unwrap();
        for (topic, partitions) in topics {
            cluster.create_topic(topic, *partitions, 1).unwrap();
        }
        Self(cluster)
    }

    fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", self.0.bootstrap_servers());
        client
    }

    /// A server that reads these topics, each in an encoding.
    fn settings(&self, folder: &Path, topics: Value) -> Settings {
        let kafka = json!({
            "brokers": self.0.bootstrap_servers().split(',').collect::<Vec<_>>(),
            "topics": topics,
            // No machine is so slow that the group takes a member for dead that is not.
            "session_timeout": "60s",
            "commit_interval": "50ms",
        });
        Settings::new(folder).with("distributor.receivers.kafka", kafka)
    }
}

/// What a message is, but for its topic.
#[derive(Clone, Default)]
struct Sent {
    partition: i32,
    payload: Vec<u8>,
    headers: Vec<(&'static str, &'static str)>,
}

impl Sent {
    fn to(partition: i32, payload: Vec<u8>) -> Self {
        Self { partition, payload, ..Self::default() }
    }
}

/// Sends messages and waits until the broker has them; their offsets.
async fn produce(client: &ClientConfig, topic: &str, messages: &[Sent]) -> Vec<i64> {
    let producer: FutureProducer = client.clone().set("linger.ms", "20").create().unwrap();
    let sending = messages.iter().map(|Sent { partition, payload, headers }| {
        let headers = headers
            .iter()
            .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(*value) }));
        let record = FutureRecord::<(), [u8]>::to(topic).partition(*partition).payload(payload).headers(headers);
        producer.send(record, PATIENCE)
    });
    let deliveries = try_join_all(sending).await.map_err(|(error, _)| error).unwrap();
    deliveries.into_iter().map(|delivery| delivery.offset).collect()
}

/// What the client's group, or [`GROUP`], has committed of the partitions of a topic; `None` is nothing.
fn committed(client: &ClientConfig, topic: &str, partitions: i32) -> Vec<Option<i64>> {
    let group = client.get("group.id").unwrap_or(GROUP);
    let consumer: BaseConsumer = client.clone().set("group.id", group).create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_range(topic, 0, partitions - 1);
    let list = consumer.committed_offsets(list, PATIENCE).unwrap();
    let offset = |partition| match list.find_partition(topic, partition).unwrap().offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    };
    (0..partitions).map(offset).collect()
}

/// Traces `numbers` of a run, two spans each, as OTLP messages dealt out to partitions.
fn traces(run: u64, numbers: Range<u64>, partitions: i32, range: TimeRange) -> Vec<Sent> {
    let message = |number: u64| {
        let partition = i32::try_from(number).unwrap() % partitions;
        Sent::to(partition, request("shop", trace_spans(run, number, 0..2, range)))
    };
    numbers.map(message).collect()
}

/// Each trace of [`traces`] is there, with each span once.
async fn check(client: &Client, run: u64, numbers: Range<u64>) {
    for number in numbers {
        let ids = client.span_ids(&crate::spans::trace_id(run, number)).await;
        let expected = [0, 1].map(|index| (crate::spans::span_id(number, index), 1));
        assert_eq!(ids, expected.into(), "trace {number}");
    }
}

/// The metric of what was given up for a reason.
async fn discarded(client: &Client, reason: &str) -> u64 {
    client.metric(&format!("sostenuto_kafka_messages_discarded_total{{reason=\"{reason}\"}}")).await as u64
}
