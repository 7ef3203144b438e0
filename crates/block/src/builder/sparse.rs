//! Columns that most rows do not set, and how columns of the builder become Arrow arrays in batch order.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, ArrowPrimitiveType, BooleanArray, DictionaryArray, Int32Array, PrimitiveArray},
    buffer::{BooleanBuffer, NullBuffer},
    datatypes::Int32Type,
};

use super::{interner::Interner, order::Order};

/// The set values of a column with their builder rows, in row order.
pub(super) struct Sparse<T> {
    pub rows: Vec<u32>,
    pub values: Vec<T>,
}

impl<T> Default for Sparse<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), values: Vec::new() }
    }
}

impl<T: Copy> Sparse<T> {
    pub fn push(&mut self, row: u32, value: T, heap: &mut usize) {
        self.rows.push(row);
        self.values.push(value);
        *heap += size_of::<u32>() + size_of::<T>();
    }

    /// (place in the batch, value) of every value whose row was kept.
    pub fn placed<'a>(&'a self, order: &'a Order) -> impl Iterator<Item = (usize, T)> + 'a {
        self.rows.iter().zip(&self.values).filter_map(|(&row, &value)| Some((order.place(row)?, value)))
    }

    /// How many values have a row in the batch.
    pub fn count(&self, order: &Order) -> u64 {
        if order.rows.len() == order.places.len() {
            return self.rows.len() as u64;
        }
        self.placed(order).count() as u64
    }
}

/// Places `values` in a column of `len` rows; all others are null.
pub(super) fn primitive<A: ArrowPrimitiveType>(values: impl Iterator<Item = (usize, A::Native)>, len: usize) -> PrimitiveArray<A> {
    let mut column = vec![A::Native::default(); len];
    let mut set = Bits::new(len);
    for (place, value) in values {
        column[place] = value;
        set.set(place);
    }
    PrimitiveArray::new(column.into(), Some(set.nulls()))
}

pub(super) fn boolean(values: impl Iterator<Item = (usize, bool)>, len: usize) -> ArrayRef {
    let (mut column, mut set) = (Bits::new(len), Bits::new(len));
    for (place, value) in values {
        if value {
            column.set(place);
        }
        set.set(place);
    }
    Arc::new(BooleanArray::new(column.buffer(), Some(set.nulls())))
}

/// A dictionary column from codes of `texts`; rows without a code are null.
pub(super) fn text(codes: impl Iterator<Item = (usize, u32)>, len: usize, texts: Interner) -> ArrayRef {
    dictionary(primitive::<Int32Type>(codes.map(|(place, code)| (place, code as i32)), len), texts.into_array())
}

pub(super) fn dictionary(keys: Int32Array, values: ArrayRef) -> ArrayRef {
    Arc::new(DictionaryArray::<Int32Type>::new(keys, values))
}

/// A growing set of rows.
pub(super) struct Bits {
    bytes: Vec<u8>,
    len: usize,
}

impl Bits {
    pub fn new(len: usize) -> Self {
        Self { bytes: vec![0; len.div_ceil(8)], len }
    }

    pub fn set(&mut self, place: usize) {
        self.bytes[place / 8] |= 1 << (place % 8);
    }

    pub fn push(&mut self, bit: bool) {
        if self.len.is_multiple_of(8) {
            self.bytes.push(0);
        }
        self.len += 1;
        if bit {
            self.set(self.len - 1);
        }
    }

    pub fn buffer(self) -> BooleanBuffer {
        BooleanBuffer::new(self.bytes.into(), 0, self.len)
    }

    pub fn nulls(self) -> NullBuffer {
        NullBuffer::new(self.buffer())
    }
}
