//! Memory of one query: charged before it is taken, given back when it is dropped.
//!
//! Charged is what grows with the data and stays until an answer is made of it: rows of whole traces, groups, cells, series. What
//! the decoding of row groups takes is bounded over all queries together ([`crate::engine::EngineConfig`]).

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use model::ErrorKind;

use crate::request::QueryError;

/// What a query may hold, and what it holds.
#[derive(Debug)]
pub struct Memory {
    /// Bytes.
    most: u64,
    held: AtomicU64,
}

impl Memory {
    pub fn of(most: u64) -> Self {
        Self { most, held: AtomicU64::new(0) }
    }

    /// Bytes held now.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// # Errors
    /// `BudgetExceeded` if there is not so much left; then nothing is taken.
    pub fn take(&self, bytes: u64) -> Result<(), QueryError> {
        let more = |held: u64| held.checked_add(bytes).filter(|held| *held <= self.most);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map(|_| ()).map_err(|_| self.exceeded())
    }

    /// # Errors
    /// `BudgetExceeded` if there is not so much left.
    pub fn fits(&self, bytes: u64) -> Result<(), QueryError> {
        match self.held().saturating_add(bytes) <= self.most {
            true => Ok(()),
            false => Err(self.exceeded()),
        }
    }

    pub fn give_back(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn exceeded(&self) -> QueryError {
        let message = format!(
            "the query needs more than {} bytes of memory, the most that one query may have (query_frontend.max_memory_per_query, or read.max_memory_per_query of the tenant): ask for fewer results, a shorter time range, a larger step or fewer groups",
            self.most
        );
        QueryError::new(ErrorKind::BudgetExceeded, message)
    }
}

/// A share of a query's memory. Dropping it gives it back.
#[derive(Debug)]
pub struct Held {
    memory: Arc<Memory>,
    bytes: u64,
}

impl Held {
    pub fn nothing(memory: &Arc<Memory>) -> Self {
        Self { memory: Arc::clone(memory), bytes: 0 }
    }

    /// A further share of the same memory, with nothing in it yet.
    pub fn beside(&self) -> Self {
        Self::nothing(&self.memory)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The most that the query may have.
    pub fn most(&self) -> u64 {
        self.memory.most
    }

    /// # Errors
    /// `BudgetExceeded` if there is not so much left.
    pub fn grow(&mut self, bytes: usize) -> Result<(), QueryError> {
        self.memory.take(bytes as u64)?;
        self.bytes += bytes as u64;
        Ok(())
    }

    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        assert!(bytes <= self.bytes, "what is given back was taken: {bytes} of {}", self.bytes);
        self.bytes -= bytes;
        self.memory.give_back(bytes);
    }

    /// Takes over what another share holds.
    pub fn absorb(&mut self, mut other: Self) {
        assert!(Arc::ptr_eq(&self.memory, &other.memory), "shares of one query");
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.give_back(self.bytes);
    }
}

/// What the allocator adds to each piece: its own words, and rounding up.
pub const PIECE_BYTES: usize = 16;

/// The place of an entry in a hash table: tables are between half and seven eighths full.
pub const fn entry_bytes<K, V>() -> usize {
    (size_of::<(K, V)>() + 1) * 3 / 2
}

/// A text's bytes beside itself. By its length: equal texts take equally much.
pub fn text_bytes(text: &str) -> usize {
    text.len() + PIECE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_exceed_the_whole_and_come_back() {
        let memory = Arc::new(Memory::of(100));
        let mut one = Held::nothing(&memory);
        one.grow(60).unwrap();
        let mut two = one.beside();
        assert_eq!(two.grow(41).unwrap_err().kind, ErrorKind::BudgetExceeded);
        two.grow(40).unwrap();
        assert!(memory.fits(1).is_err() && two.grow(usize::MAX).is_err());
        two.shrink(10);
        one.absorb(two);
        assert_eq!(memory.held(), 90);
        drop(one);
        assert_eq!(memory.held(), 0);
    }
}
