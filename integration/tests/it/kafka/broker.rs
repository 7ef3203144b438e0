//! A real broker: plain, with TLS and certificates of clients, and with each kind of password.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::Write,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use prost::Message;
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Sent, TOPIC, check, committed, produce, traces};
use crate::{
    client::{Access, Client},
    collector::{COLLECTOR, Collector, everything},
    door::authority::Authority,
    sdks::{hex, stored_of, whole},
    server::{Server, Settings, skipped, until},
    spans::{TimeRange, trace_id},
};

const VARIABLE: &str = "SOSTENUTO_CLIENTS_KAFKA";
/// A producer over Kafka's own client, run from its source.
const SEND: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/kafka/Send.java");
const CLUSTER: &str = "MkU3OEVBNTcwNTJENDM2Qk";
const PLAIN_PASSWORD: &str = "canary-plain-secret";
const SCRAM_PASSWORD: &str = "canary-scram-secret";
/// How long a broker may take to start.
const PATIENCE: Duration = Duration::from_secs(300);
/// Another program may take a port in the moment in which it is free for the broker.
const ATTEMPTS_MAX: u32 = 5;

/// Ports of the listeners.
#[derive(Clone, Copy)]
struct Ports {
    plain: u16,
    tls: u16,
    sasl: u16,
    controller: u16,
}

struct Broker {
    process: Child,
    ports: Ports,
    folder: PathBuf,
    jars: OsString,
}

impl Broker {
    fn start(jars: &OsStr, folder: &Path) -> Self {
        for _ in 0..ATTEMPTS_MAX {
            // All at once, so that they differ.
            let sockets = [(); 4].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
            let [plain, tls, sasl, controller] = sockets.each_ref().map(|socket| socket.local_addr().unwrap().port());
            let ports = Ports { plain, tls, sasl, controller };
            fs::write(folder.join("server.properties"), properties(folder, ports)).unwrap();
            if !folder.join("logs").exists() {
                format(jars, folder);
            }
            drop(sockets);
            if let Some(broker) = Self::run(jars, folder, ports) {
                return broker;
            }
        }
        panic!("the broker found its ports taken {ATTEMPTS_MAX} times:\n{}", log(folder));
    }

    /// `None` if a port was taken.
    fn run(jars: &OsStr, folder: &Path, ports: Ports) -> Option<Self> {
        let output = File::create(folder.join("output")).unwrap();
        let process = java(jars)
            .arg("-Xmx256m")
            .arg("kafka.Kafka")
            .arg(folder.join("server.properties"))
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let mut broker = Self { process, ports, folder: folder.to_owned(), jars: jars.to_owned() };
        let consumer: BaseConsumer = broker.client().create().unwrap();
        let began = Instant::now();
        while consumer.fetch_metadata(None, Duration::from_secs(1)).is_err() {
            if let Some(status) = broker.process.try_wait().unwrap() {
                let log = log(folder);
                assert!(log.contains("in use"), "the broker ended with {status}:\n{log}");
                return None;
            }
            assert!(began.elapsed() < PATIENCE, "the broker does not answer:\n{}", log(folder));
        }
        Some(broker)
    }

    /// The same on the same ports, after an end in order.
    fn restart(mut self) -> Self {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        self.process.wait().unwrap();
        let (jars, folder, ports) = (self.jars.clone(), self.folder.clone(), self.ports);
        drop(self);
        Self::run(&jars, &folder, ports).unwrap_or_else(|| panic!("a port was taken meanwhile:\n{}", log(&folder)))
    }

    /// Sends messages to [`TOPIC`] with Kafka's own client.
    fn send(&self, codec: &str, messages: &[Sent]) {
        let mut client = java(&self.jars)
            .args([SEND, &format!("127.0.0.1:{}", self.ports.plain), TOPIC, codec])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = client.stdin.take().unwrap();
        for Sent { partition, payload, .. } in messages {
            writeln!(lines, "{partition} {}", BASE64_STANDARD.encode(payload)).unwrap();
        }
        drop(lines);
        let output = client.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Of the plain listener.
    fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", format!("127.0.0.1:{}", self.ports.plain));
        client
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Either fails only if it is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn java(jars: &OsStr) -> Command {
    let mut command = Command::new("java");
    let mut path = jars.to_owned();
    path.push("/*");
    // It lives shortly: no time for a compiler that makes it fast.
    command
        .args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"])
        .arg(path)
        .stdin(Stdio::null());
    command
}

/// Makes the folder of a new cluster, with users.
fn format(jars: &OsStr, folder: &Path) {
    let mut format = java(jars);
    format.args(["kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c"]).arg(folder.join("server.properties"));
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
        format.args(["--add-scram", &format!("{mechanism}=[name=reader,password={SCRAM_PASSWORD}]")]);
    }
    let output = format.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn log(folder: &Path) -> String {
    fs::read_to_string(folder.join("output")).unwrap_or_default()
}

fn properties(folder: &Path, ports: Ports) -> String {
    let Ports { plain, tls, sasl, controller } = ports;
    let clients = format!("PLAIN://127.0.0.1:{plain},TLS://127.0.0.1:{tls},SASL://127.0.0.1:{sasl}");
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (logs, keys, trust) = (path("logs"), path("broker.pem"), path("ca.pem"));
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners={clients},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={clients}
listener.security.protocol.map=PLAIN:PLAINTEXT,TLS:SSL,SASL:SASL_SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAIN
log.dirs={logs}
num.partitions=2
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
ssl.keystore.type=PEM
ssl.keystore.location={keys}
ssl.truststore.type=PEM
ssl.truststore.location={trust}
listener.name.tls.ssl.client.auth=required
listener.name.sasl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
 user_reader=\"{PLAIN_PASSWORD}\";
listener.name.sasl.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
"
    )
}

/// A server that reads from a listener, as a group of its own.
fn settings(folder: &Path, group: &str, port: u16, security: Value) -> Settings {
    let mut kafka = json!({
        "brokers": [format!("127.0.0.1:{port}")],
        "topics": { TOPIC: "otlp_proto" },
        "group_id": group,
        // One test kills a server, and the group waits so long for it.
        "session_timeout": "6s",
        "commit_interval": "50ms",
    });
    kafka.as_object_mut().unwrap().extend(security.as_object().unwrap().clone());
    Settings::new(&folder.join(group)).with("distributor.receivers.kafka", kafka)
}

#[tokio::test]
async fn a_broker_is_read_over_every_kind_of_connection() {
    const TRACES: u64 = 200;
    let Some(jars) = env::var_os(VARIABLE) else {
        skipped(format_args!("kafka/broker.rs: a real broker, because {VARIABLE} is not set"));
        return;
    };
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (ours, other) = (Authority::new("ours"), Authority::new("another"));
    let (broker, client) = (ours.server(), ours.client());
    let files = [
        ("broker.pem", broker.identity()),
        ("ca.pem", ours.pem.clone()),
        ("other.pem", other.pem.clone()),
        ("client.pem", client.cert.clone()),
        ("client.key", client.key.clone()),
        ("password.txt", format!("{SCRAM_PASSWORD}\n")),
    ];
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let broker = Broker::start(&jars, folder.path());
    let range = TimeRange::lately();
    // Each way of compression, by librdkafka and by Kafka's own client.
    for (codec, first) in [("none", 0), ("gzip", 40), ("snappy", 80), ("lz4", 120), ("zstd", 160)] {
        produce(broker.client().set("compression.codec", codec), TOPIC, &traces(20, first..first + 20, 2, range)).await;
        broker.send(codec, &traces(20, first + 20..first + 40, 2, range));
    }
    let sasl = |mechanism: &str, password: &str| {
        json!({
            "tls": { "ca_file": path("ca.pem") },
            "sasl": { "mechanism": mechanism, "username": "reader", "password": password },
        })
    };
    let from_file =
        json!({ "mechanism": "SCRAM-SHA-256", "username": "reader", "password_file": path("password.txt") });
    let shown = json!({ "tls": { "ca_file": path("ca.pem"), "cert_file": path("client.pem"), "key_file": path("client.key") } });
    let Ports { plain, tls, sasl: passwords, .. } = broker.ports;
    let ways = [
        ("plain", plain, json!({})),
        ("certificate", tls, shown),
        ("password", passwords, sasl("PLAIN", PLAIN_PASSWORD)),
        ("scram-256", passwords, json!({ "tls": { "insecure_skip_verify": true }, "sasl": from_file })),
        ("scram-512", passwords, sasl("SCRAM-SHA-512", SCRAM_PASSWORD)),
    ];
    for (group, port, security) in ways {
        let server = Server::start(&settings(folder.path(), group, port, security)).await;
        until(group, async || server.client.count("{ }", range).await == 2 * TRACES).await;
        until(group, async || committed_by(&broker, group) == [Some(100), Some(100)]).await;
        check(&server.client, 20, 0..TRACES).await;
        let shown = format!("{}{:?}", server.log(), server.client.get("/status/config", &[]).await);
        assert!(!shown.contains("canary"), "{shown}");
        assert!(server.stop().await.success(), "{group}");
    }

    // Who is not let in says so, goes on with everything else, and does not show the password.
    let refused = [
        ("wrong-password", passwords, sasl("SCRAM-SHA-512", "canary-wrong"), "Authentication"),
        ("no-certificate", tls, json!({ "tls": { "ca_file": path("ca.pem") } }), ""),
        ("wrong-authority", passwords, sasl_of(&path("other.pem")), "SSL"),
    ];
    for (group, port, security, error) in refused {
        let server = Server::start(&settings(folder.path(), group, port, security)).await;
        until(group, async || {
            let metrics = server.client.get("/metrics", &[]).await.1;
            let services = server.client.get("/status/services", &[]).await.1;
            let counted = format!("sostenuto_kafka_errors_total{{error=\"{error}");
            metrics.as_str().unwrap().contains(&counted) && services.as_str().unwrap().contains("last error")
        })
        .await;
        assert!(!server.log().contains("canary"), "{}", server.log());
        assert_eq!(server.client.count("{ }", range).await, 0, "{group}");
        assert!(server.stop().await.success(), "{group}");
    }
}

fn sasl_of(authority: &str) -> Value {
    json!({
        "tls": { "ca_file": authority },
        "sasl": { "mechanism": "PLAIN", "username": "reader", "password": PLAIN_PASSWORD },
    })
}

fn committed_by(broker: &Broker, group: &str) -> Vec<Option<i64>> {
    committed(broker.client().set("group.id", group), TOPIC, 2)
}

#[tokio::test]
async fn a_broker_that_restarts_and_a_server_that_is_killed_lose_nothing() {
    let Some(jars) = env::var_os(VARIABLE) else {
        skipped(format_args!("kafka/broker.rs: the restart of a real broker, because {VARIABLE} is not set"));
        return;
    };
    let folder = TempDir::new().unwrap();
    let authority = Authority::new("ours");
    fs::write(folder.path().join("broker.pem"), authority.server().identity()).unwrap();
    fs::write(folder.path().join("ca.pem"), &authority.pem).unwrap();
    let broker = Broker::start(&jars, folder.path());
    let range = TimeRange::lately();
    let settings = settings(folder.path(), "restarts", broker.ports.plain, json!({}));
    let never = settings.clone().with("distributor.receivers.kafka.commit_interval", "1h");
    produce(&broker.client(), TOPIC, &traces(21, 0..50, 2, range)).await;
    let server = Server::start(&never).await;
    until("all spans are found", async || server.client.count("{ }", range).await == 100).await;
    server.kill();
    let broker = broker.restart();
    let server = Server::start(&settings).await;
    until("all is committed", async || committed_by(&broker, "restarts") == [Some(25), Some(25)]).await;
    assert_eq!(server.client.count("{ }", range).await, 100);

    let broker = broker.restart();
    produce(&broker.client(), TOPIC, &traces(21, 50..100, 2, range)).await;
    until("all is committed", async || committed_by(&broker, "restarts") == [Some(50), Some(50)]).await;
    check(&server.client, 21, 0..100).await;
    assert_eq!(server.client.count("{ }", range).await, 200);
}

#[tokio::test]
async fn two_members_share_the_partitions_and_lose_nothing() {
    const TRACES: u64 = 400;
    let Some(jars) = env::var_os(VARIABLE) else {
        skipped(format_args!("kafka/broker.rs: two members of a group, because {VARIABLE} is not set"));
        return;
    };
    let (folder, stores) = (TempDir::new().unwrap(), [TempDir::new().unwrap(), TempDir::new().unwrap()]);
    let authority = Authority::new("ours");
    fs::write(folder.path().join("broker.pem"), authority.server().identity()).unwrap();
    fs::write(folder.path().join("ca.pem"), &authority.pem).unwrap();
    let broker = Broker::start(&jars, folder.path());
    let range = TimeRange::lately();
    // No machine is so slow that the group takes a member for dead that is not.
    let [one, two] = stores.each_ref().map(|store| {
        settings(store.path(), "members", broker.ports.plain, json!({})).with("distributor.receivers.kafka.session_timeout", "60s")
    });
    let found = async |server: &Server| server.client.count("{ }", range).await;
    let partitions =
        async |server: &Server| server.client.metric("sostenuto_kafka_partitions{state=\"reading\"}").await;

    produce(&broker.client(), TOPIC, &traces(22, 0..200, 2, range)).await;
    let first = Server::start(&one).await;
    until("the first reads", async || found(&first).await > 0).await;
    let second = Server::start(&two).await;
    until("they share", async || (partitions(&first).await, partitions(&second).await) == (1.0, 1.0)).await;
    produce(&broker.client(), TOPIC, &traces(22, 200..300, 2, range)).await;
    until("the second reads", async || found(&second).await > 0).await;
    // It leaves, and what was its own goes back.
    assert!(second.stop().await.success());
    until("the first has all again", async || partitions(&first).await == 2.0).await;
    produce(&broker.client(), TOPIC, &traces(22, 300..TRACES, 2, range)).await;
    until("all is committed", async || committed_by(&broker, "members") == [Some(200), Some(200)]).await;

    // It reads nothing any more.
    let second = Server::start(&Settings::new(&stores[1].path().join("members"))).await;
    let mut elsewhere = 0;
    for number in 0..TRACES {
        let id = trace_id(22, number);
        let here = first.client.span_ids(&id).await;
        assert!(here.values().all(|times| *times == 1), "trace {number} has spans more than once: {here:?}");
        if here.is_empty() {
            elsewhere += 1;
            assert_eq!(second.client.span_ids(&id).await.len(), 2, "trace {number} is nowhere");
        } else {
            assert_eq!(here.len(), 2, "trace {number}");
        }
    }
    assert!(elsewhere > 0, "both have read");
}

#[tokio::test]
async fn what_a_collector_writes_to_a_topic_is_stored_for_its_tenant_as_it_was() {
    let (Some(jars), Some(program)) = (env::var_os(VARIABLE), env::var_os(COLLECTOR)) else {
        skipped(format_args!("kafka/broker.rs: a Collector that writes to a topic, because {VARIABLE} or {COLLECTOR} is not set"));
        return;
    };
    let folder = TempDir::new().unwrap();
    let authority = Authority::new("ours");
    fs::write(folder.path().join("broker.pem"), authority.server().identity()).unwrap();
    fs::write(folder.path().join("ca.pem"), &authority.pem).unwrap();
    let broker = Broker::start(&jars, folder.path());
    // There is a topic before anybody reads it.
    let tenant = ("X-Scope-OrgID", "shop");
    let first = Sent { headers: vec![tenant], ..traces(23, 0..1, 1, TimeRange::lately()).remove(0) };
    produce(&broker.client(), TOPIC, &[first]).await;
    let settings = settings(folder.path(), "collector", broker.ports.plain, json!({})).with("multitenancy_enabled", true);
    let server = Server::start(&settings).await;
    let shop = server.client.of("shop");
    let environment = [("KAFKA_BROKER", format!("127.0.0.1:{}", broker.ports.plain)), ("SOSTENUTO_TENANT", "shop".to_owned())];
    for (seed, compression) in [(11, "lz4"), (13, "zstd")] {
        let changes = json!({ "exporters": { "kafka": { "producer": { "compression": compression } } } });
        let collector = Collector::start(&program, folder.path(), "kafka.yaml", "kafka", changes, &environment).await;
        let through = Client::new(&Access::default(), &server.address("api"), &collector.http, &collector.grpc);
        let request = everything(seed);
        through.push(request.encode_to_vec()).await;
        let expected = whole(request.resource_spans.iter());
        let id = &expected[0].2.trace_id;
        until("the message is read", async || shop.trace(id).await.len() == expected.len()).await;
        assert_eq!(stored_of(&server, "shop", &hex(id)).await, expected, "{compression}");
        collector.stop().await;
    }
}
