//! Who comes to the shop and what they want, and what the shop does by itself afterwards.

use proto::otlp::trace::v1::span::SpanKind;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::{
    attributes::{flag, number, text, texts, whole},
    operations::operation,
    shop::Shop,
    trace::{APP, KAFKA, Message, Recorder, Sent, messaging},
};

/// What a customer does, and how many of a hundred do it.
const VISITS: [(&str, u32); 6] =
    [("home", 24), ("product page", 32), ("search page", 16), ("login", 6), ("add to cart", 12), ("checkout", 10)];

/// One trace in so many is the nightly job instead of a customer.
const SYNC_EVERY: u64 = 150;

/// Orders that the batch consumer takes at once.
const BATCH: usize = 8;

/// The same seed and number of services give the same traces, but for the time they end at.
pub struct Customers {
    shop: Shop,
    random: StdRng,
    count: u64,
    /// Published orders the batch consumer has not taken yet: at most [`BATCH`].
    waiting: Vec<Message>,
}

impl Customers {
    pub fn new(services: usize, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        Self { shop: Shop::open(services, &mut random), random, count: 0, waiting: Vec::new() }
    }

    pub fn shop(&self) -> &Shop {
        &self.shop
    }

    /// The next trace, whose last span ends at `end_unix_nano`.
    pub fn next(&mut self, end_unix_nano: u64) -> Vec<Sent> {
        self.count += 1;
        if self.waiting.len() >= BATCH {
            let batch = std::mem::take(&mut self.waiting);
            return self.settle(&batch, end_unix_nano);
        }
        if self.count.is_multiple_of(SYNC_EVERY) {
            return self.sync(end_unix_nano);
        }
        let mut dice = self.random.random_range(0..VISITS.iter().map(|(_, share)| share).sum());
        let (visit, _) = VISITS
            .iter()
            .find(|(_, share)| {
                let hit = dice < *share;
                dice = dice.saturating_sub(*share);
                hit
            })
            .expect("the dice shows less than the sum of the shares");
        self.visit(visit, end_unix_nano)
    }

    fn visit(&mut self, id: &'static str, end_unix_nano: u64) -> Vec<Sent> {
        let page = operation(id);
        let mut trace = Recorder::new(&self.shop, &mut self.random);
        let instance = trace.shop.pick(trace.shop.service(page.service), trace.random);
        trace.serve(page, instance, None, 0);
        let user = trace.random.random_range(1..4_000);
        let agent = AGENTS.choose(trace.random).expect("there are browsers");
        let mut about = vec![
            text("user.id", format!("user-{user}")),
            text("session.id", format!("{:016x}", trace.random.random::<u64>())),
            text("user_agent.original", *agent),
            flag("app.user.vip", user % 40 == 0),
        ];
        if id == "checkout" || id == "add to cart" {
            let items = trace.random.random_range(1..6);
            let products: Vec<String> =
                (0..items).map(|_| format!("sku-{:05}", trace.random.random_range(1..20_000))).collect();
            let cents = trace.random.random_range(500..90_000);
            about.push(whole("app.cart.items", items));
            about.push(number("app.cart.total", f64::from(cents) / 100.0));
            about.push(text("app.currency", *["EUR", "USD", "CHF"].choose(trace.random).expect("there is money")));
            about.push(texts("app.cart.products", &products));
        }
        if id == "checkout" {
            about.push(text("app.order.id", trace.order.clone()));
        }
        trace.spans[0].span.attributes.extend(about);
        let published = std::mem::take(&mut trace.published);
        for message in &published {
            consume(&mut trace, message, "shipping", "ship");
            consume(&mut trace, message, "email", "confirm");
        }
        let spans = trace.finish(end_unix_nano);
        self.waiting.extend(published.into_iter().take(BATCH - self.waiting.len()));
        spans
    }

    /// The timer that brings the stock up to date.
    fn sync(&mut self, end_unix_nano: u64) -> Vec<Sent> {
        let job = operation("sync stock");
        let mut trace = Recorder::new(&self.shop, &mut self.random);
        let instance = trace.shop.pick(trace.shop.service(job.service), trace.random);
        let root = trace.open(instance, APP, None, SpanKind::Internal, "cron stock-sync", 0);
        let start = trace.around(800);
        let outcome = trace.serve(job, instance, Some(root), start);
        let end = outcome.end + trace.around(500);
        trace.close(root, end, vec![text("cron.schedule", "*/5 * * * *"), text("cron.name", "stock-sync")]);
        if let Some(failure) = &outcome.failure {
            trace.fail(root, failure);
        }
        trace.finish(end_unix_nano)
    }

    /// The batch consumer: a trace of its own, linked to the checkouts it settles.
    fn settle(&mut self, batch: &[Message], end_unix_nano: u64) -> Vec<Sent> {
        let mut trace = Recorder::new(&self.shop, &mut self.random);
        let instance = trace.shop.pick(trace.shop.service("orders"), trace.random);
        let root = trace.open(instance, KAFKA, None, SpanKind::Consumer, "process orders", 0);
        trace.spans[root].span.links = batch.iter().map(Message::link).collect();
        let mut now = trace.around(1_500);
        for message in batch {
            let span = trace.open(instance, APP, Some(root), SpanKind::Internal, "settle order", now);
            now += trace.around(7_000);
            trace.close(span, now, vec![text("app.order.id", &message.order)]);
            now += trace.around(200);
        }
        let mut attributes = messaging(&batch[0], "process");
        // A batch has no single message, and no single offset.
        attributes.retain(|a| !matches!(a.key.as_str(), "messaging.message.id" | "messaging.kafka.offset"));
        attributes.push(whole("messaging.batch.message_count", batch.len() as i64));
        attributes.push(text("messaging.consumer.group.name", "settlement"));
        trace.close(root, now, attributes);
        trace.finish(end_unix_nano)
    }
}

/// A consumer that continues the trace: child of the producer's span, and linked to it.
fn consume(trace: &mut Recorder<'_>, message: &Message, service: &str, id: &str) {
    let producer = trace
        .spans
        .iter()
        .position(|sent| sent.span.span_id == message.span_id)
        .expect("the message was published in this trace");
    let instance = trace.shop.pick(trace.shop.service(service), trace.random);
    let start = message.at + trace.around(60_000);
    let name = format!("process {}", message.topic);
    let span = trace.open(instance, KAFKA, Some(producer), SpanKind::Consumer, name, start);
    trace.spans[span].span.links = vec![message.link()];
    let begin = start + trace.around(300);
    let outcome = trace.serve(operation(id), instance, Some(span), begin);
    let mut attributes = messaging(message, "process");
    attributes.push(text("messaging.consumer.group.name", service));
    let end = outcome.end + trace.around(300);
    trace.close(span, end, attributes);
}

const AGENTS: [&str; 4] = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Safari/605.1.15",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
    "shop-app/8.3.0 (Android 15; Pixel 9)",
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::demo::shop::SERVICES_MIN;

    const END: u64 = 1_700_000_000_000_000_000;

    fn traces(seed: u64, count: usize) -> Vec<Vec<Sent>> {
        let mut customers = Customers::new(SERVICES_MIN + 4, seed);
        (0..count).map(|_| customers.next(END)).collect()
    }

    #[test]
    fn a_seed_gives_the_same_traces() {
        let print = |seed| traces(seed, 40).iter().flatten().map(|s| format!("{:?}", s.span)).collect::<Vec<_>>();
        assert_eq!(print(1), print(1));
        assert_ne!(print(1), print(2));
    }

    #[test]
    fn every_trace_is_one_tree_that_ends_on_time() {
        for trace in traces(7, 400) {
            let ids: HashSet<_> = trace.iter().map(|sent| sent.span.span_id.clone()).collect();
            assert_eq!(ids.len(), trace.len(), "span ids are unique");
            assert_eq!(trace.iter().filter(|sent| sent.span.parent_span_id.is_empty()).count(), 1, "one root");
            for Sent { span, .. } in &trace {
                assert!(span.parent_span_id.is_empty() || ids.contains(&span.parent_span_id), "{}", span.name);
                assert!(span.start_time_unix_nano < span.end_time_unix_nano, "{}", span.name);
                for event in &span.events {
                    assert!((span.start_time_unix_nano..=span.end_time_unix_nano).contains(&event.time_unix_nano));
                }
            }
            assert_eq!(trace.iter().map(|sent| sent.span.end_time_unix_nano).max(), Some(END));
        }
    }

    #[test]
    fn the_shop_shows_what_it_is_meant_to_show() {
        let mut customers = Customers::new(SERVICES_MIN, 1);
        let spans: Vec<Sent> = (0..2_000).flat_map(|_| customers.next(END)).collect();
        let shop = customers.shop();
        let used: HashSet<_> = spans.iter().map(|sent| shop.instances[sent.instance].service).collect();
        assert_eq!(used.len(), shop.services.len(), "every service takes part");
        let kinds: HashSet<_> = spans.iter().map(|sent| sent.span.kind).collect();
        assert_eq!(kinds.len(), 5, "internal, server, client, producer, consumer");
        let any = |what: &str, test: &dyn Fn(&Sent) -> bool| assert!(spans.iter().any(test), "{what}");
        let has = |sent: &Sent, key: &str| sent.span.attributes.iter().any(|a| a.key == key);
        any("errors", &|s| s.span.status.as_ref().is_some_and(|status| status.code == 2));
        any("exceptions", &|s| s.span.events.iter().any(|event| event.name == "exception"));
        any("retries", &|s| has(s, "http.request.resend_count"));
        any("slow calls", &|s| s.span.end_time_unix_nano - s.span.start_time_unix_nano > 1_000_000_000);
        any("links across traces", &|s| s.span.links.iter().any(|link| link.trace_id != s.span.trace_id));
        for key in ["http.route", "rpc.method", "db.query.text", "messaging.destination.name", "cache.hit"] {
            any(key, &|s| has(s, key));
        }
    }
}
