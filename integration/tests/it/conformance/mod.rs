//! The recorded answers of a reference server, asked of ours: live, flushed, and split over blocks and live data.
//!
//! `integration/conformance/` holds the spans, the requests and the answers. A case marked `differs` is not compared:
//! there `docs/compatibility.md` says what we do instead. A case in `open.tsv` is known not to match, and counted apart;
//! once it matches it has to leave the list.

mod compare;
mod corpus;
mod normal;

use std::collections::{BTreeMap, HashMap, HashSet};

use prost::Message;
use proto::otlp::{
    collector::trace::v1::ExportTraceServiceRequest,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use tempfile::TempDir;

use crate::{
    client::Client,
    server::{Server, Settings},
    spans::TimeRange,
};
pub use corpus::Corpus;

/// Blocks that the corpus is split over, in the test that splits it; the rest stays live.
const SPLIT_BLOCKS: usize = 3;
/// Mismatches that are printed.
const SHOWN_MAX: usize = 20;

#[tokio::test]
async fn live_spans_are_answered_as_recorded() {
    let (corpus, folder) = (Corpus::load(), TempDir::new().unwrap());
    let server = Server::start(&Settings::new(folder.path())).await;
    for request in &corpus.requests {
        server.client.push(request.clone()).await;
    }
    agrees(&corpus, &server.client, "live").await;
    assert_eq!(server.client.metric("sostenuto_ingester_blocks_flushed_total").await, 0.0, "nothing was flushed");
}

#[tokio::test]
async fn a_block_is_answered_as_recorded() {
    let (corpus, folder) = (Corpus::load(), TempDir::new().unwrap());
    let server = Server::start(&Settings::new(folder.path())).await;
    for request in &corpus.requests {
        server.client.push(request.clone()).await;
    }
    let report = server.client.flush().await;
    assert_eq!(report["spans"], corpus.spans, "{report}");
    agrees(&corpus, &server.client, "flushed").await;
}

/// Every trace of more than a few spans has spans in each block and in live data. They come in the recorded order, which
/// decides between several roots.
#[tokio::test]
async fn traces_in_many_places_are_answered_as_recorded() {
    let (corpus, folder) = (Corpus::load(), TempDir::new().unwrap());
    let server = Server::start(&Settings::new(folder.path())).await;
    for (place, requests) in shares(&corpus.requests, SPLIT_BLOCKS + 1).into_iter().enumerate() {
        for request in requests {
            server.client.push(request).await;
        }
        if place < SPLIT_BLOCKS {
            let report = server.client.flush().await;
            assert!(report["blocks"].as_u64() >= Some(1), "{report}");
        }
    }
    agrees(&corpus, &server.client, "split").await;
}

/// Requests for each of `places`: the first place gets the first spans of each trace, and so on.
fn shares(requests: &[Vec<u8>], places: usize) -> Vec<Vec<Vec<u8>>> {
    let requests: Vec<_> = requests.iter().map(|request| ExportTraceServiceRequest::decode(&request[..]).unwrap()).collect();
    let resources = requests.iter().flat_map(|request| &request.resource_spans);
    let spans = resources.flat_map(|resource| &resource.scope_spans).flat_map(|scope| &scope.spans);
    let mut totals: HashMap<&[u8], usize> = HashMap::new();
    for span in spans {
        *totals.entry(&span.trace_id).or_default() += 1;
    }
    (0..places)
        .map(|place| {
            let mut seen: HashMap<&[u8], usize> = HashMap::new();
            requests.iter().map(|request| share(request, &mut |span| {
                let seen = seen.entry(&span.trace_id).or_default();
                *seen += 1;
                (*seen - 1) * places / totals[&span.trace_id[..]] == place
            })).collect()
        })
        .collect()
}

/// The request with those of its spans that are `here`.
fn share<'a>(request: &'a ExportTraceServiceRequest, here: &mut impl FnMut(&'a Span) -> bool) -> Vec<u8> {
    let mut share = ExportTraceServiceRequest::default();
    for resource in &request.resource_spans {
        let scopes = resource.scope_spans.iter().map(|scope| ScopeSpans {
            spans: scope.spans.iter().filter(|span| here(span)).cloned().collect(),
            scope: scope.scope.clone(),
            schema_url: scope.schema_url.clone(),
        });
        let scope_spans: Vec<ScopeSpans> = scopes.filter(|scope| !scope.spans.is_empty()).collect();
        if !scope_spans.is_empty() {
            let (about, schema_url) = (resource.resource.clone(), resource.schema_url.clone());
            share.resource_spans.push(ResourceSpans { resource: about, scope_spans, schema_url });
        }
    }
    share.encode_to_vec()
}

/// Cases that are known not to be answered as recorded: names, with a reason each in the file.
fn open_cases() -> HashSet<&'static str> {
    let list = include_str!("../../../conformance/open.tsv");
    list.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split('\t').next()).collect()
}

/// Cases of a group.
#[derive(Default)]
struct Counts {
    matching: usize,
    /// Do not match, and are known.
    open: usize,
    wrong: usize,
    /// Not compared.
    free: usize,
}

/// Asks every case and compares.
async fn agrees(corpus: &Corpus, client: &Client, state: &str) {
    let range = TimeRange { start_s: corpus.start_s, end_s: corpus.end_s };
    assert_eq!(client.count("{ }", range).await, corpus.spans, "spans of the corpus, {state}");
    let mut groups: BTreeMap<&str, Counts> = BTreeMap::new();
    let mut wrong = Vec::new();
    let open = open_cases();
    for case in &corpus.cases {
        let group = groups.entry(case.group()).or_default();
        if case.differs {
            group.free += 1;
            continue;
        }
        let parameters: Vec<(&str, String)> = case.parameters.iter().map(|(key, value)| (&**key, value.clone())).collect();
        let (status, body) = client.get(&case.path, &parameters).await;
        let got = normal::normal(&case.path, status, &body, case.detail);
        match (compare::matches(&case.name, &case.want, &got), open.contains(case.name.as_str())) {
            (true, false) => group.matching += 1,
            (false, true) => group.open += 1,
            (true, true) => wrong.push(format!("{} matches: take it off the list of open cases", case.name)),
            (false, false) => {
                group.wrong += 1;
                let difference = compare::difference(&case.want, &got, &body);
                wrong.push(format!("{}  {}\n    {difference}", case.name, case.question()));
            }
        }
    }
    let mut summary = format!("{state}:\n");
    for (group, Counts { matching, open, wrong, free }) in &groups {
        summary += &format!("  {group:16} {matching:4} match {open:4} open {wrong:4} wrong ({free} differ on purpose)\n");
    }
    println!("{summary}");
    let shown = wrong.iter().take(SHOWN_MAX).fold(String::new(), |text, line| text + line + "\n");
    assert!(wrong.is_empty(), "{} answers differ from what was recorded\n{shown}{summary}", wrong.len());
}
