//! The receiver that reads topics of Kafka.
//!
//! Keys are those of a Collector's receiver where the meaning is the same. It is off unless it is named: it needs brokers.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use model::TenantId;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{GoDuration, Size, invalid::Invalid, receivers::on_when_named};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kafka {
    /// `host:port` of some brokers; they name the others.
    pub brokers: Vec<String>,
    /// Topics, each with the encoding of its messages.
    pub topics: BTreeMap<String, KafkaEncoding>,
    pub group_id: String,
    /// A name that survives a restart of this process, and that no other member has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_instance_id: Option<String>,
    pub client_id: String,
    /// Where the group begins in a partition of which it has committed nothing.
    pub initial_offset: InitialOffset,
    pub session_timeout: GoDuration,
    /// With `multitenancy_enabled`, the header of a message that names its tenant.
    pub tenant_header: String,
    /// ... and the tenant of messages without it. Without this one, such a message cannot be stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_tenant: Option<String>,
    /// What becomes of a message that can never be stored.
    pub on_error: OnError,
    /// A larger message cannot be stored.
    pub max_message_bytes: Size,
    /// Memory of messages that are being stored.
    pub max_in_flight_bytes: Size,
    /// Memory of messages that were fetched ahead.
    pub max_fetched_bytes: Size,
    /// Pause between commits of offsets.
    pub commit_interval: GoDuration,
    /// `tls:` with nothing behind it encrypts, and trusts the authorities of the system.
    #[serde(deserialize_with = "on_when_named", skip_serializing_if = "Option::is_none")]
    pub tls: Option<KafkaTls>,
    #[serde(deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub sasl: Option<KafkaSasl>,
}

impl Default for Kafka {
    fn default() -> Self {
        Self {
            brokers: vec!["localhost:9092".to_owned()],
            topics: BTreeMap::from([("otlp_spans".to_owned(), KafkaEncoding::OtlpProto)]),
            group_id: "sostenuto".to_owned(),
            group_instance_id: None,
            client_id: "sostenuto".to_owned(),
            initial_offset: InitialOffset::Earliest,
            session_timeout: GoDuration::from_millis(45_000),
            tenant_header: "X-Scope-OrgID".to_owned(),
            default_tenant: None,
            on_error: OnError::Skip,
            max_message_bytes: Size::mib(16),
            max_in_flight_bytes: Size::mib(64),
            max_fetched_bytes: Size::mib(32),
            commit_interval: GoDuration::from_millis(1000),
            tls: None,
            sasl: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KafkaEncoding {
    OtlpProto,
    OtlpJson,
    JaegerProto,
    JaegerJson,
    ZipkinProto,
    ZipkinJson,
    ZipkinThrift,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InitialOffset {
    Earliest,
    Latest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// Count it, log it, go on.
    Skip,
    /// Read its partition no further.
    Stop,
}

/// Encryption of the connections to brokers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaTls {
    /// Authorities that are trusted, PEM. Without, those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The certificate to show, PEM, and its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Trust any certificate. For a test only.
    pub insecure_skip_verify: bool,
}

/// Who we are to the brokers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaSasl {
    pub mechanism: SaslMechanism,
    pub username: String,
    /// It, or `password_file`.
    #[serde(default, serialize_with = "redacted", skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretString>,
    /// A line break at its end does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SaslMechanism {
    #[serde(rename = "PLAIN")]
    Plain,
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

/// A section that is named must hold something.
fn some<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Option<T>, D::Error> {
    T::deserialize(d).map(Some)
}

fn redacted<S: Serializer>(secret: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    match secret {
        Some(_) => serializer.serialize_some("<secret>"),
        None => serializer.serialize_none(),
    }
}

/// What a broker accepts unless it was told otherwise.
const SESSION_TIMEOUT: std::ops::RangeInclusive<Duration> = Duration::from_secs(6)..=Duration::from_secs(1800);
const BYTES_MAX: u64 = 1 << 30;

impl Kafka {
    pub fn default_tenant(&self) -> Result<Option<TenantId>, Invalid> {
        let parsed = self.default_tenant.as_deref().map(TenantId::parse).transpose();
        parsed
            .map_err(|error| Invalid { key: "distributor.receivers.kafka.default_tenant", message: error.to_string() })
    }

    pub fn validate(&self) -> Result<(), Invalid> {
        let fail = |key, message: &str| Err(Invalid { key, message: message.to_owned() });
        // The list becomes one text with commas.
        let is_broker = |broker: &String| !broker.is_empty() && !broker.contains([',', ' ']) && !broker.contains("://");
        if self.brokers.is_empty() || !self.brokers.iter().all(is_broker) {
            return fail("distributor.receivers.kafka.brokers", "must name brokers as host:port");
        }
        // One that begins with ^ would be a pattern.
        let is_topic = |topic: &String| {
            (1..=249).contains(&topic.len()) && topic.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        if self.topics.is_empty() || !self.topics.keys().all(is_topic) {
            return fail(
                "distributor.receivers.kafka.topics",
                "must name topics, each with its encoding, as otlp_spans: otlp_proto",
            );
        }
        if self.group_id.is_empty() || self.client_id.is_empty() || self.group_instance_id.as_deref() == Some("") {
            return fail("distributor.receivers.kafka.group_id", "it, client_id and group_instance_id cannot be empty");
        }
        if self.tenant_header.is_empty() {
            return fail("distributor.receivers.kafka.tenant_header", "cannot be empty");
        }
        self.default_tenant()?;
        if !SESSION_TIMEOUT.contains(&self.session_timeout.0) {
            return fail("distributor.receivers.kafka.session_timeout", "must be 6s to 30m, as brokers have it");
        }
        if self.commit_interval.0 < Duration::from_millis(10) {
            return fail("distributor.receivers.kafka.commit_interval", "must be at least 10ms");
        }
        for (key, size) in [
            ("distributor.receivers.kafka.max_message_bytes", self.max_message_bytes),
            ("distributor.receivers.kafka.max_in_flight_bytes", self.max_in_flight_bytes),
            ("distributor.receivers.kafka.max_fetched_bytes", self.max_fetched_bytes),
        ] {
            if !(1..=BYTES_MAX).contains(&size.0) {
                return fail(key, "must be 1 byte to 1GiB");
            }
        }
        if self.tls.as_ref().is_some_and(|tls| tls.cert_file.is_some() != tls.key_file.is_some()) {
            return fail("distributor.receivers.kafka.tls", "needs both of cert_file and key_file, or none");
        }
        if let Some(KafkaSasl { username, password, password_file, .. }) = &self.sasl {
            if username.is_empty() {
                return fail("distributor.receivers.kafka.sasl.username", "must be set");
            }
            if password.is_some() == password_file.is_some() {
                return fail("distributor.receivers.kafka.sasl", "needs one of password and password_file");
            }
        }
        Ok(())
    }
}
