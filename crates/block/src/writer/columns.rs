//! How each column is encoded, compressed and indexed.
//!
//! Measured on generated traffic (`examples/block_size.rs`); `docs/block-format.md` has the table.

use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowSchemaConverter;
use parquet::basic::{Compression, Encoding, Type, ZstdLevel};
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterVersion};

use super::WriterOptions;
use super::wide::Wide;
use crate::error::BlockError;
use crate::promotion::AttributeColumn;
use crate::schema;

/// Fewer distinct values than one in this many set rows: a dictionary pays.
pub(super) const DICTIONARY_REPEATS_MIN: usize = 2;
/// A dictionary that would grow past this many bytes makes the column chunk go on without one.
pub(super) const DICTIONARY_PAGE_BYTES: usize = 1 << 20;
/// Longer minima and maxima are cut.
pub(super) const STATISTICS_BYTES: usize = 64;

/// Who encodes a column.
pub(super) enum Encoder {
    Text,
    Numbers(EnabledStatistics),
    Wide(Wide, EnabledStatistics),
    /// The Parquet crate.
    Other,
}

struct Layout {
    dictionary: bool,
    /// Without a dictionary, or once it has grown too large.
    encoding: Encoding,
    statistics: EnabledStatistics,
}

pub(super) fn encoder(field: &Field) -> Encoder {
    let kind = field.data_type();
    if *kind == schema::dictionary() {
        return Encoder::Text;
    }
    let own = |physical| layout(&[field.name().clone()], physical);
    match (kind, Wide::of(kind)) {
        (DataType::Int32, _) => by_dictionary(own(Type::INT32)),
        (DataType::Int64, Some(wide)) => match own(Type::INT64) {
            split if split.encoding == Encoding::BYTE_STREAM_SPLIT => Encoder::Wide(wide, split.statistics),
            other => by_dictionary(other),
        },
        (DataType::Float64, Some(wide)) => Encoder::Wide(wide, own(Type::DOUBLE).statistics),
        (_, Some(wide)) if field.name() == schema::PARENT_SPAN_ID => Encoder::Wide(wide, EnabledStatistics::None),
        _ => Encoder::Other,
    }
}

fn by_dictionary(layout: Layout) -> Encoder {
    if layout.dictionary { Encoder::Numbers(layout.statistics) } else { Encoder::Other }
}

/// The most rows of a page of a column that is encoded here.
pub(super) fn page_rows(name: &str, options: &WriterOptions) -> usize {
    if fine(name).is_some() { options.page_rows } else { options.packed_page_rows }
}

/// The properties of a file with these columns. Where [`encoder`] names another encoder than the Parquet crate, they hold
/// for what that one leaves to it.
pub(super) fn properties(columns: &Schema, options: &WriterOptions) -> Result<WriterPropertiesBuilder, BlockError> {
    let compression = match options.zstd_level {
        0 => Compression::UNCOMPRESSED,
        level => Compression::ZSTD(ZstdLevel::try_new(level)?),
    };
    let mut properties = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_created_by("sostenuto".into())
        .set_compression(compression)
        .set_max_row_group_row_count(None)
        .set_data_page_row_count_limit(options.packed_page_rows)
        .set_dictionary_page_size_limit(DICTIONARY_PAGE_BYTES)
        .set_column_index_truncate_length(Some(STATISTICS_BYTES))
        .set_statistics_truncate_length(Some(STATISTICS_BYTES));
    let file_schema = ArrowSchemaConverter::new().convert(columns)?;
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
        let layout = layout(leaf.path().parts(), leaf.physical_type());
        let path = leaf.path().clone();
        let in_list = path.parts().len() > 1;
        if let Some(bytes) = fine(leaf.name()).filter(|_| !in_list) {
            properties = properties.set_column_data_page_size_limit(path.clone(), options.page_rows * bytes);
        }
        if leaf.name() == schema::SPAN_ID && options.zstd_level > 1 {
            // Random bytes: nothing is found in them, however long it is looked for.
            properties = properties.set_column_compression(path.clone(), Compression::ZSTD(ZstdLevel::try_new(1)?));
        }
        properties = properties
            .set_column_dictionary_enabled(path.clone(), layout.dictionary && in_list)
            .set_column_encoding(path.clone(), layout.encoding)
            .set_column_statistics_enabled(path, layout.statistics);
    }
    Ok(properties.set_sorting_columns(Some(sorting)))
}

/// The bytes of a value of the columns whose pages are small: which rows a trace has, and what does not pack better in larger
/// ones.
fn fine(name: &str) -> Option<usize> {
    match name {
        schema::TRACE_ID => Some(16),
        schema::SPAN_ID | schema::PARENT_SPAN_ID => Some(8),
        schema::START_TIME | schema::DURATION | schema::TRACE_START | schema::TRACE_DURATION => Some(8),
        _ => None,
    }
}

fn layout(path: &[String], kind: Type) -> Layout {
    use EnabledStatistics::{Chunk, None, Page};
    let with = |dictionary, encoding, statistics| Layout { dictionary, encoding, statistics };
    if let [list, .., name] = path {
        return match name.as_str() {
            schema::LINK_TRACE_ID | schema::LINK_SPAN_ID if list == schema::LINKS => with(false, Encoding::PLAIN, None),
            schema::EVENT_TIME => with(false, Encoding::DELTA_BINARY_PACKED, None),
            _ => by_type(kind, None),
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
            let mut layout = by_type(kind, Chunk);
            let numeric = kind != Type::BYTE_ARRAY;
            if numeric
                && (AttributeColumn::parse(name).is_some() || [schema::KIND, schema::STATUS_CODE].contains(&name))
            {
                layout.statistics = Page;
            }
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
