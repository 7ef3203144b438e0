//! The Delta Lake protocol, as far as a table of blocks needs it: reader version 1, writer version 2.
//!
//! A table is its log: numbered JSON files of actions, each created once and never changed, and now and
//! then a Parquet checkpoint that sums up all actions until then. We write `protocol`, `metaData`, `add`,
//! `remove`, `txn` and `commitInfo`; [`clean`] says which files of the log are deleted, and when. Source:
//! <https://github.com/delta-io/delta/blob/master/PROTOCOL.md>.

pub(crate) mod action;
pub(crate) mod checkpoint;
pub(crate) mod clean;
pub(crate) mod log;
pub(crate) mod schema;
pub(crate) mod seal;
pub(crate) mod state;

pub(crate) const READER_VERSION: i32 = 1;
pub(crate) const WRITER_VERSION: i32 = 2;
