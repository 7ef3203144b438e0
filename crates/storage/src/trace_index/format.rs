//! The bytes of an index: a head that lists blocks and ranges, and the ranges, each under a CRC32C of its own.
//!
//! `docs/index-format.md` is normative. Little-endian, but for block ids. Whatever the bytes are, reading them ends, takes
//! no more memory than a small multiple of them, and finds no block that the head does not list.

use bytes::Bytes;
use model::TraceId;
use ulid::Ulid;

use crate::{chunks::crc32c, entry::BlockEntry};

const MAGIC: [u8; 8] = *b"SOSTTIDX";
const VERSION: u32 = 1;
/// Magic, version, blocks, log2 of ranges, entries.
const PREFIX_BYTES: usize = 28;
/// Id, CRC32C over the chunk CRCs, traces.
const BLOCK_BYTES: usize = 24;
/// Length, CRC32C.
const RANGE_BYTES: usize = 8;
const CRC_BYTES: usize = 4;

/// Bits of a trace id's hash that are kept: of so many entries as an index has at most, 8 in a million lookups meet one
/// that is another trace's.
const HASH_BITS: u32 = 40;
/// A block's number has 16 bits.
pub(crate) const BLOCKS_MAX: usize = 1 << 16;
/// Ranges are made so many that each has about this many entries at most: some 160 KiB.
const RANGE_ENTRIES: usize = 32 << 10;
const RANGES_LOG2_MAX: u32 = 16;

/// The upper [`HASH_BITS`] of the hash that the filters of blocks are over.
pub(crate) fn hash(id: &TraceId) -> u64 {
    block::sidecar::trace_hash(id) >> (64 - HASH_BITS)
}

/// A block that an index covers: of the traces it does not list there, the block has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexedBlock {
    pub id: Ulid,
    /// That of the block's entry in the table: ties the index to the bytes it was made from.
    pub chunks_crc32c: u32,
    pub traces: u32,
}

/// What an index says of itself. In memory, some 24 bytes for each block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexHead {
    pub id: Ulid,
    pub blocks: Vec<IndexedBlock>,
    /// Pairs of a trace and a block that has it.
    pub entries: u64,
    ranges: Vec<Stretch>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stretch {
    start: u64,
    length: u32,
    crc: u32,
}

/// What the beginning of an index turned out to be.
pub(crate) enum Beginning {
    Head(IndexHead),
    /// The head has so many bytes, which are more.
    Longer(u64),
}

impl IndexHead {
    /// Reads a head from the first bytes of an index.
    pub(crate) fn parse(id: Ulid, bytes: &[u8]) -> Result<Beginning, &'static str> {
        let prefix = bytes.get(..PREFIX_BYTES).ok_or("it is cut short")?;
        if prefix[..8] != MAGIC {
            return Err("it does not begin as an index does");
        }
        let (blocks, ranges_log2) = (u32_at(prefix, 12) as usize, u32_at(prefix, 16));
        if blocks > BLOCKS_MAX || ranges_log2 > RANGES_LOG2_MAX {
            return Err("its head is not well formed");
        }
        let blocks_end = PREFIX_BYTES + blocks * BLOCK_BYTES;
        let crc_at = blocks_end + (RANGE_BYTES << ranges_log2);
        let Some(crc) = bytes.get(crc_at..crc_at + CRC_BYTES) else {
            return Ok(Beginning::Longer((crc_at + CRC_BYTES) as u64));
        };
        if crc32c(&bytes[..crc_at]) != u32_at(crc, 0) {
            return Err("the checksum of its head is wrong");
        }
        if u32_at(prefix, 8) > VERSION {
            return Err("it is of a later version");
        }
        let blocks = bytes[PREFIX_BYTES..blocks_end].chunks_exact(BLOCK_BYTES).map(|block| IndexedBlock {
            id: Ulid(u128::from_be_bytes(block[..16].try_into().expect("16 bytes"))),
            chunks_crc32c: u32_at(block, 16),
            traces: u32_at(block, 20),
        });
        let mut start = (crc_at + CRC_BYTES) as u64;
        let ranges = bytes[blocks_end..crc_at].chunks_exact(RANGE_BYTES).map(|range| {
            let stretch = Stretch { start, length: u32_at(range, 0), crc: u32_at(range, 4) };
            start += u64::from(stretch.length);
            stretch
        });
        let entries = u64::from_le_bytes(prefix[20..28].try_into().expect("8 bytes"));
        Ok(Beginning::Head(Self { id, blocks: blocks.collect(), entries, ranges: ranges.collect() }))
    }

    pub(crate) fn ranges(&self) -> usize {
        self.ranges.len()
    }

    /// The range that lists a hash.
    pub(crate) fn range_of(&self, hash: u64) -> usize {
        (hash >> (HASH_BITS - self.ranges.len().ilog2())) as usize
    }

    /// Where a range lies in the object.
    pub(crate) fn stretch(&self, range: usize) -> std::ops::Range<u64> {
        let Stretch { start, length, .. } = self.ranges[range];
        start..start + u64::from(length)
    }

    /// Of the whole object.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.ranges.last().map_or(0, |last| last.start + u64::from(last.length))
    }

    /// Whether these are the bytes of the range as they were written.
    pub(crate) fn is_intact(&self, range: usize, bytes: &[u8]) -> bool {
        let Stretch { length, crc, .. } = self.ranges[range];
        bytes.len() == length as usize && crc32c(bytes) == crc
    }

    /// The entries of an intact range: hash, and number of the block, ascending.
    pub(crate) fn decode(&self, range: usize, bytes: &[u8]) -> Option<Vec<(u64, u16)>> {
        let (count, mut rest) = bytes.split_first_chunk::<4>()?;
        let count = u32::from_le_bytes(*count) as usize;
        // Each takes three bytes at least.
        if count > rest.len() / 3 {
            return None;
        }
        let mut entries = Vec::with_capacity(count);
        let mut hash = (range as u64) << (HASH_BITS - self.ranges.len().ilog2());
        for _ in 0..count {
            hash = hash.checked_add(take_varint(&mut rest)?)?;
            entries.push((hash, 0));
        }
        let (numbers, rest) = rest.as_chunks::<2>();
        if numbers.len() != count || !rest.is_empty() {
            return None;
        }
        for (entry, number) in entries.iter_mut().zip(numbers) {
            entry.1 = u16::from_le_bytes(*number);
            self.blocks.get(usize::from(entry.1))?;
        }
        Some(entries)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&self.blocks[..]) + size_of_val(&self.ranges[..])
    }
}

/// An index under construction: 8 bytes for each entry.
#[derive(Debug, Default)]
pub struct IndexBuilder {
    blocks: Vec<IndexedBlock>,
    /// Hash, then the block's number.
    entries: Vec<u64>,
}

impl IndexBuilder {
    /// One more block that the index covers, and its number.
    pub fn block(&mut self, entry: &BlockEntry) -> u16 {
        let number = u16::try_from(self.blocks.len()).expect("an index has at most 65,536 blocks");
        self.blocks.push(IndexedBlock { id: entry.id, chunks_crc32c: entry.chunks_crc32c, traces: 0 });
        number
    }

    /// One of the block's traces. Each is added once.
    pub fn trace(&mut self, block: u16, id: &TraceId) {
        self.entry(block, hash(id));
    }

    pub(crate) fn entry(&mut self, block: u16, hash: u64) {
        self.blocks[usize::from(block)].traces += 1;
        self.entries.push(hash << 16 | u64::from(block));
    }

    pub(crate) fn mark(&self) -> (usize, usize) {
        (self.blocks.len(), self.entries.len())
    }

    /// Forgets blocks, with their entries, that came after the mark.
    pub(crate) fn back_to(&mut self, (blocks, entries): (usize, usize)) {
        self.blocks.truncate(blocks);
        self.entries.truncate(entries);
    }

    /// The whole object.
    pub(crate) fn encode(mut self) -> Bytes {
        self.entries.sort_unstable();
        let wanted = self.entries.len().div_ceil(RANGE_ENTRIES).max(1).next_power_of_two();
        let ranges_log2 = wanted.ilog2().min(RANGES_LOG2_MAX);
        let mut body = Vec::with_capacity(self.entries.len() * 5);
        let mut ranges = Vec::with_capacity(1 << ranges_log2);
        let mut rest = &self.entries[..];
        for range in 0..1_u64 << ranges_log2 {
            let shift = HASH_BITS - ranges_log2;
            let (here, following) = rest.split_at(rest.partition_point(|entry| entry >> 16 >> shift <= range));
            rest = following;
            let start = body.len();
            body.extend_from_slice(&(here.len() as u32).to_le_bytes());
            let mut before = range << shift;
            for entry in here {
                put_varint(entry >> 16, before, &mut body);
                before = entry >> 16;
            }
            body.extend(here.iter().flat_map(|entry| (*entry as u16).to_le_bytes()));
            ranges.push(((body.len() - start) as u32, crc32c(&body[start..])));
        }
        let mut out = Vec::with_capacity(PREFIX_BYTES + self.blocks.len() * BLOCK_BYTES + ranges.len() * RANGE_BYTES + body.len() + 4);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(self.blocks.len() as u32).to_le_bytes());
        out.extend_from_slice(&ranges_log2.to_le_bytes());
        out.extend_from_slice(&(self.entries.len() as u64).to_le_bytes());
        for block in &self.blocks {
            out.extend_from_slice(&block.id.0.to_be_bytes());
            out.extend_from_slice(&block.chunks_crc32c.to_le_bytes());
            out.extend_from_slice(&block.traces.to_le_bytes());
        }
        for (length, crc) in ranges {
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&crc.to_le_bytes());
        }
        out.extend_from_slice(&crc32c(&out).to_le_bytes());
        out.extend_from_slice(&body);
        out.into()
    }
}

fn put_varint(hash: u64, before: u64, out: &mut Vec<u8>) {
    let mut value = hash - before;
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..HASH_BITS).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}
