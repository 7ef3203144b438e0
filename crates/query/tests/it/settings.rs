//! One answer, byte for byte, however many parts are worked on at a time, whatever is cached or remembered, and
//! however much of the question the blocks are asked.

use block::writer::WriterOptions;
use prost::Message;
use query::{Engine, MetricsRequest, SearchFilter, SearchRequest};
use rand::{Rng, SeedableRng, rngs::StdRng};
use storage::{Storage, StorageConfig};
use traceql::ast::{MetricsExpr, QueryBody};

use crate::{
    agreement::{count, runtime, seed},
    data::{BASE, SECOND, rows},
    places::{Stored, batch, engine, tenant},
    questions::{Asker, Vocabulary},
};

/// Queries asked of one data set before the next is made.
const QUERIES_PER_DATA: usize = 100;

#[test]
fn settings_make_no_difference() {
    runtime().block_on(settings_make_no_difference_to(count(400)));
}

async fn settings_make_no_difference_to(total: usize) {
    println!("SOSTENUTO_SEED={} SOSTENUTO_QUERIES={total}", seed());
    let mut asked = 0;
    for number in 0.. {
        if asked == total {
            break;
        }
        let world = seed().wrapping_mul(1_000_003).wrapping_add(400_000 + number);
        let rows = rows(world);
        let mut rng = StdRng::seed_from_u64(world);
        // Every second data set as one block of one row group, where nothing can be left out.
        let stored = match number % 2 {
            0 => Stored::split(&rows, &mut rng).await,
            _ => Stored::new(&[batch(&rows)], &WriterOptions::default(), vec![]).await,
        };
        let uncached = Storage::with_store(stored.store.clone(), &without_cache()).await.expect("a store");
        let known = [
            ("one at a time", stored.engine(1)),
            ("eight at a time", stored.engine(8)),
            ("without a cache", engine(uncached, &stored.live, 3)),
        ];
        let vocabulary = Vocabulary::of(&rows);
        let mut asker = Asker { rng: StdRng::seed_from_u64(world), vocabulary: &vocabulary };
        for _ in 0..QUERIES_PER_DATA.min(total - asked) {
            let (text, query) = question(&mut asker);
            let plain = Question::new(text.clone(), &query, &mut rng);
            let expected = plain.ask(&known[0].1).await;
            let mut answers = vec![("asked again", plain.ask(&known[0].1).await)];
            for (name, engine) in &known[1..] {
                answers.push((name, plain.ask(engine).await));
            }
            answers.push(("nothing remembered", plain.ask(&stored.engine(2)).await));
            if let Some(text) = without_pushdown(&query) {
                answers.push(("every span looked at", Question { text, ..plain }.ask(&known[1].1).await));
            }
            for (name, answer) in answers {
                assert_eq!(answer, expected, "{name}: {text} (data set {world})");
            }
            asked += 1;
        }
    }
}

fn without_cache() -> StorageConfig {
    let mut config = StorageConfig::default();
    config.cache.chunks_memory = "0".parse().expect("a size");
    config.cache.sidecars_memory = "0".parse().expect("a size");
    config
}

fn question(asker: &mut Asker<'_>) -> (String, QueryBody) {
    loop {
        let text = match asker.rng.random_range(0..3) {
            0 => asker.single_filter(),
            1 => asker.pipeline(),
            _ => asker.metrics_query(),
        };
        if let Ok(query) = traceql::parse(&text) {
            return (text, query.body);
        }
    }
}

/// The same question, put so that its first stage takes every span; `None` where it cannot be put so.
fn without_pushdown(query: &QueryBody) -> Option<String> {
    let text = match query {
        QueryBody::Search(pipeline) => format!("{{ }} | {pipeline}"),
        QueryBody::Metrics(expr @ MetricsExpr::Query(_)) => format!("{{ }} | {expr}"),
        QueryBody::Metrics(_) => return None,
    };
    traceql::parse(&text).is_ok().then_some(text)
}

/// A query with what is asked around it.
struct Question {
    text: String,
    metrics: bool,
    start: i64,
    end: i64,
    limit: usize,
    spans_per_spanset: usize,
}

impl Question {
    fn new(text: String, query: &QueryBody, rng: &mut StdRng) -> Self {
        let start = BASE as i64 + rng.random_range(-60..300) * SECOND as i64;
        Self {
            text,
            metrics: matches!(query, QueryBody::Metrics(_)),
            start,
            end: start + rng.random_range(1..600) * SECOND as i64,
            limit: [3, 20, 1_000][rng.random_range(0..3)],
            spans_per_spanset: rng.random_range(0..4),
        }
    }

    /// The answer without the figures of what was read for it.
    async fn ask(&self, engine: &Engine) -> Vec<Vec<u8>> {
        if self.metrics {
            let (start, end, query) = (self.start, self.end, self.text.clone());
            let request = MetricsRequest { query, start, end, step: None, exemplars: None, exemplars_max: 100, series_max: None };
            let answer = engine.query_range(&[tenant()], request).await;
            let series = answer.unwrap_or_else(|e| panic!("{}: {e}", self.text)).series;
            return series.iter().map(Message::encode_to_vec).collect();
        }
        let request = SearchRequest {
            filter: SearchFilter::TraceQl(self.text.clone()),
            range: None,
            limit: self.limit,
            spans_per_spanset: self.spans_per_spanset,
        };
        let answer = engine.search(&[tenant()], request).await;
        let traces = answer.unwrap_or_else(|e| panic!("{}: {e}", self.text)).traces;
        traces.iter().map(Message::encode_to_vec).collect()
    }
}
