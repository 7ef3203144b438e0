//! Spans as plain structs: made from a seed, and sent as OTLP requests.
//!
//! What is made is what senders do wrong as well as what they do right: values of every kind, keys that change
//! their type, repeated keys, times that make no sense, traces with several roots, with none, with cycles, with
//! shared span ids; and spans that arrive twice.

use prost::Message;
use proto::otlp::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value::Value as Any},
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span, Status,
        span::{Event, Link},
    },
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

/// A span with what it was sent under.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub resource: Resource,
    pub scope: InstrumentationScope,
    pub span: Span,
}

pub const SECOND: u64 = 1_000_000_000;
/// Most traces begin within ten minutes from here.
pub const BASE: u64 = 1_700_000_040 * SECOND;

/// Keys that need quotes, that no column can be named after, or that differ only in case.
const ODD_KEYS: [&str; 8] = ["with space", "quo\"ted", "ünïcode/キー", "back\\slash", "a:long", "x=y", "Env", "in"];
const WORDS: [&str; 14] =
    ["GET", "POST", "get", "", "nil", "true", "7", "ä ß", "a\nb", "orders", "x\"y", "back\\slash", "cart", "GET /cart"];
const NAMES: [&str; 6] = ["GET /cart", "query", "publish", "", "Élan \"vital\"", "GET"];
const INTS: [i64; 14] = [0, 1, 2, 3, 7, 200, 404, 500, -1, -5, i64::MIN, i64::MAX, 9_007_199_254_740_993, 1 << 40];
const FLOATS: [f64; 12] =
    [0.0, -0.0, 0.5, 2.5, 7.0, 403.5, -5.0, 1e12, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 9_007_199_254_740_992.0];

/// The spans of one data set, in the order in which they are received.
pub fn rows(seed: u64) -> Vec<Row> {
    let mut maker = Maker { rng: StdRng::seed_from_u64(seed) };
    let resources: Vec<Resource> = (0..6).map(|_| maker.resource()).collect();
    let scopes: Vec<InstrumentationScope> = (0..4).map(|_| maker.scope()).collect();
    // The spans of a trace keep their order, but others come in between.
    let mut arrivals: Vec<(f64, Row)> = vec![];
    for trace in 0..maker.rng.random_range(20..50) {
        let mut at = f64::from(trace);
        for row in maker.trace(&resources, &scopes) {
            arrivals.push((at, row));
            at += maker.rng.random_range(0.0..1.0);
        }
    }
    arrivals.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut rows: Vec<Row> = arrivals.into_iter().map(|(_, row)| row).collect();
    // Delivered twice, at some later moment.
    for _ in 0..rows.len() / 20 {
        let mut again = rows[maker.rng.random_range(0..rows.len())].clone();
        // Perhaps changed on the way: what came first counts.
        if maker.chance(0.3) {
            again.span.name = maker.pick(&NAMES).to_owned();
            again.span.attributes.clear();
        }
        let at = maker.rng.random_range(0..=rows.len());
        rows.insert(at, again);
    }
    rows
}

/// The spans as one request, those of one resource and scope together if they stand together.
pub fn request(rows: &[Row]) -> Vec<u8> {
    let mut request = ExportTraceServiceRequest::default();
    for row in rows {
        match request.resource_spans.last_mut() {
            Some(last) if last.resource.as_ref() == Some(&row.resource) => {}
            _ => request.resource_spans.push(ResourceSpans { resource: Some(row.resource.clone()), ..Default::default() }),
        }
        let scopes = &mut request.resource_spans.last_mut().expect("pushed above").scope_spans;
        match scopes.last_mut() {
            Some(last) if last.scope.as_ref() == Some(&row.scope) => {}
            _ => scopes.push(ScopeSpans { scope: Some(row.scope.clone()), ..Default::default() }),
        }
        scopes.last_mut().expect("pushed above").spans.push(row.span.clone());
    }
    request.encode_to_vec()
}

pub fn any(value: Any) -> AnyValue {
    AnyValue { value: Some(value) }
}

pub fn text(value: &str) -> AnyValue {
    any(Any::StringValue(value.into()))
}

pub fn attribute(key: &str, value: AnyValue) -> KeyValue {
    KeyValue { key: key.into(), value: Some(value), ..Default::default() }
}

pub fn array(values: Vec<AnyValue>) -> AnyValue {
    any(Any::ArrayValue(ArrayValue { values }))
}

struct Maker {
    rng: StdRng,
}

impl Maker {
    fn chance(&mut self, share: f64) -> bool {
        self.rng.random_bool(share)
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of.choose(&mut self.rng).expect("something to pick from").clone()
    }

    fn word(&mut self) -> AnyValue {
        text(self.pick(&WORDS))
    }

    fn int(&mut self) -> AnyValue {
        any(Any::IntValue(self.pick(&INTS)))
    }

    fn float(&mut self) -> AnyValue {
        any(Any::DoubleValue(self.pick(&FLOATS)))
    }

    fn boolean(&mut self) -> AnyValue {
        any(Any::BoolValue(self.chance(0.5)))
    }

    fn scalar(&mut self) -> AnyValue {
        match self.rng.random_range(0..4) {
            0 => self.word(),
            1 => self.int(),
            2 => self.float(),
            _ => self.boolean(),
        }
    }

    fn array(&mut self) -> AnyValue {
        let length = self.rng.random_range(0..4);
        let kind = self.rng.random_range(0..7);
        let values = (0..length).map(|_| match kind {
            0 | 1 => self.word(),
            2 => self.int(),
            3 => self.float(),
            4 => self.boolean(),
            5 => self.scalar(),
            _ if self.chance(0.3) => AnyValue::default(),
            _ => array(vec![self.scalar()]),
        });
        array(values.collect())
    }

    fn value(&mut self) -> AnyValue {
        match self.rng.random_range(0..20) {
            0..=12 => self.scalar(),
            13..=15 => self.array(),
            16 => any(Any::BytesValue(vec![1, 2, 3])),
            17 => any(Any::KvlistValue(KeyValueList { values: vec![attribute("inner", self.scalar())] })),
            _ => AnyValue::default(),
        }
    }

    /// Repeats a key now and then, with a value of any kind.
    fn repeated(&mut self, attributes: &mut Vec<KeyValue>) {
        if !attributes.is_empty() && self.chance(0.1) {
            let key = self.pick(attributes).key;
            let at = self.rng.random_range(0..=attributes.len());
            let value = self.value();
            attributes.insert(at, attribute(&key, value));
        }
    }

    fn resource(&mut self) -> Resource {
        let mut attributes = vec![];
        if self.chance(0.85) {
            let name = self.pick(&["orders", "gateway", "ünï", "pay ments"]);
            attributes.push(attribute("service.name", text(name)));
        } else if self.chance(0.3) {
            attributes.push(attribute("service.name", any(Any::IntValue(5))));
        }
        if self.chance(0.6) {
            attributes.push(attribute("env", text("res")));
        }
        if self.chance(0.7) {
            let value = self.scalar();
            attributes.push(attribute("host.cpus", value));
        }
        if self.chance(0.4) {
            let value = self.array();
            attributes.push(attribute("zones", value));
        }
        if self.chance(0.5) {
            let (key, value) = (self.pick(&ODD_KEYS), self.value());
            attributes.push(attribute(key, value));
        }
        self.repeated(&mut attributes);
        Resource { attributes, ..Default::default() }
    }

    fn scope(&mut self) -> InstrumentationScope {
        let mut attributes = vec![];
        for key in ["scope.lang", "scope.debug"] {
            if self.chance(0.5) {
                let value = self.value();
                attributes.push(attribute(key, value));
            }
        }
        self.repeated(&mut attributes);
        let name = self.pick(&["", "otel.sql", "otel.http"]).into();
        let version = self.pick(&["", "1.2.0", "1.10"]).into();
        InstrumentationScope { name, version, attributes, ..Default::default() }
    }

    fn span_attributes(&mut self) -> Vec<KeyValue> {
        let mut attributes = vec![];
        let mut add = |key: &str, value| attributes.push(attribute(key, value));
        if self.chance(0.7) {
            add("http.method", text(self.pick(&["GET", "POST", "PUT"])));
        }
        if self.chance(0.6) {
            let value = if self.chance(0.9) { any(Any::IntValue(self.pick(&[200, 404, 500]))) } else { self.scalar() };
            add("http.status_code", value);
        }
        if self.chance(0.4) {
            let value = self.float();
            add("ratio", value);
        }
        if self.chance(0.3) {
            let value = self.int();
            add("big", value);
        }
        if self.chance(0.3) {
            let value = if self.chance(0.9) { self.boolean() } else { self.value() };
            add("flag", value);
        }
        if self.chance(0.4) {
            let value = self.value();
            add("mixed", value);
        }
        if self.chance(0.3) {
            let value = self.array();
            add("tags", value);
        }
        if self.chance(0.3) {
            let value = if self.chance(0.8) { text("span") } else { self.value() };
            add("env", value);
        }
        if self.chance(0.2) {
            let (key, value) = (self.pick(&ODD_KEYS), self.value());
            add(key, value);
        }
        if self.chance(0.05) {
            let key = format!("rare.{}", self.rng.random_range(0..5));
            let value = self.value();
            add(&key, value);
        }
        self.repeated(&mut attributes);
        attributes
    }

    fn nested_attributes(&mut self, keys: &[&str]) -> Vec<KeyValue> {
        let mut attributes = vec![];
        for key in keys {
            if self.chance(0.5) {
                let value = self.value();
                attributes.push(attribute(key, value));
            }
        }
        self.repeated(&mut attributes);
        attributes
    }

    fn event(&mut self, start: u64) -> Event {
        let offset = self.pick(&[-1_000_i64, 0, 1, 500, 1_000_000, 2_500_000_000]);
        Event {
            time_unix_nano: start.saturating_add_signed(offset),
            name: self.pick(&["exception", "retry", "", "log"]).into(),
            attributes: self.nested_attributes(&["exception.type", "attempt", "mixed"]),
            ..Default::default()
        }
    }

    fn link(&mut self) -> Link {
        Link {
            trace_id: self.pick(&[0xabc_u128, 1, u128::MAX, 0x0123 << 64]).to_be_bytes().into(),
            span_id: self.pick(&[1_u64, 0xdead_beef, u64::MAX]).to_be_bytes().into(),
            attributes: self.nested_attributes(&["link.type", "mixed"]),
            ..Default::default()
        }
    }

    /// When a trace begins: often at a full second, and then often at the same as another trace.
    fn trace_start(&mut self) -> u64 {
        match self.rng.random_range(0..20) {
            0 => BASE - 3 * 86_400 * SECOND,
            1 => 0,
            2..=10 => BASE + self.rng.random_range(0..60) * 10 * SECOND,
            _ => BASE + self.rng.random_range(0..600 * SECOND),
        }
    }

    fn trace(&mut self, resources: &[Resource], scopes: &[InstrumentationScope]) -> Vec<Row> {
        let id: u128 = match self.rng.random_range(0..10) {
            0 => self.rng.random_range(1..1 << 20),
            1 => u128::from(self.rng.random::<u64>()),
            _ => self.rng.random::<u128>().max(1),
        };
        let start = self.trace_start();
        let count = if self.chance(0.1) { self.rng.random_range(1..40) } else { self.rng.random_range(1..10) };
        let ids: Vec<u64> = (0..count).map(|_| self.rng.random::<u64>().max(1)).collect();
        let mut rows: Vec<Row> = vec![];
        for at in 0..count {
            let mut span = self.span(id, start);
            span.span_id = ids[at].to_be_bytes().into();
            span.parent_span_id = self.parent(&ids, at);
            if at > 0 && self.chance(0.1) {
                self.share_id(&mut span, &mut rows);
            }
            rows.push(Row { resource: self.pick(resources), scope: self.pick(scopes), span });
        }
        // Children come before their parents too.
        if self.chance(0.3) {
            rows.reverse();
        }
        rows
    }

    fn parent(&mut self, ids: &[u64], at: usize) -> Vec<u8> {
        let none = |zeros: bool| if zeros { vec![0; 8] } else { vec![] };
        let id = match (at, self.rng.random_range(0..100)) {
            (0, 0..85) | (_, 0..5) => return none(self.chance(0.2)),
            // Not the length of an id: as if there were none.
            (_, 99) => return vec![1, 2, 3],
            (_, 93..=95) => self.pick(ids),
            (0, _) | (_, 96..=98) => 0x0bad_0bad,
            _ => self.pick(&ids[..at]),
        };
        id.to_be_bytes().into()
    }

    /// Gives the span the id of another, mostly as the two sides of a call do.
    fn share_id(&mut self, span: &mut Span, rows: &mut [Row]) {
        let other = self.rng.random_range(0..rows.len());
        let other = &mut rows[other].span;
        span.span_id = other.span_id.clone();
        if self.chance(0.8) {
            span.parent_span_id = other.parent_span_id.clone();
            (other.kind, span.kind) = if self.chance(0.5) { (3, 2) } else { (2, 3) };
        }
    }

    fn span(&mut self, trace: u128, trace_start: u64) -> Span {
        let offset = if self.chance(0.3) { 0 } else { self.rng.random_range(0..5 * SECOND) };
        let start = trace_start + offset;
        let end = match self.rng.random_range(0..100) {
            0..=2 => start.saturating_sub(1_000),
            3..=10 => start,
            11 => u64::MAX,
            12 => 0,
            13..=30 => start + SECOND,
            _ => start + self.rng.random_range(0..3 * SECOND),
        };
        let status = self.chance(0.4).then(|| Status {
            code: self.pick(&[0, 1, 2, 2, 7]),
            message: self.pick(&["", "boom", "nil", "time out"]).into(),
        });
        let events = (0..self.rng.random_range(0..7_usize).saturating_sub(4)).map(|_| self.event(start)).collect();
        let links = (0..self.rng.random_range(0..8_usize).saturating_sub(6)).map(|_| self.link()).collect();
        Span {
            trace_id: trace.to_be_bytes().into(),
            name: self.pick(&NAMES).into(),
            kind: self.pick(&[0, 1, 2, 3, 4, 5, 2, 3, 9]),
            start_time_unix_nano: start,
            end_time_unix_nano: end,
            attributes: self.span_attributes(),
            events,
            links,
            status,
            ..Default::default()
        }
    }
}
