//! What a span costs from the bytes of a request to the bytes of a block, in CPU time per stage, as the ingester does it:
//! runs of 16,384 rows, merged and encoded whenever 128 MiB of requests have come.
//!
//!     cargo run --release -p sostenuto-block --example ingest_cost -- FOLDER [ROUNDS [RUN_ROWS]]
//!
//! Single-threaded and without sockets, log and store, so that `perf` and `callgrind` show nothing else.

use std::{fs, path::PathBuf};

use block::{
    batch::SpanBatch,
    builder::{AttributeLimits, SpanBatchBuilder},
    merge::merge,
    promotion::PromotionPolicy,
    writer::{WriterOptions, encode},
};

type Failure = Box<dyn std::error::Error>;

const RUN_ROWS: usize = 16_384;
const CUT_BYTES: usize = 128 << 20;

/// Nanoseconds of CPU time.
#[derive(Default)]
struct Costs {
    append: u64,
    finish: u64,
    merge: u64,
    encode: u64,
    block_bytes: usize,
    blocks: usize,
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: ingest_cost FOLDER [ROUNDS [RUN_ROWS]]")?;
    let rounds: usize = arguments.next().map_or(Ok(1), |n| n.parse())?;
    let run_rows: usize = arguments.next().map_or(Ok(RUN_ROWS), |n| n.parse())?;
    let mut files: Vec<PathBuf> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "otlp"));
    files.sort();
    let requests: Vec<Vec<u8>> = files.iter().map(fs::read).collect::<std::io::Result<_>>()?;
    for _ in 0..rounds {
        let mut costs = Costs::default();
        let spans = ingest(&requests, run_rows, &mut costs)?;
        let per_span = |nanos: u64| nanos as f64 / spans as f64;
        let all = costs.append + costs.finish + costs.merge + costs.encode;
        println!(
            "{spans} spans, ns of CPU per span: append {:.0}, finish {:.0}, merge {:.0}, encode {:.0}, all {:.0}; {} blocks, {:.2} B/span",
            per_span(costs.append),
            per_span(costs.finish),
            per_span(costs.merge),
            per_span(costs.encode),
            per_span(all),
            costs.blocks,
            costs.block_bytes as f64 / spans as f64,
        );
    }
    Ok(())
}

fn ingest(requests: &[Vec<u8>], run_rows: usize, costs: &mut Costs) -> Result<u64, Failure> {
    let mut builder = SpanBatchBuilder::new(AttributeLimits::default());
    let (mut runs, mut spans, mut bytes) = (Vec::new(), 0, 0);
    let mut clock = cpu_nanos()?;
    for request in requests {
        spans += builder.append_request(request, |_| unreachable!("a run is far below the limit"))?.spans;
        bytes += request.len();
        if builder.rows() >= run_rows {
            costs.append += lap(&mut clock)?;
            runs.push(builder.finish());
            costs.finish += lap(&mut clock)?;
        }
        if bytes >= CUT_BYTES {
            bytes = 0;
            costs.append += lap(&mut clock)?;
            runs.push(builder.finish());
            costs.finish += lap(&mut clock)?;
            flush(&std::mem::take(&mut runs), &mut clock, costs)?;
        }
    }
    costs.append += lap(&mut clock)?;
    runs.push(builder.finish());
    costs.finish += lap(&mut clock)?;
    flush(&runs, &mut clock, costs)?;
    Ok(spans)
}

fn flush(runs: &[SpanBatch], clock: &mut u64, costs: &mut Costs) -> Result<(), Failure> {
    let merged = merge(runs, &PromotionPolicy::default())?;
    costs.merge += lap(clock)?;
    if merged.rows() > 0 {
        let block = encode(&merged, &WriterOptions::default())?;
        costs.block_bytes += block.data.len();
        costs.blocks += 1;
    }
    costs.encode += lap(clock)?;
    Ok(())
}

fn lap(clock: &mut u64) -> Result<u64, Failure> {
    let before = std::mem::replace(clock, cpu_nanos()?);
    Ok(*clock - before)
}

/// Time that this thread ran, kept by Linux to the nanosecond.
fn cpu_nanos() -> Result<u64, Failure> {
    let stat = fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(stat.split(' ').next().ok_or("empty /proc/thread-self/schedstat")?.parse()?)
}
