//! `sostenuto demo`: the traffic of a small shop, sent to any OTLP endpoint.
//!
//! Each instance of each service has its own buffer and sends its own requests, as a fleet of SDKs does, so the
//! spans of one trace arrive in many requests. At most [`REQUESTS_IN_FLIGHT_MAX`] requests are under way at once.

mod attributes;
mod customers;
mod fault;
mod finds;
mod operations;
mod send;
mod shop;
mod trace;

use std::{
    collections::HashMap,
    io::Write,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use proto::otlp::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::InstrumentationScope,
    trace::v1::{ResourceSpans, ScopeSpans},
};
use tokio::task::{JoinError, JoinSet};

use crate::{
    client::AccessArgs,
    show::{Style, thousands},
};
use customers::Customers;
use finds::Finds;
use send::{Delivery, Sender};
use shop::{SERVICES_MAX, SERVICES_MIN};
use trace::{Library, Sent};

const REQUESTS_IN_FLIGHT_MAX: usize = 16;
/// The spans of one request at most: the usual batch of an SDK.
const BATCH_SPANS_MAX: usize = 512;
/// How often every instance sends what it has.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// The most traces to make in one go when behind the wanted rate, so that progress is shown and Ctrl-C is heard.
const CATCH_UP_MAX: u64 = 200;

#[derive(clap::Args, Debug, Clone)]
pub struct DemoArgs {
    /// Where to send; http://127.0.0.1:4317, or port 4318 with `--protocol http`
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    #[arg(long, value_enum, default_value_t = Protocol::Grpc)]
    pub protocol: Protocol,
    /// Traces per second; 0 is as fast as they are taken
    #[arg(long, default_value_t = 50.0, value_parser = rate)]
    pub rate: f64,
    /// How long to send; 0 is until Ctrl-C
    #[arg(long, default_value = "20s")]
    pub duration: crate::config::GoDuration,
    /// Stop after this many traces
    #[arg(long)]
    pub traces: Option<u64>,
    /// The same seed makes the same traces, ids included; without one each run makes its own
    #[arg(long)]
    pub seed: Option<u64>,
    /// How many services the shop has
    #[arg(long, default_value_t = SERVICES_MIN, value_parser = services)]
    pub services: usize,
    #[command(flatten)]
    pub access: AccessArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    Grpc,
    Http,
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|rate: &f64| (0.0..=1e6).contains(rate)).ok_or_else(|| "a number from 0 to 1000000".into())
}

fn services(text: &str) -> Result<usize, String> {
    let known = SERVICES_MIN..=SERVICES_MAX;
    text.parse().ok().filter(|count| known.contains(count)).ok_or_else(|| format!("{SERVICES_MIN} to {SERVICES_MAX}"))
}

/// Makes and sends traces until the wanted time, number or a signal, and says what to look at.
/// True if every span was accepted.
pub async fn run(args: &DemoArgs, mut progress: impl Write, style: Style) -> anyhow::Result<bool> {
    let default = if args.protocol == Protocol::Grpc { "http://127.0.0.1:4317" } else { "http://127.0.0.1:4318" };
    let endpoint = args.endpoint.as_deref().unwrap_or(default);
    let sender = match args.protocol {
        Protocol::Grpc => Sender::grpc(endpoint, &args.access).await?,
        Protocol::Http => Sender::http(endpoint, &args.access).await?,
    };
    let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let mut customers = Customers::new(args.services, seed);
    let mut fleet = Fleet { sender, waiting: HashMap::new(), under_way: JoinSet::new(), totals: Totals::default() };
    let mut finds = Finds::default();
    let services = customers.shop().services.len();
    writeln!(progress, "Sending the traffic of a shop of {services} services to {endpoint} (seed {seed})")?;

    let began = Instant::now();
    let (mut made, mut flushed, mut shown) = (0u64, began, began);
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let elapsed = began.elapsed();
        let wanted = args.traces.unwrap_or(u64::MAX);
        let over = made >= wanted || (!args.duration.0.is_zero() && elapsed >= args.duration.0);
        let due = if over {
            0
        } else if args.rate == 0.0 {
            CATCH_UP_MAX
        } else {
            ((elapsed.as_secs_f64() * args.rate) as u64 + 1).saturating_sub(made).min(CATCH_UP_MAX)
        };
        for _ in 0..due.min(wanted - made.min(wanted)) {
            let spans = customers.next(now_unix_nano());
            finds.notice(&spans, customers.shop());
            made += 1;
            fleet.take(spans, &customers).await;
        }
        if over || flushed.elapsed() >= FLUSH_INTERVAL {
            fleet.flush(&customers).await;
            flushed = Instant::now();
        }
        if over {
            break;
        }
        if flushed > shown {
            shown = flushed;
            fleet.totals.show(&mut progress, style, made, elapsed)?;
        }
        if args.rate == 0.0 {
            // Still hear a signal.
            tokio::select! { biased; _ = &mut stop => break, () = tokio::task::yield_now() => {} }
        } else {
            tokio::select! { biased; _ = &mut stop => break, _ = tick.tick() => {} }
        }
    }
    fleet.flush(&customers).await;
    fleet.settle().await;
    let totals = &fleet.totals;
    totals.show(&mut progress, style, made, began.elapsed())?;
    if style.interactive {
        writeln!(progress)?;
    }
    if let Some(message) = &totals.message {
        writeln!(progress, "{}", style.red(&format!("The server said: {message}")))?;
    }
    write!(progress, "\n{}", finds.advice(style))?;
    Ok(totals.rejected == 0)
}

fn now_unix_nano() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// The SDKs of all instances: what each has not sent yet, and what is under way.
struct Fleet {
    sender: Sender,
    /// By instance; at most [`BATCH_SPANS_MAX`] spans plus one trace each.
    waiting: HashMap<usize, Vec<Sent>>,
    under_way: JoinSet<Delivery>,
    totals: Totals,
}

impl Fleet {
    async fn take(&mut self, spans: Vec<Sent>, customers: &Customers) {
        let mut full = Vec::new();
        for sent in spans {
            let instance = sent.instance;
            let buffer = self.waiting.entry(instance).or_default();
            buffer.push(sent);
            if buffer.len() == BATCH_SPANS_MAX {
                full.push(instance);
            }
        }
        for instance in full {
            self.send(instance, customers).await;
        }
    }

    async fn flush(&mut self, customers: &Customers) {
        let mut instances: Vec<usize> = self.waiting.keys().copied().collect();
        instances.sort_unstable();
        for instance in instances {
            self.send(instance, customers).await;
        }
        while let Some(done) = self.under_way.try_join_next() {
            self.count(done);
        }
    }

    async fn send(&mut self, instance: usize, customers: &Customers) {
        let Some(spans) = self.waiting.remove(&instance) else { return };
        if self.under_way.len() >= REQUESTS_IN_FLIGHT_MAX {
            self.settle_one().await;
        }
        let request = request(spans, customers, instance);
        let sender = self.sender.clone();
        self.totals.requests += 1;
        self.under_way.spawn(async move { sender.send(&request).await });
    }

    async fn settle_one(&mut self) {
        if let Some(done) = self.under_way.join_next().await {
            self.count(done);
        }
    }

    fn count(&mut self, done: Result<Delivery, JoinError>) {
        match done {
            Ok(delivery) => self.totals.add(delivery),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    async fn settle(&mut self) {
        while !self.under_way.is_empty() {
            self.settle_one().await;
        }
    }
}

/// One instance's request: its resource once, its spans by instrumentation scope.
fn request(spans: Vec<Sent>, customers: &Customers, instance: usize) -> ExportTraceServiceRequest {
    let mut scopes: Vec<(Library, ScopeSpans)> = Vec::new();
    for Sent { library, span, .. } in spans {
        match scopes.iter_mut().find(|(known, _)| *known == library) {
            Some((_, scope)) => scope.spans.push(span),
            None => {
                let (name, version) = library;
                let scope = InstrumentationScope {
                    name: name.to_owned(),
                    version: version.to_owned(),
                    ..InstrumentationScope::default()
                };
                scopes.push((library, ScopeSpans { scope: Some(scope), spans: vec![span], ..ScopeSpans::default() }));
            }
        }
    }
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(customers.shop().instances[instance].resource.clone()),
            scope_spans: scopes.into_iter().map(|(_, scope)| scope).collect(),
            ..ResourceSpans::default()
        }],
    }
}

#[derive(Default)]
struct Totals {
    requests: u64,
    accepted: u64,
    rejected: u64,
    retries: u64,
    /// The last thing the server complained about.
    message: Option<String>,
}

impl Totals {
    fn add(&mut self, delivery: Delivery) {
        self.accepted += delivery.accepted;
        self.rejected += delivery.rejected;
        self.retries += delivery.retries;
        self.message = delivery.message.or(self.message.take());
    }

    /// The progress line: rewritten in place on a terminal, a line of its own elsewhere.
    fn show(&self, out: &mut impl Write, style: Style, traces: u64, elapsed: Duration) -> std::io::Result<()> {
        let rejected = match self.rejected {
            0 => "0 rejected".to_owned(),
            some => style.red(&format!("{} rejected", thousands(some))),
        };
        let retries =
            if self.retries > 0 { format!(", {} sent again", thousands(self.retries)) } else { String::new() };
        let line = format!(
            "{:>3.0}s  {} traces  {} spans accepted, {rejected}  {} requests{retries}",
            elapsed.as_secs_f64(),
            thousands(traces),
            thousands(self.accepted),
            thousands(self.requests),
        );
        if style.interactive {
            write!(out, "\r\x1b[2K{line}")?;
        } else {
            writeln!(out, "{line}")?;
        }
        out.flush()
    }
}
