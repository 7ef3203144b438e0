//! What the table and the planner know of a block without opening it.

use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::statistics::Statistics;
use serde::{Deserialize, Serialize};

use crate::schema;

/// Counts and ranges of one block. Times are signed 64-bit nanoseconds since 1970.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockStats {
    pub rows: u64,
    pub traces: u64,
    /// Start of the time window the block belongs to.
    pub window_start_unix_nano: i64,
    /// Earliest span start.
    pub min_start_unix_nano: i64,
    /// Latest span end.
    pub max_end_unix_nano: i64,
    /// Size of the data file.
    pub size_bytes: u64,
    /// Ranges of some columns, in file order.
    pub columns: Vec<ColumnStats>,
}

/// The range of one column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ColumnStats {
    pub name: String,
    /// The column's type in the words of the Delta protocol.
    pub delta_type: String,
    pub null_count: u64,
    /// A lower bound of all values; exact but for long strings. `None` if every value is null.
    pub min: Option<StatValue>,
    /// An upper bound of all values.
    pub max: Option<StatValue>,
}

#[derive(Clone, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StatValue {
    Long(i64),
    String(String),
}

/// Columns with a range in the stats: what a foreign reader of the table is most likely to filter by.
const RANGED: [&str; 10] = [
    schema::START_TIME,
    schema::DURATION,
    schema::NAME,
    schema::KIND,
    schema::STATUS_CODE,
    schema::ROOT_SERVICE_NAME,
    schema::ROOT_SPAN_NAME,
    schema::TRACE_START,
    schema::TRACE_DURATION,
    "resource.service.name",
];

/// The ranges that a footer tells. A column without statistics in some row group has none here.
pub(crate) fn ranges(footer: &ParquetMetaData) -> Vec<ColumnStats> {
    let columns = footer.file_metadata().schema_descr();
    (0..columns.num_columns())
        .filter(|at| RANGED.contains(&columns.column(*at).path().string().as_str()))
        .filter_map(|at| range(footer.row_groups(), at))
        .collect()
}

fn range(row_groups: &[RowGroupMetaData], column: usize) -> Option<ColumnStats> {
    let name = row_groups.first()?.column(column).column_path().string();
    let mut merged: Option<ColumnStats> = None;
    for row_group in row_groups {
        let statistics = row_group.column(column).statistics()?;
        let (delta_type, min, max) = match statistics {
            Statistics::Int32(s) => ("integer", s.min_opt().map(|v| long(*v)), s.max_opt().map(|v| long(*v))),
            Statistics::Int64(s) => ("long", s.min_opt().map(|v| long(*v)), s.max_opt().map(|v| long(*v))),
            Statistics::ByteArray(s) => ("string", text(s.min_bytes_opt()), text(s.max_bytes_opt())),
            _ => return None,
        };
        let nulls = statistics.null_count_opt()?;
        if (min.is_none() || max.is_none()) && nulls < row_group.num_rows() as u64 {
            return None;
        }
        match &mut merged {
            None => {
                merged = Some(ColumnStats {
                    name: name.clone(),
                    delta_type: delta_type.into(),
                    null_count: nulls,
                    min,
                    max,
                });
            }
            Some(all) => {
                all.null_count += nulls;
                all.min = smaller(all.min.take(), min);
                all.max = larger(all.max.take(), max);
            }
        }
    }
    merged
}

fn long(value: impl Into<i64>) -> StatValue {
    StatValue::Long(value.into())
}

fn text(bytes: Option<&[u8]>) -> Option<StatValue> {
    Some(StatValue::String(std::str::from_utf8(bytes?).ok()?.to_owned()))
}

fn smaller(a: Option<StatValue>, b: Option<StatValue>) -> Option<StatValue> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b < a { b } else { a }),
        (a, b) => a.or(b),
    }
}

fn larger(a: Option<StatValue>, b: Option<StatValue>) -> Option<StatValue> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b > a { b } else { a }),
        (a, b) => a.or(b),
    }
}
