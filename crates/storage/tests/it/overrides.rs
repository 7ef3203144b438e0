//! Documents of tenants: versions that are written once, by one of several writers.

use std::sync::Arc;

use bytes::Bytes;
use model::TenantId;
use object_store::{ObjectStore, memory::InMemory};

use crate::fixture::{storage_over, tenant};

#[tokio::test]
async fn a_document_has_versions_and_numbers_are_not_used_again() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (storage, tenant) = (storage_over(&store).await, tenant());
    let newest = async || storage.overrides(&tenant).await.unwrap().map(|document| (document.version, document.body));
    assert_eq!(newest().await, None);
    for (before, body) in [(0, "one"), (1, "two"), (2, ""), (3, "four")] {
        let body = Bytes::from(body);
        assert_eq!(storage.put_overrides(&tenant, before, body.clone()).await.unwrap(), Some(before + 1));
        assert_eq!(newest().await, Some((before + 1, Some(body).filter(|body| !body.is_empty()))));
    }
    for stale in [0, 2, 3, 9] {
        assert_eq!(storage.put_overrides(&tenant, stale, Bytes::from("other")).await.unwrap(), None, "{stale}");
    }
    let other = TenantId::parse("with*star").unwrap();
    storage.put_overrides(&other, 0, Bytes::from("x")).await.unwrap();
    assert_eq!(storage.overrides_versions().await.unwrap(), [(tenant.clone(), 4), (other, 1)].into());
    // The last but one may be read at this moment; older ones are gone.
    let left: Vec<_> = futures::TryStreamExt::try_collect(store.list(None)).await.unwrap();
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(storage.tenants().await.unwrap().is_empty(), "documents are no table");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_several_writers_wins() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let writers = (0..8).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            let storage = storage_over(&store).await;
            storage.put_overrides(&tenant(), 0, Bytes::from(format!("writer {writer}"))).await.unwrap().map(|_| writer)
        })
    });
    let won: Vec<_> = futures::future::join_all(writers).await.into_iter().filter_map(|writer| writer.unwrap()).collect();
    let [winner] = won.as_slice() else { panic!("{won:?}") };
    let document = storage_over(&store).await.overrides(&tenant()).await.unwrap().unwrap();
    assert_eq!((document.version, document.body), (1, Some(Bytes::from(format!("writer {winner}")))));
}
