//! The engine against a naive evaluator, over generated data and queries, wherever the data lies.
//!
//! `SOSTENUTO_SEED=<n>` generates other data and queries; `SOSTENUTO_QUERIES=<n>` asks n queries of each kind.
//! `SOSTENUTO_QUERY=<text>` asks that query of all data. What fails says how to ask it again.

// `cfg(fuzzing)` is set by fuzzers.
#![allow(unexpected_cfgs)]

mod agreement;
mod damage;
mod data;
mod decisions;
mod exemplars;
mod fuzz;
mod growing;
mod lookup;
mod memory;
mod naive;
mod old_search;
mod paging;
mod partial;
mod places;
mod questions;
mod settings;
mod split;
mod sql;
mod structure;
mod tags;
mod time;
mod values;
