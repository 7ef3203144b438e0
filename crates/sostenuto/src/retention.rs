//! `sostenuto retention plan`: what the configured rules keep of what is stored, and what they would delete now. A dry
//! run: nothing is changed.

use std::{
    io::Write,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use compactor::{Retention, RulePlan, plan_retention};
use model::TenantId;
use query::{Engine, EngineConfig, NoLiveData};
use serde::Serialize;
use storage::{Backend, Storage};

use crate::{
    ask::Mistake,
    cli::ConfigArgs,
    config::GoDuration,
    limits::Limits,
    show::{Style, retention::render},
};

#[derive(clap::Args, Debug)]
pub struct PlanArgs {
    /// Only this tenant
    #[arg(long)]
    pub tenant: Option<String>,
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Print the plan as JSON
    #[arg(long)]
    pub json: bool,
}

/// The plan of one tenant.
#[derive(Debug, Serialize)]
pub struct TenantPlan {
    pub tenant: String,
    pub rules: Vec<RuleReport>,
}

#[derive(Debug, Serialize)]
pub struct RuleReport {
    /// The rule's query and sample as a person writes them; `everything else` for the default.
    pub rule: String,
    /// `for ever`, or a time.
    pub keep: String,
    pub traces: u64,
    pub spans: u64,
    /// Their share of the blocks, by spans.
    pub bytes: u64,
    pub deleted_now_traces: u64,
    pub deleted_now_bytes: u64,
}

pub async fn plan(args: &PlanArgs, style: Style, out: &mut impl Write) -> anyhow::Result<bool> {
    let config = args.config.load()?;
    config.validate()?;
    let place = config.storage.describe();
    if config.storage.backend == Backend::Local && !config.storage.local_path().is_dir() {
        anyhow::bail!("there is no store at {place}; name another with --storage.path or --config.file");
    }
    let storage = Storage::open(&config.storage.store()).await?;
    let limits = Limits::open(&config, &storage).await?.current();
    let retentions = &limits.retentions;
    let engine = Engine::new(storage.clone(), Arc::new(NoLiveData), EngineConfig::default());
    let tenants = match &args.tenant {
        Some(name) => vec![TenantId::parse(name).map_err(|error| Mistake(format!("--tenant: {error}")))?],
        None => storage.tenants().await?,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let now_unix_ms = u64::try_from(now.as_millis())?;
    let mut plans = Vec::new();
    for tenant in tenants {
        let retention = retentions.of(&tenant);
        let plan = plan_retention(&storage, &engine, &tenant, retention, now_unix_ms).await?;
        plans.push(TenantPlan { tenant: tenant.to_string(), rules: reports(retention, &plan.rules) });
    }
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &plans)?;
        writeln!(out)?;
    } else {
        out.write_all(render(&plans, style).as_bytes())?;
    }
    Ok(true)
}

fn reports(retention: &Retention, plans: &[RulePlan]) -> Vec<RuleReport> {
    let rules = retention.rules.iter().map(|rule| {
        let sample = (rule.sample < 1.0).then(|| format!("{}% of ", rule.sample * 100.0)).unwrap_or_default();
        (format!("{sample}{}", rule.query.as_deref().unwrap_or("all")), rule.keep)
    });
    let rules = rules.chain([("everything else".to_owned(), retention.keep)]);
    let report = |((rule, keep), plan): ((String, Option<Duration>), &RulePlan)| RuleReport {
        rule,
        keep: keep.map_or("for ever".to_owned(), days),
        traces: plan.traces,
        spans: plan.spans,
        bytes: plan.bytes,
        deleted_now_traces: plan.expired_traces,
        deleted_now_bytes: plan.expired_bytes,
    };
    rules.zip(plans).map(report).collect()
}

/// Whole days as days: that is how people think of keeping.
fn days(keep: Duration) -> String {
    const DAY: u64 = 86_400;
    match keep.as_secs() {
        secs if secs >= DAY && secs.is_multiple_of(DAY) && keep.subsec_nanos() == 0 => format!("{}d", secs / DAY),
        _ => GoDuration(keep).to_string(),
    }
}
