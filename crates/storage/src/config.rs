//! Where blocks live, and how hard to try. Plain values; [`crate::Storage::open`] makes objects of them.
//!
//! Keys keep Tempo's names where the meaning is the same (`storage.trace.*`). Every key has a default
//! except the bucket. A secret is read once, is never printed, and serialises as `<secret>`.

use std::path::PathBuf;

use bytesize::ByteSize;
use secrecy::SecretString;
use serde::{Deserialize, Serialize, Serializer};

/// The object store and the caches in front of it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageConfig {
    /// Which of the sections below is used. The others may stay in the file; they are not looked at.
    pub backend: Backend,
    pub local: LocalConfig,
    pub s3: S3Config,
    pub gcs: GcsConfig,
    pub azure: AzureConfig,
    pub client: ClientConfig,
    pub cache: CacheConfig,
    pub table: TableConfig,
    /// Start without the probe of the store. It costs eight requests, and is what finds out that a bucket cannot be
    /// written or that a server lets two writers overwrite each other's commits.
    pub skip_probe: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// A folder of this machine. Files and folders are fsynced before anything is acknowledged.
    #[default]
    Local,
    /// Amazon S3, or any server that speaks its protocol and keeps `If-None-Match: *` on PUT.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LocalConfig {
    /// The folder; made if it is not there. Only this program should write in it.
    pub path: PathBuf,
}

impl Default for LocalConfig {
    fn default() -> Self {
        Self { path: "./sostenuto-data".into() }
    }
}

/// Without keys the usual chain decides: environment (`AWS_*`), web identity (IRSA), container and
/// instance metadata. The identity needs PutObject, GetObject, ListBucket and DeleteObject below the
/// prefix, and AbortMultipartUpload.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Config {
    /// Required.
    pub bucket: String,
    /// Put before every key, so that one bucket can serve several installations. Empty: the bucket's root.
    pub prefix: String,
    /// Host and port of the server, with or without `https://`. Empty: Amazon's for the region.
    pub endpoint: String,
    /// Empty: `AWS_REGION`, then `us-east-1` (servers that are not Amazon's mostly ignore it).
    pub region: String,
    pub access_key: Option<String>,
    #[serde(serialize_with = "redacted")]
    pub secret_key: Option<SecretString>,
    /// Only with temporary credentials.
    #[serde(serialize_with = "redacted")]
    pub session_token: Option<SecretString>,
    /// Speak plain HTTP. Keys and data can then be read on the way.
    pub insecure: bool,
    /// Accept any certificate. For a test only.
    pub tls_insecure_skip_verify: bool,
    /// Put the bucket into the path even with Amazon. Every other endpoint gets it in the path anyway,
    /// unless `bucket_lookup_type` says otherwise.
    #[serde(alias = "force_path_style")]
    pub forcepathstyle: bool,
    pub bucket_lookup_type: BucketLookup,
    pub sse: SseConfig,
}

/// Where a request names the bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BucketLookup {
    /// `dns` with Amazon, `path` with everyone else.
    #[default]
    Auto,
    /// In the host name.
    Dns,
    /// In the path.
    Path,
}

/// Encryption at rest by the server.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SseConfig {
    /// Unset: what the bucket does by itself.
    #[serde(rename = "type")]
    pub kind: Option<SseKind>,
    /// With `SSE-KMS`. Each request for an object then also costs a KMS request, unless bucket keys are on.
    pub kms_key_id: String,
    /// With `SSE-C`: 32 bytes in base64. Losing it loses every block.
    #[serde(serialize_with = "redacted")]
    pub encryption_key: Option<SecretString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum SseKind {
    #[serde(rename = "SSE-S3")]
    S3,
    #[serde(rename = "SSE-KMS")]
    Kms,
    #[serde(rename = "SSE-C")]
    Customer,
}

/// Without a key file Google's usual chain decides: `GOOGLE_APPLICATION_CREDENTIALS`, workload identity,
/// instance metadata.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct GcsConfig {
    /// Required.
    pub bucket_name: String,
    /// Put before every key.
    pub prefix: String,
    /// Another server with the same protocol. Empty: Google's.
    pub endpoint: String,
    /// A service account's key file.
    pub service_account_path: Option<PathBuf>,
    /// Speak plain HTTP. For a test server only.
    pub insecure: bool,
}

/// Without a key: environment (`AZURE_*`), workload identity, managed identity.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct AzureConfig {
    /// Required.
    pub storage_account_name: String,
    #[serde(serialize_with = "redacted")]
    pub storage_account_key: Option<SecretString>,
    /// Required.
    pub container_name: String,
    /// Put before every key.
    pub prefix: String,
    /// Empty: `blob.core.windows.net`.
    pub endpoint_suffix: String,
    /// The client id of a user-assigned managed identity. Empty: the system's.
    pub user_assigned_id: String,
    /// Talk to an Azurite: on this machine, or at the address in `AZURITE_BLOB_STORAGE_URL`.
    pub use_emulator: bool,
}

/// How long one request may take, and how often it is tried. Does not matter for `local`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientConfig {
    /// Milliseconds to a connection.
    pub connect_timeout_ms: u64,
    /// Milliseconds for one request with its whole body. The largest body is 16 MiB, so 60 s means that
    /// an uplink below 2.2 Mbit/s cannot store a block.
    pub request_timeout_ms: u64,
    /// How often a request is repeated after 5xx, a throttle or a broken connection.
    pub retries_max: usize,
    /// The first pause before a repeat; it doubles, with jitter, up to `retry_backoff_max_ms`.
    pub retry_backoff_min_ms: u64,
    pub retry_backoff_max_ms: u64,
    /// Milliseconds after which no repeat is started. A query waits this long before it reports a block as
    /// unreadable, a flush before it says so and begins again.
    pub retry_timeout_ms: u64,
    /// A read that takes longer than most is asked for a second time, and the first answer counts. At most so many
    /// percent of all reads; each costs a request. 0: never.
    pub hedge_percent_max: u32,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            connect_timeout_ms: 5_000,
            request_timeout_ms: 60_000,
            retries_max: 5,
            retry_backoff_min_ms: 100,
            retry_backoff_max_ms: 2_000,
            retry_timeout_ms: 30_000,
            hedge_percent_max: 5,
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheConfig {
    /// Memory for checked 1 MiB pieces of data files. More means fewer GETs and less latency; with `local`
    /// the page cache holds the same bytes already, so a little is enough there.
    pub chunks_memory: ByteSize,
    /// Memory for parsed sidecars. Those of the blocks that queries look at stay in memory beyond it.
    pub sidecars_memory: ByteSize,
    /// A folder on a local disk for pieces that memory has no room for. Unset: none. Its content can be
    /// lost at any time. Two processes must not share one. Not used with `local`.
    pub disk_path: Option<PathBuf>,
    /// The most it takes on that disk.
    pub disk_capacity: ByteSize,
    /// The most bytes of GET bodies under way at once, over all queries. At least 8 MiB.
    pub fetch_memory: ByteSize,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            chunks_memory: ByteSize::mib(256),
            sidecars_memory: ByteSize::mib(64),
            disk_path: None,
            disk_capacity: ByteSize::gib(10),
            fetch_memory: ByteSize::mib(128),
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TableConfig {
    /// A checkpoint is written every so many commits: one PUT of about 600 bytes per block in the table.
    /// Opening a table reads the last checkpoint and at most this many commits.
    pub checkpoint_commits: u32,
    /// Milliseconds for which commits that a checkpoint sums up stay in the log, by the store's clock: for readers that
    /// follow the table, and for looking at its past. At least a day. 0: for ever; opening a table then stays as quick,
    /// but the log grows by an object per flush and compaction.
    pub log_kept_ms: u64,
}

/// The least time for which the log is kept: much longer than any process is away and comes back.
pub(crate) const DAY_MS: u64 = 86_400_000;

impl Default for TableConfig {
    fn default() -> Self {
        Self { checkpoint_commits: 20, log_kept_ms: 7 * DAY_MS }
    }
}

fn redacted<S: Serializer>(secret: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    match secret {
        Some(_) => serializer.serialize_some("<secret>"),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_needs_nothing() {
        let config: StorageConfig = serde_json::from_str("{}").unwrap();
        assert_eq!(config.backend, Backend::Local);
        assert_eq!(config.local.path, PathBuf::from("./sostenuto-data"));
    }

    #[test]
    fn keys_we_do_not_know_are_refused_at_every_level() {
        for text in [r#"{"backnd":"s3"}"#, r#"{"s3":{"buckett":"x"}}"#, r#"{"s3":{"sse":{"tpe":"SSE-S3"}}}"#] {
            let error = serde_json::from_str::<StorageConfig>(text).unwrap_err().to_string();
            assert!(error.contains("unknown field"), "{error}");
        }
    }

    #[test]
    fn tempos_names_are_understood() {
        let config: StorageConfig = serde_json::from_str(
            r#"{"backend":"s3","s3":{"bucket":"b","endpoint":"minio:9000","access_key":"k","secret_key":"s3cr3t",
                "insecure":true,"forcepathstyle":true,"sse":{"type":"SSE-KMS","kms_key_id":"id"}}}"#,
        )
        .unwrap();
        assert_eq!(config.backend, Backend::S3);
        assert!(config.s3.forcepathstyle && config.s3.insecure);
        assert_eq!(config.s3.sse.kind, Some(SseKind::Kms));
    }

    #[test]
    fn a_secret_is_never_printed() {
        let config: StorageConfig = serde_json::from_str(
            r#"{"s3":{"secret_key":"s3cr3t","session_token":"s3cr3t","sse":{"encryption_key":"s3cr3t"}},
                "azure":{"storage_account_key":"s3cr3t"}}"#,
        )
        .unwrap();
        let shown = format!("{config:?}{}", serde_json::to_string(&config).unwrap());
        assert!(!shown.contains("s3cr3t"), "{shown}");
        assert!(shown.contains("<secret>"), "{shown}");
    }
}
