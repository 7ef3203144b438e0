//! Merges blocks as sorted streams. Pure: bytes in, a block out.
//!
//! All inputs are sorted by trace id. In each step, rows of traces below the least of the inputs' last decoded ids are
//! known to be complete: they are merged ([`block::merge`]: received order, re-deliveries, whole-trace columns) and
//! written. So what is in memory is a row group's bytes and a few batches of rows of each input, whatever the size of the
//! blocks; only a single trace has to fit as a whole.

use std::{collections::HashSet, sync::Arc};

use arrow::{
    array::{BooleanArray, RecordBatch},
    compute::filter_record_batch,
    datatypes::{Field, Schema, SchemaRef},
};
use block::{
    BlockError,
    batch::SpanBatch,
    merge::{merge_as, schema_of},
    promotion::Promotion,
    schema,
    writer::{BlockWriter, EncodedBlock, WriterOptions},
};
use bytes::Bytes;
use model::TraceId;
use ulid::Ulid;

use crate::input::{Input, Wanted, trace_ids};

/// A merge under way.
pub struct MergeStream {
    /// In the order in which their spans were received.
    inputs: Vec<Input>,
    promotion: Promotion,
    writer: BlockWriter,
    /// Traces to leave out.
    without: Option<Arc<HashSet<TraceId>>>,
    rows_in: u64,
    rows_out: u64,
}

/// What a merge needs next.
pub enum Step {
    /// Bytes of an input.
    Bring { input: usize, wanted: Wanted },
    /// Nothing; call [`MergeStream::finish`].
    End,
}

/// An error, and the input that it came from if that is known.
#[derive(Debug)]
pub struct StreamError {
    pub input: Option<usize>,
    pub error: BlockError,
}

/// What a merge made.
pub struct Merged {
    /// `None` if every trace was left out.
    pub block: Option<EncodedBlock>,
    pub rows_in: u64,
    /// Less than `rows_in` by re-deliveries and by traces left out.
    pub rows_out: u64,
}

impl MergeStream {
    /// `id` of the new block; `promotion` its attribute columns.
    pub fn new(
        id: Ulid,
        inputs: Vec<Input>,
        promotion: Promotion,
        options: WriterOptions,
        without: Option<Arc<HashSet<TraceId>>>,
    ) -> Self {
        let schema = narrow(&schema_of(&promotion), &inputs, &promotion);
        let writer = BlockWriter::new(id, schema, options);
        Self { inputs, promotion, writer, without, rows_in: 0, rows_out: 0 }
    }

    /// Goes on until bytes are needed or nothing is left. Takes long: not for an async thread.
    pub fn advance(&mut self) -> Result<Step, StreamError> {
        loop {
            if let Some((input, wanted)) = self.fill()? {
                return Ok(Step::Bring { input, wanted });
            }
            // Inputs with more to come bound what is complete.
            let mut bound: Option<TraceId> = None;
            for (number, input) in self.inputs.iter().enumerate().filter(|(_, input)| !input.ended()) {
                let last = input.last_trace().map_err(of(number))?.expect("filled, or ended");
                bound = Some(bound.map_or(last, |bound| bound.min(last)));
            }
            let mut parts = Vec::new();
            for (number, input) in self.inputs.iter_mut().enumerate() {
                let rows = match &bound {
                    Some(bound) => input.take_below(bound).map_err(of(number))?,
                    None => input.take_all(),
                };
                parts.extend(rows.into_iter().map(|rows| (number, rows)));
            }
            if !parts.is_empty() {
                self.write(parts)?;
            } else if let Some(bound) = bound {
                // A trace that fills all that is decoded of some input: more of it must come.
                if let Some((input, wanted)) = self.grow(&bound)? {
                    return Ok(Step::Bring { input, wanted });
                }
            } else {
                return Ok(Step::End);
            }
        }
    }

    /// Takes the bytes that [`Step::Bring`] asked for.
    pub fn bring(&mut self, input: usize, wanted: &Wanted, bytes: Vec<Bytes>) -> Result<(), StreamError> {
        self.inputs[input].bring(wanted, bytes).map_err(of(input))
    }

    pub fn finish(self) -> Result<Merged, StreamError> {
        let block = match self.rows_out {
            0 => None,
            _ => Some(self.writer.finish().map_err(unknown)?),
        };
        Ok(Merged { block, rows_in: self.rows_in, rows_out: self.rows_out })
    }

    /// Has rows of every input that has not ended, or says what must be brought for that.
    fn fill(&mut self) -> Result<Option<(usize, Wanted)>, StreamError> {
        for (number, input) in self.inputs.iter_mut().enumerate() {
            while !input.has_rows() && !input.ended() {
                if let Some(wanted) = input.wanted() {
                    return Ok(Some((number, wanted)));
                }
                input.decode().map_err(of(number))?;
            }
        }
        Ok(None)
    }

    /// Decodes one more batch of every input that stands at `bound`.
    fn grow(&mut self, bound: &TraceId) -> Result<Option<(usize, Wanted)>, StreamError> {
        for (number, input) in self.inputs.iter_mut().enumerate() {
            if input.ended() || input.last_trace().map_err(of(number))?.as_ref() != Some(bound) {
                continue;
            }
            if let Some(wanted) = input.wanted() {
                return Ok(Some((number, wanted)));
            }
            input.decode().map_err(of(number))?;
        }
        Ok(None)
    }

    fn write(&mut self, parts: Vec<(usize, RecordBatch)>) -> Result<(), StreamError> {
        let mut batches = Vec::with_capacity(parts.len());
        for (number, rows) in parts {
            self.rows_in += rows.num_rows() as u64;
            let rows = match &self.without {
                Some(without) => filter(&rows, without).map_err(of(number))?,
                None => rows,
            };
            if rows.num_rows() > 0 {
                batches.push(SpanBatch { records: rows, catalogue: Arc::default() });
            }
        }
        // A merge takes each input's rows of a step as one sorted batch; two batches of one input may share a trace, and
        // follow each other in order, which is all that a merge asks.
        let merged = merge_as(&batches, &self.promotion).map_err(unknown)?;
        self.rows_out += merged.rows() as u64;
        self.writer.write(&merged.records).map_err(unknown)
    }
}

/// The rows of all traces but these.
fn filter(rows: &RecordBatch, without: &HashSet<TraceId>) -> Result<RecordBatch, BlockError> {
    let ids = trace_ids(rows)?;
    let stays = |id: Option<&[u8]>| id.and_then(TraceId::from_slice).is_none_or(|id| !without.contains(&id));
    let keep: BooleanArray = ids.iter().map(|id| Some(stays(id))).collect();
    Ok(filter_record_batch(rows, &keep)?)
}

/// Without the columns that cannot have a value.
fn narrow(schema: &SchemaRef, inputs: &[Input], promotion: &Promotion) -> SchemaRef {
    let in_files = |name: &str| inputs.iter().any(|input| input.arrow_schema().column_with_name(name).is_some());
    // Values move from columns that the new block does not have into lists.
    let demotes = inputs.iter().flat_map(|input| input.arrow_schema().fields()).any(|field| {
        schema_of(&Promotion::default()).column_with_name(field.name()).is_none()
            && promotion.iter().all(|(name, _)| name != field.name())
    });
    let is_list = |name: &str| model::AttributeScope::ALL.into_iter().any(|scope| schema::kv_column(scope) == Some(name));
    let promoted = |name: &str| promotion.iter().any(|(column, _)| column == name);
    let fields = schema.fields().iter().filter(|field| {
        let name = field.name().as_str();
        !field.is_nullable() || in_files(name) || promoted(name) || (demotes && is_list(name))
    });
    Arc::new(Schema::new(fields.cloned().collect::<Vec<Arc<Field>>>()))
}

fn of(input: usize) -> impl Fn(BlockError) -> StreamError {
    move |error| StreamError { input: Some(input), error }
}

fn unknown(error: BlockError) -> StreamError {
    StreamError { input: None, error }
}
