//! The real program: exit codes, messages, and one round of serve, demo, query, trace and stop.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

const PORTS_CHOSEN_BY_THE_SYSTEM: &str = "server: {http_listen_port: 0}\n\
    distributor:\n  receivers:\n    otlp:\n      protocols:\n        grpc: {endpoint: '127.0.0.1:0'}\n        \
    http: {endpoint: '127.0.0.1:0'}\ningester: {max_block_duration: 1h}\nlog: {level: warn}\n";

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sostenuto"));
    command.args(arguments).env_remove("SOSTENUTO_CONFIG").env_remove("SOSTENUTO_SERVER").env_remove("SOSTENUTO_LOG");
    command
}

fn run(arguments: &[&str]) -> Output {
    program(arguments).output().expect("the program starts")
}

/// Exit code, standard output, standard error.
fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A running server. Killed when the test ends, however it ends.
struct Served {
    child: Child,
    grpc: String,
    http: String,
    api: String,
    rest: BufReader<std::process::ChildStdout>,
}

impl Served {
    fn start(folder: &Path) -> Self {
        Self::start_with(folder, "")
    }

    /// With more lines of configuration.
    fn start_with(folder: &Path, more: &str) -> Self {
        let config = folder.join("config.yaml");
        std::fs::write(&config, format!("{PORTS_CHOSEN_BY_THE_SYSTEM}{more}")).unwrap();
        let data = folder.join("data");
        let arguments = ["serve", "-c", config.to_str().unwrap(), "--storage.path", data.to_str().unwrap()];
        let mut child = program(&arguments).stdout(Stdio::piped()).spawn().expect("the program starts");
        let mut rest = BufReader::new(child.stdout.take().unwrap());
        let (mut grpc, mut http, mut api) = (String::new(), String::new(), String::new());
        loop {
            let mut line = String::new();
            assert_ne!(rest.read_line(&mut line).unwrap(), 0, "the server ended before it was ready");
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("OTLP/gRPC"), Some(address)) => grpc = format!("http://{address}"),
                (Some("OTLP/HTTP"), Some(address)) => http = format!("http://{address}"),
                (Some("API"), Some(address)) => api = address.to_owned(),
                (Some("Try"), _) => break,
                _ => {}
            }
        }
        Self { child, grpc, http, api, rest }
    }

    /// SIGTERM; what it said until it ended, and how it ended.
    fn stop(mut self) -> (Option<i32>, String) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let mut last_words = String::new();
        self.rest.read_to_string(&mut last_words).unwrap();
        (self.child.wait().unwrap().code(), last_words)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Fails where it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_session() {
    let folder = tempfile::tempdir().unwrap();
    let server = Served::start(folder.path());

    let (code, _, said_by_demo) =
        said(&run(&["demo", "--endpoint", &server.grpc, "--traces", "60", "--rate", "0", "--seed", "3"]));
    assert_eq!(code, Some(0), "{said_by_demo}");
    assert!(said_by_demo.contains("60 traces") && said_by_demo.contains("0 rejected"), "{said_by_demo}");
    let (code, _, by_http) = said(&run(&[
        "demo",
        "--protocol",
        "http",
        "--endpoint",
        &server.http,
        "--traces",
        "60",
        "--rate",
        "0",
        "--seed",
        "4",
    ]));
    assert_eq!(code, Some(0), "{by_http}");

    // What the demo advises has an answer.
    let advised: Vec<&str> = said_by_demo.lines().filter_map(|line| line.trim().strip_prefix("sostenuto ")).collect();
    let id = advised.iter().find_map(|line| line.strip_prefix("trace ")).expect("the demo names a trace").to_owned();
    let queries: Vec<&str> =
        advised.iter().filter_map(|line| line.strip_prefix("query '")?.strip_suffix('\'')).collect();
    assert!(!queries.is_empty(), "{said_by_demo}");
    for query in &queries {
        let (code, table, error) = said(&run(&["query", query, "--server", &server.api]));
        assert_eq!(code, Some(0), "{query}: {error}");
        assert!(table.starts_with("TIME"), "{query}: {table}");
    }
    let before = said(&run(&["trace", &id, "--server", &server.api]));
    assert!(before.0 == Some(0) && before.1.starts_with(&id), "{before:?}");
    let (code, json, _) = said(&run(&["trace", &id, "--json", "--server", &server.api]));
    assert!(code == Some(0) && json.contains("resourceSpans"), "{json}");
    let (code, json, _) = said(&run(&["query", "{ }", "--json", "--limit", "3", "--server", &server.api]));
    let found: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(code == Some(0) && found["traces"].as_array().unwrap().len() == 3, "{json}");
    assert_eq!(said(&run(&["trace", "abc", "--server", &server.api])).0, Some(1));

    let (code, last_words) = server.stop();
    assert_eq!(code, Some(0), "{last_words}");
    assert!(last_words.contains("Stopped after") && last_words.contains("spans into 1 block"), "{last_words}");

    // After a restart everything is in blocks, and a trace looks as it did.
    let server = Served::start(folder.path());
    assert_eq!(said(&run(&["trace", &id, "--server", &server.api])), before);
    assert_eq!(server.stop().0, Some(0));

    let block = find(&folder.path().join("data"), "parquet");
    let (code, report, error) = said(&run(&["block", "inspect", block.to_str().unwrap()]));
    assert_eq!(code, Some(0), "{error}");
    assert!(report.contains("bytes per span") && report.contains("resource.service.name"), "{report}");
    assert!(report.contains("Sidecar"), "{report}");
    let id = block.file_stem().unwrap().to_str().unwrap();
    let data = folder.path().join("data");
    let (code, json, error) = said(&run(&["block", "inspect", id, "--json", "--storage.path", data.to_str().unwrap()]));
    assert_eq!(code, Some(0), "{error}");
    let by_id: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(by_id["spans"].as_u64().unwrap() > 100 && by_id["sidecar"]["traces"] == 120, "{json}");

    let (code, plan, error) = said(&run(&["retention", "plan", "--storage.path", data.to_str().unwrap()]));
    assert_eq!(code, Some(0), "{error}");
    let default = plan.lines().find(|line| line.starts_with("everything else")).expect("the default has a line");
    assert!(default.contains("for ever") && default.contains(" 120 "), "{plan}");
}

#[test]
fn small_blocks_are_merged_while_the_server_runs() {
    let folder = tempfile::tempdir().unwrap();
    let server = Served::start_with(folder.path(), "compactor: {interval: 20ms, min_input_blocks: 2, settled_after: 0s}\n");
    let request = |method: &str, path: &str| {
        let mut stream = std::net::TcpStream::connect(server.api.strip_prefix("http://").unwrap()).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    for seed in ["1", "2", "3"] {
        let sent = run(&["demo", "--endpoint", &server.grpc, "--traces", "20", "--rate", "0", "--seed", seed]);
        assert_eq!(sent.status.code(), Some(0), "{sent:?}");
        assert!(request("POST", "/flush").starts_with("HTTP/1.1 2"));
    }
    // At least two blocks of one hour became one.
    let merged = |metrics: &str| {
        let value = |name: &str| {
            let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix("_total "));
            line.map_or(0.0, |value| value.trim().parse::<f64>().unwrap())
        };
        value("sostenuto_compactor_blocks_merged") - value("sostenuto_compactor_compactions") >= 1.0
    };
    while !merged(&request("GET", "/metrics")) {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let (code, json, _) = said(&run(&["query", "{ }", "--json", "--limit", "100", "--server", &server.api]));
    let found: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(code == Some(0) && found["traces"].as_array().unwrap().len() == 60, "{json}");
    assert_eq!(server.stop().0, Some(0));
}

fn find(folder: &Path, extension: &str) -> std::path::PathBuf {
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("_delta_log") {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                return path;
            }
        }
    }
    panic!("no .{extension} below {}", folder.display());
}

#[test]
fn a_mistake_in_a_query_is_shown_before_anyone_is_asked() {
    let (code, out, error) = said(&run(&["query", "{ status = eror }", "--server", "http://127.0.0.1:9"]));
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(error.contains("1 | { status = eror }") && error.contains("^^^^"), "{error}");
}

#[test]
fn what_is_mistyped_has_its_own_exit_code() {
    for arguments in [
        &["trace", "not-hex"][..],
        &["frobnicate"],
        &["query", "{ }", "--limit", "0"],
        &["query", "{ }", "--since", "soon"],
        &["demo", "--services", "3"],
        &["block", "inspect", "no such file"],
    ] {
        let (code, _, error) = said(&run(arguments));
        assert_eq!(code, Some(2), "{arguments:?}: {error}");
        assert!(!error.is_empty());
    }
}

#[test]
fn nobody_there_is_said_plainly() {
    // A port that was free a moment ago and that nobody listens on.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = format!("http://127.0.0.1:{port}");
    for arguments in [
        &["query", "{ }", "--server", &nobody][..],
        &["trace", "abc", "--server", &nobody],
        &["demo", "--endpoint", &nobody],
        &["demo", "--protocol", "http", "--endpoint", &nobody],
    ] {
        let (code, _, error) = said(&run(arguments));
        assert_eq!(code, Some(1), "{arguments:?}");
        assert!(error.contains("nothing listens on") && error.contains("sostenuto serve"), "{arguments:?}: {error}");
    }
}

#[test]
fn a_port_in_use_is_named_with_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let config = folder.path().join("config.yaml");
    let yaml = PORTS_CHOSEN_BY_THE_SYSTEM.replacen("127.0.0.1:0", &address, 1);
    std::fs::write(&config, yaml).unwrap();
    let data = folder.path().join("data");
    let (code, out, error) =
        said(&run(&["serve", "-c", config.to_str().unwrap(), "--storage.path", data.to_str().unwrap()]));
    assert_eq!((code, out.as_str()), (Some(1), ""));
    let key = "distributor.receivers.otlp.protocols.grpc.endpoint";
    assert!(error.contains(&address) && error.contains(key) && error.contains("in use"), "{error}");
    assert!(!data.exists(), "nothing was made before the ports were known to be free");
}

#[test]
fn the_configuration_can_be_checked_and_printed() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.yaml");
    let file = config.to_str().unwrap();
    std::fs::write(&config, "storage:\n  backend: s3\n  s3: {bucket: b, access_key: a, secret_key: canary}\n").unwrap();
    let (code, out, error) = said(&run(&["check-config", "-c", file]));
    assert!(code == Some(0) && out.contains("s3://b"), "{out}{error}");
    let (code, out, _) = said(&run(&["serve", "--config.file", file, "--listen", "0.0.0.0", "--print-config"]));
    assert!(
        code == Some(0) && out.contains("0.0.0.0:4317") && out.contains("<secret>") && !out.contains("canary"),
        "{out}"
    );
    std::fs::write(&config, "sever: {}\n").unwrap();
    let (code, _, error) = said(&run(&["check-config", "-c", file]));
    assert!(code == Some(1) && error.contains(":1:1: unknown key `sever`; did you mean `server`?"), "{error}");
    let (code, _, error) = said(&run(&["check-config", "-c", "/no/such/file.yaml"]));
    assert!(code == Some(1) && error.contains("/no/such/file.yaml"), "{error}");
}
