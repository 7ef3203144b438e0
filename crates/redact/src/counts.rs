//! How often rules found something, whatever rules are in force.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Names of rules that are listed: sixteen times as many as may be in force. Rules beyond that count unseen.
const NAMES_MAX: usize = 1024;

/// Values that were taken out or changed, by the name of the rule. Clones share the numbers, which only grow, also when
/// other rules come in force.
#[derive(Clone, Default)]
pub struct Counts(Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>);

impl Counts {
    pub fn all(&self) -> Vec<(String, u64)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(name, count)| (name.clone(), count.load(Relaxed))).collect()
    }

    pub(crate) fn of(&self, name: &str) -> Arc<AtomicU64> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get(name) {
            Some(count) => count.clone(),
            None if counts.len() >= NAMES_MAX => Arc::default(),
            None => counts.entry(name.to_owned()).or_default().clone(),
        }
    }
}
