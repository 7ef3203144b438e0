//! From batches to blocks and back: merging, writing, sidecars, rebuilding OTLP.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, new_null_array};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use block::batch::SpanBatch;
use block::merge::{merge, merge_as, schema_of, window_partition};
use block::promotion::{AttributeColumn, Promotion, PromotionPolicy};
use block::rebuild;
use block::sidecar::{self, CHUNK_BYTES, Sidecar};
use block::stats::StatValue;
use block::whole_trace::trace_ranges;
use block::writer::{BlockWriter, EncodedBlock, WriterOptions, encode};
use block::{BlockError, schema};
use model::{AttributeScope, AttributeType, TraceId};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Encoding;
use proptest::prelude::*;
use prost::Message;
use proto::otlp::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::KeyValue,
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, TracesData},
};
use ulid::Ulid;

use crate::build::{Row, build, check_invariants, expected, requests, rows_in, text, unlimited};

/// Small enough that a few spans make several row groups and pages.
fn small_blocks() -> WriterOptions {
    WriterOptions { row_group_rows: 7, page_rows: 3, packed_page_rows: 3, ..Default::default() }
}

fn batch_of(requests: &[Vec<u8>]) -> SpanBatch {
    build(requests, &mut unlimited())
}

fn read(block: &EncodedBlock) -> Vec<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(block.data.clone()).unwrap().with_batch_size(5);
    reader.build().unwrap().collect::<Result<_, _>>().unwrap()
}

/// One array with the same values in a type that does not depend on how they are encoded.
fn plain(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Dictionary(_, _) => cast(array, &DataType::Utf8).unwrap(),
        _ => array.clone(),
    }
}

/// The rows of `batch` and those of a file, column by column. What the file leaves out must be null.
fn check_same_rows(batch: &RecordBatch, read: &[RecordBatch]) {
    let read = concat_batches(&read[0].schema(), read).unwrap();
    assert_eq!(read.num_rows(), batch.num_rows());
    for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        match read.column_by_name(field.name()) {
            Some(other) => {
                assert_eq!(other.data_type(), field.data_type(), "{}", field.name());
                assert_eq!(&plain(other), &plain(array), "{}", field.name());
            }
            None => assert_eq!(array.null_count(), array.len(), "{}", field.name()),
        }
    }
    assert!(read.schema_ref().fields().iter().all(|field| batch.column_by_name(field.name()).is_some()));
}

/// OTLP as a request, to read it as one.
fn as_request(traces: TracesData) -> Vec<u8> {
    ExportTraceServiceRequest { resource_spans: traces.resource_spans }.encode_to_vec()
}

/// The batch with every string column in another type a reader may choose.
fn with_strings_as(batch: &RecordBatch, string: &DataType) -> RecordBatch {
    let columns = batch.columns().iter().map(|array| match array.data_type() {
        DataType::Dictionary(_, _) => cast(array, string).unwrap(),
        _ => array.clone(),
    });
    let columns: Vec<ArrayRef> = columns.collect();
    let fields = batch.schema_ref().fields().iter().zip(&columns);
    let fields = fields.map(|(field, array)| Field::new(field.name(), array.data_type().clone(), field.is_nullable()));
    RecordBatch::try_new(Arc::new(Schema::new(fields.collect::<Vec<_>>())), columns).unwrap()
}

/// The rows as text, in order of identity; an absent and an empty value inside a map are the same.
fn meaning(mut rows: Vec<Row>) -> String {
    rows.sort_by_key(|row| row.identity);
    format!("{rows:?}").replace("Some(AnyValue { value: None })", "None")
}

/// Cuts `requests` into as many batches as there are distinct numbers, in order.
fn split(requests: &[Vec<u8>], cuts: &[usize]) -> Vec<SpanBatch> {
    let cuts: BTreeSet<usize> = cuts.iter().map(|cut| cut % (requests.len() + 1)).collect();
    let bounds: Vec<usize> = [0].into_iter().chain(cuts).chain([requests.len()]).collect();
    bounds.windows(2).map(|part| batch_of(&requests[part[0]..part[1]])).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..Default::default() })]

    #[test]
    fn merging_parts_is_the_same_as_building_at_once(
        requests in requests(),
        cuts in prop::collection::vec(any::<usize>(), 0..5),
    ) {
        let parts = split(&requests, &cuts);
        let merged = merge(&parts, &PromotionPolicy::default()).unwrap();
        let rows = rows_in(&merged);
        prop_assert_eq!(&rows, &expected(&requests));
        check_invariants(&merged, &rows);
        let whole = batch_of(&requests);
        // Compared as bytes: a NaN is not equal to itself.
        let rebuilt = |batch: &SpanBatch| as_request(rebuild::traces(std::slice::from_ref(&batch.records)).unwrap());
        prop_assert_eq!(rebuilt(&merged), rebuilt(&whole));
        for name in block::whole_trace::COLUMNS {
            let column = |batch: &SpanBatch| plain(batch.records.column_by_name(name).unwrap());
            prop_assert_eq!(&column(&merged), &column(&whole), "{}", name);
        }

        // In two steps, and to columns chosen beforehand.
        let halves: Vec<SpanBatch> =
            parts.chunks(2).map(|pair| merge(pair, &PromotionPolicy::default()).unwrap()).collect();
        let stepwise = merge(&halves, &PromotionPolicy::default()).unwrap();
        prop_assert_eq!(&rows_in(&stepwise), &rows);
        let none = merge_as(&parts, &Promotion::default()).unwrap();
        prop_assert_eq!(none.records.num_columns(), schema::FIXED_FIELDS.len());
        prop_assert_eq!(&rows_in(&none), &rows);
        let every = PromotionPolicy { rows_min: 1, ..Default::default() };
        let every = merge(&[none], &every).unwrap();
        prop_assert_eq!(&rows_in(&every), &rows);
        let back = merge(&[every], &PromotionPolicy::default()).unwrap();
        prop_assert_eq!(&rows_in(&back), &rows);
        check_invariants(&back, &rows);
    }

    #[test]
    fn rebuilt_otlp_means_what_was_sent(requests in requests(), cuts in prop::collection::vec(any::<usize>(), 0..3)) {
        let parts: Vec<RecordBatch> = split(&requests, &cuts).into_iter().map(|part| part.records).collect();
        let traces = rebuild::traces(&parts).unwrap();
        let spans: usize = traces.resource_spans.iter().flat_map(|r| &r.scope_spans).map(|s| s.spans.len()).sum();
        let sent = expected(&requests);
        prop_assert_eq!(spans, sent.len(), "re-deliveries are left out");
        for (at, group) in traces.resource_spans.iter().enumerate() {
            let key = |group: &ResourceSpans| (group.resource.clone(), group.schema_url.clone()).encode_key();
            prop_assert!(traces.resource_spans[..at].iter().all(|other| key(other) != key(group)), "one group per resource");
            for scope in &group.scope_spans {
                let starts = scope.spans.iter().map(|span| span.start_time_unix_nano as i64);
                prop_assert!(starts.is_sorted());
            }
        }
        for string in [DataType::Utf8, DataType::Utf8View] {
            let other: Vec<RecordBatch> = parts.iter().map(|part| with_strings_as(part, &string)).collect();
            prop_assert_eq!(as_request(rebuild::traces(&other).unwrap()), as_request(traces.clone()));
        }
        prop_assert_eq!(meaning(expected(&[as_request(traces)])), meaning(sent));
    }

    #[test]
    fn a_block_reads_back_as_it_was_written(requests in requests()) {
        let batch = batch_of(&requests);
        if batch.rows() == 0 {
            prop_assert!(matches!(encode(&batch, &small_blocks()), Err(BlockError::Empty)));
            return Ok(());
        }
        let block = encode(&batch, &small_blocks()).unwrap();
        let read = read(&block);
        check_same_rows(&batch.records, &read);
        prop_assert!(sidecar::rebuild_from(&block.data).unwrap() == block.sidecar, "the sidecar comes from the data again");

        let sidecar = Sidecar::parse(&block.sidecar).unwrap();
        prop_assert_eq!(sidecar.block_id, block.id);
        prop_assert_eq!(&sidecar.stats, &block.stats);
        for (scope, key, entry) in batch.catalogue.iter() {
            prop_assert_eq!(sidecar.catalogue.get(scope, key), Some(entry));
        }
        prop_assert_eq!(sidecar.catalogue.iter().count(), batch.catalogue.iter().count());
        for row in 0..batch.rows() {
            let id = batch.records.column_by_name(schema::TRACE_ID).unwrap().as_fixed_size_binary().value(row);
            prop_assert!(sidecar.trace_filter.contains(&TraceId::from_slice(id).unwrap()));
        }

        // What was read can be merged like any other batch, whatever columns the file leaves out.
        let whole = concat_batches(&read[0].schema(), &read).unwrap();
        let merged = merge(&[SpanBatch { records: whole, catalogue: Arc::default() }], &PromotionPolicy::default()).unwrap();
        prop_assert_eq!(rows_in(&merged), rows_in(&batch));
    }

    #[test]
    fn windows_hold_whole_traces(requests in requests(), window in prop::sample::select(vec![1i64, 2, 1000, i64::MAX])) {
        let batch = batch_of(&requests);
        let parts = window_partition(&batch, window).unwrap();
        prop_assert!(parts.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for (start, part) in &parts {
            let starts = part.records.column_by_name(schema::TRACE_START).unwrap().as_primitive::<Int64Type>();
            prop_assert!(starts.values().iter().all(|s| s.div_euclid(window).saturating_mul(window) == *start));
        }
        let parts: Vec<SpanBatch> = parts.into_iter().map(|(_, part)| part).collect();
        prop_assert_eq!(parts.iter().map(SpanBatch::rows).sum::<usize>(), batch.rows());
        let merged = merge(&parts, &PromotionPolicy::default()).unwrap();
        prop_assert_eq!(rows_in(&merged), rows_in(&batch));
    }
}

/// A resource group's identity as bytes, in which a NaN equals itself.
trait EncodeKey {
    fn encode_key(&self) -> Vec<u8>;
}

impl EncodeKey for (Option<Resource>, String) {
    fn encode_key(&self) -> Vec<u8> {
        let (resource, schema_url) = self.clone();
        ResourceSpans { resource, schema_url, scope_spans: Vec::new() }.encode_to_vec()
    }
}

/// `traces` traces of `spans` spans each: a root and its children, with attributes of several shapes.
fn traffic(traces: u64, spans: u64) -> Vec<u8> {
    let value = |key: &str, value: &str| KeyValue { key: key.into(), value: text(value) };
    let mut all = Vec::new();
    for trace in 0..traces {
        for span in 1..=spans {
            let id = trace * 1000 + span;
            all.push(Span {
                trace_id: u128::from(trace * 0x9E37_79B9_7F4A_7C15 + 1).to_be_bytes().to_vec(),
                span_id: id.to_be_bytes().to_vec(),
                parent_span_id: if span == 1 { Vec::new() } else { (trace * 1000 + 1).to_be_bytes().to_vec() },
                name: format!("GET /{}", span % 5),
                kind: 2,
                start_time_unix_nano: 1_700_000_000_000_000_000 + trace * 1000 + span,
                end_time_unix_nano: 1_700_000_000_000_000_000 + trace * 1000 + span + 500,
                attributes: vec![
                    value("route", &format!("/r/{}", (trace * spans + span) % 50)),
                    value("user.id", &format!("user-{id}-{trace}")),
                ],
                ..Default::default()
            });
        }
    }
    let resource = Some(Resource { attributes: vec![value("service.name", "shop")], ..Default::default() });
    let scope_spans = vec![ScopeSpans { spans: all, ..Default::default() }];
    ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { resource, scope_spans, ..Default::default() }] }
        .encode_to_vec()
}

#[test]
fn nothing_merges_to_nothing() {
    let empty = merge(&[], &PromotionPolicy::default()).unwrap();
    assert_eq!(empty.rows(), 0);
    assert_eq!(empty.records.num_columns(), schema::FIXED_FIELDS.len());
    assert!(window_partition(&empty, 1000).unwrap().is_empty());
    assert!(rebuild::traces(&[empty.records]).unwrap().resource_spans.is_empty());
}

#[test]
fn attributes_frequent_in_all_batches_together_get_a_column() {
    let batches: Vec<SpanBatch> = (0..4)
        .map(|n| {
            let spans = (1..=2u8).map(|id| Span {
                trace_id: vec![n + 1; 16],
                span_id: vec![id; 8],
                attributes: vec![KeyValue { key: "rare.here".into(), value: text("v") }],
                ..Default::default()
            });
            let scope_spans = vec![ScopeSpans { spans: spans.collect(), ..Default::default() }];
            let request =
                ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { scope_spans, ..Default::default() }] };
            batch_of(&[request.encode_to_vec()])
        })
        .collect();
    assert!(batches.iter().all(|batch| batch.records.column_by_name("span.rare.here").is_none()));
    let merged = merge(&batches, &PromotionPolicy::default()).unwrap();
    assert_eq!(merged.records.column_by_name("span.rare.here").unwrap().null_count(), 0);
    let list = merged.records.column_by_name(schema::SPAN_ATTRIBUTES).unwrap();
    assert_eq!(list.null_count(), 8, "what moved to a column left the list");
}

#[test]
fn dictionaries_hold_only_what_their_rows_use() {
    let batch = batch_of(&[traffic(100, 10)]);
    let parts = window_partition(&batch, 1000).unwrap();
    assert_eq!(parts.len(), 100);
    for (_, part) in &parts {
        let users = part.records.column_by_name("span.user.id").unwrap();
        let users = users.as_dictionary::<arrow::datatypes::Int32Type>();
        assert_eq!((users.values().len(), users.len()), (10, 10));
    }
}

#[test]
fn row_groups_end_between_traces() {
    let batch = batch_of(&[traffic(40, 10)]);
    let options = WriterOptions { row_group_rows: 35, page_rows: 12, packed_page_rows: 12, ..Default::default() };
    let block = encode(&batch, &options).unwrap();
    let sidecar = Sidecar::parse(&block.sidecar).unwrap();
    assert_eq!(sidecar.footer.num_row_groups(), 14, "three traces of ten rows fit 35 rows");
    for group in 0..14 {
        let reader = ParquetRecordBatchReaderBuilder::try_new(block.data.clone()).unwrap();
        let rows: Vec<_> = reader.with_row_groups(vec![group]).build().unwrap().collect::<Result<_, _>>().unwrap();
        let rows = concat_batches(&rows[0].schema(), &rows).unwrap();
        let ids = rows.column_by_name(schema::TRACE_ID).unwrap().as_fixed_size_binary();
        assert!(trace_ranges(ids).all(|trace| trace.len() == 10));
    }
    // A trace larger than a row group is not cut either.
    let block = encode(&batch, &WriterOptions { row_group_rows: 4, ..Default::default() }).unwrap();
    assert_eq!(Sidecar::parse(&block.sidecar).unwrap().footer.num_row_groups(), 40);
}

#[test]
fn columns_are_encoded_and_indexed_as_documented() {
    let batch = batch_of(&[traffic(400, 10)]);
    let block = encode(&batch, &WriterOptions { page_rows: 500, packed_page_rows: 500, ..Default::default() }).unwrap();
    let footer = Sidecar::parse(&block.sidecar).unwrap().footer;
    let group = footer.row_group(0);
    let column_index = footer.column_index().unwrap();
    let check = |name: &str, encoding: Encoding, dictionary: bool, statistics: bool, page_statistics: bool| {
        let at = group.columns().iter().position(|column| column.column_path().string() == name).expect(name);
        let column = group.column(at);
        let encodings: Vec<Encoding> = column.encodings().collect();
        assert!(encodings.contains(&encoding), "{name} {encodings:?}");
        assert_eq!(column.dictionary_page_offset().is_some(), dictionary, "{name}");
        assert_eq!(column.statistics().is_some(), statistics, "{name}");
        let indexed =
            !matches!(column_index[0][at], parquet::file::page_index::column_index::ColumnIndexMetaData::NONE);
        assert_eq!(indexed, page_statistics, "{name}");
    };
    check(schema::TRACE_ID, Encoding::PLAIN, false, true, true);
    check(schema::SPAN_ID, Encoding::PLAIN, false, false, false);
    check(schema::PARENT_SPAN_ID, Encoding::PLAIN, false, false, false);
    check(schema::START_TIME, Encoding::BYTE_STREAM_SPLIT, false, true, true);
    check(schema::DURATION, Encoding::BYTE_STREAM_SPLIT, false, true, true);
    check(schema::TRACE_START, Encoding::PLAIN, false, true, true);
    check(schema::NAME, Encoding::RLE_DICTIONARY, true, true, false);
    check(schema::NESTED_LEFT, Encoding::RLE_DICTIONARY, true, false, false);
    check("resource.service.name", Encoding::RLE_DICTIONARY, true, true, false);
    check("span.route", Encoding::RLE_DICTIONARY, true, true, false);
    check("span.user.id", Encoding::PLAIN, false, true, false);
    assert_eq!(group.sorting_columns().map(Vec::len), Some(1));
    assert!(footer.offset_index().unwrap()[0][0].page_locations().len() > 1);
    assert!(
        group.columns().iter().all(|column| !column.column_path().string().starts_with("links")),
        "empty columns stay out"
    );
}

#[test]
fn the_sidecar_tells_what_the_block_holds() {
    let batch = batch_of(&[traffic(300, 10)]);
    let block = encode(&batch, &WriterOptions::default()).unwrap();
    let sidecar = Sidecar::parse(&block.sidecar).unwrap();
    assert_eq!((block.stats.rows, block.stats.traces), (3000, 300));
    assert_eq!(block.stats.min_start_unix_nano, 1_700_000_000_000_000_001);
    assert_eq!(block.stats.max_end_unix_nano, 1_700_000_000_000_000_000 + 299 * 1000 + 10 + 500);
    assert_eq!(block.stats.window_start_unix_nano, 1_700_000_000_000_000_000 / 3_600_000_000_000 * 3_600_000_000_000);
    assert_eq!(block.stats.size_bytes, block.data.len() as u64);
    let duration = block.stats.columns.iter().find(|column| column.name == schema::DURATION).unwrap();
    assert_eq!((duration.min.clone(), duration.max.clone()), (Some(StatValue::Long(500)), Some(StatValue::Long(500))));
    let service = block.stats.columns.iter().find(|column| column.name == "resource.service.name").unwrap();
    assert_eq!((service.delta_type.as_str(), service.min.clone()), ("string", Some(StatValue::String("shop".into()))));

    assert_eq!(sidecar.catalogue.values("resource.service.name"), Some(&["shop".to_owned()][..]));
    assert_eq!(sidecar.catalogue.values(schema::NAME).map(<[_]>::len), Some(5));
    assert_eq!(sidecar.catalogue.values("span.route").map(<[_]>::len), Some(50));
    assert_eq!(sidecar.catalogue.values("span.user.id"), None, "too many to list");
    assert_eq!(
        sidecar.catalogue.get(AttributeScope::Span, "user.id").unwrap().promoted,
        [(AttributeType::String as u8, 3000)]
    );

    for (number, chunk) in block.data.chunks(CHUNK_BYTES).enumerate() {
        assert!(sidecar.chunk_is_intact(number, chunk));
        let mut bad = chunk.to_vec();
        bad[chunk.len() / 2] ^= 4;
        assert!(!sidecar.chunk_is_intact(number, &bad));
    }
    assert!(!sidecar.chunk_is_intact(sidecar.chunk_crcs.len(), b""));
}

#[test]
fn every_damage_to_a_sidecar_is_found() {
    let block = encode(&batch_of(&[traffic(60, 5)]), &WriterOptions::default()).unwrap();
    let good = block.sidecar.to_vec();
    assert!(Sidecar::parse(&good).is_ok());
    // Every bit of the header, and bits all over the rest.
    let header = 0..8 * 200;
    let spread = (0..20_000).map(|n| n * 7919 % (good.len() * 8));
    for bit in header.chain(spread) {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Sidecar::parse(&bad).is_err(), "flip of bit {bit}");
    }
    for length in 0..good.len() {
        assert!(Sidecar::parse(&good[..length]).is_err(), "cut to {length} bytes");
    }
    assert!(Sidecar::parse(&[&good[..], b"x"].concat()).is_err());
    assert!(Sidecar::parse(&vec![0xff; 4096]).is_err());
}

#[test]
fn a_sidecar_of_a_later_version_is_told_from_a_damaged_one() {
    let block = encode(&batch_of(&[traffic(2, 2)]), &WriterOptions::default()).unwrap();
    let mut later = block.sidecar.to_vec();
    later[8] = 2;
    let sections = u32::from_le_bytes(later[12..16].try_into().unwrap()) as usize;
    let header = 16 + 16 * sections;
    let crc = crc_fast::crc32_iscsi(&later[..header]);
    later[header..header + 4].copy_from_slice(&crc.to_le_bytes());
    assert!(matches!(Sidecar::parse(&later), Err(BlockError::SidecarVersion { found: 2, known: 1 })));
}

#[test]
fn a_block_can_be_written_in_steps() {
    let batch = batch_of(&[traffic(30, 4)]);
    let id = Ulid::from_parts(1, 2);
    let mut at_once = BlockWriter::new(id, batch.records.schema(), small_blocks());
    at_once.write(&batch.records).unwrap();
    let at_once = at_once.finish().unwrap();
    let mut stepwise = BlockWriter::new(id, batch.records.schema(), small_blocks());
    for trace in (0..120).step_by(4) {
        stepwise.write(&batch.records.slice(trace, 4)).unwrap();
    }
    assert!(stepwise.size_bytes() > 0);
    let stepwise = stepwise.finish().unwrap();
    assert_eq!(stepwise.stats.rows, 120);
    assert_eq!(stepwise.stats.traces, 30);
    check_same_rows(&batch.records, &read(&stepwise));
    let groups = |block: &EncodedBlock| Sidecar::parse(&block.sidecar).unwrap().footer.num_row_groups();
    assert_eq!(groups(&stepwise), groups(&at_once));
}

#[test]
fn a_writer_refuses_what_would_break_the_block() {
    let batch = batch_of(&[traffic(3, 2)]);
    let writer = || BlockWriter::new(Ulid::from_parts(1, 2), batch.records.schema(), WriterOptions::default());
    assert!(matches!(writer().finish(), Err(BlockError::Empty)));

    let mut backwards = writer();
    backwards.write(&batch.records.slice(2, 2)).unwrap();
    assert!(matches!(backwards.write(&batch.records.slice(0, 2)), Err(BlockError::Order(_))));
    let mut again = writer();
    again.write(&batch.records.slice(0, 1)).unwrap();
    assert!(matches!(again.write(&batch.records.slice(1, 1)), Err(BlockError::Order(_))), "a trace comes whole");

    // A column the block does not have: refused with values, left out without.
    let routes = AttributeColumn { scope: AttributeScope::Span, key: "route".into(), kind: AttributeType::String };
    let wider = merge_as(std::slice::from_ref(&batch), &Promotion::new([routes])).unwrap();
    let mut narrow =
        BlockWriter::new(Ulid::from_parts(1, 2), schema_of(&Promotion::default()), WriterOptions::default());
    assert!(matches!(narrow.write(&wider.records), Err(BlockError::Column { .. })));
    let empty = wider.records.columns().iter().zip(wider.records.schema_ref().fields());
    let empty: Vec<ArrayRef> = empty
        .map(|(array, field)| match field.name().as_str() {
            "span.route" => new_null_array(field.data_type(), array.len()),
            _ => array.clone(),
        })
        .collect();
    narrow.write(&RecordBatch::try_new(wider.records.schema(), empty).unwrap()).unwrap();
    assert_eq!(narrow.finish().unwrap().stats.rows, 6);
}
