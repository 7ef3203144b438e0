//! Settings that are well-formed and still cannot work, found before anything starts.

use std::{fmt, time::Duration};

use storage::Backend;

use super::{Config, GoDuration, Kafka};

/// Twice as long as an ingester waits between storing a block and its commit.
const ORPHAN_GRACE_MIN: Duration = ingester::STORED_KEPT.saturating_mul(2);

/// A setting that cannot work: its key, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    pub key: &'static str,
    pub message: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

impl std::error::Error for Invalid {}

impl Config {
    pub fn validate(&self) -> Result<(), Invalid> {
        let fail = |key, message: String| Err(Invalid { key, message });
        let storage = &self.storage;
        let required: &[(&'static str, &String)] = match storage.backend {
            Backend::Local => &[],
            Backend::S3 => &[("storage.s3.bucket", &storage.s3.bucket)],
            Backend::Gcs => &[("storage.gcs.bucket_name", &storage.gcs.bucket_name)],
            Backend::Azure => &[
                ("storage.azure.storage_account_name", &storage.azure.storage_account_name),
                ("storage.azure.container_name", &storage.azure.container_name),
            ],
        };
        if let Some((key, _)) = required.iter().find(|(_, value)| value.is_empty()) {
            return fail(key, "must be set with this storage.backend".to_owned());
        }
        match (&storage.s3.access_key, &storage.s3.secret_key) {
            (None, Some(_)) => return fail("storage.s3.access_key", "must be set where secret_key is".to_owned()),
            (Some(_), None) => return fail("storage.s3.secret_key", "must be set where access_key is".to_owned()),
            _ => {}
        }
        let endpoints = self.distributor.receivers.endpoints();
        let others = [
            ("server.jaeger_query_endpoint", self.server.jaeger_query_endpoint.as_ref()),
            ("server.jaeger_query_grpc_endpoint", self.server.jaeger_query_grpc_endpoint.as_ref()),
            ("distributor.sampling.endpoint", Some(&self.distributor.sampling.endpoint)),
        ]
        .map(|(key, endpoint)| (key, endpoint.filter(|endpoint| !endpoint.is_empty())));
        for (key, endpoint) in endpoints.into_iter().chain(others) {
            let Some(endpoint) = endpoint else { continue };
            if endpoint
                .rsplit_once(':')
                .and_then(|(host, port)| (!host.is_empty()).then(|| port.parse::<u16>().ok())?)
                .is_none()
            {
                return fail(key, format!("{endpoint:?} is not host:port"));
            }
        }
        let kafka = self.distributor.receivers.kafka.as_ref();
        if kafka.is_none() && endpoints.iter().all(|(_, endpoint)| endpoint.is_none()) {
            return fail("distributor.receivers", "names no protocol of any receiver; name at least one".to_owned());
        }
        for (key, size) in [
            ("overrides.defaults.ingestion.rate_limit_bytes", self.overrides.defaults.ingestion.rate_limit_bytes),
            ("overrides.defaults.ingestion.burst_size_bytes", self.overrides.defaults.ingestion.burst_size_bytes),
            ("ingester.max_block_bytes", self.ingester.max_block_bytes),
            ("ingester.max_memory", self.ingester.max_memory),
            ("compactor.max_block_bytes", self.compactor.max_block_bytes),
            ("compactor.max_job_bytes", self.compactor.max_job_bytes),
        ] {
            if size.0 == 0 {
                return fail(key, "must be more than 0".to_owned());
            }
        }
        for (key, duration) in [
            ("ingester.max_block_duration", self.ingester.max_block_duration),
            ("query_frontend.api_timeout", self.query_frontend.api_timeout),
            ("compactor.interval", self.compactor.interval),
            ("compactor.claim_duration", self.compactor.claim_duration),
            ("query_frontend.default_range", self.query_frontend.default_range),
            ("overrides.per_tenant_override_period", self.overrides.per_tenant_override_period),
            (
                "overrides.user_configurable_overrides.poll_interval",
                self.overrides.user_configurable_overrides.poll_interval,
            ),
            ("distributor.sampling.reload_interval", self.distributor.sampling.reload_interval),
        ] {
            if duration.0.as_millis() == 0 {
                return fail(key, "must be at least 1ms".to_owned());
            }
        }
        for (key, count) in [
            ("query_frontend.max_concurrent_queries", self.query_frontend.max_concurrent_queries),
            ("query_frontend.max_concurrent_queries_per_tenant", self.query_frontend.max_concurrent_queries_per_tenant),
            ("query_frontend.max_tenants_per_query", self.query_frontend.max_tenants_per_query),
            ("server.http_server_conn_limit", self.server.http_server_conn_limit),
            ("ingester.concurrent_flushes", self.ingester.concurrent_flushes),
            ("compactor.concurrent_jobs", self.compactor.concurrent_jobs),
        ] {
            if count == 0 {
                return fail(key, "must be at least 1".to_owned());
            }
        }
        let compactor = &self.compactor;
        if compactor.max_input_blocks < 2 || compactor.min_input_blocks < 2 {
            return fail("compactor.min_input_blocks", "it and max_input_blocks must be at least 2".to_owned());
        }
        for (key, level) in
            [("compactor.zstd_level", compactor.zstd_level), ("compactor.last_zstd_level", compactor.last_zstd_level)]
        {
            if !(1..=22).contains(&level) {
                return fail(key, "must be 1 to 22".to_owned());
            }
        }
        if compactor.removed_block_grace.0 <= self.query_frontend.api_timeout.0 {
            return fail(
                "compactor.removed_block_grace",
                "must be longer than query_frontend.api_timeout, or a query may lose its files".to_owned(),
            );
        }
        if compactor.orphan_grace.0 < ORPHAN_GRACE_MIN {
            return fail(
                "compactor.orphan_grace",
                format!("must be at least {}: a flush may wait as long for its commit", GoDuration(ORPHAN_GRACE_MIN)),
            );
        }
        kafka.map_or(Ok(()), Kafka::validate)?;
        self.limits()?;
        self.redactor(&[], None, &redact::Counts::default())?;
        self.validate_security()?;
        self.validate_self_tracing()?;
        let search = &self.query_frontend.search;
        if search.default_result_limit == 0 || search.default_result_limit > search.max_result_limit {
            return fail(
                "query_frontend.search.default_result_limit",
                format!("must be 1 to {}", search.max_result_limit),
            );
        }
        Ok(())
    }
}
