//! All spans that match a condition, wherever they are, each exactly once.

use std::{collections::BTreeSet, sync::Arc};

use arrow::{
    array::{AsArray, BooleanArray, BooleanBufferBuilder, RecordBatch},
    compute::filter_record_batch,
};
use block::schema;
use datafusion::{
    logical_expr::Operator,
    physical_expr::{PhysicalExpr, expressions::{BinaryExpr, Column, Literal}},
    scalar::ScalarValue,
};
use model::TraceId;
use traceql::ast::FieldExpr;

use crate::{
    engine::{Engine, merge_chunks},
    explain::Pruned,
    layout::Layout,
    predicate::{Constant, Predicate, compile},
    reads::Reads,
    request::{QueryError, TimeRange},
    scan::{Scan, matching as holding, read_memory},
    source::{Source, Sources, Unit},
    spansets::trace_runs,
    split::TraceSet,
    traces::{Columns, TraceRows},
};

/// Which spans.
pub struct Matching<'a> {
    /// `None` matches all.
    pub condition: Option<&'a FieldExpr>,
    /// Spans whose start lies within the bounds, both included.
    pub started: Option<TimeRange>,
    /// Only sources that overlap; `None` looks at all.
    pub sources: Option<TimeRange>,
    /// The columns to return.
    pub columns: Columns<'a>,
}

impl Engine {
    /// Calls `work` on the matching rows, in parts, and hands what it makes of each to `take`. Parts arrive in no
    /// particular order of time.
    pub(crate) async fn each_match<T, W>(
        &self,
        sources: &Sources,
        matching: &Matching<'_>,
        reads: &Arc<Reads>,
        work: W,
        mut take: impl FnMut(T) -> Result<(), QueryError> + Send,
    ) -> Result<(), QueryError>
    where
        T: Send + 'static,
        W: Fn(TraceRows) -> Result<T, QueryError> + Clone + Send + Sync + 'static,
    {
        let stage = reads.trail.stage("read and evaluate");
        for (source, left_out) in sources.parts() {
            if !source.overlaps(matching.sources) {
                reads.trail.prune(Pruned::Time);
                continue;
            }
            let Some(selection) = Selection::of(matching, source.layout(), source.within(matching.started))? else {
                reads.trail.prune(Pruned::Values);
                continue;
            };
            let units = source.units(&selection.scan, reads)?;
            let part = Arc::new(Part { selection, source: Arc::clone(source), left_out: left_out.clone() });
            let work = |unit: Unit| {
                let (part, reads, work) = (Arc::clone(&part), Arc::clone(reads), work.clone());
                async move { work(part.rows(unit.read(&part.selection.scan, &reads).await?, &reads)?) }
            };
            self.from_each_unit(units, work, &mut take).await?;
        }
        drop(stage);
        let _stage = reads.trail.stage("merge split traces and evaluate");
        for chunk in merge_chunks(sources.loose.iter().copied().collect()) {
            let Some(rows) = self.merged(sources, &chunk, reads).await? else { continue };
            let Some(selection) = Selection::of(matching, &rows.layout, false)? else { continue };
            take(work(selection.of_whole(rows, reads)?)?)?;
        }
        Ok(())
    }
}

pub(crate) struct Part {
    pub selection: Selection,
    pub source: Arc<Source>,
    pub left_out: TraceSet,
}

impl Part {
    /// The rows without those of traces that are looked at elsewhere.
    pub fn rows(&self, records: RecordBatch, reads: &Reads) -> Result<TraceRows, QueryError> {
        let records = match self.left_out.is_empty() || records.num_rows() == 0 {
            true => records,
            false => self.without_left_out(records)?,
        };
        let records = self.selection.finish(records, reads)?;
        let layout = Layout { schema: records.schema(), catalogue: Arc::clone(&self.source.layout().catalogue) };
        Ok(TraceRows { records, layout })
    }

    fn without_left_out(&self, records: RecordBatch) -> Result<RecordBatch, QueryError> {
        let ids = records.column_by_name(schema::TRACE_ID).ok_or_else(|| QueryError::internal("rows without trace ids"))?;
        let ids = ids.as_fixed_size_binary();
        let mut keep = BooleanBufferBuilder::new(records.num_rows());
        let mut kept = 0;
        for run in trace_runs(&records)? {
            let whole = TraceId::from_slice(ids.value(run.start)).is_none_or(|id| !self.left_out.contains(&id));
            keep.append_n(run.len(), whole);
            kept += if whole { run.len() } else { 0 };
        }
        if kept == records.num_rows() {
            return Ok(records);
        }
        filter_record_batch(&records, &BooleanArray::new(keep.finish(), None)).map_err(QueryError::internal)
    }
}

/// How the matching rows of one layout are found.
pub(crate) struct Selection {
    pub scan: Scan,
    /// What has to see traces whole is decided after the scan.
    after: Option<Predicate>,
}

impl Selection {
    /// `None` if nothing in the layout can match. `within` says that all rows start when they should.
    pub fn of(matching: &Matching<'_>, layout: &Layout, within: bool) -> Result<Option<Self>, QueryError> {
        let mut predicate = match matching.condition {
            Some(condition) => Some(compile(condition, layout)?),
            None => None,
        };
        match predicate.as_ref().and_then(Predicate::constant) {
            Some(Constant::Never) => return Ok(None),
            Some(Constant::Always) => predicate = None,
            None => {}
        }
        if let (false, Some(range)) = (within, matching.started) {
            let started = started_within(layout, range)?;
            predicate = Some(match predicate {
                Some(other) => Predicate::new(Arc::new(BinaryExpr::new(started, Operator::And, other.expr))),
                None => Predicate::new(started),
            });
        }
        let after = predicate.take_if(|predicate| predicate.asks_parents);
        let columns = (matching.columns)(layout)?.map(|mut names: BTreeSet<String>| {
            names.insert(schema::TRACE_ID.into());
            names.extend(after.iter().flat_map(|predicate| predicate.columns.iter().cloned()));
            names.into_iter().collect()
        });
        Ok(Some(Self { scan: Scan { predicate, traces: None, columns }, after }))
    }

    /// The matching ones of scanned rows.
    fn finish(&self, records: RecordBatch, reads: &Reads) -> Result<RecordBatch, QueryError> {
        match &self.after {
            Some(predicate) => filter_record_batch(&records, &holding(predicate, &records, reads)?).map_err(QueryError::internal),
            None => Ok(records),
        }
    }

    /// The matching ones of rows in memory.
    pub fn of_whole(&self, rows: TraceRows, reads: &Reads) -> Result<TraceRows, QueryError> {
        let records = self.finish(read_memory(&rows.records, &self.scan, reads)?, reads)?;
        let layout = Layout { schema: records.schema(), catalogue: rows.layout.catalogue };
        Ok(TraceRows { records, layout })
    }
}

fn started_within(layout: &Layout, range: TimeRange) -> Result<Arc<dyn PhysicalExpr>, QueryError> {
    let index = layout.schema.index_of(schema::START_TIME).map_err(QueryError::internal)?;
    let bound = |op, value| {
        let start: Arc<dyn PhysicalExpr> = Arc::new(Column::new(schema::START_TIME, index));
        let literal = Arc::new(Literal::new(ScalarValue::Int64(Some(value))));
        Arc::new(BinaryExpr::new(start, op, literal)) as Arc<dyn PhysicalExpr>
    };
    Ok(Arc::new(BinaryExpr::new(bound(Operator::GtEq, range.start), Operator::And, bound(Operator::LtEq, range.end))))
}
