//! The small file beside a block: all that is needed to plan a query and open the block, in one read.
//!
//! Sections (see `docs/block-format.md`): a copy of the Parquet footer with its page index, a filter of trace ids,
//! CRC32C of the data file's chunks, the attribute catalogue, statistics. Nothing in it is lost with it: all of it
//! comes from the data file again.

mod contents;
mod sections;
mod trace_filter;

use std::sync::Arc;

use bytes::Bytes;
use model::{AttributeScope, TraceId};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader, ParquetMetaDataWriter};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::catalogue::{AttributeEntry, Catalogue};
use crate::error::BlockError;
use crate::stats::{self, BlockStats};
pub(crate) use contents::Contents;
use sections::{crc32c, u32_at};
pub use trace_filter::TraceFilter;

/// The unit of the data file's checksums, in bytes.
pub const CHUNK_BYTES: usize = 1 << 20;

/// Keys of the block's own entries in the Parquet footer.
pub(crate) const KEY_VERSION: &str = "sostenuto.version";
pub(crate) const KEY_BLOCK_ID: &str = "sostenuto.block_id";
pub(crate) const KEY_WINDOW_START: &str = "sostenuto.window_start_unix_nano";

const FOOTER: u32 = 1;
const TRACE_FILTER: u32 = 2;
const CHUNKS: u32 = 3;
const CATALOGUE: u32 = 4;
const STATS: u32 = 5;

/// A sidecar, read and checked.
#[derive(Debug)]
pub struct Sidecar {
    pub block_id: Ulid,
    /// With column and offset index.
    pub footer: Arc<ParquetMetaData>,
    pub trace_filter: TraceFilter,
    /// CRC32C of each [`CHUNK_BYTES`] of the data file; the last chunk may be shorter.
    pub chunk_crcs: Vec<u32>,
    pub catalogue: Arc<Catalogue>,
    pub stats: BlockStats,
}

impl Sidecar {
    /// Reads a sidecar. Any damage is an error; memory stays within a small multiple of the input.
    pub fn parse(bytes: &[u8]) -> Result<Self, BlockError> {
        let sections = sections::decode(bytes)?;
        let section = |kind: u32| {
            let found = sections.iter().find(|(other, _)| *other == kind).map(|(_, section)| *section);
            found.ok_or(BlockError::Sidecar("a section is missing"))
        };
        let footer = ParquetMetaDataReader::new()
            .with_page_index_policy(PageIndexPolicy::Optional)
            .parse_and_finish(&Bytes::copy_from_slice(section(FOOTER)?))?;
        let stats: BlockStats = serde_json::from_slice(section(STATS)?)?;
        let chunks = section(CHUNKS)?;
        if chunks.len() % 4 != 0 || chunks.len() as u64 / 4 != stats.size_bytes.div_ceil(CHUNK_BYTES as u64) {
            return Err(BlockError::Sidecar("the number of chunk checksums does not fit the size of the data file"));
        }
        Ok(Self {
            block_id: Marks::of(&footer)?.block_id,
            footer: Arc::new(footer),
            trace_filter: TraceFilter::decode(section(TRACE_FILTER)?)?,
            chunk_crcs: (0..chunks.len()).step_by(4).map(|at| u32_at(chunks, at)).collect(),
            catalogue: Arc::new(decode_catalogue(section(CATALOGUE)?)?),
            stats,
        })
    }

    /// About how much memory it takes: several times its size in the bucket, for a small block.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.footer.memory_size()
            + self.trace_filter.memory_bytes()
            + self.chunk_crcs.len() * size_of::<u32>()
            + self.catalogue.memory_bytes()
            + self.stats.columns.iter().map(|column| size_of_val(column) + column.name.len()).sum::<usize>()
    }

    /// Whether chunk number `chunk` of the data file is as it was written. False for a chunk that never was.
    pub fn chunk_is_intact(&self, chunk: usize, bytes: &[u8]) -> bool {
        self.chunk_crcs.get(chunk) == Some(&crc32c(bytes))
    }
}

/// The hash of a trace id that filters are over, and whatever else is to agree with them.
pub fn trace_hash(id: &TraceId) -> u64 {
    trace_filter::hash(&id.0)
}

/// Makes the sidecar of a data file anew: byte for byte the one its writer made.
pub fn rebuild_from(data: &Bytes) -> Result<Bytes, BlockError> {
    let mut contents = Contents::default();
    for records in ParquetRecordBatchReaderBuilder::try_new(data.clone())?.build()? {
        contents.add(&records?)?;
    }
    Ok(encode(data, contents)?.0)
}

/// The sidecar of `data`, which holds the rows that `contents` was collected from.
pub(crate) fn encode(data: &Bytes, contents: Contents) -> Result<(Bytes, BlockStats), BlockError> {
    let footer =
        ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional).parse_and_finish(data)?;
    let (min_start_unix_nano, max_end_unix_nano) = contents.times.ok_or(BlockError::Empty)?;
    let stats = BlockStats {
        rows: contents.rows,
        traces: contents.traces.len() as u64,
        window_start_unix_nano: Marks::of(&footer)?.window_start_unix_nano,
        min_start_unix_nano,
        max_end_unix_nano,
        size_bytes: data.len() as u64,
        columns: stats::ranges(&footer),
    };
    let mut footer_copy = Vec::new();
    ParquetMetaDataWriter::new(&mut footer_copy, &footer).finish()?;
    let chunk_crcs = data.chunks(CHUNK_BYTES).flat_map(|chunk| crc32c(chunk).to_le_bytes()).collect();
    let trace_filter = TraceFilter::build(contents.traces.clone()).encode();
    let sections = [
        (FOOTER, footer_copy),
        (TRACE_FILTER, trace_filter),
        (CHUNKS, chunk_crcs),
        (CATALOGUE, encode_catalogue(&contents.into_catalogue())?),
        (STATS, serde_json::to_vec(&stats)?),
    ];
    Ok((sections::encode(&sections).into(), stats))
}

/// What the writer left in the footer about the block as a whole.
struct Marks {
    block_id: Ulid,
    window_start_unix_nano: i64,
}

impl Marks {
    fn of(footer: &ParquetMetaData) -> Result<Self, BlockError> {
        let entries = footer.file_metadata().key_value_metadata();
        let value = |key: &str| entries?.iter().find(|entry| entry.key == key)?.value.as_deref();
        Ok(Self {
            block_id: value(KEY_BLOCK_ID)
                .and_then(|text| Ulid::from_string(text).ok())
                .ok_or(BlockError::Foreign("its footer has no block id"))?,
            window_start_unix_nano: value(KEY_WINDOW_START)
                .and_then(|text| text.parse().ok())
                .ok_or(BlockError::Foreign("its footer has no window"))?,
        })
    }
}

/// The catalogue as JSON: keys and values are text already, and anyone can read it.
#[derive(Serialize, Deserialize)]
struct CatalogueText {
    attributes: Vec<(String, String, AttributeEntry)>,
    values: std::collections::BTreeMap<String, Vec<String>>,
}

fn encode_catalogue(catalogue: &Catalogue) -> Result<Vec<u8>, BlockError> {
    let attributes = catalogue
        .iter()
        .map(|(scope, key, entry)| (scope.as_str().to_owned(), key.to_owned(), entry.clone()))
        .collect();
    let values = catalogue.value_lists().map(|(column, values)| (column.to_owned(), values.to_vec())).collect();
    Ok(serde_json::to_vec(&CatalogueText { attributes, values })?)
}

fn decode_catalogue(bytes: &[u8]) -> Result<Catalogue, BlockError> {
    let text: CatalogueText = serde_json::from_slice(bytes)?;
    let mut catalogue = Catalogue::default();
    for (scope, key, entry) in text.attributes {
        // A scope of a later version is nothing this version could ask for.
        if let Some(scope) = AttributeScope::ALL.into_iter().find(|known| known.as_str() == scope) {
            catalogue.set(scope, key, entry);
        }
    }
    catalogue.set_values(text.values);
    Ok(catalogue)
}
