//! Object keys. The only place that builds one.
//!
//! ```text
//! <prefix>/<tenant>/traces/<window>/<block_id>.parquet     a block's rows
//! <prefix>/<tenant>/traces/_side/<block_id>.side           its sidecar
//! <prefix>/<tenant>/traces/_delta_log/<version>.json       a commit, 20 digits
//! <prefix>/<tenant>/traces/_delta_log/<version>.checkpoint.parquet
//! <prefix>/<tenant>/traces/_delta_log/_last_checkpoint     a hint, never needed
//! <prefix>/<tenant>/traces/_claims/<window>/<number>       who works on a window, 10 digits
//! <prefix>/<tenant>/traces/_index/<ulid>.traces            an index of trace ids over many blocks
//! <prefix>/_overrides/<tenant>/<version>.json               a tenant's limits, 20 digits
//! <prefix>/_probe-<ulid>                                   the start-up probe; lives for a moment
//! ```
//!
//! Names with an underscore a foreign VACUUM of the table leaves alone. A window is a
//! UTC hour, `2026-11-21T07`: it has no character that Delta would want percent-encoded in a path.

use chrono::DateTime;
use model::TenantId;
use object_store::path::Path;
use ulid::Ulid;

use crate::error::{Result, StorageError};

const TABLE: &str = "traces";
const SIDECARS: &str = "_side";
const INDEXES: &str = "_index";
const LOG: &str = "_delta_log";
const CLAIMS: &str = "_claims";
const OVERRIDES: &str = "_overrides";
const LAST_CHECKPOINT: &str = "_last_checkpoint";

/// The keys below one prefix of a bucket.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: Path,
}

impl Keys {
    /// `prefix` may be empty, and may have slashes at either end.
    pub fn new(prefix: &str) -> Result<Self> {
        let prefix = Path::parse(prefix.trim_matches('/'))
            .map_err(|e| StorageError::Config(format!("prefix {prefix:?} cannot be part of an object key: {e}")))?;
        Ok(Self { prefix })
    }

    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    pub fn probe(&self) -> Path {
        self.prefix.clone().join(format!("_probe-{}", Ulid::new()))
    }

    pub fn table(&self, tenant: &TenantId) -> TableKeys {
        TableKeys { root: self.prefix.clone().join(tenant.as_str()).join(TABLE) }
    }

    /// The documents of all tenants.
    pub fn all_overrides(&self) -> Path {
        self.prefix.clone().join(OVERRIDES)
    }

    pub fn overrides(&self, tenant: &TenantId) -> Path {
        self.all_overrides().join(tenant.as_str())
    }

    pub fn overrides_of(&self, tenant: &TenantId, version: u64) -> Path {
        self.overrides(tenant).join(format!("{version:020}.json"))
    }

    /// Whose document it is, and which version.
    pub fn overrides_version(&self, location: &Path) -> Option<(TenantId, u64)> {
        let parts: Vec<_> = location.prefix_match(&self.all_overrides())?.collect();
        let [tenant, name] = parts.as_slice() else { return None };
        let digits = name.as_ref().strip_suffix(".json").filter(|digits| digits.len() == 20)?;
        let version = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())??;
        Some((TenantId::parse(&tenant.as_ref().replace("%2A", "*")).ok()?, version))
    }

    /// The tenant whose folder this is; `None` for a folder that is not ours.
    pub fn tenant(&self, folder: &Path) -> Option<TenantId> {
        let name = folder.filename()?;
        // The one character of a tenant's name that a path segment carries encoded.
        TenantId::parse(&name.replace("%2A", "*")).ok()
    }
}

/// The keys of one tenant's table.
#[derive(Clone, Debug)]
pub(crate) struct TableKeys {
    root: Path,
}

/// What a file of the log is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFile {
    Commit(i64),
    Checkpoint(i64),
}

impl TableKeys {
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn log(&self) -> Path {
        self.root.clone().join(LOG)
    }

    pub fn commit(&self, version: i64) -> Path {
        self.log().join(format!("{version:020}.json"))
    }

    pub fn checkpoint(&self, version: i64) -> Path {
        self.log().join(format!("{version:020}.checkpoint.parquet"))
    }

    pub fn last_checkpoint(&self) -> Path {
        self.log().join(LAST_CHECKPOINT)
    }

    /// Sorts before every file of `version` and after every file of a lower one.
    pub fn log_offset(&self, version: i64) -> Path {
        self.log().join(format!("{version:020}"))
    }

    pub fn log_file(location: &Path) -> Option<LogFile> {
        let (digits, rest) = location.filename()?.split_once('.')?;
        if digits.len() != 20 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let version = digits.parse().ok()?;
        match rest {
            "json" => Some(LogFile::Commit(version)),
            "checkpoint.parquet" => Some(LogFile::Checkpoint(version)),
            _ => None,
        }
    }

    /// The key of a data file by its path in the table.
    pub fn data(&self, path: &str) -> Path {
        path.split('/').fold(self.root.clone(), |key, part| key.join(part))
    }

    /// The claims on one window of the table.
    pub fn claims(&self, window: &str) -> Path {
        self.root.clone().join(CLAIMS).join(window)
    }

    pub fn claim(&self, window: &str, number: u32) -> Path {
        self.claims(window).join(format!("{number:010}"))
    }

    pub fn claim_number(location: &Path) -> Option<u32> {
        let name = location.filename()?;
        (name.len() == 10 && name.bytes().all(|b| b.is_ascii_digit())).then(|| name.parse().ok())?
    }

    /// Whether the object is a claim on a window of this table.
    pub fn is_claim(&self, location: &Path) -> bool {
        let Some(mut parts) = location.prefix_match(&self.root) else { return false };
        let ours = parts.next().is_some_and(|folder| folder.as_ref() == CLAIMS) && parts.next().is_some();
        ours && parts.next().is_some() && parts.next().is_none() && Self::claim_number(location).is_some()
    }

    /// Whether the object is a file of this table's log.
    pub fn is_log_file(&self, location: &Path) -> bool {
        location.prefix_matches(&self.log()) && Self::log_file(location).is_some()
    }

    /// The indexes of trace ids.
    pub fn trace_indexes(&self) -> Path {
        self.root.clone().join(INDEXES)
    }

    pub fn trace_index(&self, id: Ulid) -> Path {
        self.trace_indexes().join(format!("{id}.traces"))
    }

    /// The id of an index of this table; `None` for any other object.
    pub fn trace_index_of(&self, location: &Path) -> Option<Ulid> {
        let id = Ulid::from_string(location.filename()?.strip_suffix(".traces")?).ok()?;
        (self.trace_index(id) == *location).then_some(id)
    }

    /// The block that a data file or a sidecar of this table belongs to; `None` for any other object.
    pub fn block_of(&self, location: &Path) -> Option<Ulid> {
        let mut parts = location.prefix_match(&self.root)?;
        let (folder, name) = (parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let (stem, ending) = name.as_ref().split_once('.')?;
        let expected = match folder.as_ref() {
            SIDECARS => "side",
            folder if is_window(folder) => "parquet",
            _ => return None,
        };
        let id = Ulid::from_string(stem).ok()?;
        (ending == expected && id.to_string() == stem).then_some(id)
    }

    pub fn sidecar(&self, block: Ulid) -> Path {
        self.root.clone().join(SIDECARS).join(format!("{block}.side"))
    }
}

/// The path of a block's data file relative to its table.
pub(crate) fn data_path(window_start_unix_nano: i64, block: Ulid) -> String {
    format!("{}/{block}.parquet", window(window_start_unix_nano))
}

/// The time at which the window of this folder begins, milliseconds since 1970. `None` for a folder that is none.
pub fn window_start_unix_ms(window: &str) -> Option<u64> {
    let begin = chrono::NaiveDateTime::parse_from_str(&format!("{window}:00"), "%Y-%m-%dT%H:%M").ok()?;
    u64::try_from(begin.and_utc().timestamp_millis()).ok()
}

fn is_window(folder: &str) -> bool {
    folder.len() == 13 && window_start_unix_ms(folder).is_some()
}

/// The UTC hour of a time, as a folder name. The time is OTLP's unsigned nanoseconds bit for bit.
pub(crate) fn window(start_unix_nano: i64) -> String {
    let seconds = (start_unix_nano as u64 / 1_000_000_000) as i64;
    DateTime::from_timestamp(seconds, 0)
        .expect("64 bits of nanoseconds end in the year 2554")
        .format("%Y-%m-%dT%H")
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_the_block_format_says() {
        let block = Ulid::from_string("01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap();
        let keys = Keys::new("/a/b/").unwrap().table(&TenantId::parse("team-1").unwrap());
        assert_eq!(keys.commit(7).as_ref(), "a/b/team-1/traces/_delta_log/00000000000000000007.json");
        assert_eq!(keys.checkpoint(10).as_ref(), "a/b/team-1/traces/_delta_log/00000000000000000010.checkpoint.parquet");
        assert_eq!(keys.sidecar(block).as_ref(), "a/b/team-1/traces/_side/01ARZ3NDEKTSV4RRFFQ69G5FAV.side");
        let path = data_path(1_795_246_100_000_000_000, block);
        assert_eq!(path, "2026-11-21T07/01ARZ3NDEKTSV4RRFFQ69G5FAV.parquet");
        assert_eq!(keys.data(&path).as_ref(), format!("a/b/team-1/traces/{path}"));
    }

    #[test]
    fn blocks_are_told_from_every_other_object() {
        let keys = Keys::new("a").unwrap().table(&TenantId::parse("t").unwrap());
        let block = Ulid::from_string("01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap();
        let of = |path: &str| keys.block_of(&Path::from(format!("a/t/traces/{path}")));
        assert_eq!(keys.block_of(&keys.data(&data_path(1_795_246_100_000_000_000, block))), Some(block));
        assert_eq!(keys.block_of(&keys.sidecar(block)), Some(block));
        assert_eq!(keys.block_of(&Path::from(format!("a/u/traces/_side/{block}.side"))), None);
        for stranger in [
            "01ARZ3NDEKTSV4RRFFQ69G5FAV.parquet",
            "2026-11-21T07/01arz3ndektsv4rrffq69g5fav.parquet",
            "2026-11-21T07/01ARZ3NDEKTSV4RRFFQ69G5FAV.side",
            "2026-11-21T07/x/01ARZ3NDEKTSV4RRFFQ69G5FAV.parquet",
            "2026-11-21T7/01ARZ3NDEKTSV4RRFFQ69G5FAV.parquet",
            "2026-11-21/01ARZ3NDEKTSV4RRFFQ69G5FAV.parquet",
            "2026-11-21T07/part-0.parquet",
            "_delta_log/00000000000000000010.checkpoint.parquet",
            "_claims/2026-11-21T07/0000000001",
            "_index/01ARZ3NDEKTSV4RRFFQ69G5FAV.traces",
        ] {
            assert_eq!(of(stranger), None, "{stranger}");
        }
        assert_eq!(keys.trace_index_of(&keys.trace_index(block)), Some(block));
        for stranger in ["_index/01arz3ndektsv4rrffq69g5fav.traces", "_index/x.traces", "_side/01ARZ3NDEKTSV4RRFFQ69G5FAV.traces"] {
            assert_eq!(keys.trace_index_of(&Path::from(format!("a/t/traces/{stranger}"))), None, "{stranger}");
        }
    }

    #[test]
    fn absurd_times_have_a_window_too() {
        assert_eq!(window(0), "1970-01-01T00");
        assert_eq!(window(i64::MAX), "2262-04-11T23");
        assert_eq!(window(-1), "2554-07-21T23");
    }

    #[test]
    fn a_tenant_is_read_back_from_its_folder() {
        let keys = Keys::new("").unwrap();
        for name in ["a", "x!-_.*'()", "%"] {
            let Ok(tenant) = TenantId::parse(name) else { continue };
            let folder = keys.prefix().clone().join(tenant.as_str());
            assert_eq!(keys.tenant(&folder), Some(tenant), "{folder}");
        }
        assert_eq!(keys.tenant(&Path::from("lost+found")), None);
    }

    #[test]
    fn log_files_are_told_from_strangers() {
        let file = |name: &str| TableKeys::log_file(&Path::from(format!("t/_delta_log/{name}")));
        assert_eq!(file("00000000000000000012.json"), Some(LogFile::Commit(12)));
        assert_eq!(file("00000000000000000012.checkpoint.parquet"), Some(LogFile::Checkpoint(12)));
        for stranger in ["_last_checkpoint", "00000000000000000012.crc", "12.json", "0000000000000000001x.json", ".json"] {
            assert_eq!(file(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn an_offset_lies_between_the_versions() {
        let keys = Keys::new("").unwrap().table(&TenantId::single());
        assert!(keys.commit(9) < keys.log_offset(10));
        assert!(keys.log_offset(10) < keys.checkpoint(10));
        assert!(keys.log_offset(10) < keys.commit(10));
    }
}
