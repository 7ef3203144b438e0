//! One engine, asked while its data grows: spans arrive, are flushed into blocks, and blocks are compacted. At every
//! moment its answers are those about everything received so far, whatever it remembers from before.

use block::{merge::merge, promotion::PromotionPolicy};
use query::LiveGeneration;
use rand::{Rng, SeedableRng, rngs::StdRng};
use storage::Commit;
use ulid::Ulid;

use crate::{
    agreement::{World, check_metrics, check_search, count, runtime, seed},
    data::{Row, rows},
    naive::traces,
    places::{FRUGAL, GENEROUS, INGESTER, Place, Stored, batch, encode, small_row_groups, tenant},
    questions::{Asker, Vocabulary},
};

/// Moments at which one data set is asked.
const MOMENTS: usize = 10;
/// Queries asked at each.
const QUERIES_PER_MOMENT: usize = 6;

#[test]
fn answers_are_right_while_data_grows() {
    runtime().block_on(answers_are_right_while_data_grows_over(count(600)));
}

async fn answers_are_right_while_data_grows_over(total: usize) {
    println!("SOSTENUTO_SEED={} SOSTENUTO_QUERIES={total}", seed());
    for number in 0..total.div_ceil(MOMENTS * QUERIES_PER_MOMENT) {
        let world_seed = seed().wrapping_mul(1_000_003).wrapping_add(500_000 + number as u64);
        let rows = rows(world_seed);
        let vocabulary = Vocabulary::of(&rows);
        let mut asker = Asker { rng: StdRng::seed_from_u64(world_seed), vocabulary: &vocabulary };
        let mut growing = Growing::new(world_seed).await;
        let engine = growing.stored.engine(2);
        for moment in 1..=MOMENTS {
            let received = rows.len() * moment / MOMENTS;
            growing.receive(&rows[rows.len() * (moment - 1) / MOMENTS..received]).await;
            let places = vec![Place { name: "growing", engine: engine.clone() }];
            let world = World { seed: world_seed, rows: rows[..received].to_vec(), places };
            let traces = traces(&world.rows);
            for _ in 0..QUERIES_PER_MOMENT {
                let metrics = asker.rng.random_bool(0.3);
                let text = match metrics {
                    true => asker.metrics(),
                    false if asker.rng.random_bool(0.5) => asker.pipeline(),
                    false => asker.single_filter(),
                };
                match traceql::parse(&text) {
                    Ok(_) if metrics => check_metrics(&world, &traces, &mut growing.rng, &text).await,
                    Ok(_) => check_search(&world, &traces, &mut growing.rng, &text).await,
                    Err(_) => false,
                };
            }
        }
    }
}

struct Growing {
    stored: Stored,
    rng: StdRng,
    /// The segment that spans now go to.
    segment: u64,
    /// What is live and not yet committed.
    live: Vec<Row>,
    /// What each block holds, in the order received: compaction joins neighbours.
    blocks: Vec<(Ulid, Vec<Row>)>,
    next_block: u64,
}

impl Growing {
    async fn new(seed: u64) -> Self {
        let stored = Stored::new(&[], &small_row_groups(64), vec![]).await;
        Self { stored, rng: StdRng::seed_from_u64(seed), segment: 1, live: vec![], blocks: vec![], next_block: 1 }
    }

    fn set_live(&self, change: impl FnOnce(&mut Vec<LiveGeneration>)) {
        change(&mut self.stored.live.0.lock().expect("no test panics with it"));
    }

    /// Spans arrive; then perhaps there is a flush, and perhaps a compaction.
    async fn receive(&mut self, rows: &[Row]) {
        self.live.extend_from_slice(rows);
        let (segment, batch) = (self.segment, batch(rows));
        // What was committed at the last moment is gone from here by now.
        self.set_live(|generations| {
            generations.retain(|generation| generation.segment == Some(segment));
            match generations.last_mut() {
                Some(generation) => generation.batches.push(batch),
                None => generations.push(LiveGeneration {
                    ingester: INGESTER.into(),
                    segment: Some(segment),
                    batches: vec![batch],
                }),
            }
        });
        if self.rng.random_bool(0.6) {
            self.flush().await;
        }
        if self.blocks.len() > 1 && self.rng.random_bool(0.4) {
            self.compact().await;
        }
    }

    /// The live rows become a block. Until the next moment they also stay live, as they do while a flush ends.
    async fn flush(&mut self) {
        let rows = std::mem::take(&mut self.live);
        let id = Ulid::from_parts(self.next_block, 0);
        self.next_block += 1;
        let transaction = Some((INGESTER.to_owned(), self.segment as i64));
        self.commit(id, &rows, vec![], transaction).await;
        self.blocks.push((id, rows));
        self.segment += 1;
    }

    /// Two neighbours become one block, in their place.
    async fn compact(&mut self) {
        let at = self.rng.random_range(0..self.blocks.len() - 1);
        let removed = self.blocks.drain(at..at + 2).collect::<Vec<_>>();
        let id = Ulid::from_parts(removed[0].0.timestamp_ms(), removed[0].0.random() + 1);
        let ids = removed.iter().map(|(id, _)| *id).collect();
        let rows: Vec<Row> = removed.into_iter().flat_map(|(_, rows)| rows).collect();
        self.commit(id, &rows, ids, None).await;
        self.blocks.insert(at, (id, rows));
    }

    async fn commit(&mut self, id: Ulid, rows: &[Row], removed: Vec<Ulid>, transaction: Option<(String, i64)>) {
        let policy = [&*FRUGAL, &GENEROUS, &PromotionPolicy::default()][self.rng.random_range(0..3)].clone();
        let batch = merge(&[batch(rows)], &policy).expect("the batch merges");
        let block = encode(id, &batch, &small_row_groups([16, 128][self.rng.random_range(0..2)]));
        let adds = vec![self.stored.storage.put_block(&tenant(), &block).await.expect("the block is stored")];
        let table = self.stored.storage.table(&tenant()).await.expect("a table");
        let blocks = table.snapshot().blocks.clone();
        let removes = blocks.iter().filter(|entry| removed.contains(&entry.id)).cloned().collect();
        let operation = if removed.is_empty() { "flush" } else { "compact" };
        table.commit(Commit { adds, removes, transaction, operation, ..Commit::default() }).await.expect("the commit succeeds");
    }
}
