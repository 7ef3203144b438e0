//! How each column is encoded, compressed and indexed.
//!
//! Measured on generated traffic (`examples/block_size.rs`); `docs/block-format.md` has the table.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int32Type;
use parquet::arrow::ArrowSchemaConverter;
use parquet::basic::{Compression, Encoding, Type, ZstdLevel};
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterVersion};
use parquet::schema::types::ColumnDescriptor;

use super::WriterOptions;
use crate::error::BlockError;
use crate::promotion::AttributeColumn;
use crate::schema;

/// Fewer distinct values than one in this many set rows: a dictionary pays.
const DICTIONARY_REPEATS_MIN: usize = 2;
/// A dictionary page over this many bytes makes the column chunk go on without one.
const DICTIONARY_PAGE_BYTES: usize = 1 << 20;
/// Longer minima and maxima are cut.
const STATISTICS_BYTES: usize = 64;

struct Layout {
    dictionary: bool,
    /// Without a dictionary, or once it has grown too large.
    encoding: Encoding,
    statistics: EnabledStatistics,
}

/// The properties of a file whose first batch is `first`.
pub(super) fn properties(first: &RecordBatch, options: &WriterOptions) -> Result<WriterPropertiesBuilder, BlockError> {
    let compression = match options.zstd_level {
        0 => Compression::UNCOMPRESSED,
        level => Compression::ZSTD(ZstdLevel::try_new(level)?),
    };
    let mut properties = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_created_by("sostenuto".into())
        .set_compression(compression)
        .set_max_row_group_row_count(None)
        .set_data_page_row_count_limit(options.page_rows)
        .set_dictionary_page_size_limit(DICTIONARY_PAGE_BYTES)
        .set_column_index_truncate_length(Some(STATISTICS_BYTES))
        .set_statistics_truncate_length(Some(STATISTICS_BYTES));
    let file_schema = ArrowSchemaConverter::new().convert(first.schema_ref())?;
    let mut sorting = Vec::new();
    for name in [schema::TRACE_ID] {
        let leaf = file_schema.columns().iter().position(|leaf| leaf.path().string() == name);
        sorting.extend(leaf.map(|leaf| SortingColumn {
            column_idx: leaf as i32,
            descending: false,
            nulls_first: false,
        }));
    }
    for leaf in file_schema.columns() {
        let layout = layout(leaf, first);
        let path = leaf.path().clone();
        properties = properties
            .set_column_dictionary_enabled(path.clone(), layout.dictionary)
            .set_column_encoding(path.clone(), layout.encoding)
            .set_column_statistics_enabled(path, layout.statistics);
    }
    Ok(properties.set_sorting_columns(Some(sorting)))
}

fn layout(leaf: &ColumnDescriptor, first: &RecordBatch) -> Layout {
    use EnabledStatistics::{Chunk, None, Page};
    let with = |dictionary, encoding, statistics| Layout { dictionary, encoding, statistics };
    let path = leaf.path().parts();
    if let [list, .., name] = path {
        return match name.as_str() {
            schema::LINK_TRACE_ID | schema::LINK_SPAN_ID if list == schema::LINKS => with(false, Encoding::PLAIN, None),
            schema::EVENT_TIME => with(false, Encoding::DELTA_BINARY_PACKED, None),
            _ => by_type(leaf.physical_type(), None),
        };
    }
    let name = path[0].as_str();
    match name {
        schema::TRACE_ID => with(false, Encoding::PLAIN, Page),
        schema::SPAN_ID | schema::PARENT_SPAN_ID => with(false, Encoding::PLAIN, None),
        // The upper bytes of times repeat, the lower ones are noise: apart, each packs as well as it can.
        schema::START_TIME | schema::DURATION => with(false, Encoding::BYTE_STREAM_SPLIT, Page),
        // Runs of one value per trace, which zstd finds by itself: half the size of a dictionary.
        schema::TRACE_START | schema::TRACE_DURATION => with(false, Encoding::PLAIN, Page),
        schema::NESTED_LEFT | schema::NESTED_RIGHT | schema::NESTED_PARENT => {
            with(true, Encoding::DELTA_BINARY_PACKED, None)
        }
        schema::CHILD_COUNT => with(true, Encoding::PLAIN, Chunk),
        _ => {
            let mut layout = by_type(leaf.physical_type(), Chunk);
            let numeric = leaf.physical_type() != Type::BYTE_ARRAY;
            if numeric
                && (AttributeColumn::parse(name).is_some() || [schema::KIND, schema::STATUS_CODE].contains(&name))
            {
                layout.statistics = Page;
            }
            layout.dictionary &= repeats(first, name);
            layout
        }
    }
}

fn by_type(kind: Type, statistics: EnabledStatistics) -> Layout {
    let (dictionary, encoding) = match kind {
        // Arrow C++ reads no other encoding beside a dictionary into dictionary arrays; after zstd none is smaller either.
        Type::BYTE_ARRAY => (true, Encoding::PLAIN),
        Type::INT32 | Type::INT64 => (true, Encoding::DELTA_BINARY_PACKED),
        Type::DOUBLE | Type::FLOAT => (false, Encoding::BYTE_STREAM_SPLIT),
        Type::BOOLEAN => (false, Encoding::PLAIN),
        _ => (false, Encoding::PLAIN),
    };
    Layout { dictionary, encoding, statistics }
}

/// Whether the values of a string column repeat often enough for a dictionary. True for what cannot be told.
fn repeats(first: &RecordBatch, column: &str) -> bool {
    let Some(array) = first.column_by_name(column) else { return true };
    let Some(dictionary) = array.as_dictionary_opt::<Int32Type>() else { return true };
    let set = dictionary.len() - dictionary.null_count();
    dictionary.values().len() * DICTIONARY_REPEATS_MIN <= set.max(64)
}
