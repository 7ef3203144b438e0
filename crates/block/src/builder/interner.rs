//! Distinct texts of one column, each kept once and known by a code.
//!
//! Codes count up from 0 in order of first appearance. All text lies in one arena, so that a new text costs a
//! copy and a table slot, never an allocation of its own, and the arena becomes an Arrow array as it is.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Arc, LazyLock},
};

use arrow::{
    array::{ArrayRef, StringArray},
    buffer::{Buffer, OffsetBuffer, ScalarBuffer},
};
use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Unknown to senders, so that they cannot choose texts that collide. Codes do not depend on it.
static SEED: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0u8));

#[derive(Default)]
pub(super) struct Interner {
    arena: Vec<u8>,
    /// Where each text ends. Below `i32::MAX`: the builder is full long before.
    ends: Vec<i32>,
    table: HashTable<Slot>,
}

#[derive(Clone, Copy)]
struct Slot {
    hash: u32,
    code: u32,
}

impl Slot {
    /// Spreads the kept half over all bits: the table takes its tag from the top and its place from the bottom.
    fn table_hash(hash: u32) -> u64 {
        u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

impl Interner {
    /// What a new text costs beside its bytes: its end and about two table slots with their tags.
    const OVERHEAD_BYTES: usize = 24;

    /// The code of `text`. Adds to `heap` what was allocated for it, about.
    pub fn intern(&mut self, text: &[u8], heap: &mut usize) -> u32 {
        let hash = xxh3_64_with_seed(text, *SEED) as u32;
        self.find(hash, text).unwrap_or_else(|| self.insert(hash, text, heap))
    }

    /// The code of bytes that may not be text: `None` if they are not. What is known was looked at before.
    #[inline]
    pub fn intern_if_text(&mut self, bytes: &[u8], heap: &mut usize) -> Option<u32> {
        let hash = xxh3_64_with_seed(bytes, *SEED) as u32;
        match self.find(hash, bytes) {
            Some(code) => Some(code),
            None => std::str::from_utf8(bytes).is_ok().then(|| self.insert(hash, bytes, heap)),
        }
    }

    fn insert(&mut self, hash: u32, text: &[u8], heap: &mut usize) -> u32 {
        let code = self.ends.len() as u32;
        self.arena.extend_from_slice(text);
        self.ends.push(i32::try_from(self.arena.len()).expect("a batch holds less than 2 GiB of text"));
        self.table.insert_unique(Slot::table_hash(hash), Slot { hash, code }, |slot| Slot::table_hash(slot.hash));
        *heap += text.len() + Self::OVERHEAD_BYTES;
        code
    }

    /// The code of a text that was interned.
    pub fn code(&self, text: &[u8]) -> Option<u32> {
        self.find(xxh3_64_with_seed(text, *SEED) as u32, text)
    }

    #[inline]
    fn find(&self, hash: u32, text: &[u8]) -> Option<u32> {
        let same = |slot: &Slot| slot.hash == hash && self.get(slot.code) == text;
        self.table.find(Slot::table_hash(hash), same).map(|slot| slot.code)
    }

    /// Whether `code` is known and stands for `text`.
    pub fn is(&self, code: u32, text: &[u8]) -> bool {
        (code as usize) < self.ends.len() && self.get(code) == text
    }

    pub fn get(&self, code: u32) -> &[u8] {
        let code = code as usize;
        let start = if code == 0 { 0 } else { self.ends[code - 1] as usize };
        &self.arena[start..self.ends[code] as usize]
    }

    /// The text of a code whose texts were all `str`.
    pub fn text(&self, code: u32) -> &str {
        std::str::from_utf8(self.get(code)).expect("only text was interned here")
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The texts as an array, at the index of their code.
    pub fn into_array(self) -> ArrayRef {
        let mut offsets = Vec::with_capacity(self.ends.len() + 1);
        offsets.push(0);
        offsets.extend_from_slice(&self.ends);
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        Arc::new(StringArray::new(offsets, Buffer::from_vec(self.arena), None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_share_a_code_and_codes_find_their_text() {
        let mut interner = Interner::default();
        let mut heap = 0;
        let texts: Vec<String> = (0..5_000).map(|i| format!("value {}", i % 1_700)).collect();
        let codes: Vec<u32> = texts.iter().map(|t| interner.intern(t.as_bytes(), &mut heap)).collect();
        assert_eq!(interner.len(), 1_700);
        for (text, code) in texts.iter().zip(&codes) {
            assert_eq!(interner.text(*code), text);
        }
        assert!(heap >= texts[..1_700].iter().map(String::len).sum());
        let empty = interner.intern(b"", &mut heap);
        assert!(interner.is(empty, b"") && !interner.is(empty + 1, b""));
        let array = interner.into_array();
        let array = array.as_any().downcast_ref::<StringArray>().unwrap();
        assert_eq!(array.value(codes[1_699] as usize), texts[1_699]);
        assert_eq!(array.value(empty as usize), "");
    }
}
