//! The commands of the program against a server that does not let everybody in.

use std::{
    fs,
    process::{Command, Output},
};

use serde_json::json;
use tempfile::TempDir;

use super::{Key, authority::Authority, every_port, path, write_keys};
use crate::{
    client::Access,
    server::{Server, binary},
    spans::{TimeRange, request, trace_spans},
};

#[tokio::test]
async fn commands_show_their_key_and_trust_an_authority() {
    let folder = TempDir::new().unwrap();
    let (authority, file, ca) = (Authority::new("ours"), folder.path().join("keys.yaml"), folder.path().join("ca.pem"));
    authority.server().write(folder.path());
    fs::write(&ca, &authority.pem).unwrap();
    let (reader, writer) = (Key::create(&["--role", "read"]), Key::create(&["--role", "write"]));
    write_keys(&file, &[&reader, &writer]);
    let tls = json!({ "cert_file": path(&folder.path().join("cert.pem")), "key_file": path(&folder.path().join("key.pem")) });
    let access = Access { authority: Some(authority.pem.clone()), token: Some(writer.key.clone()), ..Access::default() };
    let settings = every_port(folder.path())
        .with("server.tls", tls)
        .with("authentication.keys_file", path(&file))
        .reached_by(access);
    let server = Server::start(&settings).await;
    server.client.push(request("shop", trace_spans(70, 1, 0..2, TimeRange::lately()))).await;

    let run = |arguments: &[&str], token: Option<&Key>| -> Output {
        let mut command = Command::new(binary());
        command.args(arguments).arg("--ca-file").arg(&ca).env_remove("SOSTENUTO_TOKEN");
        if let Some(key) = token {
            command.env("SOSTENUTO_TOKEN", &key.key);
        }
        command.output().unwrap()
    };
    let said = |output: &Output| String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned();
    let api = format!("https://{}", server.address("api"));
    let query = ["query", "{ }", "--server", &api];
    let found = run(&query, Some(&reader));
    assert!(found.status.success() && said(&found).contains("shop"), "{}", said(&found));
    let refused = run(&query, None);
    assert!(!refused.status.success() && said(&refused).contains("401"), "{}", said(&refused));
    let refused = run(&query, Some(&writer));
    assert!(!refused.status.success() && said(&refused).contains("403"), "{}", said(&refused));
    let token_file = folder.path().join("token");
    fs::write(&token_file, format!("{}\n", reader.key)).unwrap();
    let found = run(&[&query[..], &["--token-file", token_file.to_str().unwrap()]].concat(), None);
    assert!(found.status.success(), "{}", said(&found));

    for (protocol, port) in [("http", "otlp_http"), ("grpc", "otlp_grpc")] {
        let endpoint = format!("https://{}", server.address(port));
        let demo = ["demo", "--protocol", protocol, "--endpoint", &endpoint, "--traces", "2", "--rate", "0"];
        let sent = run(&demo, Some(&writer));
        assert!(sent.status.success(), "{protocol}: {}", said(&sent));
        let refused = run(&demo, Some(&reader));
        assert!(!refused.status.success(), "{protocol}: {}", said(&refused));
    }
    // Debug output, help and errors hold no key.
    for output in [run(&["query", "--help"], Some(&reader)), refused] {
        assert!(!said(&output).contains(reader.secret()) && !said(&output).contains(writer.secret()));
    }
}
