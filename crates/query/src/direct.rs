//! Some rows of a column, straight from its pages.
//!
//! Parquet's readers go through a page value by value until they are at the rows that are wanted. In most encodings of our
//! blocks a row can be looked up: a popcount of the definition levels says where its value is. What is not encoded so is left
//! to Parquet's reader, as is everything that is not as it should be: it has the words for that.

use std::{collections::HashMap, ops::Range, sync::Arc};

use arrow::{
    array::{
        ArrayRef, BooleanArray, BooleanBufferBuilder, DictionaryArray, FixedSizeBinaryArray, Float64Array, Int32Array, Int64Array, StringArray,
        StringBuilder,
    },
    buffer::NullBuffer,
    datatypes::DataType,
    util::bit_chunk_iterator::UnalignedBitChunk,
};
use bytes::Bytes;
use parquet::{
    basic::{Encoding, Type},
    column::page::{Page, PageReader},
    errors::Result,
    file::page_index::offset_index::PageLocation,
    schema::types::ColumnDescriptor,
};

use crate::{
    hybrid::{Run, Runs},
    pages::StoredPages,
};

/// A row without a value.
const NONE: u32 = u32::MAX;
/// Where more rows than one in so many are wanted, going through the values is faster than looking them up.
const ROWS_PER_WANTED_MIN: usize = 4;

/// The rows that are wanted of a column chunk of `all` rows: ranges that ascend, and pages by their locations.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    pub rows: &'a [Range<usize>],
    pub all: usize,
    pub locations: &'a [PageLocation],
}

impl Wanted<'_> {
    fn count(&self) -> usize {
        self.rows.iter().map(ExactSizeIterator::len).sum()
    }

    /// For each page how many rows it has, and which of these are wanted, counted from its first.
    fn by_page(&self) -> Option<Vec<(usize, Vec<u32>)>> {
        let mut rows = self.rows.iter().cloned().flatten().peekable();
        let first = |page: usize| match self.locations.get(page) {
            Some(location) => usize::try_from(location.first_row_index).ok(),
            None => Some(self.all),
        };
        let pages = (0..self.locations.len()).map(|page| {
            let (begin, end) = (first(page)?, first(page + 1)?);
            let mut wanted = vec![];
            while let Some(row) = rows.next_if(|row| *row < end) {
                wanted.push(u32::try_from(row.checked_sub(begin)?).ok()?);
            }
            Some((end.checked_sub(begin)?, wanted))
        });
        let pages = pages.collect::<Option<Vec<_>>>()?;
        rows.next().is_none().then_some(pages)
    }
}

/// The wanted rows of a column that is not inside a list. `None`: Parquet's reader has to read it.
pub fn decode(pages: &mut StoredPages, column: &ColumnDescriptor, kind: &DataType, wanted: Wanted<'_>) -> Result<Option<ArrayRef>> {
    let (1, 0, optional @ 0..=1) = (column.path().parts().len(), column.max_rep_level(), column.max_def_level()) else { return Ok(None) };
    if wanted.count() * ROWS_PER_WANTED_MIN > wanted.all {
        return Ok(None);
    }
    let (Some(mut values), Some(by_page)) = (Values::new(column, kind, wanted.count()), wanted.by_page()) else { return Ok(None) };
    let mut valid = (optional == 1).then(|| BooleanBufferBuilder::new(wanted.count()));
    let mut dictionary = Dictionary::None;
    if pages.stored.peek_next_page()?.is_some_and(|page| page.is_dict) {
        dictionary = pages.stored.get_next_page()?.map_or(Dictionary::None, Dictionary::Packed);
    }
    for (rows, wanted) in by_page {
        if wanted.is_empty() {
            pages.stored.skip_next_page()?;
            continue;
        }
        let Some(Page::DataPage { buf, num_values, encoding, def_level_encoding: Encoding::RLE, .. }) = pages.get_next_page()? else { return Ok(None) };
        if num_values as usize != rows {
            return Ok(None);
        }
        let (places, begin) = match optional {
            0 => (Some(wanted), 0),
            _ => match levels(&buf, 0) {
                Some(levels) => (places(&buf[levels.clone()], rows, &wanted), levels.end),
                None => (None, 0),
            },
        };
        let Some(places) = places else { return Ok(None) };
        if let Some(valid) = &mut valid {
            places.iter().for_each(|place| valid.append(*place != NONE));
        }
        let decoded = match encoding {
            _ if places.iter().all(|place| *place == NONE) => values.nulls(places.len()),
            Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY => {
                dictionary = dictionary.plain(pages)?;
                codes(&buf[begin..], &places).and_then(|codes| values.coded(&mut dictionary, &codes))
            }
            encoding => values.stored(encoding, &buf[begin..], &places),
        };
        if decoded.is_none() {
            return Ok(None);
        }
    }
    Ok(values.finish(valid.map(|mut valid| NullBuffer::new(valid.finish()))))
}

/// For each of the wanted rows of a column of lists whether it has a list, if all of these lists are empty. `column` is a leaf of
/// the lists' items, `optional` says whether a row may have no list.
pub fn empty_lists(pages: &mut StoredPages, column: &ColumnDescriptor, optional: bool, wanted: Wanted<'_>) -> Result<Option<NullBuffer>> {
    let (1, Some(by_page)) = (column.max_rep_level(), wanted.by_page()) else { return Ok(None) };
    let mut valid = BooleanBufferBuilder::new(wanted.count());
    if pages.stored.peek_next_page()?.is_some_and(|page| page.is_dict) {
        pages.stored.skip_next_page()?;
    }
    for (rows, wanted) in by_page {
        if wanted.is_empty() {
            pages.stored.skip_next_page()?;
            continue;
        }
        let Some(Page::DataPage { buf, num_values, def_level_encoding: Encoding::RLE, rep_level_encoding: Encoding::RLE, .. }) = pages.get_next_page()?
        else {
            return Ok(None);
        };
        let known = || {
            let repetitions = levels(&buf, 0)?;
            let definitions = levels(&buf, repetitions.end)?;
            let places = match num_values as usize == rows {
                // No list has two items.
                true => wanted,
                false => beginnings(&buf[repetitions], num_values as usize, &wanted)?,
            };
            let width = u8::try_from(16 - column.max_def_level().leading_zeros()).ok()?;
            looked_up(Runs::new(&buf[definitions], width), &places)
        };
        let Some(definitions) = known() else { return Ok(None) };
        let least = u32::from(optional);
        if definitions.iter().any(|definition| *definition > least) {
            return Ok(None);
        }
        definitions.iter().for_each(|definition| valid.append(!optional || *definition == 1));
    }
    Ok(Some(NullBuffer::new(valid.finish())))
}

/// Where in a page of version 1 the levels are whose length stands at `at`.
fn levels(page: &[u8], at: usize) -> Option<Range<usize>> {
    let length = u32::from_le_bytes(page.get(at..at + 4)?.try_into().ok()?) as usize;
    let end = at.checked_add(4)?.checked_add(length).filter(|end| *end <= page.len())?;
    Some(at + 4..end)
}

/// Where the values of the wanted rows are among those of a page of `rows` rows.
fn places(levels: &[u8], rows: usize, wanted: &[u32]) -> Option<Vec<u32>> {
    let mut places = Vec::with_capacity(wanted.len());
    let mut wanted = wanted.iter().map(|row| *row as usize).peekable();
    let (mut row, mut set) = (0, 0);
    for run in Runs::new(levels, 1) {
        let (length, run) = run?;
        let end = row + length.min(rows - row);
        match run {
            Run::Repeated(level) => {
                while let Some(next) = wanted.next_if(|next| *next < end) {
                    places.push(if level == 1 { (set + next - row) as u32 } else { NONE });
                }
                set += if level == 1 { end - row } else { 0 };
            }
            Run::Packed(bits) => {
                let mut counted = 0;
                let mut up_to = |bit: usize| {
                    set += UnalignedBitChunk::new(bits, counted, bit - counted).count_ones();
                    counted = bit;
                    set
                };
                while let Some(next) = wanted.next_if(|next| *next < end) {
                    let bit = next - row;
                    let before = up_to(bit);
                    places.push(if bits[bit / 8] >> (bit % 8) & 1 == 1 { before as u32 } else { NONE });
                }
                up_to(end - row);
            }
        }
        row = end;
        if row == rows || wanted.peek().is_none() {
            break;
        }
    }
    wanted.next().is_none().then_some(places)
}

/// At which of `count` levels the wanted rows begin.
fn beginnings(repetitions: &[u8], count: usize, wanted: &[u32]) -> Option<Vec<u32>> {
    let mut places = Vec::with_capacity(wanted.len());
    let mut wanted = wanted.iter().copied().peekable();
    let (mut at, mut row) = (0, 0);
    for run in Runs::new(repetitions, 1) {
        let (length, run) = run?;
        for level in 0..length.min(count - at) {
            let begins = match run {
                Run::Repeated(level) => level == 0,
                Run::Packed(bits) => bits[level / 8] >> (level % 8) & 1 == 0,
            };
            if begins {
                if wanted.next_if_eq(&row).is_some() {
                    places.push(at as u32);
                }
                row += 1;
            }
            at += 1;
        }
        if at == count || wanted.peek().is_none() {
            break;
        }
    }
    wanted.next().is_none().then_some(places)
}

/// The values at some places, which ascend but for those that are [`NONE`] and bring 0.
fn looked_up(mut runs: Runs<'_>, places: &[u32]) -> Option<Vec<u32>> {
    let mut found = Vec::with_capacity(places.len());
    let (mut begin, mut end, mut run) = (0, 0, Run::Repeated(0));
    for place in places.iter().map(|place| *place as usize) {
        if place == NONE as usize {
            found.push(0);
            continue;
        }
        while place >= end {
            let (length, next) = runs.next()??;
            (begin, end, run) = (end, end + length, next);
        }
        found.push(match run {
            Run::Repeated(value) => value,
            Run::Packed(bits) => runs.unpacked(bits, place - begin),
        });
    }
    Some(found)
}

/// The codes of a page of dictionary codes, of which the first byte is the width.
fn codes(page: &[u8], places: &[u32]) -> Option<Vec<u32>> {
    let (width, runs) = page.split_first()?;
    let codes = match width {
        0 => vec![0; places.len()],
        1..=32 => looked_up(Runs::new(runs, *width), places)?,
        _ => return None,
    };
    Some(codes.iter().zip(places).map(|(code, place)| if *place == NONE { NONE } else { *code }).collect())
}

/// The dictionary of a chunk, unpacked once a row needs it.
enum Dictionary {
    None,
    Packed(Page),
    /// With the places of byte arrays in it, once they are known.
    Plain(Bytes, Vec<Range<usize>>),
}

impl Dictionary {
    fn plain(self, pages: &StoredPages) -> Result<Self> {
        Ok(match self {
            Self::Packed(page) => match pages.plain(page)? {
                Page::DictionaryPage { buf, .. } => Self::Plain(buf, vec![]),
                _ => Self::None,
            },
            other => other,
        })
    }
}

/// Where the byte arrays of a plain page are.
fn byte_arrays(page: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let length = u32::from_le_bytes(page.get(at..at + 4)?.try_into().ok()?) as usize;
        let begin = at + 4;
        at = begin.checked_add(length).filter(|end| *end <= page.len())?;
        Some(begin..at)
    })
}

/// Values of the wanted rows so far; rows without one have any.
enum Values {
    Int(Vec<i32>),
    Long(Vec<i64>),
    Double(Vec<f64>),
    Boolean(BooleanBufferBuilder),
    Fixed(usize, Vec<u8>),
    Text(Texts),
}

/// A dictionary with the texts of the wanted rows.
#[derive(Default)]
struct Texts {
    keys: Vec<i32>,
    words: StringBuilder,
    known: HashMap<Box<[u8]>, i32>,
    /// Keys by code of the chunk's dictionary.
    coded: HashMap<u32, i32>,
}

impl Texts {
    fn key(&mut self, text: &[u8]) -> Option<i32> {
        if let Some(key) = self.known.get(text) {
            return Some(*key);
        }
        let key = i32::try_from(self.known.len()).ok()?;
        self.words.append_value(std::str::from_utf8(text).ok()?);
        self.known.insert(text.into(), key);
        Some(key)
    }
}

impl Values {
    fn new(column: &ColumnDescriptor, kind: &DataType, count: usize) -> Option<Self> {
        Some(match (column.physical_type(), kind) {
            (Type::INT32, DataType::Int32) => Self::Int(Vec::with_capacity(count)),
            (Type::INT64, DataType::Int64) => Self::Long(Vec::with_capacity(count)),
            (Type::DOUBLE, DataType::Float64) => Self::Double(Vec::with_capacity(count)),
            (Type::BOOLEAN, DataType::Boolean) => Self::Boolean(BooleanBufferBuilder::new(count)),
            (Type::FIXED_LEN_BYTE_ARRAY, DataType::FixedSizeBinary(width)) if column.type_length() == *width => {
                let width = usize::try_from(*width).ok().filter(|width| *width > 0)?;
                Self::Fixed(width, Vec::with_capacity(count * width))
            }
            (Type::BYTE_ARRAY, DataType::Dictionary(key, value)) if **key == DataType::Int32 && **value == DataType::Utf8 => Self::Text(Texts::default()),
            _ => return None,
        })
    }

    fn nulls(&mut self, count: usize) -> Option<()> {
        self.each(std::iter::repeat_n(NONE, count), |_| None::<&[u8]>, |_| None::<&[u8]>, |_| None)
    }

    /// Values of 4, of 8 and of `width` bytes, by place. `text` finds texts.
    fn each<'a, A: AsRef<[u8]>, B: AsRef<[u8]>>(
        &mut self,
        places: impl Iterator<Item = u32>,
        four: impl Fn(usize) -> Option<A>,
        eight: impl Fn(usize) -> Option<B>,
        slice: impl Fn(Range<usize>) -> Option<&'a [u8]>,
    ) -> Option<()> {
        for place in places {
            let at = place as usize;
            let none = place == NONE;
            match self {
                Self::Int(values) => values.push(if none { 0 } else { i32::from_le_bytes(four(at)?.as_ref().try_into().ok()?) }),
                Self::Long(values) => values.push(if none { 0 } else { i64::from_le_bytes(eight(at)?.as_ref().try_into().ok()?) }),
                Self::Double(values) => values.push(if none { 0.0 } else { f64::from_le_bytes(eight(at)?.as_ref().try_into().ok()?) }),
                Self::Fixed(width, values) if none => values.resize(values.len() + *width, 0),
                Self::Fixed(width, values) => values.extend_from_slice(slice(at * *width..(at + 1) * *width)?),
                Self::Boolean(values) if none => values.append(false),
                Self::Boolean(values) => values.append(slice(at / 8..at / 8 + 1)?[0] >> (at % 8) & 1 == 1),
                Self::Text(texts) if none => texts.keys.push(0),
                Self::Text(_) => return None,
            }
        }
        Some(())
    }

    /// Adds values of a page that is not one of codes.
    fn stored(&mut self, encoding: Encoding, page: &[u8], places: &[u32]) -> Option<()> {
        let slice = |range: Range<usize>| page.get(range);
        match (encoding, &mut *self) {
            (Encoding::PLAIN, Self::Text(texts)) => {
                let mut arrays = byte_arrays(page).zip(0..);
                for place in places {
                    let key = match *place {
                        NONE => 0,
                        place => texts.key(&page[arrays.find(|(_, at)| *at == place)?.0])?,
                    };
                    texts.keys.push(key);
                }
                Some(())
            }
            (Encoding::PLAIN, Self::Fixed(width, values)) if !places.contains(&NONE) && places.is_sorted_by(|a, b| a + 1 == *b) => {
                let (first, last) = (*places.first()? as usize, *places.last()? as usize);
                values.extend_from_slice(slice(first * *width..(last + 1) * *width)?);
                Some(())
            }
            (Encoding::PLAIN, _) => self.each(places.iter().copied(), |at| slice(at * 4..at * 4 + 4), |at| slice(at * 8..at * 8 + 8), slice),
            (Encoding::BYTE_STREAM_SPLIT, Self::Int(_) | Self::Long(_) | Self::Double(_)) => {
                self.each(places.iter().copied(), |at| split::<4>(page, at), |at| split::<8>(page, at), slice)
            }
            _ => None,
        }
    }

    /// Adds values by their codes; `NONE` for rows without one.
    fn coded(&mut self, dictionary: &mut Dictionary, codes: &[u32]) -> Option<()> {
        let Dictionary::Plain(page, places) = dictionary else { return None };
        if let Self::Text(texts) = self {
            if places.is_empty() {
                *places = byte_arrays(page).collect();
            }
            for code in codes {
                let key = match (*code, texts.coded.get(code)) {
                    (NONE, _) => 0,
                    (_, Some(key)) => *key,
                    (code, None) => {
                        let key = texts.key(&page[places.get(code as usize)?.clone()])?;
                        texts.coded.insert(code, key);
                        key
                    }
                };
                texts.keys.push(key);
            }
            return Some(());
        }
        self.stored(Encoding::PLAIN, page, codes)
    }

    /// `None` if there are too many texts.
    fn finish(self, valid: Option<NullBuffer>) -> Option<ArrayRef> {
        let nulls = valid.filter(|valid| valid.null_count() > 0);
        Some(match self {
            Self::Int(values) => Arc::new(Int32Array::new(values.into(), nulls)),
            Self::Long(values) => Arc::new(Int64Array::new(values.into(), nulls)),
            Self::Double(values) => Arc::new(Float64Array::new(values.into(), nulls)),
            Self::Boolean(mut values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Self::Fixed(width, values) => Arc::new(FixedSizeBinaryArray::new(i32::try_from(width).ok()?, values.into(), nulls)),
            Self::Text(mut texts) => {
                let words: StringArray = texts.words.finish();
                Arc::new(DictionaryArray::try_new(Int32Array::new(texts.keys.into(), nulls), Arc::new(words)).ok()?)
            }
        })
    }
}

/// A value whose bytes are apart: first the first bytes of all values, then the second ones.
fn split<const WIDTH: usize>(page: &[u8], at: usize) -> Option<[u8; WIDTH]> {
    let values = page.len() / WIDTH;
    let mut bytes = [0; WIDTH];
    for (stream, byte) in bytes.iter_mut().enumerate() {
        *byte = *page.get(stream * values + at).filter(|_| at < values)?;
    }
    Some(bytes)
}
