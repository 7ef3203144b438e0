//! How long traces are kept.

use std::time::Duration;

use compactor::{Retention, Rule};
use serde::{Deserialize, Serialize};
use traceql::ast::QueryBody;

use super::{GoDuration, invalid::Invalid};

/// Each rule is a query over everything that becomes old.
const RULES_MAX: usize = 32;

/// The rules of one tenant. Without any `keep`, everything is kept for ever.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionRules {
    /// For traces that no rule matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<GoDuration>,
    /// The first that matches a trace decides how long it is kept.
    pub rules: Vec<RetentionRule>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionRule {
    /// A TraceQL search; without one the rule matches every trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// The share of the matching traces that the rule takes, such as 0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<f64>,
    /// Without one, for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<GoDuration>,
}

/// `tenant` is whose they are, for messages; `keep_min` the shortest time to keep.
pub(super) fn rules(
    key: &'static str,
    tenant: Option<&str>,
    config: &RetentionRules,
    keep_min: Duration,
) -> Result<Retention, Invalid> {
    let fail = |what: &str, message: &str| {
        let of = tenant.map_or(String::new(), |tenant| format!("{tenant}: "));
        Invalid { key, message: format!("{of}{what}: {message}") }
    };
    let keep = |what: &str, keep: Option<GoDuration>| match keep {
        Some(GoDuration(keep)) if keep < keep_min => {
            let least = GoDuration(keep_min);
            Err(fail(what, &format!("keep must be at least {least} (compactor.min_keep); leave it out to keep for ever")))
        }
        keep => Ok(keep.map(|keep| keep.0)),
    };
    if config.rules.len() > RULES_MAX {
        return Err(fail("rules", &format!("there may be at most {RULES_MAX}")));
    }
    let mut checked = Vec::with_capacity(config.rules.len());
    for (rule, number) in config.rules.iter().zip(1..) {
        let what = format!("rule {number}");
        if rule.query.is_none() && rule.sample.is_none() {
            return Err(fail(&what, "needs a query or a sample; for all other traces there is keep beside rules"));
        }
        if let Some(query) = &rule.query {
            match traceql::parse(query) {
                Ok(parsed) if matches!(parsed.body, QueryBody::Search(_)) => {}
                Ok(_) => return Err(fail(&what, "is a metrics query; write a search, such as { status = error }")),
                Err(error) => return Err(fail(&what, &format!("the query cannot be read: {error}"))),
            }
        }
        let sample = rule.sample.unwrap_or(1.0);
        if !(sample > 0.0 && sample <= 1.0) {
            return Err(fail(&what, "sample must be more than 0 and at most 1"));
        }
        checked.push(Rule { query: rule.query.clone(), sample, keep: keep(&what, rule.keep)? });
    }
    Ok(Retention { rules: checked, keep: keep("the default", config.keep)? })
}
