//! Events and links: structs inside a list per span, with attributes of their own.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Int64Array},
    datatypes::{DataType, Int32Type},
};
use model::AttributeScope;
use proto::wire::{EventView, LinkView};

use super::{
    AttributeLimits, Warnings, cut,
    interner::Interner,
    kv::{Arena, Entry, Kept, KvLists, Lists, Stretch, Texts},
    order::Order,
    sparse,
};
use crate::{catalogue::Catalogue, schema};

/// Events or links of all rows, in row order, each with a stretch of attributes.
#[derive(Default)]
struct Items {
    /// Number of the item after the last one of each row.
    row_ends: Vec<u32>,
    /// Number of the entry after the last one of each item.
    entry_ends: Vec<u32>,
    entries: Vec<Entry>,
    dropped: Vec<u32>,
    keys: Interner,
    arena: Arena,
}

impl Items {
    /// Adds an item with these attributes.
    fn push<'a>(
        &mut self,
        attributes: impl Iterator<Item = proto::wire::Attribute<'a>>,
        dropped: u32,
        limits: &AttributeLimits,
        warnings: &mut Warnings,
        heap: &mut usize,
    ) {
        let mut surplus = 0;
        for (number, attribute) in attributes.enumerate() {
            if number >= limits.attributes_per_span_max {
                surplus += 1;
                continue;
            }
            let attribute = cut::attribute(attribute, limits.value_bytes_max, warnings);
            let key = self.keys.intern(attribute.key.as_bytes(), heap);
            let value = Kept::keep(&attribute, &mut self.arena, heap);
            self.entries.push(Entry { key, value });
            *heap += size_of::<Entry>();
        }
        warnings.attributes_dropped += u64::from(surplus);
        self.dropped.push(dropped.saturating_add(surplus));
        self.entry_ends.push(self.entries.len() as u32);
        *heap += 40;
    }

    fn end_row(&mut self) {
        self.row_ends.push(self.entry_ends.len() as u32);
    }

    /// Item numbers of the batch in order, with the lists they form.
    fn in_order(&self, order: &Order) -> (Vec<usize>, Lists) {
        let mut lists = Lists::new(order.len());
        let mut items = Vec::with_capacity(self.entry_ends.len());
        for &row in &order.rows {
            items.extend(stretch(&self.row_ends, row as usize));
            lists.end(items.len());
        }
        (items, lists)
    }

    /// The dropped counts and attributes of `items`.
    fn columns(&self, items: &[usize], scope: AttributeScope, catalogue: &mut Catalogue) -> [ArrayRef; 2] {
        let mut attributes = KvLists::new(items.len());
        let mut counts = vec![0u64; self.keys.len()];
        for &item in items {
            for entry in &self.entries[stretch(&self.entry_ends, item)] {
                counts[entry.key as usize] += 1;
                attributes.push(self.keys.get(entry.key), entry.value.written(&self.arena));
            }
            attributes.end_list();
        }
        for (key, count) in (0u32..).zip(counts).filter(|(_, count)| *count > 0) {
            catalogue.add_in_list(scope, self.keys.text(key), count);
        }
        [non_zero(items.iter().map(|&item| self.dropped[item])), attributes.finish()]
    }
}

/// Numbers of what belongs to `owner`, where `ends` says where each owner's stretch ends.
fn stretch(ends: &[u32], owner: usize) -> std::ops::Range<usize> {
    let start = if owner == 0 { 0 } else { ends[owner - 1] as usize };
    start..ends[owner] as usize
}

/// A column of unsigned numbers kept bit for bit, null where 0.
fn non_zero(values: impl ExactSizeIterator<Item = u32>) -> ArrayRef {
    let len = values.len();
    let set = values.enumerate().filter(|(_, value)| *value != 0).map(|(place, value)| (place, value as i32));
    Arc::new(sparse::primitive::<Int32Type>(set, len)) as ArrayRef
}

#[derive(Default)]
pub(super) struct Events {
    items: Items,
    time: Vec<i64>,
    name: Vec<Stretch>,
}

impl Events {
    pub fn push(&mut self, event: &EventView<'_>, limits: &AttributeLimits, warnings: &mut Warnings, heap: &mut usize) {
        self.time.push(event.time_unix_nano as i64);
        let name = cut::words(&event.name, limits.value_bytes_max, warnings);
        self.name.push(self.items.arena.push(name.as_bytes(), heap));
        self.items.push(event.attributes(), event.dropped_attributes_count, limits, warnings, heap);
    }

    pub fn end_row(&mut self) {
        self.items.end_row();
    }

    pub fn finish(self, order: &Order, column: &DataType, catalogue: &mut Catalogue) -> ArrayRef {
        let (items, lists) = self.items.in_order(order);
        let time = Int64Array::from_iter_values(items.iter().map(|&item| self.time[item]));
        let mut name = Texts::default();
        items.iter().for_each(|&item| name.push(Some(self.items.arena.get(self.name[item]))));
        let [dropped, attributes] = self.items.columns(&items, AttributeScope::Event, catalogue);
        lists.finish(column, vec![Arc::new(time), name.strings(), dropped, attributes])
    }
}

#[derive(Default)]
pub(super) struct Links {
    items: Items,
    trace_id: Vec<Stretch>,
    span_id: Vec<Stretch>,
    trace_state: Vec<Stretch>,
    flags: Vec<u32>,
}

impl Links {
    pub fn push(&mut self, link: &LinkView<'_>, limits: &AttributeLimits, warnings: &mut Warnings, heap: &mut usize) {
        self.trace_id.push(self.items.arena.push(link.trace_id, heap));
        self.span_id.push(self.items.arena.push(link.span_id, heap));
        let state = cut::words(&link.trace_state, limits.value_bytes_max, warnings);
        self.trace_state.push(self.items.arena.push(state.as_bytes(), heap));
        self.flags.push(link.flags);
        self.items.push(link.attributes(), link.dropped_attributes_count, limits, warnings, heap);
    }

    pub fn end_row(&mut self) {
        self.items.end_row();
    }

    pub fn finish(self, order: &Order, column: &DataType, catalogue: &mut Catalogue) -> ArrayRef {
        let (items, lists) = self.items.in_order(order);
        let gather = |stretches: &[Stretch], empty_is_null: bool| {
            let mut texts = Texts::default();
            for &item in &items {
                let value = self.items.arena.get(stretches[item]);
                texts.push((!empty_is_null || !value.is_empty()).then_some(value));
            }
            texts
        };
        let trace_id = gather(&self.trace_id, false).binaries();
        let span_id = gather(&self.span_id, false).binaries();
        let trace_state = gather(&self.trace_state, true).strings();
        let flags = non_zero(items.iter().map(|&item| self.flags[item]));
        let [dropped, attributes] = self.items.columns(&items, AttributeScope::Link, catalogue);
        debug_assert_eq!(schema::LINK_FIELDS.len(), 6);
        lists.finish(column, vec![trace_id, span_id, trace_state, flags, dropped, attributes])
    }
}
