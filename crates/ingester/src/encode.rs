//! From live spans to blocks: one for each window in which traces begin, so late spans go to a block of their own time.
//!
//! The batches are sorted by trace id, so ranges of ids can be cut out of all of them, merged, and written, one range after
//! the other: beside the batches there is in memory what one range takes, and what is written so far, compressed. A window
//! waits for its writer until it has much, or until the end, when it is known which columns it needs.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use arrow::{
    array::{Array, AsArray, FixedSizeBinaryArray, RecordBatch},
    datatypes::{FieldRef, Schema, SchemaRef},
};
use block::{
    BlockError,
    batch::SpanBatch,
    merge::{attribute_counts, merge_as, schema_of, window_partition},
    promotion::{AttributeColumn, Promotion, PromotionPolicy},
    schema,
    writer::{BlockWriter, EncodedBlock, WriterOptions},
};
use model::{AttributeScope, AttributeType};
use ulid::Ulid;

/// Ids looked at per range to find where to cut: ranges are equal to within a few percent.
const SAMPLES_PER_RANGE: usize = 64;

/// Makes the blocks of one tenant's part of a generation, from about `range_bytes` of live spans at a time. `charge` learns
/// how many bytes it takes beside the batches. Takes long: not for an async thread.
pub fn blocks(batches: &[SpanBatch], range_bytes: usize, mut charge: impl FnMut(usize)) -> Result<Vec<EncodedBlock>, BlockError> {
    let options = WriterOptions::default();
    let promotion = promotion(batches, &PromotionPolicy::default())?;
    let full = full_schema(batches, &promotion);
    let mut windows: BTreeMap<i64, Window> = BTreeMap::new();
    for range in ranges(batches, range_bytes)? {
        let merged = merge_as(&range, &promotion)?;
        let merged_bytes = merged.records.get_array_memory_size();
        for (start, part) in window_partition(&merged, options.window_nano)? {
            windows.entry(start).or_default().add(part.records)?;
        }
        drop(merged);
        while windows.values().map(|window| window.waiting_bytes).sum::<usize>() > range_bytes {
            let largest = windows.values_mut().max_by_key(|window| window.waiting_bytes).expect("their sum is not 0");
            largest.begin(full.clone(), &options)?;
        }
        charge(2 * merged_bytes + windows.values().map(Window::bytes).sum::<usize>());
    }
    windows.into_values().map(|window| window.finish(&options)).collect()
}

/// The traces of one window.
#[derive(Default)]
struct Window {
    waiting: Vec<RecordBatch>,
    waiting_bytes: usize,
    writer: Option<BlockWriter>,
}

impl Window {
    fn add(&mut self, records: RecordBatch) -> Result<(), BlockError> {
        match &mut self.writer {
            Some(writer) => writer.write(&records),
            None => {
                self.waiting_bytes += records.get_array_memory_size();
                self.waiting.push(records);
                Ok(())
            }
        }
    }

    /// Writes what waits, and from now on what comes.
    fn begin(&mut self, schema: SchemaRef, options: &WriterOptions) -> Result<(), BlockError> {
        let mut writer = BlockWriter::new(Ulid::new(), schema, options.clone());
        for records in std::mem::take(&mut self.waiting) {
            writer.write(&records)?;
        }
        (self.waiting_bytes, self.writer) = (0, Some(writer));
        Ok(())
    }

    fn finish(mut self, options: &WriterOptions) -> Result<EncodedBlock, BlockError> {
        if self.writer.is_none() {
            let schema = narrowed(&self.waiting);
            self.begin(schema, options)?;
        }
        self.writer.expect("begun above").finish()
    }

    /// A file grows by moving, so it may be there twice.
    fn bytes(&self) -> usize {
        self.waiting_bytes + 2 * self.writer.as_ref().map_or(0, BlockWriter::size_bytes)
    }
}

/// The columns of any of the batches that have a value.
fn narrowed(batches: &[RecordBatch]) -> SchemaRef {
    let mut fields: Vec<FieldRef> = Vec::new();
    // All have the fixed columns, and attribute columns sorted by name: those of one may be lacking in another.
    let mut attributes: BTreeMap<String, FieldRef> = BTreeMap::new();
    for (number, batch) in batches.iter().enumerate() {
        for field in batch.schema_ref().fields() {
            let set = |batch: &RecordBatch| batch.column_by_name(field.name()).is_some_and(|c| c.null_count() < c.len());
            if field.is_nullable() && !batches.iter().any(set) {
                continue;
            }
            if AttributeColumn::parse(field.name()).is_some() {
                attributes.insert(field.name().clone(), field.clone());
            } else if number == 0 {
                fields.push(field.clone());
            }
        }
    }
    Arc::new(Schema::new(fields.into_iter().chain(attributes.into_values()).collect::<Vec<_>>()))
}

/// The columns that any of the spans may need once these attributes are promoted.
fn full_schema(batches: &[SpanBatch], promotion: &Promotion) -> SchemaRef {
    let set = |name: &str| batches.iter().any(|batch| batch.records.column_by_name(name).is_some_and(|c| c.null_count() < c.len()));
    let promoted = |name: &str| promotion.iter().any(|(column, _)| column == name);
    // Values of columns that are not promoted any more move into lists.
    let demotes = batches.iter().flat_map(|batch| batch.records.schema_ref().fields()).any(|field| {
        AttributeColumn::parse(field.name()).is_some() && !promoted(field.name())
    });
    let is_list = |name: &str| AttributeScope::ALL.into_iter().any(|scope| schema::kv_column(scope) == Some(name));
    let fields = schema_of(promotion);
    let fields = fields.fields().iter().filter(|field| {
        let name = field.name().as_str();
        !field.is_nullable() || promoted(name) || set(name) || (demotes && is_list(name)) || block::whole_trace::COLUMNS.contains(&name)
    });
    Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>()))
}

/// Chooses the attribute columns of all blocks. Catalogues say how often a key is in a list, but not with which types:
/// where that could make a difference, the lists are read.
fn promotion(batches: &[SpanBatch], policy: &PromotionPolicy) -> Result<Promotion, BlockError> {
    let rows: usize = batches.iter().map(SpanBatch::rows).sum();
    let least = policy.rows_min.max(rows as u64 / policy.rows_per_value_max.max(1));
    let mut sums: HashMap<(AttributeScope, &str), u64> = HashMap::new();
    for (scope, key, entry) in batches.iter().flat_map(|batch| batch.catalogue.iter()) {
        *sums.entry((scope, key)).or_default() += entry.count();
    }
    let mut counts: HashMap<AttributeColumn, u64> = HashMap::new();
    for batch in batches {
        let doubtful = batch.catalogue.iter().any(|(scope, key, entry)| {
            let often = sums.get(&(scope, key)).is_some_and(|sum| *sum >= least);
            entry.in_list > 0 && often && schema::kv_column(scope).is_some() && schema::promotable(key)
        });
        if doubtful {
            for (column, set) in attribute_counts(&batch.records)? {
                *counts.entry(column).or_default() += set;
            }
            continue;
        }
        for (scope, key, entry) in batch.catalogue.iter() {
            for (code, set) in &entry.promoted {
                if let Some(kind) = AttributeType::ALL.get(usize::from(*code)) {
                    *counts.entry(AttributeColumn { scope, key: key.to_owned(), kind: *kind }).or_default() += set;
                }
            }
        }
    }
    Ok(policy.decide(rows as u64, counts))
}

/// The batches cut into ranges of trace ids of about `range_bytes` each, in the order of ids. A trace is in one range.
fn ranges(batches: &[SpanBatch], range_bytes: usize) -> Result<Vec<Vec<SpanBatch>>, BlockError> {
    let bytes: usize = batches.iter().map(|batch| batch.records.get_array_memory_size()).sum();
    let count = bytes.div_ceil(range_bytes.max(1)).max(1);
    if count == 1 {
        return Ok(vec![batches.to_vec()]);
    }
    let ids: Vec<&FixedSizeBinaryArray> = batches.iter().map(trace_ids).collect::<Result<_, _>>()?;
    let rows: usize = ids.iter().map(|ids| ids.len()).sum();
    let step = (rows / (count * SAMPLES_PER_RANGE)).max(1);
    let mut samples: Vec<&[u8]> = ids.iter().flat_map(|ids| (0..ids.len()).step_by(step).map(|row| ids.value(row))).collect();
    samples.sort_unstable();
    let mut bounds: Vec<&[u8]> = (1..count).map(|number| samples[number * samples.len() / count]).collect();
    bounds.dedup();
    let mut begins = vec![0; batches.len()];
    let mut ranges = Vec::with_capacity(bounds.len() + 1);
    for bound in bounds.into_iter().map(Some).chain([None]) {
        let mut range = Vec::with_capacity(batches.len());
        for ((batch, ids), begin) in batches.iter().zip(&ids).zip(&mut begins) {
            let end = bound.map_or(ids.len(), |bound| first_at_or_above(ids, *begin, bound));
            if end > *begin {
                let records = batch.records.slice(*begin, end - *begin);
                range.push(SpanBatch { records, catalogue: batch.catalogue.clone() });
            }
            *begin = end;
        }
        if !range.is_empty() {
            ranges.push(range);
        }
    }
    Ok(ranges)
}

/// The first row from `begin` on whose id is not below `bound`.
fn first_at_or_above(ids: &FixedSizeBinaryArray, begin: usize, bound: &[u8]) -> usize {
    let (mut low, mut high) = (begin, ids.len());
    while low < high {
        let middle = low + (high - low) / 2;
        match ids.value(middle) < bound {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    low
}

fn trace_ids(batch: &SpanBatch) -> Result<&FixedSizeBinaryArray, BlockError> {
    let column = batch.records.column_by_name(schema::TRACE_ID).and_then(|array| array.as_fixed_size_binary_opt());
    let problem = "is missing or not of 16 bytes";
    column.ok_or_else(|| BlockError::Column { column: schema::TRACE_ID.to_owned(), problem })
}

#[cfg(test)]
mod tests {
    use arrow::{compute::concat_batches, util::pretty::pretty_format_batches};
    use block::builder::{AttributeLimits, SpanBatchBuilder};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use prost::Message;
    use proto::otlp::{
        collector::trace::v1::ExportTraceServiceRequest,
        common::v1::{AnyValue, KeyValue, any_value::Value},
        trace::v1::{ResourceSpans, ScopeSpans, Span},
    };

    use super::*;

    const HOUR: u64 = 3_600_000_000_000;

    /// Spans of 300 traces over several runs, some sent twice; every 50th trace began two hours before. The keys of
    /// attributes are frequent, rare, or have two types.
    fn runs() -> Vec<SpanBatch> {
        let run = |run: u64| {
            // Run 3 sends the spans of run 2 again, with other attributes.
            let sent = if run == 3 { 2 } else { run };
            let spans = (0..400u64).map(|number| {
                let trace = (number * 7 + sent * 3) % 300;
                let late = if trace % 50 == 0 { 2 * HOUR } else { 0 };
                let value = if run % 2 == 0 { Value::IntValue(number as i64) } else { Value::StringValue(format!("v{number}")) };
                let mut attributes = vec![attribute("mixed", value), attribute("route", Value::StringValue(format!("/r{}", trace % 5)))];
                if number == 9 {
                    attributes.push(attribute(&format!("rare {run}"), Value::BoolValue(true)));
                }
                Span {
                    trace_id: (u128::from(trace).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835) | 1).to_be_bytes().to_vec(),
                    span_id: (sent * 1000 + number + 1).to_be_bytes().to_vec(),
                    name: format!("operation {}", number % 11),
                    start_time_unix_nano: 500_000 * HOUR + number - late,
                    end_time_unix_nano: 500_000 * HOUR + number - late + 5,
                    attributes,
                    ..Span::default()
                }
            });
            let scope_spans = vec![ScopeSpans { spans: spans.collect(), ..ScopeSpans::default() }];
            let request = ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }] };
            let mut builder = SpanBatchBuilder::new(AttributeLimits::default());
            builder.append_request(&request.encode_to_vec(), |_| panic!("one batch")).unwrap();
            builder.finish()
        };
        (0..6).map(run).collect()
    }

    fn attribute(key: &str, value: Value) -> KeyValue {
        KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
    }

    /// Everything that the blocks hold, as text, by window.
    fn contents(blocks: &[EncodedBlock]) -> Vec<(i64, u64, String)> {
        let read = |block: &EncodedBlock| {
            let reader = ParquetRecordBatchReaderBuilder::try_new(block.data.clone()).unwrap().build().unwrap();
            let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
            let all = concat_batches(&batches[0].schema(), &batches).unwrap();
            // A column without a value is as good as none.
            let set: Vec<usize> = (0..all.num_columns()).filter(|at| all.column(*at).null_count() < all.num_rows()).collect();
            let text = pretty_format_batches(&[all.project(&set).unwrap()]).unwrap().to_string();
            (block.stats.window_start_unix_nano, block.stats.rows, text)
        };
        blocks.iter().map(read).collect()
    }

    #[test]
    fn however_the_spans_are_divided_the_blocks_hold_the_same() {
        let runs = runs();
        let mut charged = 0;
        let whole = blocks(&runs, usize::MAX, |_| ()).unwrap();
        let expected = contents(&whole);
        assert_eq!(expected.len(), 2, "a block for each of two hours");
        assert_eq!(expected.iter().map(|(_, rows, _)| rows).sum::<u64>(), 2400 - 400);
        let bytes: usize = runs.iter().map(|run| run.records.get_array_memory_size()).sum();
        for parts in [2, 7, 40] {
            let divided = blocks(&runs, bytes / parts, |bytes| charged = charged.max(bytes)).unwrap();
            assert_eq!(contents(&divided), expected, "{parts} parts");
            assert!(charged > 0);
        }
    }

    #[test]
    fn a_trace_is_in_one_range() {
        let runs = runs();
        let mut last: Option<Vec<u8>> = None;
        let mut rows = 0;
        let ranges = ranges(&runs, 20_000).unwrap();
        assert!(ranges.len() > 5, "{}", ranges.len());
        for range in ranges {
            let ids = || range.iter().flat_map(|batch| trace_ids(batch).unwrap().iter().flatten());
            assert!(last.as_deref().is_none_or(|last| ids().all(|id| id > last)));
            last = ids().max().map(<[u8]>::to_vec);
            rows += ids().count();
        }
        assert_eq!(rows, 2400);
    }
}
