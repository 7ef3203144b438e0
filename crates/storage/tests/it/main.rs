//! Blocks and tables over stores in memory, on disk, and behind the S3 protocol.

mod blocks;
mod commits;
mod faulty;
mod fixture;
mod local;
mod logs;
mod probe;
mod readers;
