//! Leaves out row groups that cannot match, by the statistics in a block's footer.

use std::collections::HashSet;

use arrow::{array::{ArrayRef, BooleanArray, UInt64Array}, datatypes::SchemaRef};
use datafusion::{
    common::{Column, pruning::PruningStatistics},
    physical_optimizer::pruning::PruningPredicateBuilder,
    scalar::ScalarValue,
};
use model::TraceId;
use parquet::{
    arrow::arrow_reader::statistics::StatisticsConverter,
    file::{metadata::ParquetMetaData, statistics::Statistics},
};

use crate::{predicate::Predicate, request::QueryError};

/// For each row group, whether it can hold a row for which the predicate holds.
pub fn row_groups(predicate: &Predicate, schema: &SchemaRef, footer: &ParquetMetaData) -> Result<Vec<bool>, QueryError> {
    let pruning = PruningPredicateBuilder::new().with_file_schema(SchemaRef::clone(schema)).try_build(predicate.over(schema)?).map_err(QueryError::internal)?;
    if pruning.always_true() {
        return Ok(vec![true; footer.num_row_groups()]);
    }
    pruning.prune(&FooterStatistics { schema, footer }).map_err(QueryError::internal)
}

/// The lowest and highest trace id of each row group, where the footer says.
pub fn trace_ranges(footer: &ParquetMetaData, column: usize) -> impl Iterator<Item = Option<(TraceId, TraceId)>> {
    footer.row_groups().iter().map(move |row_group| match row_group.column(column).statistics()? {
        Statistics::FixedLenByteArray(statistics) => {
            let low = TraceId::from_slice(statistics.min_bytes_opt()?)?;
            Some((low, TraceId::from_slice(statistics.max_bytes_opt()?)?))
        }
        _ => None,
    })
}

struct FooterStatistics<'a> {
    schema: &'a SchemaRef,
    footer: &'a ParquetMetaData,
}

impl FooterStatistics<'_> {
    fn converter(&self, column: &Column) -> Option<StatisticsConverter<'_>> {
        StatisticsConverter::try_new(&column.name, self.schema, self.footer.file_metadata().schema_descr()).ok()
    }
}

impl PruningStatistics for FooterStatistics<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.converter(column)?.row_group_mins(self.footer.row_groups()).ok()
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.converter(column)?.row_group_maxes(self.footer.row_groups()).ok()
    }

    fn num_containers(&self) -> usize {
        self.footer.num_row_groups()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let counts = self.converter(column)?.row_group_null_counts(self.footer.row_groups()).ok()?;
        Some(std::sync::Arc::new(counts))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        let counts = self.footer.row_groups().iter().map(|r| u64::try_from(r.num_rows()).unwrap_or(0));
        Some(std::sync::Arc::new(UInt64Array::from_iter_values(counts)))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
