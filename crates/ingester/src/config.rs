//! Settings of the ingester. Plain values.

use std::{path::PathBuf, time::Duration};

use block::builder::AttributeLimits;
use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use wal::WalConfig;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct IngesterConfig {
    /// The folder of the write-ahead log, on a disk that survives the process. One process per folder.
    pub wal_dir: PathBuf,
    /// Whether a push waits until the disk has its spans. Off, a power loss loses acknowledged spans.
    pub wal_fsync: bool,
    /// The longest a push waits for others to share an fsync with, in milliseconds, and only while several arrive at once.
    pub wal_group_commit_delay_ms: u64,
    /// The most the log may take on disk. It must hold what arrives while the object store is away: at 10 MiB/s, 8 GiB
    /// last 13 minutes. Over it, pushes are refused until a flush succeeds.
    pub wal_disk_max: ByteSize,
    /// What the log leaves free on its disk for others.
    pub wal_disk_free_min: ByteSize,
    /// A segment of the log that would grow past this closes, and the next begins. Space is given back by whole segments.
    pub wal_segment_max: ByteSize,
    /// Requests that may wait in memory for the log's disk.
    pub wal_queue_max: ByteSize,

    /// Live spans become blocks when the oldest has been here this long, in milliseconds. Shorter means more and smaller
    /// blocks (two objects and one commit per tenant each time: at 60 s, 4,320 PUTs per tenant and day); longer means more
    /// to replay after a crash.
    pub live_age_max_ms: u64,
    /// ... or when this many bytes of requests have come since the last cut. Larger means larger blocks, and more memory.
    pub cut_bytes: ByteSize,
    /// Memory for spans on their way into blocks, of all tenants: requests in work, live spans, and a quarter for making
    /// blocks. Where it is used up, requests are refused until a flush made room. The process takes up to a quarter more.
    pub memory_max: ByteSize,
    /// Tenants whose blocks are made at the same time. They share the quarter.
    pub flush_parallelism: usize,

    /// Longer keys and string values of attributes, names, status messages and trace states are cut to this many bytes; 0
    /// keeps everything.
    pub attribute_value_bytes_max: usize,
    /// Further attributes of a span, resource, scope, event or link are dropped and counted.
    pub attributes_per_span_max: usize,
    /// Further events of a span are dropped and counted.
    pub events_per_span_max: usize,
    /// Further links of a span are dropped and counted.
    pub links_per_span_max: usize,
}

impl Default for IngesterConfig {
    fn default() -> Self {
        let AttributeLimits { value_bytes_max, attributes_per_span_max, events_per_span_max, links_per_span_max } =
            AttributeLimits::default();
        Self {
            wal_dir: "./sostenuto-data/wal".into(),
            wal_fsync: true,
            wal_group_commit_delay_ms: 2,
            wal_disk_max: ByteSize::gib(8),
            wal_disk_free_min: ByteSize::mib(512),
            wal_segment_max: ByteSize::mib(64),
            wal_queue_max: ByteSize::mib(64),
            live_age_max_ms: 60_000,
            cut_bytes: ByteSize::mib(128),
            memory_max: ByteSize::mib(352),
            flush_parallelism: 2,
            attribute_value_bytes_max: value_bytes_max,
            attributes_per_span_max,
            events_per_span_max,
            links_per_span_max,
        }
    }
}

impl IngesterConfig {
    pub(crate) fn attribute_limits(&self) -> AttributeLimits {
        AttributeLimits {
            value_bytes_max: self.attribute_value_bytes_max,
            attributes_per_span_max: self.attributes_per_span_max,
            events_per_span_max: self.events_per_span_max,
            links_per_span_max: self.links_per_span_max,
        }
    }

    pub(crate) fn wal(&self) -> WalConfig {
        WalConfig {
            group_commit_delay_max: Duration::from_millis(self.wal_group_commit_delay_ms),
            queue_bytes_max: usize::try_from(self.wal_queue_max.as_u64()).unwrap_or(usize::MAX),
            segment_bytes_max: self.wal_segment_max.as_u64(),
            disk_bytes_max: self.wal_disk_max.as_u64(),
            disk_free_bytes_min: self.wal_disk_free_min.as_u64(),
            fsync: self.wal_fsync,
            ..WalConfig::new(&self.wal_dir)
        }
    }

    pub(crate) fn live_age_max(&self) -> Duration {
        Duration::from_millis(self.live_age_max_ms)
    }

    pub(crate) fn memory_max(&self) -> usize {
        usize::try_from(self.memory_max.as_u64()).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_section_is_the_default_and_unknown_keys_are_refused() {
        assert_eq!(serde_json::from_str::<IngesterConfig>("{}").unwrap(), IngesterConfig::default());
        let error = serde_json::from_str::<IngesterConfig>(r#"{"cut_byte": 1}"#).unwrap_err().to_string();
        assert!(error.contains("unknown field"), "{error}");
        let config: IngesterConfig = serde_json::from_str(r#"{"cut_bytes": "1 MiB"}"#).unwrap();
        assert_eq!(config.cut_bytes, ByteSize::mib(1));
    }
}
