//! The configuration file: examples load, mistakes are explained, secrets stay secret.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use sostenuto::config::Config;

fn env(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn parse(yaml: &str) -> Config {
    Config::parse(yaml, "test.yaml", HashMap::new()).unwrap_or_else(|error| panic!("{error}"))
}

fn mistake(yaml: &str) -> String {
    Config::parse(yaml, "test.yaml", HashMap::new()).expect_err("the file is wrong").to_string()
}

fn examples() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../config");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// A value for every variable that an example asks for.
fn example_environment() -> HashMap<String, String> {
    env(&[
        ("SOSTENUTO_BUCKET", "traces-of-the-shop"),
        ("MINIO_ACCESS_KEY", "canary-minio-id"),
        ("MINIO_SECRET_KEY", "canary-minio-secret"),
        ("KAFKA_PASSWORD", "canary-kafka"),
        ("AZURE_STORAGE_ACCOUNT", "shop"),
        ("AZURE_STORAGE_KEY", "Y2FuYXJ5LWF6dXJlLXNlY3JldA=="),
    ])
}

#[test]
fn every_example_loads() {
    let names: Vec<String> =
        examples().iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(names, ["azure.yaml", "gcs.yaml", "kafka.yaml", "local.yaml", "minio.yaml", "s3.yaml", "secure.yaml"]);
    for path in examples() {
        Config::load(&path, example_environment()).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn the_local_example_shows_the_defaults() {
    let local = examples().into_iter().find(|path| path.ends_with("local.yaml")).unwrap();
    let shown = Config::load(&local, HashMap::new()).unwrap().effective_yaml();
    assert_eq!(shown, Config::default().effective_yaml());
}

#[test]
fn the_effective_configuration_reads_back_as_itself() {
    for path in examples() {
        let config = Config::load(&path, example_environment()).unwrap();
        let again = Config::parse(&config.effective_yaml(), "effective.yaml", HashMap::new());
        let again = again.unwrap_or_else(|error| panic!("{}: {error}\n{}", path.display(), config.effective_yaml()));
        assert_eq!(again.effective_yaml(), config.effective_yaml(), "{}", path.display());
    }
}

#[test]
fn an_empty_file_and_empty_sections_are_the_defaults() {
    for yaml in ["", "# nothing\n", "server:\ningester:\nstorage:\n  s3:\n", "{}"] {
        assert_eq!(parse(yaml).effective_yaml(), Config::default().effective_yaml(), "{yaml:?}");
    }
}

#[test]
fn values_of_every_kind_are_read() {
    let config = parse(
        "server:\n  http_listen_port: 3300\ningester:\n  max_block_duration: 1h30m\n  max_block_bytes: 16MiB\n\
         overrides:\n  defaults:\n    ingestion:\n      rate_limit_bytes: 30MB\n      burst_size_bytes: 40000000\n",
    );
    assert_eq!(config.server.http_listen_port, 3300);
    assert_eq!(config.ingester.max_block_duration.0, Duration::from_secs(5400));
    assert_eq!(config.ingester.max_block_bytes.0, 16 << 20);
    assert_eq!(config.overrides.defaults.ingestion.rate_limit_bytes.0, 30_000_000);
    assert_eq!(config.overrides.defaults.ingestion.burst_size_bytes.0, 40_000_000);
}

#[test]
fn naming_one_protocol_switches_the_other_off() {
    let config = parse("distributor: {receivers: {otlp: {protocols: {grpc: }}}}");
    let protocols = &config.distributor.receivers.otlp.protocols;
    assert_eq!(protocols.grpc.as_ref().unwrap().endpoint, "127.0.0.1:4317");
    assert!(protocols.http.is_none());
    assert!(mistake("distributor: {receivers: {otlp: {protocols: {}}}}").contains("name at least one"));
}

#[test]
fn naming_one_receiver_switches_the_others_off() {
    let receivers = |yaml: &str| parse(yaml).distributor.receivers;
    let all = receivers("log: {level: info}");
    assert!(all.endpoints().iter().all(|(_, endpoint)| endpoint.is_some()));
    let on = |yaml: &str| -> Vec<String> {
        receivers(yaml).endpoints().into_iter().filter_map(|(_, endpoint)| endpoint.cloned()).collect()
    };
    assert_eq!(on("distributor: {receivers: {zipkin: }}"), ["127.0.0.1:9411"]);
    assert_eq!(on("distributor: {receivers: {otlp: }}"), ["127.0.0.1:4317", "127.0.0.1:4318"]);
    let jaeger = "distributor: {receivers: {jaeger: {protocols: {grpc: , thrift_binary: {endpoint: '[::]:1'}}}}}";
    assert_eq!(on(jaeger), ["127.0.0.1:14250", "[::]:1"]);
    assert_eq!(on("distributor: {receivers: {jaeger: {}}}").len(), 4);
    // What is printed reads as the same.
    for yaml in ["{}", jaeger, "distributor: {receivers: {zipkin: {max_request_body_size: 1MiB}}}"] {
        let printed = parse(yaml).effective_yaml();
        assert_eq!(parse(&printed).effective_yaml(), printed);
    }
    let message = mistake("distributor: {receivers: {zipkin: {endpoint: nowhere}}}");
    assert!(message.contains("distributor.receivers.zipkin.endpoint") && message.contains("host:port"), "{message}");
}

#[test]
fn settings_of_kafka_are_read_and_mistakes_are_explained() {
    assert!(Config::default().distributor.receivers.kafka.is_none(), "it needs brokers");
    let of = |yaml: &str| parse(&format!("distributor: {{receivers: {{kafka: {yaml}}}}}")).distributor.receivers.kafka.unwrap();
    let bare = of("");
    assert_eq!((bare.brokers, bare.topics.into_keys().collect::<Vec<_>>()), (vec!["localhost:9092".into()], vec!["otlp_spans".to_owned()]));
    assert!(bare.tls.is_none() && of("{tls: }").tls.is_some(), "naming it switches it on");
    for (yaml, says) in [
        ("{topic: a}", "did you mean `topics`?"),
        ("{brokers: []}", "host:port"),
        ("{brokers: ['a:1,b:2']}", "host:port"),
        ("{topics: {}}", "must name topics"),
        ("{topics: {'^.*': otlp_proto}}", "must name topics"),
        ("{topics: {a: text}}", "zipkin_thrift"),
        ("{group_id: ''}", "cannot be empty"),
        ("{default_tenant: '../x'}", "default_tenant"),
        ("{session_timeout: 1s}", "6s to 30m"),
        ("{commit_interval: 0s}", "at least 10ms"),
        ("{max_message_bytes: 0}", "1 byte to 1GiB"),
        ("{tls: {cert_file: a}}", "both of"),
        ("{sasl: {mechanism: GSSAPI, username: a, password: b}}", "SCRAM-SHA-256"),
        ("{sasl: {mechanism: PLAIN, username: a}}", "one of password and password_file"),
        ("{sasl: {mechanism: PLAIN, password: a}}", "username"),
        ("{sasl: }", "mechanism"),
    ] {
        let message = mistake(&format!("distributor: {{receivers: {{kafka: {yaml}}}}}"));
        assert!(message.contains(says), "{yaml}: {message}");
    }
}

#[test]
fn settings_of_security_that_cannot_work_are_explained() {
    for (yaml, says) in [
        ("server: {tls: {cert_file: a.pem}}", "server.tls: needs a cert_file and a key_file"),
        ("distributor: {receivers: {zipkin: {tls: {key_file: a.pem}}}}", "needs a cert_file and a key_file"),
        ("server: {tls: {cert_fiel: a.pem}}", "did you mean `cert_file`?"),
        ("server: {tls: {cert_file: a, key_file: b, min_version: '1.1'}}", "1.2"),
        ("authentication: {jwt: {audience: a}}", "issuer"),
        ("authentication: {jwt: {issuer: a}}", "audience"),
        ("authentication: {jwt: {issuer: a, audience: b}}", "is no URL"),
        ("authentication: {jwt: {issuer: a, audience: b, jwks_url: 'https://u:p@h/'}}", "without credentials"),
        ("authentication: {jwt: {issuer: a, audience: b, jwks_file: c, jwks_url: 'https://h/'}}", "set one of"),
        ("audit: {output: file, max_files: 0}", "audit"),
        ("authentication: {client_certificates: {}}", "client_ca_file"),
        ("authentication: {client_certificates: {role_attribute: SN}}", "CN, O, OU"),
        ("distributor: {redaction: {rules: [{name: a}]}}", "about everything"),
        ("distributor: {redaction: {reload_interval: 1ms}}", "at least 10ms"),
        ("distributor: {redaction: {rules: [{name: a, keys: [b], action: hash}]}}", "salt_file"),
        ("distributor: {redaction: {rules: [{name: a, key: [b]}]}}", "did you mean `keys`?"),
        ("overrides: {per_tenant: {a: {ingestion: {rate_limit_byte: 1}}}}", "did you mean `rate_limit_bytes`?"),
        ("overrides: {per_tenant: {a: {ingestion: {rate_limit_bytes: 0}}}}", "more than 0"),
        ("distributor: {sampling: {endpoint: nowhere}}", "host:port"),
    ] {
        let message = mistake(yaml);
        assert!(message.contains(says), "{yaml}: {message}");
    }
    let config = parse("server: {tls: {cert_file: a, key_file: b}}\ndistributor: {receivers: {zipkin: {tls: {enabled: false}}}}");
    assert!(config.tls_of("distributor.receivers.zipkin.endpoint").is_none());
    assert!(config.tls_of("server.http_listen_port").is_some());
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_one() {
    let message = mistake("server:\n  http_listen_prot: 3200\n");
    assert_eq!(message, "test.yaml:2:3: unknown key `http_listen_prot`; did you mean `http_listen_port`?");
    let message = mistake("storage:\n  backend: s3\n  s3:\n    bukcet: x\n");
    assert_eq!(message, "test.yaml:4:5: unknown key `bukcet`; did you mean `bucket`?");
    let message = mistake("multi_tenancy: true\n");
    assert!(
        message.contains("did you mean `multitenancy_enabled`?") || message.contains("the keys here are"),
        "{message}"
    );
    let message = mistake("log:\n  colour: yes\n");
    assert_eq!(message, "test.yaml:2:3: unknown key `colour`; the keys here are level, format");
}

#[test]
fn keys_that_tempo_has_elsewhere_are_explained() {
    assert!(mistake("storage:\n  trace:\n    backend: local\n").contains("directly under `storage`"));
    assert!(mistake("server:\n  log_level: debug\n").contains("`log.level`"));
}

#[test]
fn wrong_values_are_explained_where_they_stand() {
    for (yaml, place, words) in [
        ("server:\n  http_listen_port: 99999\n", "test.yaml:2:", "a whole number that fits u16"),
        ("multitenancy_enabled: 'maybe'\n", "test.yaml:1:", "true or false"),
        ("server:\n  graceful_shutdown_timeout: soon\n", "test.yaml:2:", "500ms, 30s, 1h30m"),
        ("ingester:\n  max_block_bytes: -1\n", "test.yaml:2:", "negative"),
        ("ingester:\n  max_block_bytes: lots\n", "test.yaml:2:", "64MiB"),
        ("log:\n  level: loud\n", "test.yaml:2:", "error, warn, info, debug, trace"),
        ("server:\n  http_listen_port: 1\nserver:\n  http_listen_port: 2\n", "test.yaml:3:", "twice"),
        ("server: [\n", "test.yaml:", ""),
        ("storage:\n  backend: s3\n", "test.yaml: ", "storage.s3.bucket"),
        ("storage: {backend: s3, s3: {bucket: b, secret_key: x}}\n", "test.yaml: ", "storage.s3.access_key"),
        ("distributor: {receivers: {otlp: {protocols: {grpc: {endpoint: ':4317'}}}}}\n", "test.yaml: ", "host:port"),
        ("query_frontend: {search: {default_result_limit: 0}}\n", "test.yaml: ", "default_result_limit"),
    ] {
        let message = mistake(yaml);
        assert!(message.starts_with(place) && message.contains(words), "{yaml:?} gives {message:?}");
        assert!(!message.contains('\n'), "{message:?} is one line");
    }
}

#[test]
fn retention_is_read_and_its_mistakes_are_explained() {
    let config = parse(
        "overrides:\n  defaults:\n    retention:\n      keep: 7d\n      rules:\n        \
         - {query: '{ status = error }', keep: 90d}\n        - {sample: 0.1, keep: 30d}\n  \
         per_tenant:\n    team-a:\n      retention: {keep: 1d}\n    team-b: {}\n",
    );
    let retentions = config.limits().unwrap().retentions;
    let day = Duration::from_secs(86_400);
    let of = |name: &str| retentions.of(&model::TenantId::parse(name).unwrap()).clone();
    assert_eq!((of("team-a").keep, of("team-a").rules.len()), (Some(day), 0));
    assert_eq!(of("team-b"), retentions.default);
    let keeps: Vec<_> = retentions.default.rules.iter().map(|rule| (rule.query.is_some(), rule.sample, rule.keep)).collect();
    assert_eq!(keeps, [(true, 1.0, Some(90 * day)), (false, 0.1, Some(30 * day))]);
    assert!(!Config::default().limits().unwrap().retentions.default.is_limited(), "nothing is deleted unless configured");

    for (rules, words) in [
        ("{keeep: 7d}", "did you mean `keep`?"),
        ("{rules: [{querry: '{ }', keep: 7d}]}", "did you mean `query`?"),
        ("{rules: [{query: '{ } | rate()', keep: 7d}]}", "rule 1: is a metrics query"),
        ("{rules: [{query: '{ }'}, {query: '{ stat', keep: 7d}]}", "rule 2: the query cannot be read"),
        ("{rules: [{keep: 7d}]}", "needs a query or a sample"),
        ("{rules: [{sample: 1.5, keep: 7d}]}", "at most 1"),
        ("{keep: 7m}", "at least 1h (compactor.min_keep)"),
        ("{rules: [{sample: 0.5, keep: 0s}]}", "at least 1h"),
    ] {
        let message = mistake(&format!("overrides: {{defaults: {{retention: {rules}}}}}\n"));
        assert!(message.contains(words) && !message.contains('\n'), "{rules} gives {message:?}");
        let message = mistake(&format!("overrides: {{per_tenant: {{a: {{retention: {rules}}}}}}}\n"));
        assert!(message.contains(words), "{rules} gives {message:?}");
    }
    assert!(mistake("overrides: {per_tenant: {'a/b': {}}}\n").contains("cannot be a tenant"));
    assert!(mistake("compactor: {removed_block_grace: 10s}\n").contains("api_timeout"));
    assert!(mistake("compactor: {last_zstd_level: 23}\n").contains("last_zstd_level"));
    let config = parse("compactor: {min_keep: 1m}\noverrides: {defaults: {retention: {keep: 7m}}}\n");
    assert_eq!(config.limits().unwrap().retentions.default.keep, Some(Duration::from_secs(420)));
    assert!(mistake("compactor: {orphan_grace: 1h}\n").contains("at least 2h"));
}

#[test]
fn the_environment_is_expanded_inside_values_only() {
    let values = env(&[("PORT", "3333"), ("EVIL", "x\"\nmultitenancy_enabled: true # '"), ("EMPTY", "")]);
    let read = |yaml: &str| Config::parse(yaml, "test.yaml", values.clone()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(read("storage: {path: 'x${PORT}'}").storage.path, PathBuf::from("x3333"));
    // Digits are a text where a text is wanted.
    assert_eq!(read("http_api_prefix: ${PORT}\n").http_api_prefix, "3333");
    assert_eq!(read("server:\n  http_listen_port: ${PORT}\n").server.http_listen_port, 3333);
    assert_eq!(read("server:\n  http_listen_port: ${NO_SUCH:-3344}\n").server.http_listen_port, 3344);
    assert_eq!(read("http_api_prefix: ${EMPTY:-/tempo}\n").http_api_prefix, "/tempo");
    assert_eq!(read("http_api_prefix: $${PORT}\n").http_api_prefix, "${PORT}");
    assert_eq!(read("server: {http_listen_port: '${PORT}'}").server.http_listen_port, 3333);
    // A comment says what it likes.
    assert_eq!(read("http_api_prefix: a # ${NO_SUCH} $x\n").http_api_prefix, "a");
    // A value cannot become a key.
    for yaml in ["http_api_prefix: ${EVIL}\n", "http_api_prefix: \"${EVIL}\"\n", "http_api_prefix: '${EVIL}'\n"] {
        let config = read(yaml);
        assert_eq!(config.http_api_prefix, values["EVIL"]);
        assert!(!config.multitenancy_enabled);
    }
}

#[test]
fn a_variable_that_is_not_set_is_named() {
    let message = mistake("storage:\n  backend: s3\n  s3:\n    bucket: ${NO_SUCH_BUCKET}\n");
    assert_eq!(
        message,
        "test.yaml:4:13: the environment variable NO_SUCH_BUCKET is not set; \
         set it, or give a default with ${NO_SUCH_BUCKET:-default}"
    );
}

#[test]
fn a_dollar_sign_that_means_nothing_is_refused() {
    for (value, advice) in [
        ("pa$word", "write $$"),
        ("'5$'", "write $$"),
        ("$HOME", "write $$"),
        ("'${HOME'", "not closed"),
        ("{x: ${HOME}}", "between quotes"),
        ("'${}'", "names no environment variable"),
        ("'${1X}'", "names no environment variable"),
        ("'${A?message}'", "only :-default"),
        ("'${A:-${B}}'", "cannot have a dollar sign"),
    ] {
        let message = mistake(&format!("server:\n  http_listen_address: {value}\n"));
        assert!(message.starts_with("test.yaml:2:") && message.contains(advice), "{value}: {message}");
    }
}

/// Secrets in every place that takes one, by environment and in the file.
#[test]
fn secrets_are_never_shown() {
    let yaml = "storage:\n  backend: s3\n  s3:\n    bucket: b\n    access_key: id\n    secret_key: ${S3_SECRET}\n    \
                session_token: canary-token\n    sse:\n      type: SSE-C\n      encryption_key: canary-customer-key\n  \
                azure:\n    storage_account_key: ${AZURE_SECRET}\n\
                distributor:\n  receivers:\n    kafka:\n      sasl:\n        mechanism: PLAIN\n        username: u\n        \
                password: canary-kafka\n";
    let values = env(&[("S3_SECRET", "canary-s3"), ("AZURE_SECRET", "12345678901234567890canary")]);
    let config = Config::parse(yaml, "test.yaml", values.clone()).unwrap_or_else(|error| panic!("{error}"));
    let shown = format!("{}\n{config:?}\n{config:#?}\n{:?}", config.effective_yaml(), config.ingester_config());
    assert!(!shown.contains("canary"), "{shown}");
    assert_eq!(config.effective_yaml().matches("<secret>").count(), 5);

    // Mistakes on the same lines do not show them either.
    for (good, bad) in [
        ("secret_key: ${S3_SECRET}", "secret_kye: ${S3_SECRET}"),
        ("secret_key: ${S3_SECRET}", "secret_key: [${S3_SECRET}, canary-two]"),
        ("secret_key: ${S3_SECRET}", "insecure: ${S3_SECRET}"),
        ("session_token: canary-token", "session_token: {canary-token: 1}"),
        ("session_token: canary-token", "session_token: canary: token: x"),
        ("type: SSE-C", "type: ${S3_SECRET}"),
        ("access_key: id", "forcepathstyle: canary-in-the-wrong-place"),
        ("password: canary-kafka", "passwort: canary-kafka"),
        ("password: canary-kafka", "password: [canary-kafka]"),
        ("password: canary-kafka", "password_file: x\n        password: canary-kafka"),
        ("mechanism: PLAIN", "mechanism: canary"),
    ] {
        let broken = yaml.replace(good, bad);
        let error = Config::parse(&broken, "test.yaml", values.clone()).expect_err(bad);
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("canary"), "{bad}: {shown}");
    }
}

#[test]
fn jaegers_query_api_has_its_ports_where_a_jaeger_receiver_is_on() {
    let check = |yaml: &str, expected: [Option<&str>; 2]| {
        let config = parse(yaml);
        let found = [config.jaeger_query_endpoint(), config.jaeger_query_grpc_endpoint()];
        assert_eq!(found.each_ref().map(Option::as_deref), expected, "{yaml}");
    };
    check("{}", [Some("127.0.0.1:16686"), Some("127.0.0.1:16685")]);
    check("server: {http_listen_address: '::1'}", [Some("[::1]:16686"), Some("[::1]:16685")]);
    check("distributor: {receivers: {otlp: }}", [None, None]);
    // Who moved the one says where the other is.
    check("server: {jaeger_query_endpoint: 'a:1'}", [Some("a:1"), None]);
    check("server: {jaeger_query_endpoint: ''}", [None, None]);
    check("server: {jaeger_query_grpc_endpoint: ''}", [Some("127.0.0.1:16686"), None]);
    let both = "server: {jaeger_query_endpoint: 'a:1', jaeger_query_grpc_endpoint: 'a:2'}";
    check(both, [Some("a:1"), Some("a:2")]);
    check(&format!("{both}\ndistributor: {{receivers: {{otlp: }}}}"), [Some("a:1"), Some("a:2")]);
    assert!(mistake("server: {jaeger_query_grpc_endpoint: nowhere}").contains("server.jaeger_query_grpc_endpoint"));
}

#[test]
fn listening_elsewhere_keeps_the_ports() {
    let mut config = Config::default();
    config.listen_on("0.0.0.0");
    let protocols = &config.distributor.receivers.otlp.protocols;
    assert_eq!(config.api_endpoint(), "0.0.0.0:3200");
    assert_eq!(config.jaeger_query_grpc_endpoint().as_deref(), Some("0.0.0.0:16685"));
    assert_eq!(protocols.grpc.as_ref().unwrap().endpoint, "0.0.0.0:4317");
    config.listen_on("::1");
    assert_eq!(config.api_endpoint(), "[::1]:3200");
    let receivers = &config.distributor.receivers;
    assert_eq!(receivers.otlp.protocols.http.as_ref().unwrap().endpoint, "[::1]:4318");
    assert_eq!(receivers.zipkin.as_ref().unwrap().endpoint, "[::1]:9411");
    assert_eq!(receivers.jaeger.protocols.thrift_compact.as_ref().unwrap().endpoint, "[::1]:6831");
    assert_eq!(config.validate(), Ok(()));
}
