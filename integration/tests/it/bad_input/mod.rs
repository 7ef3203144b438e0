//! What no good client sends, by every way in: it has its answer, the good spans beside it are kept, and the program goes on.
//!
//! The cases, and where they are tried against the program itself:
//!
//! | | what comes | tests |
//! |---|---|---|
//! | B01 | nothing, in all forms | `requests::nothing_is_taken` |
//! | B02 | what is no message | `requests::what_is_no_request_is_refused` |
//! | B03 | unknown fields, later enums | `requests::what_is_not_known_is_passed_over` |
//! | B04 | broken or unsupported compression | `requests::compression_is_undone_or_refused` |
//! | B05 | bombs | `bombs_are_refused_within_bounded_memory` |
//! | B06 | frames of gRPC that lie | `requests::frames_that_lie_cost_only_their_call` |
//! | B07 | lengths of HTTP that lie | `connections::lengths_that_lie_cost_only_their_connection`; time limits in `receivers` |
//! | B08 | wrong content types | `requests::what_a_body_says_that_it_is_decides` |
//! | B09 | wrong methods, paths, versions | `connections::old_careful_and_wrong_requests_are_told_apart` |
//! | B10 | JSON at its ends | `requests::json_at_its_ends_is_answered` |
//! | B11 | deep values | `spans::deep_values_are_kept`, `spans::a_bad_span_costs_itself` |
//! | B12, B13 | very many or very long attributes, events, links, resources | `spans::what_is_too_much_of_a_span_is_cut_and_said` |
//! | B14 | text that is none, or that moves a terminal | `spans::text_that_is_none_is_replaced` |
//! | B15, B16 | ids of wrong lengths, zeros, one's own parent | `spans::a_bad_span_costs_itself` |
//! | B17 | one id twice | `spans::an_id_twice_is_one_span_or_two` |
//! | B18 | cycles, chains, crowds, no root | `spans::traces_that_are_no_trees_are_answered` |
//! | B19-B22 | times, numbers, resources, words at their ends | `spans::a_bad_span_costs_itself`, `spans::what_is_odd_comes_back_as_it_came` |
//! | B23 | a trace of very many spans | `spans::a_trace_of_very_many_spans_is_whole` |
//! | B24 | tenants in the data | `spans::tenants_are_not_in_the_data` |
//! | B25 | tenants that are none | `connections::tenants_are_named_once`, `tenants::names_that_are_none_are_refused` |
//! | B26 | headers: injected, large, many | `connections::headers_have_their_bounds` |
//! | B27 | slow and flooding connections | `connections::floods_cost_their_own_connection`; time limits in `receivers` |
//! | B28 | TLS: stalls, expired certificates | `door::tls` |
//! | B29 | damaged bodies of Zipkin and Jaeger | `foreign`; fuzz targets in `translate` |
//! | B30 | more than the rate, more than the burst | `refusals::too_fast_is_told_with_a_delay_and_too_much_without` |
//! | B31 | no right | `door::access` |
//! | B32 | no room, no store, shutdown | `store_faults`, `disk_faults`, `kill`; a stopping ingester in `receivers` |
//! | B33 | our own bug | `receivers`: what panics is answered with 503 |
//!
//! What queries may do wrong is in `queries`.

mod connections;
mod foreign;
mod refusals;
mod requests;
mod spans;

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use prost::Message;
use proto::{
    otlp::{
        collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
        trace::v1::{ResourceSpans, ScopeSpans, Span},
    },
    otlp_json,
};
use tempfile::TempDir;

use crate::{
    client::{Answer, Client},
    server::{Server, Settings},
    spans::{TimeRange, trace_spans},
};

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Protobuf,
    Json,
    Grpc,
}

const WAYS: [Way; 3] = [Way::Protobuf, Way::Json, Way::Grpc];

/// What a client is told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// Stored, but for so many spans.
    Taken { rejected: i64 },
    /// Never to be sent again: nothing in it is valid.
    Invalid,
    /// Never to be sent again: too large.
    TooLarge,
    Unsupported,
    /// Anything else.
    Other(String),
}

fn told(way: Way, answer: &Answer) -> Told {
    let rejected = |response: ExportTraceServiceResponse| response.partial_success.map_or(0, |partial| partial.rejected_spans);
    let grpc_status = answer.headers.get("grpc-status").map(|status| status.to_str().unwrap().to_owned());
    match (way, answer.status, grpc_status.as_deref()) {
        (Way::Protobuf, 200, None) => {
            Told::Taken { rejected: rejected(ExportTraceServiceResponse::decode(&answer.body[..]).unwrap()) }
        }
        (Way::Json, 200, None) => {
            let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
            let rejected = &body["partialSuccess"]["rejectedSpans"];
            Told::Taken { rejected: rejected.as_str().map_or(0, |count| count.parse().unwrap()) }
        }
        // A message, and the status in trailers behind it; a call that fails has its status in the headers.
        (Way::Grpc, 200, None) => {
            Told::Taken { rejected: rejected(ExportTraceServiceResponse::decode(&answer.body[5..]).unwrap()) }
        }
        (Way::Grpc, 200, Some("3")) | (Way::Protobuf | Way::Json, 400, None) => Told::Invalid,
        (Way::Grpc, 200, Some("8")) | (Way::Protobuf | Way::Json, 413, None) => Told::TooLarge,
        (Way::Grpc, 200, Some("12")) | (Way::Protobuf | Way::Json, 415, None) => Told::Unsupported,
        (_, status, grpc) => Told::Other(format!("HTTP {status}, gRPC {grpc:?}: {}", String::from_utf8_lossy(&answer.body))),
    }
}

async fn send(client: &Client, way: Way, request: &ExportTraceServiceRequest) -> Told {
    let answer = match way {
        Way::Protobuf => client.post(PROTOBUF, "", request.encode_to_vec()).await,
        Way::Json => client.post(JSON, "", otlp_json::encode(request)).await,
        Way::Grpc => client.call("", &request.encode_to_vec()).await,
    };
    told(way, &answer)
}

fn request(spans: Vec<Span>) -> ExportTraceServiceRequest {
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }] }
}

/// A field of protobuf that holds what follows.
fn field(number: u32, content: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    prost::encoding::encode_varint(u64::from(number) << 3 | 2, &mut out);
    prost::encoding::encode_varint(content.len() as u64, &mut out);
    out.extend_from_slice(content);
    out
}

/// B05: requests that are small on the wire and large in memory, and ones that are large on the wire.
#[tokio::test]
async fn bombs_are_refused_within_bounded_memory() {
    const LIMIT: usize = 8 << 20;
    const INFLATED: usize = 256 << 20;
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let settings = Settings::new(folder.path())
        .with("distributor.receivers.otlp.protocols.grpc.max_recv_msg_size_mib", LIMIT >> 20)
        .with("distributor.receivers.otlp.protocols.http.max_request_body_size", LIMIT);
    let server = Server::start(&settings).await;
    let client = &server.client;
    let good = request(trace_spans(1, 1, 0..3, range)).encode_to_vec();
    client.push(good.clone()).await;

    let (mut gzip, mut zstd) = (GzEncoder::new(vec![], Compression::default()), zstd::Encoder::new(vec![], 1).unwrap());
    let zeros = vec![0; 1 << 20];
    for _ in 0..INFLATED >> 20 {
        gzip.write_all(&zeros).unwrap();
        zstd.write_all(&zeros).unwrap();
    }
    let bombs = [("gzip", gzip.finish().unwrap()), ("zstd", zstd.finish().unwrap())];
    let before = server.peak_memory_bytes();
    for (encoding, bomb) in &bombs {
        assert!(bomb.len() < LIMIT, "{encoding}: {} bytes on the wire", bomb.len());
        assert_eq!(told(Way::Protobuf, &client.post(PROTOBUF, encoding, bomb.clone()).await), Told::TooLarge, "{encoding}");
        assert_eq!(told(Way::Json, &client.post(JSON, encoding, bomb.clone()).await), Told::TooLarge, "{encoding}");
        assert_eq!(told(Way::Grpc, &client.call(encoding, bomb).await), Told::TooLarge, "{encoding}");
    }
    let large = vec![0; LIMIT + 1];
    assert_eq!(told(Way::Protobuf, &client.post(PROTOBUF, "", large.clone()).await), Told::TooLarge);
    assert_eq!(told(Way::Grpc, &client.call("", &large).await), Told::TooLarge);
    let grown = server.peak_memory_bytes() - before;
    assert!(grown < 10 * LIMIT as u64, "{grown} bytes more for requests of at most {LIMIT}");
    assert_eq!(told(Way::Grpc, &client.call("", &good).await), Told::Taken { rejected: 0 });
    assert_eq!(client.count("{ }", range).await, 3);
}
