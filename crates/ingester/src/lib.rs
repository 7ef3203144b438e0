//! Takes spans in, keeps them searchable in memory, and turns them into blocks.
//!
//! Invariants:
//! - A push that answered `Ok` is durable in the log, and visible in [`query::LiveData::live`] from before the answer until
//!   its commit to the table is visible.
//! - A generation is all spans of the log segments up to a cut, no more and no less. Each tenant's part of it reaches the
//!   table in one commit that names the ingester and the segment; a start after a crash leaves out of the log what such a
//!   commit covers. So a span is in the table once, wherever the process died.
//! - Of one tenant, generations are committed in the order of their cuts.
//! - Memory is bounded by one budget ([`Memory`]): above it, requests are refused with an error that says "later".

mod config;
mod encode;
mod error;
mod flush;
mod generation;
mod ingester;
mod insert;
mod memory;
mod replay;
mod runs;
mod sealing;

pub use config::IngesterConfig;
pub use error::{FlushError, OpenError, PushError};
pub use flush::{FlushReport, STORED_KEPT};
pub use ingester::{Ingester, IngesterStats, PushOutcome};
pub use memory::{Lease, Memory, MemoryFull, MemoryUse};
pub use replay::ReplayReport;
