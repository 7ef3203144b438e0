//! What goes into a builder comes out of the batch: random requests are decoded a second time, by prost, and
//! compared row by row, attribute by attribute.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, ArrayAccessor, ArrayRef, AsArray, ListArray, StringArray, StructArray};
use arrow::datatypes::{Float64Type, Int32Type, Int64Type};
use block::{
    batch::SpanBatch,
    builder::{AttributeLimits, SpanBatchBuilder, Warnings},
    promotion::AttributeColumn,
    schema,
};
use model::{AttributeScope, AttributeType};
use proptest::prelude::*;
use proto::otlp::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::Event, span::Link},
};
use prost::Message;

/// Attributes by key; the values of a key in order, as text in which equal means equal to the bit.
type Attributes = BTreeMap<String, Vec<String>>;

/// One span with all that belongs to it, by OTLP's words.
#[derive(Debug, PartialEq, Clone, Default)]
pub struct Row {
    pub identity: ([u8; 16], i64, [u8; 8], i32),
    plain: String,
    attributes: [Attributes; 3],
    events: Vec<(String, Attributes)>,
    links: Vec<(String, Attributes)>,
}

fn value_text(value: Option<&Value>) -> String {
    match value {
        Some(Value::DoubleValue(x)) => format!("double {:x}", x.to_bits()),
        Some(other) => format!("{other:?}"),
        None => "empty".into(),
    }
}

fn attributes_of(sent: &[KeyValue]) -> Attributes {
    let mut attributes = Attributes::new();
    for KeyValue { key, value } in sent {
        let text = value_text(value.as_ref().and_then(|v| v.value.as_ref()));
        attributes.entry(key.clone()).or_default().push(text);
    }
    attributes
}

/// The rows a request means, by prost's reading of it: by trace, as received, the first of each identity.
pub fn expected(requests: &[Vec<u8>]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for request in requests {
        let request = ExportTraceServiceRequest::decode(request.as_slice()).unwrap();
        for resource_spans in &request.resource_spans {
            let resource = resource_spans.resource.clone().unwrap_or_default();
            for scope_spans in &resource_spans.scope_spans {
                let scope = scope_spans.scope.clone().unwrap_or_default();
                for span in &scope_spans.spans {
                    rows.push(row_of(span, &scope, &scope_spans.schema_url, &resource, &resource_spans.schema_url));
                }
            }
        }
    }
    rows.sort_by_key(|row| row.identity.0);
    let mut seen = BTreeSet::new();
    rows.retain(|row| seen.insert(row.identity));
    rows
}

fn row_of(span: &Span, scope: &InstrumentationScope, scope_url: &str, resource: &Resource, resource_url: &str) -> Row {
    let status = span.status.clone().unwrap_or_default();
    let kind = if (0..=5).contains(&span.kind) { span.kind } else { 0 };
    let code = if (0..=2).contains(&status.code) { status.code } else { 0 };
    Row {
        identity: (
            span.trace_id.as_slice().try_into().unwrap(),
            span.start_time_unix_nano as i64,
            span.span_id.as_slice().try_into().unwrap(),
            kind,
        ),
        plain: format!(
            "{:?} end {} {:?} {code} {:?} {:?} {} {} {} {} scope {:?} {:?} {} {:?} resource {} {:?}",
            span.parent_span_id,
            span.end_time_unix_nano,
            span.name,
            status.message,
            span.trace_state,
            span.flags,
            span.dropped_attributes_count,
            span.dropped_events_count,
            span.dropped_links_count,
            scope.name,
            scope.version,
            scope.dropped_attributes_count,
            scope_url,
            resource.dropped_attributes_count,
            resource_url,
        ),
        attributes: [attributes_of(&resource.attributes), attributes_of(&span.attributes), attributes_of(&scope.attributes)],
        events: span
            .events
            .iter()
            .map(|e| {
                let plain = format!("{} {:?} {}", e.time_unix_nano, e.name, e.dropped_attributes_count);
                (plain, attributes_of(&e.attributes))
            })
            .collect(),
        links: span
            .links
            .iter()
            .map(|l| {
                let (flags, dropped) = (l.flags, l.dropped_attributes_count);
                let plain = format!("{:?} {:?} {:?} {flags} {dropped}", l.trace_id, l.span_id, l.trace_state);
                (plain, attributes_of(&l.attributes))
            })
            .collect(),
    }
}

const SCOPES: [AttributeScope; 3] = [AttributeScope::Resource, AttributeScope::Span, AttributeScope::Instrumentation];

/// Reads the rows back out of a batch's columns.
pub fn rows_in(batch: &SpanBatch) -> Vec<Row> {
    let records = &batch.records;
    let column = |name: &str| records.column_by_name(name).unwrap();
    let bytes = |name: &str, row: usize| {
        let column = column(name).as_fixed_size_binary();
        if column.is_null(row) { Vec::new() } else { column.value(row).to_vec() }
    };
    let long = |name: &str, row: usize| column(name).as_primitive::<Int64Type>().value(row);
    // What the slot of a null holds means nothing.
    let number = |name: &str, row: usize| {
        let column = column(name).as_primitive::<Int32Type>();
        if column.is_null(row) { 0 } else { column.value(row) }
    };
    let text = |name: &str, row: usize| dictionary_text(column(name), row).unwrap_or_default();
    (0..records.num_rows())
        .map(|row| {
            let start = long(schema::START_TIME, row);
            let end = if column(schema::END_TIME).is_null(row) {
                (start as u64).wrapping_add(long(schema::DURATION, row) as u64)
            } else {
                long(schema::END_TIME, row) as u64
            };
            Row {
                identity: (
                    bytes(schema::TRACE_ID, row).try_into().unwrap(),
                    start,
                    bytes(schema::SPAN_ID, row).try_into().unwrap(),
                    number(schema::KIND, row),
                ),
                plain: format!(
                    "{:?} end {end} {:?} {} {:?} {:?} {} {} {} {} scope {:?} {:?} {} {:?} resource {} {:?}",
                    bytes(schema::PARENT_SPAN_ID, row),
                    text(schema::NAME, row),
                    number(schema::STATUS_CODE, row),
                    text(schema::STATUS_MESSAGE, row),
                    text(schema::TRACE_STATE, row),
                    number(schema::FLAGS, row) as u32,
                    number(schema::DROPPED_ATTRIBUTES, row) as u32,
                    number(schema::DROPPED_EVENTS, row) as u32,
                    number(schema::DROPPED_LINKS, row) as u32,
                    text(schema::SCOPE_NAME, row),
                    text(schema::SCOPE_VERSION, row),
                    number(schema::SCOPE_DROPPED_ATTRIBUTES, row) as u32,
                    text(schema::SCOPE_SCHEMA_URL, row),
                    number(schema::RESOURCE_DROPPED_ATTRIBUTES, row) as u32,
                    text(schema::RESOURCE_SCHEMA_URL, row),
                ),
                attributes: SCOPES.map(|scope| {
                    let mut attributes = Attributes::new();
                    for (field, values) in records.schema_ref().fields().iter().zip(records.columns()) {
                        let Some(name) = AttributeColumn::parse(field.name()).filter(|c| c.scope == scope) else { continue };
                        if let Some(value) = promoted_value(values, name.kind, row) {
                            attributes.entry(name.key).or_default().push(value_text(Some(&value)));
                        }
                    }
                    let lists = column(schema::kv_column(scope).unwrap()).as_list();
                    add_listed(lists, row, &mut attributes);
                    attributes
                }),
                events: items(column(schema::EVENTS).as_list(), row, |item, at| {
                    let name = item.column_by_name(schema::EVENT_NAME).unwrap().as_string::<i32>().value(at).to_owned();
                    format!("{} {name:?} {}", item_long(item, schema::EVENT_TIME, at) as u64, item_number(item, schema::DROPPED_ATTRIBUTES, at))
                }),
                links: items(column(schema::LINKS).as_list(), row, |item, at| {
                    let bytes = |name: &str| item.column_by_name(name).unwrap().as_binary::<i32>().value(at).to_vec();
                    let state = item.column_by_name(schema::LINK_TRACE_STATE).unwrap().as_string::<i32>();
                    let state = if state.is_null(at) { "" } else { state.value(at) };
                    format!(
                        "{:?} {:?} {state:?} {} {}",
                        bytes(schema::LINK_TRACE_ID),
                        bytes(schema::LINK_SPAN_ID),
                        item_number(item, schema::LINK_FLAGS, at),
                        item_number(item, schema::DROPPED_ATTRIBUTES, at)
                    )
                }),
            }
        })
        .collect()
}

fn dictionary_text(column: &ArrayRef, row: usize) -> Option<String> {
    let column = column.as_dictionary::<Int32Type>();
    let key = column.key(row)?;
    Some(column.values().as_string::<i32>().value(key).to_owned())
}

fn promoted_value(column: &ArrayRef, kind: AttributeType, row: usize) -> Option<Value> {
    column.is_valid(row).then(|| match kind {
        AttributeType::String => Value::StringValue(dictionary_text(column, row).unwrap()),
        AttributeType::Long => Value::IntValue(column.as_primitive::<Int64Type>().value(row)),
        AttributeType::Double => Value::DoubleValue(column.as_primitive::<Float64Type>().value(row)),
        AttributeType::Boolean => Value::BoolValue(column.as_boolean().value(row)),
    })
}

/// Adds what is in the key/value list of a row. Every item must have exactly one value.
fn add_listed(lists: &ListArray, row: usize, attributes: &mut Attributes) {
    if lists.is_null(row) {
        return;
    }
    let entries = lists.value(row);
    let entries = entries.as_struct();
    let field = |name: &str| entries.column_by_name(name).unwrap();
    assert!(!entries.is_empty(), "an empty list is null");
    for at in 0..entries.len() {
        let mut values = Vec::new();
        let strings = field(schema::KV_STRING).as_string::<i32>();
        values.extend(strings.is_valid(at).then(|| Some(Value::StringValue(strings.value(at).to_owned()))));
        for (name, kind) in [
            (schema::KV_LONG, AttributeType::Long),
            (schema::KV_DOUBLE, AttributeType::Double),
            (schema::KV_BOOLEAN, AttributeType::Boolean),
        ] {
            values.extend(promoted_value(field(name), kind, at).map(Some));
        }
        let others = field(schema::KV_OTHER).as_binary::<i32>();
        values.extend(others.is_valid(at).then(|| AnyValue::decode(others.value(at)).unwrap().value));
        assert_eq!(values.len(), 1, "exactly one of the five values is set");
        let key = field(schema::KV_KEY).as_string::<i32>().value(at);
        attributes.entry(key.to_owned()).or_default().push(value_text(values[0].as_ref()));
    }
}

fn items(lists: &ListArray, row: usize, plain: impl Fn(&StructArray, usize) -> String) -> Vec<(String, Attributes)> {
    if lists.is_null(row) {
        return Vec::new();
    }
    let items = lists.value(row);
    let items = items.as_struct();
    let lists = items.column_by_name(schema::NESTED_ATTRIBUTES).unwrap().as_list();
    (0..items.len())
        .map(|at| {
            let mut attributes = Attributes::new();
            add_listed(lists, at, &mut attributes);
            (plain(items, at), attributes)
        })
        .collect()
}

fn item_number(items: &StructArray, name: &str, at: usize) -> u32 {
    let column = items.column_by_name(name).unwrap().as_primitive::<Int32Type>();
    if column.is_null(at) { 0 } else { column.value(at) as u32 }
}

fn item_long(items: &StructArray, name: &str, at: usize) -> i64 {
    items.column_by_name(name).unwrap().as_primitive::<Int64Type>().value(at)
}

/// Everything `SpanBatch` promises besides the values themselves.
pub fn check_invariants(batch: &SpanBatch, rows: &[Row]) {
    let records = &batch.records;
    SpanBatch::try_new(records.clone(), batch.catalogue.clone()).unwrap();
    let names: Vec<&String> = records.schema_ref().fields().iter().skip(schema::FIXED_FIELDS.len()).map(|f| f.name()).collect();
    assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "attribute columns are sorted by name");
    let folded: BTreeSet<String> = names.iter().map(|name| name.to_lowercase()).collect();
    assert_eq!(folded.len(), names.len(), "no two columns differ only by case");
    assert!(rows.windows(2).all(|pair| pair[0].identity.0 <= pair[1].identity.0), "rows are sorted by trace");
    let distinct: BTreeSet<_> = rows.iter().map(|row| row.identity).collect();
    assert_eq!(distinct.len(), rows.len(), "rows are distinct");

    // The catalogue counts what the columns hold.
    let mut counts: BTreeMap<(AttributeScope, String), (BTreeMap<u8, u64>, u64)> = BTreeMap::new();
    for (field, values) in records.schema_ref().fields().iter().zip(records.columns()) {
        if let Some(name) = AttributeColumn::parse(field.name()) {
            assert_eq!(*field.data_type(), schema::attribute_type(name.kind));
            let set = (values.len() - values.null_count()) as u64;
            assert!(set >= 8, "{} has too few values for a column", field.name());
            counts.entry((name.scope, name.key)).or_default().0.insert(name.kind as u8, set);
        }
    }
    let mut count_listed = |scope: AttributeScope, lists: &ListArray| {
        for row in 0..lists.len() {
            let mut attributes = Attributes::new();
            add_listed(lists, row, &mut attributes);
            for (key, values) in attributes {
                counts.entry((scope, key)).or_default().1 += values.len() as u64;
            }
        }
    };
    for scope in SCOPES {
        count_listed(scope, records.column_by_name(schema::kv_column(scope).unwrap()).unwrap().as_list());
    }
    for (scope, column) in [(AttributeScope::Event, schema::EVENTS), (AttributeScope::Link, schema::LINKS)] {
        let items = records.column_by_name(column).unwrap().as_list::<i32>().values().as_struct();
        count_listed(scope, items.column_by_name(schema::NESTED_ATTRIBUTES).unwrap().as_list());
    }
    let catalogued: BTreeMap<_, _> = batch
        .catalogue
        .iter()
        .map(|(scope, key, entry)| ((scope, key.to_owned()), (entry.promoted.iter().copied().collect(), entry.in_list)))
        .collect();
    assert_eq!(catalogued, counts);

    // Whole-trace columns belong to the rows they stand on: checked in full where they are computed.
    let roots = records.column_by_name(schema::ROOT_SPAN_NAME).unwrap();
    let starts = records.column_by_name(schema::TRACE_START).unwrap().as_primitive::<Int64Type>();
    let names = records.column_by_name(schema::NAME).unwrap();
    let parents = records.column_by_name(schema::PARENT_SPAN_ID).unwrap();
    for row in 0..rows.len() {
        let trace: Vec<usize> = (0..rows.len()).filter(|other| rows[*other].identity.0 == rows[row].identity.0).collect();
        assert_eq!(Some(starts.value(row)), trace.iter().map(|other| rows[*other].identity.1).min());
        let root = trace.iter().rfind(|other| parents.is_null(**other));
        assert_eq!(dictionary_text(roots, row), root.and_then(|root| dictionary_text(names, *root)));
    }
}

pub fn build(requests: &[Vec<u8>], builder: &mut SpanBatchBuilder) -> SpanBatch {
    for request in requests {
        builder.append_request(request, |_| panic!("a small batch is never full")).unwrap();
    }
    builder.finish()
}

pub fn unlimited() -> SpanBatchBuilder {
    SpanBatchBuilder::new(AttributeLimits { value_bytes_max: 0, ..Default::default() })
}

fn any_value() -> impl Strategy<Value = Option<AnyValue>> {
    let text = prop_oneof![3 => "[ab]{0,2}".prop_map(String::from), 1 => any::<String>()];
    let double = prop_oneof![
        any::<f64>(),
        Just(f64::NAN),
        Just(-0.0),
        Just(f64::from_bits(0x7ff0_dead_beef_0001)),
        Just(f64::INFINITY)
    ];
    let leaf = prop_oneof![
        6 => text.prop_map(|s| Some(Value::StringValue(s))),
        3 => any::<i64>().prop_map(|n| Some(Value::IntValue(n))),
        2 => double.prop_map(|x| Some(Value::DoubleValue(x))),
        2 => any::<bool>().prop_map(|b| Some(Value::BoolValue(b))),
        1 => prop::collection::vec(any::<u8>(), 0..5).prop_map(|b| Some(Value::BytesValue(b))),
        1 => Just(None),
    ]
    .prop_map(|value| AnyValue { value });
    let value = leaf.prop_recursive(6, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(|values| Value::ArrayValue(ArrayValue { values })),
            prop::collection::vec(("[ab]{0,1}", inner), 0..3).prop_map(|entries| {
                let values = entries.into_iter().map(|(key, value)| KeyValue { key, value: Some(value) }).collect();
                Value::KvlistValue(KeyValueList { values })
            }),
        ]
        .prop_map(|value| AnyValue { value: Some(value) })
    });
    prop_oneof![9 => value.prop_map(Some), 1 => Just(None)]
}

fn attributes(count: usize) -> impl Strategy<Value = Vec<KeyValue>> {
    // Few keys, so that they repeat within a span, change type between spans, and become frequent.
    let key = prop_oneof![
        6 => prop::sample::select(vec!["http.method", "code", "Code", "CODE", "user.id", "a:long", "a", "b c", "", "ключ", "x=y", "service.name"]).prop_map(String::from),
        1 => any::<String>(),
    ];
    prop::collection::vec((key, any_value()).prop_map(|(key, value)| KeyValue { key, value }), 0..count)
}

fn time() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 1_000u64..1_003, 1 => prop::sample::select(vec![0, 1, i64::MAX as u64, 1 << 63, u64::MAX]), 1 => any::<u64>()]
}

fn dropped() -> impl Strategy<Value = u32> {
    prop_oneof![5 => Just(0), 1 => any::<u32>()]
}

fn event() -> impl Strategy<Value = Event> {
    (time(), "[ab]{0,2}", attributes(3), dropped()).prop_map(|(time_unix_nano, name, attributes, dropped_attributes_count)| Event {
        time_unix_nano,
        name,
        attributes,
        dropped_attributes_count,
    })
}

fn link() -> impl Strategy<Value = Link> {
    let id = || prop::collection::vec(any::<u8>(), 0..17);
    (id(), id(), "[ab]{0,2}", attributes(3), dropped(), dropped()).prop_map(
        |(trace_id, span_id, trace_state, attributes, dropped_attributes_count, flags)| Link {
            trace_id,
            span_id,
            trace_state,
            attributes,
            dropped_attributes_count,
            flags,
        },
    )
}

fn span() -> impl Strategy<Value = Span> {
    let ids = (0u8..3, 1u8..6, prop::option::of(1u8..6), -1i32..8, time(), time());
    let words = ("[ab]{0,2}", "[ab]{0,1}", prop::option::of((-1i32..5, "[ab]{0,2}")), dropped());
    let rest = (attributes(8), prop::collection::vec(event(), 0..3), prop::collection::vec(link(), 0..2));
    (ids, words, rest, dropped(), dropped(), dropped()).prop_map(
        |((trace, id, parent, kind, start, end), (name, trace_state, status, flags), (attributes, events, links), da, de, dl)| Span {
            // Ids that differ in the first, in the last byte, or not at all.
            trace_id: match trace {
                0 => vec![1; 16],
                1 => [vec![1; 15], vec![2]].concat(),
                _ => [vec![2], vec![1; 15]].concat(),
            },
            span_id: vec![id; 8],
            parent_span_id: parent.map_or(Vec::new(), |parent| vec![parent; 8]),
            name,
            trace_state,
            kind,
            start_time_unix_nano: start,
            end_time_unix_nano: end,
            status: status.map(|(code, message)| Status { code, message }),
            flags,
            attributes,
            events,
            links,
            dropped_attributes_count: da,
            dropped_events_count: de,
            dropped_links_count: dl,
        },
    )
}

pub fn requests() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let scope = (prop::option::of(("[ab]{0,2}", "[ab]{0,1}", attributes(4), dropped())), "[ab]{0,1}", prop::collection::vec(span(), 0..10));
    let scope = scope.prop_map(|(scope, schema_url, spans)| ScopeSpans {
        scope: scope.map(|(name, version, attributes, dropped_attributes_count)| InstrumentationScope {
            name,
            version,
            attributes,
            dropped_attributes_count,
        }),
        schema_url,
        spans,
    });
    let resource = (prop::option::of((attributes(6), dropped())), "[ab]{0,1}", prop::collection::vec(scope, 0..3));
    let resource = resource.prop_map(|(resource, schema_url, scope_spans)| ResourceSpans {
        resource: resource.map(|(attributes, dropped_attributes_count)| Resource {
            attributes,
            dropped_attributes_count,
            ..Default::default()
        }),
        schema_url,
        scope_spans,
    });
    // Some requests come again, whole.
    prop::collection::vec((prop::collection::vec(resource, 0..4), 1usize..3), 1..4).prop_map(|requests| {
        requests
            .into_iter()
            .flat_map(|(resource_spans, times)| {
                std::iter::repeat_n(ExportTraceServiceRequest { resource_spans }.encode_to_vec(), times)
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..Default::default() })]

    #[test]
    fn every_value_comes_out_as_it_went_in(requests in requests()) {
        let mut builder = unlimited();
        let batch = build(&requests, &mut builder);
        let rows = rows_in(&batch);
        prop_assert_eq!(&rows, &expected(&requests));
        check_invariants(&batch, &rows);
        prop_assert_eq!(builder.warnings(), Warnings::default());

        // The builder starts anew: the same requests make the same batch.
        prop_assert_eq!(builder.rows(), 0);
        let again = build(&requests, &mut builder);
        prop_assert_eq!(&again.records, &batch.records);
        prop_assert_eq!(&again.catalogue, &batch.catalogue);

        // Batches that fill up on the way hold the same spans.
        let mut small = unlimited().with_bytes_max(20_000);
        let mut batches = Vec::new();
        for request in &requests {
            small.append_request(request, |batch| batches.push(batch)).unwrap();
        }
        batches.push(small.finish());
        let mut split: BTreeMap<_, Row> = BTreeMap::new();
        for batch in &batches {
            let rows = rows_in(batch);
            check_invariants(batch, &rows);
            rows.into_iter().for_each(|row| { split.entry(row.identity).or_insert(row); });
        }
        let by_identity: BTreeMap<_, Row> = rows.into_iter().map(|row| (row.identity, row)).collect();
        prop_assert_eq!(split, by_identity);
    }
}

pub fn text(value: &str) -> Option<AnyValue> {
    Some(AnyValue { value: Some(Value::StringValue(value.into())) })
}

pub fn spans(count: u8, attributes: impl Fn(u8) -> Vec<KeyValue>) -> Vec<Span> {
    let span = |n| Span { trace_id: vec![1; 16], span_id: vec![n + 1; 8], attributes: attributes(n), ..Default::default() };
    (0..count).map(span).collect()
}

pub fn request(spans: Vec<Span>, resource: Option<Resource>) -> Vec<u8> {
    let scope_spans = vec![ScopeSpans { spans, ..Default::default() }];
    let resource_spans = vec![ResourceSpans { resource, scope_spans, ..Default::default() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

#[test]
fn frequent_attributes_become_columns_and_rare_ones_do_not() {
    let resource = Resource { attributes: vec![KeyValue { key: "service.name".into(), value: text("shop") }], ..Default::default() };
    let request = request(
        spans(9, |n| {
            let mut attributes = vec![KeyValue { key: "route".into(), value: text(&format!("/{}", n % 2)) }];
            if n < 7 {
                attributes.push(KeyValue { key: "rare".into(), value: text("x") });
            }
            attributes
        }),
        Some(resource),
    );
    let batch = build(&[request], &mut unlimited());
    let promoted: Vec<&str> =
        batch.records.schema_ref().fields().iter().skip(schema::FIXED_FIELDS.len()).map(|f| f.name().as_str()).collect();
    assert_eq!(promoted, ["resource.service.name", "span.route"]);
    let entry = batch.catalogue.get(AttributeScope::Span, "rare").unwrap();
    assert_eq!((entry.promoted.len(), entry.in_list), (0, 7));
    let roots = batch.records.column_by_name(schema::ROOT_SERVICE_NAME).unwrap();
    assert_eq!(dictionary_text(roots, 8).as_deref(), Some("shop"));
}

#[test]
fn more_keys_than_are_tracked_lose_nothing() {
    let requests: Vec<Vec<u8>> = (0..6u8)
        .map(|part| {
            let key = |n: u8, i: usize| if i == 0 { "same".into() } else { format!("key.{part}.{n}.{i}") };
            request(
                spans(10, |n| (0..50).map(|i| KeyValue { key: key(n, i), value: text("v") }).collect())
                    .into_iter()
                    .map(|span| Span { start_time_unix_nano: u64::from(part), ..span })
                    .collect(),
                None,
            )
        })
        .collect();
    let batch = build(&requests, &mut unlimited());
    let rows = rows_in(&batch);
    assert_eq!(rows, expected(&requests));
    check_invariants(&batch, &rows);
    assert_eq!(batch.catalogue.get(AttributeScope::Span, "same").unwrap().promoted, [(AttributeType::String as u8, 60)]);
}

#[test]
fn what_is_over_a_limit_is_cut_and_counted() {
    let limits = AttributeLimits { value_bytes_max: 3, attributes_per_span_max: 2, events_per_span_max: 1, links_per_span_max: 0 };
    let values = || {
        vec![
            KeyValue { key: "long".into(), value: text("aañ") },
            KeyValue { key: "k".into(), value: text("abc") },
            KeyValue { key: "surplus".into(), value: text("") },
        ]
    };
    let event = || Event { attributes: values(), ..Default::default() };
    let resource = Resource { attributes: values(), dropped_attributes_count: 5, ..Default::default() };
    let mut spans = spans(1, |_| values());
    spans[0].events = vec![event(), event()];
    spans[0].links = vec![Link::default(); 3];
    spans[0].dropped_attributes_count = u32::MAX;
    spans[0].name = "aañ".into();
    spans[0].trace_state = "a=b".into();
    spans[0].status = Some(Status { code: 2, message: "no more".into() });
    let mut builder = SpanBatchBuilder::new(limits);
    let batch = build(&[request(spans, Some(resource))], &mut builder);
    let warnings = Warnings {
        keys_cut: 3,
        values_cut: 3,
        words_cut: 2,
        attributes_dropped: 3,
        events_dropped: 1,
        links_dropped: 3,
        ..Default::default()
    };
    assert_eq!(builder.warnings(), warnings);
    let rows = rows_in(&batch);
    let kept = attributes_of(&[
        KeyValue { key: "lon".into(), value: text("aa") },
        KeyValue { key: "k".into(), value: text("abc") },
    ]);
    assert_eq!(rows[0].attributes, [kept.clone(), kept.clone(), Attributes::new()]);
    assert_eq!(rows[0].events, [(r#"0 "" 1"#.to_owned(), kept)]);
    assert!(rows[0].links.is_empty());
    let dropped = |name: &str| batch.records.column_by_name(name).unwrap().as_primitive::<Int32Type>().value(0) as u32;
    assert_eq!(dropped(schema::DROPPED_ATTRIBUTES), u32::MAX);
    assert_eq!((dropped(schema::DROPPED_EVENTS), dropped(schema::DROPPED_LINKS)), (1, 3));
    assert_eq!(dropped(schema::RESOURCE_DROPPED_ATTRIBUTES), 6);
    let words = |name: &str| {
        let column = batch.records.column_by_name(name).unwrap().as_dictionary::<Int32Type>();
        column.downcast_dict::<StringArray>().unwrap().value(0).to_owned()
    };
    assert_eq!([schema::NAME, schema::TRACE_STATE, schema::STATUS_MESSAGE].map(words), ["aa", "a=b", "no "]);
}

/// A protobuf field of type bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut message = vec![number << 3 | 2];
    prost::encoding::encode_varint(bytes.len() as u64, &mut message);
    [message, bytes.to_vec()].concat()
}

#[test]
fn bytes_that_are_not_text_become_replacement_characters() {
    let key_value = [field(1, b"k\xff"), field(2, &field(1, b"\xc3("))].concat();
    let span = [field(1, &[1; 16]), field(2, &[2; 8]), field(5, b"n\xf0\x9f"), field(9, &key_value)].concat();
    let resource = field(1, &[field(1, b"service.name"), field(2, &field(1, b"\xfe"))].concat());
    let request = field(1, &[field(2, &field(2, &span)), field(1, &resource)].concat());
    let batch = build(&[request], &mut unlimited());
    let rows = rows_in(&batch);
    assert!(rows[0].plain.contains("\"n\u{fffd}\""), "{}", rows[0].plain);
    assert_eq!(rows[0].attributes[0], attributes_of(&[KeyValue { key: "service.name".into(), value: text("\u{fffd}") }]));
    assert_eq!(rows[0].attributes[1], attributes_of(&[KeyValue { key: "k\u{fffd}".into(), value: text("\u{fffd}(") }]));
}

#[test]
fn bad_spans_are_refused_alone_and_values_at_the_depth_limit_are_kept() {
    let nested = |levels: usize| {
        let mut value = field(1, b"leaf");
        for _ in 0..levels {
            value = field(5, &field(1, &value));
        }
        value
    };
    let span = |id: &[u8], levels: usize| {
        let key_value = [field(1, b"deep"), field(2, &nested(levels))].concat();
        field(2, &[field(1, &[1; 16]), field(2, id), field(9, &key_value)].concat())
    };
    let spans = [span(&[1; 8], model::ATTRIBUTE_DEPTH_MAX), span(&[2; 8], model::ATTRIBUTE_DEPTH_MAX + 1), span(&[0; 8], 0), span(&[3; 8], 0)];
    let mut builder = unlimited();
    let appended = builder.append_request(&field(1, &field(2, &spans.concat())), |_| ()).unwrap();
    assert_eq!((appended.spans, appended.refused, builder.rows()), (2, 2, 2));
    let batch = builder.finish();
    let entries = batch.records.column_by_name(schema::SPAN_ATTRIBUTES).unwrap().as_list::<i32>().values().as_struct();
    let raw = entries.column_by_name(schema::KV_OTHER).unwrap().as_binary::<i32>().value(0);
    assert_eq!(raw, nested(model::ATTRIBUTE_DEPTH_MAX));
}

#[test]
fn a_parent_id_of_another_length_is_no_parent_and_counted() {
    let parents: [&[u8]; 5] = [&[], &[0; 8], &[9; 8], &[9; 7], &[9; 16]];
    let mut spans = spans(5, |_| Vec::new());
    for (span, parent) in spans.iter_mut().zip(parents) {
        span.parent_span_id = parent.to_vec();
    }
    let mut builder = unlimited();
    let batch = build(&[request(spans, None)], &mut builder);
    assert_eq!(builder.warnings(), Warnings { parents_unknown: 2, ..Default::default() });
    let parents = batch.records.column_by_name(schema::PARENT_SPAN_ID).unwrap();
    assert_eq!((0..5).map(|row| parents.is_valid(row)).collect::<Vec<_>>(), [false, false, true, false, false]);
}

#[test]
fn resources_that_would_fill_memory_row_by_row_end_the_batch_early() {
    // 1 MB that cannot have a column: two thousand rows of it would take 2 GB.
    let heavy = KeyValue { key: "blob".into(), value: Some(AnyValue { value: Some(Value::BytesValue(vec![7; 1_000_000])) }) };
    let resource = Resource { attributes: vec![heavy], ..Default::default() };
    let request = request(spans(200, |_| Vec::new()), Some(resource));
    let (mut builder, mut batches) = (unlimited().with_bytes_max(20 << 20), Vec::new());
    let appended = builder.append_request(&request, |batch| batches.push(batch.rows())).unwrap();
    batches.push(builder.finish().rows());
    assert_eq!(appended.spans, 200);
    assert_eq!(batches.iter().sum::<usize>(), 200);
    assert!(batches.len() >= 9 && batches.iter().all(|rows| (1..=21).contains(rows)), "{batches:?}");
}

#[test]
fn an_empty_builder_makes_an_empty_batch() {
    let batch = unlimited().finish();
    assert_eq!(batch.rows(), 0);
    assert_eq!(batch.records.num_columns(), schema::FIXED_FIELDS.len());
}
