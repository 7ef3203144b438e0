//! From settings to what each component is built with.

use api::{ApiConfig, QueryLimits};
use bytesize::ByteSize;
use distributor::Rates;
use ingester::IngesterConfig;
use query::{Budget, EngineConfig};
use redact::{Counts, Redactor, RuleSettings};

use super::{Config, GoDuration, Redaction, Size, invalid::Invalid};

impl Config {
    pub fn ingester_config(&self) -> IngesterConfig {
        let (wal, ingester, distributor) = (&self.storage.wal, &self.ingester, &self.distributor);
        let attribute_bytes = match self.overrides.defaults.ingestion.max_attribute_bytes.0 {
            0 => distributor.max_attribute_bytes,
            _ => self.overrides.defaults.ingestion.max_attribute_bytes,
        };
        IngesterConfig {
            wal_dir: self.storage.wal_path(),
            wal_fsync: wal.fsync,
            wal_group_commit_delay_ms: millis(wal.group_commit_delay),
            wal_segment_max: ByteSize(wal.segment_bytes.0),
            wal_disk_max: ByteSize(wal.disk_bytes.0),
            wal_disk_free_min: ByteSize(wal.disk_free_bytes.0),
            wal_queue_max: ByteSize(wal.queue_bytes.0),
            live_age_max_ms: millis(ingester.max_block_duration),
            cut_bytes: ByteSize(ingester.max_block_bytes.0),
            memory_max: ByteSize(ingester.max_memory.0),
            flush_parallelism: ingester.concurrent_flushes,
            attribute_value_bytes_max: attribute_bytes.as_usize(),
            attributes_per_span_max: distributor.max_attributes_per_span,
            events_per_span_max: distributor.max_events_per_span,
            links_per_span_max: distributor.max_links_per_span,
        }
    }

    pub fn distributor_config(&self, rates: Rates) -> distributor::Config {
        distributor::Config {
            rates,
            retry_after: self.distributor.retry_after_on_resource_exhausted.0,
            tenants_max: TENANTS_MAX,
        }
    }

    /// What the rules of the configuration and `further` ones take out. `salt` is what the salt file holds; without, a rule
    /// that hashes only has to name the file.
    ///
    /// # Errors
    /// Says which rule cannot be meant, and why.
    pub fn redactor(&self, further: &[RuleSettings], salt: Option<&[u8]>, counts: &Counts) -> Result<Redactor, Invalid> {
        let Redaction { salt_file, rules, .. } = &self.distributor.redaction;
        let salt = salt.or(salt_file.as_ref().map(|_| &PLACEHOLDER_SALT[..]));
        Redactor::counting(&[rules, further].concat(), salt, counts)
            .map_err(|error| Invalid { key: "distributor.redaction", message: error.to_string() })
    }

    /// Of a receiver whose requests may have `request_bytes_max`.
    pub fn receiver_config(&self, request_bytes_max: usize) -> ::receivers::Config {
        ::receivers::Config {
            multitenancy: self.multitenancy_enabled,
            request_bytes_max,
            connections_max: self.server.http_server_conn_limit,
            drain_timeout: self.server.graceful_shutdown_timeout.0,
            retry_after: self.distributor.retry_after_on_resource_exhausted.0,
            ..::receivers::Config::default()
        }
    }

    pub fn engine_config(&self) -> EngineConfig {
        EngineConfig {
            memory_bytes_max: self.query_frontend.decoding_memory.0,
            columns_memory_bytes: self.query_frontend.columns_memory.0,
            split_traces_memory_bytes: self.query_frontend.split_traces_memory.0,
            ..EngineConfig::default()
        }
    }

    pub fn api_config(&self) -> ApiConfig {
        let front = &self.query_frontend;
        ApiConfig {
            http_api_prefix: self.http_api_prefix.clone(),
            query_timeout: front.api_timeout.0,
            queries_max: front.max_concurrent_queries,
            tenant_queries_max: front.max_concurrent_queries_per_tenant,
            budget: Budget {
                read_bytes_max: no_limit_if_zero(front.max_bytes_per_query),
                memory_bytes_max: no_limit_if_zero(front.max_memory_per_query),
            },
            mcp: front.mcp_server.enabled,
            connections_max: self.server.http_server_conn_limit,
            drain_timeout: self.server.graceful_shutdown_timeout.0,
            query: QueryLimits {
                default_range: front.default_range.0,
                traces_default: front.search.default_result_limit,
                traces_max: front.search.max_result_limit,
                spans_per_spanset_default: front.search.default_spans_per_span_set,
                spans_per_spanset_max: front.search.max_spans_per_span_set,
                steps_max: front.metrics.max_intervals,
                exemplars_max: front.metrics.max_exemplars,
                tenants_max: front.max_tenants_per_query,
                sql_rows_max: front.sql.max_rows,
            },
            ..ApiConfig::default()
        }
    }
}

/// Stands for a salt while a configuration is only looked through.
const PLACEHOLDER_SALT: [u8; 32] = [0; 32];

/// Tenants with a rate and metric lines of their own: about 3 MB for all of them.
const TENANTS_MAX: usize = 10_000;

fn no_limit_if_zero(size: Size) -> u64 {
    if size.0 == 0 { u64::MAX } else { size.0 }
}

fn millis(duration: GoDuration) -> u64 {
    u64::try_from(duration.0.as_millis()).unwrap_or(u64::MAX)
}
