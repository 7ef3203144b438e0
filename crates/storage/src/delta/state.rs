//! What a table holds at one version: the actions of the log until then, reconciled.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use super::{
    READER_VERSION, WRITER_VERSION,
    action::{Action, Add, Metadata, Protocol, Remove, Transaction},
    schema::StructType,
};
use crate::entry::BlockEntry;

/// How long the removal of a file is kept in checkpoints, for readers of old snapshots: Delta's default.
const TOMBSTONE_MS: i64 = 7 * 24 * 3_600_000;

/// Commits whose ids are remembered: more than a commit can lose against before it gives up.
const RECENT_MAX: usize = 256;

#[derive(Clone, Debug)]
pub(crate) struct State {
    /// −1: the table has no commit yet.
    pub version: i64,
    pub protocol: Option<Protocol>,
    pub metadata: Option<Metadata>,
    /// Parsed from `metadata`.
    pub schema: StructType,
    /// By path, and so by window and then by age.
    pub blocks: BTreeMap<String, Arc<BlockEntry>>,
    /// Files that another program added.
    pub foreign: BTreeMap<String, Add>,
    pub transactions: HashMap<String, Transaction>,
    pub tombstones: BTreeMap<String, Remove>,
    /// The ids of the last commits, for a writer that was told "failed" and finds its commit in the log.
    pub recent: VecDeque<String>,
}

impl State {
    pub fn empty() -> Self {
        Self {
            version: -1,
            protocol: None,
            metadata: None,
            schema: StructType::empty(),
            blocks: BTreeMap::new(),
            foreign: BTreeMap::new(),
            transactions: HashMap::new(),
            tombstones: BTreeMap::new(),
            recent: VecDeque::new(),
        }
    }

    /// Applies the actions of one commit, or of a checkpoint, and arrives at `version`.
    ///
    /// # Errors
    /// What the table demands that we cannot do. The state is then of no use.
    pub fn apply(&mut self, version: i64, actions: impl IntoIterator<Item = Action>) -> Result<(), String> {
        // Within one version the order of actions does not matter, but a path that is removed and added
        // again is there afterwards: adds go last.
        let mut adds = Vec::new();
        for action in actions {
            if let Some(info) = action.commit_info {
                if self.recent.len() == RECENT_MAX {
                    self.recent.pop_front();
                }
                self.recent.push_back(info.txn_id);
            }
            if let Some(protocol) = action.protocol {
                if protocol.min_reader_version > READER_VERSION || protocol.min_writer_version > WRITER_VERSION {
                    return Err(format!(
                        "version {version} raised its protocol to reader {} and writer {}; this program has reader \
                         {READER_VERSION} and writer {WRITER_VERSION}, so another program changed the table's features",
                        protocol.min_reader_version, protocol.min_writer_version
                    ));
                }
                self.protocol = Some(protocol);
            }
            if let Some(metadata) = action.meta_data {
                self.schema = serde_json::from_str(&metadata.schema_string)
                    .map_err(|e| format!("the schema of version {version} cannot be read: {e}"))?;
                self.metadata = Some(metadata);
            }
            if let Some(transaction) = action.txn {
                self.transactions.insert(transaction.app_id.clone(), transaction);
            }
            if let Some(remove) = action.remove {
                self.blocks.remove(&remove.path);
                self.foreign.remove(&remove.path);
                self.tombstones.insert(remove.path.clone(), remove);
            }
            adds.extend(action.add);
        }
        for add in adds {
            self.tombstones.remove(&add.path);
            match BlockEntry::from_add(&add) {
                Some(entry) => drop(self.blocks.insert(add.path, Arc::new(entry))),
                None => drop(self.foreign.insert(add.path.clone(), add)),
            }
        }
        self.version = version;
        Ok(())
    }

    /// The actions of a checkpoint at this version.
    pub fn summary(&self, now_unix_ms: i64) -> Vec<Action> {
        let mut actions = Vec::with_capacity(self.blocks.len() + self.tombstones.len() + 8);
        actions.extend(self.protocol.clone().map(Action::from));
        actions.extend(self.metadata.clone().map(Action::from));
        actions.extend(self.transactions.values().cloned().map(Action::from));
        let expired = now_unix_ms - TOMBSTONE_MS;
        let kept = self.tombstones.values().filter(|t| t.deletion_timestamp.unwrap_or(0) > expired);
        actions.extend(kept.cloned().map(Action::from));
        // In a checkpoint nothing changes any more.
        let settled = |add: Add| Action::from(Add { data_change: false, ..add });
        actions.extend(self.blocks.values().map(|entry| settled(entry.to_add(false))));
        actions.extend(self.foreign.values().cloned().map(settled));
        actions
    }

    /// Drops what no reader of an old snapshot can ask for any more.
    pub fn forget_tombstones(&mut self, now_unix_ms: i64) {
        let expired = now_unix_ms - TOMBSTONE_MS;
        self.tombstones.retain(|_, t| t.deletion_timestamp.unwrap_or(0) > expired);
    }
}
