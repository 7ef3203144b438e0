//! The query engine: TraceQL search and metrics, trace lookup, attribute names and values, over blocks and live data.
//!
//! The only crate that knows DataFusion. The way of a question: text → syntax tree (`traceql`) → one
//! [`predicate`] per layout → [`scan`] of the units of every [`source`] → the per-trace operator
//! ([`spansets`]) where the question needs one → the answer, in Tempo's messages.

mod columns;
mod conditions;
mod despite;
mod direct;
mod engine;
mod expected;
mod explain;
mod hybrid;
mod joins;
mod layout;
mod legacy;
mod live;
mod lookup;
mod matching;
mod memory;
mod mentioned;
mod metrics;
mod narrow;
mod pages;
mod parents;
mod partial;
mod parts;
mod predicate;
mod prune;
mod reader;
mod reads;
mod request;
mod rowexpr;
mod scan;
mod search;
mod shared_ids;
mod shown;
mod source;
mod spansets;
mod sql;
mod split;
mod structure;
mod tags;
mod tenant;
mod time_limit;
mod trace_index;
mod traces;
mod value;
mod walk;
mod wholesale;

pub use engine::{Answer, Engine, EngineConfig};
pub use metrics::{INTERVALS_MAX, RangeAnswer, default_step, duration_quantile};
pub use explain::{Explanation, StageTime, UnitRead};
pub use partial::Partial;
pub use live::{LiveData, LiveGeneration, NoLiveData};
pub use reads::{BrokenBlock, Budget, Reads};
pub use request::*;
pub use sql::{SqlAnswer, SqlFormat, SqlRequest};
