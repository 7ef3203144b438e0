//! The compactor over real tables: every span is there once, whatever happens, and no answer changes.

mod crash;
mod fixture;
mod indexing;
mod lifecycle;
mod merging;
mod retaining;
mod story;
mod sweeping;
/// The spans that the engine is judged with: everything that senders do right and wrong.
#[path = "../../../query/tests/it/data.rs"]
mod spans;
