//! Claims: who works on a window, so that several processes do not do the same work.
//!
//! A claim is a small object that is created once and never changed; the newest of a window counts until it
//! expires. Taking over an expired one is a create of the next number, which one process wins. Claims only
//! save work: with clocks that disagree two processes may both believe they have one, and then the commit
//! decides.
//!
//! A claim that is not released says something: whoever had it died, was killed, or hung. It stays for a day, so that who
//! comes later can be wary of the same work.

use std::sync::Arc;

use futures::TryStreamExt;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, path::Path};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::{
    error::{Result, StorageError},
    keys::TableKeys,
};

/// The work that this process has claimed.
#[derive(Clone, Debug)]
pub struct Claim {
    store: Arc<dyn ObjectStore>,
    key: Path,
    /// Claims for the same work that this one took over from: deleted with it.
    before: Vec<Path>,
    id: String,
}

/// What became of a try to claim.
#[derive(Clone, Debug)]
pub enum ClaimOutcome {
    Ours(Claim),
    /// Another process works there until this time, milliseconds since 1970.
    Taken { until_unix_ms: u64 },
    /// There is no work to claim it for.
    Declined,
}

/// The content of a claim.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    id: String,
    expires_unix_ms: u64,
    /// What the claim is for, in the words of who claims.
    work: String,
}

/// Claims `window` until `expires_unix_ms` for the work that `choose` names. Costs a LIST, a PUT, and a GET for each claim
/// in the way.
pub(crate) async fn claim(
    store: &Arc<dyn ObjectStore>,
    keys: &TableKeys,
    window: &str,
    choose: impl FnOnce(&[String]) -> Option<String>,
    now_unix_ms: u64,
    expires_unix_ms: u64,
) -> Result<ClaimOutcome> {
    let folder = keys.claims(window);
    let listed: Vec<_> = store.list(Some(&folder)).try_collect().await.map_err(|e| StorageError::store("list", &folder, e))?;
    let mut numbers: Vec<u32> = listed.iter().filter_map(|object| TableKeys::claim_number(&object.location)).collect();
    numbers.sort_unstable();
    let mut abandoned = Vec::new();
    let mut before = Vec::new();
    for number in numbers.iter().rev() {
        // One that was released since the listing, or cannot be read, holds nobody back.
        let Some(content) = read(store, &keys.claim(window, *number)).await? else { continue };
        if number == numbers.last().expect("not empty") && content.expires_unix_ms > now_unix_ms {
            return Ok(ClaimOutcome::Taken { until_unix_ms: content.expires_unix_ms });
        }
        abandoned.push(content.work);
        before.push(*number);
    }
    let Some(work) = choose(&abandoned) else { return Ok(ClaimOutcome::Declined) };
    let before = before.into_iter().zip(&abandoned).filter(|(_, of)| **of == work).map(|(number, _)| keys.claim(window, number));
    let before = before.collect();
    let number = numbers.last().map_or(0, |last| last.saturating_add(1));
    let key = keys.claim(window, number);
    let content = Content { id: Ulid::new().to_string(), expires_unix_ms, work };
    let body = serde_json::to_vec(&content).expect("strings and numbers only");
    match store.put_opts(&key, body.into(), PutMode::Create.into()).await {
        Ok(_) => {}
        // Perhaps our own create, which the client repeated after a lost answer.
        Err(Error::AlreadyExists { .. }) => match read(store, &key).await? {
            Some(other) if other.id == content.id => {}
            Some(other) => return Ok(ClaimOutcome::Taken { until_unix_ms: other.expires_unix_ms }),
            None => return Ok(ClaimOutcome::Taken { until_unix_ms: now_unix_ms }),
        },
        Err(e) => return Err(StorageError::store("write", &key, e)),
    }
    Ok(ClaimOutcome::Ours(Claim { store: store.clone(), key, before, id: content.id }))
}

impl Claim {
    /// Whether nobody took over. A process that was away for longer than its claim lasts asks before it commits.
    pub async fn is_still_ours(&self) -> Result<bool> {
        let ours = read(&self.store, &self.key).await?.is_some_and(|content| content.id == self.id);
        let Some((window, number)) = self.key.as_ref().rsplit_once('/') else { return Ok(ours) };
        let next = Path::from(format!("{window}/{:010}", number.parse::<u32>().unwrap_or(u32::MAX).saturating_add(1)));
        Ok(ours && read(&self.store, &next).await?.is_none())
    }

    /// Lets others in, and forgets who died of the same work. One that cannot be released expires.
    pub async fn release(self) {
        // Oldest last: while an older one stood alone, it would look like the newest.
        for key in self.before.iter().rev().chain([&self.key]) {
            match self.store.delete(key).await {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(error) => tracing::warn!(%key, %error, "a claim could not be released; it expires"),
            }
        }
    }
}

/// `None` for a claim that is not there or not readable.
async fn read(store: &Arc<dyn ObjectStore>, key: &Path) -> Result<Option<Content>> {
    let read = async { store.get(key).await?.bytes().await };
    match read.await {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(e) => Err(StorageError::store("read", key, e)),
    }
}
