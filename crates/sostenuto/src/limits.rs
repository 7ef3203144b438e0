//! What holds for single tenants, kept up to date with its file.

use std::{sync::Arc, time::Duration};

use api::CurrentReadLimits;
use compactor::Compactor;
use distributor::Distributor;
use follow::{Followed, Source};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Effective, OVERRIDES_BYTES_MAX};

#[derive(Clone)]
pub struct Limits {
    fixed: Arc<Effective>,
    file: Option<Followed<Effective>>,
    period: Duration,
}

/// Whom limits are for.
#[derive(Clone)]
pub struct Limited {
    pub distributor: Distributor,
    pub compactor: Compactor,
    pub reads: CurrentReadLimits,
}

impl Limits {
    /// # Errors
    /// Says what is wrong with the configuration or the file.
    pub fn open(config: &Config) -> anyhow::Result<Self> {
        let fixed = Arc::new(config.limits()?);
        let file = match config.overrides.per_tenant_override_config.clone() {
            Some(path) => {
                let source = Source { name: "the overrides", files: vec![path], bytes_max: OVERRIDES_BYTES_MAX };
                let config = config.clone();
                Some(Followed::open(source, move |files| config.limits_of_file(&files[0]))?)
            }
            None => None,
        };
        Ok(Self { fixed, file, period: config.overrides.per_tenant_override_period.0 })
    }

    pub fn current(&self) -> Arc<Effective> {
        self.file.as_ref().map_or_else(|| self.fixed.clone(), Followed::current)
    }

    /// How often a changed file came in force, and how often it could not be used; `None` without one.
    pub fn counts(&self) -> Option<(u64, u64)> {
        self.file.as_ref().map(|file| (file.reloads(), file.failures()))
    }

    /// Puts changes in force until `shutdown`.
    pub async fn follow(self, limited: Limited, shutdown: CancellationToken) {
        if let Some(file) = self.file {
            file.follow(self.period, shutdown, |effective| limited.take(effective)).await;
        }
    }
}

impl Limited {
    pub fn take(&self, effective: &Effective) {
        self.distributor.set_rates(effective.rates.clone());
        self.compactor.set_retentions(effective.retentions.clone());
        self.reads.set(effective.reads.clone());
    }
}
