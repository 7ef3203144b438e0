//! Storing a block's files: the sidecar first, then the data, so that data never stands alone for long.

use std::sync::Arc;

use block::{sidecar::Sidecar, writer::EncodedBlock};
use bytes::Bytes;
use chrono::Utc;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, path::Path};
use parquet::arrow::parquet_to_arrow_schema;

use crate::{
    entry::{BlockEntry, ColumnRange},
    error::{Result, StorageError},
    keys::{self, TableKeys},
    open_block::chunks_crc32c,
};

/// A larger object is sent in parts.
const SINGLE_PUT_BYTES_MAX: usize = 16 << 20;
/// All parts but the last have this size: some servers want them equal, all want at least 5 MiB.
const PART_BYTES: usize = 8 << 20;
/// Parts under way at once for one block.
const PARALLEL_PARTS: usize = 4;

pub(crate) async fn put_block(store: &Arc<dyn ObjectStore>, keys: &TableKeys, block: &EncodedBlock) -> Result<(BlockEntry, Sidecar)> {
    let path = keys::data_path(block.stats.window_start_unix_nano, block.id);
    let data_key = keys.data(&path);
    let sidecar_key = keys.sidecar(block.id);
    let sidecar = Sidecar::parse(&block.sidecar).map_err(|e| StorageError::damaged(&sidecar_key, &e))?;
    let file = sidecar.footer.file_metadata();
    let schema = parquet_to_arrow_schema(file.schema_descr(), file.key_value_metadata())
        .map_err(|e| StorageError::damaged(&data_key, &e))?;

    put(store, &sidecar_key, &block.sidecar).await?;
    put(store, &data_key, &block.data).await?;
    // What the commit is about to promise.
    let stored = store.head(&data_key).await.map_err(|e| StorageError::store("check", &data_key, e))?;
    if stored.size != block.data.len() as u64 {
        return Err(StorageError::corrupt(
            &data_key,
            format!("{} bytes were sent and {} were stored", block.data.len(), stored.size),
        ));
    }

    let stats = &block.stats;
    let entry = BlockEntry {
        id: block.id,
        path,
        size_bytes: block.data.len() as u64,
        sidecar_bytes: block.sidecar.len() as u64,
        chunks_crc32c: chunks_crc32c(&sidecar.chunk_crcs),
        rows: stats.rows,
        traces: stats.traces,
        min_start_unix_nano: stats.min_start_unix_nano,
        max_end_unix_nano: stats.max_end_unix_nano,
        modified_unix_ms: Utc::now().timestamp_millis(),
        columns: stats.columns.iter().map(ColumnRange::from).collect(),
        schema: Some(Arc::new(schema)),
    };
    Ok((entry, sidecar))
}

pub(crate) async fn put(store: &Arc<dyn ObjectStore>, key: &Path, bytes: &Bytes) -> Result<()> {
    let failed = |e| StorageError::store("write", key, e);
    if bytes.len() <= SINGLE_PUT_BYTES_MAX {
        store.put(key, bytes.clone().into()).await.map_err(failed)?;
        return Ok(());
    }
    let mut upload = store.put_multipart(key).await.map_err(failed)?;
    let parts: Vec<_> = (0..bytes.len())
        .step_by(PART_BYTES)
        .map(|start| upload.put_part(PutPayload::from(bytes.slice(start..(start + PART_BYTES).min(bytes.len())))))
        .collect();
    let sent: object_store::Result<Vec<()>> = stream::iter(parts).buffer_unordered(PARALLEL_PARTS).try_collect().await;
    let sent = match sent {
        Ok(_) => upload.complete().await.map(|_| ()),
        Err(e) => Err(e),
    };
    if let Err(e) = sent {
        // Parts of an upload that is neither completed nor aborted are paid for until a lifecycle rule
        // removes them.
        if let Err(error) = upload.abort().await {
            tracing::warn!(%key, %error, "an incomplete upload was left behind");
        }
        return Err(failed(e));
    }
    Ok(())
}
