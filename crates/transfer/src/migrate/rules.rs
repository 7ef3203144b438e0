//! What each key of a Tempo configuration means here.

use serde_json::Value;

use super::{NoteKind, Ours};

/// What is known of the keys that match a pattern.
pub(super) struct Known {
    /// A key, or the beginning of keys if it ends in `*`.
    pattern: &'static str,
    pub fate: Fate,
    /// Why, and what to do.
    pub text: &'static str,
}

pub(super) enum Fate {
    Becomes { key: &'static str, how: How },
    NotNeeded,
    Attention,
    Unsupported,
}

/// A value as ours, or why it is not taken over.
type How = fn(&Value) -> Result<Value, (NoteKind, String)>;

const fn becomes(pattern: &'static str, key: &'static str, how: How) -> Known {
    Known { pattern, fate: Fate::Becomes { key, how }, text: "" }
}

const fn same(key: &'static str) -> Known {
    becomes(key, key, as_it_is)
}

const fn not_needed(pattern: &'static str, text: &'static str) -> Known {
    Known { pattern, fate: Fate::NotNeeded, text }
}

const fn unsupported(pattern: &'static str, text: &'static str) -> Known {
    Known { pattern, fate: Fate::Unsupported, text }
}

const fn attention(pattern: &'static str, text: &'static str) -> Known {
    Known { pattern, fate: Fate::Attention, text }
}

const TLS: &str =
    "server.tls is of every TCP port here, and a receiver can have a tls of its own; docs/security.md says how";
const RING: &str = "there are no rings and no gossip: processes meet in the object store";
const OWN_PATH: &str = "our log and blocks have a folder of their own: storage.path";
const CACHES: &str = "caches are in memory, in storage.cache and query_frontend.columns_memory";
const COUNTED: &str = "sostenuto_distributor metrics count bytes and spans by tenant";
const GENERATOR: &str = "no process writes metrics to Prometheus; TraceQL metrics answer from spans, and the Collector's spanmetrics and servicegraph connectors write what dashboards have";
const KEEP: &str = "overrides.defaults.retention.keep";
const RATE: &str = "overrides.defaults.ingestion.rate_limit_bytes";
const BURST: &str = "overrides.defaults.ingestion.burst_size_bytes";

const KAFKA_TOPIC: &str = "distributor.receivers.kafka.topic";
const KAFKA_ENCODING: &str = "distributor.receivers.kafka.encoding";
const KAFKA_TOPICS: &str = "distributor.receivers.kafka.topics";

/// The first whose pattern matches counts.
const KNOWN: &[Known] = &[
    becomes("target", "target", target),
    same("multitenancy_enabled"),
    becomes("auth_enabled", "multitenancy_enabled", as_it_is),
    becomes("http_api_prefix", "http_api_prefix", not_empty),
    not_needed("stream_over_http_enabled", "gRPC is always served on the HTTP port"),
    not_needed("autocomplete_filtering_enabled", "values are always filtered by the query"),
    not_needed("metrics_generator_enabled", "there is no metrics generator"),
    not_needed("search_enabled", "search is always on"),
    not_needed("memory.*", "the parts that use memory have bounds of their own"),
    // Listeners.
    becomes("server.http_listen_address", "server.http_listen_address", not_empty),
    same("server.http_listen_port"),
    same("server.graceful_shutdown_timeout"),
    becomes("server.http_listen_conn_limit", "server.http_server_conn_limit", not_zero),
    becomes("server.log_level", "log.level", as_it_is),
    becomes("server.log_format", "log.format", log_format),
    becomes("server.http_path_prefix", "http_api_prefix", not_empty),
    attention("server.http_tls_config.*", TLS),
    attention("server.grpc_tls_config.*", TLS),
    becomes("server.grpc_listen_port", "server.grpc_listen_port", not_zero),
    not_needed("server.grpc_*", "gRPC is served on server.http_listen_port too; requests and answers have fixed bounds"),
    unsupported("server.proxy_protocol_enabled", "the PROXY protocol is not spoken"),
    unsupported("server.cluster_validation.*", "processes do not call each other"),
    not_needed("server.*", "it has a fixed value here"),
    not_needed("internal_server.*", "there is one server"),
    // Receivers.
    becomes("distributor.receivers.otlp", "distributor.receivers.otlp", on),
    becomes("distributor.receivers.otlp.protocols", "distributor.receivers.otlp", on),
    becomes("distributor.receivers.otlp.protocols.grpc", "distributor.receivers.otlp.protocols.grpc", on),
    same("distributor.receivers.otlp.protocols.grpc.endpoint"),
    same("distributor.receivers.otlp.protocols.grpc.max_recv_msg_size_mib"),
    becomes("distributor.receivers.otlp.protocols.http", "distributor.receivers.otlp.protocols.http", on),
    same("distributor.receivers.otlp.protocols.http.endpoint"),
    same("distributor.receivers.otlp.protocols.http.max_request_body_size"),
    attention("distributor.receivers.otlp.protocols.grpc.tls.*", TLS),
    attention("distributor.receivers.otlp.protocols.http.tls.*", TLS),
    unsupported("distributor.receivers.otlp.protocols.http.cors.*", "browsers send to a Collector, which sends here"),
    not_needed("distributor.receivers.otlp.protocols.*", "it has a fixed value here"),
    becomes("distributor.receivers.jaeger", "distributor.receivers.jaeger", on),
    becomes("distributor.receivers.jaeger.protocols", "distributor.receivers.jaeger", on),
    becomes("distributor.receivers.jaeger.protocols.grpc", "distributor.receivers.jaeger.protocols.grpc", on),
    same("distributor.receivers.jaeger.protocols.grpc.endpoint"),
    becomes(
        "distributor.receivers.jaeger.protocols.thrift_http",
        "distributor.receivers.jaeger.protocols.thrift_http",
        on,
    ),
    same("distributor.receivers.jaeger.protocols.thrift_http.endpoint"),
    becomes(
        "distributor.receivers.jaeger.protocols.thrift_compact",
        "distributor.receivers.jaeger.protocols.thrift_compact",
        on,
    ),
    same("distributor.receivers.jaeger.protocols.thrift_compact.endpoint"),
    becomes(
        "distributor.receivers.jaeger.protocols.thrift_binary",
        "distributor.receivers.jaeger.protocols.thrift_binary",
        on,
    ),
    same("distributor.receivers.jaeger.protocols.thrift_binary.endpoint"),
    attention("distributor.receivers.jaeger.protocols.grpc.tls.*", TLS),
    attention("distributor.receivers.jaeger.protocols.thrift_http.tls.*", TLS),
    not_needed("distributor.receivers.jaeger.protocols.*", "it has a fixed value here"),
    attention(
        "distributor.receivers.jaeger.remote_sampling*",
        "strategies are served from the file that distributor.sampling.strategies_file names",
    ),
    becomes("distributor.receivers.zipkin", "distributor.receivers.zipkin", on),
    same("distributor.receivers.zipkin.endpoint"),
    attention("distributor.receivers.zipkin.tls.*", TLS),
    not_needed("distributor.receivers.zipkin.*", "it has a fixed value here"),
    attention("distributor.receivers.opencensus*", "OpenCensus is gone; a Collector turns it into OTLP"),
    becomes("distributor.receivers.kafka", "distributor.receivers.kafka", on),
    becomes("distributor.receivers.kafka.brokers", "distributor.receivers.kafka.brokers", texts),
    // Both become one of `topics`.
    becomes("distributor.receivers.kafka.topic", KAFKA_TOPIC, topic),
    becomes("distributor.receivers.kafka.traces.topic", KAFKA_TOPIC, topic),
    becomes("distributor.receivers.kafka.encoding", KAFKA_ENCODING, encoding),
    becomes("distributor.receivers.kafka.traces.encoding", KAFKA_ENCODING, encoding),
    attention("distributor.receivers.kafka.traces.topics", "write each as TOPIC: ENCODING below distributor.receivers.kafka.topics"),
    becomes("distributor.receivers.kafka.group_id", "distributor.receivers.kafka.group_id", not_empty),
    becomes("distributor.receivers.kafka.group_instance_id", "distributor.receivers.kafka.group_instance_id", not_empty),
    becomes("distributor.receivers.kafka.client_id", "distributor.receivers.kafka.client_id", not_empty),
    becomes("distributor.receivers.kafka.initial_offset", "distributor.receivers.kafka.initial_offset", not_empty),
    becomes("distributor.receivers.kafka.session_timeout", "distributor.receivers.kafka.session_timeout", not_zero),
    becomes("distributor.receivers.kafka.tls.ca_file", "distributor.receivers.kafka.tls.ca_file", not_empty),
    becomes("distributor.receivers.kafka.tls.cert_file", "distributor.receivers.kafka.tls.cert_file", not_empty),
    becomes("distributor.receivers.kafka.tls.key_file", "distributor.receivers.kafka.tls.key_file", not_empty),
    becomes("distributor.receivers.kafka.auth.tls.ca_file", "distributor.receivers.kafka.tls.ca_file", not_empty),
    becomes("distributor.receivers.kafka.auth.tls.cert_file", "distributor.receivers.kafka.tls.cert_file", not_empty),
    becomes("distributor.receivers.kafka.auth.tls.key_file", "distributor.receivers.kafka.tls.key_file", not_empty),
    attention("distributor.receivers.kafka.*tls.*", "see distributor.receivers.kafka.tls for what can be set"),
    becomes("distributor.receivers.kafka.auth.sasl.username", "distributor.receivers.kafka.sasl.username", not_empty),
    becomes("distributor.receivers.kafka.auth.sasl.password", "distributor.receivers.kafka.sasl.password", not_empty),
    becomes("distributor.receivers.kafka.auth.sasl.mechanism", "distributor.receivers.kafka.sasl.mechanism", sasl_mechanism),
    not_needed("distributor.receivers.kafka.auth.sasl.version", "brokers say it"),
    attention("distributor.receivers.kafka.auth.*", "see distributor.receivers.kafka.sasl: PLAIN and SCRAM are there"),
    attention(
        "distributor.receivers.kafka.header_extraction.*",
        "the header that distributor.receivers.kafka.tenant_header names says the tenant; others are not read",
    ),
    not_needed("distributor.receivers.kafka.*", "it has a fixed value here, or none is needed"),
    attention("distributor.receivers.*", "a Collector has this receiver and sends OTLP"),
    becomes("distributor.max_attribute_bytes", "distributor.max_attribute_bytes", as_it_is),
    becomes("distributor.retry_after_on_resource_exhausted", "distributor.retry_after_on_resource_exhausted", not_zero),
    becomes("distributor.max_span_attr_byte", "distributor.max_attribute_bytes", as_it_is),
    unsupported("distributor.forwarders*", "a Collector in front sends to several places"),
    unsupported("distributor.usage.*", COUNTED),
    unsupported(
        "distributor.kafka_write_path_enabled",
        "there is no Kafka inside: the log is on the local disk, blocks are in the store",
    ),
    not_needed("distributor.kafka_config.*", "there is no Kafka inside"),
    not_needed("distributor.log_*", "what is refused is logged and counted"),
    not_needed("distributor.metric_received_spans.*", "spans that come in are counted"),
    not_needed("distributor.*", RING),
    // Storage.
    becomes("storage.trace.backend", "storage.backend", backend),
    attention(
        "storage.trace.local.path",
        "Tempo's blocks stay there, to be read by `sostenuto import`; ours go to storage.path",
    ),
    becomes("storage.trace.s3.bucket", "storage.s3.bucket", not_empty),
    becomes("storage.trace.s3.prefix", "storage.s3.prefix", beside),
    becomes("storage.trace.s3.endpoint", "storage.s3.endpoint", not_empty),
    becomes("storage.trace.s3.region", "storage.s3.region", not_empty),
    becomes("storage.trace.s3.access_key", "storage.s3.access_key", not_empty),
    becomes("storage.trace.s3.secret_key", "storage.s3.secret_key", not_empty),
    becomes("storage.trace.s3.session_token", "storage.s3.session_token", not_empty),
    becomes("storage.trace.s3.insecure", "storage.s3.insecure", as_it_is),
    becomes("storage.trace.s3.forcepathstyle", "storage.s3.forcepathstyle", as_it_is),
    becomes("storage.trace.s3.tls_insecure_skip_verify", "storage.s3.tls_insecure_skip_verify", as_it_is),
    becomes("storage.trace.s3.bucket_lookup_type", "storage.s3.bucket_lookup_type", bucket_lookup),
    unsupported("storage.trace.s3.tls_*", "the system's certificates are trusted; add yours to them"),
    unsupported(
        "storage.trace.s3.sse.*",
        "see storage.s3.sse in our configuration, or let the bucket encrypt by itself",
    ),
    unsupported("storage.trace.s3.signature_v2", "only version 4 is spoken"),
    not_needed("storage.trace.s3.*", "reads and writes have bounds of their own"),
    becomes("storage.trace.gcs.bucket_name", "storage.gcs.bucket_name", not_empty),
    becomes("storage.trace.gcs.prefix", "storage.gcs.prefix", beside),
    becomes("storage.trace.gcs.endpoint", "storage.gcs.endpoint", gcs_endpoint),
    becomes("storage.trace.gcs.insecure", "storage.gcs.insecure", as_it_is),
    not_needed("storage.trace.gcs.*", "reads and writes have bounds of their own"),
    becomes("storage.trace.azure.storage_account_name", "storage.azure.storage_account_name", not_empty),
    becomes("storage.trace.azure.storage_account_key", "storage.azure.storage_account_key", not_empty),
    becomes("storage.trace.azure.container_name", "storage.azure.container_name", not_empty),
    becomes("storage.trace.azure.prefix", "storage.azure.prefix", beside),
    becomes("storage.trace.azure.endpoint_suffix", "storage.azure.endpoint_suffix", not_empty),
    becomes("storage.trace.azure.user_assigned_id", "storage.azure.user_assigned_id", not_empty),
    not_needed("storage.trace.azure.use_*", "without a key, the environment and the machine's identity are asked"),
    not_needed("storage.trace.azure.*", "reads and writes have bounds of their own"),
    not_needed("storage.trace.wal.*", OWN_PATH),
    not_needed(
        "storage.trace.block.*",
        "blocks are Delta tables of Parquet here; columns are chosen by what spans have",
    ),
    not_needed("storage.trace.pool.*", "queries share one pool of workers"),
    not_needed("storage.trace.blocklist_*", "the table of each tenant is followed commit by commit"),
    not_needed("storage.trace.*cache*", CACHES),
    not_needed("storage.trace.memcached*", CACHES),
    not_needed("storage.trace.redis*", CACHES),
    not_needed("storage.trace.*", "reads and writes have bounds of their own"),
    not_needed("cache*", CACHES),
    // How long.
    becomes("overrides.defaults.compaction.block_retention", KEEP, keep),
    becomes("overrides.block_retention", KEEP, keep),
    becomes("compactor.compaction.block_retention", KEEP, keep),
    becomes("backend_worker.compaction.block_retention", KEEP, keep),
    becomes("backend_scheduler.provider.compaction.compaction.block_retention", KEEP, keep),
    // What a tenant may.
    becomes("overrides.defaults.ingestion.rate_limit_bytes", RATE, bytes),
    becomes("overrides.defaults.ingestion.burst_size_bytes", BURST, bytes),
    becomes("overrides.ingestion_rate_limit_bytes", RATE, bytes),
    becomes("overrides.ingestion_burst_size_bytes", BURST, bytes),
    same("overrides.defaults.ingestion.max_attribute_bytes"),
    becomes("overrides.ingestion_max_attribute_bytes", "overrides.defaults.ingestion.max_attribute_bytes", as_it_is),
    attention(
        "overrides.per_tenant_override_config",
        "the key is here too, for a file with other fields: sostenuto migrate tempo-overrides makes it of Tempo's",
    ),
    same("overrides.per_tenant_override_period"),
    not_needed("overrides.enable_legacy_overrides", "the old form is read too"),
    same("overrides.user_configurable_overrides.enabled"),
    same("overrides.user_configurable_overrides.poll_interval"),
    same("overrides.user_configurable_overrides.api.check_for_conflicting_runtime_overrides"),
    not_needed("overrides.user_configurable_overrides.*", "documents are kept beside the blocks; write them anew, their fields are others"),
    unsupported("overrides.defaults.metrics_generator.*", GENERATOR),
    unsupported("overrides.metrics_generator*", GENERATOR),
    unsupported("overrides.defaults.forwarders*", "a Collector in front sends to several places"),
    unsupported("overrides.forwarders*", "a Collector in front sends to several places"),
    unsupported("overrides.defaults.cost_attribution.*", COUNTED),
    unsupported("overrides.cost_attribution*", COUNTED),
    not_needed("overrides.defaults.ingestion.*", "each process counts what a tenant sends by itself"),
    not_needed("overrides.defaults.global.*", "a trace has no largest size: all its spans are kept"),
    not_needed("overrides.defaults.read.*", "queries are bounded by time, bytes and memory, in query_frontend"),
    not_needed("overrides.defaults.storage.*", "columns are chosen by what spans have"),
    not_needed("overrides.defaults.compaction.*", "it has a fixed value here"),
    not_needed(
        "overrides.max_*",
        "queries are bounded by time, bytes and memory, in query_frontend; a trace has no largest size",
    ),
    not_needed("overrides.ingestion_*", "each process counts what a tenant sends by itself"),
    not_needed("overrides.parquet_dedicated_columns", "columns are chosen by what spans have"),
    not_needed("overrides.compaction_*", "it has a fixed value here"),
    not_needed("overrides.left_pad_trace_ids", "ids of traces are shown as Tempo shows them by default"),
    not_needed("overrides.unsafe_query_hints", "the hints that are known are always taken"),
    // Queries.
    becomes("query_frontend.api_timeout", "query_frontend.api_timeout", api_timeout),
    becomes("query_frontend.search.default_result_limit", "query_frontend.search.default_result_limit", not_zero),
    becomes("query_frontend.search.max_result_limit", "query_frontend.search.max_result_limit", not_zero),
    becomes(
        "query_frontend.search.default_spans_per_span_set",
        "query_frontend.search.default_spans_per_span_set",
        not_zero,
    ),
    becomes("query_frontend.search.max_spans_per_span_set", "query_frontend.search.max_spans_per_span_set", not_zero),
    becomes("query_frontend.metrics.max_exemplars", "query_frontend.metrics.max_exemplars", not_zero),
    becomes("query_frontend.metrics.max_intervals", "query_frontend.metrics.max_intervals", not_zero),
    becomes("query_frontend.multi_tenant_queries_enabled", "query_frontend.max_tenants_per_query", several_tenants),
    not_needed("query_frontend.search.max_duration", "a query may ask for any time; what it may read is bounded"),
    not_needed("query_frontend.metrics.max_duration", "a query may ask for any time; what it may read is bounded"),
    same("query_frontend.mcp_server.enabled"),
    not_needed(
        "query_frontend.*",
        "a query is not cut into jobs for others; its bounds are in query_frontend of config/local.yaml",
    ),
    // Roles that are not here.
    unsupported("metrics_generator.*", GENERATOR),
    not_needed("metrics_generator_client.*", "there is no metrics generator"),
    not_needed("ingester_client.*", RING),
    not_needed("live_store_client.*", RING),
    not_needed(
        "ingester.*",
        "live spans become blocks after ingester.max_block_duration, a minute, and are merged later; leave the default",
    ),
    not_needed(
        "live_store.*",
        "live spans become blocks after ingester.max_block_duration, a minute, and are merged later; leave the default",
    ),
    not_needed("block_builder.*", "there is no Kafka inside"),
    not_needed("ingest.*", "there is no Kafka inside"),
    not_needed("compactor.*", "the compactor has other measures here; leave its defaults"),
    not_needed("backend_scheduler*", "the compactor has other measures here; leave its defaults"),
    not_needed("backend_worker.*", "the compactor has other measures here; leave its defaults"),
    not_needed("querier.*", "the process that is asked answers; its bounds are in query_frontend"),
    not_needed("memberlist.*", RING),
    not_needed("partition_ring_live_store*", RING),
    not_needed("usage_report.*", "nothing is reported to anyone"),
];

pub(super) fn of(key: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| matches(known.pattern, key))
}

fn matches(pattern: &str, key: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = key.strip_prefix(first) else {
        // A section without keys.
        return pattern.strip_suffix(".*") == Some(key);
    };
    let mut last = None;
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
        last = Some(part);
    }
    rest.is_empty() || last == Some("")
}

/// What Tempo does without being told.
pub(super) fn finish(ours: &mut Ours, note: &mut impl FnMut(&str, NoteKind, &str)) {
    let attention = NoteKind::Attention;
    if ours.get("server.http_listen_address").is_none() {
        ours.set("server.http_listen_address", "0.0.0.0".into());
        note(
            "server.http_listen_address",
            attention,
            "Tempo listens on all addresses unless told; so does this. docs/security.md says how to ask who is calling",
        );
    }
    if !ours.has_below("distributor.receivers") {
        note(
            "distributor.receivers",
            attention,
            "names no receiver; without the section all are on, for this machine only",
        );
    } else if !ours.has_below("distributor.receivers.otlp.") && ours.get("distributor.receivers.otlp").is_none() {
        note("distributor.receivers.otlp", attention, "is not on");
    }
    // What a Collector reads without being told, too.
    let text = |value: Option<Value>, default: &str| value.as_ref().and_then(Value::as_str).unwrap_or(default).to_owned();
    let (topic, encoding) = (ours.tree.remove(KAFKA_TOPIC), ours.tree.remove(KAFKA_ENCODING));
    if topic.is_some() || encoding.is_some() {
        let (topic, encoding) = (text(topic, "otlp_spans"), text(encoding, "otlp_proto"));
        ours.set(KAFKA_TOPICS, serde_json::json!({ topic: encoding }));
    }
    if ours.has_below("distributor.receivers.kafka") && ours.get("distributor.receivers.kafka.initial_offset").is_none() {
        note(
            "distributor.receivers.kafka.initial_offset",
            attention,
            "is not set. Tempo begins at the end of a topic then; this at its beginning, unless it is set to latest",
        );
    }
    // A section and keys below it: the keys say more.
    let all: Vec<String> = ours.tree.keys().cloned().collect();
    ours.tree.retain(|key, _| !all.iter().any(|other| other.starts_with(&format!("{key}."))));
    for protocol in [
        "otlp.protocols.grpc",
        "otlp.protocols.http",
        "jaeger.protocols.grpc",
        "jaeger.protocols.thrift_http",
        "zipkin",
    ] {
        let key = format!("distributor.receivers.{protocol}");
        if ours.get(&key) == Some(&Value::Null) {
            note(
                &format!("{key}.endpoint"),
                attention,
                "is not set: this machine only; write 0.0.0.0 and the port to take spans from others",
            );
        }
    }
    for (backend, key, prefix) in [
        ("s3", "storage.s3.bucket", "storage.s3.prefix"),
        ("gcs", "storage.gcs.bucket_name", "storage.gcs.prefix"),
        ("azure", "storage.azure.container_name", "storage.azure.prefix"),
    ] {
        if ours.get("storage.backend") == Some(&backend.into()) && ours.get(key).is_some() {
            ours.set(prefix, BESIDE.into());
            note(
                key,
                attention,
                "the bucket is Tempo's, below a prefix of our own; while a Tempo still runs on it, a bucket of our own is better: Tempo takes the prefix for a tenant",
            );
        }
    }
    if ours.get("storage.backend").is_some() {
        ours.set("storage.path", "/var/lib/sostenuto".into());
        note(
            "storage.path",
            attention,
            "holds the write-ahead log, so it must outlive the process and be of nobody else",
        );
    }
    if ours.get(KEEP).is_none() {
        note(
            "compaction.block_retention",
            attention,
            "is not set. Tempo deletes after 14 days then; here nothing is deleted until overrides.defaults.retention.keep is set",
        );
    }
    let value = |key: &str| ours.get(key).and_then(Value::as_u64);
    let (default, most) =
        (value("query_frontend.search.default_result_limit"), value("query_frontend.search.max_result_limit"));
    if most.is_some_and(|most| most < default.unwrap_or(20)) {
        ours.tree.remove("query_frontend.search.max_result_limit");
        note("query_frontend.search.max_result_limit", attention, "is less than the default limit, and was left out");
    }
    let keys = ["storage.s3.access_key", "storage.s3.secret_key"];
    if keys.iter().filter(|key| ours.get(key).is_some()).count() == 1 {
        keys.iter().for_each(|key| drop(ours.tree.remove(*key)));
        note(
            "storage.trace.s3.access_key",
            attention,
            "stands without its secret_key, or the other way round; both were left out",
        );
    }
}

/// The prefix of our blocks in a bucket that was Tempo's.
const BESIDE: &str = "sostenuto";

fn skip(text: impl Into<String>) -> Result<Value, (NoteKind, String)> {
    Err((NoteKind::NotNeeded, text.into()))
}

fn look(text: impl Into<String>) -> Result<Value, (NoteKind, String)> {
    Err((NoteKind::Attention, text.into()))
}

fn as_it_is(value: &Value) -> Result<Value, (NoteKind, String)> {
    match value {
        Value::Null => skip("it is not set"),
        Value::Array(_) | Value::Object(_) => look("has another form than expected; set it by hand"),
        value => Ok(value.clone()),
    }
}

fn not_empty(value: &Value) -> Result<Value, (NoteKind, String)> {
    if super::is_off(value) { skip("it is not set") } else { as_it_is(value) }
}

fn not_zero(value: &Value) -> Result<Value, (NoteKind, String)> {
    if super::is_off(value) { skip("0 is the default, and ours is kept") } else { as_it_is(value) }
}

fn bytes(value: &Value) -> Result<Value, (NoteKind, String)> {
    match value.as_str() {
        Some(text) if !text.contains("${") && text.parse::<u64>().is_err() => look("is no number of bytes; set it by hand"),
        _ => not_zero(value),
    }
}

fn texts(value: &Value) -> Result<Value, (NoteKind, String)> {
    match value {
        Value::Array(list) if list.iter().all(Value::is_string) => Ok(value.clone()),
        Value::String(text) => Ok(text.split(',').map(str::trim).collect()),
        _ => look("has another form than expected; set it by hand"),
    }
}

/// As a key, it can be no reference to the environment.
fn topic(value: &Value) -> Result<Value, (NoteKind, String)> {
    match value.as_str() {
        Some(text) if !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) => Ok(value.clone()),
        _ => look("cannot be taken over; name it below distributor.receivers.kafka.topics"),
    }
}

fn encoding(value: &Value) -> Result<Value, (NoteKind, String)> {
    const OURS: [&str; 7] =
        ["otlp_proto", "otlp_json", "jaeger_proto", "jaeger_json", "zipkin_proto", "zipkin_json", "zipkin_thrift"];
    match value.as_str() {
        Some(text) if OURS.contains(&text) => Ok(value.clone()),
        _ => look(format!("cannot be read here; these can: {}", OURS.join(", "))),
    }
}

fn sasl_mechanism(value: &Value) -> Result<Value, (NoteKind, String)> {
    match value.as_str() {
        Some("PLAIN" | "SCRAM-SHA-256" | "SCRAM-SHA-512") => Ok(value.clone()),
        _ => look("cannot be used here; PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512 can"),
    }
}

/// A receiver or protocol that is named is on.
fn on(_: &Value) -> Result<Value, (NoteKind, String)> {
    Ok(Value::Null)
}

fn target(value: &Value) -> Result<Value, (NoteKind, String)> {
    match value.as_str() {
        Some("all") => Ok(value.clone()),
        _ => look("each process has all roles here; start as many as needed on one store"),
    }
}

fn log_format(value: &Value) -> Result<Value, (NoteKind, String)> {
    match value.as_str() {
        Some("json") => Ok("json".into()),
        Some(text) if text.contains("${") => Ok(value.clone()),
        _ => Ok("text".into()),
    }
}

fn backend(value: &Value) -> Result<Value, (NoteKind, String)> {
    match value.as_str() {
        Some("local" | "s3" | "gcs" | "azure") => Ok(value.clone()),
        Some(text) if text.contains("${") => Ok(value.clone()),
        _ => look("is none of local, s3, gcs and azure; set storage.backend by hand"),
    }
}

fn beside(value: &Value) -> Result<Value, (NoteKind, String)> {
    match value.as_str().map(|prefix| prefix.trim_matches('/')) {
        None | Some("") => skip("it is not set"),
        Some(prefix) => Ok(format!("{prefix}-{BESIDE}").into()),
    }
}

fn bucket_lookup(value: &Value) -> Result<Value, (NoteKind, String)> {
    match value.as_u64() {
        Some(1) => Ok("dns".into()),
        Some(2) => Ok("path".into()),
        _ => skip("the server's address decides"),
    }
}

fn gcs_endpoint(value: &Value) -> Result<Value, (NoteKind, String)> {
    match value.as_str() {
        Some(text) if text.contains("storage.googleapis.com") => skip("it is Google's own"),
        _ => not_empty(value),
    }
}

fn several_tenants(value: &Value) -> Result<Value, (NoteKind, String)> {
    match value {
        Value::Bool(false) => Ok(1.into()),
        _ => skip("several tenants may be asked at once"),
    }
}

/// Below an hour nothing can be kept, and 0 is for ever.
fn keep(value: &Value) -> Result<Value, (NoteKind, String)> {
    let Some(text) = value.as_str() else {
        return look("is no duration; set overrides.defaults.retention.keep by hand");
    };
    if text.contains("${") {
        return Ok(value.clone());
    }
    match seconds(text) {
        None => look("is no duration; set overrides.defaults.retention.keep by hand"),
        Some(0.0) => skip("it is not set"),
        Some(seconds) if seconds < 3600.0 => look("is less than an hour, the shortest time that traces are kept here"),
        Some(_) => Ok(value.clone()),
    }
}

/// Files of merged blocks stay for a quarter of an hour, and no query may be longer.
fn api_timeout(value: &Value) -> Result<Value, (NoteKind, String)> {
    match value.as_str().map(|text| (text.contains("${"), seconds(text))) {
        Some((true, _)) => Ok(value.clone()),
        Some((_, Some(seconds))) if seconds >= 900.0 => {
            look("is longer than compactor.removed_block_grace, 15m; set both by hand")
        }
        Some((_, Some(seconds))) if seconds > 0.0 => Ok(value.clone()),
        _ => skip("it is not set"),
    }
}

/// Of a duration as Go writes it.
fn seconds(text: &str) -> Option<f64> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let value: f64 = rest[..number].parse().ok()?;
        rest = &rest[number..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += value
            * match &rest[..unit] {
                "d" => 86_400.0,
                "h" => 3_600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                "" if value == 0.0 => 0.0,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    Some(total)
}
