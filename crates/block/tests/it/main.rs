//! Scenario tests of the block crate.

mod build;
mod store;
