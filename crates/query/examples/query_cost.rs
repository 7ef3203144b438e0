//! What queries cost over a local store, in CPU time of all threads, without sockets and messages.
//!
//!     cargo run --release -p sostenuto-query --example query_cost -- BLOCKS START END ROUNDS QUERY...
//!
//! BLOCKS is the folder `blocks` of a store, START and END are Unix seconds. Each query is asked once with nothing in memory but
//! what the ones before left, and then ROUNDS times. `values NAME` asks for the values of a name, `traces ID,ID,...` for traces.

use std::{fs, sync::Arc, time::Instant};

use model::{TenantId, TraceId};
use query::{Engine, EngineConfig, MetricsRequest, NoLiveData, SearchFilter, SearchRequest, TagValuesRequest, TimeRange, TraceRequest};
use storage::{Storage, StorageConfig};
use traceql::ast::QueryBody;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("usage: query_cost BLOCKS START END ROUNDS QUERY...");
    let mut config = StorageConfig::default();
    config.local.path = next()?.into();
    let seconds = |text: String| Ok::<i64, Failure>(text.parse::<i64>()? * 1_000_000_000);
    let range = TimeRange { start: seconds(next()?)?, end: seconds(next()?)? };
    let rounds: u32 = next()?.parse()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let engine = Engine::new(Storage::open(&config).await?, Arc::new(NoLiveData), EngineConfig::default());
        for query in arguments {
            let (cpu, began) = (cpu_nanos()?, Instant::now());
            let results = ask(&engine, &query, range).await?;
            let (first_cpu, first) = (cpu_nanos()? - cpu, began.elapsed());
            let (cpu, began) = (cpu_nanos()?, Instant::now());
            for _ in 0..rounds {
                ask(&engine, &query, range).await?;
            }
            let each = |nanos: u64| nanos as f64 / 1e6 / f64::from(rounds.max(1));
            println!(
                "{query}: {results} results; first {:.0} ms of CPU, {} ms; then {:.1} ms of CPU, {:.1} ms; {} MB",
                first_cpu as f64 / 1e6,
                first.as_millis(),
                each(cpu_nanos()? - cpu),
                each(began.elapsed().as_nanos() as u64),
                memory_mb()?,
            );
        }
        Ok(())
    })
}

/// How many traces, series, values or spans are found.
async fn ask(engine: &Engine, query: &str, range: TimeRange) -> Result<usize, Failure> {
    let tenants = [TenantId::single()];
    if let Some(name) = query.strip_prefix("values ") {
        let request = TagValuesRequest { name: name.to_owned(), query: String::new(), range: Some(range), limit: 0 };
        return Ok(engine.tag_values(&tenants, request).await?.tag_values.len());
    }
    if let Some(ids) = query.strip_prefix("traces ") {
        let mut spans = 0;
        for id in ids.split(',') {
            let request = TraceRequest { id: TraceId::parse(id)?, range: Some(range) };
            let trace = engine.trace_by_id(&tenants, request).await?.trace.unwrap_or_default();
            spans += trace.resource_spans.iter().flat_map(|r| &r.scope_spans).map(|scope| scope.spans.len()).sum::<usize>();
        }
        return Ok(spans);
    }
    if let QueryBody::Metrics(_) = traceql::parse(query)?.body {
        let TimeRange { start, end } = range;
        let (query, step) = (query.to_owned(), Some(5_000_000_000));
        let request = MetricsRequest { query, start, end, step, exemplars: None, exemplars_max: 100, series_max: None };
        return Ok(engine.query_range(&tenants, request).await?.series.len());
    }
    let filter = SearchFilter::TraceQl(query.to_owned());
    let request = SearchRequest { filter, range: Some(range), limit: 20, spans_per_spanset: 3 };
    Ok(engine.search(&tenants, request).await?.traces.len())
}

fn cpu_nanos() -> Result<u64, Failure> {
    let mut all = 0;
    for thread in fs::read_dir("/proc/self/task")? {
        let stat = fs::read_to_string(thread?.path().join("schedstat"))?;
        all += stat.split(' ').next().ok_or("empty schedstat")?.parse::<u64>()?;
    }
    Ok(all)
}

fn memory_mb() -> Result<u64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS")).ok_or("no VmRSS in /proc/self/status")?;
    Ok(line.split_whitespace().nth(1).ok_or("VmRSS without a figure")?.parse::<u64>()? / 1024)
}
