//! Who a client is by its certificate, where that is configured: role and tenants from the subject.

use std::fs;

use rcgen::DnType::{self, CommonName, OrganizationName, OrganizationalUnitName};
use serde_json::json;
use tempfile::TempDir;

use super::{Key, authority::Authority, every_port, path, write_keys};
use crate::{
    client::{Access, Client},
    server::{Server, Settings},
    spans::{TimeRange, request, trace_spans},
};

struct World {
    folder: TempDir,
    ours: Authority,
    clients: Authority,
}

impl World {
    fn new() -> Self {
        let world = Self { folder: TempDir::new().unwrap(), ours: Authority::new("ours"), clients: Authority::new("clients") };
        world.ours.server().write(world.folder.path());
        fs::write(world.folder.path().join("clients.pem"), &world.clients.pem).unwrap();
        world
    }

    /// `shown`: whether clients must show a certificate, or may.
    fn settings(&self, shown: &str) -> Settings {
        let file = |name: &str| path(&self.folder.path().join(name));
        every_port(self.folder.path()).with("multitenancy_enabled", true).with("server.tls", json!({
            "cert_file": file("cert.pem"), "key_file": file("key.pem"),
            "client_ca_file": file("clients.pem"), "client_certificates": shown,
        }))
    }

    fn access(&self, subject: &[(DnType, &str)]) -> Access {
        let identity = self.clients.client_named(subject).identity();
        Access { authority: Some(self.ours.pem.clone()), identity: Some(identity), token: None }
    }

    fn client(&self, server: &Server, access: &Access) -> Client {
        Client::new(access, &server.address("api"), &server.address("otlp_http"), &server.address("otlp_grpc"))
    }
}

#[tokio::test]
async fn a_certificate_says_role_and_tenants() {
    let world = World::new();
    let keys = world.folder.path().join("keys.yaml");
    let key = Key::create(&["--role", "read", "--tenant", "b"]);
    write_keys(&keys, &[&key]);
    let collector = world.access(&[(OrganizationName, "a"), (OrganizationalUnitName, "collectors"), (CommonName, "collector-7")]);
    let settings = world.settings("optional")
        .with("authentication", json!({
            "client_certificates": { "roles": { "collectors": "write", "people": "read" } }, "keys_file": path(&keys),
        }))
        .with("audit", json!({ "output": "file", "path": path(&world.folder.path().join("audit.log")) }))
        .reached_by(collector.clone());
    // What says whether the server works needs no right.
    let server = Server::start(&settings).await;
    let range = TimeRange::lately();
    let body = || request("shop", trace_spans(71, 1, 0..3, range));
    server.client.push(body()).await;
    assert_eq!(server.client.call("", &body()).await.headers.get("grpc-status"), None);
    assert_eq!(server.client.get("/api/search", &[]).await.0, 403, "a collector does not read");
    assert_eq!(server.client.of("b").post("application/x-protobuf", "", body()).await.status, 403, "nor writes for others");

    let person = world.client(&server, &world.access(&[(OrganizationName, "a"), (OrganizationalUnitName, "people"), (CommonName, "anna")]));
    assert_eq!(person.count("{ }", range).await, 3);
    assert_eq!(person.of("a").count("{ }", range).await, 3);
    assert_eq!(person.of("b").get("/api/search", &[]).await.0, 403);
    assert_eq!(person.of("a|b").get("/api/search", &[]).await.0, 403);
    assert_eq!(person.post("application/x-protobuf", "", body()).await.status, 403);
    assert_eq!(person.get("/metrics", &[]).await.0, 403);
    for (what, subject, status) in [
        ("no role", vec![(OrganizationName, "a")], 403),
        ("a role that is not listed", vec![(OrganizationName, "a"), (OrganizationalUnitName, "admin")], 403),
        ("no tenant", vec![(OrganizationalUnitName, "people")], 401),
        ("every tenant", vec![(OrganizationName, "*"), (OrganizationalUnitName, "people")], 401),
        ("a tenant that is none", vec![(OrganizationName, "../a"), (OrganizationalUnitName, "people")], 401),
        ("the words in other places", vec![(OrganizationName, "people"), (OrganizationalUnitName, "a"), (CommonName, "people")], 403),
    ] {
        let client = world.client(&server, &world.access(&subject));
        assert_eq!(client.get("/api/search", &[]).await.0, status, "{what}");
        assert_eq!(client.get("/ready", &[]).await.0, 200, "{what}");
    }
    let nobody = world.client(&server, &Access { authority: Some(world.ours.pem.clone()), ..Access::default() });
    assert_eq!(nobody.get("/api/search", &[]).await.0, 401, "no certificate");
    // A key that is shown decides alone, for better and for worse.
    assert_eq!(person.showing(&key.key).of("b").get("/api/search", &[]).await.0, 200);
    assert_eq!(person.showing(&key.key).of("a").get("/api/search", &[]).await.0, 403);
    assert_eq!(person.showing("sos_wrong_key").get("/api/search", &[]).await.0, 401);
    assert!(server.stop().await.success());
    let audit = fs::read_to_string(world.folder.path().join("audit.log")).unwrap();
    assert!(audit.lines().any(|line| line.contains("\"who\":\"anna\"") && line.contains("\"by\":\"certificate\"")), "{audit}");
}

#[tokio::test]
async fn without_that_setting_a_certificate_is_nobody() {
    let world = World::new();
    let keys = world.folder.path().join("keys.yaml");
    write_keys(&keys, &[&Key::create(&["--role", "read", "--tenant", "a"])]);
    let admin = world.access(&[(OrganizationName, "a"), (OrganizationalUnitName, "admin"), (CommonName, "root")]);
    let settings = world.settings("required").with("authentication.keys_file", path(&keys)).reached_by(admin);
    let server = Server::start(&settings).await;
    assert_eq!(server.client.get("/api/search", &[]).await.0, 401);
    assert_eq!(server.client.get("/status/config", &[]).await.0, 401);
}
