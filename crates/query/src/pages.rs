//! Decodes columns of one row group from their pages: all rows, or those of a selection.
//!
//! Parquet's own readers make contexts for compression and decompression for every column they open. For a trace of some
//! spans in some seventy columns that is most of the work. Here a thread has one context, and keeps it.

use std::{cell::RefCell, ops::Range, sync::Arc};

use arrow::{
    array::{ArrayRef, ListArray, RecordBatch, UInt32Array, new_empty_array},
    buffer::OffsetBuffer,
    compute::{concat_batches, take_record_batch},
    datatypes::{DataType, FieldRef, Fields, Schema},
};
use bytes::{Buf, Bytes};
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{ParquetRecordBatchReader, RowGroups, RowSelection},
        parquet_to_arrow_field_levels,
    },
    basic::Compression,
    column::page::{Page, PageIterator, PageMetadata, PageReader},
    errors::{ParquetError, Result},
    file::{
        metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData},
        page_index::offset_index::PageLocation,
        reader::{ChunkReader, Length, SerializedPageReader},
    },
};
use zstd::{bulk::Decompressor, zstd_safe::get_frame_content_size};

use crate::direct::{self, Wanted};

/// Stretches of this many rows are decoded or skipped as a whole. Parquet's reader would rather filter rows than skip them where
/// stretches are shorter than 32 on the average, and then it wants the pages between, too.
const STRETCH_ROWS: usize = 64;

/// What to decode: some columns of one row group, and of these all rows or some.
pub struct Pages {
    metadata: Arc<ParquetMetaData>,
    row_group: usize,
    /// Positions in the file's schema.
    columns: Vec<usize>,
    rows: Option<Arc<Rows>>,
    /// What was asked for of each leaf of `columns`, ascending.
    asked: Vec<(usize, Vec<Range<u64>>)>,
}

/// Some rows of a row group: ranges that ascend and have gaps between them.
struct Rows {
    exact: Vec<Range<usize>>,
    /// Those that are decoded to get at them.
    decoded: Vec<Range<usize>>,
    selection: RowSelection,
}

impl Rows {
    fn new(exact: Vec<Range<usize>>, all: usize) -> Self {
        let mut decoded: Vec<Range<usize>> = vec![];
        for range in exact.iter().filter(|range| !range.is_empty()) {
            let start = range.start / STRETCH_ROWS * STRETCH_ROWS;
            let end = range.end.next_multiple_of(STRETCH_ROWS).min(all);
            match decoded.last_mut() {
                Some(last) if start <= last.end => last.end = end,
                _ => decoded.push(start..end),
            }
        }
        let selection = RowSelection::from_consecutive_ranges(decoded.iter().cloned(), all);
        Self { exact, decoded, selection }
    }

    /// Where the rows are among the decoded ones.
    fn numbers(&self) -> UInt32Array {
        let mut exact = self.exact.iter().filter(|range| !range.is_empty()).peekable();
        let (mut numbers, mut passed) = (vec![], 0);
        for decoded in &self.decoded {
            while let Some(range) = exact.next_if(|range| range.start < decoded.end) {
                numbers.extend(range.clone().map(|row| (passed + row - decoded.start) as u32));
            }
            passed += decoded.len();
        }
        numbers.into()
    }
}

impl Pages {
    /// `columns` are positions in the file's schema and `rows` ranges; both ascend.
    pub fn new(metadata: Arc<ParquetMetaData>, row_group: usize, columns: &[usize], rows: Option<Vec<Range<usize>>>) -> Self {
        let all = usize::try_from(metadata.row_group(row_group).num_rows()).unwrap_or(0);
        let rows = rows.map(|rows| Arc::new(Rows::new(rows, all)));
        let schema = metadata.file_metadata().schema_descr();
        let leaves = (0..schema.num_columns()).filter(|leaf| columns.contains(&schema.get_column_root_idx(*leaf)));
        let asked = leaves.map(|leaf| (leaf, ranges(&metadata, row_group, leaf, rows.as_ref().map(|rows| &rows.selection)))).collect();
        Self { metadata, row_group, columns: columns.to_vec(), rows, asked }
    }

    /// The same in a few shares of about as many bytes each, at least `bytes_min`: none has no columns.
    pub fn shares(self, most: usize, bytes_min: u64) -> Vec<Self> {
        let schema = self.metadata.file_metadata().schema_descr();
        let mut columns: Vec<(u64, usize)> = self.columns.iter().map(|column| (0, *column)).collect();
        for (leaf, ranges) in &self.asked {
            if let Ok(at) = self.columns.binary_search(&schema.get_column_root_idx(*leaf)) {
                columns[at].0 += ranges.iter().map(|range| range.end - range.start).sum::<u64>();
            }
        }
        let bytes: u64 = columns.iter().map(|(bytes, _)| bytes).sum();
        let shares = usize::try_from(bytes / bytes_min.max(1)).unwrap_or(most).clamp(1, most.min(columns.len()).max(1));
        if shares == 1 {
            return vec![self];
        }
        // The largest first, each into the share with the least.
        columns.sort_unstable_by(|a, b| b.cmp(a));
        let mut shared = vec![(0, vec![]); shares];
        for (bytes, column) in columns {
            if let Some((sum, columns)) = shared.iter_mut().min_by_key(|(sum, columns)| (*sum, columns.len())) {
                *sum += bytes;
                columns.push(column);
            }
        }
        let share = |mut columns: Vec<usize>| {
            columns.sort_unstable();
            let asked = self.asked.iter().filter(|(leaf, _)| columns.contains(&schema.get_column_root_idx(*leaf))).cloned().collect();
            Self { metadata: Arc::clone(&self.metadata), row_group: self.row_group, columns, rows: self.rows.clone(), asked }
        };
        shared.into_iter().map(|(_, columns)| share(columns)).collect()
    }

    /// Positions in the file's schema, ascending.
    pub fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// The bytes of the file that are needed, column by column.
    pub fn ranges(&self) -> Vec<Range<u64>> {
        self.asked.iter().flat_map(|(_, ranges)| ranges.iter().cloned()).collect()
    }

    /// The rows, from the bytes of [`Self::ranges`], in one batch with [`Self::columns`]. `fields` are those of the
    /// whole file.
    pub fn decode(&self, bytes: Vec<Bytes>, fields: &Fields) -> Result<RecordBatch> {
        let fetched = self.fetched(bytes);
        let mut found: Vec<Option<ArrayRef>> = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            found.push(match (&self.rows, fields.get(*column)) {
                (Some(rows), Some(field)) => fetched.looked_up(*column, field, rows)?,
                _ => None,
            });
        }
        let rest: Vec<usize> = self.columns.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(column, _)| *column).collect();
        if rest.len() == self.columns.len() {
            return self.read(&fetched, &rest, fields);
        }
        let read = if rest.is_empty() { None } else { Some(self.read(&fetched, &rest, fields)?) };
        let mut read = read.iter().flat_map(|read| read.columns().iter().cloned());
        let arrays: Vec<ArrayRef> = found.into_iter().filter_map(|found| found.or_else(|| read.next())).collect();
        let fields: Vec<FieldRef> = self.columns.iter().filter_map(|column| fields.get(*column).cloned()).collect();
        Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
    }

    fn fetched(&self, bytes: Vec<Bytes>) -> Fetched<'_> {
        let mut bytes = bytes.into_iter();
        let mut chunks = Vec::with_capacity(self.asked.len());
        for (leaf, ranges) in &self.asked {
            let parts = ranges.iter().map(|range| range.start).zip(&mut bytes).collect();
            chunks.push((*leaf, Arc::new(Chunk { parts })));
        }
        Fetched { metadata: &self.metadata, row_group: self.row_group, chunks }
    }

    /// Some of the columns, as Parquet's readers read them.
    fn read(&self, fetched: &Fetched<'_>, columns: &[usize], fields: &Fields) -> Result<RecordBatch> {
        let schema = self.metadata.file_metadata().schema_descr();
        let columns = ProjectionMask::roots(schema, columns.iter().copied());
        let levels = parquet_to_arrow_field_levels(schema, columns, Some(fields))?;
        let selection = self.rows.as_ref().map(|rows| rows.selection.clone());
        let rows = selection.as_ref().map_or(fetched.num_rows(), RowSelection::row_count);
        let reader = ParquetRecordBatchReader::try_new_with_row_groups(&levels, fetched, rows.max(1), selection)?;
        let schema = arrow::array::RecordBatchReader::schema(&reader);
        let batches = reader.collect::<std::result::Result<Vec<RecordBatch>, _>>()?;
        let decoded = match batches.as_slice() {
            [batch] => batch.clone(),
            batches => concat_batches(&schema, batches)?,
        };
        match &self.rows {
            Some(rows) if rows.exact != rows.decoded => Ok(take_record_batch(&decoded, &rows.numbers())?),
            _ => Ok(decoded),
        }
    }
}

fn locations(metadata: &ParquetMetaData, row_group: usize, leaf: usize) -> Option<&[PageLocation]> {
    let index = metadata.offset_index()?.get(row_group)?.get(leaf)?;
    Some(index.page_locations()).filter(|pages| !pages.is_empty()).map(Vec::as_slice)
}

/// The bytes of a column chunk that hold its dictionary and the pages of some rows.
fn ranges(metadata: &ParquetMetaData, row_group: usize, leaf: usize, rows: Option<&RowSelection>) -> Vec<Range<u64>> {
    let (start, length) = metadata.row_group(row_group).column(leaf).byte_range();
    let (Some(rows), Some(pages)) = (rows, locations(metadata, row_group, leaf)) else {
        return vec![start..start + length];
    };
    let first = u64::try_from(pages[0].offset).unwrap_or(start);
    let dictionary = Some(start..first).filter(|range| !range.is_empty());
    dictionary.into_iter().chain(rows.scan_ranges(pages)).collect()
}

/// The fetched part of a row group.
struct Fetched<'a> {
    metadata: &'a ParquetMetaData,
    row_group: usize,
    /// By leaf, ascending.
    chunks: Vec<(usize, Arc<Chunk>)>,
}

impl Fetched<'_> {
    /// Some rows of a column, if they can be looked up: of one without lists, or of lists that are all empty.
    fn looked_up(&self, column: usize, field: &FieldRef, rows: &Rows) -> Result<Option<ArrayRef>> {
        let schema = self.metadata.file_metadata().schema_descr();
        let row_group = self.metadata.row_group(self.row_group);
        let leaves = self.chunks.iter().filter(|(leaf, _)| schema.get_column_root_idx(*leaf) == column);
        // Of lists the leaf with the least to unpack says how many items each row has.
        let shallow = leaves.filter(|(leaf, _)| schema.column(*leaf).max_rep_level() <= 1);
        let Some((leaf, chunk)) = shallow.min_by_key(|(leaf, _)| row_group.column(*leaf).uncompressed_size()) else { return Ok(None) };
        let Some(locations) = locations(self.metadata, self.row_group, *leaf) else { return Ok(None) };
        let wanted = Wanted { rows: &rows.exact, all: self.num_rows(), locations };
        let metadata = row_group.column(*leaf);
        let Some(mut pages) = StoredPages::new(Arc::clone(chunk), metadata, self.num_rows(), Some(locations.to_vec()))? else { return Ok(None) };
        match field.data_type() {
            DataType::List(item) => {
                let Some(valid) = direct::empty_lists(&mut pages, &schema.column(*leaf), field.is_nullable(), wanted)? else { return Ok(None) };
                let offsets = OffsetBuffer::new_zeroed(valid.len());
                Ok(Some(Arc::new(ListArray::try_new(Arc::clone(item), offsets, new_empty_array(item.data_type()), Some(valid))?)))
            }
            kind => direct::decode(&mut pages, &schema.column(*leaf), kind, wanted),
        }
    }
}

impl RowGroups for Fetched<'_> {
    fn num_rows(&self) -> usize {
        usize::try_from(self.metadata.row_group(self.row_group).num_rows()).unwrap_or(0)
    }

    fn column_chunks(&self, leaf: usize) -> Result<Box<dyn PageIterator>> {
        let at = self.chunks.binary_search_by_key(&leaf, |(leaf, _)| *leaf);
        let at = at.map_err(|_| ParquetError::General(format!("column {leaf} was not fetched")))?;
        let chunk = Arc::clone(&self.chunks[at].1);
        let column = self.metadata.row_group(self.row_group).column(leaf);
        let pages = locations(self.metadata, self.row_group, leaf).map(<[_]>::to_vec);
        let rows = self.num_rows();
        let reader: Box<dyn PageReader> = match StoredPages::new(Arc::clone(&chunk), column, rows, pages.clone())? {
            Some(reader) => Box::new(reader),
            None => Box::new(SerializedPageReader::new(chunk, column, rows, pages)?),
        };
        Ok(Box::new(OneChunk(Some(reader))))
    }

    fn row_groups(&self) -> Box<dyn Iterator<Item = &RowGroupMetaData> + '_> {
        Box::new(std::iter::once(self.metadata.row_group(self.row_group)))
    }

    fn metadata(&self) -> &ParquetMetaData {
        self.metadata
    }
}

struct OneChunk(Option<Box<dyn PageReader>>);

impl Iterator for OneChunk {
    type Item = Result<Box<dyn PageReader>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.take().map(Ok)
    }
}

impl PageIterator for OneChunk {}

/// Fetched parts of a column chunk by their offsets in the file, ascending.
pub struct Chunk {
    parts: Vec<(u64, Bytes)>,
}

impl Chunk {
    /// What was fetched from `start` on.
    fn from(&self, start: u64) -> Result<Bytes> {
        let missing = || ParquetError::EOF(format!("the bytes from {start} on were not fetched"));
        let at = self.parts.partition_point(|(offset, _)| *offset <= start).checked_sub(1).ok_or_else(missing)?;
        let (offset, bytes) = &self.parts[at];
        let from = usize::try_from(start - offset).ok().filter(|from| *from <= bytes.len()).ok_or_else(missing)?;
        Ok(bytes.slice(from..))
    }
}

impl Length for Chunk {
    fn len(&self) -> u64 {
        self.parts.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }
}

impl ChunkReader for Chunk {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let bytes = self.from(start)?;
        if bytes.len() < length {
            return Err(ParquetError::EOF(format!("{length} bytes from {start} on were not fetched")));
        }
        Ok(bytes.slice(..length))
    }
}

/// The pages of a column chunk that is compressed with zstd, or not at all.
pub struct StoredPages {
    /// Believes that nothing is compressed.
    pub stored: SerializedPageReader<Chunk>,
    zstd: bool,
    /// No page is larger.
    bytes_max: usize,
}

impl StoredPages {
    /// `None` if they are compressed in another way.
    fn new(chunk: Arc<Chunk>, column: &ColumnChunkMetaData, rows: usize, pages: Option<Vec<PageLocation>>) -> Result<Option<Self>> {
        let zstd = match column.compression() {
            Compression::ZSTD(_) => true,
            Compression::UNCOMPRESSED => false,
            _ => return Ok(None),
        };
        let bytes_max = usize::try_from(column.uncompressed_size())?;
        // What it takes to find the pages: statistics need not be copied.
        let plain = ColumnChunkMetaData::builder(column.column_descr_ptr())
            .set_compression(Compression::UNCOMPRESSED)
            .set_num_values(column.num_values())
            .set_total_compressed_size(column.compressed_size())
            .set_total_uncompressed_size(column.uncompressed_size())
            .set_data_page_offset(column.data_page_offset())
            .set_dictionary_page_offset(column.dictionary_page_offset())
            .build()?;
        Ok(Some(Self { stored: SerializedPageReader::new(chunk, &plain, rows, pages)?, zstd, bytes_max }))
    }

    /// The page as it was before it was compressed.
    pub fn plain(&self, page: Page) -> Result<Page> {
        if !self.zstd {
            return Ok(page);
        }
        let bytes_max = self.bytes_max;
        Ok(match page {
            Page::DataPage { buf, num_values, encoding, def_level_encoding, rep_level_encoding, statistics } => {
                let buf = decompress(&buf, 0, bytes_max)?;
                Page::DataPage { buf, num_values, encoding, def_level_encoding, rep_level_encoding, statistics }
            }
            Page::DictionaryPage { buf, num_values, encoding, is_sorted } => {
                Page::DictionaryPage { buf: decompress(&buf, 0, bytes_max)?, num_values, encoding, is_sorted }
            }
            Page::DataPageV2 {
                buf,
                num_values,
                encoding,
                num_nulls,
                num_rows,
                def_levels_byte_len,
                rep_levels_byte_len,
                is_compressed: true,
                statistics,
            } => {
                let levels = def_levels_byte_len as usize + rep_levels_byte_len as usize;
                let buf = decompress(&buf, levels, bytes_max)?;
                Page::DataPageV2 {
                    buf,
                    num_values,
                    encoding,
                    num_nulls,
                    num_rows,
                    def_levels_byte_len,
                    rep_levels_byte_len,
                    is_compressed: false,
                    statistics,
                }
            }
            stored @ Page::DataPageV2 { .. } => stored,
        })
    }
}

impl Iterator for StoredPages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for StoredPages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let stored = self.stored.get_next_page()?;
        stored.map(|page| self.plain(page)).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.stored.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.stored.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.stored.at_record_boundary()
    }
}

thread_local! {
    /// Made with the first page: about 100 KiB per thread.
    static CONTEXT: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The page, whose first `plain` bytes are not compressed.
///
/// # Errors
/// Also if it takes more than `bytes_max` bytes.
fn decompress(page: &Bytes, plain: usize, bytes_max: usize) -> Result<Bytes> {
    let Some((levels, frame)) = page.split_at_checked(plain) else {
        return Err(ParquetError::EOF(format!("a page of {} bytes has levels of {plain}", page.len())));
    };
    // A page without values need not have a frame.
    if frame.is_empty() {
        return Ok(page.clone());
    }
    let size = get_frame_content_size(frame).ok().flatten().and_then(|size| usize::try_from(size).ok());
    let size = size.map_or(bytes_max, |size| size.min(bytes_max));
    let values = CONTEXT.with_borrow_mut(|context| {
        let context = match context {
            Some(context) => context,
            None => context.insert(Decompressor::new()?),
        };
        context.decompress(frame, size)
    })?;
    if levels.is_empty() {
        return Ok(values.into());
    }
    Ok([levels, &values].concat().into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{ArrayRef, BooleanArray, DictionaryArray, FixedSizeBinaryArray, Float64Array, Int32Array, Int64Array, ListArray, StringArray},
        datatypes::{Int32Type, Int64Type},
    };
    use parquet::{
        arrow::{ArrowWriter, arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder}},
        basic::{Encoding, ZstdLevel},
        file::{metadata::PageIndexPolicy, properties::{WriterProperties, WriterPropertiesBuilder, WriterVersion}},
    };

    use super::*;

    const ROWS: i32 = 1_000;
    const ALL: [usize; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];

    fn batch() -> RecordBatch {
        let ids = (0..ROWS).map(|row| Some((row / 7).to_be_bytes().to_vec()));
        let ids = FixedSizeBinaryArray::try_from_sparse_iter_with_size(ids, 4).unwrap();
        let words: DictionaryArray<Int32Type> = (0..ROWS).map(|row| (row % 5 > 0).then(|| ["a", "bb", "ccc"][row as usize % 3])).collect();
        let lists = (0..ROWS).map(|row| (row % 3 > 0).then(|| (0..row % 4).map(|item| Some(i64::from(item)))));
        let rare = (0..ROWS).map(|row| (row % 3 > 0).then(|| (0..i32::from(row % 90 == 0)).map(|item| Some(i64::from(item)))));
        let some = |row: i32| (row % 4 > 0).then_some(row);
        let texts: Vec<Option<String>> = (0..ROWS).map(|row| some(row).map(|row| format!("{row}{}", "x".repeat(row as usize % 5)))).collect();
        let columns: [(&str, ArrayRef); 12] = [
            ("ids", Arc::new(ids)),
            ("words", Arc::new(words)),
            ("text", Arc::new(StringArray::from_iter_values((0..ROWS).map(|row| format!("text {row}"))))),
            ("lists", Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists))),
            ("empty", Arc::new(Int32Array::new_null(ROWS as usize))),
            ("numbers", Arc::new(Int64Array::from_iter_values((0..ROWS).map(i64::from)))),
            ("flags", Arc::new((0..ROWS).map(|row| some(row).map(|row| row % 3 == 0)).collect::<BooleanArray>())),
            ("ratios", Arc::new((0..ROWS).map(|row| some(row).map(|row| f64::from(row) / 7.0)).collect::<Float64Array>())),
            ("times", Arc::new(Int64Array::from_iter_values((0..ROWS).map(|row| i64::from(row) << 40 | 77)))),
            ("codes", Arc::new((0..ROWS).map(|row| some(row).map(|row| row % 300 - 5)).collect::<Int32Array>())),
            ("plain", Arc::new(texts.iter().map(Option::as_deref).collect::<DictionaryArray<Int32Type>>())),
            ("rare", Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(rare))),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
    }

    fn file(version: WriterVersion, compression: Compression) -> Bytes {
        let properties = WriterProperties::builder()
            .set_writer_version(version)
            .set_compression(compression)
            .set_data_page_row_count_limit(64)
            .set_write_batch_size(16)
            .set_max_row_group_row_count(Some(400));
        let apart = |properties: WriterPropertiesBuilder, name: &str, encoding| {
            properties.set_column_dictionary_enabled(name.into(), false).set_column_encoding(name.into(), encoding)
        };
        let properties = apart(properties, "ratios", Encoding::BYTE_STREAM_SPLIT);
        let properties = apart(properties, "times", Encoding::BYTE_STREAM_SPLIT);
        let properties = apart(apart(properties, "plain", Encoding::PLAIN), "numbers", Encoding::DELTA_BINARY_PACKED).build();
        let mut writer = ArrowWriter::try_new(vec![], batch().schema(), Some(properties)).unwrap();
        writer.write(&batch()).unwrap();
        writer.into_inner().unwrap().into()
    }

    fn decoded(file: &Bytes, row_group: usize, columns: &[usize], rows: Option<&[Range<usize>]>, index: PageIndexPolicy) -> Result<RecordBatch> {
        let metadata = ArrowReaderMetadata::load(file, ArrowReaderOptions::new().with_page_index_policy(index))?;
        let pages = Pages::new(Arc::clone(metadata.metadata()), row_group, columns, rows.map(<[_]>::to_vec));
        let bytes = pages.ranges().into_iter().map(|range| file.slice(range.start as usize..range.end as usize)).collect();
        pages.decode(bytes, metadata.schema().fields())
    }

    #[test]
    fn what_is_decoded_is_what_parquets_reader_reads() {
        let zstd = Compression::ZSTD(ZstdLevel::try_new(3).unwrap());
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            for compression in [zstd, Compression::UNCOMPRESSED, Compression::SNAPPY] {
                let file = file(version, compression);
                let whole = |row_group: usize| {
                    let reader = ParquetRecordBatchReaderBuilder::try_new(file.clone()).unwrap().with_row_groups(vec![row_group]);
                    reader.with_batch_size(ROWS as usize).build().unwrap().next().unwrap().unwrap()
                };
                for index in [PageIndexPolicy::Required, PageIndexPolicy::Skip] {
                    assert_eq!(decoded(&file, 1, &ALL, None, index).unwrap(), whole(1));
                    let some = whole(2);
                    let rows = decoded(&file, 2, &ALL, Some(&[3..5, 70..71, 199..200]), index).unwrap();
                    let wanted = [some.slice(3, 2), some.slice(70, 1), some.slice(199, 1)];
                    assert_eq!(rows, concat_batches(&some.schema(), &wanted).unwrap());
                    assert_eq!(decoded(&file, 0, &[2], Some(&[]), index).unwrap().num_rows(), 0);
                    // Far more stretches than rows in each.
                    let whole = whole(0);
                    for step in [2, 5, 33, 70, 199] {
                        let (ranges, slices): (Vec<_>, Vec<_>) = (step..400).step_by(step).map(|row| (row..row + 1, whole.slice(row, 1))).unzip();
                        let rows = decoded(&file, 0, &ALL, Some(&ranges), index).unwrap();
                        assert_eq!(rows, concat_batches(&whole.schema(), &slices).unwrap(), "every {step} rows");
                    }
                }
            }
        }
    }

    #[test]
    fn rows_are_looked_up_where_that_can_be_done() {
        for compression in [Compression::ZSTD(ZstdLevel::try_new(3).unwrap()), Compression::UNCOMPRESSED] {
            let file = file(WriterVersion::PARQUET_1_0, compression);
            let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required)).unwrap();
            let (metadata, fields) = (Arc::clone(metadata.metadata()), metadata.schema().fields().clone());
            // Rows 1 and 2 have lists with items, rows 3 and 93 have no lists; none of them has a rare item.
            for (rows, lists) in [(vec![1..3], false), (vec![3..4, 93..94], true)] {
                let pages = Pages::new(Arc::clone(&metadata), 0, &ALL, Some(rows));
                let bytes: Vec<Bytes> = pages.ranges().into_iter().map(|range| file.slice(range.start as usize..range.end as usize)).collect();
                let fetched = pages.fetched(bytes);
                let looked_up = ALL.map(|column| fetched.looked_up(column, &fields[column], pages.rows.as_ref().unwrap()).unwrap().is_some());
                // All but text without a dictionary type and differences from one to the next.
                let mut expected = [true; ALL.len()];
                (expected[2], expected[3], expected[5]) = (false, lists, false);
                assert_eq!(looked_up, expected);
            }
        }
    }

    #[test]
    fn only_the_pages_of_the_rows_are_asked_for() {
        let file = file(WriterVersion::PARQUET_1_0, Compression::ZSTD(ZstdLevel::try_new(3).unwrap()));
        let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required)).unwrap();
        let asked = |rows: &[Range<usize>]| {
            let pages = Pages::new(Arc::clone(metadata.metadata()), 0, &[2], Some(rows.to_vec()));
            pages.ranges().iter().map(|range| range.end - range.start).sum::<u64>()
        };
        let all = metadata.metadata().row_group(0).column(2).byte_range().1;
        assert!(asked(&[0..1]) < asked(&[0..1, 399..400]) && asked(&[0..1, 399..400]) < all);
        assert_eq!(asked(&[0..400]), all);
    }

    #[test]
    fn a_page_that_cannot_be_decompressed_is_an_error() {
        // A frame that claims more than the column holds takes no more than that.
        let frame = zstd::bulk::compress(&[7; 100_000], 1).unwrap();
        assert!(decompress(&frame.clone().into(), 0, 99_999).is_err());
        assert_eq!(decompress(&frame.into(), 0, 100_000).unwrap().len(), 100_000);
        assert!(decompress(&Bytes::from_static(b"ab"), 3, 10).is_err());
        assert!(decompress(&Bytes::from_static(b"no frame"), 0, 10).is_err());
    }
}
