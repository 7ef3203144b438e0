//! A block as the table knows it: everything a query needs to decide whether to open it.
//!
//! In the log this is an `add` action. What Delta has a place for (path, size, row count, column ranges)
//! stands there for every reader; the rest stands in tags that begin with `sostenuto.`. An `add` without
//! our tags is some other writer's file: it is not a block, and the snapshot lists it as foreign.

use std::collections::BTreeMap;

use block::stats::{ColumnStats, StatValue};
use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::delta::action::{Add, Remove};

const TAG_ID: &str = "sostenuto.block_id";
const TAG_ROWS: &str = "sostenuto.rows";
const TAG_TRACES: &str = "sostenuto.traces";
const TAG_MIN_START: &str = "sostenuto.min_start_unix_nano";
const TAG_MAX_END: &str = "sostenuto.max_end_unix_nano";
const TAG_SIDECAR_BYTES: &str = "sostenuto.sidecar_bytes";
const TAG_CHUNKS_CRC: &str = "sostenuto.chunks_crc32c";

/// One block of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockEntry {
    pub id: Ulid,
    /// Relative to the table: `<window>/<id>.parquet`.
    pub path: String,
    /// Of the data file.
    pub size_bytes: u64,
    pub sidecar_bytes: u64,
    /// CRC32C over the chunk CRCs of the data file (little-endian, in order): ties a sidecar, also a rebuilt
    /// one, to the bytes that were committed.
    pub chunks_crc32c: u32,
    pub rows: u64,
    pub traces: u64,
    /// The true range of the rows, OTLP's unsigned nanoseconds bit for bit.
    pub min_start_unix_nano: i64,
    pub max_end_unix_nano: i64,
    /// When the block was written, milliseconds since 1970.
    pub modified_unix_ms: i64,
    /// Ranges of some columns.
    pub columns: Vec<ColumnRange>,
    /// The block's columns. Set by [`crate::Storage::put_block`], so that the commit can add what is new to
    /// the table; `None` on an entry that was read from the log.
    pub schema: Option<SchemaRef>,
}

/// The range of a column: bounds of all values; `None` if every value is null.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnRange {
    pub name: String,
    pub min: Option<StatValue>,
    pub max: Option<StatValue>,
    pub null_count: u64,
}

impl From<&ColumnStats> for ColumnRange {
    fn from(stats: &ColumnStats) -> Self {
        Self { name: stats.name.clone(), min: stats.min.clone(), max: stats.max.clone(), null_count: stats.null_count }
    }
}

/// `stats` of an `add`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Stats {
    num_records: u64,
    min_values: BTreeMap<String, StatValue>,
    max_values: BTreeMap<String, StatValue>,
    null_count: BTreeMap<String, u64>,
}

impl BlockEntry {
    /// The time window that the block's traces begin in, as the folder it lies in: `2026-11-21T07`.
    pub fn window(&self) -> &str {
        self.path.split_once('/').map_or("", |(window, _)| window)
    }

    pub(crate) fn to_add(&self, data_change: bool) -> Add {
        let mut stats = Stats { num_records: self.rows, ..Stats::default() };
        for column in &self.columns {
            stats.min_values.extend(column.min.clone().map(|min| (column.name.clone(), min)));
            stats.max_values.extend(column.max.clone().map(|max| (column.name.clone(), max)));
            stats.null_count.insert(column.name.clone(), column.null_count);
        }
        let tags = [
            (TAG_ID, self.id.to_string()),
            (TAG_ROWS, self.rows.to_string()),
            (TAG_TRACES, self.traces.to_string()),
            (TAG_MIN_START, self.min_start_unix_nano.to_string()),
            (TAG_MAX_END, self.max_end_unix_nano.to_string()),
            (TAG_SIDECAR_BYTES, self.sidecar_bytes.to_string()),
            (TAG_CHUNKS_CRC, self.chunks_crc32c.to_string()),
        ];
        Add {
            path: self.path.clone(),
            partition_values: BTreeMap::new(),
            size: i64::try_from(self.size_bytes).expect("a block is far below 8 EiB"),
            modification_time: self.modified_unix_ms,
            data_change,
            stats: Some(serde_json::to_string(&stats).expect("string keys and numbers only")),
            tags: Some(tags.into_iter().map(|(key, value)| (key.to_owned(), Some(value))).collect()),
        }
    }

    /// `None` for a file that is not a block of ours.
    pub(crate) fn from_add(add: &Add) -> Option<Self> {
        let tags = add.tags.as_ref()?;
        fn tag<T: std::str::FromStr>(tags: &BTreeMap<String, Option<String>>, key: &str) -> Option<T> {
            tags.get(key)?.as_ref()?.parse().ok()
        }
        let id = Ulid::from_string(tags.get(TAG_ID)?.as_ref()?).ok()?;
        // Ranges only help to skip: without them, or with ranges we cannot read, the block is read.
        let stats: Stats = add.stats.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let columns = stats
            .null_count
            .iter()
            .map(|(name, null_count)| ColumnRange {
                name: name.clone(),
                min: stats.min_values.get(name).cloned(),
                max: stats.max_values.get(name).cloned(),
                null_count: *null_count,
            })
            .collect();
        Some(Self {
            id,
            path: add.path.clone(),
            size_bytes: u64::try_from(add.size).ok()?,
            sidecar_bytes: tag(tags, TAG_SIDECAR_BYTES)?,
            chunks_crc32c: tag(tags, TAG_CHUNKS_CRC)?,
            rows: tag(tags, TAG_ROWS)?,
            traces: tag(tags, TAG_TRACES)?,
            min_start_unix_nano: tag(tags, TAG_MIN_START)?,
            max_end_unix_nano: tag(tags, TAG_MAX_END)?,
            modified_unix_ms: add.modification_time,
            columns,
            schema: None,
        })
    }

    pub(crate) fn to_remove(&self, now_unix_ms: i64, data_change: bool) -> Remove {
        Remove {
            path: self.path.clone(),
            deletion_timestamp: Some(now_unix_ms),
            data_change,
            extended_file_metadata: Some(true),
            partition_values: Some(BTreeMap::new()),
            size: i64::try_from(self.size_bytes).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_entry_survives_the_log(
            id: u128, size in 0..i64::MAX as u64, counts: [u64; 3], times: [i64; 5], nulls: u64, crc: u32,
            names: [String; 2],
        ) {
            let entry = BlockEntry {
                id: Ulid(id),
                path: format!("2026-11-21T07/{}.parquet", Ulid(id)),
                size_bytes: size,
                sidecar_bytes: counts[0],
                chunks_crc32c: crc,
                rows: counts[1],
                traces: counts[2],
                min_start_unix_nano: times[0],
                max_end_unix_nano: times[1],
                modified_unix_ms: times[2],
                columns: vec![
                    ColumnRange {
                        name: "duration_nano".into(),
                        min: Some(StatValue::Long(times[3])),
                        max: Some(StatValue::Long(times[4])),
                        null_count: nulls,
                    },
                    ColumnRange {
                        name: "name".into(),
                        min: Some(StatValue::String(names[0].clone())),
                        max: Some(StatValue::String(names[1].clone())),
                        null_count: 0,
                    },
                    ColumnRange { name: "root_span_name".into(), min: None, max: None, null_count: 1 },
                ],
                schema: None,
            };
            let add = entry.to_add(true);
            let line = serde_json::to_vec(&add).unwrap();
            prop_assert_eq!(BlockEntry::from_add(&serde_json::from_slice(&line).unwrap()), Some(entry));
        }
    }

    #[test]
    fn a_foreign_file_is_not_a_block() {
        let add = Add {
            path: "part-0.parquet".into(),
            partition_values: BTreeMap::new(),
            size: 1,
            modification_time: 1,
            data_change: true,
            stats: None,
            tags: Some([("x".to_owned(), None)].into()),
        };
        assert_eq!(BlockEntry::from_add(&add), None);
    }
}
