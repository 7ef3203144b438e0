//! Compacts a store on this machine until nothing is left to merge, and says what that cost.
//!
//! usage: compact <folder of blocks> [zstd level] [max block MiB]
//!
//! No server may run on the folder. Peak memory is that of the whole process, from Linux.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use compactor::{Compactor, CompactorConfig};
use storage::{LocalConfig, Storage, StorageConfig};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(path) = arguments.next() else {
        eprintln!("usage: compact <folder of blocks> [zstd level] [max block MiB]");
        return ExitCode::from(2);
    };
    let mut config = CompactorConfig { settled_after: Duration::ZERO, ..CompactorConfig::default() };
    if let Some(level) = arguments.next().and_then(|text| text.parse().ok()) {
        (config.zstd_level, config.last_zstd_level) = (level, level);
    }
    if let Some(mib) = arguments.next().and_then(|text| text.parse::<u64>().ok()) {
        config.block_bytes_max = mib << 20;
    }
    let config_of_store = StorageConfig { local: LocalConfig { path: PathBuf::from(path) }, ..StorageConfig::default() };
    let storage = match Storage::open(&config_of_store).await {
        Ok(storage) => storage,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    print(&storage, "before").await;
    let compactor = Compactor::new(config, storage.clone());
    let began = std::time::Instant::now();
    // A settled window is one whose blocks were written before "now".
    while compactor.round(u64::MAX / 2, &CancellationToken::new()).await.more {}
    let took = began.elapsed().as_secs_f64();
    print(&storage, "after").await;
    let stats = compactor.stats();
    println!("{} merges of {} blocks in {took:.1} s, {:.0} spans/s", stats.compactions, stats.blocks_in, stats.spans as f64 / took);
    println!("{}", peak());
    ExitCode::SUCCESS
}

async fn print(storage: &Storage, when: &str) {
    let (mut blocks, mut rows, mut data, mut sidecars) = (0, 0, 0, 0);
    for tenant in storage.tenants().await.unwrap_or_default() {
        let Ok(table) = storage.table(&tenant).await else { continue };
        for block in &table.snapshot().blocks {
            blocks += 1;
            rows += block.rows;
            data += block.size_bytes;
            sidecars += block.sidecar_bytes;
        }
    }
    let each = |bytes: u64| bytes as f64 / rows.max(1) as f64;
    println!("{when}: {blocks} blocks, {rows} spans, {:.2} bytes each, and {:.2} in sidecars", each(data), each(sidecars));
}

/// `VmHWM: … kB`.
fn peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("peak memory is not known here").to_owned()
}
