//! Where blocks and the write-ahead log are kept.

use std::path::{Path, PathBuf};

use ingester::IngesterConfig;
use serde::{Deserialize, Serialize};

use storage::{AzureConfig, Backend, CacheConfig, ClientConfig, GcsConfig, S3Config, StorageConfig, TableConfig};

use super::{GoDuration, Size};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// The directory of everything kept on this machine: the log, and with `local` the blocks too.
    pub path: PathBuf,
    pub backend: Backend,
    pub wal: Wal,
    pub local: Local,
    pub s3: S3Config,
    pub gcs: GcsConfig,
    pub azure: AzureConfig,
    pub client: ClientConfig,
    pub cache: CacheConfig,
    pub table: TableConfig,
    pub skip_probe: bool,
}

impl Default for Storage {
    fn default() -> Self {
        let StorageConfig { backend, local: _, s3, gcs, azure, client, cache, table, skip_probe } = StorageConfig::default();
        let (path, wal, local) = (PathBuf::from("./sostenuto-data"), Wal::default(), Local::default());
        Self { path, backend, wal, local, s3, gcs, azure, client, cache, table, skip_probe }
    }
}

impl Storage {
    /// What the object store is made of.
    pub fn store(&self) -> StorageConfig {
        StorageConfig {
            backend: self.backend,
            local: storage::LocalConfig { path: self.local_path() },
            s3: self.s3.clone(),
            gcs: self.gcs.clone(),
            azure: self.azure.clone(),
            client: self.client.clone(),
            cache: self.cache.clone(),
            table: self.table.clone(),
            skip_probe: self.skip_probe,
        }
    }

    /// Where blocks are with the `local` backend.
    pub fn local_path(&self) -> PathBuf {
        self.local.path.clone().unwrap_or_else(|| self.path.join("blocks"))
    }

    pub fn wal_path(&self) -> PathBuf {
        self.wal.path.clone().unwrap_or_else(|| self.path.join("wal"))
    }

    /// One line for a person: where blocks go. Holds no secret.
    pub fn describe(&self) -> String {
        let at = |scheme: &str, bucket: &str, prefix: &str, endpoint: &str| {
            let place = format!("{scheme}://{bucket}/{prefix}");
            let place = place.trim_end_matches('/').to_owned();
            if endpoint.is_empty() { place } else { format!("{place} at {endpoint}") }
        };
        match self.backend {
            Backend::Local => directory(&self.local_path()),
            Backend::S3 => at("s3", &self.s3.bucket, &self.s3.prefix, &self.s3.endpoint),
            Backend::Gcs => at("gs", &self.gcs.bucket_name, &self.gcs.prefix, &self.gcs.endpoint),
            Backend::Azure => {
                let bucket = format!("{}/{}", self.azure.storage_account_name, self.azure.container_name);
                at("az", &bucket, &self.azure.prefix, &self.azure.endpoint_suffix)
            }
        }
    }
}

/// A directory as a person knows it: with a slash behind it.
pub fn directory(path: &Path) -> String {
    format!("{}/", path.display().to_string().trim_end_matches('/'))
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wal {
    /// `<storage.path>/wal` unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// A segment that would grow past this closes and the next begins.
    pub segment_bytes: Size,
    /// How long an acknowledgement may wait for others to share its disk flush.
    pub group_commit_delay: GoDuration,
    /// Requests waiting to be written, in memory. Above it they are refused with a retryable answer.
    pub queue_bytes: Size,
    /// The most the log may take on disk. Above it requests are refused with a retryable answer.
    pub disk_bytes: Size,
    /// What the log leaves free on its disk.
    pub disk_free_bytes: Size,
    /// Off acknowledges what a power cut can lose. For tests.
    pub fsync: bool,
}

impl Default for Wal {
    fn default() -> Self {
        let ingester = IngesterConfig::default();
        Self {
            path: None,
            segment_bytes: Size(ingester.wal_segment_max.as_u64()),
            group_commit_delay: GoDuration::from_millis(ingester.wal_group_commit_delay_ms),
            queue_bytes: Size(ingester.wal_queue_max.as_u64()),
            disk_bytes: Size(ingester.wal_disk_max.as_u64()),
            disk_free_bytes: Size(ingester.wal_disk_free_min.as_u64()),
            fsync: ingester.wal_fsync,
        }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Local {
    /// `<storage.path>/blocks` unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}
