//! Attributes of spans while a batch grows: per key and type a sparse column, and a list for what cannot have one.
//!
//! A key's first value in a span goes to the sparse column of its type. What can never have a column goes to the
//! list at once: arrays, maps, bytes and empty values, repeated keys, keys that cannot name a column, and every key
//! after the first `SPARSE_KEYS_MAX`.

use std::sync::Arc;

use arrow::{
    array::ArrayRef,
    datatypes::{Float64Type, Int64Type},
};
use model::{AttributeScope, AttributeType};
use proto::wire::{Attribute, RawAttribute, Value};

use super::{
    Warnings, cut,
    interner::Interner,
    kv::{Arena, Entry, Kept, KvLists, Written},
    order::Order,
    sparse::{self, Sparse},
};
use crate::{
    catalogue::Catalogue,
    promotion::{AttributeColumn, Promotion},
    schema,
};

/// Keys with sparse columns of their own. A batch has at most 256 attribute columns; a sender that makes up keys
/// must not make thousands of small vectors of it.
const SPARSE_KEYS_MAX: usize = 2048;
const NO_ROW: u32 = u32::MAX;

#[derive(Default)]
pub(super) struct SpanAttributes {
    keys: Interner,
    /// The columns of key 0, 1, …, `SPARSE_KEYS_MAX - 1`.
    columns: Vec<KeyColumns>,
    /// Spans of one kind set the same keys in the same order: the key that started the last span.
    first_key: u32,
    /// (row, entry) of what cannot have a column, in the order it came.
    listed: Vec<(u32, Entry)>,
    arena: Arena,
}

struct KeyColumns {
    promotable: bool,
    /// The last row that set this key.
    row_last: u32,
    /// The key that followed this one the last time.
    next_key: u32,
    strings: Sparse<u32>,
    texts: Interner,
    longs: Sparse<i64>,
    doubles: Sparse<f64>,
    booleans: Sparse<bool>,
}

impl KeyColumns {
    fn new(key: &str) -> Self {
        Self {
            promotable: schema::promotable(key),
            row_last: NO_ROW,
            next_key: 0,
            strings: Sparse::default(),
            texts: Interner::default(),
            longs: Sparse::default(),
            doubles: Sparse::default(),
            booleans: Sparse::default(),
        }
    }

    /// How many rows of the batch have their first value of this type.
    fn count(&self, kind: AttributeType, order: &Order) -> u64 {
        match kind {
            AttributeType::String => self.strings.count(order),
            AttributeType::Long => self.longs.count(order),
            AttributeType::Double => self.doubles.count(order),
            AttributeType::Boolean => self.booleans.count(order),
        }
    }

    /// The column of one type, which is empty afterwards.
    fn take(&mut self, kind: AttributeType, order: &Order) -> ArrayRef {
        let rows = order.len();
        match kind {
            AttributeType::String => {
                sparse::text(std::mem::take(&mut self.strings).placed(order), rows, std::mem::take(&mut self.texts))
            }
            AttributeType::Long => {
                Arc::new(sparse::primitive::<Int64Type>(std::mem::take(&mut self.longs).placed(order), rows))
            }
            AttributeType::Double => {
                Arc::new(sparse::primitive::<Float64Type>(std::mem::take(&mut self.doubles).placed(order), rows))
            }
            AttributeType::Boolean => sparse::boolean(std::mem::take(&mut self.booleans).placed(order), rows),
        }
    }
}

impl SpanAttributes {
    /// Adds the attributes of the span in `row`, a row higher than all before. Keys and string values are cut to
    /// `bytes_max` (0 = no limit).
    #[inline]
    pub fn push_all<'a>(
        &mut self,
        row: u32,
        attributes: impl Iterator<Item = RawAttribute<'a>>,
        bytes_max: usize,
        warnings: &mut Warnings,
        heap: &mut usize,
    ) {
        let mut previous = None;
        for raw in attributes {
            if let Some(key) = self.push_expected(row, previous, &raw, bytes_max, heap) {
                previous = Some(key);
                continue;
            }
            let Some(attribute) = raw.read() else { return };
            let attribute = cut::attribute(attribute, bytes_max, warnings);
            let key = self.key(previous, &attribute.key, heap);
            previous = Some(key);
            let column = self.columns.get_mut(key as usize).filter(|c| c.promotable && c.row_last != row);
            let Some(column) = column else {
                self.list(row, key, &attribute, heap);
                continue;
            };
            column.row_last = row;
            match &attribute.value {
                Value::String(text) => {
                    let code = column.texts.intern(text.as_bytes(), heap);
                    column.strings.push(row, code, heap);
                }
                Value::Int(n) => column.longs.push(row, *n, heap),
                Value::Double(x) => column.doubles.push(row, *x, heap),
                Value::Bool(b) => column.booleans.push(row, *b, heap),
                Value::Empty | Value::Bytes(_) | Value::Array(_) | Value::Map(_) => {
                    self.list(row, key, &attribute, heap);
                }
            }
        }
    }

    /// Adds an attribute if it is as most are: the key that came there last time, with a text. Returns the key's code.
    /// A text that is known need not be looked at again for whether it is UTF-8.
    #[inline]
    fn push_expected(
        &mut self,
        row: u32,
        previous: Option<u32>,
        raw: &RawAttribute<'_>,
        bytes_max: usize,
        heap: &mut usize,
    ) -> Option<u32> {
        let key = self.expected(previous);
        let text = raw.plain_text().filter(|text| bytes_max == 0 || text.len() <= bytes_max)?;
        if !self.keys.is(key, raw.key) {
            return None;
        }
        let column = self.columns.get_mut(key as usize).filter(|c| c.promotable && c.row_last != row)?;
        let code = column.texts.intern_if_text(text, heap)?;
        column.row_last = row;
        column.strings.push(row, code, heap);
        Some(key)
    }

    /// The key that came after key `previous` the last time.
    #[inline]
    fn expected(&self, previous: Option<u32>) -> u32 {
        match previous {
            None => self.first_key,
            Some(previous) => self.columns.get(previous as usize).map_or(u32::MAX, |column| column.next_key),
        }
    }

    /// The code of a key that came after key `previous` of the same span. Tries first what came there last time.
    #[inline]
    fn key(&mut self, previous: Option<u32>, key: &str, heap: &mut usize) -> u32 {
        let expected = self.expected(previous);
        if self.keys.is(expected, key.as_bytes()) {
            return expected;
        }
        let code = self.keys.intern(key.as_bytes(), heap);
        if code as usize == self.columns.len() && self.columns.len() < SPARSE_KEYS_MAX {
            self.columns.push(KeyColumns::new(key));
            *heap += size_of::<KeyColumns>();
        }
        match previous {
            None => self.first_key = code,
            Some(previous) => {
                if let Some(column) = self.columns.get_mut(previous as usize) {
                    column.next_key = code;
                }
            }
        }
        code
    }

    fn list(&mut self, row: u32, key: u32, attribute: &Attribute<'_>, heap: &mut usize) {
        let value = Kept::keep(attribute, &mut self.arena, heap);
        self.listed.push((row, Entry { key, value }));
        *heap += size_of::<(u32, Entry)>();
    }

    /// On how many rows each possible column would be set.
    pub fn candidates(&self, order: &Order) -> Vec<(AttributeColumn, u64)> {
        let mut candidates = Vec::new();
        for (code, columns) in (0u32..).zip(&self.columns) {
            for kind in AttributeType::ALL {
                let count = columns.count(kind, order);
                if count > 0 {
                    let key = self.keys.text(code).to_owned();
                    candidates.push((AttributeColumn { scope: AttributeScope::Span, key, kind }, count));
                }
            }
        }
        candidates
    }

    /// Takes the promoted columns out and adds them to `promoted`.
    pub fn take_promoted(
        &mut self,
        order: &Order,
        promotion: &Promotion,
        promoted: &mut Vec<(AttributeColumn, ArrayRef)>,
        catalogue: &mut Catalogue,
    ) {
        for (_, column) in promotion.iter().filter(|(_, column)| column.scope == AttributeScope::Span) {
            let Some(code) = self.keys.code(column.key.as_bytes()) else { continue };
            let values = &mut self.columns[code as usize];
            catalogue.add_promoted(column.scope, &column.key, column.kind, values.count(column.kind, order));
            promoted.push((column.clone(), values.take(column.kind, order)));
        }
    }

    /// The key/value list of all that was not taken out. A key's values keep their order within a span.
    pub fn into_lists(self, order: &Order, catalogue: &mut Catalogue) -> ArrayRef {
        // First values come before repeated ones: the sparse columns go first.
        let mut items: Vec<Item> = Vec::with_capacity(self.listed.len());
        for (key, columns) in (0u32..).zip(&self.columns) {
            let mut add = |place, value| items.push(Item { place, key, value });
            columns.strings.placed(order).for_each(|(place, code)| add(place, Listed::Text(code)));
            columns.longs.placed(order).for_each(|(place, n)| add(place, Listed::Kept(Kept::Long(n))));
            columns.doubles.placed(order).for_each(|(place, x)| add(place, Listed::Kept(Kept::Double(x))));
            columns.booleans.placed(order).for_each(|(place, b)| add(place, Listed::Kept(Kept::Boolean(b))));
        }
        for (row, entry) in &self.listed {
            if let Some(place) = order.place(*row) {
                items.push(Item { place, key: entry.key, value: Listed::Kept(entry.value) });
            }
        }
        items.sort_by_key(|item| item.place);

        let mut counts = vec![0u64; self.keys.len()];
        let mut lists = KvLists::new(order.len());
        let mut rest = items.as_slice();
        for place in 0..order.len() {
            while let [item, after @ ..] = rest
                && item.place == place
            {
                let value = match &item.value {
                    Listed::Text(code) => Written::String(self.columns[item.key as usize].texts.get(*code)),
                    Listed::Kept(kept) => kept.written(&self.arena),
                };
                counts[item.key as usize] += 1;
                lists.push(self.keys.get(item.key), value);
                rest = after;
            }
            lists.end_list();
        }
        for (key, count) in (0u32..).zip(counts).filter(|(_, count)| *count > 0) {
            catalogue.add_in_list(AttributeScope::Span, self.keys.text(key), count);
        }
        lists.finish()
    }
}

struct Item {
    place: usize,
    key: u32,
    value: Listed,
}

enum Listed {
    /// A text of the key's own dictionary.
    Text(u32),
    Kept(Kept),
}
