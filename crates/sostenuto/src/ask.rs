//! `sostenuto query` and `sostenuto trace`: ask a server and show the answer.

use std::{
    io::{self, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use model::TraceId;
use prost::Message;
use proto::tempopb::{PartialStatus, TraceByIdResponse};
use traceql::ast::QueryBody;

use crate::{
    client::{Answer, Server, ServerArgs},
    config::GoDuration,
    show::{Style, explain, plain, search, series, waterfall},
};

#[derive(clap::Args, Debug)]
pub struct QueryArgs {
    /// A TraceQL query, such as '{ status = error && resource.service.name = "checkout" }'
    pub query: String,
    #[command(flatten)]
    pub server: ServerArgs,
    /// How far back to look
    #[arg(long, default_value = "1h", value_name = "DURATION")]
    pub since: GoDuration,
    /// The most traces to show
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    /// Print the server's answer as it is
    #[arg(long)]
    pub json: bool,
    /// Show also how the answer was made: what was looked at, what was left out and why, what took how long
    #[arg(long)]
    pub explain: bool,
}

#[derive(clap::Args, Debug)]
pub struct SqlArgs {
    /// A SELECT over the table spans, such as 'SELECT service_name, count(*) FROM spans GROUP BY service_name'
    pub text: String,
    #[command(flatten)]
    pub server: ServerArgs,
    /// How rows are written
    #[arg(long, value_enum, default_value_t = SqlForm::Csv)]
    pub format: SqlForm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SqlForm {
    /// Names of columns, then a line for each row
    Csv,
    /// A list of objects
    Json,
    /// Arrow's IPC stream
    Arrow,
}

#[derive(clap::Args, Debug)]
pub struct TraceArgs {
    /// The trace's id: up to 32 hexadecimal digits
    pub id: String,
    #[command(flatten)]
    pub server: ServerArgs,
    /// Print the trace as JSON
    #[arg(long)]
    pub json: bool,
}

/// A mistake in what was typed, already explained.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Mistake(pub String);

pub async fn query(args: &QueryArgs, style: Style, out: &mut impl Write) -> anyhow::Result<bool> {
    let parsed =
        traceql::parse(&args.query).map_err(|error| Mistake(error.render(&args.query).trim_end().to_owned()))?;
    let server = Server::new(&args.server)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let start = now.saturating_sub(args.since.0).as_secs();
    // The end is exclusive in seconds: the second that is running belongs to the answer.
    let end = now.as_secs() + 1;
    let mut parameters = vec![("q", args.query.clone()), ("start", start.to_string()), ("end", end.to_string())];
    let metrics = matches!(parsed.body, QueryBody::Metrics(_));
    let path: &[&str] = if metrics { &["api", "metrics", "query_range"] } else { &["api", "search"] };
    if !metrics {
        parameters.push(("limit", args.limit.to_string()));
    }
    if args.explain {
        parameters.push(("explain", "true".to_owned()));
    }
    let Answer { body, partial } = server
        .get(path, &parameters, "application/json")
        .await?
        .context("this server has no such API; is --server a Sostenuto or Tempo query address?")?;
    if args.json {
        out.write_all(&body)?;
        writeln!(out)?;
        return Ok(true);
    }
    let unreadable = "the answer is not what a Tempo-compatible server sends";
    let text = if metrics {
        series::render(&serde_json::from_slice(&body).context(unreadable)?, style)
    } else {
        search::render(&serde_json::from_slice(&body).context(unreadable)?, args.limit, style)
    };
    out.write_all(text.as_bytes())?;
    // Series say it themselves.
    if let Some(partial) = partial.filter(|_| !metrics) {
        writeln!(out, "{}", style.red(&format!("Partial: {}", plain(&partial))))?;
    }
    if args.explain {
        let answer: serde_json::Value = serde_json::from_slice(&body).context(unreadable)?;
        out.write_all(explain::render(&answer["explain"], style).as_bytes())?;
    }
    Ok(true)
}

/// Writes rows as they come.
pub async fn sql(args: &SqlArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let accept = match args.format {
        SqlForm::Csv => "text/csv",
        SqlForm::Json => "application/json",
        SqlForm::Arrow => "application/vnd.apache.arrow.stream",
    };
    let server = Server::new(&args.server)?;
    let partial = server.post(&["api", "sql"], args.text.clone(), accept, out).await?;
    if let Some(partial) = partial {
        writeln!(io::stderr(), "Partial: {}", plain(&partial))?;
    }
    Ok(true)
}

/// True if the trace is there.
pub async fn trace(args: &TraceArgs, style: Style, out: &mut impl Write) -> anyhow::Result<bool> {
    let id = TraceId::parse(&args.id).map_err(|error| Mistake(error.to_string()))?.to_string();
    let server = Server::new(&args.server)?;
    let accept = if args.json { "application/json" } else { "application/protobuf" };
    let body = server.get(&["api", "v2", "traces", &id], &[], accept).await?.map(|answer| answer.body).unwrap_or_default();
    if args.json {
        let known = serde_json::from_slice::<serde_json::Value>(&body)
            .is_ok_and(|answer| answer["trace"]["resourceSpans"].as_array().is_some_and(|spans| !spans.is_empty()));
        out.write_all(&body)?;
        writeln!(out)?;
        return Ok(known);
    }
    let answer =
        TraceByIdResponse::decode(body.as_slice()).context("the answer is not what a Tempo-compatible server sends")?;
    let text = waterfall::render(&answer.trace.unwrap_or_default(), style);
    if text.is_empty() {
        writeln!(io::stderr(), "There is no trace {id} on {}.", args.server.server)?;
        return Ok(false);
    }
    out.write_all(text.as_bytes())?;
    if answer.status == PartialStatus::Partial as i32 {
        writeln!(out, "{}", style.red(&format!("Partial: {}", plain(&answer.message))))?;
    }
    Ok(true)
}
