//! `sostenuto serve` as a child process: started on ports that the system chooses, killed, stopped.

use std::{
    collections::VecDeque,
    env,
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, OnceLock},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::client::{Access, Client};

/// Names another program to test.
const BINARY_VARIABLE: &str = "SOSTENUTO_BINARY";
/// How long anything may take that must happen.
const PATIENCE: Duration = Duration::from_secs(120);
/// The last lines of the program's log that are kept for a failed test.
const LOG_LINES_MAX: usize = 400;

/// The configuration file of a server.
#[derive(Clone)]
pub struct Settings {
    yaml: Value,
    file_kib_max: Option<u64>,
    environment: Vec<(&'static str, String)>,
    access: Access,
    log_copy: Option<PathBuf>,
}

impl Settings {
    /// Everything under `folder`, every port chosen by the system, blocks only when asked for and left as they are.
    pub fn new(folder: &Path) -> Self {
        let protocols = json!({ "grpc": { "endpoint": "127.0.0.1:0" }, "http": { "endpoint": "127.0.0.1:0" } });
        Self {
            yaml: json!({
                "server": { "http_listen_port": 0 },
                "distributor": { "receivers": { "otlp": { "protocols": protocols } } },
                "ingester": { "max_block_duration": "1h" },
                "compactor": { "interval": "1h" },
                "storage": { "path": folder.join("data") },
                "log": { "format": "json" },
            }),
            file_kib_max: None,
            environment: Vec::new(),
            access: Access::default(),
            log_copy: None,
        }
    }

    /// All that the program writes to its log, into this file as well.
    pub fn with_log_in(mut self, file: &Path) -> Self {
        self.log_copy = Some(file.to_owned());
        self
    }

    /// Writing fails at this size of a file, as on a disk that is full.
    pub fn with_files_of_at_most(mut self, kib: u64) -> Self {
        self.file_kib_max = Some(kib);
        self
    }

    /// Sets a variable of the program's environment.
    pub fn with_environment(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// How this test gets to the server.
    pub fn reached_by(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Sets one key, written as `storage.s3.bucket`.
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        let mut at = &mut self.yaml;
        for part in key.split('.') {
            at = &mut at[part];
        }
        *at = value.into();
        self
    }

    /// The folder that holds the log and, with the local backend, the blocks.
    pub fn data(&self) -> PathBuf {
        PathBuf::from(self.yaml["storage"]["path"].as_str().unwrap())
    }

    /// The same server on another folder.
    pub fn on(&self, data: &Path) -> Self {
        self.clone().with("storage.path", data.to_str().unwrap())
    }
}

/// A process that may not be ready yet.
pub struct Starting {
    process: Process,
    announced: oneshot::Receiver<Value>,
    access: Access,
}

pub struct Server {
    process: Process,
    pub client: Client,
    /// What it announced.
    event: Value,
    /// Spans that the start found in the log and not in a table.
    pub replayed: u64,
}

struct Process {
    child: Child,
    log: Arc<Mutex<VecDeque<String>>>,
}

impl Starting {
    pub fn spawn(settings: &Settings) -> Self {
        let data = settings.data();
        fs::create_dir_all(&data).unwrap();
        let file = data.with_extension("yaml");
        // JSON is YAML.
        fs::write(&file, serde_json::to_vec_pretty(&settings.yaml).unwrap()).unwrap();
        let mut command = match settings.file_kib_max {
            None => Command::new(binary()),
            Some(kib) => {
                let mut shell = Command::new("sh");
                // In units of 512 bytes. The signal that comes with the error would end the program.
                let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", kib * 2);
                shell.arg("-c").arg(script).arg(binary());
                shell
            }
        };
        let mut child = command
            .args([OsString::from("serve"), "--config.file".into(), file.into()])
            .env_remove("SOSTENUTO_CONFIG")
            .env_remove("SOSTENUTO_LOG")
            .envs(settings.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {}: {error}", binary().display()));
        let log = Arc::new(Mutex::new(VecDeque::new()));
        let (announce, announced) = oneshot::channel();
        let (stderr, lines) = (child.stderr.take().unwrap(), log.clone());
        let mut copy = settings.log_copy.as_ref().map(|file| fs::File::create(file).unwrap());
        thread::spawn(move || {
            let mut announce = Some(announce);
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some(copy) = &mut copy {
                    writeln!(copy, "{line}").unwrap();
                }
                if announce.is_some()
                    && let Ok(event) = serde_json::from_str::<Value>(&line)
                    && event["message"] == "serving"
                {
                    let _ = announce.take().unwrap().send(event);
                }
                let mut lines = lines.lock().unwrap();
                if lines.len() == LOG_LINES_MAX {
                    lines.pop_front();
                }
                lines.push_back(line);
            }
        });
        Self { process: Process { child, log }, announced, access: settings.access.clone() }
    }

    /// Waits until it answers that it is ready.
    pub async fn ready(self) -> Server {
        let Self { process, announced, access } = self;
        let Ok(Ok(event)) = tokio::time::timeout(PATIENCE, announced).await else {
            panic!("the server did not come up:\n{}", process.log());
        };
        let address = |key: &str| event[key].as_str().unwrap_or_else(|| panic!("no {key} in {event}")).to_owned();
        let client = Client::new(&access, &address("api"), &address("otlp_http"), &address("otlp_grpc"));
        let ready = client.get("/ready", &[]).await;
        assert_eq!(ready.0, 200, "what says that it serves is ready: {ready:?}");
        let replayed = event["replayed"].as_u64().unwrap();
        Server { process, client, event, replayed }
    }

    /// Waits until it gives up; what it said.
    pub async fn fails(self) -> String {
        let Self { mut process, announced, .. } = self;
        // The sender goes when there is nothing more to read.
        match tokio::time::timeout(PATIENCE, announced).await {
            Ok(Err(_)) => {}
            Ok(Ok(event)) => panic!("the server came up: {event}"),
            Err(_) => panic!("the server neither came up nor gave up:\n{}", process.log()),
        }
        assert!(!process.child.wait().unwrap().success());
        process.log()
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.process.kill();
    }
}

impl Server {
    pub async fn start(settings: &Settings) -> Self {
        Starting::spawn(settings).ready().await
    }

    /// `host:port` of a listener, by its name in the announcement.
    pub fn address(&self, listener: &str) -> String {
        self.announced(listener).unwrap_or_else(|| panic!("no {listener} in {}", self.event))
    }

    /// What the announcement says of this; `None` if it does not.
    pub fn announced(&self, name: &str) -> Option<String> {
        self.event[name].as_str().map(str::to_owned)
    }

    /// The last lines of its log.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// The most memory that it has had so far, as the system tells it.
    pub fn peak_memory_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.child.id())).unwrap();
        let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")).unwrap();
        kib.trim().parse::<u64>().unwrap() << 10
    }

    /// SIGTERM, and how the program ended.
    pub async fn stop(mut self) -> ExitStatus {
        let id = self.process.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(sent.success(), "kill -TERM {id}: {sent}");
        let began = Instant::now();
        loop {
            if let Some(status) = self.process.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "the server does not stop:\n{}", self.process.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Process {
    fn kill(&mut self) {
        // Either fails only if it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn log(&self) -> String {
        self.log.lock().unwrap().iter().fold(String::new(), |text, line| text + line + "\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- the server's log ---\n{}------------------------", self.log());
        }
    }
}

/// Waits for a condition.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "this never became true: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Says that a test proved nothing, where it is seen: what a test prints is hidden when it passes.
pub fn skipped(what: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {what}");
}

/// The program that the same cargo invocation built: it stands beside the folder of this test.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = env::var_os(BINARY_VARIABLE) {
            return path.into();
        }
        let test = env::current_exe().unwrap();
        let folder = test.parent().and_then(Path::parent).expect("a test stands in target/<profile>/deps");
        let path = folder.join(format!("sostenuto{}", env::consts::EXE_SUFFIX));
        let hint = "build the program and its tests together: cargo test --release --workspace";
        assert!(path.exists(), "{} is missing; {hint}", path.display());
        if let Some(source) = newer_source(&path, &folder.join("sostenuto.d")) {
            panic!("{} is older than {source}; {hint}", path.display());
        }
        path
    })
}

/// A file that the program is made of and that changed after it was built. Cargo lists them beside the program.
fn newer_source(binary: &Path, list: &Path) -> Option<String> {
    let built = fs::metadata(binary).and_then(|file| file.modified()).ok()?;
    let list = fs::read_to_string(list).ok()?;
    let sources = list.split_once(": ")?.1.split_whitespace();
    let changed = |path: &str| fs::metadata(path).and_then(|file| file.modified()).is_ok_and(|at| at > built);
    sources.filter(|path| changed(path)).map(str::to_owned).next()
}
