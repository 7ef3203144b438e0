//! Plays an operation and everything below it on a virtual clock, and records the spans its services would send.
//!
//! Times are nanoseconds from the start of the trace; [`Recorder::finish`] moves them to where the trace belongs.

use proto::otlp::{
    common::v1::KeyValue,
    trace::v1::{
        Span, Status,
        span::{Event, Link, SpanKind},
        status::StatusCode,
    },
};
use rand::{Rng, rngs::StdRng};

use super::{
    attributes::{flag, text, whole},
    fault::{self, Failure},
    operations::{Operation, Protocol, Step, operation},
    shop::Shop,
};

/// A finished span, and who sends it.
pub struct Sent {
    pub instance: usize,
    /// The instrumentation library: the scope's name and version.
    pub library: Library,
    pub span: Span,
}

pub type Library = (&'static str, &'static str);

pub const HTTP: Library = ("io.opentelemetry.http", "2.20.0");
pub const RPC: Library = ("io.opentelemetry.grpc", "2.20.0");
pub const SQL: Library = ("io.opentelemetry.sql", "2.20.0");
pub const REDIS: Library = ("io.opentelemetry.redis", "2.20.0");
pub const KAFKA: Library = ("io.opentelemetry.kafka", "2.20.0");
pub const APP: Library = ("shop", "1.0.0");

/// A message that was published and waits for its consumers.
#[derive(Clone)]
pub struct Message {
    pub topic: &'static str,
    pub trace_id: Vec<u8>,
    pub span_id: Vec<u8>,
    pub at: u64,
    pub order: String,
    pub partition: u32,
    pub offset: u64,
}

impl Message {
    /// A link to the span that sent the message.
    pub fn link(&self) -> Link {
        Link {
            trace_id: self.trace_id.clone(),
            span_id: self.span_id.clone(),
            attributes: vec![text("messaging.message.id", &self.order)],
            flags: 1,
            ..Link::default()
        }
    }
}

/// How an operation ended.
pub struct Outcome {
    pub end: u64,
    pub failure: Option<Failure>,
}

pub struct Recorder<'a> {
    pub shop: &'a Shop,
    pub random: &'a mut StdRng,
    pub trace_id: Vec<u8>,
    pub spans: Vec<Sent>,
    pub published: Vec<Message>,
    /// The order that this trace is about, if any.
    pub order: String,
}

/// Where a step runs: its span's index, its instance, and the time.
struct Place {
    span: usize,
    instance: usize,
    now: u64,
}

impl<'a> Recorder<'a> {
    pub fn new(shop: &'a Shop, random: &'a mut StdRng) -> Self {
        let trace_id = random.random::<[u8; 16]>().to_vec();
        let order = format!("ord-{:08x}", random.random::<u32>());
        Self { shop, random, trace_id, spans: Vec::new(), published: Vec::new(), order }
    }

    /// The spans, with the trace's last end at `end_unix_nano`.
    pub fn finish(mut self, end_unix_nano: u64) -> Vec<Sent> {
        let last = self.spans.iter().map(|sent| sent.span.end_time_unix_nano).max().unwrap_or(0);
        let shift = end_unix_nano.saturating_sub(last);
        for sent in &mut self.spans {
            sent.span.start_time_unix_nano += shift;
            sent.span.end_time_unix_nano += shift;
            sent.span.events.iter_mut().for_each(|event| event.time_unix_nano += shift);
        }
        self.spans
    }

    pub fn open(
        &mut self,
        instance: usize,
        library: Library,
        parent: Option<usize>,
        kind: SpanKind,
        name: impl Into<String>,
        start: u64,
    ) -> usize {
        let parent_span_id = parent.map(|index| self.spans[index].span.span_id.clone()).unwrap_or_default();
        self.spans.push(Sent {
            instance,
            library,
            span: Span {
                trace_id: self.trace_id.clone(),
                span_id: self.random.random::<[u8; 8]>().to_vec(),
                parent_span_id,
                flags: 1,
                name: name.into(),
                kind: kind as i32,
                start_time_unix_nano: start,
                ..Span::default()
            },
        });
        self.spans.len() - 1
    }

    pub fn close(&mut self, index: usize, end: u64, attributes: Vec<KeyValue>) {
        let span = &mut self.spans[index].span;
        span.end_time_unix_nano = end;
        span.attributes.extend(attributes);
    }

    pub fn fail(&mut self, index: usize, failure: &Failure) {
        let span = &mut self.spans[index].span;
        span.status = Some(Status { message: failure.message.clone(), code: StatusCode::Error as i32 });
        span.attributes.push(text("error.type", failure.kind));
    }

    fn event(&mut self, index: usize, at: u64, name: &str, attributes: Vec<KeyValue>) {
        self.spans[index].span.events.push(Event {
            time_unix_nano: at,
            name: name.to_owned(),
            attributes,
            ..Event::default()
        });
    }

    /// An exception event with a stack trace in the service's language.
    fn exception(&mut self, index: usize, at: u64, failure: &Failure) {
        let instance = &self.shop.instances[self.spans[index].instance];
        let service = &self.shop.services[instance.service];
        let attributes = vec![
            text("exception.type", failure.exception),
            text("exception.message", &failure.message),
            text("exception.stacktrace", fault::stacktrace(service.language, &service.name, failure)),
        ];
        self.event(index, at, "exception", attributes);
    }

    /// A duration around `median`: log-normal, so that a few are many times longer.
    pub fn around(&mut self, median_micros: u64) -> u64 {
        let gauss = (0..6).map(|_| self.random.random_range(-1.0..1.0f64)).sum::<f64>() / 2f64.sqrt();
        (median_micros as f64 * 1_000.0 * (0.45 * gauss).exp()) as u64 + 1
    }

    pub fn chance(&mut self, share: f64) -> bool {
        self.random.random_bool(share)
    }

    /// The server side: plays `operation` on `instance` as a child of `parent`.
    pub fn serve(&mut self, operation: &Operation, instance: usize, parent: Option<usize>, start: u64) -> Outcome {
        let (library, name) = match operation.protocol {
            Protocol::Http(method, route) => (HTTP, format!("{method} {route}")),
            Protocol::Rpc(service, method) => (RPC, format!("{service}/{method}")),
        };
        let span = self.open(instance, library, parent, SpanKind::Server, name, start);
        let mut place = Place { span, instance, now: start + self.around(operation.micros / 3) };
        let mut failure = fault::of_operation(self, operation, instance);
        if let Some(failure) = &failure {
            place.now += self.around(failure.micros);
            self.exception(span, place.now, failure);
        } else {
            for step in operation.steps {
                if let Err(stopped) = self.play(step, &mut place) {
                    failure = Some(stopped);
                    break;
                }
            }
        }
        let end = place.now + self.around(operation.micros);
        let attributes = match operation.protocol {
            Protocol::Http(method, route) => self.http_server(operation, method, route, instance, failure.as_ref()),
            Protocol::Rpc(service, method) => rpc(service, method, failure.as_ref()),
        };
        self.close(span, end, attributes);
        // A client's mistake is no error of the server's.
        if let Some(failure) = failure.as_ref().filter(|failure| failure.http >= 500) {
            self.fail(span, failure);
        }
        Outcome { end, failure }
    }

    /// The client side of a call, and the server side below it.
    fn call(&mut self, id: &str, place: &Place, resend: i64) -> Outcome {
        let operation = operation(id);
        let service = self.shop.service(operation.service);
        let target = self.shop.pick(service, self.random);
        let (library, name) = match operation.protocol {
            Protocol::Http(method, _) => (HTTP, method.to_owned()),
            Protocol::Rpc(service, method) => (RPC, format!("{service}/{method}")),
        };
        let span = self.open(place.instance, library, Some(place.span), SpanKind::Client, name, place.now);
        let arrival = place.now + self.around(250);
        let outcome = self.serve(operation, target, Some(span), arrival);
        let end = outcome.end + self.around(200);
        let mut attributes = match operation.protocol {
            Protocol::Http(method, route) => {
                let status = outcome.failure.as_ref().map_or(200, |failure| failure.http);
                let path = self.path(route);
                vec![
                    text("http.request.method", method),
                    whole("http.response.status_code", status),
                    text("url.full", format!("http://{}.shop.svc.cluster.local:8080{path}", operation.service)),
                    text("network.protocol.version", "1.1"),
                ]
            }
            Protocol::Rpc(service, method) => rpc(service, method, outcome.failure.as_ref()),
        };
        attributes.push(text("server.address", format!("{}.shop.svc.cluster.local", operation.service)));
        attributes.push(whole("server.port", 8080));
        if resend > 0 {
            attributes.push(whole("http.request.resend_count", resend));
        }
        self.close(span, end, attributes);
        if let Some(failure) = &outcome.failure {
            self.fail(span, failure);
        }
        Outcome { end, failure: outcome.failure }
    }

    fn play(&mut self, step: &Step, place: &mut Place) -> Result<(), Failure> {
        match step {
            Step::Call(id) => {
                let outcome = self.call(id, place, 0);
                place.now = outcome.end;
                if let Some(failure) = outcome.failure {
                    return Err(failure.passed_on());
                }
            }
            Step::Try(id) => {
                let outcome = self.call(id, place, 0);
                place.now = outcome.end;
                if let Some(failure) = outcome.failure {
                    let attributes = vec![text("fallback.for", *id), text("fallback.reason", failure.kind)];
                    self.event(place.span, place.now, "fallback", attributes);
                }
            }
            Step::Together(ids) => {
                let mut last = place.now;
                for id in *ids {
                    last = last.max(self.call(id, place, 0).end);
                }
                place.now = last;
            }
            Step::Sql(verb, table, rest, micros) => self.sql(verb, table, rest, *micros, place)?,
            Step::Cache(kind) => self.cache(kind, place),
            Step::Find(index, micros) => self.find(index, *micros, place),
            Step::Local(name, micros) => {
                let span = self.open(place.instance, APP, Some(place.span), SpanKind::Internal, *name, place.now);
                place.now += self.around(*micros);
                let thread = self.random.random_range(1..64);
                self.close(span, place.now, vec![text("code.function.name", *name), whole("thread.id", thread)]);
            }
            Step::Charge => self.charge(place)?,
            Step::AskSuppliers => self.ask_suppliers(place),
            Step::Publish(topic) => self.publish(topic, place),
            Step::Flag(key) => {
                let on = self.chance(0.5);
                let attributes = vec![
                    text("feature_flag.key", *key),
                    text("feature_flag.result.variant", if on { "on" } else { "off" }),
                    flag("feature_flag.result.value", on),
                ];
                self.event(place.span, place.now, "feature_flag.evaluation", attributes);
            }
        }
        place.now += self.around(40);
        Ok(())
    }

    fn sql(&mut self, verb: &str, table: &str, rest: &str, micros: u64, place: &mut Place) -> Result<(), Failure> {
        for attempt in 0..2 {
            let name = format!("{verb} {table}");
            let span = self.open(place.instance, SQL, Some(place.span), SpanKind::Client, name.clone(), place.now);
            let failure = fault::of_statement(self, verb, table);
            let slow = fault::slow_statement(self, table);
            place.now += self.around(micros) + slow + failure.as_ref().map_or(0, |failure| failure.micros * 1_000);
            let rows = if verb == "SELECT" { self.random.random_range(0..40) } else { 1 };
            let shard = self.random.random_range(0..3);
            let mut attributes = vec![
                text("db.system.name", "postgresql"),
                text("db.namespace", "shop"),
                text("db.operation.name", verb),
                text("db.collection.name", table),
                text("db.query.summary", name),
                text("db.query.text", format!("{verb} {rest}")),
                whole("db.response.returned_rows", rows),
                text("server.address", format!("pg-{shard}.db.shop.internal")),
                whole("server.port", 5432),
            ];
            if attempt > 0 {
                attributes.push(whole("db.retry_count", attempt));
            }
            self.close(span, place.now, attributes);
            let Some(failure) = failure else { return Ok(()) };
            self.exception(span, place.now, &failure);
            self.fail(span, &failure);
            if attempt == 1 {
                return Err(failure);
            }
            place.now += self.around(10_000);
        }
        Ok(())
    }

    fn cache(&mut self, kind: &str, place: &mut Place) {
        let key = format!("{kind}:{}", self.random.random_range(1..5_000));
        let hit = self.chance(0.82);
        for operation in if hit { &["GET"][..] } else { &["GET", "SET"][..] } {
            let span = self.open(place.instance, REDIS, Some(place.span), SpanKind::Client, *operation, place.now);
            place.now += self.around(350);
            let mut attributes = vec![
                text("db.system.name", "redis"),
                text("db.namespace", "0"),
                text("db.operation.name", *operation),
                text("db.query.text", format!("{operation} {key}")),
                text("server.address", "redis.cache.shop.internal"),
                whole("server.port", 6379),
            ];
            if *operation == "GET" {
                attributes.push(flag("cache.hit", hit));
            }
            self.close(span, place.now, attributes);
        }
    }

    fn find(&mut self, index: &str, micros: u64, place: &mut Place) {
        let span =
            self.open(place.instance, HTTP, Some(place.span), SpanKind::Client, format!("search {index}"), place.now);
        let slow = fault::cold_shard(self);
        place.now += self.around(micros) + slow;
        if slow > 0 {
            self.event(span, place.now - slow, "shard.recovering", vec![whole("shard", 3), text("index", index)]);
        }
        let hits = self.random.random_range(0..240);
        let attributes = vec![
            text("db.system.name", "opensearch"),
            text("db.operation.name", "search"),
            text("db.collection.name", index),
            whole("db.response.returned_rows", hits),
            text("http.request.method", "POST"),
            whole("http.response.status_code", 200),
            text("url.full", format!("https://search.shop.internal:9200/{index}/_search")),
            text("server.address", "search.shop.internal"),
            whole("server.port", 9200),
        ];
        self.close(span, place.now, attributes);
    }

    /// Three attempts at the provider; a declined card is not tried again.
    fn charge(&mut self, place: &mut Place) -> Result<(), Failure> {
        let mut last = None;
        for attempt in 0..3 {
            let span = self.open(place.instance, HTTP, Some(place.span), SpanKind::Client, "POST", place.now);
            let failure = fault::of_provider(self);
            place.now += self.around(failure.as_ref().map_or(120_000, |failure| failure.micros));
            let mut attributes = vec![
                text("http.request.method", "POST"),
                text("url.full", "https://api.payments.example/v2/charges"),
                text("server.address", "api.payments.example"),
                whole("server.port", 443),
                text("network.protocol.version", "2"),
                text("peer.service", "payments.example"),
            ];
            if attempt > 0 {
                attributes.push(whole("http.request.resend_count", attempt));
            }
            match &failure {
                None => attributes.push(whole("http.response.status_code", 201)),
                Some(failure) if failure.http < 500 => {
                    attributes.push(whole("http.response.status_code", failure.http));
                }
                Some(_) => {}
            }
            self.close(span, place.now, attributes);
            let Some(failure) = failure else { return Ok(()) };
            self.fail(span, &failure);
            self.exception(span, place.now, &failure);
            let again = failure.http >= 500;
            last = Some(failure);
            if !again {
                break;
            }
            place.now += self.around(100_000 << attempt);
        }
        last.map_or(Ok(()), Err)
    }

    fn ask_suppliers(&mut self, place: &mut Place) {
        let mut last = place.now;
        // A shop without suppliers asks the one everybody has.
        let suppliers: Vec<Option<usize>> = match self.shop.suppliers() {
            range if range.is_empty() => vec![None],
            range => range.map(Some).collect(),
        };
        for supplier in suppliers {
            let name = supplier.map_or("wholesale.example", |index| self.shop.services[index].name.as_str()).to_owned();
            let span = self.open(place.instance, HTTP, Some(place.span), SpanKind::Client, "GET", place.now);
            let mut end = place.now + self.around(80_000);
            if let Some(service) = supplier {
                let instance = self.shop.pick(service, self.random);
                let start = place.now + self.around(3_000);
                let server = self.open(instance, HTTP, Some(span), SpanKind::Server, "GET /stock", start);
                let done = start + self.around(40_000);
                self.close(
                    server,
                    done,
                    vec![
                        text("http.request.method", "GET"),
                        text("http.route", "/stock"),
                        text("url.path", "/stock"),
                        text("url.scheme", "https"),
                        whole("http.response.status_code", 200),
                    ],
                );
                end = done + self.around(3_000);
            }
            self.close(
                span,
                end,
                vec![
                    text("http.request.method", "GET"),
                    whole("http.response.status_code", 200),
                    text("url.full", format!("https://{name}/stock")),
                    text("server.address", &name),
                    whole("server.port", 443),
                ],
            );
            last = last.max(end);
        }
        place.now = last;
    }

    fn publish(&mut self, topic: &'static str, place: &mut Place) {
        let span =
            self.open(place.instance, KAFKA, Some(place.span), SpanKind::Producer, format!("send {topic}"), place.now);
        place.now += self.around(2_500);
        let message = Message {
            topic,
            trace_id: self.trace_id.clone(),
            span_id: self.spans[span].span.span_id.clone(),
            at: place.now,
            order: self.order.clone(),
            partition: self.random.random_range(0..12),
            offset: self.random.random_range(1_000_000..9_000_000),
        };
        let mut attributes = messaging(&message, "send");
        attributes.push(whole("messaging.message.body.size", self.random.random_range(300..6_000)));
        self.close(span, place.now, attributes);
        self.published.push(message);
    }

    /// A path for `route`, with ids in the place of `{…}`.
    fn path(&mut self, route: &str) -> String {
        match route.split_once('{') {
            None => route.to_owned(),
            Some((front, rest)) => {
                let back = rest.split_once('}').map_or("", |(_, back)| back);
                format!("{front}{}{back}", self.random.random_range(1..20_000))
            }
        }
    }

    fn http_server(
        &mut self,
        operation: &Operation,
        method: &str,
        route: &str,
        instance: usize,
        failure: Option<&Failure>,
    ) -> Vec<KeyValue> {
        let status = failure.map_or(200, |failure| failure.http);
        let path = self.path(route);
        let public = operation.service == "frontend";
        let host = if public { "shop.example".to_owned() } else { self.shop.instances[instance].pod.clone() };
        let mut attributes = vec![
            text("http.request.method", method),
            text("http.route", route),
            text("url.path", path),
            text("url.scheme", if public { "https" } else { "http" }),
            whole("http.response.status_code", status),
            whole("http.response.body.size", self.random.random_range(200..60_000)),
            text("server.address", host),
            whole("server.port", if public { 443 } else { 8080 }),
            text("network.protocol.version", if public { "2" } else { "1.1" }),
        ];
        if public {
            let (a, b) = (self.random.random_range(1..220), self.random.random_range(1..255));
            attributes.push(text("client.address", format!("203.0.{a}.{b}")));
        }
        attributes
    }
}

fn rpc(service: &str, method: &str, failure: Option<&Failure>) -> Vec<KeyValue> {
    vec![
        text("rpc.system", "grpc"),
        text("rpc.service", service),
        text("rpc.method", method),
        whole("rpc.grpc.status_code", failure.map_or(0, |failure| failure.grpc)),
    ]
}

/// What producers and consumers say of a message.
pub fn messaging(message: &Message, operation: &str) -> Vec<KeyValue> {
    vec![
        text("messaging.system", "kafka"),
        text("messaging.destination.name", message.topic),
        text("messaging.operation.name", operation),
        text("messaging.operation.type", operation),
        text("messaging.destination.partition.id", message.partition.to_string()),
        whole("messaging.kafka.offset", message.offset as i64),
        text("messaging.message.id", &message.order),
        text("server.address", "kafka.shop.internal"),
        whole("server.port", 9092),
    ]
}
