//! The table `spans`: every span of the tenants once, from live data and blocks, read unit by unit.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    sync::Arc,
};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    error::DataFusionError,
    execution::{SendableRecordBatchStream, TaskContext},
    logical_expr::{Expr, TableProviderFilterPushDown, TableType},
    physical_plan::{
        ExecutionPlan,
        stream::RecordBatchStreamAdapter,
        streaming::{PartitionStream, StreamingTableExec},
    },
};
use futures::{StreamExt, TryStreamExt, stream};
use model::TraceId;
use parking_lot::Mutex;

use super::{
    columns::{Column, schema_of, shown, stored},
    pushdown::{Wanted, wanted},
};
use crate::{
    engine::{Engine, MERGE_NARROW_TRACES_MAX, merge_chunks},
    explain::Pruned,
    layout::Layout,
    matching::{Asks, Matching, Part, Selection},
    reads::Reads,
    request::QueryError,
    source::{Sources, Unit},
    traces::TraceRows,
};

/// Rows of one batch of the view.
pub const BATCH_ROWS: usize = 4096;

pub struct Spans {
    pub engine: Engine,
    pub reads: Arc<Reads>,
    /// Of each tenant.
    pub sources: Vec<Arc<Sources>>,
    pub columns: Vec<Column>,
    pub schema: SchemaRef,
}

impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("spans")
    }
}

#[async_trait]
impl TableProvider for Spans {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>, DataFusionError> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let columns: Vec<Column> = match projection {
            Some(projection) => projection.iter().map(|at| self.columns[*at].clone()).collect(),
            None => self.columns.clone(),
        };
        let wanted = wanted(filters, &self.columns);
        self.reads.trail.plan(match &wanted.condition {
            Some(condition) => format!("rows read: {{ {condition} }}"),
            None => "rows read: all in the time range".to_owned(),
        });
        let schema = schema_of(&columns);
        let queue = self.parts(&wanted, &columns).map_err(outside)?;
        let shares = state.config().target_partitions().clamp(1, queue.len().max(1));
        let common = Arc::new(Common {
            engine: self.engine.clone(),
            reads: Arc::clone(&self.reads),
            queue: Mutex::new(queue),
            wanted,
            columns,
            schema: Arc::clone(&schema),
        });
        let partitions = (0..shares).map(|_| Arc::new(Share(Arc::clone(&common))) as Arc<dyn PartitionStream>).collect();
        Ok(Arc::new(StreamingTableExec::try_new(schema, partitions, None, [], false, limit)?))
    }
}

impl Spans {
    /// Everything that has to be read, in the order of its places.
    fn parts(&self, wanted: &Wanted, columns: &[Column]) -> Result<VecDeque<Item>, QueryError> {
        let names = |layout: &Layout| Ok(Some(stored(columns, layout)?));
        let matching = wanted.matching(&names);
        let mut queue = VecDeque::new();
        for sources in &self.sources {
            for source in &sources.all {
                if !source.overlaps(matching.sources) {
                    self.reads.trail.prune(Pruned::Time);
                    continue;
                }
                let Some(selection) = Selection::of(&matching, source.layout(), source.within(matching.started))? else {
                    self.reads.trail.prune(Pruned::Values);
                    continue;
                };
                let units = source.units(&selection.scan, &self.reads)?;
                let part = Arc::new(Part { selection, source: Arc::clone(source), apart: sources.valueless.clone(), touched: None });
                queue.extend(units.into_iter().map(|unit| Item::Unit(Arc::clone(&part), unit)));
            }
            let merged = merge_chunks(sources.valueless.ids(), MERGE_NARROW_TRACES_MAX);
            queue.extend(merged.into_iter().map(|ids| Item::Merge(Arc::clone(sources), ids)));
        }
        Ok(queue)
    }
}

impl Wanted {
    fn matching<'a>(&'a self, columns: crate::traces::Columns<'a>) -> Matching<'a> {
        let left_out = const { &BTreeSet::new() };
        Matching { condition: self.condition.as_ref(), started: self.started, sources: self.started, left_out, columns, asks: Asks::Values }
    }
}

enum Item {
    Unit(Arc<Part>, Unit),
    /// Split traces, to be put together.
    Merge(Arc<Sources>, Arc<Vec<TraceId>>),
}

/// What the streams of one scan share. Each takes the next part from the queue when it is done with one.
struct Common {
    engine: Engine,
    reads: Arc<Reads>,
    queue: Mutex<VecDeque<Item>>,
    wanted: Wanted,
    columns: Vec<Column>,
    schema: SchemaRef,
}

impl Common {
    async fn rows(&self, item: Item) -> Result<Option<TraceRows>, QueryError> {
        match item {
            Item::Unit(part, unit) => {
                let _memory = self.engine.reserve(unit.memory_bytes).await;
                part.rows(unit.read(&part.selection.scan, &self.reads).await?, &self.reads).map(Some)
            }
            Item::Merge(sources, ids) => {
                let names = |layout: &Layout| Ok(Some(stored(&self.columns, layout)?));
                let matching = self.wanted.matching(&names);
                let columns = |layout: &Layout| matching.all_columns(layout);
                let Some(rows) = self.engine.merged(&sources, &ids, &columns, &self.reads).await? else { return Ok(None) };
                let Some(selection) = Selection::of(&matching, &rows.layout, false)? else { return Ok(None) };
                selection.of_whole(rows, &self.reads).map(Some)
            }
        }
    }

    async fn next(&self) -> Result<Option<RecordBatch>, QueryError> {
        loop {
            self.reads.go_on()?;
            let item = self.queue.lock().pop_front();
            let Some(item) = item else { return Ok(None) };
            if let Some(rows) = self.rows(item).await?.filter(|rows| rows.records.num_rows() > 0) {
                return shown(&rows, &self.columns, &self.schema).map(Some);
            }
        }
    }
}

struct Share(Arc<Common>);

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("spans")
    }
}

impl PartitionStream for Share {
    fn schema(&self) -> &SchemaRef {
        &self.0.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let batches = stream::try_unfold(Arc::clone(&self.0), |common| async move {
            let batch = common.next().await.map_err(outside)?;
            Ok::<_, DataFusionError>(batch.map(|batch| (batch, common)))
        });
        let slices = batches.map_ok(|batch| {
            let starts = (0..batch.num_rows()).step_by(BATCH_ROWS);
            let slices: Vec<_> = starts.map(|at| Ok(batch.slice(at, BATCH_ROWS.min(batch.num_rows() - at)))).collect();
            stream::iter(slices)
        });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.0.schema), slices.try_flatten().boxed()))
    }
}

/// Our own error, as DataFusion carries it.
fn outside(error: QueryError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
