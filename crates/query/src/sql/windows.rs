//! Window functions keep the rows of their input, which DataFusion does not charge to the query's memory: here they are.

use std::{fmt, sync::Arc};

use arrow::array::{Array, RecordBatch};
use datafusion::{
    common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion},
    error::DataFusionError,
    execution::{SendableRecordBatchStream, TaskContext, memory_pool::MemoryConsumer},
    physical_expr::PhysicalExpr,
    physical_plan::{
        ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
        stream::RecordBatchStreamAdapter,
    },
};
use futures::StreamExt;

type Plan = Arc<dyn ExecutionPlan>;

/// The plan with what its window functions read charged.
pub fn charged(plan: Plan) -> Result<Plan, DataFusionError> {
    plan.transform_up(|node| {
        if !matches!(node.name(), "WindowAggExec" | "BoundedWindowAggExec") {
            return Ok(Transformed::no(node));
        }
        let inputs = node.children().into_iter().map(|input| Arc::new(Charged(Arc::clone(input))) as Plan).collect();
        node.replace_children(inputs, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep)).map(Transformed::yes)
    })
    .data()
}

/// Passes rows on, and holds memory for all of them until it ends.
#[derive(Debug)]
struct Charged(Plan);

impl DisplayAs for Charged {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Charged")
    }
}

impl ExecutionPlan for Charged {
    fn name(&self) -> &str {
        "Charged"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.0.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Plan> {
        vec![&self.0]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion, DataFusionError>,
    ) -> Result<TreeNodeRecursion, DataFusionError> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(self: Arc<Self>, mut children: Vec<Plan>, _: ReplaceChildrenOptions) -> Result<Plan, DataFusionError> {
        let input = children.pop().ok_or_else(|| DataFusionError::Internal("a plan without its input".to_owned()))?;
        Ok(Arc::new(Self(input)))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Plan>) -> Result<Plan, DataFusionError> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream, DataFusionError> {
        let held = MemoryConsumer::new("window functions").register(context.memory_pool());
        let rows = self.0.execute(partition, context)?;
        let schema = rows.schema();
        let rows = rows.map(move |batch| {
            let batch = batch?;
            held.try_grow(bytes(&batch)?)?;
            Ok(batch)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}

/// Of these rows: their columns may be parts of larger ones.
fn bytes(batch: &RecordBatch) -> Result<usize, DataFusionError> {
    let sizes = batch.columns().iter().map(|column| column.to_data().get_slice_memory_size());
    sizes.sum::<Result<usize, _>>().map_err(|error| DataFusionError::ArrowError(Box::new(error), None))
}
