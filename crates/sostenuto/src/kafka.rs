//! From settings to the receiver of Kafka's topics, and from its counters to metrics.

use std::collections::BTreeMap;

use anyhow::Context;
use api::Metrics;
use distributor::Distributor;
use kafka::{Begin, Encoding, Mechanism, Sasl, Tenants, Tls};
use model::TenantId;
use secrecy::SecretString;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, InitialOffset, KafkaEncoding, KafkaSasl, OnError, SaslMechanism};

pub use kafka::{Counts, Doing, Kafka};

/// `None` if it is off.
///
/// # Errors
/// Names the file that cannot be read.
pub fn open(config: &Config) -> anyhow::Result<Option<Kafka>> {
    let Some(settings) = &config.distributor.receivers.kafka else { return Ok(None) };
    let sasl = settings.sasl.as_ref().map(sasl).transpose()?;
    if sasl.as_ref().is_some_and(|sasl| sasl.mechanism == Mechanism::Plain) && settings.tls.is_none() {
        tracing::warn!(
            "the password for Kafka travels in plain text: set distributor.receivers.kafka.tls, or use SCRAM"
        );
    }
    let tenants = match config.multitenancy_enabled {
        false => Tenants::One(TenantId::single()),
        true => Tenants::Header { name: settings.tenant_header.clone(), default: settings.default_tenant()? },
    };
    Ok(Some(Kafka::new(kafka::Config {
        brokers: settings.brokers.clone(),
        topics: settings.topics.iter().map(|(topic, encoding)| (topic.clone(), this(*encoding))).collect(),
        group_id: settings.group_id.clone(),
        group_instance_id: settings.group_instance_id.clone(),
        client_id: settings.client_id.clone(),
        begin: match settings.initial_offset {
            InitialOffset::Earliest => Begin::Earliest,
            InitialOffset::Latest => Begin::Latest,
        },
        session_timeout: settings.session_timeout.0,
        tls: settings.tls.as_ref().map(|tls| Tls {
            ca_file: tls.ca_file.clone(),
            cert_file: tls.cert_file.clone(),
            key_file: tls.key_file.clone(),
            insecure_skip_verify: tls.insecure_skip_verify,
        }),
        sasl,
        tenants,
        on_error: match settings.on_error {
            OnError::Skip => kafka::OnError::Skip,
            OnError::Stop => kafka::OnError::Stop,
        },
        message_bytes_max: settings.max_message_bytes.as_usize(),
        under_way_bytes_max: settings.max_in_flight_bytes.as_usize(),
        fetched_bytes_max: settings.max_fetched_bytes.as_usize(),
        commit_interval: settings.commit_interval.0,
        drain_timeout: config.server.graceful_shutdown_timeout.0,
    })))
}

fn sasl(settings: &KafkaSasl) -> anyhow::Result<Sasl> {
    let password = match (&settings.password, &settings.password_file) {
        (Some(password), _) => password.clone(),
        (None, Some(file)) => {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("cannot read the password {}", file.display()))?;
            SecretString::from(text.trim_end_matches(['\r', '\n']))
        }
        (None, None) => unreachable!("the settings were validated"),
    };
    let mechanism = match settings.mechanism {
        SaslMechanism::Plain => Mechanism::Plain,
        SaslMechanism::ScramSha256 => Mechanism::ScramSha256,
        SaslMechanism::ScramSha512 => Mechanism::ScramSha512,
    };
    Ok(Sasl { mechanism, username: settings.username.clone(), password })
}

fn this(encoding: KafkaEncoding) -> Encoding {
    match encoding {
        KafkaEncoding::OtlpProto => Encoding::OtlpProto,
        KafkaEncoding::OtlpJson => Encoding::OtlpJson,
        KafkaEncoding::JaegerProto => Encoding::JaegerProto,
        KafkaEncoding::JaegerJson => Encoding::JaegerJson,
        KafkaEncoding::ZipkinProto => Encoding::ZipkinProto,
        KafkaEncoding::ZipkinJson => Encoding::ZipkinJson,
        KafkaEncoding::ZipkinThrift => Encoding::ZipkinThrift,
    }
}

/// Joins the group.
pub fn start(
    kafka: Option<&Kafka>,
    distributor: &Distributor,
    shutdown: &CancellationToken,
    receiving: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    if let Some(kafka) = kafka {
        receiving.spawn(kafka.serve(distributor.clone(), shutdown.clone()).context("distributor.receivers.kafka")?);
    }
    Ok(())
}

/// What the service does, for the status page.
pub fn describe(kafka: &Kafka) -> String {
    let Counts { partitions, last_error, .. } = kafka.counts();
    let count = |doing| partitions.iter().filter(|partition| partition.doing == doing).count();
    let doing: Vec<String> = Doing::ALL.iter().map(|doing| format!("{} {}", count(*doing), doing.as_str())).collect();
    let error = last_error.map_or_else(String::new, |error| format!("; last error: {error}"));
    format!("{} partitions ({}){error}", partitions.len(), doing.join(", "))
}

pub fn observe(metrics: &Metrics, kafka: &Kafka) {
    let single = |read: fn(&Counts) -> u64| {
        let kafka = kafka.clone();
        move || read(&kafka.counts()) as f64
    };
    fn named<N: ToString>(counts: impl IntoIterator<Item = (N, u64)>) -> Vec<(String, f64)> {
        counts.into_iter().map(|(name, count)| (name.to_string(), count as f64)).collect()
    }
    let several = |read: fn(Counts) -> Vec<(String, f64)>| {
        let kafka = kafka.clone();
        move || read(kafka.counts())
    };
    metrics.counters(
        "sostenuto_kafka_messages",
        "Messages that came in, by topic",
        "topic",
        several(|counts| named(counts.topics.into_iter().map(|(topic, counts)| (topic, counts.messages)))),
    );
    metrics.counters(
        "sostenuto_kafka_received_bytes",
        "Bytes of messages as they lie in the topic, uncompressed",
        "topic",
        several(|counts| named(counts.topics.into_iter().map(|(topic, counts)| (topic, counts.bytes)))),
    );
    metrics.counters(
        "sostenuto_kafka_spans_stored",
        "Spans of messages that are durable, by topic",
        "topic",
        several(|counts| named(counts.topics.into_iter().map(|(topic, counts)| (topic, counts.spans)))),
    );
    metrics.counters(
        "sostenuto_kafka_messages_discarded",
        "Messages that can never be stored, by reason; with on_error: stop, each keeps its partition from going on",
        "reason",
        several(|counts| named(counts.discarded)),
    );
    metrics.counter(
        "sostenuto_kafka_refusals",
        "How often a message was refused for now; it is tried again until it is stored",
        single(|counts| counts.refusals),
    );
    metrics.counters(
        "sostenuto_kafka_commits",
        "Commits of offsets, by outcome; those that failed are tried again",
        "outcome",
        several(|counts| named([("committed", counts.commits), ("failed", counts.commit_failures)])),
    );
    metrics.counter(
        "sostenuto_kafka_offsets_skipped",
        "Offsets at which no message was found: markers of transactions, what was compacted away, and what was deleted unread",
        single(|counts| counts.offsets_skipped),
    );
    metrics.counters(
        "sostenuto_kafka_errors",
        "Errors that the client reported, by its name for them; it goes on by itself",
        "error",
        several(|counts| named(counts.errors)),
    );
    metrics.gauges(
        "sostenuto_kafka_lag",
        "Messages that are not durable here yet, of each partition that this process reads",
        "partition",
        several(|counts| {
            let partitions = counts.partitions.into_iter();
            named(partitions.filter_map(|p| Some((format!("{}/{}", p.topic, p.partition), p.lag?))))
        }),
    );
    metrics.gauges(
        "sostenuto_kafka_partitions",
        "Partitions that this process reads, by what they do: reading, waiting for the store, or stopped by a message",
        "state",
        several(|counts| {
            let mut states: BTreeMap<&str, u64> = Doing::ALL.map(|doing| (doing.as_str(), 0)).into();
            for partition in &counts.partitions {
                *states.entry(partition.doing.as_str()).or_default() += 1;
            }
            named(states)
        }),
    );
    metrics.gauge(
        "sostenuto_kafka_in_flight_bytes",
        "Memory of messages that are being stored",
        single(|counts| counts.under_way_bytes),
    );
}
