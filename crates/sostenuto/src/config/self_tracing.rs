//! Traces of the program itself.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Config, invalid::Invalid};
use crate::build;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SelfTracing {
    /// Where spans of this program are sent, OTLP over HTTP; its own receiver is a good place. Empty is off.
    pub otlp_endpoint: String,
    /// The tenant they are delivered for. With multi-tenancy it is needed, and should be one that nobody else uses.
    pub tenant: String,
    /// A file with an API key or a token that may write for this tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// The share of queries that are recorded, 0 to 1, of those that come without a decision of the caller.
    pub query_sampling_ratio: f64,
    /// ... and of requests that deliver spans.
    pub ingest_sampling_ratio: f64,
    /// A caller that records its trace (`traceparent`, B3, `uber-trace-id`) gets our part of it.
    pub follow_callers: bool,
    /// Record flushes and merges.
    pub background: bool,
    /// Spans that wait to be sent, about a kibibyte each; further ones are dropped and counted.
    pub max_queued_spans: usize,
}

impl Default for SelfTracing {
    fn default() -> Self {
        Self {
            otlp_endpoint: String::new(),
            tenant: String::new(),
            token_file: None,
            query_sampling_ratio: 0.1,
            ingest_sampling_ratio: 0.0,
            follow_callers: true,
            background: true,
            max_queued_spans: 4096,
        }
    }
}

impl Config {
    /// `None` is off. Reads the token with `read`.
    pub fn self_tracing(
        &self,
        read: impl FnOnce(&Path) -> anyhow::Result<String>,
    ) -> anyhow::Result<Option<tracer::Settings>> {
        let SelfTracing {
            otlp_endpoint,
            tenant,
            token_file,
            query_sampling_ratio,
            ingest_sampling_ratio,
            follow_callers,
            background,
            max_queued_spans,
        } = &self.self_tracing;
        if otlp_endpoint.is_empty() {
            return Ok(None);
        }
        let token = token_file.as_deref().map(read).transpose()?;
        Ok(Some(tracer::Settings {
            endpoint: otlp_endpoint.clone(),
            tenant: Some(tenant.clone()).filter(|tenant| !tenant.is_empty()),
            token: token.map(|token| token.trim().to_owned()),
            queries: *query_sampling_ratio,
            ingest: *ingest_sampling_ratio,
            follow_parents: *follow_callers,
            background: *background,
            queue_spans_max: *max_queued_spans,
            service_name: "sostenuto".to_owned(),
            service_version: build::VERSION.to_owned(),
        }))
    }

    pub(super) fn validate_self_tracing(&self) -> Result<(), Invalid> {
        let fail = |key, message: &str| Err(Invalid { key, message: message.to_owned() });
        let SelfTracing { otlp_endpoint, tenant, query_sampling_ratio, ingest_sampling_ratio, max_queued_spans, .. } =
            &self.self_tracing;
        for (key, ratio) in [
            ("self_tracing.query_sampling_ratio", query_sampling_ratio),
            ("self_tracing.ingest_sampling_ratio", ingest_sampling_ratio),
        ] {
            if !(0.0..=1.0).contains(ratio) {
                return fail(key, "must be from 0 to 1");
            }
        }
        if *max_queued_spans == 0 {
            return fail("self_tracing.max_queued_spans", "must be at least 1");
        }
        if !otlp_endpoint.is_empty() && !otlp_endpoint.contains("://") {
            return fail("self_tracing.otlp_endpoint", "must be a URL such as http://127.0.0.1:4318");
        }
        if !otlp_endpoint.is_empty() && tenant.is_empty() && self.multitenancy_enabled {
            return fail("self_tracing.tenant", "must name a tenant, because multitenancy_enabled is on");
        }
        if !tenant.is_empty()
            && let Err(error) = model::TenantId::parse(tenant)
        {
            return fail("self_tracing.tenant", &format!("{tenant:?} cannot be a tenant: {error}"));
        }
        Ok(())
    }
}
