//! From the builder's columns to a batch.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, ArrowPrimitiveType, AsArray, FixedSizeBinaryArray, Int32Array, Int64Array, PrimitiveArray,
        RecordBatch, UInt32Array,
    },
    buffer::Buffer,
    datatypes::{Field, FieldRef, Int32Type, Int64Type, Schema},
};
use model::AttributeType;

use super::{Columns, interner::Interner, order::{Identities, Order}, sparse::{self, Bits, Sparse}};
use crate::{
    batch::SpanBatch,
    catalogue::Catalogue,
    promotion::{AttributeColumn, PromotionPolicy},
    schema::{self, FIXED_FIELDS},
    whole_trace::{self, SpanRows},
};

/// The column that names the service of a root.
const SERVICE_NAMES: &str = "resource.service.name";

impl Columns {
    pub(super) fn finish(mut self) -> SpanBatch {
        let order = Order::of(&Identities {
            trace_id: &self.trace_id,
            span_id: &self.span_id,
            start: &self.start,
            kind: &self.kind,
        });
        let rows = order.len();
        let resource_of_row = gather_numbers(&self.resource, &order);
        let scope_of_row = gather_numbers(&self.scope, &order);
        let resource_rows = rows_per_group(&resource_of_row, self.resources.len());
        let scope_rows = rows_per_group(&scope_of_row, self.scopes.len());

        let mut candidates = self.attributes.candidates(&order);
        candidates.extend(self.resources.candidates(&resource_rows));
        candidates.extend(self.scopes.candidates(&scope_rows));
        let promotion = PromotionPolicy::default().decide(rows as u64, candidates);

        let mut catalogue = Catalogue::default();
        let mut promoted: Vec<(AttributeColumn, ArrayRef)> = Vec::with_capacity(promotion.len());
        self.attributes.take_promoted(&order, &promotion, &mut promoted, &mut catalogue);
        let resources = self.resources.finish(&resource_of_row, &resource_rows, &promotion, &mut promoted, &mut catalogue);
        let scopes = self.scopes.finish(&scope_of_row, &scope_rows, &promotion, &mut promoted, &mut catalogue);
        let events = self.events.finish(&order, fixed_type(schema::EVENTS), &mut catalogue);
        let links = self.links.finish(&order, fixed_type(schema::LINKS), &mut catalogue);
        let span_attributes = self.attributes.into_lists(&order, &mut catalogue);

        let trace_ids = ids(&self.trace_id, &order, false);
        let span_ids = ids(&self.span_id, &order, false);
        let parent_span_ids = ids(&self.parent_span_id, &order, true);
        let start_times: Int64Array = gather(&self.start, &order, |start| start);
        let durations: Int64Array = gather(&self.duration, &order, |duration| duration);
        let kinds: Int32Array = gather(&self.kind, &order, i32::from);
        let status_codes: Int32Array = gather(&self.status_code, &order, i32::from);
        let names = sparse::dictionary(gather(&self.name, &order, |code| code as i32), self.names.into_array());
        let service_names = promoted.iter().find(|(column, _)| column.name() == SERVICE_NAMES);
        let whole_trace = whole_trace::compute(&SpanRows {
            trace_ids: &trace_ids,
            span_ids: &span_ids,
            parent_span_ids: &parent_span_ids,
            start_times: &start_times,
            durations: &durations,
            kinds: &kinds,
            names: names.as_dictionary(),
            service_names: service_names.map(|(_, values)| values.as_dictionary()),
            resource_attributes: Some(resources.attributes.as_list()),
        });

        let mut columns: Vec<(&str, ArrayRef)> = vec![
            (schema::TRACE_ID, Arc::new(trace_ids)),
            (schema::SPAN_ID, Arc::new(span_ids)),
            (schema::PARENT_SPAN_ID, Arc::new(parent_span_ids)),
            (schema::START_TIME, Arc::new(start_times)),
            (schema::DURATION, Arc::new(durations)),
            (schema::END_TIME, sparse_numbers::<Int64Type>(&self.end, &order)),
            (schema::NAME, names),
            (schema::KIND, Arc::new(kinds)),
            (schema::STATUS_CODE, Arc::new(status_codes)),
            (schema::STATUS_MESSAGE, sparse_text(&self.status_message, self.status_messages, &order)),
            (schema::TRACE_STATE, sparse_text(&self.trace_state, self.trace_states, &order)),
            (schema::FLAGS, sparse_numbers::<Int32Type>(&self.flags, &order)),
            (schema::DROPPED_ATTRIBUTES, sparse_numbers::<Int32Type>(&self.dropped_attributes, &order)),
            (schema::DROPPED_EVENTS, sparse_numbers::<Int32Type>(&self.dropped_events, &order)),
            (schema::DROPPED_LINKS, sparse_numbers::<Int32Type>(&self.dropped_links, &order)),
            (schema::SCOPE_NAME, scopes.names),
            (schema::SCOPE_VERSION, scopes.versions),
            (schema::SCOPE_SCHEMA_URL, scopes.schema_urls),
            (schema::SCOPE_DROPPED_ATTRIBUTES, scopes.dropped),
            (schema::RESOURCE_SCHEMA_URL, resources.schema_urls),
            (schema::RESOURCE_DROPPED_ATTRIBUTES, resources.dropped),
        ];
        columns.extend(whole_trace.into_columns());
        columns.extend([
            (schema::RESOURCE_ATTRIBUTES, resources.attributes),
            (schema::SPAN_ATTRIBUTES, span_attributes),
            (schema::SCOPE_ATTRIBUTES, scopes.attributes),
            (schema::EVENTS, events),
            (schema::LINKS, links),
        ]);
        SpanBatch { records: records(columns, promoted, rows), catalogue: Arc::new(catalogue) }
    }
}

/// The batch of the fixed columns and the attribute columns, the latter sorted by name.
fn records(fixed: Vec<(&str, ArrayRef)>, promoted: Vec<(AttributeColumn, ArrayRef)>, rows: usize) -> RecordBatch {
    assert!(
        fixed.iter().map(|(name, _)| *name).eq(FIXED_FIELDS.iter().map(|field| field.name().as_str())),
        "the fixed columns are built in the order of the schema"
    );
    debug_assert!(fixed.iter().all(|(_, column)| column.len() == rows));
    let mut promoted: Vec<(String, AttributeType, ArrayRef)> =
        promoted.into_iter().map(|(column, values)| (column.name(), column.kind, values)).collect();
    promoted.sort_by(|a, b| a.0.cmp(&b.0));
    let fields: Vec<FieldRef> = FIXED_FIELDS
        .iter()
        .cloned()
        .chain(promoted.iter().map(|(name, kind, _)| Arc::new(Field::new(name, schema::attribute_type(*kind), true))))
        .collect();
    let columns = fixed.into_iter().map(|(_, column)| column).chain(promoted.into_iter().map(|(_, _, column)| column));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.collect())
        .expect("the builder's columns have the types and lengths of the schema")
}

fn fixed_type(name: &str) -> &'static arrow::datatypes::DataType {
    FIXED_FIELDS.iter().find(|field| field.name() == name).expect("a fixed column").data_type()
}

/// The ids in batch order. With `zero_is_null`, zeros mean there is none.
fn ids<const N: usize>(ids: &[[u8; N]], order: &Order, zero_is_null: bool) -> FixedSizeBinaryArray {
    let mut bytes = Vec::with_capacity(order.len() * N);
    let mut set = zero_is_null.then(|| Bits::new(order.len()));
    for (place, &row) in order.rows.iter().enumerate() {
        let id = &ids[row as usize];
        bytes.extend_from_slice(id);
        if let Some(set) = &mut set
            && *id != [0; N]
        {
            set.set(place);
        }
    }
    FixedSizeBinaryArray::new(N as i32, Buffer::from_vec(bytes), set.map(Bits::nulls))
}

fn gather<T: Copy, A: ArrowPrimitiveType>(values: &[T], order: &Order, map: impl Fn(T) -> A::Native) -> PrimitiveArray<A> {
    let gathered: Vec<A::Native> = order.rows.iter().map(|&row| map(values[row as usize])).collect();
    PrimitiveArray::new(gathered.into(), None)
}

fn gather_numbers(values: &[u32], order: &Order) -> UInt32Array {
    gather(values, order, |number| number)
}

fn sparse_numbers<A: ArrowPrimitiveType>(values: &Sparse<A::Native>, order: &Order) -> ArrayRef {
    Arc::new(sparse::primitive::<A>(values.placed(order), order.len()))
}

fn sparse_text(codes: &Sparse<u32>, texts: Interner, order: &Order) -> ArrayRef {
    sparse::text(codes.placed(order), order.len(), texts)
}

fn rows_per_group(of_row: &UInt32Array, groups: usize) -> Vec<u64> {
    let mut rows = vec![0; groups];
    of_row.values().iter().for_each(|&group| rows[group as usize] += 1);
    rows
}
