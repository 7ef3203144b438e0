//! Fuzz target: queries that bytes spell, sense or not. Each is answered or refused as wrong, by search, by metrics and as a
//! filter of names alike. None makes a part of the engine panic, which would show as an internal error.
//!
//! Bytes come at random here, the same in every run; `CONTRIBUTING.md` says how to let coverage guide them.

use std::sync::{
    LazyLock,
    atomic::{AtomicUsize, Ordering},
};

use model::ErrorKind;
use proptest::{
    collection::vec,
    prelude::any,
    test_runner::{Config, TestRunner},
};
use query::{MetricsRequest, SearchFilter, SearchRequest, TagNamesRequest, TagScope};
use tokio::runtime::Runtime;

use crate::{
    data::{self, BASE, SECOND},
    places::{Place, everywhere, tenant},
};

/// Without `PROPTEST_CASES`.
const QUERIES: u32 = 1_500;
const BYTES_MAX: usize = 200;

const NAMES: [&str; 24] = [
    ".x", "span.http.method", "resource.service.name", "event.name", "link.a", "instrumentation.b", "name", "duration", "status",
    "kind", "statusMessage", "rootName", "rootServiceName", "traceDuration", "childCount", "span:id", "trace:id", "span:parentID",
    "event:name", "event:timeSinceStart", "link:traceID", "nestedSetLeft", "parent", "parent.name",
];
const LITERALS: [&str; 20] = [
    "0", "1", "-1", "9223372036854775807", "-9223372036854775808", "0.5", "1e300", "NaN", "\"\"", "\"GET\"", "`.*`", "true", "false",
    "nil", "error", "server", "1s", "-5ms", "2562047h", "\"ä ß\"",
];
const OPERATORS: [&str; 16] =
    ["=", "!=", "<", "<=", ">", ">=", "=~", "!~", "+", "-", "*", "/", "%", "^", "&&", "||"];
const STRUCTURE: [&str; 17] =
    ["&&", "||", ">", ">>", "<", "<<", "~", "!>", "!>>", "!<", "!<<", "!~", "&>", "&>>", "&<", "&<<", "&~"];

/// Spells a query with bytes, each of which makes a choice; zeros when there are no more.
struct Speller<'a>(std::slice::Iter<'a, u8>);

impl Speller<'_> {
    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or(0)) % bound
    }

    fn pick(&mut self, of: &[&str]) -> String {
        of[self.below(of.len())].to_owned()
    }

    fn expr(&mut self, depth: usize) -> String {
        match self.below(if depth == 0 { 2 } else { 8 }) {
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
        match self.below(10) {
            0 => String::new(),
            1 => self.expr(3),
            2 => {
                let (left, right) = (self.expr(1), self.expr(1));
                format!("{left} {} {right}", self.pick(&OPERATORS[..8]))
            }
            _ => {
                let (names, literals, operators) = TYPED[self.below(TYPED.len())];
                format!("{} {} {}", self.pick(names), self.pick(operators), self.pick(literals))
            }
        }
    }

    fn spansets(&mut self, depth: usize) -> String {
        match self.below(if depth == 0 { 1 } else { 3 }) {
            0 => format!("{{ {} }}", self.condition()),
            _ => {
                let (left, right) = (self.spansets(depth - 1), self.spansets(depth - 1));
                format!("({left} {} {right})", self.pick(&STRUCTURE))
            }
        }
    }

    fn pipeline(&mut self) -> String {
        let mut text = self.spansets(2);
        for _ in 0..self.below(3) {
            let stage = match self.below(6) {
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
        let function = match self.below(6) {
            0 => "rate()".to_owned(),
            1 => format!("max_over_time({})", self.pick(&NAMES)),
            2 => format!("quantile_over_time({}, .5, {})", self.pick(&NAMES), self.pick(&LITERALS)),
            3 => format!("histogram_over_time({})", self.pick(&NAMES)),
            4 => format!("compare({{ {} }}, 3)", self.condition()),
            _ => format!("count_over_time() by({}, {})", self.pick(&NAMES), self.pick(&NAMES)),
        };
        let second = if self.below(3) == 0 { " | topk(2)" } else { "" };
        format!("{} | {function}{second}", self.pipeline())
    }
}

/// Where all queries are asked, and what they are asked in.
static WORLD: LazyLock<(Runtime, Vec<Place>)> = LazyLock::new(|| {
    let runtime = crate::agreement::runtime();
    let places = runtime.block_on(everywhere(&data::rows(20), 20));
    (runtime, places)
});

/// Whether the query made sense.
fn asked(bytes: &[u8]) -> bool {
    let (runtime, places) = &*WORLD;
    let mut speller = Speller(bytes.iter());
    let engine = &places[speller.below(places.len())].engine;
    let (query, error) = match speller.below(5) {
        0 | 1 => {
            let query = speller.pipeline();
            let filter = SearchFilter::TraceQl(query.clone());
            let request = SearchRequest { filter, range: None, limit: 20, spans_per_spanset: 3 };
            (query, runtime.block_on(engine.search(&[tenant()], request)).err())
        }
        2 => {
            let query = format!("{{ {} }}", speller.condition());
            let request = TagNamesRequest { scope: TagScope::All, query: query.clone(), range: None, limit: 0 };
            (query, runtime.block_on(engine.tag_names(&[tenant()], request)).err())
        }
        _ => {
            let query = speller.metrics();
            let (start, end) = (BASE as i64, (BASE + 600 * SECOND) as i64);
            let request =
                MetricsRequest { query: query.clone(), start, end, step: None, exemplars: None, exemplars_max: 100, series_max: None };
            (query, runtime.block_on(engine.query_range(&[tenant()], request)).err())
        }
    };
    match error {
        None => true,
        Some(error) => {
            assert_eq!(error.kind, ErrorKind::Invalid, "{query}: {error}");
            false
        }
    }
}

#[test]
fn every_query_is_answered_or_refused() {
    let cases = std::env::var("PROPTEST_CASES").map_or(QUERIES, |number| number.parse().expect("PROPTEST_CASES is a number"));
    let answered = AtomicUsize::new(0);
    let ask = |bytes: Vec<u8>| {
        answered.fetch_add(usize::from(asked(&bytes)), Ordering::Relaxed);
        Ok(())
    };
    let config = Config { failure_persistence: None, ..Config::with_cases(cases) };
    TestRunner::new(config).run(&vec(any::<u8>(), 0..BYTES_MAX), ask).unwrap_or_else(|e| panic!("{e}"));
    let answered = answered.load(Ordering::Relaxed);
    assert!(answered > cases as usize / 20, "only {answered} queries made sense");
}

#[cfg(fuzzing)]
#[test]
fn planner() {
    bolero::check!().for_each(|bytes: &[u8]| {
        asked(bytes);
    });
}
