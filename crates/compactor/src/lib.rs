//! What happens to blocks after the flush: small ones become large ones, and the files of those that no table has
//! are deleted.
//!
//! [`Compactor`] is a reconciler: it looks at the tables, does what they call for, and remembers nothing that matters.
//! [`policy`] decides which blocks to merge, [`stream`] merges them with bounded memory, [`job`] moves the bytes and
//! commits. Every change is one commit that fails if somebody else changed the same blocks: at no instant a reader
//! finds a span twice or not at all, however many compactors there are.

mod compactor;
mod config;
mod error;
pub mod index;
pub mod input;
mod job;
mod memory;
mod order;
pub mod policy;
mod promote;
mod read;
mod retain;
mod retention;
mod stats;
pub mod stream;
mod wary;

pub use compactor::{Compactor, Round};
pub use config::CompactorConfig;
pub use error::JobError;
pub use retain::{RetentionPlan, RulePlan, plan as plan_retention};
pub use retention::{Retention, Retentions, Rule};
pub use stats::{CompactorStats, Stats};
