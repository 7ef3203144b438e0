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
    pub user_configurable_overrides: UserConfigurable,
}

/// Limits that are changed over `/api/overrides`, kept in the object store, over those of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UserConfigurable {
    pub enabled: bool,
    /// How often changes of other processes are looked for. One LIST each time.
    pub poll_interval: GoDuration,
    pub api: UserApi,
}

impl Default for UserConfigurable {
    fn default() -> Self {
        Self { enabled: false, poll_interval: GoDuration::from_millis(60_000), api: UserApi::default() }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UserApi {
    /// Refuse what changes a limit that `per_tenant` or its file sets for the tenant.
    pub check_for_conflicting_runtime_overrides: bool,
}

impl Default for Overrides {
    fn default() -> Self {
        Self {
            defaults: Limits::default(),
            per_tenant: BTreeMap::new(),
            per_tenant_override_config: None,
            per_tenant_override_period: GoDuration::from_millis(10_000),
            user_configurable_overrides: UserConfigurable::default(),
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

impl TenantOverrides {
    /// A limit that both set.
    pub fn conflict(&self, other: &Self) -> Option<&'static str> {
        let (ingestion, read) = ((&self.ingestion, &other.ingestion), (&self.read, &other.read));
        [
            ("ingestion.rate_limit_bytes", ingestion.0.rate_limit_bytes.is_some() && ingestion.1.rate_limit_bytes.is_some()),
            ("ingestion.burst_size_bytes", ingestion.0.burst_size_bytes.is_some() && ingestion.1.burst_size_bytes.is_some()),
            ("read.max_concurrent_queries", read.0.max_concurrent_queries.is_some() && read.1.max_concurrent_queries.is_some()),
            ("read.max_bytes_per_query", read.0.max_bytes_per_query.is_some() && read.1.max_bytes_per_query.is_some()),
            ("read.max_memory_per_query", read.0.max_memory_per_query.is_some() && read.1.max_memory_per_query.is_some()),
            ("retention", self.retention.is_some() && other.retention.is_some()),
        ]
        .into_iter()
        .find_map(|(name, both)| both.then_some(name))
    }
}

impl Config {
    /// What holds without the file.
    ///
    /// # Errors
    /// Says which entry cannot be meant, and why.
    pub fn limits(&self) -> Result<Effective, Invalid> {
        self.limits_of(self.overrides.per_tenant.clone())
    }

    /// What holds with these entries over what held without.
    ///
    /// # Errors
    /// Says which entry cannot be meant, and why.
    pub fn limits_over(&self, base: &Effective, over: &BTreeMap<String, TenantOverrides>) -> Result<Effective, Invalid> {
        self.limits_of(laid_over(base.tenants.clone(), over))
    }

    /// What holds with this text in the file.
    ///
    /// # Errors
    /// Says where it is wrong, and what to write instead.
    pub fn limits_of_file(&self, text: &[u8]) -> Result<Effective, String> {
        let text = std::str::from_utf8(text).map_err(|_| "the file is not UTF-8")?;
        let file: Option<File> = load::read(text).map_err(|wrong| wrong.to_string())?;
        let tenants = laid_over(self.overrides.per_tenant.clone(), &file.unwrap_or_default().overrides);
        self.limits_of(tenants).map_err(|invalid| invalid.to_string())
    }

    fn limits_of(&self, tenants: BTreeMap<String, TenantOverrides>) -> Result<Effective, Invalid> {
        let defaults = self.overrides.defaults.clone();
        let default = rate(defaults.ingestion.rate_limit_bytes, defaults.ingestion.burst_size_bytes);
        let mut rates = Rates { default, tenants: BTreeMap::new() };
        let mut reads = TenantReadLimits::default();
        let keep_min = self.compactor.min_keep.0;
        let default = retention::rules("overrides.defaults.retention", None, &defaults.retention, keep_min)?;
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
                retentions.tenants.insert(tenant, retention::rules(key, Some(name), rules, keep_min)?);
            }
        }
        Ok(Effective { rates, reads, retentions, tenants, defaults })
    }
}

fn laid_over(
    mut tenants: BTreeMap<String, TenantOverrides>,
    over: &BTreeMap<String, TenantOverrides>,
) -> BTreeMap<String, TenantOverrides> {
    for (name, over) in over {
        let entry = tenants.entry(name.clone()).or_default();
        *entry = entry.under(over);
    }
    tenants
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

    /// The tenant's entry, if it has one.
    pub fn entry(&self, tenant: &str) -> Option<&TenantOverrides> {
        self.tenants.get(tenant)
    }

    /// What holds for one tenant, whether it has an entry or not.
    pub fn page_of(&self, tenant: &str) -> String {
        yaml(&self.of(tenant))
    }

    /// As [`Self::page_of`], as JSON.
    pub fn json_of(&self, tenant: &str) -> String {
        serde_json::to_string(&self.of(tenant)).expect("a tree of plain values serializes")
    }

    fn of(&self, tenant: &str) -> Page<'_> {
        let found = self.tenants.get(tenant);
        let retention = found.and_then(|entry| entry.retention.as_ref()).unwrap_or(&self.defaults.retention);
        let entry = found.cloned().unwrap_or_default();
        let defaults = &self.defaults.ingestion;
        let ingestion = IngestionLimits {
            rate_limit_bytes: entry.ingestion.rate_limit_bytes.unwrap_or(defaults.rate_limit_bytes),
            burst_size_bytes: entry.ingestion.burst_size_bytes.unwrap_or(defaults.burst_size_bytes),
            max_attribute_bytes: defaults.max_attribute_bytes,
        };
        Page { ingestion, read: entry.read, retention }
    }
}

/// What holds for one tenant.
#[derive(Serialize)]
struct Page<'p> {
    ingestion: IngestionLimits,
    #[serde(skip_serializing_if = "TenantRead::is_empty")]
    read: TenantRead,
    retention: &'p RetentionRules,
}

fn yaml(page: &impl Serialize) -> String {
    serde_saphyr::to_string(page).expect("a tree of plain values serializes")
}
