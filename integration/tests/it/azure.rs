//! The whole way with blocks behind the protocol of Azure Blob Storage, spoken by Azurite; two writers; a compactor.

use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use ring::hmac;
use tempfile::TempDir;

use crate::{
    s3::the_whole_way,
    server::{Server, Settings, skipped, until},
    spans::{TimeRange, request, trace_spans},
};

/// Names `main.js` of Azurite's blob service, installed from `integration/clients/azurite`.
const AZURITE: &str = "SOSTENUTO_AZURITE";
const ACCOUNT: &str = "tracesaccount";
const KEY: &[u8] = b"a key that only this test knows.";
const CONTAINER: &str = "traces-test";
const RUN: u64 = 31;
const SPANS: u64 = 5;
/// Flushes of each of two writers at the same time.
const ROUNDS: u64 = 8;

/// Runs where Azurite is installed, as `.ci/run` does.
#[tokio::test]
async fn blocks_live_in_azure() {
    let Some(program) = azurite() else {
        skipped(format_args!("blocks_live_in_azure: no {AZURITE} is set"));
        return;
    };
    let folder = TempDir::new().unwrap();
    let azurite = Azurite::start(&program).await;

    // The container is not there: the probe says so before a span is taken.
    let settings = azurite.settings(&folder.path().join("early"));
    let said = crate::server::Starting::spawn(&settings).fails().await;
    assert!(said.contains("ContainerNotFound"), "{said}");
    azurite.make_container().await;

    let settings = azurite.settings(folder.path());
    let known = the_whole_way(folder.path(), settings.clone()).await;

    // Two processes commit to one table: of two creates of the same version one is refused, and comes again.
    let range = TimeRange::lately();
    // The spans from before are older by what that took.
    let all = TimeRange { start_s: range.start_s - 3_600, ..range };
    let writers = [folder.path().join("first"), folder.path().join("second")].map(|data| settings.on(&data));
    let (first, second) = tokio::join!(Server::start(&writers[0]), Server::start(&writers[1]));
    for round in 0..ROUNDS {
        for (writer, server) in [&first, &second].into_iter().enumerate() {
            let spans = trace_spans(RUN, 2 * round + writer as u64, 0..SPANS, range);
            server.client.push(request("shop", spans)).await;
        }
        let reports = tokio::join!(first.client.flush(), second.client.flush());
        for report in [reports.0, reports.1] {
            assert_eq!((&report["spans"], &report["commits"]), (&SPANS.into(), &1.into()), "{report}");
        }
    }
    let known = known + 2 * ROUNDS * SPANS;
    until("both see all commits", async || {
        first.client.count("{ }", all).await == known && second.client.count("{ }", all).await == known
    })
    .await;
    first.kill();
    second.kill();

    // Merged, the same is there, and what was merged is deleted.
    let merging = writers[0]
        .clone()
        .with("compactor.interval", "100ms")
        .with("compactor.min_input_blocks", 2)
        .with("compactor.sweep_interval", "100ms");
    let server = Server::start(&merging).await;
    until("blocks are merged", async || {
        server.client.metric("sostenuto_compactor_compactions_total").await > 0.0
            && server.client.metric("sostenuto_compactor_blocks_due").await == 0.0
    })
    .await;
    assert_eq!(server.client.count("{ }", all).await, known);
    assert!(server.stop().await.success());
}

fn azurite() -> Option<PathBuf> {
    let named = PathBuf::from(env::var_os(AZURITE)?);
    assert!(named.is_file(), "{AZURITE} names {}, which is no file", named.display());
    Some(named)
}

struct Azurite {
    child: Child,
    address: SocketAddr,
}

impl Azurite {
    async fn start(program: &Path) -> Self {
        // It does not say which port the system chose, so we choose one that was free just now.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new("node")
            .arg(program)
            .args(["--blobHost", "127.0.0.1", "--blobPort", &address.port().to_string()])
            .args(["--inMemoryPersistence", "--silent", "--disableTelemetry", "--skipApiVersionCheck"])
            .env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{}", BASE64_STANDARD.encode(KEY)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let azurite = Self { child, address };
        until("Azurite listens", async || tokio::net::TcpStream::connect(address).await.is_ok()).await;
        azurite
    }

    /// Blocks in its container.
    fn settings(&self, folder: &Path) -> Settings {
        Settings::new(folder)
            .with_environment("AZURITE_BLOB_STORAGE_URL", format!("http://{}", self.address))
            .with("storage.backend", "azure")
            .with("storage.azure.use_emulator", true)
            .with("storage.azure.storage_account_name", ACCOUNT)
            .with("storage.azure.storage_account_key", BASE64_STANDARD.encode(KEY))
            .with("storage.azure.container_name", CONTAINER)
            .with("storage.azure.prefix", "some/prefix")
    }

    /// With a signature as Azure's documentation of shared keys describes it.
    async fn make_container(&self) {
        // Azurite does not compare it with its clock.
        let (date, version) = ("Sat, 21 Nov 2026 07:28:20 GMT", "2021-08-06");
        let signed = format!(
            "PUT{}x-ms-date:{date}\nx-ms-version:{version}\n/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container",
            "\n".repeat(12)
        );
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, KEY), signed.as_bytes());
        let http = reqwest::Client::builder().no_proxy().tls_built_in_root_certs(false).build().unwrap();
        let answer = http
            .put(format!("http://{}/{ACCOUNT}/{CONTAINER}?restype=container", self.address))
            .header("x-ms-date", date)
            .header("x-ms-version", version)
            .header("authorization", format!("SharedKey {ACCOUNT}:{}", BASE64_STANDARD.encode(signature)))
            .header("content-length", 0)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
