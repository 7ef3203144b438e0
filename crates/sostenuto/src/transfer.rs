//! `sostenuto import`, `sostenuto export` and `sostenuto migrate`: what is typed, and what is shown on the way.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use chrono::DateTime;
use transfer::{
    HttpOptions, TransferError,
    export::{self, ExportOptions, export},
    import::{self, Event, ImportOptions, import},
    migrate::{Migration, NoteKind, Unreadable},
};

use crate::{
    ask::Mistake,
    client::{AccessArgs, ServerArgs},
    config::{GoDuration, environment},
    show::{Style, bytes, duration, plain, thousands},
};

/// Bad records and refusals that are shown; further ones are only counted.
const COMPLAINTS_MAX: usize = 20;
/// Between two progress lines where each is a line of its own.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// Between two changes of the line on a terminal.
const REWRITE_INTERVAL: Duration = Duration::from_millis(200);
/// The largest configuration file.
const CONFIG_BYTES_MAX: u64 = 16 << 20;

#[derive(clap::Args, Debug)]
pub struct ImportArgs {
    /// Files, folders, or URLs such as s3://bucket/tenant: OTLP, Jaeger JSON, Zipkin JSON, or Tempo blocks
    #[arg(required = true, value_name = "SOURCE")]
    pub sources: Vec<String>,
    /// The OTLP endpoint over HTTP, or over gRPC as grpc://host:port
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:4318")]
    pub to: String,
    /// The tenant; without it Tempo blocks go to the tenants that they are of
    #[arg(long, value_name = "ID")]
    pub tenant: Option<String>,
    #[command(flatten)]
    pub access: AccessArgs,
    #[command(flatten)]
    pub headers: HeaderArgs,
    /// Read and count, and send nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Where to keep how far it came, for the next run to go on there
    #[arg(long, value_name = "FILE", default_value = "sostenuto-import.json")]
    pub state: PathBuf,
    /// Begin again, whatever an earlier run did
    #[arg(long)]
    pub restart: bool,
    /// Requests under way at once
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub concurrency: u8,
    /// How long to repeat a request that may pass later
    #[arg(long, default_value = "5m", value_name = "DURATION")]
    pub retry_for: GoDuration,
}

#[derive(clap::Args, Debug)]
pub struct ExportArgs {
    /// A TraceQL search; every trace that it finds is written whole
    pub query: String,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub headers: HeaderArgs,
    #[arg(long, value_enum)]
    pub format: ExportFormat,
    /// The file to write; one that ends in .gz or .zst is compressed
    #[arg(long, short, value_name = "FILE")]
    pub out: PathBuf,
    /// How far back to look
    #[arg(long, default_value = "1h", value_name = "DURATION", conflicts_with = "start")]
    pub since: GoDuration,
    /// The beginning: unix seconds, or a time such as 2026-11-21T13:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub start: Option<u64>,
    /// The end, exclusive; now without it
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub end: Option<u64>,
    /// Traces under way at once
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub concurrency: u8,
    /// How long to repeat a request that may pass later
    #[arg(long, default_value = "5m", value_name = "DURATION")]
    pub retry_for: GoDuration,
}

#[derive(clap::Args, Debug)]
pub struct HeaderArgs {
    /// A header, as "Authorization: Bearer ...", or @FILE with one on each line; may be repeated
    #[arg(long = "header", value_name = "HEADER")]
    pub headers: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportFormat {
    /// OTLP, a request a line
    OtlpJson,
    /// OTLP in protobuf, each request behind four bytes of length
    OtlpProto,
    /// As Jaeger UI reads it
    JaegerJson,
    /// A row for each span
    Parquet,
}

#[derive(clap::Args, Debug)]
pub struct MigrateTempoArgs {
    /// Tempo's file; - is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

fn moment(text: &str) -> Result<u64, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let time = DateTime::parse_from_rfc3339(text).ok().and_then(|time| u64::try_from(time.timestamp()).ok());
    time.ok_or_else(|| "write unix seconds, or a time such as 2026-11-21T13:00:00Z".to_owned())
}

/// How to speak to a server.
fn http(
    url: &str,
    tenant: Option<&String>,
    access: &AccessArgs,
    headers: &HeaderArgs,
    patience: GoDuration,
) -> anyhow::Result<HttpOptions> {
    let mut out = vec![];
    if let Some(value) = access.authorization()? {
        out.push(format!("authorization: {}", value.to_str()?));
    }
    for header in &headers.headers {
        match header.strip_prefix('@') {
            None => out.push(header.clone()),
            Some(path) => {
                let text = fs::read_to_string(path).with_context(|| format!("cannot read the headers in {path}"))?;
                out.extend(text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned));
            }
        }
    }
    let authorities = match &access.ca_file {
        Some(path) => fs::read(path).with_context(|| format!("cannot read {}", path.display()))?,
        None => vec![],
    };
    let (url, tenant) = (url.to_owned(), tenant.cloned());
    Ok(HttpOptions { url, tenant, headers: out, authorities, patience: patience.0 })
}

/// What was typed wrong has another exit code.
fn explained(error: TransferError) -> anyhow::Error {
    match error {
        TransferError::Mistake(text) => Mistake(text).into(),
        error => error.into(),
    }
}

/// A line that is rewritten in place on a terminal, and written now and then elsewhere.
struct ProgressLine {
    style: Style,
    shown: Option<Instant>,
}

impl ProgressLine {
    fn show(&mut self, err: &mut impl Write, line: impl FnOnce() -> String) -> io::Result<()> {
        let interval = if self.style.interactive { REWRITE_INTERVAL } else { LINE_INTERVAL };
        if self.shown.is_some_and(|shown| shown.elapsed() < interval) {
            return Ok(());
        }
        // The first line elsewhere comes when there is something to say.
        let first = self.shown.replace(Instant::now()).is_none();
        match self.style.interactive {
            true => write!(err, "\r\x1b[2K{}", line())?,
            false if first => {}
            false => writeln!(err, "{}", line())?,
        }
        err.flush()
    }

    fn clear(&mut self, err: &mut impl Write) -> io::Result<()> {
        if self.style.interactive && self.shown.take().is_some() {
            write!(err, "\r\x1b[2K")?;
        }
        Ok(())
    }
}

/// True if everything that there was is stored.
pub async fn run_import(args: &ImportArgs, style: Style, out: &mut impl Write) -> anyhow::Result<bool> {
    let options = ImportOptions {
        sources: args.sources.clone(),
        to: http(&args.to, args.tenant.as_ref(), &args.access, &args.headers, args.retry_for)?,
        state: args.state.clone(),
        restart: args.restart,
        dry_run: args.dry_run,
        concurrency: args.concurrency.into(),
        object_stores: environment(),
    };
    let mut err = io::stderr();
    let mut line = ProgressLine { style, shown: None };
    let (mut complaints, mut before) = (0, 0);
    let mut tell = |event: Event<'_>| {
        let complaint = match event {
            Event::Progress(progress) => {
                let _ = line.show(&mut err, || import_line(progress));
                return;
            }
            Event::Before { .. } => {
                before += 1;
                return;
            }
            Event::Bad { source, at, reason } => format!("{source}, {at}: {reason}"),
            Event::Unreadable { source, reason } => format!("{source}: the rest cannot be read: {reason}"),
            Event::Rejected { source, records, spans: 0, said } => {
                format!("{source}, up to record {records}: the endpoint says: {said}")
            }
            Event::Rejected { source, records, spans, said } => {
                format!("{source}, up to record {records}: {} spans were refused: {said}", thousands(spans))
            }
        };
        complaints += 1;
        let _ = line.clear(&mut err);
        if complaints <= COMPLAINTS_MAX {
            let _ = writeln!(err, "{}", style.red(&plain(&complaint)));
        } else if complaints == COMPLAINTS_MAX + 1 {
            let _ = writeln!(err, "Further ones are only counted.");
        }
    };
    let outcome = import(&options, &mut tell).await;
    line.clear(&mut io::stderr())?;
    let progress = match outcome {
        Ok(progress) => progress,
        Err(error) => {
            let resumable = args.state.exists() && !args.dry_run && !matches!(error, TransferError::Mistake(_));
            if resumable {
                writeln!(io::stderr(), "The same command goes on where this one ended ({}).", args.state.display())?;
            }
            return Err(explained(error));
        }
    };
    if before > 0 {
        writeln!(
            out,
            "{} of {} sources were done in an earlier run, as {} says; --restart sends them again.",
            thousands(before),
            thousands(progress.sources as u64),
            args.state.display()
        )?;
    }
    let verb = if args.dry_run { "found" } else { "stored" };
    let earlier = match progress.accepted_before {
        0 => String::new(),
        count => format!(" ({} more in earlier runs)", thousands(count)),
    };
    writeln!(
        out,
        "{} spans {verb}{earlier}, {} refused, {} bad records, {} unreadable of {} sources, in {}",
        thousands(progress.accepted),
        thousands(progress.rejected),
        thousands(progress.bad),
        thousands(progress.unreadable),
        thousands(progress.sources as u64),
        duration(progress.elapsed.as_nanos() as u64),
    )?;
    Ok(progress.is_complete())
}

fn import_line(progress: &import::Progress) -> String {
    let percent = progress.bytes_read as f64 * 100.0 / progress.bytes.max(1) as f64;
    let remaining = progress.remaining().map_or(String::new(), |left| format!(", about {} left", rounded(left)));
    let retries =
        if progress.repeated > 0 { format!(", {} sent again", thousands(progress.repeated)) } else { String::new() };
    format!(
        "{percent:3.0}%  {} of {}  {} spans, {}/s{retries}  {} refused, {} bad{remaining}",
        bytes(progress.bytes_read),
        bytes(progress.bytes),
        thousands(progress.accepted),
        thousands(progress.spans_per_second() as u64),
        thousands(progress.rejected),
        thousands(progress.bad),
    )
}

/// Whole seconds.
fn rounded(time: Duration) -> GoDuration {
    GoDuration(Duration::from_secs(time.as_secs_f64().round() as u64))
}

/// True if everything that was found is in the file.
pub async fn run_export(args: &ExportArgs, style: Style, out: &mut impl Write) -> anyhow::Result<bool> {
    traceql::parse(&args.query).map_err(|error| Mistake(error.render(&args.query).trim_end().to_owned()))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let start_s = args.start.unwrap_or_else(|| now.saturating_sub(args.since.0).as_secs());
    // The end is exclusive in seconds: the second that is running belongs to the answer.
    let end_s = args.end.unwrap_or(now.as_secs() + 1);
    if start_s >= end_s {
        return Err(Mistake("the start must be before the end".to_owned()).into());
    }
    let options = ExportOptions {
        server: http(
            &args.server.server,
            args.server.tenant.as_ref(),
            &args.server.access,
            &args.headers,
            args.retry_for,
        )?,
        query: args.query.clone(),
        start_s,
        end_s,
        format: match args.format {
            ExportFormat::OtlpJson => export::Format::OtlpJson,
            ExportFormat::OtlpProto => export::Format::OtlpProto,
            ExportFormat::JaegerJson => export::Format::JaegerJson,
            ExportFormat::Parquet => export::Format::Parquet,
        },
        out: args.out.clone(),
        concurrency: args.concurrency.into(),
    };
    let mut err = io::stderr();
    let mut line = ProgressLine { style, shown: None };
    let outcome =
        export(&options, &mut |progress| drop(line.show(&mut err, || export_line(progress)))).await;
    line.clear(&mut io::stderr())?;
    let progress = outcome.map_err(explained)?;
    writeln!(
        out,
        "{} traces with {} spans in {}, in {}",
        thousands(progress.traces),
        thousands(progress.spans),
        args.out.display(),
        duration(progress.elapsed.as_nanos() as u64),
    )?;
    if progress.gone > 0 {
        writeln!(out, "{}", style.red(&format!("{} traces were found and then gone.", thousands(progress.gone))))?;
    }
    if let Some(lacks) = &progress.lacks {
        writeln!(out, "{}", style.red(&format!("Partial: {}", plain(lacks))))?;
    }
    Ok(progress.is_complete())
}

fn export_line(progress: &export::Progress) -> String {
    let share = progress.share;
    let left = (share > 0.0).then(|| progress.elapsed.mul_f64((1.0 - share) / share));
    let remaining = left.map_or(String::new(), |left| format!(", about {} left", rounded(left)));
    format!(
        "{:3.0}%  {} traces  {} spans  {}, {} spans/s{remaining}",
        share * 100.0,
        thousands(progress.traces),
        thousands(progress.spans),
        bytes(progress.bytes),
        thousands((progress.spans as f64 / progress.elapsed.as_secs_f64().max(1e-3)) as u64),
    )
}

/// Prints on `out` what becomes of a file; how many keys want a look goes to standard error.
pub fn migrated(
    args: &MigrateTempoArgs,
    migrate: fn(&str) -> Result<Migration, Unreadable>,
    out: &mut impl Write,
) -> anyhow::Result<bool> {
    let name = args.file.display().to_string();
    let text = read_config(&args.file).with_context(|| format!("cannot read {name}"))?;
    let migration = migrate(&text).with_context(|| name)?;
    out.write_all(migration.yaml.as_bytes())?;
    let count = |kind| thousands(migration.notes.iter().filter(|note| note.kind == kind).count() as u64);
    writeln!(
        io::stderr(),
        "{} keys taken over, {} to look at, {} not here, {} not needed, {} unknown; the comments in front say which and why.",
        count(NoteKind::Mapped),
        count(NoteKind::Attention),
        count(NoteKind::Unsupported),
        count(NoteKind::NotNeeded),
        count(NoteKind::Unknown),
    )?;
    Ok(true)
}

fn read_config(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read: Box<dyn Read> =
        if path == Path::new("-") { Box::new(io::stdin()) } else { Box::new(fs::File::open(path)?) };
    read.take(CONFIG_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}
