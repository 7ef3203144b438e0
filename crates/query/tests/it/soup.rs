//! Queries put together at random, sense or not: each is answered or refused as wrong, by search and by metrics alike.
//! None makes a part of the engine panic, which would show as an internal error.

use model::ErrorKind;
use query::{MetricsRequest, SearchFilter, SearchRequest};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::{
    data::{self, BASE, SECOND},
    places::{everywhere, tenant},
};

const QUERIES: usize = 1_500;

const NAMES: [&str; 24] = [
    ".x", "span.http.method", "resource.service.name", "event.name", "link.a", "instrumentation.b", "name", "duration", "status",
    "kind", "statusMessage", "rootName", "rootServiceName", "traceDuration", "childCount", "span:id", "trace:id", "span:parentID",
    "event:name", "event:timeSinceStart", "link:traceID", "nestedSetLeft", "parent", "parent.x",
];
const LITERALS: [&str; 20] = [
    "0", "1", "-1", "9223372036854775807", "-9223372036854775808", "0.5", "1e300", "NaN", "\"\"", "\"GET\"", "`.*`", "true", "false",
    "nil", "error", "server", "1s", "-5ms", "2562047h", "\"ä ß\"",
];
const OPERATORS: [&str; 16] =
    ["=", "!=", "<", "<=", ">", ">=", "=~", "!~", "+", "-", "*", "/", "%", "^", "&&", "||"];
const STRUCTURE: [&str; 17] =
    ["&&", "||", ">", ">>", "<", "<<", "~", "!>", "!>>", "!<", "!<<", "!~", "&>", "&>>", "&<", "&<<", "&~"];

struct Soup(StdRng);

impl Soup {
    fn pick(&mut self, of: &[&str]) -> String {
        (*of.choose(&mut self.0).expect("not empty")).to_owned()
    }

    fn expr(&mut self, depth: usize) -> String {
        match self.0.random_range(0..if depth == 0 { 2 } else { 8 }) {
            0 => self.pick(&NAMES),
            1 => self.pick(&LITERALS),
            2 => format!("!({})", self.expr(depth - 1)),
            3 => format!("-({})", self.expr(depth - 1)),
            4 => format!("{} in [{}, {}]", self.pick(&NAMES), self.pick(&LITERALS), self.pick(&LITERALS)),
            _ => {
                let (left, right) = (self.expr(depth - 1), self.expr(depth - 1));
                format!("({left} {} {right})", self.pick(&OPERATORS))
            }
        }
    }

    /// Mostly of the right type.
    fn condition(&mut self) -> String {
        const TYPED: [(&[&str], &[&str], &[&str]); 3] = [
            (&["name", "statusMessage", "rootName", "rootServiceName", "event:name", ".x", "span.http.method", "resource.service.name"], &["\"\"", "\"GET\"", "\"ä ß\"", "`.*`"], &["=", "!=", "=~", "!~", "<"]),
            (&["duration", "traceDuration", "event:timeSinceStart"], &["1s", "-5ms", "2562047h", "0s"], &["=", "!=", "<", "<=", ">", ">="]),
            (&["childCount", "nestedSetLeft", ".x", "span.http.method", "link.a"], &["0", "1", "-1", "9223372036854775807", "0.5", "1e300", "(1 / 0)"], &["=", "!=", "<", "<=", ">", ">="]),
        ];
        match self.0.random_range(0..10) {
            0 => String::new(),
            1 => self.expr(3),
            2 => {
                let (left, right) = (self.expr(1), self.expr(1));
                format!("{left} {} {right}", self.pick(&OPERATORS[..8]))
            }
            _ => {
                let (names, literals, operators) = TYPED.choose(&mut self.0).expect("not empty");
                format!("{} {} {}", self.pick(names), self.pick(operators), self.pick(literals))
            }
        }
    }

    fn spansets(&mut self, depth: usize) -> String {
        match self.0.random_range(0..if depth == 0 { 1 } else { 3 }) {
            0 => format!("{{ {} }}", self.condition()),
            _ => {
                let (left, right) = (self.spansets(depth - 1), self.spansets(depth - 1));
                format!("({left} {} {right})", self.pick(&STRUCTURE))
            }
        }
    }

    fn pipeline(&mut self) -> String {
        let mut text = self.spansets(2);
        for _ in 0..self.0.random_range(0..3) {
            let stage = match self.0.random_range(0..6) {
                0 => format!("by({})", self.expr(1)),
                1 => "coalesce()".to_owned(),
                2 => format!("select({})", self.pick(&NAMES)),
                3 => format!("count() {} {}", self.pick(&OPERATORS), self.pick(&LITERALS)),
                4 => format!("avg({}) {} {}", self.expr(1), self.pick(&OPERATORS[..6]), self.pick(&LITERALS)),
                _ => format!("{{ {} }}", self.condition()),
            };
            text = format!("{text} | {stage}");
        }
        text
    }

    fn metrics(&mut self) -> String {
        let function = match self.0.random_range(0..6) {
            0 => "rate()".to_owned(),
            1 => format!("max_over_time({})", self.pick(&NAMES)),
            2 => format!("quantile_over_time({}, .5, {})", self.pick(&NAMES), self.pick(&LITERALS)),
            3 => format!("histogram_over_time({})", self.pick(&NAMES)),
            4 => format!("compare({{ {} }}, 3)", self.condition()),
            _ => format!("count_over_time() by({}, {})", self.pick(&NAMES), self.pick(&NAMES)),
        };
        let second = if self.0.random_bool(0.3) { " | topk(2)" } else { "" };
        format!("{} | {function}{second}", self.pipeline())
    }
}

#[tokio::test]
async fn every_soup_is_answered_or_refused() {
    let seed = 20;
    let places = everywhere(&data::rows(seed), seed).await;
    let mut soup = Soup(StdRng::seed_from_u64(seed));
    let mut answered = 0;
    for number in 0..QUERIES {
        let engine = &places[number % places.len()].engine;
        let (query, error) = if number % 2 == 0 {
            let query = soup.pipeline();
            let filter = SearchFilter::TraceQl(query.clone());
            let request = SearchRequest { filter, range: None, limit: 20, spans_per_spanset: 3 };
            (query, engine.search(&[tenant()], request).await.err())
        } else {
            let query = soup.metrics();
            let (start, end) = (BASE as i64, (BASE + 600 * SECOND) as i64);
            let request = MetricsRequest { query: query.clone(), start, end, step: None, exemplars: None, series_max: None };
            (query, engine.query_range(&[tenant()], request).await.err())
        };
        match error {
            None => answered += 1,
            Some(error) => assert_eq!(error.kind, ErrorKind::Invalid, "{query}: {error}"),
        }
    }
    assert!(answered > QUERIES / 20, "only {answered} queries made sense");
}
