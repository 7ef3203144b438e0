//! The spans of all tenants between two cuts.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use block::{batch::SpanBatch, builder::AttributeLimits};
use model::TenantId;
use parking_lot::{Mutex, RwLock};
use storage::BlockEntry;

use crate::{memory::Memory, runs::Runs, sealing::Sealer};

pub struct Generation {
    limits: AttributeLimits,
    memory: Memory,
    sealer: Sealer,
    tenants: RwLock<HashMap<TenantId, Arc<TenantPart>>>,
    /// Request bytes in it.
    payload_bytes: AtomicU64,
    first_push: OnceLock<Instant>,
    /// The first log segment that can hold spans of it: every earlier generation's commits name a lower one.
    first_segment: u64,
    /// The segment that its commits name, known some time after the cut; not below `first_segment`.
    segment: OnceLock<u64>,
}

/// What one generation holds of one tenant.
pub struct TenantPart {
    /// The part is in the table exactly when the table knows this or a higher segment of the ingester.
    pub first_segment: u64,
    pub runs: Mutex<Runs>,
    /// Blocks that are stored and only lack their commit, so that a repeated flush need not write them again.
    pub stored: Mutex<Option<Vec<BlockEntry>>>,
    /// How often no blocks could be made of it.
    pub encode_failures: AtomicU32,
}

impl TenantPart {
    /// The spans so far. Makes what is not made yet, without holding up pushes: takes some milliseconds for each run.
    pub fn batches(&self) -> Vec<SpanBatch> {
        let runs = self.runs.lock().all();
        let batches = runs.iter().map(|run| run.batch().clone()).collect();
        self.runs.lock().account();
        batches
    }
}

impl Generation {
    pub fn new(limits: AttributeLimits, memory: Memory, sealer: Sealer, first_segment: u64) -> Self {
        Self {
            first_segment,
            limits,
            memory,
            sealer,
            tenants: RwLock::default(),
            payload_bytes: AtomicU64::new(0),
            first_push: OnceLock::new(),
            segment: OnceLock::new(),
        }
    }

    pub fn part(&self, tenant: &TenantId) -> Option<Arc<TenantPart>> {
        self.tenants.read().get(tenant).cloned()
    }

    pub fn part_or_new(&self, tenant: &TenantId) -> Arc<TenantPart> {
        self.part_from(tenant, self.first_segment)
    }

    /// `part_or_new` for replay: the table may know segments of this generation that hold nothing of the part.
    pub fn part_from(&self, tenant: &TenantId, first_segment: u64) -> Arc<TenantPart> {
        if let Some(part) = self.part(tenant) {
            return part;
        }
        let new = || {
            let runs = Mutex::new(Runs::new(self.limits.clone(), self.memory.clone(), self.sealer.clone()));
            Arc::new(TenantPart { first_segment, runs, stored: Mutex::default(), encode_failures: AtomicU32::new(0) })
        };
        self.tenants.write().entry(tenant.clone()).or_insert_with(new).clone()
    }

    /// By name.
    pub fn parts(&self) -> Vec<(TenantId, Arc<TenantPart>)> {
        let mut parts: Vec<_> = self.tenants.read().iter().map(|(tenant, part)| (tenant.clone(), part.clone())).collect();
        parts.sort_by(|a, b| a.0.cmp(&b.0));
        parts
    }

    /// Its commit is visible: nobody needs the part any more.
    pub fn drop_part(&self, tenant: &TenantId) {
        if let Some(part) = self.tenants.write().remove(tenant) {
            part.runs.lock().release();
        }
    }

    pub fn count_push(&self, payload_bytes: usize) {
        self.first_push.get_or_init(Instant::now);
        self.payload_bytes.fetch_add(payload_bytes as u64, Relaxed);
    }

    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes.load(Relaxed)
    }

    /// When the first push came. `None`: there is nothing in it.
    pub fn first_push(&self) -> Option<Instant> {
        self.first_push.get().copied()
    }

    pub fn segment(&self) -> Option<u64> {
        self.segment.get().copied()
    }

    /// Decided once; later calls change nothing.
    pub fn set_segment(&self, segment: u64) {
        self.segment.get_or_init(|| segment);
    }
}
