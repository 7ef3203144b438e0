//! What holds for single tenants, kept up to date with its file and with the documents that tenants have in the store.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use api::CurrentReadLimits;
use arc_swap::ArcSwap;
use compactor::Compactor;
use distributor::Distributor;
use follow::{FollowError, Followed, Source};
use model::TenantId;
use storage::{Storage, StorageError, TenantDocument};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Effective, OVERRIDES_BYTES_MAX, TenantOverrides};

/// A handle; clones share everything.
#[derive(Clone)]
pub struct Limits(Arc<Inner>);

struct Inner {
    config: Config,
    fixed: Arc<Effective>,
    file: Option<Followed<Effective>>,
    /// Where tenants' documents are; `None` is off.
    store: Option<Storage>,
    documents: Mutex<BTreeMap<TenantId, Document>>,
    combined: ArcSwap<Effective>,
    /// Whom limits are for, once they are there.
    limited: Mutex<Option<Limited>>,
    failures: AtomicU64,
}

/// A tenant's document as it was read last.
struct Document {
    version: u64,
    /// `None`: deleted, or not readable.
    entry: Option<TenantOverrides>,
}

/// Whom limits are for.
#[derive(Clone)]
pub struct Limited {
    pub distributor: Distributor,
    pub compactor: Compactor,
    pub reads: CurrentReadLimits,
}

/// What holds with the file.
///
/// # Errors
/// Says what is wrong with it.
pub fn file(config: &Config, path: PathBuf) -> Result<Followed<Effective>, FollowError> {
    let source = Source { name: "the overrides", files: vec![path], bytes_max: OVERRIDES_BYTES_MAX };
    let config = config.clone();
    Followed::open(source, move |files| config.limits_of_file(&files[0]))
}

impl Limits {
    /// # Errors
    /// Says what is wrong with the configuration or the file, or that the store cannot be read.
    pub async fn open(config: &Config, storage: &Storage) -> anyhow::Result<Self> {
        let fixed = Arc::new(config.limits()?);
        let file = config.overrides.per_tenant_override_config.clone().map(|path| file(config, path)).transpose()?;
        let combined = ArcSwap::new(file.as_ref().map_or_else(|| fixed.clone(), Followed::current));
        let store = config.overrides.user_configurable_overrides.enabled.then(|| storage.clone());
        let (documents, limited, failures) = (Mutex::default(), Mutex::default(), AtomicU64::new(0));
        let limits = Self(Arc::new(Inner { config: config.clone(), fixed, file, store, documents, combined, limited, failures }));
        limits.look().await?;
        Ok(limits)
    }

    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Where tenants' documents are.
    pub fn store(&self) -> Option<&Storage> {
        self.0.store.as_ref()
    }

    /// What holds, all sources together.
    pub fn current(&self) -> Arc<Effective> {
        self.0.combined.load_full()
    }

    /// ... without tenants' documents.
    pub fn base(&self) -> Arc<Effective> {
        self.0.file.as_ref().map_or_else(|| self.0.fixed.clone(), Followed::current)
    }

    /// How often a changed file came in force, and how often it could not be used; `None` without one.
    pub fn counts(&self) -> Option<(u64, u64)> {
        self.0.file.as_ref().map(|file| (file.reloads(), file.failures()))
    }

    /// How often tenants' documents could not be read.
    pub fn document_failures(&self) -> u64 {
        self.0.failures.load(Relaxed)
    }

    /// From now on these get the limits, first those that hold now.
    pub fn bind(&self, limited: Limited) {
        limited.take(&self.current());
        *self.0.limited.lock().unwrap_or_else(PoisonError::into_inner) = Some(limited);
    }

    /// Puts changes in force until `shutdown`.
    pub async fn follow(self, shutdown: CancellationToken) {
        let period = self.0.config.overrides.per_tenant_override_period.0;
        let poll = self.0.config.overrides.user_configurable_overrides.poll_interval.0;
        let file = async {
            if let Some(file) = &self.0.file {
                file.clone().follow(period, shutdown.clone(), |_| self.combine()).await;
            }
        };
        let documents = async {
            if self.0.store.is_some() {
                self.poll(poll, &shutdown).await;
            }
        };
        tokio::join!(file, documents);
    }

    async fn poll(&self, interval: Duration, shutdown: &CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(interval) => {}
            }
            if let Err(error) = self.look().await {
                self.0.failures.fetch_add(1, Relaxed);
                tracing::warn!(error = &error as &dyn std::error::Error, "tenants' overrides could not be read; those read last hold");
            }
        }
    }

    /// Reads what changed in the store.
    async fn look(&self) -> Result<(), StorageError> {
        let Some(store) = &self.0.store else { return Ok(()) };
        let mut changed = false;
        for (tenant, version) in store.overrides_versions().await? {
            let known = self.documents().get(&tenant).is_some_and(|document| document.version >= version);
            if !known && let Some(document) = store.overrides(&tenant).await? {
                changed |= self.know(&tenant, document);
            }
        }
        if changed {
            self.combine();
        }
        Ok(())
    }

    /// A tenant's document was written here or read: it holds at once.
    pub fn learn(&self, tenant: &TenantId, document: TenantDocument) {
        if self.know(tenant, document) {
            self.combine();
        }
    }

    /// False if a newer one is known.
    fn know(&self, tenant: &TenantId, TenantDocument { version, body }: TenantDocument) -> bool {
        let read = |body: bytes::Bytes| match serde_json::from_slice(&body) {
            Ok(entry) => Some(entry),
            Err(error) => {
                self.0.failures.fetch_add(1, Relaxed);
                tracing::warn!(%tenant, version, %error, "a tenant's overrides cannot be read, and do not hold");
                None
            }
        };
        let mut documents = self.documents();
        if documents.get(tenant).is_some_and(|known| known.version >= version) {
            return false;
        }
        documents.insert(tenant.clone(), Document { version, entry: body.and_then(read) });
        true
    }

    fn documents(&self) -> std::sync::MutexGuard<'_, BTreeMap<TenantId, Document>> {
        self.0.documents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lays the documents over the rest, and puts that in force. One that cannot be meant any more is left out.
    fn combine(&self) {
        let (config, base) = (&self.0.config, self.base());
        let entry = |(tenant, document): (&TenantId, &Document)| Some((tenant.to_string(), document.entry.clone()?));
        let entries: BTreeMap<String, TenantOverrides> = self.documents().iter().filter_map(entry).collect();
        let combined = config.limits_over(&base, &entries).unwrap_or_else(|_| {
            let mut combined = (*base).clone();
            for (tenant, entry) in entries {
                match config.limits_over(&combined, &BTreeMap::from([(tenant.clone(), entry)])) {
                    Ok(with) => combined = with,
                    Err(invalid) => tracing::warn!(%tenant, %invalid, "a tenant's overrides do not hold"),
                }
            }
            combined
        });
        let combined = Arc::new(combined);
        self.0.combined.store(combined.clone());
        if let Some(limited) = &*self.0.limited.lock().unwrap_or_else(PoisonError::into_inner) {
            limited.take(&combined);
        }
    }
}

impl Limited {
    fn take(&self, effective: &Effective) {
        self.distributor.set_rates(effective.rates.clone());
        self.compactor.set_retentions(effective.retentions.clone());
        self.reads.set(effective.reads.clone());
    }
}
