//! Column chunks with the same bytes are stored once.
//!
//! Columns often say the same under two names: in Kubernetes a host's name is its pod's. If two chunks of a row group are alike
//! byte for byte, the footer names one place for both. Readers look for each column where the footer says; they need not know.

use std::collections::HashMap;
use std::io::Write;

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    ColumnChunkMetaData, OffsetIndexBuilder, PageIndexPolicy, ParquetMetaDataReader, ParquetMetaDataWriter, RowGroupMetaData,
};
use parquet::file::page_index::offset_index::OffsetIndexMetaData;
use parquet::file::writer::TrackedWrite;

use crate::error::BlockError;

/// What a Parquet file begins with.
const MAGIC_BYTES: usize = 4;

/// The file with each chunk once. As it is, if no two are alike.
pub(super) fn without_copies(file: Vec<u8>) -> Result<Vec<u8>, BlockError> {
    let file = Bytes::from(file);
    let metadata = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional).parse_and_finish(&file)?;
    if !metadata.row_groups().iter().any(|group| originals(&file, group).iter().enumerate().any(|(column, of)| *of != column)) {
        return Ok(file.into());
    }
    let Some(pages) = metadata.offset_index().cloned() else { return Ok(file.into()) };
    // Beside the file as it was: for a moment both are in memory.
    let mut data = Vec::with_capacity(file.len());
    let mut out = TrackedWrite::new(&mut data);
    out.write_all(&file[..MAGIC_BYTES]).map_err(ParquetError::from)?;
    let (mut groups, mut all_pages) = (Vec::with_capacity(pages.len()), Vec::with_capacity(pages.len()));
    for (group, pages) in metadata.row_groups().iter().zip(pages) {
        let mut by: Vec<i64> = Vec::with_capacity(group.num_columns());
        for (column, original) in originals(&file, group).into_iter().enumerate() {
            let (start, length) = group.column(column).byte_range();
            let place = match original < column {
                true => group.column(original).byte_range().0 as i64 + by[original],
                false => out.bytes_written() as i64,
            };
            by.push(place - start as i64);
            if original == column {
                out.write_all(&file[start as usize..(start + length) as usize]).map_err(ParquetError::from)?;
            }
        }
        let columns = group.columns().iter().zip(&by).map(|(column, by)| moved(column, *by)).collect::<Result<Vec<_>, _>>()?;
        let file_offset = group.file_offset().map(|at| at + by.first().unwrap_or(&0));
        let mut moved_group = group.clone().into_builder().set_column_metadata(columns);
        if let Some(file_offset) = file_offset {
            moved_group = moved_group.set_file_offset(file_offset);
        }
        groups.push(moved_group.build()?);
        all_pages.push(pages.iter().zip(by).map(|(pages, by)| moved_pages(pages, by)).collect());
    }
    let metadata = metadata.into_builder().set_row_groups(groups).set_offset_index(Some(all_pages)).build();
    ParquetMetaDataWriter::new_with_tracked(out, &metadata).finish()?;
    Ok(data)
}

/// For each column the first with the same bytes: itself, most often.
fn originals(file: &Bytes, group: &RowGroupMetaData) -> Vec<usize> {
    let bytes = |column: &ColumnChunkMetaData| {
        let (start, length) = column.byte_range();
        &file[start as usize..(start + length) as usize]
    };
    let mut known: HashMap<(i64, i64), Vec<usize>> = HashMap::new();
    group.columns().iter().enumerate().map(|(number, column)| {
        let alike = known.entry((column.compressed_size(), column.uncompressed_size())).or_default();
        let same_kind = |other: &ColumnChunkMetaData| {
            let (one, other) = (column.column_descr(), other.column_descr());
            (one.physical_type(), one.max_def_level(), one.max_rep_level())
                == (other.physical_type(), other.max_def_level(), other.max_rep_level())
        };
        let original = alike.iter().copied().find(|other| {
            let other = group.column(*other);
            same_kind(other) && bytes(other) == bytes(column)
        });
        original.unwrap_or_else(|| {
            alike.push(number);
            number
        })
    }).collect()
}

fn moved(column: &ColumnChunkMetaData, by: i64) -> Result<ColumnChunkMetaData, BlockError> {
    let moved = column
        .clone()
        .into_builder()
        .set_data_page_offset(column.data_page_offset() + by)
        .set_dictionary_page_offset(column.dictionary_page_offset().map(|at| at + by));
    Ok(moved.build()?)
}

fn moved_pages(pages: &OffsetIndexMetaData, by: i64) -> OffsetIndexMetaData {
    let mut moved = OffsetIndexBuilder::new();
    let locations = pages.page_locations();
    for (at, page) in locations.iter().enumerate() {
        // Rows of the last page are told by nobody, and none needs them.
        let rows = locations.get(at + 1).map_or(0, |next| next.first_row_index - page.first_row_index);
        moved.append_row_count(rows);
        moved.append_offset_and_size(page.offset + by, page.compressed_page_size);
        moved.append_unencoded_byte_array_data_bytes(pages.unencoded_byte_array_data_bytes().and_then(|sizes| sizes.get(at).copied()));
    }
    moved.build()
}
