//! A store that cannot keep our promises is refused at start, with a reason.

use std::sync::Arc;

use object_store::{ObjectStore, memory::InMemory};
use storage::{Backend, ClientConfig, LocalConfig, S3Config, Storage, StorageConfig, StorageError};
use tempfile::TempDir;
use test_stores::{Fault, Kind, TestStore};

use crate::fixture::{Place, s3_config, serve_s3, storage_over};

#[tokio::test]
async fn good_stores_pass_and_nothing_stays_behind() {
    for place in Place::all().await {
        let storage = place.open().await;
        storage.probe().await.unwrap();
        let left = storage.object_store().list_with_delimiter(None).await.unwrap();
        assert_eq!(left.objects, [], "{}", place.name());
    }
}

#[tokio::test]
async fn a_store_that_overwrites_on_create_is_refused() {
    let store: Arc<dyn ObjectStore> = TestStore::with_rule(Arc::new(InMemory::new()), |_| Fault::Overwrite);
    let error = storage_over(&store).await.probe().await.unwrap_err();
    assert!(matches!(error, StorageError::Unfit(_)));
    assert!(error.to_string().contains("two creates"), "{error}");
}

#[tokio::test]
async fn a_create_whose_answer_was_lost_does_not_fail_the_probe() {
    let mut first = true;
    let store: Arc<dyn ObjectStore> = TestStore::with_rule(Arc::new(InMemory::new()), move |asked| {
        if asked.kind == Kind::Put && std::mem::take(&mut first) { Fault::Exists } else { Fault::None }
    });
    storage_over(&store).await.probe().await.unwrap();
}

#[tokio::test]
async fn a_store_that_shows_what_was_deleted_is_refused() {
    let lying = TestStore::with_rule(InMemory::new(), |asked| if asked.kind == Kind::Delete { Fault::Lost } else { Fault::None });
    let store: Arc<dyn ObjectStore> = lying;
    let error = storage_over(&store).await.probe().await.unwrap_err();
    assert!(error.to_string().contains("was deleted and can still be read"), "{error}");
}

#[tokio::test]
async fn a_store_whose_ranges_or_listings_are_wrong_is_refused() {
    for (fault, kind, said) in [(Fault::Short, Kind::Get, "are not what was written"), (Fault::Hidden, Kind::List, "listing does not show")] {
        let mut reads = 0;
        let lying = TestStore::with_rule(InMemory::new(), move |asked| {
            reads += usize::from(asked.kind == Kind::Get);
            // The first read is of the whole object.
            if asked.kind == kind && reads > 1 { fault } else { Fault::None }
        });
        let store: Arc<dyn ObjectStore> = lying;
        let error = storage_over(&store).await.probe().await.unwrap_err();
        assert!(matches!(error, StorageError::Unfit(_)) && error.to_string().contains(said), "{error}");
    }
}

#[tokio::test]
async fn the_probe_can_be_left_out_and_then_nothing_is_asked() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    Storage::open(&StorageConfig { skip_probe: true, ..s3_config(closed) }).await.unwrap();
}

#[tokio::test]
async fn a_log_that_is_kept_too_briefly_is_refused() {
    let folder = TempDir::new().unwrap();
    let mut config = crate::fixture::local_config(&folder);
    config.table.log_kept_ms = 3_600_000;
    let error = Storage::open(&config).await.err().unwrap().to_string();
    assert!(error.contains("table.log_kept_ms is 3600000") && error.contains("a day"), "{error}");
}

#[tokio::test]
async fn wrong_keys_and_a_silent_endpoint_are_told_as_such() {
    let bucket = TempDir::new().unwrap();
    let address = serve_s3(&bucket).await;
    let quick = ClientConfig { retries_max: 0, ..ClientConfig::default() };
    let good = StorageConfig { client: quick, ..s3_config(address) };
    Storage::open(&good).await.unwrap();
    let wrong_key = S3Config { secret_key: Some("not the secret".to_owned().into()), ..good.s3.clone() };
    let wrong_name = S3Config { access_key: Some("someone".into()), ..good.s3.clone() };
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = S3Config { endpoint: closed.to_string(), ..good.s3.clone() };
    for (case, s3) in [("key", wrong_key), ("name", wrong_name), ("endpoint", silent)] {
        let error = Storage::open(&StorageConfig { s3, ..good.clone() }).await.err().expect(case);
        let text = error.to_string();
        assert!(matches!(error, StorageError::Unfit(_)), "{text}");
        assert!(text.contains("credentials") && !text.contains("not the secret"), "{text}");
    }
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_named() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let local = LocalConfig { path: folder.path().join("file/below") };
    let half = S3Config { bucket: "b".into(), access_key: Some("a".into()), ..S3Config::default() };
    let cases = [
        (StorageConfig { local, ..StorageConfig::default() }, "local.path"),
        (StorageConfig { backend: Backend::S3, ..StorageConfig::default() }, "s3.bucket"),
        (StorageConfig { backend: Backend::S3, s3: half, ..StorageConfig::default() }, "s3.secret_key"),
        (StorageConfig { backend: Backend::Gcs, ..StorageConfig::default() }, "gcs.bucket_name"),
        (StorageConfig { backend: Backend::Azure, ..StorageConfig::default() }, "azure.container_name"),
    ];
    for (config, key) in cases {
        let error = Storage::open(&config).await.err().unwrap();
        assert!(matches!(error, StorageError::Config(_)), "{error:?}");
        assert!(error.to_string().contains(key), "{error}");
    }
}
