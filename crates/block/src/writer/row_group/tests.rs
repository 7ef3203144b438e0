//! What row groups hold is read back, whatever encodings their values choose.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, DictionaryArray, FixedSizeBinaryArray, Float64Array, Int32Array, Int64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::Encoding;
use parquet::file::metadata::PageIndexPolicy;
use parquet::file::page_index::column_index::ColumnIndexMetaData;

use super::*;
use crate::{schema, writer::WriterOptions};

type Texts = Vec<Option<String>>;
type Numbers = Vec<Option<i64>>;

fn batch(texts: &Texts, numbers: &Numbers) -> RecordBatch {
    let fields = [
        Field::new(schema::NAME, schema::dictionary(), false),
        Field::new(schema::KIND, DataType::Int32, false),
        Field::new("span.text", schema::dictionary(), true),
        Field::new("span.number:long", DataType::Int64, true),
    ];
    let texts: DictionaryArray<Int32Type> = texts.iter().map(Option::as_deref).collect();
    let rows = texts.len();
    let names: DictionaryArray<Int32Type> = (0..rows).map(|row| ["a", "b"][row % 2]).collect();
    let kinds = Int32Array::from_iter_values((0..rows).map(|row| row as i32 % 6));
    let numbers = Int64Array::from(numbers.clone());
    let columns: Vec<ArrayRef> = vec![Arc::new(names), Arc::new(kinds), Arc::new(texts), Arc::new(numbers)];
    RecordBatch::try_new(Arc::new(Schema::new(fields.to_vec())), columns).unwrap()
}

/// One row group of several batches, each with a dictionary of its own.
fn write(batches: &[RecordBatch], level: i32, page_rows: usize) -> Bytes {
    let written = WriterOptions { zstd_level: level, page_rows, packed_page_rows: page_rows, ..Default::default() };
    let properties = columns::properties(batches[0].schema_ref(), &written).unwrap().build();
    let options = ArrowWriterOptions::new().with_properties(properties);
    let arrow = ArrowWriter::try_new_with_options(Vec::new(), batches[0].schema(), options).unwrap();
    let (mut file, factory) = arrow.into_serialized_writer().unwrap();
    let mut row_group = RowGroup::new(&file, &factory, batches[0].schema()).unwrap();
    batches.iter().for_each(|batch| row_group.write(batch).unwrap());
    row_group.finish(&mut file, &mut Codec::new(level).unwrap(), &written).unwrap();
    file.into_inner().unwrap().into()
}

/// What was written comes back, read as a whole and page by page. Returns the metadata.
fn check(parts: &[(Texts, Numbers)], level: i32, page_rows: usize) -> ArrowReaderMetadata {
    let batches: Vec<RecordBatch> = parts.iter().map(|(texts, numbers)| batch(texts, numbers)).collect();
    let file = write(&batches, level, page_rows);
    let rows = batches.iter().map(RecordBatch::num_rows).sum();
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
    let metadata = ArrowReaderMetadata::load(&file, options).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata.clone());
    let read: Vec<RecordBatch> = reader.with_batch_size(rows).build().unwrap().map(Result::unwrap).collect();
    let [read] = read.as_slice() else { panic!("one batch of all rows") };
    let wanted_texts: StringArray = parts.iter().flat_map(|(texts, _)| texts.clone()).collect();
    assert_eq!(cast(read.column(2), &DataType::Utf8).unwrap().as_string::<i32>(), &wanted_texts);
    let wanted_numbers: Int64Array = parts.iter().flat_map(|(_, numbers)| numbers.clone()).collect();
    assert_eq!(read.column(3).as_primitive::<Int64Type>(), &wanted_numbers);
    for at in [0, 1] {
        let wanted: Vec<ArrayRef> = batches.iter().map(|b| cast(b.column(at), &DataType::Utf8).unwrap()).collect();
        let wanted: Vec<&dyn Array> = wanted.iter().map(AsRef::as_ref).collect();
        let wanted = arrow::compute::concat(&wanted).unwrap();
        assert_eq!(&cast(read.column(at), &DataType::Utf8).unwrap(), &wanted);
    }
    metadata
}

fn encodings(metadata: &ArrowReaderMetadata, column: usize) -> Vec<Encoding> {
    metadata.metadata().row_group(0).column(column).encodings().collect()
}

fn some(texts: impl Iterator<Item = String>) -> Texts {
    texts.map(Some).collect()
}

#[test]
fn dictionaries_of_every_width_come_back_from_several_batches() {
    for distinct in [1, 2, 3, 5, 17, 200, 300] {
        let part = |seed: usize| {
            let text = |row: usize| (!(row + seed).is_multiple_of(7)).then(|| format!("text {}", row * (seed + 1) % distinct));
            let number = |row: usize| (!(row + seed).is_multiple_of(5)).then_some((row * (seed + 3) % distinct) as i64 - 7);
            ((0..1003).map(text).collect::<Texts>(), (0..1003).map(number).collect::<Numbers>())
        };
        for (level, page_rows) in [(0, 100), (1, 1000), (9, 10_000)] {
            let metadata = check(&[part(0), part(1), part(2)], level, page_rows);
            for column in 0..4 {
                assert!(encodings(&metadata, column).contains(&Encoding::RLE_DICTIONARY));
            }
        }
    }
}

#[test]
fn pages_and_chunks_without_values_come_back() {
    let unset: (Texts, Numbers) = (vec![None; 250], vec![None; 250]);
    let set: (Texts, Numbers) = (some((0..250).map(|_| "x".into())), (0..250).map(|_| Some(1 << 40)).collect());
    check(&[unset.clone()], 1, 100);
    check(&[unset.clone(), set.clone(), unset.clone(), set], 1, 100);
}

#[test]
fn a_dictionary_that_grows_too_large_gives_way_to_plain_text() {
    let long = |row: usize| format!("{row:05} {}", "x".repeat(500));
    // 2,000 texts of 500 bytes fit; 3,000 do not.
    let texts = some((0..9_000).map(|row| long(row % 3_000)));
    let metadata = check(&[(texts, vec![None; 9_000])], 1, 1_000);
    assert!(encodings(&metadata, 2).contains(&Encoding::RLE_DICTIONARY));
    assert!(encodings(&metadata, 2).contains(&Encoding::PLAIN));
    let distinct = some((0..5_000).map(long));
    let metadata = check(&[(distinct, vec![None; 5_000])], 1, 4_000);
    assert!(!encodings(&metadata, 2).contains(&Encoding::RLE_DICTIONARY), "no dictionary that does not pay");
    let pages = metadata.metadata().offset_index().unwrap()[0][2].page_locations().len();
    assert!(pages > 2, "pages of plain text end by bytes too");
}

#[test]
fn numbers_that_do_not_repeat_are_left_to_the_parquet_crate() {
    let numbers: Numbers = (0..5_000i64).map(|row| (row % 3 > 0).then_some(row.wrapping_mul(0x1E37_79B9_7F4A_7C15))).collect();
    let metadata = check(&[(vec![None; 5_000], numbers)], 1, 1_000);
    assert!(encodings(&metadata, 3).contains(&Encoding::DELTA_BINARY_PACKED));
    let extremes: Numbers = [i64::MIN, i64::MAX, 0, -1].into_iter().cycle().take(400).map(Some).collect();
    let metadata = check(&[(vec![None; 400], extremes)], 1, 100);
    assert!(encodings(&metadata, 3).contains(&Encoding::RLE_DICTIONARY));
}

#[test]
fn statistics_bound_the_values() {
    let last = "\u{10ffff}".repeat(40);
    let texts: Texts = [Some(format!("é{}", "z".repeat(99))), None, Some("b".repeat(70)), Some("c".into())].into();
    let metadata = check(&[(texts.into_iter().cycle().take(80).collect(), [Some(-3), Some(9), None, Some(4)].repeat(20))], 1, 40);
    let group = metadata.metadata().row_group(0);
    let bounds = |column: usize| {
        let statistics = group.column(column).statistics().unwrap();
        let text = |bytes: Option<&[u8]>| std::str::from_utf8(bytes.unwrap()).unwrap().to_owned();
        (text(statistics.min_bytes_opt()), text(statistics.max_bytes_opt()), statistics.null_count_opt())
    };
    assert_eq!(bounds(0), ("a".into(), "b".into(), Some(0)));
    let above = format!("é{}{{", "z".repeat(61));
    assert_eq!(bounds(2), ("b".repeat(64), above, Some(20)));
    assert!(!group.column(2).statistics().unwrap().min_is_exact());
    for column in 0..4 {
        let statistics = group.column(column).statistics().unwrap();
        assert!(!statistics.is_min_max_deprecated(), "other readers do not look at deprecated bounds");
    }
    let ColumnIndexMetaData::INT64(index) = &metadata.metadata().column_index().unwrap()[0][3] else {
        panic!("long attributes have an index of pages")
    };
    assert_eq!((index.num_pages(), index.min_value(0), index.max_value(1)), (2, Some(&-3), Some(&9)));
    let metadata = check(&[(vec![Some(last.clone()); 80], vec![None; 80])], 1, 40);
    let statistics = metadata.metadata().row_group(0).column(2).statistics().unwrap();
    assert_eq!(statistics.max_bytes_opt(), Some(last.as_bytes()), "no shorter text is above it");
}

#[test]
fn large_dictionaries_come_back_whatever_their_order() {
    // Some texts on most rows, and many on few, which stand in order behind them.
    let text = |row: usize| match row % 3 {
        0 => format!("/often/{}", row % 7),
        _ => format!("/seldom/{}", row * 7_919 % 1_200),
    };
    for level in [1, 9] {
        let parts = [0, 3_000].map(|first| (some((first..first + 3_000).map(text)), vec![Some(1); 3_000]));
        let metadata = check(&parts, level, 1_000);
        assert!(metadata.metadata().row_group(0).column(2).dictionary_page_offset().is_some());
    }
}

#[test]
fn values_of_eight_bytes_come_back_with_the_bounds_of_each_page() {
    let fields = [
        Field::new(schema::PARENT_SPAN_ID, DataType::FixedSizeBinary(8), true),
        Field::new(schema::START_TIME, DataType::Int64, false),
        Field::new("span.double:double", DataType::Float64, true),
    ];
    let schema = Arc::new(Schema::new(fields.to_vec()));
    // Pages of 1,000 rows: bounds, none because nothing is set, and zeros among what is not a number.
    let double = |row: usize| match row / 1_000 {
        0 => Some(row as f64 - 500.5),
        1 => None,
        _ => [Some(-0.0), Some(f64::NAN), None, Some(0.0), Some(-f64::NAN)][row % 5],
    };
    let part = |rows: std::ops::Range<usize>| {
        let ids = rows.clone().map(|row| (row % 9 > 0).then(|| (row as u64 / 4).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(ids, 8).unwrap()),
            Arc::new(Int64Array::from_iter_values(rows.clone().map(|row| i64::MAX - (row * row) as i64))),
            Arc::new(Float64Array::from_iter(rows.map(double))),
        ];
        RecordBatch::try_new(schema.clone(), columns).unwrap()
    };
    let parts = [part(0..1_700), part(1_700..2_500)];
    let whole = arrow::compute::concat_batches(&schema, &parts).unwrap();
    for level in [0, 1, 15] {
        let file = write(&parts, level, 1_000);
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
        let metadata = ArrowReaderMetadata::load(&file, options).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata.clone()).with_batch_size(2_500);
        let read: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
        let bits = |batch: &RecordBatch| -> Vec<Option<u64>> {
            batch.column(2).as_primitive::<arrow::datatypes::Float64Type>().iter().map(|n| n.map(f64::to_bits)).collect()
        };
        assert_eq!((read[0].column(0), read[0].column(1)), (whole.column(0), whole.column(1)));
        assert_eq!(bits(&read[0]), bits(&whole));
        assert!(encodings(&metadata, 0).contains(&Encoding::PLAIN));
        assert!(encodings(&metadata, 1).contains(&Encoding::BYTE_STREAM_SPLIT));
        let group = metadata.metadata().row_group(0);
        let index = &metadata.metadata().column_index().unwrap()[0];
        assert!(group.column(0).statistics().is_none() && matches!(index[0], ColumnIndexMetaData::NONE));
        let ColumnIndexMetaData::INT64(starts) = &index[1] else { panic!("starts have an index of pages") };
        assert_eq!((starts.min_value(1), starts.max_value(1)), (Some(&(i64::MAX - 1_999 * 1_999)), Some(&(i64::MAX - 1_000_000))));
        let ColumnIndexMetaData::DOUBLE(doubles) = &index[2] else { panic!("doubles have an index of pages") };
        assert_eq!((doubles.min_value(0), doubles.max_value(0)), (Some(&-500.5), Some(&498.5)));
        assert!(doubles.is_null_page(1) && !doubles.is_null_page(2));
        let zeros = (doubles.min_value(2).unwrap(), doubles.max_value(2).unwrap());
        assert!(zeros.0.is_sign_negative() && zeros.1.is_sign_positive());
        let bounds = group.column(2).statistics().unwrap();
        assert_eq!((bounds.null_count_opt(), bounds.min_is_exact()), (Some(1_100), true));
    }
}

#[test]
fn a_page_of_nothing_but_what_is_no_number_has_no_bounds() {
    let schema = Arc::new(Schema::new(vec![Field::new("span.double:double", DataType::Float64, true)]));
    let nans = RecordBatch::try_new(schema, vec![Arc::new(Float64Array::from(vec![f64::NAN; 50]))]).unwrap();
    let file = write(&[nans], 1, 20);
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
    let metadata = ArrowReaderMetadata::load(&file, options).unwrap();
    assert!(metadata.metadata().row_group(0).column(0).statistics().unwrap().min_bytes_opt().is_none());
    let index = metadata.metadata().column_index().map(|index| &index[0][0]);
    assert!(matches!(index, None | Some(ColumnIndexMetaData::NONE)));
}
