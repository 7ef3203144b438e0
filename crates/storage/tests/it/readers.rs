//! Another program's reader opens our table and finds what we wrote.

use std::process::Command;

use storage::{Commit, Snapshot, Storage, StorageConfig, TableConfig};
use tempfile::TempDir;

use crate::fixture::{START, block, local_config, tenant};

/// Set to 1 where no Python can be had; the test then proves nothing.
const SKIP: &str = "SOSTENUTO_NO_PYTHON";

#[tokio::test]
async fn deltalake_counts_the_same_spans() {
    if std::env::var_os(SKIP).is_some_and(|value| value == "1") {
        return;
    }
    let probe = Command::new("python3").args(["-c", "import deltalake, pyarrow"]).output();
    assert!(
        probe.is_ok_and(|output| output.status.success()),
        "this test needs an independent Delta reader: `pip install deltalake pyarrow`, or set {SKIP}=1 to go without"
    );

    let folder = TempDir::new().unwrap();
    let config = StorageConfig { table: TableConfig { checkpoint_commits: 3, ..TableConfig::default() }, ..local_config(&folder) };
    let storage = Storage::open(&config).await.unwrap();
    let table = storage.table(&tenant()).await.unwrap();
    // Six blocks of ten traces of two spans; the last two bring a column of their own; one is replaced.
    for number in 0..6_u64 {
        let key = if number < 4 { "first.key" } else { "second.key" };
        let adds = vec![storage.put_block(&tenant(), &block(number * 10, 10, key)).await.unwrap()];
        let transaction = Some(("ingester-0".to_owned(), number as i64));
        table.commit(Commit { adds, transaction, operation: "flush", ..Commit::default() }).await.unwrap();
    }
    let removes = vec![table.snapshot().blocks[0].clone()];
    let adds = vec![storage.put_block(&tenant(), &block(100, 5, "first.key")).await.unwrap()];
    let snapshot = table.commit(Commit { adds, removes, operation: "compact", ..Commit::default() }).await.unwrap().snapshot;
    assert_eq!((snapshot.version, snapshot.blocks.len()), (6, 6));

    let path = folder.path().join("data/team-1/traces");
    read_by_another(&path, &snapshot);
    // Without the commits that the checkpoint sums up.
    let table = TableConfig { checkpoint_commits: 3, log_kept_ms: 1 };
    let cleaning = Storage::with_store(storage.object_store(), &StorageConfig { table, ..config }).await.unwrap();
    let ages = storage::SweepAges { removed_ms: 900_000, orphan_ms: 86_400_000 };
    let swept = cleaning.sweep(&tenant(), ages, 0).await.unwrap();
    assert_eq!((swept.log_files, path.join("_delta_log/00000000000000000000.json").exists()), (3, false));
    read_by_another(&path, &snapshot);
}

fn read_by_another(path: &std::path::Path, snapshot: &Snapshot) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../integration/readers/read_table.py");
    let output = Command::new("python3").arg(script).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();

    assert_eq!(read["version"], 6);
    assert_eq!(read["files"], 6);
    let rows: u64 = snapshot.blocks.iter().map(|block| block.rows).sum();
    let traces: u64 = snapshot.blocks.iter().map(|block| block.traces).sum();
    for engine in ["pyarrow", "sql"] {
        let found = &read[engine];
        assert_eq!(found["rows"], rows, "{engine}");
        assert_eq!(found["traces"], traces, "{engine}");
        let min = snapshot.blocks.iter().map(|block| block.min_start_unix_nano).min().unwrap();
        assert_eq!(found["min_start_unix_nano"], min, "{engine}");
        assert_eq!(found["max_start_unix_nano"].as_u64().unwrap(), START + 104 * 1_000, "{engine}");
        assert_eq!(found["names"], serde_json::json!(["GET /", "SELECT"]), "{engine}");
        assert_eq!(found["services"], serde_json::json!(["shop"]), "{engine}");
        assert_eq!(found["one_trace"], 2, "{engine}: rows of the trace with id {}", read["one_trace_id"]);
        assert_eq!(found["roots"], traces, "{engine}: spans without a parent");
        assert_eq!(found["late"], 2 * 5, "{engine}: spans that start late, by the ranges of the files");
    }
    let columns = read["columns"].as_array().unwrap();
    for (column, kind) in [
        ("trace_id", "binary"),
        ("start_time_unix_nano", "long"),
        ("kind", "integer"),
        ("resource.service.name", "string"),
        ("span.first.key", "string"),
        ("span.second.key", "string"),
    ] {
        assert!(columns.contains(&serde_json::json!([column, kind])), "{column} {kind}: {columns:?}");
    }
}
