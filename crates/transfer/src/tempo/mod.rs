//! Blocks of Tempo, vParquet4 and vParquet5: a row for each trace, with resources, scopes and spans nested in it.
//!
//! The specification is what the files say of themselves and what Tempo's documentation says of the schema. Columns are found
//! by name; those that only help Tempo to search are not read. A value that stands in a column of which nobody knows the
//! attribute is an error, not a loss.

mod attributes;
mod columns;
mod file;
mod meta;
mod spans;

use std::{
    panic,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arrow::array::{RecordBatch, StructArray};
use futures::StreamExt;
use object_store::{ObjectStore, path::Path};
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use prost::Message;
use tokio::runtime::Handle;

pub(crate) use meta::Meta;

use crate::import::{Ended, Intake, Place};
use columns::Group;
use file::File;
use spans::Traces;

/// Traces that are decoded at once.
const TRACES_AT_ONCE: usize = 16;

/// Columns that say nothing that the spans do not say.
const DERIVED: [&str; 17] = [
    "TraceIDText",
    "StartTimeUnixNano",
    "EndTimeUnixNano",
    "DurationNano",
    "RootServiceName",
    "RootSpanName",
    "ServiceStats",
    "NestedSetLeft",
    "NestedSetRight",
    "ParentID",
    "ChildCount",
    "SpanCount",
    "ErrorCount",
    "StartTimeRounded15",
    "StartTimeRounded60",
    "StartTimeRounded300",
    "StartTimeRounded3600",
];

/// Hands over each trace of a block as a record. In memory are the compressed columns of one row group, and
/// [`TRACES_AT_ONCE`] traces.
pub(crate) fn read(
    meta: &Meta,
    store: Arc<dyn ObjectStore>,
    path: Path,
    bytes: u64,
    read: &AtomicU64,
    runtime: &Handle,
    intake: &mut Intake<'_>,
) -> Result<(), Ended> {
    let damaged = |error: parquet::errors::ParquetError| Ended::Unreadable(error.to_string());
    let reader = File { store, path, bytes };
    let builder = guarded(|| runtime.block_on(ParquetRecordBatchStreamBuilder::new(reader)))?.map_err(damaged)?;
    let schema = builder.metadata().file_metadata().schema_descr_ptr();
    let rows = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
    let wanted = (0..schema.num_columns()).filter(|at| is_wanted(schema.column(*at).path().parts()));
    let mask = ProjectionMask::leaves(&schema, wanted);
    let skip = intake.skip().min(rows);
    intake.skipped();
    let offset = usize::try_from(skip).map_err(|error| Ended::Unreadable(error.to_string()))?;
    let stream = builder.with_projection(mask).with_batch_size(TRACES_AT_ONCE).with_offset(offset).build();
    let mut stream = stream.map_err(damaged)?;
    let mut row = skip;
    let counted = |row: u64| (bytes as u128 * u128::from(row) / u128::from(rows.max(1))) as u64;
    read.fetch_add(counted(row), Ordering::Relaxed);
    while let Some(batch) = guarded(|| runtime.block_on(stream.next()))? {
        let batch: RecordBatch = batch.map_err(damaged)?;
        let root = StructArray::from(batch);
        let traces = Traces::find(&Group::root(&root), meta).map_err(Ended::Unreadable)?;
        for at in 0..root_len(&root) {
            // Traces are counted from 1.
            let number = row + at as u64 + 1;
            intake.record(Place::Trace(number), || traces.read(at).map(|request| request.encode_to_vec()))?;
        }
        let before = counted(row);
        row += root_len(&root) as u64;
        read.fetch_add(counted(row) - before, Ordering::Relaxed);
    }
    Ok(())
}

/// Some damage makes the reader of the format panic; it costs the block and no more.
fn guarded<T>(read: impl FnOnce() -> T) -> Result<T, Ended> {
    let outcome = panic::catch_unwind(panic::AssertUnwindSafe(read));
    outcome.map_err(|_| Ended::Unreadable("the Parquet file is damaged".to_owned()))
}

fn root_len(root: &StructArray) -> usize {
    arrow::array::Array::len(root)
}

/// Of a span the start is needed, of a trace it is not.
fn is_wanted(path: &[String]) -> bool {
    let derived = path.iter().any(|part| DERIVED.contains(&part.as_str()));
    !derived
        || (path.len() > 1
            && path.first().is_some_and(|part| part == "rs")
            && path.last().is_some_and(|part| part == "StartTimeUnixNano" || part == "DurationNano"))
}
