//! What holds for single tenants: in the configuration, and in a file that is read again when it changes.
//!
//! What a tenant's entry in the file does not name is as in its entry here, and what that does not name as in the
//! defaults. Nothing that is left out becomes 0.

use std::{collections::BTreeMap, num::NonZeroU64, path::PathBuf};

use api::{ReadLimits, TenantReadLimits};
use compactor::Retentions;
use distributor::{Rate, Rates};
use model::TenantId;
use serde::{Deserialize, Serialize};

use super::{Config, GoDuration, IngestionLimits, RetentionRules, Size, invalid::Invalid, load, retention};

/// Of one file: some 300 bytes per tenant.
pub const FILE_BYTES_MAX: u64 = 16 << 20;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Overrides {
    /// What holds for every tenant.
    pub defaults: Limits,
    /// By tenant: what holds for it instead.
    pub per_tenant: BTreeMap<String, TenantOverrides>,
    /// A file with more of them, `overrides: {<tenant>: ...}`, which is read again when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_tenant_override_config: Option<PathBuf>,
    /// How often that file is looked at.
    pub per_tenant_override_period: GoDuration,
}

impl Default for Overrides {
    fn default() -> Self {
        Self {
            defaults: Limits::default(),
            per_tenant: BTreeMap::new(),
            per_tenant_override_config: None,
            per_tenant_override_period: GoDuration::from_millis(10_000),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub ingestion: IngestionLimits,
    pub retention: RetentionRules,
}

/// What holds for one tenant instead of the defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TenantOverrides {
    #[serde(skip_serializing_if = "TenantIngestion::is_empty")]
    pub ingestion: TenantIngestion,
    #[serde(skip_serializing_if = "TenantRead::is_empty")]
    pub read: TenantRead,
    /// All of it: rules are not mixed with the default ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionRules>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TenantIngestion {
    /// Bytes of request each second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit_bytes: Option<Size>,
    /// The most at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst_size_bytes: Option<Size>,
}

/// As under `query_frontend`, for the queries of one tenant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TenantRead {
    /// Instead of `max_concurrent_queries_per_tenant`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent_queries: Option<usize>,
    /// 0 is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes_per_query: Option<Size>,
    /// 0 is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_memory_per_query: Option<Size>,
}

impl TenantIngestion {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl TenantRead {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    overrides: BTreeMap<String, TenantOverrides>,
}

/// What holds for whom, all sources together.
#[derive(Clone, Debug)]
pub struct Effective {
    pub rates: Rates,
    pub reads: TenantReadLimits,
    pub retentions: Retentions,
    /// The entries, for people.
    tenants: BTreeMap<String, TenantOverrides>,
    defaults: Limits,
}

impl TenantOverrides {
    /// With what `over` names in place of what stands here.
    fn under(&self, over: &Self) -> Self {
        let (ingestion, read) = (&over.ingestion, &over.read);
        Self {
            ingestion: TenantIngestion {
                rate_limit_bytes: ingestion.rate_limit_bytes.or(self.ingestion.rate_limit_bytes),
                burst_size_bytes: ingestion.burst_size_bytes.or(self.ingestion.burst_size_bytes),
            },
            read: TenantRead {
                max_concurrent_queries: read.max_concurrent_queries.or(self.read.max_concurrent_queries),
                max_bytes_per_query: read.max_bytes_per_query.or(self.read.max_bytes_per_query),
                max_memory_per_query: read.max_memory_per_query.or(self.read.max_memory_per_query),
            },
            retention: over.retention.clone().or_else(|| self.retention.clone()),
        }
    }
}

impl Config {
    /// What holds without the file.
    ///
    /// # Errors
    /// Says which entry cannot be meant, and why.
    pub fn limits(&self) -> Result<Effective, Invalid> {
        self.limits_with(&BTreeMap::new())
    }

    /// What holds with this text in the file.
    ///
    /// # Errors
    /// Says where it is wrong, and what to write instead.
    pub fn limits_of_file(&self, text: &[u8]) -> Result<Effective, String> {
        let text = std::str::from_utf8(text).map_err(|_| "the file is not UTF-8")?;
        let file: Option<File> = load::read(text).map_err(|wrong| wrong.to_string())?;
        self.limits_with(&file.unwrap_or_default().overrides).map_err(|invalid| invalid.to_string())
    }

    fn limits_with(&self, file: &BTreeMap<String, TenantOverrides>) -> Result<Effective, Invalid> {
        let mut tenants = self.overrides.per_tenant.clone();
        for (name, over) in file {
            let entry = tenants.entry(name.clone()).or_default();
            *entry = entry.under(over);
        }
        let defaults = self.overrides.defaults.clone();
        let default = rate(defaults.ingestion.rate_limit_bytes, defaults.ingestion.burst_size_bytes);
        let mut rates = Rates { default, tenants: BTreeMap::new() };
        let mut reads = TenantReadLimits::default();
        let default = retention::rules("overrides.defaults.retention", None, &defaults.retention)?;
        let mut retentions = Retentions { default, tenants: BTreeMap::new() };
        for (name, entry) in &tenants {
            let key = "overrides.per_tenant";
            let fail = |message: String| Invalid { key, message };
            let tenant = TenantId::parse(name).map_err(|error| fail(format!("{name:?} cannot be a tenant: {error}")))?;
            let TenantOverrides { ingestion, read, retention } = entry;
            for size in [ingestion.rate_limit_bytes, ingestion.burst_size_bytes].into_iter().flatten() {
                if size.0 == 0 {
                    return Err(fail(format!("{name}: rate_limit_bytes and burst_size_bytes must be more than 0")));
                }
            }
            if read.max_concurrent_queries == Some(0) {
                return Err(fail(format!("{name}: max_concurrent_queries must be at least 1")));
            }
            if !ingestion.is_empty() {
                let of = rate(
                    ingestion.rate_limit_bytes.unwrap_or(defaults.ingestion.rate_limit_bytes),
                    ingestion.burst_size_bytes.unwrap_or(defaults.ingestion.burst_size_bytes),
                );
                rates.tenants.insert(tenant.clone(), of);
            }
            if !read.is_empty() {
                let no_limit_if_zero = |size: Size| if size.0 == 0 { u64::MAX } else { size.0 };
                let limits = ReadLimits {
                    queries_max: read.max_concurrent_queries,
                    read_bytes_max: read.max_bytes_per_query.map(no_limit_if_zero),
                    memory_bytes_max: read.max_memory_per_query.map(no_limit_if_zero),
                };
                reads.insert(tenant.clone(), limits);
            }
            if let Some(rules) = retention {
                retentions.tenants.insert(tenant, retention::rules(key, Some(name), rules)?);
            }
        }
        Ok(Effective { rates, reads, retentions, tenants, defaults })
    }
}

fn rate(rate: Size, burst: Size) -> Rate {
    let some = |size: Size| NonZeroU64::new(size.0).unwrap_or(NonZeroU64::MIN);
    Rate { limit_bytes: some(rate), burst_bytes: some(burst) }
}

impl Effective {
    /// The entries of all tenants that have any, as the file has them.
    pub fn page(&self) -> String {
        #[derive(Serialize)]
        struct Page<'p> {
            defaults: &'p Limits,
            overrides: &'p BTreeMap<String, TenantOverrides>,
        }
        yaml(&Page { defaults: &self.defaults, overrides: &self.tenants })
    }

    /// What holds for one tenant, whether it has an entry or not.
    pub fn page_of(&self, tenant: &str) -> String {
        #[derive(Serialize)]
        struct Page<'p> {
            ingestion: IngestionLimits,
            #[serde(skip_serializing_if = "TenantRead::is_empty")]
            read: TenantRead,
            retention: &'p RetentionRules,
        }
        let entry = self.tenants.get(tenant).cloned().unwrap_or_default();
        let defaults = &self.defaults.ingestion;
        let ingestion = IngestionLimits {
            rate_limit_bytes: entry.ingestion.rate_limit_bytes.unwrap_or(defaults.rate_limit_bytes),
            burst_size_bytes: entry.ingestion.burst_size_bytes.unwrap_or(defaults.burst_size_bytes),
            max_attribute_bytes: defaults.max_attribute_bytes,
        };
        let retention = entry.retention.as_ref().unwrap_or(&self.defaults.retention);
        yaml(&Page { ingestion, read: entry.read.clone(), retention })
    }
}

fn yaml(page: &impl Serialize) -> String {
    serde_saphyr::to_string(page).expect("a tree of plain values serializes")
}
