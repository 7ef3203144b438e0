//! Secrets are planted wherever the program takes one, and looked for in all that it puts out: logs at their most talkative,
//! the audit log, answers, metrics, status pages, what it prints and what it stores.

use std::{fs, path::Path, process::Command};

use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::{Method, header};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Key, authority::Authority, every_port, path, write_keys};
use crate::{
    client::Access,
    s3_server::{S3Server, SECRET_KEY, in_bucket},
    server::{Server, Starting, binary, until},
    spans::{TimeRange, request, trace_spans},
};

const SALT: &str = "planted-salt-0123456789abcdef";
const JWT_SECRET: &str = "planted-secret-of-hs256-0123456789abcdef";

/// The files below a folder, but for those that hold the secrets on purpose.
fn files(folder: &Path, but: &[&str]) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let found = entries.filter(|path| !but.iter().any(|name| path.ends_with(name)));
    found.flat_map(|path| match path.is_dir() {
        true => files(&path, but),
        false => vec![(path.display().to_string(), fs::read(&path).unwrap())],
    })
    .collect()
}

#[tokio::test]
async fn planted_secrets_are_nowhere() {
    let folder = TempDir::new().unwrap();
    let file = |name: &str| folder.path().join(name);
    let store = S3Server::start(&file("bucket")).await;
    let authority = Authority::new("the shop");
    let certified = authority.server();
    certified.write(folder.path());
    fs::write(file("salt"), SALT).unwrap();
    fs::write(file("hs256"), JWT_SECRET).unwrap();
    let (key, unknown, expired) = (
        Key::create(&["--role", "admin", "--tenant", "*", "--id", "ours"]),
        Key::create(&["--role", "admin", "--tenant", "*", "--id", "theirs"]),
        Key::create(&["--role", "admin", "--tenant", "*", "--id", "late", "--expires-in", "1s"]),
    );
    write_keys(&file("keys.yaml"), &[&key, &expired]);
    let settings = in_bucket(every_port(folder.path()), store.address)
        .with("log", json!({ "level": "trace", "format": "json" }))
        .with("server.tls", json!({ "cert_file": path(&file("cert.pem")), "key_file": path(&file("key.pem")), "reload_interval": "20ms" }))
        .with("authentication", json!({
            "keys_file": path(&file("keys.yaml")), "reload_interval": "20ms",
            "jwt": { "issuer": "urn:x", "audience": "y", "hmac_secret_file": path(&file("hs256")), "algorithms": ["HS256"] },
        }))
        .with("audit", json!({ "output": "file", "path": path(&file("audit.log")), "writes": true }))
        .with("distributor.redaction", json!({
            "salt_file": path(&file("salt")), "reload_interval": "20ms",
            "rules": [{ "name": "users", "action": "hash", "keys": ["enduser.id"] }],
        }))
        .with_log_in(&file("server.log"))
        .reached_by(Access { authority: Some(authority.pem.clone()), token: Some(key.key.clone()), ..Access::default() });
    let server = Server::start(&settings).await;

    let token = {
        let encode = |text: &str| base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", encode(r#"{"alg":"HS256"}"#), encode(r#"{"iss":"urn:x","aud":"y","exp":4102444800}"#), encode("planted-signature"))
    };
    let basic = |user: &str, password: &str| format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")));
    let shown = [
        ("authorization", format!("Bearer {}", key.key)),
        ("authorization", format!("Bearer {}", unknown.key)),
        ("authorization", format!("Bearer {}", expired.key)),
        ("authorization", format!("Bearer {token}")),
        ("authorization", basic("ours", &key.key)),
        ("authorization", basic("theirs", &key.key)),
        ("authorization", basic("theirs", "planted-password")),
        ("authorization", "Digest planted-digest".to_owned()),
        ("x-api-key", unknown.key.clone()),
    ];
    let mut answers = vec![];
    let client = settings_client(&authority);
    for (port, method, path, content_type) in [
        ("api", Method::GET, "/api/search", ""),
        ("api", Method::GET, "/no/such/page", ""),
        ("api", Method::POST, "/api/sql", "text/plain"),
        ("api", Method::GET, "/status/config", ""),
        ("otlp_http", Method::POST, "/v1/traces", "application/x-protobuf"),
        ("otlp_grpc", Method::POST, "/opentelemetry.proto.collector.trace.v1.TraceService/Export", "application/grpc"),
        ("zipkin", Method::POST, "/api/v2/spans", "application/json"),
        ("jaeger_thrift_http", Method::POST, "/api/traces", "application/x-thrift"),
    ] {
        for (name, value) in &shown {
            let asked = client.request(method.clone(), format!("https://{}{path}", server.address(port))).header(*name, value);
            let answer = asked.header(header::CONTENT_TYPE, content_type).body("nothing of sense").send().await.unwrap();
            answers.push(format!("{:?}", answer.headers()));
            answers.push(String::from_utf8_lossy(&answer.bytes().await.unwrap()).into_owned());
        }
    }
    server.client.push(request("shop", trace_spans(72, 1, 0..3, TimeRange::lately()))).await;
    server.client.flush().await;
    // Files that cannot be used are told of without repeating them.
    let failures = async || {
        let names = ["sostenuto_door_reload_failures_total", "sostenuto_tls_reload_failures_total", "sostenuto_redaction_reload_failures_total"];
        let mut all = vec![];
        for name in names {
            all.push(server.client.metric(name).await);
        }
        all
    };
    fs::write(file("hs256"), "planted-but-short").unwrap();
    fs::write(file("salt"), "planted-salt").unwrap();
    fs::write(file("key.pem"), certified.key.replace("PRIVATE KEY", "PLANTED KEY")).unwrap();
    until("all are counted", async || failures().await.iter().all(|count| *count > 0.0)).await;
    let before = failures().await;
    fs::write(file("keys.yaml"), format!("{}\n- {}\n", key.line, unknown.key)).unwrap();
    until("and the keys", async || failures().await[0] > before[0]).await;
    for page in ["/metrics", "/status", "/status/config", "/status/overrides", "/status/backend", "/status/services", "/status/endpoints", "/status/version", "/ready"] {
        let (status, body) = server.client.get(page, &[]).await;
        assert_eq!(status, 200, "{page}");
        answers.push(match body {
            Value::String(text) => text,
            other => other.to_string(),
        });
    }
    let printed = Command::new(binary()).args(["serve", "--print-config", "--config.file"]).arg(settings.data().with_extension("yaml")).output().unwrap();
    assert!(printed.status.success());
    answers.extend([printed.stdout, printed.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()));
    assert!(server.stop().await.success());
    // Nor does a start that fails tell: for want of each file in turn, and of the store.
    let mend: [&dyn Fn(); 4] = [
        &|| write_keys(&file("keys.yaml"), &[&key]),
        &|| fs::write(file("hs256"), JWT_SECRET).unwrap(),
        &|| certified.write(folder.path()),
        &|| fs::write(file("salt"), SALT).unwrap(),
    ];
    let broken = settings.with("storage.s3.secret_key", "planted-wrong-secret").with_log_in(&file("failed.log"));
    for mended in 0..=mend.len() {
        mend[..mended].iter().for_each(|mend| mend());
        answers.push(Starting::spawn(&broken).fails().await);
        answers.push(fs::read_to_string(file("failed.log")).unwrap());
    }

    let secrets: Vec<String> = [&key, &unknown, &expired].iter().map(|key| key.secret().to_owned()).collect();
    let private: Vec<String> = certified.key.lines().filter(|line| !line.starts_with("-----")).map(str::to_owned).collect();
    let own = [SECRET_KEY, SALT, JWT_SECRET, "planted", token.as_str(), key.key.as_str()].map(str::to_owned);
    let encoded: Vec<String> = shown.iter().filter_map(|(_, value)| value.strip_prefix("Basic ").map(str::to_owned)).collect();
    let holders = ["keys.yaml", "keys.new", "salt", "hs256", "key.pem", "data.yaml"];
    let stored = files(folder.path(), &holders);
    assert!(stored.iter().any(|(name, text)| name.ends_with("server.log") && text.len() > 10_000), "the log was written");
    for secret in [secrets, private, own.to_vec(), encoded].concat() {
        for answer in &answers {
            assert!(!answer.contains(&secret), "{secret} in {answer}");
        }
        for (name, text) in &stored {
            assert!(!text.windows(secret.len()).any(|part| part == secret.as_bytes()), "{secret} in {name}");
        }
    }
}

fn settings_client(authority: &Authority) -> reqwest::Client {
    Access { authority: Some(authority.pem.clone()), ..Access::default() }.builder().build().unwrap()
}
