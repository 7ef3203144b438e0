//! Events and links of a row.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, Int32Array, Int64Array, ListArray, StringArray};
use arrow::datatypes::{Int32Type, Int64Type};
use proto::otlp::trace::v1::span::{Event, Link};

use super::attributes::list_at;
use crate::merge::kv::KvView;
use crate::schema;

/// An event column of type `schema::EVENTS`.
pub(super) struct Events {
    list: ListArray,
    times: Int64Array,
    names: StringArray,
    dropped: Int32Array,
    attributes: KvView,
}

impl Events {
    pub fn new(array: &ArrayRef) -> Option<Self> {
        let list = array.as_list_opt::<i32>()?;
        let items = list.values().as_struct_opt()?;
        let column = |name: &str| items.column_by_name(name);
        Some(Self {
            list: list.clone(),
            times: column(schema::EVENT_TIME)?.as_primitive_opt::<Int64Type>()?.clone(),
            names: column(schema::EVENT_NAME)?.as_string_opt()?.clone(),
            dropped: column(schema::DROPPED_ATTRIBUTES)?.as_primitive_opt::<Int32Type>()?.clone(),
            attributes: KvView::new(column(schema::NESTED_ATTRIBUTES)?)?,
        })
    }

    pub fn at(&self, row: usize) -> Vec<Event> {
        let event = |item: usize| Event {
            time_unix_nano: self.times.value(item) as u64,
            name: self.names.value(item).to_owned(),
            attributes: list_at(&self.attributes, item),
            dropped_attributes_count: unsigned(&self.dropped, item),
        };
        items(&self.list, row).map(event).collect()
    }
}

/// A link column of type `schema::LINKS`.
pub(super) struct Links {
    list: ListArray,
    trace_ids: BinaryArray,
    span_ids: BinaryArray,
    trace_states: StringArray,
    flags: Int32Array,
    dropped: Int32Array,
    attributes: KvView,
}

impl Links {
    pub fn new(array: &ArrayRef) -> Option<Self> {
        let list = array.as_list_opt::<i32>()?;
        let items = list.values().as_struct_opt()?;
        let column = |name: &str| items.column_by_name(name);
        Some(Self {
            list: list.clone(),
            trace_ids: column(schema::LINK_TRACE_ID)?.as_binary_opt()?.clone(),
            span_ids: column(schema::LINK_SPAN_ID)?.as_binary_opt()?.clone(),
            trace_states: column(schema::LINK_TRACE_STATE)?.as_string_opt()?.clone(),
            flags: column(schema::LINK_FLAGS)?.as_primitive_opt::<Int32Type>()?.clone(),
            dropped: column(schema::DROPPED_ATTRIBUTES)?.as_primitive_opt::<Int32Type>()?.clone(),
            attributes: KvView::new(column(schema::NESTED_ATTRIBUTES)?)?,
        })
    }

    pub fn at(&self, row: usize) -> Vec<Link> {
        let link = |item: usize| Link {
            trace_id: self.trace_ids.value(item).to_vec(),
            span_id: self.span_ids.value(item).to_vec(),
            trace_state: self
                .trace_states
                .is_valid(item)
                .then(|| self.trace_states.value(item).to_owned())
                .unwrap_or_default(),
            flags: unsigned(&self.flags, item),
            attributes: list_at(&self.attributes, item),
            dropped_attributes_count: unsigned(&self.dropped, item),
        };
        items(&self.list, row).map(link).collect()
    }
}

fn items(list: &ListArray, row: usize) -> Range<usize> {
    if list.is_null(row) {
        return 0..0;
    }
    let offsets = list.value_offsets();
    offsets[row] as usize..offsets[row + 1] as usize
}

/// An unsigned 32-bit number that is kept bit for bit in a signed column; null for 0.
pub(super) fn unsigned(array: &Int32Array, at: usize) -> u32 {
    if array.is_valid(at) { array.value(at) as u32 } else { 0 }
}
