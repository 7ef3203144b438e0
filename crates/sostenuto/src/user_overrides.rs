//! What `/api/overrides` does: tenants' documents, read and written in the store, checked before, in force at once here and
//! within a poll interval in other processes.

use std::{collections::BTreeMap, sync::Arc};

use api::{Failure, Overrides, OverridesAnswer, OverridesCall, stale};
use bytes::Bytes;
use model::{ErrorKind, TenantId};
use serde_json::Value;
use storage::{Storage, StorageError, TenantDocument};

use crate::{config::TenantOverrides, limits::Limits};

/// Of one document.
const DOCUMENT_BYTES_MAX: usize = 64 << 10;
/// A merge that somebody else's change got in front of is made anew so often.
const MERGES_MAX: usize = 5;

/// `None`: it is off.
pub fn overrides(limits: &Limits) -> Option<Overrides> {
    let storage = limits.store()?.clone();
    let documents = Documents { limits: limits.clone(), storage };
    Some(Arc::new(move |tenant, call| {
        let documents = documents.clone();
        Box::pin(async move { documents.answer(&tenant, call).await })
    }))
}

#[derive(Clone)]
struct Documents {
    limits: Limits,
    storage: Storage,
}

impl Documents {
    async fn answer(&self, tenant: &TenantId, call: OverridesCall) -> Result<OverridesAnswer, Failure> {
        match call {
            OverridesCall::Get => {
                let newest = self.newest(tenant).await?;
                let none = || Failure::new(ErrorKind::NotFound, format!("tenant {tenant} has no overrides of its own"));
                let body = newest.body.ok_or_else(none)?;
                Ok(OverridesAnswer { document: text(&body)?, version: newest.version })
            }
            OverridesCall::Merged => {
                // What was read on the way holds from now on.
                let newest = self.newest(tenant).await?;
                let version = if newest.body.is_some() { newest.version } else { 0 };
                self.limits.learn(tenant, newest);
                Ok(OverridesAnswer { document: self.limits.current().json_of(tenant.as_str()), version })
            }
            OverridesCall::Replace { document, version, despite_conflicts } => {
                let document = self.checked(tenant, &document, despite_conflicts)?;
                let before = self.expected(tenant, version).await?;
                self.put(tenant, before, document).await?.ok_or_else(|| stale_since(before))
            }
            OverridesCall::Delete { version } => {
                if version == 0 {
                    return Err(Failure::new(ErrorKind::NotFound, format!("tenant {tenant} has no overrides of its own")));
                }
                let before = self.expected(tenant, version).await?;
                let deleted = self.put(tenant, before, Bytes::new()).await?;
                deleted.map(|_| OverridesAnswer { document: String::new(), version: 0 }).ok_or_else(|| stale_since(before))
            }
            OverridesCall::Merge { patch, despite_conflicts } => {
                let patch: Value = serde_json::from_slice(&patch).map_err(|error| Failure::invalid(format!("the patch is not JSON: {error}")))?;
                for _ in 0..MERGES_MAX {
                    let newest = self.newest(tenant).await?;
                    let body = newest.body.as_ref().map_or(Ok(Value::Null), |body| serde_json::from_slice(body));
                    let mut document = body.map_err(|error| Failure::new(ErrorKind::Corrupt, format!("the document cannot be read: {error}")))?;
                    merge(&mut document, patch.clone());
                    let document = self.checked(tenant, document.to_string().as_bytes(), despite_conflicts)?;
                    if let Some(answer) = self.put(tenant, newest.version, document).await? {
                        return Ok(answer);
                    }
                }
                Err(Failure::new(ErrorKind::Unavailable, "others change the document all the time: try again"))
            }
        }
    }

    /// With version 0 if there never was one.
    async fn newest(&self, tenant: &TenantId) -> Result<TenantDocument, Failure> {
        let newest = self.storage.overrides(tenant).await.map_err(failure)?;
        Ok(newest.unwrap_or(TenantDocument { version: 0, body: None }))
    }

    /// The newest version, if it is what the caller knows; 0 is that there is no document, also after it was deleted.
    async fn expected(&self, tenant: &TenantId, known: u64) -> Result<u64, Failure> {
        let newest = self.newest(tenant).await?;
        let shown = if newest.body.is_some() { newest.version } else { 0 };
        if shown == known { Ok(newest.version) } else { Err(stale(shown)) }
    }

    /// `None`: somebody else was first.
    async fn put(&self, tenant: &TenantId, before: u64, body: Bytes) -> Result<Option<OverridesAnswer>, Failure> {
        let Some(version) = self.storage.put_overrides(tenant, before, body.clone()).await.map_err(failure)? else { return Ok(None) };
        let document = text(&body)?;
        tracing::info!(%tenant, version, deleted = body.is_empty(), "the overrides of a tenant were changed");
        self.limits.learn(tenant, TenantDocument { version, body: Some(body).filter(|body| !body.is_empty()) });
        Ok(Some(OverridesAnswer { document, version }))
    }

    /// The document as it is kept.
    fn checked(&self, tenant: &TenantId, document: &[u8], despite_conflicts: bool) -> Result<Bytes, Failure> {
        if document.len() > DOCUMENT_BYTES_MAX {
            return Err(Failure::invalid(format!("the document has more than {DOCUMENT_BYTES_MAX} bytes")));
        }
        let wrong = |error: serde_json::Error| Failure::invalid(format!("the document: {error}"));
        // Where an object is expected, a list of values would be read as one.
        let members: serde_json::Map<String, Value> = serde_json::from_slice(document).map_err(wrong)?;
        if let Some((name, _)) = members.iter().find(|(_, member)| !member.is_object() && !member.is_null()) {
            return Err(Failure::invalid(format!("the document: {name} must be an object")));
        }
        let entry: TenantOverrides = serde_json::from_slice(document).map_err(wrong)?;
        let (config, base) = (self.limits.config(), self.limits.base());
        let checks = config.overrides.user_configurable_overrides.api.check_for_conflicting_runtime_overrides;
        if checks
            && !despite_conflicts
            && let Some(limit) = base.entry(tenant.as_str()).and_then(|set| set.conflict(&entry))
        {
            return Err(Failure::invalid(format!(
                "{limit} of tenant {tenant} is set by the operator: skip-conflicting-overrides-check=true changes it all the same"
            )));
        }
        let over = BTreeMap::from([(tenant.to_string(), entry.clone())]);
        config.limits_over(&base, &over).map_err(|invalid| Failure::invalid(invalid.to_string()))?;
        serde_json::to_vec(&entry).map(Bytes::from).map_err(|error| Failure::new(ErrorKind::Internal, error.to_string()))
    }
}

fn stale_since(before: u64) -> Failure {
    stale(before.saturating_add(1))
}

fn failure(error: StorageError) -> Failure {
    Failure::new(error.kind(), format!("tenants' overrides cannot be reached: {error}"))
}

fn text(body: &Bytes) -> Result<String, Failure> {
    String::from_utf8(body.to_vec()).map_err(|error| Failure::new(ErrorKind::Corrupt, format!("the document cannot be read: {error}")))
}

/// RFC 7386: members replace members, null takes them away, anything but an object replaces the whole.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(members) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(object) = target else { return };
    for (name, member) in members {
        match member {
            Value::Null => drop(object.remove(&name)),
            // Its depth is bounded by the parser's, 128.
            member => merge(object.entry(name).or_insert(Value::Null), member),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patches_merge_as_the_standard_says() {
        // The examples of the RFC's appendix, in part.
        for (target, patch, expected) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": "foo"}), json!(null), json!(null)),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let mut merged = target.clone();
            merge(&mut merged, patch.clone());
            assert_eq!(merged, expected, "{target} with {patch}");
        }
    }
}
