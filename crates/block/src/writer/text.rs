//! String columns of a row group: dictionary arrays in, a column chunk out, without a look at the text of each row.
//!
//! The codes of the arrays become those of the page, so a text is compared or hashed once per array that brings it, not once
//! per row. Texts are numbered in order of first appearance; the chunk is dictionary-encoded up to the page in which the
//! dictionary would grow too large, and plain from there on. Large dictionaries have their seldom texts in order, which packs
//! better: neighbours begin alike.

use arrow::array::{Array, AsArray, BooleanBufferBuilder, DictionaryArray, StringArray};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::Int32Type;
use hashbrown::{DefaultHashBuilder, HashTable};
use parquet::basic::Encoding;
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::schema::types::ColumnDescPtr;
use std::hash::BuildHasher;

use super::chunk::{Chunk, ChunkWriter, Codec, pack};
use super::columns::{DICTIONARY_PAGE_BYTES, DICTIONARY_REPEATS_MIN, STATISTICS_BYTES};
use crate::error::BlockError;

/// A page of plain text ends behind the row that takes it past so many bytes.
const PLAIN_PAGE_BYTES: usize = 256 << 10;
/// Below this many set rows a dictionary is never too large.
const FEW: usize = 64;
/// Codes of so many texts have one byte.
const ONE_BYTE: usize = 256;
/// A text on more rows than this stays in the order of first appearance, which keeps the high bytes of common codes equal.
const SELDOM_ROWS_MAX: u32 = 8;
const UNKNOWN: u32 = u32::MAX;

pub(super) struct TextColumn {
    /// Which rows are set.
    validity: BooleanBufferBuilder,
    /// The codes of set rows.
    codes: Vec<u32>,
    texts: Vec<u8>,
    /// Where each text ends.
    ends: Vec<usize>,
    /// By hash of the text. Filled when a second dictionary comes: texts of one dictionary are distinct as they are.
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
    dictionaries: usize,
}

impl TextColumn {
    pub fn new() -> Self {
        Self {
            validity: BooleanBufferBuilder::new(0),
            codes: Vec::new(),
            texts: Vec::new(),
            ends: Vec::new(),
            table: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            dictionaries: 0,
        }
    }

    /// About how many bytes it will have.
    pub fn estimated_bytes(&self) -> usize {
        self.codes.len() + self.texts.len() / 4
    }

    pub fn push(&mut self, array: &DictionaryArray<Int32Type>) {
        self.dictionaries += 1;
        if self.dictionaries == 2 {
            for code in 0..self.ends.len() as u32 {
                self.index(code);
            }
        }
        let values = array.values().as_string::<i32>();
        let keys = array.keys();
        let mut codes = vec![UNKNOWN; values.len()];
        let nulls = array.logical_nulls().filter(|nulls| nulls.null_count() > 0);
        self.codes.reserve(keys.len() - nulls.as_ref().map_or(0, |nulls| nulls.null_count()));
        match &nulls {
            None => {
                self.validity.append_n(keys.len(), true);
                for key in keys.values() {
                    let code = self.code_of(*key as usize, values, &mut codes);
                    self.codes.push(code);
                }
            }
            Some(nulls) => {
                self.validity.append_buffer(nulls.inner());
                for row in nulls.valid_indices() {
                    let code = self.code_of(keys.values()[row] as usize, values, &mut codes);
                    self.codes.push(code);
                }
            }
        }
    }

    #[inline]
    fn code_of(&mut self, key: usize, values: &StringArray, codes: &mut [u32]) -> u32 {
        match codes[key] {
            UNKNOWN => {
                let code = self.code(values.value(key));
                codes[key] = code;
                code
            }
            code => code,
        }
    }

    fn code(&mut self, text: &str) -> u32 {
        if self.dictionaries > 1 {
            let hash = self.hasher.hash_one(text.as_bytes());
            let known = self.table.find(hash, |code| at(&self.texts, &self.ends, *code) == text.as_bytes());
            if let Some(code) = known {
                return *code;
            }
        }
        let code = self.ends.len() as u32;
        self.texts.extend_from_slice(text.as_bytes());
        self.ends.push(self.texts.len());
        if self.dictionaries > 1 {
            self.index(code);
        }
        code
    }

    fn index(&mut self, code: u32) {
        let Self { table, texts, ends, hasher, .. } = self;
        let hash = |code: &u32| hasher.hash_one(at(texts, ends, *code));
        table.insert_unique(hash(&code), code, hash);
    }

    /// The chunk of all rows.
    pub fn finish(mut self, column: ColumnDescPtr, codec: &mut Codec, page_rows: usize) -> Result<Chunk, BlockError> {
        let validity = self.validity.finish();
        let rows = validity.len();
        let mut chunk = ChunkWriter::new(column, codec);
        let entries = self.dictionary_entries();
        let order = self.dictionary_order(entries);
        let mut places = vec![0; entries];
        if entries > 0 {
            let mut plain = Vec::with_capacity(self.ends[entries - 1] + 4 * entries);
            for (place, code) in order.into_iter().enumerate() {
                plain_text(self.text(code), &mut plain);
                places[code as usize] = place as u32;
            }
            chunk.dictionary(plain, entries)?;
        }
        let (mut row, mut value) = (0, 0);
        let mut in_dictionary = entries > 0;
        let (mut page, mut placed) = (Vec::new(), Vec::new());
        while row < rows {
            let wanted = page_rows.min(rows - row);
            let mut here = validity.slice(row, wanted);
            let mut codes = &self.codes[value..value + here.count_set_bits()];
            in_dictionary &= codes.iter().all(|code| (*code as usize) < entries);
            page.clear();
            if in_dictionary {
                placed.clear();
                placed.extend(codes.iter().map(|code| places[*code as usize]));
                pack(&placed, entries, &mut page);
            } else {
                for (count, code) in codes.iter().enumerate() {
                    plain_text(self.text(*code), &mut page);
                    if page.len() >= PLAIN_PAGE_BYTES && count + 1 < codes.len() {
                        codes = &codes[..count + 1];
                        here = validity.slice(row, rows_of(&here, count + 1));
                        break;
                    }
                }
            }
            let encoding = if in_dictionary { Encoding::RLE_DICTIONARY } else { Encoding::PLAIN };
            chunk.page(here.len(), Some(&here), encoding, &[&page])?;
            row += here.len();
            value += codes.len();
        }
        chunk.finish(Some(self.statistics(rows)), None)
    }

    /// How many texts the dictionary has: none if it would not pay, all if they fit.
    fn dictionary_entries(&self) -> usize {
        if self.ends.len() * DICTIONARY_REPEATS_MIN > self.codes.len().max(FEW) {
            return 0;
        }
        (1..=self.ends.len())
            .rev()
            .find(|entries| self.ends[entries - 1] + 4 * entries <= DICTIONARY_PAGE_BYTES)
            .unwrap_or_default()
    }

    /// The texts of a dictionary of the first `entries`.
    fn dictionary_order(&self, entries: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..entries as u32).collect();
        if entries > ONE_BYTE {
            let mut rows = vec![0u32; self.ends.len()];
            self.codes.iter().for_each(|code| rows[*code as usize] += 1);
            // Stable: false is before true.
            order.sort_by_key(|code| rows[*code as usize] <= SELDOM_ROWS_MAX);
            let often = order.partition_point(|code| rows[*code as usize] > SELDOM_ROWS_MAX);
            order[often..].sort_unstable_by_key(|code| self.text(*code));
        }
        order
    }

    fn statistics(&self, rows: usize) -> Statistics {
        let texts = || (0..self.ends.len() as u32).map(|code| self.text(code));
        let (min, min_is_exact) = texts().min().map(|text| lower_bound(text)).unzip();
        let (max, max_is_exact) = texts().max().map(|text| upper_bound(text)).unzip();
        let nulls = (rows - self.codes.len()) as u64;
        let statistics = ValueStatistics::new(min.map(Into::into), max.map(Into::into), None, Some(nulls), false);
        Statistics::ByteArray(
            statistics
                .with_min_is_exact(min_is_exact.unwrap_or(true))
                .with_max_is_exact(max_is_exact.unwrap_or(true)),
        )
    }

    fn text(&self, code: u32) -> &[u8] {
        at(&self.texts, &self.ends, code)
    }
}

fn at<'a>(texts: &'a [u8], ends: &[usize], code: u32) -> &'a [u8] {
    let code = code as usize;
    let start = if code == 0 { 0 } else { ends[code - 1] };
    &texts[start..ends[code]]
}

fn plain_text(text: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text);
}

/// How many rows there are up to the one with set value number `values`, counted from 1.
fn rows_of(validity: &BooleanBuffer, values: usize) -> usize {
    validity.set_indices().nth(values - 1).map_or(validity.len(), |row| row + 1)
}

/// A text that is not above `text`, of at most `STATISTICS_BYTES`, and whether it is `text` itself.
fn lower_bound(text: &[u8]) -> (Vec<u8>, bool) {
    (short(text).to_vec(), text.len() <= STATISTICS_BYTES)
}

/// A text that is not below `text`, and whether it is `text` itself. As long as `text` if no shorter one can be found.
fn upper_bound(text: &[u8]) -> (Vec<u8>, bool) {
    if text.len() <= STATISTICS_BYTES {
        return (text.to_vec(), true);
    }
    let mut bound = String::from_utf8_lossy(short(text)).into_owned();
    while let Some(last) = bound.pop() {
        // The next character, past the gap in which there are none.
        let next = if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(last as u32 + 1) };
        if let Some(next) = next.filter(|next| next.len_utf8() == last.len_utf8()) {
            bound.push(next);
            return (bound.into_bytes(), false);
        }
    }
    (text.to_vec(), true)
}

fn short(text: &[u8]) -> &[u8] {
    match std::str::from_utf8(text) {
        Ok(text) => text[..text.floor_char_boundary(STATISTICS_BYTES)].as_bytes(),
        Err(_) => text,
    }
}
