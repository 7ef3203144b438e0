//! An object store for tests. It fails, stalls and lies as it is told, and counts what it is asked for.
//!
//! [`TestStore`] stands before another store, in memory unless a test brings its own. A rule decides over each
//! request by its number, kind and key: see [`Fault`]. Nothing here depends on time or on chance that is not seeded:
//! a request that stalls goes on when the test says so.

mod asked;
mod dice;
mod fault;
mod store;

pub use asked::{Asked, Kind};
pub use dice::Dice;
pub use fault::{Fault, Listing, Outage};
pub use store::TestStore;

/// Whether the key is that of a commit of a Delta table.
pub fn is_commit(key: &str) -> bool {
    key.contains("/_delta_log/") && key.ends_with(".json")
}
