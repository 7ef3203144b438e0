//! Pages of search results: every trace once, in order, also while others arrive.

use block::writer::WriterOptions;
use query::{Cursor, LiveGeneration, SearchFilter, SearchRequest};

use crate::{
    data::{self, Row},
    places::{batch, everywhere, place, tenant},
};

fn request(limit: usize) -> SearchRequest {
    SearchRequest { filter: SearchFilter::TraceQl("{ }".into()), range: None, limit, spans_per_spanset: 1 }
}

#[tokio::test]
async fn pages_put_together_are_the_whole_list() {
    let rows = data::rows(11);
    for place in everywhere(&rows, 5).await {
        let whole = place.engine.search(&[tenant()], request(1_000)).await.unwrap().traces;
        assert!(whole.len() > 20);
        for size in [1, 3, 7, whole.len(), whole.len() + 1] {
            let (mut pages, mut cursor): (Vec<_>, Option<Cursor>) = (vec![], None);
            loop {
                let (page, next) = place.engine.search_page(&[tenant()], request(size), cursor).await.unwrap();
                assert!(page.traces.len() <= size);
                pages.extend(page.traces);
                match next {
                    // As a client sends it back.
                    Some(next) => cursor = Some(next.to_string().parse().unwrap()),
                    None => break,
                }
            }
            assert_eq!(pages, whole, "pages of {size} in place `{}`", place.name);
        }
    }
    for wrong in ["", "-", "5", "x-1", "5-", "5-zz", "99999999999999999999-1"] {
        assert!(wrong.parse::<Cursor>().is_err(), "{wrong}");
    }
}

/// The first page is read when the newer half has not arrived yet, and the rest is still live; later it is in blocks.
#[tokio::test]
async fn a_cursor_stays_valid_while_data_arrives_and_moves() {
    let mut rows = data::rows(12);
    rows.sort_by_key(|row| row.span.start_time_unix_nano as i64);
    let by_trace = |row: &Row| row.span.trace_id.clone();
    // Whole traces, so that none of them changes its start.
    let middle: std::collections::BTreeSet<_> = rows[..rows.len() / 2].iter().map(by_trace).collect();
    let (older, newer): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|row| middle.contains(&row.span.trace_id));
    let live = |rows: &[Row]| LiveGeneration { ingester: "one".into(), segment: None, batches: vec![batch(rows)] };
    let before = place("older, live", &[], WriterOptions::default(), vec![live(&older)]).await;
    let after = place("older in a block, newer live", &[batch(&older)], WriterOptions::default(), vec![live(&newer)]).await;

    let all = before.engine.search(&[tenant()], request(1_000)).await.unwrap().traces;
    let (first, cursor) = before.engine.search_page(&[tenant()], request(5), None).await.unwrap();
    let cursor = cursor.expect("there are more than five");
    let (rest, _) = after.engine.search_page(&[tenant()], request(1_000), Some(cursor)).await.unwrap();
    let ids = |traces: &[proto::tempopb::TraceSearchMetadata]| -> Vec<String> { traces.iter().map(|t| t.trace_id.clone()).collect() };
    let known: Vec<String> = ids(&rest.traces).into_iter().filter(|id| ids(&all).contains(id)).collect();
    assert_eq!([ids(&first.traces), known].concat(), ids(&all), "nothing twice, nothing left out");
}

#[tokio::test]
async fn pages_over_several_tenants_are_the_whole_list() {
    use model::TenantId;
    use storage::Commit;
    use ulid::Ulid;

    use crate::places::{Stored, encode, small_row_groups};

    let stored = Stored::new(&[], &small_row_groups(64), vec![]).await;
    let tenants = ["a", "b"].map(|name| TenantId::parse(name).unwrap());
    for (tenant, seed) in tenants.iter().zip([13, 14]) {
        let block = encode(Ulid::from_parts(seed, 0), &batch(&data::rows(seed)), &small_row_groups(64));
        let adds = vec![stored.storage.put_block(tenant, &block).await.unwrap()];
        let commit = Commit { adds, operation: "flush", ..Commit::default() };
        stored.storage.table(tenant).await.unwrap().commit(commit).await.unwrap();
    }
    let engine = stored.engine(2);
    let whole = engine.search(&tenants, request(1_000)).await.unwrap().traces;
    let of_first = engine.search(&tenants[..1], request(1_000)).await.unwrap().traces;
    assert!(of_first.len() > 10 && whole.len() > of_first.len() + 10);
    for size in [1, 7, whole.len()] {
        let (mut pages, mut cursor) = (vec![], None);
        loop {
            let (page, next) = engine.search_page(&tenants, request(size), cursor).await.unwrap();
            pages.extend(page.traces);
            match next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        assert_eq!(pages, whole, "pages of {size}");
    }
}
