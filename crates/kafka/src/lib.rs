//! Spans from Kafka: one member of a consumer group that hands messages to the distributor.
//!
//! One file per thought: `client` (our settings as librdkafka's), `reader` (the thread that polls), `context` (what librdkafka
//! calls back), `store` (the way of one message), `encoding`, `ledger` (what is under way, pure), and `shared` (it and the counters).
//!
//! - An offset is committed only when the spans of every message before it are durable, or given up for good and counted.
//!   A crash re-delivers what was not committed; the store has each span once all the same.
//! - Nothing is given up but what can never be stored: a message that is no spans, or that is larger than allowed.
//! - While the store refuses, a partition is read no further; its first message is tried again until it is taken.
//! - Memory is bounded: what librdkafka fetched ahead ([`Config::fetched_bytes_max`]) and what is under way
//!   ([`Config::under_way_bytes_max`], and [`MESSAGES_MAX`] messages), each exceeded by one message at most.

mod client;
mod context;
mod encoding;
mod ledger;
mod reader;
mod shared;
mod store;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use distributor::Distributor;
use futures::future::BoxFuture;
use model::TenantId;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

pub use encoding::Encoding;
pub use ledger::{Doing, MESSAGES_MAX};
pub use shared::{Counts, PartitionCounts, TopicCounts};

use shared::Shared;

/// What to read, from whom, and in which bounds.
#[derive(Clone, Debug)]
pub struct Config {
    /// `host:port` of some brokers; they name the others.
    pub brokers: Vec<String>,
    /// How the messages of each topic are encoded.
    pub topics: BTreeMap<String, Encoding>,
    pub group_id: String,
    /// A name that survives a restart, so that a restart within the session timeout moves no partition.
    pub group_instance_id: Option<String>,
    pub client_id: String,
    /// Where the group begins in a partition of which it has committed nothing.
    pub begin: Begin,
    /// How long the group waits for a member that says nothing.
    pub session_timeout: Duration,
    pub tls: Option<Tls>,
    pub sasl: Option<Sasl>,
    pub tenants: Tenants,
    pub on_error: OnError,
    /// A larger message is given up.
    pub message_bytes_max: usize,
    /// Memory of messages that are being stored.
    pub under_way_bytes_max: usize,
    /// Memory of messages that were fetched and wait. Also the size of an answer of a broker, unless one batch is larger.
    pub fetched_bytes_max: usize,
    /// Pause between commits of offsets.
    pub commit_interval: Duration,
    /// How long messages under way may take at shutdown.
    pub drain_timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    Earliest,
    Latest,
}

/// Encryption of the connections to brokers.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Authorities that are trusted, PEM. Without, those of the system.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate, PEM, and its key.
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// Trust any certificate.
    pub insecure_skip_verify: bool,
}

/// Who we are to the brokers.
#[derive(Clone, Debug)]
pub struct Sasl {
    pub mechanism: Mechanism,
    pub username: String,
    pub password: SecretString,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    Plain,
    ScramSha256,
    ScramSha512,
}

/// Whose spans a message brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tenants {
    One(TenantId),
    /// The message's header of this name says it, in whatever case; without one it is `default`.
    Header {
        name: String,
        default: Option<TenantId>,
    },
}

/// What becomes of a message that can never be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// It is counted and logged, and its offset is committed as if it were stored.
    Skip,
    /// Its partition is read no further and nothing behind it is committed, until somebody looks. Other partitions go on.
    Stop,
}

/// These settings cannot work.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("librdkafka cannot work with these settings: {0}")]
    Client(String),
    #[error("cannot start the thread that reads from Kafka")]
    Thread(#[source] std::io::Error),
}

/// A member of a group. Clones are the same one.
#[derive(Clone)]
pub struct Kafka {
    shared: Arc<Shared>,
}

impl Kafka {
    pub fn new(config: Config) -> Self {
        Self { shared: Arc::new(Shared::new(config)) }
    }

    /// Joins the group. The future ends after `shutdown`, when what was under way is durable and committed, or the drain
    /// timeout has passed. Once for each member, inside a runtime.
    ///
    /// # Errors
    /// Only what is wrong with the settings: brokers that do not answer are tried again for ever.
    pub fn serve(
        &self,
        distributor: Distributor,
        shutdown: CancellationToken,
    ) -> Result<BoxFuture<'static, ()>, StartError> {
        reader::start(Arc::clone(&self.shared), distributor, shutdown)
    }

    /// What was counted so far, and how it is doing.
    pub fn counts(&self) -> Counts {
        self.shared.counts()
    }
}
