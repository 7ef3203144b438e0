//! Several batches become one.
//!
//! Invariants: every span of the inputs is in the result once; re-deliveries (equal trace id, span id, kind
//! and start) are dropped, the first kept; no attribute value is lost or changes its type, whichever columns
//! the inputs had; whole-trace columns are computed anew.

mod attributes;
mod gather;
pub(crate) mod kv;
mod order;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Int32Type, Int64Type, Schema, SchemaRef};

use crate::batch::SpanBatch;
use crate::catalogue::Catalogue;
use crate::error::BlockError;
use crate::promotion::{AttributeColumn, Promotion, PromotionPolicy};
use crate::schema;
use crate::whole_trace::{self, SpanRows, WholeTrace};
use attributes::Attributes;
pub use order::Run;

/// Merges batches and chooses attribute columns for all their rows together.
///
/// Each input is sorted by trace id; a trace's rows come in the order of the inputs. All of it is in memory: the caller bounds the input.
pub fn merge(batches: &[SpanBatch], policy: &PromotionPolicy) -> Result<SpanBatch, BlockError> {
    let inputs = known_columns(batches)?;
    let runs = order::merged(&inputs)?;
    let attributes = Attributes::scan(&inputs, &runs)?;
    let rows: usize = runs.iter().map(|run| run.len).sum();
    let promotion = policy.decide(rows as u64, attributes.counts());
    assemble(&inputs, &runs, &attributes, &promotion, Fixed::All)
}

/// As [`merge`], but the result has only those fixed columns that an input has, and the whole-trace ones. Inputs need no others
/// than [`whole_trace::NEEDED`] and those that name the services.
pub fn merge_narrow(batches: &[SpanBatch], policy: &PromotionPolicy) -> Result<SpanBatch, BlockError> {
    let inputs = known_columns(batches)?;
    let runs = order::merged(&inputs)?;
    let attributes = Attributes::scan(&inputs, &runs)?;
    let rows: usize = runs.iter().map(|run| run.len).sum();
    let promotion = policy.decide(rows as u64, attributes.counts());
    assemble(&inputs, &runs, &attributes, &promotion, Fixed::OfInputs)
}

/// The order in which [`merge`] puts rows, and the whole-trace columns that it computes for them; no row is moved. Inputs need
/// no other columns than [`merge_narrow`] does.
pub fn whole_traces(batches: &[SpanBatch]) -> Result<(Vec<Run>, WholeTrace), BlockError> {
    let inputs = known_columns(batches)?;
    let runs = order::merged(&inputs)?;
    let service =
        schema::attribute_column(model::AttributeScope::Resource, whole_trace::SERVICE_NAME, model::AttributeType::String);
    let mut columns: Vec<(&str, ArrayRef)> = vec![];
    for (name, data_type) in whole_trace::NEEDED
        .into_iter()
        .chain([schema::RESOURCE_ATTRIBUTES])
        .filter_map(|name| Some((name, schema::FIXED_FIELDS.iter().find(|fixed| fixed.name() == name)?.data_type().clone())))
        .chain([(service.as_str(), schema::dictionary())])
    {
        let sources: Vec<_> = inputs.iter().map(|input| input.column_by_name(name).cloned()).collect();
        if sources.iter().any(Option::is_some) {
            columns.push((name, gather::gather(&sources, &runs, &data_type)?));
        }
    }
    let whole = whole_trace::compute(&SpanRows::of(&RecordBatch::try_from_iter(columns)?)?);
    Ok((runs, whole))
}

/// Merges batches into given attribute columns: for a block that is written in several steps.
pub fn merge_as(batches: &[SpanBatch], promotion: &Promotion) -> Result<SpanBatch, BlockError> {
    let inputs = known_columns(batches)?;
    let runs = order::merged(&inputs)?;
    let attributes = Attributes::scan(&inputs, &runs)?;
    assemble(&inputs, &runs, &attributes, promotion, Fixed::All)
}

/// On how many rows each possible attribute column would be set, given the attribute columns and key/value lists of some
/// rows; other columns may be missing. To decide a promotion before the rows come.
pub fn attribute_counts(records: &RecordBatch) -> Result<Vec<(AttributeColumn, u64)>, BlockError> {
    let inputs = [known(records)?];
    let runs = [Run { batch: 0, start: 0, len: records.num_rows() }];
    Ok(Attributes::scan(&inputs, &runs)?.counts().collect())
}

/// Splits a batch into time windows: (start of the window, its whole traces), oldest first. A trace belongs to
/// the window in which its earliest span starts; windows begin at multiples of `window_nano`.
pub fn window_partition(batch: &SpanBatch, window_nano: i64) -> Result<Vec<(i64, SpanBatch)>, BlockError> {
    assert!(window_nano > 0, "a window has a length");
    let starts = batch
        .records
        .column_by_name(schema::TRACE_START)
        .and_then(|array| array.as_primitive_opt::<Int64Type>())
        .ok_or_else(|| BlockError::column(schema::TRACE_START, "is missing or not of type long"))?;
    let mut windows: BTreeMap<i64, Vec<Run>> = BTreeMap::new();
    for (row, start) in starts.values().iter().enumerate() {
        let window = start.div_euclid(window_nano).saturating_mul(window_nano);
        let runs = windows.entry(window).or_default();
        match runs.last_mut() {
            Some(run) if run.start + run.len == row => run.len += 1,
            _ => runs.push(Run { batch: 0, start: row, len: 1 }),
        }
    }
    if windows.len() <= 1 {
        return Ok(windows.into_keys().map(|window| (window, batch.clone())).collect());
    }
    let inputs = known_columns(std::slice::from_ref(batch))?;
    windows
        .into_iter()
        .map(|(window, runs)| {
            let attributes = Attributes::scan(&inputs, &runs)?;
            Ok((window, assemble(&inputs, &runs, &attributes, &attributes.present(), Fixed::All)?))
        })
        .collect()
}

/// The schema of batches and blocks with these attribute columns.
pub fn schema_of(promotion: &Promotion) -> SchemaRef {
    let attributes =
        promotion.iter().map(|(name, column)| Arc::new(Field::new(name, schema::attribute_type(column.kind), true)));
    Arc::new(Schema::new(schema::FIXED_FIELDS.iter().cloned().chain(attributes).collect::<Vec<FieldRef>>()))
}

/// Which fixed columns a merged batch has.
#[derive(Clone, Copy, PartialEq)]
enum Fixed {
    All,
    OfInputs,
}

fn assemble(
    inputs: &[RecordBatch],
    runs: &[Run],
    attributes: &Attributes<'_>,
    promotion: &Promotion,
    fixed: Fixed,
) -> Result<SpanBatch, BlockError> {
    let mut schema = schema_of(promotion);
    if runs.is_empty() {
        return Ok(SpanBatch { records: RecordBatch::new_empty(schema), catalogue: Arc::default() });
    }
    let built = attributes.build(runs, promotion)?;
    let mut columns: BTreeMap<&str, ArrayRef> = BTreeMap::new();
    for (scope, list) in built.lists {
        columns.insert(schema::kv_column(scope).expect("a scope with a list"), list);
    }
    columns.extend(built.columns.iter().map(|(name, array)| (name.as_str(), array.clone())));
    for field in schema::FIXED_FIELDS.iter() {
        let wanted = fixed == Fixed::All || inputs.iter().any(|input| input.column_by_name(field.name()).is_some());
        if wanted && !columns.contains_key(field.name().as_str()) && !whole_trace::COLUMNS.contains(&field.name().as_str()) {
            let sources: Vec<_> = inputs.iter().map(|input| input.column_by_name(field.name()).cloned()).collect();
            columns.insert(field.name(), gather::gather(&sources, runs, field.data_type())?);
        }
    }
    let sent = RecordBatch::try_from_iter(columns.iter().map(|(name, array)| (*name, array.clone())))?;
    for (name, array) in whole_trace::compute(&SpanRows::of(&sent)?).into_columns() {
        columns.insert(name, array);
    }
    if fixed == Fixed::OfInputs {
        let there = schema.fields().iter().filter(|field| columns.contains_key(field.name().as_str()));
        schema = Arc::new(Schema::new(there.cloned().collect::<Vec<FieldRef>>()));
    }
    let arrays = schema.fields().iter().map(|field| columns[field.name().as_str()].clone()).collect();
    let records = RecordBatch::try_new(schema, arrays)?;
    let catalogue = Arc::new(Catalogue::of(&records)?);
    Ok(SpanBatch { records, catalogue })
}

/// The inputs with the types of `schema`: a reader of blocks may have other string types, or lack columns
/// without a value. A column of no known name is an error, as dropping it would lose values.
fn known_columns(batches: &[SpanBatch]) -> Result<Vec<RecordBatch>, BlockError> {
    let rows: usize = batches.iter().map(SpanBatch::rows).sum();
    if i32::try_from(rows).is_err() {
        return Err(BlockError::TooLarge(format!("{rows} rows")));
    }
    batches.iter().map(|batch| known(&batch.records)).collect()
}

fn known(records: &RecordBatch) -> Result<RecordBatch, BlockError> {
    let mut fields = Vec::with_capacity(records.num_columns());
    let mut columns = Vec::with_capacity(records.num_columns());
    for (field, array) in records.schema_ref().fields().iter().zip(records.columns()) {
        let (data_type, nullable) = match schema::FIXED_FIELDS.iter().find(|fixed| fixed.name() == field.name()) {
            Some(fixed) => (Cow::Borrowed(fixed.data_type()), fixed.is_nullable()),
            None => match AttributeColumn::parse(field.name()) {
                Some(attribute) => (Cow::Owned(schema::attribute_type(attribute.kind)), true),
                None => return Err(BlockError::column(field.name(), "is unknown to this version")),
            },
        };
        columns.push(as_type(array, &data_type)?);
        fields.push(Field::new(field.name(), data_type.into_owned(), nullable));
    }
    // A block of roots alone has no such column.
    if records.column_by_name(schema::PARENT_SPAN_ID).is_none() {
        let data_type = DataType::FixedSizeBinary(8);
        columns.push(new_null_array(&data_type, records.num_rows()));
        fields.push(Field::new(schema::PARENT_SPAN_ID, data_type, true));
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

/// The array with this type; dictionaries come out without nulls among their values.
fn as_type(array: &ArrayRef, data_type: &DataType) -> Result<ArrayRef, BlockError> {
    if array.data_type() != data_type {
        return Ok(cast(array, data_type)?);
    }
    match array.as_dictionary_opt::<Int32Type>() {
        Some(dictionary) if dictionary.values().null_count() > 0 => {
            Ok(cast(&cast(array, &DataType::Utf8)?, data_type)?)
        }
        _ => Ok(array.clone()),
    }
}
