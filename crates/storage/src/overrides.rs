//! What tenants' limits were set to while programs run: a small document for each tenant, in versions.
//!
//! A version is an object that is created once and never changed; the newest counts. So of two writers who saw the same
//! version one wins, in every store that blocks can be kept in. An empty document is a deleted one: numbers are not used
//! again. Versions before the last but one are deleted.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{TryStreamExt, future::BoxFuture};
use model::TenantId;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode};

use crate::{
    error::{Result, StorageError},
    storage::Storage,
};

/// A newer version may take the place of the one that was listed; so often it is looked for again.
const READS_MAX: usize = 3;

/// A tenant's document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantDocument {
    /// From 1.
    pub version: u64,
    /// `None`: it was deleted.
    pub body: Option<Bytes>,
}

impl Storage {
    /// The newest version of each tenant's document, of deleted ones too. One LIST.
    pub fn overrides_versions(&self) -> BoxFuture<'_, Result<BTreeMap<TenantId, u64>>> {
        Box::pin(async move {
            let folder = self.keys().all_overrides();
            let mut listed = self.object_store().list(Some(&folder));
            let mut newest = BTreeMap::new();
            while let Some(object) = listed.try_next().await.map_err(|e| StorageError::store("list", &folder, e))? {
                if let Some((tenant, version)) = self.keys().overrides_version(&object.location) {
                    let known: &mut u64 = newest.entry(tenant).or_default();
                    *known = version.max(*known);
                }
            }
            Ok(newest)
        })
    }

    /// The newest version; `None` if there never was one. A LIST and a GET.
    pub fn overrides<'a>(&'a self, tenant: &'a TenantId) -> BoxFuture<'a, Result<Option<TenantDocument>>> {
        Box::pin(async move {
            for _ in 0..READS_MAX {
                let Some(version) = self.versions(tenant).await?.last().copied() else { return Ok(None) };
                if let Some(body) = self.read_overrides(tenant, version).await? {
                    return Ok(Some(TenantDocument { version, body: Some(body).filter(|body| !body.is_empty()) }));
                }
            }
            let key = self.keys().overrides(tenant);
            Err(StorageError::store("read", &key, Error::Generic { store: "overrides", source: "it changes all the time".into() }))
        })
    }

    /// Writes the version after `before`, which is 0 if there is none; an empty document deletes. The number of the version,
    /// or `None` if somebody else wrote it first.
    pub fn put_overrides<'a>(&'a self, tenant: &'a TenantId, before: u64, body: Bytes) -> BoxFuture<'a, Result<Option<u64>>> {
        Box::pin(async move {
            let versions = self.versions(tenant).await?;
            let version = before.saturating_add(1);
            if versions.last().copied().unwrap_or(0) != before {
                return Ok(None);
            }
            let (store, key) = (self.object_store(), self.keys().overrides_of(tenant, version));
            match store.put_opts(&key, body.clone().into(), PutMode::Create.into()).await {
                Ok(_) => {}
                // Perhaps our own create, which the client repeated after a lost answer.
                Err(Error::AlreadyExists { .. }) if self.read_overrides(tenant, version).await?.as_ref() == Some(&body) => {}
                Err(Error::AlreadyExists { .. }) => return Ok(None),
                Err(e) => return Err(StorageError::store("write", &key, e)),
            }
            for old in versions.into_iter().filter(|old| *old < before) {
                let key = self.keys().overrides_of(tenant, old);
                match store.delete(&key).await {
                    Ok(()) | Err(Error::NotFound { .. }) => {}
                    Err(error) => tracing::warn!(%key, %error, "an old version of a tenant's overrides could not be deleted"),
                }
            }
            Ok(Some(version))
        })
    }

    /// Ascending.
    async fn versions(&self, tenant: &TenantId) -> Result<Vec<u64>> {
        let folder = self.keys().overrides(tenant);
        let listed: Vec<_> =
            self.object_store().list(Some(&folder)).try_collect().await.map_err(|e| StorageError::store("list", &folder, e))?;
        let mut versions: Vec<u64> =
            listed.iter().filter_map(|object| Some(self.keys().overrides_version(&object.location)?.1)).collect();
        versions.sort_unstable();
        Ok(versions)
    }

    async fn read_overrides(&self, tenant: &TenantId, version: u64) -> Result<Option<Bytes>> {
        let key = self.keys().overrides_of(tenant, version);
        let store = self.object_store();
        let read = async { store.get(&key).await?.bytes().await };
        match read.await {
            Ok(body) => Ok(Some(body)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(StorageError::store("read", &key, e)),
        }
    }
}
