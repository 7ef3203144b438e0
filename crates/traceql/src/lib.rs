//! TraceQL.

pub mod ast;
