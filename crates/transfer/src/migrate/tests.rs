use super::*;

fn kinds(migration: &Migration, kind: NoteKind) -> Vec<&str> {
    migration.notes.iter().filter(|note| note.kind == kind).map(|note| note.key.as_str()).collect()
}

/// The settings without the comments, as a tree.
fn settings(migration: &Migration) -> Value {
    serde_saphyr::from_str::<Option<Value>>(&migration.yaml).unwrap().unwrap_or_default()
}

const USUAL: &str = r#"
stream_over_http_enabled: true
server:
  http_listen_port: 3200
  log_level: debug
  grpc_listen_port: 9095
query_frontend:
  search: {duration_slo: 5s, max_result_limit: 0}
  mcp_server: {enabled: true}
distributor:
  max_attribute_bytes: 4096
  receivers:
    jaeger: {protocols: {thrift_http: , grpc: {endpoint: "0.0.0.0:14250"}}}
    zipkin:
    opencensus:
    otlp:
      protocols:
        http: {endpoint: "0.0.0.0:4318"}
        grpc: {endpoint: "0.0.0.0:4317"}
compactor: {compaction: {block_retention: 48h, compacted_block_retention: 1h}}
metrics_generator:
  storage: {path: /var/tempo/generator/wal, remote_write: [{url: "http://prometheus:9090/api/v1/write"}]}
storage:
  trace:
    backend: s3
    s3: {bucket: tempo, endpoint: "minio:9000", access_key: "${KEY}", secret_key: "pa$$${SECRET:-x}$y", insecure: true}
    wal: {path: /var/tempo/wal}
overrides:
  defaults:
    ingestion: {rate_limit_bytes: 15000000, burst_size_bytes: "${BURST:-20000000}", rate_strategy: global}
    metrics_generator: {processors: [service-graphs]}
tpyo: {here: 1}
"#;

#[test]
fn a_usual_configuration_becomes_ours() {
    let migration = tempo(USUAL).unwrap();
    let ours = settings(&migration);
    assert_eq!(ours["server"]["http_listen_port"], 3200);
    assert_eq!(ours["server"]["http_listen_address"], "0.0.0.0");
    assert_eq!(ours["log"]["level"], "debug");
    assert_eq!(ours["storage"]["backend"], "s3");
    assert_eq!(ours["storage"]["s3"]["bucket"], "tempo");
    assert_eq!(ours["storage"]["s3"]["prefix"], "sostenuto");
    assert_eq!(ours["storage"]["s3"]["insecure"], true);
    assert_eq!(ours["overrides"]["defaults"]["retention"]["keep"], "48h");
    assert_eq!(ours["overrides"]["defaults"]["ingestion"]["rate_limit_bytes"], 15_000_000);
    let receivers = &ours["distributor"]["receivers"];
    assert_eq!(receivers["otlp"]["protocols"]["grpc"]["endpoint"], "0.0.0.0:4317");
    assert_eq!(receivers["jaeger"]["protocols"]["grpc"]["endpoint"], "0.0.0.0:14250");
    assert!(receivers["jaeger"]["protocols"].as_object().unwrap()["thrift_http"].is_null());
    assert!(receivers.as_object().unwrap()["zipkin"].is_null() && receivers.get("opencensus").is_none());
    // References stay, other dollar signs stand for themselves.
    assert!(migration.yaml.contains("access_key: ${KEY}\n"), "{}", migration.yaml);
    assert!(migration.yaml.contains("secret_key: \"pa$$$$${SECRET:-x}$$y\"\n"), "{}", migration.yaml);
    assert!(migration.yaml.contains("burst_size_bytes: ${BURST:-20000000}\n"), "{}", migration.yaml);
    assert_eq!(kinds(&migration, NoteKind::Unknown), ["tpyo.here"]);
    assert_eq!(ours["query_frontend"]["mcp_server"]["enabled"], true);
    assert!(kinds(&migration, NoteKind::Attention).contains(&"distributor.receivers.opencensus"));
    let unsupported = kinds(&migration, NoteKind::Unsupported);
    for key in ["metrics_generator.storage.path", "overrides.defaults.metrics_generator.processors"] {
        assert!(unsupported.contains(&key), "{key}: {unsupported:?}");
    }
    assert!(kinds(&migration, NoteKind::NotNeeded).contains(&"storage.trace.wal.path"));
    // Each key has one word said about it, and every note is in the comments.
    for (key, _) in flat(&parse(USUAL).unwrap()) {
        assert!(migration.notes.iter().any(|note| note.key == key), "{key}");
        assert!(migration.yaml.contains(&format!("#   {key}: ")), "{key}");
    }
}

#[test]
fn a_receiver_of_kafka_becomes_ours() {
    let migration = tempo(
        "distributor: {receivers: {kafka: {brokers: ['a:9092', 'b:9092'], topic: jaeger.spans, encoding: jaeger_proto, group_id: g, \
         auth: {sasl: {username: u, password: '${PASSWORD}', mechanism: SCRAM-SHA-512}, tls: {ca_file: /ca.pem}}, \
         header_extraction: {extract_headers: true, headers: [a]}, message_marking: {after: true}}}}",
    )
    .unwrap();
    let ours = settings(&migration);
    let expected = serde_json::json!({
        "brokers": ["a:9092", "b:9092"],
        "topics": { "jaeger.spans": "jaeger_proto" },
        "group_id": "g",
        "sasl": { "username": "u", "password": "${PASSWORD}", "mechanism": "SCRAM-SHA-512" },
        "tls": { "ca_file": "/ca.pem" },
    });
    assert_eq!(ours["distributor"]["receivers"]["kafka"], expected, "{}", migration.yaml);
    let attention = kinds(&migration, NoteKind::Attention);
    for key in ["initial_offset", "header_extraction.headers"] {
        assert!(attention.contains(&format!("distributor.receivers.kafka.{key}").as_str()), "{key}: {attention:?}");
    }
    let bare = tempo("distributor: {receivers: {kafka: , otlp: }}").unwrap();
    assert!(settings(&bare)["distributor"]["receivers"].as_object().unwrap()["kafka"].is_null());
    let other = tempo("distributor: {receivers: {kafka: {traces: {topic: spans, encoding: text}, auth: {kerberos: {realm: R}}}}}").unwrap();
    assert_eq!(settings(&other)["distributor"]["receivers"]["kafka"]["topics"], serde_json::json!({ "spans": "otlp_proto" }));
    let attention = kinds(&other, NoteKind::Attention);
    for key in ["traces.encoding", "auth.kerberos.realm"] {
        assert!(attention.contains(&format!("distributor.receivers.kafka.{key}").as_str()), "{key}: {attention:?}");
    }
}

#[test]
fn what_tempo_does_without_being_told_is_said() {
    let migration = tempo("storage: {trace: {backend: local, local: {path: /var/tempo}}}").unwrap();
    let attention = kinds(&migration, NoteKind::Attention);
    for key in [
        "server.http_listen_address",
        "distributor.receivers",
        "compaction.block_retention",
        "storage.trace.local.path",
    ] {
        assert!(attention.contains(&key), "{key}: {attention:?}");
    }
    assert_eq!(settings(&migration)["storage"]["path"], "/var/lib/sostenuto");
    assert!(tempo("").unwrap().yaml.starts_with('#'));
    assert!(tempo("# nothing").is_ok());
}

#[test]
fn what_is_no_configuration_says_so() {
    assert!(tempo("- a\n- b").is_err());
    assert!(tempo("a: [").is_err());
    assert!(tempo("just text").is_err());
}

#[test]
fn values_that_cannot_be_ours_are_left_out() {
    let of = |text: &str| tempo(text).unwrap();
    let tls = of("server: {http_tls_config: {cert_file: /tls.crt, key_file: \"\"}}");
    assert!(kinds(&tls, NoteKind::Attention).contains(&"server.http_tls_config.cert_file"));
    assert!(kinds(&tls, NoteKind::NotNeeded).contains(&"server.http_tls_config.key_file"));
    let short = of("compactor: {compaction: {block_retention: 30m}}");
    assert!(settings(&short).get("overrides").is_none());
    let limits =
        of("query_frontend: {search: {max_result_limit: 5}, api_timeout: 30m0s, multi_tenant_queries_enabled: false}");
    let ours = settings(&limits);
    assert!(ours["query_frontend"].get("search").is_none(), "{}", limits.yaml);
    assert_eq!(ours["query_frontend"]["max_tenants_per_query"], 1);
    assert!(ours["query_frontend"].get("api_timeout").is_none());
    let half = of("storage: {trace: {backend: s3, s3: {bucket: b, access_key: k}}}");
    assert!(settings(&half)["storage"]["s3"].get("access_key").is_none());
    assert!(of("server: {log_format: logfmt}").yaml.contains("format: \"text\""));
    assert_eq!(kinds(&of("target: querier"), NoteKind::Attention).first(), Some(&"target"));
    let sum = of("overrides: {defaults: {ingestion: {burst_size_bytes: 5 * 1000, rate_limit_bytes: '7'}}}");
    assert_eq!(settings(&sum)["overrides"]["defaults"]["ingestion"], serde_json::json!({ "rate_limit_bytes": "7" }));
    // A key cannot end its comment.
    let line = of("\"a\\nstorage\": {b: 1}");
    assert!(settings(&line).get("storage").is_none(), "{}", line.yaml);
}

#[test]
fn limits_of_single_tenants_become_ours_in_both_forms() {
    let old = r#"
overrides:
  "team.a":
    ingestion_rate_limit_bytes: 30000000
    ingestion_burst_size_bytes: 0
    ingestion_max_attribute_bytes: 1024
    block_retention: 336h
    max_bytes_per_trace: 5000000
    cost_attribution: {max_cardinality: 1000}
    metrics_generator_processors: [span-metrics]
    left_pad_trace_ids: true
    tpyo: 1
  "12345": {ingestion_burst_size_bytes: 40000000}
  empty:
  "*": {block_retention: 48h}
"#;
    let new = r#"
overrides:
  "team.a":
    ingestion: {rate_limit_bytes: 30000000, burst_size_bytes: 0, max_attribute_bytes: 1024}
    compaction: {block_retention: 336h}
    global: {max_bytes_per_trace: 5000000}
    cost_attribution: {max_cardinality: 1000}
    metrics_generator: {processors: [span-metrics]}
    read: {left_pad_trace_ids: true}
    tpyo: 1
  "12345": {ingestion: {burst_size_bytes: 40000000}}
  empty: {}
  "*": {compaction: {block_retention: 48h}}
"#;
    for text in [old, new] {
        let migration = tempo_overrides(text).unwrap();
        let expected = serde_json::json!({
            "12345": { "ingestion": { "burst_size_bytes": 40_000_000 } },
            "team.a": { "ingestion": { "rate_limit_bytes": 30_000_000 }, "retention": { "keep": "336h" } },
        });
        assert_eq!(settings(&migration)["overrides"], expected, "{}", migration.yaml);
        assert_eq!(kinds(&migration, NoteKind::Unknown), ["team.a.tpyo"]);
        assert_eq!(kinds(&migration, NoteKind::Unsupported).len(), 2, "{}", migration.yaml);
        let attention = kinds(&migration, NoteKind::Attention);
        assert!(attention.contains(&"*") && attention.iter().any(|key| key.contains("max_attribute_bytes")), "{attention:?}");
        // Not as a configuration, and that is said.
        let other = tempo(text).unwrap();
        assert!(other.notes.iter().any(|note| note.text.contains("tempo-overrides")), "{}", other.yaml);
    }
    assert_eq!(settings(&tempo_overrides("overrides:").unwrap())["overrides"], serde_json::json!({}));
    for wrong in ["", "a: 1", "overrides: [a]", "overrides: {defaults_of_nobody: 5}", "a: ["] {
        assert!(tempo_overrides(wrong).is_err(), "{wrong}");
    }
}
