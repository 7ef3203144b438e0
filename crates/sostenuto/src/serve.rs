//! `sostenuto serve`: builds every part from its settings, runs them, and drains them in reverse.
//!
//! Every port is bound before anything is opened, so that a port in use costs nothing; connections that come
//! before the log is replayed wait in the sockets. On a signal the receivers stop first, then live spans become
//! blocks, then the API stops: what was acknowledged is in the table or in the log at every moment.

use std::{path::PathBuf, sync::Arc, time::Instant};

use anyhow::Context;
use api::{
    Api, ApiState, CurrentReadLimits, Failure, Flush, Flushed, Readiness, ReadyState, STRATEGIES_BYTES_MAX, StatusPages, Strategies,
};
use compactor::Compactor;
use distributor::Distributor;
use follow::{FollowError, Followed, Source};
use ingester::{FlushReport, Ingester};
use query::Engine;
use storage::Storage;
use tokio::{signal::unix, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    build,
    config::{Config, LogFormat, directory, reachable},
    gates::Gates,
    kafka::{self, Kafka},
    limits::{Limited, Limits},
    logging, observe,
    receive::{self, Datagrams},
    redaction::Redaction,
    show::{bytes, duration, plural},
    sockets::{API_KEY, Addresses, GRPC_KEY, JAEGER_QUERY_GRPC_KEY, JAEGER_QUERY_KEY, SAMPLING_KEY, Sockets},
    user_overrides,
};

/// Serves until a signal. True if everything that was taken in reached the table.
pub async fn run(config: Config) -> anyhow::Result<bool> {
    logging::start(&config.log)?;
    let mut signals = Signals::listen()?;
    let sockets = Sockets::bind(&config).await?;
    let addresses = sockets.addresses()?;
    let mut gates = Gates::open(&config)?;
    let kafka = kafka::open(&config)?;

    let storage = Storage::open(&config.storage.store())
        .await
        .with_context(|| format!("cannot open the store in {}", config.storage.describe()))?;
    let ingester = Ingester::open(config.ingester_config(), storage.clone())
        .await
        .with_context(|| format!("cannot open the write-ahead log in {}", directory(&config.storage.wal_path())))?;
    let limits = Limits::open(&config, &storage).await?;
    let sampling = config.distributor.sampling.strategies_file.clone().map(strategies).transpose()?;
    let redaction = Redaction::open(&config).context("distributor.redaction")?;
    let effective = limits.current();
    let rates = effective.rates.clone();
    let redactor = redaction.as_ref().map(Redaction::redactor);
    let distributor = Distributor::redacting(config.distributor_config(rates), ingester.clone(), redactor);
    let engine = Engine::new(storage.clone(), Arc::new(ingester.clone()), config.engine_config());
    let compactor =
        Compactor::with_retention(config.compactor.config(), storage.clone(), engine.clone(), effective.retentions.clone());
    let datagrams = Datagrams::default();
    let mut state = state(&config, engine, &storage, &distributor, &ingester, &compactor, &datagrams, kafka.as_ref());
    let shown = limits.clone();
    state.status.overrides = Arc::new(move |tenant| match tenant {
        Some(tenant) => shown.current().page_of(tenant),
        None => shown.current().page(),
    });
    limits.bind(Limited { distributor: distributor.clone(), compactor: compactor.clone(), reads: state.read_limits.clone() });
    state.overrides = user_overrides::overrides(&limits);
    if let Some(strategies) = sampling.clone() {
        state.sampling = Some(Arc::new(move || strategies.current()));
    }
    let readiness = state.readiness.clone();
    let metrics = state.metrics.clone();

    let (receivers, queries) = (CancellationToken::new(), CancellationToken::new());
    let compacting = CancellationToken::new();
    let compaction = tokio::spawn(compactor.run(compacting.clone()));
    let mut receiving = JoinSet::new();
    let mut answering = JoinSet::new();
    let api = Api::new(state);
    let port = gates.port(&config, API_KEY, sockets.api, api::needs(&config.http_api_prefix))?;
    answering.spawn(api.serve(port, queries.clone()));
    if let Some(socket) = sockets.grpc {
        let port = gates.port(&config, GRPC_KEY, socket, api::needs(&config.http_api_prefix))?;
        answering.spawn(api.serve_grpc(port, queries.clone()));
    }
    if let Some(socket) = sockets.jaeger_query {
        let port = gates.port(&config, JAEGER_QUERY_KEY, socket, api::foreign_needs())?;
        answering.spawn(api.serve_jaeger(port, queries.clone()));
    }
    if let Some(socket) = sockets.jaeger_query_grpc {
        let port = gates.port(&config, JAEGER_QUERY_GRPC_KEY, socket, api::foreign_needs())?;
        answering.spawn(api.serve_jaeger_grpc(port, queries.clone()));
    }
    if let Some(socket) = sockets.sampling {
        let port = gates.port(&config, SAMPLING_KEY, socket, api::sampling_needs())?;
        answering.spawn(api.serve_sampling(port, queries.clone()));
    }
    receive::start(&config, &mut gates, sockets.receivers, &api, &distributor, &datagrams, &receivers, &mut receiving)?;
    kafka::start(kafka.as_ref(), &distributor, &receivers, &mut receiving)?;
    let (mut following, files) = (JoinSet::new(), CancellationToken::new());
    gates.follow(&files, &mut following);
    if let Some(exporter) = gates.exporter() {
        following.spawn(exporter.run(files.clone()));
    }
    if let Some(tracer) = &gates.tracer {
        observe::own_spans(&metrics, tracer);
    }
    observe::gates(&metrics, &gates);
    observe::limits(&metrics, &limits);
    following.spawn(limits.follow(files.clone()));
    if let Some(strategies) = sampling {
        let interval = config.distributor.sampling.reload_interval.0;
        following.spawn(strategies.follow(interval, files.clone(), |_| {}));
    }
    if let Some(redaction) = redaction {
        observe::redaction(&metrics, &redaction);
        following.spawn(redaction.follow(config.clone(), files.clone()));
    }
    if config.authenticates() && config.tls_of(API_KEY).is_none() && !addresses.api.ip().is_loopback() {
        tracing::warn!("keys and tokens travel in plain text: set server.tls, or let something before this server encrypt");
    }
    if config.query_frontend.mcp_server.enabled {
        tracing::warn!("the MCP server is on: what agents read at /api/mcp may reach whoever runs their model");
    }
    readiness.set(ReadyState::Ready);
    announce(&config, &addresses, ingester.replayed().spans);

    // A server that ends by itself is a bug; drain all the same.
    let why = tokio::select! {
        signal = signals.next() => signal,
        _ = receiving.join_next() => "a receiver ended",
        _ = answering.join_next() => "the API ended",
    };
    tell(&config, &format!("Stopping ({why}); once more stops at once."));
    let began = Instant::now();
    let drain = async {
        readiness.set(ReadyState::Stopping);
        receivers.cancel();
        // What is under way is given up: the next start does it again.
        compacting.cancel();
        if let Err(panic) = compaction.await {
            tracing::error!(%panic, "the compactor ended unexpectedly");
        }
        while receiving.join_next().await.is_some() {}
        let flushed = ingester.shutdown().await;
        queries.cancel();
        while answering.join_next().await.is_some() {}
        files.cancel();
        while following.join_next().await.is_some() {}
        if let Some(audit) = &gates.audit {
            audit.close();
        }
        storage.close().await;
        flushed
    };
    let flushed = tokio::select! {
        flushed = drain => flushed,
        // The log has every acknowledged span; the next start replays what is not in a block.
        _ = signals.next() => std::process::exit(EXIT_AT_ONCE),
    };
    let took = duration(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
    match flushed {
        Ok(report) => {
            tell(&config, &format!("Stopped after {took}: {}", done(&report)));
            Ok(true)
        }
        Err(error) => {
            tell(
                &config,
                &format!(
                    "Stopped after {took}: not all spans reached a block ({error}). The log in {} has them, and the next start replays it.",
                    directory(&config.storage.wal_path())
                ),
            );
            Ok(false)
        }
    }
}

/// What a shell reports for a process that a second Ctrl-C ended.
const EXIT_AT_ONCE: i32 = 130;

fn done(report: &FlushReport) -> String {
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    match report.blocks {
        0 => "no live spans were left to write.".to_owned(),
        blocks => format!(
            "wrote {} into {} ({}).",
            plural(count(report.spans), "span"),
            plural(count(blocks), "block"),
            bytes(report.block_bytes)
        ),
    }
}

fn state(
    config: &Config,
    engine: Engine,
    storage: &Storage,
    distributor: &Distributor,
    ingester: &Ingester,
    compactor: &Compactor,
    datagrams: &Datagrams,
    kafka: Option<&Kafka>,
) -> ApiState {
    let build = build::info();
    let metrics = api::Metrics::new(&build);
    observe::distributor(&metrics, distributor);
    observe::ingester(&metrics, ingester);
    observe::compactor(&metrics, compactor);
    observe::storage(&metrics, storage);
    observe::datagrams(&metrics, datagrams);
    observe::engine(&metrics, &engine);
    if let Some(kafka) = kafka {
        kafka::observe(&metrics, kafka);
    }
    let readiness = Readiness::default();
    let (yaml, place) = (config.effective_yaml(), config.storage.describe());
    let (shown, live, kafka) = (readiness.clone(), ingester.clone(), kafka.cloned());
    let status = StatusPages {
        config: Arc::new(move || yaml.clone()),
        services: Arc::new(move || {
            let state = format!("{:?}", shown.get());
            let mut services =
                ["distributor", "ingester", "compactor", "querier", "api"].map(|service| format!("{service:<12} {state}\n")).concat();
            if let Some(kafka) = &kafka {
                services += &format!("{:<12} {state}: {}\n", "kafka", kafka::describe(kafka));
            }
            services
        }),
        backend: Arc::new(move || {
            let stats = live.stats();
            format!(
                "blocks {place}\nlive {}, {} waiting\n",
                bytes(stats.memory.live as u64),
                plural(stats.cuts_waiting, "cut")
            )
        }),
        ..StatusPages::new(build)
    };
    let multitenancy = config.multitenancy_enabled;
    ApiState {
        config: config.api_config(),
        multitenancy,
        engine,
        readiness,
        metrics,
        status,
        flush: Some(flush(ingester)),
        read_limits: CurrentReadLimits::default(),
        overrides: None,
        sampling: None,
    }
}

/// Jaeger's strategies, from their file.
fn strategies(path: PathBuf) -> Result<Followed<Strategies>, FollowError> {
    let source = Source { name: "the sampling strategies", files: vec![path], bytes_max: STRATEGIES_BYTES_MAX };
    Followed::open(source, |files| Strategies::parse(&files[0]))
}

fn flush(ingester: &Ingester) -> Flush {
    let ingester = ingester.clone();
    Arc::new(move || {
        let ingester = ingester.clone();
        Box::pin(async move {
            let report = ingester.flush().await.map_err(|error| {
                let why = format!("not all live spans reached a table; they stay live and are tried again: {error}");
                Failure::new(model::ErrorKind::Unavailable, why)
            })?;
            Ok(Flushed {
                spans: report.spans,
                blocks: report.blocks,
                block_bytes: report.block_bytes,
                commits: report.commits,
                segments_removed: report.segments_removed as u64,
            })
        })
    })
}

struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let interrupt = unix::signal(unix::SignalKind::interrupt())?;
        Ok(Self { interrupt, terminate: unix::signal(unix::SignalKind::terminate())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "Ctrl-C",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// Says what listens where, what is stored where, and what to try.
fn announce(config: &Config, addresses: &Addresses, replayed: u64) {
    let blocks = config.storage.describe();
    let log = directory(&config.storage.wal_path());
    if config.log.format == LogFormat::Json {
        let Addresses { api, grpc, jaeger_query, jaeger_query_grpc, sampling, receivers } = addresses;
        let text = |address: Option<std::net::SocketAddr>| address.map(|address| address.to_string());
        tracing::info!(
            %api,
            grpc = text(*grpc),
            jaeger_query = text(*jaeger_query),
            jaeger_query_grpc = text(*jaeger_query_grpc),
            sampling = text(*sampling),
            otlp_grpc = text(receivers.otlp_grpc),
            otlp_http = text(receivers.otlp_http),
            zipkin = text(receivers.zipkin),
            jaeger_grpc = text(receivers.jaeger_grpc),
            jaeger_thrift_http = text(receivers.jaeger_thrift_http),
            jaeger_thrift_compact = text(receivers.jaeger_thrift_compact),
            jaeger_thrift_binary = text(receivers.jaeger_thrift_binary),
            blocks,
            log,
            replayed,
            access = if config.authenticates() { "authenticated" } else { "everybody" },
            "serving"
        );
        return;
    }
    println!("Sostenuto {}\n", build::VERSION);
    for (name, address) in addresses.receivers.listed() {
        println!("  {name:<9}  {address}");
    }
    if let Some(kafka) = &config.distributor.receivers.kafka {
        let topics: Vec<&str> = kafka.topics.keys().map(String::as_str).collect();
        println!("  Kafka      {} of {}", topics.join(", "), kafka.brokers.join(", "));
    }
    let scheme = |key| if config.tls_of(key).is_some() { "https" } else { "http" };
    println!("  API        {}://{}  (HTTP and gRPC)", scheme(API_KEY), reachable(addresses.api));
    if let Some(address) = addresses.grpc {
        println!("  gRPC       {}://{}", scheme(GRPC_KEY), reachable(address));
    }
    for (address, key, what) in [
        (addresses.jaeger_query, JAEGER_QUERY_KEY, ""),
        (addresses.jaeger_query_grpc, JAEGER_QUERY_GRPC_KEY, "  (gRPC)"),
    ] {
        if let Some(address) = address {
            println!("  Jaeger API {}://{}{what}", scheme(key), reachable(address));
        }
    }
    if let Some(address) = addresses.sampling {
        println!("  Sampling   {}://{}/sampling", scheme(SAMPLING_KEY), reachable(address));
    }
    println!("  Blocks     {blocks}");
    match replayed {
        0 => println!("  Log        {log}"),
        spans => {
            println!("  Log        {log}  ({} replayed)", plural(usize::try_from(spans).unwrap_or(usize::MAX), "span"))
        }
    }
    if !config.authenticates() {
        println!("  Access     everybody who reaches these ports may read and write");
    }
    println!("\nTry  {}\n", suggestion(addresses));
}

/// `sostenuto demo`, told where to send if that is not its default.
fn suggestion(addresses: &Addresses) -> String {
    match (addresses.receivers.otlp_grpc.map(reachable), addresses.receivers.otlp_http.map(reachable)) {
        (Some(grpc), _) if grpc.port() == 4317 => "sostenuto demo".to_owned(),
        (Some(grpc), _) => format!("sostenuto demo --endpoint http://{grpc}"),
        (None, Some(http)) => format!("sostenuto demo --protocol http --endpoint http://{http}"),
        (None, None) => "sostenuto query '{ }'".to_owned(),
    }
}

/// A line for whoever watches: plain text, or an event in a log that machines read.
fn tell(config: &Config, line: &str) {
    match config.log.format {
        LogFormat::Text => println!("{line}"),
        LogFormat::Json => tracing::info!("{line}"),
    }
}
