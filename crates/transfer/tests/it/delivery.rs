//! What happens between an import and its endpoint.

use std::{fs, path::PathBuf};

use prost::Message;
use proto::otlp::{
    collector::trace::v1::ExportTraceServiceRequest,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use tempfile::TempDir;

use crate::endpoint::{Endpoint, Reply, run};

/// A file of frames, one span each, `name_bytes` long.
fn file(folder: &TempDir, name: &str, spans: u64, name_bytes: usize) -> PathBuf {
    let mut out = vec![];
    for at in 0..spans {
        let span = Span {
            trace_id: vec![1; 16],
            span_id: (at + 1).to_be_bytes().to_vec(),
            name: "n".repeat(name_bytes),
            ..Span::default()
        };
        let scope_spans = vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }];
        let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
        let message = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        out.extend((message.len() as u32).to_be_bytes());
        out.extend(message);
    }
    let path = folder.path().join(name);
    fs::write(&path, out).unwrap();
    path
}

#[tokio::test]
async fn what_may_pass_later_is_repeated() {
    let folder = TempDir::new().unwrap();
    let path = file(&folder, "a", 3, 10);
    let replies = [(429, Some("0")), (503, None), (502, None), (504, Some("0"))];
    let endpoint = Endpoint::start(replies.map(|(status, after)| Reply::Status(status, after))).await;
    let (progress, events) = run(&endpoint.options(folder.path(), &[&path])).await;
    let progress = progress.unwrap();
    assert_eq!((progress.accepted, progress.repeated, endpoint.span_count(), endpoint.refused()), (3, 4, 3, 4));
    assert_eq!(events, Vec::<String>::new());
}

#[tokio::test]
async fn patience_ends() {
    let folder = TempDir::new().unwrap();
    let path = file(&folder, "a", 3, 10);
    // The server wants longer than anybody waits.
    let endpoint = Endpoint::start([Reply::Status(503, Some("86400"))]).await;
    let mut options = endpoint.options(folder.path(), &[&path]);
    options.to.patience = std::time::Duration::from_secs(1);
    let error = run(&options).await.0.unwrap_err().to_string();
    assert!(error.contains("gave up") && error.contains("503") && error.contains("because"), "{error}");
    assert_eq!(endpoint.refused(), 1);
    // The next run sends everything.
    assert_eq!(run(&options).await.0.unwrap().accepted, 3);
}

#[tokio::test]
async fn a_run_goes_on_where_the_last_one_ended() {
    let folder = TempDir::new().unwrap();
    let (a, b) = (file(&folder, "a", 8, 600_000), file(&folder, "b", 2, 10));
    // Two spans fit in a request; the third request ends the run.
    let endpoint =
        Endpoint::start([Reply::Partial(0, "slow down"), Reply::Partial(1, "one is bad"), Reply::Status(401, None)])
            .await;
    let options = endpoint.options(folder.path(), &[&a, &b]);
    let (outcome, events) = run(&options).await;
    assert!(outcome.unwrap_err().to_string().contains("401"));
    assert!(events.iter().any(|event| event.contains("spans: 1") && event.contains("one is bad")), "{events:?}");
    assert!(events.iter().any(|event| event.contains("spans: 0") && event.contains("slow down")), "{events:?}");
    assert_eq!(endpoint.span_count(), 4);
    let (progress, _) = run(&options).await;
    let progress = progress.unwrap();
    assert_eq!((progress.accepted_before, progress.accepted, progress.rejected), (3, 6, 1));
    assert_eq!(endpoint.span_count(), 10, "nothing twice");
    assert!(!progress.is_complete(), "what was rejected before still is");
    // All is done: nothing is sent, but for a file that changed.
    let (progress, events) = run(&options).await;
    assert_eq!((progress.unwrap().requests, events.len()), (0, 2), "{events:?}");
    file(&folder, "b", 3, 10);
    assert_eq!(run(&options).await.0.unwrap().accepted, 3);
    // An import to elsewhere is another one.
    let other = Endpoint::start([]).await;
    let error = run(&other.options(folder.path(), &[&a])).await.0.unwrap_err().to_string();
    assert!(error.contains("--state"), "{error}");
}

#[tokio::test]
async fn refusals_for_good_are_counted_once_something_passed() {
    let folder = TempDir::new().unwrap();
    let path = file(&folder, "a", 6, 600_000);
    let endpoint = Endpoint::start([Reply::Partial(0, ""), Reply::Status(400, None)]).await;
    let (progress, events) = run(&endpoint.options(folder.path(), &[&path])).await;
    let progress = progress.unwrap();
    assert_eq!((progress.accepted, progress.rejected), (4, 2));
    assert!(events[0].contains("400") && events[0].contains("because"), "{events:?}");
    // The first one says that all will be.
    let endpoint = Endpoint::start([Reply::Status(400, None)]).await;
    let mut options = endpoint.options(folder.path(), &[&path]);
    options.restart = true;
    assert!(run(&options).await.0.unwrap_err().to_string().contains("400"));
    assert_eq!(endpoint.span_count(), 0);
}

#[tokio::test]
async fn a_dry_run_counts_and_leaves_no_trace() {
    let folder = TempDir::new().unwrap();
    let path = file(&folder, "a", 5, 10);
    let endpoint = Endpoint::start([]).await;
    let mut options = endpoint.options(folder.path(), &[&path]);
    options.dry_run = true;
    let progress = run(&options).await.0.unwrap();
    assert_eq!((progress.accepted, progress.bytes_read, endpoint.span_count()), (5, progress.bytes, 0));
    assert!(!options.state.exists());
}

#[tokio::test]
async fn headers_are_sent_and_never_shown() {
    let folder = TempDir::new().unwrap();
    let path = file(&folder, "a", 1, 10);
    let endpoint = Endpoint::start([]).await;
    let mut options = endpoint.options(folder.path(), &[&path]);
    options.to.tenant = Some("team-a".to_owned());
    options.to.headers = vec!["Authorization: Bearer secret".to_owned()];
    run(&options).await.0.unwrap();
    assert_eq!(endpoint.headers("authorization"), [Some("Bearer secret".to_owned())]);
    assert_eq!(endpoint.headers("x-scope-orgid"), [Some("team-a".to_owned())]);
    options.to.headers = vec!["Authorization: Bearer\nsecret".to_owned()];
    let error = run(&options).await.0.unwrap_err().to_string();
    assert!(error.contains("Authorization") && !error.contains("secret"), "{error}");
    assert!(!fs::read_to_string(&options.state).unwrap().contains("secret"));
}

#[tokio::test]
async fn folders_hold_files_and_what_is_none_is_named() {
    let folder = TempDir::new().unwrap();
    let below = folder.path().join("files/day/1");
    fs::create_dir_all(&below).unwrap();
    fs::rename(file(&folder, "x", 2, 10), below.join("a.bin")).unwrap();
    fs::rename(file(&folder, "x", 3, 10), folder.path().join("files/b.bin")).unwrap();
    fs::write(folder.path().join("files/.hidden"), "x").unwrap();
    fs::write(folder.path().join("files/empty"), "").unwrap();
    fs::write(folder.path().join("files/readme.txt"), "Hello").unwrap();
    let endpoint = Endpoint::start([]).await;
    let (progress, events) = run(&endpoint.options(folder.path(), &[&folder.path().join("files")])).await;
    let progress = progress.unwrap();
    assert_eq!((progress.accepted, progress.sources, progress.sources_done, progress.unreadable), (5, 4, 3, 1));
    assert!(events[0].contains("readme.txt"), "{events:?}");
    let missing = folder.path().join("missing");
    let error = run(&endpoint.options(folder.path(), &[&missing])).await.0.unwrap_err().to_string();
    assert!(error.contains("missing"), "{error}");
}
