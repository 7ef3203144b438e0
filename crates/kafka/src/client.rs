//! Our settings in librdkafka's words. Nothing that a person writes becomes the name of one of its settings.

use std::path::Path;

use rdkafka::{ClientConfig, config::RDKafkaLogLevel, error::KafkaError};
use secrecy::ExposeSecret;

use crate::{Begin, Config, Mechanism, Sasl, StartError, Tls};

/// How often librdkafka tells how far it is behind.
const STATISTICS_INTERVAL_MS: u32 = 5000;
/// Without being asked for messages for so long, it leaves the group. It is asked ten times a second.
const POLL_INTERVAL_MS_MAX: u32 = 300_000;
/// How soon a topic that did not exist is found.
const METADATA_INTERVAL_MS: u32 = 30_000;
/// Messages that are fetched ahead of each partition, if they are small.
const FETCHED_MESSAGES_MAX: u32 = 10_000;
/// The smallest answer of a broker that librdkafka can be set to.
const FETCH_BYTES_MIN: usize = 1_000_000;
/// Larger answers break the connection: one batch, however large, has to fit.
const ANSWER_BYTES_MAX: usize = 100 << 20;

pub(crate) fn settings(config: &Config) -> Result<ClientConfig, StartError> {
    let mut client = ClientConfig::new();
    let mut set = |key: &str, value: &str| {
        client.set(key, value);
    };
    let fetch_bytes = config.fetched_bytes_max.max(FETCH_BYTES_MIN);
    set("bootstrap.servers", &config.brokers.join(","));
    set("client.id", &config.client_id);
    set("group.id", &config.group_id);
    if let Some(name) = &config.group_instance_id {
        set("group.instance.id", name);
    }
    set("enable.auto.commit", "false");
    set("enable.auto.offset.store", "false");
    set("partition.assignment.strategy", "cooperative-sticky");
    set("allow.auto.create.topics", "false");
    set("check.crcs", "true");
    set("socket.keepalive.enable", "true");
    set(
        "auto.offset.reset",
        match config.begin {
            Begin::Earliest => "earliest",
            Begin::Latest => "latest",
        },
    );
    let session_ms = config.session_timeout.as_millis();
    for (key, number) in [
        ("session.timeout.ms", session_ms),
        ("heartbeat.interval.ms", (session_ms / 4).clamp(1, 3000)),
        ("max.poll.interval.ms", session_ms.max(POLL_INTERVAL_MS_MAX.into())),
        ("statistics.interval.ms", STATISTICS_INTERVAL_MS.into()),
        ("topic.metadata.refresh.interval.ms", METADATA_INTERVAL_MS.into()),
        ("queued.min.messages", FETCHED_MESSAGES_MAX.into()),
        ("queued.max.messages.kbytes", (fetch_bytes / 1024) as u128),
        ("fetch.max.bytes", fetch_bytes as u128),
        ("receive.message.max.bytes", ANSWER_BYTES_MAX.max(2 * config.message_bytes_max.max(fetch_bytes)) as u128),
    ] {
        set(key, &number.to_string());
    }
    set(
        "security.protocol",
        match (&config.tls, &config.sasl) {
            (None, None) => "PLAINTEXT",
            (Some(_), None) => "SSL",
            (None, Some(_)) => "SASL_PLAINTEXT",
            (Some(_), Some(_)) => "SASL_SSL",
        },
    );
    if let Some(tls) = &config.tls {
        tls_settings(tls, &mut set)?;
    }
    if let Some(Sasl { mechanism, username, password }) = &config.sasl {
        set(
            "sasl.mechanisms",
            match mechanism {
                Mechanism::Plain => "PLAIN",
                Mechanism::ScramSha256 => "SCRAM-SHA-256",
                Mechanism::ScramSha512 => "SCRAM-SHA-512",
            },
        );
        set("sasl.username", username);
        set("sasl.password", password.expose_secret());
    }
    client.set_log_level(RDKafkaLogLevel::Info);
    Ok(client)
}

fn tls_settings(tls: &Tls, set: &mut impl FnMut(&str, &str)) -> Result<(), StartError> {
    match &tls.ca_file {
        Some(file) => set("ssl.ca.location", text(file)?),
        // Where systems keep theirs.
        None => set("ssl.ca.location", "probe"),
    }
    for (key, file) in [("ssl.certificate.location", &tls.cert_file), ("ssl.key.location", &tls.key_file)] {
        if let Some(file) = file {
            set(key, text(file)?);
        }
    }
    if tls.insecure_skip_verify {
        set("enable.ssl.certificate.verification", "false");
    }
    Ok(())
}

fn text(file: &Path) -> Result<&str, StartError> {
    file.to_str().ok_or_else(|| StartError::Client(format!("the path {} is not UTF-8", file.display())))
}

/// What is wrong, without any value: it may be a secret.
pub(crate) fn start_error(error: KafkaError) -> StartError {
    StartError::Client(match error {
        KafkaError::ClientConfig(_, _, key, _) => format!("the value of {key} is not allowed"),
        other => other.to_string(),
    })
}
