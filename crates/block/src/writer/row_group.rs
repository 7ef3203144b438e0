//! A row group that is being written: one encoder for each column.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, SchemaRef};
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::file::writer::SerializedFileWriter;

use super::WriterOptions;
use super::chunk::Codec;
use super::columns::{self, Encoder};
use super::numbers::NumberColumn;
use super::text::TextColumn;
use super::wide::WideColumn;
use crate::error::BlockError;

pub(super) struct RowGroup {
    schema: SchemaRef,
    columns: Vec<Column>,
}

enum Column {
    Text(TextColumn),
    Numbers(Box<NumberColumn>),
    Wide(WideColumn),
    /// One for each leaf.
    Others(Vec<ArrowColumnWriter>),
}

impl RowGroup {
    pub fn new(
        file: &SerializedFileWriter<Vec<u8>>,
        factory: &ArrowRowGroupWriterFactory,
        schema: SchemaRef,
    ) -> Result<Self, BlockError> {
        let mut writers = factory.create_column_writers(file.flushed_row_groups().len())?.into_iter();
        let leaves = file.schema_descr();
        let mut leaf = 0;
        let mut columns = Vec::with_capacity(schema.fields().len());
        for (number, field) in schema.fields().iter().enumerate() {
            let begin = leaf;
            while leaf < leaves.num_columns() && leaves.get_column_root_idx(leaf) == number {
                leaf += 1;
            }
            let mut own: Vec<ArrowColumnWriter> = writers.by_ref().take(leaf - begin).collect();
            columns.push(match columns::encoder(field) {
                Encoder::Text => Column::Text(TextColumn::new()),
                Encoder::Numbers(statistics) => {
                    let otherwise = own.pop().expect("a column that is no list has one leaf");
                    Column::Numbers(Box::new(NumberColumn::new(field.data_type(), statistics, otherwise)))
                }
                Encoder::Wide(kind, statistics) => Column::Wide(WideColumn::new(kind, statistics)),
                Encoder::Other => Column::Others(own),
            });
        }
        Ok(Self { schema, columns })
    }

    /// Adds rows with the columns of the schema.
    pub fn write(&mut self, records: &RecordBatch) -> Result<(), BlockError> {
        for ((field, array), column) in self.schema.fields().iter().zip(records.columns()).zip(&mut self.columns) {
            match column {
                Column::Text(text) => text.push(array.as_dictionary::<Int32Type>()),
                Column::Numbers(numbers) => numbers.push(array),
                Column::Wide(wide) => wide.push(array),
                Column::Others(writers) => {
                    for (leaf, writer) in compute_leaves(field, array)?.iter().zip(writers) {
                        writer.write(leaf)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// About how many bytes it will have.
    pub fn estimated_bytes(&self) -> usize {
        let estimated = self.columns.iter().map(|column| match column {
            Column::Text(text) => text.estimated_bytes(),
            Column::Numbers(numbers) => numbers.estimated_bytes(),
            Column::Wide(wide) => wide.estimated_bytes(),
            Column::Others(writers) => writers.iter().map(ArrowColumnWriter::get_estimated_total_bytes).sum(),
        });
        estimated.sum()
    }

    /// Writes everything to the file.
    pub fn finish(
        self,
        file: &mut SerializedFileWriter<Vec<u8>>,
        codec: &mut Codec,
        options: &WriterOptions,
    ) -> Result<(), BlockError> {
        let leaves = file.schema_descr().columns().to_vec();
        let mut leaf = 0;
        let mut row_group = file.next_row_group()?;
        for (field, column) in self.schema.fields().iter().zip(self.columns) {
            let described = leaves[leaf].clone();
            leaf += 1;
            let page_rows = columns::page_rows(field.name(), options);
            match column {
                Column::Text(text) => text.finish(described, codec, page_rows)?.append_to(&mut row_group)?,
                Column::Numbers(numbers) => numbers.finish(field, described, codec, page_rows, &mut row_group)?,
                Column::Wide(wide) => wide.finish(described, codec, page_rows)?.append_to(&mut row_group)?,
                Column::Others(writers) => {
                    leaf += writers.len() - 1;
                    for writer in writers {
                        writer.close()?.append_to_row_group(&mut row_group)?;
                    }
                }
            }
        }
        row_group.close()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
