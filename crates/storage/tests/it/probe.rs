//! A store that cannot keep our promises is refused at start, with a reason.

use std::sync::Arc;

use object_store::{ObjectStore, memory::InMemory};
use storage::{Backend, ClientConfig, LocalConfig, S3Config, Storage, StorageConfig, StorageError};
use tempfile::TempDir;

use crate::{
    faulty::{FaultyStore, Request, Verdict},
    fixture::{Place, s3_config, serve_s3, storage_over},
};

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
    let store: Arc<dyn ObjectStore> = FaultyStore::new(Arc::new(InMemory::new()), |_, _| Verdict::IgnoreCreate);
    let error = storage_over(&store).await.probe().await.unwrap_err();
    assert!(matches!(error, StorageError::Unfit(_)));
    assert!(error.to_string().contains("two creates"), "{error}");
}

#[tokio::test]
async fn a_create_whose_answer_was_lost_does_not_fail_the_probe() {
    let mut first = true;
    let store: Arc<dyn ObjectStore> = FaultyStore::new(Arc::new(InMemory::new()), move |request, _| {
        if request == Request::Put && std::mem::take(&mut first) { Verdict::ExistsAfter } else { Verdict::Pass }
    });
    storage_over(&store).await.probe().await.unwrap();
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
