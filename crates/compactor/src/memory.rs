//! What a compactor remembers between rounds. All of it is found out again after a restart.

use std::collections::{HashMap, HashSet};

use model::TenantId;
use storage::Snapshot;
use ulid::Ulid;

/// Failures after which a block is left alone.
const STRIKES_MAX: u8 = 2;

/// Of one tenant's blocks. Bounded by the blocks that the tenant has.
#[derive(Debug, Default)]
pub struct Memory {
    strikes: HashMap<Ulid, u8>,
    /// (window, block of another window): see [`crate::order`].
    barriers: HashSet<(String, Ulid)>,
}

impl Memory {
    /// Forgets blocks that are gone.
    pub fn retain(&mut self, snapshot: &Snapshot) {
        if self.strikes.is_empty() && self.barriers.is_empty() {
            return;
        }
        let alive: HashSet<Ulid> = snapshot.blocks.iter().map(|block| block.id).collect();
        self.strikes.retain(|id, _| alive.contains(id));
        self.barriers.retain(|(_, id)| alive.contains(id));
    }

    pub fn is_aside(&self, block: Ulid) -> bool {
        self.strikes.get(&block).is_some_and(|strikes| *strikes >= STRIKES_MAX)
    }

    pub fn is_barrier(&self, window: &str, block: Ulid) -> bool {
        !self.barriers.is_empty() && self.barriers.contains(&(window.to_owned(), block))
    }

    pub fn add_barrier(&mut self, window: &str, block: Ulid) {
        self.barriers.insert((window.to_owned(), block));
    }

    /// One more failure that speaks against these blocks.
    pub fn strike(&mut self, tenant: &TenantId, blocks: &[Ulid]) {
        for block in blocks {
            let strikes = self.strikes.entry(*block).or_default();
            *strikes = strikes.saturating_add(1);
            if *strikes == STRIKES_MAX {
                tracing::error!(%tenant, %block, "this block is set aside: compactions with it failed twice; it stays in the table, and queries go on reading it");
            }
        }
    }

    /// Sets blocks aside at once.
    pub fn set_aside(&mut self, tenant: &TenantId, blocks: impl Iterator<Item = Ulid>) {
        for block in blocks {
            tracing::error!(%tenant, %block, "this block is set aside: processes ended while they merged it with one other; it stays in the table, and queries go on reading it");
            self.strikes.insert(block, STRIKES_MAX);
        }
    }

    pub fn aside(&self) -> usize {
        self.strikes.values().filter(|strikes| **strikes >= STRIKES_MAX).count()
    }
}
