//! The tools: their descriptions, and what they do.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::HeaderMap;
use proto::jsonpb;
use serde_json::{Map, Value, json};

use crate::{
    Failure,
    ask::{self, AskedMetrics, AskedRange, AskedSearch, AskedTagNames, AskedTagValues},
    llm, moment, params,
    query_string::Parameters,
    shape,
    state::{Shared, now},
};

/// What an agent can read at once, with room to spare.
const ANSWER_BYTES_MAX: usize = 512 << 10;
/// Of names and values.
const LISTED_MAX: u32 = 1000;

/// Name, what it does, its arguments: each with what it is and whether it must be given.
struct Tool {
    name: &'static str,
    about: &'static str,
    arguments: &'static [(&'static str, &'static str, bool)],
}

const QUERY: (&str, &str, bool) = ("query", "TraceQL, such as { resource.service.name = \"checkout\" && status = error }", true);
const METRICS: (&str, &str, bool) = ("query", "TraceQL metrics, such as { status = error } | rate() by (resource.service.name)", true);
const START: (&str, &str, bool) = ("start", "Begin of the time range, RFC 3339; an hour ago unless given", false);
const END: (&str, &str, bool) = ("end", "End of the time range, RFC 3339; now unless given", false);

const TOOLS: [Tool; 8] = [
    Tool { name: "traceql-search", about: "Finds traces with a TraceQL query; newest first", arguments: &[QUERY, START, END] },
    Tool { name: "traceql-metrics-instant", about: "Computes one number per series over a time range", arguments: &[METRICS, START, END] },
    Tool { name: "traceql-metrics-range", about: "Computes series over time", arguments: &[METRICS, START, END] },
    Tool { name: "get-trace", about: "All spans of one trace", arguments: &[("trace_id", "Hexadecimal, as searches show it", true)] },
    Tool {
        name: "get-attribute-names",
        about: "Names of attributes that spans have, to write queries with",
        arguments: &[("scope", "resource, span, event, link, instrumentation, intrinsic or none for all", false)],
    },
    Tool {
        name: "get-attribute-values",
        about: "Values that an attribute has",
        arguments: &[
            ("name", "With its scope, such as resource.service.name or span.http.route", true),
            ("filter-query", "TraceQL filter: only values of matching spans", false),
        ],
    },
    Tool {
        name: "docs-traceql",
        about: "How to write TraceQL",
        arguments: &[("name", "basic, aggregates, structural or metrics", true)],
    },
    Tool {
        name: "docs-config",
        about: "How to configure this server",
        arguments: &[("name", "overview or reference", true)],
    },
];

/// Scheme and text of each page.
const PAGES: [(&str, &str); 7] = [
    ("docs://traceql/basic", include_str!("docs/basic.md")),
    ("docs://traceql/aggregates", include_str!("docs/aggregates.md")),
    ("docs://traceql/structural", include_str!("docs/structural.md")),
    ("docs://traceql/metrics", include_str!("docs/metrics.md")),
    ("docs://traceql/query", include_str!("docs/query.md")),
    ("docs://config/overview", include_str!("docs/config.md")),
    ("docs://config/reference", include_str!("../../../../config/local.yaml")),
];

/// Calls of each tool.
#[derive(Default)]
pub(crate) struct Calls([AtomicU64; TOOLS.len()]);

impl Calls {
    pub(crate) fn counts(&self) -> Vec<(String, f64)> {
        TOOLS.iter().zip(&self.0).map(|(tool, count)| (tool.name.to_owned(), count.load(Relaxed) as f64)).collect()
    }
}

pub(super) fn list() -> Vec<Value> {
    let tool = |tool: &Tool| {
        let properties: Map<String, Value> = tool
            .arguments
            .iter()
            .map(|(name, about, _)| ((*name).to_owned(), json!({ "type": "string", "description": about })))
            .collect();
        let required: Vec<&str> = tool.arguments.iter().filter(|(.., required)| *required).map(|(name, ..)| *name).collect();
        json!({
            "name": tool.name,
            "description": tool.about,
            "inputSchema": { "type": "object", "properties": properties, "required": required },
            "annotations": { "readOnlyHint": true },
        })
    };
    TOOLS.iter().map(tool).collect()
}

pub(super) fn resources() -> Vec<Value> {
    let page = |(uri, _): &(&str, &str)| json!({ "uri": uri, "name": uri.trim_start_matches("docs://"), "mimeType": "text/markdown" });
    PAGES.iter().map(page).collect()
}

pub(super) fn resource(uri: &str) -> Option<&'static str> {
    PAGES.iter().find(|(known, _)| *known == uri).map(|(_, text)| *text)
}

/// A tool's result; `None` if there is no such tool.
pub(super) async fn call(api: &Shared, headers: &HeaderMap, name: &str, arguments: &Value) -> Option<Value> {
    let number = TOOLS.iter().position(|tool| tool.name == name)?;
    api.mcp_calls.0[number].fetch_add(1, Relaxed);
    let arguments = Arguments { tool: &TOOLS[number], given: arguments };
    Some(match run(api, headers, &arguments).await {
        Ok(Answer { kind, encoding, text }) if text.len() <= ANSWER_BYTES_MAX => json!({
            "content": [{ "type": "text", "text": text }],
            "_meta": { "type": kind, "encoding": encoding, "version": "1" },
        }),
        Ok(Answer { text, .. }) => told(&format!(
            "the answer has {} bytes, more than the {ANSWER_BYTES_MAX} that are handed on: ask for less, with a narrower filter or time range",
            text.len()
        )),
        Err(failure) => told(&failure.message),
    })
}

/// What went wrong, for the agent.
fn told(message: &str) -> Value {
    json!({ "content": [{ "type": "text", "text": message }], "isError": true })
}

struct Answer {
    kind: &'static str,
    encoding: &'static str,
    text: String,
}

impl Answer {
    fn json(kind: &'static str, json: Vec<u8>) -> Self {
        Self { kind, encoding: "json", text: String::from_utf8_lossy(&json).into_owned() }
    }
}

struct Arguments<'a> {
    tool: &'static Tool,
    given: &'a Value,
}

impl Arguments<'_> {
    /// Empty where it is not given.
    fn text(&self, name: &str) -> Result<String, Failure> {
        let required = self.tool.arguments.iter().any(|(known, _, required)| *known == name && *required);
        match &self.given[name] {
            Value::String(text) => Ok(text.clone()),
            Value::Null if required => Err(Failure::invalid(format!("the argument {name:?} is missing"))),
            Value::Null => Ok(String::new()),
            _ => Err(Failure::invalid(format!("the argument {name:?} must be a string"))),
        }
    }

    /// From `start` to `end`; an end alone has the hour before it.
    fn range(&self, api: &Shared) -> Result<AskedRange, Failure> {
        let time = |name: &str| match self.text(name)?.as_str() {
            "" => Ok(None),
            text => moment::instant(text).map(Some).map_err(|wrong| Failure::invalid(format!("{name}: {wrong}"))),
        };
        let (start, end) = (time("start")?, time("end")?.unwrap_or_else(now));
        let hour = i64::try_from(api.limits().default_range.as_nanos()).unwrap_or(i64::MAX);
        Ok(AskedRange { start: Some(start.unwrap_or_else(|| end.saturating_sub(hour).max(0))), end: Some(end), since: None })
    }

    /// A page of documentation; the tool's name says which set.
    fn page(&self, set: &str) -> Result<Answer, Failure> {
        let name = self.text("name")?;
        let text = resource(&format!("docs://{set}/{name}")).ok_or_else(|| {
            let (_, about, _) = self.tool.arguments[0];
            Failure::invalid(format!("there is no page {name:?}: name one of {about}"))
        })?;
        Ok(Answer { kind: "documentation", encoding: "text/markdown", text: text.to_owned() })
    }
}

async fn run(api: &Shared, headers: &HeaderMap, arguments: &Arguments<'_>) -> Result<Answer, Failure> {
    match arguments.tool.name {
        "docs-traceql" => return arguments.page("traceql"),
        "docs-config" => return arguments.page("config"),
        _ => {}
    }
    let tenants = api.tenants(headers)?;
    let account = api.account(false, &tenants);
    let (engine, limits) = (account.engine(), api.limits());
    let metrics = |step| {
        let asked =
            AskedMetrics { query: arguments.text("query")?, range: arguments.range(api)?, step, exemplars: 0, series_max: 0 };
        ask::metrics(asked, limits, now())
    };
    Ok(match arguments.tool.name {
        "traceql-search" => {
            let asked = AskedSearch {
                query: Some(arguments.text("query")?),
                tags: Vec::new(),
                duration_min: None,
                duration_max: None,
                range: arguments.range(api)?,
                limit: None,
                spans_per_spanset: None,
            };
            let request = ask::search(asked, limits, now())?;
            let (response, _) = api.gate.run(&tenants, engine.search_page(&tenants, request, None)).await?;
            Answer::json("search-results", jsonpb::search_json(&response))
        }
        "traceql-metrics-instant" => {
            let response = api.gate.run(&tenants, engine.query_instant(&tenants, metrics(None)?)).await?;
            Answer::json("metrics-instant", jsonpb::query_instant_json(&response))
        }
        "traceql-metrics-range" => {
            let response = api.gate.run(&tenants, engine.query_range(&tenants, metrics(None)?)).await?;
            Answer::json("metrics-range", jsonpb::query_range_json(&response))
        }
        "get-trace" => {
            let id = arguments.text("trace_id")?;
            door::note(&id);
            let request = params::trace(&id, &Parameters::default())?;
            let response = shape::trace(api.gate.run(&tenants, engine.trace_by_id(&tenants, request)).await?);
            if response.trace.as_ref().is_none_or(|trace| trace.resource_spans.is_empty()) {
                return Err(Failure::new(model::ErrorKind::NotFound, format!("there is no trace {id}")));
            }
            Answer::json("trace", llm::trace(&response))
        }
        "get-attribute-names" => {
            let asked = AskedTagNames {
                scope: arguments.text("scope")?,
                query: String::new(),
                range: AskedRange::default(),
                limit: LISTED_MAX,
            };
            let request = ask::tag_names(asked, limits, now())?;
            let response = shape::tags_v2(api, &account, &tenants, request).await?;
            Answer::json("attribute-names", jsonpb::tags_v2_json(&response))
        }
        "get-attribute-values" => {
            let asked = AskedTagValues {
                name: arguments.text("name")?,
                query: arguments.text("filter-query")?,
                range: AskedRange::default(),
                limit: LISTED_MAX,
            };
            let request = ask::tag_values(asked, limits, now())?;
            let response = api.gate.run(&tenants, engine.tag_values(&tenants, request)).await?;
            Answer::json("attribute-values", llm::tag_values(&response))
        }
        other => unreachable!("{other} is in the list and does nothing"),
    })
}
