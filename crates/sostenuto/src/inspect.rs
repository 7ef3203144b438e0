//! `sostenuto block inspect`: what a block holds, from a file or from the configured store.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::Context;
use block::sidecar::Sidecar;
use parquet::file::metadata::ParquetMetaDataReader;
use storage::{Backend, Storage};
use ulid::Ulid;

use crate::{
    ask::Mistake,
    cli::ConfigArgs,
    show::{
        Style,
        block::{BlockReport, SidecarReport, render},
    },
};

#[derive(clap::Args, Debug)]
pub struct InspectArgs {
    /// A Parquet file, or the id of a block in the configured store
    pub block: String,
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

pub async fn inspect(args: &InspectArgs, style: Style, out: &mut impl Write) -> anyhow::Result<bool> {
    let path = Path::new(&args.block);
    let report = if path.is_file() { of_file(path)? } else { of_store(args).await? };
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &report)?;
        writeln!(out)?;
    } else {
        out.write_all(render(&report, style).as_bytes())?;
    }
    Ok(true)
}

fn of_file(path: &Path) -> anyhow::Result<BlockReport> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let size = file.metadata()?.len();
    let footer = ParquetMetaDataReader::new()
        .parse_and_finish(&file)
        .with_context(|| format!("{} is not a Parquet file, or its footer is damaged", path.display()))?;
    let mut report = BlockReport::new(path.display().to_string(), size, &footer);
    if let Some(beside) = sidecar_of(path) {
        let bytes = std::fs::read(&beside).with_context(|| format!("cannot read {}", beside.display()))?;
        let sidecar = Sidecar::parse(&bytes).with_context(|| format!("the sidecar {}", beside.display()))?;
        report.sidecar = Some(summary(beside.display().to_string(), bytes.len() as u64, &sidecar));
    }
    Ok(report)
}

/// `<table>/<window>/<id>.parquet` has its sidecar in `<table>/_side/<id>.side`.
fn sidecar_of(path: &Path) -> Option<PathBuf> {
    let table = path.parent()?.parent()?;
    let beside = table.join("_side").join(path.with_extension("side").file_name()?);
    beside.is_file().then_some(beside)
}

/// Looks for the block in every tenant's table.
async fn of_store(args: &InspectArgs) -> anyhow::Result<BlockReport> {
    let id: Ulid = args.block.parse().map_err(|_| {
        Mistake(format!("{:?} is neither a file nor the id of a block (26 letters and digits)", args.block))
    })?;
    let config = args.config.load()?;
    config.validate()?;
    let place = config.storage.describe();
    if config.storage.backend == Backend::Local && !config.storage.local_path().is_dir() {
        anyhow::bail!("there is no store at {place}; name another with --storage.path or --config.file");
    }
    let storage = Storage::open(&config.storage.store()).await?;
    for tenant in storage.tenants().await? {
        let snapshot = storage.table(&tenant).await?.snapshot();
        let Some(entry) = snapshot.blocks.iter().find(|entry| entry.id == id) else { continue };
        let block = storage.open_block(&tenant, entry).await?;
        let name = format!("{id} of tenant {tenant} in {place}");
        let mut report = BlockReport::new(name, entry.size_bytes, &block.sidecar().footer);
        report.sidecar = Some(summary(format!("{id}.side"), entry.sidecar_bytes, block.sidecar()));
        return Ok(report);
    }
    anyhow::bail!("there is no block {id} in {place}")
}

fn summary(name: String, size_bytes: u64, sidecar: &Sidecar) -> SidecarReport {
    SidecarReport {
        name,
        size_bytes,
        traces: sidecar.stats.traces,
        attributes: sidecar.catalogue.iter().count() as u64,
        checksummed_pieces: sidecar.chunk_crcs.len() as u64,
    }
}
