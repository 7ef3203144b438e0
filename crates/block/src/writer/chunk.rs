//! One column chunk, put together page by page, for columns whose encoding is decided here and not by the Parquet crate.
//!
//! A page's values come as they are encoded; this adds levels, compression, headers and the chunk's metadata.

use std::io;

use arrow::buffer::BooleanBuffer;
use bytes::Bytes;
use parquet::basic::{Compression, Encoding, PageType, ZstdLevel};
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::file::metadata::{ColumnChunkMetaData, OffsetIndexBuilder, PageEncodingStats};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::statistics::Statistics;
use parquet::file::writer::{SerializedPageWriter, SerializedRowGroupWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;
use zstd::stream::raw::{Encoder, InBuffer, Operation, OutBuffer};
use zstd::zstd_safe::compress_bound;

use crate::error::BlockError;

/// What every page is tried with: strong levels lose to it where values look random, as digits of ids do.
const QUICK_LEVEL: i32 = 1;

/// Bytes of a part of a page that have codes of their own: the table of the codes takes up to a hundred bytes.
const OWN_CODES_BYTES_MIN: usize = 512;

/// Compresses pages; one for a whole file.
pub(super) struct Codec {
    level: i32,
    frames: Option<Frames>,
    /// If the level is a stronger one.
    quick: Option<Frames>,
}

impl Codec {
    /// Zstandard of this level; 0 leaves pages as they are.
    pub fn new(level: i32) -> Result<Self, BlockError> {
        let frames = (level != 0).then(|| Frames::new(level)).transpose().map_err(compression_failed)?;
        let quick = (level > QUICK_LEVEL).then(|| Frames::new(QUICK_LEVEL)).transpose().map_err(compression_failed)?;
        Ok(Self { level, frames, quick })
    }

    fn compression(&self) -> Result<Compression, BlockError> {
        Ok(match self.level {
            0 => Compression::UNCOMPRESSED,
            level => Compression::ZSTD(ZstdLevel::try_new(level)?),
        })
    }

    /// The parts, one behind the other, as one page.
    fn compress(&mut self, parts: &[&[u8]]) -> Result<Bytes, BlockError> {
        let Some(frames) = &mut self.frames else { return Ok(parts.concat().into()) };
        let strong = frames.compress(parts).map_err(compression_failed)?;
        let quick = self.quick.as_mut().map(|quick| quick.compress(parts)).transpose().map_err(compression_failed)?;
        Ok(quick.filter(|quick| quick.len() < strong.len()).unwrap_or(strong).into())
    }
}

/// Makes frames of Zstandard. A frame is made of blocks with a table of codes each. Left alone, a page is one block: where
/// digits follow levels, or noise follows bytes that repeat, one table has to do for both. So each part ends a block.
struct Frames(Encoder<'static>);

impl Frames {
    fn new(level: i32) -> io::Result<Self> {
        Ok(Self(Encoder::new(level)?))
    }

    fn compress(&mut self, parts: &[&[u8]]) -> io::Result<Vec<u8>> {
        let bytes = parts.iter().map(|part| part.len()).sum::<usize>();
        self.0.reinit()?;
        self.0.set_pledged_src_size(Some(bytes as u64))?;
        let mut frame = Vec::with_capacity(parts.iter().map(|part| compress_bound(part.len())).sum());
        let mut out = OutBuffer::around(&mut frame);
        let mut left = bytes;
        for part in parts {
            let mut part_in = InBuffer::around(part);
            while part_in.pos() < part.len() {
                room(&out)?;
                self.0.run(&mut part_in, &mut out)?;
            }
            left -= part.len();
            if part.len().min(left) >= OWN_CODES_BYTES_MIN {
                while self.0.flush(&mut out)? > 0 {
                    room(&out)?;
                }
            }
        }
        while self.0.finish(&mut out, true)? > 0 {
            room(&out)?;
        }
        Ok(frame)
    }
}

/// There is always room, by the library's own bound.
fn room(out: &OutBuffer<'_, Vec<u8>>) -> io::Result<()> {
    if out.pos() < out.capacity() { Ok(()) } else { Err(io::Error::other("Zstandard made more of a page than it may")) }
}

fn compression_failed(error: io::Error) -> BlockError {
    parquet::errors::ParquetError::External(Box::new(error)).into()
}

/// A finished chunk.
pub(super) struct Chunk {
    bytes: Bytes,
    close: ColumnCloseResult,
}

impl Chunk {
    pub fn append_to(self, row_group: &mut SerializedRowGroupWriter<'_, Vec<u8>>) -> Result<(), BlockError> {
        Ok(row_group.append_column(&self.bytes, self.close)?)
    }
}

/// A growing chunk of a column that is not inside a list: a dictionary page if there is one, then data pages.
pub(super) struct ChunkWriter<'a> {
    column: ColumnDescPtr,
    codec: &'a mut Codec,
    out: TrackedWrite<Vec<u8>>,
    dictionary_at: Option<i64>,
    data_at: Option<i64>,
    uncompressed_bytes: usize,
    compressed_bytes: usize,
    encodings: Vec<PageEncodingStats>,
    offsets: OffsetIndexBuilder,
    rows: usize,
}

impl<'a> ChunkWriter<'a> {
    pub fn new(column: ColumnDescPtr, codec: &'a mut Codec) -> Self {
        Self {
            column,
            codec,
            out: TrackedWrite::new(Vec::new()),
            dictionary_at: None,
            data_at: None,
            uncompressed_bytes: 0,
            compressed_bytes: 0,
            encodings: Vec::new(),
            offsets: OffsetIndexBuilder::new(),
            rows: 0,
        }
    }

    /// Adds the dictionary: the plain encoding of `values` values. Before all data pages.
    pub fn dictionary(&mut self, plain: Vec<u8>, values: usize) -> Result<(), BlockError> {
        let bytes = plain.len();
        let page = Page::DictionaryPage {
            buf: self.codec.compress(&[&plain])?,
            num_values: u32::try_from(values).map_err(|_| BlockError::TooLarge("a dictionary".into()))?,
            encoding: Encoding::PLAIN,
            is_sorted: false,
        };
        self.dictionary_at = Some(self.write(page, bytes)?);
        Ok(())
    }

    /// Adds a page of `rows` rows. `values` are those that are set, in parts that have little in common; `validity` says which
    /// rows they have, all if there is none.
    pub fn page(
        &mut self,
        rows: usize,
        validity: Option<&BooleanBuffer>,
        encoding: Encoding,
        values: &[&[u8]],
    ) -> Result<(), BlockError> {
        let mut set = Vec::new();
        if self.column.max_def_level() > 0 {
            levels(rows, validity, &mut set);
        }
        let parts: Vec<&[u8]> = std::iter::once(set.as_slice()).chain(values.iter().copied()).collect();
        let bytes = parts.iter().map(|part| part.len()).sum();
        let page = Page::DataPage {
            buf: self.codec.compress(&parts)?,
            num_values: u32::try_from(rows).map_err(|_| BlockError::TooLarge("a page".into()))?,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let at = self.write(page, bytes)?;
        self.data_at.get_or_insert(at);
        self.offsets.append_row_count(rows as i64);
        self.rows += rows;
        Ok(())
    }

    fn write(&mut self, page: Page, uncompressed_bytes: usize) -> Result<i64, BlockError> {
        let (encoding, page_type) = (page.encoding(), page.page_type());
        match self.encodings.last_mut() {
            Some(last) if last.page_type == page_type && last.encoding == encoding => last.count += 1,
            _ => self.encodings.push(PageEncodingStats { page_type, encoding, count: 1 }),
        }
        let written = SerializedPageWriter::new(&mut self.out).write_page(CompressedPage::new(page, uncompressed_bytes))?;
        self.uncompressed_bytes += written.uncompressed_size;
        self.compressed_bytes += written.compressed_size;
        let offset = written.offset as i64;
        if page_type == PageType::DATA_PAGE {
            let size = i32::try_from(written.compressed_size).map_err(|_| BlockError::TooLarge("a page".into()))?;
            self.offsets.append_offset_and_size(offset, size);
        }
        Ok(offset)
    }

    pub fn finish(
        self,
        statistics: Option<Statistics>,
        column_index: Option<ColumnIndexMetaData>,
    ) -> Result<Chunk, BlockError> {
        let encodings = self.encodings.iter().map(|stats| stats.encoding).chain([Encoding::RLE]).collect();
        let mut metadata = ColumnChunkMetaData::builder(self.column)
            .set_compression(self.codec.compression()?)
            .set_encodings(encodings)
            .set_page_encoding_stats(self.encodings)
            .set_total_compressed_size(self.compressed_bytes as i64)
            .set_total_uncompressed_size(self.uncompressed_bytes as i64)
            .set_num_values(self.rows as i64)
            .set_data_page_offset(self.data_at.unwrap_or_default())
            .set_dictionary_page_offset(self.dictionary_at);
        if let Some(statistics) = statistics {
            metadata = metadata.set_statistics(statistics);
        }
        let bytes = self.out.into_inner()?;
        let close = ColumnCloseResult {
            bytes_written: bytes.len() as u64,
            rows_written: self.rows as u64,
            metadata: metadata.build()?,
            bloom_filter: None,
            column_index,
            offset_index: Some(self.offsets.build()),
        };
        Ok(Chunk { bytes: bytes.into(), close })
    }
}

/// Definition levels of 0 and 1, as data pages version 1 have them: their length, then one run.
fn levels(rows: usize, validity: Option<&BooleanBuffer>, out: &mut Vec<u8>) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    let set = validity.map_or(rows, BooleanBuffer::count_set_bits);
    match validity {
        Some(validity) if set > 0 && set < rows => {
            assert_eq!(validity.len(), rows, "a bit for each row");
            let groups = rows.div_ceil(8);
            varint((groups as u64) << 1 | 1, out);
            // Both Arrow and Parquet begin with the lowest bit. What follows the last row is zero.
            let bits = validity.sliced();
            out.extend_from_slice(&bits[..groups]);
            if rows % 8 > 0 {
                *out.last_mut().expect("at least one group") &= (1 << (rows % 8)) - 1;
            }
        }
        _ => {
            varint((rows as u64) << 1, out);
            out.push(u8::from(set > 0));
        }
    }
    let bytes = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&bytes.to_le_bytes());
}

/// The values of a dictionary-encoded page: the width in bits, then one run of the codes.
///
/// Widths are powers of two and from the third bit on whole bytes: Zstandard sees bytes, and finds in them what it misses
/// in codes that straddle them. That is smaller, and copying is all there is to do.
pub(super) fn pack(codes: &[u32], entries: usize, out: &mut Vec<u8>) {
    let bits = usize::BITS - entries.saturating_sub(1).leading_zeros();
    let width = match bits {
        0 | 1 => 1,
        2 => 2,
        3..=8 => 8,
        9..=16 => 16,
        _ => 32,
    };
    out.push(width);
    if let Some((first, rest)) = codes.split_first()
        && rest.iter().all(|code| code == first)
    {
        varint((codes.len() as u64) << 1, out);
        out.extend_from_slice(&first.to_le_bytes()[..usize::from(width).div_ceil(8)]);
        return;
    }
    let groups = codes.len().div_ceil(8);
    varint((groups as u64) << 1 | 1, out);
    let end = out.len() + groups * usize::from(width);
    match width {
        8 => out.extend(codes.iter().map(|code| *code as u8)),
        16 => out.extend(codes.iter().flat_map(|code| (*code as u16).to_le_bytes())),
        32 => out.extend(codes.iter().flat_map(|code| code.to_le_bytes())),
        narrow => {
            let in_byte = usize::from(8 / narrow);
            out.extend(codes.chunks(in_byte).map(|codes| {
                codes.iter().rev().fold(0, |byte, code| byte << narrow | *code as u8)
            }));
        }
    }
    // The last group is whole.
    out.resize(end, 0);
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
