//! What a block of given traffic costs: bytes per span and per column, and CPU time per stage.
//!
//! `cargo run --release -p sostenuto-block --example block_size -- DIR [--batches N] [--level N] [--page-rows N]
//! [--packed-page-rows N] [--group-rows N] [--out FILE]`
//! reads DIR/*.otlp (`ExportTraceServiceRequest` messages), builds N batches of them, merges those, encodes a block.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use block::{
    batch::SpanBatch,
    builder::{AttributeLimits, SpanBatchBuilder},
    merge::merge,
    promotion::PromotionPolicy,
    rebuild,
    sidecar::{self, Sidecar},
    writer::{WriterOptions, encode},
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let (mut dir, mut batches, mut options, mut out) = (None, 8, WriterOptions::default(), None);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--batches" => batches = value()?.parse()?,
            "--level" => options.zstd_level = value()?.parse()?,
            "--page-rows" => options.page_rows = value()?.parse()?,
            "--packed-page-rows" => options.packed_page_rows = value()?.parse()?,
            "--group-rows" => options.row_group_rows = value()?.parse()?,
            "--out" => out = Some(PathBuf::from(value()?)),
            _ => dir = Some(PathBuf::from(arg)),
        }
    }
    let requests = read(&dir.ok_or("name a directory with *.otlp files")?)?;
    let received: usize = requests.iter().map(Vec::len).sum();

    let (built, build_time) = timed(|| build(&requests, batches))?;
    let spans: usize = built.iter().map(SpanBatch::rows).sum();
    let (merged, merge_time) = timed(|| Ok(merge(&built, &PromotionPolicy::default())?))?;
    let (block, encode_time) = timed(|| Ok(encode(&merged, &options)?))?;
    let (opened, parse_time) = timed(|| Ok(Sidecar::parse(&block.sidecar)?))?;
    let (again, sidecar_time) = timed(|| Ok(sidecar::rebuild_from(&block.data)?))?;
    assert!(again == block.sidecar, "a rebuilt sidecar is the same");
    let (read_back, read_time) = timed(|| {
        let reader = ParquetRecordBatchReaderBuilder::try_new(block.data.clone())?.with_batch_size(8192).build()?;
        Ok(reader.collect::<Result<Vec<_>, _>>()?)
    })?;
    let (_, rebuild_time) = timed(|| Ok(rebuild::traces(&read_back)?))?;
    if let Some(path) = out {
        fs::write(path, &block.data)?;
    }

    let per_span = |bytes: usize| bytes as f64 / spans as f64;
    println!("{spans} spans, {} traces, {} requests, {received} bytes received", block.stats.traces, requests.len());
    println!("{:7.2} B/span received", per_span(received));
    println!("{:7.2} B/span in memory, merged", per_span(merged.records.get_array_memory_size()));
    println!("{:7.2} B/span in the block ({} bytes)", per_span(block.data.len()), block.data.len());
    println!("{:7.2} B/span in the sidecar ({} bytes)", per_span(block.sidecar.len()), block.sidecar.len());
    for (stage, time) in [
        ("build", build_time),
        ("merge", merge_time),
        ("encode", encode_time),
        ("parse sidecar", parse_time),
        ("rebuild sidecar", sidecar_time),
        ("read all", read_time),
        ("rebuild traces", rebuild_time),
    ] {
        let nanos = time.as_nanos() as f64 / spans as f64;
        println!("{:9.1} ms  {nanos:7.1} ns/span  {stage}", time.as_secs_f64() * 1e3);
    }
    columns(&opened, spans);
    Ok(())
}

fn read(dir: &PathBuf) -> Result<Vec<Vec<u8>>, Failure> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<_, Failure>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "otlp"));
    paths.sort();
    Ok(paths.iter().map(fs::read).collect::<Result<_, _>>()?)
}

fn build(requests: &[Vec<u8>], batches: usize) -> Result<Vec<SpanBatch>, Failure> {
    let mut built = Vec::new();
    for part in requests.chunks(requests.len().div_ceil(batches.max(1)).max(1)) {
        let mut builder = SpanBatchBuilder::new(AttributeLimits::default());
        for request in part {
            builder.append_request(request, |batch| built.push(batch))?;
        }
        built.push(builder.finish());
    }
    Ok(built)
}

/// Bytes and encodings of every column, over all row groups.
fn columns(block: &Sidecar, spans: usize) {
    let mut columns: BTreeMap<usize, (String, i64, i64, Vec<String>)> = BTreeMap::new();
    for row_group in block.footer.row_groups() {
        for (number, column) in row_group.columns().iter().enumerate() {
            let entry = columns.entry(number).or_insert_with(|| (column.column_path().string(), 0, 0, Vec::new()));
            entry.1 += column.compressed_size();
            entry.2 += column.uncompressed_size();
            for encoding in column.encodings().map(|encoding| encoding.to_string()) {
                if !entry.3.contains(&encoding) {
                    entry.3.push(encoding);
                }
            }
        }
    }
    println!("{} row groups", block.footer.num_row_groups());
    println!("{:>8} {:>8}  column", "B/span", "raw");
    for (name, compressed, raw, encodings) in columns.into_values() {
        let per_span = |bytes: i64| bytes as f64 / spans as f64;
        println!("{:8.3} {:8.3}  {name}  {}", per_span(compressed), per_span(raw), encodings.join(" "));
    }
}

/// The CPU time this thread took; elapsed time where the system does not tell.
fn timed<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<(T, Duration), Failure> {
    let (begin, cpu) = (Instant::now(), cpu_time());
    let result = work()?;
    let elapsed = begin.elapsed();
    Ok((result, cpu.and_then(|begin| cpu_time()?.checked_sub(begin)).unwrap_or(elapsed)))
}

fn cpu_time() -> Option<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(Duration::from_nanos(text.split(' ').next()?.parse().ok()?))
}
