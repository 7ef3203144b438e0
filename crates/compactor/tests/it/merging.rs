//! Merging as streams gives what merging in memory gives, whatever was promoted, however the rows are cut.

use std::sync::Arc;

use arrow::{
    array::{Array, AsArray, RecordBatch},
    compute::concat_batches,
};
use block::{
    batch::SpanBatch,
    merge::merge,
    promotion::{Promotion, PromotionPolicy},
    rebuild::traces,
    schema::FIXED_FIELDS,
    sidecar::Sidecar,
    writer::{EncodedBlock, WriterOptions},
};
use bytes::Bytes;
use compactor::{
    input::Input,
    stream::{MergeStream, Step},
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;
use prost::Message;
use ulid::Ulid;

use crate::{
    fixture::{batch, encode},
    spans,
};

fn rows_of(block: &EncodedBlock) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(block.data.clone()).unwrap();
    let schema = reader.schema().clone();
    let batches: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

/// Runs a merge to its end; the bytes come from the blocks themselves.
fn streamed(blocks: &[EncodedBlock], promotion: Promotion, options: WriterOptions, batch_bytes: u64) -> EncodedBlock {
    let inputs = blocks.iter().map(|block| {
        let sidecar = Sidecar::parse(&block.sidecar).unwrap();
        Input::new(&sidecar.footer, None, batch_bytes).unwrap()
    });
    let mut merge = MergeStream::new(Ulid::new(), inputs.collect(), promotion, options, None);
    loop {
        match merge.advance().unwrap() {
            Step::Bring { input, wanted } => {
                let range = |r: &std::ops::Range<u64>| blocks[input].data.slice(r.start as usize..r.end as usize);
                let bytes: Vec<Bytes> = wanted.ranges.iter().map(range).collect();
                merge.bring(input, &wanted, bytes).unwrap();
            }
            Step::End => return merge.finish().unwrap().block.expect("there are rows"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn a_merge_of_streams_is_a_merge_in_memory(
        seed in 0u64..1_000_000,
        cuts in prop::collection::vec(0.0f64..1.0, 0..6),
        rows_min in prop::collection::vec(prop::sample::select(vec![1u64, 4, 1_000_000]), 7),
        row_group_rows in prop::sample::select(vec![1usize, 7, 64, 100_000]),
        batch_bytes in prop::sample::select(vec![0u64, 100_000, 10_000_000]),
    ) {
        let rows = spans::rows(seed);
        let mut ends: Vec<usize> = cuts.iter().map(|cut| (cut * rows.len() as f64) as usize).collect();
        ends.push(rows.len());
        ends.sort_unstable();
        let mut from = 0;
        let mut parts: Vec<SpanBatch> = vec![];
        for (end, rows_min) in ends.into_iter().zip(&rows_min) {
            if from < end {
                let policy = PromotionPolicy { rows_min: *rows_min, ..PromotionPolicy::default() };
                parts.push(merge(&[batch(&rows[from..end])], &policy).unwrap());
            }
            from = end;
        }
        // Of one window, whatever the times are.
        let options = WriterOptions { row_group_rows, page_rows: 5, packed_page_rows: 5, window_nano: i64::MAX, ..WriterOptions::default() };
        let blocks: Vec<EncodedBlock> =
            parts.iter().zip(1..).map(|(part, n)| encode(Ulid::from_parts(n, 0), part, &options)).collect();

        let expected = merge(&parts, &PromotionPolicy::default()).unwrap();
        let promotion = PromotionPolicy::default().decide(
            expected.rows() as u64,
            block::merge::attribute_counts(&expected.records).unwrap(),
        );
        let merged = streamed(&blocks, promotion, options, batch_bytes);
        let found = rows_of(&merged);

        prop_assert_eq!(merged.stats.rows, expected.rows() as u64);
        // Encoded, as NaN is not equal to itself.
        let sent = |records: &RecordBatch| traces(std::slice::from_ref(records)).unwrap();
        prop_assert!(sent(&found).encode_to_vec() == sent(&expected.records).encode_to_vec(), "the traces differ");
        for field in FIXED_FIELDS.iter().filter(|field| !field.data_type().is_nested()) {
            let expected = expected.records.column_by_name(field.name()).unwrap();
            match found.column_by_name(field.name()) {
                // What a file does not have is null.
                None => prop_assert_eq!(expected.logical_null_count(), expected.len(), "{}", field.name()),
                Some(found) => {
                    let plain = |array: &arrow::array::ArrayRef| match array.as_any_dictionary_opt() {
                        Some(_) => arrow::compute::cast(array, &arrow::datatypes::DataType::Utf8).unwrap(),
                        None => Arc::clone(array),
                    };
                    prop_assert_eq!(&plain(found), &plain(expected), "{}", field.name());
                }
            }
        }
        // The columns are those that the counts call for.
        let columns = |records: &RecordBatch| -> Vec<String> {
            let named = records.schema_ref().fields().iter().map(|f| f.name().clone());
            named.filter(|name| block::promotion::AttributeColumn::parse(name).is_some()).collect()
        };
        prop_assert_eq!(columns(&found), columns(&expected.records));
        // The sidecar is the one that the data file alone would give.
        prop_assert_eq!(block::sidecar::rebuild_from(&merged.data).unwrap(), merged.sidecar);
    }
}
