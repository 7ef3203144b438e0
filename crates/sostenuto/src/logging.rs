//! Our own log, to stderr.

use tracing_subscriber::{EnvFilter, fmt};

use crate::config::{Log, LogFormat};

/// Has the last word over `log.level`; may name modules, as `info,query=debug`.
pub const ENVIRONMENT: &str = "SOSTENUTO_LOG";

/// Libraries whose `info` is of no use to an operator.
const QUIET: &str =
    "h2=warn,hyper=warn,hyper_util=warn,tonic=warn,tower=warn,foyer=warn,datafusion=warn,object_store=warn";

/// Call once. A second call is our bug.
pub fn start(log: &Log) -> anyhow::Result<()> {
    let filter = match std::env::var(ENVIRONMENT) {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text)
            .map_err(|error| anyhow::anyhow!("{ENVIRONMENT}={text:?} is not a log filter: {error}"))?,
        _ => EnvFilter::new(format!("{},{QUIET}", log.level.as_str())),
    };
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => {
            builder.with_target(false).with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init()
        }
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).with_span_list(false).init(),
    }
    Ok(())
}
