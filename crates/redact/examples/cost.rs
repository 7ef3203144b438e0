//! What rules cost per megabyte of request: `cargo run --release -p sostenuto-redact --example cost`.

use std::time::Instant;

use bytes::Bytes;
use prost::Message;
use proto::otlp::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use redact::{Action, Detector, Redactor, RuleSettings};

const SPANS: u64 = 2000;
const ROUNDS: u32 = 20;

/// Spans with eight attributes such as web servers write.
fn request() -> Bytes {
    let attribute = |key: &str, value: String| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(Value::StringValue(value)) }),
        ..KeyValue::default()
    };
    let span = |number: u64| Span {
        trace_id: vec![7; 16],
        span_id: number.to_be_bytes().to_vec(),
        name: "GET /api/products/{id}".to_owned(),
        attributes: vec![
            attribute("http.request.method", "GET".to_owned()),
            attribute("url.full", format!("https://shop.example/api/products/{number}?currency=EUR&session=a1b2c3d4")),
            attribute("user_agent.original", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)".to_owned()),
            attribute("network.peer.address", "10.42.17.3".to_owned()),
            attribute("db.query.text", "SELECT id, name, price FROM products WHERE id = $1 AND shop = $2".to_owned()),
            attribute("server.address", "shop-7d9f5c-x2lbq".to_owned()),
            attribute("http.route", "/api/products/{id}".to_owned()),
            attribute("enduser.id", format!("user-{}", number % 100)),
        ],
        ..Span::default()
    };
    let spans = vec![ScopeSpans { spans: (0..SPANS).map(span).collect(), ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { scope_spans: spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec().into()
}

fn main() {
    let request = request();
    let rule = |name: &str, action, keys: &[&str], detectors: &[Detector]| RuleSettings {
        name: name.to_owned(),
        action,
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        detectors: detectors.to_vec(),
        ..RuleSettings::default()
    };
    let sets = [
        ("one rule by key, nothing found", vec![rule("a", Action::Drop, &["*password*"], &[])]),
        ("one rule by key, one value hashed in each span", vec![rule("a", Action::Hash, &["enduser.id"], &[])]),
        ("cards in all texts", vec![rule("a", Action::Mask, &[], &[Detector::CardNumber])]),
        ("cards and secrets in all texts", vec![rule("a", Action::Mask, &[], &[Detector::CardNumber, Detector::Secret])]),
    ];
    println!("{} spans, {} KiB", SPANS, request.len() >> 10);
    for (what, rules) in sets {
        let redactor = Redactor::new(&rules, Some(b"0123456789abcdef")).expect("these rules are good");
        redactor.redact(request.clone());
        let began = Instant::now();
        for _ in 0..ROUNDS {
            std::hint::black_box(redactor.redact(request.clone()));
        }
        let took = began.elapsed() / ROUNDS;
        let rate = request.len() as f64 / took.as_secs_f64() / 1e6;
        println!("{what}: {rate:.0} MB/s, {:.2} µs a span", took.as_secs_f64() * 1e6 / SPANS as f64);
    }
}
