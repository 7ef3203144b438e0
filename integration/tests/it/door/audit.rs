//! The audit log: who asked what, and what came of it.

use std::{collections::BTreeSet, fs, path::PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Key, every_port, path, write_keys};
use crate::{
    client::Access,
    server::Server,
    spans::{TimeRange, request, trace_spans},
};

fn lines(path: &PathBuf) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn questions_and_refusals_are_written_down() {
    let folder = TempDir::new().unwrap();
    let (file, log) = (folder.path().join("keys.yaml"), folder.path().join("audit.log"));
    let reader = Key::create(&["--role", "read", "--tenant", "a", "--id", "grafana"]);
    let writer = Key::create(&["--role", "write", "--tenant", "a", "--id", "collector"]);
    write_keys(&file, &[&reader, &writer]);
    let settings = every_port(folder.path())
        .with("multitenancy_enabled", true)
        .with("authentication.keys_file", path(&file))
        .with("audit", json!({ "output": "file", "path": path(&log) }));
    let server = Server::start(&settings).await;
    let range = TimeRange::lately();
    server.client.showing(&writer.key).push(request("shop", trace_spans(63, 1, 0..3, range))).await;
    let reads = server.client.showing(&reader.key);
    let query = "{ span.step > 0 }";
    let (status, body) = reads.get("/api/search", &[("q", query.to_owned())]).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(reads.of("b").get("/api/search", &[]).await.0, 403);
    assert_eq!(server.client.showing("sos_x_y").get("/api/v2/search/tags", &[]).await.0, 401);
    assert_eq!(server.client.showing(&reader.key).post("application/x-protobuf", "", vec![]).await.status, 403);
    let url = format!("http://{}/tempopb.StreamingQuerier/SearchTagsV2", server.address("api"));
    let client = Access::default().builder().http2_prior_knowledge().build().unwrap();
    let call = client.post(url).header("content-type", "application/grpc").header("te", "trailers");
    let answer = call.bearer_auth(&reader.key).body(vec![0; 5]).send().await.unwrap();
    assert!(answer.bytes().await.unwrap().len() > 5);
    assert!(server.stop().await.success());

    let lines = lines(&log);
    let text = |line: &Value| {
        let part = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
        format!("{} {} {} {} {} {} {}", part("who"), part("by"), part("tenant"), part("path"), part("asked"), line["status"], line["refused"])
    };
    let expected = [
        format!("grafana key a /api/search {query} 200 false"),
        "grafana key b /api/search - 403 true".to_owned(),
        "- nobody - /api/v2/search/tags - 401 true".to_owned(),
        "grafana key - /v1/traces - 403 true".to_owned(),
        "grafana key a /tempopb.StreamingQuerier/SearchTagsV2 - 200 false".to_owned(),
    ];
    assert_eq!(lines.iter().map(text).collect::<BTreeSet<_>>(), BTreeSet::from(expected), "{lines:#?}");
    let call = lines.iter().find(|line| line["grpc_status"].is_number()).unwrap();
    assert!(call["grpc_status"] == 0 && call["whole"] == true && call["bytes"].as_u64().unwrap() > 5, "{call}");
    let search = lines.iter().find(|line| line["path"] == "/api/search" && line["status"] == 200).unwrap();
    assert!(search["bytes"].as_u64().unwrap() > 50 && search["whole"] == true, "{search}");
    assert!(search["duration_ms"].as_f64().unwrap() > 0.0 && search["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{search}");
    let all = fs::read_to_string(&log).unwrap();
    assert!(!all.contains(reader.secret()) && !all.contains(writer.secret()));
}

#[tokio::test]
async fn deliveries_are_written_down_where_that_is_wanted_and_files_are_bounded() {
    let folder = TempDir::new().unwrap();
    let log = folder.path().join("audit.log");
    let audit = json!({ "output": "file", "path": path(&log), "writes": true, "max_file_bytes": 2000, "max_files": 3 });
    let server = Server::start(&every_port(folder.path()).with("audit", audit)).await;
    for number in 0..40 {
        server.client.push(request("shop", trace_spans(64, number, 0..1, TimeRange::lately()))).await;
    }
    assert_eq!(server.client.get("/ready", &[]).await.0, 200);
    assert!(server.stop().await.success());
    let files: Vec<PathBuf> = ["audit.log", "audit.log.1", "audit.log.2"].map(|name| folder.path().join(name)).into();
    for file in &files {
        assert!(fs::metadata(file).unwrap().len() <= 2000);
        for line in lines(file) {
            assert_eq!((&line["path"], &line["by"], &line["status"]), (&"/v1/traces".into(), &"nobody".into(), &200.into()));
        }
    }
    assert!(!folder.path().join("audit.log.3").exists());
}
