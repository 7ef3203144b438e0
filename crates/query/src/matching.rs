//! All spans that match a condition, wherever they are, each exactly once.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

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
use parking_lot::Mutex;
use traceql::ast::FieldExpr;

use crate::{
    conditions::matching as holding,
    engine::{Engine, MERGE_NARROW_TRACES_MAX, MERGE_TRACES_MAX, merge_chunks},
    explain::Pruned,
    layout::Layout,
    memory::entry_bytes,
    parents,
    predicate::{Constant, Predicate, compile},
    reads::Reads,
    request::{QueryError, TimeRange},
    scan::{Scan, read_memory},
    search::mentions_whole_trace,
    source::{Source, SourceId, Sources, Unit},
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
    /// Sources that are left out, as what they hold is known; split traces are still merged from all.
    pub left_out: &'a BTreeSet<SourceId>,
    /// The columns to return.
    pub columns: Columns<'a>,
    /// What is made of them.
    pub asks: Asks,
}

/// How much of a span's trace has to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asks {
    /// Nothing.
    Span,
    /// Columns that are computed over the whole trace.
    Values,
    /// Its other spans.
    Trace,
}

impl Asks {
    /// What a condition asks for.
    pub fn of(condition: &FieldExpr) -> Self {
        if parents::asked_by(condition) {
            Self::Trace
        } else if mentions_whole_trace(condition) {
            Self::Values
        } else {
            Self::Span
        }
    }

    /// The split traces of which the rows do not say it where they lie.
    pub fn apart(self, sources: &Sources) -> &TraceSet {
        match self {
            Self::Span => &sources.loose,
            Self::Values => &sources.valueless,
            Self::Trace => &sources.split,
        }
    }
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
        let by_condition = matching.condition.map_or(Asks::Span, Asks::of);
        let apart = by_condition.max(matching.asks).apart(sources);
        let touched: Arc<Mutex<HashSet<TraceId>>> = Arc::default();
        let mut lying = vec![];
        for source in &sources.all {
            if !source.overlaps(matching.sources) {
                reads.trail.prune(Pruned::Time);
                continue;
            }
            let selection = match matching.left_out.contains(&source.id) {
                true => None,
                false => Selection::of(matching, source.layout(), source.within(matching.started))?,
            };
            let Some(selection) = selection else {
                reads.trail.prune(Pruned::Values);
                continue;
            };
            let units = source.units(&selection.scan, reads)?;
            lying.push((selection, source, units));
        }
        let bytes: u64 = lying.iter().flat_map(|(_, _, units)| units).map(|unit| unit.memory_bytes).sum();
        let passing = self.columns().is_far_exceeded_by(bytes);
        for (mut selection, source, units) in lying {
            selection.scan.passing = passing;
            let (source, apart, touched) = (Arc::clone(source), apart.clone(), Some(Arc::clone(&touched)));
            let part = Arc::new(Part { selection, source, apart, touched });
            let work = |unit: Unit| {
                let (part, reads, work) = (Arc::clone(&part), Arc::clone(reads), work.clone());
                async move { work(part.rows(unit.read(&part.selection.scan, &reads).await?, &reads)?) }
            };
            self.from_each_unit(units, work, &mut take).await?;
        }
        drop(stage);
        let _stage = reads.trail.stage("merge split traces and evaluate");
        // A trace of which no row matches where it lies need not be merged, if that can be told there.
        let ids: Vec<TraceId> = match by_condition {
            Asks::Trace => apart.ids(),
            _ if !matching.left_out.is_empty() => apart.ids(),
            Asks::Values => touched.lock().iter().chain(sources.valueless_ids().iter()).copied().collect(),
            Asks::Span => touched.lock().iter().copied().collect(),
        };
        let columns = |layout: &Layout| matching.all_columns(layout);
        let wide = sources.all.iter().take(1).map(|source| columns(source.layout())).any(|columns| matches!(columns, Ok(None)));
        let most = if wide { MERGE_TRACES_MAX } else { MERGE_NARROW_TRACES_MAX };
        for chunk in merge_chunks(ids, most) {
            let Some(rows) = self.merged(sources, &chunk, &columns, reads).await? else { continue };
            let Some(selection) = Selection::of(matching, &rows.layout, false)? else { continue };
            take(work(selection.of_whole(rows, reads)?)?)?;
        }
        Ok(())
    }
}

impl Matching<'_> {
    /// The columns to return, and those that the conditions look at.
    pub fn all_columns(&self, layout: &Layout) -> Result<Option<BTreeSet<String>>, QueryError> {
        let Some(mut names) = (self.columns)(layout)? else { return Ok(None) };
        if let Some(condition) = self.condition {
            names.extend(compile(condition, layout)?.columns);
        }
        Ok(Some(names))
    }
}

pub(crate) struct Part {
    pub selection: Selection,
    pub source: Arc<Source>,
    /// Traces that are looked at merged.
    pub apart: TraceSet,
    /// Those of them that have rows here for which the scan's condition holds.
    pub touched: Option<Arc<Mutex<HashSet<TraceId>>>>,
}

impl Part {
    /// The rows without those of traces that are looked at merged.
    pub fn rows(&self, records: RecordBatch, reads: &Reads) -> Result<TraceRows, QueryError> {
        let records = match self.apart.is_empty() || records.num_rows() == 0 {
            true => records,
            false => self.without_apart(records, reads)?,
        };
        let records = self.selection.finish(records, reads)?;
        let layout = Layout { schema: records.schema(), catalogue: Arc::clone(&self.source.layout().catalogue) };
        Ok(TraceRows { records, layout })
    }

    fn without_apart(&self, records: RecordBatch, reads: &Reads) -> Result<RecordBatch, QueryError> {
        let ids = records.column_by_name(schema::TRACE_ID).ok_or_else(|| QueryError::internal("rows without trace ids"))?;
        let ids = ids.as_fixed_size_binary();
        let mut keep = BooleanBufferBuilder::new(records.num_rows());
        let (mut kept, mut apart) = (0, vec![]);
        for run in trace_runs(&records)? {
            let left_out = TraceId::from_slice(ids.value(run.start)).filter(|id| self.apart.contains(id));
            keep.append_n(run.len(), left_out.is_none());
            kept += if left_out.is_none() { run.len() } else { 0 };
            apart.extend(left_out);
        }
        if let Some(touched) = &self.touched {
            let mut touched = touched.lock();
            let known = touched.len();
            touched.extend(apart);
            reads.hold((touched.len() - known) * entry_bytes::<TraceId, ()>())?;
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
        Ok(Some(Self { scan: Scan { predicate, columns, ..Scan::default() }, after }))
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
