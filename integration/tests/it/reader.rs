//! Readers that share no code with ours open the table of a server, and find what its API says.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    client::Client,
    conformance::Corpus,
    server::{Server, Settings, skipped},
    spans::TimeRange,
};

/// Set to 1 where no Python can be had; the test then proves nothing.
const SKIP: &str = "SOSTENUTO_NO_PYTHON";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/readers/read_table.py");
/// Values of each column whose spans are counted by both.
const VALUES_COUNTED: usize = 3;

#[tokio::test]
async fn delta_and_parquet_readers_agree_with_the_api() {
    if std::env::var_os(SKIP).is_some_and(|value| value == "1") {
        skipped(format_args!("delta_and_parquet_readers_agree_with_the_api: {SKIP} is set"));
        return;
    }
    let (corpus, folder) = (Corpus::load(), TempDir::new().unwrap());
    let settings = Settings::new(folder.path());
    let server = Server::start(&settings).await;
    let half = corpus.requests.len() / 2;
    for (at, request) in corpus.requests.iter().enumerate() {
        if at == half {
            server.client.flush().await;
        }
        server.client.push(request.clone()).await;
    }
    server.client.flush().await;

    let read = read(&the_table(&settings.data().join("blocks")));
    assert_eq!(read["files"], 2);
    let (client, range) = (&server.client, TimeRange { start_s: corpus.start_s, end_s: corpus.end_s });
    let traces = found_traces(client, range).await;
    for engine in ["pyarrow", "sql"] {
        let found = &read[engine];
        assert_eq!(found["rows"], corpus.spans, "{engine}: spans");
        assert_eq!(found["rows"], client.count("{ }", range).await, "{engine}: spans");
        assert_eq!(found["traces"], traces, "{engine}: traces");
        assert_eq!(found["roots"], client.count("{ nestedSetParent < 0 }", range).await, "{engine}: roots");
        assert_eq!(texts(&found["names"]), values(client, "name", "string", range).await, "{engine}: names of spans");
        let services = values(client, "resource.service.name", "string", range).await;
        assert_eq!(texts(&found["services"]), services, "{engine}: services");
        let id = read["one_trace_id"].as_str().unwrap();
        let bytes: Vec<u8> = (0..16).map(|at| u8::from_str_radix(&id[at * 2..at * 2 + 2], 16).unwrap()).collect();
        assert_eq!(found["one_trace"], client.trace(&bytes).await.len(), "{engine}: spans of trace {id}");
    }
    attributes_agree(&read["attributes"], client, range).await;
}

/// Each attribute column has the values that the API lists, and its spans are as many as the API counts.
async fn attributes_agree(columns: &Value, client: &Client, range: TimeRange) {
    let columns = columns.as_object().unwrap();
    assert!(columns.len() > 10, "attributes have columns of their own: {:?}", columns.keys());
    for (column, counts) in columns {
        let (name, kind) = match column.rsplit_once(':') {
            Some((name, "long")) => (name, "int"),
            Some((name, "double")) => (name, "float"),
            Some((name, "boolean")) => (name, "bool"),
            _ => (column.as_str(), "string"),
        };
        let (scope, key) = name.split_once('.').unwrap();
        let attribute = format!("{scope}.{}", Value::from(key));
        let counts = counts.as_array().unwrap();
        if kind != "float" {
            let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let found: BTreeSet<String> = counts.iter().map(|count| plain(&count[0])).collect();
            assert_eq!(found, values(client, name, kind, range).await, "values of {column}");
        }
        for count in counts.iter().take(VALUES_COUNTED) {
            let filter = format!("{{ {attribute} = {} }}", count[0]);
            assert_eq!(count[1], client.count(&filter, range).await, "spans of {column} by {filter}");
        }
    }
}

async fn found_traces(client: &Client, range: TimeRange) -> usize {
    let parameters = [("q", "{ }".to_owned()), ("limit", "5000".into()), ("start", range.start_s.to_string()), ("end", range.end_s.to_string())];
    let (status, body) = client.get("/api/search", &parameters).await;
    assert_eq!(status, 200, "{body}");
    body["traces"].as_array().unwrap().len()
}

/// The values of one type that the API lists for an attribute.
async fn values(client: &Client, name: &str, kind: &str, range: TimeRange) -> BTreeSet<String> {
    let parameters = [("start", range.start_s.to_string()), ("end", range.end_s.to_string())];
    let (status, body) = client.get(&format!("/api/v2/search/tag/{name}/values"), &parameters).await;
    assert_eq!(status, 200, "{name}: {body}");
    let values = body["tagValues"].as_array().unwrap().iter().filter(|value| value["type"] == kind);
    // The empty string is a value, and JSON of protobuf leaves it out.
    values.map(|value| value["value"].as_str().unwrap_or_default().to_owned()).collect()
}

fn texts(values: &Value) -> BTreeSet<String> {
    values.as_array().unwrap().iter().map(|value| value.as_str().unwrap().to_owned()).collect()
}

/// The folder of the only table.
fn the_table(blocks: &Path) -> std::path::PathBuf {
    let tenants = fs::read_dir(blocks).unwrap().map(|entry| entry.unwrap().path().join("traces"));
    let tables: Vec<_> = tenants.filter(|table| table.join("_delta_log").is_dir()).collect();
    assert_eq!(tables.len(), 1, "{tables:?}");
    tables.into_iter().next().unwrap()
}

fn read(table: &Path) -> Value {
    let output = Command::new("python3").arg(SCRIPT).arg(table).output().expect("python3 is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "an independent reader failed. It needs `pip install deltalake pyarrow`; {SKIP}=1 goes without.\n{said}"
    );
    serde_json::from_slice(&output.stdout).unwrap()
}
