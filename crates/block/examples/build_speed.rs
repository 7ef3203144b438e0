//! How fast spans become a batch: reads every `*.otlp` file of a folder (one `ExportTraceServiceRequest` each) and
//! prints spans per CPU-second for reading alone, for building, and for finishing.
//!
//!     cargo run --release -p sostenuto-block --example build_speed -- FOLDER [ROUNDS]

use std::{hint::black_box, path::PathBuf};

use block::builder::{AttributeLimits, SpanBatchBuilder};
use proto::wire::{SpanView, resource_spans};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("usage: build_speed FOLDER [ROUNDS]")?);
    let rounds: usize = arguments.next().map_or(Ok(3), |n| n.parse())?;
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "otlp"));
    files.sort();
    let requests: Vec<Vec<u8>> = files.iter().map(std::fs::read).collect::<std::io::Result<_>>()?;

    for _ in 0..rounds {
        let start = cpu_seconds()?;
        let mut values = 0usize;
        for request in &requests {
            for resource in resource_spans(request) {
                for scope in resource?.scopes() {
                    for span in scope?.spans() {
                        values += SpanView::parse(span?)?.attributes().map(black_box).count();
                    }
                }
            }
        }
        black_box(values);
        let read = cpu_seconds()?;
        let mut builder = SpanBatchBuilder::new(AttributeLimits::default());
        let (mut spans, mut batches) = (0, Vec::new());
        for request in &requests {
            spans += builder.append_request(request, |batch| batches.push(batch))?.spans;
        }
        let (built, estimate) = (cpu_seconds()?, builder.bytes());
        batches.push(builder.finish());
        let finished = cpu_seconds()?;
        let columns = batches.iter().map(|batch| batch.records.num_columns()).max().unwrap_or_default();
        let memory: usize = batches.iter().map(|batch| batch.records.get_array_memory_size()).sum();
        let speed = |seconds: f64| spans as f64 / seconds.max(0.005) / 1e3;
        println!(
            "{spans} spans: read alone {:.0} k/s, read and build {:.0} k/s, finish {:.0} k/s, build and finish {:.0} k/s; \
             {columns} columns; estimate {} MiB, batch {} MiB",
            speed(read - start),
            speed(built - read),
            speed(finished - built),
            speed(finished - read),
            estimate >> 20,
            memory >> 20,
        );
    }
    Ok(())
}

/// User and system time of this process; Linux counts it in hundredths of a second.
fn cpu_seconds() -> Result<f64, Box<dyn std::error::Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit_once(')').ok_or("unreadable /proc/self/stat")?.1.split_whitespace().collect();
    let ticks = |index: usize| -> Result<f64, Box<dyn std::error::Error>> { Ok(fields.get(index).ok_or("short stat")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}
