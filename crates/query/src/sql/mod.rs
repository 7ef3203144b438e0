//! SQL over the spans of some tenants: one `SELECT` over the table `spans`, answered as a stream.
//!
//! DataFusion plans and runs it; what it reads comes from the same places, with the same account, as every query.
//! Its memory is the query's budget, it writes no files, and functions that can make long values out of short ones
//! are not there.

mod columns;
mod encode;
mod pushdown;
mod table;
mod text;
mod windows;

use std::{pin::Pin, sync::Arc};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use bytes::Bytes;
use datafusion::{
    error::DataFusionError,
    execution::{
        SendableRecordBatchStream, SessionStateBuilder,
        context::SQLOptions,
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        runtime_env::RuntimeEnvBuilder,
    },
    physical_plan::execute_stream,
    prelude::{SessionConfig, SessionContext},
    sql::parser::Statement,
};
use futures::{Stream, StreamExt, stream};
use model::{ErrorKind, TenantId};

pub use encode::SqlFormat;

use self::{
    columns::{fixed, schema_of},
    encode::Encoder,
    table::{BATCH_ROWS, Spans},
};
use crate::{
    engine::{Answer, Engine},
    reads::Reads,
    request::QueryError,
};

#[derive(Clone, Debug)]
pub struct SqlRequest {
    pub text: String,
    pub format: SqlFormat,
    /// With more rows than this the query fails.
    pub rows_max: u64,
}

/// The encoded answer, in parts.
pub type SqlAnswer = Pin<Box<dyn Stream<Item = Result<Bytes, QueryError>> + Send>>;

/// The scalar functions there are; casts, operators, aggregates and windows are there besides. None makes a value much
/// longer than those it is given.
const FUNCTIONS: [&str; 62] = [
    "abs", "btrim", "ceil", "char_length", "character_length", "coalesce", "concat", "contains", "current_date",
    "current_timestamp", "date_bin", "date_part", "date_trunc", "datepart", "datetrunc", "ends_with", "exp", "floor",
    "from_unixtime", "greatest", "isnan", "least", "left", "length", "ln", "log", "log10", "log2", "lower", "ltrim", "nanvl",
    "now", "nullif", "nvl", "nvl2", "octet_length", "pow", "power", "regexp_count", "regexp_like", "right", "round", "rtrim",
    "signum", "split_part", "sqrt", "starts_with", "strpos", "instr", "position", "substr", "substring", "to_timestamp",
    "to_timestamp_micros", "to_timestamp_millis", "to_timestamp_nanos", "to_timestamp_seconds", "to_unixtime", "trim",
    "trunc", "upper", "to_char",
];

impl Engine {
    /// The answer begins when its first rows are known: up to there errors come from here and broken blocks are left
    /// out; later ones end the stream.
    pub fn sql<'a>(&'a self, tenants: &'a [TenantId], request: SqlRequest) -> Answer<'a, SqlAnswer> {
        Box::pin(self.rows_of(tenants, request))
    }

    async fn rows_of(&self, tenants: &[TenantId], request: SqlRequest) -> Result<SqlAnswer, QueryError> {
        let reads = self.reads();
        let started = self.despite_broken_blocks(&reads, || self.started(tenants, &request.text, &reads)).await?;
        let encoder = Encoder::new(request.format, &started.schema).map_err(QueryError::internal)?;
        let state = Answering { started, encoder, rows: 0, rows_max: request.rows_max, done: false };
        Ok(Box::pin(stream::unfold(state, |mut state| async move {
            let part = state.next().await?;
            Some((part, state))
        })))
    }

    /// Plans and runs up to the first batch.
    async fn started(&self, tenants: &[TenantId], text: &str, reads: &Arc<Reads>) -> Result<Started, QueryError> {
        let read = text::read(text)?;
        let mut sources = vec![];
        for tenant in tenants {
            sources.push(Arc::new(self.sources(tenant, reads).await?));
        }
        let _stage = reads.trail.stage("plan and read up to the first rows");
        let columns: Vec<_> = fixed().into_iter().chain(read.attributes).collect();
        let schema = schema_of(&columns);
        let spans = Spans { engine: self.clone(), reads: Arc::clone(reads), sources, columns, schema };
        let context = self.context(reads)?;
        context.register_table("spans", Arc::new(spans)).map_err(failed)?;
        let statement = Statement::Statement(Box::new(read.statement));
        let plan = context.state().statement_to_plan(statement).await.map_err(failed)?;
        let harmless = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        harmless.verify_plan(&plan).map_err(failed)?;
        let frame = context.execute_logical_plan(plan).await.map_err(failed)?;
        let task = Arc::new(frame.task_ctx());
        let plan = windows::charged(frame.create_physical_plan().await.map_err(failed)?).map_err(failed)?;
        let mut batches = execute_stream(plan, task).map_err(failed)?;
        let first = batches.next().await.transpose().map_err(failed)?;
        Ok(Started { schema: batches.schema(), first, batches })
    }

    fn context(&self, reads: &Reads) -> Result<SessionContext, QueryError> {
        let memory = usize::try_from(reads.budget().memory_bytes_max).unwrap_or(usize::MAX);
        let no_files = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
        let runtime = RuntimeEnvBuilder::new().with_memory_limit(memory, 1.0).with_disk_manager_builder(no_files);
        let mut config = SessionConfig::new()
            .with_target_partitions(self.parallelism().get())
            .with_batch_size(BATCH_ROWS)
            .with_information_schema(false);
        config.options_mut().execution.enable_recursive_ctes = false;
        let state = SessionStateBuilder::new_with_default_features()
            .with_config(config)
            .with_runtime_env(runtime.build_arc().map_err(failed)?)
            .build();
        let functions: Vec<String> = state.scalar_functions().keys().cloned().collect();
        let table_functions: Vec<String> = state.table_functions().keys().cloned().collect();
        let context = SessionContext::new_with_state(state);
        functions.iter().filter(|name| !FUNCTIONS.contains(&name.as_str())).for_each(|name| context.deregister_udf(name));
        table_functions.iter().for_each(|name| context.deregister_udtf(name));
        Ok(context)
    }
}

struct Started {
    schema: SchemaRef,
    first: Option<RecordBatch>,
    batches: SendableRecordBatchStream,
}

/// An answer on its way.
struct Answering {
    started: Started,
    encoder: Encoder,
    rows: u64,
    rows_max: u64,
    done: bool,
}

impl Answering {
    async fn next(&mut self) -> Option<Result<Bytes, QueryError>> {
        if self.done {
            return None;
        }
        let part = self.part().await;
        self.done |= part.is_err();
        Some(part.map(Bytes::from))
    }

    async fn part(&mut self) -> Result<Vec<u8>, QueryError> {
        let batch = match self.started.first.take() {
            Some(batch) => Some(batch),
            None => self.started.batches.next().await.transpose().map_err(failed)?,
        };
        let Some(batch) = batch else {
            self.done = true;
            return self.encoder.end(&self.started.schema).map_err(unshown);
        };
        self.rows += batch.num_rows() as u64;
        if self.rows > self.rows_max {
            let message = format!("the answer has more than {} rows (query_frontend.sql.max_rows): add a LIMIT or a filter", self.rows_max);
            return Err(QueryError::new(ErrorKind::BudgetExceeded, message));
        }
        self.encoder.batch(&batch).map_err(unshown)
    }
}

fn unshown(error: arrow::error::ArrowError) -> QueryError {
    QueryError::invalid(format!("the answer cannot be written in this form: {error}"))
}

/// Ours, where DataFusion carries it; else what it means to whoever asked.
fn failed(error: DataFusionError) -> QueryError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        if let Some(ours) = error.downcast_ref::<QueryError>() {
            return ours.clone();
        }
        cause = error.source();
    }
    let kind = match error.find_root() {
        DataFusionError::ResourcesExhausted(cause) => {
            let cause = cause.lines().next().unwrap_or_default();
            let message = format!(
                "the query needs more memory than one query may have (query_frontend.max_memory_per_query, or read.max_memory_per_query of the tenant): add a filter or a LIMIT, sort less, or group by less ({cause})"
            );
            return QueryError::new(ErrorKind::BudgetExceeded, message);
        }
        DataFusionError::Internal(_) => ErrorKind::Internal,
        _ => ErrorKind::Invalid,
    };
    // Without the backtrace that may follow.
    QueryError::new(kind, format!("SQL: {}", error.strip_backtrace()))
}
