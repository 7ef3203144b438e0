//! Blocks and tables over stores in memory, on disk, and behind the S3 protocol.

mod blocks;
mod cache;
mod commits;
mod corruption;
mod fixture;
mod local;
mod logs;
mod overrides;
mod probe;
mod protocols;
mod readers;
mod slow_reads;
mod trace_index;
