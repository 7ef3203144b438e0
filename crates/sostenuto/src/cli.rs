//! The command line: each option is defined here or beside the command that reads it, and nowhere else.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use crate::{
    ask::{self, Mistake, QueryArgs, SqlArgs, TraceArgs},
    config::{Config, Target, environment},
    demo::{self, DemoArgs},
    inspect::{self, InspectArgs},
    keys::{self, CreateArgs},
    limits,
    retention::{self, PlanArgs},
    serve,
    show::Style,
    transfer::{self, ExportArgs, ImportArgs, MigrateTempoArgs},
};

/// A store for distributed traces: OTLP in, TraceQL out, one binary and a bucket.
#[derive(Parser, Debug)]
#[command(name = "sostenuto", version, arg_required_else_help = true, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "Try:\n  sostenuto serve\n  sostenuto demo\n  sostenuto query '{ status = error }'";

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Receive, store and find traces
    Serve(ServeArgs),
    /// Send the traffic of a small shop to an OTLP endpoint
    Demo(DemoArgs),
    /// Find traces, or compute series of them
    Query(QueryArgs),
    /// Ask for rows with SQL
    Sql(SqlArgs),
    /// Show one trace as a waterfall
    Trace(TraceArgs),
    /// Look into blocks
    #[command(subcommand)]
    Block(BlockCommand),
    /// Send what files and Tempo blocks hold to an OTLP endpoint
    Import(ImportArgs),
    /// Write the traces that a query finds to a file
    Export(ExportArgs),
    /// Turn the configuration of another store into ours
    #[command(subcommand)]
    Migrate(MigrateCommand),
    /// See how long traces are kept
    #[command(subcommand)]
    Retention(RetentionCommand),
    /// Make API keys
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Read the configuration and say what is wrong with it
    CheckConfig(ConfigArgs),
}

#[derive(Subcommand, Debug)]
pub enum BlockCommand {
    /// Columns, sizes, encodings and row groups of a block
    Inspect(InspectArgs),
}

#[derive(Subcommand, Debug)]
pub enum KeysCommand {
    /// Make a key: prints it once, and the line for authentication.keys_file
    Create(CreateArgs),
}

#[derive(Subcommand, Debug)]
pub enum RetentionCommand {
    /// What each rule keeps of what is stored, and what would be deleted now; changes nothing
    Plan(PlanArgs),
}

#[derive(Subcommand, Debug)]
pub enum MigrateCommand {
    /// Print a configuration of Tempo as ours, with a word on each key
    Tempo(MigrateTempoArgs),
    /// Print Tempo's limits of single tenants, the file that per_tenant_override_config names, as ours
    TempoOverrides(MigrateTempoArgs),
}

#[derive(clap::Args, Clone, Debug, Default)]
pub struct ConfigArgs {
    /// The configuration file; without one everything has its default
    #[arg(short = 'c', long = "config.file", value_name = "FILE", env = "SOSTENUTO_CONFIG")]
    pub file: Option<PathBuf>,
    /// Where to keep data; has the last word over the file's storage.path
    #[arg(long = "storage.path", value_name = "DIR")]
    pub storage_path: Option<PathBuf>,
}

#[derive(clap::Args, Clone, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Which roles to play
    #[arg(long, value_enum)]
    pub target: Option<Target>,
    /// Listen on this address on every port, such as 0.0.0.0 in a container
    #[arg(long, value_name = "HOST")]
    pub listen: Option<String>,
    /// Print the configuration in effect, without secrets, and exit
    #[arg(long)]
    pub print_config: bool,
}

impl ConfigArgs {
    pub fn load(&self) -> anyhow::Result<Config> {
        let mut config = match &self.file {
            Some(path) => Config::load(path, environment())?,
            None => Config::default(),
        };
        if let Some(path) = &self.storage_path {
            config.storage.path.clone_from(path);
        }
        Ok(config)
    }
}

impl ServeArgs {
    pub fn load(&self) -> anyhow::Result<Config> {
        let mut config = self.config.load()?;
        if let Some(target) = self.target {
            config.target = target;
        }
        if let Some(host) = &self.listen {
            config.listen_on(host);
        }
        config.validate()?;
        Ok(config)
    }
}

/// Everything went as asked.
const DONE: u8 = 0;
/// It did not: the server refused, nothing listens, the trace is not there.
const FAILED: u8 = 1;
/// What was typed cannot be meant. clap uses the same number.
const MISTYPED: u8 = 2;

/// Runs what was typed and says how it went.
pub fn run(cli: &Cli) -> ExitCode {
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(dispatch(cli)));
    match result {
        Ok(true) => DONE.into(),
        Ok(false) => FAILED.into(),
        // Whoever read our output has seen enough, as `head` does.
        Err(error) if closed_pipe(&error) => DONE.into(),
        Err(error) => {
            let mistake = error.is::<Mistake>();
            let _ = writeln!(io::stderr(), "error: {}", chain(&error));
            if mistake { MISTYPED.into() } else { FAILED.into() }
        }
    }
}

async fn dispatch(cli: &Cli) -> anyhow::Result<bool> {
    let columns = comfy_table::Table::new().width();
    let (out, err) = (io::stdout(), io::stderr());
    let style = Style::detect(&out, columns);
    match &cli.command {
        Command::Serve(args) => {
            let config = args.load()?;
            if args.print_config {
                out.lock().write_all(config.effective_yaml().as_bytes())?;
                return Ok(true);
            }
            serve::run(config).await
        }
        Command::Demo(args) => demo::run(args, &mut io::stderr(), Style::detect(&err, columns)).await,
        Command::Query(args) => ask::query(args, style, &mut io::stdout()).await,
        Command::Sql(args) => ask::sql(args, &mut io::stdout()).await,
        Command::Trace(args) => ask::trace(args, style, &mut io::stdout()).await,
        Command::Block(BlockCommand::Inspect(args)) => inspect::inspect(args, style, &mut io::stdout()).await,
        Command::Retention(RetentionCommand::Plan(args)) => retention::plan(args, style, &mut io::stdout()).await,
        Command::Keys(KeysCommand::Create(args)) => keys::create(args, &mut io::stdout()),
        Command::Import(args) => {
            transfer::run_import(args, Style::detect(&err, columns), &mut io::stdout()).await
        }
        Command::Export(args) => {
            transfer::run_export(args, Style::detect(&err, columns), &mut io::stdout()).await
        }
        Command::Migrate(MigrateCommand::Tempo(args)) => transfer::migrated(args, ::transfer::migrate::tempo, &mut io::stdout()),
        Command::Migrate(MigrateCommand::TempoOverrides(args)) => {
            transfer::migrated(args, ::transfer::migrate::tempo_overrides, &mut io::stdout())
        }
        Command::CheckConfig(args) => {
            let config = args.load()?;
            config.validate()?;
            let name =
                args.file.as_ref().map_or("the default configuration".to_owned(), |file| file.display().to_string());
            let tenants = match config.overrides.per_tenant_override_config.clone() {
                Some(file) if file.exists() => {
                    limits::file(&config, file)?;
                    String::new()
                }
                Some(file) => format!("; {} is not here and was not read", file.display()),
                None => String::new(),
            };
            writeln!(out.lock(), "{name} is good; blocks would go to {}{tenants}", config.storage.describe())?;
            Ok(true)
        }
    }
}

fn closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// The error and its causes in one line, without repeating what a message already says.
fn chain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
